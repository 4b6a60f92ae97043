"""Following in the node, seen from TF: what is not true is not sent."""
from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from crosspoint_ros.msg import Status, TargetState
from follow_stage import GOING, Stage, run_stage
from moving_scenes import TARGET_M, Thing, move
from raycast_scenes import Box
from two_camera_rig import LENS, POSES

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.core.track.tracker import Tracker
from crosspoint_ros.ros.follow import follower


@pytest.fixture(scope='module')
def shared() -> Iterator[Stage]:
    with run_stage('track', follow__coast_s=1.0, follow__lost_s=0.6) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    shared.is_sending, shared.every = True, {'front': 1, 'side': 1}
    shared.show((Thing(),))
    shared.call('clear')
    shared.until_state(TargetState.CLEARED, TargetState.NONE)
    ticks = shared.rig.ticks
    shared.until(lambda: shared.rig.ticks > ticks + 3)  # until the node has images of the box
    shared.click_box()
    shared.until_state(*GOING)
    return shared


def test_tf_and_grasp_target_follow_at_the_stamp_of_the_image(stage):
    moved = move(0.03, -0.02, 8)
    for share in (0.33, 0.66, 1.0):
        stage.show((Thing(base_from_thing=move(0.03 * share, -0.02 * share, 8 * share)),))
        ticks = stage.rig.ticks
        stage.until(lambda ticks=ticks: stage.rig.ticks > ticks + 3)
    place_m = moved.transform_points(TARGET_M)
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(place_m) < 8e-3, 'TF at the new place')
    state = stage.states[-1]
    assert state.valid
    assert {s.camera for s in state.sightings} <= {'front', 'side'}
    assert stamp_to_ns(state.last_seen) == stamp_to_ns(state.header.stamp)
    at = stage.rig.targets[-1].pose.position
    assert np.linalg.norm(np.array([at.x, at.y, at.z]) - place_m) < 8e-3
    assert stamp_to_ns(stage.rig.targets[-1].header.stamp) <= stage.rig.cameras.now_ns()


def test_a_lost_target_is_withdrawn_and_comes_back_when_it_is_seen(stage):
    stage.show(())
    state = stage.until_state(TargetState.LOST)
    assert not state.valid
    assert 'follow.lost_s 0.6' in state.message
    stage.assert_tf_is_silent()
    stage.show((Thing(),))
    assert stage.until_state(*GOING).valid
    count = len(stage.sent)
    stage.until(lambda: len(stage.sent) > count + 2)


def test_when_the_cameras_stop_it_coasts_and_is_lost_and_tf_is_silent(stage):
    stage.is_sending = False
    assert stage.until_state(TargetState.COASTING).valid
    state = stage.until_state(TargetState.LOST)
    assert 'follow.coast_s 1' in state.message
    stage.assert_tf_is_silent()


def test_a_slow_camera_that_alone_sees_the_target_does_not_make_it_flap(stage):
    hides_front = Thing(Box((-0.1, -0.3, 0.0), (0.06, -0.28, 0.4)), is_plain=True)
    stage.every['side'] = 8  # 1.25 Hz
    stage.until(lambda: stage.rig.node._server.cameras['side'].buffer.get_period_s() > 0.5)
    stage.show((Thing(), hides_front))
    stage.until(lambda: {s.camera: s.status.code for s in stage.states[-1].sightings} == {
        'front': Status.NOT_VISIBLE, 'side': Status.OK} and stage.states[-1].state in GOING)
    count, ticks = len(stage.states), stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 40)
    flaps = [state.message for state in stage.states[count:] if state.state not in GOING]
    period_s = stage.rig.node._server.cameras['side'].buffer.get_period_s()
    for why in flaps:  # of a busy machine the images are late: that must be true
        waited_s = re.search(r'side: no new image for ([\d.]+) s', why)
        age_s = re.search(r'side\S* is ([\d.]+) s old', why)
        assert (waited_s and float(waited_s[1]) > min(2.5 * period_s, 1.5) - 0.05) or (
            age_s and float(age_s[1]) > 1.0), (why, period_s)


def test_when_tf_stops_it_coasts_and_says_so(stage, monkeypatch):
    monkeypatch.setattr(stage.rig.cameras, 'send_tf', lambda *args: None)
    stage.until_state(TargetState.COASTING)
    assert 'TF' in stage.states[-1].message or 'transform' in stage.states[-1].message


