"""How certain a server was, out of the tokens of its reply: never more than it was."""
from __future__ import annotations

import math

import numpy as np
import pytest

from crosspoint_ros.matchers.cropond.coordinate_distribution import (
    NumberSpan,
    TokenLogprobs,
    distribution_from_logprobs,
    estimate_point,
    find_number_spans,
)
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat

REACH = 25.0
SIZE = 1000
WRITTEN = np.array([str(v) for v in range(SIZE)])


def numbers(*bumps: tuple[float, float, float]) -> np.ndarray:
    """p(v) of whole numbers 0 .. 999 with mass about places: (centre, sigma, mass) each."""
    v = np.arange(SIZE)
    p = np.zeros(SIZE)
    for centre, sigma, mass in bumps:
        bell = np.exp(-((v - centre) / sigma) ** 2 / 2)
        p += mass * bell / bell.sum()
    return p


def said(p: np.ndarray, end: str) -> tuple[str, list[TokenLogprobs]]:
    """The number that is written by taking the likeliest token each time, and its tokens."""
    begun, tokens = '', []
    while True:
        within = {d: float(p[np.char.startswith(WRITTEN, begun + d)].sum()) for d in '0123456789'}
        within[end] = float(p[begun == WRITTEN].sum())
        whole = sum(within.values())
        choices = {t: math.log(m / whole) if m else -9999.0 for t, m in within.items()}
        best = max(choices, key=choices.__getitem__)
        tokens.append(TokenLogprobs(best, choices))
        if best == end:
            return begun, tokens
        begun += best


def reply(px: np.ndarray, py: np.ndarray) -> tuple[str, list[TokenLogprobs]]:
    """A whole reply `[x, y]` that was drawn so."""
    (x, first), (y, second) = said(px, ', '), said(py, ']')
    return f'[{x}, {y}]', [TokenLogprobs('[', {'[': 0.0}), *first, *second]


def found(px: np.ndarray, py: np.ndarray):
    text, tokens = reply(px, py)
    x, y = (float(n) for n in text[1:-1].split(', '))
    where = find_number_spans(text, (x, y), CoordinateFormat.RELATIVE_1000)
    spread = distribution_from_logprobs(tokens, where, (SIZE, SIZE), (REACH, REACH))
    return (x, y), estimate_point(spread, (REACH, REACH), np.ones(2))


def mass_near(p: np.ndarray, mode: float) -> float:
    return float(p[np.abs(np.arange(SIZE) - mode) <= REACH].sum())


AT = numbers((550, 3, 1.0))


def test_a_place_amid_a_hundred_is_weighed_exactly():
    px, py = numbers((555, 3, 0.8), (720, 3, 0.2)), numbers((345, 4, 1.0))
    mode, where = found(px, py)
    assert where.confidence == pytest.approx(mass_near(px, mode[0]) * mass_near(py, mode[1]),
                                             abs=1e-6)
    assert where.confidence == pytest.approx(0.8, abs=1e-3)
    np.testing.assert_allclose(where.pixel, (555, 345), atol=1.0)
    sigma = np.sqrt(np.diag(where.covariance_px2))  # wider than (3, 4): other tens count as a whole
    assert (sigma > (3, 4)).all()
    assert (sigma < (5, 6)).all()


@pytest.mark.parametrize('elsewhere', [420, 120, 950])
def test_another_place_is_not_taken_for_the_neighbourhood(elsewhere):
    """Of the numbers 4.. a quarter lies within the window of 500: which of them is unknown."""
    mode, where = found(numbers((503, 1, 0.55), (elsewhere, 1, 0.45)), AT)
    assert mode[0] == pytest.approx(503, abs=2)
    assert where.confidence == pytest.approx(0.55, abs=0.01)


def test_a_longer_number_is_not_taken_for_the_neighbourhood():
    """The reply is 20; 1.. is an alternative: that is 10 .. 19, or 150."""
    mode, where = found(numbers((24, 0.5, 0.55), (150, 1, 0.45)), AT)
    assert mode[0] == pytest.approx(24, abs=1)
    assert where.confidence == pytest.approx(0.55, abs=0.01)


def test_one_digit_is_not_sure_because_a_longer_number_could_begin_with_another():
    mode, where = found(numbers((5, 0.2, 0.55), (150, 1, 0.45)), AT)
    assert mode[0] < 10
    assert where.confidence == pytest.approx(0.55, abs=0.01)


def test_at_a_change_of_the_first_digit_the_confidence_is_lower_than_the_mass():
    px = numbers((499.5, 3, 1.0))
    mode, where = found(px, AT)
    assert 0.45 < where.confidence < 0.55 < mass_near(px, mode[0])


def test_no_place_in_the_hundreds_is_overrated():
    """Three digits: one or two places anywhere, of any width and weight."""
    random = np.random.default_rng(7)
    sure = 0
    for _ in range(300):
        weight = random.uniform(0.3, 1.0)
        p = numbers((random.uniform(150, 950), random.uniform(0.5, 15), weight),
                    (random.uniform(150, 950), random.uniform(0.5, 15), 1 - weight))
        p[:100] = 0.0
        p /= p.sum()
        mode, where = found(p, AT)
        assert where.confidence <= mass_near(p, mode[0]) + 1e-6
        sure += where.confidence > 0.5
    assert sure > 100


def test_a_number_far_off_the_image_takes_no_memory():
    digits = '9' * 12
    tokens = [TokenLogprobs(c, {c: 0.0}) for c in (*digits, ',', '5', ']')]
    where = NumberSpan(0, digits, ',', False), NumberSpan(13, '5', ']', False)
    assert distribution_from_logprobs(tokens, where, (SIZE, SIZE), (REACH, REACH)) is None
