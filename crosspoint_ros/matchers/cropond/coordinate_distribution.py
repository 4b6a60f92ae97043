"""Distributions of two coordinates, from token log-probabilities to a point with covariance."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, Match
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat

ROUNDING_VARIANCE = 1 / 12  # of rounding to the nearest unit
SINGLE_DIGIT = re.compile('[0-9]')
MIN_BRANCH = 0.005  # probability below which a branch is left out


@dataclass(frozen=True, eq=False)
class CoordinateDistribution:
    """Probabilities of the two numbers of a reply.

    p_x, p_y: p(x = v) and p(y = v), v = 0, 1, ..; each sums to one minus what was pruned. mode:
    the most probable pair. p_format: probability of a reply with two numbers and the text between
    them; 1 where it was not computed.
    """

    p_x: Array
    p_y: Array
    mode: tuple[int, int]
    p_format: float = 1.0

    def swap_axes(self) -> CoordinateDistribution:
        """Return the distribution of a reply in which y is written first."""
        return replace(self, p_x=self.p_y, p_y=self.p_x, mode=self.mode[::-1])


@dataclass(frozen=True)
class ForcedTokenStats:
    """What the model itself would have written instead of forced tokens and a digit after them.

    logprob: of the forced tokens. is_greedy: each was the model's first choice, so that forcing
    changed nothing. p_digit: probability of a digit after them. preferred_token: the token that
    the model prefers to a digit; '' if it prefers a digit.
    """

    logprob: float = 0.0
    is_greedy: bool = True
    p_digit: float = 1.0
    preferred_token: str = ''

    @property
    def is_model_choice(self) -> bool:
        """Whether the model would have written the same tokens, and a digit after them."""
        return self.is_greedy and not self.preferred_token


def estimate_point(distribution: CoordinateDistribution, window: tuple[float, float],
                   unit_px: Array, basis: str = '') -> Match:
    """Return mean, covariance and mass of what lies within `window` units of the mode.

    The mean of the whole distribution could lie between two peaks. Pruned mass, mass elsewhere,
    and that of replies without two numbers (-1, none) lower the confidence.
    """
    axes = [_axis_moments(p, mode, radius) for p, mode, radius in
            zip((distribution.p_x, distribution.p_y), distribution.mode, window, strict=True)]
    (x, var_x, mass_x), (y, var_y, mass_y) = axes
    covariance, scale = np.diag([var_x, var_y]) + ROUNDING_VARIANCE * np.eye(2), np.diag(unit_px)
    return Match(scale @ np.array([x, y]), scale @ covariance @ scale,
                 float(np.clip(mass_x * mass_y * distribution.p_format, 0.0, 1.0)), basis)


def _axis_moments(p: Array, mode: int, radius: float) -> tuple[float, float, float]:
    """Mean, variance and mass of p within the radius around the mode."""
    v = np.arange(len(p))
    near = np.where(np.abs(v - mode) <= radius, p, 0.0)
    mass = float(near.sum())
    if not mass > 0:
        return float(mode), 0.0, 0.0
    mean = float(near @ v) / mass
    return mean, float(near @ (v - mean) ** 2) / mass, mass


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of a reply, and the log-probabilities of the alternatives, itself included."""

    text: str
    choices: dict[str, float]


@dataclass(frozen=True)
class NumberSpan:
    """Position of a number's digits in a reply, and the character after them.

    is_fixed_width: every reply has the same number of digits (decimals), so that no token ends it.
    """

    start: int
    digits: str
    terminator: str
    is_fixed_width: bool


def find_number_spans(text: str, point: tuple[float, float], coord_format: CoordinateFormat
                      ) -> tuple[NumberSpan, NumberSpan] | None:
    """Find the digits of a point, as written, in its reply; None if they are written differently.

    Those of per cent have a decimal point among them, and are not found.
    """
    if coord_format is CoordinateFormat.RELATIVE_100:
        return None
    is_fixed = coord_format is CoordinateFormat.RELATIVE_1
    number = r'0\.([0-9]{3})(?![0-9])' if is_fixed else r'([0-9]+)(?![0-9.])'
    pair = re.compile(rf'(?<![0-9.-]){number}([^0-9.-]+){number}(.?)', re.DOTALL)
    match = pair.search(text)
    while match:
        if (float(text[match.start():match.end(1)]),
                float(text[match.end(2):match.end(3)])) == point:
            return (NumberSpan(match.start(1), match[1], match[2][0], is_fixed),
                    NumberSpan(match.start(3), match[3], match[4], is_fixed))
        match = pair.search(text, match.end(1))  # the second number may be the next pair's first
    return None


@dataclass(frozen=True)
class Branch:
    """Another digit that a number could have had, with some of its numbers within the window.

    axis: 0 for the first number of the reply. begun: the reply up to that digit, given: the number
    up to it. probability: of the number to begin so.
    """

    axis: int
    begun: str
    given: str
    probability: float


def distribution_from_logprobs(tokens: Sequence[TokenLogprobs],
                               spans: tuple[NumberSpan, NumberSpan], sizes: tuple[int, int],
                               window: tuple[float, float], branches: list[Branch] | None = None
                               ) -> CoordinateDistribution | None:
    """Return the distribution of two numbers; None unless each digit is a token.

    sizes: ranges of the numbers. window: radii around the reply within which mass will count as
    confidence. The probability of another digit is spread evenly over the numbers that it begins if
    the window contains all or none of them, and dropped otherwise: the confidence is a lower bound.
    branches: gets those that are dropped, for `add_branch`.
    """
    axes = []
    for axis, (span, size, radius) in enumerate(zip(spans, sizes, window, strict=True)):
        start = None if branches is None else Branch(axis, '', '', 1.0)
        axes.append(_read_marginal(tokens, span, size, radius, int(span.digits), start, branches))
    p_x, p_y = axes
    if p_x is None or p_y is None:
        return None
    return CoordinateDistribution(p_x, p_y, (int(spans[0].digits), int(spans[1].digits)))


