"""Interactive markers over real DDS: what RViz's client needs to see them and to be heard."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import Point, Pose
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from two_camera_rig import DOMAINS
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
)
from visualization_msgs.srv import GetInteractiveMarkers

from crosspoint_ros.ros.rviz import interactive_markers
from crosspoint_ros.ros.rviz.interactive_markers import InteractiveMarkers

UP, DOWN = InteractiveMarkerFeedback.MOUSE_UP, InteractiveMarkerFeedback.MOUSE_DOWN
MOVE, CLICK = InteractiveMarkerFeedback.POSE_UPDATE, InteractiveMarkerFeedback.BUTTON_CLICK


class Client:
    """What RViz's client does: the topics and the service of the original, with its QoS."""

    def __init__(self, context: Context) -> None:
        self.node = rclpy.create_node('client', context=context)
        self.updates: list[InteractiveMarkerUpdate] = []
        self.feedback = self.node.create_publisher(
            InteractiveMarkerFeedback, '/tester/here/feedback', QoSProfile(depth=100))
        self._everything = self.node.create_client(GetInteractiveMarkers,
                                                   '/tester/here/get_interactive_markers')
        self.watch()

    def watch(self) -> None:
        """Listen to updates."""
        self._listening = self.node.create_subscription(
            InteractiveMarkerUpdate, '/tester/here/update', self.updates.append,
            QoSProfile(depth=100))

    def look_away(self) -> None:
        """Listen no more."""
        self.node.destroy_subscription(self._listening)

    def everything(self, until: Callable[..., Any]) -> GetInteractiveMarkers.Response:
        """Ask the service."""
        until(self._everything.service_is_ready)
        future = self._everything.call_async(GetInteractiveMarkers.Request())
        until(future.done)
        return future.result()

    def does(self, event: int, name: str, who: str = 'rviz', **fields: Any) -> None:
        """Send feedback."""
        self.feedback.publish(InteractiveMarkerFeedback(
            event_type=event, marker_name=name, client_id=who, **fields))


