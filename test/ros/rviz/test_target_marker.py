"""The target as a marker on a running node: dragged and clicked as RViz does it, over real DDS."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from crosspoint_ros.msg import GraspTarget, HistoryEntry
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Quaternion
from operator_client import POINT_BASE_M, Operator, get_position
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from two_camera_rig import LATCHED_QOS, run_rig
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    InteractiveMarkerUpdate,
    Marker,
    MarkerArray,
)
from visualization_msgs.srv import GetInteractiveMarkers

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.conversions import pose_from_transform, transform_from_pose
from crosspoint_ros.ros.rviz import target_marker

NUMBERS = itertools.count()
OTHER_BASE_M = (-0.06, -0.03, 0.0)
DRAG_BASE_M = np.array([0.03, -0.02, 0.05])
UP, DOWN = InteractiveMarkerFeedback.MOUSE_UP, InteractiveMarkerFeedback.MOUSE_DOWN
MOVE, MENU = InteractiveMarkerFeedback.POSE_UPDATE, InteractiveMarkerFeedback.MENU_SELECT
MOVED, ACCEPTED = HistoryEntry.MOVED, HistoryEntry.ACCEPTED


class RViz:
    """DOUBLE of RViz's interactive markers display: its topics, its order of events, its frame."""

    def __init__(self, person: Operator, name: str = 'rviz') -> None:
        self.person, self.name, self.rig = person, name, person.rig
        node = self.rig.cameras
        self._everything = node.create_client(GetInteractiveMarkers,
                                              '/crosspoint/adjust/get_interactive_markers')
        self.rig.until(self._everything.service_is_ready)
        self.come()

    def come(self) -> None:
        """Be there."""
        node = self.rig.cameras
        self.updates: list[InteractiveMarkerUpdate] = []
        self.feedback = node.create_publisher(
            InteractiveMarkerFeedback, '/crosspoint/adjust/feedback', QoSProfile(depth=100))
        self._listening = node.create_subscription(
            InteractiveMarkerUpdate, '/crosspoint/adjust/update', self.updates.append,
            QoSProfile(depth=100))
        self.rig.until(self.feedback.get_subscription_count)
        self.rig.until(lambda: self.rig.node._server.review._target_marker._markers.has_subscribers)

    def leave(self) -> None:
        """Vanish, in whatever it was doing."""
        self.rig.cameras.destroy_subscription(self._listening)
        self.rig.cameras.destroy_publisher(self.feedback)

    def marker(self) -> InteractiveMarker | None:
        """What a client that comes now is shown."""
        future = self._everything.call_async(GetInteractiveMarkers.Request())
        self.rig.until(future.done)
        return next(iter(future.result().markers), None)

    def shown(self) -> InteractiveMarker:
        """Wait for a marker."""
        return self.rig.until(self.marker, what='a marker')

    def does(self, event: int, marker: InteractiveMarker, pose: Pose | None = None,
             **fields: Any) -> None:
        """Send feedback; a frame-locked marker's comes in its own frame."""
        self.feedback.publish(InteractiveMarkerFeedback(**{
            'event_type': event, 'marker_name': marker.name, 'client_id': self.name,
            'header': Header(frame_id=marker.header.frame_id),
            'pose': marker.pose if pose is None else pose, **fields}))

    def press(self, marker: InteractiveMarker) -> None:
        """The left button goes down."""
        self.does(MOVE, marker)
        self.does(DOWN, marker)

    def let_go(self, marker: InteractiveMarker, pose: Pose | None = None) -> None:
        """The left button comes up."""
        self.does(MOVE, marker, pose)
        self.does(UP, marker, pose)

    def choose(self, marker: InteractiveMarker, title: str) -> None:
        """Choose an entry of the menu."""
        entry = next(e for e in marker.menu_entries if title in e.title)
        self.does(MENU, marker, menu_entry_id=entry.id)

    def settle(self) -> None:
        """Wait until the node has dealt with all that was sent: it logs what is unknown to it."""
        word = f'settle {next(NUMBERS)}'

        def dealt_with() -> bool:  # again and again: the log is throttled
            self.feedback.publish(InteractiveMarkerFeedback(
                event_type=MENU, marker_name=word, client_id=self.name))
            return any(word in said for said in self.person.log_messages)

        self.rig.until(dealt_with)


