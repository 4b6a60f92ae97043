"""Loading a matcher: seen in log and diagnostics, waited for by queries, survived when it fails."""
from __future__ import annotations

import gc
import logging
import weakref

import fake_matchers
import numpy as np
import pytest
from crosspoint_ros.msg import Status
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from two_camera_rig import Rig, run_rig

from crosspoint_ros.ros.node.query_queue import QueryRequest

MIDDLE = np.array([159.5, 119.5])


@pytest.fixture
def gate():
    """Hold the loading of a `fake_matchers.LoadingMatcher` up until it is set."""
    fake_matchers.LoadingMatcher.loaded.clear()
    fake_matchers.LoadingMatcher.fails = False
    yield fake_matchers.LoadingMatcher.loaded
    fake_matchers.LoadingMatcher.loaded.set()


def state(rig: Rig) -> str:
    return rig.node._state_machine.current_state[1]


def ask(rig: Rig, **request) -> None:
    request = QueryRequest(**({'camera': 'front', 'pixel': MIDDLE} | request))
    rig.run_in_executor(lambda: rig.node._server.submit(request))


def matcher_status(rig: Rig) -> DiagnosticStatus:
    """The next that diagnostics says of the matcher."""
    heard: list[DiagnosticArray] = []
    subscription = rig.cameras.create_subscription(DiagnosticArray, '/diagnostics', heard.append,
                                                   10)
    array = rig.until(lambda: heard and heard[-1], what='diagnostics')
    rig.cameras.destroy_subscription(subscription)
    return next(status for status in array.status if status.name.endswith(': matcher'))


def test_while_a_matcher_loads_the_node_is_inactive_and_says_how_far_it_is(gate):
    with run_rig(matcher='fake_matchers:LoadingMatcher') as rig:
        status = rig.until(lambda: (s := matcher_status(rig)) and 'weights' in s.message and s)
        assert status.level == DiagnosticStatus.WARN
        assert 'weights 1 of 2' in status.message
        assert state(rig) == 'inactive'
        gate.set()
        rig.until(lambda: state(rig) == 'active')
        assert rig.until(lambda: (s := matcher_status(rig)) and s.level == DiagnosticStatus.OK
                         and s)


def test_a_query_asked_while_the_matcher_loads_waits_for_it(gate):
    with run_rig(matcher='fake_matchers:LoadingMatcher') as rig:
        ask(rig)
        rig.until(rig.open_tasks)
        gate.set()
        rig.discover()
        rig.send_frames()
        assert rig.wait_for_result().status.code in (Status.OK, Status.NO_IMAGE)
        ask(rig)
        assert rig.wait_for_result(earlier=1).status.code == Status.OK


def test_a_query_does_not_wait_longer_than_it_may(gate):
    with run_rig(matcher='fake_matchers:LoadingMatcher', limits__max_query_s=0.3) as rig:
        ask(rig)
        result = rig.wait_for_result()
        assert result.status.code == Status.TIMEOUT
        assert 'the matcher is still loading' in result.status.message


@pytest.mark.parametrize('autostart', [True, False])
def test_a_matcher_that_cannot_be_loaded_leaves_the_node_inactive_and_says_why(gate, autostart):
    fake_matchers.LoadingMatcher.fails = True
    with run_rig(matcher='fake_matchers:LoadingMatcher', start=autostart) as rig:
        if not autostart:  # a lifecycle manager goes on at once
            rig.run_in_executor(rig.node.trigger_configure)
            rig.run_in_executor(rig.node.trigger_activate)
        ask(rig)
        gate.set()
        waited = rig.wait_for_result()
        assert waited.status.code == Status.MATCHER_FAILED
        assert 'needs 7.1 GB, 1.2 GB are free' in waited.status.message
        rig.until(lambda: state(rig) == 'inactive')
        ask(rig)
        assert 'needs 7.1 GB' in rig.wait_for_result(earlier=1).status.message
        assert rig.run_in_executor(rig.node.trigger_activate) == TransitionCallbackReturn.FAILURE
        status = matcher_status(rig)
        assert status.level == DiagnosticStatus.ERROR
        assert 'needs 7.1 GB' in status.message
        fake_matchers.LoadingMatcher.fails = False
        for step in ('cleanup', 'configure', 'activate'):
            assert rig.run_in_executor(getattr(rig.node, f'trigger_{step}')) \
                == TransitionCallbackReturn.SUCCESS
        rig.until(lambda: state(rig) == 'active' and not rig.node._server.loader.is_loading)


