"""Camera images for browsers: subscribed to while watched, and encoded once per level."""
from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import cv2
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.encodings import check_compressed
from crosspoint_ros.core.image_codecs import read_jpeg_size
from crosspoint_ros.core.tf_tree import MAX_STAMP_JUMP_NS, stamp_to_ns
from crosspoint_ros.msg import ImagePoint
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import Json
from crosspoint_ros.ros.conversions import rgb_from_msg
from crosspoint_ros.web.ros_bridge import RosBridge

# Width and JPEG quality, the best first. Wider images are sent scaled; clicks stay in pixels of the
# original.
JPEG_LEVELS = ((1280, 80), (640, 60), (480, 50), (320, 45), (240, 40), (160, 35))
ORIGINAL, ORIGINAL_QUALITY = -1, 90  # a level that no browser gets: of the camera's size
EXIF, MAX_EXIF_START = b'Exif\0\0', 1024
UNUSED_TIMEOUT_S = 3.0
MAX_SENT = 100  # per camera: about 4 MB of JPEGs
MAX_PINNED = 64  # images of some 20 results
MAX_RECENT_BYTES = 16 << 20  # per camera, of images as they came: some 1.7 s of 640x480 at 10 Hz
# Best effort matches reliable publishers too.
NEWEST_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1,
                        reliability=ReliabilityPolicy.BEST_EFFORT)


class CameraImage:
    """One image of one camera; encoded on first use, for all browsers together."""

    def __init__(self, camera: str, message: Image | CompressedImage) -> None:
        self.camera = camera
        self._message: Image | CompressedImage | None = message
        self.stamp = str(stamp_to_ns(message.header.stamp))
        self.frame_id = message.header.frame_id
        self._encodings: dict[int, asyncio.Future[tuple[Json, bytes]]] = {}  # by level

    @property
    def is_encoded(self) -> bool:
        return bool(self._encodings)

    @property
    def raw_bytes(self) -> int:
        return 0 if self._message is None else len(self._message.data)

    async def encode(self, pool: ThreadPoolExecutor | None, level: int = 0) -> tuple[Json, bytes]:
        """Return header and JPEG; for an undecodable image, `problem` in the header and no JPEG.

        level: of JPEG_LEVELS, or ORIGINAL; once the image is released, the nearest that was
        encoded before.
        """
        if self._message is None:
            level = min(self._encodings, key=lambda known: abs(known - level))
        elif level not in self._encodings:
            self._encodings[level] = asyncio.get_running_loop().run_in_executor(
                pool, self._encode_blocking, self._message, level)
        # shield: a browser that disconnects must not cancel it for the others.
        return await asyncio.shield(self._encodings[level])

    def release(self) -> None:
        """Free the raw image, which is no longer the newest, if it has been encoded."""
        if self._encodings:
            self._message = None

    def _encode_blocking(self, message: Image | CompressedImage, level: int) -> tuple[Json, bytes]:
        header: Json = {'camera': self.camera, 'stamp': self.stamp}
        try:
            data, header['width'], header['height'] = encode_jpeg(message, level)
        except (Rejected, cv2.error) as error:
            data, header['problem'] = b'', str(error)
        return header, data


def encode_message(header: Json, data: bytes) -> bytes:
    """Encode one binary message: header length (uint32, big-endian), JSON header, image."""
    head = json.dumps(header, separators=(',', ':')).encode()
    return struct.pack('>I', len(head)) + head + data


def encode_jpeg(message: Image | CompressedImage, level: int = 0) -> tuple[bytes, int, int]:
    """Return the image as a JPEG in RGB order, and the original's width and height in pixels.

    level: of JPEG_LEVELS, or ORIGINAL. At the best one, and as ORIGINAL, a JPEG in the usual colour
    order is passed through.
    Raises `Rejected` (NO_IMAGE).
    """
    if isinstance(message, CompressedImage) and level <= 0:
        size = _read_passthrough_size(message)
        if size is not None:
            check_compressed(message.data, message.format)
            return bytes(message.data), *size
    rgb = rgb_from_msg(message)
    height, width = rgb.shape[:2]
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    max_width_px, quality = (width, ORIGINAL_QUALITY) if level == ORIGINAL else JPEG_LEVELS[level]
    if width > max_width_px:
        size = (max_width_px, max(round(height * max_width_px / width), 1))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    ok, encoded = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not ok:
        raise Rejected(Code.NO_IMAGE, f'cannot encode an image of {width}x{height} px as JPEG')
    return encoded.tobytes(), width, height


