"""Where another view shows the points of this one, by depth: visible, hidden, or not certain.

A point is told of only where all there is agrees; everything else has a reason, and is counted.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, View
from crosspoint_ros.core.geometry import require_pose

Indices = npt.NDArray[np.int_]
WINDOW_PX = 3  # a surface must go on so far around a point, at 640 px of width
MAX_BEND_M, MAX_BEND_RATIO = 0.008, 0.005  # a surface that bends more within it is an edge
MAX_NOISE_M, MAX_NOISE_RATIO = 0.002, 0.002  # a pixel that differs more from those around it is noise
SAME_M, SAME_RATIO = 0.015, 0.01  # two depths of one surface
OCCLUSION_M, OCCLUSION_RATIO = 0.05, 0.02  # what is so much nearer hides it
MAX_CYCLE_PX = 4.0  # there and back again
MAX_COLOUR_DIFFERENCE = 45.0  # grey levels between the colours of one place in two views
BORDER_PX = 8
MIN_DEPTH_M = 0.05


class Visibility(IntEnum):
    """What became of a point. The first three are answers, the others reasons to leave it."""

    VISIBLE = 0
    OCCLUDED = 1
    OUTSIDE = 2
    NO_DEPTH = 3
    DEPTH_EDGE = 4
    SELF_MASK = 5
    NO_OTHER_DEPTH = 6
    OTHER_DEPTH_EDGE = 7
    OTHER_SELF_MASK = 8
    OTHER_BORDER = 9
    SEEN_THROUGH = 10
    CYCLE_ERROR = 11
    COLOUR_MISMATCH = 12
    UNCONFIRMED = 13
    MISALIGNED = 14


REASONS = {
    Visibility.VISIBLE: 'visible', Visibility.OCCLUDED: 'hidden', Visibility.OUTSIDE: 'outside the other view',
    Visibility.NO_DEPTH: 'no depth at the point', Visibility.DEPTH_EDGE: 'on an edge of the depth',
    Visibility.SELF_MASK: "on the robot's own body", Visibility.NO_OTHER_DEPTH: 'no depth in the other view',
    Visibility.OTHER_DEPTH_EDGE: 'on an edge of the depth in the other view',
    Visibility.OTHER_SELF_MASK: "behind the robot's own body in the other view",
    Visibility.OTHER_BORDER: 'at the border of the other view',
    Visibility.SEEN_THROUGH: 'the other view sees through it: it moved, or a pose is wrong',
    Visibility.CYCLE_ERROR: 'the way back ends elsewhere', Visibility.COLOUR_MISMATCH: 'its colour is another one there',
    Visibility.UNCONFIRMED: 'hidden, and no third view confirms that it is there',
    Visibility.MISALIGNED: 'what is there in the image lies beside it: it moved, or a pose is off'}


@dataclass(frozen=True, eq=False)
class ProjectedPoints:
    """Points (n,) of one view in another: fate, pixel there (n, 2), depth here and there, m."""

    visibility: npt.NDArray[np.int_]
    pixels: Array
    depth_m: Array
    other_depth_m: Array


def width_scale(intrinsics: Intrinsics) -> float:
    """How many pixels here are one of an image 640 px wide."""
    return intrinsics.width_px / 640


def backproject_base_m(view: View, pixels: Array, depth_m: Array) -> Array:
    """Points (n, 3) of pixels (n, 2) at depths (n,), base."""
    rays = view.intrinsics.unproject(pixels)
    return require_pose(view).transform_points(rays / rays[..., 2:] * depth_m[:, None])


@dataclass(frozen=True, eq=False)
class PointDepths:
    """What a view itself says of points (n,): their depth, m, and whether that is certain."""

    depth_m: Array
    visibility: npt.NDArray[np.int_]


def project_points(clicked: View, other: View, pixels: Array, depths: PointDepths | None = None) -> ProjectedPoints:
    """Find pixels (n, 2) of a view in another one; `here` is known where others were asked."""
    depths = depths or sample_depths(clicked, pixels)
    depth_m, visibility = depths.depth_m, depths.visibility.copy()
    with np.errstate(invalid='ignore'):
        points = backproject_base_m(clicked, pixels, depth_m)
        in_other = require_pose(other).inverse.transform_points(points)
        ahead = in_other[:, 2] > MIN_DEPTH_M
        there = other.intrinsics.project(np.where(ahead[:, None], in_other, (0.0, 0.0, 1.0)))
    there[~ahead] = np.nan
    known = visibility == Visibility.VISIBLE
    if known.any():
        visibility[known] = _classify_in_other(other, there[known], in_other[known, 2])
    seen = np.flatnonzero(visibility == Visibility.VISIBLE)
    visibility[seen] = _check_cycle(clicked, other, pixels[seen], there[seen])
    return ProjectedPoints(visibility, there, depth_m, in_other[:, 2])


def sample_depths(view: View, pixels: Array) -> PointDepths:
    """Look at pixels (n, 2) in their own view."""
    around = depth_windows(view, pixels, WINDOW_PX)
    centre = _surface_depth_m(around)
    visibility = np.full(len(pixels), int(Visibility.VISIBLE))
    with np.errstate(invalid='ignore'):
        alone = np.abs(around[:, around.shape[1] // 2, around.shape[2] // 2] - centre)
        visibility[~_is_smooth(around) | ~(alone < MAX_NOISE_M + MAX_NOISE_RATIO * centre)] = Visibility.DEPTH_EDGE
    visibility[~np.isfinite(centre)] = Visibility.NO_DEPTH
    visibility[_is_self_masked(view, pixels)] = Visibility.SELF_MASK
    return PointDepths(centre, visibility)


def _classify_in_other(other: View, pixels: Array, depth_m: Array) -> npt.NDArray[np.int_]:
    """The fate of points by their pixels in the other view and their depth along its axis."""
    intrinsics, border = other.intrinsics, BORDER_PX * width_scale(other.intrinsics)
    inside = is_inside(intrinsics, pixels, -border)
    around = depth_windows(other, np.where(np.isfinite(pixels), pixels, 0.0), WINDOW_PX)
    flat = around.reshape(len(around), -1)
    known = np.isfinite(flat)
    same = SAME_M + SAME_RATIO * depth_m
    gap = flat - depth_m[:, None]
    centre = _surface_depth_m(around) - depth_m
    visibility = np.full(len(pixels), int(Visibility.OTHER_DEPTH_EDGE))
    visibility[(np.abs(centre) < same) & _is_smooth(around)] = Visibility.VISIBLE
    before = -(OCCLUSION_M + OCCLUSION_RATIO * depth_m)
    hidden = known.all(axis=1) & (np.where(known, gap, np.inf) < before[:, None]).all(axis=1)
    visibility[hidden] = Visibility.OCCLUDED
    visibility[(np.where(known, gap, -np.inf) > same[:, None]).all(axis=1)] = Visibility.SEEN_THROUGH
    visibility[~np.isfinite(centre) & ~hidden] = Visibility.NO_OTHER_DEPTH
    visibility[_is_self_masked(other, pixels)] = Visibility.OTHER_SELF_MASK
    visibility[~inside] = Visibility.OTHER_BORDER
    visibility[~is_inside(intrinsics, pixels, border)] = Visibility.OUTSIDE
    return visibility


def _check_cycle(clicked: View, other: View, pixels: Array, there: Array) -> npt.NDArray[np.int_]:
    """Go the way back by the other view's own depth, and compare the colours."""
    visibility = np.full(len(pixels), int(Visibility.VISIBLE))
    if not len(pixels):
        return visibility
    depth_m = _surface_depth_m(depth_windows(other, there, WINDOW_PX))
    points = backproject_base_m(other, there, depth_m)
    back = clicked.intrinsics.project(require_pose(clicked).inverse.transform_points(points))
    off = np.linalg.norm(back - pixels, axis=1)
    colours = mean_colour(clicked, pixels) - mean_colour(other, there)
    if len(colours) >= 8:  # one camera may be brighter
        colours = colours - np.median(colours, axis=0)
    visibility[~(np.abs(colours).max(axis=1) < MAX_COLOUR_DIFFERENCE)] = Visibility.COLOUR_MISMATCH
    visibility[~(off < MAX_CYCLE_PX * width_scale(clicked.intrinsics))] = Visibility.CYCLE_ERROR
    return visibility


