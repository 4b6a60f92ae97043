"""What is known of two frames before anyone clicks: their motion, their matches, their depths."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Rejected, Transform
from crosspoint_ros.core.depth import surface_depths_m
from crosspoint_ros.core.geometry import refine_pose_pnp
from crosspoint_ros.matchers.xfeat import two_view
from crosspoint_ros.matchers.xfeat.features import FeatureFrame, MultiScaleDescriptors
from crosspoint_ros.matchers.xfeat.matching import (
    CandidateMatches,
    Matches,
    concatenate,
    find_candidates,
    fit_global_linear,
    mutual_matches,
    neighbourhood_consensus,
)
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.two_view import (
    PinholePair,
    PosePrior,
    epipolar_distance,
    fundamental_matrix,
    is_in_front,
    refine_motion,
    triangulate_depths,
)

FIRST_BAND_PX = 6.0
POSED_FIRST_BAND_PX = 10.0
GATE_PX_PER_NOISE = 20.0
MIN_TO_REFINE = 6
# A motion that about 12 matches support may be chance; with 10 more it is half trusted.
CHANCE_SUPPORT, HALF_TRUST = 12.0, 10.0


# `map`, or one that runs on several threads.
Parallel = Callable[..., Iterable[Any]]


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Two frames and the geometry between them.

    motion: other_from_clicked for matching only, its baseline of length one where no poses are
    known; None where the images tell none. min_depth, max_depth: depths in the clicked view, in the motion's
    unit. pose_confidence: 0..1, how far the motion may be relied upon. reprojection_sigma_px: how far off a point of known
    depth may be projected. has_poses: whether poses were given. basis: what it rests on, in words.
    contradiction: why the given poses cannot be right, '' if nothing says so.
    """

    clicked: FeatureFrame
    other: FeatureFrame
    scales: tuple[float, ...]
    matches: Matches
    motion: Transform | None = None
    min_depth: float = 0.0
    max_depth: float = np.inf
    pose_confidence: float = 0.0
    reprojection_sigma_px: float = np.inf
    has_poses: bool = False
    basis: str = 'matches alone'
    contradiction: str = ''

    @cached_property
    def pinholes(self) -> PinholePair:
        """The ideal pinhole matrices of both."""
        return pinhole_pair(self.clicked, self.other)

    @cached_property
    def global_linear(self) -> Array:
        """The linear map (2, 2) that most matches share."""
        return fit_global_linear(self.matches.clicked, self.matches.other)

    @cached_property
    def global_linear_reverse(self) -> Array:
        """The linear map (2, 2) that most matches share, from the other view to the clicked."""
        return fit_global_linear(self.matches.other, self.matches.clicked)

    @cached_property
    def clicked_descriptors(self) -> MultiScaleDescriptors:
        """Dense descriptors of the clicked view."""
        return MultiScaleDescriptors(self.clicked, self.scales)

    @cached_property
    def other_descriptors(self) -> MultiScaleDescriptors:
        """Dense descriptors of the other view."""
        return MultiScaleDescriptors(self.other, self.scales)


def pinhole_pair(clicked: FeatureFrame, other: FeatureFrame) -> PinholePair:
    """Return the ideal pinhole matrices of two frames."""
    return PinholePair(clicked.scaled.ideal_matrix, other.scaled.ideal_matrix)


