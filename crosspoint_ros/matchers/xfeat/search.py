"""Finding a click in the other view: by its looks and lines, or by its depth."""
from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.xfeat import score_map
from crosspoint_ros.matchers.xfeat.matching import LocalAffine, local_affine
from crosspoint_ros.matchers.xfeat.network import FloatMap
from crosspoint_ros.matchers.xfeat.options import Recipe
from crosspoint_ros.matchers.xfeat.pair_geometry import Pair, back_distance, depth_gap_m

SURE_SLACK_PX = 4.0
SIGHT_PX = 4.0
# Further than so many sigmas from a rough find is another place.
REACH = 3.0


class Evidence(Enum):
    """What led to a place, the strongest last."""

    IMAGES = auto()
    LINES = auto()
    DEPTH_OF_OTHER = auto()
    DEPTH_OF_CLICKED = auto()
    BOTH_DEPTHS = auto()


@dataclass(frozen=True, eq=False)
class Found:
    """A place in the other view, and what speaks for it.

    pixel: (2,) working px. score, margin: of the score map there. density: of the matches around
    the click. return_px: how far from the click the matches around the found place lead back.
    gap_m: depth measured against depth expected, NaN where unknown. slack_px: how far off depth
    may have put it, infinite where depth did not. by: the strongest evidence that led here.
    """

    pixel: Array
    score: float
    margin: float
    density: float
    return_px: float
    slack_px: float = np.inf
    gap_m: float = np.nan
    by: Evidence = Evidence.IMAGES


def search_by_looks(pair: Pair, pixel: Array, recipe: Recipe,
                    near: score_map.Near | None = None) -> Found:
    """Search the whole other view: looks, the matches around the click, and the epipolar line.

    Where the other view has depth, each of its places also says where the clicked view shows it.
    With a rough find the best place near it is found; what speaks for it is the same.
    """
    prior = _prior(pair, pixel)
    scores = _looks(pair, pixel, prior, recipe)
    if recipe.epipolar_band:
        scores = scores + score_map.band_term(pair, pixel)
    back = np.full(scores.shape, np.nan)
    if np.isfinite(pair.slack_px) and pair.other.view.depth_m is not None:
        assert pair.motion is not None
        back = back_distance(pair.other, pair.clicked, pair.motion.inverse, pixel)
        scores = scores + score_map.landing_term(pair, back)
    peak = _peak(pair, scores, near)
    found = Found(peak.pixel, peak.score, peak.margin, prior.density,
                  _return_px(pair, pixel, peak.pixel))
    if np.isfinite(back[peak.cell]):
        return replace(found, slack_px=pair.slack_px, by=Evidence.DEPTH_OF_OTHER)
    return replace(found, by=Evidence.LINES) if pair.posed else found


def search_by_depth(pair: Pair, pixel: Array, depth_m: float, recipe: Recipe,
                    near: score_map.Near | None = None) -> Found:
    """Carry the click, of known depth, into the other view, and ask whether it can be seen there.

    A rough find has a say only where the poses leave some slack.

    Raises `Rejected` (NOT_VISIBLE, or INCONSISTENT where the depths contradict each other).
    """
    assert pair.motion is not None
    point_m = pair.motion.point(pair.clicked.working.ray_cam(pixel) * depth_m)
    expected = pair.other.working.project(point_m)
    refuse_outside(pair, expected)
    prior = _prior(pair, pixel)
    looks = _looks(pair, pixel, prior, recipe)
    distance = np.linalg.norm(pair.other.fine_grid - expected, axis=-1)
    found = expected
    if pair.slack_px > SURE_SLACK_PX:
        found = _peak(pair, looks + score_map.landing_term(pair, distance), near).pixel
    here, margin = score_map.standing(_seen(pair, looks), pair.other.fine_grid, found)
    gap_m = _refuse_hidden(pair, found, float(point_m[2]), recipe)
    return Found(found, here, margin, prior.density, _return_px(pair, pixel, found),
                 pair.slack_px, gap_m,
                 Evidence.DEPTH_OF_CLICKED if np.isnan(gap_m) else Evidence.BOTH_DEPTHS)


def refuse_outside(pair: Pair, expected: Array) -> None:
    """Raise `Rejected` (NOT_VISIBLE) unless the other view shows this place."""
    if not np.isfinite(expected).all():
        raise Rejected(Code.NOT_VISIBLE, f'the point lies behind {pair.other.view.camera}')
    x, y = pair.other.working.published(expected)
    size = pair.other.view.intrinsics
    if not size.contains((x, y)):
        raise Rejected(Code.NOT_VISIBLE, f'the point would be at ({x:.0f}, {y:.0f}) px, outside '
                                         f'the {size.width_px}x{size.height_px} image')
    if pair.other.hidden(expected):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.0f}, {y:.0f}) px")


def refuse_far(pair: Pair, found: Found, near: score_map.Near) -> None:
    """Raise `Rejected` (INCONSISTENT) if the best place near a rough find is not near it at all."""
    sigmas = float(np.sqrt(near.square(found.pixel)))
    if not sigmas <= REACH:
        (x, y), (x_near, y_near) = map(pair.other.working.published, (found.pixel, near.pixel))
        raise Rejected(Code.INCONSISTENT, f'{pair.basis}: the point is at ({x:.0f}, {y:.0f}), '
                       f'{sigmas:.1f} sigma from the rough find at ({x_near:.0f}, {y_near:.0f}) '
                       f'(limit {REACH:g})')


def _refuse_hidden(pair: Pair, found: Array, expected_m: float, recipe: Recipe) -> float:
    radius_px = max(SIGHT_PX, pair.slack_px)
    gap_m = depth_gap_m(pair.other, found, expected_m, radius_px)
    limit_m = recipe.max_depth_gap_m
    if gap_m > limit_m:
        raise Rejected(Code.NOT_VISIBLE, f'something {gap_m:.3f} m in front of the point hides it '
                                         f'(xfeat.max_depth_gap_m {limit_m:g}, point at '
                                         f'{expected_m:.3f} m)')
    if gap_m < -limit_m:
        raise Rejected(Code.INCONSISTENT, f'the surface lies {-gap_m:.3f} m behind where the '
                                          f'clicked view has the point '
                                          f'(xfeat.max_depth_gap_m {limit_m:g})')
    return gap_m


def _prior(pair: Pair, pixel: Array) -> LocalAffine:
    return local_affine(pair.matches.clicked, pair.matches.other, pixel, pair.overall)


def _looks(pair: Pair, pixel: Array, prior: LocalAffine, recipe: Recipe) -> FloatMap:
    scores = score_map.appearance(pair, pixel, prior.linear, recipe.patch_consensus)
    return scores + score_map.prior_term(pair, prior) if recipe.affine_prior else scores


def _peak(pair: Pair, scores: FloatMap, near: score_map.Near | None = None) -> score_map.Peak:
    grid, seen = pair.other.fine_grid, _seen(pair, scores)
    if near is None:
        return score_map.peak(seen, grid)
    best = score_map.peak(_seen(pair, scores + score_map.near_term(pair, near)), grid)
    here, margin = score_map.standing(seen, grid, best.pixel)
    return replace(best, score=here, margin=margin)


def _seen(pair: Pair, scores: FloatMap) -> FloatMap:
    return np.where(pair.other.fine_hidden, np.float32(score_map.HIDDEN), scores)


def _return_px(pair: Pair, pixel: Array, found: Array) -> float:
    back = local_affine(pair.matches.other, pair.matches.clicked, found, pair.overall_back)
    return float(np.linalg.norm(back.pixel - pixel))
