"""Scenes in every layout give the same views; what is wrong with one is said, with its file."""
from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rgbd_folders import (
    KITCHEN,
    copy_kitchen,
    read_kitchen_views,
    write_kitchen_bag,
    write_scannet,
    write_tum,
)

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.scenes import expand_scenes, open_scene
from crosspoint_ros.data.scenes.consistency import check_scene
from crosspoint_ros.data.scenes.image_folders import TumScene
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData


def test_the_bag_gives_the_poses_and_images_of_its_truth():
    known, scene = KnownScene(KITCHEN), open_scene(KITCHEN, ReadOptions())
    assert len(scene.frames) == len(known.frames)
    for frame in scene.frames[::9]:
        view, true = scene.view(frame), known.read_view(FrameKey(frame.camera, frame.stamp_ns))
        np.testing.assert_allclose(view.base_from_cam.matrix, true.base_from_cam.matrix, atol=1e-6)
        np.testing.assert_array_equal(view.image, true.image)
        np.testing.assert_array_equal(view.depth_m, true.depth_m)
    check_scene(scene)


@pytest.mark.parametrize('write', [write_scannet, write_tum])
def test_a_folder_gives_what_was_written(tmp_path, write):
    views = read_kitchen_views()
    scene = open_scene(write(tmp_path / 'scene', views), ReadOptions())
    assert len(scene.frames) == len(views)
    for frame, view in zip(scene.frames, views, strict=True):
        read = scene.view(frame)
        np.testing.assert_array_equal(read.image, view.image)
        np.testing.assert_allclose(read.depth_m, view.depth_m, atol=6e-4)
        np.testing.assert_allclose(read.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-6)
    check_scene(scene)


def test_inverted_poses_are_said_and_can_be_read(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views(), inverted=True)
    with pytest.raises(UnusableData, match=r'poses are inverted.*--inverted-poses'):
        check_scene(open_scene(folder, ReadOptions()))
    check_scene(open_scene(folder, ReadOptions(inverted=True)))


def test_an_image_that_is_listed_twice_is_one_frame(tmp_path, caplog):
    folder = write_tum(tmp_path / 'scene', read_kitchen_views())
    lines = (folder / 'rgb.txt').read_text().splitlines()
    again = lines[2].replace(' ', '5 ')  # a little later
    (folder / 'rgb.txt').write_text('\n'.join([*lines, lines[-1], again]))
    scene = open_scene(folder, ReadOptions())
    assert len({frame.name for frame in scene.frames}) == len(scene.frames) == 8
    assert [frame.stamp_ns for frame in scene.frames] == sorted(f.stamp_ns for f in scene.frames)
    assert len(caplog.messages) == 2
    assert all('is there more than once: the first is used' in line for line in caplog.messages)


def test_millimetres_taken_for_metres_are_said(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    with pytest.raises(UnusableData, match=r'millimetres were taken for metres.*--depth-per-m'):
        check_scene(open_scene(folder, ReadOptions(depth_per_m=1.0)))


def test_poses_in_millimetres_are_not_called_a_unit_of_depth(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    for path in (folder / 'pose').iterdir():
        matrix = np.loadtxt(path)
        matrix[:3, 3] *= 1000
        np.savetxt(path, matrix)
    with pytest.raises(UnusableData, match=r'translations of its poses are 1000 times too large '
                                           r'\(millimetres.*use poses in metres$') as refusal:
        check_scene(open_scene(folder, ReadOptions()))
    assert 'depth-per-m' not in str(refusal.value)


def edit_file(name, edit):
    """Change the bytes of a file of a scene."""
    def change(folder):
        for path in folder.glob(name):
            path.write_bytes(edit(path.read_bytes()))
    return change


def convert_images(suffix):
    def change(folder):
        for path in (folder / 'color').iterdir():
            cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)),
                        [cv2.IMWRITE_WEBP_QUALITY, 101])
            path.unlink()
    return change


def put_in_upper_case(folder):
    for path in [*(folder / 'color').iterdir(), *(folder / 'depth').iterdir()]:
        path.rename(path.with_suffix('.PNG'))


def add_files_of_a_mac(folder):
    for path in [p for name in ('color', 'depth', 'pose') for p in (folder / name).iterdir()]:
        (path.parent / f'._{path.name}').write_bytes(b'\0\5\x16\7\0\2\0\0Mac OS X')


