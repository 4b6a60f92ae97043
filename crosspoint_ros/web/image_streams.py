"""The cameras' image topics, subscribed to only while some browser looks at them."""
from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.msg import ImagePoint
from crosspoint_ros.ros.client.node_info import KnownCamera
from crosspoint_ros.ros.conversions import rgb_from_compressed, rgb_from_image, stamp_ns
from crosspoint_ros.ros.node.camera import JUMP_NS
from crosspoint_ros.web.protocol import Json
from crosspoint_ros.web.ros_bridge import Link

QUALITY = 80
MAX_WIDTH_PX = 1280  # a wider raw image is sent smaller; clicks are in pixels of the whole one


class Picture:
    """One image of one camera; encoded at most once, and only if somebody wants it."""

    def __init__(self, camera: str, message: Image | CompressedImage) -> None:
        self.camera, self._message = camera, message
        self.stamp = str(stamp_ns(message.header.stamp))
        self.frame_id = message.header.frame_id
        self._encoding: asyncio.Future[tuple[Json, bytes]] | None = None

    async def encoded(self, pool: ThreadPoolExecutor) -> tuple[Json, bytes]:
        """Return what is known of it, and the JPEG; no JPEG, but a problem, if it is no good."""
        if self._encoding is None:
            loop = asyncio.get_running_loop()
            self._encoding = loop.run_in_executor(pool, self._encode)
        # One browser that leaves must not take the picture from the others.
        return await asyncio.shield(self._encoding)

    def _encode(self) -> tuple[Json, bytes]:
        header: Json = {'camera': self.camera, 'stamp': self.stamp}
        try:
            data, header['width'], header['height'] = jpeg(self._message)
        except (Rejected, cv2.error) as error:
            data, header['problem'] = b'', str(error)
        del self._message  # it is large, and encoded only once
        return header, data


def packed(header: Json, data: bytes) -> bytes:
    """One message: the length of the header, the header, the picture."""
    head = json.dumps(header, separators=(',', ':')).encode()
    return struct.pack('>I', len(head)) + head + data


def jpeg(message: Image | CompressedImage) -> tuple[bytes, int, int]:
    """Return a JPEG or PNG that a browser shows as the image is meant, and the image's size.

    Raises `Rejected` (NO_IMAGE) for what cannot be decoded.
    """
    if isinstance(message, CompressedImage):
        size = _size_as_it_is(message)
        if size is not None:
            return bytes(message.data), *size
        rgb = rgb_from_compressed(message)
    else:
        rgb = rgb_from_image(message)
    height, width = rgb.shape[:2]
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if width > MAX_WIDTH_PX:
        small = (MAX_WIDTH_PX, max(round(height * MAX_WIDTH_PX / width), 1))
        bgr = cv2.resize(bgr, small, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    if not done:
        raise Rejected(Code.NO_IMAGE, f'an image of {width}x{height} px cannot be sent as a JPEG')
    return encoded.tobytes(), width, height


def _size_as_it_is(message: CompressedImage) -> tuple[int, int] | None:
    """The size of a JPEG whose colours are in their usual order; None for all else."""
    was, _, how = message.format.partition(';')
    plain = not how or 'compressed bgr' in how
    if not plain or was.startswith('bayer'):
        return None
    return jpeg_size(bytes(message.data))


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from the markers of a JPEG (ITU T.81, B.2.2); None if it is none."""
    at = 2
    while data[:2] == b'\xff\xd8' and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], 'big')
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack('>HH', data[at + 5:at + 9])
            return (width, height) if width and height else None
        at += 2 + length
    return None


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
