"""From pixels to a target: every way to the point, their agreement, and the refusals."""
from __future__ import annotations

import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, CorrectedPose, Match, Method, Rejected, Transform
from crosspoint_ros.core.lift import find_outliers, lift
from crosspoint_ros.core.verify import Limits

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TOP = np.array([0.02, 0.01, 0.12])
LIMITS, ANY_SIGMA = Limits(), Limits(max_target_sigma_m=1.0)
CLOSE = (-0.30, -0.72, 0.60)  # 3.5 deg from the left camera
BETWEEN = (0.0, -0.75, 0.60)  # 24 deg from it
PLACES = (raycast_scenes.LEFT, raycast_scenes.RIGHT, (0.0, -0.9, 0.9), (-0.4, 0.5, 0.8),
          (0.5, 0.4, 0.7))
EXACT = Limits(pose_sigma_m=0.001, pose_sigma_rad=0.001)


def views(*places, lens=raycast_scenes.PINHOLE):
    names = ('left', 'right', 'third', 'fourth', 'fifth')
    return [raycast_scenes.render_depth(name, raycast_scenes.look_at(at), (BOX,), lens)
            for name,
            at in zip(names, places or (raycast_scenes.LEFT, raycast_scenes.RIGHT), strict=False)]


def without_depth(*several):
    return [replace(view, depth_m=None) for view in several]


def lifted(clicked, *others, point_base_m=ON_TOP, limits=LIMITS, offset_px=(0.0, 0.0),
           confidence=0.9):
    found = [(view, Match(raycast_scenes.project_point(view, point_base_m) + offset_px, np.eye(2),
                          confidence))
             for view in others]
    return lift(clicked, raycast_scenes.project_point(clicked, point_base_m), found, limits)


def error_m(target, point_base_m=ON_TOP):
    return np.linalg.norm(target.base_from_target.t_m - point_base_m)


@pytest.mark.parametrize('lens', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
def test_depths_and_rays_that_agree_are_fused(lens):
    target = lifted(*views(lens=lens))
    assert target.method == Method.FUSED
    assert error_m(target) < 0.005
    assert 0 < target.gap_m < 0.01


def test_depth_in_the_clicked_view_alone_is_enough():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    target = lifted(left, *without_depth(near))
    assert target.method == Method.DEPTH_CLICKED
    assert error_m(target) < 0.004
    assert np.isnan(target.gap_m)


def test_depth_in_the_other_view_alone_is_enough():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    target = lifted(*without_depth(left), near)
    assert target.method == Method.DEPTH_FOUND
    assert error_m(target) < 0.004


def test_rays_alone_are_triangulated():
    target = lifted(*without_depth(*views()), limits=ANY_SIGMA)
    assert target.method == Method.TRIANGULATED
    assert error_m(target) < 1e-5


def test_rays_of_cameras_that_are_known_exactly_give_a_target_that_others_do_not():
    blind = without_depth(*views(raycast_scenes.LEFT, BETWEEN))
    with pytest.raises(Rejected, match=r'limits\.pose_sigma_m, limits\.pose_sigma_rad'):
        lifted(*blind)
    target = lifted(*blind, limits=Limits(pose_sigma_m=0.002, pose_sigma_rad=0.002))
    assert np.sqrt(np.linalg.eigvalsh(target.covariance[:3, :3])[-1]) < LIMITS.max_target_sigma_m


def test_rays_too_parallel_are_not_triangulated_and_the_refusal_says_so():
    left, near = without_depth(*views(raycast_scenes.LEFT, CLOSE))
    with pytest.raises(Rejected) as refused:
        lifted(left, near)
    assert refused.value.code == Code.NO_DEPTH
    assert 'rays meet at 3.' in refused.value.message
    assert 'min_ray_angle_deg 10' in refused.value.message
    assert 'left has no depth; right has no depth' in refused.value.message
    narrow = replace(ANY_SIGMA, min_ray_angle_deg=2)
    assert lifted(left, near, limits=narrow).method == Method.TRIANGULATED


def test_the_covariance_grows_as_the_rays_close():
    sigma_m = [np.sqrt(np.linalg.eigvalsh(lifted(*without_depth(*views(raycast_scenes.LEFT,
                                                                       (x, y, 0.6))),
                                                 limits=ANY_SIGMA).covariance[:3, :3]).max())
               for x, y in ((-0.15, -0.75), (0.0, -0.78), (0.35, -0.7))]
    assert sigma_m[0] > 1.5 * sigma_m[1] > 2 * sigma_m[2]


@pytest.mark.parametrize('depth', [True, False], ids=['depth', 'rays'])
def test_the_covariance_covers_poses_off_by_1_cm_and_1_deg(depth):
    left, right = views()
    distances = []
    for seed in range(60):
        shaken = replace(right, base_from_cam=raycast_scenes.add_pose_noise(
            right.base_from_cam.inverse, 1, 1, seed).inverse)
        found = [(shaken, Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2), 0.9))]
        clicked, found = (left, found) if depth else (
            replace(left, depth_m=None), [(replace(shaken, depth_m=None), found[0][1])])
        target = lift(clicked, raycast_scenes.project_point(left, ON_TOP), found, ANY_SIGMA)
        off_m = target.base_from_target.t_m - ON_TOP
        distances.append(off_m @ np.linalg.solve(target.covariance[:3, :3], off_m))
    assert np.quantile(distances, 0.95) < 11.3  # chi-squared, 3 degrees of freedom, 99 %
    assert np.median(distances) > 0.05  # nor is it so wide that it says nothing


