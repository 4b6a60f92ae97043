"""Confidence and covariance of a candidate, by logistic regression on its evidence."""
from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.pair_geometry import CORRECTED_SIGMA_PX
from crosspoint_ros.matchers.xfeat.search import ACCURATE_SIGMA_PX, Candidate, EvidenceKind

CYCLE_SCALE_PX = 8.0  # of the forward-backward error
MIN_DENSITY = 0.02
MIN_SIDE = 0.75  # of the support on the worst side to that all around; below it: to be checked
DEPTH_SIGMA_PX = 2.0
MIN_LOOKS = 1.0  # score of the map; below it looks do not raise what geometry says
APPEARANCE_SIGMA_PX = 3.0
MAX_SIGMA_PX = 40.0


@dataclass(frozen=True)
class LogisticWeights:
    """Logistic weights of score, margin, match density and forward-backward error.

    Fitted to right (visible, within 20 px) against wrong matches, then stretched so that 0.5 keeps
    nine in ten of the right ones, and those above 0.8 are right nine times in ten or more.
    docs/matchers/xfeat.md says how to fit them again.
    """

    score: float
    margin: float
    density: float
    cycle_error: float
    bias: float


@dataclass(frozen=True)
class AppearanceWeights:
    """Logistic weights of what `describe_appearance` returns, for places found by appearance.

    Fitted by `crosspoint dev fit-confidence` to the probability that a match is right (visible,
    within 20 px); then the logit was divided so that, of those above 0.8 that are not at an edge,
    97 in 100 are right in each scene that was fitted.
    """

    worst_side: float
    reverse_margin: float
    patch_correlation: float
    bias: float

    def logit(self, evidence: Array) -> Array:
        """Return the logits (n,) of the confidence of evidence (n, 3)."""
        return np.asarray(evidence @ np.array(astuple(self)[:-1]) + self.bias)

    def predict(self, evidence: Array) -> Array:
        """Return the confidence (n,) of evidence (n, 3)."""
        return np.asarray(1 / (1 + np.exp(-self.logit(evidence))))


@dataclass(frozen=True)
class GeometryWeights:
    """Logistic weights of a place where the depths of both views agree; set by hand.

    agreement: share of the clicked surface that the other depth confirms: alone, with confirmed
    poses, all of it is sure and half of it is the least accepted. spread: of the poses' error, in
    powers of e. Looks raise it from there on; only a rival that scores higher, where geometry
    allows it, lowers it.
    """

    agreement: float
    confirmed: float
    spread: float
    rival: float
    looks: float
    bias: float

    def logit(self, found: Candidate) -> float:
        """Return the logit of the confidence; unknown agreement counts half."""
        spread = float(np.log(max(found.reprojection_sigma_px / CORRECTED_SIGMA_PX, 1.0)))
        agreement = 0.5 if np.isnan(found.agreement) else found.agreement
        looks = min(max(found.score - MIN_LOOKS, 0.0), 1.0) * (agreement >= 0.5)
        return (self.agreement * agreement
                + self.confirmed * found.is_confirmed - self.spread * spread
                + self.rival * min(max(found.margin, -1.0), 0.0)
                + self.looks * looks + self.bias)


WEIGHTS = {
    EvidenceKind.DEPTH_OF_OTHER: LogisticWeights(3.0, 1.5, 0.05, 0.7, -3.2),
    EvidenceKind.DEPTH_OF_CLICKED: LogisticWeights(1.0, 2.6, 0.2, 1.0, -0.4),
}
APPEARANCE_WEIGHTS = {
    EvidenceKind.IMAGES: AppearanceWeights(1.974, 4.565, 0.78, -1.001),
    EvidenceKind.LINES: AppearanceWeights(1.327, 5.8, 1.09, -1.08),
}
GEOMETRY_WEIGHTS = GeometryWeights(6.0, 1.0, 1.0, 3.0, 1.0, -4.0)


def predict_confidence(found: Candidate) -> float:
    """Return the probability that the point is visible and this is it."""
    return float(1 / (1 + np.exp(-_logit(found))))


def describe_appearance(found: Candidate) -> Array:
    """Return the evidence (3,) for a place that was found by appearance.

    Each entry grows with the probability: the names of `AppearanceWeights`, in their order.
    """
    local = found.local
    if local is None:
        raise ValueError(f'{found.evidence.name}: the click\'s depth gave this place')
    return np.array([local.worst_side, np.clip(local.reverse_margin, -0.3, 0.3),
                     local.patch_correlation])


def find_appearance_doubt(found: Candidate) -> str:
    """Return why a place that was found by appearance may be on another surface than the click."""
    local = found.local
    if found.evidence not in APPEARANCE_WEIGHTS or local is None \
            or local.worst_side > MIN_SIDE * local.support:
        return ''
    return (f'on one side {local.worst_side:.0%} of the keypoints around move with it, of all '
            f'{local.support:.0%} (at least {MIN_SIDE:.0%} of that): at the edge of a surface, or '
            'partly hidden')


def _logit(found: Candidate) -> float:
    if found.evidence in APPEARANCE_WEIGHTS:
        return float(APPEARANCE_WEIGHTS[found.evidence].logit(describe_appearance(found)))
    if found.evidence == EvidenceKind.BOTH_DEPTHS:
        return GEOMETRY_WEIGHTS.logit(found)
    weights, cycle_error = WEIGHTS[found.evidence], np.log1p(found.cycle_error_px / CYCLE_SCALE_PX)
    return (weights.score * found.score + weights.margin * min(max(found.margin, -1.0), 1.0)
            + weights.density * float(np.log(found.density + MIN_DENSITY))
            - weights.cycle_error * float(cycle_error) + weights.bias)


def predict_covariance_px2(found: Candidate) -> Array:
    """Return the covariance (2, 2) of the candidate's pixel, in scaled px, if it is right.

    From the median errors on real pairs: 2 px with depth and a corrected pose; by appearance
    3 px at full confidence, and more with less.
    """
    by_depth = found.evidence in (EvidenceKind.DEPTH_OF_CLICKED, EvidenceKind.BOTH_DEPTHS)
    if by_depth and found.reprojection_sigma_px <= ACCURATE_SIGMA_PX:
        return np.eye(2) * DEPTH_SIGMA_PX ** 2
    sigma_px = APPEARANCE_SIGMA_PX * (1 + float(np.exp(-_logit(found))))
    return np.eye(2) * min(sigma_px, found.reprojection_sigma_px, MAX_SIGMA_PX) ** 2
