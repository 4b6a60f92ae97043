"""Searches the other view for a click: by appearance and epipolar line, or by depth."""
from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.verify import GAP_SIGMAS
from crosspoint_ros.matchers.xfeat import score_map
from crosspoint_ros.matchers.xfeat.evidence import (
    LocalEvidence,
    exclude_mask,
    measure_local_evidence,
)
from crosspoint_ros.matchers.xfeat.matching import LocalAffine, fit_local_affine
from crosspoint_ros.matchers.xfeat.network import FloatMap
from crosspoint_ros.matchers.xfeat.options import XFeatOptions
from crosspoint_ros.matchers.xfeat.pair_geometry import (
    PairGeometry,
    depth_gap_limit_m,
    depth_gap_m,
    measure_agreement,
    reprojection_distance,
)
from crosspoint_ros.matchers.xfeat.score_map import SearchPrior

ACCURATE_SIGMA_PX = 4.0
OCCLUSION_WINDOW_PX = 4.0
ALLOWED_SIGMAS = 3.0  # of the reprojection: geometry excludes rivals beyond it
AGREEMENT_M = 0.02  # depths of one surface, where the sensors and the pose are better
MAX_PRIOR_SIGMAS = 3.0  # further from a coarse match is another place


class EvidenceKind(Enum):
    """What led to a candidate, the strongest last."""

    IMAGES = auto()
    LINES = auto()
    DEPTH_OF_OTHER = auto()
    DEPTH_OF_CLICKED = auto()
    BOTH_DEPTHS = auto()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A place in the other view, and its evidence.

    pixel: (2,) scaled px. score, margin: of the score map there. density: of the matches around
    the click. cycle_error_px: forward-backward error of the local affine maps. gap_m: measured
    minus expected depth, NaN where unknown. reprojection_sigma_px: of a place found by depth, else
    infinite. evidence: the strongest that led here. viewing_angle_deg: between the rays of both
    views, NaN without a relative pose. local: None of a place that the click's depth gave.
    agreement: of that, the share of the surface around the click that the other depth confirms,
    NaN where unknown. is_confirmed: whether the pair's depths confirm its poses.
    """

    pixel: Array
    score: float
    margin: float
    density: float
    cycle_error_px: float
    reprojection_sigma_px: float = np.inf
    gap_m: float = np.nan
    evidence: EvidenceKind = EvidenceKind.IMAGES
    viewing_angle_deg: float = np.nan
    local: LocalEvidence | None = None
    agreement: float = np.nan
    is_confirmed: bool = False


def search_by_appearance(pair: PairGeometry, pixel: Array, options: XFeatOptions,
                         near: SearchPrior | None = None, with_second: bool = False) -> Candidate:
    """Search the whole other view: appearance, matches around the click, epipolar line.

    Where the other view has depth, its places are also reprojected to the click. near: a coarse
    match; the best place near it is returned, with its evidence unchanged. with_second: use the
    second descriptor, which both frames must have.
    """
    local = _local_affine(pair, pixel)
    scores = _appearance_scores(pair, pixel, local, options)
    if options.epipolar_band:
        scores = scores + score_map.epipolar_term(pair, pixel)
    distance = np.full(scores.shape, np.nan)
    if np.isfinite(pair.reprojection_sigma_px) and pair.other.view.depth_m is not None:
        assert pair.motion is not None
        distance = reprojection_distance(pair.other, pair.clicked, pair.motion.inverse, pixel)
        scores = scores + score_map.reprojection_term(pair, distance)
    if with_second:
        scores = scores + score_map.W_SECOND * score_map.similarity_term(
            pair, pair.second_descriptors, pixel, local.linear, 0)
    peak = _find_peak(pair, scores, near)
    back = _reverse_affine(pair, peak.pixel)
    found = Candidate(peak.pixel, peak.score, peak.margin, local.density,
                      float(np.linalg.norm(back.pixel - pixel)),
                      local=measure_local_evidence(pair, pixel, peak.pixel, local, back,
                                                   with_second),
                      viewing_angle_deg=pair.measure_angle_deg(pixel, peak.pixel))
    if np.isfinite(distance[peak.cell]):
        return replace(found, reprojection_sigma_px=pair.reprojection_sigma_px,
                       evidence=EvidenceKind.DEPTH_OF_OTHER)
    return replace(found, evidence=EvidenceKind.LINES) if pair.has_poses else found


def search_by_depth(pair: PairGeometry, pixel: Array, depth_m: float, options: XFeatOptions,
                    near: SearchPrior | None = None) -> Candidate:
    """Reproject a click of known depth into the other view, and check that it is visible there.

    near: a coarse match; counts only where the poses leave room for it. Raises `Rejected`
    (NOT_VISIBLE, or INCONSISTENT where the depths contradict each other).
    """
    assert pair.motion is not None
    point_m = pair.motion.transform_points(pair.clicked.scaled.unproject(pixel) * depth_m)
    expected = pair.other.scaled.project(point_m)
    require_projection_visible(pair, expected)
    local = _local_affine(pair, pixel)
    scores = _appearance_scores(pair, pixel, local, options)
    grid, at = pair.other.fine_grid, expected
    if pair.reprojection_sigma_px > ACCURATE_SIGMA_PX:
        distance = np.linalg.norm(grid - expected, axis=-1)
        at = _find_peak(pair, scores + score_map.reprojection_term(pair, distance), near).pixel
    away_px = np.linalg.norm(grid - expected, axis=-1)
    allowed = away_px <= max(ALLOWED_SIGMAS * pair.reprojection_sigma_px,
                             float(np.linalg.norm(at - expected)))
    masked = exclude_mask(pair.other, scores)
    score, _ = score_map.score_at(masked, grid, at)
    agreement = measure_agreement(pair, pixel, depth_m, at - expected,
                                  min(AGREEMENT_M, options.max_depth_gap_m))
    gap_m = _require_not_occluded(pair, at, float(point_m[2]), options)
    has_both = not np.isnan(gap_m)
    rivals = np.where(allowed, masked, np.float32(score_map.MASKED_SCORE)) if has_both else masked
    return Candidate(at, score, score_map.score_at(rivals, grid, at)[1], local.density,
                     _cycle_error_px(pair, pixel, at), pair.reprojection_sigma_px, gap_m,
                     EvidenceKind.BOTH_DEPTHS if has_both else EvidenceKind.DEPTH_OF_CLICKED,
                     agreement=agreement, is_confirmed=pair.is_confirmed)


def require_projection_visible(pair: PairGeometry, expected: Array) -> None:
    """Raise `Rejected` (NOT_VISIBLE) unless a scaled pixel (2,) is visible in the other view."""
    if not np.isfinite(expected).all():
        raise Rejected(Code.NOT_VISIBLE, f'the point is behind {pair.other.view.camera}')
    x, y = pair.other.scaled.to_image(expected)
    size = pair.other.view.intrinsics
    if not size.contains((x, y)):
        raise Rejected(Code.NOT_VISIBLE, f'the point would be at ({x:.0f}, {y:.0f}) px, outside '
                                         f'the {size.width_px}x{size.height_px} image')
    if pair.other.is_masked(expected):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.0f}, {y:.0f}) px")


def require_near_prior(pair: PairGeometry, found: Candidate, near: SearchPrior) -> None:
    """Raise `Rejected` (INCONSISTENT) if the best place near a coarse match is too far from it."""
    sigmas = float(np.sqrt(near.mahalanobis_squared(found.pixel)))
    if not sigmas <= MAX_PRIOR_SIGMAS:
        (x, y), (x_near, y_near) = map(pair.other.scaled.to_image, (found.pixel, near.pixel))
        raise Rejected(Code.INCONSISTENT, f'{pair.basis}: the point is at ({x:.0f}, {y:.0f}), '
                       f'{sigmas:.1f} sigma from the coarse match at ({x_near:.0f}, {y_near:.0f}) '
                       f'(limit {MAX_PRIOR_SIGMAS:g})')


def _require_not_occluded(pair: PairGeometry, at: Array, expected_m: float,
                          options: XFeatOptions) -> float:
    radius_px = max(OCCLUSION_WINDOW_PX, pair.reprojection_sigma_px)
    gap_m = depth_gap_m(pair.other, at, expected_m, radius_px)
    limit_m = float(depth_gap_limit_m(pair, np.array(expected_m), options.max_depth_gap_m))
    limits = (f'limit {limit_m:.3f} m: xfeat.max_depth_gap_m {options.max_depth_gap_m:g}, or '
              f'{GAP_SIGMAS:g} sigmas of poses and depths; point at {expected_m:.3f} m')
    if gap_m > limit_m:
        raise Rejected(Code.NOT_VISIBLE, f'occluded by something {gap_m:.3f} m in front of the '
                       f'point ({limits})')
    if gap_m < -limit_m:
        raise Rejected(Code.INCONSISTENT, f'the surface is {-gap_m:.3f} m behind the point of the '
                       f'clicked view ({limits})')
    return gap_m


def _local_affine(pair: PairGeometry, pixel: Array) -> LocalAffine:
    return fit_local_affine(pair.matches.clicked, pair.matches.other, pixel, pair.global_linear)


def _reverse_affine(pair: PairGeometry, found: Array) -> LocalAffine:
    return fit_local_affine(pair.matches.other, pair.matches.clicked, found,
                            pair.global_linear_reverse)


def _cycle_error_px(pair: PairGeometry, pixel: Array, found: Array) -> float:
    return float(np.linalg.norm(_reverse_affine(pair, found).pixel - pixel))


def _appearance_scores(pair: PairGeometry, pixel: Array, local: LocalAffine,
                       options: XFeatOptions) -> FloatMap:
    scores = score_map.similarity_term(pair, pair.descriptors, pixel, local.linear,
                                       score_map.W_PATCH * options.patch_consensus)
    return scores + score_map.affine_term(pair, local) if options.affine_prior else scores


def _find_peak(pair: PairGeometry, scores: FloatMap, near: SearchPrior | None) -> score_map.Peak:
    grid, masked = pair.other.fine_grid, exclude_mask(pair.other, scores)
    if near is None:
        return score_map.find_peak(masked, grid)
    near_scores = exclude_mask(pair.other, scores + score_map.search_prior_term(pair, near))
    best = score_map.find_peak(near_scores, grid)
    score, margin = score_map.score_at(masked, grid, best.pixel)
    return replace(best, score=score, margin=margin)
