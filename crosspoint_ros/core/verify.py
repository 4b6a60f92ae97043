"""Reasons not to trust a match."""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from crosspoint_ros.core.datatypes import Match, Query


class Check(IntEnum):
    """What geometry says of a match: the constants of `Correspondence.msg`."""

    UNKNOWN = 0
    PASS = 1
    FAIL = 2


@dataclass(frozen=True)
class Limits:
    """When an answer is refused. The only place these defaults live."""

    min_confidence: float = 0.5
    sure_confidence: float = 0.8
    max_epipolar_px: float = 20.0
    max_depth_gap_m: float = 0.05
    min_ray_angle_deg: float = 10.0


@dataclass(frozen=True)
class Evidence:
    """What geometry measured. NaN: could not be checked."""

    check: Check = Check.UNKNOWN
    epipolar_error_px: float = np.nan
    depth_gap_m: float = np.nan


def examine(query: Query, match: Match, limits: Limits) -> Evidence:
    """Measure how well a match agrees with the poses and depths of its two views."""
    raise NotImplementedError


def verify(query: Query, match: Match, evidence: Evidence, limits: Limits) -> None:
    """Raise `Rejected` with the measured value and the limit if the match is not to be trusted."""
    raise NotImplementedError
