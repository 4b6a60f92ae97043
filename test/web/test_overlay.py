"""The answer in 3D and the pictures it was given on, whatever lens and clock a camera has."""
from __future__ import annotations

import numpy as np
from crosspoint_ros.msg import ImagePoint, QueryResult
from raycast_scenes import LEFT, looking_at
from two_camera_rig import image_message

from crosspoint_ros.core.datatypes import Intrinsics
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.protocol import encode_event

CAMERA = NodeCamera('front', '/front/image', '/front/info', False, False)
BARREL = Intrinsics(300.0, 300.0, 320.0, 240.0, 640, 480, (-0.45, 0.0, 0.0, 0.0, 0.0))
SECOND_NS = 10**9


class Still:
    """Vantages of a camera that stands still (a double: no graph)."""

    def where(self, base_frame, frame, at_ns):
        return looking_at(LEFT)

    def lens(self, camera):
        return BARREL


def clicked(x, y):
    return QueryResult(clicked=ImagePoint(camera='front', x=x, y=y))


def anchors():
    return Overlay(Still(), lambda name: CAMERA)


def test_an_open_ray_is_drawn_from_the_camera_along_the_click():
    shown = anchors()
    shown.set_result(clicked(320.0, 240.0))
    (ray,) = shown.build_scene({})['rays']
    along = np.subtract(ray['to'], ray['from'])
    np.testing.assert_allclose(along, 2 * looking_at(LEFT).R[:, 2], atol=2e-3)


def test_a_click_where_the_lens_bends_no_ray_to_has_no_ray_and_can_be_told():
    assert np.isnan(BARREL.unproject(np.zeros(2))).all()
    shown = anchors()
    shown.set_result(clicked(0.0, 0.0))
    scene = shown.build_scene({})
    assert scene['rays'] == []
    encode_event('scene', scene)


def picture(stamp_ns, camera='front'):
    message = image_message(stamp_ns, 'cam', 'rgb8', np.zeros((4, 4, 3), np.uint8))
    return CameraImage(camera, message)


def test_pictures_of_before_a_jump_in_time_do_not_pass_for_those_with_the_same_stamps():
    looking = ImageStreams(None, lambda picture: None)
    before, side = picture(12 * SECOND_NS), picture(12 * SECOND_NS, 'side')
    for each in (before, side, picture(20 * SECOND_NS)):
        looking.record_sent(each)
    point = ImagePoint(camera='front')
    point.header.stamp = time_from_ns(12 * SECOND_NS)
    looking.pin([point])
    assert looking.find_sent('front', before.stamp) is before
    looking.record_sent(picture(1 * SECOND_NS))
    assert looking.find_sent('front', before.stamp) is None
    assert looking.find_sent('side', side.stamp) is side
    after = picture(12 * SECOND_NS)
    looking.record_sent(after)
    assert looking.find_sent('front', before.stamp) is after
