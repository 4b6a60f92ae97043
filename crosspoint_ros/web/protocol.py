"""What a browser may say, read strictly: a request with all its fields in range, or a refusal."""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import Correspondence, GraspTarget, History, HistoryEntry, QueryResult
from crosspoint_ros.ros.conversions import stamp_to_ns

MAX_MESSAGE_BYTES = 4096  # of one message: an instruction is the longest thing in it
MAX_INSTRUCTION_LENGTH = 500
MAX_PX = 100_000.0
MAX_STAMP_NS = 2**31 * 10**9 - 1  # a message's seconds have 32 bits


class RequestError(ValueError):
    """What came is no request; says what is wrong with it."""


@dataclass(frozen=True)
class NextImageRequest:
    """Wants the next picture of a camera, once there is one with another stamp."""

    camera: str
    after: str


@dataclass(frozen=True)
class SentImageRequest:
    """Wants a picture again: one on which an answer was given."""

    camera: str
    stamp: str


@dataclass(frozen=True)
class ClickRequest:
    """A pixel of the picture with that stamp (ns, 0: the newest)."""

    id: int
    camera: str
    stamp: str
    x: float
    y: float


@dataclass(frozen=True)
class InstructRequest:
    """Words instead of a pixel, for matchers that can find what is described."""

    id: int
    camera: str
    instruction: str


@dataclass(frozen=True)
class CancelRequest:
    """Gives up all clicks of this browser that are still open."""

    id: int


@dataclass(frozen=True)
class AcceptRequest:
    """Accepts the answer of that query."""

    id: int
    query_id: str


@dataclass(frozen=True)
class CorrectRequest:
    """Says where the point of an answer really is in one view."""

    id: int
    query_id: str
    camera: str
    x: float
    y: float


@dataclass(frozen=True)
class StepRequest:
    """One of the requests that have no content: undo, redo, clear."""

    id: int
    step: str


NodeRequest = ClickRequest | InstructRequest | AcceptRequest | CorrectRequest | StepRequest
Request = NextImageRequest | SentImageRequest | CancelRequest | NodeRequest
REQUEST_TYPES: dict[str, type] = {
    'next': NextImageRequest, 'past': SentImageRequest, 'click': ClickRequest, 'instruct': InstructRequest, 'cancel': CancelRequest,
    'accept': AcceptRequest, 'correct': CorrectRequest, 'step': StepRequest}
STEPS = ('undo', 'redo', 'clear')


def parse_request(text: str) -> Request:
    """Read one message; raise BadRequest, in words that may be shown to whoever sent it."""
    if len(text.encode(errors='replace')) > MAX_MESSAGE_BYTES:
        raise RequestError(f'a message of {len(text)} characters is too long: the limit is '
                         f'{MAX_MESSAGE_BYTES} bytes')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError('the message is no JSON') from None
    if not isinstance(content, dict):
        raise RequestError('the message is no JSON object')
    kind = content.pop('type', None)
    if not isinstance(kind, str) or kind not in REQUEST_TYPES:
        raise RequestError(f'the type {_quote(kind)} is none of {", ".join(REQUEST_TYPES)}')
    wanted = [field.name for field in fields(REQUEST_TYPES[kind])]
    if set(content) != set(wanted):
        raise RequestError(f'a message of type {kind} has the fields {", ".join(wanted)}, not '
                         f'{_quote(sorted(content))}')
    values = {name: VALIDATORS[name](name, content[name]) for name in wanted}
    request: Request = REQUEST_TYPES[kind](**values)
    return request


