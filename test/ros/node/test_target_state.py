"""What a pipeline builds on: `~/target_state`, and TF frames that are never another target."""
from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from crosspoint_ros.msg import QueryResult, Status, TargetState
from crosspoint_ros.srv import Correspond
from geometry_msgs.msg import PoseStamped
from operator_client import POINT_BASE_M
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.time import Time
from target_listener import MS, OTHER_BASE_M, Pipeline, assert_stands, run_pipeline
from tf2_msgs.msg import TFMessage
from two_camera_rig import (
    LATCHED_QOS,
    POSES,
    Cameras,
    Rig,
    _stamped,
    project_point,
    run_rig,
)

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.tf_tree import TfTree, stamp_to_ns
from crosspoint_ros.ros.config import ConfigError
from crosspoint_ros.ros.node import lifecycle_node
from crosspoint_ros.ros.node.query_messages import make_header
from crosspoint_ros.ros.node.query_queue import QueryRequest
from crosspoint_ros.ros.process import NodeProcess
from crosspoint_ros.ros.target.frames import SentFrames, TargetFrameSender
from crosspoint_ros.ros.target.history import History
from crosspoint_ros.ros.target.targets import ActiveTarget, FollowedTarget


@pytest.fixture(scope='module')
def shared() -> Iterator[Pipeline]:
    with run_pipeline() as pipeline:
        yield pipeline


@pytest.fixture
def pipeline(shared: Pipeline) -> Pipeline:
    shared.call('clear')
    shared.wait_for_history(current='')
    return shared


def assert_ended(state: TargetState) -> None:
    assert not state.valid
    position = state.pose.pose.position
    assert np.isnan([position.x, position.y, position.z]).all(), 'a pose that must not be used'


# --- frames

def test_each_answer_has_a_frame_that_is_right_at_the_answers_own_stamp(pipeline):
    first, second = pipeline.click(POINT_BASE_M), pipeline.click(OTHER_BASE_M)
    state = pipeline.wait_for_state(TargetState.STANDING, second.query_id)
    assert state.frame.rpartition('_')[0] == 'crosspoint_target'
    earlier = next(s for s in pipeline.states if s.query_id == first.query_id and s.valid)
    assert earlier.frame != state.frame
    pipeline.wait_on_tf(state.frame)
    stamp_ns = stamp_to_ns(second.header.stamp)
    for at_ns in (stamp_ns, stamp_ns - 400 * MS, stamp_ns - 1, stamp_ns + 1, stamp_ns + 50 * MS):
        assert np.allclose(pipeline.look_up(state.frame, at_ns), OTHER_BASE_M, atol=3e-3), (
            at_ns - stamp_ns)
        assert not np.allclose(pipeline.look_up(earlier.frame, at_ns), OTHER_BASE_M, atol=0.05)


def test_the_frame_of_an_answer_that_was_replaced_is_sent_no_more_until_it_is_undone(pipeline):
    first, second = pipeline.click(POINT_BASE_M), pipeline.click(OTHER_BASE_M)
    frames = {s.query_id: s.frame for s in pipeline.states if s.valid}
    pipeline.wait_on_tf(frames[second.query_id])
    pipeline.sent.clear()
    pipeline.wait_on_tf(frames[second.query_id])
    assert frames[first.query_id] not in {t.child_frame_id for t in pipeline.sent}
    assert pipeline.call('undo').success
    pipeline.rig.until(lambda: pipeline.states[-1].frame == frames[first.query_id])
    pipeline.sent.clear()
    pipeline.wait_on_tf(frames[first.query_id])
    at_ns = stamp_to_ns(pipeline.sent[-1].header.stamp)
    assert np.allclose(pipeline.look_up(frames[first.query_id], at_ns - MS), POINT_BASE_M,
                       atol=3e-3)


