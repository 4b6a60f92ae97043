"""Depth of another lens: refused by name, or registered so that answers are as good as aligned."""
from __future__ import annotations

import array
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image
from two_camera_rig import make_image_message, make_info_message

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, Transform
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.matchers import load_matcher
from crosspoint_ros.ros.camera_checks import ViewMessages, build_view, list_faults
from crosspoint_ros.ros.conversions import CameraTopics
from crosspoint_ros.scenes import KITCHEN

SCENE = KnownScene(KITCHEN)
T0_NS = min(frame.stamp_ns for frame in SCENE.frames)
# Of depth cameras on the market: millimetres beside the colour lens, focal length as a share of it.
DEPTH_CAMERAS = {'15 mm beside': (0.015, 1.0), '50 mm beside': (0.05, 1.0),
                 '15 mm beside, wider': (0.015, 0.63)}


def look_from_beside(view, beside_m: float, focal: float):
    """The depth, m, and the lens of a camera beside that of an aligned view."""
    depth_m, colour = view.depth_m, view.intrinsics
    lens = replace(colour, fx_px=colour.fx_px * focal, fy_px=colour.fy_px * focal)
    rows, columns = np.nonzero(np.isfinite(depth_m))
    points = view.backproject(np.stack([columns, rows], axis=-1), depth_m[rows, columns])
    points[:, 0] += beside_m
    places = np.rint(lens.project(points)).astype(int)
    inside = ((places >= 0) & (places < (lens.width_px, lens.height_px))).all(axis=1)
    seen_m = np.full(depth_m.shape, np.inf, np.float32)
    np.minimum.at(seen_m, tuple(places[inside].T[::-1]), points[inside, 2].astype(np.float32))
    seen_m[np.isinf(seen_m)] = 0
    return cv2.medianBlur(seen_m, 5), lens


def read_messages(view, depth_m, lens: Intrinsics | None, frame_id: str) -> ViewMessages:
    """The messages of a view whose depth is of another lens."""
    topics = CameraTopics(view.camera, 'image', 'info', 'depth', False, 'depth_info')
    stamp_ns, frame = view.stamp_ns, f'{view.camera}_optical'
    millimetres = np.rint(np.nan_to_num(depth_m) * 1000).astype(np.uint16)
    return ViewMessages.decode(
        topics, make_image_message(stamp_ns, frame, 'rgb8', view.image),
        make_info_message(stamp_ns, frame, view.intrinsics),
        make_image_message(stamp_ns, frame_id, '16UC1', millimetres),
        None if lens is None else make_info_message(stamp_ns, frame_id, lens))


@pytest.fixture(scope='module')
def matcher():
    return load_matcher('xfeat')


@pytest.mark.parametrize(('beside_m', 'focal'), DEPTH_CAMERAS.values(), ids=DEPTH_CAMERAS)
def test_in_the_kitchen_depth_of_another_lens_is_refused_or_registered_as_good_as_aligned(
        matcher, beside_m, focal):
    asked, views = [], {}

    def lookup(frame, depth_frame, stamp_ns):
        asked.append((frame, depth_frame, stamp_ns))
        return Transform(np.eye(3), np.array([-beside_m, 0.0, 0.0]))

    for camera in ('front', 'side'):
        frame = SCENE.find_frame(camera, T0_NS)
        view = SCENE.read_view(frame)
        depth_m, lens = look_from_beside(view, beside_m, focal)
        depth_frame = f'{camera}_depth_optical'
        with pytest.raises(Rejected, match=f"'{depth_frame}', its image has '{camera}_optical'"
                           ) as refused:
            build_view(read_messages(view, depth_m, None, depth_frame), lookup)
        assert refused.value.code == Code.NO_DEPTH
        built = build_view(read_messages(view, depth_m, lens, depth_frame), lookup)
        views[camera] = replace(built, base_from_cam=SCENE.base_from_cam[frame])
    assert asked == [(f'{c}_optical', f'{c}_depth_optical', T0_NS) for c in ('front', 'side')]
    errors_mm = []
    for point in SCENE.points:
        if point.clicked != SCENE.find_frame('front', T0_NS) or not any(
                frame == SCENE.find_frame('side', T0_NS) and shown.visible
                for frame, shown in point.projections.items()):
            continue
        try:
            result = locate(views['front'], [views['side']], point.pixel, matcher)
        except Rejected:
            continue
        if result.target is not None and result.target.confidence >= Limits().sure_confidence:
            errors_mm.append(1000 * np.linalg.norm(
                result.target.base_from_target.t_m - point.point_base_m))
    print(f'{len(errors_mm)} sure targets, median {np.median(errors_mm):.1f} mm, '
          f'max {max(errors_mm):.1f} mm')
    assert len(errors_mm) >= 8
    assert max(errors_mm) < 20
    assert np.median(errors_mm) < 5


def test_depth_of_the_image_s_own_lens_is_taken_as_it_is():
    view = SCENE.read_view(SCENE.find_frame('front', T0_NS))
    messages = read_messages(view, view.depth_m, view.intrinsics, 'front_optical')
    assert not messages.needs_registration
    built = build_view(messages, lambda *frames: pytest.fail('TF is not needed'))
    np.testing.assert_allclose(built.depth_m, view.depth_m, atol=6e-4)


def test_all_faults_of_one_camera_are_listed_and_the_first_is_refused():
    view = SCENE.read_view(SCENE.find_frame('front', T0_NS))
    half = view.depth_m[::2, ::2]
    good = read_messages(view, half, None, 'depth_optical')
    blind = Image(encoding='nv99', width=1, height=1, step=1, data=array.array('B', [0]))
    for image, expected in ((good.image, ['mask-size', 'depth-size', 'depth-frame']),
                            (blind, ['image-refused', 'depth-frame'])):
        image.header = good.image.header
        messages = ViewMessages.decode(good.topics, image, good.info, good.depth,
                                       mask=np.zeros((2, 2), bool))
        faults = list(list_faults(messages))
        assert [fault.finding for fault in faults] == expected
        with pytest.raises(Rejected) as refused:
            build_view(messages, lambda *frames: pytest.fail('TF is not needed'))
        assert refused.value.message == faults[0].message