def test_a_node_may_be_cleaned_up_while_its_matcher_loads(gate):
    with run_rig(matcher='fake_matchers:LoadingMatcher') as rig:
        loading = rig.node._server.loader
        assert rig.run_in_executor(rig.node.trigger_cleanup) == TransitionCallbackReturn.SUCCESS
        gate.set()
        rig.until(lambda: not loading.is_loading)
        assert state(rig) == 'unconfigured'


def test_what_the_matcher_logs_stops_with_the_node(gate):
    handlers = list(logging.getLogger('crosspoint_ros').handlers)
    with run_rig(matcher='fake_matchers:LoadingMatcher') as rig:
        assert len(logging.getLogger('crosspoint_ros').handlers) == len(handlers) + 1
        rig.run_in_executor(rig.node.trigger_cleanup)
        assert logging.getLogger('crosspoint_ros').handlers == handlers


def test_an_idle_matcher_prepares_for_the_newest_frames():
    fake_matchers.WarmMatcher.warmed.clear()
    with run_rig(matcher='fake_matchers:WarmMatcher', warm_share=0.5) as rig:
        rig.discover()
        stamp = rig.send_frames()
        rig.until(lambda: (stamp, stamp) in fake_matchers.WarmMatcher.warmed)
        ask(rig)
        assert rig.wait_for_result().status.code == Status.OK


def test_without_a_share_of_the_time_nothing_is_prepared():
    fake_matchers.WarmMatcher.warmed.clear()
    with run_rig(matcher='fake_matchers:WarmMatcher') as rig:
        rig.discover()
        rig.send_frames()
        ask(rig)
        assert rig.wait_for_result().status.code == Status.OK
        assert fake_matchers.WarmMatcher.warmed == []


def test_a_matcher_is_refined_by_the_one_it_names():
    with run_rig(matcher='fake_matchers:RoughMatcher') as rig:
        rig.discover()
        rig.send_frames()
        ask(rig)
        result = rig.wait_for_result()
        assert result.status.code == Status.OK
        assert rig.node._server.loader.matchers.refiner.asked == 1


def test_refine_none_leaves_its_finds_as_they_are():
    with run_rig(matcher='fake_matchers:RoughMatcher', refine='none') as rig:
        rig.until(lambda: not rig.node._server.loader.is_loading)
        assert rig.node._server.loader.matchers.refiner is None


def test_a_panic_of_a_library_while_loading_is_a_failure_that_is_told():
    with run_rig(matcher='fake_matchers:PanickingMatcher') as rig:
        loading = rig.node._server.loader
        rig.until(lambda: not loading.is_loading)
        assert 'Panic: by design' in loading.failure
        rig.until(lambda: state(rig) == 'inactive')


def test_the_next_matcher_loads_when_the_last_one_is_out_of_memory():
    gc.disable()  # which may come by chance, or after the next one did not fit
    try:
        with run_rig(matcher='fake_matchers:ExactMatcher') as rig:
            rig.until(lambda: state(rig) == 'active')
            last = weakref.ref(rig.node._server.loader.matchers.matcher)
            for step in ('deactivate', 'cleanup', 'configure'):
                assert rig.run_in_executor(getattr(rig.node, f'trigger_{step}')) \
                    == TransitionCallbackReturn.SUCCESS
            rig.until(lambda: not rig.node._server.loader.is_loading)
            assert last() is None
    finally:
        gc.enable()
