"""Undo, redo and what is kept: plain bookkeeping over answers."""
from __future__ import annotations

import copy
import weakref

import numpy as np
import pytest
from crosspoint_ros.msg import GraspTarget, HistoryEntry, QueryResult, TargetState
from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, View
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.ros.target.history import MAX_LOCATE_RESULTS, MAX_STEPS, History
from crosspoint_ros.ros.target.targets import ActiveTarget, FollowedTarget

UNREVIEWED, ACCEPTED = HistoryEntry.UNREVIEWED, HistoryEntry.ACCEPTED
CORRECTED, MOVED = HistoryEntry.CORRECTED, HistoryEntry.MOVED


def answer(query_id: str, has_target: bool = True) -> QueryResult:
    return QueryResult(query_id=query_id, has_target=has_target)


def with_answers(*query_ids: str) -> History:
    history = History()
    for query_id in query_ids:
        history.add(answer(query_id), UNREVIEWED, None)
    return history


def target_step(history: History) -> str:
    step = history.get_target_step()
    return '' if step is None else step.result.query_id


def refused(wish, *args, **named) -> Rejected:
    with pytest.raises(Rejected) as caught:
        wish(*args, **named)
    return caught.value


def test_nothing_has_happened():
    history = History()
    assert history.current is None
    assert history.get_target_step() is None
    assert refused(history.undo).message == 'there is nothing to undo'
    assert refused(history.redo).message == 'there is nothing to redo'
    message = history.to_msg(Header(frame_id='base'))
    assert (list(message.entries), message.current, message.undone) == ([], 0, 0)
    assert (message.can_undo, message.can_redo) == (False, False)
    assert message.header.frame_id == 'base'


def test_undo_and_redo_walk_over_the_answers_and_back():
    history = with_answers('a', 'b', 'c')
    seen = [target_step(history)]
    for _ in range(3):
        history.undo()
        seen.append(target_step(history))
    for _ in range(3):
        history.redo()
        seen.append(target_step(history))
    assert seen == ['c', 'b', 'a', '', 'a', 'b', 'c']
    assert not history.can_redo


def test_undo_returns_the_step_that_is_undone_and_redo_the_one_done_again():
    history = with_answers('a', 'b')
    assert history.undo().result.query_id == 'b'
    assert history.undo().result.query_id == 'a'
    assert history.redo().result.query_id == 'a'


def test_numbers_are_never_used_twice():
    history = with_answers('a', 'b')
    history.undo()
    assert history.add(answer('c'), UNREVIEWED, None).number == 3
    assert [e.number for e in history.to_msg(Header()).entries] == [1, 3]


@pytest.mark.parametrize('decided', [UNREVIEWED, CORRECTED, MOVED])
def test_whatever_comes_after_an_undo_drops_what_was_undone(decided):
    history = with_answers('a', 'b', 'c')
    history.undo()
    history.undo()
    history.add(answer('d'), decided, None)
    assert not history.can_redo
    history.undo()
    assert target_step(history) == 'a'


def test_a_clear_after_an_undo_drops_what_was_undone_and_is_undone_itself():
    history = with_answers('a', 'b')
    history.undo()
    history.clear()
    assert target_step(history) == ''
    assert not history.can_redo
    assert history.undo().result is None
    assert target_step(history) == 'a'
    history.redo()
    assert target_step(history) == ''


def test_clearing_nothing_is_no_step():
    history = with_answers('a')
    history.clear()
    history.clear()
    history.undo()
    assert target_step(history) == 'a'


def test_an_answer_without_a_target_keeps_the_one_that_stands():
    history = with_answers('a')
    history.add(answer('b', has_target=False), UNREVIEWED, None)
    history.add(answer('c', has_target=False), UNREVIEWED, None)
    assert target_step(history) == 'a'
    message = history.to_msg(Header())
    assert (message.current, message.undone, len(message.entries)) == (1, 0, 3)


def test_an_answer_without_a_target_after_a_clear_brings_nothing_back():
    history = with_answers('a')
    history.clear()
    history.add(answer('b', has_target=False), UNREVIEWED, None)
    assert target_step(history) == ''


