"""Validates a match, measures its consistency with the geometry, and enforces the limits."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from typing import TypeVar

import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    BatchMatcher,
    Code,
    CorrectedPose,
    Match,
    Matcher,
    Query,
    Rejected,
    View,
)
from crosspoint_ros.core.depth import (
    is_on_rim,
    predict_depth_sigma_m,
    remember_by_pixel,
    surface_depths_m,
    surface_normal_base,
    surface_points_m,
)
from crosspoint_ros.core.geometry import (
    MIN_BASELINE_M,
    NEAREST_M,
    distance_to_segment_px,
    epipolar_segment,
    require_pose,
)

log = logging.getLogger(__name__)
Found = TypeVar('Found')
MIN_FACING = -0.1  # cosine; below: the clicked surface faces away, with room for a normal's error
GAP_SIGMAS = 3.0  # beyond it two estimates are of different points
DOUBTED_SHARE = 0.99  # of sure_confidence: the most that an answer with a doubt is given


class Check(IntEnum):
    """Whether a match is consistent with the geometry: the constants of `Correspondence.msg`."""

    UNKNOWN = 0
    PASS = 1
    FAIL = 2


@dataclass(frozen=True)
class Limits:
    """When a match is refused. The only place of these defaults.

    min_confidence, sure_confidence: of a match, 0..1; below the first it is refused.
    max_epipolar_px: from the found pixel to where the other view shows the clicked ray.
    max_depth_gap_m: between the surfaces at the clicked and at the found pixel, and between depth
    and triangulation. Where three sigmas of the poses and of the measured depths are more, these
    are the limit: they grow with range and focal length. min_ray_angle_deg: between rays that are
    triangulated. max_target_sigma_m: of the position of a target, along its worst axis.
    pose_sigma_m, pose_sigma_rad: how exact the extrinsics are, along and about each axis; the
    default is 1 cm / 1 deg in all.
    """

    min_confidence: float = 0.5
    sure_confidence: float = 0.8
    max_epipolar_px: float = 20.0
    max_depth_gap_m: float = 0.05
    min_ray_angle_deg: float = 10.0
    max_target_sigma_m: float = 0.02
    pose_sigma_m: float = 0.006
    pose_sigma_rad: float = 0.01


@dataclass(frozen=True)
class Consistency:
    """The geometric errors of a match, and their limits. NaN: could not be measured.

    doubt: why an answer within the limits is to be checked all the same; '': none.
    """

    check: Check = Check.UNKNOWN
    epipolar_error_px: float = np.nan
    depth_gap_m: float = np.nan
    doubt: str = ''
    epipolar_limit_px: float = np.nan
    depth_gap_limit_m: float = np.nan


def measure_consistency(query: Query, match: Match, limits: Limits) -> Consistency:
    """Measure how well a match agrees with the poses and depths of its two views.

    The epipolar error is the distance of the found pixel from the clicked ray, in px of the other
    view; with depth at the click, from the part of the ray within its error. The
    depth gap is the distance, m, between the nearest surface at the click and the best-fitting
    surface around the found pixel: on an edge a right match may touch the background. Neither can
    be measured without poses and intrinsics, nor the first between cameras at the same place.

    Raises `Rejected` (NOT_VISIBLE) for a match outside the image or on the robot's own body.
    """
    require_in_image(query, match)
    if query.other.is_masked(match.pixel):
        x, y = match.pixel
        raise Rejected(Code.NOT_VISIBLE, f"found at ({x:.1f}, {y:.1f}) on the robot's own body in "
                       f'{query.other.camera} (its mask)')
    measured = Consistency(
        Check.UNKNOWN, _epipolar_error_px(query, match.pixel, limits),
        epipolar_limit_px=_epipolar_limit_px(query, limits), doubt=find_doubt(query, match))
    gap_m = _measure_gap_m(query, match)
    if gap_m is not None:
        measured = replace(measured, depth_gap_m=float(np.linalg.norm(gap_m)),
                           depth_gap_limit_m=_depth_gap_limit_m(query, gap_m, limits))
    agree = [error <= limit for error, limit in (
        (measured.epipolar_error_px, measured.epipolar_limit_px),
        (measured.depth_gap_m, measured.depth_gap_limit_m)) if not np.isnan(error)]
    return replace(measured, check=Check.UNKNOWN if not agree else
                   Check.PASS if all(agree) else Check.FAIL)


def find_doubt(query: Query, match: Match) -> str:
    """Return why a pair of pixels may be of different surfaces; '': nothing found.

    The matcher doubts it, either is on the rim of a surface, or the clicked surface faces away from
    the other camera, which then sees the front of the same object where the point is hidden behind.
    """
    return match.doubt or find_click_doubt(query.clicked, query.pixel) or _find_pair_doubt(
        query.other, match.pixel, query.clicked, *query.pixel.tolist())


@remember_by_pixel
def _find_pair_doubt(other: View, found: Array, clicked: View, *pixel: float) -> str:
    """Return why the surfaces at a click and at a found pixel may be different ones."""
    if other.ray_pose is None:
        return ''
    clicked_m = surface_points_m(clicked, pixel)
    if len(clicked_m) and (measured := surface_normal_base(clicked, pixel)) is not None:
        ray_m = clicked_m[0] - other.ray_pose.t_m
        facing = float(measured[0] @ ray_m / np.linalg.norm(ray_m))
        if facing < MIN_FACING:
            return (f'the clicked surface faces {np.degrees(-np.arcsin(facing)):.0f} deg away '
                    f'from {other.camera}')
    if len(depths_m := surface_depths_m(other, found)):
        # Of the surfaces there, the one nearest to the clicked, or to the camera.
        found_m = surface_points_m(other, found)
        away_m = np.linalg.norm(found_m - (clicked_m if len(clicked_m) else found_m)[0], axis=1)
        if is_on_rim(other, found, depths_m[away_m.argmin()]):
            return f'the found point is on a rim: the depth of {other.camera} jumps there'
    return ''


def gap_limit_m(apart_m: Array, covariance_m2: Array, limits: Limits) -> float:
    """Return the distance, m, up to which two estimates of a point may be of the same one.

    Three sigmas of their difference (3,), whose covariance (3, 3) is given, along it; at least
    `limits.max_depth_gap_m`.
    """
    return max(limits.max_depth_gap_m, sigmas_along_m(apart_m, covariance_m2))


def sigmas_along_m(apart_m: Array, covariance_m2: Array) -> float:
    """Return three sigmas of a difference (3,) along it, m."""
    along = apart_m / max(float(np.linalg.norm(apart_m)), 1e-12)
    return GAP_SIGMAS * float(np.sqrt(along @ covariance_m2 @ along))


def find_click_doubt(clicked: View, pixel: Array) -> str:
    """Return why the depth at the click may be of another surface; '': nothing found."""
    if clicked.ray_pose is not None and len(depths_m := surface_depths_m(clicked, pixel)) \
            and is_on_rim(clicked, pixel, depths_m[0]):
        return f'the click is on a rim: the depth of {clicked.camera} jumps there'
    return ''


def lower_confidence(match: Match, doubt: str, limits: Limits) -> Match:
    """Return a match with a doubt, if any, below `limits.sure_confidence`."""
    if not doubt:
        return match
    return replace(match, basis=f'{match.basis}; {doubt}' if match.basis else doubt,
                   confidence=min(match.confidence, DOUBTED_SHARE * limits.sure_confidence))


def enforce_limits(query: Query, match: Match, consistency: Consistency, limits: Limits) -> None:
    """Raise `Rejected` with the measured value and the limit if the match is beyond one."""
    other = query.other.camera
    if not match.confidence >= limits.min_confidence:
        raise Rejected(Code.LOW_CONFIDENCE, f'confidence {match.confidence:.2f} in {other} '
                       f'(limits.min_confidence {limits.min_confidence:g})'
                       f'{": " if match.basis else ""}{match.basis}')
    error_px, limit_px = consistency.epipolar_error_px, consistency.epipolar_limit_px
    poses = (f'{GAP_SIGMAS:g} sigmas of poses that are {limits.pose_sigma_m:g} m and '
             f'{limits.pose_sigma_rad:g} rad off')
    if error_px > limit_px:
        raise Rejected(Code.INCONSISTENT, f'the found point is {error_px:.1f} px off the clicked '
                       f'ray in {other} (limit {limit_px:.1f} px: limits.max_epipolar_px '
                       f'{limits.max_epipolar_px:g}, or {poses}): a look-alike, or wrong poses')
    gap_m, limit_m = consistency.depth_gap_m, consistency.depth_gap_limit_m
    if gap_m > limit_m:
        raise Rejected(Code.INCONSISTENT, f'the surfaces at the clicked and at the found point in '
                       f'{other} are {gap_m:.3f} m apart (limit {limit_m:.3f} m: '
                       f'limits.max_depth_gap_m {limits.max_depth_gap_m:g}, or {poses}, and of both'
                       ' depths): occluded there, or wrong poses')


def run_matcher(matcher: object, find: Callable[[], object]) -> Match:
    """Call a matcher's function and validate the match that it returns; see `call_matcher`."""
    return validate_match(call_matcher(matcher, find), matcher)