def dragged(marker: InteractiveMarker, by_base_m=DRAG_BASE_M) -> Pose:
    """The pose of a marker that was dragged."""
    was = transform_from_pose(marker.pose)
    return pose_from_transform(Transform(was.R, was.t_m + by_base_m))


@pytest.fixture(scope='module')
def running_rig() -> Iterator[tuple[Operator, RViz]]:
    with run_rig() as rig:
        rig.discover()
        person = Operator(rig)
        yield person, RViz(person)


@pytest.fixture
def both(running_rig: tuple[Operator, RViz]) -> tuple[Operator, RViz]:
    """A target stands, and RViz shows it."""
    person, rviz = running_rig
    person.call('clear')
    person.wait_for_history(current='')
    person.click()
    person.wait_for_target(POINT_BASE_M)
    person.rig.until(lambda: person.rig.targets)
    person.rig.targets.clear()
    person.log_messages.clear()
    return person, rviz


@pytest.fixture
def person(both: tuple[Operator, RViz]) -> Operator:
    return both[0]


@pytest.fixture
def rviz(both: tuple[Operator, RViz]) -> RViz:
    return both[1]


def test_rviz_is_shown_the_target_where_it_stands_with_its_menu(person, rviz):
    marker = rviz.shown()
    assert marker.header.frame_id == 'base_link'
    assert (marker.header.stamp.sec, marker.header.stamp.nanosec) == (0, 0)
    target = person.wait_for_history().entries[-1].result.target.pose.pose
    assert marker.pose == target
    assert [e.title for e in marker.menu_entries] == [
        'accept', 'undo', 'clear', '[x] show rays']
    assert {e.command_type for e in marker.menu_entries} == {0}


def test_it_can_be_moved_along_and_turned_about_each_axis(rviz):
    axes = {}
    for control in rviz.shown().controls:
        q = control.orientation
        assert math.isclose(q.x**2 + q.y**2 + q.z**2 + q.w**2, 1.0)
        turned = transform_from_pose(Pose(orientation=q)).R
        axes.setdefault(control.interaction_mode, []).append(
            tuple(np.abs(np.rint(turned[:, 0])).astype(int)))
    every = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert axes[InteractiveMarkerControl.MOVE_AXIS] == every
    assert axes[InteractiveMarkerControl.ROTATE_AXIS] == every
    assert len(axes[InteractiveMarkerControl.MENU]) == 1


def test_while_it_is_dragged_only_tf_moves_and_when_it_is_released_all_does(person, rviz):
    marker = rviz.shown()
    before = person.wait_for_history()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker, 0.5 * DRAG_BASE_M))
    end = transform_from_pose(dragged(marker)).t_m
    rviz.does(MOVE, marker, dragged(marker))
    person.wait_for_target(end, within_m=1e-6)
    assert person.rig.targets == [], 'a planner was sent after a target that is on its way'
    assert person.wait_for_history() == before
    rviz.let_go(marker, dragged(marker))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)
    moved = person.histories[-1].entries[-1]
    assert moved.number == before.entries[-1].number + 1
    assert moved.result.query_id == before.entries[-1].result.query_id
    assert np.allclose(transform_from_pose(moved.result.target.pose.pose).t_m, end)
    assert np.isnan(moved.result.target.pose.covariance).all(), 'nobody measured this pose'
    assert person.histories[-1].current == moved.number
    person.rig.until(lambda: person.rig.targets)
    assert np.allclose(get_position(person.get_newest_pose()), end)
    person.wait_for_target(end, within_m=1e-6)
    person.rig.until(lambda: rviz.marker() and rviz.marker().description.endswith('moved'))
    assert np.allclose(transform_from_pose(rviz.shown().pose).t_m, end)


