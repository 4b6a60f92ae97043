"""What an answer rests on: lines, depth and thumbnails, with bad input too."""
from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from crosspoint_ros.msg import Correspondence, GraspTarget, ImagePoint, QueryResult, Status
from sensor_msgs.msg import Image

from crosspoint_ros.core.datatypes import Intrinsics, Transform
from crosspoint_ros.core.geometry import distance_to_segment_px
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import find_refused_pixel, format_verdict, result_to_json
from crosspoint_ros.web.evidence import depth
from crosspoint_ros.web.evidence import server as server_module
from crosspoint_ros.web.evidence.depth import (
    MAX_OVERLAY_PX,
    MAX_POINTS,
    DepthStreams,
    encode_cloud,
    encode_overlay,
)
from crosspoint_ros.web.evidence.server import (
    MAX_OPEN,
    MAX_WAITING,
    THUMBNAIL_PX,
    EvidenceServer,
    crop_thumbnail,
    project_ray,
)
from crosspoint_ros.web.evidence.settings import NAMES, list_slider_specs
from crosspoint_ros.web.image_streams import ImageStreams
from crosspoint_ros.web.link import LinkMonitor
from crosspoint_ros.web.overlay import find_sigma_axes
from crosspoint_ros.web.protocol import (
    DoctorRequest,
    HoverRequest,
    LimitsRequest,
    RequestError,
    ThumbnailRequest,
)

LENS = Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)
HERE = Transform(np.eye(3), np.zeros(3))
BESIDE = Transform(np.eye(3), np.array([0.4, 0.05, 0.1]))


def depth_message(depth_m: np.ndarray) -> Image:
    data = np.ascontiguousarray(depth_m, np.float32)
    return Image(height=data.shape[0], width=data.shape[1], encoding='32FC1',
                 step=4 * data.shape[1], data=data.tobytes())


def points_of(cloud: dict) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(cloud['points']), '<i2').reshape(-1, 6)
    return steps[:, :3] * cloud['step_m'] + cloud['origin_m']


# --- lines

@pytest.mark.parametrize('depth_m', [0.4, 1.0, 5.0])
def test_every_point_of_the_clicked_ray_is_on_the_line(depth_m):
    pixel = (400.0, 200.0)
    line = project_ray(pixel, (LENS, HERE), (LENS, BESIDE))
    point_base_m = LENS.unproject(np.array(pixel)) / LENS.unproject(np.array(pixel))[2] * depth_m
    seen = LENS.project(BESIDE.inverse.transform_points(point_base_m))
    assert distance_to_segment_px(line, seen) < 0.5


def test_a_line_stays_near_the_image_and_is_none_behind_the_camera():
    line = project_ray((10.0, 10.0), (LENS, HERE), (LENS, BESIDE))
    assert ((line > -640) & (line < 1280)).all()
    behind = Transform(np.diag([-1.0, 1.0, -1.0]), np.array([0.0, 0.0, -1.0]))
    assert len(project_ray((320.0, 240.0), (LENS, HERE), (LENS, behind))) == 0


# --- depth

def test_near_is_red_far_is_blue_and_unknown_is_clear():
    depth_m = np.tile(np.linspace(0.5, 2.0, 640), (480, 1))
    depth_m[:100] = np.nan
    overlay = encode_overlay(depth_message(depth_m))
    bgra = cv2.imdecode(np.frombuffer(base64.b64decode(overlay['png']), np.uint8),
                        cv2.IMREAD_UNCHANGED)
    assert max(bgra.shape[:2]) <= MAX_OVERLAY_PX
    assert bgra[0, 0, 3] == 0
    near, far = bgra[-1, 2], bgra[-1, -3]
    assert near[2] > near[0]
    assert far[0] > far[2]
    assert (overlay['near_m'], overlay['far_m']) == pytest.approx((0.53, 1.97), abs=0.02)


@pytest.mark.parametrize('depth_m', [np.full((48, 64), np.nan), np.zeros((48, 64)),
                                     np.full((48, 64), -1.0), np.full((48, 64), np.inf)])
def test_depth_without_a_depth_is_a_sentence(depth_m):
    overlay = encode_overlay(depth_message(depth_m))
    assert overlay == {'png': '', 'problem': 'the depth image has no depth'}
    lens = Intrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)
    cloud = encode_cloud({'wrist': (depth_message(depth_m), (lens, HERE))})
    assert cloud['count'] == 0
    assert list(cloud['missing']) == ['wrist']


def test_an_unknown_encoding_is_a_sentence():
    overlay = encode_overlay(Image(height=2, width=2, encoding='rgb8', step=6, data=bytes(12)))
    assert not overlay['png']
    assert 'rgb8' in overlay['problem']


