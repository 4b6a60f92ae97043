"""The node as a process of its own: it ends in order, whatever it is doing."""
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import rclpy
from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import QueryResult, Status
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from two_camera_rig import Cameras

from crosspoint_ros.ros.node.outputs import LATCHED_QOS
from crosspoint_ros.ros.process import NodeProcess

GOOD = ['cameras:=[front, side]', 'base_frame:=base_link', 'front.depth_topic:=/front/depth',
        'side.depth_topic:=/side/depth', 'limits.wait_images_s:=20.0', 'limits.wait_tf_s:=20.0']
NODE = 'crosspoint_ros.ros.node.lifecycle_node'
DOUBLES = Path(__file__).resolve().parents[2] / 'fakes'


@pytest.fixture
def graph():
    context = Context()
    rclpy.init(context=context)
    cameras = Cameras(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(cameras)
    yield cameras, executor
    executor.shutdown()
    cameras.destroy_node()
    rclpy.try_shutdown(context=context)


def started(tmp_path: Path, *assignments: str) -> NodeProcess:
    path = os.pathsep.join([str(DOUBLES), *filter(None, [os.environ.get('PYTHONPATH')])])
    arguments = [word for assignment in (*GOOD, *assignments) for word in ('-p', assignment)]
    return NodeProcess(NODE, arguments, tmp_path / 'crosspoint_node.log',
                       {**os.environ, 'PYTHONPATH': path})


def spin_until(executor, condition) -> None:
    for _ in range(400):
        if condition():
            return
        executor.spin_once(timeout_sec=0.05)
    raise AssertionError('it did not come to pass within 20 s')


@pytest.mark.parametrize(('stage', 'number'), [
    ('wait_images', signal.SIGINT), ('transforms', signal.SIGTERM), ('match', signal.SIGINT),
    ('verify', signal.SIGTERM), ('lift', signal.SIGINT)])
def test_a_signal_in_any_stage_refuses_the_query_and_ends_in_order(graph, tmp_path, stage, number):
    cameras, executor = graph
    results: list[QueryResult] = []
    cameras.create_subscription(QueryResult, '/crosspoint/result', results.append, LATCHED_QOS)
    frame = 'base_frame:=map' if stage == 'transforms' else 'base_frame:=base_link'
    held_in = stage if stage in ('verify', 'lift') else 'match'
    with started(tmp_path, 'matcher:=fake_matchers:SlowStageMatcher',
                 f'SlowStageMatcher.stage:={held_in}',
                 'SlowStageMatcher.delay_s:=5.0', frame) as process:
        client = ActionClient(cameras, Correspond, '/crosspoint/correspond')
        spin_until(executor, client.server_is_ready)
        stages: list[str] = []

        def ask() -> None:
            client.send_goal_async(Correspond.Goal(camera='front', x=159.5, y=119.5),
                                   feedback_callback=lambda m: stages.append(m.feedback.stage))

        def reached() -> bool:
            if stage != 'wait_images':
                cameras.send_all()
            if results:  # best effort lost a part of a frame, and the query ended over it
                results.clear()
                ask()
            return stage in stages and not results

        ask()

        spin_until(executor, reached)
        os.kill(process.pid, number)
        os.kill(process.pid, number)  # Ctrl-C under `ros2 launch` comes twice
        spin_until(executor, lambda: results)
        assert process.wait() == 0, (tmp_path / 'crosspoint_node.log').read_text()
    assert [r.status.code for r in results] == [Status.CANCELLED]
    assert stage in results[0].status.message
    assert not results[0].has_target


def test_a_node_that_ended_is_off_the_graph_at_once(graph, tmp_path):
    cameras, executor = graph

    def is_on_graph() -> bool:
        return 'crosspoint' in cameras.get_node_names()

    with started(tmp_path, 'matcher:=fake_matchers:ExactMatcher') as process:
        spin_until(executor, is_on_graph)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 0
        ended_s = time.monotonic()
        spin_until(executor, lambda: not is_on_graph())
    assert time.monotonic() - ended_s < 3.0  # the lease of a node that left without a word is 20 s


def test_a_misspelt_key_in_a_params_file_ends_it_with_one_sentence(tmp_path):
    params = tmp_path / 'params.yaml'
    params.write_text('/**:\n  ros__parameters:\n    limits.min_confidense: 0.4\n')
    log = tmp_path / 'crosspoint_node.log'
    arguments = [word for a in GOOD for word in ('-p', a)] + ['--params-file', str(params)]
    process = NodeProcess(NODE, arguments, log, os.environ)
    assert process.wait() == 1
    assert 'did you mean limits.min_confidence?' in log.read_text()
    assert 'Traceback' not in log.read_text()


def test_a_params_file_that_is_not_there_ends_it_with_its_name(tmp_path):
    log = tmp_path / 'crosspoint_node.log'
    missing = tmp_path / 'none.yaml'
    process = NodeProcess(NODE, ['--params-file', str(missing)], log,
                          os.environ)
    assert process.wait() == 1
    assert str(missing) in log.read_text()
    assert 'Traceback' not in log.read_text()


def test_a_mask_that_is_no_picture_ends_it_with_one_sentence(tmp_path):
    process = started(tmp_path, 'front.mask_path:=/nowhere.png')
    assert process.wait() == 1
    said = (tmp_path / 'crosspoint_node.log').read_text()
    assert 'front.mask_path: /nowhere.png' in said
    assert 'Traceback' not in said
