"""The geometry of two frames before a click: relative pose, matches and depths."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, CorrectedPose, Rejected, Transform
from crosspoint_ros.core.depth import SPLIT_M, SPLIT_RATIO, predict_depth_sigma_m, surface_depths_m
from crosspoint_ros.core.geometry import PNP_SURE_POINTS, exceeds_prior, refine_pose_pnp
from crosspoint_ros.core.verify import GAP_SIGMAS
from crosspoint_ros.matchers.xfeat import matching, two_view
from crosspoint_ros.matchers.xfeat.depth_alignment import Alignment, MatchedPoints, align_depths
from crosspoint_ros.matchers.xfeat.features import ConcatenatedDescriptors, FeatureFrame
from crosspoint_ros.matchers.xfeat.matching import CandidateMatches, Matches
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.two_view import PinholePair, PosePrior, fundamental_matrix

FIRST_BAND_PX = 6.0
POSED_FIRST_BAND_PX = 10.0
GATE_PX_PER_NOISE = 20.0
MIN_TO_REFINE = 6
DEPTH_PERCENTILES, DEPTH_ROOM = (5, 90), (0.4, 2.5)  # of matches: the depths that others may have
# A motion supported by about 12 matches may be chance; 10 more make its confidence 0.5.
CHANCE_SUPPORT, HALF_CONFIDENCE_SUPPORT = 12.0, 10.0
MAX_REPROJECTION_PX = 10.0
CORRECTED_SIGMA_PX = 3.0
FREE_SIGMAS = 5.0  # of a prior that holds nothing back
AROUND_PX = np.array([(x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])
MIN_COMPARED = 5
AGREEMENT_PX = 4.0 * np.array([(x, y) for y in range(-3, 4) for x in range(-3, 4)])

DescriptorPair = tuple[ConcatenatedDescriptors, ConcatenatedDescriptors]
Parallel = Callable[..., Iterable[Any]]  # `map`, or one that uses several threads


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Two frames and the geometry between them.

    motion: other_from_clicked, with a unit baseline where no poses are known; None where the images
    give none. motion_covariance: (6, 6) as in `CorrectedPose` of given poses that were corrected,
    else None. min_depth, max_depth: in the clicked view, in the motion's
    unit. pose_confidence: 0..1, of the motion. reprojection_sigma_px: of a point of known depth.
    has_poses: whether poses were given. basis: what it is based on, for messages. contradiction:
    why the given poses must be wrong, or ''. is_confirmed: whether the depths of both frames agree
    with the motion. depth_noise_ratio: what they differ by then, in sigmas of the sensors.
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
    guided: Matches | None = None
    motion_covariance: Array | None = None
    is_confirmed: bool = False
    depth_noise_ratio: float = 1.0

    @property
    def corrected_pose(self) -> CorrectedPose | None:
        """The given poses, corrected; None without any, or where nothing could correct them."""
        if self.motion is None or self.motion_covariance is None:
            return None
        return CorrectedPose(self.motion, self.motion_covariance)

    @cached_property
    def pinholes(self) -> PinholePair:
        return PinholePair(self.clicked.scaled.ideal_matrix, self.other.scaled.ideal_matrix)

    @property
    def keypoints(self) -> tuple[Array, Array]:
        """Keypoints (n, 2) of the clicked and (m, 2) of the other view, at the scale nearest 1."""
        scale = min(self.scales, key=lambda scale: abs(np.log(scale)))
        return self.clicked.levels[scale].pixels, self.other.levels[scale].pixels

    @cached_property
    def partners(self) -> tuple[Array, Array]:
        """Pixels in the opposite view that the `keypoints` are matched to, NaN where to none."""
        (clicked, other), found = self.keypoints, self.guided or self.matches
        return (matching.find_partners(clicked, found.clicked, found.other),
                matching.find_partners(other, found.other, found.clicked))

    @cached_property
    def global_linear(self) -> Array:
        """The linear map (2, 2) of the matches."""
        return matching.fit_global_linear(self.matches.clicked, self.matches.other)

    @cached_property
    def global_linear_reverse(self) -> Array:
        """The linear map (2, 2) of the matches, from the other view to the clicked."""
        return matching.fit_global_linear(self.matches.other, self.matches.clicked)

    def measure_angle_deg(self, pixel: Array, found: Array) -> float:
        """Return the angle between the rays of two scaled pixels; NaN without a motion."""
        if self.motion is None:
            return np.nan
        ray, ray_other = (v / np.linalg.norm(v) for v in (
            self.motion.R @ self.clicked.scaled.unproject(pixel),
            self.other.scaled.unproject(found)))
        return float(np.degrees(np.arccos(np.clip(ray @ ray_other, -1, 1))))

    @cached_property
    def descriptors(self) -> DescriptorPair:
        """Of the network that also matches, at all scales: of the clicked frame and the other."""
        clicked, other = (ConcatenatedDescriptors(frame, [
            frame.levels[scale].dense for scale in self.scales])
            for frame in (self.clicked, self.other))
        return clicked, other

    @cached_property
    def second_descriptors(self) -> DescriptorPair:
        """Of the second network: of the clicked frame and the other."""
        clicked, other = (ConcatenatedDescriptors(frame, [frame.second] if frame.second else [])
                          for frame in (self.clicked, self.other))
        return clicked, other


def pair_from_images(clicked: FeatureFrame, other: FeatureFrame, options: XFeatOptions,
                     parallel: Parallel) -> PairGeometry:
    """Estimate the motion from the images; without one keep the mutual matches."""
    candidates = _find_candidates(clicked, other, options.scales, options, parallel)
    pair = PairGeometry(clicked, other, options.scales,
                        matching.mutual_matches(candidates, options.min_cosine))
    pinholes = pair.pinholes
    found = two_view.estimate_relative_pose(pair.matches, pinholes, parallel)
    if found is None:
        return _filter_without_motion(pair, options)
    motion = found.motion
    if options.guided:
        matches = match_guided(candidates, motion, pinholes, FIRST_BAND_PX, options, True)
        ok = two_view.is_in_front(motion, pinholes, matches, two_view.NEAREST, two_view.FARTHEST)
        if ok.sum() >= two_view.MIN_MATCHES:
            motion = two_view.refine_unit_baseline(motion, pinholes, matches.select(ok))
    matches = match_guided(candidates, motion, pinholes, options.guided_band_px, options,
                           options.guided)
    near, far = 0.0, np.inf
    z, z_other = two_view.triangulate_depths(motion, pinholes, matches)
    ok = (z > 0) & (z_other > 0) & np.isfinite(z)
    if ok.sum() >= two_view.MIN_MATCHES:
        near, far = np.percentile(z[ok], DEPTH_PERCENTILES) * DEPTH_ROOM
        ok &= (z > near) & (z < far)
    support = max(0.0, found.support - CHANCE_SUPPORT)
    return _filter_consistent(replace(
        pair, matches=matches.select(ok), motion=motion, min_depth=near, max_depth=far,
        pose_confidence=support / (support + HALF_CONFIDENCE_SUPPORT),
        basis=f'images, {ok.sum()} matches'), options)


def pair_from_poses(clicked: FeatureFrame, other: FeatureFrame, given: Transform,
                    options: XFeatOptions, parallel: Parallel) -> PairGeometry:
    """Refine the given poses by the matches, within their noise."""
    candidates = _find_candidates(clicked, other, options.scales, options, parallel)
    pair = PairGeometry(clicked, other, options.scales,
                        matching.mutual_matches(candidates, options.min_cosine), given,
                        options.posed_near_m, options.posed_far_m, 1.0, has_poses=True)
    pinholes, depth_range_m = pair.pinholes, (options.posed_near_m, options.posed_far_m)
    motion, covariance, first_band_px = given, None, _noise_gate_px(options)
    if options.refine_pose:
        F = fundamental_matrix(given, pinholes)
        gate = two_view.epipolar_distance(F, pair.matches) < first_band_px
        if gate.sum() >= MIN_TO_REFINE:
            motion = two_view.refine_motion(given, pinholes, pair.matches.select(gate),
                                            noise_prior(options))
            first_band_px = POSED_FIRST_BAND_PX
        matches = match_guided(candidates, motion, pinholes, first_band_px, options,
                               options.posed_guided)
        ok = two_view.is_in_front(motion, pinholes, matches, *depth_range_m)
        if ok.sum() >= MIN_TO_REFINE:
            prior, matches = noise_prior(options), matches.select(ok)
            motion = two_view.refine_motion(given, pinholes, matches, prior)
            covariance = two_view.motion_covariance(motion, pinholes, matches, prior)
    matches = match_guided(candidates, motion, pinholes, options.posed_guided_band_px, options,
                           options.posed_guided)
    ok = two_view.is_in_front(motion, pinholes, matches, *depth_range_m)
    pair = _filter_consistent(replace(
        pair, matches=matches.select(ok), motion=motion, motion_covariance=covariance,
        basis=f'poses, {ok.sum()} matches'), options)
    return replace(pair, guided=_match_where_plausible(candidates, pair, motion, options, parallel))


def pair_from_depth(clicked: FeatureFrame, other: FeatureFrame, given: Transform,
                    options: XFeatOptions, parallel: Parallel) -> PairGeometry:
    """Correct the given poses by matches with depth.

    Poses that too few matches can correct are kept, with a reprojection error of their noise; poses
    that many contradict make the pair unusable.
    """
    candidates = _find_candidates(clicked, other, options.depth_scales, options, parallel)
    pair = PairGeometry(clicked, other, options.depth_scales,
                        matching.mutual_matches(candidates, options.min_cosine), given,
                        options.posed_near_m, options.posed_far_m, 1.0, has_poses=True)
    if not options.correct_pose:
        return _keep_given_pose(pair, 'not to be corrected', options)
    try:
        corrected = _match_reprojected(_correct_pose(pair, given, options), candidates)
        corrected = _filter_consistent(_correct_pose(corrected, given, options), options)
        return _align_depths(corrected, given, corrected.matches, options)
    except Rejected as rejected:
        if rejected.code == Code.INCONSISTENT:
            return replace(pair, contradiction=rejected.message)
        kept = _keep_given_pose(pair, rejected.message, options)
    aligned = _align_depths(kept, given, kept.matches.select(np.arange(0)), options)
    if not aligned.is_confirmed:
        return aligned
    aligned = _filter_consistent(_match_reprojected(aligned, candidates), options)
    return _align_depths(aligned, given, aligned.matches, options)


def _match_reprojected(pair: PairGeometry, candidates: list[CandidateMatches]) -> PairGeometry:
    """Match again those whose depth reprojects one near the other."""
    return replace(pair, matches=matching.concatenate([scale.select(scale.mutual(
        reprojection_error_px(pair, scale) < MAX_REPROJECTION_PX)) for scale in candidates]))


def _align_depths(pair: PairGeometry, given: Transform, matches: Matches, options: XFeatOptions
                  ) -> PairGeometry:
    """Correct the poses by the depths of both views too, where these agree then."""
    assert pair.motion is not None
    if not (pair.clicked.has_depth and pair.other.has_depth):
        return pair
    prior = noise_prior(options)
    points, points_other = (backproject(frame, pixels) for frame, pixels in (
        (pair.clicked, matches.clicked), (pair.other, matches.other)))
    known = np.isfinite(points).all(axis=1)
    reverse = np.isfinite(points_other).all(axis=1) & ~known
    points_by_side = (MatchedPoints(points[known], matches.other_ideal[known]),
                      MatchedPoints(points_other[reverse], matches.clicked_ideal[reverse]))
    found = align_depths(pair.clicked, pair.other, given, pair.motion, prior, *points_by_side)
    if found.is_contradicted:
        return replace(pair, contradiction='with the poses as given or near them, '
                       f'{found.seen_through} places of one depth are in front of the other and '
                       f'{found.agreeing} on it')
    if not found.is_confirmed:
        return pair
    free = found
    if len(matches) < PNP_SURE_POINTS:  # too few to overrule the prior
        wide = PosePrior(FREE_SIGMAS * prior.rotation_rad, FREE_SIGMAS * prior.translation)
        free = align_depths(pair.clicked, pair.other, given, found.motion, wide, *points_by_side)
    off = exceeds_prior(free.motion @ given.inverse, *_noise(options), free.covariance)
    if off:
        return replace(pair, contradiction=f'{found.agreeing} places of both depths agree that '
                       f'{off}')
    return replace(pair, motion=found.motion, motion_covariance=found.covariance,
                   reprojection_sigma_px=max(CORRECTED_SIGMA_PX, _spread_px(pair, found)),
                   is_confirmed=True, depth_noise_ratio=found.noise_ratio,
                   basis=f'poses corrected by {len(matches)} matches with depth and '
                         f'{found.agreeing} places of both depths')


def _spread_px(pair: PairGeometry, found: Alignment) -> float:
    """The reprojection error that the covariance of a corrected pose leaves, px."""
    point_m = np.array([0.0, 0.0, _scene_depth_m(pair)])
    slope = np.concatenate([np.cross(np.eye(3), point_m).T, np.eye(3)], axis=1)[:2]
    worst_m2 = np.linalg.eigvalsh(slope @ found.covariance @ slope.T)[-1]
    return float(pair.pinholes.other[0, 0] * np.sqrt(worst_m2) / point_m[2])


def _noise(options: XFeatOptions) -> tuple[float, float]:
    """The poses' noise, cm and deg; none is without any."""
    return max(options.pose_noise_cm, 0.1), max(options.pose_noise_deg, 0.1)


