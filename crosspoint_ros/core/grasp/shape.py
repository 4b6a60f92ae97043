"""The box around a clicked thing, and how wide it is between the jaws."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.grasp.approach import YAW_SIGMA_RAD, turn_about
from crosspoint_ros.core.grasp.planes import LEVEL, Points
from crosspoint_ros.core.grasp.segment import Thing

TRIM = 1.0  # percent of the points beyond either end
MAX_SIDEWAYS = 0.5  # of a normal's upward part: a side
CIRCLE_TRIALS, CIRCLE_M, MIN_ON_CIRCLE = 120, 0.003, 0.7  # a side is round: share within 3 mm
MIN_ARC_DEG, MAX_RADIUS_M = 70.0, 0.15
SLICES, MIN_ROUND_SLICES = 3, 2  # by height: a bowl tapers
MIN_SIDE_POINTS, MIN_SQUARE = 60, 0.6  # sides at right angles: resultant of four times their angle
ROUND_RATIO = 0.94  # of its extents: closing is alike from all sides
END_M, BEYOND_M = 0.006, (0.016, 0.026)  # depth of an end; how far beyond it nothing may be
MIN_FACING, MIN_FREE, MIN_KNOWN = 0.3, 0.8, 0.3  # shares of an end's points by which it is seen
EDGE_SIGMA_M = 0.003  # of an edge, for the yaw
TURNS_DEG = np.arange(0.0, 180.0, 3.0)


@dataclass(frozen=True, eq=False)
class Box:
    """A box whose z is up, from the support to the top; size_m: (3,) along its axes."""

    base_from_box: Transform
    size_m: Array


@dataclass(frozen=True, eq=False)
class Closing:
    """How the jaws close: axes (3, 3) with +z the approach, along x; over what width.

    sigma_yaw_rad: of the angle about +z.
    """

    rotation: Array
    width_m: float
    sigma_yaw_rad: float


def fit_box(thing: Thing) -> Box:
    """Fit an upright box around the points, of the least footprint."""
    points = complete(thing)[0]
    turns = np.radians(TURNS_DEG[TURNS_DEG < 90])
    along = np.stack([np.cos(turns), np.sin(turns)])
    spans = [np.percentile(points[:, :2] @ axes, (TRIM, 100 - TRIM), axis=0) for axes in (
        along, np.stack([-along[1], along[0]]))]
    areas = np.prod([high - low for low, high in spans], axis=0)
    best = int(areas.argmin())
    x_base = np.array([*along[:, best], 0.0])
    rotation = np.stack([x_base, np.cross((0.0, 0.0, 1.0), x_base), (0.0, 0.0, 1.0)], axis=1)
    heights = points[:, 2]
    spans.append(np.percentile(heights, (0 if _is_on_level(thing) else TRIM, 100 - TRIM))[:, None])
    low, high = (np.array([spans[0][end][best], spans[1][end][best], spans[2][end][0]])
                 for end in (0, 1))
    return Box(Transform(rotation, rotation @ ((low + high) / 2)), high - low)


def choose_closing(thing: Thing, views: Sequence[View], z_base: Array, aside_base: Array
                   ) -> Closing | None:
    """Choose how the jaws close for an approach along z_base (3,): across the least extent.

    Across the other extent where no view shows both ends of the least, and None where none shows
    those either: what is not seen may be wide. aside_base: (3,) the x of a thing that is alike from
    all sides.
    """
    points, is_round = complete(thing)
    first = turn_about(z_base, aside_base)
    turns = np.radians(TURNS_DEG)
    widths = _measure_widths(points, first, turns)
    is_alike = widths.min() > ROUND_RATIO * widths.max()
    faces = None if is_round else _find_faces(thing, first)
    least = 0.0 if is_alike else float(turns[widths.argmin()]) if faces is None else faces
    both = np.array([least, least + np.pi / 2])
    across = _measure_widths(points, first, both)
    for turn in (0, 1) if is_alike or across[0] <= across[1] else (1, 0):
        x_base = first[:, 0] * np.cos(both[turn]) + first[:, 1] * np.sin(both[turn])
        if (is_round and abs(z_base[2]) > LEVEL) or all(
                _is_end_seen(thing, views, x_base * sign) for sign in (1, -1)):
            sigma_rad = (float(YAW_SIGMA_RAD) if is_alike else
                         float(np.arctan2(2 * EDGE_SIGMA_M, across[1 - turn])))
            return Closing(turn_about(z_base, x_base), float(across[turn]), sigma_rad)
    return None


def _measure_widths(points: Array, axes: Array, turns: Array) -> Array:
    """The extents (n,) of points along the x of axes (3, 3) that are turned about their z, m."""
    ways = axes[:, :1] * np.cos(turns) + axes[:, 1:2] * np.sin(turns)
    low, high = np.percentile(points @ ways, (TRIM, 100 - TRIM), axis=0)
    return np.asarray(high - low)


def _find_faces(thing: Thing, axes: Array) -> float | None:
    """Return by how much the x of axes (3, 3) turns about their z onto the thing's faces, rad.

    None where its sides do not face along two directions at right angles.
    """
    normals = thing.normals_base @ axes
    sides = normals[np.abs(normals[:, 2]) < MAX_SIDEWAYS]
    if len(sides) < MIN_SIDE_POINTS:
        return None
    mean = np.exp(4j * np.arctan2(sides[:, 1], sides[:, 0])).mean()
    return float(np.angle(mean) / 4) if abs(mean) > MIN_SQUARE else None


def complete(thing: Thing) -> tuple[Array, bool]:
    """Return the points (n, 3) with what is known of the unseen: a round side all around.

    And whether it is round. What is on a level support reaches down to it.
    """
    points = thing.points_base_m.astype(np.float64)
    is_side = np.abs(thing.normals_base[:, 2]) < MAX_SIDEWAYS
    sides, rings = points[is_side], []
    for low, high in pairwise(np.linspace(0, 100, SLICES + 1)):
        if not len(sides):
            break
        bottom, top = np.percentile(sides[:, 2], (low, high))
        slab = sides[(sides[:, 2] >= bottom) & (sides[:, 2] <= top)]
        circle = _fit_circle(slab[:, :2])
        if circle is not None:
            rings.append(_draw_ring(*circle, bottom, top))
    is_round = len(rings) >= MIN_ROUND_SLICES
    if is_round:
        points = np.concatenate([points, *rings])
    if _is_on_level(thing):
        assert thing.support is not None
        foot = points[points[:, 2] < np.percentile(points[:, 2], 20)].copy()
        normal = thing.support.normal_base
        foot[:, 2] = (thing.support.offset_m - foot[:, :2] @ normal[:2]) / normal[2]
        points = np.concatenate([points, foot])
    return points, is_round


def _draw_ring(centre: Array, radius_m: float, bottom_m: float, top_m: float) -> Array:
    """Points (n, 3) all around an upright cylinder."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    ring = centre + radius_m * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.column_stack([ring, np.full(len(ring), height)])
                           for height in np.linspace(bottom_m, top_m, 6)])


