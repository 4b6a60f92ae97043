"""How far a find may be trusted, and how far off it may be."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.search import SURE_SLACK_PX, Found

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


BY_LOOKS = Weights(score=1.55, margin=0.25, density=0.82, astray=0.65, bias=-4.75)
BY_DEPTH_OF_OTHER = Weights(score=3.0, margin=1.5, density=0.05, astray=0.7, bias=-3.2)
BY_DEPTH_OF_CLICKED = Weights(score=1.0, margin=2.6, density=0.2, astray=1.0, bias=-0.4)
BY_BOTH_DEPTHS = Weights(score=0.9, margin=2.8, density=0.5, astray=0.75, bias=0.2)
# The wrong answers among which BY_BOTH_DEPTHS was fitted had poses that could not be corrected.
CORRECTED_POSE_BONUS = 0.8


def confidence(found: Found) -> float:
    """Return 0..1: how sure it is that the point is visible and this is it."""
    return float(1 / (1 + np.exp(-_logit(found))))


def _logit(found: Found) -> float:
    if not found.by_depth:
        seen = np.isfinite(found.slack_px)
        return (BY_DEPTH_OF_OTHER if seen else BY_LOOKS).logit(found)
    if np.isnan(found.gap_m):
        return BY_DEPTH_OF_CLICKED.logit(found)
    bonus = CORRECTED_POSE_BONUS if found.slack_px <= SURE_SLACK_PX else 0.0
    return BY_BOTH_DEPTHS.logit(found) + bonus


def covariance_px2(found: Found) -> Array:
    """Covariance (2, 2) of the found working pixel, if it is the right place at all.

    From the median errors on real pairs: depth and a corrected pose leave 1.6 px, looks 3 px
    where everything agrees and ever more where less does.
    """
    if found.by_depth and found.slack_px <= SURE_SLACK_PX:
        sigma_px = DEPTH_SIGMA_PX
    else:
        sigma_px = LOOKS_SIGMA_PX * (1 + float(np.exp(-_logit(found))))
        sigma_px = min(sigma_px, found.slack_px, MAX_SIGMA_PX)
    return np.eye(2) * sigma_px ** 2
