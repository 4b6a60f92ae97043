"""The clicked thing on its topics: only while somebody subscribes, withdrawn with the target."""
from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import raycast_scenes
import textured_scenes
from crosspoint_ros.msg import GraspTarget, TargetShape, TargetState
from operator_client import POINT_BASE_M
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from target_listener import Pipeline, run_pipeline
from two_camera_rig import LATCHED_QOS

from crosspoint_ros.core.datatypes import Match
from crosspoint_ros.core.grasp.shape import Box
from crosspoint_ros.core.grasp.target_thing import measure_thing
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.transform import Transform
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.ros.conversions import pose_from_transform
from crosspoint_ros.ros.grasp import messages
from crosspoint_ros.ros.grasp.server import THREAD
from crosspoint_ros.ros.target.history import MAX_LOCATE_RESULTS

CARTON = raycast_scenes.Box((-0.04, -0.03, 0.0), (0.04, 0.03, 0.12))
ON_CARTON = np.array([0.0, -0.01, 0.12])


@pytest.fixture(scope='module')
def shared() -> Iterator[Pipeline]:
    with run_pipeline() as pipeline:
        yield pipeline


def listen(pipeline: Pipeline, kind: type, name: str) -> tuple[list, object]:
    heard: list = []
    subscription = pipeline.rig.cameras.create_subscription(
        kind, f'/crosspoint/{name}', heard.append, LATCHED_QOS)
    return heard, subscription


def test_nothing_is_computed_until_somebody_subscribes_and_then_of_the_present_target(
        shared, monkeypatch):
    threads: list[str] = []

    def spy(located, rotation, limits):
        threads.append(threading.current_thread().name)
        return measure_thing(located, rotation, limits)

    monkeypatch.setattr('crosspoint_ros.ros.grasp.server.measure_thing', spy)
    result = shared.click(POINT_BASE_M)
    wait_ticks(shared)
    assert not threads
    shapes, first = listen(shared, TargetShape, 'target_shape')
    clouds, second = listen(shared, PointCloud2, 'target_cloud')
    masks, third = listen(shared, Image, 'front/mask')
    shared.rig.until(lambda: shapes and clouds and masks, what='the thing')
    assert set(threads) == {THREAD}
    assert shapes[-1].query_id == result.query_id
    assert shapes[-1].header == result.target.header
    assert shapes[-1].code == TargetShape.SUPPORT  # the rig has a table alone
    assert 'supports things' in shapes[-1].message
    assert np.isnan(shapes[-1].width_m)
    assert clouds[-1].width == 0
    assert (masks[-1].encoding, masks[-1].width, max(masks[-1].data)) == ('mono8', 320, 0)
    again = shared.click(POINT_BASE_M)
    shared.rig.until(lambda: shapes[-1].query_id == again.query_id, what='the next thing')
    shared.call('clear')
    shared.wait_for_no_target()
    late, fourth = listen(shared, TargetShape, 'target_shape')
    late_masks, fifth = listen(shared, Image, 'front/mask')
    wait_ticks(shared)
    assert not late, 'a late subscriber is not given the shape of a cleared target'
    assert not late_masks
    for subscription in (first, second, third, fourth, fifth):
        shared.rig.cameras.destroy_subscription(subscription)


def wait_ticks(pipeline: Pipeline) -> None:
    ticks = pipeline.rig.ticks
    pipeline.rig.until(lambda: pipeline.rig.ticks > ticks + 5)


def test_of_a_target_that_was_moved_by_hand_nothing_is_published(shared):
    shapes, first = listen(shared, TargetShape, 'target_shape')
    result = shared.click(POINT_BASE_M)
    shared.rig.until(lambda: shapes and shapes[-1].query_id == result.query_id, what='the thing')
    moved = Transform(np.eye(3), np.add(POINT_BASE_M, (0, 0, 0.05)))
    shared.rig.run_in_executor(lambda: shared.rig.node._server.review.commit_move(moved))
    shared.wait_for_state(TargetState.STANDING, 'moved by hand')
    count = len(shapes)
    late, second = listen(shared, TargetShape, 'target_shape')
    wait_ticks(shared)
    assert (len(shapes), late) == (count, [])
    shared.call('undo')
    shared.rig.until(lambda: late and late[-1].query_id == result.query_id,
                     what='the shape of the answer again')
    for subscription in (first, second):
        shared.rig.cameras.destroy_subscription(subscription)


def test_a_thing_that_cannot_be_measured_is_unclear_and_says_why(shared, monkeypatch):
    shapes, first = listen(shared, TargetShape, 'target_shape')
    forgotten = shared.click(POINT_BASE_M)
    for _ in range(MAX_LOCATE_RESULTS):
        shared.click(POINT_BASE_M)
    for _ in range(MAX_LOCATE_RESULTS):
        shared.call('undo')
    shared.wait_for_history(current=forgotten.query_id)
    shape = shared.rig.until(lambda: shapes[-1:] and shapes[-1].query_id == forgotten.query_id
                             and 'no longer kept' in shapes[-1].message and shapes[-1],
                             what='why there is no shape')
    assert shape.code == TargetShape.NO_DEPTH

    def fail(located, rotation, limits):
        raise ValueError('of no use')

    monkeypatch.setattr('crosspoint_ros.ros.grasp.server.measure_thing', fail)
    newest = shared.click(POINT_BASE_M)
    shape = shared.rig.until(lambda: shapes[-1].query_id == newest.query_id and shapes[-1],
                             what='why there is no shape')
    assert shape.code == TargetShape.NO_DEPTH
    assert "ValueError('of no use')" in shape.message
    shared.rig.cameras.destroy_subscription(first)