def test_when_depth_stops_it_coasts_and_says_so(stage, monkeypatch):
    monkeypatch.setattr(stage.rig.cameras, 'send_depth', lambda *args: None)
    state = stage.until_state(TargetState.COASTING)
    stage.until_state(TargetState.LOST)
    assert 'image' in state.message or 'depth' in state.message


def test_hold_and_resume(stage):
    assert stage.call_trigger('hold').success
    stage.show(())
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 12)
    assert stage.states[-1].state in GOING
    assert stage.call_trigger('resume').success
    stage.until_state(TargetState.LOST)
    assert not stage.call_trigger('resume').success


def test_tf_stays_at_the_last_place_while_held(stage):
    assert stage.call_trigger('hold').success
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 2)
    count = len(stage.sent)
    stage.until(lambda: len(stage.sent) > count + 3, 'TF goes on')
    assert stage.states[-1].valid
    assert stage.call_trigger('resume').success


def test_a_lost_target_stays_withdrawn_when_it_is_cleared_and_brought_back(stage):
    stage.show(())
    stage.until_state(TargetState.LOST)
    stage.call('clear')
    stage.until_state(TargetState.CLEARED)
    count = len(stage.states)
    stage.call('undo')
    ticks = stage.rig.ticks
    stage.until(lambda: stage.states[count:] and stage.rig.ticks > ticks + 10)
    assert not any(state.valid for state in stage.states[count:])
    stage.assert_tf_is_silent()
    stage.show((Thing(),))
    assert stage.until_state(*GOING).valid


def test_a_target_that_was_dragged_goes_with_the_object_and_is_lost_with_it(stage):
    above_m = TARGET_M + np.array([0.0, 0.0, 0.05])
    stage.rig.run_in_executor(lambda: stage.rig.node._server.review.commit_move(
        Transform(np.eye(3), above_m)))
    stage.until(lambda: stage.states[-1].state in GOING and stage.tf_error_m(above_m) < 3e-3,
                'TF where it was dragged to')
    moved = move(0.03, -0.02, 8)
    place_m = moved.transform_points(above_m)
    stage.show((Thing(base_from_thing=moved),))
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(place_m) < 8e-3, 'TF as far from the object as before')
    stage.show(())
    assert not stage.until_state(TargetState.LOST).valid
    stage.assert_tf_is_silent()


def test_an_answer_that_was_corrected_is_followed_from_the_correction(stage):
    x, y = LENS.project(POSES['side'].inverse.transform_points(TARGET_M))
    earlier = stage.states[-1].query_id
    corrected = stage.call('correct', query_id=earlier, camera='side', x=x + 1.0, y=y)
    assert corrected.result.has_target, corrected.result.status.message
    stage.until(lambda: stage.states[-1].query_id != earlier and stage.states[-1].state in GOING)
    moved = move(0.03, -0.02, 8)
    stage.show((Thing(base_from_thing=moved),))
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(moved.transform_points(TARGET_M)) < 8e-3, 'TF on the object')
    stage.show(())
    assert not stage.until_state(TargetState.LOST).valid
    stage.assert_tf_is_silent()


def test_a_drag_that_is_undone_leaves_the_target_on_the_object(stage):
    moved = move(0.03, -0.02)
    place_m = moved.transform_points(TARGET_M)
    stage.show((Thing(base_from_thing=moved),))
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(place_m) < 8e-3, 'TF at the new place')
    above_m = place_m + np.array([0.0, 0.0, 0.05])
    stage.rig.run_in_executor(lambda: stage.rig.node._server.review.commit_move(
        Transform(np.eye(3), above_m)))
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(above_m) < 8e-3, 'TF where it was dragged to')
    stage.call('undo')
    stage.until(lambda: stage.states[-1].state == TargetState.MOVED
                and stage.tf_error_m(place_m) < 8e-3, 'TF on the object again')


def test_a_look_that_fails_shows_nothing_and_following_goes_on(stage, monkeypatch):
    stage.rig.allows_errors = True
    views = stage.rig.node._server._views
    monkeypatch.setattr(views, 'collect_for_following', lambda stop: 1 / 0)
    state = stage.until_state(TargetState.COASTING)
    assert 'ZeroDivisionError' in state.message
    monkeypatch.undo()
    stage.until_state(*GOING)