def pair_from_images(clicked: FeatureFrame, other: FeatureFrame, options: XFeatOptions, parallel: Parallel) -> PairGeometry:
    """Find the motion in the images; without one the mutual matches stand alone."""
    candidates = find_candidates_per_scale(clicked, other, options.scales, options, parallel)
    pair = PairGeometry(clicked, other, options.scales, mutual_matches(candidates, options.min_cosine))
    found = two_view.estimate_relative_pose(pair.matches, pair.pinholes, parallel)
    if found is None:
        return _filter_without_motion(pair, options)
    motion = found.motion
    if options.guided:
        matches = match_guided(candidates, motion, pair.pinholes, FIRST_BAND_PX, options, True)
        ok = is_in_front(motion, pair.pinholes, matches, two_view.NEAREST, two_view.FARTHEST)
        if ok.sum() >= two_view.MIN_MATCHES:
            motion = two_view.refine_unit_baseline(motion, pair.pinholes, matches.select(ok))
    matches = match_guided(candidates, motion, pair.pinholes, options.guided_band_px, options, options.guided)
    near, far = 0.0, np.inf
    z, z_other = triangulate_depths(motion, pair.pinholes, matches)
    ok = (z > 0) & (z_other > 0) & np.isfinite(z)
    if ok.sum() >= two_view.MIN_MATCHES:
        near, far = np.percentile(z[ok], [5, 90]) * (0.4, 2.5)
        ok &= (z > near) & (z < far)
    sure = max(0.0, found.support - CHANCE_SUPPORT)
    return filter_consistent(replace(pair, matches=matches.select(ok), motion=motion, min_depth=near, max_depth=far,
                                     pose_confidence=sure / (sure + HALF_TRUST),
                                     basis=f'images, {ok.sum()} matches'), options)


def pair_from_poses(clicked: FeatureFrame, other: FeatureFrame, given: Transform, options: XFeatOptions,
                    parallel: Parallel) -> PairGeometry:
    """Take the motion from the given poses, and bend it within their noise to fit the matches."""
    candidates = find_candidates_per_scale(clicked, other, options.scales, options, parallel)
    pinholes = pinhole_pair(clicked, other)
    matches = mutual_matches(candidates, options.min_cosine)
    motion, first_band_px = given, max(POSED_FIRST_BAND_PX, GATE_PX_PER_NOISE * max_pose_noise(options))
    if options.refine_pose:
        gate = epipolar_distance(fundamental_matrix(given, pinholes), matches) < first_band_px
        if gate.sum() >= MIN_TO_REFINE:
            motion = refine_motion(given, pinholes, matches.select(gate), noise_prior(options))
            first_band_px = POSED_FIRST_BAND_PX
        matches = match_guided(candidates, motion, pinholes, first_band_px, options, options.posed_guided)
        ok = is_in_front(motion, pinholes, matches, options.posed_near_m, options.posed_far_m)
        if ok.sum() >= MIN_TO_REFINE:
            motion = refine_motion(given, pinholes, matches.select(ok), noise_prior(options))
    matches = match_guided(candidates, motion, pinholes, options.posed_guided_band_px, options,
                           options.posed_guided)
    ok = is_in_front(motion, pinholes, matches, options.posed_near_m, options.posed_far_m)
    pair = PairGeometry(clicked, other, options.scales, matches.select(ok), motion, options.posed_near_m,
                        options.posed_far_m, 1.0, has_poses=True, basis=f'poses, {ok.sum()} matches')
    return filter_consistent(pair, options)


def max_pose_noise(options: XFeatOptions) -> float:
    """The poses' noise as one number: cm or deg, whichever is more."""
    return max(options.pose_noise_cm, options.pose_noise_deg)


def noise_prior(options: XFeatOptions) -> PosePrior:
    """Noise of a given length lies within 1.7 of its sigma per axis."""
    return PosePrior(np.radians(max(options.pose_noise_deg, 0.1)) / 1.7,
                     max(options.pose_noise_cm, 0.1) / 100 / 1.7)


def find_candidates_per_scale(clicked: FeatureFrame, other: FeatureFrame, scales: tuple[float, ...], options: XFeatOptions,
                              parallel: Parallel) -> list[CandidateMatches]:
    """Find the keypoints that look alike, scale by scale."""
    levels = [(clicked.levels[scale], other.levels[scale]) for scale in scales]
    return list(parallel(lambda two: find_candidates(two[0], two[1], options.min_guided_cosine), levels))


