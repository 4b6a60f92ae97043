"""DOUBLES of matchers for the benchmark: they take their time, or fail."""
from __future__ import annotations

import time

import numpy as np

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected


class Slow:
    """Finds what was clicked at the same pixel, after a while."""

    def __init__(self, seconds: float = 0.1) -> None:
        self._seconds = seconds

    def match(self, query: Query) -> Match:
        time.sleep(self._seconds)
        return Match(np.array(query.pixel), confidence=0.9)


class LeftOut(Slow):
    """Breaks at every point of the left half of a 640 px image, however often it is asked."""

    def match(self, query: Query) -> Match:
        if query.pixel[0] < 320:
            raise RuntimeError('the left is out')
        return Match(np.array(query.pixel), confidence=0.9)


class Failing(Slow):
    """Fails at every other question, and refuses the ones between."""

    def __init__(self) -> None:
        self._count = 0

    def match(self, query: Query) -> Match:
        self._count += 1
        if self._count % 2:
            raise RuntimeError('the double broke')
        raise Rejected(Code.NOT_VISIBLE, 'not there, at 0.30, 0.5')
