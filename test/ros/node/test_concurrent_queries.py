"""Queries that run at the same time: none waits for another's matcher, none overtakes it."""
from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from crosspoint_ros.msg import QueryResult, Status, TargetState
from fake_matchers import ConcurrentMatcher
from target_listener import Pipeline, run_pipeline

from crosspoint_ros.core.datatypes import Intrinsics, View
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask

VIEW = View('front', np.zeros((4, 4, 3), np.uint8), Intrinsics(4.0, 4.0, 2.0, 2.0, 4, 4))
ANSWER = LocateResult(VIEW, np.zeros(2), (), None, None)
FIRST, SECOND = (150.0, 119.5), (165.0, 119.5)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Of the first click; closed."""
    gate = threading.Event()
    ConcurrentMatcher.gates = {round(FIRST[0]): gate}
    ConcurrentMatcher.entered = threading.Semaphore(0)
    yield gate
    gate.set()
    ConcurrentMatcher.gates = {}


def submit(pipeline: Pipeline, pixel: tuple[float, float], name: str = '') -> QueryTask:
    request = QueryRequest(camera='front', pixel=np.array(pixel), target_name=name)
    return pipeline.rig.run_in_executor(lambda: pipeline.rig.node._server.submit(request))


def find(pipeline: Pipeline, task: QueryTask) -> QueryResult | None:
    return next((r for r in pipeline.rig.results if r.query_id == task.query_id), None)


@pytest.fixture
def queue(gate: threading.Event) -> Iterator[Pipeline]:
    with run_pipeline(matcher='fake_matchers:ConcurrentMatcher', busy='queue') as pipeline:
        pipeline.rig.send_frames()
        yield pipeline


def test_a_click_for_another_target_is_answered_while_the_first_is_matched(queue, gate):
    first, second = submit(queue, FIRST, 'cup'), submit(queue, SECOND, 'box')
    assert queue.wait_for_result(second).has_target
    assert find(queue, first) is None
    gate.set()
    assert queue.wait_for_result(first).has_target


def test_an_answer_does_not_overtake_an_earlier_one_for_the_same_target(queue, gate):
    first, second = submit(queue, FIRST), submit(queue, SECOND)
    queue.rig.until(lambda: second.is_done)
    ticks = queue.rig.ticks
    queue.rig.until(lambda: queue.rig.ticks > ticks + 3)
    assert find(queue, second) is None, 'it waits for the first'
    gate.set()
    queue.wait_for_result(second)
    assert [r.query_id for r in queue.rig.results] == [first.query_id, second.query_id]
    queue.wait_for_history(current=second.query_id)


def test_a_refusal_waits_for_no_one(queue, gate):
    submit(queue, FIRST)
    refused = submit(queue, (900.0, 10.0))
    assert queue.wait_for_result(refused).status.code == Status.BAD_REQUEST
    gate.set()


def test_a_matcher_that_hangs_does_not_hold_the_click_that_preempts_it(gate):
    with run_pipeline(matcher='fake_matchers:ConcurrentMatcher', busy='preempt') as pipeline:
        pipeline.rig.send_frames()
        first = submit(pipeline, FIRST)
        assert ConcurrentMatcher.entered.acquire(timeout=5.0)
        second = submit(pipeline, SECOND)
        assert pipeline.wait_for_result(second).has_target
        assert find(pipeline, first).status.code == Status.CANCELLED


def test_a_click_for_one_target_does_not_end_the_query_for_another(gate):
    with run_pipeline(matcher='fake_matchers:ConcurrentMatcher', busy='preempt') as pipeline:
        pipeline.rig.send_frames()
        first = submit(pipeline, FIRST, 'cup')
        assert ConcurrentMatcher.entered.acquire(timeout=5.0)
        second = submit(pipeline, SECOND)
        assert pipeline.wait_for_result(second).has_target
        gate.set()
        assert pipeline.wait_for_result(first).has_target


def test_a_refused_click_that_clears_the_target_clears_that_of_an_earlier_click_too(gate):
    with run_pipeline(matcher='fake_matchers:ConcurrentMatcher', busy='queue',
                      on_refusal='clear') as pipeline:
        pipeline.rig.send_frames()
        first = submit(pipeline, FIRST)
        assert ConcurrentMatcher.entered.acquire(timeout=5.0)
        refused = submit(pipeline, (900.0, 10.0))
        pipeline.rig.until(lambda: refused.is_done)
        gate.set()
        assert pipeline.wait_for_result(refused).status.code == Status.BAD_REQUEST
        assert find(pipeline, first).has_target
        pipeline.rig.until(lambda: pipeline.states[-1].state == TargetState.CLEARED)


def test_an_answer_that_its_thread_has_yet_to_report_is_not_overtaken(queue, monkeypatch):
    server, published = queue.rig.node._server, []
    first, second = (QueryTask(QueryRequest(camera='front', pixel=np.array(pixel)),
                               lambda task: None) for pixel in (FIRST, SECOND))
    unpublished = dict.fromkeys((first, second))

    def publish(task: QueryTask) -> None:
        del unpublished[task]
        published.append(task)
    monkeypatch.setattr(server, '_publish_outcome', publish)
    monkeypatch.setattr(server, '_unpublished', unpublished)
    assert second.finish(ANSWER)
    server._finish_query(second)
    assert published == [], 'it waits for the first'
    assert first.finish(ANSWER)
    server._finish_query(second)
    assert published == [first, second]