def match_guided(candidates: list[CandidateMatches], motion: Transform, pinholes: PinholePair, band_px: float,
                 options: XFeatOptions, again: bool) -> Matches:
    """Keep what lies within a band about its epipolar line: mutual before, or `again` within it."""
    F = fundamental_matrix(motion, pinholes)
    least = options.min_guided_cosine if again else options.min_cosine
    kept = []
    for scale in candidates:
        in_band, alike_enough = scale.near_epipolar_lines(F, band_px), scale.cosine > least
        chosen = scale.mutual(in_band & alike_enough) if again \
            else scale.mutual(alike_enough) & in_band
        kept.append(scale.select(chosen))
    return concatenate(kept)


def _filter_without_motion(pair: PairGeometry, options: XFeatOptions) -> PairGeometry:
    matches = pair.matches
    if len(matches) >= 8:
        _, mask = cv2.findFundamentalMat(matches.clicked_ideal, matches.other_ideal,
                                         cv2.USAC_MAGSAC, 4.0, 0.999, 3000)
        if mask is not None:
            matches = matches.select(mask.ravel() > 0)
    return filter_consistent(replace(pair, matches=matches), options)


def filter_consistent(pair: PairGeometry, options: XFeatOptions) -> PairGeometry:
    """Drop the matches that contradict their neighbours."""
    if not options.consistent_neighbours:
        return pair
    return replace(pair, matches=pair.matches.select(neighbourhood_consensus(pair.matches)))


MAX_REPROJECTION_PX = 10.0
CORRECTED_SIGMA_PX = 3.0


def pair_from_depth(clicked: FeatureFrame, other: FeatureFrame, given: Transform, options: XFeatOptions,
                    parallel: Parallel) -> PairGeometry:
    """Take the motion from the given poses, and correct it by matches whose depth is known.

    A motion that too few matches speak of stays as given, with the noise's slack; one that many
    contradict makes the pair useless.
    """
    candidates = find_candidates_per_scale(clicked, other, options.depth_scales, options, parallel)
    pair = PairGeometry(clicked, other, options.depth_scales, mutual_matches(candidates, options.min_cosine),
                        given, options.posed_near_m, options.posed_far_m, 1.0, has_poses=True)
    if not options.correct_pose:
        return _keep_given_pose(pair, 'not to be corrected', options)
    try:
        pair = _correct_pose(pair, given, options)
        close = [found.select(found.mutual(reprojection_error_px(pair, found) < MAX_REPROJECTION_PX))
                 for found in candidates]
        return filter_consistent(_correct_pose(replace(pair, matches=concatenate(close)), given, options), options)
    except Rejected as rejected:
        if rejected.code == Code.INCONSISTENT:
            return replace(pair, motion=given, contradiction=rejected.message)
        return _keep_given_pose(replace(pair, motion=given), rejected.message, options)


def _keep_given_pose(pair: PairGeometry, reason: str, options: XFeatOptions) -> PairGeometry:
    assert pair.motion is not None
    gate_px = max(POSED_FIRST_BAND_PX, GATE_PX_PER_NOISE * max_pose_noise(options))
    near = epipolar_distance(fundamental_matrix(pair.motion, pair.pinholes), pair.matches) < gate_px
    return filter_consistent(replace(pair, matches=pair.matches.select(near), basis=f'poses as given: '
                                     f'{reason}', reprojection_sigma_px=_noise_px(pair, options)), options)


def _correct_pose(pair: PairGeometry, given: Transform, options: XFeatOptions) -> PairGeometry:
    """Correct the given motion by the pair's matches that have depth, on the side with more.

    Raises `Rejected` if too few of them agree with a motion near the given one.
    """
    noise = max(options.pose_noise_cm, 0.1), max(options.pose_noise_deg, 0.1)
    matches, clicked, other = pair.matches, pair.clicked, pair.other
    points, points_other = backproject(clicked, matches.clicked), backproject(other, matches.other)
    known, known_other = (np.isfinite(p).all(axis=1) for p in (points, points_other))
    if known.sum() >= known_other.sum():
        motion, fits = refine_pose_pnp(
            points[known], other.scaled.to_image(matches.other[known]),
            other.view.intrinsics, given, *noise)
    else:
        back, fits = refine_pose_pnp(
            points_other[known_other], clicked.scaled.to_image(matches.clicked[known_other]),
            clicked.view.intrinsics, given.inverse, *noise)
        motion = back.inverse
    return replace(pair, motion=motion, reprojection_sigma_px=CORRECTED_SIGMA_PX,
                   basis=f'poses corrected by {fits.sum()} matches with depth')


