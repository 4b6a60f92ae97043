"""Confidence and covariance of a candidate, by logistic regression on its evidence."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.search import ACCURATE_SIGMA_PX, Candidate, EvidenceKind

CYCLE_SCALE_PX = 8.0  # of the forward-backward error
MIN_DENSITY = 0.02
DEPTH_SIGMA_PX = 1.6
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


WEIGHTS = {
    EvidenceKind.IMAGES: LogisticWeights(1.55, 0.25, 0.82, 0.65, -4.75),
    EvidenceKind.LINES: LogisticWeights(0.9, 0.3, 0.25, 1.0, -1.05),
    EvidenceKind.DEPTH_OF_OTHER: LogisticWeights(3.0, 1.5, 0.05, 0.7, -3.2),
    EvidenceKind.DEPTH_OF_CLICKED: LogisticWeights(1.0, 2.6, 0.2, 1.0, -0.4),
    EvidenceKind.BOTH_DEPTHS: LogisticWeights(0.9, 2.8, 0.5, 0.75, 0.2),
}
# Of matches that the second descriptor took part in.
WEIGHTS_WITH_SECOND = {
    EvidenceKind.IMAGES: LogisticWeights(1.06, 1.45, 0.8, 0.44, -5.8),
    EvidenceKind.LINES: LogisticWeights(0.18, 1.43, 0.56, 0.69, -1.75),
}
# The wrong matches to which BOTH_DEPTHS was fitted had poses that could not be corrected.
CORRECTED_POSE_BONUS = 0.8


def predict_confidence(found: Candidate) -> float:
    """Return the probability that the point is visible and this is it."""
    return float(1 / (1 + np.exp(-_logit(found))))


def _logit(found: Candidate) -> float:
    table = WEIGHTS if np.isnan(found.second_score) else WEIGHTS_WITH_SECOND
    weights, cycle_error = table[found.evidence], np.log1p(found.cycle_error_px / CYCLE_SCALE_PX)
    is_corrected = (found.evidence == EvidenceKind.BOTH_DEPTHS
                    and found.reprojection_sigma_px <= ACCURATE_SIGMA_PX)
    return (weights.score * found.score + weights.margin * min(max(found.margin, -1.0), 1.0)
            + weights.density * float(np.log(found.density + MIN_DENSITY))
            - weights.cycle_error * float(cycle_error) + weights.bias
            + CORRECTED_POSE_BONUS * is_corrected)


def predict_covariance_px2(found: Candidate) -> Array:
    """Return the covariance (2, 2) of the candidate's pixel, in scaled px, if it is right.

    From the median errors on real pairs: 1.6 px with depth and a corrected pose; by appearance
    3 px at full confidence, and more with less.
    """
    by_depth = found.evidence in (EvidenceKind.DEPTH_OF_CLICKED, EvidenceKind.BOTH_DEPTHS)
    if by_depth and found.reprojection_sigma_px <= ACCURATE_SIGMA_PX:
        return np.eye(2) * DEPTH_SIGMA_PX ** 2
    sigma_px = APPEARANCE_SIGMA_PX * (1 + float(np.exp(-_logit(found))))
    return np.eye(2) * min(sigma_px, found.reprojection_sigma_px, MAX_SIGMA_PX) ** 2
