"""Claims about the matcher, on rendered scenes whose every correspondence is known."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from raycast_scenes import BARREL, RIGHT, add_pose_noise, look_at, project_point
from textured_scenes import BOX, images_only, render_view, without_depth

from crosspoint_ros.core.datatypes import (
    Code,
    Intrinsics,
    Match,
    Matcher,
    Query,
    Refiner,
    Rejected,
    SupportsPrefetch,
    Transform,
    View,
)
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.matchers.xfeat import XFeatMatcher
from crosspoint_ros.matchers.xfeat import matcher as matcher_module

pytestmark = pytest.mark.usefixtures('networks_once')
VISIBLE_BASE_M = ((-0.06, -0.05, 0.10), (0.02, -0.05, 0.05), (0.0, 0.02, 0.15), (0.02, -0.2, 0.0),
                  (-0.12, -0.2, 0.0))
# On the table behind the box, for the right camera only.
BEHIND_BASE_M = (-0.183, 0.30, 0.0)
WIDE = Intrinsics(640.0, 640.0, 423.5, 239.5, 848, 480)


@pytest.fixture(scope='module')
def matcher():
    return XFeatMatcher()


def off_by(view, cm, deg):
    return replace(view, base_from_cam=add_pose_noise(view.base_from_cam, cm, deg, 3))


def errors_px(matcher, clicked, other, expected):
    """Errors at the visible points, in px of the 640 px wide image."""
    width = other.intrinsics.width_px
    found = [(point, matcher.match(Query(clicked, other, project_point(expected[0], point))))
             for point in map(np.array, VISIBLE_BASE_M)]
    return np.array([np.linalg.norm(match.pixel - project_point(expected[1], point)) * 640 / width
                     for point, match in found])


def test_it_is_a_matcher_by_name_that_can_be_warmed():
    matcher = load_matcher('xfeat')
    assert isinstance(matcher, Matcher)
    assert isinstance(matcher, SupportsPrefetch)
    assert isinstance(matcher, Refiner)


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match='pose_noize_cm'):
        XFeatMatcher(pose_noize_cm=2.0)


def test_images_alone_find_the_point(matcher, left, right):
    errors = errors_px(matcher, images_only(left), images_only(right), (left, right))
    assert np.median(errors) < 5


def test_wrong_poses_within_their_noise_still_help(matcher, left, right):
    errors = errors_px(matcher, without_depth(left), off_by(without_depth(right), 1, 1),
                       (left, right))
    assert np.median(errors) < 5


@pytest.mark.parametrize('sides', ['both', 'clicked', 'other'])
def test_depth_on_any_side_finds_the_point_within_four_pixels(matcher, left, right, sides):
    clicked = without_depth(left) if sides == 'other' else left
    other = off_by(without_depth(right) if sides == 'clicked' else right, 1, 1)
    assert errors_px(matcher, clicked, other, (left, right)).max() < 4


@pytest.mark.parametrize('intrinsics', [BARREL, WIDE], ids=['barrel', '848x480'])
def test_cameras_may_differ_in_lens_and_size(matcher, left, intrinsics):
    right = render_view(f'right {intrinsics.width_px}', look_at(RIGHT), BOX, intrinsics)
    for clicked, other in ((images_only(left), images_only(right)),
                           (left, off_by(right, 1, 1))):
        assert np.median(errors_px(matcher, clicked, other, (left, right))) < 5
        assert np.median(errors_px(matcher, other, clicked, (right, left))) < 5


def test_a_visible_point_with_depth_on_both_sides_is_sure(matcher, left, right):
    match = matcher.match(Query(left, right, project_point(left, np.array(VISIBLE_BASE_M[0]))))
    assert match.confidence > 0.8
    assert 'matches with depth' in match.basis
    assert np.linalg.eigvalsh(match.covariance_px2).min() > 0


def test_a_point_behind_the_box_is_refused_with_how_far_the_box_is_before_it(matcher, left, right):
    words = r'something 0\.\d+ m in front .*max_depth_gap_m 0\.05'
    with pytest.raises(Rejected, match=words) as refused:
        matcher.match(Query(left, right, project_point(left, np.array(BEHIND_BASE_M))))
    assert refused.value.code == Code.NOT_VISIBLE


def test_a_point_outside_the_other_view_is_refused_with_where_it_would_be(matcher, left):
    away = render_view('away', look_at(RIGHT, (0.5, 0.3, 0.0)), BOX)
    point = np.array((-0.3, -0.1, 0.0))
    with pytest.raises(Rejected, match=r'outside the 320x240 image') as refused:
        matcher.match(Query(left, away, project_point(left, point)))
    assert refused.value.code == Code.NOT_VISIBLE


def test_a_point_under_the_robots_own_body_is_refused(matcher, left, right):
    masked = replace(right, mask=np.ones((240, 320), bool))
    with pytest.raises(Rejected, match="robot's own body"):
        matcher.match(Query(left, masked, project_point(left, np.array(VISIBLE_BASE_M[0]))))


def test_the_robots_own_body_is_never_the_answer(matcher, left, right):
    mask = np.zeros((240, 320), bool)
    expected = project_point(right, np.array(VISIBLE_BASE_M[0]))
    column, row = np.rint(expected).astype(int)
    mask[row - 30:row + 31, column - 30:column + 31] = True
    image = right.image.copy()
    image[mask] = 0
    masked = replace(images_only(right), image=image, mask=mask)
    match = matcher.match(Query(images_only(left), masked, project_point(left, VISIBLE_BASE_M[0])))
    assert not masked.is_masked(match.pixel)
    assert match.confidence < 0.5


def test_a_surface_that_is_gone_in_the_other_view_is_inconsistent(matcher, left):
    bare = render_view('bare', look_at(RIGHT), ())
    with pytest.raises(Rejected, match=r'behind the point of the clicked view') as refused:
        matcher.match(Query(left, bare, project_point(left, np.array((-0.02, 0.02, 0.15)))))
    assert refused.value.code == Code.INCONSISTENT


def test_poses_that_many_matches_contradict_are_refused_for_every_click(matcher, left, right):
    wrong = off_by(right, 5.0, 6.0)
    for point_base_m in VISIBLE_BASE_M:
        with pytest.raises(Rejected, match=r'left and right: .* deg .*3 deg.*calibration') as why:
            matcher.match(Query(left, wrong, project_point(left, np.array(point_base_m))))
        assert why.value.code == Code.INCONSISTENT


def test_views_of_different_scenes_are_never_sure(matcher, left):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (240, 320, 3)).astype(np.uint8)
    other = replace(images_only(left), camera='noise', image=noise)
    confidence = [matcher.match(Query(images_only(left), other, np.array([x, 120.0]))).confidence
                  for x in (60.0, 160.0, 260.0)]
    assert max(confidence) < 0.5


@pytest.mark.parametrize('turn_deg', [0, 8])
def test_two_views_from_one_place_still_match(matcher, left, turn_deg):
    turned = add_pose_noise(Transform(np.eye(3), np.zeros(3)), 0, turn_deg, 1)
    pose = Transform(turned.R @ left.base_from_cam.R, left.base_from_cam.t_m)
    other = render_view(f'turned {turn_deg}', pose, BOX)
    errors = errors_px(matcher, without_depth(left), without_depth(other), (left, other))
    assert np.median(errors) < 3


@pytest.mark.parametrize('nothing', [0.0, np.nan, np.inf])
def test_depth_that_knows_nothing_is_as_none(matcher, left, right, nothing):
    def empty(view):
        return replace(view, depth_m=np.full((240, 320), nothing, np.float32))

    pixel = project_point(left, np.array(VISIBLE_BASE_M[0]))
    match = matcher.match(Query(empty(left), empty(right), pixel))
    plain = matcher.match(Query(without_depth(left), without_depth(right), pixel))
    assert match.basis == plain.basis


@pytest.mark.parametrize('shade', [0, 128, 255])
def test_blank_images_give_no_confidence(matcher, left, shade):
    blank = replace(images_only(left), camera='blank',
                    image=np.full((240, 320, 3), shade, np.uint8))
    assert matcher.match(Query(images_only(left), blank, np.array([160.0, 120.0]))).confidence < 0.5
    assert matcher.match(Query(blank, images_only(left), np.array([160.0, 120.0]))).confidence < 0.5


def test_another_click_on_the_same_frames_computes_no_features_again(left, right):
    matcher, asked = XFeatMatcher(), []
    run = matcher._backbone
    matcher._backbone = lambda image: asked.append(image.shape) or run(image)
    for point in VISIBLE_BASE_M[:3]:
        matcher.match(Query(left, right, project_point(left, np.array(point))))
    assert len(asked) == 2


def test_warmed_frames_need_no_features_at_the_click(left, right):
    matcher, asked = XFeatMatcher(), []
    run = matcher._backbone
    matcher._backbone = lambda image: asked.append(image.shape) or run(image)
    matcher.warm((left, right))
    assert len(asked) == 2
    matcher.match(Query(left, right, project_point(left, np.array(VISIBLE_BASE_M[0]))))
    assert len(asked) == 2


def test_a_new_image_under_an_old_stamp_is_looked_at_again(matcher, left, right):
    pixel = project_point(left, np.array(VISIBLE_BASE_M[0]))
    before = matcher.match(Query(images_only(left), images_only(right), pixel))
    shifted = replace(images_only(right), image=np.roll(right.image, 40, axis=1))
    after = matcher.match(Query(images_only(left), shifted, pixel))
    assert after.pixel - before.pixel == pytest.approx([40, 0], abs=5)


def test_new_poses_of_the_same_frames_are_heeded(matcher, left, right):
    pixel = project_point(left, np.array(VISIBLE_BASE_M[0]))
    matcher.match(Query(left, right, pixel))
    turned = replace(right, base_from_cam=look_at(RIGHT, (3.0, 0.0, 0.0)))
    with pytest.raises(Rejected):
        matcher.match(Query(left, turned, pixel))


@pytest.mark.parametrize('option', ['consistent_neighbours', 'patch_consensus',
                                    'affine_prior', 'epipolar_band', 'refine_pose'])
def test_each_stage_can_be_switched_off_and_shows(matcher, left, right, option):
    other = off_by(without_depth(right), 1, 1)
    query = Query(without_depth(left), other, project_point(left, np.array(VISIBLE_BASE_M[0])))
    plain = XFeatMatcher(**{option: False}).match(query)
    assert (plain.pixel.tolist(), plain.confidence) != \
        (matcher.match(query).pixel.tolist(), matcher.match(query).confidence)


def test_matching_again_within_the_band_shows(matcher, left, right):
    query = Query(images_only(left), images_only(right),
                  project_point(left, np.array(VISIBLE_BASE_M[0])))
    plain = XFeatMatcher(guided=False).match(query)
    assert plain.basis != matcher.match(query).basis


@pytest.mark.parametrize('option', ['use_poses', 'use_depth', 'correct_pose'])
def test_what_is_known_can_be_kept_from_it(matcher, left, right, option):
    query = Query(left, off_by(right, 1, 1), project_point(left, np.array(VISIBLE_BASE_M[0])))
    assert XFeatMatcher(**{option: False}).match(query).basis != matcher.match(query).basis


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match='pose_noise_cm must not be negative, got -1'):
        XFeatMatcher(pose_noise_cm=-1)


def rough(pixel, sigma_px=8.0):
    return Match(np.asarray(pixel), np.eye(2) * sigma_px ** 2, 0.9)


@pytest.mark.parametrize('point', VISIBLE_BASE_M)
@pytest.mark.parametrize('prepare', [images_only, without_depth, lambda view: view],
                         ids=['images', 'poses', 'depth'])
def test_near_a_rough_find_the_exact_place_is_found(matcher, left, right, prepare, point):
    expected = project_point(right, np.array(point))
    query = Query(prepare(left), prepare(right), project_point(left, np.array(point)))
    found = matcher.refine(query, rough(expected + np.array((8.0, -6.0))))
    assert np.linalg.norm(found.pixel - expected) < 4


def test_near_another_place_it_finds_that_one_and_trusts_it_less(matcher, left, right):
    point = np.array(VISIBLE_BASE_M[0])
    query = Query(images_only(left), images_only(right), project_point(left, point))
    own, aside = matcher.match(query), project_point(right, point) + np.array((60.0, 20.0))
    found = matcher.refine(query, rough(aside))
    assert np.linalg.norm(found.pixel - aside) < 24
    assert found.confidence < own.confidence - 0.2


def test_the_spread_of_a_rough_find_decides_how_far_it_looks(matcher, left, right):
    point = np.array(VISIBLE_BASE_M[0])
    query = Query(images_only(left), images_only(right), project_point(left, point))
    aside = project_point(right, point) + np.array((40.0, 0.0))
    narrow, wide = (matcher.refine(query, rough(aside, s)).pixel for s in (6.0, 200.0))
    assert np.linalg.norm(narrow - aside) < 18
    assert np.linalg.norm(wide - project_point(right, point)) < 4


def test_a_rough_find_that_says_the_same_changes_no_confidence(matcher, left, right):
    query = Query(images_only(left), images_only(right), project_point(left, VISIBLE_BASE_M[0]))
    own = matcher.match(query)
    assert matcher.refine(query, rough(own.pixel)).confidence == pytest.approx(own.confidence,
                                                                               abs=0.02)


def test_depth_that_puts_the_point_elsewhere_refuses_a_rough_find(matcher, left, right):
    point = np.array(VISIBLE_BASE_M[0])
    query = Query(left, right, project_point(left, point))
    words = r'the point is at \(\d+, \d+\), \d+\.\d sigma from the coarse match at \(.*limit 3'
    with pytest.raises(Rejected, match=words) as refused:
        matcher.refine(query, rough(project_point(right, point) + np.array((50.0, 0.0))))
    assert refused.value.code == Code.INCONSISTENT


def test_what_depth_hides_stays_hidden_near_a_rough_find(matcher, left, right):
    with pytest.raises(Rejected, match='in front') as refused:
        matcher.refine(Query(left, right, project_point(left, np.array(BEHIND_BASE_M))),
                       rough((150.0, 90.0)))
    assert refused.value.code == Code.NOT_VISIBLE


def test_a_rough_find_is_on_the_scale_of_its_own_image(matcher, left):
    right = render_view('right 848', look_at(RIGHT), BOX, WIDE)
    aside = project_point(right, np.array(VISIBLE_BASE_M[0])) + 60.0
    query = Query(images_only(left), images_only(right), project_point(left, VISIBLE_BASE_M[0]))
    assert np.linalg.norm(matcher.refine(query, rough(aside, 6.0)).pixel - aside) < 18


def test_near_needs_a_spread(matcher, left, right):
    with pytest.raises(ValueError, match='the coarse match has no finite covariance'):
        matcher.refine(Query(left, right, project_point(left, VISIBLE_BASE_M[0])),
                       Match(np.array([100.0, 100.0])))


@pytest.mark.parametrize(('width', 'height'), [(3000, 9), (9, 3000), (3000, 18)])
def test_an_image_too_thin_for_descriptors_is_refused_with_its_size_and_the_limit(
        matcher, left, width, height):
    intrinsics = Intrinsics(500.0, 500.0, width / 2, height / 2, width, height)
    thin = View('slit', np.full((height, width, 3), 90, np.uint8), intrinsics)
    for clicked, other in ((thin, left), (left, thin)):
        with pytest.raises(Rejected, match=rf'slit: {width}x{height} px.* more than 18.8 px') as no:
            matcher.match(Query(clicked, other, np.array([4.0, 4.0])))
        assert no.value.code == Code.BAD_REQUEST


def test_an_image_just_thick_enough_is_prepared(matcher, left):
    intrinsics = Intrinsics(500.0, 500.0, 1500.0, 10.0, 3000, 20)
    image = np.random.default_rng(0).integers(0, 255, (20, 3000, 3), np.uint8)
    matcher.warm((View('slit', image, intrinsics), left))


@pytest.mark.parametrize(('confidence', 'doubt', 'wide_deg', 'used'), [
    (0.9, '', 90, []), (0.5, '', 90, ['left', 'right']), (0.9, 'an edge', 90, ['left', 'right']),
    (0.9, '', 30, ['left', 'right'])])
def test_the_second_descriptor_is_used_where_one_is_not_sure_or_the_angle_is_wide(
        monkeypatch, left, right, confidence, doubt, wide_deg, used):
    matcher = XFeatMatcher(second_descriptor='auto')
    monkeypatch.setattr(matcher_module, 'predict_confidence', lambda found: confidence)
    monkeypatch.setattr(matcher_module, 'find_appearance_doubt', lambda found: doubt)
    monkeypatch.setattr(matcher_module, 'WIDE_ANGLE_DEG', wide_deg)
    pixel = project_point(left, VISIBLE_BASE_M[0])
    found = matcher.match(Query(without_depth(left), without_depth(right), pixel))
    assert found.pixel == pytest.approx(project_point(right, VISIBLE_BASE_M[0]), abs=8)
    assert sorted(frame.view.camera for frame in matcher._frames.values() if frame.second) == used


def test_the_second_descriptor_is_never_used_where_the_other_view_has_depth(left, right):
    matcher = XFeatMatcher(second_descriptor='always')
    matcher.match(Query(without_depth(left), right, project_point(left, VISIBLE_BASE_M[0])))
    assert all(frame.second is None for frame in matcher._frames.values())


def test_an_unknown_use_of_the_second_descriptor_is_refused():
    with pytest.raises(ValueError, match="auto, always, never, got 'maybe'"):
        XFeatMatcher(second_descriptor='maybe')