class Oracle:
    """Knows where another view shows the point."""

    def match(self, query):
        return Match(raycast_scenes.project_point(query.other, ON_CARTON), np.eye(2), 0.9)


def measure_carton():
    views = [textured_scenes.render_view(name, raycast_scenes.look_at(place, (0, 0, 0.05)),
                                         (CARTON,))
             for name, place in (('left', raycast_scenes.LEFT), ('right', raycast_scenes.RIGHT))]
    located = locate(views[0], views[1:], raycast_scenes.project_point(views[0], ON_CARTON),
                     Oracle())
    target = GraspTarget(header=Header(frame_id='base_link'), query_id='q')
    target.pose.pose = pose_from_transform(located.target.base_from_target)
    return target, measure_thing(located, located.target.base_from_target.R, Limits())


def test_the_shape_of_a_carton_turns_the_jaws_across_its_smaller_side():
    target, found = measure_carton()
    shape = messages.build_shape(target, found.thing, found.box, found.closing)
    assert shape.code == TargetShape.OK
    assert not shape.message
    assert shape.width_m == pytest.approx(0.06, abs=0.006)
    assert sorted((shape.size_m.x, shape.size_m.y)) == pytest.approx((0.06, 0.08), abs=0.006)
    assert shape.size_m.z == pytest.approx(0.12, abs=0.005)
    assert list(shape.support) == pytest.approx((0, 0, 1, 0), abs=0.01)
    q = shape.grasp.orientation
    x_axis = (1 - 2 * (q.y ** 2 + q.z ** 2), 2 * (q.x * q.y + q.w * q.z))
    assert abs(x_axis[1]) > 0.98, 'along y, the smaller side'
    assert shape.sigma_yaw_rad < 0.2
    at = target.pose.pose.position
    assert (shape.grasp.position.x, shape.grasp.position.z) == pytest.approx((at.x, at.z), abs=1e-3)
    assert shape.grasp.position.y == pytest.approx(shape.box.position.y, abs=1e-3), 'the middle'


def test_the_cloud_has_colours_and_normals_as_pcl_reads_them():
    _, found = measure_carton()
    cloud = messages.build_cloud(Header(frame_id='base_link'), found.thing)
    rows = np.frombuffer(bytes(cloud.data), np.float32).reshape(-1, 7)
    assert len(rows) == cloud.width == len(found.thing.points_base_m)
    assert np.array_equal(rows[:, :3], found.thing.points_base_m)
    assert np.array_equal(rows[:, 4:], found.thing.normals_base)
    packed = np.ascontiguousarray(rows[:, 3]).view(np.uint32)
    red, green, blue = packed >> 16 & 255, packed >> 8 & 255, packed & 255
    assert np.array_equal(np.stack([red, green, blue], axis=1), found.thing.colours)
    assert [field.name for field in cloud.fields] == [
        'x', 'y', 'z', 'rgb', 'normal_x', 'normal_y', 'normal_z']


def test_the_box_is_a_detection_where_vision_msgs_is_installed(monkeypatch):
    class Any(SimpleNamespace):
        def __init__(self, **fields):
            super().__init__(**{'hypothesis': SimpleNamespace(), 'pose': SimpleNamespace(),
                                'bbox': SimpleNamespace(), **fields})

    fake = SimpleNamespace(Detection3DArray=Any, Detection3D=Any, ObjectHypothesisWithPose=Any)
    monkeypatch.setattr(messages.importlib, 'import_module', lambda name: fake)
    assert messages.load_box_type() is Any
    box = Box(Transform(np.eye(3), np.array([0.1, 0.2, 0.3])), np.array([0.04, 0.05, 0.06]))
    array = messages.build_box_array(Header(), box, 0.8)
    assert array.detections[0].bbox.size.y == 0.05
    assert array.detections[0].bbox.center.position.z == 0.3
    assert array.detections[0].results[0].hypothesis.score == 0.8
    assert messages.build_box_array(Header(), None, 0.8).detections == []

    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(messages.importlib, 'import_module', fail)
    assert messages.load_box_type() is None


def test_with_yaw_by_shape_an_unclear_thing_leaves_the_target_as_it_is():
    with run_pipeline(yaw='shape') as pipeline:
        result = pipeline.click(POINT_BASE_M)
        assert list(result.stages)[-2:] == ['shape', 'publish']
        assert result.has_target
        assert np.isnan(result.target.width_m)
        assert result.target.sigma_yaw_rad == pytest.approx(1.81, abs=0.01)