def test_the_alias_is_never_between_two_targets(pipeline):
    pipeline.click(POINT_BASE_M)
    pipeline.wait_on_tf('crosspoint_target')
    pipeline.click(OTHER_BASE_M)  # replaced
    pipeline.call('clear')
    ticks = pipeline.rig.ticks
    pipeline.rig.until(lambda: pipeline.rig.ticks > ticks + 5)
    third = pipeline.click(POINT_BASE_M)  # after a pause
    pipeline.sent.clear()
    pipeline.wait_on_tf('crosspoint_target')
    stamp_ns, now_ns = stamp_to_ns(third.header.stamp), pipeline.rig.cameras.now_ns()
    known = [pipeline.look_up('crosspoint_target', at_ns)
             for at_ns in range(stamp_ns - 2500 * MS, now_ns, 7 * MS)]
    gaps_m = [min(np.linalg.norm(t_m - p) for p in (POINT_BASE_M, OTHER_BASE_M))
              for t_m in known if not np.isnan(t_m).any()]
    assert len(gaps_m) > 50
    assert max(gaps_m) < 3e-3, 'a place where no target ever was'
    assert np.allclose(pipeline.look_up('crosspoint_target', stamp_ns), POINT_BASE_M, atol=3e-3)
    assert pipeline.tree.conflicts() == {}, 'a frame that looks like two senders of one'


def test_a_listener_that_came_after_the_answer_finds_the_target_at_now_until_it_ends(pipeline):
    state = pipeline.wait_for_state(TargetState.STANDING, pipeline.click(POINT_BASE_M).query_id)
    rig, late = pipeline.rig, TfTree()
    subscription = rig.cameras.create_subscription(TFMessage, '/tf', late.add, QoSProfile(depth=9))
    rig.until(lambda: state.frame in late.frames())
    now_ns = rig.cameras.now_ns()
    rig.until(lambda: late.lookup('base_link', state.frame, now_ns), what='the target at now')
    found = late.lookup('base_link', state.frame, now_ns)
    assert np.allclose(found.t_m, POINT_BASE_M, atol=3e-3)
    assert late.lookup('base_link', state.frame, stamp_to_ns(state.header.stamp)) is None
    pipeline.call('clear')
    now_ns, ticks = rig.cameras.now_ns(), rig.ticks
    rig.until(lambda: rig.ticks > ticks + 5)
    assert late.lookup('base_link', state.frame, now_ns) is None
    rig.cameras.destroy_subscription(subscription)


def configure_anew(pipeline: Pipeline) -> None:
    rig = pipeline.rig
    for change in (rig.node.trigger_deactivate, rig.node.trigger_cleanup,
                   rig.node.trigger_configure, rig.node.trigger_activate):
        rig.run_in_executor(change)
    rig.until(lambda: rig.node._server.loader.matchers)
    rig.until(lambda: pipeline.states[-1].state == TargetState.NONE)
    rig.discover()


def test_a_node_configured_anew_uses_no_frame_twice():
    with run_pipeline() as pipeline:
        frames = []
        for _ in range(2):
            result = pipeline.click(POINT_BASE_M)
            frames.append(pipeline.wait_for_state(TargetState.STANDING, result.query_id).frame)
            configure_anew(pipeline)
        assert frames == ['crosspoint_target_1', 'crosspoint_target_2']


def test_the_alias_of_a_node_configured_anew_is_not_between_the_old_target_and_the_new():
    with run_pipeline() as pipeline:
        pipeline.click(POINT_BASE_M)
        pipeline.wait_on_tf('crosspoint_target')
        configure_anew(pipeline)
        old_ns = max(stamp_to_ns(t.header.stamp) for t in pipeline.sent
                     if t.child_frame_id == 'crosspoint_target')
        pipeline.click(OTHER_BASE_M)
        pipeline.wait_for_target(OTHER_BASE_M)
        assert np.allclose(pipeline.look_up('crosspoint_target', old_ns), POINT_BASE_M, atol=3e-3)
        for at_ns in range(old_ns + 1, pipeline.rig.cameras.now_ns(), 7 * MS):
            found = pipeline.look_up('crosspoint_target', at_ns)
            assert np.isnan(found).any() or np.allclose(found, OTHER_BASE_M, atol=3e-3), at_ns


class Paused:
    """A node whose clock does not advance, and what it sent on TF."""

    def __init__(self) -> None:
        self.now_ns, self.sent = 100 * 10**9, []
        self.senders: list[tuple[str, str]] = []  # namespace and name

    def get_clock(self) -> Paused:
        return self

    def now(self) -> Time:
        return Time(nanoseconds=self.now_ns)

    def create_publisher(self, *_) -> Paused:
        return self

    def publish(self, message: TFMessage) -> None:
        self.sent += message.transforms

    def get_fully_qualified_name(self) -> str:
        return '/crosspoint'

    def get_publishers_info_by_topic(self, topic: str) -> list:
        return [SimpleNamespace(node_namespace=n, node_name=name) for n, name in self.senders]

    def count_publishers(self, topic: str) -> int:
        return int(topic == '/arm/crosspoint/target_state')


