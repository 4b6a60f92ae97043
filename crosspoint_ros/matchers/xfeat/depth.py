"""What depth adds: the clicked point in 3D, where the other view shows it, and whether it does."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.core.depth import surface_depths_m
from crosspoint_ros.matchers.xfeat.features import Frame


def lift_smooth(frame: Frame, pixel: Array) -> Array:
    """Lift working pixels (n, 2) to 3D points (n, 3); NaN without depth or at its edges."""
    if frame.view.depth_m is None:
        return np.full((len(pixel), 3), np.nan)
    depth_m = frame.smooth_depth_m
    x, y = _nearest(frame, pixel)
    return frame.working.ray_cam(pixel) * depth_m[y, x][:, None]


def clicked_depth(frame: Frame, pixel: Array) -> float:
    """Depth at a working pixel: its own, else the nearest surface's around it; NaN without any."""
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest(frame, pixel[None])
    own = float(frame.view.depth_m[y, x])
    if np.isfinite(own) and own > 0:
        return own
    around = surface_depths_m(frame.view, frame.working.published(pixel))
    return float(around[0]) if len(around) else np.nan


def depth_gap_m(frame: Frame, pixel: Array, expected_m: float, radius_px: float) -> float:
    """How far the surface around a working pixel lies in front of an expected depth.

    Of all depths within the radius the one that fits best counts, since at an edge both surfaces
    are near. Negative: behind it. NaN without depth.
    """
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest(frame, pixel[None])
    reach = max(round(radius_px / frame.working.zoom), 1)
    window = frame.view.depth_m[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
    gaps = expected_m - window[np.isfinite(window) & (window > 0)].astype(np.float64)
    return float(gaps[np.abs(gaps).argmin()]) if len(gaps) else np.nan


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
