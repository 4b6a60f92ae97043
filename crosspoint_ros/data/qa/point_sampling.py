"""Samples the points of a frame: on labelled objects, or at corners and graspable protrusions."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.image_io import read_pixels
from crosspoint_ros.data.qa.point_visibility import compute_width_scale
from crosspoint_ros.data.scenes.rgbd_scene import UnusableData

MAX_POINTS = 260
MIN_SPACING_PX = 14
MIN_PROTRUSION_M, MAX_PROTRUSION_M = 0.012, 0.12  # of a part that can be grasped
WINDOW_PX = 61
MARGIN_PX = 10
Labels = npt.NDArray[np.int_]


def read_labels(folder: Path | None, name: str, view: View) -> Labels | None:
    """Read `<name>.png` of a folder of labels (h, w), 0: nothing; None if there is none.

    Raises `UnusableData` if it is not a one-channel image of the view's size.
    """
    if folder is None or not (path := folder / f'{name}.png').is_file():
        return None
    try:
        labels = read_pixels(path)
    except ValueError as error:
        raise UnusableData(str(error)) from error
    size = (view.intrinsics.height_px, view.intrinsics.width_px)
    if labels.shape != size:
        raise UnusableData(f'{path}: labels are one channel of {size}, this is {labels.shape}')
    return np.asarray(labels, int)


def sample_points(view: View, labels: Labels | None, rng: np.random.Generator) -> Array:
    """Sample up to 260 pixels (n, 2) of a view at some distance from each other."""
    if labels is not None:
        inside = cv2.erode((labels > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        pixels = np.argwhere(inside)[:, ::-1].astype(float)
    else:
        protrusions = np.argwhere(find_protrusions(view))[:, ::-1]
        chosen = rng.permutation(len(protrusions))[:400]
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        corners = cv2.goodFeaturesToTrack(grey, 400, 0.01, 8)
        pixels = np.concatenate([np.zeros((0, 2)) if corners is None else np.rint(corners[:, 0]),
                                 protrusions[chosen]])
    limit = np.array([view.intrinsics.width_px, view.intrinsics.height_px]) - MARGIN_PX
    pixels = pixels[((pixels >= MARGIN_PX) & (pixels < limit)).all(axis=1)]
    spacing_px = MIN_SPACING_PX * compute_width_scale(view.intrinsics)
    return _space_out(rng.permutation(pixels), spacing_px)


def find_protrusions(view: View) -> npt.NDArray[np.bool_]:
    """Return the mask (h, w) of graspable parts, 1 to 12 cm nearer than their surroundings.

    A morphological closing of the depth at a quarter of its size fills parts narrower than the
    window.
    """
    assert view.depth_m is not None
    small = view.depth_m[::4, ::4]
    known = np.isfinite(small)
    filled = np.where(known, small, 0.0).astype(np.float32)
    size = max(3, int(WINDOW_PX * compute_width_scale(view.intrinsics) / 4) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    height_m = cv2.morphologyEx(filled, cv2.MORPH_CLOSE, kernel) - filled
    mask = known & (height_m > MIN_PROTRUSION_M) & (height_m < MAX_PROTRUSION_M)
    eroded = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(eroded, view.depth_m.shape[::-1],
                                 interpolation=cv2.INTER_NEAREST) > 0)


def _space_out(pixels: Array, spacing_px: float) -> Array:
    """Keep up to 260 pixels, no two in the same or neighbouring grid cells."""
    kept: list[Array] = []
    taken: set[tuple[int, int]] = set()
    for pixel in pixels:
        cell = int(pixel[0] // spacing_px), int(pixel[1] // spacing_px)
        near = {(cell[0] + i, cell[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        if not taken & near:
            taken.add(cell)
            kept.append(pixel)
            if len(kept) == MAX_POINTS:
                break
    return np.array(kept).reshape(-1, 2)
