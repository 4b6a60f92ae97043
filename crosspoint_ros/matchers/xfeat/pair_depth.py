"""Two frames whose poses are known and of which one has depth: the pose, corrected by it."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected, Transform
from crosspoint_ros.core.geometry import pnp_correction
from crosspoint_ros.matchers.xfeat.depth import lift_smooth
from crosspoint_ros.matchers.xfeat.features import Frame
from crosspoint_ros.matchers.xfeat.matching import Lookalikes, mutual_matches, union
from crosspoint_ros.matchers.xfeat.pair import (
    GATE_PX_PER_NOISE,
    POSED_FIRST_BAND_PX,
    Pair,
    Parallel,
    compare,
    consistent,
    noise_of,
)
from crosspoint_ros.matchers.xfeat.recipe import Recipe
from crosspoint_ros.matchers.xfeat.two_view import epipolar_distance, fundamental

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
