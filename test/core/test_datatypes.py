"""Lenses, motions and views: right to a fraction of a pixel, and refused when they are wrong."""
from __future__ import annotations

import re

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Intrinsics, Match, Query, Transform, View


def grid(intrinsics):
    columns, rows = np.meshgrid(np.arange(0, intrinsics.width_px, 13),
                                np.arange(0, intrinsics.height_px, 11))
    return np.stack([columns, rows], axis=-1).astype(float)


@pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
def test_a_ray_comes_back_to_its_pixel_at_any_depth(intrinsics):
    pixels = grid(intrinsics)
    for depth in (0.1, 5.0):
        projected = intrinsics.project(intrinsics.unproject(pixels) * depth)
        np.testing.assert_allclose(projected, pixels, atol=1e-3)


@pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
def test_rays_are_of_unit_length_and_one_pixel_gives_one_ray(intrinsics):
    assert intrinsics.unproject((10.0, 20.0)).shape == (3,)
    np.testing.assert_allclose(np.linalg.norm(intrinsics.unproject(grid(intrinsics)), axis=-1), 1.0)


def test_barrel_distortion_pulls_a_corner_inward():
    corner = np.array([0.4, 0.3, 1.0])
    plain, barrel = raycast_scenes.PINHOLE.project(corner), raycast_scenes.BARREL.project(corner)
    assert np.linalg.norm(barrel - (162, 118)) < np.linalg.norm(plain - (159.5, 119.5)) - 5


def test_a_fisheye_shows_what_a_pinhole_cannot():
    aside = np.array([np.sin(np.radians(75)), 0.0, np.cos(np.radians(75))])
    undistorted = Intrinsics(150.0, 150.0, 160.0, 120.0, 640, 240, (), 'equidistant')
    assert undistorted.project(aside)[0] == pytest.approx(160 + 150 * np.radians(75))


@pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
def test_a_point_behind_the_camera_has_no_pixel(intrinsics):
    points = np.array([[0.1, 0.1, -1.0], [0.0, 0.0, 1.0], [0.2, 0.0, 0.0]])
    assert np.isnan(intrinsics.project(points)).all(axis=1).tolist() == [True, False, True]


def test_a_point_outside_the_lens_does_not_fold_back_into_the_image():
    intrinsics = Intrinsics(300.0, 300.0, 160.0, 120.0, 320, 240, (-0.28, 0.0, 0.0, 0.0))
    outside = np.array([1.85, 0.0, 1.0])  # the polynomial alone would put it at x = 183
    assert np.isnan(intrinsics.project(outside)).all()
    assert np.isfinite(intrinsics.project([0.9, 0.0, 1.0])).all()


def test_a_pixel_that_no_ray_reaches_has_no_ray():
    intrinsics = Intrinsics(300.0, 300.0, 160.0, 120.0, 640, 240, (-0.28, 0.0, 0.0, 0.0))
    assert np.isnan(intrinsics.unproject((639.0, 120.0))).all()
    assert np.isfinite(intrinsics.unproject((200.0, 120.0))).all()


@pytest.mark.parametrize('distortion', [(), (0.01, 0.0, 0.0, 0.0)])
def test_a_pixel_of_a_fisheye_beyond_90_degrees_has_no_ray(distortion):
    intrinsics = Intrinsics(100.0, 100.0, 320.0, 240.0, 640, 480, distortion, 'equidistant')
    assert np.isnan(intrinsics.unproject((0.0, 240.0))).all()
    assert np.isfinite(intrinsics.unproject((180.0, 240.0))).all()


@pytest.mark.parametrize(('fields', 'words'), [
    ({'fx_px': 0.0}, 'focal length must be positive, got fx=0.0'),
    ({'fy_px': -1.0}, 'fy=-1.0'),
    ({'cx_px': np.nan}, 'finite'),
    ({'width_px': 0}, '0x240'),
    ({'model': 'fov'}, "'fov' is unknown; known: plumb_bob, rational_polynomial, equidistant"),
    ({'distortion': (0.1, 0.2)}, 'got 2'),
    ({'distortion': (0.1, np.inf, 0, 0, 0)}, 'finite'),
])
def test_a_lens_that_cannot_be_is_refused_with_the_value(fields, words):
    good = {'fx_px': 300.0, 'fy_px': 300.0, 'cx_px': 160.0, 'cy_px': 120.0, 'width_px': 320,
            'height_px': 240}
    with pytest.raises(ValueError, match=re.escape(words)):
        Intrinsics(**{**good, **fields})


