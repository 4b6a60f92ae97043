"""An object rests in one place, however often it is looked at, and leaves it when it moves."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.rest import RestDetector


def shifted(x_m: float, sigma_m: float = 1e-3) -> Motion:
    return Motion(Transform(np.eye(3), np.array([x_m, 0.0, 0.0])),
                  np.diag(np.repeat([1e-2, sigma_m], 3) ** 2), np.array([x_m, 0.0, 0.0]))


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
