"""An image as Qwen2.5-VL takes it: resized to multiples of 28 and cut into patches."""
from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Code, Rejected

PATCH_PX = 14
MERGED_PX = 28  # two by two patches become one token
MAX_ASPECT = 200
MIN_PIXELS = 4 * MERGED_PX ** 2
# The images CroPond was trained with had 768 tokens at most.
TRAINED_MAX_PIXELS = 768 * MERGED_PX ** 2
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def seen_size_px(width_px: int, height_px: int, max_pixels: int,
                 min_pixels: int = MIN_PIXELS) -> tuple[int, int]:
    """Return width and height of an image as the model is given it.

    Multiples of 28 with an area within the limits and nearly the same aspect, as the model's own
    `smart_resize` has it. Raises `Rejected` for an image too thin.
    """
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise Rejected(Code.BAD_REQUEST, f'an image of {width_px}x{height_px} px is too thin for '
                       f'the model (limit {MAX_ASPECT}:1)')
    width, height = (max(MERGED_PX, round(side / MERGED_PX) * MERGED_PX)
                     for side in (width_px, height_px))
    if width * height > max_pixels:
        shrink = math.sqrt(width_px * height_px / max_pixels)
        return _whole(math.floor, width_px / shrink), _whole(math.floor, height_px / shrink)
    if width * height < min_pixels:
        grow = math.sqrt(min_pixels / (width_px * height_px))
        return _whole(math.ceil, width_px * grow), _whole(math.ceil, height_px * grow)
    return width, height


def _whole(rounding: object, side_px: float) -> int:
    assert callable(rounding)
    return max(MERGED_PX, int(rounding(side_px / MERGED_PX)) * MERGED_PX)


def patches(rgb: npt.NDArray[np.uint8], max_pixels: int
            ) -> tuple[npt.NDArray[np.float32], tuple[int, int, int]]:
    """Return the patches (n, 1176) of an image (h, w, 3), and their grid (1, rows, columns).

    Rows of patches come two by two, since 2x2 of them become one token; each is doubled in time,
    as the model takes a still image for two equal frames. Equal to transformers' own
    `Qwen2VLImageProcessor` with Pillow.
    """
    width, height = seen_size_px(rgb.shape[1], rgb.shape[0], max_pixels)
    normal = (resized(rgb, width, height).astype(np.float32) * np.float32(1 / 255) - MEAN) / STD
    rows, columns = height // PATCH_PX, width // PATCH_PX
    # (channel, row pair, row of pair, y, column pair, column of pair, x)
    blocks = normal.transpose(2, 0, 1).reshape(
        3, rows // 2, 2, PATCH_PX, columns // 2, 2, PATCH_PX)
    ordered = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, np.newaxis]
    doubled = np.repeat(ordered, 2, axis=5)
    return np.ascontiguousarray(doubled.reshape(rows * columns, -1)), (1, rows, columns)


def resized(rgb: npt.NDArray[np.uint8], width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Resize an image with Pillow's bicubic filter, which the model was trained with."""
    if rgb.shape[:2] == (height_px, width_px):
        return rgb
    from PIL import Image  # an extra, like torch: only who runs the model here has it
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(picture.resize((width_px, height_px), Image.Resampling.BICUBIC))
