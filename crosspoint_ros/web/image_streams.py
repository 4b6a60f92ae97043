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
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import Json
from crosspoint_ros.ros.conversions import rgb_from_compressed, rgb_from_image, stamp_to_ns
from crosspoint_ros.ros.node.camera import MAX_BACKWARD_JUMP_NS
from crosspoint_ros.web.ros_bridge import RosBridge

JPEG_QUALITY = 80
MAX_WIDTH_PX = 1280  # a wider raw image is sent smaller; clicks are in pixels of the whole one


class CameraImage:
    """One image of one camera; encoded at most once, and only if somebody wants it."""

    def __init__(self, camera: str, message: Image | CompressedImage) -> None:
        self.camera, self._message = camera, message
        self.stamp = str(stamp_to_ns(message.header.stamp))
        self.frame_id = message.header.frame_id
        self._encoding: asyncio.Future[tuple[Json, bytes]] | None = None

    async def encode(self, pool: ThreadPoolExecutor) -> tuple[Json, bytes]:
        """Return what is known of it, and the JPEG; no JPEG, but a problem, if it is no good."""
        if self._encoding is None:
            loop = asyncio.get_running_loop()
            self._encoding = loop.run_in_executor(pool, self._encode_blocking)
        # One browser that leaves must not take the picture from the others.
        return await asyncio.shield(self._encoding)

    def _encode_blocking(self) -> tuple[Json, bytes]:
        header: Json = {'camera': self.camera, 'stamp': self.stamp}
        try:
            data, header['width'], header['height'] = encode_jpeg(self._message)
        except (Rejected, cv2.error) as error:
            data, header['problem'] = b'', str(error)
        del self._message  # it is large, and encoded only once
        return header, data


def encode_message(header: Json, data: bytes) -> bytes:
    """One message: the length of the header, the header, the picture."""
    head = json.dumps(header, separators=(',', ':')).encode()
    return struct.pack('>I', len(head)) + head + data


def encode_jpeg(message: Image | CompressedImage) -> tuple[bytes, int, int]:
    """Return a JPEG or PNG that a browser shows as the image is meant, and the image's size.

    Raises `Rejected` (NO_IMAGE) for what cannot be decoded.
    """
    if isinstance(message, CompressedImage):
        size = _read_passthrough_size(message)
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
    done, encoded = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    if not done:
        raise Rejected(Code.NO_IMAGE, f'an image of {width}x{height} px cannot be sent as a JPEG')
    return encoded.tobytes(), width, height


def _read_passthrough_size(message: CompressedImage) -> tuple[int, int] | None:
    """The size of a JPEG whose colours are in their usual order; None for all else."""
    was, _, how = message.format.partition(';')
    plain = not how or 'compressed bgr' in how
    if not plain or was.startswith('bayer'):
        return None
    return read_jpeg_size(bytes(message.data))


def read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from the markers of a JPEG (ITU T.81, B.2.2); None if it is none."""
    at = 2
    while data[:2] == b'\xff\xd8' and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], 'big')
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack('>HH', data[at + 5:at + 9])
            return (width, height) if width and height else None
        at += 2 + length
    return None


UNUSED_TIMEOUT_S = 3.0  # a topic is left when nobody has asked for its pictures for so long
MAX_SENT = 100  # pictures that were sent, a camera; JPEGs of 40 kB or so
MAX_PINNED = 64  # pictures with an answer on them, in all: some 20 answers
# Only the newest counts; best effort takes from reliable publishers too.
NEWEST_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1,
                    reliability=ReliabilityPolicy.BEST_EFFORT)


class ImageStreams:
    """Which cameras are looked at, and their newest pictures; of asyncio's thread."""

    def __init__(self, bridge: RosBridge, on_image: Callable[[CameraImage], None]) -> None:
        self._bridge, self._on_new_image = bridge, on_image
        self._requested_s: dict[str, float] = {}
        self._cameras: dict[str, NodeCamera] = {}
        self._subscriptions: dict[str, Any] = {}  # of the thread of ROS
        self.newest: dict[str, CameraImage] = {}
        self._sent: dict[str, deque[CameraImage]] = {}
        self._pinned: dict[tuple[str, str], CameraImage] = {}

    def request(self, camera: NodeCamera) -> None:
        """Somebody waits for the next picture: see that pictures come."""
        self._requested_s[camera.name] = time.monotonic()
        if self._cameras.get(camera.name) != camera:
            self.newest.pop(camera.name, None)
            self._cameras[camera.name] = camera
            self._bridge.run_in_ros(lambda: self._subscribe(camera))

    def drop_unused(self, requested: set[str]) -> None:
        """Leave the topics that nobody waits for. Call it once a second or so."""
        now_s = time.monotonic()
        for name in list(self._cameras):
            if name in requested:
                self._requested_s[name] = now_s
            elif now_s - self._requested_s[name] > UNUSED_TIMEOUT_S:
                del self._cameras[name]
                self.newest.pop(name, None)  # it must not pass for a live one later on
                self._bridge.run_in_ros(partial(self._unsubscribe, name))

    # Pictures that were sent: an answer comes some time after its images

    def record_sent(self, image: CameraImage) -> None:
        """Note that a picture is sent."""
        recent = self._sent.setdefault(image.camera, deque(maxlen=MAX_SENT))
        if recent and int(recent[-1].stamp) - int(image.stamp) > MAX_BACKWARD_JUMP_NS:
            # Time jumped back: the same stamps come again, with other pictures.
            recent.clear()
            self._pinned = {key: kept for key, kept in self._pinned.items() if key[0] != image.camera}
        if not recent or recent[-1] is not image:
            recent.append(image)

    def pin(self, points: list[ImagePoint]) -> None:
        """Keep the pictures on which an answer was given; those of the oldest answers go."""
        for point in points:
            picture = self.find_sent(point.camera, str(stamp_to_ns(point.header.stamp)))
            if picture is not None:
                self._pinned[picture.camera, picture.stamp] = picture
        while len(self._pinned) > MAX_PINNED:
            del self._pinned[next(iter(self._pinned))]

    def find_sent(self, camera: str, stamp: str) -> CameraImage | None:
        """Return a picture that was sent; None if it is not kept any more."""
        recent = (p for p in self._sent.get(camera, ()) if p.stamp == stamp)
        return self._pinned.get((camera, stamp)) or next(recent, None)

    def _on_image(self, camera: NodeCamera, image: CameraImage) -> None:
        if self._cameras.get(camera.name) == camera:
            self.newest[camera.name] = image
            self._on_new_image(image)

    # In the thread of ROS

    def _subscribe(self, camera: NodeCamera) -> None:
        self._unsubscribe(camera.name)
        kind = CompressedImage if camera.compressed else Image

        def came(message: Any) -> None:
            self._bridge.run_in_asyncio(self._on_image, camera, CameraImage(camera.name, message))

        self._subscriptions[camera.name] = self._bridge.node.create_subscription(
            kind, camera.image_topic, came, NEWEST_QOS)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None:
            self._bridge.node.destroy_subscription(subscription)
