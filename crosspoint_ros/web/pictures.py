"""The newest picture of each camera as the browsers take it: encoded once, however many look."""
from __future__ import annotations

import asyncio
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import cv2
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.ros.convert import rgb_from_compressed, rgb_from_image, stamp_ns
from crosspoint_ros.web.events import Json

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
