"""Where another view shows the points of this one, by depth: visible, hidden, or not certain.

A point is told of only where all there is agrees; everything else has a reason, and is counted.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, View
from crosspoint_ros.core.geometry import posed

Indices = npt.NDArray[np.int_]
AROUND_PX = 3  # a surface must go on so far around a point, at 640 px of width
BENT_M, BENT_RATIO = 0.008, 0.005  # a surface that bends more within it is an edge
ALONE_M, ALONE_RATIO = 0.002, 0.002  # a pixel that differs more from those around it is noise
SAME_M, SAME_RATIO = 0.015, 0.01  # two depths of one surface
BEFORE_M, BEFORE_RATIO = 0.05, 0.02  # what is so much nearer hides it
MAX_CYCLE_PX = 4.0  # there and back again
MAX_COLOUR = 45.0  # grey levels between the colours of one place in two views
BORDER_PX = 8
MAX_NEAREST_M = 0.05


class Fate(IntEnum):
    """What became of a point. The first three are answers, the others reasons to leave it."""

    VISIBLE = 0
    HIDDEN = 1
    OUTSIDE = 2
    NO_DEPTH = 3
    DEPTH_EDGE = 4
    OWN_BODY = 5
    NO_DEPTH_THERE = 6
    EDGE_THERE = 7
    OWN_BODY_THERE = 8
    BORDER_THERE = 9
    SEEN_THROUGH = 10
    CYCLE = 11
    COLOUR = 12
    UNCONFIRMED = 13
    SHIFTED = 14


WORDS = {
    Fate.VISIBLE: 'visible', Fate.HIDDEN: 'hidden', Fate.OUTSIDE: 'outside the other view',
    Fate.NO_DEPTH: 'no depth at the point', Fate.DEPTH_EDGE: 'on an edge of the depth',
    Fate.OWN_BODY: "on the robot's own body", Fate.NO_DEPTH_THERE: 'no depth in the other view',
    Fate.EDGE_THERE: 'on an edge of the depth in the other view',
    Fate.OWN_BODY_THERE: "behind the robot's own body in the other view",
    Fate.BORDER_THERE: 'at the border of the other view',
    Fate.SEEN_THROUGH: 'the other view sees through it: it moved, or a pose is wrong',
    Fate.CYCLE: 'the way back ends elsewhere', Fate.COLOUR: 'its colour is another one there',
    Fate.UNCONFIRMED: 'hidden, and no third view confirms that it is there',
    Fate.SHIFTED: 'what is there in the image lies beside it: it moved, or a pose is off'}


@dataclass(frozen=True, eq=False)
class Placed:
    """Points (n,) of one view in another: fate, pixel there (n, 2), depth here and there, m."""

    fate: npt.NDArray[np.int_]
    pixel: Array
    depth_m: Array
    depth_there_m: Array


def width_scale(lens: Intrinsics) -> float:
    """How many pixels here are one of an image 640 px wide."""
    return lens.width_px / 640


def points_base_m(view: View, pixels: Array, depth_m: Array) -> Array:
    """Points (n, 3) of pixels (n, 2) at depths (n,), base."""
    rays = view.intrinsics.unproject(pixels)
    return posed(view).point(rays / rays[..., 2:] * depth_m[:, None])


@dataclass(frozen=True, eq=False)
class Here:
    """What a view itself says of points (n,): their depth, m, and whether that is certain."""

    depth_m: Array
    fate: npt.NDArray[np.int_]


def place(clicked: View, other: View, pixels: Array, here: Here | None = None) -> Placed:
    """Find pixels (n, 2) of a view in another one; `here` is known where others were asked."""
    here = here or here_of(clicked, pixels)
    depth_m, fate = here.depth_m, here.fate.copy()
    with np.errstate(invalid='ignore'):
        points = points_base_m(clicked, pixels, depth_m)
        in_other = posed(other).inverse.point(points)
        ahead = in_other[:, 2] > MAX_NEAREST_M
        there = other.intrinsics.project(np.where(ahead[:, None], in_other, (0.0, 0.0, 1.0)))
    there[~ahead] = np.nan
    known = fate == Fate.VISIBLE
    if known.any():
        fate[known] = _there(other, there[known], in_other[known, 2])
    seen = np.flatnonzero(fate == Fate.VISIBLE)
    fate[seen] = _back(clicked, other, pixels[seen], there[seen])
    return Placed(fate, there, depth_m, in_other[:, 2])


def here_of(view: View, pixels: Array) -> Here:
    """Look at pixels (n, 2) in their own view."""
    around = depths_around(view, pixels, AROUND_PX)
    centre = _surface_m(around)
    fate = np.full(len(pixels), int(Fate.VISIBLE))
    with np.errstate(invalid='ignore'):
        alone = np.abs(around[:, around.shape[1] // 2, around.shape[2] // 2] - centre)
        fate[~_smooth(around) | ~(alone < ALONE_M + ALONE_RATIO * centre)] = Fate.DEPTH_EDGE
    fate[~np.isfinite(centre)] = Fate.NO_DEPTH
    fate[_covered(view, pixels)] = Fate.OWN_BODY
    return Here(centre, fate)


def _there(other: View, pixels: Array, depth_m: Array) -> npt.NDArray[np.int_]:
    """The fate of points by their pixels in the other view and their depth along its axis."""
    lens, border = other.intrinsics, BORDER_PX * width_scale(other.intrinsics)
    inside = within(lens, pixels, -border)
    around = depths_around(other, np.where(np.isfinite(pixels), pixels, 0.0), AROUND_PX)
    flat = around.reshape(len(around), -1)
    known = np.isfinite(flat)
    same = SAME_M + SAME_RATIO * depth_m
    gap = flat - depth_m[:, None]
    centre = _surface_m(around) - depth_m
    fate = np.full(len(pixels), int(Fate.EDGE_THERE))
    fate[(np.abs(centre) < same) & _smooth(around)] = Fate.VISIBLE
    before = -(BEFORE_M + BEFORE_RATIO * depth_m)
    hidden = known.all(axis=1) & (np.where(known, gap, np.inf) < before[:, None]).all(axis=1)
    fate[hidden] = Fate.HIDDEN
    fate[(np.where(known, gap, -np.inf) > same[:, None]).all(axis=1)] = Fate.SEEN_THROUGH
    fate[~np.isfinite(centre) & ~hidden] = Fate.NO_DEPTH_THERE
    fate[_covered(other, pixels)] = Fate.OWN_BODY_THERE
    fate[~inside] = Fate.BORDER_THERE
    fate[~within(lens, pixels, border)] = Fate.OUTSIDE
    return fate


def _back(clicked: View, other: View, pixels: Array, there: Array) -> npt.NDArray[np.int_]:
    """Go the way back by the other view's own depth, and compare the colours."""
    fate = np.full(len(pixels), int(Fate.VISIBLE))
    if not len(pixels):
        return fate
    depth_m = _surface_m(depths_around(other, there, AROUND_PX))
    points = points_base_m(other, there, depth_m)
    back = clicked.intrinsics.project(posed(clicked).inverse.point(points))
    off = np.linalg.norm(back - pixels, axis=1)
    colours = colour_at(clicked, pixels) - colour_at(other, there)
    if len(colours) >= 8:  # one camera may be brighter
        colours = colours - np.median(colours, axis=0)
    fate[~(np.abs(colours).max(axis=1) < MAX_COLOUR)] = Fate.COLOUR
    fate[~(off < MAX_CYCLE_PX * width_scale(clicked.intrinsics))] = Fate.CYCLE
    return fate