def make_target(number: int, x_m: float, stamp_ns: int) -> ActiveTarget:
    """Return the state of a target at (x_m, 0, 0)."""
    result = QueryResult(query_id=str(number), has_target=True)
    result.target.header = make_header(stamp_ns, 'base_link')
    result.target.pose.pose.position.x = x_m
    history, target = History(number - 1), ActiveTarget(lambda: stamp_ns)
    target.set_target(history.add(result, 0, None), TargetState.STANDING)
    return target


def test_while_a_simulation_is_paused_the_newest_is_the_new_target():
    node = Paused()
    broadcaster, tree = TargetFrameSender(node, 'goal'), TfTree()
    for number, x_m in ((1, 0.1), (2, 0.2)):
        broadcaster.update(make_target(number, x_m, node.now_ns - 10**8))
    tree.add(TFMessage(transforms=node.sent))
    newest_ns = tree.frames()['goal'].newest_ns
    assert newest_ns == node.now_ns + 1
    assert tree.lookup('base_link', 'goal', newest_ns).t_m[0] == 0.2
    assert tree.lookup('base_link', 'goal', node.now_ns).t_m[0] == 0.1
    assert tree.lookup('base_link', 'goal_2', node.now_ns).t_m[0] == 0.2


def test_the_clock_of_a_camera_does_not_take_tf_into_the_future():
    node = Paused()
    TargetFrameSender(node, 'goal').update(make_target(1, 0.1, node.now_ns + 3600 * 10**9))
    assert max(stamp_to_ns(t.header.stamp) for t in node.sent) == node.now_ns


def test_an_image_ahead_of_the_last_tick_of_the_clock_has_its_target_at_its_own_stamp():
    node = Paused()
    sender, tree = TargetFrameSender(node, 'goal'), TfTree()
    stamp_ns = node.now_ns + 90 * MS
    target = make_target(1, 0.1, stamp_ns)
    sender.update(target)
    moved = deepcopy(target.step.result.target)
    moved.header.stamp.nanosec, moved.pose.pose.position.x = (stamp_ns + 10 * MS) % 10**9, 0.2
    target.set_followed(FollowedTarget(moved, TargetState.MOVED, '', False, (), stamp_ns))
    sender.update(target)
    tree.add(TFMessage(transforms=node.sent))
    for frame in ('goal', 'goal_1'):
        assert tree.lookup('base_link', frame, node.now_ns).t_m[0] == 0.1
    assert tree.lookup('base_link', 'goal_1', stamp_ns).t_m[0] == 0.1
    assert tree.lookup('base_link', 'goal_1', stamp_ns + 10 * MS).t_m[0] == 0.2
    node.sent.clear()
    target.is_paused = True
    sender.update(target)
    node.now_ns += 50 * MS
    sender.broadcast()
    assert {t.child_frame_id for t in node.sent} == {'goal', 'goal_pregrasp'}, (
        'the frame would be at its new place before it moved')
    node.sent.clear()
    node.now_ns += 100 * MS
    sender.broadcast()
    assert {stamp_to_ns(t.header.stamp) for t in node.sent} == {node.now_ns}


def test_the_alias_is_the_new_target_at_once_where_a_camera_is_ahead_of_the_clock():
    node = Paused()
    sender, tree = TargetFrameSender(node, 'goal'), TfTree()
    sender.update(make_target(1, 0.1, node.now_ns + 190 * MS))
    node.now_ns += 50 * MS
    sender.update(make_target(2, 0.2, node.now_ns + 190 * MS))
    tree.add(TFMessage(transforms=node.sent))
    assert tree.lookup('base_link', 'goal', node.now_ns).t_m[0] == 0.2
    assert tree.lookup('base_link', 'goal', node.now_ns + MS) is None, 'nothing ahead of now'


def test_after_time_went_back_the_alias_begins_anew():
    node = Paused()
    broadcaster = TargetFrameSender(node, 'goal')
    broadcaster.update(make_target(1, 0.1, node.now_ns))
    node.now_ns = 10 * 10**9
    broadcaster.reset()
    node.sent.clear()
    broadcaster.update(make_target(2, 0.2, node.now_ns))
    assert max(stamp_to_ns(t.header.stamp) for t in node.sent) == node.now_ns