def test_a_correction_without_a_target_takes_the_wrong_target_away():
    history = with_answers('a')
    history.add(answer('b', has_target=False), CORRECTED, None)
    assert target_step(history) == ''
    history.undo()
    assert target_step(history) == 'a'


def test_the_message_counts_the_undone_and_leaves_out_what_was_cleared():
    history = with_answers('a')
    history.clear()
    history.add(answer('b'), UNREVIEWED, None)
    history.undo()
    message = history.to_msg(Header())
    assert [e.result.query_id for e in message.entries] == ['a', 'b']
    assert (message.current, message.undone) == (0, 1)
    assert (message.can_undo, message.can_redo) == (True, True)


def test_twenty_steps_are_kept_and_undo_says_so():
    names = [f'q{n}' for n in range(MAX_STEPS + 5)]
    history = with_answers(*names)
    entries = history.to_msg(Header()).entries
    assert [e.result.query_id for e in entries] == names[-MAX_STEPS:]
    while history.can_undo:
        history.undo()
    assert target_step(history) == names[-MAX_STEPS], 'what stood before is not known any more'
    assert str(MAX_STEPS) in refused(history.undo).message


def test_a_target_that_stands_is_known_when_its_own_step_is_not_kept_any_more():
    history = with_answers('a')
    for n in range(MAX_STEPS + 5):
        history.add(answer(f'q{n}', has_target=False), UNREVIEWED, None)
    assert target_step(history) == 'a'
    assert history.to_msg(Header()).current == 1


# --- accept

def test_an_answer_that_is_not_kept_any_more_is_forgotten():
    history = History()
    first = weakref.ref(history.add(answer('first'), UNREVIEWED, None))
    for number in range(MAX_STEPS):
        assert first() is not None
        history.add(answer(str(number)), UNREVIEWED, None)
    assert first() is None


def test_the_current_answer_is_accepted_in_place():
    history = with_answers('a', 'b')
    assert history.accept('b').decision == ACCEPTED
    assert [e.decided for e in history.to_msg(Header()).entries] == [UNREVIEWED, ACCEPTED]
    history.undo()
    assert target_step(history) == 'a', 'to accept is no step'


def test_it_may_be_accepted_by_its_number_and_twice():
    history = with_answers('a', 'b')
    assert history.accept(number=2) is history.accept('b')


@pytest.mark.parametrize('decided', [CORRECTED, MOVED])
def test_what_a_person_decided_already_stays_so_when_it_is_accepted(decided):
    history = with_answers('a')
    history.add(answer('b'), decided, None)
    assert history.accept('b').decision == decided


@pytest.mark.parametrize('named', [{'query_id': 'a'}, {'number': 1}, {'query_id': 'other'}, {}])
def test_only_the_current_answer_is_accepted(named):
    history = with_answers('a', 'b')
    why = refused(history.accept, **named)
    assert why.code == Code.STALE
    assert 'step 2 (query b, unreviewed)' in why.message


def test_there_is_nothing_to_accept_when_the_target_was_cleared_or_all_is_undone():
    history = with_answers('a')
    history.clear()
    assert 'no answer to accept' in refused(history.accept, 'a').message
    history.undo()
    history.undo()
    assert 'no answer to accept' in refused(history.accept, 'a').message


def test_after_the_target_of_one_name_was_cleared_that_of_another_is_still_accepted():
    history = History()
    for name in ('cup', 'box'):
        history.add(answer(name), UNREVIEWED, None, is_sent=False, name=name)
    history.clear('box')
    assert history.accept('cup').is_sent
    assert 'no answer to accept' in refused(history.accept, 'box').message


def test_an_undone_answer_is_not_accepted_and_one_done_again_is():
    history = with_answers('a', 'b')
    history.undo()
    assert refused(history.accept, 'b').code == Code.STALE
    history.redo()
    assert history.accept('b').decision == ACCEPTED


# --- corrections

def located() -> LocateResult:
    clicked = View('front', np.zeros((4, 4, 3), np.uint8), Intrinsics(4.0, 4.0, 1.5, 1.5, 4, 4),
                   1, 'front_optical')
    return LocateResult(clicked, np.zeros(2), (), None, None)


def answered(history: History, query_id: str) -> None:
    history.keep_locate_result(query_id, located(), is_accepted=True)
    history.add(answer(query_id), UNREVIEWED, None)


