"""How far a find may be trusted, and how far off it may be."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.search import SURE_SLACK_PX, Evidence, Found

# Over this length the way back counts as gone astray.
HOME_PX = 8.0
LEAST_DENSITY = 0.02
DEPTH_SIGMA_PX = 1.6
LOOKS_SIGMA_PX = 3.0
MAX_SIGMA_PX = 40.0


@dataclass(frozen=True)
class Weights:
    """One logistic: what the score, its lead, the matches' density and the way home are worth.

    Fitted to right (visible, within 20 px) against wrong answers, then stretched so that 0.5 keeps
    nine in ten of the right ones, and answers above 0.8 are right nine times in ten or more.
    docs/matcher.md tells how to fit them again.
    """

    score: float
    margin: float
    density: float
    astray: float
    bias: float

    def logit(self, found: Found) -> float:
        """Weigh the evidence of a find."""
        return (self.score * found.score + self.margin * min(max(found.margin, -1.0), 1.0)
                + self.density * float(np.log(found.density + LEAST_DENSITY))
                - self.astray * float(np.log1p(found.return_px / HOME_PX)) + self.bias)


WEIGHTS = {
    Evidence.IMAGES: Weights(score=1.55, margin=0.25, density=0.82, astray=0.65, bias=-4.75),
    Evidence.LINES: Weights(score=0.9, margin=0.3, density=0.25, astray=1.0, bias=-1.05),
    Evidence.DEPTH_OF_OTHER: Weights(score=3.0, margin=1.5, density=0.05, astray=0.7, bias=-3.2),
    Evidence.DEPTH_OF_CLICKED: Weights(score=1.0, margin=2.6, density=0.2, astray=1.0, bias=-0.4),
    Evidence.BOTH_DEPTHS: Weights(score=0.9, margin=2.8, density=0.5, astray=0.75, bias=0.2),
}
# The wrong answers among which BOTH_DEPTHS was fitted had poses that could not be corrected.
CORRECTED_POSE_BONUS = 0.8


def confidence(found: Found) -> float:
    """Return 0..1: how sure it is that the point is visible and this is it."""
    return float(1 / (1 + np.exp(-_logit(found))))


def _logit(found: Found) -> float:
    corrected = found.by == Evidence.BOTH_DEPTHS and found.slack_px <= SURE_SLACK_PX
    return WEIGHTS[found.by].logit(found) + (CORRECTED_POSE_BONUS if corrected else 0.0)


def covariance_px2(found: Found) -> Array:
    """Covariance (2, 2) of the found working pixel, if it is the right place at all.

    From the median errors on real pairs: depth and a corrected pose leave 1.6 px, looks 3 px
    where everything agrees and ever more where less does.
    """
    by_depth = found.by in (Evidence.DEPTH_OF_CLICKED, Evidence.BOTH_DEPTHS)
    if by_depth and found.slack_px <= SURE_SLACK_PX:
        sigma_px = DEPTH_SIGMA_PX
    else:
        sigma_px = LOOKS_SIGMA_PX * (1 + float(np.exp(-_logit(found))))
        sigma_px = min(sigma_px, found.slack_px, MAX_SIGMA_PX)
    return np.eye(2) * sigma_px ** 2
