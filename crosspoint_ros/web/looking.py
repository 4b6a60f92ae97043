"""The cameras' image topics, subscribed to only while some browser looks at them."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.msg import ImagePoint
from crosspoint_ros.ros.cameras import JUMP_NS
from crosspoint_ros.ros.convert import stamp_ns
from crosspoint_ros.web.known import KnownCamera
from crosspoint_ros.web.link import Link
from crosspoint_ros.web.pictures import Picture

UNWATCHED_S = 3.0  # a topic is left when nobody has asked for its pictures for so long
RECENT = 100  # pictures that were sent, a camera; JPEGs of 40 kB or so
KEPT = 64  # pictures with an answer on them, in all: some 20 answers
# Only the newest counts; best effort takes from reliable publishers too.
NEWEST = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1,
                    reliability=ReliabilityPolicy.BEST_EFFORT)


class Looking:
    """Which cameras are looked at, and their newest pictures; of asyncio's thread."""

    def __init__(self, link: Link, on_picture: Callable[[Picture], None]) -> None:
        self._link, self._on_picture = link, on_picture
        self._wanted_s: dict[str, float] = {}
        self._sources: dict[str, KnownCamera] = {}
        self._subscriptions: dict[str, Any] = {}  # of the thread of ROS
        self.newest: dict[str, Picture] = {}
        self._recent: dict[str, deque[Picture]] = {}
        self._kept: dict[tuple[str, str], Picture] = {}

    def want(self, camera: KnownCamera) -> None:
        """Somebody waits for the next picture: see that pictures come."""
        self._wanted_s[camera.name] = time.monotonic()
        if self._sources.get(camera.name) != camera:
            self.newest.pop(camera.name, None)
            self._sources[camera.name] = camera
            self._link.post(lambda: self._subscribe(camera))

    def leave_unwatched(self, waiting: set[str]) -> None:
        """Leave the topics that nobody waits for. Call it once a second or so."""
        now_s = time.monotonic()
        for name in list(self._sources):
            if name in waiting:
                self._wanted_s[name] = now_s
            elif now_s - self._wanted_s[name] > UNWATCHED_S:
                del self._sources[name]
                self.newest.pop(name, None)  # it must not pass for a live one later on
                self._link.post(partial(self._unsubscribe, name))

    # Pictures that were sent: an answer comes some time after its images

    def remember(self, picture: Picture) -> None:
        """Note that a picture is sent."""
        recent = self._recent.setdefault(picture.camera, deque(maxlen=RECENT))
        if recent and int(recent[-1].stamp) - int(picture.stamp) > JUMP_NS:
            # Time jumped back: the same stamps come again, with other pictures.
            recent.clear()
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] != picture.camera}
        if not recent or recent[-1] is not picture:
            recent.append(picture)

    def keep(self, points: list[ImagePoint]) -> None:
        """Keep the pictures on which an answer was given; those of the oldest answers go."""
        for point in points:
            picture = self.past(point.camera, str(stamp_ns(point.header.stamp)))
            if picture is not None:
                self._kept[picture.camera, picture.stamp] = picture
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def past(self, camera: str, stamp: str) -> Picture | None:
        """Return a picture that was sent; None if it is not kept any more."""
        recent = (p for p in self._recent.get(camera, ()) if p.stamp == stamp)
        return self._kept.get((camera, stamp)) or next(recent, None)

    def _came(self, source: KnownCamera, picture: Picture) -> None:
        if self._sources.get(source.name) == source:
            self.newest[source.name] = picture
            self._on_picture(picture)

    # In the thread of ROS

    def _subscribe(self, camera: KnownCamera) -> None:
        self._unsubscribe(camera.name)
        kind = CompressedImage if camera.compressed else Image

        def came(message: Any) -> None:
            self._link.tell(self._came, camera, Picture(camera.name, message))

        self._subscriptions[camera.name] = self._link.node.create_subscription(
            kind, camera.image_topic, came, NEWEST)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None:
            self._link.node.destroy_subscription(subscription)
