"""The built-in scene: its images, depths, lenses, poses and truth belong to each other."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene
from crosspoint_ros.scenes import KITCHEN

START_NS = 1760000000000000000


@pytest.fixture(scope='module')
def kitchen():
    return KnownScene(KITCHEN)


def test_the_kitchen_has_three_cameras_and_33_points(kitchen):
    assert {frame.camera for frame in kitchen.frames} == {'front', 'side', 'wrist'}
    assert len(kitchen.points) == 33
    assert all(point.name for point in kitchen.points)


def test_every_image_of_the_truth_is_in_the_bag(kitchen):
    assert len(kitchen.frames) == 48
    for frame in kitchen.frames[::7]:
        view = kitchen.read_view(frame)
        assert view.image.std() > 20
        assert np.isfinite(view.depth_m).mean() > 0.9


def test_depth_pose_and_lens_lift_every_clicked_pixel_to_its_true_point(kitchen):
    errors_m = []
    for point in kitchen.points:
        view = kitchen.read_view(point.clicked)
        column, row = np.round(point.pixel).astype(int)
        ray = view.intrinsics.unproject(point.pixel)
        point_cam = ray * view.depth_m[row, column] / ray[2]
        point_base_m = view.base_from_cam.transform_points(point_cam)
        errors_m.append(np.linalg.norm(point_base_m - point.point_base_m))
    assert np.nanmedian(errors_m) < 0.003
    assert np.isfinite(errors_m).mean() > 0.9  # the sensor's depth has holes


def test_the_truth_of_every_visible_point_is_its_projection(kitchen):
    for point in kitchen.points[::5]:
        for frame, seen in list(point.projections.items())[::9]:
            cam_from_base = kitchen.base_from_cam[frame].inverse
            pixel = kitchen.read_view(frame).intrinsics.project(
                cam_from_base.transform_points(point.point_base_m))
            assert np.linalg.norm(pixel - seen.pixel) < 1.5


def test_a_point_behind_a_surface_is_not_shown(kitchen):
    handle = next(a for a in kitchen.points if a.name == 'drawer handle')
    hidden_m = 0.5 * (kitchen.base_from_cam[handle.clicked].t_m + handle.point_base_m)
    assert kitchen.is_visible(handle.clicked, handle.point_base_m)
    assert kitchen.is_visible(handle.clicked, hidden_m)  # in the air, not occluded
    behind_m = handle.point_base_m + (handle.point_base_m - hidden_m)
    assert not kitchen.is_visible(handle.clicked, behind_m)


def test_the_visibility_of_the_truth_is_what_the_depth_says(kitchen):
    agree = [kitchen.is_visible(frame, point.point_base_m) == seen.visible
             for point in kitchen.points[::4]
             for frame, seen in list(point.projections.items())[::6]]
    assert np.mean(agree) > 0.95


def test_a_point_borders_what_is_shown_only_if_it_is_hidden_by_a_hair(kitchen):
    side = next(a for a in kitchen.points if a.name == 'drawer side')
    by_a_hair, deep = (FrameKey('wrist', START_NS + ns) for ns in (5000000000, 2666666666))
    assert not side.projections[by_a_hair].visible
    assert kitchen.is_near_occlusion_edge(by_a_hair, side.point_base_m)
    assert not side.projections[deep].visible
    assert not kitchen.is_near_occlusion_edge(deep, side.point_base_m)


def test_a_folder_without_truth_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'truth\.json'):
        KnownScene(tmp_path)
