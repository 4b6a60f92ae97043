"""QueryResult messages as text and as JSON."""
from __future__ import annotations

import math
from typing import Any

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult, Status, TargetState

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'check',
            Correspondence.SURE: 'sure'}
CHECK_NAMES = {Correspondence.UNKNOWN: 'unknown', Correspondence.PASS: 'pass',
               Correspondence.FAIL: 'fail'}
METHODS = {GraspTarget.DEPTH_CLICKED: 'depth of the clicked view',
           GraspTarget.DEPTH_FOUND: 'depth of another view',
           GraspTarget.TRIANGULATED: 'triangulated', GraspTarget.FUSED: 'depth and rays agree'}
UNSET_MESSAGE = ('no answer: this result was never filled in. A node keeps the result of a goal '
                 'for five minutes after it ended: ask for it sooner, or read ~/result')
Json = dict[str, Any]


def is_accepted(result: QueryResult) -> bool:
    """Whether the point was found in at least one other view, or has a target without."""
    return result.has_target or any(
        view.verdict != Correspondence.REFUSED for view in result.correspondences)


def is_target_sure(result: QueryResult) -> bool:
    """Whether there is a target and a view that confirms it is sure; False: to be checked."""
    return result.has_target and any(
        view.verdict == Correspondence.SURE for view in result.correspondences)


def format_verdict(result: QueryResult) -> str:
    """Return the verdict of the best view, or of a target without one: sure, check or refused."""
    best = max((view.verdict for view in result.correspondences), default=Correspondence.REFUSED)
    return VERDICTS[max(best, Correspondence.TO_BE_CHECKED) if result.has_target else best]


def explain_unset(result: QueryResult) -> str:
    """Return why a result is not an answer at all; '' if it is one, or a refusal."""
    is_set = result.query_id or result.status.code not in (Status.OK, Status.UNSET)
    return '' if is_set else UNSET_MESSAGE


def find_view(result: QueryResult, camera: str) -> Correspondence:
    """Return the answer in one camera. Raises KeyError with those that were searched."""
    views = {view.found.camera: view for view in result.correspondences}
    if camera not in views:
        raise KeyError(f'no answer in {camera!r}; searched: {", ".join(views) or "none"}')
    return views[camera]


def format_result(result: QueryResult) -> str:
    """Return a result as lines of text: the click, each view, the 3D target, the message."""
    unset = explain_unset(result)
    if unset:
        return unset
    clicked = result.clicked
    lines = [f'{clicked.camera} ({clicked.x:.1f}, {clicked.y:.1f})']
    for view in result.correspondences:
        if view.verdict == Correspondence.REFUSED:
            text = f'refused: {view.status.message}'
        else:
            verdict = 'sure' if view.verdict == Correspondence.SURE else 'to be checked'
            text = (f'({view.found.x:.1f}, {view.found.y:.1f}), {verdict}, confidence '
                    f'{view.confidence:.2f}{": " if view.status.message else ""}'
                    f'{view.status.message}')
        lines.append(f'  in {view.found.camera}: {text}')
    if result.has_target:
        at = result.target.pose.pose.position
        name = f'target {result.target.name}, ' if result.target.name else ''
        lines.append(f'  {name}3D in {result.target.header.frame_id}: ({at.x:.3f}, {at.y:.3f}, '
                     f'{at.z:.3f}) m, +-{1000 * _target_sigma_m(result.target):.0f} mm'
                     f'{"" if is_target_sure(result) else ", to be checked"}')
    if result.status.message:
        lines.append(f'  {result.status.message}')
    return '\n'.join(lines)


STATE_NAMES = {getattr(TargetState, name): name for name in (
    'NONE', 'PENDING', 'STANDING', 'TRACKING', 'COASTING', 'MOVED', 'LOST', 'EXPIRED', 'CLEARED')}