def _noise_gate_px(options: XFeatOptions) -> float:
    """Distance from the epipolar lines of the given poses within which a match may be right."""
    noise = max(options.pose_noise_cm, options.pose_noise_deg)
    return max(POSED_FIRST_BAND_PX, GATE_PX_PER_NOISE * noise)


def noise_prior(options: XFeatOptions) -> PosePrior:
    """Return the prior of the poses' noise: its length is within 1.7 of its sigma per axis."""
    return PosePrior(np.radians(max(options.pose_noise_deg, 0.1)) / 1.7,
                     max(options.pose_noise_cm, 0.1) / 100 / 1.7)


def _match_where_plausible(candidates: list[CandidateMatches], pair: PairGeometry,
                           motion: Transform, options: XFeatOptions, parallel: Parallel
                           ) -> Matches:
    """Match again, within the band of the motion and the depths of the pair's matches."""
    pinholes = pair.pinholes
    near, far = options.posed_near_m, options.posed_far_m
    if len(pair.matches) >= two_view.MIN_MATCHES:
        depths_m, _ = two_view.triangulate_depths(motion, pinholes, pair.matches)
        near, far = np.percentile(depths_m, DEPTH_PERCENTILES) * DEPTH_ROOM
    found = matching.concatenate(list(parallel(lambda scale: match_guided(
        [scale], motion, pinholes, options.posed_guided_band_px, options, True), candidates)))
    found = found.select(two_view.is_in_front(motion, pinholes, found, near, far))
    return found.select(matching.neighbourhood_consensus(found))


