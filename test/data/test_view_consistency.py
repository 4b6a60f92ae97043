"""The check that views agree: each misreading is named, in its cameras; a healthy rig has none."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Intrinsics, Transform, View
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.consistency import check_scene
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData
from crosspoint_ros.data.view_consistency import (
    BODY_FROM_OPTICAL,
    Disagreement,
    Misreading,
    find_disagreements,
    scale_intrinsics,
)
from crosspoint_ros.scenes import KITCHEN

pytestmark = pytest.mark.usefixtures('matches_once')  # most tests spoil only what else is known

SCENE = KnownScene(KITCHEN)
STAMPS = sorted({frame.stamp_ns for frame in SCENE.frames})
CAMERAS = ('front', 'side', 'wrist')


def read_views(stamp_ns: int = STAMPS[0]) -> list[View]:
    return [SCENE.read_view(f) for f in SCENE.frames if f.stamp_ns == stamp_ns]


VIEWS = read_views()


def with_depth(change):
    return lambda view: replace(view, depth_m=change(view.depth_m).astype(np.float32))


def with_lens(change):
    return lambda view: replace(view, intrinsics=change(view.intrinsics))


def with_pose(change):
    return lambda view: replace(view, base_from_cam=change(view.base_from_cam))


def spoil(fault, cameras=CAMERAS, views=VIEWS) -> list[View]:
    return [fault(view) if view.camera in cameras else view for view in views]


def without_depth(views: list[View]) -> list[View]:
    return [replace(view, depth_m=None) for view in views]


def move(pose: Transform, rng: np.random.Generator, shift_m: float, turn_deg: float) -> Transform:
    shift, axis = (direction / np.linalg.norm(direction) for direction in rng.normal(size=(2, 3)))
    turn = cv2.Rodrigues(axis * np.radians(turn_deg))[0]
    return Transform(turn @ pose.R, pose.t_m + shift * shift_m)


def summarize(found: list[Disagreement]) -> list[tuple]:
    return sorted((d.misreading.name, d.cameras, round(d.factor, 4)) for d in found)


@pytest.mark.parametrize('stamp_ns', STAMPS[::len(STAMPS) // 3])
def test_views_of_a_healthy_rig_agree_with_and_without_depth(stamp_ns):
    views = read_views(stamp_ns)
    assert find_disagreements(views) == []
    assert find_disagreements(without_depth(views)) == []


@pytest.mark.parametrize(('name', 'factor'), [
    ('0.1 mm', 10.0), ('mm as m', 1000.0), ('m as mm', 0.001), ('cm as m', 100.0)])
@pytest.mark.parametrize('cameras', [CAMERAS, ('front',), ('wrist',)])
def test_a_unit_of_depth_is_found_in_its_cameras(name, factor, cameras):
    found = find_disagreements(spoil(with_depth(lambda d: d * factor), cameras))
    assert summarize(found) == [('DEPTH_UNIT', (c,), factor) for c in sorted(cameras)]
    assert all(f'{factor:g}' in d.reading or f'{1 / factor:g}' in d.reading for d in found)
    assert min(d.explained for d in found) > 0.9
    assert max(d.agreement for d in found) < 0.05


@pytest.mark.parametrize('cameras', [CAMERAS, ('side',)])
def test_disparity_is_told_from_a_unit(cameras):
    found = find_disagreements(spoil(with_depth(lambda d: 514.7 * 0.05 / d), cameras))
    assert summarize(found) == [('DISPARITY', (c,), 1.0) for c in sorted(cameras)]


OPENGL = Transform(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
FAULTS = {
    'body frame': (with_pose(lambda p: p @ BODY_FROM_OPTICAL.inverse), 'AXES', 1.0),
    'optical twice': (with_pose(lambda p: p @ BODY_FROM_OPTICAL), 'AXES', 1.0),
    'OpenGL': (with_pose(lambda p: p @ OPENGL), 'AXES', 1.0),
    'inverted': (with_pose(lambda p: p.inverse), 'DIRECTION', 1.0),
    'K of half the size': (with_lens(lambda i: scale_intrinsics(i, 0.5)), 'LENS', 0.5),
    'K of 2/3 of the size': (with_lens(lambda i: scale_intrinsics(i, 2 / 3)), 'LENS', 0.6667),
}


@pytest.mark.parametrize('cameras', [CAMERAS, ('front',), ('side', 'wrist')])
@pytest.mark.parametrize('has_depth', [True, False])
@pytest.mark.parametrize('fault', FAULTS)
def test_axes_lens_and_direction_are_found_in_their_cameras(fault, cameras, has_depth):
    change, code, factor = FAULTS[fault]
    views = spoil(change, cameras)
    found = find_disagreements(views if has_depth else without_depth(views))
    assert summarize(found) == [(code, cameras, factor)]
    assert found[0].explained > 0.9


def scale_focal(factor):
    return with_lens(lambda i: replace(i, fx_px=i.fx_px * factor, fy_px=i.fy_px * factor))


@pytest.mark.parametrize('cameras', [CAMERAS, ('front',), ('side', 'wrist')])
@pytest.mark.parametrize('factor', [2.0, 0.5])
def test_a_focal_length_alone_is_found_by_the_depth(factor, cameras):
    found = find_disagreements(spoil(scale_focal(factor), cameras))
    assert summarize(found) == [('LENS', cameras, factor)]
    assert 'focal length is divided by' in found[0].reading


def test_two_faults_at_once_are_both_named():
    views = spoil(with_depth(lambda d: 10 * d), ('side',))
    views = spoil(FAULTS['body frame'][0], ('front',), views)
    assert summarize(find_disagreements(views)) == [
        ('AXES', ('front',), 1.0), ('DEPTH_UNIT', ('side',), 10.0)]


def test_extrinsics_that_are_centimetres_off_are_no_misreading():
    rng = np.random.default_rng(7)
    for turn_deg in (1.0, 3.0):
        for shift_m in (0.01, 0.02, 0.03):
            views = spoil(with_pose(lambda p, s=shift_m, t=turn_deg: move(p, rng, s, t)))
            assert find_disagreements(views) == [], (shift_m, turn_deg)


def test_a_pose_that_nothing_explains_is_told_by_its_camera():
    rng = np.random.default_rng(3)
    found = find_disagreements(spoil(with_pose(lambda p: move(p, rng, 0.6, 40.0)), ('front',)))
    assert [(d.misreading, d.cameras) for d in found] == [(Misreading.UNKNOWN, ('front',))]
    assert found[0].agreement < 0.25


def test_without_evidence_nothing_is_found():
    grey = [replace(view, image=np.full_like(view.image, 127)) for view in VIEWS]
    twin = replace(VIEWS[1], image=VIEWS[0].image)  # a test pattern in both cameras
    noise = [replace(view, image=np.random.default_rng(n).integers(0, 255, view.image.shape,
                                                                   np.uint8))
             for n, view in enumerate(VIEWS)]
    unknown = [replace(view, base_from_cam=None) for view in VIEWS]
    for views in (grey, [VIEWS[0], twin], noise, unknown, VIEWS[:1], []):
        assert find_disagreements(spoil(FAULTS['inverted'][0], ('side',), views)
                                  if views is not unknown else views) == []


@pytest.mark.parametrize(('lens', 'reason'), [
    (Intrinsics(1.0, 1.0, 0.0, 0.0, 640, 480), 'focal length of 1 x 1 px at a width of 640'),
    (Intrinsics(1029.4, 1029.4, 640.0, 480.0, 640, 480), '(640, 480), outside its 640x480 image'),
    (Intrinsics(1029.4, 1029.4, 618.0, 461.0, 640, 480), '(618, 461), in a corner of its 640x480'),
])
def test_a_lens_that_no_camera_has_is_implausible_by_itself(lens, reason):
    assert reason in lens.explain_implausible()
    assert find_disagreements(spoil(with_lens(lambda _: lens))) == []


@pytest.mark.parametrize('lens', [
    *(view.intrinsics for view in VIEWS),
    Intrinsics(515.0, 515.0, 630.0, 239.5, 640, 480),  # half of a wide image
    Intrinsics(300.0, 300.0, 639.5, 479.5, 1280, 960, (0.0, 0.0, 0.0, 0.0), 'equidistant')])
def test_lenses_of_real_cameras_are_plausible(lens):
    assert lens.explain_implausible() == ''


@pytest.mark.parametrize(('fault', 'words'), [
    ('body frame', r'their frame is read as the body frame'),
    ('K of half the size', r'K is divided by 0\.5')])
def test_a_recording_is_refused_with_what_it_should_be_read_as(tmp_path, fault, words):
    from rgbd_folders import read_kitchen_views, write_scannet
    views = [FAULTS[fault][0](view) for view in read_kitchen_views()]
    with pytest.raises(UnusableData, match=f'agree with other views .* when {words}'):
        check_scene(open_scene(write_scannet(tmp_path / 'scene', views), ReadOptions()))
