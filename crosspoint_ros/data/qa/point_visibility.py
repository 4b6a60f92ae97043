"""Classifies by depth where another view shows the points of a view: visible, occluded, uncertain.

A point counts only where all evidence agrees; every other one has a reason, which is counted.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, View
from crosspoint_ros.core.geometry import require_pose

Indices = npt.NDArray[np.int_]
WINDOW_PX = 3  # radius around a point in which its surface must continue, at 640 px of width
MAX_BEND_M, MAX_BEND_RATIO = 0.008, 0.005  # a surface that bends more within it is an edge
MAX_NOISE_M, MAX_NOISE_RATIO = 0.002, 0.002  # of a pixel against its neighbours
SAME_M, SAME_RATIO = 0.015, 0.01  # between two depths of one surface
OCCLUSION_M, OCCLUSION_RATIO = 0.05, 0.02  # what is nearer by this much occludes the point
MAX_CYCLE_PX = 4.0
MAX_COLOUR_DIFFERENCE = 45.0  # grey levels, between two views of one point
BORDER_PX = 8
MIN_DEPTH_M = 0.05


class Visibility(IntEnum):
    """The class of a point. The first three are answers, the others reasons to skip it."""

    reason: str

    VISIBLE = 0, 'visible'
    OCCLUDED = 1, 'occluded'
    OUTSIDE = 2, 'outside the other view'
    NO_DEPTH = 3, 'no depth at the point'
    DEPTH_EDGE = 4, 'on a depth edge'
    SELF_MASK = 5, "on the robot's own body"
    NO_OTHER_DEPTH = 6, 'no depth in the other view'
    OTHER_DEPTH_EDGE = 7, 'on a depth edge in the other view'
    OTHER_SELF_MASK = 8, "behind the robot's own body in the other view"
    OTHER_BORDER = 9, 'at the border of the other view'
    SEEN_THROUGH = 10, 'the other view sees through it: it moved, or a pose is wrong'
    CYCLE_ERROR = 11, 'forward-backward error'
    COLOUR_MISMATCH = 12, 'another colour in the other view'
    UNCONFIRMED = 13, 'occluded, and no third view confirms that it is there'
    MISALIGNED = 14, 'misaligned with the other image: it moved, or a pose is off'

    def __new__(cls, value: int, reason: str = '') -> Visibility:
        member = int.__new__(cls, value)
        member._value_, member.reason = value, reason
        return member


@dataclass(frozen=True, eq=False)
class ProjectedPoints:
    """Points (n,) of one view in another: class, pixel there (n, 2), depth in both views, m."""

    visibility: npt.NDArray[np.int_]
    pixels: Array
    depth_m: Array
    other_depth_m: Array


@dataclass(frozen=True, eq=False)
class PointDepths:
    """Points (n,) in their own view: depth, m, and whether it is certain (VISIBLE)."""

    depth_m: Array
    visibility: npt.NDArray[np.int_]


def compute_width_scale(intrinsics: Intrinsics) -> float:
    """Return the pixels here for one pixel of an image 640 px wide."""
    return intrinsics.width_px / 640


def make_grid(view: View, step_px: int) -> Array:
    """Return pixels (n, 2) all over a view; step_px: at 640 px of width."""
    intrinsics = view.intrinsics
    step = max(4, step_px * intrinsics.width_px // 640)
    return np.stack(np.meshgrid(np.arange(step // 2, intrinsics.width_px, step),
                                np.arange(step // 2, intrinsics.height_px, step)),
                    axis=-1).reshape(-1, 2).astype(float)


def project_points(clicked: View, other: View, pixels: Array,
                   depths: PointDepths | None = None) -> ProjectedPoints:
    """Project pixels (n, 2) of a view into another; depths: `measure_point_depths`, if known."""
    depths = depths or measure_point_depths(clicked, pixels)
    depth_m, visibility = depths.depth_m, depths.visibility.copy()
    with np.errstate(invalid='ignore'):
        in_other = (require_pose(other).inverse @ require_pose(clicked)).transform_points(
            clicked.backproject(pixels, depth_m))
        ahead = in_other[:, 2] > MIN_DEPTH_M
        projected = other.intrinsics.project(np.where(ahead[:, None], in_other, (0.0, 0.0, 1.0)))
    projected[~ahead] = np.nan
    known = visibility == Visibility.VISIBLE
    if known.any():
        visibility[known] = _classify_in_other(other, projected[known], in_other[known, 2])
    seen = np.flatnonzero(visibility == Visibility.VISIBLE)
    visibility[seen] = _check_cycle(clicked, other, pixels[seen], projected[seen])
    return ProjectedPoints(visibility, projected, depth_m, in_other[:, 2])


def measure_point_depths(view: View, pixels: Array) -> PointDepths:
    """Measure depths at pixels (n, 2) of a view; reject edges, noise and the robot's own body."""
    windows = sample_depth_windows(view, pixels, WINDOW_PX)
    depth_m = _surface_depth_m(windows)
    visibility = np.full(len(pixels), int(Visibility.VISIBLE))
    with np.errstate(invalid='ignore'):
        noise = np.abs(windows[:, windows.shape[1] // 2, windows.shape[2] // 2] - depth_m)
        is_edge = ~_is_smooth(windows) | ~(noise < MAX_NOISE_M + MAX_NOISE_RATIO * depth_m)
    visibility[is_edge] = Visibility.DEPTH_EDGE
    visibility[~np.isfinite(depth_m)] = Visibility.NO_DEPTH
    visibility[_is_self_masked(view, pixels)] = Visibility.SELF_MASK
    return PointDepths(depth_m, visibility)


def _classify_in_other(other: View, pixels: Array, depth_m: Array) -> npt.NDArray[np.int_]:
    """Classify points by their pixels (n, 2) in the other view and their depth (n,) there."""
    intrinsics, border = other.intrinsics, BORDER_PX * compute_width_scale(other.intrinsics)
    windows = sample_depth_windows(other, np.where(np.isfinite(pixels), pixels, 0.0), WINDOW_PX)
    flat = windows.reshape(len(windows), -1)
    known = np.isfinite(flat)
    same = SAME_M + SAME_RATIO * depth_m
    gap = flat - depth_m[:, None]
    centre = _surface_depth_m(windows) - depth_m
    visibility = np.full(len(pixels), int(Visibility.OTHER_DEPTH_EDGE))
    visibility[(np.abs(centre) < same) & _is_smooth(windows)] = Visibility.VISIBLE
    nearer = -(OCCLUSION_M + OCCLUSION_RATIO * depth_m)
    occluded = known.all(axis=1) & (np.where(known, gap, np.inf) < nearer[:, None]).all(axis=1)
    visibility[occluded] = Visibility.OCCLUDED
    farther = np.where(known, gap, -np.inf) > same[:, None]
    visibility[farther.all(axis=1)] = Visibility.SEEN_THROUGH
    visibility[~np.isfinite(centre) & ~occluded] = Visibility.NO_OTHER_DEPTH
    visibility[_is_self_masked(other, pixels)] = Visibility.OTHER_SELF_MASK
    visibility[~is_inside(intrinsics, pixels, -border)] = Visibility.OTHER_BORDER
    visibility[~is_inside(intrinsics, pixels, border)] = Visibility.OUTSIDE
    return visibility


def _check_cycle(clicked: View, other: View, pixels: Array, others: Array
                 ) -> npt.NDArray[np.int_]:
    """Reproject from the other view by its own depth, and compare pixels and colours."""
    visibility = np.full(len(pixels), int(Visibility.VISIBLE))
    if not len(pixels):
        return visibility
    depth_m = _surface_depth_m(sample_depth_windows(other, others, WINDOW_PX))
    reprojected = clicked.intrinsics.project(
        (require_pose(clicked).inverse @ require_pose(other)).transform_points(
            other.backproject(others, depth_m)))
    error_px = np.linalg.norm(reprojected - pixels, axis=1)
    difference = sample_mean_colour(clicked, pixels) - sample_mean_colour(other, others)
    if len(difference) >= 8:  # one camera may be brighter
        difference = difference - np.median(difference, axis=0)
    is_same = np.abs(difference).max(axis=1) < MAX_COLOUR_DIFFERENCE
    visibility[~is_same] = Visibility.COLOUR_MISMATCH
    visibility[~(error_px < MAX_CYCLE_PX * compute_width_scale(clicked.intrinsics))] = \
        Visibility.CYCLE_ERROR
    return visibility


def sample_mean_colour(view: View, pixels: Array) -> Array:
    """Return the mean colour (n, 3) of 5 x 5 px around pixels (n, 2)."""
    rows, columns = _window_indices(view, pixels, 2)
    return np.asarray(view.image[rows, columns].reshape(len(pixels), -1, 3).mean(axis=1))


def sample_depth_windows(view: View, pixels: Array, radius_px: int) -> Array:
    """Return depths (n, k, k) around pixels (n, 2), m, NaN where unknown."""
    assert view.depth_m is not None
    radius = max(1, round(radius_px * compute_width_scale(view.intrinsics)))
    rows, columns = _window_indices(view, pixels, radius)
    return view.depth_m[rows, columns].astype(float)


def sample_depth_m(view: View, pixels: Array) -> Array:
    """Return the depth (n,) at the nearest pixel of the image to each of (n, 2), m."""
    assert view.depth_m is not None
    rows, columns = _window_indices(view, pixels, 0)
    return view.depth_m[rows[:, 0, 0], columns[:, 0, 0]].astype(float)


def _window_indices(view: View, pixels: Array, radius: int) -> tuple[Indices, Indices]:
    intrinsics = view.intrinsics
    column, row = np.rint(np.clip(np.nan_to_num(pixels), -1e6, 1e6)).astype(int).T
    step = np.arange(-radius, radius + 1)
    rows = np.clip(row[:, None] + step, 0, intrinsics.height_px - 1)
    columns = np.clip(column[:, None] + step, 0, intrinsics.width_px - 1)
    return rows[:, :, None], columns[:, None, :]


def _surface_depth_m(windows: Array) -> Array:
    """Return the depth (n,) of a slanted surface: the median over means of opposite pixels.

    windows: (n, k, k). NaN where the centre or more than half of the pairs are unknown.
    """
    middle = windows.shape[1] // 2
    near = windows[:, middle - 1:middle + 2, middle - 1:middle + 2].reshape(-1, 9)
    pairs = (near + near[:, ::-1]) / 2
    number = np.isfinite(pairs).sum(axis=1)
    ordered = np.sort(pairs, axis=1)  # NaN last
    median_m = ordered[np.arange(len(pairs)), np.maximum(number - 1, 0) // 2]
    return np.where((number >= 5) & np.isfinite(pairs[:, 4]), median_m, np.nan)


def _is_smooth(windows: Array) -> npt.NDArray[np.bool_]:
    """Whether one surface fills each window (n, k, k): it may slant, and bend a little."""
    flat = windows.reshape(len(windows), -1)
    depth_m = _surface_depth_m(windows)
    with np.errstate(all='ignore'):
        bend = np.abs((flat + flat[:, ::-1]) / 2 - depth_m[:, None])
    limit = MAX_BEND_M + MAX_BEND_RATIO * depth_m
    known, measured = np.isfinite(bend), np.isfinite(flat)
    span = (np.where(measured, flat, -np.inf).max(axis=1)
            - np.where(measured, flat, np.inf).min(axis=1))
    return np.asarray((known.mean(axis=1) > 0.9) & (span < 4 * limit) & (
        np.where(known, bend, 0.0) < limit[:, None]).all(axis=1))


def is_inside(intrinsics: Intrinsics, pixels: Array, margin_px: float) -> npt.NDArray[np.bool_]:
    """Whether pixels (n, 2) are on the image grown by a margin."""
    limit = np.array([intrinsics.width_px, intrinsics.height_px]) - 0.5 + margin_px
    with np.errstate(invalid='ignore'):
        return np.asarray(((pixels > -0.5 - margin_px) & (pixels < limit)).all(axis=1))


def _is_self_masked(view: View, pixels: Array) -> npt.NDArray[np.bool_]:
    """Whether the robot's own body is within 3 px of pixels (n, 2)."""
    if view.mask is None:
        return np.zeros(len(pixels), bool)
    rows, columns = _window_indices(view, pixels, 3)
    return np.asarray(view.mask[rows, columns].reshape(len(pixels), -1).any(axis=1))
