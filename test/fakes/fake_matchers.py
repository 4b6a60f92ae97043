"""Fake matchers, which know the true geometry or fail on purpose, to test what calls them."""
from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import (
    Code,
    CorrectedPose,
    Match,
    Query,
    Rejected,
    Transform,
    View,
)


class ExactMatcher:
    """Reprojects the clicked depth: exact on the plane of the rig."""

    def __init__(self, confidence: float = 0.9, offset_px: float = 0.0) -> None:
        self.confidence, self.offset_px = confidence, offset_px

    def match(self, query: Query) -> Match:
        """Return the projection of the clicked point, by depth and poses."""
        clicked, other = query.clicked, query.other
        column, row = np.rint(query.pixel).astype(int)
        ray_cam = clicked.intrinsics.unproject(query.pixel)
        point_cam_m = ray_cam / ray_cam[2] * float(clicked.depth_m[row, column])
        other_from_clicked = other.base_from_cam.inverse @ clicked.base_from_cam
        pixel = other.intrinsics.project(other_from_clicked.transform_points(point_cam_m))
        return Match(pixel + self.offset_px, np.eye(2), self.confidence, 'double')

    def ground(self, view: View, instruction: str) -> Match:
        """Return the middle of the image, less sure for an indefinite article ('a …')."""
        middle = np.array([view.intrinsics.cx_px, view.intrinsics.cy_px])
        return Match(middle, confidence=0.6 if instruction.startswith('a ') else 1.0)


class SamePixelMatcher:
    """Answers the clicked pixel: right for two cameras at the same place."""

    def match(self, query: Query) -> Match:
        """The same pixel."""
        return Match(query.pixel, np.eye(2), 0.9, 'double')


class InexactMatcher:
    """Finds one point of the base, two pixels off, and says that it may be three."""

    def __init__(self, point_base_m: tuple[float, float, float] = (0.0, -0.03, 0.05),
                 confidence: float = 0.9) -> None:
        self.point_base_m, self.confidence = np.array(point_base_m), confidence

    def match(self, query: Query) -> Match:
        """Return about where the other view shows it, by the poses."""
        at_cam = query.other.base_from_cam.inverse.transform_points(self.point_base_m)
        return Match(query.other.intrinsics.project(at_cam) + np.array([2.0, 0.5]),
                     9.0 * np.eye(2), self.confidence, 'double')


class BumpedMatcher(ExactMatcher):
    """Finds, like `ExactMatcher`, and measures that the clicked camera is off by 15 mm."""

    def match(self, query: Query) -> Match:
        """Return the projection, and the corrected pose of the two cameras."""
        given = query.other.base_from_cam.inverse @ query.clicked.base_from_cam
        sigmas = np.repeat([np.radians(0.1), 0.001], 3)
        off = Transform(np.eye(3), np.array([0.015, 0.0, 0.0]))
        return replace(super().match(query), corrected_pose=CorrectedPose(
            given @ off, np.diag(sigmas ** 2)))


class SlowMatcher(ExactMatcher):
    """Answers after a delay."""

    def __init__(self, delay_s: float = 3.0) -> None:
        super().__init__()
        self.delay_s = delay_s

    def match(self, query: Query) -> Match:
        """Answer after the delay."""
        time.sleep(self.delay_s)
        return super().match(query)


@dataclass(frozen=True, eq=False)
class SlowMatch(Match):
    """A match that is read slowly: the first access from within `function` takes `delay_s`."""

    function: str = ''
    delay_s: float = 0.0

    def __getattribute__(self, name: str) -> object:
        state = super().__getattribute__('__dict__')
        if name in ('pixel', 'confidence') and state.get('function'):
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_name != state['function']:
                frame = frame.f_back
            if frame is not None:
                state['function'] = ''
                time.sleep(state['delay_s'])
        return super().__getattribute__(name)


