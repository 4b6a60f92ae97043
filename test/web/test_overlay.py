"""Rays of the 3D view, and sent images, with any lens and clock."""
from __future__ import annotations

import numpy as np
import pytest
from crosspoint_ros.msg import Correspondence, ImagePoint, QueryResult
from raycast_scenes import LEFT, look_at
from two_camera_rig import make_image_message

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, Transform
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.web.camera_poses import CameraPoses
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.protocol import encode_event

CAMERA = NodeCamera('front', '/front/image', '/front/info', False, False)
BARREL = Intrinsics(300.0, 300.0, 320.0, 240.0, 640, 480, (-0.45, 0.0, 0.0, 0.0, 0.0))
SECOND_NS = 10**9


class StaticPoses:
    """`CameraPoses` of one unmoving camera."""

    def lookup(self, base_frame, frame_id, stamp_ns):
        return look_at(LEFT)

    def get_intrinsics(self, camera):
        return BARREL


def clicked(x, y):
    return QueryResult(clicked=ImagePoint(camera='front', x=x, y=y))


def make_overlay():
    return Overlay(StaticPoses(), lambda name: CAMERA)


def test_without_a_target_the_ray_points_along_the_click():
    overlay = make_overlay()
    overlay.set_result(clicked(320.0, 240.0))
    (ray,) = overlay.build_scene({})['rays']
    along = np.subtract(ray['to'], ray['from'])
    np.testing.assert_allclose(along, 2 * look_at(LEFT).R[:, 2], atol=2e-3)


def test_a_pixel_that_cannot_be_unprojected_has_no_ray():
    assert np.isnan(BARREL.unproject(np.zeros(2))).all()
    overlay = make_overlay()
    overlay.set_result(clicked(0.0, 0.0))
    scene = overlay.build_scene({})
    assert scene['rays'] == []
    encode_event('scene', scene)


def image(stamp_ns, camera='front'):
    message = make_image_message(stamp_ns, 'cam', 'rgb8', np.zeros((4, 4, 3), np.uint8))
    return CameraImage(camera, message)


def test_ten_browsers_cost_one_reprojection_and_later_ones_get_what_tf_knows_by_then(monkeypatch):
    overlay, now_s, known = make_overlay(), [100.0], []
    monkeypatch.setattr('crosspoint_ros.web.overlay.time.monotonic', lambda: now_s[0])
    overlay._poses.lookup = lambda *_: known.append(1) or (
        look_at(LEFT) if len(known) > 2 else None)
    overlay.set_result(clicked(320.0, 240.0))  # the first look-up
    newest = image(SECOND_NS)
    assert [overlay.track_mark(newest) for _ in range(10)] == [{'moved': None, 'mark': None}] * 10
    assert len(known) == 2
    now_s[0] += 0.3
    overlay.resolve_poses()
    assert overlay.track_mark(newest) == {'moved': False, 'mark': None}
    overlay.set_result(None)
    assert overlay.track_mark(newest) == {}, 'of another answer'


def test_a_backward_time_jump_discards_the_images_of_that_camera():
    streams = ImageStreams(None, lambda image: None)
    before, side = image(12 * SECOND_NS), image(12 * SECOND_NS, 'side')
    for each in (before, side, image(20 * SECOND_NS)):
        streams.record_sent(each)
    point = ImagePoint(camera='front')
    point.header.stamp = time_from_ns(12 * SECOND_NS)
    streams.pin([point])
    assert streams.find('front', before.stamp) is before
    streams.record_sent(image(1 * SECOND_NS))
    assert streams.find('front', before.stamp) is None
    assert streams.find('side', side.stamp) is side
    after = image(12 * SECOND_NS)
    streams.record_sent(after)
    assert streams.find('front', before.stamp) is after


class LatePoses(StaticPoses):
    """TF that has not arrived for images after a stamp."""

    until_ns = 5 * SECOND_NS

    def lookup(self, base_frame, frame_id, stamp_ns):
        return look_at(LEFT) if stamp_ns <= self.until_ns else None


def test_a_mark_has_not_moved_before_that_is_known():
    poses = LatePoses()
    overlay = Overlay(poses, lambda name: CAMERA)
    overlay.set_result(clicked(320.0, 240.0))
    assert overlay.track_mark(image(4 * SECOND_NS)) == {'moved': False, 'mark': None}
    assert overlay.track_mark(image(6 * SECOND_NS)) == {'moved': None, 'mark': None}
    poses.until_ns = 7 * SECOND_NS
    assert overlay.track_mark(image(6 * SECOND_NS)) == {'moved': False, 'mark': None}


@pytest.mark.parametrize(('verdict', 'kind'), [
    (Correspondence.SURE, 'sure'), (Correspondence.TO_BE_CHECKED, 'check')])
def test_the_target_in_the_3d_view_has_the_colour_of_the_verdict(verdict, kind):
    overlay, result = make_overlay(), clicked(320.0, 240.0)
    result.has_target = True
    result.correspondences = [Correspondence(verdict=verdict, found=ImagePoint(camera='side'))]
    overlay.set_result(result)
    assert overlay.build_target()['kind'] == kind


class Transforms:
    """Takes the place of TF: knows the pose until `newest_ns`."""

    newest_ns = 0

    def lookup(self, base_frame, frame, at_ns):
        if at_ns > self.newest_ns:
            raise Rejected(Code.NO_TF, 'later than TF')
        return Transform(np.eye(3), np.array([at_ns / 1e9, 0.0, 0.0]))


def test_an_answers_older_image_does_not_replace_the_newest_pose():
    poses = CameraPoses(None)
    poses._transforms = transforms = Transforms()
    for newest_ns in (60 * 10**9, 20 * 10**9):  # the second one after a jump back
        transforms.newest_ns = newest_ns
        assert poses.lookup('base', 'cam', newest_ns) is not None
        assert poses.lookup('base', 'cam', newest_ns - 5 * 10**9) is not None
        late = poses.lookup('base', 'cam', newest_ns + 10**8)
        assert late is not None
        assert late.t_m[0] == pytest.approx(newest_ns / 1e9)
