"""Reasons not to trust a match."""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected
from crosspoint_ros.core.depth import surface_point
from crosspoint_ros.core.geometry import distance_to_segment_px, epipolar_segment

MIN_BASELINE_M = 0.005  # closer than this, two cameras are at the same place


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
    """Measure how well a match agrees with the poses and depths of its two views.

    The epipolar error is the distance to the clicked ray as the other view shows it, px there. The
    depth gap is the distance between the two surfaces that depth gives at the clicked and at the
    found pixel, m. Raises `Rejected` when there is no pixel to measure at.
    """
    _check_pixel(query, match)
    epipolar_px, gap_m = _epipolar_error_px(query, match), _depth_gap_m(query, match)
    checks = [error <= limit for error, limit in ((epipolar_px, limits.max_epipolar_px),
                                                  (gap_m, limits.max_depth_gap_m))
              if np.isfinite(error)]
    check = Check.UNKNOWN if not checks else Check.PASS if all(checks) else Check.FAIL
    return Evidence(check, epipolar_px, gap_m)


def verify(query: Query, match: Match, evidence: Evidence, limits: Limits) -> None:
    """Raise `Rejected` with the measured value and the limit if the match is not to be trusted."""
    if not match.confidence >= limits.min_confidence:
        raise Rejected(Code.LOW_CONFIDENCE, f'confidence {match.confidence:.2f} in '
                       f'{query.other.camera} (limits.min_confidence {limits.min_confidence:g})')
    if evidence.epipolar_error_px > limits.max_epipolar_px:
        raise Rejected(Code.INCONSISTENT, f'the found point is {evidence.epipolar_error_px:.1f} px '
                       f'off the clicked ray in {query.other.camera} (limits.max_epipolar_px '
                       f'{limits.max_epipolar_px:g}): a look-alike, or wrong extrinsics')
    if evidence.depth_gap_m > limits.max_depth_gap_m:
        raise Rejected(Code.INCONSISTENT, f'the surfaces at the clicked and at the found point '
                       f'are {evidence.depth_gap_m:.3f} m apart (limits.max_depth_gap_m '
                       f'{limits.max_depth_gap_m:g}): hidden there, or wrong depth or extrinsics')


def _check_pixel(query: Query, match: Match) -> None:
    other, (x, y) = query.other, match.pixel
    if not (np.isfinite(match.pixel).all() and np.isfinite(match.confidence)):
        raise Rejected(Code.MATCHER_FAILED, f'the matcher answered ({x}, {y}) with confidence '
                       f'{match.confidence}: not finite')
    if not other.intrinsics.contains(match.pixel):
        raise Rejected(Code.NOT_VISIBLE, f'found at ({x:.1f}, {y:.1f}), outside the '
                       f'{other.intrinsics.width_px}x{other.intrinsics.height_px} image of '
                       f'{other.camera}')
    if other.hidden(match.pixel):
        raise Rejected(Code.NOT_VISIBLE, f"found at ({x:.1f}, {y:.1f}) on the robot's own body in "
                       f'{other.camera} (its mask)')


def _epipolar_error_px(query: Query, match: Match) -> float:
    clicked, other = query.clicked, query.other
    if clicked.base_from_cam is None or other.base_from_cam is None:
        return np.nan
    other_from_clicked = other.base_from_cam.inverse @ clicked.base_from_cam
    if np.linalg.norm(other_from_clicked.t_m) < MIN_BASELINE_M:
        return np.nan
    segment = epipolar_segment(clicked.intrinsics, other.intrinsics, other_from_clicked,
                               query.pixel)
    return distance_to_segment_px(segment, match.pixel)


def _depth_gap_m(query: Query, match: Match) -> float:
    clicked_base_m = surface_point(query.clicked, query.pixel)
    found_base_m = surface_point(query.other, match.pixel)
    if clicked_base_m is None or found_base_m is None:
        return np.nan
    return float(np.linalg.norm(clicked_base_m - found_base_m))
