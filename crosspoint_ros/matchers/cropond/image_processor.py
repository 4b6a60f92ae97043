"""Image preprocessing of Qwen's vision models: resize to whole tokens and cut into patches."""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Rejected

TOKEN_PX = 28  # side of a token of Qwen2.5-VL
MAX_ASPECT = 200
MIN_PIXELS = 4 * TOKEN_PX ** 2
TRAINED_MAX_PIXELS = 768 * TOKEN_PX ** 2  # CroPond was trained with at most 768 tokens an image
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class PreprocessorConfig:
    """How a model's images are prepared; the defaults are Qwen2.5-VL's.

    patch_px: side of a patch, of which 2x2 are merged into one token. mean, std: that normalise
    RGB of 0..1. min_pixels, max_pixels: of an image after the resize.
    """

    patch_px: int = 14
    mean: Rgb = (0.48145466, 0.4578275, 0.40821073)
    std: Rgb = (0.26862954, 0.26130258, 0.27577711)
    min_pixels: int = MIN_PIXELS
    max_pixels: int = 16384 * TOKEN_PX ** 2

    @property
    def token_px(self) -> int:
        """Side of a token, px; images are resized to multiples of it."""
        return 2 * self.patch_px


QWEN2_5_VL = PreprocessorConfig()
QWEN3_VL = PreprocessorConfig(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 64 * 32 ** 2, 16384 * 32 ** 2)


@dataclass(frozen=True)
class ImageSizes:
    """Size of one image, px: as published, and after the model's resize."""

    width_px: int
    height_px: int
    model_width_px: int
    model_height_px: int

    @classmethod
    def from_image_size(cls, width_px: int, height_px: int, max_pixels: int,
                        config: PreprocessorConfig = QWEN2_5_VL) -> ImageSizes:
        """Apply `smart_resize` to the size of a published image."""
        return cls(width_px, height_px, *smart_resize(width_px, height_px, max_pixels, config))

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
                 config: PreprocessorConfig = QWEN2_5_VL) -> tuple[int, int]:
    """Return the width and height that the model receives, as Qwen's `smart_resize` does.

    Both are multiples of a token's side, the area is within the limits, and the aspect ratio nearly
    kept. Raises `Rejected` for an aspect ratio above 200:1.
    """
    if max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px):
        raise Rejected(Code.BAD_REQUEST, f'an image of {width_px}x{height_px} px is too thin for '
                       f'the model (limit {MAX_ASPECT}:1)')
    token_px, max_pixels = config.token_px, min(max_pixels, config.max_pixels)

    def round_side(rounding: Callable[[float], int], side_px: float) -> int:
        return max(token_px, rounding(side_px / token_px) * token_px)

    width, height = round_side(round, width_px), round_side(round, height_px)
    if width * height > max_pixels:
        shrink = math.sqrt(width_px * height_px / max_pixels)
        return (round_side(math.floor, width_px / shrink),
                round_side(math.floor, height_px / shrink))
    if width * height < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (width_px * height_px))
        return round_side(math.ceil, width_px * grow), round_side(math.ceil, height_px * grow)
    return width, height


def patchify(rgb: npt.NDArray[np.uint8], max_pixels: int,
             config: PreprocessorConfig = QWEN2_5_VL
             ) -> tuple[npt.NDArray[np.float32], tuple[int, int, int]]:
    """Return the patches (n, 6 patch_px^2) of an image (h, w, 3), and their grid (1, h, w).

    Patches are ordered in 2x2 blocks, one block a token, and repeated twice in time, as the model
    expects a still image. Equal to transformers' `Qwen2VLImageProcessor` with Pillow.
    """
    width, height = smart_resize(rgb.shape[1], rgb.shape[0], max_pixels, config)
    scaled = resize_bicubic(rgb, width, height).astype(np.float32) * np.float32(1 / 255)
    normalized = (scaled - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    patch_px = config.patch_px
    rows, columns = height // patch_px, width // patch_px
    # (channel, row pair, row of pair, y, column pair, column of pair, x)
    blocks = normalized.transpose(2, 0, 1).reshape(
        3, rows // 2, 2, patch_px, columns // 2, 2, patch_px)
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