def test_depth_and_triangulation_that_disagree_are_refused_with_the_gap():
    left, right = views()
    shallow = replace(left, depth_m=(left.depth_m - np.float32(0.2)))
    with pytest.raises(Rejected) as refused:
        lifted(shallow, *without_depth(right))
    assert refused.value.code == Code.INCONSISTENT
    assert 'the depth of left and the triangulation are 0.2' in refused.value.message
    assert 'limits.max_depth_gap_m 0.05' in refused.value.message
    assert lifted(shallow, *without_depth(right), limits=Limits(max_depth_gap_m=0.5)) is not None


def test_two_depths_that_disagree_are_refused():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    deep = replace(near, depth_m=near.depth_m + np.float32(0.07))
    with pytest.raises(Rejected) as refused:
        lifted(left, deep)
    assert refused.value.code == Code.INCONSISTENT
    assert 'the depth of left and the depth of right are 0.07' in refused.value.message


def test_a_narrow_triangulation_is_no_witness_against_depth():
    left, right = views(raycast_scenes.LEFT, (-0.15, -0.75, 0.6))
    off = replace(left, depth_m=(left.depth_m - np.float32(0.06)))
    assert lifted(off, *without_depth(right)).method == Method.DEPTH_CLICKED


def test_three_rays_that_do_not_meet_are_refused():
    left, right, third = without_depth(*views(raycast_scenes.LEFT, raycast_scenes.RIGHT,
                                              (0.0, -0.9, 0.9)))
    aside = raycast_scenes.project_point(third, ON_TOP) + np.array([0.0, 90.0])
    found = [(right, Match(raycast_scenes.project_point(right, ON_TOP), confidence=0.9)),
             (third, Match(aside, confidence=0.9))]
    with pytest.raises(Rejected, match=r'misses the others by .* px') as refused:
        lift(left, raycast_scenes.project_point(left, ON_TOP), found, LIMITS)
    assert refused.value.code == Code.INCONSISTENT


@pytest.mark.parametrize('depth', [True, False], ids=['depth', 'no depth'])
def test_two_cameras_at_the_same_place_have_no_target(depth):
    left, right = views()
    twin = replace(right, base_from_cam=left.base_from_cam, depth_m=left.depth_m)
    both = (left, twin) if depth else without_depth(left, twin)
    with pytest.raises(Rejected, match=r'left and right are 0\.0000 m apart .*TF') as refused:
        lifted(*both)
    assert refused.value.code == Code.NO_DEPTH


def test_without_the_clicked_pose_there_is_no_target():
    left, right = views()
    found = [(right, Match(raycast_scenes.project_point(right, ON_TOP), confidence=0.9))]
    with pytest.raises(Rejected,
                       match='no 3D: the pose of left at the stamp') as refused:
        lift(replace(left, base_from_cam=None), raycast_scenes.project_point(left, ON_TOP), found,
             LIMITS)
    assert refused.value.code == Code.NO_DEPTH


