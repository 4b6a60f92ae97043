"""Queries end exactly once, one at a time, and never wait for a matcher longer than allowed."""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, View
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.ros.node.query_queue import (
    MAX_QUEUED,
    QueryAborted,
    QueryRequest,
    QueryTask,
    QueryThread,
)

VIEW = View('front', np.zeros((4, 4, 3), np.uint8), Intrinsics(4.0, 4.0, 2.0, 2.0, 4, 4))
ANSWER = LocateResult(VIEW, np.zeros(2), (), None, None)
PATIENCE_S = 5.0


class Desk:
    """A query thread whose work the test holds and releases."""

    def __init__(self, busy: str, max_query_s: float = 60.0, threads: int = 1,
                 is_same_target=lambda a, b: True) -> None:
        self.entered, self.release = threading.Semaphore(0), threading.Semaphore(0)
        self.afterwards: list[QueryTask] = []
        self.endings: list[QueryTask] = []
        self.error: BaseException | None = None
        self.thread = QueryThread(self._answer, self.afterwards.append, busy, max_query_s,
                                  lambda: threads, is_same_target)

    def _answer(self, job: QueryTask) -> LocateResult:
        self.entered.release()
        assert self.release.acquire(timeout=PATIENCE_S)
        job.enter_stage('match')
        if self.error is not None:
            raise self.error
        return ANSWER

    def ask(self) -> QueryTask:
        job = QueryTask(QueryRequest(), self.endings.append)
        self.thread.submit(job)
        return job


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    made: list[Desk] = []
    yield made
    for desk in made:
        desk.thread.close()
        for _ in range(64):
            desk.release.release()


def wait_for(condition) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, 'it did not come to pass'
        time.sleep(0.002)


def desk(desks: list[Desk], busy: str, **options: float) -> Desk:
    desks.append(Desk(busy, **options))
    return desks[-1]


def test_an_answer_ends_the_query_and_what_follows_runs_afterwards(desks):
    d = desk(desks, 'queue')
    job = d.ask()
    d.release.release()
    wait_for(lambda: d.afterwards)
    assert job.locate_result is ANSWER
    assert d.endings == [job] == d.afterwards
    assert list(job.stage_durations_s()) == ['match']


def test_a_query_refused_before_its_first_stage_has_spent_time_in_none():
    job = QueryTask(QueryRequest(), lambda job: None)
    job.finish(Rejected(Code.BAD_REQUEST, 'by the test'))
    assert job.stage_durations_s() == {}


def test_preempt_cancels_the_running_query_and_answers_the_new_one(desks):
    d = desk(desks, 'preempt')
    first = d.ask()
    assert d.entered.acquire(timeout=PATIENCE_S)
    second = d.ask()
    assert first.rejected.code == Code.CANCELLED
    assert second.query_id in first.rejected.message
    d.release.release()
    d.release.release()
    wait_for(lambda: second.is_done)
    assert second.locate_result is ANSWER
    assert d.endings == [first, second]


def test_reject_refuses_the_new_query_and_says_who_is_run_rig(desks):
    d = desk(desks, 'reject')
    first = d.ask()
    assert d.entered.acquire(timeout=PATIENCE_S)
    second = d.ask()
    assert second.rejected.code == Code.BUSY
    assert first.query_id in second.rejected.message
    d.release.release()
    wait_for(lambda: first.is_done)
    assert first.locate_result is ANSWER


def test_queue_answers_both_in_order(desks):
    d = desk(desks, 'queue')
    jobs = [d.ask(), d.ask()]
    d.release.release()
    d.release.release()
    wait_for(lambda: len(d.endings) == 2)
    assert d.endings == jobs
    assert all(job.locate_result is ANSWER for job in jobs)


def test_a_queue_has_an_end_and_says_where(desks):
    d = desk(desks, 'queue')
    jobs = [d.ask() for _ in range(MAX_QUEUED + 1)]
    assert jobs[-1].rejected.code == Code.BUSY
    assert str(MAX_QUEUED) in jobs[-1].rejected.message
    assert not any(job.is_done for job in jobs[:-1])


def test_a_query_past_its_time_ends_although_the_matcher_still_hangs(desks):
    d = desk(desks, 'queue', max_query_s=0.05)
    first, second = d.ask(), d.ask()
    wait_for(lambda: d.thread.expire_overdue() or (first.is_done and second.is_done))
    assert first.rejected.code == second.rejected.code == Code.TIMEOUT
    assert '0.05' in first.rejected.message
    assert first.query_id in second.rejected.message  # who holds the matcher
    d.release.release()
    third = d.ask()
    d.release.release()
    wait_for(lambda: third.is_done)
    assert third.locate_result is ANSWER  # and it works again when the matcher returns
    assert d.endings.count(first) == 1


def test_the_matcher_is_held_since_it_was_asked_not_since_the_query_began_to_wait(desks):
    d = desk(desks, 'queue')
    job = QueryTask(QueryRequest(), d.endings.append)
    job.started_s -= 1000.0
    d.thread.submit(job)
    assert d.entered.acquire(timeout=PATIENCE_S)
    assert 0.0 < d.thread.busy_for_s < 500.0


def test_preempted_queries_do_not_pile_up_behind_a_matcher_that_hangs(desks):
    d = desk(desks, 'preempt')
    jobs = [d.ask() for _ in range(1000)]
    assert d.entered.acquire(timeout=PATIENCE_S)
    assert len(d.thread._queue) <= 2
    assert sum(job.is_done for job in jobs) == 999