def test_the_earlier_answer_is_not_changed_and_undo_brings_it_back(person, rviz):
    marker = rviz.shown()
    rviz.press(marker)
    rviz.let_go(marker, dragged(marker))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)
    assert person.call('undo').success
    person.wait_for_target(POINT_BASE_M)
    person.rig.until(lambda: rviz.shown().pose == marker.pose)
    assert rviz.shown().name == marker.name
    assert person.call('redo').success
    person.wait_for_target(transform_from_pose(dragged(marker)).t_m, within_m=1e-6)


def test_it_can_be_turned(person, rviz):
    marker = rviz.shown()
    was = transform_from_pose(marker.pose)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rviz.press(marker)
    rviz.let_go(marker, pose_from_transform(Transform(was.R @ quarter, was.t_m)))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)
    turned = transform_from_pose(person.histories[-1].entries[-1].result.target.pose.pose)
    assert np.allclose(turned.R, was.R @ quarter, atol=1e-6)
    assert np.allclose(turned.t_m, was.t_m)


def test_a_click_that_moves_nothing_is_no_step_and_sends_no_target(person, rviz):
    marker, histories = rviz.shown(), len(person.histories)
    rviz.press(marker)
    rviz.let_go(marker)
    rviz.settle()
    assert len(person.histories) == histories
    assert person.rig.targets == []
    assert rviz.shown() == marker


def test_what_rounding_to_32_bits_moves_is_no_move(person, rviz):
    marker = rviz.shown()
    p, q = marker.pose.position, marker.pose.orientation
    rounded = Pose(position=Point(**{a: float(np.float32(getattr(p, a))) for a in 'xyz'}),
                   orientation=Quaternion(**{a: float(np.float32(getattr(q, a))) for a in 'wxyz'}))
    rviz.does(MOVE, marker, rounded)
    rviz.does(DOWN, marker, rounded)
    rviz.let_go(marker, rounded)
    rviz.settle()
    assert person.histories[-1].entries[-1].decided != MOVED
    assert person.rig.targets == []


def test_a_drag_back_to_where_it_began_is_no_step(person, rviz):
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    rviz.let_go(marker)
    rviz.settle()
    assert person.histories[-1].entries[-1].decided != MOVED
    person.wait_for_target(POINT_BASE_M)
    assert person.rig.targets == []


@pytest.mark.parametrize(('changes', 'words'), [
    ({'pose': Pose(position=Point(x=float('nan')))}, 'translation must be finite'),
    ({'pose': Pose(position=Point(z=float('inf')))}, 'translation must be finite'),
    ({'pose': Pose(orientation=Quaternion(w=float('nan')))}, 'quaternion'),
    ({'pose': Pose(orientation=Quaternion(w=2.0))}, 'squared length'),
    ({'pose': Pose(orientation=Quaternion(w=0.0))}, 'squared length'),
    ({'header': Header(frame_id='map')}, "the frame 'map', not in 'base_link'"),
    ({'header': Header()}, "the frame '', not in 'base_link'"),
    ({'pose': Pose(position=Point(x=40.0))}, 'limit 1 m'),
])
def test_a_pose_that_will_not_do_moves_nothing_and_is_told_once(person, rviz, changes, words):
    marker = rviz.shown()
    given = {'pose': dragged(marker), **changes}
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    for _ in range(20):
        rviz.does(MOVE, marker, **given)
        rviz.does(UP, marker, **given)
    rviz.settle()
    told = [s for s in person.log_messages if 'was not moved' in s]
    assert len(told) == 1
    assert words in told[0]
    assert person.histories[-1].entries[-1].decided != MOVED
    person.wait_for_target(POINT_BASE_M)
    assert rviz.shown().pose == marker.pose
    assert person.rig.targets == []