def _is_on_level(thing: Thing) -> bool:
    return thing.support is not None and float(thing.support.normal_base[2]) > LEVEL


def _fit_circle(places: Array) -> tuple[Array, float] | None:
    """RANSAC: centre (2,) and radius of the circle that most places (n, 2) are on."""
    if len(places) < MIN_SIDE_POINTS:
        return None
    rng = np.random.default_rng(0)
    one, two, three = places[rng.integers(len(places), size=(3, CIRCLE_TRIALS))]
    a, b = two - one, three - one
    twice = 2 * (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    twice[np.abs(twice) < 1e-9] = np.nan
    aa, bb = (a ** 2).sum(axis=1), (b ** 2).sum(axis=1)
    centres = one + np.stack([b[:, 1] * aa - a[:, 1] * bb, a[:, 0] * bb - b[:, 0] * aa],
                             axis=1) / twice[:, None]
    radii = np.linalg.norm(centres - one, axis=1)
    away = np.linalg.norm(places[:, None] - centres, axis=2)
    on = (np.abs(away - radii) < CIRCLE_M) & (radii < MAX_RADIUS_M)
    best = int(on.sum(axis=0).argmax())
    inliers = places[on[:, best]]
    if len(inliers) < MIN_ON_CIRCLE * len(places):
        return None
    x, y = (inliers - centres[best]).T
    angles = np.sort(np.degrees(np.arctan2(y, x)))
    gaps = np.diff(angles, append=angles[0] + 360)
    if 360 - gaps.max() < MIN_ARC_DEG:
        return None
    system = np.column_stack([2 * inliers, np.ones(len(inliers))])
    solved = np.linalg.lstsq(system, (inliers ** 2).sum(axis=1), rcond=None)[0]
    return solved[:2], float(np.sqrt(solved[2] + solved[:2] @ solved[:2]))


def _is_end_seen(thing: Thing, views: Sequence[View], way_base: Array) -> bool:
    """Whether a view shows that the thing ends there: its end, or what is free beyond it."""
    points, normals = thing.points_base_m, thing.normals_base
    reach = points @ way_base
    is_end = reach > np.percentile(reach, 100 - TRIM) - END_M
    if (normals[is_end] @ way_base > 0.3).mean() >= MIN_FACING:
        return True
    on_top = is_end & (normals[:, 2] > 0.8)  # its edge: what is below it is behind the thing
    end = on_top if on_top.sum() >= MIN_FACING * is_end.sum() else is_end
    beyond = np.concatenate([points[end] + away_m * way_base for away_m in BEYOND_M])
    return any(_measure_free(view, beyond) >= MIN_FREE for view in views)


def _measure_free(view: View, points_base_m: Points | npt.NDArray[np.float64]) -> float:
    """The share of points (n, 3) behind which a view sees something else."""
    cam_m = require_pose(view).inverse.transform_points(points_base_m.astype(np.float64))
    pixels = np.rint(view.intrinsics.project(cam_m))
    height, width = view.image.shape[:2]
    inside = (cam_m[:, 2] > 0) & (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    if view.depth_m is None or not inside.any():
        return 0.0
    columns, rows = pixels[inside].astype(int).T
    depths_m = view.depth_m[rows, columns]
    known = np.isfinite(depths_m)  # on an edge many are not
    if known.sum() < MIN_KNOWN * len(inside):
        return 0.0
    return float((depths_m[known] > cam_m[inside, 2][known] + END_M).mean())