def test_a_cancelled_query_stops_at_its_next_stage(desks):
    d = desk(desks, 'queue')
    job = d.ask()
    assert d.entered.acquire(timeout=PATIENCE_S)
    job.finish(Rejected(Code.CANCELLED, 'by the test'))
    d.release.release()
    wait_for(lambda: not d.thread.busy_for_s)
    assert job.stages == []
    with pytest.raises(QueryAborted):
        job.enter_stage('lift')
    assert d.afterwards == []


def test_a_stage_that_goes_on_is_timed_once():
    job = QueryTask(QueryRequest(), lambda job: None)
    for stage in ('match', 'match', 'verify'):
        job.enter_stage(stage)
    begun_s = job.stages[0][1]
    assert list(job.stage_durations_s()) == ['match', 'verify']
    assert job.stage_durations_s()['match'] == job.stages[1][1] - begun_s


def test_two_endings_at_once_leave_one(desks):
    for _ in range(200):
        endings: list[QueryTask] = []
        job = QueryTask(QueryRequest(), endings.append)
        threads = [threading.Thread(target=job.finish, args=(outcome,))
                   for outcome in (ANSWER, Rejected(Code.CANCELLED, 'a'), ANSWER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert endings == [job]
        assert (job.locate_result is None) != (job.rejected is None)


def test_a_bug_in_a_query_is_refused_logged_and_survived(desks, caplog):
    d = desk(desks, 'queue')
    d.error = ZeroDivisionError('by design')
    job = d.ask()
    d.release.release()
    wait_for(lambda: job.is_done)
    assert job.rejected.code == Code.MATCHER_FAILED
    assert 'ZeroDivisionError' in job.rejected.message
    assert 'ZeroDivisionError' in caplog.records[0].exc_text
    d.error = None
    second = d.ask()
    d.release.release()
    wait_for(lambda: second.is_done)
    assert second.locate_result is ANSWER


def test_close_leaves_a_matcher_that_hangs_behind(desks):
    d = desk(desks, 'queue')
    job = d.ask()
    assert d.entered.acquire(timeout=PATIENCE_S)
    d.thread.cancel_all('the node ends')
    d.thread.close()
    assert job.rejected.code == Code.CANCELLED
    assert 'the node ends' in job.rejected.message


class Panic(BaseException):
    """What a library in Rust raises: no Exception."""


def test_a_panic_of_a_library_ends_one_query_and_not_the_thread(desks):
    d = desk(desks, 'queue')
    d.error = Panic('index out of bounds')
    job = d.ask()
    d.release.release()
    wait_for(lambda: job.is_done)
    assert job.rejected.code == Code.MATCHER_FAILED
    assert 'Panic' in job.rejected.message
    d.error = None
    second = d.ask()
    d.release.release()
    wait_for(lambda: second.is_done)
    assert second.locate_result is ANSWER


def test_a_preparation_that_hangs_holds_the_matcher_and_is_blamed(desks):
    d = desk(desks, 'queue', max_query_s=0.05)
    begun, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        let_go.wait(PATIENCE_S)

    d.thread.submit_idle('test', hang)
    assert begun.wait(PATIENCE_S)
    wait_for(lambda: d.thread.busy_for_s > 0.0)
    job = d.ask()
    wait_for(lambda: d.thread.expire_overdue() or job.is_done)
    assert 'prepared for new images' in job.rejected.message
    let_go.set()
    wait_for(lambda: not d.thread.busy_for_s)


# --- a matcher that takes several at a time

def test_as_many_queries_run_at_a_time_as_the_matcher_takes(desks):
    d = desk(desks, 'queue', threads=2)
    jobs = [d.ask() for _ in range(3)]
    assert d.entered.acquire(timeout=PATIENCE_S)
    assert d.entered.acquire(timeout=PATIENCE_S)
    assert not d.entered.acquire(timeout=0.05), 'the third waits'
    assert d.thread.open_tasks == jobs
    for _ in jobs:
        d.release.release()
    wait_for(lambda: all(job.is_done for job in jobs))


def test_a_query_that_hangs_does_not_hold_the_one_that_preempts_it(desks):
    d = desk(desks, 'preempt', threads=2)
    first = d.ask()
    assert d.entered.acquire(timeout=PATIENCE_S)
    second = d.ask()
    assert first.rejected.code == Code.CANCELLED
    assert d.entered.acquire(timeout=PATIENCE_S), 'the second runs while the first hangs'
    assert d.thread.busy_for_s > 0.0
    d.release.release()
    d.release.release()
    wait_for(lambda: second.is_done)


def test_idle_work_runs_alone_and_beside_a_query_and_each_owner_keeps_its_own(desks):
    d = desk(desks, 'queue', threads=3)
    done, release, entered = [], threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert release.wait(PATIENCE_S)
        done.append('first')
    d.thread.submit_idle('first', hang)
    assert entered.wait(PATIENCE_S)
    for owner in ('second', 'third', 'third'):
        d.thread.submit_idle(owner, lambda owner=owner: done.append(owner))
    job = d.ask()
    d.release.release()
    wait_for(lambda: job.is_done)
    assert done == []
    release.set()
    wait_for(lambda: done == ['first', 'second', 'third'])


def test_no_query_runs_where_the_matcher_was_not_loaded(desks):
    d = desk(desks, 'queue', threads=0)
    job = d.ask()
    assert not d.entered.acquire(timeout=0.05)
    d.thread.cancel_all('by the test')
    assert job.rejected.code == Code.CANCELLED


def test_queries_for_other_targets_wait_and_no_more_than_so_many(desks):
    d = desk(desks, 'preempt', is_same_target=lambda a, b: False)
    jobs = [d.ask() for _ in range(MAX_QUEUED)]
    assert not any(job.is_done for job in jobs)
    refused = d.ask().rejected
    assert refused.code == Code.BUSY
    assert 'limit 16' in refused.message
    assert not any(job.is_done for job in jobs)
