"""The node as a process of its own: it ends in order, whatever it is doing."""
from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import QueryResult, Status
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from two_camera_rig import Cameras, run_rig

from crosspoint_ros.bench.node.ends import measure_ends
from crosspoint_ros.ros import shared_memory
from crosspoint_ros.ros.node.outputs import LATCHED_QOS
from crosspoint_ros.ros.node.query_queue import QueryRequest
from crosspoint_ros.ros.process import NodeProcess
from crosspoint_ros.ros.shared_memory import (
    CORRUPTED,
    FOLDER,
    list_segments,
    remove_dead_segments,
    repair_ports,
)

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
    return NodeProcess(NODE, node_arguments(*assignments), tmp_path / 'crosspoint_node.log',
                       node_environment())


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
                stages.clear()
                ask()
            return stage in stages and not results

        ask()

        spin_until(executor, reached)
        segments = list_segments(process.pid)
        assert segments
        os.kill(process.pid, number)
        os.kill(process.pid, number)  # Ctrl-C under `ros2 launch` comes twice
        spin_until(executor, lambda: results)
        assert process.wait() == 0, (tmp_path / 'crosspoint_node.log').read_text()
    assert [r.status.code for r in results] == [Status.CANCELLED]
    assert stage in results[0].status.message
    assert not results[0].has_target
    # Nor if the matcher still ran in its thread.
    assert not any(segment.exists() for segment in segments)
    began_s = time.monotonic()
    spin_until(executor, lambda: 'crosspoint' not in cameras.get_node_names())
    assert time.monotonic() - began_s < 10.0  # the lease of a node that left without a word is 20 s


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
    assert time.monotonic() - ended_s < 10.0  # the lease of a node that left without a word is 20 s


def node_arguments(*assignments: str) -> list[str]:
    return [word for assignment in (*GOOD, *assignments) for word in ('-p', assignment)]


def node_environment() -> dict[str, str]:
    path = os.pathsep.join([str(DOUBLES), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {**os.environ, 'PYTHONPATH': path}


def test_three_ends_leave_no_shared_memory_and_no_ghost(tmp_path):
    ends = list(measure_ends(
        node_arguments('matcher:=fake_matchers:ExactMatcher'),
        [signal.SIGINT, signal.SIGTERM, signal.SIGINT], tmp_path, node_environment()))
    assert [end.exit_code for end in ends] == [0, 0, 0]
    assert [end.left for end in ends] == [(), (), ()]
    assert max(end.ghost_s for end in ends) < 1.0


def test_what_a_killed_node_leaves_is_removed_and_what_lives_is_not(tmp_path):
    with started(tmp_path, 'matcher:=fake_matchers:ExactMatcher') as living:
        (tmp_path / 'second').mkdir()
        dead = started(tmp_path / 'second', 'matcher:=fake_matchers:ExactMatcher')
        for folder in (tmp_path, tmp_path / 'second'):
            log = folder / 'crosspoint_node.log'
            end_s = time.monotonic() + 20.0
            while 'active: ' not in log.read_text():
                assert time.monotonic() < end_s
                time.sleep(0.05)
        own = list_segments(dead.pid)
        kept = list_segments(living.pid)
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        left = {path for path in own if path.exists()}
        assert left
        remove_dead_segments(min_age_s=3600.0)
        assert all(path.exists() for path in left)  # too young
        assert remove_dead_segments(min_age_s=0.0) > 60e6
        assert not any(path.exists() for path in left)
        assert not any((FOLDER / f'{path.name}_el').exists() for path in left)
        assert kept
        assert all(path.exists() for path in kept)


def test_a_port_whose_creator_was_killed_is_removed_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, 'FOLDER', tmp_path)
    (tmp_path / 'fastdds_port7411').write_bytes(b'')
    used, other = tmp_path / 'fastdds_port7413', tmp_path / 'fastdds_port7413_el'
    used.write_bytes(bytes(100))
    other.write_bytes(b'')
    for path in (used, other):
        os.utime(path, (0, 0))
    assert repair_ports() == 0
    os.utime(tmp_path / 'fastdds_port7411', (0, 0))
    with (tmp_path / 'fastdds_port7411').open('rb') as waiting:
        assert repair_ports() == 1
        assert struct.unpack('<I', waiting.read(4)) == (CORRUPTED,)
    assert sorted(tmp_path.iterdir()) == [used, other]


@pytest.mark.parametrize(('age_s', 'limit_s'), [(0.0, 6.0), (6.0, 2.0)])
def test_a_killed_node_of_the_same_name_soon_stops_to_refuse_the_living(tmp_path, age_s, limit_s):
    with run_rig(domain=int(os.environ['ROS_DOMAIN_ID'])) as rig:
        rig.discover()
        twins = rig.node._server._twins
        process = started(tmp_path, 'matcher:=fake_matchers:ExactMatcher')
        rig.until(lambda: twins.count() == 2)
        stamp_ns = rig.send_frames()
        request = QueryRequest(camera='front', pixel=np.array([159.5, 119.5]), stamp_ns=stamp_ns)
        rig.run_in_executor(lambda: rig.node._server.submit(request))
        assert rig.wait_for_result().status.code == Status.BUSY
        end_s = time.monotonic() + age_s
        rig.until(lambda: twins.count() == 2 and time.monotonic() > end_s)
        assert twins.count() == 2  # it is alive, and stays so
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed_s = time.monotonic()
        rig.until(lambda: twins.count() == 1)
        assert time.monotonic() - killed_s < limit_s
        names = rig.node.get_node_names_and_namespaces()
        if age_s > 0:
            assert names.count(('crosspoint', '/')) == 2  # the ghost is on the graph still
        rig.send_frames()
        rig.run_in_executor(lambda: rig.node._server.submit(
            QueryRequest(camera='front', pixel=np.array([159.5, 119.5]))))
        assert rig.wait_for_result(1).status.code == Status.OK


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
