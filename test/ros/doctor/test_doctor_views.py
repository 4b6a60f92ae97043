"""The doctor on the live kitchen: what the views and the camera's messages contradict is named."""
from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from doc_messages import is_documented
from geometry_msgs.msg import TransformStamped
from kitchen_cameras import FIRST, RECORDING, KitchenCameras
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo
from two_camera_rig import DOMAINS, make_image_message

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.data.view_consistency import BODY_FROM_OPTICAL
from crosspoint_ros.ros.conversions import time_from_ns, transform_to_msg
from crosspoint_ros.ros.doctor.cli import diagnose
from crosspoint_ros.ros.doctor.probe import collect_snapshot

pytestmark = pytest.mark.usefixtures('matches_once')

RAW_DEPTH = '/aligned_depth_to_color/image_raw'
IMAGE, DEPTH, INFO = ('/color/image_raw/compressed', f'{RAW_DEPTH}/compressedDepth',
                      '/color/camera_info')
CAMERAS = ('front', 'side', 'wrist')
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Messages = dict[str, Any]  # by topic within the camera
NO_NODE = 'no-node'  # the doctor reads the parameters from a file


class StampingPublisher:
    """Publishes camera infos with other stamps."""

    def __init__(self, publisher: Any, offset_s: float | None) -> None:
        self._publisher, self._offset_s = publisher, offset_s

    def publish(self, message: CameraInfo) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        message.header.stamp = time_from_ns(
            0 if self._offset_s is None else stamp_ns + int(self._offset_s * 1e9))
        self._publisher.publish(message)


class ChangedKitchen(KitchenCameras):
    """The still kitchen with changed messages and poses.

    info_offset_s: of the camera infos' stamps; None: they have none.
    """

    info_offset_s: float | None = 0.0

    def __init__(self, context: Context, change: Callable[[str, Messages], Messages],
                 change_pose: Callable[[str, Transform], Transform]) -> None:
        self._change_pose = change_pose
        super().__init__(still=True, context=context)
        self._messages = {frame: change(frame.camera, dict(messages)) for frame, messages in
                          self._messages.items() if frame in FIRST.values()}

    def _get_publisher(self, topic, kind):
        publisher = super()._get_publisher(topic, kind)
        return StampingPublisher(publisher, self.info_offset_s) if (
            topic.endswith(INFO) and self.info_offset_s != 0) else publisher

    def _pose(self, frame, stamp_ns: int) -> TransformStamped:
        pose = super()._pose(frame, stamp_ns)
        pose.transform = transform_to_msg(
            self._change_pose(frame.camera, RECORDING.base_from_cam[frame]))
        return pose


@contextmanager
def run_kitchen(domain: int, change=lambda camera, messages: messages,
                change_pose=lambda camera, pose: pose, kind: type | None = None
                ) -> Iterator[ChangedKitchen]:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = (kind or ChangedKitchen)(context, change, change_pose)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stopped = threading.Event()
    thread = threading.Thread(
        target=lambda: [executor.spin_once(0.05) for _ in iter(stopped.is_set, True)])
    thread.start()
    try:
        yield node
    finally:
        stopped.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


@pytest.fixture
def domain(monkeypatch) -> int:
    number = next(DOMAINS)
    monkeypatch.setenv('ROS_DOMAIN_ID', str(number))
    return number


@pytest.fixture
def params(tmp_path) -> Callable[..., Path]:
    def write(depth: str = RAW_DEPTH, **common: Any) -> Path:
        lines = ['/**:', '  ros__parameters:', f'    cameras: [{", ".join(CAMERAS)}]',
                 '    base_frame: base_link']
        for camera in CAMERAS:
            values = {'transport': 'compressed', **common}
            if depth:
                values['depth_topic'] = f'/{camera}{depth}'
            inner = ', '.join(f'{name}: {value}' for name, value in values.items())
            lines.append(f'    {camera}: {{{inner}}}')
        path = tmp_path / 'kitchen.yaml'
        path.write_text('\n'.join(lines) + '\n')
        return path
    return write


def list_findings(params: Path, node: str = '/crosspoint') -> dict[tuple[str, str], Any]:
    """The findings by code and camera, or third word; each must be on the page."""
    found = [f for f in diagnose(collect_snapshot(node, 1.5, [params], 2.5))
             if f.code.value != NO_NODE]
    assert [str(f) for f in found if not is_documented(f.code.value, f.message)] == []
    assert [f.cure for f in found if len(f.cure) > 200] == []
    return {(f.code.value, f.camera or f.message.split()[2]): f for f in found}


