"""A camera's last image holds for as long as the next one could not have come yet."""
from __future__ import annotations

import numpy as np
import pytest
from two_camera_rig import LENS

from crosspoint_ros.core.datatypes import Code, MissingView, Rejected, View
from crosspoint_ros.ros.follow.fresh_views import FreshLook, FreshViews


class FakeSource:
    """Cameras that send at given periods, s, until `stopped`; `refused`: why one is unusable."""

    def __init__(self, with_depth: bool = True, **periods_s: float | None) -> None:
        self.periods_s, self.now_ns, self.with_depth = periods_s, 10**9, with_depth
        self.cameras = tuple(periods_s)
        self.stopped_ns: dict[str, int] = {}
        self.refused: dict[str, Rejected] = {}
        self.age_limit_s = 10.0

    @property
    def max_image_age_s(self) -> float:
        return self.age_limit_s

    def get_period_s(self, camera: str) -> float | None:
        return self.periods_s[camera]

    def collect_for_following(self, should_stop):
        return tuple(MissingView(camera, self.refused[camera]) if camera in self.refused
                     else self.make_view(camera) for camera in self.cameras)

    def make_view(self, camera: str) -> View:
        period_ns = int(1e9 * (self.periods_s[camera] or 1.0))
        stamp_ns = min(self.now_ns, self.stopped_ns.get(camera, self.now_ns))
        depth = np.ones((240, 320), np.float32) if self.with_depth else None
        return View(camera, np.zeros((240, 320, 3), np.uint8), LENS,
                    stamp_ns - stamp_ns % period_ns, camera, depth)


class Watch:
    """Looks at the source at so many Hz of the node's clock."""

    def __init__(self, source: FakeSource, rate_hz: float = 10.0) -> None:
        self.source, self.step_ns = source, round(1e9 / rate_hz)
        self.fresh = FreshViews(source, lambda: self.source.now_ns)

    def look(self, seconds: float) -> list[FreshLook | None]:
        looks = []
        for _ in range(round(seconds * 1e9) // self.step_ns):
            self.source.now_ns += self.step_ns
            looks.append(self.fresh.collect(0.15, lambda: False))
        return looks


def is_missing(look: FreshLook | None) -> bool:
    return look is not None and any(isinstance(view, MissingView) for view in look.views)


def test_an_image_is_taken_once():
    watch = Watch(FakeSource(front=0.1), rate_hz=40)
    looks = watch.look(2.0)
    assert sum(look is not None for look in looks) == pytest.approx(20, abs=1)


@pytest.mark.parametrize('slow_s', [0.2, 0.5, 1.0])
def test_a_slow_camera_is_due_between_its_images(slow_s):
    watch = Watch(FakeSource(front=0.1, wrist=slow_s))
    looks = watch.look(5.0)
    assert not any(map(is_missing, looks))
    assert all('wrist' in look.due or any(view.camera == 'wrist' for view in look.views)
               for look in looks)


def test_a_slow_camera_alone_is_never_missing():
    looks = Watch(FakeSource(wrist=1.0)).look(6.0)
    assert not any(map(is_missing, looks))
    assert sum(look is not None for look in looks) in (6, 7)


def test_simulated_time_far_below_one_is_not_a_camera_that_stopped():
    looks = Watch(FakeSource(front=0.1), rate_hz=1000).look(1.0)  # 10 looks a second at 0.01
    assert not any(map(is_missing, looks))


def test_while_the_clock_is_paused_nothing_is_overdue():
    watch = Watch(FakeSource(front=0.1))
    watch.look(0.5)
    watch.step_ns = 0
    assert [watch.fresh.collect(0.15, lambda: False) for _ in range(20)] == [None] * 20


@pytest.mark.parametrize(('period_s', 'limit_s'), [(0.1, 0.4), (0.3, 0.75), (1.0, 1.5),
                                                   (None, 1.5)])
def test_a_camera_that_stopped_is_overdue_after_its_own_period(period_s, limit_s):
    watch = Watch(FakeSource(front=period_s), rate_hz=100)
    watch.look(2.0)
    watch.source.stopped_ns['front'] = watch.source.now_ns
    looks = watch.look(2 * limit_s + 1.0)
    first = next(k for k, look in enumerate(looks) if is_missing(look))
    assert first * 0.01 == pytest.approx(limit_s, abs=(period_s or 1.0) + 0.02)
    assert f'limit {limit_s:.1f} s' in looks[first].views[0].rejected.message


def test_a_camera_that_stopped_is_reported_while_another_is_due():
    watch = Watch(FakeSource(front=0.1, wrist=1.0))
    watch.look(2.05)
    watch.source.stopped_ns['front'] = watch.source.now_ns
    looks = watch.look(0.7)
    assert any(is_missing(look) and 'wrist' in look.due for look in looks)


def test_transforms_that_come_late_are_waited_for_and_then_missing():
    watch = Watch(FakeSource(front=0.1))
    watch.look(1.0)
    watch.source.refused['front'] = Rejected(Code.NO_TF, 'no transform')
    looks = watch.look(1.0)
    assert not is_missing(looks[1])
    assert is_missing(looks[-1])
    assert looks[-1].views[0].rejected.code == Code.NO_TF


@pytest.mark.parametrize('code', [Code.STALE, Code.NO_IMAGE])
def test_an_image_that_may_not_be_used_holds_nothing(code):
    watch = Watch(FakeSource(front=0.1, wrist=1.0))
    watch.look(2.05)
    watch.source.refused['wrist'] = Rejected(code, 'refused')
    look, = watch.look(0.1)
    assert 'wrist' not in look.due
    assert [view.rejected.code for view in look.views if isinstance(view, MissingView)] == [code]


@pytest.mark.parametrize('code', [Code.NO_TF, Code.NO_DEPTH])
def test_a_transform_or_depth_that_is_late_is_waited_for_until_the_last_image_is_too_old(code):
    watch = Watch(FakeSource(wrist=1.0), rate_hz=20)
    watch.source.age_limit_s = 0.5
    watch.source.now_ns = 3 * 10**9 - 1
    watch.look(0.05)  # an image of 50 ms ago
    watch.source.refused['wrist'] = Rejected(code, 'late')
    looks = watch.look(0.6)
    first = next(k for k, look in enumerate(looks) if is_missing(look))
    assert 0.05 * (first + 1) + 0.05 == pytest.approx(0.5, abs=0.06)


def test_without_depth_images_of_nearly_one_time_are_taken_together():
    for with_depth, least in ((False, 2), (True, 1)):
        watch = Watch(FakeSource(with_depth, front=0.05, wrist=0.1), rate_hz=20)
        looks = watch.look(1.0)[2:]
        assert min(len(look.views) for look in looks) == least