def test_the_image_ends_half_a_pixel_beyond_its_outer_pixels():
    intrinsics = raycast_scenes.PINHOLE
    assert intrinsics.contains((-0.5, -0.5))
    assert intrinsics.contains((319.5, 239.5))
    assert not intrinsics.contains((319.6, 100.0))
    assert not intrinsics.contains((np.nan, 100.0))


def test_neighbouring_frames_cancel_like_fractions():
    base_from_hand, hand_from_cam = (
        raycast_scenes.look_at(at) for at in (raycast_scenes.LEFT, raycast_scenes.RIGHT))
    point_cam_m = np.array([0.1, -0.2, 0.7])
    one_by_one = base_from_hand.transform_points(hand_from_cam.transform_points(point_cam_m))
    np.testing.assert_allclose((base_from_hand @ hand_from_cam).transform_points(point_cam_m),
                               one_by_one)
    cam_from_base = (base_from_hand @ hand_from_cam).inverse
    np.testing.assert_allclose(cam_from_base.transform_points(one_by_one), point_cam_m)
    np.testing.assert_allclose((base_from_hand.matrix @ [*one_by_one, 1.0])[:3],
                               base_from_hand.transform_points(one_by_one))


def test_both_bracketings_of_a_chain_agree():
    a, b, c = (raycast_scenes.add_pose_noise(raycast_scenes.look_at(raycast_scenes.LEFT), 20, 30,
                                             seed) for seed in range(3))
    np.testing.assert_allclose(((a @ b) @ c).matrix, (a @ (b @ c)).matrix, atol=1e-12)


def test_a_matrix_makes_the_same_transform():
    pose = raycast_scenes.look_at(raycast_scenes.LEFT)
    np.testing.assert_array_equal(Transform.from_matrix(pose.matrix).matrix, pose.matrix)


@pytest.mark.parametrize(('R', 't_m', 'words'), [
    (np.eye(3) * 1.1, np.zeros(3), 'not a rotation'),
    (np.diag([1.0, 1.0, -1.0]), np.zeros(3), 'det -1'),
    (np.eye(3), np.array([0, np.nan, 0]), 'finite'),
    (np.full((3, 3), np.nan), np.zeros(3), 'not a rotation'),
    (np.eye(2), np.zeros(3), r'\(3, 3\)'),
])
def test_what_is_no_rigid_motion_is_refused(R, t_m, words):
    with pytest.raises(ValueError, match=words):
        Transform(R, t_m)


def test_a_view_whose_parts_differ_in_size_is_refused_with_both_sizes():
    image = np.zeros((240, 320, 3), np.uint8)
    with pytest.raises(ValueError, match=r'front: the depth is \(120, 160\), the image \(240'):
        View('front', image, raycast_scenes.PINHOLE, depth_m=np.zeros((120, 160), np.float32))
    with pytest.raises(ValueError,
                       match='front: the image is 160x120, its intrinsics are for 320x240'):
        View('front', image[:120, :160], raycast_scenes.PINHOLE)


def test_the_mask_hides_its_pixels_and_no_others():
    mask = np.zeros((240, 320), bool)
    mask[100:, :] = True
    view = View('wrist', np.zeros((240, 320, 3), np.uint8), raycast_scenes.PINHOLE, mask=mask)
    assert view.is_masked((5.0, 99.6))
    assert view.is_masked((319.5, 239.5))
    assert not view.is_masked((5.0, 99.4))


def test_the_way_back_starts_at_the_found_point():
    left, right = (View(name, np.zeros((240, 320, 3), np.uint8), raycast_scenes.PINHOLE)
                   for name in ('left', 'right'))
    back = Query(left, right, np.array([1.0, 2.0])).reverse(Match(np.array([3.0, 4.0])))
    assert (back.clicked, back.other) == (right, left)
    assert back.pixel.tolist() == [3.0, 4.0]
