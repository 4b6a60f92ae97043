"""The doctor and the node itself: absent, hung, inactive, without a matcher; and it is mute."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_matchers
import pytest
import rclpy
from doc_messages import SECTIONS, get_documented_message, is_documented
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from two_camera_rig import DOMAINS, run_rig

from crosspoint_ros.cli import main as crosspoint
from crosspoint_ros.ros.doctor.cli import diagnose
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode
from crosspoint_ros.ros.doctor.probe import DOCTOR_NODE, collect_snapshot
from crosspoint_ros.ros.process import NodeProcess

ROOT = Path(__file__).resolve().parents[3]
PARAMETERS = """/**:
  ros__parameters:
    cameras: [front, side]
    base_frame: base_link
    front: {depth_topic: /front/aligned_depth_to_color/image_raw}
"""
MAX_WAIT_S = 6.0  # less than a user has, since most of these robots have no cameras
TRANSPORTS = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
              'FASTRTPS_DEFAULT_PROFILES_FILE')


@pytest.fixture
def domain(monkeypatch) -> int:
    """A DDS domain for this test alone, for the doctor too."""
    number = next(DOMAINS)
    monkeypatch.setenv('ROS_DOMAIN_ID', str(number))
    return number


@pytest.fixture
def params(tmp_path) -> Path:
    path = tmp_path / 'robot.yaml'
    path.write_text(PARAMETERS)
    return path


def of_the_node(seconds: float = 1.0, node: str = '/crosspoint',
                params: tuple[Path, ...] = ()) -> dict[str, Finding]:
    """What the doctor finds that concerns no single camera; each must be on the page."""
    found = {f.code.value: f for f in diagnose(collect_snapshot(node, seconds, params, MAX_WAIT_S))
             if not f.camera}
    for finding in found.values():
        assert is_documented(finding.code.value, finding.message), finding
    return found


# --- the page

def test_every_finding_has_a_section_and_every_section_a_finding():
    assert sorted(SECTIONS) == sorted(code.value for code in FindingCode)


@pytest.mark.parametrize('code', FindingCode, ids=lambda code: code.value)
def test_a_section_has_the_message_and_the_cure(code):
    assert get_documented_message(code.value)
    assert re.search(r'^\*\*Cure\.\*\* \S', SECTIONS[code.value], re.M)


def test_no_two_findings_share_a_code():
    assert len({code.value for code in FindingCode}) == len(list(FindingCode))


# --- the node is not there, or another, or hung

def test_an_absent_node_is_told_with_those_that_are_there_and_the_domain(domain):
    with run_rig(domain=domain) as rig:
        rig.discover()
        found = of_the_node(node='/crospoint')
    assert list(found) == ['no-node']
    assert '/crosspoint' in found['no-node'].message
    assert 'did you mean --node /crosspoint?' in found['no-node'].cure
    assert f'ROS_DOMAIN_ID (here {domain})' in found['no-node'].cure


def test_a_node_of_another_kind_is_named(domain):
    with run_rig(domain=domain) as rig:
        rig.discover()
        stop, spin = threading.Event(), rig.executor.spin_once
        thread = threading.Thread(target=lambda: [spin(0.05) for _ in iter(stop.is_set, True)])
        thread.start()
        found = of_the_node(node='rig')
        stop.set()
        thread.join()
    assert list(found) == ['other-node']
    assert '/crosspoint' in found['other-node'].cure


def test_a_hung_node_is_told_and_a_params_file_speaks_for_it(domain, params):
    release = threading.Event()
    with run_rig(domain=domain) as rig:
        rig.discover()
        rig._spinning.create_task(release.wait)  # a callback that does not return
        try:
            alone = of_the_node()
            found = diagnose(collect_snapshot('/crosspoint', 1.0, [params], MAX_WAIT_S))
        finally:
            release.set()
    assert list(alone) == ['node-hung']
    assert '--params FILE' in alone['node-hung'].cure
    assert [f.code for f in found if not f.camera] == [FindingCode.NODE_HUNG]
    assert 'by the params file' in found[0].cure
    # The rig's publishers are there, and nothing comes on them; its depth is called otherwise.
    assert {(f.code, f.camera) for f in found if f.camera} == {
        (FindingCode.NOTHING_ARRIVES, 'front'), (FindingCode.NO_PUBLISHER, 'front'),
        (FindingCode.NOTHING_ARRIVES, 'side')}


def test_a_stopped_process_cannot_be_seen_and_a_params_file_speaks_for_it(domain, params, tmp_path):
    arguments = ['--params-file', str(params)]
    log = tmp_path / 'crosspoint_node.log'
    with NodeProcess('crosspoint_ros.ros.node.lifecycle_node', arguments, log, os.environ) as node:
        for _ in range(400):
            if 'matcher loaded' in log.read_text():
                break
            node.check()
            time.sleep(0.1)
        assert 'matcher loaded' in log.read_text()
        os.kill(node.pid, signal.SIGSTOP)
        try:
            found = diagnose(collect_snapshot('/crosspoint', 1.0, [params], 2.0))
        finally:
            os.kill(node.pid, signal.SIGCONT)
    assert [(f.code, f.camera) for f in found] == [
        (FindingCode.NO_NODE, ''), *[(FindingCode.NO_PUBLISHER, 'front')] * 3,
        *[(FindingCode.NO_PUBLISHER, 'side')] * 2]


# --- its life cycle and its matcher

def test_an_unconfigured_node_and_an_inactive_one_are_told_with_the_command(domain):
    with run_rig(domain=domain, autostart=False) as rig:
        unconfigured = of_the_node()
        assert rig.run_in_executor(rig.node.trigger_configure) == TransitionCallbackReturn.SUCCESS
        rig.until(lambda: rig.run_in_executor(lambda: not rig.node._server.loader.is_loading))
        inactive = of_the_node()
    assert 'is unconfigured' in unconfigured['node-not-active'].message
    assert 'configure, then activate' in unconfigured['node-not-active'].cure
    assert 'is inactive' in inactive['node-not-active'].message
    assert 'ros2 lifecycle set /crosspoint activate' in inactive['node-not-active'].cure
    assert list(unconfigured) == list(inactive) == ['node-not-active']


def test_a_matcher_that_loads_is_told_and_the_node_is_not_blamed(domain):
    fake_matchers.LoadingMatcher.loaded.clear()
    fake_matchers.LoadingMatcher.fails = False
    try:
        with run_rig(domain=domain, matcher='fake_matchers:LoadingMatcher'):
            found = of_the_node()
    finally:
        fake_matchers.LoadingMatcher.loaded.set()
    assert list(found) == ['matcher-loading']
    assert 'fake_matchers:LoadingMatcher is loading' in found['matcher-loading'].message


def test_a_matcher_that_was_not_loaded_is_told_with_its_reason(domain):
    fake_matchers.LoadingMatcher.loaded.set()
    fake_matchers.LoadingMatcher.fails = True
    try:
        with run_rig(domain=domain, matcher='fake_matchers:LoadingMatcher') as rig:
            rig.until(lambda: rig.node._server.loader.failure)
            found = of_the_node()
            failure = rig.node._server.loader.failure
    finally:
        fake_matchers.LoadingMatcher.fails = False
    assert list(found) == ['matcher-failed']
    assert found['matcher-failed'].message == failure


def test_two_nodes_of_one_name_are_told(domain):
    with run_rig(domain=domain):
        context = Context()
        rclpy.init(context=context, domain_id=domain)
        other = rclpy.create_node('crosspoint', context=context, start_parameter_services=False)
        try:
            found = of_the_node(seconds=2.0)
        finally:
            other.destroy_node()
            rclpy.try_shutdown(context=context)
    assert found['two-nodes'].message == '2 nodes are named /crosspoint'


def test_a_twin_that_is_killed_while_it_listens_is_not_counted(domain, params, tmp_path):
    log, found = tmp_path / 'twin.log', []
    with run_rig(domain=domain), NodeProcess(
            'crosspoint_ros.ros.node.lifecycle_node', ['--params-file', str(params)], log,
            os.environ) as twin:
        twin.wait_for_output('', 20.0)
        for _ in range(10):
            if 'two-nodes' in of_the_node():
                break
        listening = threading.Thread(target=lambda: found.append(of_the_node(seconds=6.0)))
        listening.start()
        time.sleep(2.5)
        os.kill(twin.pid, signal.SIGKILL)
        listening.join()
    assert 'two-nodes' not in found[0]


# --- parameters and clocks

@pytest.mark.parametrize(('line', 'words'), [
    ('    base_farme: base', 'did you mean base_frame?'),
    ('    history_s: 61.0', 'allowed: 0.0 to 60.0'),
    ("    side: {image_topic: 'two words'}", "invalid topic name 'two words'"),
    ("    front: {mask_path: /nowhere/mask.png}", None)])
def test_a_params_file_is_judged_by_the_node_s_own_rules(domain, params, line, words):
    text = PARAMETERS.replace(PARAMETERS.splitlines()[-1], line) if words is None else \
        PARAMETERS + line + '\n'
    params.write_text(text)
    found = diagnose(collect_snapshot('/crosspoint', 0.2, [params], 0.5))
    codes = {f.code for f in found}
    if words is None:
        assert FindingCode.MASK_REFUSED in codes
        mask = next(f for f in found if f.code is FindingCode.MASK_REFUSED)
        assert (mask.camera, is_documented('mask-refused', mask.message)) == ('front', True)
        assert '/nowhere/mask.png: No such file' in mask.message
    else:
        refused = next(f for f in found if f.code is FindingCode.PARAMETERS_REFUSED)
        assert words in refused.message
        assert is_documented('parameters-refused', refused.message)
        assert codes == {FindingCode.NO_NODE, FindingCode.PARAMETERS_REFUSED}


def test_simulated_time_without_a_clock_is_told(domain):
    with run_rig(domain=domain, use_sim_time=True):
        found = of_the_node()
    assert found['no-clock'].message.endswith('nothing came on /clock (0 publishers)')


# --- real processes: well, and with images that are too large

@pytest.fixture
def robot(domain, params, tmp_path):
    """Start cameras of that size, and the node; `environment` is the cameras'."""
    running_processes = []

    def start(width: int, height: int, rate_hz: float, environment: dict[str, str]) -> None:
        size = ['-p', f'width:={width}', '-p', f'height:={height}', '-p', f'rate_hz:={rate_hz}']
        running_processes.append(NodeProcess('crosspoint_ros.bench.node.synthetic_cameras', size,
                                             tmp_path / 'cameras.log', environment))
        running_processes.append(NodeProcess('crosspoint_ros.ros.node.lifecycle_node',
                                             ['--params-file', str(params)],
                                             tmp_path / 'crosspoint_node.log', environment))
    yield start
    for process in running_processes:
        process.stop()


def doctor(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-m', 'crosspoint_ros.cli', 'doctor', *arguments],
                          capture_output=True, text=True, timeout=60, check=False, env=environment,
                          cwd=ROOT)


def test_a_healthy_robot_takes_a_line_a_camera(robot):
    robot(320, 240, 10.0, dict(os.environ))
    for _ in range(20):  # until the node has started
        ran = doctor(environment=dict(os.environ))
        if ran.returncode == 0:
            break
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line.split(' ')[0] for line in ran.stdout.splitlines()] == [
        '/crosspoint:', 'front:', 'side:', 'healthy'], ran.stdout
    told = json.loads(doctor('--json', environment=dict(os.environ)).stdout)
    assert told['healthy'] is True
    assert told['findings'] == []
    assert [(c['name'], c['size'], c['posed']) for c in told['cameras']] == [
        ('front', [320, 240], True), ('side', [320, 240], True)]
    assert told['node'] == {'name': '/crosspoint', 'there': True, 'answers': True,
                            'state': 'active'}


def test_images_that_are_too_large_for_the_default_transport_are_told(robot):
    environment = {k: v for k, v in os.environ.items() if k not in TRANSPORTS}
    robot(1280, 720, 15.0, environment)
    for _ in range(5):
        ran = doctor('--json', environment=environment)
        found = {f['code']: f for f in json.loads(ran.stdout)['findings']}
        if 'default-transport' in found:  # not every look meets a lost image
            break
    told = found['default-transport']
    assert is_documented('default-transport', told['sentence'])
    assert '2.8 MB' in told['sentence']
    assert 'fastdds_shm.xml' in told['cure']
    assert 'images-lost' not in found


# --- as a command, and what it leaves behind

@pytest.mark.parametrize(('arguments', 'words'), [
    (['--params', '/nowhere/robot.yaml'], 'there is no params file /nowhere/robot.yaml'),
    (['--seconds', '0'], '--seconds 0 is out of range'),
    (['--seconds', 'nan'], '--seconds nan is out of range'),
    (['--node', 'not a name'], "invalid node name 'not a name'")])
def test_what_cannot_be_looked_at_ends_with_2(domain, capsys, arguments, words):
    assert crosspoint(['doctor', *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ''


def test_a_file_without_parameters_for_the_node_ends_with_2(domain, tmp_path, capsys):
    for number, text in enumerate((
            '', 'just words', '[1, 2]', '/other:\n  ros__parameters: {}', 'a: {b', '/**: {}',
            '/**:\n  ros__parameters: 3', '/**:\n  ros__parameters: {use_sim_time: 3}')):
        file = tmp_path / f'{number}.yaml'
        file.write_text(text)
        assert crosspoint(['doctor', '--params', str(file)]) == 2, text
        assert str(file) in capsys.readouterr().err


def test_errors_end_with_1_and_say_so_as_text_and_as_json(domain, capsys):
    assert crosspoint(['doctor', '--seconds', '0.2']) == 1
    assert capsys.readouterr().out.startswith('error no-node: there is no node /crosspoint')
    assert crosspoint(['doctor', '--seconds', '0.2', '--json']) == 1
    told = json.loads(capsys.readouterr().out)
    assert told['healthy'] is False
    assert [(f['code'], f['severity'], f['camera']) for f in told['findings']] == [
        ('no-node', 'error', None)]
    assert told['findings'][0]['cure']


@pytest.mark.parametrize('told_by', ['node', 'file'])
def test_it_has_no_publisher_no_service_and_changes_nothing(domain, tmp_path, told_by):
    greedy = tmp_path / 'greedy.yaml'  # asks for a service; the doctor takes no such orders
    greedy.write_text(PARAMETERS + '    start_type_description_service: true\n')
    with run_rig(domain=domain) as rig:
        rig.discover()
        names = rig.node._config_parameters.names
        before = [rig.node.get_parameter(name).value for name in names]
        looking = threading.Thread(target=collect_snapshot, args=(
            '/crosspoint', 2.0, (greedy,) if told_by == 'file' else (), MAX_WAIT_S))
        looking.start()
        node = rig.cameras
        rig.until(lambda: DOCTOR_NODE in node.get_node_names())
        # Subscriptions are announced as publishers would be: where those are seen, these were too.
        rig.until(lambda: len(node.get_subscriber_names_and_types_by_node(DOCTOR_NODE, '/')) > 5)
        publishes, serves = set(), set()
        while looking.is_alive():
            rig.executor.spin_once(timeout_sec=0.02)
            if DOCTOR_NODE in node.get_node_names():
                sent = node.get_publisher_names_and_types_by_node(DOCTOR_NODE, '/')
                publishes.update(topic for topic, _ in sent)
                served = node.get_service_names_and_types_by_node(DOCTOR_NODE, '/')
                serves.update(service for service, _ in served)
        looking.join()
        assert publishes == serves == set()
        assert rig.node._state_machine.current_state[1] == 'active'
        assert [rig.node.get_parameter(name).value for name in names] == before
        assert rig.results == []