def test_a_client_that_vanishes_in_mid_drag_leaves_the_target_where_it_was(
        person, rviz, monkeypatch):
    monkeypatch.setattr(target_marker, 'DRAG_TIMEOUT_S', 1000.0)  # not by its silence
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    person.wait_for_target(transform_from_pose(dragged(marker)).t_m, within_m=1e-6)
    rviz.leave()
    person.wait_for_target(POINT_BASE_M)
    person.rig.until(lambda: any('not released' in s for s in person.log_messages))
    assert person.histories[-1].entries[-1].decided != MOVED
    assert person.rig.targets == []
    rviz.come()
    assert rviz.shown().pose == marker.pose


def test_a_drag_without_an_end_is_given_up_and_its_late_release_moves_nothing(
        person, rviz, monkeypatch):
    monkeypatch.setattr(target_marker, 'DRAG_TIMEOUT_S', 0.3)
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    person.rig.until(lambda: any('not released' in s for s in person.log_messages))
    person.wait_for_target(POINT_BASE_M)
    rviz.does(UP, marker, dragged(marker))
    person.rig.until(lambda: any('given up' in s for s in person.log_messages))
    assert person.histories[-1].entries[-1].decided != MOVED
    person.wait_for_target(POINT_BASE_M)


def test_a_new_answer_in_mid_drag_wins_and_the_release_means_nothing(person, rviz):
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    person.wait_for_target(transform_from_pose(dragged(marker)).t_m, within_m=1e-6)
    person.click(OTHER_BASE_M)
    rviz.let_go(marker, dragged(marker))
    rviz.settle()
    assert person.histories[-1].entries[-1].decided != MOVED
    person.wait_for_target(OTHER_BASE_M)
    assert rviz.shown().name != marker.name


@pytest.mark.parametrize('what', ['clear', 'undo'])
def test_a_target_that_is_taken_away_in_mid_drag_does_not_come_back(person, rviz, what):
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    person.wait_for_target(transform_from_pose(dragged(marker)).t_m, within_m=1e-6)
    assert person.call(what).success
    rviz.does(MOVE, marker, dragged(marker))
    rviz.let_go(marker, dragged(marker))
    rviz.settle()
    person.wait_for_history(current='')
    person.wait_for_no_target()
    assert rviz.marker() is None


def test_a_refused_click_does_not_end_a_drag(person, rviz):
    marker = rviz.shown()
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    person.rig.results.clear()
    refused = person.submit_click((0.0, 0.0, 0.0), other_cameras=('ghost',))
    assert not person.wait_for_result(refused).has_target
    rviz.let_go(marker, dragged(marker))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)


def test_two_people_do_not_drag_one_target(person, rviz):
    marker, other = rviz.shown(), RViz(person, 'other')
    rviz.press(marker)
    rviz.does(MOVE, marker, dragged(marker))
    rviz.settle()
    other.let_go(marker, dragged(marker, -DRAG_BASE_M))
    other.settle()
    assert person.histories[-1].entries[-1].decided != MOVED
    rviz.let_go(marker, dragged(marker))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)
    person.wait_for_target(transform_from_pose(dragged(marker)).t_m, within_m=1e-6)
    other.leave()


# --- the menu

def test_accept_in_the_menu_accepts_the_answer_that_is_shown(person, rviz):
    rviz.choose(rviz.shown(), 'accept')
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == ACCEPTED)
    person.rig.until(lambda: rviz.shown().description.endswith('accepted'))
    assert person.rig.targets == []


def test_accept_in_the_menu_of_an_answer_that_was_replaced_accepts_nothing(person, rviz):
    old = rviz.shown()
    person.click(OTHER_BASE_M)
    rviz.choose(old, 'accept')
    rviz.settle()
    assert ACCEPTED not in [e.decided for e in person.histories[-1].entries[-2:]]


