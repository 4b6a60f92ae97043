"""The built-in scene: its images, depths, lenses, poses and truth belong to each other."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.bench.pairs.known_scene import FrameKey, KnownScene
from crosspoint_ros.scenes import KITCHEN

START_NS = 1760000000000000000


@pytest.fixture(scope='module')
def kitchen():
    return KnownScene(KITCHEN)


def test_the_kitchen_has_three_cameras_and_33_points(kitchen):
    assert {moment.camera for moment in kitchen.moments} == {'front', 'side', 'wrist'}
    assert len(kitchen.affordances) == 33
    assert all(affordance.name for affordance in kitchen.affordances)


def test_every_image_of_the_truth_is_in_the_bag(kitchen):
    assert len(kitchen.moments) == 48
    for moment in kitchen.moments[::7]:
        view = kitchen.view(moment)
        assert view.image.std() > 20
        assert np.isfinite(view.depth_m).mean() > 0.9


def test_depth_pose_and_lens_lift_every_clicked_pixel_to_its_true_point(kitchen):
    errors_m = []
    for affordance in kitchen.affordances:
        view = kitchen.view(affordance.clicked)
        column, row = np.round(affordance.pixel).astype(int)
        ray = view.intrinsics.unproject(affordance.pixel)
        point_cam = ray * view.depth_m[row, column] / ray[2]
        point_base_m = view.base_from_cam.transform_points(point_cam)
        errors_m.append(np.linalg.norm(point_base_m - affordance.point_base_m))
    assert np.nanmedian(errors_m) < 0.003
    assert np.isfinite(errors_m).mean() > 0.9  # the sensor's depth has holes


def test_the_truth_of_every_visible_point_is_its_projection(kitchen):
    for affordance in kitchen.affordances[::5]:
        for moment, seen in list(affordance.seen.items())[::9]:
            cam_from_base = kitchen.base_from_cam[moment].inverse
            pixel = kitchen.view(moment).intrinsics.project(
                cam_from_base.transform_points(affordance.point_base_m))
            assert np.linalg.norm(pixel - seen.pixel) < 1.5


def test_a_point_behind_a_surface_is_not_shown(kitchen):
    handle = next(a for a in kitchen.affordances if a.name == 'drawer handle')
    hidden_m = 0.5 * (kitchen.base_from_cam[handle.clicked].t_m + handle.point_base_m)
    assert kitchen.shows(handle.clicked, handle.point_base_m)
    assert kitchen.shows(handle.clicked, hidden_m)  # in the air, before the surface: nothing hides
    behind_m = handle.point_base_m + (handle.point_base_m - hidden_m)
    assert not kitchen.shows(handle.clicked, behind_m)


def test_the_visibility_of_the_truth_is_what_the_depth_says(kitchen):
    agree = [kitchen.shows(moment, affordance.point_base_m) == seen.visible
             for affordance in kitchen.affordances[::4]
             for moment, seen in list(affordance.seen.items())[::6]]
    assert np.mean(agree) > 0.95


def test_a_point_borders_what_is_shown_only_if_it_is_hidden_by_a_hair(kitchen):
    side = next(a for a in kitchen.affordances if a.name == 'drawer side')
    by_a_hair, deep = (FrameKey('wrist', START_NS + ns) for ns in (5000000000, 2666666666))
    assert not side.seen[by_a_hair].visible
    assert kitchen.borders(by_a_hair, side.point_base_m)
    assert not side.seen[deep].visible
    assert not kitchen.borders(deep, side.point_base_m)


def test_the_angle_between_two_views_of_a_point_is_the_angle_of_their_rays(kitchen):
    affordance = kitchen.affordances[0]
    assert kitchen.angle_deg(affordance, affordance.clicked) == pytest.approx(0.0, abs=1e-3)
    moment = FrameKey('wrist', START_NS)
    rays = [kitchen.base_from_cam[m].rotate(
        kitchen.view(m).intrinsics.unproject(pixel)) for m, pixel in (
            (affordance.clicked, affordance.pixel), (moment, affordance.seen[moment].pixel))]
    expected_deg = np.degrees(np.arccos(rays[0] @ rays[1]))
    assert kitchen.angle_deg(affordance, moment) == pytest.approx(expected_deg, abs=0.3)


def test_a_folder_without_truth_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'truth\.json'):
        KnownScene(tmp_path)