def test_the_newest_answer_can_be_corrected_and_an_older_one_cannot():
    history = History()
    answered(history, 'a')
    answered(history, 'b')
    history.require_correctable('b')
    why = refused(history.require_correctable, 'a')
    assert (why.code, 'b is' in why.message) == (Code.STALE, True)


def test_after_an_undo_the_current_answer_can_be_corrected():
    history = History()
    answered(history, 'a')
    answered(history, 'b')
    history.undo()
    history.require_correctable('a')
    assert refused(history.require_correctable, 'b').code == Code.STALE


def test_the_newest_answer_can_be_corrected_when_all_its_views_were_refused():
    history = History()
    answered(history, 'a')
    history.keep_locate_result('refused', located(), is_accepted=False)
    history.require_correctable('refused')
    history.require_correctable('a')
    answered(history, 'b')
    assert refused(history.require_correctable, 'refused').code == Code.STALE


def test_images_are_kept_of_the_newest_answers_only():
    history = History()
    for n in range(MAX_LOCATE_RESULTS + 1):
        answered(history, f'q{n}')
    assert history.find_locate_result('q0') is None
    assert history.find_locate_result('q1') is not None
    for _ in range(MAX_LOCATE_RESULTS):
        history.undo()
    why = refused(history.require_correctable, 'q0')
    assert (why.code, 'not kept' in why.message) == (Code.STALE, True)


@pytest.mark.parametrize(('query_id', 'code'), [('', Code.BAD_REQUEST), ('ghost', Code.STALE)])
def test_an_unknown_answer_is_not_corrected(query_id, code):
    assert refused(History().require_correctable, query_id).code == code


# --- seal

def test_what_was_before_a_seal_can_be_read_but_not_brought_back_or_corrected():
    history = History()
    answered(history, 'a')
    answered(history, 'b')
    history.freeze('time jumped')
    assert [e.result.query_id for e in history.to_msg(Header()).entries] == ['a', 'b']
    assert target_step(history) == 'b'
    assert 'since time jumped' in refused(history.undo).message
    assert history.find_locate_result('b') is None
    assert refused(history.require_correctable, 'b').code == Code.STALE


def test_undone_steps_are_gone_with_a_seal():
    history = with_answers('a', 'b')
    history.undo()
    history.freeze('time jumped')
    assert not history.can_redo


def test_steps_after_a_seal_are_undone_down_to_it():
    history = with_answers('a')
    history.freeze('time jumped')
    history.add(answer('b'), UNREVIEWED, None)
    history.undo()
    assert target_step(history) == 'a'
    assert not history.can_undo


def test_a_seal_goes_with_the_steps_it_sealed():
    history = with_answers('old')
    history.freeze('time jumped')
    for n in range(MAX_STEPS + 1):
        history.add(answer(f'q{n}'), UNREVIEWED, None)
    while history.can_undo:
        history.undo()
    assert target_step(history) == 'q1'
    assert str(MAX_STEPS) in refused(history.undo).message


# --- the active target

STANDING, PENDING, CLEARED = TargetState.STANDING, TargetState.PENDING, TargetState.CLEARED


class Watched:
    """An active target at a clock that is set, and what its listener saw of it."""

    def __init__(self, **options) -> None:
        self.now_ns = 5 * 10**9
        self.target, self.seen = ActiveTarget(lambda: self.now_ns, **options), []
        self.target.listeners.append(lambda t: self.seen.append(
            (t.active_target, t.preview, t.show_rays)))


def move(target: GraspTarget, dx_m: float) -> GraspTarget:
    moved = copy.deepcopy(target)
    moved.pose.pose.position.x += dx_m
    return moved


def test_listeners_see_a_new_target_its_drag_and_its_end():
    watched = Watched()
    step, preview = with_answers('a').get_target_step(), GraspTarget(query_id='a')
    watched.target.set_target(step, STANDING)
    watched.target.set_preview(preview)
    watched.target.set_target(step, STANDING)
    watched.target.set_target(None, CLEARED)
    target = step.result.target
    assert watched.seen == [(target, None, True), (target, preview, True), (target, None, True),
                            (None, None, True)]
    assert watched.seen[0][0] is target