def add_branch(distribution: CoordinateDistribution, branch: Branch, span: NumberSpan,
               tokens: Sequence[TokenLogprobs], radius: float, branches: list[Branch]
               ) -> CoordinateDistribution:
    """Add the numbers of a branch, by the tokens of a reply that was begun with it.

    span: of the number in the reply from which it branches. branches: gets what is dropped.
    """
    digits = re.match('[0-9]*', ''.join(token.text for token in tokens))
    continued = replace(span, start=0, digits=branch.given + (digits[0] if digits else ''))
    p = distribution.p_y if branch.axis else distribution.p_x
    found = _read_marginal(tokens, continued, len(p), radius, distribution.mode[branch.axis],
                           branch, branches)
    if found is None:
        return distribution
    total = np.pad(p, (0, len(found) - len(p))) + found
    return replace(distribution, p_y=total) if branch.axis else replace(distribution, p_x=total)


def _read_marginal(tokens: Sequence[TokenLogprobs], span: NumberSpan, size: int, radius: float,
                   mode: int, start: Branch | None = None, branches: list[Branch] | None = None
                   ) -> Array | None:
    """p(v), v = 0 .. size - 1; start: what was given before `span.start`."""
    axis, begun, given, p_prefix = (0, '', '', 1.0) if start is None else (
        start.axis, start.begun, start.given, start.probability)
    token_at: dict[int, TokenLogprobs] = {}
    text = ''
    for token in tokens:
        token_at[len(text)] = token
        text += token.text
    p_end = _read_end_probability(token_at, span, len(given))
    if p_end is None or len(span.digits) > len(str(size)):  # far off the image
        return None
    p = np.zeros(max(size, int(span.digits) + 1))
    for k, digit in enumerate(span.digits[len(given):], len(given)):
        position = span.start + k - len(given)
        at = token_at.get(position)
        if at is None or at.text != digit:
            return None
        # Neighbours of the last digit may begin longer numbers. Where they cannot be asked for they
        # are assumed to end with the reply's own probability.
        is_last = 0 < k == len(span.digits) - 1
        is_open = is_last and branches is not None and len(span.digits) < len(str(size - 1))
        for other, logprob in at.choices.items():
            if other == digit:
                continue
            probability = p_prefix * math.exp(logprob)
            is_added = not (is_open and SINGLE_DIGIT.fullmatch(other)) and _add_alternative(
                p, span, span.digits[:k], other, probability * (p_end if is_last else 1.0), mode,
                radius)
            if not is_added and branches is not None and probability >= MIN_BRANCH:
                branches.append(Branch(axis, begun + text[:position] + other,
                                       span.digits[:k] + other, probability))
        p_prefix *= math.exp(at.choices[digit])
    p[int(span.digits)] += p_prefix * p_end
    return p


def _read_end_probability(token_at: dict[int, TokenLogprobs], span: NumberSpan, given: int
                          ) -> float | None:
    """Probability that the number ends where it does; None without a token after it."""
    if span.is_fixed_width:
        return 1.0
    after = token_at.get(span.start + len(span.digits) - given)
    if after is None:
        return None
    return sum(math.exp(logprob) for text, logprob in after.choices.items() if _is_end(span, text))


def _is_end(span: NumberSpan, text: str) -> bool:
    return bool(span.terminator) and text.startswith(span.terminator)


def _add_alternative(p: Array, span: NumberSpan, prefix: str, text: str, probability: float,
                     mode: int, radius: float) -> bool:
    """Distribute the probability of another token over the numbers that it leads to.

    Returns False for a digit of which the window contains a part.
    """
    if SINGLE_DIGIT.fullmatch(text):
        ranges = _list_prefix_ranges(span, prefix + text, len(p))
        v = np.concatenate([np.arange(r.start, r.stop) for r in ranges])
        is_near = np.abs(v - mode) <= radius
        shorter = [int((prefix + text).ljust(n, fill)) for fill in '09'
                   for n in range(len(prefix) + 1, len(span.digits))]
        if not is_near.all() and (is_near.any() or (not span.is_fixed_width and any(
                abs(number - mode) <= radius for number in shorter))):
            return False
        p[ranges[0].start:ranges[0].stop] += probability / len(ranges[0])
    elif prefix and not span.is_fixed_width and _is_end(span, text):
        p[int(prefix)] += probability
    return True


def _list_prefix_ranges(span: NumberSpan, prefix: str, size: int) -> list[range]:
    """Ranges of the numbers with this prefix: those as long as the reply's, then longer ones."""
    missing = len(span.digits) - len(prefix)
    ranges = [range(int(prefix) * 10 ** missing, (int(prefix) + 1) * 10 ** missing)]
    if span.is_fixed_width or (missing == 0 and len(prefix) > 1):
        return ranges
    if int(prefix) == 0:
        return [range(1)]  # integers have no leading zero
    while ranges[-1].start * 10 < size:
        ranges.append(range(ranges[-1].start * 10, ranges[-1].stop * 10))
    return ranges
