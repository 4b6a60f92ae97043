"""Looks for the points of a clicked object in a new view, and verifies them against the click."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.geometry import cross, require_pose
from crosspoint_ros.core.track.motion import TrackedPoints, measure_errors
from crosspoint_ros.core.track.patches import GreyPyramid, align_patches, invert_2x2
from crosspoint_ros.core.track.reference import ReferenceView

MIN_FACING = 0.2  # cosine: a surface seen at a flatter angle is not compared
TANGENT_M = 2e-3
MIN_CORRELATION = 0.7
MAX_SIGMAS = 3.0
MIN_AGREEING = 6
MIN_AGREEING_SHARE = 0.5  # of the points that should be seen
CHANCE_SHARE = 0.2  # fewer agree by chance: a flat thing that was taken away leaves the same depth
HIDING_M = 0.02  # how much nearer, beyond three sigmas of a depth, a surface hides a point


@dataclass(frozen=True, eq=False)
class Observation:
    """The points of an object in one view, as found near a prediction.

    expected: (n,) bool, the points face the camera and are on its image. correlation: (n,) with the
    reference.
    """

    reference: ReferenceView
    points: TrackedPoints
    pyramid: GreyPyramid
    expected: npt.NDArray[np.bool_]
    correlation: Array


@dataclass(frozen=True)
class Verification:
    """How well a view agrees with a motion.

    expected, agreeing, hidden: how many points should be seen, are where they should be with the
    look that they had, and are behind something nearer. target: whether the target's own place is
    'seen', 'hidden', 'gone' (another surface shows there), or 'outside' of the image.
    """

    camera: str
    expected: int
    agreeing: int
    hidden: int
    correlation: float
    target: str

    @property
    def is_verified(self) -> bool:
        """Whether enough points agree, and the target's own place is seen."""
        return self.shows_object and self.target == 'seen'

    @property
    def shows_object(self) -> bool:
        """Whether enough points agree."""
        return self.agreeing >= max(MIN_AGREEING,
                                    MIN_AGREEING_SHARE * (self.expected - self.hidden))

    def __str__(self) -> str:
        least = max(MIN_AGREEING, MIN_AGREEING_SHARE * (self.expected - self.hidden))
        return (f'{self.camera}: {self.agreeing} of {self.expected} points agree (at least '
                f'{least:.0f}), {self.hidden} hidden; the target is {self.target}')


def observe(reference: ReferenceView, view: View, pyramid: GreyPyramid, moved: Transform,
            pose_covariance: Array, scales: tuple[int, ...] = (2, 1), near: Array | None = None
            ) -> Observation:
    """Find the points of a reference in a view, near where a motion puts them, or `near` (n, 2).

    moved: base_from_clicked of the object. pose_covariance: as in `TrackedPoints`.
    """
    now_m = moved.transform_points(reference.points_m)
    predicted = project(view, now_m)
    rays = require_pose(view).t_m - now_m
    facing = (moved.rotate(reference.normals) * rays).sum(axis=1) / np.linalg.norm(rays, axis=1)
    expected = (facing > MIN_FACING) & is_shown(view, predicted)
    start = predicted if near is None else np.where(np.isfinite(near), near, predicted)
    count = len(now_m)
    pixels, correlation = np.full((count, 2), np.nan), np.full(count, np.nan)
    information = np.zeros((count, 2, 2))
    if expected.any():
        patch = _predict_patches(reference, view, moved)[expected]
        aligned = align_patches(reference.pyramid, reference.surface, reference.pixels[expected],
                                pyramid, start[expected], patch, scales)
        pixels[expected], correlation[expected] = aligned.pixels, aligned.correlation
        information[expected] = aligned.information
    looks_alike = correlation > MIN_CORRELATION
    pixels[~looks_alike] = np.nan
    points = TrackedPoints(view, reference.points_m, pixels, information,
                           sample_depth_m(view, np.where(looks_alike[:, None], pixels, predicted)),
                           reference.weights, pose_covariance)
    return Observation(reference, points, pyramid, expected, correlation)


def project(view: View, points_m: Array) -> Array:
    """Project points (n, 3) of the base to pixels (n, 2) of a view."""
    return view.intrinsics.project(require_pose(view).inverse.transform_points(points_m))


def is_shown(view: View, pixels: Array) -> npt.NDArray[np.bool_]:
    """Return which pixels (n, 2) are on the image and not on the robot's own body."""
    lens = view.intrinsics
    size = np.array([lens.width_px, lens.height_px])
    with np.errstate(invalid='ignore'):
        inside = np.asarray((np.isfinite(pixels) & (pixels >= 0) & (pixels <= size - 1)
                             ).all(axis=1), dtype=np.bool_)
    if view.mask is not None:
        columns, rows = np.rint(np.where(inside[:, None], pixels, 0)).astype(int).T
        inside &= ~view.mask[rows, columns]
    return np.asarray(inside)


