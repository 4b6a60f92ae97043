"""The cameras' image topics, subscribed to only while some browser looks at them."""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.web.known import KnownCamera
from crosspoint_ros.web.link import Link
from crosspoint_ros.web.pictures import Picture

UNWATCHED_S = 3.0  # a topic is left when nobody has asked for its pictures for so long
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

    @property
    def looked_at(self) -> tuple[str, ...]:
        """Names of the cameras that are subscribed to."""
        return tuple(self._sources)

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
