"""One place out of the probabilities of two numbers."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.matchers.cropond.coordinate_distribution import (
    CoordinateDistribution,
    estimate_point,
)


def about(centre, sigma, mass=1.0, length=1000):
    v = np.arange(length)
    p = np.exp(-((v - centre) / sigma) ** 2 / 2)
    return mass * p / p.sum()


def estimate(*distribution, radius):
    return estimate_point(CoordinateDistribution(*distribution), (radius, radius), np.ones(2))


def test_mean_and_covariance_are_those_of_the_mass():
    found = estimate(about(512, 3), about(307, 5), (512, 307), radius=25)
    np.testing.assert_allclose(found.pixel, (512, 307), atol=0.01)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance_px2)), (3, 5), rtol=0.02)
    assert found.confidence == pytest.approx(1.0, abs=1e-3)


def test_two_places_are_not_answered_with_what_lies_between():
    px = about(200, 3, 0.6) + about(800, 3, 0.4)
    found = estimate(px, about(300, 3), (200, 300), radius=25)
    assert found.pixel[0] == pytest.approx(200, abs=0.1)
    assert found.confidence == pytest.approx(0.6, abs=0.01)


def test_pruned_mass_counts_against_the_confidence():
    found = estimate(about(200, 3, 0.7), about(300, 3, 0.9), (200, 300), radius=25)
    assert found.confidence == pytest.approx(0.63, abs=0.01)


def test_replies_without_two_numbers_count_against_the_confidence():
    found = estimate(about(200, 3), about(300, 3), (200, 300), 0.45, radius=25)
    assert found.confidence == pytest.approx(0.45, abs=0.01)


def test_a_certain_number_still_has_the_error_of_its_rounding():
    p = np.zeros(1000)
    p[512] = 1.0
    found = estimate(p, p, (512, 512), radius=25)
    assert np.linalg.eigvalsh(found.covariance_px2).min() == pytest.approx(1 / 12)


def test_no_mass_at_all_is_no_confidence():
    found = estimate(np.zeros(10), np.zeros(10), (3, 4), radius=1)
    assert found.confidence == 0.0
    assert np.isfinite(found.covariance_px2).all()