BOM = b'\xef\xbb\xbf'
EDITS = {
    'calibration with a comment': (write_tum, edit_file(
        'calibration.txt', lambda data: b'# fx fy cx cy\n' + data)),
    'calibration with commas': (write_tum, edit_file(
        'calibration.txt', lambda data: b', '.join(data.split()))),
    'byte order marks': (write_tum, edit_file('*.txt', lambda data: BOM + data)),
    'byte order marks, no comments': (write_tum, edit_file(
        '*.txt', lambda data: BOM + data.removeprefix(b'# of the kitchen\n'))),
    'UTF-16': (write_tum, edit_file('*.txt', lambda data: data.decode().encode('utf-16'))),
    'CRLF': (write_tum, edit_file('*.txt', lambda data: data.replace(b'\n', b'\r\n'))),
    'intrinsics with BOM, commas and CRLF': (write_scannet, edit_file(
        'intrinsic/*.txt', lambda data: BOM + data.replace(b' ', b', ').replace(b'\n', b'\r\n'))),
    'poses with commas': (write_scannet, edit_file(
        'pose/*.txt', lambda data: data.replace(b' ', b', '))),
    'poses of three rows': (write_scannet, edit_file(
        'pose/*.txt', lambda data: b'\n'.join(data.splitlines()[:3]))),
    'upper case': (write_scannet, put_in_upper_case),
    'webp': (write_scannet, convert_images('.webp')),
    'bmp': (write_scannet, convert_images('.bmp')),
    'the files of a Mac': (write_scannet, add_files_of_a_mac),
}


@pytest.mark.parametrize('name', EDITS)
def test_a_folder_as_people_s_tools_leave_it_gives_the_same_frames(tmp_path, name, caplog):
    write, edit = EDITS[name]
    views = read_kitchen_views()
    edit(write(tmp_path / 'scene', views))
    scene = open_scene(tmp_path / 'scene', ReadOptions())
    assert len(scene.frames) == len(views)
    for frame, view in zip(scene.frames, views, strict=True):
        read = scene.view(frame)
        np.testing.assert_array_equal(read.image, view.image)
        np.testing.assert_allclose(read.depth_m, view.depth_m, atol=6e-4)
        np.testing.assert_allclose(read.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-6)
        assert read.intrinsics.matrix == pytest.approx(view.intrinsics.matrix)
    assert not caplog.messages


@pytest.mark.parametrize(('write', 'name', 'edit', 'words'), [
    (write_tum, 'calibration.txt', lambda data: b'Camera.fx: 500\nCamera.fy: 500',
     r"calibration.txt: line 1: 'Camera.fx:' is not a number"),
    (write_scannet, 'intrinsic/*.txt', lambda data: data.replace(b'0', b'O', 1),
     r'intrinsic_color.txt: line 1: .* is not a number'),
    (write_scannet, 'depth/*.png', lambda data: cv2.imencode('.png', np.zeros(
        (480, 640), np.uint16))[1].tobytes(), 'all of its depth is unknown')])
def test_a_file_that_cannot_be_used_is_refused_with_its_cause(tmp_path, write, name, edit, words):
    edit_file(name, edit)(write(tmp_path / 'scene', read_kitchen_views()))
    with pytest.raises(UnusableData, match=words):
        check_scene(open_scene(tmp_path / 'scene', ReadOptions()))


def test_a_transposed_pose_is_skipped_with_that_cause(tmp_path, caplog):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    np.savetxt(folder / 'pose/3.txt', np.loadtxt(folder / 'pose/3.txt').T)
    assert len(open_scene(folder, ReadOptions()).frames) == 7
    assert 'pose/3.txt: its last row is' in caplog.messages[0]
    assert 'transposed' in caplog.messages[0]


def test_poses_of_another_scene_are_refused(tmp_path):
    views = read_kitchen_views()
    folder = write_scannet(tmp_path / 'scene', views)
    for number in range(len(views)):
        turned = np.eye(4)
        turned[:3, 3] = np.random.default_rng(number).uniform(-3, 3, 3)
        np.savetxt(folder / f'pose/{number}.txt', turned)
    with pytest.raises(UnusableData, match='agree with other views'):
        check_scene(open_scene(folder, ReadOptions()))


@pytest.mark.parametrize('length', [2.0, 0.0, float('nan')])
def test_an_invalid_quaternion_is_skipped_with_its_stamp(tmp_path, length, caplog):
    folder = write_tum(tmp_path / 'scene', read_kitchen_views(), length)
    scene = open_scene(folder, ReadOptions())
    assert len(scene.frames) == 7
    assert '1000.200000' in caplog.messages[0]
    assert 'length' in caplog.messages[0]


