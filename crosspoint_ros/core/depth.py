"""Depth images: surfaces and normals at a pixel, the view that shows a point best, registration."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    Intrinsics,
    MissingView,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.geometry import cross, require_pose

Metres = TypeVar('Metres', float, Array)
Compute = TypeVar('Compute', bound=Callable[..., Any])
MAX_REMEMBERED = 64  # pixels of a view

# Windows are for images 640 px wide, and scale with the width.
WINDOW_PX = 13
NORMAL_WINDOW_PX, MIN_NORMAL_WINDOW_PX = 29, 17  # with 9 px every estimator is 11 deg off
SPLIT_M, SPLIT_RATIO = 0.03, 0.01  # a gap between two surfaces, plus 1 % of the range
MIN_KNOWN_SHARE = 0.05  # of the window: fewer depths are speckle in a hole
MIN_SURFACE_SHARE = 0.2  # of the depths
NEAREST_PIXELS = 9
MIN_NORMAL_POINTS = 30
PLANE_TRIALS = 64
PLANE_INLIER_RATIO = 0.004  # of the range
NORMAL_SIGMA_RAD = 0.03  # of a normal on a perfect plane: poses and lens
DEPTH_SIGMA_M, DEPTH_SIGMA_RATIO = 0.002, 0.005  # the ratio grows with range^2: stereo
RIM_WINDOW_PX, MIN_RIM_WINDOW_PX, MIN_RIM_PIXELS, RIM_SIGMAS = 7, 5, 3, 3.0
SPLAT_MARGIN = 1.2  # on slopes neighbouring pixels move apart: without it the wall shows through


def remember_by_pixel(compute: Compute) -> Compute:
    """Compute once for each view, which never changes, and pixel; what it returns is shared."""
    known: WeakKeyDictionary[View, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()

    @wraps(compute)
    def recall(view: View, pixel: npt.ArrayLike, *more: float | View) -> Any:
        results = known.setdefault(view, {})
        # Another view by reference: it must not live for as long as this one.
        key = (*np.asarray(pixel, dtype=float).ravel().tolist(),
               *(ref(each) if isinstance(each, View) else each for each in more))
        with suppress(KeyError):  # another thread may clear it
            return results[key]
        found = compute(view, pixel, *more)
        if len(results) >= MAX_REMEMBERED:
            results.clear()
        results[key] = found
        return found
    return cast(Compute, recall)


@remember_by_pixel
def surface_depths_m(view: View, pixel: npt.ArrayLike) -> Array:
    """Return the depths (n,) of the surfaces around a pixel (2,), the nearest first, m.

    Empty without depth there. The sorted depths of the window are split at gaps of 3 cm + 1 %; a
    surface has a fifth of them. The first counts as clicked: on the edge of an object the object,
    not the wall behind it. A surface's depth is the median of its nine nearest pixels: that of all
    would smear slopes, and handles that protrude by less than the gap.
    """
    if view.depth_m is None:
        return np.zeros(0)
    pixels, depths, total = depth_window(view, pixel, WINDOW_PX)
    if not len(depths) or len(depths) < MIN_KNOWN_SHARE * total:  # none off the image
        return np.zeros(0)
    order = np.argsort(depths)
    known, away_px = depths[order], np.linalg.norm(pixels[order] - np.asarray(pixel), axis=1)
    gaps = np.flatnonzero(np.diff(known) > SPLIT_M + SPLIT_RATIO * known[:-1]) + 1
    return np.array([
        find_median(surface[np.argsort(away)[:NEAREST_PIXELS]])
        for surface, away in zip(np.split(known, gaps), np.split(away_px, gaps), strict=True)
        if len(surface) >= MIN_SURFACE_SHARE * len(known)])


@remember_by_pixel
def surface_points_m(view: View, pixel: npt.ArrayLike) -> Array:
    """Return the points (n, 3) of `surface_depths_m` in the base, m; none without a pose."""
    depths_m = surface_depths_m(view, pixel)
    if view.ray_pose is None or not len(depths_m):
        return np.zeros((0, 3))
    return view.ray_pose.transform_points(view.backproject(pixel, depths_m))


def explain_missing_depth(view: View, pixel: npt.ArrayLike) -> str:
    """Return why there is no surface at a pixel, with the counts."""
    if view.depth_m is None:
        return f'{view.camera} has no depth'
    (x, y), (_, depths, total) = np.asarray(pixel), depth_window(view, pixel, WINDOW_PX)
    if len(depths) < MIN_KNOWN_SHARE * total:
        return (f'{len(depths)} of the {total} pixels around ({x:.0f}, {y:.0f}) in {view.camera} '
                f'have a depth (at least {MIN_KNOWN_SHARE:.0%})')
    return (f'no surface around ({x:.0f}, {y:.0f}) in {view.camera} holds '
            f'{MIN_SURFACE_SHARE:.0%} of its {len(depths)} depths')


def find_median(values: Array) -> float:
    """Return the median of known values (n,): `np.median` takes eight times as long for few."""
    ordered = np.sort(values)
    return float(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def predict_depth_sigma_m(depth_m: Metres) -> Metres:
    """Return the standard deviation of a measured depth, or of depths (...), m."""
    return DEPTH_SIGMA_M + DEPTH_SIGMA_RATIO * depth_m ** 2


@remember_by_pixel
def is_on_rim(view: View, pixel: npt.ArrayLike, depth_m: float) -> bool:
    """Return whether another surface is so near to a pixel (2,) that it may be the one meant.

    depth_m: of the surface taken for the pixel's. True if the depth jumps within 3 px (of an image
    640 px wide) by more than three sigmas of a depth, slopes apart, or if the nearest depths are
    not of that surface.
    """
    step_m = min(SPLIT_M + SPLIT_RATIO * depth_m, RIM_SIGMAS * predict_depth_sigma_m(depth_m))
    if _has_jump(view, pixel, step_m):
        return True
    pixels, depths, _ = depth_window(view, pixel, WINDOW_PX)
    nearest = np.argsort(np.linalg.norm(pixels - np.asarray(pixel), axis=1))[:NEAREST_PIXELS]
    return bool(abs(find_median(depths[nearest]) - depth_m) > step_m)


def _has_jump(view: View, pixel: npt.ArrayLike, step_m: float) -> bool:
    """Whether depths around a pixel, less their slope, fall into two groups, or neighbours jump.

    The slope is the median of the steps between neighbours: on the rim of a table seen at an angle,
    table and floor have depths in common. At a corner of three surfaces no slope fits them all.
    """
    pixels, depths, _ = depth_window(
        view, pixel, max(RIM_WINDOW_PX, MIN_RIM_WINDOW_PX * 640 / view.intrinsics.width_px))
    if not len(depths):
        return False
    places, jumps = (pixels - pixels.min(axis=0)).astype(int), 0
    part = np.full(places.max(axis=0)[::-1] + 1, np.nan)
    part[places[:, 1], places[:, 0]] = depths
    for axis in (0, 1):
        steps = np.diff(part, axis=axis)
        known = steps[np.isfinite(steps)]
        slope = find_median(known) if len(known) else 0.0
        jumps += (np.abs(known - slope) > np.sqrt(2) * step_m).sum()  # a step has two errors
        part -= slope * np.expand_dims(np.arange(part.shape[axis]), 1 - axis)
    level_m = np.sort(part[np.isfinite(part)])
    sizes = np.diff(np.flatnonzero(np.diff(level_m) > step_m) + 1, prepend=0, append=len(level_m))
    return bool(jumps >= MIN_RIM_PIXELS or (sizes >= MIN_RIM_PIXELS).sum() > 1)


@remember_by_pixel
def surface_normal_base(view: View, pixel: npt.ArrayLike) -> tuple[Array, float] | None:
    """Return the unit normal (3,) of the nearest surface at a pixel, into it, and its sigma, rad.

    None if unknown. A plane by RANSAC (fixed seed) over the window's points on this surface,
    refined by least squares over its inliers. Sigma is their spread off the plane over that in it:
    neighbouring errors of a depth image are alike, so that many pixels say little more than one.
    """
    depths_m = surface_depths_m(view, pixel)
    if not len(depths_m):
        return None
    size_px = max(NORMAL_WINDOW_PX, MIN_NORMAL_WINDOW_PX * 640 / view.intrinsics.width_px)
    pixels, depths, _ = depth_window(view, pixel, size_px)
    here = np.abs(depths - depths_m[0]) < SPLIT_M + SPLIT_RATIO * depths_m[0]
    if here.sum() < MIN_NORMAL_POINTS:
        return None
    points = view.backproject(pixels[here], depths[here])
    inliers = points[_plane_inliers(points)]
    _, spread, axes = np.linalg.svd(inliers - inliers.mean(axis=0), full_matrices=False)
    normal_cam = axes[2] * np.sign(axes[2] @ points.mean(axis=0))
    sigma_rad = math.hypot(NORMAL_SIGMA_RAD, math.atan2(spread[2], spread[1]))
    return require_pose(view).rotate(normal_cam), sigma_rad


def _plane_inliers(points: Array) -> npt.NDArray[np.bool_]:
    rng = np.random.default_rng(0)
    one, two, three = points[rng.integers(len(points), size=(3, PLANE_TRIALS))]
    normals = cross(two - one, three - one)
    lengths = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(lengths, 1e-12)[:, None]
    off = np.abs(points @ normals.T - (one * normals).sum(axis=1))
    votes = (off < PLANE_INLIER_RATIO * find_median(points[:, 2])) & (lengths > 1e-9)
    best: npt.NDArray[np.bool_] = votes[:, votes.sum(axis=0).argmax()]
    return best if best.sum() >= 3 else np.ones(len(points), dtype=bool)


@remember_by_pixel
def depth_window(view: View, pixel: npt.ArrayLike, size_px: float) -> tuple[Array, Array, int]:
    """Return the pixels (n, 2) with depth around one, their depths (n,), and the window's size."""
    assert view.depth_m is not None
    half = max(1, round(size_px * view.intrinsics.width_px / 640 - 1) // 2)
    column, row = np.rint(np.asarray(pixel, dtype=np.float64)).astype(int)
    left, top = max(0, column - half), max(0, row - half)
    part = view.depth_m[top:max(0, row + half + 1), left:max(0, column + half + 1)].astype(
        np.float64)
    rows, columns = np.nonzero(np.isfinite(part) & (part > 0))
    return np.stack([columns + left, rows + top], axis=1).astype(np.float64), part[rows, columns], (
        part.size)


def select_best_view(views: Sequence[View | MissingView], point_base_m: Array,
                     max_depth_gap_m: float) -> tuple[View, Array]:
    """Return the view that shows the point (3,) largest, and its pixel (2,) there.

    A view whose depth is nearer than the point by more than `max_depth_gap_m` does not show it.
    Raises `Rejected` (NOT_VISIBLE) with a reason for each view.
    """
    best: tuple[float, View, Array] | None = None
    reasons: list[str] = []
    for view in views:
        if isinstance(view, MissingView):
            reasons.append(f'{view.camera}: {view.rejected.message}')
            continue
        try:
            pixel, range_m = _visible_pixel(view, point_base_m, max_depth_gap_m)
        except Rejected as why:
            reasons.append(f'{view.camera}: {why.message}')
            continue
        if best is None or view.intrinsics.fx_px / range_m > best[0]:
            best = view.intrinsics.fx_px / range_m, view, pixel
    if best is None:
        at = ', '.join(f'{value:.3f}' for value in point_base_m)
        raise Rejected(Code.NOT_VISIBLE, f'no camera sees the point ({at}) m: {"; ".join(reasons)}')
    return best[1:]


def _visible_pixel(view: View, point_base_m: Array, max_depth_gap_m: float) -> tuple[Array, float]:
    """Pixel and depth of a point, m; raise `Rejected` (NOT_VISIBLE) if it is not shown."""
    point_cam_m = require_pose(view).inverse.transform_points(point_base_m)
    pixel, range_m = view.intrinsics.project(point_cam_m), float(point_cam_m[2])
    reason = ''
    if range_m <= 0:
        reason = f'it is {-range_m:.3f} m behind the camera'
    elif not view.intrinsics.contains(pixel):
        reason = f'it would be at ({pixel[0]:.0f}, {pixel[1]:.0f}), off the image'
    elif view.is_masked(pixel):
        reason = "the robot's own body covers it"
    elif view.depth_m is not None:
        column, row = np.clip(np.rint(pixel).astype(int), 0, np.array(view.depth_m.shape[::-1]) - 1)
        surface_m = float(view.depth_m[row, column])
        if range_m - surface_m > max_depth_gap_m:  # False where the depth is not known
            reason = (f'occluded by something {surface_m:.3f} m away, the point is at '
                      f'{range_m:.3f} m (limit {max_depth_gap_m} m)')
    if reason:
        raise Rejected(Code.NOT_VISIBLE, reason)
    return pixel, range_m


def register_depth(depth_m: npt.NDArray[np.float32], depth_lens: Intrinsics, lens: Intrinsics,
                   cam_from_depth: Transform) -> npt.NDArray[np.float32]:
    """Return the depth (h, w) that the camera of `lens` would measure, m, NaN where unknown.

    depth_m: of a camera next to it, of another size and lens. Every pixel is projected as a square
    of its size, and the nearest wins, as in depth_image_proc/register; here with the distortion of
    both lenses.
    """
    left, top, width, height, places = _pinhole_places(lens)
    size_x = SPLAT_MARGIN * lens.fx_px / depth_lens.fx_px
    size_y = SPLAT_MARGIN * lens.fy_px / depth_lens.fy_px
    rays = cam_from_depth.R.astype(np.float32) @ _plane_rays(depth_lens)
    with np.errstate(divide='ignore', invalid='ignore'):
        x, y, z = rays * depth_m.ravel() + cam_from_depth.t_m.astype(np.float32)[:, None]
        x = x / z * np.float32(lens.fx_px) + np.float32(lens.cx_px - left)
        y = y / z * np.float32(lens.fy_px) + np.float32(lens.cy_px - top)
        shown = np.flatnonzero((z > 0) & (x > -size_x) & (x < width + size_x)
                               & (y > -size_y) & (y < height + size_y))
    x, y, z = x[shown], y[shown], z[shown]
    nearest_m = np.full(width * height + 1, np.inf, np.float32)  # the last: no place
    for down in range(math.ceil(size_y)):
        row = np.ceil(y - size_y / 2).astype(np.int64) + down
        for right in range(math.ceil(size_x)):
            column = np.ceil(x - size_x / 2).astype(np.int64) + right
            inside = ((column >= 0) & (column < width) & (column <= x + size_x / 2)
                      & (row >= 0) & (row < height) & (row <= y + size_y / 2))
            _keep_nearest(nearest_m, row[inside] * width + column[inside], z[inside])
    registered_m = nearest_m[places]
    registered_m[np.isinf(registered_m)] = np.nan
    return registered_m


def _keep_nearest(nearest_m: npt.NDArray[np.float32], places: npt.NDArray[np.int64],
                  depths_m: npt.NDArray[np.float32]) -> None:
    """`np.minimum.at`, which takes seconds before NumPy 1.25."""
    nearer = depths_m < nearest_m[places]
    while nearer.any():
        places, depths_m = places[nearer], depths_m[nearer]
        nearest_m[places] = depths_m  # of several for one place, any
        nearer = depths_m < nearest_m[places]


@lru_cache(maxsize=16)
def _plane_rays(lens: Intrinsics) -> npt.NDArray[np.float32]:
    """The rays (3, h * w) of all pixels, with z = 1; NaN where none reaches the pixel."""
    rows, columns = np.mgrid[:lens.height_px, :lens.width_px]
    rays = lens.unproject(np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(np.float64))
    return np.ascontiguousarray((rays / rays[:, 2:]).T, dtype=np.float32)


@lru_cache(maxsize=16)
def _pinhole_places(lens: Intrinsics) -> tuple[int, int, int, int, npt.NDArray[np.int64]]:
    """Left, top, width and height of a pinhole's image that holds what the lens shows.

    And where each pixel (h, w) of the lens is in it, flat; its size for one that is beyond a third
    of a fisheye's image: no depth camera sees that far.
    """
    x, y, _ = _plane_rays(lens)
    columns, rows = np.rint(x * lens.fx_px + lens.cx_px), np.rint(y * lens.fy_px + lens.cy_px)
    near = ((columns >= -lens.width_px) & (columns < 2 * lens.width_px)
            & (rows >= -lens.height_px) & (rows < 2 * lens.height_px))
    left, top = int(columns[near].min()), int(rows[near].min())
    width, height = int(columns[near].max()) - left + 1, int(rows[near].max()) - top + 1
    places = np.where(near, (rows - top) * width + columns - left, width * height)
    return left, top, width, height, places.astype(np.int64).reshape(lens.height_px, lens.width_px)
