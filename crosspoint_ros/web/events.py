"""What the browsers are told, as JSON: results, history and what is known of the node."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import Correspondence, GraspTarget, History, HistoryEntry, QueryResult
from crosspoint_ros.ros.convert import stamp_ns

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'check',
            Correspondence.SURE: 'sure'}
CHECKS = {Correspondence.UNKNOWN: 'unknown', Correspondence.PASS: 'pass',
          Correspondence.FAIL: 'fail'}
METHODS = {GraspTarget.DEPTH_CLICKED: 'depth of the clicked view',
           GraspTarget.DEPTH_FOUND: 'depth of another view',
           GraspTarget.TRIANGULATED: 'triangulated', GraspTarget.FUSED: 'depth and rays agree'}
DECIDED = {HistoryEntry.UNREVIEWED: 'unreviewed', HistoryEntry.ACCEPTED: 'accepted',
           HistoryEntry.CORRECTED: 'corrected', HistoryEntry.MOVED: 'moved'}
Json = dict[str, Any]


def event(kind: str, content: Mapping[str, Any]) -> str:
    """Write one event."""
    return json.dumps({'type': kind, **content}, allow_nan=False, separators=(',', ':'))


def number(value: float, digits: int = 4) -> float | None:
    """A number as JSON can hold it: None for NaN and infinity."""
    return round(float(value), digits) if math.isfinite(value) else None


def result_json(result: QueryResult) -> Json:
    """One result, as the page shows it."""
    seconds = dict(zip(result.stages, result.stage_s, strict=False))
    return {
        'query_id': result.query_id, **_status(result.status), 'clicked': _point(result.clicked),
        'found': [_correspondence(c) for c in result.correspondences],
        'target': _target(result.target) if result.has_target else None,
        'ms': number(1000 * math.fsum(seconds.values()), 1),
        'match_ms': number(1000 * seconds['match'], 1) if 'match' in seconds else None}


def _status(status: Any) -> Json:
    known = status.code in set(Code)
    return {'code': Code(status.code).name if known else str(status.code),
            'message': status.message}


def _point(point: Any) -> Json:
    return {'camera': point.camera, 'stamp': str(stamp_ns(point.header.stamp)),
            'x': number(point.x, 2), 'y': number(point.y, 2)}


def _correspondence(answer: Correspondence) -> Json:
    covariance = [number(v, 3) for v in answer.covariance_px2]
    return {**_point(answer.found), **_status(answer.status),
            'confidence': number(answer.confidence, 3),
            'verdict': VERDICTS.get(answer.verdict, 'refused'),
            'check': CHECKS.get(answer.check, 'unknown'),
            'covariance_px2': None if None in covariance else covariance,
            'epipolar_error_px': number(answer.epipolar_error_px, 2),
            'depth_gap_m': number(answer.depth_gap_m, 4)}


def _target(target: GraspTarget) -> Json:
    at, turned = target.pose.pose.position, target.pose.pose.orientation
    variance = max((target.pose.covariance[7 * i] for i in range(3)), default=math.nan)
    return {'frame': target.header.frame_id, 'position_m': [number(v) for v in (at.x, at.y, at.z)],
            'quaternion_xyzw': [number(v, 5) for v in (turned.x, turned.y, turned.z, turned.w)],
            'spread_mm': number(1000 * math.sqrt(max(variance, 0.0)), 1),
            'confidence': number(target.confidence, 3),
            'method': METHODS.get(target.method, 'unknown')}


def history_json(history: History) -> Json:
    """The steps, and where undo and redo stand."""
    return {'entries': [{'number': entry.number, 'query_id': entry.result.query_id,
                         'clicked': _point(entry.result.clicked),
                         'decided': DECIDED.get(entry.decided, 'unreviewed')}
                        for entry in history.entries],
            'current': history.current, 'undone': history.undone,
            'can_undo': history.can_undo, 'can_redo': history.can_redo}
