"""Keeps an object at rest where it is: what is measured of it from a moving camera wanders."""
from __future__ import annotations

from collections import deque
from dataclasses import replace

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.core.track.motion import Motion

LEAVE_M, LEAVE_RAD = 0.005, 0.15  # from where it rests: then it moves
LEAVE_SIGMAS, MAX_LEAVE_M = 2.0, 0.012  # of the measurement: a moving camera's is less exact
# Errors of the points themselves are in no covariance, and turn few of them by four sigmas.
LEAVE_TURN_SIGMAS, MAX_LEAVE_RAD = 6.0, 0.35
AVERAGED = 6  # measurements, at most
WANDER_SHARE = 0.6  # of a limit, for what errs alike in each measurement, whatever their number
SETTLE_S, SETTLE_M, SETTLE_RAD = 0.6, 0.002, 0.05  # so still for so long: then it rests
MIN_SETTLED = 3  # measurements that say so


class RestDetector:
    """Says where an object is: as measured while it moves, in one place while it rests.

    motion: the place. An object moves away from its rest by 5 mm (two sigmas of the measurement, up
    to 12 mm, where that is more) or 0.15 rad (six sigmas, up to 0.35 rad) before it counts as
    moving, by the mean of the last six measurements by two thirds of that. It comes to rest where
    it has stayed within 2 mm and 0.05 rad for about 0.6 s and three measurements, at any rate.
    """

    def __init__(self, motion: Motion) -> None:
        """Begin at rest."""
        self.motion, self.is_at_rest = motion, True
        self._recent: list[tuple[int, Motion]] = []
        self._away: deque[Array] = deque(maxlen=AVERAGED)  # (2, 3), in limits, since it rests

    def update(self, measured: Motion, now_ns: int) -> None:
        """Take the newest measurement."""
        passed = [each for each in self._recent if each[0] <= now_ns]
        older = [each for each in passed if each[0] < now_ns - SETTLE_S * 1e9]
        self._recent = [*older[1 - MIN_SETTLED:], *passed[len(older):],
                        (now_ns, measured)]
        if self.is_at_rest:
            stays = not self.ends_with(measured)
            self._away.append(_measure_away(self.motion, measured))
            if stays:
                self.motion = replace(self.motion, covariance=measured.covariance)
                return
            self.is_at_rest, self._recent = False, [(now_ns, measured)]
            self._away.clear()
        self.motion = measured
        far = [index for index, (_, motion) in enumerate(self._recent)
               if (np.linalg.norm(_compare(motion, measured), axis=1)
                   > (SETTLE_M, SETTLE_RAD)).any()]
        self._recent = self._recent[far[-1] + 1 if far else 0:]
        self.is_at_rest = (now_ns - self._recent[0][0] > 0.8 * SETTLE_S * 1e9
                           and len(self._recent) >= MIN_SETTLED)

    def may_leave(self, measured: Motion) -> bool:
        """Return whether a measurement, repeated, would end the rest."""
        away = np.linalg.norm(_measure_away(self.motion, measured), axis=1)
        return bool((away > WANDER_SHARE).any())

    def ends_with(self, measured: Motion) -> bool:
        """Return whether a measurement ends the rest: the mean of the newest, of any number, is
        away."""
        away = [*self._away, _measure_away(self.motion, measured)][-AVERAGED:]
        counts = np.arange(1, len(away) + 1)
        means = np.cumsum(away[::-1], axis=0) / counts[:, None, None]
        limits = np.sqrt(WANDER_SHARE ** 2 + (1 - WANDER_SHARE ** 2) / counts)
        return bool((np.linalg.norm(means, axis=2) > limits[:, None]).any())


def _measure_away(rest: Motion, measured: Motion) -> Array:
    """Return the shift and the turn (2, 3) from a rest to a measurement, in their limits."""
    shift_m, turn_rad = _compare(rest, measured)
    axis = turn_rad / max(float(np.linalg.norm(turn_rad)), 1e-12)
    sigma_rad = float(np.sqrt(axis @ measured.covariance[:3, :3] @ axis))
    limit_rad = min(max(LEAVE_TURN_SIGMAS * sigma_rad, LEAVE_RAD), MAX_LEAVE_RAD)
    return np.stack([shift_m / leave_limit_m(measured), turn_rad / limit_rad])


def leave_limit_m(measured: Motion) -> float:
    """Return how far from its place an object at rest may be measured once, m."""
    return min(max(LEAVE_SIGMAS * measured.sigma_m, LEAVE_M), MAX_LEAVE_M)


def _compare(one: Motion, other: Motion) -> Array:
    """Return the shift, m, and the turn, rad, (2, 3) from one motion to another."""
    turned = other.base_from_clicked.R @ one.base_from_clicked.R.T
    return np.stack([other.centre_m - one.centre_m, cv2.Rodrigues(turned)[0].ravel()])
