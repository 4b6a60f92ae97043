"""How certain a server was, out of the tokens of its reply: never more than it was."""
from __future__ import annotations

import math

import numpy as np
import pytest

from crosspoint_ros.matchers.cropond.coordinate_distribution import (
    Branch,
    NumberSpan,
    TokenLogprobs,
    add_branch,
    distribution_from_logprobs,
    estimate_point,
    find_number_spans,
)
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat
from crosspoint_ros.matchers.cropond.server.point_client import MAX_BRANCH_ROUNDS, MAX_BRANCHES

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


def said(p: np.ndarray, end: str, begun: str = '') -> tuple[str, list[TokenLogprobs]]:
    """The number that is written by taking the likeliest token each time, and its tokens.

    begun: the first digits, which are given.
    """
    tokens = []
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


def found_by_asking(px: np.ndarray, py: np.ndarray):
    """As `found`, when the server is asked for what follows other digits, and how often it was."""
    text, tokens = reply(px, py)
    x, y = (float(n) for n in text[1:-1].split(', '))
    where = find_number_spans(text, (x, y), CoordinateFormat.RELATIVE_1000)
    branches: list[Branch] = []
    spread = distribution_from_logprobs(tokens, where, (SIZE, SIZE), (REACH, REACH), branches)
    asked = []
    for _ in range(MAX_BRANCH_ROUNDS):
        now, branches = sorted(branches, key=lambda b: -b.probability)[:MAX_BRANCHES], []
        asked.append(len(now))
        for branch in now:
            assert branch.begun.endswith(branch.given)
            assert branch.begun.startswith('[' if branch.axis == 0 else f'[{int(x)}, ')
            p, end = ((px, ', '), (py, ']'))[branch.axis]
            _, rest = said(p, end, branch.given)
            spread = add_branch(spread, branch, where[branch.axis], rest, REACH, branches)
    return (x, y), estimate_point(spread, (REACH, REACH), np.ones(2)), asked


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


def test_at_a_change_of_the_first_digit_the_rest_is_asked_for():
    px = numbers((499.5, 3, 1.0))
    mode, where, asked = found_by_asking(px, AT)
    assert where.confidence == pytest.approx(mass_near(px, mode[0]), abs=0.002)
    np.testing.assert_allclose(where.pixel, (499.5, 550), atol=1.5)
    assert asked == [1, 0]
    assert found_by_asking(AT, AT)[2] == [0, 0]  # nothing is missing amid a hundred


@pytest.mark.parametrize(('least', 'places', 'sigma', 'below'), [
    (130, 2, 8, 0.01), (20, 1, 4, 0.04), (130, 1, 15, 0.01)])
def test_with_what_was_asked_for_the_confidence_is_that_of_the_whole_distribution(
        least, places, sigma, below):
    """As `cropond` computes it, which decodes every digit."""
    random = np.random.default_rng(7)
    gaps, gaps_before, batches = [], [], []

    def place() -> tuple[float, float]:
        return random.uniform(least, 990), random.uniform(0.5, sigma)

    def axis() -> np.ndarray:
        weight = 1.0 if places == 1 else random.uniform(0.3, 1.0)
        p = numbers((*place(), weight), (*place(), 1 - weight))
        p[:100] *= least < 100
        return p / p.sum()

    for _ in range(300):
        p, q = axis(), axis()
        mode, where, asked = found_by_asking(p, q)
        expected = mass_near(p, mode[0]) * mass_near(q, mode[1])
        gaps.append(expected - where.confidence)
        gaps_before.append(expected - found(p, q)[1].confidence)
        batches.append(asked)
    assert min(gaps) > -1e-6  # never overrated
    assert max(gaps) < below
    assert np.quantile(gaps, 0.98) < 0.02
    assert max(gaps_before) > 0.3  # or there was nothing to ask for
    assert max(map(max, batches)) <= MAX_BRANCHES
    assert np.mean([second > 0 for _, second in batches]) < 0.3  # mostly one batch


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