def test_after_a_simulation_began_again_while_it_was_cleaned_up_the_alias_begins_anew():
    node = Paused()
    sent = SentFrames(1, {'goal': node.now_ns + 10**9})
    TargetFrameSender(node, 'goal', sent).update(make_target(2, 0.2, node.now_ns))
    assert max(stamp_to_ns(t.header.stamp) for t in node.sent) == node.now_ns


def test_two_nodes_that_send_the_same_stamps_under_one_clock_tell_each_other_apart():
    first, second = Paused(), Paused()
    guards = []
    for node, x_m in ((first, 0.1), (second, 0.2)):
        broadcaster = TargetFrameSender(node, 'goal')
        broadcaster.update(make_target(1, x_m, node.now_ns))
        guards.append(broadcaster.guard)
    assert not any(guards[0].accept(stamped, False) for stamped in first.sent)
    assert guards[0].conflict == ''
    assert not guards[0].accept(second.sent[0], False)
    assert "'goal_1' is also sent by another node on /tf, in 'base_link'" in guards[0].conflict


def test_a_sender_whose_name_comes_later_is_named_then_and_still_after_it_has_left():
    node = Paused()
    guard = TargetFrameSender(node, 'goal').guard
    node.senders = [('/', 'rig'), ('_NODE_NAMESPACE_UNKNOWN_', '_NODE_NAME_UNKNOWN_')]
    guard.accept(_stamped(node.now_ns, 'base_link', 'goal', POSES['front']), False)
    assert '(who sends there: /rig, a node whose name has not come yet)' in guard.conflict
    for node.senders in ([('/', 'rig'), ('/arm', 'crosspoint')], []):
        assert '(by the crosspoint node /arm/crosspoint)' in guard.conflict


# --- the state

def test_an_answer_says_what_every_camera_saw_and_joins_with_the_other_topics(pipeline):
    result = pipeline.click()
    state = pipeline.wait_for_state(TargetState.STANDING, result.query_id)
    assert_stands(state, result)
    assert state.header == result.target.header
    pose = pipeline.rig.until(lambda: pipeline.rig.targets)[-1]
    assert isinstance(pose, PoseStamped)
    assert (pose.header, pose.pose) == (state.header, state.pose.pose)
    assert [(s.camera, s.status.code) for s in state.sightings] == [
        ('front', Status.OK), ('side', Status.OK)]
    assert state.sightings[1].confidence == result.correspondences[0].confidence
    assert stamp_to_ns(state.last_seen) == max(
        stamp_to_ns(s.header.stamp) for s in state.sightings)
    assert stamp_to_ns(state.since) >= stamp_to_ns(state.last_seen)
    assert stamp_to_ns(state.valid_until) == 0


def test_a_late_subscriber_gets_the_state(pipeline):
    result = pipeline.click()
    late: list[TargetState] = []
    pipeline.rig.cameras.create_subscription(TargetState, '/crosspoint/target_state', late.append,
                                             LATCHED_QOS)
    pipeline.rig.until(lambda: late)
    assert_stands(late[0], result)


def test_a_refused_click_is_told_and_the_target_that_stays_is_named(pipeline):
    result = pipeline.click()
    refused = pipeline.refuse()
    state = pipeline.wait_for_state(TargetState.STANDING, refused)
    assert_stands(state, result)
    assert 'is refused' in state.message
    assert result.query_id in state.message


def test_a_refused_click_clears_the_target_where_that_is_wanted():
    with run_pipeline(on_refusal='clear') as pipeline:
        result = pipeline.click()
        refused = pipeline.refuse()
        state = pipeline.wait_for_state(TargetState.CLEARED, refused)
        assert_ended(state)
        assert state.query_id == result.query_id, 'whose target it was'
        pipeline.wait_for_history(current='')
        pipeline.wait_for_no_target()
        assert pipeline.call('undo').success
        assert_stands(pipeline.wait_for_state(TargetState.STANDING), result)