def send_raw_depth(scale: float = 1000.0, encoding: str = '16UC1', cameras=CAMERAS,
                   change=lambda depth_m: depth_m):
    """Depth as drivers send it raw: the value of one metre, and the encoding."""
    def apply(camera: str, messages: Messages) -> Messages:
        frame = FIRST[camera]
        depth_m, factor = RECORDING.read_view(frame).depth_m, scale
        kind = np.uint16 if encoding == '16UC1' else np.float32
        if camera in cameras:
            depth_m = change(depth_m)
        elif encoding == '16UC1':
            factor = 1000.0
        pixels = np.nan_to_num(depth_m * factor).round(6 if kind is np.float32 else 0).clip(
            0, 65535).astype(kind)
        messages[RAW_DEPTH] = make_image_message(0, messages[IMAGE].header.frame_id, encoding,
                                                 pixels)
        return messages
    return apply


def change_info(change: Callable[[CameraInfo], None], cameras=CAMERAS):
    def apply(camera: str, messages: Messages) -> Messages:
        if camera in cameras:
            change(messages[INFO])
        return messages
    return apply


def scale_k(info: CameraInfo, factor: float) -> None:
    k = np.array(info.k)
    k[[0, 2, 4, 5]] *= factor
    info.k = k


def set_k(info: CameraInfo, k: np.ndarray) -> None:
    info.k = k


# --- the views

def test_a_healthy_kitchen_has_no_findings_with_each_transport_of_depth(domain, params):
    with run_kitchen(domain, send_raw_depth()):
        assert list_findings(params(depth_transport='raw')) == {}
        assert list_findings(params(RAW_DEPTH)) == {}


@pytest.mark.parametrize(('messages', 'codes', 'words'), [
    (send_raw_depth(10000.0), [('depth-unit', c) for c in CAMERAS],
     'agrees with the other views when divided by 10 ('),
    (send_raw_depth(1000.0, '32FC1'), [('depth-unit', c) for c in CAMERAS],
     'when divided by 1000 ('),
    (send_raw_depth(1.0, '32FC1', change=lambda d: 514.7 * 0.05 / d),
     [('depth-disparity', c) for c in CAMERAS], 'read as disparity'),
    (send_raw_depth(10000.0, cameras=('side',)), [('depth-unit', 'side')], 'divided by 10')])
def test_depth_in_another_unit_is_named_with_its_factor(domain, params, messages, codes, words):
    with run_kitchen(domain, messages):
        found = list_findings(params(depth_transport='raw'))
    assert sorted(found) == sorted(codes)
    assert all(words in f.message and f.is_error for f in found.values())


BODY = BODY_FROM_OPTICAL.inverse


@pytest.mark.parametrize(('change_pose', 'code', 'words', 'cure'), [
    (lambda camera, pose: pose @ BODY, 'camera-axes', 'body frame (x forward', 'optical'),
    (lambda camera, pose: pose @ BODY if camera == 'side' else pose, 'camera-axes',
     'the views of side agree', 'optical'),
    (lambda camera, pose: pose.inverse if camera == 'front' else pose, 'pose-inverted',
     'the views of front agree', 'inverse')])
@pytest.mark.parametrize('depth', [RAW_DEPTH, ''])
def test_axes_and_direction_of_a_pose_are_named(domain, params, change_pose, code, words, cure,
                                                depth):
    with run_kitchen(domain, change_pose=change_pose):
        found = list_findings(params(depth))
    assert [each for each, _ in found] == [code]
    assert all(words in f.message and cure in f.cure for f in found.values())


# --- the camera info alone

@pytest.mark.parametrize(('change', 'code', 'words', 'cure'), [
    (lambda info: set_k(info, np.eye(3).ravel()), 'lens-implausible',
     'a focal length of 1 x 1 px at a width of 640 (at least 0.2 of it)', 'this resolution'),
    (lambda info: scale_k(info, 2.0), 'lens-implausible',
     'a principal point of (639, 479), in a corner of its 640x480', 'this resolution'),
    (lambda info: set_k(info, np.zeros(9)), 'only-rectified', 'K of zeros and a valid P',
     'rectified: true'),
    (lambda info: scale_k(info, 0.5), 'lens-scale', 'K is divided by 0.5', 'this resolution')])
def test_a_wrong_k_is_named_and_p_is_advised_where_it_is_valid(domain, params, change, code, words,
                                                               cure):
    with run_kitchen(domain, change_info(change)):
        found = list_findings(params())
    assert {each for each, _ in found} == {code}
    assert all(words in f.message and cure in f.cure for f in found.values())
    assert len(found) == (1 if code == 'lens-scale' else len(CAMERAS))


