"""What depth adds: the clicked point in 3D, where the other view shows it, and whether it does."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.matchers.xfeat.features import Frame

GAP_M, GAP_SHARE = 0.03, 0.01
MIN_CLUSTER_SHARE = 0.2
WINDOW_PX = 3.0
SURFACE_WINDOW_PX = 4.0


def lift_smooth(frame: Frame, pixel: Array) -> Array:
    """Lift working pixels (n, 2) to 3D points (n, 3); NaN without depth or at its edges."""
    if frame.view.depth_m is None:
        return np.full((len(pixel), 3), np.nan)
    depth_m = frame.smooth_depth_m
    x, y = _nearest(frame, pixel)
    return frame.working.ray_cam(pixel) * depth_m[y, x][:, None]


def surfaces(frame: Frame, pixel: Array, radius_px: float) -> list[Array]:
    """Depths around a working pixel, one sorted array per surface, the nearest surface first."""
    assert frame.view.depth_m is not None
    (x,), (y,) = _nearest(frame, pixel[None])
    reach = max(round(radius_px / frame.working.zoom), 1)
    window = frame.view.depth_m[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
    known = np.sort(window[np.isfinite(window) & (window > 0)].astype(np.float64))
    if not len(known):
        return []
    breaks = np.flatnonzero(np.diff(known) > GAP_M + GAP_SHARE * known[:-1]) + 1
    parts = np.split(known, breaks)
    return [part for part in parts if len(part) >= MIN_CLUSTER_SHARE * len(known)]


def clicked_depth(frame: Frame, pixel: Array) -> float:
    """Depth of the surface under a working pixel: the pixel's own, else the nearest surface's.

    NaN without any depth around it.
    """
    assert frame.view.depth_m is not None
    found = surfaces(frame, pixel, WINDOW_PX)
    if not found:
        return np.nan
    (x,), (y,) = _nearest(frame, pixel[None])
    own = float(frame.view.depth_m[y, x])
    for part in found:
        if part[0] - 1e-6 <= own <= part[-1] + 1e-6:
            return own
    return float(np.median(found[0]))


@dataclass(frozen=True)
class Sighting:
    """What the other view's depth says where the point should be.

    gap_m: how far the surface there lies in front of the point (negative: behind it), taking the
    surface that fits best; NaN where there is no depth.
    """

    expected_m: float
    gap_m: float


def sighting(frame: Frame, pixel: Array, expected_m: float, radius_px: float) -> Sighting:
    """Compare the depth expected at a working pixel with what is measured around it."""
    if frame.view.depth_m is None:
        return Sighting(expected_m, np.nan)
    found = np.concatenate([*surfaces(frame, pixel, radius_px), np.zeros(0)])
    if not len(found):
        return Sighting(expected_m, np.nan)
    gaps = expected_m - found
    return Sighting(expected_m, float(gaps[np.abs(gaps).argmin()]))


def back_distance(other: Frame, clicked: Frame, clicked_from_other: Transform,
                  pixel: Array) -> Array:
    """Distance (rows, columns) in working px between the click and where the clicked view would
    show what each place of the other view's score map shows; NaN where it has no depth."""
    grid = other.fine_grid
    points = lift_smooth(other, grid.reshape(-1, 2))
    seen = clicked.working.project(clicked_from_other.point(points))
    return np.linalg.norm(seen - pixel, axis=1).reshape(grid.shape[:2])


def _nearest(frame: Frame, pixel: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    at = np.round(frame.working.published(pixel)).astype(int)
    height, width = frame.view.image.shape[:2]
    return at[:, 0].clip(0, width - 1), at[:, 1].clip(0, height - 1)
