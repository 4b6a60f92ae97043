"""An object rests in one place, however often it is looked at, and leaves it when it moves."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.rest import RestDetector


def shifted(x_m: float, sigma_m: float = 1e-3) -> Motion:
    return Motion(Transform(np.eye(3), np.array([x_m, 0.0, 0.0])),
                  np.diag(np.repeat([1e-2, sigma_m], 3) ** 2), np.array([x_m, 0.0, 0.0]))


def turned(angle_deg: float, sigma_deg: float) -> Motion:
    R, _ = cv2.Rodrigues(np.radians([0.0, angle_deg, 0.0]))
    return Motion(Transform(R, np.zeros(3)), np.diag(
        np.repeat([np.radians(sigma_deg), 1e-3], 3) ** 2), np.zeros(3))


def count_looks_until_it_moves(measured: list[Motion]) -> int | None:
    rest = RestDetector(shifted(0.0))
    for number, motion in enumerate(measured, 1):
        rest.update(motion, number * 10**8)
        if not rest.is_at_rest:
            return number
        np.testing.assert_array_equal(rest.motion.centre_m, np.zeros(3))  # it does not drift
    return None


def test_a_shift_within_the_limit_of_one_look_is_noticed_by_the_mean_of_some():
    assert count_looks_until_it_moves([shifted(0.006)]) == 1
    assert 2 <= count_looks_until_it_moves([shifted(0.004)] * 10) <= 6
    assert count_looks_until_it_moves([shifted(0.004), shifted(-0.004)] * 100) is None


def test_a_slow_drift_is_noticed_before_one_look_would():
    looks = count_looks_until_it_moves([shifted(0.0003 * k) for k in range(1, 40)])
    assert 0.0003 * looks < 0.0045


@pytest.mark.parametrize('kept', [0.0, 0.9])  # of the error from look to look: it wanders
def test_noise_of_a_moving_camera_never_ends_a_rest(kept):
    for seed in range(5):
        rng, error, looks = np.random.default_rng(seed), np.zeros(3), []
        for _ in range(200):
            error = kept * error + np.sqrt(1 - kept ** 2) * rng.normal(0.0, 1e-3, 3)
            looks.append(Motion(Transform(np.eye(3), error), np.diag(
                np.repeat([np.radians(1.0), 2.5e-3], 3) ** 2), error))
        assert count_looks_until_it_moves(looks) is None


def test_a_turn_ends_a_rest_where_it_is_known_and_not_where_few_points_feign_it():
    assert count_looks_until_it_moves([turned(10.0, 0.5)]) == 1
    assert count_looks_until_it_moves([turned(10.0, 3.5)] * 20) is None
    assert count_looks_until_it_moves([turned(21.0, 14.0)]) == 1


@pytest.mark.parametrize('rate_hz', [10.0, 5.0, 4.5, 3.0, 2.5, 1.0, 0.5])
def test_what_has_moved_comes_to_rest_at_every_rate_and_not_before_its_third_look(rate_hz):
    rest = RestDetector(shifted(0.0))
    moves = [rest.update(shifted(x_m), round(k * 1e9 / rate_hz)) or rest.is_at_rest
             for k, x_m in enumerate([0.03, 0.06, *[0.09] * 12])]
    stayed = moves.index(True) - 2  # looks after the first one in the last place
    assert stayed >= 2
    assert stayed / rate_hz > 0.48
    assert stayed == max(2, int(0.48 * rate_hz) + 1)


@pytest.mark.parametrize('rate_hz', [10.0, 2.5, 0.5])
def test_what_moves_all_the_time_never_rests(rate_hz):
    rest = RestDetector(shifted(0.0))
    for k in range(1, 20):
        rest.update(shifted(0.006 * k), round(k * 1e9 / rate_hz))
        assert not rest.is_at_rest


def test_time_that_goes_back_begins_anew():
    rest = RestDetector(shifted(0.0))
    for now_ns in (10**10, 10**9, 11 * 10**8):
        rest.update(shifted(0.05), now_ns)
        assert not rest.is_at_rest
