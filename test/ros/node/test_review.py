"""Accept, correct, undo, redo and clear on a running node, over real DDS."""
from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from crosspoint_ros.msg import Correspondence, History, HistoryEntry, QueryResult, Status
from diagnostic_msgs.msg import DiagnosticArray
from operator_client import POINT_BASE_M, Operator, get_position
from two_camera_rig import LATCHED_QOS, Rig, project_point, run_rig

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask

OTHER_BASE_M = (-0.06, -0.03, 0.0)
THIRD_BASE_M = (0.0, 0.05, 0.0)
UNREVIEWED, ACCEPTED = HistoryEntry.UNREVIEWED, HistoryEntry.ACCEPTED
CORRECTED = HistoryEntry.CORRECTED


@pytest.fixture(scope='module')
def shared() -> Iterator[Operator]:
    with run_rig(limits__wait_tf_s=5.0) as rig:
        rig.discover()
        yield Operator(rig)


@pytest.fixture
def person(shared: Operator) -> Operator:
    shared.call('clear')
    shared.wait_for_history(current='')
    shared.wait_for_no_target()
    shared.rig.results.clear()
    shared.rig.targets.clear()
    shared.tf_targets.clear()
    return shared


@pytest.fixture
def steps(person: Operator) -> Iterator[list[tuple]]:
    """What the recorder is told."""
    told: list[tuple] = []

    def listen(entry, located, undone) -> None:
        told.append((entry.result.query_id, entry.decided, located is not None, undone))

    person.rig.node._server.review.step_listeners.append(listen)
    yield told
    person.rig.node._server.review.step_listeners.remove(listen)


def decided(history: History) -> list[int]:
    return [e.decided for e in history.entries]


def corrected_to(person: Operator, result: QueryResult, point_base_m=POINT_BASE_M,
                 off_px: float = 0.0, camera: str = 'side') -> QueryResult:
    x, y = project_point('side', point_base_m) + off_px
    return person.call('correct', query_id=result.query_id, camera=camera, x=x, y=y).result


def test_a_late_subscriber_gets_the_history(person):
    result = person.click()
    late: list[History] = []
    person.rig.cameras.create_subscription(History, '/crosspoint/history', late.append, LATCHED_QOS)
    person.rig.until(lambda: late)
    assert late[0].entries[-1].result.query_id == result.query_id
    assert late[0].entries[-1].decided == UNREVIEWED
    assert late[0].header.frame_id == 'base_link'


def test_undo_and_redo_put_the_target_back_everywhere(person):
    first, second = person.click(POINT_BASE_M), person.click(OTHER_BASE_M)
    person.wait_for_target(OTHER_BASE_M)
    said = person.call('undo')
    assert said.success
    assert first.query_id in said.message
    assert second.query_id in said.message
    person.wait_for_target(POINT_BASE_M)
    person.rig.until(lambda: len(person.rig.targets) == 3)
    assert np.allclose(get_position(person.get_newest_pose()), POINT_BASE_M, atol=3e-3)
    history = person.wait_for_history(current=first.query_id)
    assert (history.undone, history.can_redo) == (1, True)
    assert person.call('redo').success
    person.wait_for_target(OTHER_BASE_M)
    assert person.wait_for_history(current=second.query_id).undone == 0


def test_undo_past_the_first_answer_leaves_no_target(person):
    person.click()
    assert person.call('undo').success
    assert person.wait_for_history(current='').can_redo
    person.wait_for_no_target()
    late: list = []
    person.rig.cameras.create_subscription(
        type(person.get_newest_pose()), '/crosspoint/grasp_target', late.append, LATCHED_QOS)
    before = person.rig.ticks
    person.rig.until(lambda: person.rig.ticks > before + 3)
    assert late == [], 'a planner that starts now is given a target that was taken back'


def test_a_clear_is_taken_back_by_undo(person):
    result = person.click()
    said = person.call('clear')
    assert (said.success, said.message) == (True, f'cleared target {result.query_id}')
    person.wait_for_history(current='')
    person.wait_for_no_target()
    assert person.call('undo').success
    person.wait_for_target(POINT_BASE_M)


def test_a_new_answer_drops_what_was_undone(person):
    person.click(POINT_BASE_M)
    person.click(OTHER_BASE_M)
    person.call('undo')
    third = person.click(THIRD_BASE_M)
    assert not person.wait_for_history(current=third.query_id).can_redo
    said = person.call('redo')
    assert (said.success, said.message) == (False, 'there is nothing to redo')
    person.wait_for_target(THIRD_BASE_M)