def call_matcher(matcher: object, find: Callable[[], Found]) -> Found:
    """Return what a matcher's function returns.

    Whatever it raises but `Rejected` becomes `Rejected` (MATCHER_FAILED): a matcher's bug must
    neither end the node nor be hidden.
    """
    name = type(matcher).__name__
    try:
        return find()
    except Rejected:
        raise
    except Exception as error:
        log.exception('matcher %s failed', name)
        raise Rejected(Code.MATCHER_FAILED,
                       f'{name} failed: {type(error).__name__}: {error}') from error


def iter_matches(matcher: Matcher, queries: Sequence[Query]) -> Iterator[Match | Rejected]:
    """Yield the validated match of each query, or its refusal; all at once by a `BatchMatcher`.

    What a batch that fails leaves open is matched one by one, from the query at which it failed.
    """
    answers = _iter_batch(matcher, queries) if (
        len(queries) > 1 and isinstance(matcher, BatchMatcher)) else iter(())

    def find(query: Query) -> Match:
        answer = next(answers, None) or matcher.match(query)
        if isinstance(answer, Rejected):
            raise answer
        return answer

    for query in queries:
        try:
            answer: Match | Rejected = run_matcher(matcher, partial(find, query))
        except Rejected as why:
            answer = why
        yield answer


