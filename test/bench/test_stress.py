"""The stress commands: a short run of each on a real node, and the messages that they send."""
import json
import random
import subprocess
import sys

import pytest
from rclpy.serialization import deserialize_message, serialize_message

from crosspoint_ros.bench.stress.fuzz import count_exceptions
from crosspoint_ros.bench.stress.random_messages import MessageGenerator, load_interface

TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CameraInfo', 'tf2_msgs/msg/TFMessage',
         'visualization_msgs/msg/InteractiveMarkerFeedback', 'crosspoint_ros/msg/QueryResult',
         'rcl_interfaces/msg/ParameterEvent', 'crosspoint_ros/msg/TargetState')


@pytest.mark.parametrize('name', TYPES)
def test_random_messages_are_valid_and_mutated_ones_differ(name):
    kind, generator = load_interface(name), MessageGenerator(random.Random(3), ('front',))
    for _ in range(50):
        data = serialize_message(generator.fill(kind()))
        assert type(deserialize_message(data, kind)) is kind
    changed = sum(generator.mutate(data) != data for _ in range(50))
    assert changed > 40
    assert generator.mutate(data)[:4] == data[:4]


def test_requests_of_services_and_actions_are_found_by_the_names_of_the_graph():
    generator = MessageGenerator(random.Random(3), ('front',))
    for name in ('crosspoint_ros/srv/Correct', 'crosspoint_ros/action/Correspond_SendGoal',
                 'crosspoint_ros/action/Correspond_GetResult'):
        generator.fill(load_interface(name).Request())


def test_exceptions_are_counted_by_the_place_in_this_package(tmp_path):
    log = tmp_path / 'log'
    log.write_text('a line\nTraceback (most recent call last):\n  File "rclpy/x.py", line 1, in f\n'
                   '    f()\nValueError: 3\n[INFO] Traceback (most recent call last):\n'
                   '  File "crosspoint_ros/core/lift.py", line 2, in g\n    g()\n'
                   '  File "numpy/a.py", line 3, in h\n    h()\nLinAlgError: singular\n')
    assert count_exceptions(log) == {
        'File "rclpy/x.py", line 1, in f: ValueError: 3': 1,
        'File "crosspoint_ros/core/lift.py", line 2, in g: LinAlgError: singular': 1}


def test_a_short_fuzz_of_node_and_page_finds_nothing(tmp_path):
    figures = tmp_path / 'figures.json'
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'dev', 'fuzz', '--messages',
                          '500', '--frames', '300', '--json', str(figures)], text=True,
                         capture_output=True, timeout=110)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(figures.read_text())
    assert found['answers again'] is True
    assert found['exceptions in this package'] == 0
    assert found['goals'] == 2
    assert not [name for name in found if name.endswith(' without an answer')]
