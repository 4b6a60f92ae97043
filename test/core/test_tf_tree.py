"""TF without ROS: parents that change, history, jumps in time, what cannot be used."""
from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from tf_messages import message, ns

from crosspoint_ros.core import tf_tree
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.tf_tree import (
    TfTree,
    TimeJumpDetector,
    explain_failure,
    find_root,
    nearest_stamp_index,
    stamp_to_ns,
)


def tree_of(*links, static=(), **options):
    tree = TfTree(**options)
    tree.add(message(*static), static=True)
    for link in links:
        tree.add(message(link))
    return tree


def x_m(tree, at_s, base='base', frame='camera'):
    found = tree.lookup(base, frame, ns(at_s))
    return None if found is None else pytest.approx(float(found.t_m[0]))


def test_a_frame_is_interpolated_and_never_extrapolated():
    tree = tree_of(('base', 'camera', 1, 1.0), ('base', 'camera', 3, 3.0))
    assert x_m(tree, 2.5) == 2.5
    assert x_m(tree, 3) == 3.0
    assert x_m(tree, 3.001) is None
    assert x_m(tree, 0.999) is None
    assert x_m(tree, 2.5, 'camera', 'base') == -2.5
    assert 'known only from' in explain_failure(tree.frames(), 'base', 'camera', ns(4))


def test_a_transform_that_came_late_belongs_between():
    tree = tree_of(('base', 'camera', 1, 1.0), ('base', 'camera', 3, 3.0),
                   ('base', 'camera', 2, 7.0))
    assert x_m(tree, 2.5) == 5.0


def test_a_new_parent_holds_from_its_stamp_on_and_the_old_one_until_then():
    tree = tree_of(('base', 'camera', 1, 1.0), ('hand', 'camera', 2, 2.0),
                   ('hand', 'camera', 3, 4.0), static=[('base', 'hand', 0, 10.0)])
    assert x_m(tree, 1.9) == 1.0
    assert x_m(tree, 2) == 12.0
    assert x_m(tree, 2.5) == 13.0


def test_a_live_tree_keeps_ten_seconds_and_a_recordings_everything():
    links = [('base', 'camera', at_s, float(at_s)) for at_s in range(0, 30, 5)]
    assert x_m(tree_of(*links), 2) is None
    assert x_m(tree_of(*links), 16) == 16.0
    assert x_m(tree_of(*links, history_ns=None), 2) == 2.0


def test_a_live_tree_starts_again_when_time_jumps_back_and_keeps_what_is_static():
    links = [('base', 'arm', 100, 1.0), ('base', 'arm', 101, 1.0), ('base', 'arm', 10, 5.0),
             ('base', 'arm', 10.1, 5.0)]
    static = [('arm', 'camera', 0, 2.0)]
    live, recorded = (tree_of(*links, static=static, **options)
                      for options in ({}, {'history_ns': None}))
    assert live.frames()['arm'].newest_ns == ns(10.1)
    assert x_m(live, 100.5) is None
    assert x_m(live, 10) == 7.0
    assert x_m(recorded, 100.5) == 3.0


def test_a_static_transform_holds_always():
    tree = tree_of(static=[('/base', '/camera', 5, 3.0), ('base', 'camera', 1, 3.0)])
    assert x_m(tree, 1e6) == 3.0
    assert tree.frames()['camera'].static


def test_a_frame_that_was_never_sent_is_unknown_even_to_itself():
    """As in tf2."""
    tree = tree_of(static=[('base', 'camera', 0, 3.0)])
    assert x_m(tree, 1, 'base', 'base') == x_m(tree, 1, 'camera', 'camera') == 0.0
    assert tree.lookup('elsewhere', 'elsewhere', ns(1)) is None
    assert "'elsewhere' is unknown; known: base, camera" in explain_failure(
        tree.frames(), 'elsewhere', 'elsewhere', ns(1))


# --- stamps

def test_one_wrong_stamp_is_dropped_and_clears_nothing():
    """In the past, in the future, and of a frame that is new."""
    tree = tree_of(('base', 'arm', 100, 1.0), ('arm', 'camera', 100, 1.0))
    for links in ([('base', 'arm', 50, 7.0)], [('base', 'arm', 1000, 7.0)],
                  [('base', 'arm', 40, 7.0), ('arm', 'camera', 40, 7.0)],
                  [('base', 'other', 1000, 7.0)]):
        tree.add(message(*links))
        tree.add(message(('base', 'arm', 101, 1.0), ('arm', 'camera', 101, 1.0)))
        assert x_m(tree, 100.5) == 2.0
        assert x_m(tree, 100.5, 'base', 'arm') == 1.0
        assert tree.frames()['arm'].newest_ns == ns(101)
    assert 'other' not in tree.frames()


