"""Epipolar segments, triangulation and pose correction on points whose place is known."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.geometry import (
    distance_to_segment_px,
    epipolar_segment,
    exceeds_prior,
    ray_angle_deg,
    ray_base,
    refine_pose_pnp,
    triangulate,
)

POINT_BASE_M = np.array([0.05, -0.02, 0.03])
lenses = pytest.mark.parametrize('lens', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)


def pair(lens=raycast_scenes.PINHOLE, other=raycast_scenes.RIGHT):
    return (raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT),
                                        intrinsics=lens),
            raycast_scenes.render_depth('right', raycast_scenes.look_at(other), intrinsics=lens))


def segment(clicked, other, pixel, *depths_m):
    return epipolar_segment(clicked.intrinsics, other.intrinsics,
                            other.base_from_cam.inverse @ clicked.base_from_cam, pixel, *depths_m)


def meet(views, points=(POINT_BASE_M,), sigma_px=1.0, offset_px=(0.0, 0.0)):
    pixels = [raycast_scenes.project_point(view, points[0]) for view in views]
    pixels[-1] = pixels[-1] + offset_px
    return triangulate(views, pixels, [np.eye(2) * sigma_px ** 2] * len(views))


@lenses
def test_the_true_point_lies_on_its_epipolar_segment_through_any_lens(lens):
    left, right = pair(lens)
    for point in (POINT_BASE_M, np.array([-0.2, 0.15, 0.0]), np.array([0.1, 0.3, 0.1])):
        line = segment(left, right, raycast_scenes.project_point(left, point))
        assert distance_to_segment_px(line, raycast_scenes.project_point(right, point)) < 0.02


@lenses
def test_a_point_off_the_segment_is_as_far_as_it_was_moved_across_it(lens):
    left, right = pair(lens)
    line = segment(left, right, raycast_scenes.project_point(left, POINT_BASE_M))
    found = raycast_scenes.project_point(right, POINT_BASE_M)
    along = line[np.linalg.norm(line - found, axis=1).argsort()[:2]]
    across = np.array([[0, -1], [1, 0]]) @ (along[1] - along[0])
    moved = found + 7 * across / np.linalg.norm(across)
    assert distance_to_segment_px(line, moved) == pytest.approx(7, abs=0.1)


def test_the_segment_ends_where_the_depths_end():
    left, right = pair()
    pixel = raycast_scenes.project_point(left, POINT_BASE_M)
    depth_m = left.base_from_cam.inverse.transform_points(POINT_BASE_M)[2]
    found = raycast_scenes.project_point(right, POINT_BASE_M)
    assert distance_to_segment_px(segment(left, right, pixel, depth_m - .1, depth_m + .1),
                                  found) < 0.02
    assert distance_to_segment_px(segment(left, right, pixel, depth_m + .1, depth_m + .2),
                                  found) > 10


def test_a_point_that_would_lie_behind_the_clicked_camera_is_off_the_segment():
    left, right = pair()
    behind = left.base_from_cam.transform_points(np.array([0.0, 0.0, -0.4]))
    ahead = right.base_from_cam.inverse.transform_points(behind)
    mirrored = right.intrinsics.project(ahead if ahead[2] > 0 else -ahead)
    pixel = (left.intrinsics.cx_px, left.intrinsics.cy_px)
    assert distance_to_segment_px(segment(left, right, pixel), mirrored) > 50


def test_a_camera_that_looks_away_shows_no_segment():
    left, right = pair()
    away = replace(right,
                   base_from_cam=raycast_scenes.look_at(raycast_scenes.RIGHT, (0.7, -5.0, 0.6)))
    line = segment(left, away, (160.0, 120.0), 0.5, 1.5)
    assert line.shape == (0, 2)
    assert distance_to_segment_px(line, (160.0, 120.0)) == np.inf


@lenses
def test_a_ray_of_the_base_passes_through_its_point(lens):
    left, _ = pair(lens)
    origin_m, direction = ray_base(left, raycast_scenes.project_point(left, POINT_BASE_M))
    assert np.linalg.norm(np.cross(direction, POINT_BASE_M - origin_m)) < 1e-5


def test_a_view_without_a_pose_has_no_ray():
    left, _ = pair()
    with pytest.raises(Rejected,
                       match='the pose of left at the stamp of its image is unknown') as refused:
        ray_base(replace(left, base_from_cam=None), (1.0, 2.0))
    assert refused.value.code == Code.NO_TF


@lenses
def test_two_true_rays_meet_in_their_point(lens):
    left, right = pair(lens)
    met = meet((left, right))
    np.testing.assert_allclose(met.point_base_m, POINT_BASE_M, atol=1e-5)
    assert met.gap_m < 1e-5
    assert met.angle_deg == pytest.approx(ray_angle_deg(
        POINT_BASE_M - raycast_scenes.LEFT, POINT_BASE_M - raycast_scenes.RIGHT), abs=0.01)


def test_rays_that_miss_each_other_tell_the_gap_in_metres_and_pixels():
    left, right = pair()
    met = meet((left, right), offset_px=(0.0, 10.0))
    assert met.errors_px == pytest.approx([5, 5], abs=1.0)
    range_m = np.linalg.norm(POINT_BASE_M - raycast_scenes.LEFT)
    assert met.gap_m == pytest.approx(5 / 300 * range_m, rel=0.2)


def test_a_surer_pixel_draws_the_point_to_its_ray():
    left, right = pair()
    pixels = [raycast_scenes.project_point(view, POINT_BASE_M) for view in (left, right)]
    pixels[1] = pixels[1] + (0.0, 10.0)
    met = triangulate((left, right), pixels, [np.eye(2) * 0.1, np.eye(2) * 100.0])
    assert met.errors_px[0] < 0.1
    assert met.errors_px[1] > 8


@pytest.mark.parametrize('other', [raycast_scenes.RIGHT, raycast_scenes.NEAR_LEFT],
                         ids=['wide', 'narrow'])
def test_the_covariance_is_the_scatter_of_triangulated_points(other):
    views, rng, sigma_px = pair(raycast_scenes.BARREL, other), np.random.default_rng(1), 0.5
    truth = [raycast_scenes.project_point(view, POINT_BASE_M) for view in views]
    points = [triangulate(views, [p + rng.normal(size=2) * sigma_px for p in truth],
                          [np.eye(2) * sigma_px ** 2] * 2).point_base_m for _ in range(400)]
    told = meet(views, sigma_px=sigma_px).covariance_m2
    ratio = np.linalg.eigvals(np.linalg.solve(told, np.cov(np.array(points).T))).real
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4


def test_a_third_ray_makes_the_point_surer_in_every_direction_but_its_own():
    left, right = pair()
    third = raycast_scenes.render_depth('third', raycast_scenes.look_at((0.0, -0.9, 0.9)))
    two, three = meet((left, right)), meet((left, right, third))
    np.testing.assert_allclose(three.point_base_m, POINT_BASE_M, atol=1e-5)
    own, *across = np.linalg.eigvalsh(two.covariance_m2 - three.covariance_m2)
    assert own == pytest.approx(0, abs=1e-12)
    assert min(across) > 1e-7


def test_rays_of_two_cameras_at_one_place_meet_nowhere():
    left, _ = pair()
    with pytest.raises(Rejected, match=r'0\.0000 m apart \(at least 0\.005 m\)') as refused:
        triangulate((left, left), [np.array([20.0, 100.0]), np.array([200.0, 100.0])],
                    [np.eye(2)] * 2)
    assert refused.value.code == Code.NO_DEPTH


def test_parallel_rays_meet_nowhere():
    left, _ = pair()
    aside = replace(left, camera='aside', base_from_cam=left.base_from_cam @ Transform(
        np.eye(3), np.array([0.1, 0.0, 0.0])))
    with pytest.raises(Rejected, match=r'parallel \(0\.000 deg') as refused:
        triangulate((left, aside), [np.array([160.0, 120.0])] * 2, [np.eye(2)] * 2)
    assert refused.value.code == Code.NO_DEPTH


def test_rays_that_meet_behind_a_camera_are_a_contradiction():
    left, _ = pair()
    aside = replace(left, camera='aside', base_from_cam=left.base_from_cam @ Transform(
        np.eye(3), np.array([0.2, 0.0, 0.0])))
    with pytest.raises(Rejected, match='behind left') as refused:
        triangulate((left, aside), [np.array([100.0, 120.0]), np.array([200.0, 120.0])],
                    [np.eye(2)] * 2)
    assert refused.value.code == Code.INCONSISTENT


def cloud(points=200, wrong=0.0, noise_px=1.0, lens=raycast_scenes.BARREL, seed=0):
    """Points of a, their pixels in b with noise and wrong ones, b_from_a, and which are right."""
    rng = np.random.default_rng(seed)
    b_from_a = raycast_scenes.add_pose_noise(Transform(np.eye(3), np.array([0.1, 0.05, 0.05])), 0,
                                             25, 7)
    points_a_m = rng.uniform((-0.2, -0.15, 0.5), (0.2, 0.15, 1.2), (4 * points, 3))
    pixels = lens.project(b_from_a.transform_points(points_a_m))
    inside = [lens.contains(p) for p in pixels]
    points_a_m, pixels = points_a_m[inside][:points], pixels[inside][:points]
    pixels = pixels + rng.normal(size=pixels.shape) * noise_px
    right = rng.random(len(pixels)) >= wrong
    pixels[~right] = rng.uniform((0, 0), (lens.width_px, lens.height_px), (np.sum(~right), 2))
    return points_a_m, pixels, b_from_a, right


def reprojection_px(b_from_a, truth, points_a_m, lens=raycast_scenes.BARREL):
    return np.linalg.norm(lens.project(b_from_a.transform_points(points_a_m))
                          - lens.project(truth.transform_points(points_a_m)), axis=1)


@lenses
@pytest.mark.parametrize('wrong', [0.0, 0.5])
def test_a_pose_that_is_off_by_the_noise_is_put_right(lens, wrong):
    points, pixels, truth, right = cloud(wrong=wrong, lens=lens)
    given = raycast_scenes.add_pose_noise(truth, 1, 1, 3)
    corrected, agree, _ = refine_pose_pnp(points, pixels, lens, given, 1.0, 1.0)
    before = np.median(reprojection_px(given, truth, points, lens))
    after = np.median(reprojection_px(corrected, truth, points, lens))
    assert after < 0.7 < 2 < before
    assert agree[right].mean() > 0.95
    assert agree[~right].mean() < 0.1 if wrong else True


def test_the_covariance_of_a_corrected_pose_covers_its_error_and_is_less_than_the_noise():
    squared, noise = [], np.repeat([np.radians(1), 0.01], 3) / np.sqrt(3)
    for seed in range(20):
        points, pixels, truth, _ = cloud(seed=seed)
        given = raycast_scenes.add_pose_noise(truth, 1, 1, seed)
        corrected, _, covariance = refine_pose_pnp(points, pixels, raycast_scenes.BARREL, given,
                                                   1.0, 1.0)
        left = truth @ corrected.inverse
        error = np.concatenate([cv2.Rodrigues(left.R)[0].ravel(), left.t_m])
        squared.append(error @ np.linalg.solve(covariance, error))
        assert (np.sqrt(np.diag(covariance)) < noise).all()
    assert np.mean(squared) < 6  # the stated sigma is that of errors that are alike


def test_a_right_pose_is_left_as_it_is():
    points, pixels, truth, _ = cloud(noise_px=0.0)
    corrected, agree, _ = refine_pose_pnp(points, pixels, raycast_scenes.BARREL, truth, 1.0, 1.0)
    assert agree.all()
    np.testing.assert_allclose(corrected.matrix, truth.matrix, atol=1e-6)


def test_few_noisy_points_do_not_drag_a_pose_beyond_its_noise():
    points, pixels, truth, _ = cloud(points=6, noise_px=3.0, seed=2)
    corrected, _, _ = refine_pose_pnp(points, pixels, raycast_scenes.BARREL, truth, 0.2, 0.2)
    change = corrected @ truth.inverse
    assert np.linalg.norm(change.t_m) < 0.004
    assert np.degrees(np.arccos((np.trace(change.R) - 1) / 2)) < 0.4


def test_a_correction_longer_than_the_noise_explains_is_refused_with_the_numbers():
    points, pixels, truth, _ = cloud()
    given = raycast_scenes.add_pose_noise(truth, 0.0, 5.0, 3)
    with pytest.raises(Rejected, match=r'off by .* cm and [45]\.\d deg .*3 cm, 3 deg') as refused:
        refine_pose_pnp(points, pixels, raycast_scenes.BARREL, given, 1.0, 1.0)
    assert refused.value.code == Code.INCONSISTENT


def test_points_that_agree_on_no_pose_are_refused():
    points, pixels, truth, _ = cloud(points=20, wrong=1.0)
    with pytest.raises(Rejected, match=r'of 20 points agree .*at least') as refused:
        refine_pose_pnp(points, pixels, raycast_scenes.BARREL, truth, 1.0, 1.0)
    assert refused.value.code == Code.LOW_CONFIDENCE


def test_fewer_points_than_a_pose_needs_are_refused():
    points, pixels, truth, _ = cloud(points=5)
    with pytest.raises(Rejected, match='5 of 5 points are usable'):
        refine_pose_pnp(points, pixels, raycast_scenes.BARREL, truth, 1.0, 1.0)


def test_noise_of_nothing_is_no_noise_to_correct():
    points, pixels, truth, _ = cloud()
    with pytest.raises(ValueError, match='positive'):
        refine_pose_pnp(points, pixels, raycast_scenes.BARREL, truth, 0.0, 1.0)


def test_a_correction_that_is_not_known_to_three_sigmas_exceeds_nothing():
    moved = Transform(np.eye(3), np.array([0.042, 0.0, 0.0]))
    assert 'off by 4.2 cm and 0.0 deg' in exceeds_prior(moved, 1.0, 1.0)
    for sigma_m, is_off in ((0.005, True), (0.025, False)):
        covariance = np.diag([1e-6] * 3 + [sigma_m ** 2, 1e-6, 1e-6])
        assert bool(exceeds_prior(moved, 1.0, 1.0, covariance)) == is_off
        across = np.diag([1e-6] * 4 + [sigma_m ** 2, 1e-6])
        assert exceeds_prior(moved, 1.0, 1.0, across), 'along another way'


def test_a_slide_that_is_not_known_does_not_hide_what_is_known():
    covariance = np.diag([1e-6] * 3 + [0.029 ** 2, 0.002 ** 2, 0.029 ** 2])
    turned = Transform(cv2.Rodrigues(np.array([0.06, 0.0, 0.03]))[0], np.zeros(3))
    for moved in ((0.02, 0.035, 0.0), (0.044, 0.043, 0.01)):
        assert exceeds_prior(Transform(np.eye(3), np.array(moved)), 1.0, 1.0, covariance)
    assert not exceeds_prior(Transform(np.eye(3), np.array([0.04, 0.02, 0.03])), 1.0, 1.0,
                             covariance)
    assert exceeds_prior(turned, 1.0, 1.0, np.diag([1e-4, 1e-4, 0.01, 1.0, 1.0, 1.0]))