def _find_candidates(clicked: FeatureFrame, other: FeatureFrame, scales: tuple[float, ...],
                     options: XFeatOptions, parallel: Parallel) -> list[CandidateMatches]:
    levels = [(clicked.levels[scale], other.levels[scale]) for scale in scales]
    return list(parallel(lambda two: matching.find_candidates(
        two[0], two[1], options.min_guided_cosine), levels))


def match_guided(candidates: list[CandidateMatches], motion: Transform, pinholes: PinholePair,
                 band_px: float, options: XFeatOptions, again: bool) -> Matches:
    """Match within a band around the epipolar lines: mutual before it, or `again` within it."""
    F = fundamental_matrix(motion, pinholes)
    min_cosine = options.min_guided_cosine if again else options.min_cosine
    kept = []
    for scale in candidates:
        in_band, similar = scale.near_epipolar_lines(F, band_px), scale.cosine > min_cosine
        kept.append(scale.select(scale.mutual(in_band & similar) if again
                                 else scale.mutual(similar) & in_band))
    return matching.concatenate(kept)


def _filter_without_motion(pair: PairGeometry, options: XFeatOptions) -> PairGeometry:
    matches = pair.matches
    if len(matches) >= 8:
        _, mask = cv2.findFundamentalMat(matches.clicked_ideal, matches.other_ideal,
                                         cv2.USAC_MAGSAC, 4.0, 0.999, 3000)
        if mask is not None:
            matches = matches.select(mask.ravel() > 0)
    return _filter_consistent(replace(pair, matches=matches), options)