class BrokenTracker(Tracker):
    """A double for the tracker: it fails at its second look."""

    def update(self, *args):
        if self.track.message != 'as clicked':
            raise ZeroDivisionError('a bug')
        return super().update(*args)


def test_a_bug_in_the_tracker_withdraws_the_target_and_the_next_one_is_followed(
        stage, monkeypatch, caplog):
    stage.rig.allows_errors = True
    monkeypatch.setattr(follower, 'Tracker', BrokenTracker)
    stage.click_box()
    state = stage.until_state(TargetState.LOST)
    assert not state.valid
    assert 'ZeroDivisionError: a bug' in state.message
    stage.assert_tf_is_silent()
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 10)
    assert len([r for r in caplog.records if r.name == follower.__name__]) == 1
    monkeypatch.undo()
    stage.click_box()
    assert stage.until_state(*GOING).valid


def test_a_bug_in_the_look_in_which_following_is_held_withdraws_the_target(stage, monkeypatch):
    class HeldAndBroken(Tracker):
        def update(self, *args):
            if self.track.message == 'as clicked':
                return super().update(*args)
            follow = stage.rig.node._server.follow
            follow.is_paused = True
            follow._follows['']._follower.set_hold(True)
            raise ZeroDivisionError('a bug')

    stage.rig.allows_errors = True
    monkeypatch.setattr(follower, 'Tracker', HeldAndBroken)
    stage.click_box()
    assert not stage.until_state(TargetState.LOST).valid
    monkeypatch.undo()
    stage.call_trigger('resume')
    stage.assert_tf_is_silent()


def test_the_mode_may_change_while_it_is_followed(stage):
    stage.set_mode('off')
    stage.until_state(TargetState.STANDING)
    stage.show(())
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 10)
    assert stage.states[-1].state == TargetState.STANDING
    stage.set_mode('watch')
    stage.until_state(TargetState.LOST)
    stage.show((Thing(),))
    stage.until_state(TargetState.STANDING)
    stage.set_mode('track')
    stage.until_state(*GOING)


def test_time_that_goes_back_clears_the_target(stage):
    stage.rig.run_in_executor(lambda: stage.rig.node._server.reset(-5.0))
    stage.until_state(TargetState.CLEARED)
    stage.assert_tf_is_silent()


@pytest.mark.parametrize('clock', ['of the machine', 'of the bag'])
def test_a_bag_that_begins_again_ends_the_target_and_the_next_one_is_followed(clock):
    is_simulated = clock == 'of the bag'
    with run_stage('track', use_sim_time=is_simulated, limits__max_image_age_s=60.0) as stage:
        stage.click_box()
        stage.until_state(*GOING)
        stage.show((Thing(base_from_thing=move(0.03, -0.02)),))
        stage.until_state(TargetState.MOVED)
        stage.shift_ns = -5 * 10**9
        stage.show((Thing(),))
        state = stage.until_state(TargetState.CLEARED)
        assert not state.valid
        assert 'time jumped' in state.message
        stage.assert_tf_is_silent()
        if is_simulated:  # else all images are old
            stage.click_box()
            assert stage.until_state(*GOING).valid
            assert stage.tf_error_m(TARGET_M) < 8e-3
            now_ns = stage.rig.cameras.now_ns() + stage.shift_ns
            assert stamp_to_ns(stage.sent[-1].header.stamp) <= now_ns


def test_watch_withdraws_a_target_that_was_moved_and_gives_it_back_where_it_was():
    with run_stage('watch') as stage:
        stage.click_box()
        assert stage.until_state(TargetState.STANDING).valid
        stage.show((Thing(base_from_thing=move(0.035, 0.0)),))
        state = stage.until_state(TargetState.MOVED)
        assert not state.valid
        stage.assert_tf_is_silent()
        stage.show((Thing(),))
        assert stage.until_state(TargetState.STANDING).valid
        count = len(stage.sent)
        stage.until(lambda: len(stage.sent) > count + 2)


