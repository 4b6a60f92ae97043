"""From pixels to a target: every way to the point, their agreement, and the refusals."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, Match, Method, Rejected
from crosspoint_ros.core.lift import lift
from crosspoint_ros.core.verify import Limits

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TOP = np.array([0.02, 0.01, 0.12])
LIMITS, ANY_SIGMA = Limits(), Limits(max_target_sigma_m=1.0)
CLOSE = (-0.30, -0.72, 0.60)  # 3.5 deg from the left camera


def views(*places, lens=raycast_scenes.PINHOLE):
    names = ('left', 'right', 'third')
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
    blind = without_depth(*views())
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


def test_the_target_is_as_sure_as_the_surest_match():
    left, right, third = views(raycast_scenes.LEFT, raycast_scenes.RIGHT, (0.0, -0.9, 0.9))
    found = [(view, Match(raycast_scenes.project_point(view, ON_TOP), np.eye(2), confidence))
             for view, confidence in ((right, 0.6), (third, 0.85))]
    assert lift(left, raycast_scenes.project_point(left, ON_TOP), found, LIMITS).confidence == 0.85


def test_a_third_view_makes_the_target_surer():
    left, right, third = views(raycast_scenes.LEFT, raycast_scenes.RIGHT, (0.0, -0.9, 0.9))
    two, three = lifted(left, right), lifted(left, right, third)
    assert np.trace(three.covariance[:3, :3]) < 0.8 * np.trace(two.covariance[:3, :3])


def test_a_target_known_less_exactly_than_the_limit_is_refused_with_both_numbers():
    left, right = without_depth(*views())
    with pytest.raises(Rejected, match=r'give the point to 0\.02\d m only '
                       r'\(limits\.max_target_sigma_m 0\.02\)') as refused:
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