def _filter_consistent(pair: PairGeometry, options: XFeatOptions) -> PairGeometry:
    """Drop the matches that contradict their neighbours."""
    if not options.consistent_neighbours:
        return pair
    keep = matching.neighbourhood_consensus(pair.matches)
    return replace(pair, matches=pair.matches.select(keep))


def _keep_given_pose(pair: PairGeometry, reason: str, options: XFeatOptions) -> PairGeometry:
    assert pair.motion is not None
    F = fundamental_matrix(pair.motion, pair.pinholes)
    near = two_view.epipolar_distance(F, pair.matches) < _noise_gate_px(options)
    return _filter_consistent(replace(
        pair, matches=pair.matches.select(near), basis=f'poses as given: {reason}',
        reprojection_sigma_px=_noise_px(pair, options)), options)


def _correct_pose(pair: PairGeometry, given: Transform, options: XFeatOptions) -> PairGeometry:
    """Correct the given motion by the matches with depth, from the view that has more of them.

    Raises `Rejected` if too few of them agree with a motion near the given one.
    """
    noise = _noise(options)
    matches, clicked, other = pair.matches, pair.clicked, pair.other
    points, points_other = backproject(clicked, matches.clicked), backproject(other, matches.other)
    known, known_other = (np.isfinite(p).all(axis=1) for p in (points, points_other))
    if known.sum() >= known_other.sum():
        motion, inliers, covariance = refine_pose_pnp(
            points[known], other.scaled.to_image(matches.other[known]),
            other.view.intrinsics, given, *noise)
    else:
        reverse, inliers, covariance = refine_pose_pnp(
            points_other[known_other], clicked.scaled.to_image(matches.clicked[known_other]),
            clicked.view.intrinsics, given.inverse, *noise)
        motion = reverse.inverse
        turn, shift = motion.R, two_view.cross_matrix(motion.t_m) @ motion.R
        adjoint = np.block([[turn, np.zeros((3, 3))], [shift, turn]])
        covariance = adjoint @ covariance @ adjoint.T
    return replace(pair, motion=motion, motion_covariance=covariance,
                   reprojection_sigma_px=CORRECTED_SIGMA_PX,
                   basis=f'poses corrected by {inliers.sum()} matches with depth')


