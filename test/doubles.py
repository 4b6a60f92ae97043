"""DOUBLES of matchers, for tests of what is around a matcher: they know the true geometry."""
from __future__ import annotations

import threading
import time

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Query, Rejected, View


class ExactMatcher:
    """Reprojects the clicked depth: right to the pixel, on the plane of the rig."""

    def __init__(self, confidence: float = 0.9, offset_px: float = 0.0) -> None:
        self.confidence, self.offset_px = confidence, offset_px

    def match(self, query: Query) -> Match:
        """Where the clicked point is in the other view, by depth and poses."""
        clicked, other = query.clicked, query.other
        column, row = np.rint(query.pixel).astype(int)
        ray_cam = clicked.intrinsics.ray_cam(query.pixel)
        point_cam_m = ray_cam / ray_cam[2] * float(clicked.depth_m[row, column])
        other_from_clicked = other.base_from_cam.inverse @ clicked.base_from_cam
        pixel = other.intrinsics.pixel(other_from_clicked.point(point_cam_m))
        return Match(pixel + self.offset_px, np.eye(2), self.confidence, 'double')

    def ground(self, view: View, instruction: str) -> Array:
        """Any instruction is the middle of the image."""
        return np.array([view.intrinsics.cx_px, view.intrinsics.cy_px])


class SamePixelMatcher:
    """Answers the clicked pixel: right for two cameras at the same place."""

    def match(self, query: Query) -> Match:
        """The same pixel."""
        return Match(query.pixel, np.eye(2), 0.9, 'double')


class SlowMatcher(ExactMatcher):
    """Takes its time."""

    def __init__(self, delay_s: float = 3.0) -> None:
        super().__init__()
        self.delay_s = delay_s

    def match(self, query: Query) -> Match:
        """Answer after the delay."""
        time.sleep(self.delay_s)
        return super().match(query)


class HangingMatcher:
    """Never returns, until the test is over."""

    released = threading.Event()

    def match(self, query: Query) -> Match:
        """Wait for ever."""
        self.released.wait()
        raise Rejected(Code.NOT_VISIBLE, 'released')


class RaisingMatcher:
    """Has a bug."""

    def match(self, query: Query) -> Match:
        """Divide by zero."""
        return Match(np.zeros(2) / (1 // int('0')))


class NanMatcher:
    """Answers that it knows not where, with confidence."""

    def match(self, query: Query) -> Match:
        """Not a number."""
        return Match(np.full(2, np.nan), np.eye(2), 0.99, 'double')


class BrokenMatcher:
    """Cannot be loaded."""

    def __init__(self) -> None:
        raise OSError('the weights are not where they should be')

    def match(self, query: Query) -> Match:
        """Never called."""
        raise AssertionError
