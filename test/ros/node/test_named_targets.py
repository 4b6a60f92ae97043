"""Several targets at once, by name: none is ever at another's place, and a hold keeps one."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from crosspoint_ros.msg import QueryResult, Status, TargetList, TargetState
from geometry_msgs.msg import TransformStamped
from operator_client import POINT_BASE_M
from rclpy.qos import QoSProfile
from target_listener import MS, OFF_IMAGE, OTHER_BASE_M, Pipeline, run_pipeline
from tf2_msgs.msg import TFMessage
from two_camera_rig import EYES, LATCHED_QOS, Rig, project_point

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.node.query_queue import QueryRequest

PLACES = {'cup': POINT_BASE_M, 'box': OTHER_BASE_M, '': (0.0, 0.05, 0.0), 'lid': (-0.02, 0.02, 0.0)}
SAME_M = 3e-3  # a click of the rig is answered within a pixel's depth, some 2 mm


class NamedPipeline(Pipeline):
    """A pipeline that reads the list of all targets."""

    def __init__(self, rig: Rig) -> None:
        self.lists: list[TargetList] = []
        rig.cameras.create_subscription(
            TargetList, '/crosspoint/targets', self.lists.append,
            QoSProfile(depth=200, durability=LATCHED_QOS.durability))
        super().__init__(rig)

    def has_tf_of(self, stamp_ns: int) -> bool:
        """Wait a moment for TF of these frames: it may come after its images, or be lost."""
        tree, ticks = self.rig.node._server.transforms.tree, self.rig.ticks

        def is_known() -> bool:
            return all(tree.lookup('base_link', f'{camera}_optical', stamp_ns) for camera in EYES)
        self.rig.until(lambda: is_known() or self.rig.ticks > ticks + 10)
        return is_known()

    def ask(self, name: str = '', hold_s: float = 0.0, point_base_m: Any = None,
            **fields: Any) -> QueryResult:
        """Call the service, as a program does."""
        while not self.has_tf_of(self.rig.send_frames()):
            pass
        x, y = project_point('front', point_base_m or PLACES[name])
        return self.call('correspond_once', **{
            'camera': 'front', 'x': x, 'y': y, 'target_name': name, 'hold_s': hold_s,
            **fields}).result

    def find(self, name: str) -> TargetState | None:
        """Return the newest state of a target."""
        return next((t for t in self.lists[-1].targets if t.name == name), None)

    def wait_for(self, name: str, state: int, query_id: str = '') -> TargetState:
        """Wait until the target of a name is in that state."""
        def find() -> TargetState | None:
            found = self.find(name) if self.lists else None
            is_it = found is not None and found.state == state and (
                not query_id or found.query_id == query_id)
            return found if is_it else None
        return self.rig.until(find, what=f'{name!r} in state {state}, not {self.lists[-1:]}')

    def wait_on_alias(self, name: str, point_base_m: Any) -> None:
        """Wait until TF has the newest target of a name there."""
        frame = f'crosspoint_target_{name}' if name else 'crosspoint_target'
        self.rig.until(lambda: any(
            np.linalg.norm(self.look_up(frame, stamp_to_ns(t.header.stamp)) - point_base_m) < SAME_M
            for t in self.sent[-8:] if t.child_frame_id == frame), what=f'{frame} on TF')


@pytest.fixture(scope='module')
def shared() -> Iterator[NamedPipeline]:
    with run_pipeline(NamedPipeline, limits__max_image_age_s=60.0) as pipeline:
        yield pipeline


@pytest.fixture
def pipeline(shared: NamedPipeline) -> NamedPipeline:
    shared.call('clear')
    shared.rig.until(lambda: not any(t.valid for t in shared.lists[-1].targets))
    return shared


def get_position(state: TargetState) -> np.ndarray:
    at = state.pose.pose.position
    return np.array([at.x, at.y, at.z])


def test_targets_of_two_names_are_on_tf_at_once_each_under_its_name(pipeline):
    cup, box = pipeline.ask('cup'), pipeline.ask('box')
    assert (cup.target.name, box.target.name) == ('cup', 'box')
    assert cup.target.frame != box.target.frame
    for name, result in (('cup', cup), ('box', box)):
        state = pipeline.wait_for(name, TargetState.STANDING, result.query_id)
        assert state.valid
        assert state.frame == result.target.frame
        assert np.allclose(get_position(state), PLACES[name], atol=SAME_M)
        pipeline.wait_on_alias(name, PLACES[name])
        pipeline.wait_on_tf(f'{state.frame}_pregrasp')
        pipeline.wait_on_tf(f'crosspoint_target_{name}_pregrasp')


def test_a_target_with_a_name_is_not_on_the_topics_of_the_one_without(pipeline):
    unnamed = pipeline.ask('')
    state, poses = pipeline.wait_for_state(TargetState.STANDING, unnamed.query_id), pipeline.rig
    count = len(poses.targets)
    pipeline.ask('cup')
    pipeline.wait_for('cup', TargetState.STANDING)
    assert pipeline.states[-1] == state
    assert len(poses.targets) == count
    assert pipeline.wait_for('', TargetState.STANDING, unnamed.query_id) == state


def test_twenty_clicks_clears_and_refusals_in_turn_never_put_one_at_the_place_of_another(pipeline):
    """Whatever TF says of an alias, at any stamp, is the place of that name."""
    pipeline.sent.clear()
    names, standing = [*PLACES, *PLACES], set()
    for turn in range(20):
        name = names[(turn * 3) % len(names)]
        if turn % 5 == 3:
            cleared = pipeline.call('clear_target', target_name=name)
            assert cleared.success == (name in standing), cleared.message
            standing -= {name}
        elif turn % 5 == 4:
            assert not pipeline.ask(name, x=900.0).has_target, 'outside of the image'
        else:
            assert pipeline.ask(name).has_target
            standing |= {name}
        for each in PLACES:
            state = pipeline.find(each)
            if each in standing:
                state = pipeline.wait_for(each, TargetState.STANDING)
                assert np.allclose(get_position(state), PLACES[each], atol=SAME_M), each
            else:
                assert state is None or not state.valid, each
    aliases = {f'crosspoint_target_{name}' if name else 'crosspoint_target': place
               for name, place in PLACES.items()}
    sent = [each for each in pipeline.sent if each.child_frame_id in aliases]
    for each in sent:
        stamp_ns, place = stamp_to_ns(each.header.stamp), aliases[each.child_frame_id]
        at = each.transform.translation
        assert np.allclose((at.x, at.y, at.z), place, atol=SAME_M), each.child_frame_id
        for at_ns in (stamp_ns - 7 * MS, stamp_ns, stamp_ns + 7 * MS):  # TF keeps 10 s
            found = pipeline.look_up(each.child_frame_id, at_ns)
            assert np.isnan(found).all() or np.allclose(found, place, atol=SAME_M)
    assert {each.child_frame_id for each in sent} == set(aliases)


def test_clearing_one_leaves_the_other_and_clear_clears_all_and_one_undo_brings_all_back(pipeline):
    cup, box = pipeline.ask('cup'), pipeline.ask('box')
    assert pipeline.call('clear_target', target_name='cup').success
    pipeline.wait_for('cup', TargetState.CLEARED)
    pipeline.wait_for('box', TargetState.STANDING, box.query_id)
    assert pipeline.call('undo').success
    pipeline.wait_for('cup', TargetState.STANDING, cup.query_id)
    assert pipeline.call('clear').success
    for name in ('cup', 'box'):
        pipeline.wait_for(name, TargetState.CLEARED)
    assert pipeline.call('undo').success
    for name, result in (('cup', cup), ('box', box)):
        pipeline.wait_for(name, TargetState.STANDING, result.query_id)
        pipeline.wait_on_alias(name, PLACES[name])


def test_there_is_nothing_to_clear_under_a_name_that_has_no_target(pipeline):
    reply = pipeline.call('clear_target', target_name='nothing_here')
    assert not reply.success
    assert reply.message == 'there was no target'


def test_a_new_target_replaces_the_one_of_the_same_name_and_undo_brings_that_back(pipeline):
    first = pipeline.ask('cup')
    second = pipeline.ask('cup', point_base_m=OTHER_BASE_M)
    pipeline.wait_for('cup', TargetState.STANDING, second.query_id)
    pipeline.wait_on_alias('cup', OTHER_BASE_M)
    assert pipeline.call('undo').success
    pipeline.wait_for('cup', TargetState.STANDING, first.query_id)
    pipeline.wait_on_alias('cup', POINT_BASE_M)


def test_a_later_subscriber_gets_all_targets(pipeline):
    pipeline.ask('cup'), pipeline.ask('box')
    pipeline.wait_for('box', TargetState.STANDING)
    late: list[TargetList] = []
    subscription = pipeline.rig.cameras.create_subscription(
        TargetList, '/crosspoint/targets', late.append, LATCHED_QOS)
    pipeline.rig.until(lambda: late)
    pipeline.rig.cameras.destroy_subscription(subscription)
    assert {t.name for t in late[0].targets if t.valid} == {'cup', 'box'}


def test_what_a_person_corrects_stays_under_its_name(pipeline):
    cup, box = pipeline.ask('cup'), pipeline.ask('box')
    side = next(c for c in box.correspondences if c.found.camera == 'side').found
    corrected = pipeline.call('correct', query_id=box.query_id, camera='side', x=side.x + 1,
                              y=side.y).result
    assert corrected.target.name == 'box', corrected.status.message
    pipeline.wait_for('box', TargetState.STANDING, corrected.query_id)
    pipeline.wait_for('cup', TargetState.STANDING, cup.query_id)


# --- hold

def test_a_click_beside_a_held_target_becomes_the_next_target_instead(pipeline):
    held = pipeline.ask('', hold_s=60.0)
    assert pipeline.wait_for_state(TargetState.STANDING).held_until.sec > 0
    clicked = pipeline.wait_for_result(pipeline.submit_click(OTHER_BASE_M))
    assert (clicked.target.name, held.target.name) == ('next', '')
    pipeline.wait_for('next', TargetState.STANDING, clicked.query_id)
    pipeline.wait_for('', TargetState.STANDING, held.query_id)
    pipeline.wait_on_alias('next', OTHER_BASE_M)
    pipeline.wait_on_alias('', PLACES[''])
    request = QueryRequest(camera='front', pixel=OFF_IMAGE)
    job = pipeline.rig.run_in_executor(lambda: pipeline.rig.node._server.submit(request))
    pipeline.rig.until(lambda: job.query_id in pipeline.find('next').message, what='a refusal')
    assert job.query_id not in pipeline.find('').message
    assert pipeline.wait_for('next', TargetState.STANDING, clicked.query_id).valid


def test_a_hold_ends_and_a_click_replaces_the_target_again(pipeline):
    held = pipeline.ask('', hold_s=0.2)
    until_ns = stamp_to_ns(pipeline.wait_for('', TargetState.STANDING, held.query_id).held_until)
    pipeline.rig.until(lambda: pipeline.rig.cameras.now_ns() > until_ns)
    clicked = pipeline.click(OTHER_BASE_M)
    assert clicked.target.name == ''
    pipeline.wait_for('', TargetState.STANDING, clicked.query_id)


def test_a_second_program_does_not_take_a_held_target_and_is_told_what_to_do(pipeline):
    held = pipeline.ask('', hold_s=60.0)
    refused = pipeline.ask('', hold_s=5.0)
    assert refused.status.code == Status.BUSY
    assert held.query_id in refused.status.message
    assert 'target_name' in refused.status.message
    assert pipeline.ask('cup', hold_s=5.0).has_target, 'a name of its own is free'


def test_clear_ends_a_hold(pipeline):
    pipeline.ask('', hold_s=60.0)
    pipeline.call('clear')
    assert pipeline.click(OTHER_BASE_M).target.name == ''


# --- names that cannot be

@pytest.mark.parametrize('name', ['a cup', 'a/cup', '/cup', 'x' * 200, '7', '7up', '_cup', 'cup_',
                                  'a__b', 'pregrasp', 'cup_pregrasp', 'tässe', 'cup\n', '../cup'])
def test_a_name_that_cannot_be_part_of_a_frame_is_refused(pipeline, name):
    refused = pipeline.ask('cup', target_name=name)
    assert refused.status.code == Status.BAD_REQUEST
    assert 'target_name' in refused.status.message
    assert 'at most 40 letters' in refused.status.message
    assert len(refused.status.message) < 300


@pytest.mark.parametrize('hold_s', [-1.0, 3601.0, float('nan'), float('inf')])
def test_a_hold_that_is_no_time_is_refused(pipeline, hold_s):
    refused = pipeline.ask('cup', hold_s=hold_s)
    assert refused.status.code == Status.BAD_REQUEST
    assert '0 to 3600 s' in refused.status.message


def test_a_name_whose_frame_is_on_tf_already_is_refused(pipeline):
    at_ns = pipeline.rig.cameras.now_ns()
    taken = TransformStamped(child_frame_id='crosspoint_target_mast')
    taken.header.frame_id, taken.header.stamp.sec = 'base_link', at_ns // 10**9
    taken.transform.rotation.w = 1.0
    publisher = pipeline.rig.cameras.create_publisher(TFMessage, '/tf', QoSProfile(depth=10))
    server = pipeline.rig.node._server

    def is_known() -> bool:
        publisher.publish(TFMessage(transforms=[taken]))
        return 'crosspoint_target_mast' in server.transforms.tree.frames()
    pipeline.rig.until(is_known)
    refused = pipeline.ask('cup', target_name='mast')
    pipeline.rig.cameras.destroy_publisher(publisher)
    assert refused.status.code == Status.BAD_REQUEST
    assert "'crosspoint_target_mast' is on TF already" in refused.status.message
    assert pipeline.ask('cup').has_target, 'other names are free'


def test_there_is_room_for_sixteen_names_and_one_that_has_ended_makes_room(pipeline):
    names = [f'n{k}' for k in range(16)]
    for name in names:
        assert pipeline.ask(name, point_base_m=POINT_BASE_M).has_target
    refused = pipeline.ask('n16', point_base_m=POINT_BASE_M)
    assert refused.status.code == Status.BUSY
    assert '16' in refused.status.message
    assert pipeline.ask('n3', point_base_m=POINT_BASE_M).has_target, 'it replaces its own'
    assert pipeline.call('clear_target', target_name='n5').success
    assert pipeline.ask('n16', point_base_m=POINT_BASE_M).has_target
    pipeline.wait_for('n16', TargetState.STANDING)
    assert len(pipeline.lists[-1].targets) <= 17


def test_a_diverted_click_is_refused_where_another_node_sends_the_frame_next(pipeline):
    pipeline.ask('', hold_s=60.0)
    server = pipeline.rig.node._server
    taken = server.outputs.frames.guard.names
    taken.discard('next')  # whatever ran before
    frames = {'crosspoint_target_next': None, **server.transforms.tree.frames()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.transforms.tree, 'frames', lambda: frames)
        refused = pipeline.ask('', point_base_m=OTHER_BASE_M)
    assert refused.status.code == Status.BAD_REQUEST
    assert "'crosspoint_target_next' is on TF already" in refused.status.message
    pipeline.wait_for('', TargetState.STANDING)
