"""How far a find may be trusted, and how far off it may be."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.search import ACCURATE_SIGMA_PX, Candidate, EvidenceKind

# Over this length the way back counts as gone cycle_error.
CYCLE_SCALE_PX = 8.0
MIN_DENSITY = 0.02
DEPTH_SIGMA_PX = 1.6
APPEARANCE_SIGMA_PX = 3.0
MAX_SIGMA_PX = 40.0


@dataclass(frozen=True)
class LogisticWeights:
    """One logistic: what the score, its lead, the matches' density and the way home are worth.

    Fitted to right (visible, within 20 px) against wrong answers, then stretched so that 0.5 keeps
    nine in ten of the right ones, and answers above 0.8 are right nine times in ten or more.
    docs/matcher.md tells how to fit them again.
    """

    score: float
    margin: float
    density: float
    cycle_error: float
    bias: float

    def logit(self, found: Candidate) -> float:
        """Weigh the evidence of a find."""
        return (self.score * found.score + self.margin * min(max(found.margin, -1.0), 1.0)
                + self.density * float(np.log(found.density + MIN_DENSITY))
                - self.cycle_error * float(np.log1p(found.cycle_error_px / CYCLE_SCALE_PX)) + self.bias)


WEIGHTS = {
    EvidenceKind.IMAGES: LogisticWeights(score=1.55, margin=0.25, density=0.82, cycle_error=0.65, bias=-4.75),
    EvidenceKind.LINES: LogisticWeights(score=0.9, margin=0.3, density=0.25, cycle_error=1.0, bias=-1.05),
    EvidenceKind.DEPTH_OF_OTHER: LogisticWeights(score=3.0, margin=1.5, density=0.05, cycle_error=0.7, bias=-3.2),
    EvidenceKind.DEPTH_OF_CLICKED: LogisticWeights(score=1.0, margin=2.6, density=0.2, cycle_error=1.0, bias=-0.4),
    EvidenceKind.BOTH_DEPTHS: LogisticWeights(score=0.9, margin=2.8, density=0.5, cycle_error=0.75, bias=0.2),
}
# The wrong answers among which BOTH_DEPTHS was fitted had poses that could not be corrected.
CORRECTED_POSE_BONUS = 0.8


def predict_confidence(found: Candidate) -> float:
    """Return 0..1: how sure it is that the point is visible and this is it."""
    return float(1 / (1 + np.exp(-_logit(found))))


def _logit(found: Candidate) -> float:
    corrected = found.evidence == EvidenceKind.BOTH_DEPTHS and found.reprojection_sigma_px <= ACCURATE_SIGMA_PX
    return WEIGHTS[found.evidence].logit(found) + (CORRECTED_POSE_BONUS if corrected else 0.0)


def predict_covariance_px2(found: Candidate) -> Array:
    """Covariance (2, 2) of the found working pixel, if it is the right place at all.

    From the median errors on real pairs: depth and a corrected pose leave 1.6 px, looks 3 px
    where everything agrees and ever more where less does.
    """
    by_depth = found.evidence in (EvidenceKind.DEPTH_OF_CLICKED, EvidenceKind.BOTH_DEPTHS)
    if by_depth and found.reprojection_sigma_px <= ACCURATE_SIGMA_PX:
        sigma_px = DEPTH_SIGMA_PX
    else:
        sigma_px = APPEARANCE_SIGMA_PX * (1 + float(np.exp(-_logit(found))))
        sigma_px = min(sigma_px, found.reprojection_sigma_px, MAX_SIGMA_PX)
    return np.eye(2) * sigma_px ** 2
