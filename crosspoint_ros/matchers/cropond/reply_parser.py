"""Parses points and multiple-choice answers from free-text model replies."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from crosspoint_ros.core.datatypes import Code, Rejected

MAX_REPLY_CHARS = 4000  # the rest of a longer reply is ignored
QUOTED_CHARS = 120
# Full-width brackets, commas and colons of Chinese text.
ASCII_PUNCTUATION = str.maketrans('（）［］【】，：；', '()[][],:;')
NUMBER = r'[-+]?(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d+)?(?: ?px\b)?'
SEPARATOR = r'(?:\s*[,;]\s*|\s+)'
PAIR = rf'({NUMBER}){SEPARATOR}({NUMBER})'
QUOTE = r'["\']?'
COMMENT = re.compile(r'(?<![:"\w])//[^\n]*|/\*.*?\*/|(?m:^\s*#[^\n]*)', re.S)
TRAILING_COMMA = re.compile(r',(\s*[\]}])')
# Ways to write a point in text. Brackets must be closed: in a reply that was cut off, `[512, 30`
# may be the beginning of [512, 307].
POINT_IN_TEXT = re.compile('|'.join((
    rf'{QUOTE}point(?:_2d|s)?{QUOTE}\s*[:=]\s*[\[(]+\s*{PAIR}(?=\s*[\])}}])',
    rf'{QUOTE}point(?:_2d|s)?{QUOTE}\s*[:=]\s*{PAIR}(?![\d.]|{SEPARATOR}[-+.\d])',
    rf'\bx\d?{QUOTE}\s*[:=]\s*{QUOTE}({NUMBER})(?:{QUOTE}[,;\s]\s*|\s+)(?:and\s+)?'
    rf'{QUOTE}y\d?{QUOTE}\s*[:=]\s*{QUOTE}({NUMBER})',
    rf'\[\s*{PAIR}\s*\]', rf'\(\s*{PAIR}\s*\)')), re.I)
BARE_PAIR = re.compile(rf'^\s*{PAIR}\s*\.?\s*$')
POINT_KEYS = ('point_2d', 'point', 'points', 'coordinates', 'coordinate', 'position', 'points_2d')
# An option named as the answer, else a single letter, unless it is an article (`A cup`).
LABELLED_CHOICE = re.compile(
    r'(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?\s*[*("]*([A-D])(?![A-Za-z])')
BARE_CHOICE = re.compile(r'(?<![A-Za-z])(?:A(?!\s+[a-z])|[B-D])(?![A-Za-z])')


class ParseError(ValueError):
    """A reply without the expected point or answer; the message quotes it."""

    def __init__(self, reply: str, expected: str = 'point') -> None:
        text = ' '.join(reply.split())
        quote = text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + '…'
        super().__init__(f'the model replied {quote!r}: no {expected}' if text
                         else 'the model replied nothing')


def parse_points(reply: str) -> list[tuple[float, float]]:
    """Return all points of a reply in order: those of its JSON, or else those of its text.

    Numbers are returned as written, also negative ones and those off the image.
    """
    reply = reply[:MAX_REPLY_CHARS].translate(ASCII_PUNCTUATION)
    return ([point for data in _iter_json(reply) for point in _iter_json_points(data)]
            or _find_text_points(reply))


def parse_point(reply: str, clicked: tuple[str, str] | None = None) -> tuple[float, float]:
    """Return the only point of a reply. Raises `ParseError` for none or several.

    clicked: the point in the question; ignored where a reply repeats it next to another one ("the
    point [56, 323] maps to [512, 307]").
    """
    points = list(dict.fromkeys(parse_points(reply)))
    if not points:
        raise ParseError(reply)
    click = None if clicked is None else (float(clicked[0]), float(clicked[1]))
    candidates = [point for point in points if point != click] or points
    if len(candidates) > 1:  # choosing one would be a guess, and a robot moves on it
        raise ParseError(reply, f'single point but {len(candidates)}')
    return candidates[0]


def parse_visible_point(reply: str, clicked: tuple[str, str] | None = None) -> tuple[float, float]:
    """Return the only point of a reply; raises `Rejected` (NOT_VISIBLE) for none or a negative one.

    Models write -1 for a point that the image does not show.
    """
    try:
        x, y = parse_point(reply, clicked)
    except ParseError as error:
        raise Rejected(Code.NOT_VISIBLE, str(error)) from None
    if min(x, y) < 0:
        raise Rejected(Code.NOT_VISIBLE, f'the model replied ({x:g}, {y:g}): negative coordinates '
                       'mean that the point is not visible')
    return x, y


def parse_choice(reply: str, options: Sequence[str] = ()) -> str:
    """Return the option A to D that a reply chooses. Raises `ParseError` if it chooses none.

    options: their texts, for a reply that quotes one of them instead of its letter.
    """
    letters = LABELLED_CHOICE.findall(reply) or BARE_CHOICE.findall(reply)
    if letters:
        return str(letters[-1])
    matching = [name for name, text in zip('ABCD', options, strict=False)
                if re.search(rf'(?<!\w){re.escape(text)}(?!\w)', reply, re.I)]
    if len(matching) != 1:
        raise ParseError(reply, 'answer')
    return matching[0]


def _iter_json(reply: str) -> Iterator[Any]:
    """Objects and lists of objects in a reply's JSON, without code fences and comments."""
    text = re.sub(r'```(?:\w+)?', '\n', COMMENT.sub('', reply))
    text = TRAILING_COMMA.sub(r'\1', text)
    decoder = json.JSONDecoder()
    position = 0
    while match := re.compile(r'[\[{]').search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # ValueError also for a number of 5000 digits
            position = match.end()
            continue
        if isinstance(value, dict) or any(isinstance(item, dict) for item in value):
            yield value


def _iter_json_points(data: Any) -> Iterator[tuple[float, float]]:
    """Points of a JSON value, however deep."""
    if isinstance(data, list):
        for item in data:
            yield from _iter_json_points(item)
        return
    if not isinstance(data, dict):
        return
    keys = {str(key).lower(): value for key, value in data.items()}
    for name in POINT_KEYS:
        if name in keys:
            yield from _iter_value_points(keys[name])
    if 'x' in keys and 'y' in keys:
        yield from _iter_pair([keys['x'], keys['y']])


def _iter_value_points(value: Any) -> Iterator[tuple[float, float]]:
    """Points of the value of a key in POINT_KEYS."""
    if isinstance(value, dict):
        yield from _iter_json_points(value)
    elif isinstance(value, str):
        yield from _find_text_points(value)
    elif isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        for item in value:
            yield from _iter_value_points(item)
    elif isinstance(value, list) and len(value) == 2:
        yield from _iter_pair(value)


def _iter_pair(values: list[Any]) -> Iterator[tuple[float, float]]:
    try:
        x, y = (float(value) for value in values if not isinstance(value, bool))
    except (TypeError, ValueError, OverflowError):
        return
    if math.isfinite(x) and math.isfinite(y):
        yield x, y


def _find_text_points(text: str) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    bare = BARE_PAIR.match(text)
    for match in POINT_IN_TEXT.finditer(text) if bare is None else [bare]:
        numbers = [number for number in match.groups() if number is not None]
        found += _iter_pair([number.lower().removesuffix('px') for number in numbers])
    return found