def test_every_decision_of_a_person_is_told(pipeline):
    first = pipeline.click(POINT_BASE_M)
    pipeline.call('accept', query_id=first.query_id)
    assert_stands(pipeline.wait_for_state(TargetState.STANDING, 'accepted'), first)
    moved = Transform(np.eye(3), np.add(POINT_BASE_M, (0, 0, 0.05)))
    review = pipeline.rig.node._server.review
    pipeline.rig.run_in_executor(lambda: review.preview_move(moved))
    assert not pipeline.wait_for_state(TargetState.PENDING).valid
    pipeline.rig.run_in_executor(lambda: review.commit_move(moved))
    state = pipeline.wait_for_state(TargetState.STANDING, 'moved by hand')
    assert state.valid
    assert state.pose.pose.position.z == pytest.approx(0.05)
    pipeline.wait_on_tf(state.frame)
    assert np.allclose(pipeline.look_up(state.frame, stamp_to_ns(first.header.stamp)),
                       moved.t_m, atol=1e-6), 'a frame that was the target before the move'
    pipeline.call('undo')
    assert_stands(pipeline.wait_for_state(TargetState.STANDING, 'undone'), first)
    pipeline.call('redo')
    pipeline.wait_for_state(TargetState.STANDING, 'redone')
    pipeline.call('clear')
    assert_ended(pipeline.wait_for_state(TargetState.CLEARED, 'cleared target'))


def test_a_correction_is_a_target_of_its_own(pipeline):
    wrong = pipeline.click(OTHER_BASE_M)
    x, y = (wrong.correspondences[0].found.x, wrong.correspondences[0].found.y)
    corrected = pipeline.call('correct', query_id=wrong.query_id, camera='side', x=x + 1,
                              y=y).result
    assert corrected.has_target
    state = pipeline.wait_for_state(TargetState.STANDING, corrected.query_id)
    assert_stands(state, corrected)
    assert state.frame != next(s.frame for s in pipeline.states if s.query_id == wrong.query_id)


def test_an_expired_target_says_so_and_said_until_when_it_was_valid():
    with run_pipeline(target_ttl_s=1.0) as pipeline:
        result = pipeline.click()
        state = pipeline.wait_for_state(TargetState.STANDING, result.query_id)
        assert stamp_to_ns(state.valid_until) - stamp_to_ns(state.since) == pytest.approx(
            10**9, abs=50 * MS)
        ended = pipeline.wait_for_state(TargetState.EXPIRED, 'target_ttl_s 1 s')
        assert_ended(ended)
        assert 0 <= stamp_to_ns(ended.since) - stamp_to_ns(state.valid_until) < 10**9


def test_a_time_jump_ends_the_target():
    with run_pipeline() as pipeline:
        pipeline.click()
        pipeline.wait_for_state(TargetState.STANDING)
        pipeline.rig.run_in_executor(lambda: pipeline.rig.node._server.reset(-5.0))
        assert_ended(pipeline.wait_for_state(TargetState.CLEARED, 'time jumped'))


def test_a_node_that_is_deactivated_or_ends_says_that_the_target_is_not_valid():
    with run_pipeline() as pipeline:
        rig = pipeline.rig
        assert_ended(pipeline.wait_for_state(TargetState.NONE, 'no target yet'))
        pipeline.click()
        rig.run_in_executor(rig.node.trigger_deactivate)
        assert_ended(pipeline.wait_for_state(TargetState.CLEARED, 'deactivated'))
        rig.run_in_executor(rig.node.trigger_activate)
        rig.discover()
        pipeline.click()
        rig.run_in_executor(rig.node.stop)
        assert_ended(pipeline.wait_for_state(TargetState.CLEARED, 'the node has ended'))


# --- whose frame it is

@pytest.mark.parametrize(('namespace', 'expected'), [
    ('', 'crosspoint_target'), ('/arm', 'arm_crosspoint_target'),
    ('/left/arm', 'left_arm_crosspoint_target')])
def test_the_default_frame_carries_the_namespace(namespace, expected):
    with run_rig(start=False, namespace=namespace) as rig:
        assert rig.node.get_parameter('target_frame').value == expected


@pytest.mark.parametrize(('frame', 'words'), [
    ('', "target_frame: '' is not the name of a frame"),
    ('/', 'is not the name of a frame'),
    ('base_link', "would overwrite base_frame 'base_link'"),
    ('/base_link', "would overwrite base_frame 'base_link'")])