def format_state(state: TargetState) -> str:
    """Return a target's state in one line: whether to go on, where it is, and why."""
    at = state.pose.pose.position
    place = '' if math.isnan(at.x) else f' at ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m'
    name = f'{state.name}: ' if state.name else ''
    return (f'{name}{STATE_NAMES.get(state.state, state.state)}{place}, '
            f'{"go on" if state.valid else "stop"}: {state.message}')


def result_to_json(result: QueryResult) -> Json:
    """Return a result for `json.dumps`; numbers that are not finite are None."""
    unset = explain_unset(result)
    status = Status(message=unset) if unset else result.status
    seconds = dict(zip(result.stages, result.stage_s, strict=False))
    return {
        'query_id': result.query_id, **_status_to_json(status),
        'clicked': point_to_json(result.clicked),
        'found': [_correspondence_to_json(c) for c in result.correspondences],
        'target': grasp_target_to_json(result.target) if result.has_target else None,
        'ms': round_finite(1000 * math.fsum(seconds.values()), 1),
        'match_ms': round_finite(1000 * seconds['match'], 1) if 'match' in seconds else None}


def point_to_json(point: Any) -> Json:
    """Return an ImagePoint; the stamp is text, since JavaScript rounds 64-bit integers."""
    return {'camera': point.camera, 'stamp': str(stamp_to_ns(point.header.stamp)),
            'x': round_finite(point.x, 2), 'y': round_finite(point.y, 2)}


def round_finite(value: float, digits: int = 4) -> float | None:
    """Round a number for JSON: None for NaN and infinity."""
    return round(float(value), digits) if math.isfinite(value) else None


def _status_to_json(status: Any) -> Json:
    known = status.code in set(Code)
    return {'code': Code(status.code).name if known else str(status.code),
            'message': status.message}


def _correspondence_to_json(answer: Correspondence) -> Json:
    covariance = [round_finite(v, 3) for v in answer.covariance_px2]
    is_refused = answer.verdict == Correspondence.REFUSED
    return {**point_to_json(answer.found), **_status_to_json(answer.status),
            'confidence': round_finite(answer.confidence, 3),
            'verdict': VERDICTS.get(answer.verdict, 'refused'),
            'check': CHECK_NAMES.get(answer.check, 'unknown'),
            'covariance_px2': None if None in covariance else covariance,
            'epipolar_error_px': round_finite(answer.epipolar_error_px, 2),
            'depth_gap_m': round_finite(answer.depth_gap_m, 4),
            'refused_px': find_refused_pixel(answer) if is_refused else None}


def find_refused_pixel(answer: Correspondence) -> list[float] | None:
    """Return the place [x, y] px that was refused; None without one.

    It is not in `found`, so that no program takes it for an answer.
    """
    place = [answer.refused_at.x, answer.refused_at.y]
    return [round(v, 2) for v in place] if all(map(math.isfinite, place)) else None


def grasp_target_to_json(target: GraspTarget) -> Json:
    """Return a target for `json.dumps`."""
    at, q = target.pose.pose.position, target.pose.pose.orientation
    return {'name': target.name, 'frame': target.header.frame_id, 'target_frame': target.frame,
            'position_m': [round_finite(v) for v in (at.x, at.y, at.z)],
            'quaternion_xyzw': [round_finite(v, 5) for v in (q.x, q.y, q.z, q.w)],
            'spread_mm': round_finite(1000 * _target_sigma_m(target), 1),
            'confidence': round_finite(target.confidence, 3),
            'method': METHODS.get(target.method, 'unknown'),
            'normal_measured': target.normal_measured,
            'sigma_normal_rad': round_finite(target.sigma_normal_rad, 3),
            'sigma_yaw_rad': round_finite(target.sigma_yaw_rad, 3),
            'width_m': round_finite(target.width_m),
            'pregrasp_m': [round_finite(v) for v in (
                target.pregrasp.position.x, target.pregrasp.position.y,
                target.pregrasp.position.z)]}


def _target_sigma_m(target: GraspTarget) -> float:
    """Return the largest standard deviation along an axis."""
    return math.sqrt(max(0.0, *(target.pose.covariance[7 * i] for i in range(3))))