def reprojection_error_px(pair: PairGeometry, candidates: CandidateMatches) -> Array:
    """How far, in px, each lookalike's depth takes it from its partner; NaN without depth."""
    assert pair.motion is not None
    a, b = candidates.clicked_level.pixels, candidates.other_level.pixels
    there = pair.other.scaled.project(pair.motion.transform_points(backproject(pair.clicked, a)))
    back = pair.clicked.scaled.project(pair.motion.inverse.transform_points(backproject(pair.other, b)))
    return np.asarray(np.fmin(np.linalg.norm(there[candidates.clicked] - b[candidates.other], axis=1),
                              np.linalg.norm(back[candidates.other] - a[candidates.clicked], axis=1)))


def _noise_px(pair: PairGeometry, options: XFeatOptions) -> float:
    """How far the poses' noise may move a projected point, px."""
    known_m = np.concatenate([f.view.depth_m.ravel()[::101] for f in (pair.clicked, pair.other)
                              if f.view.depth_m is not None])
    known_m = known_m[np.isfinite(known_m) & (known_m > 0)]
    scene_m = float(np.median(known_m)) if len(known_m) else options.posed_near_m
    turn_rad, shift_m = np.radians(options.pose_noise_deg), options.pose_noise_cm / 100
    off_px = pair.pinholes.other[0, 0] * np.hypot(turn_rad, shift_m / scene_m)
    return max(float(off_px), CORRECTED_SIGMA_PX)


def backproject(frame: FeatureFrame, pixel: Array) -> Array:
    """Lift working pixels (n, 2) to 3D points (n, 3); NaN without depth or at its edges."""
    if frame.view.depth_m is None:
        return np.full((len(pixel), 3), np.nan)
    depth_m = frame.smooth_depth_m
    x, y = _nearest_pixel(frame, pixel)
    return frame.scaled.unproject(pixel) * depth_m[y, x][:, None]


def depth_at(frame: FeatureFrame, pixel: Array) -> float:
    """Depth at a working pixel: its own, else the nearest surface's around it; NaN without any."""
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest_pixel(frame, pixel[None])
    own = float(frame.view.depth_m[y, x])
    if np.isfinite(own) and own > 0:
        return own
    around = surface_depths_m(frame.view, frame.scaled.to_image(pixel))
    return float(around[0]) if len(around) else np.nan


def depth_gap_m(frame: FeatureFrame, pixel: Array, expected_m: float, radius_px: float) -> float:
    """How far the surface around a working pixel lies in front of an expected depth.

    Of all depths within the radius the one that fits best counts, since at an edge both surfaces
    are near. Negative: behind it. NaN without depth.
    """
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest_pixel(frame, pixel[None])
    reach = max(round(radius_px / frame.scaled.scale), 1)
    window = frame.view.depth_m[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
    gaps = expected_m - window[np.isfinite(window) & (window > 0)].astype(np.float64)
    return float(gaps[np.abs(gaps).argmin()]) if len(gaps) else np.nan


def reprojection_distance(other: FeatureFrame, clicked: FeatureFrame, clicked_from_other: Transform,
                          pixel: Array) -> Array:
    """Distance (rows, columns) in working px between the click and where the clicked view would
    show what each place of the other view's score map shows; NaN where it has no depth."""
    grid = other.fine_grid
    points = backproject(other, grid.reshape(-1, 2))
    seen = clicked.scaled.project(clicked_from_other.transform_points(points))
    return np.linalg.norm(seen - pixel, axis=1).reshape(grid.shape[:2])


def _nearest_pixel(frame: FeatureFrame, pixel: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    at = np.round(frame.scaled.to_image(pixel)).astype(int)
    height, width = frame.view.image.shape[:2]
    return at[:, 0].clip(0, width - 1), at[:, 1].clip(0, height - 1)