def sample_depth_m(view: View, pixels: Array) -> Array:
    """Return the median depth (n,) of 3x3 px around pixels (n, 2), m; NaN where unknown."""
    depths = np.full(len(pixels), np.nan)
    inside = is_shown(view, pixels)
    if view.depth_m is None or not inside.any():
        return depths
    height, width = view.depth_m.shape
    columns, rows = np.rint(pixels[inside]).astype(int).T
    steps = np.arange(-1, 2)
    around = view.depth_m[np.clip(rows[:, None, None] + steps[:, None], 0, height - 1),
                          np.clip(columns[:, None, None] + steps, 0, width - 1)]
    around = np.sort(np.where(around > 0, around, np.nan).reshape(len(rows), -1), axis=1)
    middle = np.maximum(np.isfinite(around).sum(axis=1) - 1, 0) // 2  # NaN comes last
    depths[inside] = around[np.arange(len(rows)), middle]
    return depths


def _predict_patches(reference: ReferenceView, view: View, moved: Transform) -> Array:
    """How the surface around each point is seen, to first order: d current / d reference."""
    aside = np.where(np.abs(reference.normals[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    first = cross(reference.normals, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    tangents = np.stack([first, cross(reference.normals, first)], axis=1) * TANGENT_M
    points_m = reference.points_m[:, None]
    slopes = []
    for at, motion in ((view, moved), (reference.view, reference.base_from_clicked)):
        ahead, behind = (project(at, motion.transform_points(points_m + sign * tangents))
                         for sign in (1, -1))
        slopes.append((ahead - behind).transpose(0, 2, 1))  # (n, 2, 2), columns by tangent
    current, before = (np.where(np.isfinite(slope).all(axis=(1, 2), keepdims=True), slope,
                                np.eye(2)) for slope in slopes)
    return np.asarray(current @ invert_2x2(before))


def find_agreeing(observation: Observation, moved: Transform) -> npt.NDArray[np.bool_]:
    """Return which points (n,) are where a motion puts them, with the look that they had."""
    return _select_agreeing(observation, *measure_errors(observation.points, moved))


def _select_agreeing(observation: Observation, pixel_sigmas: Array, depth_sigmas: Array
                     ) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid='ignore'):
        return np.asarray(observation.expected & (pixel_sigmas < MAX_SIGMAS)
                          & ~(np.abs(depth_sigmas) > MAX_SIGMAS)
                          & (observation.correlation > MIN_CORRELATION))


def measure_misfit(observation: Observation, moved: Transform) -> Array:
    """Return the squared sigmas (n,) by which points are off a motion: 9 at most, or if unknown."""
    pixel_sigmas, depth_sigmas = measure_errors(observation.points, moved)
    squared = pixel_sigmas ** 2 + np.where(np.isfinite(depth_sigmas), depth_sigmas, 0.0) ** 2
    return np.where(squared < MAX_SIGMAS ** 2, squared, MAX_SIGMAS ** 2)


def verify(observation: Observation, moved: Transform, target_m: Array) -> Verification:
    """Compare an observation with a motion; target_m: (3,) of the target when it was clicked."""
    points, view = observation.points, observation.points.view
    pixel_sigmas, depth_sigmas = measure_errors(points, moved)
    agrees = _select_agreeing(observation, pixel_sigmas, depth_sigmas)
    depth_error_m = points.depths_m - require_pose(view).inverse.transform_points(
        moved.transform_points(points.points_m))[:, 2]
    with np.errstate(invalid='ignore'):
        nearer = (depth_sigmas < -MAX_SIGMAS) & (depth_error_m < -HIDING_M)
    hidden = observation.expected & nearer & ~agrees
    place = _verify_place(observation, agrees, hidden, moved, target_m)
    return Verification(view.camera, int(observation.expected.sum()), int(agrees.sum()),
                        int(hidden.sum()), float(np.mean(observation.correlation[agrees])
                                                 if agrees.any() else np.nan), place)


def _verify_place(observation: Observation, agrees: npt.NDArray[np.bool_],
                  hidden: npt.NDArray[np.bool_], moved: Transform, target_m: Array) -> str:
    """Say what shows at the target's own place: by depth, else by the points nearest to it."""
    view, now_m = observation.points.view, moved.transform_points(target_m)
    pixel = project(view, now_m[None])
    if not is_shown(view, pixel)[0]:
        return 'outside'
    range_m = float(require_pose(view).inverse.transform_points(now_m)[2])
    depth_m = float(sample_depth_m(view, pixel)[0])
    if np.isfinite(depth_m):
        limit_m = HIDING_M + MAX_SIGMAS * (0.002 + 0.005 * range_m ** 2)
        if depth_m < range_m - limit_m:
            return 'hidden'
        if depth_m > range_m + limit_m:
            return 'gone'
        shown = observation.expected.sum() - hidden.sum()
        if hidden.sum() * 2 < observation.expected.sum() and agrees.sum() > CHANCE_SHARE * shown:
            return 'seen'
    expected = np.flatnonzero(observation.expected)
    if not len(expected):
        return 'outside'
    away_m = np.linalg.norm(observation.points.points_m[expected] - target_m, axis=1)
    nearest = expected[np.argsort(away_m)[:MIN_AGREEING]]
    if agrees[nearest].sum() * 2 >= len(nearest):
        return 'seen'
    # Where no depth is known, an arm in front looks like a place without the object.
    is_known = np.isfinite(observation.points.depths_m[nearest]).sum() * 2 >= len(nearest)
    return 'hidden' if not is_known or hidden[nearest].sum() * 2 >= len(nearest) else 'gone'