def test_accepting_marks_the_answer_and_publishes_no_target_anew(person, steps):
    result = person.click()
    said = person.call('accept', query_id=result.query_id)
    assert said.success
    assert 'accepted' in said.message
    person.rig.until(lambda: decided(person.wait_for_history())[-1] == ACCEPTED)
    assert person.call('accept', query_id=result.query_id).success
    assert steps == [(result.query_id, UNREVIEWED, True, False),
                     (result.query_id, ACCEPTED, True, False)]
    assert len(person.rig.targets) == 1


def test_an_answer_that_another_has_replaced_is_not_accepted(person):
    old, new = person.click(POINT_BASE_M), person.click(OTHER_BASE_M)
    for named in (old.query_id, 'nonsense', ''):
        said = person.call('accept', query_id=named)
        assert not said.success
        assert new.query_id in said.message
    assert decided(person.wait_for_history())[-2:] == [UNREVIEWED, UNREVIEWED]


def test_a_correction_is_a_result_of_its_own_and_replaces_the_target(person, steps):
    wrong = person.click(OTHER_BASE_M)
    told = corrected_to(person, wrong, OTHER_BASE_M, off_px=1.0)
    assert told.status.code == Status.OK
    assert told.query_id not in ('', wrong.query_id)
    published = person.rig.until(lambda: next(
        (r for r in person.rig.results if r.query_id == told.query_id), None))
    found = published.correspondences[0]
    assert np.allclose((found.found.x, found.found.y), project_point('side', OTHER_BASE_M) + 1.0)
    assert found.verdict == Correspondence.SURE
    assert (published.clicked.x, published.clicked.y) == (wrong.clicked.x, wrong.clicked.y)
    history = person.wait_for_history(current=told.query_id)
    assert decided(history)[-2:] == [UNREVIEWED, CORRECTED]
    assert [s[:2] for s in steps] == [(wrong.query_id, UNREVIEWED), (told.query_id, CORRECTED)]
    assert person.call('undo').success
    person.wait_for_history(current=wrong.query_id)
    assert steps[-1] == (told.query_id, CORRECTED, True, True)


def test_a_correction_that_geometry_contradicts_is_refused_and_changes_nothing(person):
    result = person.click()
    told = corrected_to(person, result, off_px=60.0)
    assert told.status.code == Status.INCONSISTENT
    assert 'px' in told.status.message
    person.rig.until(lambda: told.query_id in {r.query_id for r in person.rig.results})
    assert person.wait_for_history().entries[-1].result.query_id == result.query_id
    person.wait_for_target(POINT_BASE_M)


@pytest.mark.parametrize(('changes', 'code', 'words'), [
    ({'camera': 'rear'}, Status.BAD_REQUEST, 'side'),
    ({'camera': 'front'}, Status.BAD_REQUEST, 'side'),
    ({'camera': ''}, Status.BAD_REQUEST, 'side'),
    ({'x': float('nan')}, Status.BAD_REQUEST, 'finite'),
    ({'y': float('inf')}, Status.BAD_REQUEST, 'finite'),
    ({'x': 1e9}, Status.BAD_REQUEST, '320x240'),
    ({'query_id': ''}, Status.BAD_REQUEST, 'query_id'),
    ({'query_id': 'nonsense'}, Status.STALE, 'nonsense'),
])
def test_a_bad_correction_is_refused_by_type(person, changes, code, words):
    result = person.click()
    fields = {'query_id': result.query_id, 'camera': 'side', 'x': 100.0, 'y': 100.0, **changes}
    told = person.call('correct', **fields).result
    assert told.status.code == code, told.status.message
    assert words in told.status.message
    assert not told.has_target
    assert person.wait_for_history().entries[-1].result.query_id == result.query_id


def test_a_correction_of_an_answer_that_is_not_the_newest_is_stale(person):
    old, new = person.click(POINT_BASE_M), person.click(OTHER_BASE_M)
    told = corrected_to(person, old)
    assert told.status.code == Status.STALE
    assert new.query_id in told.status.message
    person.wait_for_target(OTHER_BASE_M)


def test_the_images_of_an_answer_long_ago_are_not_kept(person):
    first = person.click()
    for _ in range(3):
        person.click(OTHER_BASE_M)
    for _ in range(3):
        assert person.call('undo').success
    person.wait_for_history(current=first.query_id)
    told = corrected_to(person, first)
    assert told.status.code == Status.STALE
    assert 'not kept' in told.status.message


def test_a_hundred_clicks_a_second_leave_one_history_and_one_target(person):
    points = [(0.001 * n - 0.05, 0.0, 0.0) for n in range(100)]
    jobs = []
    for batch in range(0, 100, 10):
        person.rig.send_frames()
        jobs += person.rig.run_in_executor(lambda tenth=points[batch:batch + 10]: [
            person.rig.node._server.submit(QueryRequest(
                'front', pixel=project_point('front', point))) for point in tenth])
    results = [person.wait_for_result(job) for job in jobs]
    assert len(person.rig.results) == 100
    answered = [r.query_id for r in results if r.has_target]
    assert results[-1].has_target
    history = person.wait_for_history(current=answered[-1])
    entries = [e.result.query_id for e in history.entries]
    assert len(entries) <= 20
    assert entries[-len(answered):] == answered[-20:]
    assert [e.number for e in history.entries] == sorted({e.number for e in history.entries})
    person.wait_for_target(points[-1])


