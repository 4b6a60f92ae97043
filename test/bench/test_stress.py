"""The stress commands: a short run of each on a real node, and the messages that they send."""
import json
import random
import signal
import subprocess
import sys
import time

import pytest
from crosspoint_ros.msg import Correspondence, QueryResult
from rclpy.serialization import deserialize_message, serialize_message

from crosspoint_ros.bench.stress.fuzz import count_exceptions
from crosspoint_ros.bench.stress.random_messages import MessageGenerator, load_interface
from crosspoint_ros.bench.stress.rig import StressRig
from crosspoint_ros.bench.stress.soak import (
    find_faults,
    measure_count_growth,
    measure_growth_percent,
)

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


def run_command(*arguments, expects=0):
    run = subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'dev', *map(str, arguments)],
                         text=True, capture_output=True, timeout=110)
    assert run.returncode == expects, run.stdout + run.stderr
    return run.stdout


def test_growth_is_that_of_the_fitted_line_and_noise_has_none():
    minutes = [30.0, 40.0, 50.0, 60.0]
    assert measure_growth_percent(minutes, [100, 101, 102, 103]) == pytest.approx(100 * 3 / 101.5)
    assert abs(measure_growth_percent(minutes, [101, 100, 100, 101])) < 1e-9
    assert measure_growth_percent([1.0], [100]) == 0.0
    assert measure_count_growth([20, 21, 22, 23]) == 1
    assert measure_count_growth([20, 21, 20, 21]) == 0
    assert measure_count_growth([20]) == 0


def test_a_soak_fails_for_growth_silence_and_wrong_answers_only():
    figures = {'minutes': 60.0, 'node RSS MB growth %': 1.9, 'node PSS MB growth %': 9.0,
               'node threads growth': 0, 'server handles growth': 0, 'accepted': 5, 'refused': 3,
               'unanswered': 0, 'wrong': 0, 'page images in the last sample': 7}
    assert find_faults(figures) == []
    for name, value in (('node RSS MB growth %', 2.1), ('node threads growth', 1), ('wrong', 1),
                        ('server handles growth', 2), ('unanswered', 1), ('accepted', 0),
                        ('page images in the last sample', 0)):
        assert [fault.startswith(name) for fault in find_faults({**figures, name: value})] == [True]
    assert find_faults({**figures, 'minutes': 1.0, 'node RSS MB growth %': 9.0}) == []


@pytest.mark.parametrize(('x', 'target_x', 'errors'), [
    (192.0, 0.0, []), (193.0, 0.0, ['side: 1.00 px off']), (192.0, 0.02, ['target: 20.0 mm off']),
    (float('nan'), 0.0, ['side: nan px off'])])
def test_an_accepted_answer_is_compared_with_the_plane(x, target_x, errors):
    result = QueryResult(has_target=True)
    result.clicked.camera, result.clicked.x, result.clicked.y = 'front', 320.0, 240.0
    view = Correspondence(verdict=Correspondence.SURE)
    view.found.camera, view.found.x, view.found.y = 'side', x, 240.0
    result.correspondences = [view]
    at = result.target.pose.pose.position
    at.x, at.z = target_x, 0.7
    with StressRig() as rig:
        assert rig.find_answer_errors(result) == errors


def test_a_short_soak_counts_every_click_and_grows_by_no_thread(tmp_path):
    figures = tmp_path / 'figures.json'
    output = run_command('soak', '--minutes', 0.15, '--rate-hz', 5, '--clicks-per-s', 4, '--json',
                         figures)
    found = json.loads(figures.read_text())
    assert len(found['samples']) == 8
    assert 'node RSS MB ' in output
    assert found['sent'] == found['accepted'] + found['refused'] > 5


def test_interrupted_it_ends_with_the_figures(tmp_path):
    log = tmp_path / 'log'
    with log.open('w') as out:
        process = subprocess.Popen(
            [sys.executable, '-m', 'crosspoint_ros.cli', 'dev', 'soak', '--minutes', '0.6',
             '--rate-hz', '5'], stdout=out, stderr=subprocess.STDOUT)
        end_s = time.monotonic() + 60.0
        while 'p50 ms' not in log.read_text():
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert 'ended after 0.' in log.read_text()
    assert '  unanswered: 0' in log.read_text()


def test_a_short_drill_kills_and_every_answer_is_right(tmp_path):
    figures = tmp_path / 'figures.json'
    run_command('drill', '--minutes', 0.2, '--scenario', 'kills', '--json', figures)
    found = json.loads(figures.read_text())['kills']
    assert found['faults'] == []
    assert found['wrong'] == found['unanswered'] == 0
    assert found['accepted'] > 5


@pytest.mark.parametrize('name', ['full-disk', 'clock-jumps', 'twelve-cameras'])
def test_a_scenario_ends_well(name):
    run_command('drill', '--scenario', name)


def test_two_restarts_leave_nothing(tmp_path):
    figures = tmp_path / 'figures.json'
    run_command('restarts', '--count', 2, '--json', figures)
    found = json.loads(figures.read_text())
    assert found['exit codes'] == [0]
    assert found['/dev/shm MB'] == 0.0
    assert found['max s on the graph after'] < 1.0
