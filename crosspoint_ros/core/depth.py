"""The surface that a depth image shows at a pixel: its depth, its point, its normal."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View

WINDOW_PX = 13  # at 640x480; facts of real depth: edges bleed over some pixels
NORMAL_WINDOW_PX = 29
SPLIT_M, SPLIT_RATIO = 0.03, 0.01  # a gap between two surfaces, plus 1 % of the range
MIN_SHARE = 0.2
MIN_NORMAL_POINTS = 30
PLANE_TRIALS = 64
PLANE_INLIER_M = 0.004


def front_depth_m(view: View, pixel: npt.ArrayLike) -> float:
    """Return the depth at a pixel (2,), m; NaN when the window around it has none.

    The nearest cluster that holds at least a fifth of the window's depths, and its median: on the
    edge of an object the object, not the wall behind it. Clusters end where sorted depths leave a
    gap of 3 cm + 1 %.
    """
    known = np.sort(_window(view, pixel, WINDOW_PX)[2])
    if not len(known):
        return np.nan
    gaps = np.diff(known) > SPLIT_M + SPLIT_RATIO * known[:-1]
    clusters = np.split(known, np.flatnonzero(gaps) + 1)
    return float(np.median(next(c for c in clusters if len(c) >= MIN_SHARE * len(known))))


def surface_point(view: View, pixel: npt.ArrayLike) -> Array | None:
    """Return the point (3,) of the base at a pixel, m; None without depth there or a pose."""
    if view.depth_m is None or view.base_from_cam is None:
        return None
    depth_m = front_depth_m(view, pixel)
    if not np.isfinite(depth_m):
        return None
    ray_cam = view.intrinsics.ray_cam(pixel)
    return view.base_from_cam.point(ray_cam / ray_cam[2] * depth_m)


def surface_normal_cam(view: View, pixel: npt.ArrayLike, depth_m: float) -> Array | None:
    """Return the unit normal (3,) of the surface at a pixel, away from the camera, or None.

    A plane through three random points that most of the window's points on this surface agree
    with (RANSAC, fixed seed), refined by least squares over those that do.
    """
    columns, rows, depths = _window(view, pixel, NORMAL_WINDOW_PX)
    here = np.abs(depths - depth_m) < SPLIT_M + SPLIT_RATIO * depth_m
    if here.sum() < MIN_NORMAL_POINTS:
        return None
    rays = view.intrinsics.ray_cam(np.stack([columns[here], rows[here]], axis=1))
    points = rays / rays[:, 2:] * depths[here, None]
    inliers = points[_plane_inliers(points)]
    normal: Array = np.linalg.svd(inliers - inliers.mean(axis=0), full_matrices=False)[2][2]
    return normal if normal @ points.mean(axis=0) > 0 else -normal


def _plane_inliers(points: Array) -> npt.NDArray[np.bool_]:
    rng = np.random.default_rng(0)
    triples = points[rng.integers(len(points), size=(PLANE_TRIALS, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(lengths, 1e-12)[:, None]
    tolerance_m = PLANE_INLIER_M * max(1.0, float(np.median(points[:, 2])))
    off = np.abs((points[None] - triples[:, :1]) @ normals[:, :, None])[..., 0]
    votes = (off < tolerance_m) & (lengths > 1e-9)[:, None]
    best: npt.NDArray[np.bool_] = votes[votes.sum(axis=1).argmax()]
    return best if best.sum() >= 3 else np.ones(len(points), dtype=bool)


def _window(view: View, pixel: npt.ArrayLike, size_px: int) -> tuple[Array, Array, Array]:
    """Columns, rows and depths (n,) of the pixels around one that have a depth."""
    assert view.depth_m is not None
    width = view.depth_m.shape[1]
    half = max(1, round(size_px * width / 640) // 2)
    column, row = np.rint(np.asarray(pixel, dtype=np.float64)).astype(int)
    left, top = max(0, column - half), max(0, row - half)
    part = view.depth_m[top:row + half + 1, left:column + half + 1]
    rows, columns = np.nonzero(np.isfinite(part))
    return ((columns + left).astype(np.float64), (rows + top).astype(np.float64),
            part[rows, columns].astype(np.float64))