def test_diagnostics_say_whether_an_instruction_may_stand_for_a_pixel(person):
    assert can_ground(person.rig) == 'true'
    with run_rig(matcher='fake_matchers:SamePixelMatcher') as rig:
        rig.discover()
        rig.send_frames()
        assert can_ground(rig) == 'false'


def can_ground(rig: Rig) -> str:
    seen: list[DiagnosticArray] = []
    rig.cameras.create_subscription(DiagnosticArray, '/diagnostics', seen.append, 10)

    def loaded() -> str:
        values = {v.key: v.value for array in seen[-1:] for status in array.status
                  if status.name.endswith(': matcher')
                  and status.message.startswith('fake_matchers')
                  for v in status.values}
        return values.get('can ground', '')

    return rig.until(loaded)


def test_an_expired_target_is_a_step_and_undo_brings_it_back_for_its_time_again():
    with run_rig(target_ttl_s=1.0) as rig:
        rig.discover()
        person = Operator(rig)
        result = person.click()
        history = person.wait_for_history(current='')
        assert (len(history.entries), history.undone, history.can_undo) == (1, 0, True)
        assert person.call('undo').success
        person.wait_for_target(POINT_BASE_M)
        person.wait_for_history(current=result.query_id)
        person.wait_for_history(current='')
        person.wait_for_no_target()


def test_deactivation_forgets_the_target_for_good_and_the_history_can_be_read():
    with run_rig() as rig:
        rig.discover()
        person = Operator(rig)
        result = person.click()
        rig.run_in_executor(rig.node.trigger_deactivate)
        assert len(person.wait_for_history(current='').entries) == 1
        for name, fields in (('undo', {}), ('redo', {}), ('accept', {'query_id': result.query_id})):
            said = person.call(name, **fields)
            assert not said.success
            assert 'not active' in said.message
        assert corrected_to(person, result).status.code == Status.BUSY
        assert person.call('clear').message == 'there was no target'
        rig.run_in_executor(rig.node.trigger_activate)
        assert 'deactivated' in person.call('undo').message
        assert corrected_to(person, result).status.code == Status.STALE
        person.wait_for_no_target()
        person.click()
        assert person.call('undo').success
        person.wait_for_no_target()


def test_an_answer_found_in_the_moment_of_deactivation_puts_no_target_up():
    with run_rig() as rig:
        rig.discover()
        person = Operator(rig)
        server = rig.node._server
        located = server.review.history.find_locate_result(person.click().query_id)
        jobs: list[QueryTask] = []

        def ask_and_deactivate() -> None:
            # The query's thread has found it, but has not come to say so.
            job = QueryTask(QueryRequest(), server._finish_query)
            server._unpublished[job] = lambda result: None
            rig.node.trigger_deactivate()
            jobs.append(job)
            job.finish(located)

        rig.run_in_executor(ask_and_deactivate)
        assert person.wait_for_result(jobs[0]).status.code == Status.CANCELLED
        person.wait_for_history(current='')
        person.wait_for_no_target()


def test_a_jump_in_time_forgets_the_target_and_keeps_the_history_to_be_read():
    with run_rig() as rig:
        rig.discover()
        person = Operator(rig)
        person.click(POINT_BASE_M)
        result = person.click(OTHER_BASE_M)
        rig.run_in_executor(lambda: rig.node._server.reset(-5.0))
        rig.until(lambda: not person.wait_for_history().can_undo)
        said = person.call('undo')
        assert (said.success, 'time jumped' in said.message) == (False, True)
        told = corrected_to(person, result, OTHER_BASE_M)
        assert told.status.code == Status.STALE
        person.wait_for_no_target()
        assert len(person.wait_for_history().entries) == 2


def test_an_answer_to_images_of_before_a_jump_in_time_puts_no_target_up():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=0.5) as rig:
        rig.discover()
        person = Operator(rig)
        rig.send_frames()
        job = person.submit_click(POINT_BASE_M)
        rig.until(lambda: job.stage == 'match')
        rig.run_in_executor(lambda: rig.node._server.reset(-5.0))
        result = person.wait_for_result(job)
        assert (result.status.code, result.has_target) == (Status.CANCELLED, False)
        assert 'time jumped' in result.status.message
        person.wait_for_no_target()


