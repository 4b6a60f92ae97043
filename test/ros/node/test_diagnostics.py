"""Diagnostics warn about TF only where a query would be refused, and not at once."""
from __future__ import annotations

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.ros.node.diagnostics import TransformWatch

SECOND_NS = 10**9


def explanations(lag_s: float, until_s: float, wait_tf_s: float = 0.5) -> list[str]:
    """Return what is explained each second; images come without delay, TF `lag_s` later."""
    watch, now_s, found = TransformWatch(wait_tf_s), 100.0, []

    def lookup(stamp_ns: int) -> None:
        if stamp_ns > (now_s - lag_s) * SECOND_NS:
            raise Rejected(Code.NO_TF, 'no transform')

    while now_s < 100.0 + until_s:
        found.append(watch.explain(round(now_s * SECOND_NS), lookup, now_s))
        now_s += 1.0
    return found


def test_tf_that_is_late_but_in_time_for_a_query_is_no_fault():
    assert not any(explanations(lag_s=0.4, until_s=10))


def test_tf_that_no_query_would_get_is_reported_after_two_seconds():
    found = explanations(lag_s=20.0, until_s=10)
    assert found[:3] == ['', '', '']
    assert found[4:] == ['no transform'] * 6


def test_a_gap_that_is_shorter_is_not_reported():
    watch, answers = TransformWatch(0.5), []

    def lookup(stamp_ns: int) -> None:
        if 3 * SECOND_NS <= stamp_ns < 4.5 * SECOND_NS:
            raise Rejected(Code.NO_TF, 'no transform')

    for tick in range(40):
        now_s = 0.25 * tick
        answers.append(watch.explain(round(now_s * SECOND_NS), lookup, now_s))
    assert not any(answers)