class SlowStageMatcher(ExactMatcher):
    """Delays the stage of that name: match, verify or lift."""

    def __init__(self, stage: str = 'match', delay_s: float = 1.0) -> None:
        super().__init__()
        self.stage, self.delay_s = stage, delay_s

    def match(self, query: Query) -> Match:
        """Answer, at once unless the stage is this one."""
        if self.stage == 'match':
            time.sleep(self.delay_s)
        found = super().match(query)
        function = {'match': '', 'verify': 'verify_match', 'lift': 'lift_target'}[self.stage]
        return SlowMatch(found.pixel, found.covariance_px2, found.confidence,
                         function=function, delay_s=self.delay_s)


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


class BrokenMatcher:
    """Always fails, as without its server."""

    def match(self, query: Query) -> Match:
        """Refuse."""
        raise Rejected(Code.MATCHER_FAILED, 'there is no server')


class NanMatcher:
    """Returns a NaN pixel with high confidence."""

    def match(self, query: Query) -> Match:
        """Not a number."""
        return Match(np.full(2, np.nan), np.eye(2), 0.99, 'double')


class LoadingMatcher(ExactMatcher):
    """Loads until the test sets `loaded`; with `fails`, memory is then insufficient."""

    loaded = threading.Event()
    fails = False

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger('crosspoint_ros.matchers.double').info('weights 1 of 2')
        assert self.loaded.wait(timeout=30.0)
        if self.fails:
            raise MemoryError('the model needs 7.1 GB, 1.2 GB are free')


class WarmMatcher(ExactMatcher):
    """Records the stamps of the views it is to prepare for."""

    warmed: list[tuple[int, ...]] = []  # noqa: RUF012  (the test reads it)

    def warm(self, views: tuple[View, ...]) -> None:
        """Keep the stamps."""
        self.warmed.append(tuple(view.stamp_ns for view in views))


class RoughMatcher(ExactMatcher):
    """Finds about the right place."""

    refined_by = 'fake_matchers:ExactRefiner'

    def __init__(self) -> None:
        super().__init__(offset_px=6.0)

    def match(self, query: Query) -> Match:
        """Return a match that is six pixels off, with that covariance."""
        return replace(super().match(query), covariance_px2=np.eye(2) * 36.0)


class ExactRefiner(ExactMatcher):
    """Finds the exact place near a rough one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def match(self, query: Query) -> Match:
        """Exact, and counted."""
        self.asked += 1
        return super().match(query)

    def refine(self, query: Query, near: Match) -> Match:
        """Exact, whatever is near."""
        return super().match(query)


class Panic(BaseException):
    """What a Rust library raises: not an Exception."""


class PanickingMatcher(ExactMatcher):
    """Its tokenizer panics over a broken file."""

    def __init__(self) -> None:
        super().__init__()
        raise Panic('by design')


class DelayedMatcher:
    """Answers the clicked pixel after a delay."""

    def __init__(self, seconds: float = 0.1) -> None:
        self._seconds = seconds

    def match(self, query: Query) -> Match:
        time.sleep(self._seconds)
        return Match(np.array(query.pixel), confidence=0.9)


class RightHalfMatcher(DelayedMatcher):
    """Fails on every point in the left half of a 640 px image."""

    def match(self, query: Query) -> Match:
        if query.pixel[0] < 320:
            raise RuntimeError('the left is out')
        return Match(np.array(query.pixel), confidence=0.9)


class EverySecondMatcher(DelayedMatcher):
    """Fails on every other query, and refuses those between."""

    def __init__(self) -> None:
        self._count = 0

    def match(self, query: Query) -> Match:
        self._count += 1
        if self._count % 2:
            raise RuntimeError('the double broke')
        raise Rejected(Code.NOT_VISIBLE, 'not there, at 0.30, 0.5')


class ConcurrentMatcher(ExactMatcher):
    """Takes two queries at a time, and answers each when the test opens the gate of its click."""

    max_concurrent = 2
    entered = threading.Semaphore(0)
    gates: dict[int, threading.Event] = {}  # noqa: RUF012  (by column of the click; none: open)

    def match(self, query: Query) -> Match:
        """Wait for the gate of the clicked column."""
        self.entered.release()
        gate = self.gates.get(round(float(query.pixel[0])))
        assert gate is None or gate.wait(timeout=10.0)
        return super().match(query)
