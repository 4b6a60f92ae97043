"""What is known of two frames before anyone clicks: their motion, their matches, their depths."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.matchers.xfeat import from_images
from crosspoint_ros.matchers.xfeat.affine import overall_linear
from crosspoint_ros.matchers.xfeat.features import Frame, MultiScale
from crosspoint_ros.matchers.xfeat.matching import (
    Lookalikes,
    Matches,
    agreeing,
    lookalikes,
    mutual_matches,
    union,
)
from crosspoint_ros.matchers.xfeat.recipe import Recipe
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
    found = from_images.estimate(pair.matches, pair.lenses, parallel)
    if found is None:
        return _without_motion(pair, recipe)
    motion = found.motion
    if recipe.guided:
        matches = guided(alike, motion, pair.lenses, FIRST_BAND_PX, recipe, True)
        ok = in_front(motion, pair.lenses, matches, from_images.NEAREST, from_images.FARTHEST)
        if ok.sum() >= from_images.MIN_MATCHES:
            motion = from_images.refine_unit(motion, pair.lenses, matches.where(ok))
    matches = guided(alike, motion, pair.lenses, recipe.guided_band_px, recipe, recipe.guided)
    near, far = 0.0, np.inf
    z, z_other = depths(motion, pair.lenses, matches)
    ok = (z > 0) & (z_other > 0) & np.isfinite(z)
    if ok.sum() >= from_images.MIN_MATCHES:
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
