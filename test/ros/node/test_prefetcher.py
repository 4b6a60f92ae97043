"""Preparations keep to their share of the time, and a matcher that fails them to the log's."""
from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Intrinsics, View
from crosspoint_ros.ros.node.matcher_runtime import FAILURE_COOLDOWN_S, Prefetcher

LENS = Intrinsics(4.0, 4.0, 2.0, 2.0, 4, 4)
TAKES_S = 0.05


class Cameras:
    """Double of ViewCollector: two cameras with a new image whenever somebody looks."""

    def __init__(self, *names: str) -> None:
        self.names, self.stamp_ns, self.moving = names, 0, True

    def collect_newest(self) -> tuple[View, ...]:
        self.stamp_ns += self.moving
        image = np.zeros((4, 4, 3), np.uint8)
        return tuple(View(name, image, LENS, self.stamp_ns) for name in self.names)


class Shelf:
    """Double of QueryThread: does what was offered last when the test says so."""

    def __init__(self) -> None:
        self.work: Any = None

    def submit_idle(self, owner: Any, work: Any) -> None:
        self.work = work

    def run(self) -> None:
        work, self.work = self.work, None
        if work is not None:
            work()


class Preparing:
    """Double of a matcher: takes its time to prepare, while the node's timer ticks on."""

    def __init__(self) -> None:
        self.warmed: list[tuple[View, ...]] = []
        self.error: Exception | None = None
        self.tick: Any = None

    def warm(self, views: tuple[View, ...]) -> None:
        self.warmed.append(views)
        time.sleep(TAKES_S)
        self.tick()
        if self.error is not None:
            raise self.error


def made(share: float, *names: str) -> tuple[Prefetcher, Preparing, Shelf, Cameras]:
    matcher, shelf, cameras = Preparing(), Shelf(), Cameras(*(names or ('a', 'b')))
    loading: Any = SimpleNamespace(matchers=SimpleNamespace(matcher=matcher, refiner=None))
    prefetcher = Prefetcher(share, cameras, shelf, loading)  # type: ignore[arg-type]
    matcher.tick = prefetcher.submit
    return prefetcher, matcher, shelf, cameras


def test_what_is_offered_during_a_preparation_waits_for_the_rest_after_it():
    prefetcher, matcher, shelf, _ = made(0.1)
    prefetcher.submit()
    shelf.run()
    shelf.run()
    prefetcher.submit()
    shelf.run()
    assert len(matcher.warmed) == 1
    rested_s = time.monotonic()
    while len(matcher.warmed) < 2:
        assert time.monotonic() - rested_s < 20.0, 'it never prepared again'
        prefetcher.submit()
        shelf.run()
    assert time.monotonic() - rested_s > 8 * TAKES_S


def test_a_preparation_that_fails_is_not_tried_again_at_once():
    prefetcher, matcher, shelf, _ = made(1.0)
    matcher.error = RuntimeError('by design')
    prefetcher.submit()
    with pytest.raises(RuntimeError, match='by design'):
        shelf.run()
    prefetcher.submit()
    shelf.run()
    assert len(matcher.warmed) == 1
    assert prefetcher._cooldown_until_s - time.monotonic() > FAILURE_COOLDOWN_S - 1.0


def test_images_of_one_moment_from_another_camera_are_prepared_for_too():
    prefetcher, matcher, shelf, cameras = made(1.0)
    cameras.moving = False
    for names, count in ((('a', 'b'), 1), (('a', 'b'), 1), (('a', 'c'), 2)):
        cameras.names = names
        prefetcher.submit()
        shelf.run()
        assert len(matcher.warmed) == count