def test_a_frame_that_would_overwrite_the_robots_is_refused_at_the_start(frame, words):
    with pytest.raises(ConfigError, match=words), run_rig(target_frame=frame):
        pass


def test_it_is_refused_again_when_the_node_is_configured():
    with run_rig(start=False, autostart=False) as rig:
        rig.node.set_parameters([lifecycle_node.Parameter('target_frame', value='')])
        assert rig.run_in_executor(rig.node.trigger_configure) != (
            lifecycle_node.TransitionCallbackReturn.SUCCESS)


@contextmanager
def run_arms(**parameters) -> Iterator[tuple[Pipeline, Rig]]:
    """Two nodes in one domain: `/crosspoint` and `/arm/crosspoint`, over the same cameras."""
    with run_pipeline(**parameters) as pipeline, run_rig(
            namespace='/arm', domain=pipeline.rig.domain, **parameters) as other:
        other.until(lambda: other.node._server.loader.matchers, what='the other matcher')
        other.until(lambda: other.node._server.state is other.node._server.state.ACTIVE)
        pipeline.rig.discover(nodes=2)
        for rig in (pipeline.rig, other):
            rig.until(lambda rig=rig: rig.node.get_node_names().count('crosspoint') == 2)
        yield pipeline, other


def ask(rig: Rig, pipeline: Pipeline, point_base_m):
    """Click through one of two nodes that see the same cameras."""
    pipeline.rig.send_frames(to=rig)
    done: list = []
    request = QueryRequest(camera='front', pixel=project_point('front', point_base_m))
    rig.run_in_executor(lambda: rig.node._server.submit(request, done.append))
    pipeline.rig.until(lambda: done, what='an answer')
    return done[0]


def test_two_arms_in_two_namespaces_each_have_their_target():
    with run_arms() as (pipeline, other):
        assert ask(pipeline.rig, pipeline, POINT_BASE_M).has_target
        assert ask(other, pipeline, OTHER_BASE_M).has_target
        pipeline.sent.clear()
        pipeline.wait_on_tf('crosspoint_target')
        pipeline.wait_on_tf('arm_crosspoint_target')
        places = {}
        for sent in pipeline.sent:
            at = sent.transform.translation
            if 'target' in sent.child_frame_id:
                places.setdefault(sent.child_frame_id, set()).add(
                    (round(at.x, 2), round(at.y, 2)))
        assert places == {frame: {place} for place, frames in (
            ((0.05, 0.02), ('crosspoint_target', 'crosspoint_target_1')),
            ((-0.06, -0.03), ('arm_crosspoint_target', 'arm_crosspoint_target_1')))
            for name in frames for frame in (name, f'{name}_pregrasp')}


def test_of_two_nodes_with_one_frame_the_second_refuses_and_names_the_first():
    with run_arms(target_frame='tool_goal') as (pipeline, other):
        assert ask(pipeline.rig, pipeline, POINT_BASE_M).has_target
        pipeline.wait_on_tf('tool_goal')
        refused = ask(other, pipeline, OTHER_BASE_M)
        assert (refused.status.code, refused.has_target) == (Status.BUSY, False)
        assert "'tool_goal" in refused.status.message
        assert '/crosspoint' in refused.status.message
        at = {tuple(np.round((t.transform.translation.x, t.transform.translation.y), 2))
              for t in pipeline.sent if t.child_frame_id == 'tool_goal'}
        assert at == {(0.05, 0.02)}


def test_a_sender_that_comes_later_ends_the_target_at_once_and_is_named():
    with run_pipeline() as pipeline:
        result = pipeline.click()
        pipeline.wait_for_state(TargetState.STANDING, result.query_id)
        cameras = pipeline.rig.cameras
        cameras.tf.publish(TFMessage(transforms=[_stamped(
            cameras.now_ns(), 'base_link', 'crosspoint_target', POSES['front'])]))
        state = pipeline.wait_for_state(TargetState.CLEARED,
                                        "'crosspoint_target' is also sent by another node on /tf")
        assert_ended(state)
        assert '/rig' in state.message
        pipeline.wait_for_no_target()
        assert any('no target is sent' in s for s in pipeline.log_messages)
        refused = pipeline.click()
        assert refused.status.code == Status.BUSY
        assert '/rig' in refused.status.message


