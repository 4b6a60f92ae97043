"""Scenes in every layout give the same views; what is wrong with one is said, with its file."""
from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest
from rgbd_folders import (
    KITCHEN,
    kitchen_views,
    quaternion,
    write_bag_with_later_depth,
    write_scannet,
    write_tum,
)

from crosspoint_ros.bench.pairs.known_scene import FrameKey, KnownScene
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.scenes import expand_scene_paths, open_scene
from crosspoint_ros.data.scenes.consistency import check_scene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData
from crosspoint_ros.data.scenes.tum import TumScene


def test_the_bag_gives_the_poses_and_images_of_its_truth():
    known, scene = KnownScene(KITCHEN), open_scene(KITCHEN, ReadOptions(), print)
    assert len(scene.frames) == len(known.frames)
    for frame in scene.frames[::9]:
        view, true = scene.view(frame), known.read_view(FrameKey(frame.camera, frame.stamp_ns))
        np.testing.assert_allclose(view.base_from_cam.matrix, true.base_from_cam.matrix, atol=1e-6)
        np.testing.assert_array_equal(view.image, true.image)
        np.testing.assert_array_equal(view.depth_m, true.depth_m)
    check_scene(scene, print)


@pytest.mark.parametrize('write', [write_scannet, write_tum])
def test_a_folder_gives_what_was_written(tmp_path, write):
    views = kitchen_views()
    scene = open_scene(write(tmp_path / 'scene', views), ReadOptions(), print)
    assert len(scene.frames) == len(views)
    for frame, view in zip(scene.frames, views, strict=True):
        read = scene.view(frame)
        np.testing.assert_array_equal(read.image, view.image)
        np.testing.assert_allclose(read.depth_m, view.depth_m, atol=6e-4)
        np.testing.assert_allclose(read.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-6)
    check_scene(scene, print)


def test_inverted_poses_are_said_and_can_be_read(tmp_path):
    folder = write_scannet(tmp_path / 'scene', kitchen_views(), inverted=True)
    with pytest.raises(UnusableData, match=r'poses are inverted.*--inverted-poses'):
        check_scene(open_scene(folder, ReadOptions(), print), print)
    check_scene(open_scene(folder, ReadOptions(inverted=True), print), print)


def test_millimetres_taken_for_metres_are_said(tmp_path):
    folder = write_scannet(tmp_path / 'scene', kitchen_views())
    with pytest.raises(UnusableData, match=r'millimetres were taken for metres.*--depth-per-m'):
        check_scene(open_scene(folder, ReadOptions(depth_per_m=1.0), print), print)


def test_poses_of_another_scene_are_refused(tmp_path):
    views = kitchen_views()
    folder = write_scannet(tmp_path / 'scene', views)
    for number in range(len(views)):
        turned = np.eye(4)
        turned[:3, 3] = np.random.default_rng(number).uniform(-3, 3, 3)
        np.savetxt(folder / f'pose/{number}.txt', turned)
    with pytest.raises(UnusableData, match='met again'):
        check_scene(open_scene(folder, ReadOptions(), print), print)


@pytest.mark.parametrize('length', [2.0, 0.0, float('nan')])
def test_a_quaternion_that_is_none_is_left_out_by_name(tmp_path, length):
    said: list[str] = []
    folder = write_tum(tmp_path / 'scene', kitchen_views(), length)
    scene = open_scene(folder, ReadOptions(), said.append)
    assert len(scene.frames) == 7
    assert '1000.200000' in said[0]
    assert 'length' in said[0]


def test_a_quaternion_rounded_by_a_hundredth_is_normalised(tmp_path):
    views = kitchen_views()
    scene = open_scene(write_tum(tmp_path / 'scene', views, 1.01), ReadOptions(), print)
    np.testing.assert_allclose(scene.frames[2].base_from_cam.R, views[2].base_from_cam.R, atol=1e-6)


def moving_tum(folder, shift_s, lag_s, turn_deg_s=0.0):
    """Write a TUM folder: poses `shift_s` before and after each image of a camera that turns."""
    views = kitchen_views()
    write_tum(folder, views)
    lines = []
    for number, view in enumerate(views):
        at_s = 1000 + number / 10
        for offset_s in (-shift_s, shift_s):
            turn = cv2.Rodrigues(np.radians([0, turn_deg_s * offset_s, 0]))[0]
            pose = view.base_from_cam @ Transform(turn, [0.3 * offset_s, 0, 0])
            values = [*pose.t_m, *quaternion(pose)]
            lines.append(' '.join([f'{at_s + offset_s:.4f}', *map(str, values)]))
    (folder / 'groundtruth.txt').write_text('\n'.join(lines))
    depths = (folder / 'depth.txt').read_text().splitlines()[1:]
    (folder / 'depth.txt').write_text('\n'.join(
        f'{float(line.split()[0]) + lag_s:.6f} {line.split()[1]}' for line in depths))
    return folder, views