def mean_colour(view: View, pixels: Array) -> Array:
    """The mean colour (n, 3) of 5 x 5 px around pixels (n, 2)."""
    rows, columns = _window_indices(view, pixels, 2)
    return np.asarray(view.image[rows, columns].reshape(len(pixels), -1, 3).mean(axis=1))


def depth_windows(view: View, pixels: Array, reach_px: int) -> Array:
    """Depths (n, k, k) around pixels (n, 2), m, NaN where they are not known."""
    assert view.depth_m is not None
    reach = max(1, round(reach_px * width_scale(view.intrinsics)))
    rows, columns = _window_indices(view, pixels, reach)
    return view.depth_m[rows, columns].astype(float)


def _window_indices(view: View, pixels: Array, reach: int) -> tuple[Indices, Indices]:
    intrinsics = view.intrinsics
    column, row = np.rint(np.clip(np.nan_to_num(pixels), -1e6, 1e6)).astype(int).T
    step = np.arange(-reach, reach + 1)
    rows = np.clip(row[:, None] + step, 0, intrinsics.height_px - 1)
    columns = np.clip(column[:, None] + step, 0, intrinsics.width_px - 1)
    return rows[:, :, None], columns[:, None, :]


def _surface_depth_m(around: Array) -> Array:
    """The depth in the middle of windows (n, k, k): the median of what opposite pixels say."""
    middle = around.shape[1] // 2
    near = around[:, middle - 1:middle + 2, middle - 1:middle + 2].reshape(-1, 9)
    pairs = (near + near[:, ::-1]) / 2
    centre = pairs[:, 4]
    number = np.isfinite(pairs).sum(axis=1)
    ordered = np.sort(pairs, axis=1)  # what is not known comes last
    middle_m = ordered[np.arange(len(pairs)), np.maximum(number - 1, 0) // 2]
    return np.where((number >= 5) & np.isfinite(centre), middle_m, np.nan)


def _is_smooth(around: Array) -> npt.NDArray[np.bool_]:
    """Tell of windows (n, k, k) whether one surface fills them: it may slant, and bend little."""
    flat = around.reshape(len(around), -1)
    with np.errstate(all='ignore'):
        bend = np.abs((flat + flat[:, ::-1]) / 2 - _surface_depth_m(around)[:, None])
    limit = MAX_BEND_M + MAX_BEND_RATIO * _surface_depth_m(around)
    known = np.isfinite(bend)
    return np.asarray((known.mean(axis=1) > 0.9) & (
        np.where(known, bend, 0.0) < limit[:, None]).all(axis=1) & (
        np.where(np.isfinite(flat), flat, -np.inf).max(axis=1)
        - np.where(np.isfinite(flat), flat, np.inf).min(axis=1)
        < 4 * limit))


def is_inside(intrinsics: Intrinsics, pixels: Array, margin_px: float) -> npt.NDArray[np.bool_]:
    """Tell whether pixels (n, 2) lie on the image grown by a margin."""
    limit = np.array([intrinsics.width_px, intrinsics.height_px]) - 0.5 + margin_px
    with np.errstate(invalid='ignore'):
        return np.asarray(((pixels > -0.5 - margin_px) & (pixels < limit)).all(axis=1))


def _is_self_masked(view: View, pixels: Array) -> npt.NDArray[np.bool_]:
    """Tell whether the robot's own body is at pixels (n, 2), or next to them."""
    if view.mask is None:
        return np.zeros(len(pixels), bool)
    rows, columns = _window_indices(view, pixels, 3)
    return np.asarray(view.mask[rows, columns].reshape(len(pixels), -1).any(axis=1))
