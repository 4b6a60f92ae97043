"""Matches that geometry confirms, and those it must not let pass."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected
from crosspoint_ros.core.verify import (
    Check,
    Consistency,
    Limits,
    enforce_limits,
    measure_consistency,
    validate_match,
)

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TABLE = np.array([0.15, -0.15, 0.0])
BEHIND_BOX = np.array([0.0, 0.14, 0.0])
LIMITS = Limits()
lenses = pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(),
                                 ids=raycast_scenes.LENSES)


def query(point_base_m=ON_TABLE, intrinsics=raycast_scenes.PINHOLE, depth=True, boxes=(BOX,)):
    left, right = (raycast_scenes.render_depth(name, raycast_scenes.look_at(at), boxes, intrinsics)
                   for name, at in (('left', raycast_scenes.LEFT), ('right', raycast_scenes.RIGHT)))
    if not depth:
        left, right = replace(left, depth_m=None), replace(right, depth_m=None)
    return Query(left, right, raycast_scenes.project_point(left, point_base_m))


def match_at(asked, point_base_m=ON_TABLE, offset_px=(0.0, 0.0), confidence=0.9):
    return Match(raycast_scenes.project_point(asked.other, point_base_m) + offset_px,
                 confidence=confidence)


def refusal(asked, match, limits=LIMITS):
    with pytest.raises(Rejected) as refused:
        enforce_limits(asked, match, measure_consistency(asked, match, limits), limits)
    return refused.value


@lenses
@pytest.mark.parametrize('depth', [True, False], ids=['depth', 'no depth'])
def test_the_true_match_passes(intrinsics, depth):
    asked = query(intrinsics=intrinsics, depth=depth)
    match = match_at(asked)
    evidence = measure_consistency(asked, match, LIMITS)
    enforce_limits(asked, match, evidence, LIMITS)
    assert evidence.check == Check.PASS
    assert evidence.epipolar_error_px < 0.05
    assert evidence.depth_gap_m < 0.005 if depth else np.isnan(evidence.depth_gap_m)


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('depth', [True, False], ids=['depth', 'no depth'])
def test_poses_off_by_1_cm_and_1_deg_still_let_the_true_match_pass(seed, depth):
    asked = query(depth=depth)
    match = match_at(asked)
    pose = raycast_scenes.add_pose_noise(asked.other.base_from_cam.inverse, 1, 1, seed).inverse
    shaken = replace(asked, other=replace(asked.other, base_from_cam=pose))
    assert measure_consistency(shaken, match, LIMITS).check == Check.PASS


def test_a_match_off_the_epipolar_line_is_refused_with_error_and_limit():
    asked = query(depth=False)
    match = match_at(asked, offset_px=(-15.0, 30.0))
    assert measure_consistency(asked, match, LIMITS).check == Check.FAIL
    refused = refusal(asked, match)
    assert refused.code == Code.INCONSISTENT
    assert 'px off' in refused.message
    assert 'max_epipolar_px 20' in refused.message
    enforce_limits(asked, match, measure_consistency(asked, match, Limits(max_epipolar_px=60)),
           Limits(max_epipolar_px=60))


def test_depth_at_the_click_refuses_a_look_alike_along_the_line():
    asked = query(depth=False)
    look_alike = asked.clicked.base_from_cam.t_m + 1.3 * (
        ON_TABLE - asked.clicked.base_from_cam.t_m)
    match = match_at(asked, look_alike)
    assert measure_consistency(asked, match, LIMITS).check == Check.PASS
    with_depth = replace(asked, clicked=query().clicked)
    assert measure_consistency(with_depth, match, LIMITS).epipolar_error_px > 25
    assert refusal(with_depth, match).code == Code.INCONSISTENT


def test_an_answer_for_a_hidden_point_is_refused_by_the_depth_in_front_of_it():
    asked = query(BEHIND_BOX, boxes=(raycast_scenes.Box((0.0, 0.05, 0.0), (0.2, 0.1, 0.3)),))
    match = match_at(asked, BEHIND_BOX)
    evidence = measure_consistency(asked, match, LIMITS)
    assert evidence.epipolar_error_px < 0.1
    assert evidence.depth_gap_m > 0.1
    refused = refusal(asked, match)
    assert refused.code == Code.INCONSISTENT
    assert f'{evidence.depth_gap_m:.3f} m apart (limit {evidence.depth_gap_limit_m:.3f} m: ' \
           'limits.max_depth_gap_m 0.05, or 3 sigmas' in refused.message
    wide = Limits(max_depth_gap_m=1.0)
    enforce_limits(asked, match, measure_consistency(asked, match, wide), wide)


def test_a_right_match_beside_an_object_is_not_refused_for_what_hangs_in_front():
    asked = query()
    match = match_at(asked)
    depth_m = asked.other.depth_m.copy()
    depth_m[:, :int(match.pixel[0])] -= 0.3
    beside = replace(asked, other=replace(asked.other, depth_m=depth_m))
    evidence = measure_consistency(beside, match, LIMITS)
    assert (evidence.check, evidence.depth_gap_m < 0.01) == (Check.PASS, True)


@pytest.mark.parametrize(('confidence', 'passes'), [(0.5, True), (0.49, False)])
def test_confidence_is_held_against_its_limit(confidence, passes):
    asked = query()
    match = match_at(asked, confidence=confidence)
    if passes:
        assert enforce_limits(asked, match, measure_consistency(asked, match, LIMITS),
                              LIMITS) is None
    else:
        refused = refusal(asked, match)
        assert refused.code == Code.LOW_CONFIDENCE
        assert refused.message == 'confidence 0.49 in right (limits.min_confidence 0.5)'


@pytest.mark.parametrize(('pixel', 'confidence'), [
    ((np.nan, 3.0), 0.9), ((3.0, np.inf), 0.9), ((3.0, 3.0), np.nan), ((3.0, 3.0), 1.5),
    ((3.0, 3.0), -0.1)])
def test_a_matcher_that_answers_nonsense_has_failed(pixel, confidence):
    with pytest.raises(Rejected, match=f'with confidence {confidence}') as refused:
        validate_match(Match(np.array(pixel), confidence=confidence), query())
    assert refused.value.code == Code.MATCHER_FAILED


def test_a_point_outside_the_other_image_is_not_visible():
    refused = refusal(query(), Match(np.array([330.0, 20.0]), confidence=0.9))
    assert refused.code == Code.NOT_VISIBLE
    assert 'outside the 320x240 image of right' in refused.message


def test_a_point_on_the_robots_own_body_is_not_visible():
    asked = query()
    mask = np.zeros((240, 320), bool)
    x, y = match_at(asked).pixel.round().astype(int)
    mask[y, x] = True
    masked = replace(asked, other=replace(asked.other, mask=mask))
    assert refusal(masked, match_at(asked)).code == Code.NOT_VISIBLE


@pytest.mark.parametrize('side', ['clicked', 'other'])
def test_without_poses_nothing_is_confirmed_and_nothing_refused(side):
    asked = query()
    blind = replace(asked, **{side: replace(getattr(asked, side), base_from_cam=None)})
    evidence = measure_consistency(blind, match_at(asked), LIMITS)
    assert evidence.check == Check.UNKNOWN
    assert np.isnan([evidence.epipolar_error_px, evidence.depth_gap_m]).all()
    enforce_limits(blind, match_at(asked), evidence, LIMITS)


def test_two_cameras_at_the_same_place_have_no_epipolar_line():
    asked = query(depth=False)
    twin = replace(asked, other=replace(asked.other, base_from_cam=asked.clicked.base_from_cam))
    evidence = measure_consistency(twin, Match(np.array([10.0, 10.0]), confidence=0.9), LIMITS)
    assert (evidence.check, np.isnan(evidence.epipolar_error_px)) == (Check.UNKNOWN, True)


def test_a_view_that_looks_away_from_the_ray_cannot_have_found_it():
    asked = query(depth=False)
    away = raycast_scenes.look_at(raycast_scenes.RIGHT, (0.7, -5.0, 0.6))
    turned = replace(asked, other=replace(asked.other, base_from_cam=away))
    match = Match(np.array([160.0, 120.0]), confidence=0.9)
    assert measure_consistency(turned, match, LIMITS).check == Check.FAIL
    assert refusal(turned, match).code == Code.INCONSISTENT


def test_what_was_not_measured_refuses_nothing():
    assert Consistency().check == Check.UNKNOWN
    enforce_limits(query(), Match(np.zeros(2), confidence=0.9), Consistency(), LIMITS)


@pytest.mark.parametrize('broken', [
    {'confidence': None}, {'confidence': 'high'}, {'confidence': np.array([0.9, 0.9])},
    {'confidence': 0.9 + 0j}, {'pixel': np.array(['a', 'b'])}, {'pixel': [[1.0], [2.0, 3.0]]},
    {'covariance_px2': np.array([[1.0, 50.0], [0.0, 1.0]])}], ids=str)
def test_an_answer_that_is_no_numbers_fails_by_the_name_of_its_matcher(broken):
    match = replace(Match(np.array([50.0, 50.0]), np.eye(2), 0.9), **broken)
    with pytest.raises(Rejected, match='Query returned') as refused:
        validate_match(match, query())
    assert refused.value.code == Code.MATCHER_FAILED


def test_whole_and_single_precision_numbers_are_numbers():
    validate_match(Match(np.array([50, 60]), np.eye(2, dtype=np.float32), np.float32(0.9)), None)
    validate_match(Match(np.array([50, 60]), confidence=1), None)