def colour_at(view: View, pixels: Array) -> Array:
    """The mean colour (n, 3) of 5 x 5 px around pixels (n, 2)."""
    rows, columns = _windows(view, pixels, 2)
    return np.asarray(view.image[rows, columns].reshape(len(pixels), -1, 3).mean(axis=1))


def depths_around(view: View, pixels: Array, reach_px: int) -> Array:
    """Depths (n, k, k) around pixels (n, 2), m, NaN where they are not known."""
    assert view.depth_m is not None
    reach = max(1, round(reach_px * width_scale(view.intrinsics)))
    rows, columns = _windows(view, pixels, reach)
    return view.depth_m[rows, columns].astype(float)


def _windows(view: View, pixels: Array, reach: int) -> tuple[Indices, Indices]:
    lens = view.intrinsics
    column, row = np.rint(np.clip(np.nan_to_num(pixels), -1e6, 1e6)).astype(int).T
    step = np.arange(-reach, reach + 1)
    rows = np.clip(row[:, None] + step, 0, lens.height_px - 1)
    columns = np.clip(column[:, None] + step, 0, lens.width_px - 1)
    return rows[:, :, None], columns[:, None, :]


def _surface_m(around: Array) -> Array:
    """The depth in the middle of windows (n, k, k): the median of what opposite pixels say."""
    middle = around.shape[1] // 2
    near = around[:, middle - 1:middle + 2, middle - 1:middle + 2].reshape(-1, 9)
    pairs = (near + near[:, ::-1]) / 2
    centre = pairs[:, 4]
    number = np.isfinite(pairs).sum(axis=1)
    ordered = np.sort(pairs, axis=1)  # what is not known comes last
    middle_m = ordered[np.arange(len(pairs)), np.maximum(number - 1, 0) // 2]
    return np.where((number >= 5) & np.isfinite(centre), middle_m, np.nan)


def _smooth(around: Array) -> npt.NDArray[np.bool_]:
    """Tell of windows (n, k, k) whether one surface fills them: it may slant, and bend little."""
    flat = around.reshape(len(around), -1)
    with np.errstate(all='ignore'):
        bend = np.abs((flat + flat[:, ::-1]) / 2 - _surface_m(around)[:, None])
    limit = BENT_M + BENT_RATIO * _surface_m(around)
    known = np.isfinite(bend)
    return np.asarray((known.mean(axis=1) > 0.9) & (
        np.where(known, bend, 0.0) < limit[:, None]).all(axis=1) & (
        np.where(np.isfinite(flat), flat, -np.inf).max(axis=1)
        - np.where(np.isfinite(flat), flat, np.inf).min(axis=1)
        < 4 * limit))


def within(lens: Intrinsics, pixels: Array, margin_px: float) -> npt.NDArray[np.bool_]:
    """Tell whether pixels (n, 2) lie on the image grown by a margin."""
    limit = np.array([lens.width_px, lens.height_px]) - 0.5 + margin_px
    with np.errstate(invalid='ignore'):
        return np.asarray(((pixels > -0.5 - margin_px) & (pixels < limit)).all(axis=1))


def _covered(view: View, pixels: Array) -> npt.NDArray[np.bool_]:
    """Tell whether the robot's own body is at pixels (n, 2), or next to them."""
    if view.mask is None:
        return np.zeros(len(pixels), bool)
    rows, columns = _windows(view, pixels, 3)
    return np.asarray(view.mask[rows, columns].reshape(len(pixels), -1).any(axis=1))
