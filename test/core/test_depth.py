"""What depth shows at a pixel: edges, holes, speckle and planes of known normal."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Intrinsics, Transform
from crosspoint_ros.core.depth import (
    explain_missing_depth,
    is_on_rim,
    predict_depth_sigma_m,
    register_depth,
    surface_depths_m,
    surface_normal_base,
    surface_points_m,
)

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TOP = np.array([0.0, 0.0, 0.12])
WALL_M, OBJECT_M = 1.0, 0.6


def flat(depth_m):
    """A view whose depth image is given, at the origin of the base."""
    view = raycast_scenes.render_depth('front', raycast_scenes.look_at(raycast_scenes.LEFT))
    return replace(view, depth_m=np.asarray(depth_m, np.float32))


def edge(share_of_columns=160):
    """An object left of a column, a wall right of it."""
    depth_m = np.full((240, 320), WALL_M)
    depth_m[:, :share_of_columns] = OBJECT_M
    return flat(depth_m)


@pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
def test_a_point_of_a_surface_is_where_it_is_to_within_a_pixel(intrinsics):
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,),
                                       intrinsics)
    point_m = surface_points_m(view, raycast_scenes.project_point(view, ON_TOP))[0]
    range_m = np.linalg.norm(ON_TOP - raycast_scenes.LEFT)
    assert np.linalg.norm(point_m - ON_TOP) < range_m / intrinsics.fx_px


def test_at_an_edge_the_object_comes_before_the_wall():
    assert surface_depths_m(edge(), (161.0, 120.0)) == pytest.approx([OBJECT_M, WALL_M])


def test_away_from_the_edge_there_is_one_surface():
    assert surface_depths_m(edge(), (170.0, 120.0)) == pytest.approx([WALL_M])


def test_speckle_in_front_is_no_surface():
    depth_m = np.full((240, 320), WALL_M)
    depth_m[119:122, 160] = 0.3
    assert surface_depths_m(flat(depth_m), (160.0, 120.0)) == pytest.approx([WALL_M])


def test_a_handle_two_centimetres_before_its_drawer_has_its_own_depth():
    depth_m = np.full((240, 320), WALL_M)
    depth_m[118:123] = WALL_M - 0.02  # less than the gap that parts two surfaces
    assert surface_depths_m(flat(depth_m), (160.0, 120.0)) == pytest.approx([WALL_M - 0.02])
    assert surface_depths_m(flat(depth_m), (160.0, 125.0)) == pytest.approx([WALL_M])


def test_a_slanted_surface_is_one_surface():
    depth_m = np.tile(np.linspace(0.5, 1.5, 320), (240, 1))
    (found,) = surface_depths_m(flat(depth_m), (100.0, 120.0))
    assert found == pytest.approx(depth_m[0, 100], abs=1e-3)


@pytest.mark.parametrize('unknown', [np.nan, 0.0, np.inf])
def test_a_hole_has_no_depth_and_says_how_little_there_is(unknown):
    depth_m = np.full((240, 320), WALL_M)
    depth_m[100:140, 140:180] = unknown
    depth_m[120, 161:163] = WALL_M
    view = flat(depth_m)
    assert len(surface_depths_m(view, (160.0, 120.0))) == 0
    assert surface_points_m(view, (160.0, 120.0)).shape == (0, 3)
    assert explain_missing_depth(view, (160.0, 120.0)) == (
        '2 of the 49 pixels around (160, 120) in front have a depth (at least 5%)')


def test_depths_that_scatter_are_no_surface():
    scattered = np.linspace(0.3, 3.0, 7)[np.indices((240, 320)).sum(axis=0) % 7]
    view = flat(scattered)
    assert len(surface_depths_m(view, (160.0, 120.0))) == 0
    assert explain_missing_depth(view, (160.0, 120.0)) == (
        'no surface around (160, 120) in front holds 20% of its 49 depths')


def test_a_camera_without_depth_says_so():
    view = replace(edge(), depth_m=None)
    assert len(surface_depths_m(view, (160.0, 120.0))) == 0
    assert explain_missing_depth(view, (160.0, 120.0)) == 'front has no depth'
    assert surface_normal_base(view, (160.0, 120.0)) is None


@pytest.mark.parametrize('pixel', [(400.0, 100.0), (160.0, 300.0), (-50.0, 10.0), (10.0, -50.0)])
def test_off_the_image_there_is_no_surface(pixel):
    assert len(surface_depths_m(edge(), pixel)) == 0


def test_a_view_without_a_pose_has_depths_but_no_points():
    view = replace(edge(), base_from_cam=None)
    assert len(surface_depths_m(view, (160.0, 120.0))) == 2
    assert len(surface_points_m(view, (160.0, 120.0))) == 0


def test_the_corner_of_the_image_has_depth_too():
    assert surface_depths_m(edge(), (-0.5, 239.5)) == pytest.approx([OBJECT_M])


@pytest.mark.parametrize('intrinsics', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
@pytest.mark.parametrize(('point_base_m', 'into'), [
    (ON_TOP, (0, 0, -1)), ((0.0, -0.1, 0.06), (0, 1, 0)), ((0.3, 0.2, 0.0), (0, 0, -1))],
    ids=['top', 'front', 'table'])
def test_the_normal_points_into_the_surface(intrinsics, point_base_m, into):
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,),
                                       intrinsics)
    normal, sigma_rad = surface_normal_base(
        view, raycast_scenes.project_point(view, np.array(point_base_m)))
    assert np.arccos(min(normal @ into, 1.0)) < 2 * sigma_rad < np.radians(5)


def test_the_normal_near_an_edge_is_that_of_the_nearer_surface():
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,))
    pixel = raycast_scenes.project_point(view, np.array([0.09, -0.09, 0.12]))
    assert np.degrees(np.arccos(-surface_normal_base(view, pixel)[0][2])) < 5


def test_a_larger_wall_behind_an_edge_does_not_give_its_normal_to_the_object():
    rows, columns = np.indices((240, 320))
    slanted_m = OBJECT_M + 0.0005 * (rows - 120)
    view = flat(np.where(columns < 160, slanted_m, WALL_M))
    normal_cam = view.base_from_cam.inverse.rotate(surface_normal_base(view, (161.0, 120.0))[0])
    assert np.degrees(np.arccos(normal_cam[2])) > 10


def test_the_normal_survives_a_fifth_of_wrong_depths():
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=view.depth_m.shape) * 0.001
    noise[rng.random(noise.shape) < 0.2] += 0.02
    noisy = replace(view, depth_m=(view.depth_m + noise).astype(np.float32))
    normal, _ = surface_normal_base(noisy, raycast_scenes.project_point(view, ON_TOP))
    assert np.degrees(np.arccos(-normal[2])) < 5


def test_the_same_pixel_has_the_same_normal_every_time():
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,))
    pixel = raycast_scenes.project_point(view, ON_TOP)
    np.testing.assert_array_equal(surface_normal_base(view, pixel)[0],
                                  surface_normal_base(view, pixel)[0])


def test_the_sigma_of_a_normal_covers_its_error_and_grows_with_the_noise():
    view = raycast_scenes.render_depth('left', raycast_scenes.look_at(raycast_scenes.LEFT), (BOX,))
    pixel, rng = raycast_scenes.project_point(view, ON_TOP), np.random.default_rng(1)
    sigmas_rad = []
    for noise_m in (0.0, 0.002, predict_depth_sigma_m(0.9)):
        noisy = [view.depth_m + rng.normal(size=view.depth_m.shape) * noise_m for _ in range(30)]
        found = [surface_normal_base(replace(view, depth_m=depth_m.astype(np.float32)), pixel)
                 for depth_m in noisy]
        off = [np.arccos(-normal[2]) / sigma_rad for normal, sigma_rad in found]
        assert np.quantile(off, 0.95) < 3
        sigmas_rad.append(np.median([sigma_rad for _, sigma_rad in found]))
    assert sigmas_rad == sorted(sigmas_rad)


def rim(step_m=0.03, slope_m=0.0, noise_m=0.0, range_m=0.8):
    rows, columns = np.indices((240, 320))
    noise = np.random.default_rng(0).normal(size=rows.shape) * noise_m
    return flat(range_m + slope_m * (rows - 120) + step_m * (columns >= 160) + noise)


@pytest.mark.parametrize('slope_m', [0.0, 0.008])
def test_a_jump_beside_a_pixel_is_a_rim_on_slopes_too(slope_m):
    view = rim(slope_m=slope_m)
    on = [x for x in range(150, 170) if is_on_rim(view, (x, 120.0), view.depth_m[120, x])]
    assert on == [158, 159, 160, 161]


@pytest.mark.parametrize('slope_m', [0.0, 0.02])
def test_slopes_creases_and_noise_are_no_rims(slope_m):
    range_m = 0.8
    view = rim(step_m=0.0, slope_m=slope_m, noise_m=predict_depth_sigma_m(range_m) / 2)
    roof = flat(range_m + 0.01 * np.abs(np.indices((240, 320))[1] - 160))
    assert not is_on_rim(view, (160.0, 120.0), range_m)
    assert not is_on_rim(roof, (160.0, 120.0), range_m)


def test_a_pixel_beside_the_surface_taken_for_it_is_on_a_rim():
    view = rim(step_m=0.3)
    beside = (161.0, 120.0)
    assert surface_depths_m(view, beside)[0] == pytest.approx(0.8)
    assert is_on_rim(view, beside, 0.8)


def test_too_few_depths_have_no_normal():
    depth_m = np.full((240, 320), np.nan)
    depth_m[118:123, 158:163] = WALL_M
    view = flat(depth_m)
    assert len(surface_depths_m(view, (160.0, 120.0))) == 1
    assert surface_normal_base(view, (160.0, 120.0)) is None


DEPTH_LENSES = {
    'beside, same lens': (Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240), 0.015, 0.0),
    'wider': (Intrinsics(190.0, 190.0, 161.0, 118.0, 320, 240), 0.015, 0.01),
    'distorted, another size': (Intrinsics(240.0, 241.0, 170.0, 140.0, 340, 284,
                                           (0.09, -0.27, 0.001, 0.0, 0.09)), 0.05, 0.02),
    'finer': (Intrinsics(600.0, 600.0, 319.5, 239.5, 640, 480), 0.03, 0.01),
    'fisheye': (Intrinsics(180.0, 180.0, 160.0, 120.0, 320, 240, (0.02, -0.01, 0.0, 0.0),
                           'equidistant'), 0.03, 0.0)}


@pytest.mark.parametrize('lens', raycast_scenes.LENSES.values(), ids=raycast_scenes.LENSES)
@pytest.mark.parametrize(('depth_lens', 'beside_m', 'turn_rad'), DEPTH_LENSES.values(),
                         ids=DEPTH_LENSES)
def test_depth_of_another_lens_becomes_what_the_camera_itself_would_measure(
        lens, depth_lens, beside_m, turn_rad):
    base_from_cam = raycast_scenes.look_at(raycast_scenes.LEFT)
    turn = cv2.Rodrigues(np.array([turn_rad, -turn_rad, 2 * turn_rad]))[0]
    cam_from_depth = Transform(turn, np.array([beside_m, 0.002, -0.003]))
    seen = raycast_scenes.render_depth('depth', base_from_cam @ cam_from_depth, (BOX,), depth_lens)
    truth_m = raycast_scenes.render_depth('left', base_from_cam, (BOX,), lens).depth_m
    given_m = seen.depth_m.copy()
    registered_m = register_depth(seen.depth_m, depth_lens, lens, cam_from_depth)
    np.testing.assert_array_equal(seen.depth_m, given_m)
    assert (registered_m.shape, registered_m.dtype) == (truth_m.shape, np.float32)
    jumps = np.abs(cv2.Laplacian(np.nan_to_num(truth_m, nan=9.0), cv2.CV_32F)) > 0.02
    near_edge = cv2.dilate(jumps.astype(np.uint8), np.ones((5, 5))) > 0
    error_m = np.abs(registered_m - truth_m)[~near_edge]
    assert np.nanmedian(error_m) < 0.0025
    pixel_m = np.hypot(*np.gradient(truth_m))[~near_edge] * max(1, lens.fx_px / depth_lens.fx_px)
    assert np.nanmax(error_m - 2 * pixel_m) < 0.002, 'the table shows through the box'
    middle = np.s_[85:155, 110:210]
    assert np.isnan(registered_m[middle][~near_edge[middle]]).mean() < 0.06, 'holes'


def test_depth_that_is_registered_already_stays_as_it_is():
    lens = raycast_scenes.PINHOLE
    depth_m = np.random.default_rng(0).uniform(0.5, 3, (240, 320)).astype(np.float32)
    depth_m[::7, ::5] = np.nan
    same = Transform(np.eye(3), np.zeros(3))
    registered_m = register_depth(depth_m, lens, lens, same)
    known = np.isfinite(depth_m)
    # A pixel reaches over a tenth of its neighbours, not to their middle.
    np.testing.assert_allclose(registered_m[known], depth_m[known], rtol=1e-5)
    assert np.isnan(registered_m[~known]).all()


def test_depth_behind_the_camera_or_off_its_image_is_left_out():
    lens = raycast_scenes.PINHOLE
    depth_m = np.full((240, 320), 0.5, np.float32)
    behind = Transform(np.eye(3), np.array([0.0, 0.0, -0.6]))
    aside = Transform(np.eye(3), np.array([3.0, 0.0, 0.0]))
    for cam_from_depth in (behind, aside):
        assert np.isnan(register_depth(depth_m, lens, lens, cam_from_depth)).all()