def test_a_found_view_without_a_pose_takes_no_part():
    left, right, third = views(raycast_scenes.LEFT, raycast_scenes.RIGHT, (0.0, -0.9, 0.9))
    blind = replace(third, base_from_cam=None)
    found = [(blind, Match(np.array([5.0, 5.0]), confidence=0.7)),
             (right, Match(raycast_scenes.project_point(right, ON_TOP), confidence=0.9))]
    target = lift(left, raycast_scenes.project_point(left, ON_TOP), found, LIMITS)
    assert error_m(target) < 0.004
    alone = lift(left, raycast_scenes.project_point(left, ON_TOP), found[:1], LIMITS)
    assert alone.method == Method.DEPTH_CLICKED


def test_neither_depth_nor_poses_is_said_of_each_view():
    left, right = without_depth(*views())
    found = [(replace(right, base_from_cam=None), Match(np.array([5.0, 5.0]), confidence=0.9))]
    with pytest.raises(Rejected) as refused:
        lift(left, raycast_scenes.project_point(left, ON_TOP), found, LIMITS)
    assert refused.value.message == (
        'no 3D: left has no depth; no other view has a known pose and intrinsics')


def test_at_an_edge_the_found_depth_is_that_of_the_clicked_surface():
    left, right = views()
    depth_m = right.depth_m.copy()
    depth_m[:, :int(raycast_scenes.project_point(right, ON_TOP)[0])] -= 0.3
    target = lifted(left, replace(right, depth_m=depth_m))
    assert target.method == Method.FUSED
    assert error_m(target) < 0.005


def test_z_points_into_the_surface_and_x_is_that_of_the_clicked_image():
    left, right = views()
    target = lifted(left, right)
    x, _, z = target.base_from_target.R.T
    assert np.degrees(np.arccos(-z[2])) < 2
    assert x @ left.base_from_cam.R[:, 0] > 0.9
    turn = target.base_from_target.R.T @ target.covariance[3:, 3:] @ target.base_from_target.R
    np.testing.assert_allclose(turn, np.diag(np.diag(turn)), atol=1e-9)
    assert np.sqrt(np.diag(turn)) == pytest.approx([0.03, 0.03, np.pi / np.sqrt(3)], abs=0.005)


def test_where_the_surface_faces_along_the_images_x_its_y_takes_over():
    _, right = views()
    wall = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.3))
    beside = raycast_scenes.render_depth('left', raycast_scenes.look_at((-0.2, -1.0, 0.15),
                                                                        (-0.1, 0.0, 0.15)), (wall,))
    target = lifted(beside, right, point_base_m=np.array([-0.1, -0.05, 0.15]),
                    limits=Limits(max_depth_gap_m=5, max_epipolar_px=500))
    x, _, z = target.base_from_target.R.T
    image_x, image_y, _ = beside.base_from_cam.R.T
    assert z @ image_x > 0.99
    assert x @ image_y > 0.99


def test_the_normal_comes_from_the_other_views_depth_if_need_be():
    left, right = views()
    target = lifted(*without_depth(left), right)
    assert np.degrees(np.arccos(-target.base_from_target.R[2, 2])) < 2


def test_without_depth_the_approach_is_the_clicked_ray_and_admits_a_radian():
    left, right = without_depth(*views())
    target = lifted(left, right, limits=ANY_SIGMA)
    ray = (ON_TOP - raycast_scenes.LEFT) / np.linalg.norm(ON_TOP - raycast_scenes.LEFT)
    np.testing.assert_allclose(target.base_from_target.R[:, 2], ray, atol=1e-6)
    assert np.sqrt(np.linalg.eigvalsh(target.covariance[3:, 3:])) == pytest.approx(
        [1, 1, np.pi / np.sqrt(3)])


def test_a_match_of_unknown_covariance_still_lifts():
    left, right = without_depth(*views())
    found = [(right, Match(raycast_scenes.project_point(right, ON_TOP), confidence=0.9))]
    target = lift(left, raycast_scenes.project_point(left, ON_TOP), found, ANY_SIGMA)
    assert np.isfinite(target.covariance).all()


@pytest.mark.parametrize(('confidences', 'expected'), [
    ((0.6,), 0.6), ((0.6, 0.85), 8.5 / 9.5), ((0.85, 0.5), 0.85), ((0.95, 0.95, 0.95), 0.98)])
