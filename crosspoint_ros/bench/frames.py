"""Frames of two cameras that nobody has seen before, as often as a benchmark wants them."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Query, View

CLICKED, OTHER = 'clicked', 'other'
CELL_PX = 24
NOISE = 6.0


@dataclass(frozen=True)
class Frames:
    """What one round of a benchmark asks about: a new pair, then with one camera moved on."""

    pair: tuple[View, View]
    other_moved: tuple[View, View]
    clicked_moved: tuple[View, View]


def new_frames(number: int, width_px: int, height_px: int) -> Frames:
    """Draw the frames of a round; those of another number are other images."""
    clicked, other, next_other, next_clicked = (
        view(camera, 4 * number + offset, width_px, height_px)
        for offset, camera in enumerate((CLICKED, OTHER, OTHER, CLICKED)))
    return Frames((clicked, other), (clicked, next_other), (next_clicked, next_other))


def view(camera: str, number: int, width_px: int, height_px: int) -> View:
    """Return an image without pose or depth: the scene of `picture`, from a place of its own."""
    lens = Intrinsics(width_px, width_px, (width_px - 1) / 2, (height_px - 1) / 2,
                      width_px, height_px)
    return View(camera, picture(number, width_px, height_px), lens, stamp_ns=number)


def picture(number: int, width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Draw coloured patches of all sizes, (h, w, 3), turned and shifted a bit by the number."""
    scene, rng = np.random.default_rng(0), np.random.default_rng(number + 1)
    fine, coarse = (
        cv2.resize(scene.uniform(0, 127, (height_px // cell + 2, width_px // cell + 2, 3)),
                   (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        for cell in (CELL_PX, 4 * CELL_PX))
    turned = cv2.getRotationMatrix2D((width_px / 2, height_px / 2), float(rng.uniform(-8, 8)), 1.1)
    turned[:, 2] = turned[:, 2] + rng.uniform(-0.03, 0.03, 2) * width_px
    moved = cv2.warpAffine(fine + coarse, turned, (width_px, height_px),
                           borderMode=cv2.BORDER_REFLECT)
    noisy = moved + rng.normal(0, NOISE, moved.shape)
    return np.asarray(np.clip(noisy, 0, 255).astype(np.uint8))


def queries(pair: tuple[View, View], count: int, seed: int) -> list[Query]:
    """Click so many places in the middle of the first view, others for each seed."""
    size_px = np.array([pair[0].intrinsics.width_px, pair[0].intrinsics.height_px])
    pixels: Array = np.random.default_rng(seed).uniform(0.2, 0.8, (count, 2)) * size_px
    return [Query(*pair, pixel) for pixel in pixels]