def reprojection_error_px(pair: PairGeometry, candidates: CandidateMatches) -> Array:
    """Return the reprojection error (n,) of candidates, the smaller of both ways; NaN: no depth."""
    assert pair.motion is not None
    a, b = candidates.clicked_level.pixels, candidates.other_level.pixels
    i, j = candidates.clicked, candidates.other
    there, back = (to.scaled.project(motion.transform_points(backproject(frame, pixels)))
                   for frame, pixels, to, motion in (
                       (pair.clicked, a, pair.other, pair.motion),
                       (pair.other, b, pair.clicked, pair.motion.inverse)))
    squares = [sum((x.take(one) - y.take(two)) ** 2 for x, y in zip(moved.T, seen.T, strict=True))
               for moved, one, seen, two in ((there, i, b, j), (back, j, a, i))]
    return np.asarray(np.sqrt(np.fmin(*squares)))


def _noise_px(pair: PairGeometry, options: XFeatOptions) -> float:
    """The reprojection error that the poses' noise causes, px."""
    turn_rad, shift_m = np.radians(options.pose_noise_deg), options.pose_noise_cm / 100
    off_px = pair.pinholes.other[0, 0] * np.hypot(turn_rad, shift_m / _scene_depth_m(pair))
    return max(float(off_px), CORRECTED_SIGMA_PX)


def _scene_depth_m(pair: PairGeometry) -> float:
    known_m = np.concatenate([f.view.depth_m.ravel()[::101] for f in (pair.clicked, pair.other)
                              if f.view.depth_m is not None])
    known_m = known_m[np.isfinite(known_m) & (known_m > 0)]
    return float(np.median(known_m)) if len(known_m) else pair.min_depth


def backproject(frame: FeatureFrame, pixel: Array) -> Array:
    """Backproject scaled pixels (n, 2) to points (n, 3); NaN without depth or at its edges."""
    if frame.view.depth_m is None:
        return np.full((len(pixel), 3), np.nan)
    x, y = _nearest_pixel(frame, pixel)
    return frame.scaled.unproject(pixel) * frame.smooth_depth_m[y, x][:, None]


