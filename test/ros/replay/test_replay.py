"""Clicks that a real node answered are answered again from their recording, the same each time."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from bag_recorder import BagRecorder, write_bag_with_click
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.srv import Correct, Correspond
from geometry_msgs.msg import Point, PointStamped
from rclpy.context import Context
from rclpy.node import Node
from rgbd_folders import copy_kitchen, edit_index, make_humble
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from two_camera_rig import EYES, project_point, run_rig

from crosspoint_ros import cli
from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.data.scenes.known_scene import KnownScene as Recorded
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.scenes import KITCHEN

pytestmark = pytest.mark.usefixtures('networks_once')
POINTS = [(0.02, 0.03, 0.0), (-0.05, 0.0, 0.0), (0.0, 0.06, 0.0)]
TOPICS: dict[str, type] = {
    '/tf': TFMessage, '/clicked_point': PointStamped, '/crosspoint/result': QueryResult,
    **{f'/{c}/color/image_raw': Image for c in EYES}, **{f'/{c}/depth': Image for c in EYES},
    **{f'/{c}/color/camera_info': CameraInfo for c in EYES},
    **{f'/crosspoint/{c}/click': PointStamped for c in EYES},
    **{f'/{c}/color/image_raw_mouse_left': Point for c in EYES}}
PARAMETERS = {
    'cameras': list(EYES), 'base_frame': 'base_link', 'matcher': 'fake_matchers:ExactMatcher',
    'front': {'depth_topic': '/front/depth'}, 'side': {'depth_topic': '/side/depth'}}
DEMO = Path(__file__).resolve().parents[3] / 'config' / 'demo.yaml'
CLICKS = 6  # by the fixture, a correction besides


def click_all(rig, recording):
    """Click by each way: three topics and a service; one click is off the image."""
    ways = {topic: rig.cameras.create_publisher(TOPICS[topic], topic, 10) for topic in (
        '/crosspoint/front/click', '/front/color/image_raw_mouse_left', '/clicked_point')}
    rig.until(lambda: all(p.get_subscription_count() >= 2 for p in ways.values()), what='ways')

    def send(topic, message):
        before = len(rig.results)
        ways[topic].publish(message)
        result = rig.wait_for_result(before)
        rig.until(lambda: recording.count('/crosspoint/result') > before, what='it is recorded')
        return result

    for point in (*POINTS[:2], None):
        stamped = PointStamped()
        stamped.header.stamp = time_from_ns(rig.send_frames())
        stamped.point.x, stamped.point.y = project_point('front', point) if point else (900.0, 10.0)
        send('/crosspoint/front/click', stamped)
    rig.send_frames()
    x, y = project_point('front', POINTS[2])
    send('/front/color/image_raw_mouse_left', Point(x=x, y=y))
    rig.send_frames()
    in_3d = PointStamped()
    in_3d.header.frame_id = 'base_link'
    in_3d.point.x, in_3d.point.y, in_3d.point.z = 0.02, 0.03, 1e-6
    send('/clicked_point', in_3d)


def ask(rig, kind, name, request):
    client = rig.cameras.create_client(kind, name)
    rig.until(client.service_is_ready, what=name)
    before = len(rig.results)
    future = client.call_async(request)
    rig.until(future.done, what=name)
    rig.until(lambda: len(rig.results) > before, what='its result')
    return future.result().result


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    """What a real node was asked, and answered: a bag with the clicks, and one without them."""
    folder = tmp_path_factory.mktemp('bags')
    with run_rig() as rig:
        recording = BagRecorder(rig.cameras, TOPICS)
        rig.discover()
        click_all(rig, recording)
        rig.send_frames()
        x, y = project_point('side', POINTS[1])
        asked = ask(rig, Correspond, '/crosspoint/correspond_once',
                    Correspond.Request(camera='side', x=x, y=y))
        found = asked.correspondences[0].found
        ask(rig, Correct, '/crosspoint/correct', Correct.Request(
            query_id=asked.query_id, camera='front', x=found.x + 1, y=found.y))
        assert len(rig.results) == CLICKS + 1
        assert [r.status.code for r in rig.results].count(Code.BAD_REQUEST) == 1
        rig.until(lambda: recording.count('/crosspoint/result') == CLICKS + 1, what='all recorded')
        recording.write(folder / 'all')
        recording.write(folder / 'results', lambda t: 'click' not in t and 'mouse' not in t)
        recording.write(folder / 'clicks', lambda t: 'result' not in t)
        recording.write(folder / "images", lambda t: (
            'color/' in t and 'mouse' not in t) or 'depth' in t)
    (folder / 'node.yaml').write_text(yaml.dump({'/**': {'ros__parameters': PARAMETERS}}))
    return folder


@pytest.fixture
def replay(recorded, capsys):
    def run(bag, *words):
        code = cli.main(['replay', str(recorded / bag), '--params', str(recorded / 'node.yaml'),
                         *words])
        return code, capsys.readouterr()
    return run


def test_every_click_is_answered_as_it_was(replay):
    code, said = replay('all')
    assert code == 0, said
    assert f'{CLICKS} clicks: {CLICKS} with a recorded answer, 0 changed' in said.out
    assert said.out.count('same ') == CLICKS
    assert 'furthest: 0.0 px, 0.0 mm' in said.out
    assert 'BAD_REQUEST' in said.out
    assert 'left out: query' in said.out
    assert 'a correction by a person' in said.out


def test_results_alone_are_enough(replay):
    code, said = replay('results', '--json')
    assert code == 0, said
    told = json.loads(said.out)
    assert (len(told['clicks']), told['compared'], told['changed']) == (CLICKS, CLICKS, 0)


def test_clicks_without_recorded_answers_are_listed(replay):
    code, said = replay('clicks')
    assert code == 0
    assert f'{CLICKS - 1} clicks: 0 with a recorded answer, 0 changed' in said.out
    assert said.out.count('new ') == CLICKS - 1
    assert 'side sure 0.90' in said.out


@pytest.mark.parametrize('words', [[], ['--json'], ['--set', 'limits.min_confidence=0.95']])
def test_two_runs_print_the_same_bytes(replay, words):
    assert replay('all', *words)[1].out == replay('all', *words)[1].out


def test_a_stricter_limit_shows_as_a_refusal(replay):
    code, said = replay('all', '--set', 'limits.min_confidence=0.95')
    assert code == 1
    assert f'{CLICKS - 1} changed' in said.out  # the one off the image is refused as before
    assert 'side sure -> refused LOW_CONFIDENCE' in said.out
    assert 'the target is gone' in said.out


def test_a_verdict_that_changed_is_a_change(replay):
    code, said = replay('all', '--set', 'limits.sure_confidence=0.95')
    assert code == 1
    assert 'side sure -> to be checked 0.0 px' in said.out


def test_another_matcher_s_answers_are_measured_in_pixels_and_millimetres(replay):
    off = ['--set', 'ExactMatcher.offset_px=2.0']
    code, said = replay('all', '--json', *off)
    assert code == 1
    moved = [v['moved_px'] for c in json.loads(said.out)['clicks'] for v in c['views']
             if v['moved_px'] is not None]
    assert len(moved) == CLICKS - 1
    assert moved == pytest.approx([2 * 2 ** 0.5] * len(moved), abs=1e-6)
    furthest_mm = max(c['moved_mm'] or 0 for c in json.loads(said.out)['clicks'])
    assert furthest_mm > 0
    assert replay('all', *off, '--max-px', '3', '--max-mm', str(furthest_mm + 0.1))[0] == 0
    assert replay('all', *off, '--max-px', '3', '--max-mm', str(furthest_mm / 2))[0] == 1


def test_wrong_extrinsics_would_be_seen(replay):
    said = replay('all')[1].out
    errors = dict(line.split(': ') for line in said.splitlines() if 'clicked ray' in line)
    assert set(errors) == set(EYES)
    assert all(float(text.split()[0]) < 1 for text in errors.values())


def test_the_robot_s_graph_never_sees_it_and_no_socket_stays_bound(recorded):
    """It asks rcl for the node's parameters: of that node there must be no trace."""
    code = ('import os, socket, sys\nfrom crosspoint_ros import cli\n'
            'code = cli.main(sys.argv[1:])\nimport rclpy\nbound = []\n'
            'for fd in os.listdir("/proc/self/fd"):\n    try:\n'
            '        name = socket.socket(fileno=os.dup(int(fd))).getsockname()\n'
            '    except OSError:\n        continue\n'
            '    bound += [name] * (name[1] != 0)\n'
            'print(bound, rclpy.ok(), code)')
    fakes = Path(__file__).resolve().parents[2] / 'fakes'
    context = Context()
    context.init(args=[])
    watcher = Node('watcher', context=context)
    run = subprocess.Popen(
        [sys.executable, '-c', code, 'replay', str(recorded / 'all'), '--params',
         str(recorded / 'node.yaml')], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(
            [str(fakes), *filter(None, [os.environ.get('PYTHONPATH')])])})
    names = {'watcher'}
    while run.poll() is None:
        names |= set(watcher.get_node_names())
        time.sleep(0.01)
    watcher.destroy_node()
    context.try_shutdown()
    out, errors = run.communicate()
    assert out.splitlines()[-1] == '[] False 0', errors
    assert names == {'watcher'}