def test_hiding_the_rays_ends_a_drag_and_changes_no_target():
    watched = Watched()
    step = with_answers('a').get_target_step()
    watched.target.set_target(step, STANDING)
    watched.target.set_preview(move(step.result.target, 0.1))
    watched.target.toggle_rays()
    assert watched.seen[-1] == (step.result.target, None, False)
    assert watched.target.state == STANDING


def test_a_target_is_pending_while_it_is_dragged_but_not_while_a_button_is_pressed():
    watched = Watched()
    step = with_answers('a').get_target_step()
    watched.target.set_target(step, STANDING)
    watched.target.set_preview(move(step.result.target, 1e-6))
    assert watched.target.state == STANDING
    watched.target.set_preview(move(step.result.target, 0.01))
    assert watched.target.state == PENDING
    watched.target.announce('a click was refused meanwhile')
    assert watched.target.state == PENDING
    watched.target.set_target(step, STANDING)
    assert watched.target.state == STANDING


def test_a_target_expires_and_begins_again_when_it_is_replaced_or_dragged_but_not_when_accepted():
    watched = Watched(ttl_s=10.0)
    history, target = with_answers('a'), watched.target
    assert not target.has_expired
    for change in (lambda: target.set_target(history.get_target_step(), STANDING),
                   lambda: target.set_preview(GraspTarget()),
                   lambda: target.set_target(history.get_target_step(), STANDING)):
        change()
        assert not target.has_expired
        assert target.valid_until_ns == watched.now_ns + 10 * 10**9
        watched.now_ns += 11 * 10**9
        assert target.has_expired
    history.accept('a')
    target.set_target(history.get_target_step(), STANDING)
    assert target.has_expired


def test_without_a_time_to_live_a_target_stays():
    watched = Watched()
    watched.target.set_target(with_answers('a').get_target_step(), STANDING)
    watched.now_ns += 10**18
    assert not watched.target.has_expired
    assert watched.target.valid_until_ns == 0


def test_a_state_begins_with_its_target_and_not_with_what_is_said_of_it():
    watched, history = Watched(), with_answers('a')
    watched.target.set_target(history.get_target_step(), STANDING)
    watched.now_ns += 10**9
    watched.target.announce('a click was refused')
    assert watched.target.since_ns == watched.now_ns - 10**9
    history.add(answer('b'), UNREVIEWED, None)
    watched.target.set_target(history.get_target_step(), STANDING)
    assert watched.target.since_ns == watched.now_ns


# --- the number and the end of each target

def test_targets_are_counted_moves_too_and_answers_without_one_not():
    history = with_answers('a')
    history.add(answer('flat', has_target=False), UNREVIEWED, None)
    assert history.get_target_step().target_number == 1
    history.add(answer('b'), HistoryEntry.MOVED, None)
    assert history.get_target_step().target_number == 2
    history.undo()
    assert history.get_target_step().target_number == 1
    history.add(answer('c'), UNREVIEWED, None)
    assert history.get_target_step().target_number == 3, 'a frame that was something else'


def test_the_end_of_a_target_is_told_apart_and_undone():
    history = with_answers('a')
    assert history.get_target_state() == STANDING
    history.clear(end_state=TargetState.EXPIRED)
    assert history.get_target_state() == TargetState.EXPIRED
    history.undo()
    assert history.get_target_state() == STANDING
    history.clear()
    assert history.get_target_state() == CLEARED
    history.add(answer('flat', has_target=False), UNREVIEWED, None)
    assert history.get_target_state() == CLEARED
    assert History().get_target_state() == TargetState.NONE


def test_an_answer_without_a_target_can_end_the_one_that_is_active_and_undo_brings_it_back():
    history = with_answers('a')
    history.add(answer('flat', has_target=False), UNREVIEWED, None, inherits=False)
    assert history.get_target_step() is None
    assert history.get_target_state() == CLEARED
    history.undo()
    assert target_step(history) == 'a'


# --- targets of several names

