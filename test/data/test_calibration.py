"""`crosspoint calibrate` on recordings whose answer is known."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hand_bags import HAND, HAND_FROM_LINK, LINK, write_hand_bag

from crosspoint_ros import cli
from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.core.extrinsics.residuals import exp_pose, log_pose
from crosspoint_ros.core.tf_tree import FrameInfo
from crosspoint_ros.data.calibration.frames import find_body
from crosspoint_ros.data.calibration.pairs import refine_subpixel
from crosspoint_ros.data.calibration.report import MountLink, format_bars

KITCHEN = Path(cli.__file__).parent / 'scenes' / 'kitchen'
ERROR = exp_pose(np.array([0.03, -0.03, 0.03, 0.01, 0.01, -0.014]))  # 3 deg, 2 cm
NONE = exp_pose(np.zeros(6))


def calibrate(bag: Path, *options: str) -> int:
    return cli.main(['calibrate', str(bag), '--camera', 'wrist', *options])


def read_numbers(text: str, name: str) -> list[float]:
    line = next(line for line in text.splitlines() if line.strip().startswith(name))
    return [float(value) for value in line.split('[')[1].rstrip(']').split(',')]


def test_a_wrong_mount_is_corrected_and_written(tmp_path, capsys):
    bag = write_hand_bag(tmp_path / 'bag', KITCHEN, ERROR, ('wrist',), lambda i: i % 6 == 0)
    out, picture = tmp_path / 'wrist.yaml', tmp_path / 'lines.png'
    assert calibrate(bag, '--hand-frame', HAND, '--out', str(out), '--picture', str(picture)) == 0
    printed, written = capsys.readouterr().out, out.read_text()
    assert f'parent_frame: {HAND}\nchild_frame: {LINK}' in written
    link = written[written.index('parent_from_child'):]
    found = Transform.from_quaternion(read_numbers(link, 'quaternion'),
                                      read_numbers(link, 'translation'))
    off = log_pose(HAND_FROM_LINK.inverse @ found)
    assert np.linalg.norm(off[3:]) < 0.003
    assert np.degrees(np.linalg.norm(off[:3])) < 0.2
    assert '<origin xyz="0.0' in printed
    assert f'--frame-id {HAND} --child-frame-id {LINK}' in printed
    assert cv2.imread(str(picture)).shape == (960, 1280, 3)


@pytest.mark.parametrize(('words', 'options'), [
    ('poses not interpolable: TF places wrist at the stamps of 0 of its 9 images', {
        'tf_lag_ns': 10**10}),
    ('too few pairs: ', {'keep': lambda i: i % 18 == 0})])
def test_a_recording_that_cannot_do_is_refused(tmp_path, capsys, words, options):
    given = {'keep': lambda i: i % 4 == 0, **options}
    bag = write_hand_bag(tmp_path / 'bag', KITCHEN, NONE, ('wrist',), **given)
    out = tmp_path / 'wrist.yaml'
    assert calibrate(bag, '--hand-frame', HAND, '--out', str(out)) == 3
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_hand_frame_that_does_not_carry_the_camera_is_an_error(tmp_path, capsys):
    bag = write_hand_bag(tmp_path / 'bag', KITCHEN, NONE, ('wrist',), lambda i: i % 4 == 0)
    assert calibrate(bag, '--hand-frame', 'base_link') == 1
    assert 'moves against base_link' in capsys.readouterr().err


@pytest.mark.parametrize('options', [(), ('--noise-cm', '0'), ('--live', '3')])
def test_options_that_make_no_sense_are_errors(options, capsys):
    if not options:
        assert cli.main(['calibrate', '--camera', 'wrist']) == 1
    else:
        assert calibrate(KITCHEN, *options) == 1
    assert '--' in capsys.readouterr().err


def test_the_body_is_the_first_frame_above_the_camera_that_moves():
    frames = {'optical': FrameInfo('link', static=True), 'link': FrameInfo('tool0', static=True),
              'tool0': FrameInfo('base'), 'front': FrameInfo('mast', static=True),
              'mast': FrameInfo('base', static=True)}
    assert find_body(frames, 'base', 'optical') == 'tool0'
    assert find_body(frames, 'base', 'front') == 'base'


def test_matches_are_aligned_to_a_fraction_of_a_pixel():
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (240, 320)).astype(np.float32), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    shift = np.float32([[1, 0, 1.37], [0, 1, -0.61]])
    views = [View('a', np.repeat(np.rint(image).astype(np.uint8)[..., None], 3, axis=2))
             for image in (texture, cv2.warpAffine(texture, shift, (320, 240)))]
    at = rng.uniform((30, 30), (290, 210), (100, 2))
    moved = np.array([1.37, -0.61])
    found_a, found_b = refine_subpixel(*views, at, at + moved + rng.normal(size=(100, 2)))
    assert len(found_a) > 60
    assert np.median(np.linalg.norm(found_b - found_a - moved, axis=1)) < 0.05


def test_roll_pitch_yaw_are_those_of_urdf():
    link = MountLink('a', 'b', exp_pose(np.array([0.3, -0.5, 0.2, 0, 0, 0])))
    roll, pitch, yaw = (np.array(angle) for angle in link.rpy)
    turns = [exp_pose(np.concatenate([angle * axis, np.zeros(3)])).R
             for angle, axis in zip((roll, pitch, yaw), np.eye(3), strict=True)]
    assert np.allclose(turns[2] @ turns[1] @ turns[0], link.parent_from_child.R)


def test_a_bar_is_empty_as_declared_and_full_when_known():
    lines = format_bars(np.array([0.03, 0.005, 0.0005, 0.05, 0.01, 0.0005]), 0.03, 0.05)
    shares = [line.count('#') for line in lines]
    assert shares[0] == shares[3] == 0
    assert shares[2] == shares[5] == 20
    assert 0 < shares[1] < 20
