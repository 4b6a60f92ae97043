"""One frame, two senders: found, with how far apart; no false alarm for one sender."""
from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from tf_messages import message, ns

from crosspoint_ros.core.tf_tree import TfTree

TURN_2_DEG = (0.0, math.sin(math.radians(1)), 0.0, math.cos(math.radians(1)))
MILLIMETRE = 0.001


def send(tree, links, static=False):
    for link in links:
        tree.add(message(link), static)
    return tree


def moving(times_s, x_m, parent='base', child='camera'):
    return [(parent, child, at_s, x_m(at_s)) for at_s in times_s]


def merge(*senders):
    """The transforms of several senders as they arrive: by stamp."""
    return sorted((link for sender in senders for link in sender), key=lambda link: link[2])


def only_conflict(tree, at_s, frame='camera'):
    """The one conflict, for which a look-up of the frame is refused."""
    (conflict,) = tree.conflicts().values()
    assert tree.lookup('base', frame, ns(at_s)) is None
    text = tree.explain_conflict('base', frame, ns(at_s))
    assert text.startswith(str(conflict))
    assert 'limit 0.02, limits.max_target_sigma_m' in text
    assert 'stop one of the senders' in text
    return conflict


def assert_healthy(tree, at_s, frame='camera'):
    assert tree.conflicts() == {}
    assert tree.lookup('base', frame, ns(at_s)) is not None


def test_two_static_values_are_a_conflict_with_its_distance():
    tree = send(TfTree(), [('base', 'camera', 0, 1.0), ('base', 'camera', 0, 1.1)], static=True)
    conflict = only_conflict(tree, 5)
    assert conflict.gap_m == pytest.approx(0.1)
    assert conflict.topics == ('/tf_static', '/tf_static')
    assert '0.100 m and 0.0 deg apart' in str(conflict)
    tree.clear()  # time jumped: a sender that sent once does not send again
    only_conflict(tree, 5)


def test_an_old_static_value_that_comes_back_does_not_end_the_conflict():
    tree = send(TfTree(), [('base', 'camera', 0, x_m) for x_m in (1.0, 1.1, 1.0, 1.0)], static=True)
    only_conflict(tree, 5)


@pytest.mark.parametrize('offset_m', [0.0, 0.5 * MILLIMETRE])
def test_the_same_static_value_again_is_none(offset_m):
    links = [('base', 'camera', 0, 1.0), ('base', 'camera', 7, 1.0 + offset_m)]
    assert_healthy(send(TfTree(), links, static=True), 8)


def test_a_small_gap_is_found_and_only_a_large_one_refuses():
    tree = send(TfTree(), [('base', 'camera', 0, 1.0), ('base', 'camera', 0, 1.01)], static=True)
    assert tree.conflicts()['camera'].gap_m == pytest.approx(0.01)
    assert tree.lookup('base', 'camera', ns(1)) is not None
    tree.max_gap_m = 0.005
    assert tree.lookup('base', 'camera', ns(1)) is None


def test_a_turn_counts_by_how_far_it_moves_what_the_camera_sees():
    """2 deg are 35 mm at 1 m, 39 mm at the edge of the image, nothing at the frame's origin."""
    tree = send(TfTree(), [('base', 'camera', 0, 1.0), ('base', 'camera', 0, 1.0, TURN_2_DEG)],
                static=True)
    conflict = only_conflict(tree, 1)
    assert (conflict.gap_m, conflict.gap_deg) == pytest.approx((0, 2))
    assert 'by 0.039 m' in tree.explain_conflict('base', 'camera', ns(1))


@pytest.mark.parametrize(('placed', 'frame'), [('hand', 'camera'), ('base', 'camera')])
def test_answers_that_rest_on_the_frame_are_refused_and_only_they(placed, frame):
    tree = send(TfTree(), [('world', 'base', 0, 1.0), ('base', 'hand', 0, 1.0),
                           ('hand', 'camera', 0, 1.0), ('base', 'other', 0, 1.0)], static=True)
    parent = {'hand': 'base', 'base': 'world'}[placed]
    send(tree, [(parent, placed, 0, 2.0)], static=True)
    assert (tree.lookup('base', frame, ns(1)) is None) == (placed == 'hand')
    assert tree.lookup('world', frame, ns(1)) is None
    assert tree.lookup('base', 'other', ns(1)) is not None