@pytest.mark.parametrize(('words', 'said'), [
    (['--set', 'limits.min_confidnce=0.5'], 'did you mean limits.min_confidence'),
    (['--set', 'limits.min_confidence=2.0'], 'out of range (allowed: 0.0 to 1.0)'),
    (['--set', 'limits.min_confidence=high'], 'it must be DOUBLE'),
    (['--set', 'history_s'], '--set takes NAME=VALUE'),
    (['--set', 'matcher=nope'], "no matcher 'nope'"),
    (['--set', 'front.image_topic=/front/other'], 'front: the bag has no /front/other; it has'),
    (['--set', 'front.mask_path=/nowhere.png'], '/nowhere.png'),
    (['--set', 'ExactMatcher.offset=1.0'], 'ExactMatcher.offset'),
    (['--params', '/nowhere.yaml'], '/nowhere.yaml'),
])
def test_what_cannot_be_replayed_is_one_sentence_and_exit_code_2(replay, words, said):
    code, told = replay('all', *words)
    assert code == 2
    assert said in told.err
    assert told.out == ''


def test_a_bag_without_clicks_is_unusable(replay):
    code, said = replay('images')
    assert code == 2
    assert 'has no clicks' in said.err


def test_a_bag_that_is_none_is_unusable(capsys):
    assert cli.main(['replay', '/nowhere', '--set', 'cameras=[a, b]', '--set', 'base_frame=c']) == 2
    assert 'there is no bag at /nowhere' in capsys.readouterr().err
    assert cli.main(['replay', str(KITCHEN)]) == 2
    error = capsys.readouterr().err
    assert 'cameras is required' in error
    assert '--params FILE.yaml' in error