def _iter_batch(matcher: BatchMatcher, queries: Sequence[Query]) -> Iterator[Match | Rejected]:
    """Yield a batch's answers; end where it fails, at its call or halfway."""
    try:
        yield from matcher.match_all(queries)
    except Exception as error:
        log.warning('matcher %s failed on a batch of %d queries: %s', type(matcher).__name__,
                    len(queries), error, exc_info=not isinstance(error, Rejected))


def validate_match(match: object, matcher: object) -> Match:
    """Return a matcher's match with its numbers as arrays of float64.

    Raises `Rejected` (MATCHER_FAILED) unless it is a `Match` with a finite pixel (2,), a confidence
    of 0 to 1, a covariance (2, 2) that is NaN, or symmetric and positive definite, and no corrected
    pose or one with a finite covariance (6, 6).
    """
    name = type(matcher).__name__
    if (not isinstance(match, Match) or not _is_numeric(match.pixel, (2,))
            or not _is_numeric(match.covariance_px2, (2, 2)) or not _is_pose(match.corrected_pose)
            or not _is_numeric(match.confidence, ())):
        raise Rejected(Code.MATCHER_FAILED, f'{name} returned {match!r} (must be a Match with a '
                       'numeric pixel (2,), covariance (2, 2) and confidence)')
    if not np.isfinite(match.pixel).all() or not 0 <= match.confidence <= 1:
        raise Rejected(Code.MATCHER_FAILED, f'{name} returned the pixel {match.pixel} with '
                       f'confidence {match.confidence} (must be finite, and 0 to 1)')
    spread_px2 = np.asarray(match.covariance_px2, dtype=np.float64)
    if np.isfinite(spread_px2).all() and not (
            np.allclose(spread_px2, spread_px2.T) and np.linalg.eigvalsh(spread_px2).min() > 0):
        raise Rejected(Code.MATCHER_FAILED, f'{name} returned the covariance '
                       f'{spread_px2.tolist()} px^2 (must be symmetric and positive definite; NaN: '
                       'unknown)')
    return replace(match, pixel=np.asarray(match.pixel, dtype=np.float64),
                   covariance_px2=spread_px2, confidence=float(match.confidence))