def test_a_target_outlives_the_steps_of_other_names_that_are_kept():
    history = History()
    history.add(answer('cup'), UNREVIEWED, None, name='cup')
    for number in range(3 * MAX_STEPS):
        history.add(answer(str(number)), UNREVIEWED, None)
        assert history.get_target_step('cup').query_id == 'cup'
    assert history.accept('cup').decision == ACCEPTED
    assert history.get_target_step('cup').decision == ACCEPTED
    history.clear()
    assert history.get_target_step('cup') is None
    history.undo()
    assert history.get_target_step('cup').query_id == 'cup'
    assert list(history.to_msg(Header()).active) == [1, 3 * MAX_STEPS + 1]


def test_what_is_kept_does_not_grow_with_the_names_there_have_been():
    history = History()
    for number in range(100):
        history.add(answer(str(number)), UNREVIEWED, None, name=f'mug_{number}')
        history.clear(f'mug_{number}')
    assert len(history.names) <= MAX_STEPS + 1


def test_a_target_that_was_cleared_long_ago_does_not_come_back():
    history = History()
    history.add(answer('cup'), UNREVIEWED, None, name='cup')
    history.clear('cup')
    for number in range(2 * MAX_STEPS):
        history.add(answer(str(number)), UNREVIEWED, None)
        assert history.get_target_step('cup') is None


def test_undo_goes_back_through_all_names_and_leaves_the_others():
    history = History()
    for query_id, name in (('a', 'cup'), ('b', 'box'), ('c', 'cup')):
        history.add(answer(query_id), UNREVIEWED, None, name=name)
    history.undo()
    assert [history.get_target_step(name).query_id for name in ('cup', 'box')] == ['a', 'b']
    history.undo()
    assert history.get_target_step('box') is None
    assert history.get_target_step('cup').query_id == 'a'


def test_a_correction_and_a_drag_are_held_as_the_target_was():
    history = History()
    history.add(answer('a'), UNREVIEWED, None, held_until_ns=7)
    for decision in (CORRECTED, MOVED):
        assert history.add(answer('a'), decision, None).held_until_ns == 7
    assert history.add(answer('b'), UNREVIEWED, None).held_until_ns == 0


def test_a_target_that_is_lost_is_not_held():
    watched, history = Watched(), History()
    history.add(answer('a'), UNREVIEWED, None, held_until_ns=watched.now_ns + 60 * 10**9)
    watched.target.set_target(history.get_target_step(), STANDING)
    assert watched.target.held_for_s == pytest.approx(60.0)
    watched.target.set_followed(FollowedTarget(None, TargetState.LOST, 'lost', True, (), 0))
    assert watched.target.held_for_s == 0.0


def test_a_held_target_does_not_expire():
    watched, history = Watched(ttl_s=10.0), History()
    history.add(answer('a'), UNREVIEWED, None, held_until_ns=watched.now_ns + 60 * 10**9)
    watched.target.set_target(history.get_target_step(), STANDING)
    watched.now_ns += 59 * 10**9
    assert not watched.target.has_expired
    assert watched.target.held_for_s == pytest.approx(1.0)
    watched.now_ns += 2 * 10**9
    assert watched.target.has_expired


def test_a_target_that_had_moved_when_it_was_cleared_comes_back_withdrawn_until_it_is_seen():
    watched, history = Watched(), with_answers('a')
    step = history.get_target_step()
    watched.target.set_target(step, STANDING)
    elsewhere = move(step.result.target, 0.1)
    watched.target.set_followed(FollowedTarget(elsewhere, TargetState.MOVED, 'moved', False, (), 0))
    assert watched.target.is_valid
    watched.target.set_target(None, CLEARED)
    watched.target.set_target(step, STANDING)
    assert (watched.target.is_valid, watched.target.state) == (False, TargetState.LOST)
    watched.target.set_followed(FollowedTarget(elsewhere, TargetState.MOVED, 'seen', False, (), 0))
    assert watched.target.is_valid


def test_the_newest_answer_of_a_target_is_correctable_after_another_has_ended():
    history = History()
    for query_id, name in (('a', 'cup'), ('b', 'box')):
        history.keep_locate_result(query_id, located(), True, name)
        history.add(answer(query_id), UNREVIEWED, None, name=name)
    history.clear('cup')
    history.require_correctable('b')
    assert refused(history.require_correctable, 'a').code == Code.STALE
