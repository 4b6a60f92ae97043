"""Images that do not lie where depth and poses say are noticed, whole or in parts."""
from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from rgbd_folders import read_kitchen_views, write_scannet

from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.data.qa.frame_pairs import GRID_PX
from crosspoint_ros.data.qa.photometric import (
    FlowReference,
    measure_flow_px,
    reject_shifted_points,
)
from crosspoint_ros.data.qa.point_visibility import Visibility, make_grid, project_points

VIEWS = read_kitchen_views()
CLICKED, OTHER = VIEWS[2], VIEWS[3]


def turned(view, degrees):
    """Return the view with a pose that is turned about its own vertical axis."""
    turn = cv2.Rodrigues(np.radians([0.0, degrees, 0.0]))[0]
    return replace(view, base_from_cam=view.base_from_cam @ Transform(turn, np.zeros(3)))


def compared(clicked, other):
    pixels = make_grid(clicked, GRID_PX)
    projected = project_points(clicked, other, pixels)
    reason = reject_shifted_points(FlowReference.from_view(clicked), other, pixels, projected)
    return reason, pixels, projected


@pytest.mark.parametrize('number', range(1, 8))
def test_true_poses_leave_no_shift(number):
    problem, _, projected = compared(VIEWS[0], VIEWS[number])
    assert problem == ''
    assert not (projected.visibility == Visibility.MISALIGNED).any()
    shift = measure_flow_px(FlowReference.from_view(VIEWS[0]), VIEWS[number])
    assert np.nanmedian(shift) < 0.5


@pytest.mark.parametrize('degrees', [0.7, 1.0, -1.0, 2.0])
def test_a_pose_that_is_a_little_off_is_noticed_and_measured(degrees):
    assert 'misaligned by more than 4 px' in compared(CLICKED, turned(OTHER, degrees))[0]
    expected_px = OTHER.intrinsics.fx_px * np.radians(abs(degrees))
    shift = np.nanmedian(measure_flow_px(FlowReference.from_view(CLICKED),
                                         turned(OTHER, degrees)))
    assert abs(shift - expected_px) < 0.1 * expected_px


def test_a_thing_that_moved_is_left_out_and_the_rest_is_not():
    shift = measure_flow_px(FlowReference.from_view(CLICKED), OTHER)
    told = cv2.boxFilter(np.isfinite(shift).astype(np.float32), -1, (50, 50))
    row, column = np.unravel_index(told[60:180, 60:260].argmax(), (120, 200))
    at = np.array([[2.0 * column + 120.5, 2.0 * row + 120.5]])
    x, y = project_points(CLICKED, OTHER, at).pixels[0].round().astype(int)
    image = OTHER.image.copy()
    image[y - 60:y + 60, x - 60:x + 60] = OTHER.image[y - 60:y + 60, x - 70:x + 50]
    problem, _, after = compared(CLICKED, replace(OTHER, image=image))
    assert problem == ''
    shifted = after.pixels[after.visibility == Visibility.MISALIGNED]
    assert len(shifted)
    assert (np.abs(shifted - (x, y)).max(axis=1) < 90).all()


def test_images_without_texture_tell_nothing():
    bare = replace(OTHER, image=np.full_like(OTHER.image, 90))
    assert 'too little common texture' in compared(replace(CLICKED, image=bare.image), bare)[0]


@pytest.mark.parametrize('size', [(640, 100), (100, 640), (40, 30), (1280, 720)])
def test_every_size_can_be_compared(size):
    def resized(view):
        lens, (width, height) = view.intrinsics, size
        x, y = width / lens.width_px, height / lens.height_px
        return replace(
            view, image=cv2.resize(view.image, size), depth_m=cv2.resize(
                view.depth_m, size, interpolation=cv2.INTER_NEAREST),
            intrinsics=replace(lens, fx_px=lens.fx_px * x, fy_px=lens.fy_px * y, width_px=width,
                               height_px=height, cx_px=(lens.cx_px + 0.5) * x - 0.5,
                               cy_px=(lens.cy_px + 0.5) * y - 0.5))
    problem, _, _ = compared(resized(CLICKED), resized(OTHER))
    assert problem == '' or 'texture' in problem


def test_what_is_built_leaves_out_frames_with_poses_that_are_off(tmp_path, capsys):
    views = read_kitchen_views(12)
    off = (3, 7, 11)
    given = [turned(view, 1.2) if i in off else view for i, view in enumerate(views)]
    folder, out = write_scannet(tmp_path / 'scene', given), tmp_path / 'out'
    assert main(['data', 'build', str(folder), '--number', '400', '--out', str(out)]) == 0
    assert 'pair: the images are misaligned by more than 4 px' in capsys.readouterr().out
    items = json.loads((out / 'crosspoint_train.json').read_text())
    asked = Counter()
    for item in items:
        if 'pair' in item:
            asked[(int(item['pair']['clicked']) in off) + (int(item['pair']['other']) in off)] += 1
    assert asked[0] > 100
    assert asked[1] == 0, 'a frame with a wrong pose and one with a right one disagree'
