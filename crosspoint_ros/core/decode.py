"""Compressed pictures and depth, as image_transport's plugins write them, to arrays."""
from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Code, Rejected

# struct ConfigHeader of compressed_depth_image_transport: a format, then the two parameters of
# its 32FC1 quantisation. Little-endian, as every machine that writes it.
DEPTH_HEADER = struct.Struct('<iff')

_TO_RGB = {
    'bgr8': cv2.COLOR_BGR2RGB, 'bgra8': cv2.COLOR_BGRA2RGB,
    'rgba8': cv2.COLOR_RGBA2RGB, 'mono8': cv2.COLOR_GRAY2RGB,
}
_CHANNELS = {1: ('mono8',), 3: ('bgr8', 'rgb8'), 4: ('bgra8', 'rgba8')}


def decode_colour(data: bytes | npt.NDArray[np.uint8], encoding: str) -> npt.NDArray[np.uint8]:
    """Decode a JPEG or PNG picture to (h, w, 3) RGB uint8.

    encoding: the `format` of a CompressedImage, e.g. 'rgb8; jpeg compressed bgr8': what was
    published, then how the compressed channels are ordered (bgr8 where it does not say).
    Raises `Rejected` (NOT_SUPPORTED) when the bytes or the format cannot be decoded.
    """
    pixels = _decode(data, encoding)
    if pixels.dtype != np.uint8:
        raise Rejected(Code.NOT_SUPPORTED, f'a picture of {pixels.dtype} ({encoding!r}) '
                       'is not supported; 8 bits a channel are')
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    default, *others = _CHANNELS[channels]
    _, _, stored = encoding.partition('compressed')
    order = stored.strip() if stored.strip() in others else default
    rgb = pixels if order == 'rgb8' else cv2.cvtColor(pixels, _TO_RGB[order])
    return np.asarray(rgb, dtype=np.uint8)


def decode_depth(data: bytes | npt.NDArray[np.uint8], encoding: str) -> npt.NDArray[np.float32]:
    """Decode a compressedDepth picture to (h, w) float32 metres, NaN where unknown.

    encoding: the `format` of a CompressedImage, e.g. '16UC1; compressedDepth png' (mm) or
    '32FC1; compressedDepth' (quantised inverse depth). Raises `Rejected` (NOT_SUPPORTED) for the
    RVL codec and for anything else.
    """
    published, _, codec = (part.strip() for part in encoding.partition(';'))
    if published not in ('16UC1', '32FC1') or codec not in ('compressedDepth png',
                                                            'compressedDepth'):
        raise Rejected(Code.NOT_SUPPORTED, f'compressed depth {encoding!r} is not supported; '
                       "'16UC1; compressedDepth png' and '32FC1; compressedDepth png' are")
    raw = bytes(data)
    if len(raw) <= DEPTH_HEADER.size:
        raise Rejected(Code.NOT_SUPPORTED, f'compressed depth of {len(raw)} bytes is too short '
                       f'to be one: its header alone has {DEPTH_HEADER.size}')
    values = _decode(raw[DEPTH_HEADER.size:], encoding)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise Rejected(Code.NOT_SUPPORTED, f'compressed depth {encoding!r} holds {values.shape} '
                       f'{values.dtype}, not one channel of uint16')
    if published == '16UC1':
        depth_m = values.astype(np.float32) / np.float32(1000.0)
    else:
        _, quant_a, quant_b = DEPTH_HEADER.unpack_from(raw)
        with np.errstate(divide='ignore', invalid='ignore'):
            depth_m = np.float32(quant_a) / (values.astype(np.float32) - np.float32(quant_b))
    depth_m[values == 0] = np.nan
    return np.asarray(depth_m, dtype=np.float32)


def _decode(data: bytes | npt.NDArray[np.uint8],
            encoding: str) -> npt.NDArray[np.uint8 | np.uint16]:
    buffer = np.frombuffer(data, np.uint8)
    pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if len(buffer) else None
    if pixels is None:
        raise Rejected(Code.NOT_SUPPORTED,
                       f'{len(buffer)} bytes called {encoding!r} are neither JPEG nor PNG')
    return np.asarray(pixels)