def test_time_that_goes_on_after_a_pause_is_no_wrong_stamp():
    """Of a frame alone its second transform shows it; where others are there, its first."""
    tree = tree_of(*(('base', 'arm', at_s, at_s / 10) for at_s in (100, 160, 161)))
    assert x_m(tree, 160.5, 'base', 'arm') == 16.05
    tree.add(message(('arm', 'camera', 161, 1.0)))
    assert x_m(tree, 161) == 17.1


def test_the_first_transform_after_a_pause_counts_where_that_time_has_passed():
    """Held back until the next, a sender of one transform in five seconds would be late by one."""
    now_s = 0.0
    detector = TimeJumpDetector(lambda: now_s)
    for at_s, stamp_s, is_used in ((0.0, 100, True), (5.0, 105, True), (5.1, 115, False)):
        now_s = at_s
        jumped, used, dropped = detector.filter(message(('base', 'arm', stamp_s, 1.0)).transforms)
        assert (jumped, len(used), dropped) == (False, is_used, [])


def test_a_slow_sender_is_heard():
    tree = tree_of(*(('base', 'camera', at_s, 1.0) for at_s in (0, 3, 6, 9)), history_ns=10**11)
    assert x_m(tree, 5) == 1.0


def test_the_second_transform_of_the_new_time_clears_all_of_the_old_one():
    tree = tree_of(('base', 'arm', 109, 1.0), ('arm', 'camera', 109, 1.0),
                   ('base', 'arm', 100, 2.0))
    assert x_m(tree, 109) == 2.0
    tree.add(message(('base', 'arm', 100.1, 2.0)))
    assert set(tree.frames()) == {'arm'}
    assert x_m(tree, 100.05, 'base', 'arm') == 2.0
    tree.add(message(('arm', 'camera', 100.1, 1.0)))
    assert x_m(tree, 100.1) == 3.0


def test_frames_that_ended_long_ago_are_forgotten(monkeypatch):
    """Other crosspoint nodes have a new frame for each target: 40,000 in a day, 10 kB each."""
    tree = TfTree()
    for at_s in range(1, 1000):
        monkeypatch.setattr(tf_tree.time, 'monotonic', lambda at_s=at_s: float(at_s))
        tree.add(message(('base', 'camera', at_s, 1.0), ('base', f'target_{at_s}', at_s, 1.0)))
    assert len(tree.frames()) <= 602
    assert x_m(tree, 999) == 1.0
    assert 'known only from' in explain_failure(tree.frames(), 'base', 'target_500', ns(999))
    assert not tree.is_known('target_300')
    # While a simulation is paused, nothing ends.
    monkeypatch.setattr(tf_tree.time, 'monotonic', lambda: 9999.0)
    tree.add(message(('base', 'table', 0, 1.0)), static=True)
    assert x_m(tree, 999) == 1.0


def test_loops_roots_and_unknown_frames_are_named():
    tree = tree_of(static=[('a', 'b', 0, 1.0), ('b', 'a', 0, 1.0), ('world', 'base', 0, 1.0)])
    frames = tree.frames()
    assert tree.lookup('world', 'a', ns(1)) is None
    assert find_root(frames, 'base') == 'world'
    with pytest.raises(ValueError, match='loop: a -> b -> a'):
        find_root(frames, 'a')
    assert "'camera' is unknown; known: a, b, base, world" in explain_failure(
        frames, 'base', 'camera', ns(1))
    assert explain_failure({}, 'base', 'camera', ns(1)) == 'nothing has come on /tf or /tf_static'


def test_an_invalid_transform_is_ignored_and_logged_once_a_frame(caplog):
    with caplog.at_level(logging.WARNING):
        tree = tree_of(('base', 'camera', 1, 1.0, (0, 0, 0, 0.5)),
                       ('base', 'camera', 2, 1.0, (0, 0, 0, 0.5)), ('base', 'arm', 1, np.nan),
                       ('hand', 'hand', 1, 1.0), ('', 'nose', 1, 1.0))
    assert tree.frames() == {}
    assert [record.args[0] for record in caplog.records] == ['camera', 'arm', 'hand', 'nose']
    assert 'squared length 0.25' in caplog.text


def test_two_branches_meet_where_they_part():
    tree = tree_of(static=[('world', 'base', 0, 1.0), ('world', 'camera', 0, 5.0)])
    assert x_m(tree, 1) == 4.0
    assert isinstance(tree.lookup('camera', 'camera', ns(1)), Transform)


@pytest.mark.parametrize(('stamp', 'index'), [(0, 0), (14, 0), (15, 0), (16, 1), (20, 1), (99, 2)])
def test_the_nearest_stamp_is_found_the_earlier_of_two(stamp, index):
    assert nearest_stamp_index([10, 20, 30], stamp) == index


def test_no_stamp_has_no_nearest():
    with pytest.raises(ValueError, match='empty'):
        nearest_stamp_index([], 5)


def test_a_stamp_is_exact_in_nanoseconds():
    assert stamp_to_ns(SimpleNamespace(sec=1_760_000_000, nanosec=1)) == 1_760_000_000_000_000_001