def test_a_quaternion_rounded_by_a_hundredth_is_normalised(tmp_path):
    views = read_kitchen_views()
    scene = open_scene(write_tum(tmp_path / 'scene', views, 1.01), ReadOptions())
    np.testing.assert_allclose(scene.frames[2].base_from_cam.R, views[2].base_from_cam.R, atol=1e-6)


def moving_tum(folder, shift_s, lag_s, turn_deg_s=0.0):
    """Write a TUM folder: poses `shift_s` before and after each image of a camera that turns."""
    views = read_kitchen_views()
    write_tum(folder, views)
    lines = []
    for number, view in enumerate(views):
        at_s = 1000 + number / 10
        for offset_s in (-shift_s, shift_s):
            turn = cv2.Rodrigues(np.radians([0, turn_deg_s * offset_s, 0]))[0]
            pose = view.base_from_cam @ Transform(turn, [0.3 * offset_s, 0, 0])
            values = [*pose.t_m, *pose.quaternion_xyzw]
            lines.append(' '.join([f'{at_s + offset_s:.4f}', *map(str, values)]))
    (folder / 'groundtruth.txt').write_text('\n'.join(lines))
    depths = (folder / 'depth.txt').read_text().splitlines()[1:]
    (folder / 'depth.txt').write_text('\n'.join(
        f'{float(line.split()[0]) + lag_s:.6f} {line.split()[1]}' for line in depths))
    return folder, views


def test_a_pose_is_that_of_the_image_s_own_moment(tmp_path):
    folder, views = moving_tum(tmp_path / 'scene', 0.015, 0.0)
    scene = open_scene(folder, ReadOptions())
    assert len(scene.frames) == len(views)
    for frame, view in zip(scene.frames, views, strict=True):
        np.testing.assert_allclose(frame.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-6)


@pytest.mark.parametrize(('turn_deg_s', 'lag_s', 'kept'), [
    (5.0, 0.01, 8), (60.0, 0.0, 8), (60.0, 0.01, 0)])
def test_an_image_whose_depth_is_of_another_moment_is_skipped(
        tmp_path, turn_deg_s, lag_s, kept, caplog):
    folder, _ = moving_tum(tmp_path / 'scene', 0.015, lag_s, turn_deg_s)
    scene = TumScene(folder, ReadOptions())
    assert len(scene.frames) == kept
    if not kept:
        (line,) = caplog.messages
        assert line == (f'{folder / "rgb.txt"}: rgb/1000.000000.png: the camera moved by '
                        f'{line.split("by ")[1].split(" ")[0]} px between the image and its depth '
                        '(limit 2), and so did it in 7 more images: skipped')


def test_a_gap_in_the_poses_is_not_bridged(tmp_path, caplog):
    folder, _ = moving_tum(tmp_path / 'scene', 0.015, 0.0)
    poses = (folder / 'groundtruth.txt').read_text().splitlines()
    (folder / 'groundtruth.txt').write_text('\n'.join(poses[:3] + poses[5:-1]))
    scene = open_scene(folder, ReadOptions())
    assert len(scene.frames) == 5
    assert any('0.130 s apart (limit 0.1)' in line for line in caplog.messages)
    assert any('outside of the poses' in line for line in caplog.messages)


def test_a_bag_whose_depth_is_late_keeps_the_cameras_that_do_not_move(tmp_path, caplog):
    bag = write_kitchen_bag(tmp_path / 'bag', depth_lag_ns=19_000_000)
    scene = open_scene(bag, ReadOptions())
    assert Counter(frame.camera for frame in scene.frames) == {'front': 6, 'side': 6}
    assert any('px between the image and its depth' in line for line in caplog.messages)


def of_full_sensor(info, binning=1, left=0, top=0):
    """A camera info of a larger sensor, of which the image is a binned region."""
    k = np.array(info.k).reshape(3, 3) * binning
    k[:2, 2] += left, top
    k[2, 2] = 1
    roi = replace(info.roi, x_offset=left, y_offset=top, width=640 * binning * bool(left),
                  height=480 * binning * bool(left))
    return replace(info, k=k.ravel(), binning_x=binning, binning_y=binning, roi=roi,
                   width=640 * binning + 2 * left, height=480 * binning + 2 * top)