def test_the_odds_of_matches_that_agree_multiply_up_to_a_bound(confidences, expected):
    left, *others = views(*PLACES[:1 + len(confidences)])
    found = [(view, Match(raycast_scenes.project_point(view, ON_TOP), np.eye(2), confidence))
             for view, confidence in zip(others, confidences, strict=True)]
    target = lift(left, raycast_scenes.project_point(left, ON_TOP), found, LIMITS)
    assert target.confidence == pytest.approx(expected)


def test_views_whose_rays_hardly_cross_do_not_confirm_each_other():
    left, near, nearer = without_depth(*views(raycast_scenes.LEFT, CLOSE, (-0.32, -0.71, 0.6)))
    left = replace(left, depth_m=views()[0].depth_m)
    assert lifted(left, near, nearer, confidence=0.7).confidence == 0.7


def test_agreement_does_not_outweigh_a_doubt():
    left, right, third = views(*PLACES[:3])
    target = lifted(left, replace(right, depth_m=right.depth_m + np.float32(0.03)), third)
    assert 'apart' in target.doubt
    assert target.confidence < LIMITS.sure_confidence


def test_a_third_view_makes_the_target_surer():
    left, right, third = without_depth(*views(*PLACES[:2], PLACES[3]))
    two, three = lifted(left, right), lifted(left, right, third)
    assert np.trace(three.covariance[:3, :3]) < 0.8 * np.trace(two.covariance[:3, :3])


def test_the_pose_of_the_clicked_camera_itself_is_taken_as_given():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    loose = Limits(pose_sigma_m=0.1, pose_sigma_rad=0.1)
    covariances = [lifted(left, *without_depth(near), limits=one).covariance
                   for one in (LIMITS, loose)]
    np.testing.assert_array_equal(*covariances)


def corrected(view, clicked, sigma):
    """The exact relative pose of two views, of the sigma in rad and m."""
    return CorrectedPose(view.base_from_cam.inverse @ clicked.base_from_cam, np.eye(6) * sigma ** 2)


def test_a_pose_corrected_by_the_images_places_the_other_view():
    left, right = without_depth(*views())
    off = replace(right, base_from_cam=raycast_scenes.add_pose_noise(
        right.base_from_cam.inverse, 2, 2, 0).inverse)
    matches = [Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2), 0.9,
                     corrected_pose=pose) for pose in (None, corrected(right, left, 0.002))]
    given, better = (lift(left, raycast_scenes.project_point(left, ON_TOP), [(off, match)],
                          ANY_SIGMA) for match in matches)
    assert error_m(better) < 1e-6 < 0.005 < error_m(given)
    assert np.trace(better.covariance[:3, :3]) < 0.2 * np.trace(given.covariance[:3, :3])


def test_a_pose_that_had_to_be_corrected_by_more_than_2_cm_is_to_be_checked():
    left, right = views()
    for off_cm, doubt in ((1.0, ''), (3.0, r'by TF .* are 0\.0[23]\d m apart \(limit 0\.02 m\), '
                                      r'by the images 0\.00\d m: the pose of one camera is off')):
        off = replace(right, base_from_cam=raycast_scenes.add_pose_noise(
            right.base_from_cam, off_cm, 0, 0))
        match = Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2), 0.9, '',
                      corrected(right, left, 0.002))
        target = lift(left, raycast_scenes.project_point(left, ON_TOP), [(off, match)], LIMITS)
        assert re.fullmatch(doubt, target.doubt)
        assert (target.confidence < LIMITS.sure_confidence) == bool(doubt)
        assert error_m(target) < 0.004


def test_a_corrected_pose_that_is_known_less_than_the_declared_one_takes_no_part():
    left, right = without_depth(*views())
    vague = CorrectedPose(Transform(np.eye(3), np.zeros(3)), np.eye(6) * 0.05 ** 2)
    match = Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2), 0.9, '', vague)
    target = lift(left, raycast_scenes.project_point(left, ON_TOP), [(right, match)], LIMITS)
    assert error_m(target) < 1e-6