def _quote(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 80 else f'{told[:77]}...'


def _text_validator(limit: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
            raise RequestError(f'{name} is {_quote(value)}: it takes 1 to {limit} characters of text')
        return value
    return check


def _check_number(name: str, value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not abs(value) <= MAX_PX:  # NaN is not, and a huge int has no float
        raise RequestError(f'{name} is {_quote(value)}: a number of pixels is needed')
    return float(value)


def _check_id(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise RequestError(f'{name} is {_quote(value)}: a whole number of 0 or more is needed')
    return value


def _check_stamp(name: str, value: Any) -> str:
    # Text: JavaScript's numbers lose the last digits of nanoseconds.
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() \
            or len(value) > 19 or int(value) > MAX_STAMP_NS:
        raise RequestError(f'{name} is {_quote(value)}: nanoseconds as text are needed, "0" for '
                         'the newest')
    return value


def _check_step(name: str, value: Any) -> str:
    if value not in STEPS:
        raise RequestError(f'{name} is {_quote(value)}: it is none of {", ".join(STEPS)}')
    return str(value)


VALIDATORS: dict[str, Callable[[str, Any], Any]] = {
    'id': _check_id, 'camera': _text_validator(64), 'query_id': _text_validator(64), 'stamp': _check_stamp, 'after': _check_stamp,
    'x': _check_number, 'y': _check_number, 'instruction': _text_validator(MAX_INSTRUCTION_LENGTH), 'step': _check_step,
}


VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'check',
            Correspondence.SURE: 'sure'}
CHECK_NAMES = {Correspondence.UNKNOWN: 'unknown', Correspondence.PASS: 'pass',
          Correspondence.FAIL: 'fail'}
METHODS = {GraspTarget.DEPTH_CLICKED: 'depth of the clicked view',
           GraspTarget.DEPTH_FOUND: 'depth of another view',
           GraspTarget.TRIANGULATED: 'triangulated', GraspTarget.FUSED: 'depth and rays agree'}
DECIDED = {HistoryEntry.UNREVIEWED: 'unreviewed', HistoryEntry.ACCEPTED: 'accepted',
           HistoryEntry.CORRECTED: 'corrected', HistoryEntry.MOVED: 'moved'}
Json = dict[str, Any]


def encode_event(kind: str, content: Mapping[str, Any]) -> str:
    """Write one event."""
    return json.dumps({'type': kind, **content}, allow_nan=False, separators=(',', ':'))


def round_finite(value: float, digits: int = 4) -> float | None:
    """A number as JSON can hold it: None for NaN and infinity."""
    return round(float(value), digits) if math.isfinite(value) else None


def result_to_json(result: QueryResult) -> Json:
    """One result, as the page shows it."""
    seconds = dict(zip(result.stages, result.stage_s, strict=False))
    return {
        'query_id': result.query_id, **_status_to_json(result.status), 'clicked': _point_to_json(result.clicked),
        'found': [_correspondence_to_json(c) for c in result.correspondences],
        'target': _target_to_json(result.target) if result.has_target else None,
        'ms': round_finite(1000 * math.fsum(seconds.values()), 1),
        'match_ms': round_finite(1000 * seconds['match'], 1) if 'match' in seconds else None}


def _status_to_json(status: Any) -> Json:
    known = status.code in set(Code)
    return {'code': Code(status.code).name if known else str(status.code),
            'message': status.message}


def _point_to_json(point: Any) -> Json:
    return {'camera': point.camera, 'stamp': str(stamp_to_ns(point.header.stamp)),
            'x': round_finite(point.x, 2), 'y': round_finite(point.y, 2)}


def _correspondence_to_json(answer: Correspondence) -> Json:
    covariance = [round_finite(v, 3) for v in answer.covariance_px2]
    return {**_point_to_json(answer.found), **_status_to_json(answer.status),
            'confidence': round_finite(answer.confidence, 3),
            'verdict': VERDICTS.get(answer.verdict, 'refused'),
            'check': CHECK_NAMES.get(answer.check, 'unknown'),
            'covariance_px2': None if None in covariance else covariance,
            'epipolar_error_px': round_finite(answer.epipolar_error_px, 2),
            'depth_gap_m': round_finite(answer.depth_gap_m, 4)}


def _target_to_json(target: GraspTarget) -> Json:
    at, turned = target.pose.pose.position, target.pose.pose.orientation
    variance = max((target.pose.covariance[7 * i] for i in range(3)), default=math.nan)
    return {'frame': target.header.frame_id, 'position_m': [round_finite(v) for v in (at.x, at.y, at.z)],
            'quaternion_xyzw': [round_finite(v, 5) for v in (turned.x, turned.y, turned.z, turned.w)],
            'spread_mm': round_finite(1000 * math.sqrt(max(variance, 0.0)), 1),
            'confidence': round_finite(target.confidence, 3),
            'method': METHODS.get(target.method, 'unknown')}


def history_to_json(history: History) -> Json:
    """The steps, and where undo and redo stand."""
    return {'entries': [{'number': entry.number, 'query_id': entry.result.query_id,
                         'clicked': _point_to_json(entry.result.clicked),
                         'decided': DECIDED.get(entry.decided, 'unreviewed')}
                        for entry in history.entries],
            'current': history.current, 'undone': history.undone,
            'can_undo': history.can_undo, 'can_redo': history.can_redo}