def test_two_parents_contradict_each_other_by_what_lies_between_them():
    """The calibration hangs the camera from the base, the URDF from the hand."""
    tree = send(TfTree(), [('base', 'hand', 0, 1.0), ('hand', 'camera', 0, 0.5),
                           ('base', 'camera', 0, 1.6)], static=True)
    conflict = only_conflict(tree, 1)
    assert conflict.gap_m == pytest.approx(0.1)
    assert conflict.parents == ('hand', 'base')


def test_two_parents_that_agree_are_none():
    assert_healthy(send(TfTree(), [('base', 'hand', 0, 1.0), ('hand', 'camera', 0, 0.5),
                                   ('base', 'camera', 0, 1.5)], static=True), 1)


def test_parents_that_are_not_connected_are_a_conflict_of_unknown_size():
    tree = send(TfTree(), [('odom_frame', 'camera', 0, 0.5), ('base', 'camera', 0, 1.5)],
                static=True)
    conflict = only_conflict(tree, 1)
    assert math.isnan(conflict.gap_m)
    assert 'how far apart is unknown' in str(conflict)


@pytest.mark.parametrize('static_first', [True, False])
def test_one_frame_on_both_topics_is_a_conflict_where_they_differ(static_first):
    def send_all(x_m):
        tree, static = TfTree(), [('base', 'camera', 0, 1.0)]
        send(tree, static if static_first else [], static=True)
        send(tree, moving((1, 2, 3), lambda at_s: x_m))
        send(tree, [] if static_first else static, static=True)
        return send(tree, moving((4, 5), lambda at_s: x_m))

    assert only_conflict(send_all(1.1), 4.5).topics == ('/tf_static', '/tf')
    assert_healthy(send_all(1.0), 4.5)


# --- two senders on /tf

def arm(at_s):
    """An arm that swings by 0.3 m, at up to 0.95 m/s."""
    return 0.3 * math.sin(3.16 * at_s)


SENDERS = {
    'at rest, in turn': (lambda at_s: 1.0, 0.05, 0.05, 0.02),
    'at rest, of another rate': (lambda at_s: 1.0, 0.02, 0.5, 0.0031),
    'at rest, of nearly the same rate': (lambda at_s: 1.0, 0.033, 0.031, 0.001),
    'moving, in turn': (arm, 0.05, 0.05, 0.02),
    'moving, with the same stamps': (arm, 0.05, 0.05, 0.0),
    'moving, three to two': (arm, 0.02, 0.03, 0.001),
}


@pytest.mark.parametrize('name', SENDERS)
@pytest.mark.parametrize('gap_m', [0.1, 0.03])
def test_two_senders_that_alternate_are_a_conflict(name, gap_m):
    where, period_s, other_period_s, lag_s = SENDERS[name]
    tree = send(TfTree(), merge(
        moving(np.arange(0, 8, period_s), where),
        moving(np.arange(lag_s, 8, other_period_s), lambda at_s: where(at_s) + gap_m)))
    conflict = only_conflict(tree, 7.5)
    assert conflict.gap_m == pytest.approx(gap_m, abs=0.008)
    assert conflict.topics == ('/tf', '/tf')


@pytest.mark.parametrize('where', [lambda at_s: 1.0, arm], ids=['at rest', 'moving'])
@pytest.mark.parametrize('late_s', [0.02, 0.1, 0.2])
def test_a_second_sender_whose_transforms_arrive_late_is_a_conflict(where, late_s):
    times_s = np.arange(0, 4, 0.02)
    mine = moving(times_s, where)
    late = moving(times_s + 0.003, lambda at_s: where(at_s) + 0.1)
    arrival = sorted([*((link[2], link) for link in mine),
                      *((link[2] + late_s, link) for link in late)])
    assert only_conflict(send(TfTree(), [link for _, link in arrival]), 3.5).gap_m == (
        pytest.approx(0.1, abs=0.008))


@pytest.mark.parametrize('behind_s', [1.0, 5.0, 3600.0])
def test_a_second_sender_with_another_clock_is_a_conflict(behind_s):
    tree, mine = TfTree(), moving(np.arange(0, 4, 0.05), lambda at_s: 1.0)
    for link in mine:
        send(tree, [link, ('base', 'camera', link[2] - behind_s, 1.1)])
    assert only_conflict(tree, 3.5).gap_m == pytest.approx(0.1)


def test_two_senders_with_two_parents_are_a_conflict():
    tree = send(TfTree(), [('base', 'hand', 0, 1.0)], static=True)
    send(tree, merge(moving(np.arange(0, 4, 0.1), lambda at_s: 0.5, 'hand'),
                     moving(np.arange(0.05, 4, 0.1), lambda at_s: 1.6)))
    assert only_conflict(tree, 3.5).gap_m == pytest.approx(0.1)


