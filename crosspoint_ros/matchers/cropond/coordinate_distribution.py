"""From what the model's digits say to one place, its covariance and a confidence."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.cropond.prompt import Convention
from crosspoint_ros.matchers.cropond.server.responses import Token

ROUNDING = 1 / 12  # variance of a number that was rounded to the nearest unit


@dataclass(frozen=True, eq=False)
class Spread:
    """The probabilities of the numbers that a reply may hold.

    px, py: p(x = v) and p(y = v), v = 0, 1, ..; each sums to one less what was pruned. mode: the
    most probable pair. form: how probable it is that two numbers are said at all, and what stands
    between them; 1 where nobody asked.
    """

    px: Array
    py: Array
    mode: tuple[int, int]
    form: float = 1.0


@dataclass(frozen=True)
class Heard:
    """What the model itself would have written where words were forced and a number was due.

    logprob: of the words. is_greedy: each of them was its first choice, so that forcing them
    changed nothing. number: the probability that a digit follows them. instead: the first token
    that the model would have preferred to the digit; '' where a digit was its first choice.
    """

    logprob: float = 0.0
    is_greedy: bool = True
    number: float = 1.0
    instead: str = ''

    @property
    def goes_on(self) -> bool:
        """Tell whether the model would have said the words, and a number behind them."""
        return self.is_greedy and not self.instead


@dataclass(frozen=True, eq=False)
class Place:
    """Mean (2,) and covariance (2, 2), in units, of the mass about the mode, and how much it is."""

    xy: Array
    covariance: Array
    confidence: float


def place(spread: Spread, window: tuple[float, float]) -> Place:
    """Return mean, covariance and mass of what lies within `window` units about the mode.

    The mean of all would lie between two peaks, where nobody says the point is. Pruned mass, mass
    elsewhere, and that of replies without two numbers (-1, none) count against the confidence.
    """
    axes = [_axis(p, mode, reach) for p, mode, reach in
            zip((spread.px, spread.py), spread.mode, window, strict=True)]
    (x, var_x, mass_x), (y, var_y, mass_y) = axes
    return Place(np.array([x, y]), np.diag([var_x, var_y]) + ROUNDING * np.eye(2),
                 float(np.clip(mass_x * mass_y * spread.form, 0.0, 1.0)))


def _axis(p: Array, mode: int, reach: float) -> tuple[float, float, float]:
    """Mean, variance and mass of p within reach of the mode."""
    v = np.arange(len(p))
    near = np.where(np.abs(v - mode) <= reach, p, 0.0)
    mass = float(near.sum())
    if not mass > 0:
        return float(mode), 0.0, 0.0
    mean = float(near @ v) / mass
    return mean, float(near @ (v - mean) ** 2) / mass, mass


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


def spread_in(tokens: Sequence[Token], numbers: tuple[Written, Written], size: tuple[int, int],
              reach: tuple[float, float]) -> Spread | None:
    """Return how likely each number was; None where the tokens are not digits one by one.

    size: of the numbers' ranges. reach: of the window about the reply in which mass will count as
    sure. Only the replies that begin like this one are known. Where another digit could have
    stood, its probability is shared out among what could follow, if the window holds all or none
    of that; else it is left out, as is what stands in no alternative: what is sure is not
    overrated.
    """
    places: dict[int, Token] = {}
    offset = 0
    for token in tokens:
        places[offset] = token
        offset += len(token.text)
    px, py = (_marginal(places, number, n, r)
              for number, n, r in zip(numbers, size, reach, strict=True))
    if px is None or py is None:
        return None
    x, y = (int(number.digits) for number in numbers)
    return Spread(px, py, (x, y))


def _marginal(places: dict[int, Token], number: Written, size: int, reach: float) -> Array | None:
    """p(v), v = 0 .. size - 1."""
    if len(number.digits) > len(str(size)):
        return None  # far off the image
    ending = _ending(places, number)
    if ending is None:
        return None
    p, reached = np.zeros(max(size, int(number.digits) + 1)), 1.0
    for k, digit in enumerate(number.digits):
        token = places.get(number.start + k)
        if token is None or token.text != digit:
            return None
        for text, logprob in token.choices.items():
            if text != digit:
                # The neighbours of a last digit end as surely as the reply itself.
                last = 0 < k == len(number.digits) - 1
                weight = reached * math.exp(logprob) * (ending if last else 1.0)
                _add(p, number, number.digits[:k], text, weight, reach)
        reached *= math.exp(token.choices[digit])
    p[int(number.digits)] += reached * ending
    return p


def _ending(places: dict[int, Token], number: Written) -> float | None:
    """How likely the number ends where it ends; None where no token tells."""
    if number.fixed:
        return 1.0
    after = places.get(number.start + len(number.digits))
    if after is None:
        return None
    return sum(math.exp(logprob) for text, logprob in after.choices.items() if _ends(number, text))


def _ends(number: Written, text: str) -> bool:
    return bool(number.end) and text.startswith(number.end)


def _add(p: Array, number: Written, before: str, text: str, weight: float, reach: float) -> None:
    """Give the numbers that a token at this place leads to their share of its probability."""
    if DIGIT.fullmatch(text):
        ranges = _begun_with(number, before + text, len(p))
        v = np.concatenate([np.arange(r.start, r.stop) for r in ranges])
        near = np.abs(v - int(number.digits)) <= reach
        if near.all() or not near.any():
            p[ranges[0].start:ranges[0].stop] += weight / len(ranges[0])
    elif before and not number.fixed and _ends(number, text):
        p[int(before)] += weight


def _begun_with(number: Written, begun: str, size: int) -> list[range]:
    """The numbers that begin so, of as many digits as the reply's, then of more."""
    left = len(number.digits) - len(begun)
    if number.fixed or (left == 0 and len(begun) > 1):
        return [range(int(begun) * 10 ** left, (int(begun) + 1) * 10 ** left)]
    if int(begun) == 0:
        return [range(1)]  # whole numbers do not begin with 0
    ranges = [range(int(begun) * 10 ** left, (int(begun) + 1) * 10 ** left)]
    while ranges[-1].start * 10 < size:
        ranges.append(range(ranges[-1].start * 10, ranges[-1].stop * 10))
    return ranges
