"""From the tokens of one reply to how likely other numbers would have been."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.cropond.answer import Spread
from crosspoint_ros.matchers.cropond.completion import Token
from crosspoint_ros.matchers.cropond.prompt import Convention

DIGIT = re.compile('[0-9]')


@dataclass(frozen=True)
class Written:
    """Where a number's digits stand in a reply, and what follows them.

    fixed: they are as many in every reply (decimals), so that no token says where they end.
    """

    start: int
    digits: str
    end: str
    fixed: bool


def written_in(text: str, point: tuple[float, float], convention: Convention
               ) -> tuple[Written, Written] | None:
    """Find the numbers of a point in the text that names it; None where they stand otherwise."""
    fixed = convention is Convention.RELATIVE_1
    number = r'0\.([0-9]{3})(?![0-9])' if fixed else r'([0-9]+)(?![0-9.])'
    pair = re.compile(rf'(?<![0-9.-]){number}([^0-9.-]+){number}(.?)', re.DOTALL)
    found = pair.search(text)
    while found:
        y_begins = found.end(2)
        if (float(text[found.start():found.end(1)]), float(text[y_begins:found.end(3)])) == point:
            return (Written(found.start(1), found[1], found[2][0], fixed),
                    Written(found.start(3), found[3], found[4], fixed))
        found = pair.search(text, found.end(1))  # its second number may be the first of the next
    return None


def spread_in(tokens: Sequence[Token], numbers: tuple[Written, Written],
              size: tuple[int, int]) -> Spread | None:
    """Return how likely each number was; None where the tokens are not digits one by one.

    size: of the numbers' ranges. Only the replies that begin like this one are known: where
    another digit could have stood, all that could follow it is taken for equally likely. What
    stands in no alternative is missing from the sums.
    """
    places: dict[int, Token] = {}
    offset = 0
    for token in tokens:
        places[offset] = token
        offset += len(token.text)
    px, py = (_marginal(places, number, n) for number, n in zip(numbers, size, strict=True))
    if px is None or py is None:
        return None
    x, y = (int(number.digits) for number in numbers)
    return Spread(px, py, (x, y))


def _marginal(places: dict[int, Token], number: Written, size: int) -> Array | None:
    """p(v), v = 0 .. size - 1."""
    p = np.zeros(max(size, int(number.digits) + 1))
    reached = 1.0
    for k, digit in enumerate(number.digits):
        token = places.get(number.start + k)
        if token is None or token.text != digit:
            return None
        for text, logprob in token.choices.items():
            if text != digit:
                _add(p, number, number.digits[:k], text, reached * math.exp(logprob))
        reached *= math.exp(token.choices[digit])
    if number.fixed:
        p[int(number.digits)] += reached
        return p
    last = places.get(number.start + len(number.digits))
    if last is None:
        return None
    for text, logprob in last.choices.items():
        _add(p, number, number.digits, text, reached * math.exp(logprob))
    return p


def _add(p: Array, number: Written, before: str, text: str, probability: float) -> None:
    """Give the numbers that a token at this place leads to their share of its probability."""
    if DIGIT.fullmatch(text):
        left = max(len(number.digits) - len(before) - 1, 0)
        if not number.fixed and int(before + text) == 0:
            left = 0  # whole numbers do not begin with 0
        low = int(before + text) * 10 ** left
        p[low:low + 10 ** left] += probability / 10 ** left
    elif before and not number.fixed and number.end and text.startswith(number.end):
        p[int(before)] += probability
