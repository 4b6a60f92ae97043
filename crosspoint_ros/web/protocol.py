"""Messages of the page's WebSocket: validated requests, and events as JSON."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Any

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import History
from crosspoint_ros.ros.client.results import Json, format_verdict, point_to_json
from crosspoint_ros.ros.target.history import DECISION_NAMES
from crosspoint_ros.web.plain_text import format_time

MAX_MESSAGE_BYTES = 4096
MAX_INSTRUCTION_LENGTH = 500
MAX_PX = 100_000.0
MAX_STAMP_NS = 2**31 * 10**9 - 1  # builtin_interfaces/Time has 32-bit seconds


class RequestError(ValueError):
    """An invalid request; the message names the field, its value and what is allowed.

    request_id: of the request that waits for a reply; None where it has none.
    """

    request_id: int | None = None


@dataclass(frozen=True)
class NextImageRequest:
    """Send the camera's next image whose stamp is not `after`; width: as displayed, px.

    late: it was not sent as soon as the last image was drawn, since the page was hidden meanwhile.
    """

    camera: str
    after: str
    width: int = 640
    late: bool = False


@dataclass(frozen=True)
class SentImageRequest:
    """Send an earlier image again."""

    camera: str
    stamp: str


@dataclass(frozen=True)
class ClickRequest:
    """Match a pixel of the image with that stamp (ns; '0': the newest)."""

    id: int
    camera: str
    stamp: str
    x: float
    y: float
    target_name: str = ''


@dataclass(frozen=True)
class InstructRequest:
    """Match the point that an instruction describes."""

    id: int
    camera: str
    instruction: str
    target_name: str = ''


@dataclass(frozen=True)
class CancelRequest:
    """Cancel all open queries of this browser."""

    id: int


@dataclass(frozen=True)
class AcceptRequest:
    """Accept the result of a query."""

    id: int
    query_id: str


@dataclass(frozen=True)
class CorrectRequest:
    """Move the found point of a result in one view."""

    id: int
    query_id: str
    camera: str
    x: float
    y: float


@dataclass(frozen=True)
class StepRequest:
    """Undo, redo or clear all targets."""

    id: int
    step: str


@dataclass(frozen=True)
class ClearTargetRequest:
    """Clear the target of that name, '' for the one without."""

    id: int
    target_name: str


@dataclass(frozen=True)
class SetLimitRequest:
    """Set one of the node's limits."""

    id: int
    limit: str
    value: float


@dataclass(frozen=True)
class LimitsRequest:
    """Send the node's limits."""


@dataclass(frozen=True)
class DoctorRequest:
    """Send the findings of `crosspoint doctor`."""


@dataclass(frozen=True)
class HoverRequest:
    """Show the epipolar lines of a pixel of the image with that stamp."""

    camera: str
    stamp: str
    x: float
    y: float


@dataclass(frozen=True)
class OpenRequest:
    """Show an earlier answer of the history."""

    query_id: str


@dataclass(frozen=True)
class ThumbnailRequest:
    """Send the thumbnail of an answer's click."""

    query_id: str


@dataclass(frozen=True)
class DepthRequest:
    """Send a camera's newest depth, in colours."""

    camera: str


@dataclass(frozen=True)
class CloudRequest:
    """Send the depth of all cameras as points of the base frame."""


EvidenceRequest = (HoverRequest | OpenRequest | ThumbnailRequest | DepthRequest | CloudRequest
                   | LimitsRequest | DoctorRequest)
NodeRequest = (ClickRequest | InstructRequest | AcceptRequest | CorrectRequest | StepRequest
               | ClearTargetRequest | SetLimitRequest)
Request = NextImageRequest | SentImageRequest | CancelRequest | EvidenceRequest | NodeRequest
REQUEST_TYPES: dict[str, type] = {
    'next': NextImageRequest, 'past': SentImageRequest, 'click': ClickRequest,
    'instruct': InstructRequest, 'cancel': CancelRequest, 'accept': AcceptRequest,
    'correct': CorrectRequest, 'step': StepRequest, 'clear_target': ClearTargetRequest,
    'hover': HoverRequest, 'open': OpenRequest, 'thumbnail': ThumbnailRequest,
    'depth': DepthRequest, 'cloud': CloudRequest, 'set_limit': SetLimitRequest,
    'limits': LimitsRequest, 'doctor': DoctorRequest}
STEPS = ('undo', 'redo', 'clear')


def describe_act(request: NodeRequest) -> str:
    """Return what a request does, to follow the operator's name."""
    target_name = getattr(request, 'target_name', '')
    named = f' for target {_quote(target_name)}' if target_name else ''
    if isinstance(request, ClickRequest):
        return f'clicks in {request.camera}{named}'
    if isinstance(request, InstructRequest):
        return f'looks for {_quote(request.instruction)} in {request.camera}{named}'
    if isinstance(request, ClearTargetRequest):
        return f'clears target {_quote(target_name)}' if target_name else (
            'clears the target without a name')
    if isinstance(request, CorrectRequest):
        return f'corrects the point in {request.camera}'
    if isinstance(request, AcceptRequest):
        return 'accepts the answer'
    if isinstance(request, SetLimitRequest):
        return f'sets {request.limit} to {request.value:g}'
    return {'undo': 'undoes', 'redo': 'redoes', 'clear': 'clears all targets'}[request.step]