def test_a_target_frame_that_the_robot_has_is_refused():
    for frame, words in (('front_optical', 'front_optical'), ('world', "above base_frame")):
        with run_pipeline(target_frame=frame) as pipeline:
            cameras = pipeline.rig.cameras
            cameras.tf.publish(TFMessage(transforms=[_stamped(
                cameras.now_ns(), 'world', 'base_link', POSES['front'])]))
            pipeline.rig.send_frames()
            cameras.tf.publish(TFMessage(transforms=[_stamped(
                cameras.now_ns(), 'world', 'base_link', POSES['front'])]))
            refused = pipeline.click()
            assert not refused.has_target
            assert words in refused.status.message, refused.status.message
            assert frame not in {t.child_frame_id for t in pipeline.sent
                                 if t.header.frame_id == 'base_link'} - {'front_optical'}


def test_frames_that_hang_from_the_target_are_allowed():
    with run_pipeline() as pipeline:
        cameras = pipeline.rig.cameras
        cameras.tf.publish(TFMessage(transforms=[_stamped(
            cameras.now_ns(), 'crosspoint_target', 'pregrasp', POSES['front'])]))
        assert pipeline.click().has_target


def test_two_arms_as_processes_keep_their_targets_and_say_when_they_end(tmp_path):
    fakes = Path(__file__).resolve().parents[2] / 'fakes'
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
        [str(fakes), *filter(None, [os.environ.get('PYTHONPATH')])])}
    context = Context()
    rclpy.init(context=context)
    cameras, executor = Cameras(context), SingleThreadedExecutor(context=context)
    executor.add_node(cameras)
    sent: dict[str, set] = {}
    states: dict[str, list[TargetState]] = {'left': [], 'right': []}

    def until(condition: Callable[[], object]) -> None:
        end_s = time.monotonic() + 30.0
        while not condition():
            assert time.monotonic() < end_s
            executor.spin_once(timeout_sec=0.02)

    def on_tf(message: TFMessage) -> None:
        for each in message.transforms:
            at = each.transform.translation
            sent.setdefault(each.child_frame_id, set()).add((round(at.x, 2), round(at.y, 2)))

    cameras.create_subscription(TFMessage, '/tf', on_tf, QoSProfile(depth=100))
    cameras.create_timer(0.1, cameras.send_all)
    with ExitStack() as stack:
        processes, clients = {}, {}
        for arm, heard in states.items():
            arguments = ['-r', f'__ns:=/{arm}', *(word for assignment in (
                'cameras:=[front, side]', 'base_frame:=base_link',
                'front.depth_topic:=/front/depth', 'side.depth_topic:=/side/depth',
                'matcher:=fake_matchers:ExactMatcher') for word in ('-p', assignment))]
            processes[arm] = stack.enter_context(NodeProcess(
                'crosspoint_ros.ros.node.lifecycle_node', arguments, tmp_path / f'{arm}.log',
                environment))
            clients[arm] = cameras.create_client(Correspond, f'/{arm}/crosspoint/correspond_once')
            cameras.create_subscription(TargetState, f'/{arm}/crosspoint/target_state',
                                        heard.append, LATCHED_QOS)
        for arm, point in (('left', POINT_BASE_M), ('right', OTHER_BASE_M)):
            until(clients[arm].service_is_ready)

            def has_target(arm=arm, point=point) -> bool:
                x, y = project_point('front', point)
                done = clients[arm].call_async(Correspond.Request(camera='front', x=x, y=y))
                until(done.done)  # refused until the first images are there
                return done.result().result.has_target

            until(has_target)
        sent.clear()
        until(lambda: len(sent) == 10)  # two cameras; of two targets frame, alias and pre-grasps
        os.kill(processes['left'].pid, signal.SIGTERM)
        until(lambda: states['left'][-1].state == TargetState.CLEARED)
        assert processes['left'].wait() == 0
    executor.shutdown()
    cameras.destroy_node()
    rclpy.try_shutdown(context=context)
    assert {frame: places for frame, places in sent.items() if 'target' in frame} == {
        frame: {place} for arm, place in (('left', (0.05, 0.02)), ('right', (-0.06, -0.03)))
        for name in (f'{arm}_crosspoint_target', f'{arm}_crosspoint_target_1')
        for frame in (name, f'{name}_pregrasp')}
    assert_ended(states['left'][-1])
    assert 'the node has ended' in states['left'][-1].message
    assert states['right'][-1].valid