def depth_at(frame: FeatureFrame, pixel: Array) -> float:
    """Return the depth at a scaled pixel: its own, else of the nearest surface around, or NaN."""
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest_pixel(frame, pixel[None])
    own = float(frame.view.depth_m[y, x])
    if np.isfinite(own) and own > 0:
        return own
    around = surface_depths_m(frame.view, frame.scaled.to_image(pixel))
    return float(around[0]) if len(around) else np.nan


def depth_gap_m(frame: FeatureFrame, pixel: Array, expected_m: float, radius_px: float) -> float:
    """Return by how much the surface around a scaled pixel is nearer than an expected depth.

    The best-fitting depth within the radius counts, since at an edge both surfaces are near.
    Negative: behind it. NaN without depth.
    """
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest_pixel(frame, pixel[None])
    radius = max(round(radius_px / frame.scaled.scale), 1)
    window = frame.view.depth_m[max(y - radius, 0):y + radius + 1,
                                max(x - radius, 0):x + radius + 1]
    gaps = expected_m - window[np.isfinite(window) & (window > 0)].astype(np.float64)
    return float(gaps[np.abs(gaps).argmin()]) if len(gaps) else np.nan


def depth_gap_limit_m(pair: PairGeometry, expected_m: Array, least_m: float) -> Array:
    """Return what a depth may differ from the expected (...): three sigmas, at least `least_m`.

    Of what the pose leaves, and of both depths, whose noise the pair's own depths measure.
    """
    pose_m = pair.reprojection_sigma_px * expected_m / pair.pinholes.other[0, 0]
    sensor_m = min(pair.depth_noise_ratio, 1.0) * np.sqrt(2) * predict_depth_sigma_m(expected_m)
    return np.asarray(np.maximum(least_m, GAP_SIGMAS * np.hypot(pose_m, sensor_m)))


def measure_agreement(pair: PairGeometry, pixel: Array, depth_m: float, shift_px: Array,
                      least_gap_m: float) -> float:
    """Return the share of the clicked surface around a click where the other depth agrees.

    shift_px: of the found place from where the pose puts the click. NaN where fewer than five
    places have depth in both views.
    """
    assert pair.motion is not None
    near = pixel + AGREEMENT_PX
    points_m = backproject(pair.clicked, near[pair.clicked.scaled.contains(near)])
    with np.errstate(invalid='ignore'):
        same = np.abs(points_m[:, 2] - depth_m) < SPLIT_M + SPLIT_RATIO * depth_m
    seen_m = pair.motion.transform_points(points_m[same])
    at = pair.other.scaled.project(seen_m) + shift_px
    shown = np.isfinite(at).all(axis=1) & ~pair.other.is_masked(np.nan_to_num(at, nan=-1e6))
    depth_map_m, expected_m = pair.other.view.depth_m, seen_m[shown, 2]
    if depth_map_m is None or not shown.any():
        return np.nan
    x, y = _nearest_pixel(pair.other, (at[shown, None] + AROUND_PX).reshape(-1, 2))
    around_m = depth_map_m[y, x].reshape(-1, len(AROUND_PX)).astype(np.float64)
    around_m[~(around_m > 0)] = np.inf
    gaps_m = np.abs(around_m - expected_m[:, None]).min(axis=1)
    known = np.isfinite(gaps_m)
    agree = gaps_m <= depth_gap_limit_m(pair, expected_m, least_gap_m)
    return float(agree[known].mean()) if known.sum() >= MIN_COMPARED else np.nan


def reprojection_distance(other: FeatureFrame, clicked: FeatureFrame,
                          clicked_from_other: Transform, pixel: Array) -> Array:
    """Return the distance (rows, columns), scaled px, of the click from each place of the other
    view's score map, reprojected into the clicked view; NaN without depth."""
    grid = other.fine_grid
    points = backproject(other, grid.reshape(-1, 2))
    reprojected = clicked.scaled.project(clicked_from_other.transform_points(points))
    return np.linalg.norm(reprojected - pixel, axis=1).reshape(grid.shape[:2])


def _nearest_pixel(frame: FeatureFrame, pixel: Array
                   ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    at = np.round(frame.scaled.to_image(pixel)).astype(int)
    height, width = frame.view.image.shape[:2]
    return at[:, 0].clip(0, width - 1), at[:, 1].clip(0, height - 1)
