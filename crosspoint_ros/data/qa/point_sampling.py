"""Points that a hand would go for: on labelled things, or corners and what stands out of depth."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa.point_visibility import width_scale
from crosspoint_ros.data.scenes.rgbd_scene import UnusableData

MIN_SPACING_PX = 14
MIN_PROTRUSION_M, MAX_PROTRUSION_M = 0.012, 0.12  # how far a part that can be grasped stands out
WINDOW_PX = 61
MARGIN_PX = 10
Labels = npt.NDArray[np.int_]


def read_labels(folder: Path | None, name: str, view: View) -> Labels | None:
    """Read `<name>.png` of a folder of labels (0: nothing); None where there is none.

    Raises `Unusable` when it is no picture of the view's size.
    """
    path = None if folder is None else folder / f'{name}.png'
    if path is None or not path.is_file():
        return None
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    size = (view.intrinsics.height_px, view.intrinsics.width_px)
    if labels is None or labels.shape != size:
        what = 'no picture' if labels is None else f'{labels.shape}'
        raise UnusableData(f'{path}: labels are one channel of {size}, this is {what}')
    return np.asarray(labels, int)


def sample_points(view: View, labels: Labels | None, number: int,
               rng: np.random.Generator) -> Array:
    """Choose up to `number` pixels (n, 2) of a view, apart from each other, the surer mixed."""
    if labels is not None:
        inside = cv2.erode((labels > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        rows, columns = np.nonzero(inside)
        pixels = np.stack([columns, rows], axis=1).astype(float)
    else:
        pixels = np.concatenate([_detect_corners(view), _sample_protrusions(view, rng)])
    limit = np.array([view.intrinsics.width_px, view.intrinsics.height_px]) - MARGIN_PX
    pixels = pixels[((pixels >= MARGIN_PX) & (pixels < limit)).all(axis=1)]
    return _space_out(rng.permutation(pixels), MIN_SPACING_PX * width_scale(view.intrinsics), number)


def _detect_corners(view: View) -> Array:
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(grey, 400, 0.01, 8)
    return np.zeros((0, 2)) if found is None else np.rint(found.reshape(-1, 2)).astype(float)


def _sample_protrusions(view: View, rng: np.random.Generator) -> Array:
    rows, columns = np.nonzero(find_protrusions(view))
    pixels = np.stack([columns, rows], axis=1).astype(float)
    return pixels[rng.permutation(len(pixels))[:400]]


def find_protrusions(view: View) -> npt.NDArray[np.bool_]:
    """Where (h, w) the depth is nearer than most around it, by as much as a hand takes hold of."""
    return _open_depth(view, MIN_PROTRUSION_M, MAX_PROTRUSION_M)


def _open_depth(view: View, least_m: float, most_m: float) -> npt.NDArray[np.bool_]:
    """The opening of the depth at a quarter of its size: what is thinner than the window goes."""
    assert view.depth_m is not None
    small = view.depth_m[::4, ::4]
    known = np.isfinite(small)
    filled = np.where(known, small, 0.0).astype(np.float32)
    across = max(3, int(WINDOW_PX * width_scale(view.intrinsics) / 4) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
    behind = cv2.morphologyEx(filled, cv2.MORPH_CLOSE, kernel)  # thin near things are filled up
    out = known & (behind - filled > least_m) & (behind - filled < most_m)
    eroded = cv2.erode(out.astype(np.uint8), np.ones((3, 3), np.uint8))
    height, width = view.depth_m.shape
    return np.asarray(cv2.resize(eroded, (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _space_out(pixels: Array, least_px: float, number: int) -> Array:
    kept: list[Array] = []
    taken: set[tuple[int, int]] = set()
    for pixel in pixels:
        cell = int(pixel[0] // least_px), int(pixel[1] // least_px)
        near = {(cell[0] + i, cell[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        if not taken & near:
            taken.add(cell)
            kept.append(pixel)
            if len(kept) == number:
                break
    return np.array(kept).reshape(-1, 2)