def test_a_conflict_on_tf_ends_ten_seconds_after_one_sender_has():
    times_s = np.arange(0, 3, 0.05)
    tree = send(TfTree(), merge(moving(times_s, lambda at_s: 1.0),
                                moving(times_s + 0.02, lambda at_s: 1.1)))
    only_conflict(tree, 2.9)
    send(tree, moving(np.arange(3, 14, 0.05), lambda at_s: 1.0))
    assert_healthy(tree, 13.5)


def test_it_is_logged_once_a_frame(caplog):
    with caplog.at_level(logging.WARNING):
        tree = send(TfTree(), [('base', 'camera', 0, 1.0), ('base', 'camera', 0, 1.1)] * 5,
                    static=True)
        for _ in range(3):
            tree.lookup('base', 'camera', ns(1))
    assert [record.getMessage() for record in caplog.records] == [
        "'camera' is sent with two placements, 0.100 m and 0.0 deg apart: below 'base' on "
        "/tf_static, and below 'base' on /tf_static"]


def test_a_recording_is_judged_by_the_time_of_the_image():
    """Both senders ran for 3 s; 11 s later only one does."""
    times_s = np.arange(0, 3, 0.05)
    tree = send(TfTree(history_ns=None), merge(
        moving(np.arange(0, 20, 0.05), lambda at_s: 1.0),
        moving(times_s + 0.02, lambda at_s: 1.1)))
    assert tree.conflicts()['camera'].gap_m == pytest.approx(0.1)
    assert tree.lookup('base', 'camera', ns(2)) is None
    assert tree.lookup('base', 'camera', ns(15)) is not None


# --- one sender: no false alarm

RNG = np.random.default_rng(0)
ONE_SENDER = {
    'an arm that swings, at 10 Hz': [*moving(np.arange(0, 30, 0.1), arm)],
    'an arm that swings, at 100 Hz': [*moving(np.arange(0, 30, 0.01), arm)],
    'quick strokes with rests, at 10 Hz': moving(
        np.arange(0, 60, 0.1), lambda at_s: 0.4 * (1 - math.cos(5 * min(at_s % 3, 1.2566)))),
    'a shaking hand, 2 Hz at 10 Hz': moving(
        np.arange(0, 30, 0.1), lambda at_s: 0.03 * math.sin(2 * math.pi * 2 * at_s)),
    'stamps that jitter': moving(np.arange(0, 30, 0.02) + RNG.uniform(0, 0.019, 1500), arm),
    'a tracker with 1 cm of noise': moving(
        np.arange(0, 60, 0.033), lambda at_s: RNG.normal(0, 0.01)),
    'a tracker with outliers': moving(
        np.arange(0, 60, 0.1), lambda at_s: RNG.uniform(-1, 1) if RNG.random() < 0.1 else 0.0),
    'one outlier': [(*link[:3], 5.0 if i == 50 else 0.0) for i, link in enumerate(
        moving(np.arange(0, 20, 0.1), lambda at_s: 0.0))],
    'a correction of the localisation': moving(
        np.arange(0, 30, 0.1), lambda at_s: 0.1 * (at_s // 3)),
    'an encoder between two steps': moving(
        np.arange(0, 30, 0.1), lambda at_s: 0.0005 * (round(at_s * 10) % 2)),
}


@pytest.mark.parametrize('name', ONE_SENDER)
def test_one_sender_is_no_conflict(name):
    links = ONE_SENDER[name]
    assert_healthy(send(TfTree(), links), links[-2][2])
    assert TfTree.conflicts(send(TfTree(history_ns=None), links)) == {}


def test_what_a_relay_sends_again_later_is_no_conflict():
    links = moving(np.arange(0, 20, 0.02), arm)
    late = [*links[15:], *links[-15:]]
    assert_healthy(send(TfTree(), [each for pair in zip(late, links, strict=True)
                                   for each in pair]), 19.9)


def test_a_thing_that_is_grasped_and_put_down_is_no_conflict():
    """It hangs from the world, then from the hand, then from the world: one sender."""
    tree = send(TfTree(), [('base', 'hand', 0, 1.0)], static=True)
    for start in (0, 20, 40, 60, 80, 100):
        send(tree, moving(np.arange(start, start + 10, 0.1), lambda at_s: 3.0))
        send(tree, moving(np.arange(start + 10, start + 20, 0.1), lambda at_s: 0.1, 'hand'))
    assert_healthy(tree, 119.5)