@pytest.mark.parametrize(('width', 'height'), [(160, 120), (640, 480), (3840, 2160)])
@pytest.mark.parametrize('cameras', [1, 12])
def test_a_cloud_has_few_points_whatever_the_cameras(width, height, cameras):
    lens = Intrinsics(width, width, width / 2, height / 2, width, height)
    view = (depth_message(np.full((height, width), 1.5)), (lens, BESIDE))
    cloud = encode_cloud({f'camera{number}': view for number in range(cameras)})
    assert min(5000, MAX_POINTS // 2) < cloud['count'] <= MAX_POINTS
    points_m = points_of(cloud)
    assert points_m[:, 2] == pytest.approx(1.6, abs=0.001)  # the camera is 0.1 m ahead of the base
    assert np.ptp(points_m[:, 0]) == pytest.approx(1.5, rel=0.05)


def test_depth_of_another_size_than_the_lens_has_no_points():
    cloud = encode_cloud({'wrist': (depth_message(np.ones((48, 64))), (LENS, HERE))})
    assert cloud['count'] == 0
    assert 'another size' in cloud['missing']['wrist']
    assert encode_cloud({})['count'] == 0


def test_the_points_of_a_camera_keep_its_name_when_another_has_none():
    broken = (Image(height=2, width=2, encoding='rgb8', step=6, data=bytes(12)), (LENS, HERE))
    good = (depth_message(np.full((480, 640), 1.5)), (LENS, BESIDE))
    cloud = encode_cloud({'front': broken, 'side': good}, 1000)
    steps = np.frombuffer(base64.b64decode(cloud['points']), '<i2').reshape(-1, 6)
    assert {cloud['cameras'][index] for index in steps[:, 3]} == {'side'}
    assert list(cloud['missing']) == ['front']
    assert 0 < cloud['count'] <= 1000


class Bridge:
    """Takes the place of the ROS side: subscriptions, and their messages."""

    def __init__(self) -> None:
        self.callbacks, self.first = {}, None  # a message for each new subscription

    def subscribe(self, key, kind, topic, callback, qos):
        self.callbacks[key] = callback
        if self.first is not None:
            asyncio.get_running_loop().call_soon(callback, self.first)

    def unsubscribe(self, key):
        del self.callbacks[key]


def test_depth_of_a_camera_that_stopped_is_refused_with_its_age(monkeypatch):
    monkeypatch.setattr(depth, 'MAX_AGE_S', 0.2)
    cameras = [NodeCamera('front', '/front', '/info', False, True, depth_topic='/front/depth'),
               NodeCamera('side', '/side', '/info', False, True, depth_topic='/side/depth')]

    async def run():
        bridge = Bridge()
        bridge.first = depth_message(np.full((480, 640), 1.5))
        streams = DepthStreams(bridge, ThreadPoolExecutor(1))
        first = await streams.build_overlay(cameras[0]), await streams.build_cloud(
            cameras, lambda *_: (LENS, HERE))
        await asyncio.sleep(0.5)
        bridge.callbacks['depth', 'side'](bridge.first)
        return first, await streams.build_overlay(cameras[0]), await streams.build_cloud(
            cameras, lambda *_: (LENS, HERE))
    (overlay, cloud), stopped, partly = asyncio.run(run())
    assert overlay['png']
    assert overlay['stamp'] == '0'
    assert (cloud['cameras'], cloud['missing']) == (['front', 'side'], {})
    assert not stopped['png']
    assert re.fullmatch(r'no depth on /front/depth for \d s', stopped['problem'])
    assert partly['cameras'] == ['side']
    assert list(partly['missing']) == ['front']


# --- requests

class Browser:
    """Takes the place of a session: keeps its events."""

    def __init__(self, can_act: bool = True) -> None:
        self.can_act, self.events, self.link = can_act, [], LinkMonitor()

    def send_event(self, event):
        self.events.append(json.loads(event))

    def list_kinds(self):
        return [event['type'] for event in self.events]


def serve(conversation):
    async def run():
        bridge = Bridge()
        bridge.name = '/crosspoint'
        return await conversation(EvidenceServer(
            bridge, ImageStreams(bridge, print), None, lambda query_id: None, list, str))
    return asyncio.run(run())


def test_a_flood_of_requests_has_a_bound_and_its_limits_are_read_once(monkeypatch):
    reads = []

    async def read(bridge):
        reads.append(bridge)
        await asyncio.sleep(0.1)
        return []
    monkeypatch.setattr(server_module, 'read_limits', read)

    async def conversation(server):
        browsers = [Browser(can_act=False) for _ in range(5)]
        for browser in browsers:
            for _ in range(100):
                server.serve(browser, LimitsRequest())
        flood, refused = Browser(), 0
        for number in range(100):
            try:
                server.serve(flood, ThumbnailRequest(str(number)))
            except RequestError:
                refused += 1
        await asyncio.sleep(0.05)
        assert len(reads) == 1
        await asyncio.sleep(0.3)
        assert refused == 100 - MAX_WAITING
        assert flood.list_kinds().count('thumbnail') == MAX_WAITING
        return [len(browser.events) for browser in browsers]
    counts = serve(conversation)
    assert all(1 <= count <= MAX_OPEN + 1 for count in counts)
    assert len(reads) <= 2


def test_of_many_places_under_the_cursor_the_newest_gets_its_lines():
    async def conversation(server):
        browser = Browser()
        for x in range(1000):
            server.serve(browser, HoverRequest('front', '1', float(x), 0.0))
        await asyncio.sleep(0.1)
        return browser.events
    events = serve(conversation)
    assert len(events) <= 2
    assert events[-1]['x'] == 999.0


def test_a_viewer_starts_no_process_and_a_bug_is_reported(monkeypatch):
    async def fail(node):
        raise KeyError(node)
    monkeypatch.setattr(server_module, 'run_doctor', fail)

    async def conversation(server):
        viewer, operator = Browser(can_act=False), Browser()
        for browser in (viewer, operator):
            server.serve(browser, DoctorRequest())
        await asyncio.sleep(0.05)
        return viewer.events, operator.events
    viewer, operator = serve(conversation)
    assert 'look and not act' in viewer[0]['problem']
    assert 'KeyError' in operator[0]['problem']


def test_a_browser_that_leaves_ends_what_it_asked_for(monkeypatch):
    async def wait(node):
        await asyncio.sleep(60)
    monkeypatch.setattr(server_module, 'run_doctor', wait)

    async def conversation(server):
        browser = Browser()
        server.serve(browser, DoctorRequest())
        await asyncio.sleep(0.02)
        before = len(asyncio.all_tasks())
        server.forget(browser)
        await asyncio.sleep(0.02)
        return before - len(asyncio.all_tasks()), browser.events
    assert serve(conversation) == (1, [])


# --- thumbnails

def test_a_thumbnail_is_centred_on_the_click_also_where_the_jpeg_is_smaller():
    image = np.zeros((480, 640, 3), np.uint8)
    image[196:205, 296:305] = 255
    for scale in (1.0, 0.5):
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode('.jpg', small)[1].tobytes()
        cut = cv2.imdecode(np.frombuffer(base64.b64decode(
            crop_thumbnail(jpeg, (300.0, 200.0), 640)), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert cut.shape == THUMBNAIL_PX[::-1]
        rows, columns = np.nonzero(cut > 128)
        assert (columns.mean(), rows.mean()) == pytest.approx((47.5, 35.5), abs=1.0)


def test_a_thumbnail_of_a_click_in_the_corner_and_of_no_image():
    jpeg = cv2.imencode('.jpg', np.full((48, 64, 3), 200, np.uint8))[1].tobytes()
    assert crop_thumbnail(jpeg, (0.0, 47.0), 64)
    assert crop_thumbnail(b'no image', (0.0, 0.0), 64) == ''


# --- results

def make_answer(verdict: int, message: str = '') -> Correspondence:
    return Correspondence(verdict=verdict, status=Status(message=message))


@pytest.mark.parametrize(('at', 'pixel'), [
    ((312.4, 20.0), [312.4, 20.0]), ((-3.0, 7.5), [-3.0, 7.5]), ((math.nan, math.nan), None)])
def test_the_refused_place_is_read_from_its_field(at, pixel):
    answer = make_answer(Correspondence.REFUSED)
    answer.refused_at = ImagePoint(x=at[0], y=at[1])
    assert find_refused_pixel(answer) == pixel
    found = result_to_json(QueryResult(query_id='q', correspondences=[answer]))['found'][0]
    assert found['refused_px'] == pixel
    accepted = make_answer(Correspondence.SURE)
    accepted.refused_at = answer.refused_at
    found = result_to_json(QueryResult(query_id='q', correspondences=[accepted]))['found'][0]
    assert found['refused_px'] is None


@pytest.mark.parametrize(('verdicts', 'has_target', 'expected'), [
    ([0, 0], False, 'refused'), ([0, 0], True, 'check'), ([0, 1], True, 'check'),
    ([1, 2], True, 'sure'), ([2], False, 'sure'), ([], False, 'refused')])
def test_the_verdict_of_a_result_is_that_of_its_best_view(verdicts, has_target, expected):
    result = QueryResult(correspondences=[make_answer(verdict) for verdict in verdicts],
                         has_target=has_target, target=GraspTarget())
    assert format_verdict(result) == expected


def test_the_ellipsoid_has_the_sigmas_of_the_position():
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = np.diag([0.01, 0.002, 0.003]) ** 2
    axes = np.array(find_sigma_axes(covariance.ravel()))
    assert sorted(np.linalg.norm(axes, axis=1)) == pytest.approx([0.002, 0.003, 0.01])
    assert find_sigma_axes(np.full(36, np.nan)) == []
    assert find_sigma_axes(np.zeros(36)) == []


def test_every_slider_has_a_range():
    specs = list_slider_specs()
    assert [spec.name for spec in specs] == [f'limits.{name}' for name in NAMES]
    assert all(spec.low < spec.default < spec.high for spec in specs)
