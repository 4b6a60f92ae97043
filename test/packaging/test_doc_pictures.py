"""The pictures of docs/results_and_refusals.md, drawn by the real thing on the built-in scene."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.core.visualization import concatenate_images, draw_result
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.scenes import KITCHEN

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'build' / 'screenshots'
HEIGHT_PX = 330


def badly_calibrated(view):
    if view.camera == 'front':
        return view
    pose = raycast_scenes.add_pose_noise(view.base_from_cam, 12.0, 10.0, seed=2)
    return replace(view, base_from_cam=pose)


# name of the picture -> the point, what is taken from the views, what it must come to
CASES = {
    'sure': ('mug body', lambda view: view, Code.OK, True),
    'to_be_checked': ('drawer handle', lambda view: view, Code.OK, False),
    'not_visible': ('towel corner', lambda view: view, Code.NOT_VISIBLE, False),
    'inconsistent': ('board edge', badly_calibrated, Code.INCONSISTENT, False),
}


@pytest.fixture(scope='module')
def recording():
    return KnownScene(KITCHEN)


@pytest.mark.parametrize('name', CASES)
def test_each_verdict_of_the_documentation_can_be_seen(recording, name):
    point, taken, code, sure = CASES[name]
    affordance = next(a for a in recording.points
                      if a.name == point and a.clicked.camera == 'front')
    moment = next(m for m in recording.frames if m.camera == 'side' and m in affordance.projections)
    clicked, other = (taken(recording.read_view(m)) for m in (affordance.clicked, moment))
    limits = Limits()
    located = locate(clicked, [other], affordance.pixel, load_matcher('xfeat'), limits)
    answer = located.correspondences[0]
    assert (Code.OK if answer.rejected is None else answer.rejected.code) == code
    assert sure == (code == Code.OK and answer.match.confidence >= limits.sure_confidence)
    drawn = {view.camera: rgb for view, rgb in draw_result(located, {'front', 'side'}, limits)}
    row = concatenate_images([drawn['front'], drawn['side']], ['front: clicked', 'side'])
    width_px = round(row.shape[1] * HEIGHT_PX / row.shape[0])
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_image(FOLDER / f'verdict_{name}.png',
              cv2.resize(row, (width_px, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    shown = cv2.imread(str(ROOT / 'docs' / 'images' / f'verdict_{name}.jpg'))
    assert shown is not None, f'docs/images/verdict_{name}.jpg: make it from {FOLDER}'
    mine = cv2.imread(str(FOLDER / f'verdict_{name}.png'))
    assert shown.shape == mine.shape
    # Not to the pixel: confidences move in the second digit from one OpenCV to the next.
    assert np.abs(shown.astype(int) - mine).mean() < 6.0