def test_the_covariance_is_the_scatter_of_targets_under_the_noise_of_the_pose():
    left, right = without_depth(*views())
    other_from_clicked = right.base_from_cam.inverse @ left.base_from_cam
    spread = np.diag([2e-3, 3e-3, 2e-3, 2e-3, 1e-3, 3e-3])
    points, rng = [], np.random.default_rng(0)
    for step in rng.normal(size=(300, 6)) @ spread:
        turn = cv2.Rodrigues(step[:3])[0]
        pose = CorrectedPose(Transform(turn, step[3:]) @ other_from_clicked, spread ** 2)
        found = [(right, Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2) * 1e-4, 0.9,
                               corrected_pose=pose))]
        clicked = raycast_scenes.project_point(left, ON_TOP) + rng.normal(size=2)
        target = lift(left, clicked, found, LIMITS)
        points.append(target.base_from_target.t_m)
    scatter, stated = np.cov(np.array(points).T), target.covariance[:3, :3]
    assert np.linalg.eigvalsh(scatter)[-1] == pytest.approx(np.linalg.eigvalsh(stated)[-1], rel=0.3)


def outliers(found_at, depth=(), limits=EXACT, confidence=0.9):
    """The cameras that are refused: each shows the point given for it, those of `depth` with depth.

    The first is clicked.
    """
    left, *others = views(*PLACES[:1 + len(found_at)])
    several = [view if view.camera in depth else replace(view, depth_m=None)
               for view in (left, *others)]
    found = [(view, Match(raycast_scenes.project_point(view, at), np.eye(2), confidence))
             for view, at in zip(several[1:], found_at, strict=True)]
    return find_outliers(several[0], raycast_scenes.project_point(left, ON_TOP), found, limits)


def on_ray(further_m):
    """A point on the ray of the click, further away: a look-alike that its epipolar line allows."""
    ray = (ON_TOP - raycast_scenes.LEFT) / np.linalg.norm(ON_TOP - raycast_scenes.LEFT)
    return ON_TOP + further_m * ray


WRONG, OTHER_WRONG = on_ray(-0.1), on_ray(0.12)


@pytest.mark.parametrize(('found_at', 'expected'), [
    ((ON_TOP, ON_TOP), []), ((ON_TOP, ON_TOP, ON_TOP, ON_TOP), []),
    ((ON_TOP, WRONG, ON_TOP), ['third']), ((WRONG, ON_TOP, ON_TOP, ON_TOP), ['right']),
    ((ON_TOP, WRONG, ON_TOP, OTHER_WRONG), ['third', 'fifth'])])
def test_the_views_that_the_others_outvote_are_refused_by_name(found_at, expected):
    refused = outliers(found_at)
    assert list(refused) == expected
    for camera, why in refused.items():
        assert why.code == Code.INCONSISTENT
        assert re.search(rf'the ray of {camera} puts the point 0\.1\d\d m from where .* put it '
                         r'\(limit 0\.0\d\d m\): a look-alike, or wrong poses', why.message)


def test_two_views_wrong_in_the_same_way_are_outvoted_by_three():
    assert list(outliers((ON_TOP, WRONG, ON_TOP, WRONG), depth=('left',))) == ['third', 'fifth']


@pytest.mark.parametrize('found_at', [(ON_TOP, WRONG), (ON_TOP, WRONG, ON_TOP, WRONG),
                                      (WRONG, ON_TOP, OTHER_WRONG)])
def test_without_a_majority_there_is_no_target(found_at):
    with pytest.raises(Rejected, match=r'0\.\d+ m from .*; no further view decides which is right'
                       ) as refused:
        outliers(found_at)
    assert refused.value.code == Code.INCONSISTENT


def test_the_depth_of_the_click_decides_between_two_views():
    assert list(outliers((ON_TOP, WRONG), depth=('left',))) == ['third']


def test_views_that_outvote_the_depth_of_the_click_leave_no_target():
    with pytest.raises(Rejected, match='the depth of left puts the point 0'):
        outliers((WRONG, WRONG, WRONG), depth=('left',))


def test_more_views_of_less_confidence_do_not_decide():
    left, *others = without_depth(*views(*PLACES[:4]))
    found = [(view, Match(raycast_scenes.project_point(view, at), np.eye(2), confidence))
             for view, at, confidence in zip(others, (ON_TOP, ON_TOP, WRONG), (0.4, 0.4, 0.9),
                                             strict=True)]
    with pytest.raises(Rejected, match='no further view decides'):
        find_outliers(left, raycast_scenes.project_point(left, ON_TOP), found, EXACT)


