"""Image preprocessing of Qwen2.5-VL: resize to multiples of 28 px and cut into patches."""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Rejected

PATCH_PX = 14
TOKEN_PX = 28  # 2x2 patches are merged into one token
MAX_ASPECT = 200
MIN_PIXELS = 4 * TOKEN_PX ** 2
TRAINED_MAX_PIXELS = 768 * TOKEN_PX ** 2  # CroPond was trained with at most 768 tokens an image
IMAGE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
IMAGE_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclass(frozen=True)
class ImageSizes:
    """Size of one image, px: as published, and after the model's resize."""

    width_px: int
    height_px: int
    model_width_px: int
    model_height_px: int

    @classmethod
    def from_image_size(cls, width_px: int, height_px: int, max_pixels: int) -> ImageSizes:
        """Apply `smart_resize` to the size of a published image."""
        return cls(width_px, height_px, *smart_resize(width_px, height_px, max_pixels))

    @property
    def size_px(self) -> Array:
        """Published width and height, (2,)."""
        return np.array([self.width_px, self.height_px], dtype=np.float64)

    @property
    def model_size_px(self) -> Array:
        """Width and height that the model receives, (2,)."""
        return np.array([self.model_width_px, self.model_height_px], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ImageInput:
    """One frame of one camera. key: identifies the frame; rgb: (h, w, 3) uint8."""

    key: Hashable
    rgb: npt.NDArray[np.uint8]

    def is_same(self, other: ImageInput) -> bool:
        return self.key == other.key and self.rgb is other.rgb


def smart_resize(width_px: int, height_px: int, max_pixels: int,
                 min_pixels: int = MIN_PIXELS) -> tuple[int, int]:
    """Return the width and height that the model receives, as Qwen's `smart_resize` does.

    Both are multiples of 28, the area is within the limits, and the aspect ratio nearly kept.
    Raises `Rejected` for an aspect ratio above 200:1.
    """
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise Rejected(Code.BAD_REQUEST, f'an image of {width_px}x{height_px} px is too thin for '
                       f'the model (limit {MAX_ASPECT}:1)')
    width, height = (_round_side(round, side) for side in (width_px, height_px))
    if width * height > max_pixels:
        shrink = math.sqrt(width_px * height_px / max_pixels)
        return (_round_side(math.floor, width_px / shrink),
                _round_side(math.floor, height_px / shrink))
    if width * height < min_pixels:
        grow = math.sqrt(min_pixels / (width_px * height_px))
        return _round_side(math.ceil, width_px * grow), _round_side(math.ceil, height_px * grow)
    return width, height


def _round_side(rounding: Callable[[float], int], side_px: float) -> int:
    return max(TOKEN_PX, rounding(side_px / TOKEN_PX) * TOKEN_PX)


def patchify(rgb: npt.NDArray[np.uint8], max_pixels: int
             ) -> tuple[npt.NDArray[np.float32], tuple[int, int, int]]:
    """Return the patches (n, 1176) of an image (h, w, 3), and their grid (1, rows, columns).

    Patches are ordered in 2x2 blocks, one block a token, and repeated twice in time, as the model
    expects a still image. Equal to transformers' `Qwen2VLImageProcessor` with Pillow.
    """
    width, height = smart_resize(rgb.shape[1], rgb.shape[0], max_pixels)
    scaled = resize_bicubic(rgb, width, height).astype(np.float32) * np.float32(1 / 255)
    normalized = (scaled - IMAGE_MEAN) / IMAGE_STD
    rows, columns = height // PATCH_PX, width // PATCH_PX
    # (channel, row pair, row of pair, y, column pair, column of pair, x)
    blocks = normalized.transpose(2, 0, 1).reshape(
        3, rows // 2, 2, PATCH_PX, columns // 2, 2, PATCH_PX)
    ordered = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, np.newaxis]
    doubled = np.repeat(ordered, 2, axis=5)
    return np.ascontiguousarray(doubled.reshape(rows * columns, -1)), (1, rows, columns)


def resize_bicubic(rgb: npt.NDArray[np.uint8], width_px: int, height_px: int
                   ) -> npt.NDArray[np.uint8]:
    """Resize an image with Pillow's bicubic filter, as in the model's training."""
    if rgb.shape[:2] == (height_px, width_px):
        return rgb
    from PIL import Image  # optional dependency, like torch
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize((width_px, height_px), Image.Resampling.BICUBIC))
