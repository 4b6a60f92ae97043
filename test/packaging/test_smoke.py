"""The installed package: what must lie where, and that its interfaces cross processes.

`make test` runs this file on the pip install and on the colcon install.
"""
from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.srv import Correspond as CorrespondService
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

import crosspoint_ros

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(crosspoint_ros.__file__).parent
TF_MESSAGE_HASH = 'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087'
TIMEOUT_S = 20.0  # discovery has been seen to take 4 s

if PACKAGE.parent == ROOT:
    pytest.skip('the source tree is imported, not an install: make test', allow_module_level=True)


@pytest.fixture(scope='module')
def prefix() -> Path:
    """Where the package under test is installed."""
    return next(p for p in PACKAGE.parents if (p / 'share/crosspoint_ros/package.xml').exists())


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('smoke', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.wait_for = lambda done: wait_for(executor, done)
    node.ask = lambda send: ask(executor, send)
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def started():
    """Start processes that end with the test, as Ctrl-C would end them."""
    processes = []

    def start(*command: str | Path) -> subprocess.Popen:
        processes.append(subprocess.Popen([str(part) for part in command]))
        return processes[-1]

    yield start
    for process in processes:
        interrupt(process)


def interrupt(process: subprocess.Popen) -> int:
    """Send Ctrl-C, once, and return the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def came_true(executor, done, within_s: float) -> bool:
    end_s = time.monotonic() + within_s
    while not done() and time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    return done()


def wait_for(executor, done) -> None:
    assert came_true(executor, done, TIMEOUT_S), f'not within {TIMEOUT_S} s'


def ask(executor, send):
    """Return the answer; ask again where it is lost: a server that has not yet discovered
    the one who asks answers into the void."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        answer = send()
        if came_true(executor, answer.done, 2.0):
            return answer.result()
    raise AssertionError(f'no answer within {TIMEOUT_S} s')


def request_of(kind):
    return kind(camera='front', x=12.5, y=7.0, instruction='the mug',
                other_cameras=['side', 'wrist'])


def assert_echoes(result: QueryResult) -> None:
    assert (result.query_id, result.status.code) == ('the mug', result.status.PARTIAL)
    assert (result.clicked.camera, result.clicked.x, result.clicked.y) == ('front', 12.5, 7.0)
    assert [c.found.camera for c in result.correspondences] == ['side', 'wrist']
    assert all(math.isnan(c.found.x) for c in result.correspondences)
    assert list(result.correspondences[1].covariance_px2) == [4.0, 0.5, 0.5, 9.0]


def test_the_install_under_test_is_the_one_that_was_built(prefix):
    expected = os.environ.get('CROSSPOINT_PREFIX', str(prefix))
    assert prefix.resolve() == Path(expected).resolve()


@pytest.mark.parametrize('folder', ['crosspoint_ros', 'launch', 'config'])
def test_every_file_of_the_source_tree_is_installed(prefix, folder):
    installed = PACKAGE if folder == 'crosspoint_ros' else prefix / 'share/crosspoint_ros' / folder
    sources = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob('*')
               if p.is_file() and '__pycache__' not in p.parts}
    assert sources
    assert {str(p) for p in sources if not (installed / p).is_file()} == set()


def test_the_package_is_in_the_ament_index(prefix):
    assert (prefix / 'share/ament_index/resource_index/packages/crosspoint_ros').is_file()


@pytest.mark.parametrize('path', ['lib/crosspoint_ros/crosspoint', 'bin/crosspoint'])
def test_the_command_line_says_how_to_use_it(prefix, path):
    done = subprocess.run([prefix / path, '--help'], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert 'usage: crosspoint' in done.stdout


def test_play_bag_starts_and_refuses_a_bag_that_is_not_there(prefix):
    done = subprocess.run([prefix / 'lib/crosspoint_ros/play_bag',
                           '--ros-args', '-p', 'bag:=/no/bag'],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'there is no bag at /no/bag' in done.stderr


def test_tf_messages_are_the_ones_a_distro_would_recognise(node):
    node.create_publisher(TFMessage, '/tf', 1)
    endpoint, = node.get_publishers_info_by_topic('/tf')
    if not hasattr(endpoint, 'topic_type_hash'):
        pytest.skip('this distro has no type hashes')
    assert str(endpoint.topic_type_hash) == TF_MESSAGE_HASH


def test_a_message_published_before_we_came_arrives_from_another_process(node, started):
    results = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(QueryResult, 'echo/result', results.append, latched)
    started(sys.executable, ROOT / 'test/fakes/echo_node.py')
    node.wait_for(lambda: results)
    assert results[0].query_id == 'latched'
    assert (list(results[0].stages), list(results[0].stage_s)) == (['match', 'lift'], [0.5, 2.0])


def test_a_service_answers_from_another_process(node, started):
    client = node.create_client(CorrespondService, 'echo/once')
    started(sys.executable, ROOT / 'test/fakes/echo_node.py')
    node.wait_for(client.service_is_ready)
    answer = node.ask(lambda: client.call_async(request_of(CorrespondService.Request)))
    assert_echoes(answer.result)


def test_an_action_gives_feedback_and_a_result_from_another_process(node, started):
    feedback = []
    client = ActionClient(node, CorrespondAction, 'echo/correspond')
    started(sys.executable, ROOT / 'test/fakes/echo_node.py')
    node.wait_for(client.server_is_ready)
    goal = request_of(CorrespondAction.Goal)
    accepted = node.ask(lambda: client.send_goal_async(goal, feedback.append))
    finished = node.ask(accepted.get_result_async)
    assert_echoes(finished.result.result)
    assert (feedback[0].feedback.stage, feedback[0].feedback.elapsed_s) == ('match', 0.25)


def test_the_node_starts_waits_for_its_manager_and_ends_at_ctrl_c(node, started, prefix):
    process = started(prefix / 'lib/crosspoint_ros/crosspoint_node', '--ros-args',
                      '-p', 'cameras:=[front, side]', '-p', 'base_frame:=base_link',
                      '-p', 'autostart:=false', '-r', '__ns:=/smoke')
    client = node.create_client(GetState, '/smoke/crosspoint/get_state')
    node.wait_for(lambda: client.service_is_ready() or process.poll() is not None)
    assert process.poll() is None, 'it ended by itself'
    answer = node.ask(lambda: client.call_async(GetState.Request()))
    assert answer.current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    assert interrupt(process) == 0
