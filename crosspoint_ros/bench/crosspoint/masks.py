"""Masks out of base64: as the authors decode them, and as they are meant."""
from __future__ import annotations

import base64
import binascii
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

DATA_URL = 'data:'
WHITE = 128
REMEMBERED_MASKS, REMEMBERED_SIZES = 40, 8192
BYTES = ('L', 'P', 'RGB', 'RGBA')  # modes whose pixels Pillow gives as NumPy would


@dataclass(frozen=True, eq=False)
class Mask:
    """A decoded mask."""

    image: Image.Image

    @property
    def mode(self) -> str:
        """How it is stored: '1', 'L', 'P', 'RGB', …"""
        return self.image.mode

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.image.size

    def stored(self, x: int, y: int) -> npt.NDArray[Any]:
        """Return the numbers of a pixel on the mask as they are stored: () or (channels,)."""
        if self.mode in BYTES:
            return np.asarray(self.image.getpixel((x, y)))
        return np.asarray(np.array(self.image.crop((x, y, x + 1, y + 1)))[0, 0])

    @property
    def white(self) -> npt.NDArray[np.bool_]:
        """Which pixels (h, w) are white, however that is stored."""
        if self.mode.startswith('I;16'):
            return np.asarray(np.array(self.image) > WHITE * 257)
        if self.mode in ('I', 'F'):
            return np.asarray(np.array(self.image) > WHITE)
        return np.asarray(self.image.convert('L')) > WHITE

    def is_white(self, x: int, y: int) -> bool:
        """Tell whether one pixel on the mask is white."""
        if self.mode == 'L':
            return bool(self.stored(x, y) > WHITE)
        return bool(Mask(self.image.crop((x, y, x + 1, y + 1))).white[0, 0])


@lru_cache(REMEMBERED_MASKS)
def official_mask(text: str) -> Mask | None:
    """Decode a mask as the authors do, who pass over what is no base64; None if that fails."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        image.load()
    except Exception:  # as the authors': any failure is no mask
        return None
    return Mask(image)


def meant_mask(text: str) -> Mask:
    """Decode a mask; a data URL too. Raises ValueError that says what is wrong with it."""
    body = text.partition(',')[2] if text.startswith(DATA_URL) else text
    mask = official_mask(body)
    if mask is not None:
        return mask
    try:
        content = base64.b64decode(''.join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'its mask is no base64 ({error})') from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError:
        raise ValueError(f'its mask, {len(content)} bytes, is no image') from None
    except Exception as error:
        raise ValueError(f'its mask is a damaged image ({error})') from None
    raise ValueError('its mask cannot be read')


@lru_cache(REMEMBERED_SIZES)
def image_size(folder: str, name: str) -> tuple[int, int] | None:
    """Return width and height of an image file; None if it is not there or is none."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # whatever a damaged file does
        return None
