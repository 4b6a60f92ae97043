"""Keeps an object at rest where it is: what is measured of it from a moving camera wanders."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from crosspoint_ros.core.track.motion import Motion

LEAVE_M, LEAVE_RAD = 0.005, 0.15  # from where it rests: then it moves
LEAVE_SIGMAS, MAX_LEAVE_M = 2.0, 0.012  # of the measurement: a moving camera's is less exact
SETTLE_S, SETTLE_M, SETTLE_RAD = 0.6, 0.002, 0.05  # so still for so long: then it rests
MIN_SETTLED = 3  # measurements that say so


class RestDetector:
    """Says where an object is: as measured while it moves, in one place while it rests.

    motion: the place. An object moves away from its rest by 5 mm (two sigmas of the measurement, up
    to 12 mm, where that is more) or 0.15 rad before it counts as moving, and comes to rest where it
    has stayed within 2 mm and 0.05 rad for about 0.6 s and three measurements, at any rate.
    """

    def __init__(self, motion: Motion) -> None:
        """Begin at rest."""
        self.motion, self.is_at_rest = motion, True
        self._recent: list[tuple[int, Motion]] = []

    def update(self, measured: Motion, now_ns: int) -> None:
        """Take the newest measurement."""
        passed = [each for each in self._recent if each[0] <= now_ns]
        older = [each for each in passed if each[0] < now_ns - SETTLE_S * 1e9]
        self._recent = [*older[1 - MIN_SETTLED:], *passed[len(older):],
                        (now_ns, measured)]
        if self.is_at_rest and not _is_near(self.motion, measured, leave_limit_m(measured),
                                            LEAVE_RAD):
            self.is_at_rest, self._recent = False, [(now_ns, measured)]
        if self.is_at_rest:
            self.motion = replace(self.motion, covariance=measured.covariance)
            return
        self.motion = measured
        far = [index for index, (_, motion) in enumerate(self._recent)
               if not _is_near(motion, measured, SETTLE_M, SETTLE_RAD)]
        self._recent = self._recent[far[-1] + 1 if far else 0:]
        self.is_at_rest = (now_ns - self._recent[0][0] > 0.8 * SETTLE_S * 1e9
                           and len(self._recent) >= MIN_SETTLED)


def leave_limit_m(measured: Motion) -> float:
    """Return how far from its place an object at rest may be measured, m."""
    return min(max(LEAVE_SIGMAS * measured.sigma_m, LEAVE_M), MAX_LEAVE_M)


def _is_near(one: Motion, other: Motion, limit_m: float, limit_rad: float) -> bool:
    turned = one.base_from_clicked.R.T @ other.base_from_clicked.R
    return bool(np.linalg.norm(one.centre_m - other.centre_m) <= limit_m
                and np.linalg.norm(cv2.Rodrigues(turned)[0]) <= limit_rad)
