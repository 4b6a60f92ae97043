"""Image files: read as RGB, depth in metres or mask, written atomically."""
from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.encodings import (
    COLOUR_ENCODINGS,
    DepthM,
    Rgb,
    depth_m_from_pixels,
    rgb_from_pixels,
)
from crosspoint_ros.core.image_codecs import decode_image

MASK_THRESHOLD = 127
PathLike = str | os.PathLike[str]


def read_image(path: PathLike) -> Rgb:
    """Read an image file as (h, w, 3) RGB uint8: the pixels that the camera's intrinsics are for.

    EXIF orientation is not applied. Grey and palette images become RGB, alpha is dropped. Raises
    OSError if the file cannot be read; ValueError if it is not an image, is cut off, is CMYK, has
    more than 8 bits per channel (depth is read by `read_depth_m`) or more than 100 megapixels.
    """
    pixels = read_pixels(path)
    if pixels.dtype != np.uint8:
        raise ValueError(f'{path}: the image has {pixels.dtype} channels (must be uint8): convert '
                         'it to 8 bits; a depth image is not a colour image')
    name = {1: 'mono8', 3: 'bgr8', 4: 'bgra8'}[1 if pixels.ndim == 2 else pixels.shape[2]]
    return rgb_from_pixels(pixels, COLOUR_ENCODINGS[name])


def read_depth_m(path: PathLike, depth_scale: float = 1000.0) -> DepthM:
    """Read depth (h, w) in metres, NaN where unknown, from a 16-bit or float32 image.

    depth_scale: the stored value of one metre (1000 for mm, 5000 for TUM RGB-D). Raises OSError,
    ValueError.
    """
    if not (np.isfinite(depth_scale) and depth_scale > 0):
        raise ValueError(f'depth_scale must be positive, got {depth_scale}')
    pixels = read_pixels(path)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint16, np.float32):
        raise ValueError(f'{path}: {_describe(pixels)}; depth takes one channel of uint16 or '
                         'float32')
    return depth_m_from_pixels(pixels, depth_scale)


def read_mask(path: PathLike) -> npt.NDArray[np.bool_]:
    """Read a mask (h, w) bool, True where the image is white (above 127).

    Takes 8-bit grey, or colour whose channels are equal. Raises OSError, ValueError.
    """
    pixels = read_pixels(path)
    if pixels.ndim == 3 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f'{path}: {_describe(pixels)}; a mask takes one 8-bit channel, white on '
                         'the robot, black elsewhere')
    return np.asarray(pixels > MASK_THRESHOLD)


def write_image(path: PathLike, image: npt.NDArray[Any]) -> None:
    """Write RGB (h, w, 3) uint8, one channel (uint8 or uint16 PNG) or a bool mask, atomically.

    The suffix names the format, PNG without one. Raises ValueError if OpenCV does not write it,
    OSError, naming the file, if it cannot be written.
    """
    path = Path(path)
    pixels = image * np.uint8(255) if image.dtype == np.bool_ else image
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        is_encoded, data = cv2.imencode(path.suffix or '.png', pixels)
    except cv2.error:
        is_encoded = False
    if not is_encoded:
        raise ValueError(f'{path}: a {image.dtype} {image.shape} image cannot be written as '
                         f'{path.suffix!r}; use .png')
    atomic_write(path, data.tobytes())


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write a file through a temporary one and a rename: whole or absent.

    Creates missing folders. Raises OSError, naming the file.
    """
    path = Path(path)
    # Threads of one process may write the same file.
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        cure = '; free some space and run it again' if error.errno == errno.ENOSPC else ''
        raise OSError(error.errno, f'{error.strerror}: {path} is not written{cure}') from error
    finally:
        part.unlink(missing_ok=True)


def read_pixels(path: PathLike) -> npt.NDArray[Any]:
    """Read an image file as it is stored: BGR(A) or one channel, any depth.

    Raises OSError, ValueError.
    """
    try:
        return decode_image(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'{path}: {error}; copy or record it again') from error


def _describe(pixels: npt.NDArray[Any]) -> str:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f'the image has {channels} channel(s) of {pixels.dtype}'
