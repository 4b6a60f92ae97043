"""Finding a click in the other view: by its looks and lines, or by its depth."""
from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.xfeat import score_map
from crosspoint_ros.matchers.xfeat.matching import LocalAffine, fit_local_affine
from crosspoint_ros.matchers.xfeat.network import FloatMap
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.pair_geometry import (
    PairGeometry,
    depth_gap_m,
    reprojection_distance,
)

ACCURATE_SIGMA_PX = 4.0
OCCLUSION_WINDOW_PX = 4.0
# Further than so many sigmas from a rough find is another place.
MAX_PRIOR_SIGMAS = 3.0


class EvidenceKind(Enum):
    """What led to a place, the strongest last."""

    IMAGES = auto()
    LINES = auto()
    DEPTH_OF_OTHER = auto()
    DEPTH_OF_CLICKED = auto()
    BOTH_DEPTHS = auto()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A place in the other view, and what speaks for it.

    pixel: (2,) working px. score, margin: of the score map there. density: of the matches around
    the click. cycle_error_px: how far from the click the matches around the found place lead back.
    gap_m: depth measured against depth expected, NaN where unknown. reprojection_sigma_px: how far off depth
    may have put it, infinite where depth did not. evidence: the strongest evidence that led here.
    """

    pixel: Array
    score: float
    margin: float
    density: float
    cycle_error_px: float
    reprojection_sigma_px: float = np.inf
    gap_m: float = np.nan
    evidence: EvidenceKind = EvidenceKind.IMAGES


def search_by_appearance(pair: PairGeometry, pixel: Array, options: XFeatOptions,
                         near: score_map.SearchPrior | None = None) -> Candidate:
    """Search the whole other view: looks, the matches around the click, and the epipolar line.

    Where the other view has depth, each of its places also says where the clicked view shows it.
    With a rough find the best place near it is found; what speaks for it is the same.
    """
    prior = _local_affine(pair, pixel)
    scores = _appearance_scores(pair, pixel, prior, options)
    if options.epipolar_band:
        scores = scores + score_map.epipolar_term(pair, pixel)
    back = np.full(scores.shape, np.nan)
    if np.isfinite(pair.reprojection_sigma_px) and pair.other.view.depth_m is not None:
        assert pair.motion is not None
        back = reprojection_distance(pair.other, pair.clicked, pair.motion.inverse, pixel)
        scores = scores + score_map.reprojection_term(pair, back)
    peak = _find_peak(pair, scores, near)
    found = Candidate(peak.pixel, peak.score, peak.margin, prior.density,
                      _cycle_error_px(pair, pixel, peak.pixel))
    if np.isfinite(back[peak.cell]):
        return replace(found, reprojection_sigma_px=pair.reprojection_sigma_px, evidence=EvidenceKind.DEPTH_OF_OTHER)
    return replace(found, evidence=EvidenceKind.LINES) if pair.has_poses else found


def search_by_depth(pair: PairGeometry, pixel: Array, depth_m: float, options: XFeatOptions,
                    near: score_map.SearchPrior | None = None) -> Candidate:
    """Carry the click, of known depth, into the other view, and ask whether it can be seen there.

    A rough find has a say only where the poses leave some slack.

    Raises `Rejected` (NOT_VISIBLE, or INCONSISTENT where the depths contradict each other).
    """
    assert pair.motion is not None
    point_m = pair.motion.transform_points(pair.clicked.scaled.unproject(pixel) * depth_m)
    expected = pair.other.scaled.project(point_m)
    require_projection_visible(pair, expected)
    prior = _local_affine(pair, pixel)
    looks = _appearance_scores(pair, pixel, prior, options)
    distance = np.linalg.norm(pair.other.fine_grid - expected, axis=-1)
    found = expected
    if pair.reprojection_sigma_px > ACCURATE_SIGMA_PX:
        found = _find_peak(pair, looks + score_map.reprojection_term(pair, distance), near).pixel
    here, margin = score_map.score_at(_exclude_masked(pair, looks), pair.other.fine_grid, found)
    gap_m = _require_not_occluded(pair, found, float(point_m[2]), options)
    return Candidate(found, here, margin, prior.density, _cycle_error_px(pair, pixel, found),
                     pair.reprojection_sigma_px, gap_m,
                     EvidenceKind.DEPTH_OF_CLICKED if np.isnan(gap_m) else EvidenceKind.BOTH_DEPTHS)


def require_projection_visible(pair: PairGeometry, expected: Array) -> None:
    """Raise `Rejected` (NOT_VISIBLE) unless the other view shows this place."""
    if not np.isfinite(expected).all():
        raise Rejected(Code.NOT_VISIBLE, f'the point lies behind {pair.other.view.camera}')
    x, y = pair.other.scaled.to_image(expected)
    size = pair.other.view.intrinsics
    if not size.contains((x, y)):
        raise Rejected(Code.NOT_VISIBLE, f'the point would be at ({x:.0f}, {y:.0f}) px, outside '
                                         f'the {size.width_px}x{size.height_px} image')
    if pair.other.is_masked(expected):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.0f}, {y:.0f}) px")


def require_near_prior(pair: PairGeometry, found: Candidate, near: score_map.SearchPrior) -> None:
    """Raise `Rejected` (INCONSISTENT) if the best place near a rough find is not near it at all."""
    sigmas = float(np.sqrt(near.mahalanobis_squared(found.pixel)))
    if not sigmas <= MAX_PRIOR_SIGMAS:
        (x, y), (x_near, y_near) = map(pair.other.scaled.to_image, (found.pixel, near.pixel))
        raise Rejected(Code.INCONSISTENT, f'{pair.basis}: the point is at ({x:.0f}, {y:.0f}), '
                       f'{sigmas:.1f} sigma from the rough find at ({x_near:.0f}, {y_near:.0f}) '
                       f'(limit {MAX_PRIOR_SIGMAS:g})')


def _require_not_occluded(pair: PairGeometry, found: Array, expected_m: float, options: XFeatOptions) -> float:
    radius_px = max(OCCLUSION_WINDOW_PX, pair.reprojection_sigma_px)
    gap_m = depth_gap_m(pair.other, found, expected_m, radius_px)
    limit_m = options.max_depth_gap_m
    if gap_m > limit_m:
        raise Rejected(Code.NOT_VISIBLE, f'something {gap_m:.3f} m in front of the point hides it '
                                         f'(xfeat.max_depth_gap_m {limit_m:g}, point at '
                                         f'{expected_m:.3f} m)')
    if gap_m < -limit_m:
        raise Rejected(Code.INCONSISTENT, f'the surface lies {-gap_m:.3f} m behind where the '
                                          f'clicked view has the point '
                                          f'(xfeat.max_depth_gap_m {limit_m:g})')
    return gap_m


def _local_affine(pair: PairGeometry, pixel: Array) -> LocalAffine:
    return fit_local_affine(pair.matches.clicked, pair.matches.other, pixel, pair.global_linear)


def _appearance_scores(pair: PairGeometry, pixel: Array, prior: LocalAffine, options: XFeatOptions) -> FloatMap:
    scores = score_map.appearance_term(pair, pixel, prior.linear, options.patch_consensus)
    return scores + score_map.affine_term(pair, prior) if options.affine_prior else scores


def _find_peak(pair: PairGeometry, scores: FloatMap, near: score_map.SearchPrior | None = None) -> score_map.Peak:
    grid, seen = pair.other.fine_grid, _exclude_masked(pair, scores)
    if near is None:
        return score_map.find_peak(seen, grid)
    best = score_map.find_peak(_exclude_masked(pair, scores + score_map.search_prior_term(pair, near)), grid)
    here, margin = score_map.score_at(seen, grid, best.pixel)
    return replace(best, score=here, margin=margin)


def _exclude_masked(pair: PairGeometry, scores: FloatMap) -> FloatMap:
    return np.where(pair.other.fine_masked, np.float32(score_map.MASKED_SCORE), scores)


def _cycle_error_px(pair: PairGeometry, pixel: Array, found: Array) -> float:
    back = fit_local_affine(pair.matches.other, pair.matches.clicked, found, pair.global_linear_reverse)
    return float(np.linalg.norm(back.pixel - pixel))