def _read_passthrough_size(message: CompressedImage) -> tuple[int, int] | None:
    """Return the size of a JPEG that browsers display correctly as it is; None for others."""
    # image_transport's format: '<raw encoding>; jpeg compressed <encoding of the JPEG>'
    raw_encoding, _, compression = message.format.partition(';')
    is_standard = not compression or 'compressed bgr' in compression
    data = bytes(message.data)
    # A browser would turn the image as Exif has it; CameraInfo is for the pixels as stored.
    if not is_standard or raw_encoding.startswith('bayer') or EXIF in data[:MAX_EXIF_START]:
        return None
    return read_jpeg_size(data)


class ImageStreams:
    """Subscriptions to watched cameras, their newest images, and earlier ones.

    Runs in asyncio's thread.
    """

    def __init__(self, bridge: RosBridge, on_image: Callable[[CameraImage], None]) -> None:
        self._bridge, self._on_image = bridge, on_image
        self._requested_s: dict[str, float] = {}
        self._cameras: dict[str, NodeCamera] = {}
        self.newest: dict[str, CameraImage] = {}
        self._sent: dict[str, deque[CameraImage]] = {}
        self._recent: dict[str, deque[CameraImage]] = {}  # received
        self._encoding: set[asyncio.Task[None]] = set()
        self._pinned: dict[tuple[str, str], CameraImage] = {}

    def request(self, camera: NodeCamera) -> None:
        self._requested_s[camera.name] = time.monotonic()
        if self._cameras.get(camera.name) != camera:
            self._drop_newest(camera.name)
            self._recent.pop(camera.name, None)
            self._cameras[camera.name] = camera
            self._bridge.subscribe(('image', camera.name),
                                   CompressedImage if camera.compressed else Image,
                                   camera.image_topic, partial(self._on_message, camera),
                                   NEWEST_QOS)

    def drop_unused(self, requested: set[str]) -> None:
        """Unsubscribe from cameras not requested for UNUSED_TIMEOUT_S; call it periodically."""
        now_s = time.monotonic()
        for name in list(self._cameras):
            if name in requested:
                self._requested_s[name] = now_s
            elif now_s - self._requested_s[name] > UNUSED_TIMEOUT_S:
                del self._cameras[name]
                self._drop_newest(name)  # it would pass for a live image later
                self._recent.pop(name, None)
                self._bridge.unsubscribe(('image', name))

    def _drop_newest(self, name: str) -> None:
        image = self.newest.pop(name, None)
        if image is not None:
            image.release()

    # Earlier images: a result refers to those that were sent, or received, some time before it.

    def record_sent(self, image: CameraImage) -> None:
        """Store an image that is sent, for `pin` and `find`."""
        sent = self._sent.setdefault(image.camera, deque(maxlen=MAX_SENT))
        if sent and int(sent[-1].stamp) - int(image.stamp) > MAX_STAMP_JUMP_NS:
            # Time jumped back: the same stamps will recur with other images.
            sent.clear()
            self._pinned = {key: pinned for key, pinned in self._pinned.items()
                            if key[0] != image.camera}
        if not sent or sent[-1] is not image:
            sent.append(image)

    def pin(self, points: list[ImagePoint]) -> None:
        """Keep the images that these points refer to; the oldest pinned ones are dropped."""
        for point in points:
            image = self.find(point.camera, str(stamp_to_ns(point.header.stamp)))
            if image is None:
                continue
            self._pinned[image.camera, image.stamp] = image
            if not image.is_encoded and image in self._recent.get(image.camera, ()):
                task = asyncio.get_running_loop().create_task(self._encode(image))
                self._encoding.add(task)
                task.add_done_callback(self._encoding.discard)
        while len(self._pinned) > MAX_PINNED:
            del self._pinned[next(iter(self._pinned))]

    async def _encode(self, image: CameraImage) -> None:
        await image.encode(None)
        if image is not self.newest.get(image.camera):
            image.release()

    def find(self, camera: str, stamp: str) -> CameraImage | None:
        """Return an image that was sent, or received lately; None if it is no longer stored."""
        stored = chain(self._sent.get(camera, ()), self._recent.get(camera, ()))
        return self._pinned.get((camera, stamp)) or next(
            (image for image in stored if image.stamp == stamp), None)

    def _on_message(self, camera: NodeCamera, message: Image | CompressedImage) -> None:
        if self._cameras.get(camera.name) == camera:
            self._drop_newest(camera.name)
            image = self.newest[camera.name] = CameraImage(camera.name, message)
            recent = self._recent.setdefault(camera.name, deque(maxlen=MAX_SENT))
            if recent and int(recent[-1].stamp) - int(image.stamp) > MAX_STAMP_JUMP_NS:
                recent.clear()
            recent.append(image)
            while sum(each.raw_bytes for each in recent) > MAX_RECENT_BYTES:
                recent.popleft()
            self._on_image(image)