def test_a_pose_is_that_of_the_image_s_own_moment(tmp_path):
    folder, views = moving_tum(tmp_path / 'scene', 0.015, 0.0)
    scene = open_scene(folder, ReadOptions(), print)
    assert len(scene.frames) == len(views)
    for frame, view in zip(scene.frames, views, strict=True):
        np.testing.assert_allclose(frame.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-6)


@pytest.mark.parametrize(('turn_deg_s', 'lag_s', 'kept'), [
    (5.0, 0.01, 8), (60.0, 0.0, 8), (60.0, 0.01, 0)])
def test_an_image_whose_depth_is_of_another_moment_is_left_out(tmp_path, turn_deg_s, lag_s, kept):
    said: list[str] = []
    folder, _ = moving_tum(tmp_path / 'scene', 0.015, lag_s, turn_deg_s)
    scene = TumScene(folder, ReadOptions(), said.append)
    assert len(scene.frames) == kept
    if not kept:
        assert said == [f'{folder / "rgb.txt"}: rgb/1000.000000.png: between the image and its '
                        f'depth the camera moved by {said[0].split("by ")[1].split(" ")[0]} px '
                        '(limit 2); so did it in 7 more images: left out']


def test_a_gap_in_the_poses_is_not_bridged(tmp_path):
    folder, _ = moving_tum(tmp_path / 'scene', 0.015, 0.0)
    poses = (folder / 'groundtruth.txt').read_text().splitlines()
    (folder / 'groundtruth.txt').write_text('\n'.join(poses[:3] + poses[5:-1]))
    said: list[str] = []
    scene = open_scene(folder, ReadOptions(), said.append)
    assert len(scene.frames) == 5
    assert any('0.130 s apart (limit 0.1)' in line for line in said)
    assert any('outside of the poses' in line for line in said)


def test_a_bag_whose_depth_is_late_keeps_the_cameras_that_stand_still(tmp_path):
    said: list[str] = []
    bag = write_bag_with_later_depth(tmp_path / 'bag', 19_000_000)
    scene = open_scene(bag, ReadOptions(), said.append)
    assert Counter(frame.camera for frame in scene.frames) == {'front': 6, 'side': 6}
    assert any('between the image and its depth the camera moved by' in line for line in said)


def test_one_image_is_no_scene(tmp_path):
    folder = write_scannet(tmp_path / 'scene', kitchen_views()[:1])
    with pytest.raises(UnusableData, match=r'1 frame\(s\).*another view'):
        open_scene(folder, ReadOptions(), print)


def test_a_corrupt_image_is_named_and_the_rest_goes_on(tmp_path):
    folder = write_scannet(tmp_path / 'scene', kitchen_views())
    (folder / 'color/0.png').write_bytes(b'not a picture')
    (folder / 'depth/1.png').unlink()
    scene = open_scene(folder, ReadOptions(), print)
    with pytest.raises(UnusableData, match=r'color/0.png: 13 bytes that are no picture'):
        scene.view(scene.frames[0])
    with pytest.raises(UnusableData, match=r'depth/1.png: there is no such file'):
        scene.view(scene.frames[1])
    said: list[str] = []
    check_scene(scene, said.append)
    assert len(said) == 2


def test_a_pose_of_infinities_is_left_out(tmp_path):
    folder = write_scannet(tmp_path / 'scene', kitchen_views())
    np.savetxt(folder / 'pose/3.txt', np.full((4, 4), -np.inf))
    said: list[str] = []
    assert len(open_scene(folder, ReadOptions(), said.append).frames) == 7
    assert 'pose/3.txt' in said[0]


def test_a_folder_of_scenes_is_all_of_them_and_nothing_is_no_scene(tmp_path):
    views = kitchen_views()
    paths = [write_scannet(tmp_path / name, views) for name in 'ab']
    assert list(expand_scene_paths([tmp_path])) == paths
    with pytest.raises(UnusableData, match='not there'):
        open_scene(tmp_path / 'nowhere', ReadOptions(), print)


def test_points_land_where_the_truth_has_them_or_are_left_out():
    truth = json.loads((KITCHEN / 'truth.json').read_text())
    scene = open_scene(KITCHEN, ReadOptions(), print)
    frames = {f.name: f for f in scene.frames}
    views = {}

    def view(moment):
        name = f'{moment["camera"]}_{moment["stamp_ns"]}'
        if name not in views:
            views[name] = scene.view(frames[name])
        return views[name]

    errors_px, right = [], []
    for point in truth['points']:
        for answer in point['answers']:
            projected = project_points(view(point['clicked']), view(answer),
                           np.array([point['clicked']['pixel']], float))
            if projected.visibility[0] <= Visibility.OUTSIDE:
                right.append((projected.visibility[0] == Visibility.VISIBLE) == answer['visible'])
            if projected.visibility[0] == Visibility.VISIBLE:
                errors_px.append(np.linalg.norm(projected.pixels[0] - answer['pixel']))
    assert len(errors_px) > 500
    assert len(right) > 800
    assert np.mean(np.array(errors_px) < 3) >= 0.99
    assert np.mean(right) >= 0.99