def test_a_click_in_the_kitchen_finds_the_drawer_handle_twice_in_the_same_words(tmp_path, capsys):
    known = Recorded(KITCHEN)
    handle = next(a for a in known.points if a.name == 'drawer handle')
    click = PointStamped()
    click.header.stamp = time_from_ns(handle.clicked.stamp_ns)
    click.point.x, click.point.y = handle.pixel
    bag = write_bag_with_click(
        tmp_path / 'clicked', KITCHEN, f'/crosspoint/{handle.clicked.camera}/click', click,
        handle.clicked.stamp_ns + 10**8)
    words = ['replay', str(bag), '--params', str(DEMO), '--set', 'use_sim_time=false', '--json']
    said = []
    for _ in range(2):
        assert cli.main(words) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    (change,) = json.loads(said[0])['clicks']
    assert change['camera'] == handle.clicked.camera
    # A handle is on a rim: the depth next to it is that of the drawer.
    assert {v['camera']: v['now'] for v in change['views']}['wrist'] == 'to be checked'
    assert not change['compared']


def test_bags_of_other_recorders_are_answered_alike(tmp_path, capsys):
    """Humble's sqlite3 without definitions, and an index whose QoS is not that of its files."""
    clicked = Recorded(KITCHEN).points[0].clicked
    click = PointStamped()
    click.header.stamp = time_from_ns(clicked.stamp_ns)
    click.point.x, click.point.y = Recorded(KITCHEN).points[0].pixel
    plain = write_bag_with_click(tmp_path / 'plain', KITCHEN, f'/crosspoint/{clicked.camera}/click',
                                 click, clicked.stamp_ns + 10**8)
    humble = make_humble(copy_kitchen(tmp_path / 'humble', storage=StoragePlugin.SQLITE3,
                                      source=plain))
    edited = copy_kitchen(tmp_path / 'edited', source=plain)

    def add_qos(index):
        forever = {'sec': 9223372036, 'nsec': 854775807}
        for topic in index['topics_with_message_count']:
            topic['topic_metadata']['offered_qos_profiles'] = [{
                'history': 'keep_last', 'depth': 1, 'reliability': 'reliable',
                'durability': 'transient_local', 'deadline': forever, 'lifespan': forever,
                'liveliness': 'automatic', 'liveliness_lease_duration': forever,
                'avoid_ros_namespace_conventions': False}]
    said = []
    for bag in (plain, humble, edit_index(edited, add_qos)):
        assert cli.main(['replay', str(bag), '--params', str(DEMO), '--set', 'use_sim_time=false',
                         '--json']) == 0
        said.append(json.loads(capsys.readouterr().out)['clicks'])
    assert len(said[0]) == 1
    assert said[1:] == [said[0]] * 2


def test_a_node_s_own_values_stand_over_those_of_all_nodes(recorded, replay, tmp_path):
    file = tmp_path / 'two.yaml'
    file.write_text(yaml.dump({
        '/**': {'ros__parameters': {**PARAMETERS, 'limits': {'max_epipolar_px': 11.0}}},
        'crosspoint': {'ros__parameters': {'limits': {'min_confidence': 0.95}}}}))
    code, said = replay('all', '--params', str(file))
    assert code == 1
    assert 'LOW_CONFIDENCE' in said.out
