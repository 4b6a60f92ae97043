"""`publish_target`: what reaches /tf, `~/grasp_target` and a valid state before `~/accept`."""
from __future__ import annotations

import numpy as np
import pytest
from crosspoint_ros.msg import HistoryEntry, TargetState
from operator_client import POINT_BASE_M
from target_listener import OTHER_BASE_M, Pipeline, assert_stands, run_pipeline

from crosspoint_ros.core.datatypes import Transform

FRAMES = 'crosspoint_target'


@pytest.fixture(scope='module')
def gated():
    with run_pipeline(publish_target='on_accept') as pipeline:
        yield pipeline


@pytest.fixture
def person(gated: Pipeline) -> Pipeline:
    gated.call('clear')
    gated.wait_for_history(current='')
    gated.wait_for_no_target()
    gated.rig.targets.clear()
    gated.sent.clear()
    gated.states.clear()
    return gated


def let_pass(pipeline: Pipeline, periods: int = 5) -> None:
    """Wait for as long as a target would take to be broadcast several times."""
    ticks = pipeline.rig.ticks
    pipeline.rig.until(lambda: pipeline.rig.ticks > ticks + periods)


def assert_nothing_sent(pipeline: Pipeline) -> None:
    let_pass(pipeline)
    assert [t.child_frame_id for t in pipeline.sent if FRAMES in t.child_frame_id] == []
    assert pipeline.rig.targets == []
    assert not [s for s in pipeline.states if s.valid]


def accept(pipeline: Pipeline, result) -> None:
    said = pipeline.call('accept', query_id=result.query_id)
    assert said.success, said.message


def test_nothing_is_sent_before_a_person_accepts_and_all_of_it_after(person):
    result = person.click()
    state = person.wait_for_state(TargetState.PENDING, 'waits for ~/accept')
    assert (state.query_id, state.valid) == (result.query_id, False)
    assert state.pose.pose == result.target.pose.pose, 'for the person to look at'
    assert_nothing_sent(person)
    accept(person, result)
    state = person.wait_for_state(TargetState.STANDING, 'accepted')
    assert_stands(state, result)
    person.wait_on_tf(state.frame)
    person.wait_for_target(POINT_BASE_M)
    person.rig.until(lambda: person.rig.targets)
    assert [t.pose for t in person.rig.targets] == [result.target.pose.pose]


def test_a_new_answer_stops_the_robot_and_undo_lets_it_go_on(person):
    first = person.click(POINT_BASE_M)
    accept(person, first)
    person.wait_for_target(POINT_BASE_M)
    second = person.click(OTHER_BASE_M)
    assert person.wait_for_state(TargetState.PENDING).query_id == second.query_id
    person.wait_for_no_target()
    person.rig.targets.clear()
    person.sent.clear()
    let_pass(person)
    assert person.sent == [] or FRAMES not in {t.child_frame_id for t in person.sent}
    assert person.call('undo').success
    assert_stands(person.wait_for_state(TargetState.STANDING, 'undone'), first)
    person.wait_for_target(POINT_BASE_M)


def test_a_refused_click_leaves_the_answer_that_waits(person):
    result = person.click()
    refused = person.refuse()
    state = person.wait_for_state(TargetState.PENDING, refused)
    assert state.query_id == result.query_id
    assert_nothing_sent(person)
    accept(person, result)
    person.wait_for_target(POINT_BASE_M)


def test_a_drag_and_a_correction_wait_like_any_answer(person):
    first = person.click()
    moved = Transform(np.eye(3), np.add(POINT_BASE_M, (0, 0, 0.05)))
    review = person.rig.node._server.review
    person.rig.run_in_executor(lambda: review.preview_move(moved))
    assert_nothing_sent(person)
    person.rig.run_in_executor(lambda: review.commit_move(moved))
    person.wait_for_state(TargetState.PENDING, 'moved by hand')
    assert_nothing_sent(person)
    accept(person, first)
    state = person.wait_for_state(TargetState.STANDING)
    assert state.pose.pose.position.z == pytest.approx(0.05)
    assert person.wait_for_history().entries[-1].decided == HistoryEntry.MOVED
    found = first.correspondences[0].found
    corrected = person.call('correct', query_id=first.query_id, camera='side', x=found.x + 1,
                            y=found.y).result
    assert corrected.has_target
    person.wait_for_state(TargetState.PENDING, corrected.query_id)
    person.wait_for_no_target()
    accept(person, corrected)
    assert_stands(person.wait_for_state(TargetState.STANDING), corrected)
    assert person.wait_for_history().entries[-1].decided == HistoryEntry.CORRECTED


def test_an_accepted_target_stays_where_it_is_while_it_is_dragged(person):
    accept(person, person.click())
    person.wait_for_target(POINT_BASE_M)
    moved = Transform(np.eye(3), np.add(POINT_BASE_M, (0, 0, 0.05)))
    person.rig.run_in_executor(lambda: person.rig.node._server.review.preview_move(moved))
    assert not person.wait_for_state(TargetState.PENDING).valid
    person.wait_for_target(POINT_BASE_M)
    person.rig.run_in_executor(person.rig.node._server.review.restore_target)
    assert person.wait_for_state(TargetState.STANDING).valid


def test_with_sure_a_sure_answer_is_sent_and_one_to_be_checked_waits():
    with run_pipeline(publish_target='sure') as pipeline:
        result = pipeline.click()
        assert_stands(pipeline.wait_for_state(TargetState.STANDING), result)
        pipeline.wait_for_target(POINT_BASE_M)
        pipeline.rig.run_in_executor(lambda: setattr(
            pipeline.rig.node._server.loader.matchers.matcher, 'confidence', 0.6))
        unsure = pipeline.click(OTHER_BASE_M)
        assert pipeline.wait_for_state(TargetState.PENDING).query_id == unsure.query_id
        pipeline.wait_for_no_target()
        accept(pipeline, unsure)
        pipeline.wait_for_target(OTHER_BASE_M)


def test_a_person_accepts_each_target_of_a_name_also_after_the_click_for_the_next(person):
    targets, results = person.rig.node._server.targets, []
    for name, point_base_m in (('cup', POINT_BASE_M), ('box', OTHER_BASE_M)):
        person.rig.send_frames()
        results.append(person.wait_for_result(person.submit_click(point_base_m,
                                                                  target_name=name)))
    cup, box = results
    assert_nothing_sent(person)
    accept(person, cup)
    person.wait_on_tf('crosspoint_target_cup')
    assert targets['box'].state == TargetState.PENDING
    assert 'crosspoint_target_box' not in {t.child_frame_id for t in person.sent}
    accept(person, box)
    person.wait_on_tf('crosspoint_target_box')
    assert targets['cup'].is_valid