def rectified(info):
    """A camera info whose K and D are of the raw image, P of the rectified one."""
    p = np.zeros((3, 4))
    p[:, :3] = np.array(info.k).reshape(3, 3)
    return replace(info, k=np.array([500.0, 0, 300, 0, 500, 200, 0, 0, 1]), p=p.ravel(),
                   d=np.array([0.1, -0.2, 0.001, 0.002, 0.05]))


@pytest.mark.parametrize(('change_info', 'image'), [
    (lambda info: of_full_sensor(info, binning=2), 'image_raw'),
    (lambda info: of_full_sensor(info, left=30, top=10), 'image_raw'),
    (lambda info: of_full_sensor(info, binning=2, left=30, top=10), 'image_raw'),
    (lambda info: replace(info, d=np.zeros(14)), 'image_raw'),
    (lambda info: replace(info, d=np.zeros(0), distortion_model=''), 'image_raw'),
    (rectified, 'image_rect'), (rectified, 'image_rect_color')])
def test_camera_info_is_read_as_the_node_reads_it(tmp_path, change_info, image):
    bag = write_kitchen_bag(tmp_path / 'bag', change_info=change_info, image=image)
    scene, plain = open_scene(bag, ReadOptions()), open_scene(KITCHEN, ReadOptions())
    assert len(scene.frames) == len(plain.frames)
    view, expected = scene.view(scene.frames[0]), plain.view(plain.frames[0])
    assert view.intrinsics.matrix == pytest.approx(expected.intrinsics.matrix)
    assert not any(view.intrinsics.distortion)
    assert view.intrinsics.width_px == expected.intrinsics.width_px
    assert view.intrinsics.height_px == expected.intrinsics.height_px
    check_scene(scene)


def test_a_camera_with_an_unknown_distortion_model_is_skipped_with_its_name(tmp_path, caplog):
    def unknown(info):
        front = 'front' in info.header.frame_id
        return replace(info, distortion_model='mirror', d=np.ones(4)) if front else info

    scene = open_scene(write_kitchen_bag(tmp_path / 'bag', change_info=unknown), ReadOptions())
    assert {frame.camera for frame in scene.frames} == {'side', 'wrist'}
    (line,) = caplog.messages
    assert 'camera front is skipped' in line
    assert "'mirror'" in line


def test_one_image_is_no_scene(tmp_path):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views()[:1])
    with pytest.raises(UnusableData, match=r'1 frame\(s\).*another view'):
        open_scene(folder, ReadOptions())


def test_a_corrupt_image_is_named_and_the_rest_goes_on(tmp_path, caplog):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    (folder / 'color/0.png').write_bytes(b'not a picture')
    (folder / 'depth/1.png').unlink()
    scene = open_scene(folder, ReadOptions())
    with pytest.raises(UnusableData, match=r'color/0.png: .*13 bytes'):
        scene.view(scene.frames[0])
    with pytest.raises(UnusableData, match=r'No such file.*depth/1.png'):
        scene.view(scene.frames[1])
    check_scene(scene)
    assert len(caplog.messages) == 2


def test_a_pose_of_infinities_is_skipped(tmp_path, caplog):
    folder = write_scannet(tmp_path / 'scene', read_kitchen_views())
    np.savetxt(folder / 'pose/3.txt', np.full((4, 4), -np.inf))
    assert len(open_scene(folder, ReadOptions()).frames) == 7
    assert 'pose/3.txt' in caplog.messages[0]


def test_a_folder_of_scenes_is_all_of_them_and_nothing_is_no_scene(tmp_path):
    views = read_kitchen_views()
    paths = [write_scannet(tmp_path / name, views) for name in 'ab']
    assert list(expand_scenes([tmp_path])) == paths
    with pytest.raises(UnusableData, match='no such file or folder'):
        open_scene(tmp_path / 'nowhere', ReadOptions())


def test_points_land_where_the_truth_has_them_or_are_left_out():
    truth = json.loads((KITCHEN / 'truth.json').read_text())
    scene = open_scene(KITCHEN, ReadOptions())
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


def test_cameras_whose_names_would_meet_are_all_read(tmp_path):
    prefixes = {'front': 'camera/front', 'side': 'camera_front', 'wrist': 'camera/rear'}
    bag = copy_kitchen(tmp_path / 'bag', lambda topic: [
        topic.replace(f'/{(first := topic.split("/")[1])}/', f'/{prefixes.get(first, first)}/')])
    frames = open_scene(bag, ReadOptions()).frames
    assert len({frame.camera for frame in frames}) == 3
    assert len(frames) == len(open_scene(KITCHEN, ReadOptions()).frames)
