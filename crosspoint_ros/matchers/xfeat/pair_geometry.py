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
from crosspoint_ros.core.geometry import pnp_correction
from crosspoint_ros.matchers.xfeat import two_view
from crosspoint_ros.matchers.xfeat.features import Frame, MultiScale
from crosspoint_ros.matchers.xfeat.matching import (
    Lookalikes,
    Matches,
    agreeing,
    lookalikes,
    mutual_matches,
    overall_linear,
    union,
)
from crosspoint_ros.matchers.xfeat.options import Recipe
from crosspoint_ros.matchers.xfeat.two_view import (
    Lenses,
    Prior,
    depths,
    epipolar_distance,
    fundamental,
    in_front,
    refine,
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
class Pair:
    """Two frames and the geometry between them.

    motion: other_from_clicked for matching only, its baseline of length one where no poses are
    known; None where the images tell none. near, far: depths in the clicked view, in the motion's
    unit. trust: 0..1, how far the motion may be relied upon. slack_px: how far off a point of known
    depth may be projected. posed: whether poses were given. basis: what it rests on, in words.
    contradiction: why the given poses cannot be right, '' if nothing says so.
    """

    clicked: Frame
    other: Frame
    scales: tuple[float, ...]
    matches: Matches
    motion: Transform | None = None
    near: float = 0.0
    far: float = np.inf
    trust: float = 0.0
    slack_px: float = np.inf
    posed: bool = False
    basis: str = 'matches alone'
    contradiction: str = ''

    @cached_property
    def lenses(self) -> Lenses:
        """The ideal pinhole matrices of both."""
        return lenses_of(self.clicked, self.other)

    @cached_property
    def overall(self) -> Array:
        """The linear map (2, 2) that most matches share."""
        return overall_linear(self.matches.clicked, self.matches.other)

    @cached_property
    def overall_back(self) -> Array:
        """The linear map (2, 2) that most matches share, from the other view to the clicked."""
        return overall_linear(self.matches.other, self.matches.clicked)

    @cached_property
    def clicked_descriptors(self) -> MultiScale:
        """Dense descriptors of the clicked view."""
        return MultiScale(self.clicked, self.scales)

    @cached_property
    def other_descriptors(self) -> MultiScale:
        """Dense descriptors of the other view."""
        return MultiScale(self.other, self.scales)


def lenses_of(clicked: Frame, other: Frame) -> Lenses:
    """Return the ideal pinhole matrices of two frames."""
    return Lenses(clicked.working.ideal_matrix, other.working.ideal_matrix)


def pair_from_images(clicked: Frame, other: Frame, recipe: Recipe, parallel: Parallel) -> Pair:
    """Find the motion in the images; without one the mutual matches stand alone."""
    alike = compare(clicked, other, recipe.scales, recipe, parallel)
    pair = Pair(clicked, other, recipe.scales, mutual_matches(alike, recipe.min_cosine))
    found = two_view.estimate(pair.matches, pair.lenses, parallel)
    if found is None:
        return _without_motion(pair, recipe)
    motion = found.motion
    if recipe.guided:
        matches = guided(alike, motion, pair.lenses, FIRST_BAND_PX, recipe, True)
        ok = in_front(motion, pair.lenses, matches, two_view.NEAREST, two_view.FARTHEST)
        if ok.sum() >= two_view.MIN_MATCHES:
            motion = two_view.refine_unit(motion, pair.lenses, matches.where(ok))
    matches = guided(alike, motion, pair.lenses, recipe.guided_band_px, recipe, recipe.guided)
    near, far = 0.0, np.inf
    z, z_other = depths(motion, pair.lenses, matches)
    ok = (z > 0) & (z_other > 0) & np.isfinite(z)
    if ok.sum() >= two_view.MIN_MATCHES:
        near, far = np.percentile(z[ok], [5, 90]) * (0.4, 2.5)
        ok &= (z > near) & (z < far)
    sure = max(0.0, found.support - CHANCE_SUPPORT)
    return consistent(replace(pair, matches=matches.where(ok), motion=motion, near=near, far=far,
                              trust=sure / (sure + HALF_TRUST),
                              basis=f'images, {ok.sum()} matches'), recipe)


def pair_from_poses(clicked: Frame, other: Frame, given: Transform, recipe: Recipe,
                    parallel: Parallel) -> Pair:
    """Take the motion from the given poses, and bend it within their noise to fit the matches."""
    alike = compare(clicked, other, recipe.scales, recipe, parallel)
    lenses = lenses_of(clicked, other)
    matches = mutual_matches(alike, recipe.min_cosine)
    motion, first_band_px = given, max(POSED_FIRST_BAND_PX, GATE_PX_PER_NOISE * noise_of(recipe))
    if recipe.refine_pose:
        gate = epipolar_distance(fundamental(given, lenses), matches) < first_band_px
        if gate.sum() >= MIN_TO_REFINE:
            motion = refine(given, lenses, matches.where(gate), noise_prior(recipe))
            first_band_px = POSED_FIRST_BAND_PX
        matches = guided(alike, motion, lenses, first_band_px, recipe, recipe.posed_guided)
        ok = in_front(motion, lenses, matches, recipe.posed_near_m, recipe.posed_far_m)
        if ok.sum() >= MIN_TO_REFINE:
            motion = refine(given, lenses, matches.where(ok), noise_prior(recipe))
    matches = guided(alike, motion, lenses, recipe.posed_guided_band_px, recipe,
                     recipe.posed_guided)
    ok = in_front(motion, lenses, matches, recipe.posed_near_m, recipe.posed_far_m)
    pair = Pair(clicked, other, recipe.scales, matches.where(ok), motion, recipe.posed_near_m,
                recipe.posed_far_m, 1.0, posed=True, basis=f'poses, {ok.sum()} matches')
    return consistent(pair, recipe)


def noise_of(recipe: Recipe) -> float:
    """The poses' noise as one number: cm or deg, whichever is more."""
    return max(recipe.pose_noise_cm, recipe.pose_noise_deg)


def noise_prior(recipe: Recipe) -> Prior:
    """Noise of a given length lies within 1.7 of its sigma per axis."""
    return Prior(np.radians(max(recipe.pose_noise_deg, 0.1)) / 1.7,
                 max(recipe.pose_noise_cm, 0.1) / 100 / 1.7)


def compare(clicked: Frame, other: Frame, scales: tuple[float, ...], recipe: Recipe,
            parallel: Parallel) -> list[Lookalikes]:
    """Find the keypoints that look alike, scale by scale."""
    levels = [(clicked.levels[scale], other.levels[scale]) for scale in scales]
    return list(parallel(lambda two: lookalikes(two[0], two[1], recipe.min_guided_cosine), levels))


def guided(alike: list[Lookalikes], motion: Transform, lenses: Lenses, band_px: float,
           recipe: Recipe, again: bool) -> Matches:
    """Keep what lies within a band about its epipolar line: mutual before, or `again` within it."""
    F = fundamental(motion, lenses)
    least = recipe.min_guided_cosine if again else recipe.min_cosine
    kept = []
    for scale in alike:
        in_band, alike_enough = scale.near_lines(F, band_px), scale.cosine > least
        chosen = scale.mutual(in_band & alike_enough) if again \
            else scale.mutual(alike_enough) & in_band
        kept.append(scale.where(chosen))
    return union(kept)


def _without_motion(pair: Pair, recipe: Recipe) -> Pair:
    matches = pair.matches
    if len(matches) >= 8:
        _, mask = cv2.findFundamentalMat(matches.clicked_ideal, matches.other_ideal,
                                         cv2.USAC_MAGSAC, 4.0, 0.999, 3000)
        if mask is not None:
            matches = matches.where(mask.ravel() > 0)
    return consistent(replace(pair, matches=matches), recipe)


def consistent(pair: Pair, recipe: Recipe) -> Pair:
    """Drop the matches that contradict their neighbours."""
    if not recipe.consistent_neighbours:
        return pair
    return replace(pair, matches=pair.matches.where(agreeing(pair.matches)))


LANDING_PX = 10.0
CORRECTED_SLACK_PX = 3.0


def pair_from_depth(clicked: Frame, other: Frame, given: Transform, recipe: Recipe,
                    parallel: Parallel) -> Pair:
    """Take the motion from the given poses, and correct it by matches whose depth is known.

    A motion that too few matches speak of stays as given, with the noise's slack; one that many
    contradict makes the pair useless.
    """
    alike = compare(clicked, other, recipe.depth_scales, recipe, parallel)
    pair = Pair(clicked, other, recipe.depth_scales, mutual_matches(alike, recipe.min_cosine),
                given, recipe.posed_near_m, recipe.posed_far_m, 1.0, posed=True)
    if not recipe.correct_pose:
        return _as_given(pair, 'not to be corrected', recipe)
    try:
        pair = _corrected(pair, given, recipe)
        close = [found.where(found.mutual(landing_distance(pair, found) < LANDING_PX))
                 for found in alike]
        return consistent(_corrected(replace(pair, matches=union(close)), given, recipe), recipe)
    except Rejected as rejected:
        if rejected.code == Code.INCONSISTENT:
            return replace(pair, motion=given, contradiction=rejected.message)
        return _as_given(replace(pair, motion=given), rejected.message, recipe)


def _as_given(pair: Pair, reason: str, recipe: Recipe) -> Pair:
    assert pair.motion is not None
    gate_px = max(POSED_FIRST_BAND_PX, GATE_PX_PER_NOISE * noise_of(recipe))
    near = epipolar_distance(fundamental(pair.motion, pair.lenses), pair.matches) < gate_px
    return consistent(replace(pair, matches=pair.matches.where(near), basis=f'poses as given: '
                              f'{reason}', slack_px=_noise_px(pair, recipe)), recipe)


def _corrected(pair: Pair, given: Transform, recipe: Recipe) -> Pair:
    """Correct the given motion by the pair's matches that have depth, on the side with more.

    Raises `Rejected` if too few of them agree with a motion near the given one.
    """
    noise = max(recipe.pose_noise_cm, 0.1), max(recipe.pose_noise_deg, 0.1)
    matches, clicked, other = pair.matches, pair.clicked, pair.other
    points, points_other = lift_smooth(clicked, matches.clicked), lift_smooth(other, matches.other)
    known, known_other = (np.isfinite(p).all(axis=1) for p in (points, points_other))
    if known.sum() >= known_other.sum():
        motion, fits = pnp_correction(
            points[known], other.working.published(matches.other[known]),
            other.view.intrinsics, given, *noise)
    else:
        back, fits = pnp_correction(
            points_other[known_other], clicked.working.published(matches.clicked[known_other]),
            clicked.view.intrinsics, given.inverse, *noise)
        motion = back.inverse
    return replace(pair, motion=motion, slack_px=CORRECTED_SLACK_PX,
                   basis=f'poses corrected by {fits.sum()} matches with depth')


def landing_distance(pair: Pair, alike: Lookalikes) -> Array:
    """How far, in px, each lookalike's depth takes it from its partner; NaN without depth."""
    assert pair.motion is not None
    a, b = alike.clicked_level.pixels, alike.other_level.pixels
    there = pair.other.working.project(pair.motion.point(lift_smooth(pair.clicked, a)))
    back = pair.clicked.working.project(pair.motion.inverse.point(lift_smooth(pair.other, b)))
    return np.asarray(np.fmin(np.linalg.norm(there[alike.clicked] - b[alike.other], axis=1),
                              np.linalg.norm(back[alike.other] - a[alike.clicked], axis=1)))


def _noise_px(pair: Pair, recipe: Recipe) -> float:
    """How far the poses' noise may move a projected point, px."""
    known_m = np.concatenate([f.view.depth_m.ravel()[::101] for f in (pair.clicked, pair.other)
                              if f.view.depth_m is not None])
    known_m = known_m[np.isfinite(known_m) & (known_m > 0)]
    scene_m = float(np.median(known_m)) if len(known_m) else recipe.posed_near_m
    turn_rad, shift_m = np.radians(recipe.pose_noise_deg), recipe.pose_noise_cm / 100
    off_px = pair.lenses.other[0, 0] * np.hypot(turn_rad, shift_m / scene_m)
    return max(float(off_px), CORRECTED_SLACK_PX)


def lift_smooth(frame: Frame, pixel: Array) -> Array:
    """Lift working pixels (n, 2) to 3D points (n, 3); NaN without depth or at its edges."""
    if frame.view.depth_m is None:
        return np.full((len(pixel), 3), np.nan)
    depth_m = frame.smooth_depth_m
    x, y = _nearest(frame, pixel)
    return frame.working.ray_cam(pixel) * depth_m[y, x][:, None]


def clicked_depth(frame: Frame, pixel: Array) -> float:
    """Depth at a working pixel: its own, else the nearest surface's around it; NaN without any."""
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest(frame, pixel[None])
    own = float(frame.view.depth_m[y, x])
    if np.isfinite(own) and own > 0:
        return own
    around = surface_depths_m(frame.view, frame.working.published(pixel))
    return float(around[0]) if len(around) else np.nan


def depth_gap_m(frame: Frame, pixel: Array, expected_m: float, radius_px: float) -> float:
    """How far the surface around a working pixel lies in front of an expected depth.

    Of all depths within the radius the one that fits best counts, since at an edge both surfaces
    are near. Negative: behind it. NaN without depth.
    """
    if frame.view.depth_m is None:
        return np.nan
    (x,), (y,) = _nearest(frame, pixel[None])
    reach = max(round(radius_px / frame.working.zoom), 1)
    window = frame.view.depth_m[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1]
    gaps = expected_m - window[np.isfinite(window) & (window > 0)].astype(np.float64)
    return float(gaps[np.abs(gaps).argmin()]) if len(gaps) else np.nan


def back_distance(other: Frame, clicked: Frame, clicked_from_other: Transform,
                  pixel: Array) -> Array:
    """Distance (rows, columns) in working px between the click and where the clicked view would
    show what each place of the other view's score map shows; NaN where it has no depth."""
    grid = other.fine_grid
    points = lift_smooth(other, grid.reshape(-1, 2))
    seen = clicked.working.project(clicked_from_other.point(points))
    return np.linalg.norm(seen - pixel, axis=1).reshape(grid.shape[:2])


def _nearest(frame: Frame, pixel: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    at = np.round(frame.working.published(pixel)).astype(int)
    height, width = frame.view.image.shape[:2]
    return at[:, 0].clip(0, width - 1), at[:, 1].clip(0, height - 1)
