"""The scene benchmark counts hits, misses, refusals and answers for hidden points apart."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from crosspoint_ros.bench.pairs.known_scene import LabelledPoint, FrameKey, Projection
from crosspoint_ros.bench.scene import Outcome, is_failure, judge, score, table
from crosspoint_ros.core.datatypes import Code, GraspTarget, Match, Method, Rejected, Transform
from crosspoint_ros.core.pipeline import ViewCorrespondence, LocateResult
from crosspoint_ros.core.verify import Consistency, Limits

MOMENT = FrameKey('wrist', 1)
HIDDEN = FrameKey('wrist', 2)
HANDLE = LabelledPoint(
    name='handle', clicked=FrameKey('front', 0), pixel=np.array([5.0, 5.0]),
    projections={MOMENT: Projection(np.array([100.0, 100.0]), True), HIDDEN: Projection(np.array([1.0, 1.0]), False)},
    point_base_m=np.array([0.1, 0.2, 0.3]))


def located(pixel, confidence=0.9, rejected=None, target_m=None):
    target = None if target_m is None else GraspTarget(
        Transform(np.eye(3), np.array(target_m)), np.eye(6), Method.DEPTH_CLICKED, np.nan, 0.9)
    match = Match(np.array(pixel, float), confidence=confidence)
    answer = ViewCorrespondence('wrist', None, match, Consistency(), rejected)
    return LocateResult(None, HANDLE.pixel, (answer,), target, None)


def judged(answer, moment=MOMENT):
    return judge(HANDLE, moment, 10.0, answer, Limits(), True, 1.0)


def test_an_answer_is_measured_in_pixels_and_in_millimetres():
    outcome = judged(located((103.0, 104.0), target_m=(0.1, 0.2, 0.305)))
    assert outcome.error_px == pytest.approx(5.0)
    assert outcome.error_3d_mm == pytest.approx(5.0)
    assert outcome.accepted
    assert outcome.sure
    assert not is_failure(outcome)


def test_an_answer_below_the_sure_confidence_is_not_called_sure():
    assert not judged(located((100, 100), confidence=Limits().sure_confidence - 0.01)).sure


def test_a_refused_match_has_no_pixel_error_however_near_it_was():
    refused = judged(located((100, 100), rejected=Rejected(Code.LOW_CONFIDENCE, '0.1 below 0.5')))
    assert np.isnan(refused.error_px)
    assert refused.reason == '0.1 below 0.5'
    assert is_failure(refused)


def test_a_click_that_is_refused_as_a_whole_is_a_miss():
    outcome = judged(Rejected(Code.NOT_VISIBLE, 'on the robot'))
    assert not outcome.accepted
    assert is_failure(outcome)


def test_a_hidden_point_must_be_refused():
    assert is_failure(judged(located((1, 1)), HIDDEN))
    assert not is_failure(judged(located((1, 1), rejected=Rejected(Code.NOT_VISIBLE, 'x')), HIDDEN))


def outcomes(visible=True, **fields):
    base = Outcome('handle', 'wrist', 1, 10.0, visible, True, False, 0.7, (1.0, 1.0), 2.0,
                   np.nan, False, 10.0, 0, '')
    return dataclasses.replace(base, **fields)


def test_a_refused_visible_point_counts_as_a_miss():
    refused = outcomes(accepted=False, error_px=np.nan)
    assert score([outcomes(), refused, refused, outcomes(error_px=10.1)]).near_share == 0.25


def test_hidden_points_do_not_count_among_the_hits():
    hidden = outcomes(visible=False, error_px=0.1)
    result = score([outcomes(), hidden, outcomes(visible=False, accepted=False)])
    assert (result.visible, result.near_share) == (1, 1.0)
    assert (result.hidden, result.hidden_accepted_share) == (2, 0.5)


def test_a_sure_answer_for_a_hidden_point_is_held_against_the_sure_ones():
    assert score([outcomes(sure=True), outcomes(sure=True, visible=False)]).sure_near_share == 0.5


def test_first_clicks_and_further_ones_are_timed_apart():
    result = score([outcomes(ms=200.0, first_on_pair=True), outcomes(ms=4.0), outcomes(ms=6.0)])
    assert (result.first_ms_median, result.again_ms_median) == (200.0, 5.0)


def test_the_table_has_a_column_for_each_camera_and_no_ragged_row():
    lines = table({'wrist': score([outcomes()]), 'side': score([outcomes(visible=False)])})
    assert lines.splitlines()[0].split() == ['wrist', 'side']
    assert len({len(line) for line in lines.splitlines()}) == 1
