"""Points in free text, however the model chose to write them."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

NUMBER = r'[-+]?(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d+)?'
SEPARATOR = r'\s*[,;\s]\s*'
COMMENT = re.compile(r'(?<![:"\w])//[^\n]*|/\*.*?\*/|(?m:^\s*#[^\n]*)', re.S)
TRAILING_COMMA = re.compile(r',(\s*[\]}])')
# One way to write a point in text each, the plainest last.
IN_TEXT = (
    re.compile(rf'"?point(?:_2d|s)?"?\s*[:=]\s*\[*\(*\s*({NUMBER}){SEPARATOR}({NUMBER})', re.I),
    re.compile(rf'\bx\d?"?\s*[:=]\s*"?({NUMBER})"?[,;\s]+"?y\d?"?\s*[:=]\s*"?({NUMBER})', re.I),
    re.compile(rf'\[\s*({NUMBER}){SEPARATOR}({NUMBER})\s*(?=\]|$)'),
    re.compile(rf'\(\s*({NUMBER}){SEPARATOR}({NUMBER})\s*\)'),
    re.compile(rf'^\s*({NUMBER}){SEPARATOR}({NUMBER})\s*\.?\s*$'),
)
POINT_KEYS = ('point_2d', 'point', 'points', 'coordinates', 'coordinate', 'position', 'points_2d')
SHOWN_CHARACTERS = 120


class NoPoint(ValueError):  # noqa: N818  (an answer of the model's, not a bug)
    """A reply that names no point; quotes it."""

    def __init__(self, reply: str) -> None:
        words = ' '.join(reply.split())
        short = words if len(words) <= SHOWN_CHARACTERS else words[:SHOWN_CHARACTERS] + '…'
        super().__init__(f'the model replied {short!r}: no point' if words
                         else 'the model replied nothing')


def points(reply: str) -> list[tuple[float, float]]:
    """Return every point of a reply, in order: of its JSON if that has any, else of its text.

    Numbers are returned as they stand, negative and out of range ones too: what they mean is for
    the coordinate convention to say, and what is off the image is refused later on.
    """
    for data in _json_values(reply):
        found = list(_in_data(data))
        if found:
            return found
    return _in_text(reply)


def point(reply: str, clicked: tuple[str, str] | None = None) -> tuple[float, float]:
    """Return the point that a reply names. Raises `NoPoint`.

    clicked: the point as it was asked about. Prose that says it again ("the point [56, 323] maps
    to [512, 307]") does not mean it, if another one follows.
    """
    found = points(reply)
    if not found:
        raise NoPoint(reply)
    if clicked is not None and len(found) > 1 and found[0] == (float(clicked[0]),
                                                               float(clicked[1])):
        return found[1]
    return found[0]


def letter(reply: str) -> str:
    """Return the option A to D that a reply chooses. Raises `NoPoint` if it chooses none."""
    chosen = re.findall(r'(?<![A-Za-z])([A-D])(?![A-Za-z])', reply)
    if not chosen:
        raise NoPoint(reply)
    return str(chosen[-1])


def _json_values(reply: str) -> Iterator[Any]:
    """Everything in a reply that is JSON: in fences, else from any bracket on; comments dropped."""
    text = re.sub(r'```(?:\w+)?', '\n', COMMENT.sub('', reply))
    text = TRAILING_COMMA.sub(r'\1', text)
    decoder = json.JSONDecoder()
    place = 0
    while match := re.compile(r'[\[{]').search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (json.JSONDecodeError, RecursionError):
            place = match.end()
            continue
        if isinstance(value, dict) or _holds_a_dict(value):
            yield value


def _holds_a_dict(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _in_data(data: Any) -> Iterator[tuple[float, float]]:
    """Points of a JSON value, however deep."""
    if isinstance(data, list):
        for item in data:
            yield from _in_data(item)
        return
    if not isinstance(data, dict):
        return
    keys = {str(key).lower(): value for key, value in data.items()}
    for name in POINT_KEYS:
        if name in keys:
            yield from _in_value(keys[name])
    if 'x' in keys and 'y' in keys:
        yield from _pair([keys['x'], keys['y']])


def _in_value(value: Any) -> Iterator[tuple[float, float]]:
    """Points of what stands under a key that names points."""
    if isinstance(value, dict):
        yield from _in_data(value)
    elif isinstance(value, str):
        yield from _in_text(value)
    elif isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        for item in value:
            yield from _in_value(item)
    elif isinstance(value, list) and len(value) == 2:
        yield from _pair(value)


def _pair(values: list[Any]) -> Iterator[tuple[float, float]]:
    try:
        x, y = (float(value) for value in values if not isinstance(value, bool))
    except (TypeError, ValueError):
        return
    if math.isfinite(x) and math.isfinite(y):
        yield x, y


def _in_text(text: str) -> list[tuple[float, float]]:
    for pattern in IN_TEXT:
        found = [pair for match in pattern.finditer(text) for pair in _pair(list(match.groups()))]
        if found:
            return found
    return []