def parse_request(text: str) -> Request:
    """Parse and validate one message; raise RequestError."""
    if len(text.encode(errors='replace')) > MAX_MESSAGE_BYTES:
        raise RequestError(f'message too long: {len(text)} characters (limit '
                           f'{MAX_MESSAGE_BYTES} bytes)')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError('the message is not valid JSON') from None
    if not isinstance(content, dict):
        raise RequestError('the message is not a JSON object')
    try:
        return _build_request(content)
    except RequestError as error:
        with suppress(RequestError):  # it may have none
            error.request_id = _check_id('id', content.get('id'))
        raise


def _build_request(content: dict[str, Any]) -> Request:
    kind = content.pop('type', None)
    if not isinstance(kind, str) or kind not in REQUEST_TYPES:
        raise RequestError(f'unknown type {_quote(kind)}; known: {", ".join(REQUEST_TYPES)}')
    names = [field.name for field in fields(REQUEST_TYPES[kind])]
    optional = {field.name for field in fields(REQUEST_TYPES[kind])
                if field.default is not MISSING}
    if not set(names) - optional <= set(content) <= set(names):
        raise RequestError(f'a message of type {kind} has the fields {", ".join(names)}, not '
                           f'{_quote(sorted(content))}')
    request: Request = REQUEST_TYPES[kind](
        **{name: VALIDATORS[name](name, content[name]) for name in names if name in content})
    return request


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _invalid(name: str, value: Any, allowed: str) -> RequestError:
    return RequestError(f'invalid {name} {_quote(value)}: must be {allowed}')


def _check_text(name: str, value: Any, limit: int = 64) -> str:
    if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
        raise _invalid(name, value, f'1 to {limit} printable characters')
    return value


def _check_name(name: str, value: Any) -> str:
    # Whether it can be part of a frame the node decides, and refuses it like any click.
    if not isinstance(value, str) or len(value) > MAX_INSTRUCTION_LENGTH:
        raise _invalid(name, value, f'a text of at most {MAX_INSTRUCTION_LENGTH} characters')
    return ''.join(letter if letter.isprintable() else '\N{REPLACEMENT CHARACTER}'
                   for letter in value)


def _check_number(name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) <= MAX_PX:  # also rejects NaN and ints too large for float
        raise _invalid(name, value, 'a number')
    return float(value)


def _check_integer(name: str, value: Any, low: int, high: float, allowed: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _invalid(name, value, f'an integer of {allowed}')
    return value


_check_id = partial(_check_integer, low=0, high=2**53 - 1, allowed='0 or more')


def _check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, value, 'true or false')
    return value


def _check_stamp(name: str, value: Any) -> str:
    # A string, because JavaScript numbers cannot hold nanoseconds.
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() \
            or len(value) > 19 or int(value) > MAX_STAMP_NS:
        raise _invalid(name, value, 'nanoseconds as a string, "0" for the newest')
    return value


def _check_step(name: str, value: Any) -> str:
    if value not in STEPS:
        raise _invalid(name, value, f'one of {", ".join(STEPS)}')
    return str(value)


VALIDATORS: dict[str, Callable[[str, Any], Any]] = {
    'id': _check_id, 'limit': _check_text, 'value': _check_number,
    'width': partial(_check_integer, low=1, high=MAX_PX, allowed=f'1 to {MAX_PX:g} px'),
    'late': _check_flag, 'camera': _check_text, 'target_name': _check_name, 'query_id': _check_text,
    'stamp': _check_stamp,
    'after': _check_stamp, 'x': _check_number, 'y': _check_number, 'step': _check_step,
    'instruction': partial(_check_text, limit=MAX_INSTRUCTION_LENGTH)}


def encode_event(kind: str, content: Mapping[str, Any]) -> str:
    """Encode one event; raise ValueError for NaN and infinity."""
    return json.dumps({'type': kind, **content}, allow_nan=False, separators=(',', ':'))


def history_to_json(history: History) -> Json:
    return {'entries': [{'number': entry.number, 'query_id': entry.result.query_id,
                         'clicked': point_to_json(entry.result.clicked),
                         'name': entry.target_name,
                         'verdict': format_verdict(entry.result), 'time': format_time(
                             stamp_to_ns(entry.result.clicked.header.stamp) * 1e-9),
                         'decided': DECISION_NAMES.get(entry.decided, 'unreviewed')}
                        for entry in history.entries],
            'active': list(history.active), 'undone': history.undone,
            'can_undo': history.can_undo, 'can_redo': history.can_redo}