def test_watch_withdraws_a_target_that_is_surely_elsewhere_if_not_exactly_where():
    with run_stage('watch') as stage:
        stage.click_box()
        assert stage.until_state(TargetState.STANDING).valid
        stage.set_number('limits.max_target_sigma_m', 0.002)
        stage.show((Thing(base_from_thing=move(0.025, 0.0)),))
        stage.until(lambda: not stage.states[-1].valid, 'withdrawn')
        state = stage.states[-1]
        assert state.state == TargetState.COASTING
        assert 'limits.max_target_sigma_m' in state.message
        stage.assert_tf_is_silent()
        stage.set_number('limits.max_target_sigma_m', 0.02)
        stage.until_state(TargetState.MOVED)
        stage.show((Thing(),))
        assert stage.until_state(TargetState.STANDING).valid


@pytest.mark.parametrize('state', ['TRACKING', 'COASTING', 'MOVED', 'LOST'])
def test_the_node_ends_in_every_state(state):
    with run_stage('track', follow__coast_s=0.8 if state == 'LOST' else 5.0) as stage:
        stage.click_box()
        stage.until_state(*GOING)
        if state == 'MOVED':
            stage.show((Thing(base_from_thing=move(0.03, -0.02)),))
        stage.is_sending = state in ('TRACKING', 'MOVED')
        stage.until_state(getattr(TargetState, state))
        stage.rig.run_in_executor(stage.rig.node.stop)
        assert not stage.until_state(TargetState.CLEARED).valid
        stage.assert_tf_is_silent()


def test_the_end_of_following_does_not_wait_for_a_look(monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def collect_slowly(should_stop):
        entered.set()
        leave.wait(30.0)
        return ()
    with run_stage('track') as stage:
        stage.click_box()
        stage.until_state(*GOING)
        monkeypatch.setattr(stage.rig.node._server._views, 'collect_for_following', collect_slowly)
        stage.until(entered.is_set)
        thread = stage.rig.node._server.follow._follows['']._follower._thread
        stage.rig.node._server.follow._follows['']._follower.close()
        assert thread.is_alive()
        leave.set()
        thread.join(10.0)
        assert not thread.is_alive()


# --- several targets

OTHER = Thing(Box((0.10, -0.03, 0.0), (0.18, 0.03, 0.09)), texture_shift_m=(2.1, 0.2, 3.3))
OTHER_M = TARGET_M + np.array((0.14, 0.0, 0.0))


def test_each_target_is_followed_for_itself_and_one_that_is_lost_leaves_the_other(stage):
    stage.show((Thing(), OTHER))
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 3)
    first, second = stage.click_box('first'), stage.click_box('second', OTHER_M)
    stage.until(lambda: all(stage.named[name].state in GOING for name in ('first', 'second')))
    stage.show((OTHER,))
    stage.until(lambda: stage.named['first'].state == TargetState.LOST, 'the first is lost')
    state = stage.named['second']
    assert (state.valid, state.state in GOING, state.query_id) == (True, True, second)
    at = state.pose.pose.position
    assert np.linalg.norm(np.array([at.x, at.y, at.z]) - OTHER_M) < 8e-3
    stage.show((Thing(), Thing(OTHER.box, move(0.02), OTHER.texture_shift_m)))
    stage.until(lambda: stage.named['second'].state == TargetState.MOVED, 'the second is moved')
    stage.until(lambda: stage.named['first'].valid, 'the first is back')
    assert stage.named['first'].query_id == first
    at = stage.named['first'].pose.pose.position
    assert np.linalg.norm(np.array([at.x, at.y, at.z]) - TARGET_M) < 8e-3


def test_a_hold_of_following_is_of_all_targets_and_those_that_come_after(stage):
    assert stage.call_trigger('hold').success
    stage.click_box('first')
    stage.until(lambda: stage.named.get('first') and stage.named['first'].valid)
    stage.show(())
    ticks = stage.rig.ticks
    stage.until(lambda: stage.rig.ticks > ticks + 12)
    assert stage.named['first'].valid
    assert stage.call_trigger('resume').success
    stage.until(lambda: stage.named['first'].state == TargetState.LOST)


def test_the_thread_of_a_target_that_has_ended_ends(stage):
    stage.click_box('first')
    follows = stage.rig.node._server.follow._follows
    thread = follows['first']._follower._thread
    stage.call('clear_target', target_name='first')
    stage.until(lambda: not thread.is_alive())
    assert 'first' not in follows