# --- topics

class LatchedInfos(ChangedKitchen):
    """Sends each camera info once, latched, before anyone listens."""

    def _get_publisher(self, topic, kind):
        if topic not in self._topics and topic.endswith(INFO):
            self._topics[topic] = self.create_publisher(kind, topic, LATCHED)
            camera = topic.split('/')[1]
            self._topics[topic].publish(self._messages[FIRST[camera]][INFO])
            self._topics[topic].publish = lambda message: None
        return super()._get_publisher(topic, kind)


def test_a_camera_info_that_was_sent_once_latched_is_heard(domain, params):
    with run_kitchen(domain, kind=LatchedInfos):
        assert list_findings(params()) == {}


def test_depth_that_is_raw_beside_compressed_images_is_advised_with_its_transport(domain, params):
    def without_compressed_depth(camera: str, messages: Messages) -> Messages:
        send_raw_depth()(camera, messages)
        del messages[DEPTH]
        return messages
    with run_kitchen(domain, without_compressed_depth):
        found = list_findings(params())
        advised = list_findings(params(depth_transport='raw'))
        as_colour = list_findings(params('/color/depth', depth_transport='raw'))
        compressed = list_findings(params(transport='raw', depth_transport='raw'))
    assert list(found) == [('no-publisher', c) for c in CAMERAS]
    assert found['no-publisher', 'side'].cure == (
        '/side/aligned_depth_to_color/image_raw is there: set side.depth_transport: raw')
    assert advised == {}
    assert 'set side.depth_topic: /side/aligned_depth_to_color/image_raw, or' in \
        as_colour['no-publisher', 'side'].cure
    assert compressed['no-publisher', 'side'].cure == (
        '/side/color/image_raw/compressed is there: set side.transport: compressed')


def test_colour_is_never_advised_as_depth_nor_depth_as_colour(domain, params):
    def rename(camera: str, messages: Messages) -> Messages:
        return {topic.replace('/color/image_raw', '/rgb/image'): message
                for topic, message in send_raw_depth()(camera, messages).items() if topic != DEPTH}
    with run_kitchen(domain, rename):
        for depth, transport in (('/nothing', 'raw'), ('/nothing', 'compressed'),
                                 (RAW_DEPTH, 'raw')):
            for finding in list_findings(params(depth, transport=transport)).values():
                is_depth = 'depth_topic' in finding.cure
                assert ('/rgb/' in finding.cure) <= (not is_depth), finding
                assert ('aligned_depth' in finding.cure) <= is_depth, finding


@pytest.mark.parametrize(('offset_s', 'words'), [
    (3600.0, 'are stamped 3600.'), (None, 'have no stamp, unlike')])
def test_camera_infos_of_another_clock_are_a_warning(domain, params, offset_s, words):
    with run_kitchen(domain) as kitchen:
        kitchen.info_offset_s = offset_s
        found = list_findings(params())
    assert sorted(code for code, _ in found) == ['info-clock'] * len(CAMERAS)
    assert all(words in f.message and not f.is_error for f in found.values())


def test_a_target_frame_of_a_camera_is_told(domain, params):
    path = params()
    path.write_text(path.read_text() + '    target_frame: camera_side_color_optical_frame\n')
    with run_kitchen(domain) as kitchen:
        frame = kitchen._messages[FIRST['side']][IMAGE].header.frame_id
        path.write_text(path.read_text().replace('camera_side_color_optical_frame', frame))
        found = list_findings(path)
    assert [code for code, _ in found] == ['target-frame']
    assert 'is the frame of the images of side' in next(iter(found.values())).message


def test_two_doctors_at_once_hinder_no_one(domain, params):
    command = [sys.executable, '-m', 'crosspoint_ros.cli', 'doctor', '--json', '--params',
               str(params())]
    with run_kitchen(domain):
        doctors = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        reports = [json.loads(doctor.communicate(timeout=60)[0]) for doctor in doctors]
    for report in reports:
        assert [finding['code'] for finding in report['findings']] == [NO_NODE]
        assert [(c['name'], c['posed']) for c in report['cameras']] == [(c, True) for c in CAMERAS]


def test_a_namespaced_node_gets_its_own_default_target_frame(domain, params):
    with run_kitchen(domain):
        snapshot = collect_snapshot('/arm/crosspoint', 0.5, [params()], 1.0)
    assert snapshot.config.target_frame == 'arm_crosspoint_target'