def test_a_ray_that_the_poses_make_vague_contradicts_nobody():
    assert outliers((ON_TOP, WRONG, ON_TOP), limits=Limits(pose_sigma_rad=0.1)) == {}


def test_without_depth_at_the_click_a_match_that_is_not_sure_gives_no_target():
    blind = without_depth(*views())
    with pytest.raises(Rejected, match=r'only if the match is right, and its confidence is 0\.70 '
                       r'\(limits\.sure_confidence 0\.8\)') as refused:
        lifted(*blind, confidence=0.7)
    assert refused.value.code == Code.NO_DEPTH
    assert lifted(*views(), confidence=0.7).confidence == 0.7
    third = replace(views(*PLACES[:3])[2], depth_m=None)
    assert lifted(*blind, third, confidence=0.7).confidence > LIMITS.sure_confidence


def test_without_depth_at_the_click_a_match_that_its_matcher_doubts_gives_no_target():
    for clicked, right, refused in ((*without_depth(*views()), True), (*views(), False)):
        match = Match(raycast_scenes.project_point(right, ON_TOP), np.eye(2), 0.9,
                      doubt='two surfaces')
        arguments = clicked, raycast_scenes.project_point(clicked, ON_TOP), [(right, match)], LIMITS
        if refused:
            with pytest.raises(Rejected, match=r'its confidence is 0\.79, two surfaces \(limits'):
                lift(*arguments)
        else:
            assert lift(*arguments).confidence < LIMITS.sure_confidence


def test_a_target_known_less_exactly_than_the_limit_is_refused_with_both_numbers():
    left, right = without_depth(*views(raycast_scenes.LEFT, BETWEEN))
    with pytest.raises(Rejected, match=r'known to ±3\d mm only \(limit 20 mm, '
                       r'limits\.max_target_sigma_m\): a wider baseline or depth') as refused:
        lifted(left, right)
    assert refused.value.code == Code.NO_DEPTH


def test_depths_are_fused_within_three_sigmas_of_their_noise_else_the_clicked_one_leads():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    same, other = (lifted(left, replace(near, depth_m=near.depth_m + np.float32(gap_m)))
                   for gap_m in (0.004, 0.035))
    assert same.method == Method.FUSED
    assert other.method == Method.DEPTH_CLICKED
    assert error_m(other) < 0.004
    assert 0.03 < other.gap_m < 0.04
    assert same.doubt == ''
    assert 'apart' in other.doubt


def test_a_gap_that_wrong_poses_do_not_explain_is_to_be_checked():
    limits = Limits(max_depth_gap_m=0.2)
    left, near = views(raycast_scenes.LEFT, CLOSE)
    target = lifted(left, replace(near, depth_m=near.depth_m + np.float32(0.08)), limits=limits)
    assert target.method == Method.DEPTH_CLICKED
    assert 'are 0.08' in target.doubt
    assert target.confidence < limits.sure_confidence


def test_a_gap_of_more_than_2_cm_is_to_be_checked_though_wrong_poses_explain_it():
    left, near = views(raycast_scenes.LEFT, CLOSE)
    target = lifted(left, replace(near, depth_m=near.depth_m + np.float32(0.03)))
    assert target.method == Method.DEPTH_CLICKED
    assert 'of depths at most 0.02' in target.doubt
    assert target.confidence < LIMITS.sure_confidence


def test_without_depth_at_the_click_rays_that_contradict_a_depth_are_to_be_checked():
    left, right = views()
    target = lifted(*without_depth(left), replace(right, depth_m=right.depth_m - np.float32(0.03)))
    assert target.method == Method.DEPTH_FOUND
    assert 'the depth of right and the triangulation are 0.0' in target.doubt
    assert target.confidence < LIMITS.sure_confidence


def test_a_depth_on_a_rim_is_not_fused_while_another_leads():
    left, right = views()
    jump = right.depth_m.copy()
    jump[:, int(raycast_scenes.project_point(right, ON_TOP)[0]) + 2:] += 0.3
    target = lifted(left, replace(right, depth_m=jump))
    assert target.confidence < LIMITS.sure_confidence
    third = views(raycast_scenes.LEFT, raycast_scenes.RIGHT, (0.0, -0.9, 0.9))[2]
    assert lifted(left, replace(right, depth_m=jump), third).confidence == 0.9
