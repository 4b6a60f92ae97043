"""Points in free text, however the model chose to write them."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

# Longer replies are not read to their end: a point stands before it, or nowhere.
READ_CHARACTERS = 4000
SHOWN_CHARACTERS = 120
# What Chinese text has for brackets, commas and colons.
PLAIN = str.maketrans('（）［］【】，：；', '()[][],:;')
NUMBER = r'[-+]?(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d+)?(?: ?px\b)?'
SEPARATOR = r'(?:\s*[,;]\s*|\s+)'
PAIR = rf'({NUMBER}){SEPARATOR}({NUMBER})'
QUOTE = r'["\']?'
COMMENT = re.compile(r'(?<![:"\w])//[^\n]*|/\*.*?\*/|(?m:^\s*#[^\n]*)', re.S)
TRAILING_COMMA = re.compile(r',(\s*[\]}])')
# The ways to write a point in text. Within brackets the number must be seen to end: of a reply that
# was cut off, `[512, 30` may be the beginning of [512, 307].
IN_TEXT = re.compile('|'.join((
    rf'{QUOTE}point(?:_2d|s)?{QUOTE}\s*[:=]\s*[\[(]+\s*{PAIR}(?=\s*[\])}}])',
    rf'{QUOTE}point(?:_2d|s)?{QUOTE}\s*[:=]\s*{PAIR}(?![\d.]|{SEPARATOR}[-+.\d])',
    rf'\bx\d?{QUOTE}\s*[:=]\s*{QUOTE}({NUMBER})(?:{QUOTE}[,;\s]\s*|\s+)(?:and\s+)?'
    rf'{QUOTE}y\d?{QUOTE}\s*[:=]\s*{QUOTE}({NUMBER})',
    rf'\[\s*{PAIR}\s*\]', rf'\(\s*{PAIR}\s*\)')), re.I)
ALONE = re.compile(rf'^\s*{PAIR}\s*\.?\s*$')
POINT_KEYS = ('point_2d', 'point', 'points', 'coordinates', 'coordinate', 'position', 'points_2d')
# An option that is called the answer, else one that stands alone: `A cup` is an article.
ANSWER = re.compile(r'(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?\s*[*("]*([A-D])(?![A-Za-z])')
LETTER = re.compile(r'(?<![A-Za-z])(?:A(?!\s+[a-z])|[B-D])(?![A-Za-z])')


class NoPoint(ValueError):  # noqa: N818  (an answer of the model's, not a bug)
    """A reply that names no point, or whatever else was asked for; quotes it."""

    def __init__(self, reply: str, asked: str = 'point') -> None:
        words = ' '.join(reply.split())
        short = words if len(words) <= SHOWN_CHARACTERS else words[:SHOWN_CHARACTERS] + '…'
        super().__init__(f'the model replied {short!r}: no {asked}' if words
                         else 'the model replied nothing')


def points(reply: str) -> list[tuple[float, float]]:
    """Return every point of a reply, in order: of its JSON if that has any, else of its text.

    Numbers are returned as they stand, negative and out of range ones too: what they mean is for
    the coordinate convention to say, and what is off the image is refused later on.
    """
    reply = reply[:READ_CHARACTERS].translate(PLAIN)
    return [found for data in _json_values(reply) for found in _in_data(data)] or _in_text(reply)


def point(reply: str, clicked: tuple[str, str] | None = None) -> tuple[float, float]:
    """Return the one point that a reply names. Raises `NoPoint`, also if it names several.

    clicked: the point as it was asked about. Prose that says it again ("the point [56, 323] maps
    to [512, 307]") does not mean it, if another one follows.
    """
    found = list(dict.fromkeys(points(reply)))
    if not found:
        raise NoPoint(reply)
    asked = None if clicked is None else (float(clicked[0]), float(clicked[1]))
    meant = [each for each in found if each != asked] or found
    if len(meant) > 1:  # which of them is a guess, and a robot moves on it
        raise NoPoint(reply, f'single point but {len(meant)}')
    return meant[0]


def letter(reply: str, options: Sequence[str] = ()) -> str:
    """Return the option A to D that a reply chooses. Raises `NoPoint` if it chooses none.

    options: their texts, for a reply that says one of them instead of its letter.
    """
    chosen = ANSWER.findall(reply) or LETTER.findall(reply)
    if chosen:
        return str(chosen[-1])
    said = [name for name, text in zip('ABCD', options, strict=False)
            if re.search(rf'(?<!\w){re.escape(text)}(?!\w)', reply, re.I)]
    if len(said) != 1:
        raise NoPoint(reply, 'answer')
    return said[0]


def _json_values(reply: str) -> Iterator[Any]:
    """Everything in a reply that is JSON: in fences, else from any bracket on; comments dropped."""
    text = re.sub(r'```(?:\w+)?', '\n', COMMENT.sub('', reply))
    text = TRAILING_COMMA.sub(r'\1', text)
    decoder = json.JSONDecoder()
    place = 0
    while match := re.compile(r'[\[{]').search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # a number of 5000 digits is a ValueError
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
    except (TypeError, ValueError, OverflowError):
        return
    if math.isfinite(x) and math.isfinite(y):
        yield x, y


def _in_text(text: str) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    alone = ALONE.match(text)
    for match in IN_TEXT.finditer(text) if alone is None else [alone]:
        numbers = [number for number in match.groups() if number is not None]
        found += _pair([number.lower().removesuffix('px') for number in numbers])
    return found