def test_accept_in_the_menu_before_a_move_does_not_accept_the_moved_target(person, rviz):
    old = rviz.shown()
    rviz.press(old)
    rviz.let_go(old, dragged(old))
    person.rig.until(lambda: person.histories[-1].entries[-1].decided == MOVED)
    person.call('undo')
    moved = InteractiveMarker(name=f'step {person.histories[-1].entries[-1].number}',
                              menu_entries=old.menu_entries, header=old.header, pose=old.pose)
    rviz.choose(moved, 'accept')
    rviz.settle()
    assert ACCEPTED not in [e.decided for e in person.histories[-1].entries[-2:]]


def test_undo_and_clear_in_the_menu_are_those_of_the_services(person, rviz):
    first = person.wait_for_history().entries[-1].result.query_id
    person.click(OTHER_BASE_M)
    rviz.choose(rviz.shown(), 'undo')
    person.wait_for_history(current=first)
    person.wait_for_target(POINT_BASE_M)
    rviz.choose(rviz.shown(), 'clear')
    person.wait_for_history(current='')
    person.wait_for_no_target()
    assert rviz.marker() is None
    assert person.call('undo').success
    person.wait_for_target(POINT_BASE_M)


def test_the_rays_are_hidden_and_shown_by_the_menu(person, rviz):
    marks: list[MarkerArray] = []
    person.rig.cameras.create_subscription(MarkerArray, '/crosspoint/markers', marks.append,
                                           LATCHED_QOS)

    def rays() -> int:
        return sum(m.ns == 'rays' and m.action == Marker.ADD for m in marks[-1].markers)

    person.rig.until(lambda: marks and rays() == 2)
    rviz.choose(rviz.shown(), 'show rays')
    person.rig.until(lambda: rays() == 0, what='the rays away')
    assert any(m.ns == 'target' for m in marks[-1].markers)
    person.rig.until(lambda: '[ ] show rays' in [e.title for e in rviz.shown().menu_entries])
    assert person.rig.targets == [], 'to look at it otherwise is no new target'
    rviz.choose(rviz.shown(), 'show rays')
    person.rig.until(lambda: rays() == 2, what='the rays back')


def test_an_unknown_entry_of_the_menu_is_told(person, rviz):
    rviz.does(MENU, rviz.shown(), menu_entry_id=99)
    person.rig.until(lambda: any('no entry 99' in s for s in person.log_messages))


def test_the_rays_still_end_where_the_answer_was_when_the_target_is_moved(person, rviz):
    marks: list[MarkerArray] = []
    person.rig.cameras.create_subscription(MarkerArray, '/crosspoint/markers', marks.append,
                                           LATCHED_QOS)
    person.rig.until(lambda: marks)
    ends = {(p.x, p.y, p.z) for m in marks[-1].markers if m.ns == 'rays' for p in m.points}
    marker = rviz.shown()
    rviz.press(marker)
    rviz.let_go(marker, dragged(marker))
    person.rig.until(lambda: any('moved by hand' in m.text for m in marks[-1].markers))
    assert {(p.x, p.y, p.z) for m in marks[-1].markers if m.ns == 'rays' for p in m.points} == ends


def test_a_sure_target_is_a_green_ball_and_one_to_be_checked_an_amber_pyramid_around_it():
    target = GraspTarget(pose=PoseWithCovariance(pose=Pose(position=Point(x=1.0),
                                                           orientation=Quaternion(w=1.0))))
    sure, check = (next(m for m in target_marker.build_target_markers(
        target, 'ok', None, is_sure) if m.ns == 'target') for is_sure in (True, False))
    assert sure.type == Marker.SPHERE
    assert sure.color.g > sure.color.r
    assert check.type == Marker.TRIANGLE_LIST
    assert check.color.r > check.color.g > check.color.b
    corners = np.array([(p.x, p.y, p.z) for p in check.points])
    assert len(corners) == 12
    assert corners.mean(axis=0) == pytest.approx([0, 0, 0])
    assert np.linalg.norm(corners, axis=1).max() < 0.03