@pytest.mark.parametrize('is_answered', [False, True])
def test_a_target_that_is_cleared_before_it_was_published_stays_away(is_answered):
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=0.5) as rig:
        rig.discover()
        person = Operator(rig)
        rig.send_frames()
        job = person.submit_click(POINT_BASE_M)
        rig.until(lambda: job.stage == 'match')

        def clear() -> None:
            while is_answered and not job.is_done:  # this is the executor: nothing is published
                time.sleep(0.01)
            rig.node._server.review.clear()

        rig.run_in_executor(clear)
        result = person.wait_for_result(job)
        assert (result.status.code, result.has_target) == (Status.CANCELLED, False)
        assert 'the target was cleared' in result.status.message
        assert list(person.wait_for_history(current='').entries) == []
        person.wait_for_no_target()


def test_what_was_refused_in_every_view_can_still_be_corrected():
    with run_rig(matcher='fake_matchers:ExactMatcher', ExactMatcher__offset_px=60.0) as rig:
        rig.discover()
        person = Operator(rig)
        refused = person.click()
        assert refused.status.code == Status.INCONSISTENT
        assert list(person.wait_for_history().entries) == []
        told = corrected_to(person, refused)
        assert told.status.code == Status.OK
        assert decided(person.wait_for_history(current=told.query_id)) == [CORRECTED]
        person.wait_for_target(POINT_BASE_M)


def test_accepting_while_another_click_is_computed_holds_for_the_answer_that_was_seen():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=0.7) as rig:
        rig.discover()
        person = Operator(rig)
        first = person.click(POINT_BASE_M)
        rig.send_frames()
        second = person.submit_click(OTHER_BASE_M)
        assert person.call('accept', query_id=first.query_id).success
        assert rig.open_tasks() == [second], 'the reply waited for the matcher'
        assert person.wait_for_result(second).status.code == Status.OK
        assert decided(person.wait_for_history(current=second.query_id)) == [ACCEPTED, UNREVIEWED]


def test_a_correction_that_waits_holds_nobody_up_and_is_stale_when_its_turn_comes_too_late():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=1.0,
                 busy='queue') as rig:
        rig.discover()
        person = Operator(rig)
        first = person.click(POINT_BASE_M)
        rig.send_frames()
        second = person.submit_click(OTHER_BASE_M)
        x, y = project_point('side', POINT_BASE_M)
        correction = person.call_async('correct', query_id=first.query_id, camera='side', x=x, y=y)
        rig.until(lambda: len(rig.open_tasks()) == 2)
        assert person.call('accept', query_id=first.query_id).success
        assert not correction.done(), 'the other services waited for the correction'
        assert person.wait_for_result(second).status.code == Status.OK
        rig.until(correction.done)
        told = correction.result().result
        assert told.status.code == Status.STALE
        assert second.query_id in told.status.message
        assert not told.has_target
        person.wait_for_target(OTHER_BASE_M)
        assert decided(person.wait_for_history()) == [ACCEPTED, UNREVIEWED]


def test_a_correction_preempts_the_click_that_is_computed():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=1.0) as rig:
        rig.discover()
        person = Operator(rig)
        first = person.click(POINT_BASE_M)
        rig.send_frames()
        second = person.submit_click(OTHER_BASE_M)
        told = corrected_to(person, first)
        assert told.status.code == Status.OK
        assert person.wait_for_result(second).status.code == Status.CANCELLED
        person.wait_for_history(current=told.query_id)
        person.wait_for_target(POINT_BASE_M)


def test_a_node_configured_anew_has_a_history_of_its_own():
    with run_rig() as rig:
        rig.discover()
        person = Operator(rig)
        person.click()
        for change in (rig.node.trigger_deactivate, rig.node.trigger_cleanup,
                       rig.node.trigger_configure, rig.node.trigger_activate):
            rig.run_in_executor(change)
        rig.until(lambda: not person.wait_for_history().entries)
        rig.until(lambda: rig.node._server.loader.matchers)
        rig.discover()
        again = person.click()
        assert [e.number for e in person.wait_for_history(current=again.query_id).entries] == [1]


def test_a_move_that_is_undone_gives_back_the_answer_that_stood_behind_another(person, steps):
    moved = Transform(np.eye(3), np.add(POINT_BASE_M, (0, 0, 0.05)))
    first = person.click(POINT_BASE_M)
    history = person.rig.node._server.review.history
    person.rig.run_in_executor(lambda: history.add(  # an answer without a target keeps the first's
        QueryResult(query_id='flat'), UNREVIEWED, None))
    person.rig.run_in_executor(lambda: person.rig.node._server.review.commit_move(moved))
    steps.clear()
    assert person.call('undo').success
    person.wait_for_target(POINT_BASE_M)
    assert [(query_id, undone) for query_id, _, _, undone in steps] == [
        (first.query_id, True), (first.query_id, False)]
