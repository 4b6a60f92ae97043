"""Texts of the node, and times, as the page gives them to people."""
from __future__ import annotations

import re

import numpy as np
import pytest
from crosspoint_ros.msg import TargetState

from crosspoint_ros.web.plain_text import format_time, make_plain
from crosspoint_ros.web.robot_clock import RobotClock
from crosspoint_ros.web.targets import target_to_json

FIRST, OTHER = '1f0c8a42-9be1-4c7e-8c1f-aa12bb34cc56', '77b2d1e0-1111-4222-8333-0123456789ab'


@pytest.mark.parametrize(('given', 'expected'), [
    (f'query {OTHER} is refused: too dark; the target of step 3 (query {FIRST}, accepted) is '
     'active', 'the click is refused: too dark; the target of click 3 is active'),
    (f'query {FIRST} is answered', 'click 3 is answered'),
    (f"undone: step 3 (target 'cup_2', query {FIRST}, accepted); no target 'cup_2' is active",
     "undone: click 3 (cup_2); no target 'cup_2' is active"),
    ("no room for 'cup': clear one, ~/clear_target", "no room for 'cup': clear one"),
    (f'cleared target {FIRST}', 'cleared click 3'),
    (f"query '{OTHER}' is not the current answer; that is step 3 (query {FIRST}, moved): check "
     'that one', 'the click is not the current answer; that is click 3: check that one'),
    ('12 px apart (limit 1234567890123)', '12 px apart (limit 1234567890123)')])
def test_clicks_have_numbers_instead_of_identifiers(given, expected):
    assert make_plain(given, {FIRST: 3}) == expected


@pytest.mark.parametrize('given', [
    'front has no image of stamp 1764453088.123456789 s; it keeps 9',
    'no transform at 1764453088.123456 s; it keeps 9', 'at 1764453088 s'])
def test_epoch_seconds_are_times_of_day(given):
    plain = make_plain(given, {})
    assert format_time(1764453088) in plain
    assert not re.search(r'\d{7}', plain)


def test_the_robots_clock_is_that_of_the_message_with_the_least_delay(monkeypatch):
    clock, now_ns = RobotClock(), 10**12
    monkeypatch.setattr('time.monotonic_ns', lambda: now_ns)
    assert clock.now_ns is None
    for delay_ms in (40, 5, 300):
        clock.add(now_ns + 10**15 - delay_ms * 10**6)
    assert clock.now_ns == now_ns + 10**15 - 5 * 10**6
    clock.add(now_ns)  # time jumped
    assert clock.now_ns == now_ns


def test_a_target_of_which_nothing_is_known_is_json():
    state = TargetState()
    state.pose.pose.position.x = np.nan
    state.pose.covariance = np.full(36, np.nan)
    target = target_to_json(state, None, None)
    assert (target['state'], target['position_m'], target['sigma_mm']) == ('NONE', None, None)
