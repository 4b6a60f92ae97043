"""What a browser may say, read strictly: a request with all its fields in range, or a refusal."""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import Correspondence, GraspTarget, History, HistoryEntry, QueryResult
from crosspoint_ros.ros.conversions import stamp_ns

MAX_BYTES = 4096  # of one message: an instruction is the longest thing in it
MAX_INSTRUCTION = 500
MAX_PX = 100_000.0
MAX_NS = 2**31 * 10**9 - 1  # a message's seconds have 32 bits


class BadRequest(ValueError):  # noqa: N818  (told in one sentence)
    """What came is no request; says what is wrong with it."""


@dataclass(frozen=True)
class Next:
    """Wants the next picture of a camera, once there is one with another stamp."""

    camera: str
    after: str


@dataclass(frozen=True)
class Past:
    """Wants a picture again: one on which an answer was given."""

    camera: str
    stamp: str


@dataclass(frozen=True)
class Click:
    """A pixel of the picture with that stamp (ns, 0: the newest)."""

    id: int
    camera: str
    stamp: str
    x: float
    y: float


@dataclass(frozen=True)
class Instruct:
    """Words instead of a pixel, for matchers that can find what is described."""

    id: int
    camera: str
    instruction: str


@dataclass(frozen=True)
class Cancel:
    """Gives up all clicks of this browser that are still open."""

    id: int


@dataclass(frozen=True)
class Accept:
    """Accepts the answer of that query."""

    id: int
    query_id: str


@dataclass(frozen=True)
class Correct:
    """Says where the point of an answer really is in one view."""

    id: int
    query_id: str
    camera: str
    x: float
    y: float


@dataclass(frozen=True)
class Step:
    """One of the requests that have no content: undo, redo, clear."""

    id: int
    step: str


Question = Click | Instruct | Accept | Correct | Step
Request = Next | Past | Cancel | Question
KINDS: dict[str, type] = {
    'next': Next, 'past': Past, 'click': Click, 'instruct': Instruct, 'cancel': Cancel,
    'accept': Accept, 'correct': Correct, 'step': Step}
STEPS = ('undo', 'redo', 'clear')


def parse(text: str) -> Request:
    """Read one message; raise BadRequest, in words that may be shown to whoever sent it."""
    if len(text.encode(errors='replace')) > MAX_BYTES:
        raise BadRequest(f'a message of {len(text)} characters is too long: the limit is '
                         f'{MAX_BYTES} bytes')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest('the message is no JSON') from None
    if not isinstance(content, dict):
        raise BadRequest('the message is no JSON object')
    kind = content.pop('type', None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRequest(f'the type {_shown(kind)} is none of {", ".join(KINDS)}')
    wanted = [field.name for field in fields(KINDS[kind])]
    if set(content) != set(wanted):
        raise BadRequest(f'a message of type {kind} has the fields {", ".join(wanted)}, not '
                         f'{_shown(sorted(content))}')
    values = {name: CHECKS[name](name, content[name]) for name in wanted}
    request: Request = KINDS[kind](**values)
    return request


def _shown(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 80 else f'{told[:77]}...'


def _text(limit: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
            raise BadRequest(f'{name} is {_shown(value)}: it takes 1 to {limit} characters of text')
        return value
    return check


def _number(name: str, value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not abs(value) <= MAX_PX:  # NaN is not, and a huge int has no float
        raise BadRequest(f'{name} is {_shown(value)}: a number of pixels is needed')
    return float(value)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise BadRequest(f'{name} is {_shown(value)}: a whole number of 0 or more is needed')
    return value


def _stamp(name: str, value: Any) -> str:
    # Text: JavaScript's numbers lose the last digits of nanoseconds.
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() \
            or len(value) > 19 or int(value) > MAX_NS:
        raise BadRequest(f'{name} is {_shown(value)}: nanoseconds as text are needed, "0" for '
                         'the newest')
    return value


def _step(name: str, value: Any) -> str:
    if value not in STEPS:
        raise BadRequest(f'{name} is {_shown(value)}: it is none of {", ".join(STEPS)}')
    return str(value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    'id': _count, 'camera': _text(64), 'query_id': _text(64), 'stamp': _stamp, 'after': _stamp,
    'x': _number, 'y': _number, 'instruction': _text(MAX_INSTRUCTION), 'step': _step,
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
            'check': CHECK_NAMES.get(answer.check, 'unknown'),
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