class Scene:
    """A server and a client in one executor."""

    def __init__(self, context: Context) -> None:
        self.node = rclpy.create_node('tester', context=context)
        self.markers = InteractiveMarkers(self.node, '~/here')
        self.client = Client(context)
        self.heard: list[tuple[str, InteractiveMarkerFeedback]] = []
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.client.node)

    def until(self, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Spin until the condition holds."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if condition():
                return condition()
            self.executor.spin_once(timeout_sec=0.02)
        raise AssertionError(f'not within {timeout_s} s')

    def put(self, name: str, x_m: float = 0.0) -> None:
        """Put a marker whose feedback is kept under the callback's own name."""
        self.markers.put(InteractiveMarker(name=name, pose=pose(x_m)),
                         lambda feedback: self.heard.append((name, feedback)))

    def settle(self) -> None:
        """Wait until all feedback sent so far has been dealt with: it comes in order."""
        self.put('last')
        self.markers.apply()
        before = len([name for name, _ in self.heard if name == 'last'])
        self.client.does(CLICK, 'last')
        self.until(lambda: len([name for name, _ in self.heard if name == 'last']) > before)
        self.heard = [(name, feedback) for name, feedback in self.heard if name != 'last']


def pose(x_m: float) -> Pose:
    return Pose(position=Point(x=x_m))


@contextmanager
def scene() -> Iterator[Scene]:
    context = Context()
    rclpy.init(context=context, domain_id=next(DOMAINS))
    made = Scene(context)
    try:
        made.until(lambda: made.markers.has_subscribers)
        made.until(made.client.feedback.get_subscription_count)
        yield made
    finally:
        made.executor.shutdown()
        made.node.destroy_node()
        made.client.node.destroy_node()
        rclpy.try_shutdown(context=context)


@pytest.fixture(scope='module')
def shared() -> Iterator[Scene]:
    with scene() as made:
        yield made


@pytest.fixture
def here(shared: Scene) -> Scene:
    for name in list(shared.markers._callbacks):
        shared.markers.remove(name)
    shared.markers.apply()
    shared.settle()
    shared.until(lambda: shared.client.updates
                 and shared.client.updates[-1].seq_num == shared.markers._sequence)
    shared.client.updates.clear()
    shared.heard.clear()
    return shared


def test_updates_carry_numbers_without_a_gap(here):
    for x_m in (1.0, 2.0, 3.0):
        here.put('a', x_m)
        here.markers.apply()
    here.until(lambda: len(here.client.updates) == 3)
    first = here.client.updates[0].seq_num
    assert [u.seq_num for u in here.client.updates] == [first, first + 1, first + 2]
    assert {u.type for u in here.client.updates} == {InteractiveMarkerUpdate.UPDATE}
    assert [u.markers[0].pose.position.x for u in here.client.updates] == [1.0, 2.0, 3.0]


def test_a_late_client_gets_everything_with_the_number_of_the_last_update(here):
    here.put('a', 1.0)
    here.put('b', 2.0)
    here.markers.apply()
    here.markers.move('b', pose(5.0), Header(frame_id='base'))
    here.markers.apply()
    here.until(lambda: len(here.client.updates) == 2)
    everything = here.client.everything(here.until)
    assert everything.sequence_number == here.client.updates[-1].seq_num
    found = {m.name: m for m in everything.markers}
    assert found.keys() == {'a', 'b', 'last'}
    assert found['b'].pose.position.x == 5.0
    assert found['b'].header.frame_id == 'base'


def test_what_was_not_applied_yet_is_shown_to_nobody(here):
    here.put('a', 1.0)
    here.markers.apply()
    here.put('unsent')
    here.markers.move('a', pose(9.0), Header())
    everything = here.client.everything(here.until)
    found = {m.name: m.pose.position.x for m in everything.markers}
    assert found == {'a': 1.0, 'last': 0.0}
    here.until(lambda: here.client.updates)
    assert len(here.client.updates) == 1


def test_a_move_is_sent_as_a_pose_alone(here):
    here.put('a', 1.0)
    here.markers.apply()
    here.markers.move('a', pose(4.0), Header(frame_id='base'))
    here.markers.apply()
    here.until(lambda: len(here.client.updates) == 2)
    update = here.client.updates[1]
    assert not update.markers
    assert not update.erases
    assert [(p.name, p.pose.position.x, p.header.frame_id) for p in update.poses] == [
        ('a', 4.0, 'base')]


def test_a_move_before_the_marker_was_sent_goes_out_with_it(here):
    given = InteractiveMarker(name='a', pose=pose(1.0))
    here.markers.put(given, lambda feedback: None)
    here.markers.move('a', pose(4.0), Header())
    here.markers.apply()
    here.until(lambda: here.client.updates)
    update = here.client.updates[0]
    assert [m.pose.position.x for m in update.markers] == [4.0]
    assert not update.poses
    assert given.pose.position.x == 1.0, 'the message of the caller was changed'


def test_a_removed_marker_is_erased_and_one_that_was_never_sent_is_not_mentioned(here):
    here.put('a')
    here.markers.apply()
    here.put('never')
    here.markers.remove('never')
    here.markers.remove('a')
    here.markers.remove('unheard of')
    here.markers.apply()
    here.until(lambda: len(here.client.updates) == 2)
    assert here.client.updates[1].erases == ['a']
    assert not here.client.updates[1].markers
    assert [m.name for m in here.client.everything(here.until).markers] == ['last']


def test_a_marker_put_again_after_its_removal_stays(here):
    here.put('a', 1.0)
    here.markers.apply()
    here.markers.remove('a')
    here.put('a', 2.0)
    here.markers.apply()
    here.until(lambda: len(here.client.updates) == 2)
    assert not here.client.updates[1].erases
    assert [m.pose.position.x for m in here.client.updates[1].markers] == [2.0]


def test_nothing_changed_is_nothing_sent(here):
    number = here.client.everything(here.until).sequence_number
    here.markers.apply()
    assert here.client.everything(here.until).sequence_number == number


def test_moving_an_unknown_marker_is_a_bug_with_the_names_there_are(here):
    with pytest.raises(KeyError, match="no marker 'ghost'; there are: last"):
        here.markers.move('ghost', pose(0.0), Header())


def test_feedback_reaches_the_callback_of_its_marker_and_no_other(here):
    here.put('a')
    here.put('b')
    here.markers.apply()
    here.client.does(CLICK, 'b', control_name='front 12', mouse_point=Point(z=1.5),
                     mouse_point_valid=True)
    here.client.does(CLICK, 'nobody')
    here.settle()
    assert [name for name, _ in here.heard] == ['b']
    feedback = here.heard[0][1]
    assert (feedback.control_name, feedback.mouse_point.z) == ('front 12', 1.5)


def test_feedback_for_a_marker_that_was_removed_or_never_sent_reaches_nobody(here):
    here.put('gone')
    here.markers.apply()
    here.markers.remove('gone')
    here.put('unsent')
    here.client.does(CLICK, 'gone')
    here.client.does(CLICK, 'unsent')
    here.client.does(CLICK, 'last')
    here.until(lambda: [name for name, _ in here.heard if name == 'last'])
    assert [name for name, _ in here.heard] == ['last']


def test_the_newest_callback_of_a_marker_is_the_one_that_hears(here):
    heard: list[str] = []
    here.markers.put(InteractiveMarker(name='a'), lambda feedback: heard.append('old'))
    here.markers.apply()
    here.markers.put(InteractiveMarker(name='a'), lambda feedback: heard.append('new'))
    here.client.does(CLICK, 'a')
    here.settle()
    assert heard == ['new']


def test_feedback_moves_nothing_by_itself(here):
    here.put('a', 1.0)
    here.markers.apply()
    here.client.does(MOVE, 'a', pose=pose(float('nan')))
    here.settle()
    assert len(here.heard) == 1
    found = {m.name: m.pose.position.x for m in here.client.everything(here.until).markers}
    assert found['a'] == 1.0


def test_a_second_client_cannot_drag_what_another_holds_but_may_click_it(here):
    here.put('a')
    here.markers.apply()
    here.client.does(DOWN, 'a', 'first')
    here.client.does(MOVE, 'a', 'second')
    here.client.does(UP, 'a', 'second')
    here.client.does(CLICK, 'a', 'second')
    here.client.does(UP, 'a', 'first')
    here.client.does(DOWN, 'a', 'second')
    here.settle()
    assert [(f.client_id, f.event_type) for _, f in here.heard] == [
        ('first', DOWN), ('second', CLICK), ('first', UP), ('second', DOWN)]


def test_a_client_that_vanished_in_mid_drag_does_not_keep_the_marker(here, monkeypatch):
    monkeypatch.setattr(interactive_markers, 'DRAG_TIMEOUT_S', 0.2)
    here.put('a')
    here.markers.apply()
    here.client.does(DOWN, 'a', 'vanished')
    here.settle()

    def taken() -> bool:
        here.client.does(DOWN, 'a', 'second')
        return any(f.client_id == 'second' for _, f in here.heard)

    here.until(taken)


def test_a_hundred_changes_a_second_reach_the_client_in_order(here):
    here.put('a')
    here.markers.apply()
    for step in range(100):
        here.markers.move('a', pose(float(step)), Header())
        here.markers.apply()
        here.executor.spin_once(timeout_sec=0.0)
    here.until(lambda: len(here.client.updates) == 101)
    numbers = [u.seq_num for u in here.client.updates]
    assert numbers == list(range(numbers[0], numbers[0] + 101))


def test_nobody_looks_when_nobody_subscribes(here):
    assert here.markers.has_subscribers
    here.client.look_away()
    here.until(lambda: not here.markers.has_subscribers)
    here.client.watch()
    here.until(lambda: here.markers.has_subscribers)


def test_closing_erases_every_marker_and_leaves_the_graph():
    with scene() as alone:
        alone.put('a')
        alone.put('b')
        alone.markers.apply()
        alone.markers.close()
        alone.until(lambda: alone.client.updates and alone.client.updates[-1].erases)
        assert sorted(alone.client.updates[-1].erases) == ['a', 'b']
        alone.until(lambda: not alone.client.node.count_publishers('/tester/here/update'))