def _is_pose(value: object) -> bool:
    return value is None or (isinstance(value, CorrectedPose) and _is_numeric(
        value.covariance, (6, 6)) and bool(np.isfinite(value.covariance).all()))


def _is_numeric(value: object, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # rows of unequal length; a tensor that lies on a GPU
        return False
    return array.shape == shape and array.dtype.kind in 'fiu'


def require_in_image(query: Query, match: Match) -> None:
    """Raise `Rejected` (NOT_VISIBLE) if a match is outside the other image."""
    other, (x, y) = query.other, match.pixel
    if not other.intrinsics.contains(match.pixel):
        raise Rejected(Code.NOT_VISIBLE, f'found at ({x:.1f}, {y:.1f}), outside the '
                       f'{other.intrinsics.width_px}x{other.intrinsics.height_px} image of '
                       f'{other.camera}')


def _epipolar_error_px(query: Query, found: Array, limits: Limits) -> float:
    clicked, other = query.clicked, query.other
    if clicked.ray_pose is None or other.ray_pose is None:
        return np.nan
    other_from_clicked = other.ray_pose.inverse @ clicked.ray_pose
    if np.linalg.norm(other_from_clicked.t_m) < MIN_BASELINE_M:
        return np.nan
    depths_m = surface_depths_m(clicked, query.pixel)
    nearest_m, farthest_m = NEAREST_M, np.inf
    if len(depths_m):
        room_m = max(limits.max_depth_gap_m, GAP_SIGMAS * predict_depth_sigma_m(depths_m[0]))
        nearest_m, farthest_m = max(NEAREST_M, depths_m[0] - room_m), depths_m[0] + room_m
    segment = epipolar_segment(clicked.intrinsics, other.intrinsics, other_from_clicked,
                               query.pixel, nearest_m, farthest_m)
    return distance_to_segment_px(segment, found)


def _epipolar_limit_px(query: Query, limits: Limits) -> float:
    """Three sigmas of the poses, px of the other view, at least `limits.max_epipolar_px`."""
    lens, points_m = query.other.intrinsics, surface_points_m(query.clicked, query.pixel)
    shift_rad = 0.0
    if len(points_m) and query.other.ray_pose is not None:
        range_m = float(np.linalg.norm(points_m[0] - query.other.ray_pose.t_m))
        shift_rad = limits.pose_sigma_m / max(range_m, NEAREST_M)
    focal_px = np.sqrt(lens.fx_px * lens.fy_px)
    sigma_px = float(focal_px * np.hypot(limits.pose_sigma_rad, shift_rad))
    return max(limits.max_epipolar_px, GAP_SIGMAS * sigma_px)


def _measure_gap_m(query: Query, match: Match) -> Array | None:
    """From the clicked surface to the best-fitting one around the found pixel: (3,), base."""
    clicked_m = surface_points_m(query.clicked, query.pixel)
    found_m = surface_points_m(query.other, match.pixel)
    if not len(clicked_m) or not len(found_m):
        return None
    gaps_m = found_m - clicked_m[0]
    return np.asarray(gaps_m[np.linalg.norm(gaps_m, axis=1).argmin()])


def _depth_gap_limit_m(query: Query, gap_m: Array, limits: Limits) -> float:
    """The limit of a gap (3,) from the clicked surface: `gap_limit_m` of poses and both depths.

    A turned camera moves points across its rays, by more the further they are.
    """
    point_m = surface_points_m(query.clicked, query.pixel)[0]
    covariance_m2 = np.eye(3) * limits.pose_sigma_m ** 2
    for view, at_m in ((query.clicked, point_m), (query.other, point_m + gap_m)):
        pose = require_pose(view)
        ray_m = at_m - pose.t_m
        depth_m = float(ray_m @ pose.R[:, 2])
        covariance_m2 = covariance_m2 \
            + np.outer(ray_m, ray_m) * (predict_depth_sigma_m(depth_m) / depth_m) ** 2
    across_m2 = ray_m @ ray_m * np.eye(3) - np.outer(ray_m, ray_m)
    return gap_limit_m(gap_m, covariance_m2 + across_m2 * limits.pose_sigma_rad ** 2, limits)
