"""A bag's messages arrive as they were recorded, under a clock that goes with them."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.ros.tf import make_transform_lookup
from crosspoint_ros.ros.tools import play_bag
from crosspoint_ros.ros.tools.play_bag import main
from crosspoint_ros.scenes import KITCHEN

WAIT_S = 20.0


class Audience:
    """Subscribes, and remembers what came."""

    def __init__(self):
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node('audience', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def hear(self, kind, topic, qos):
        """Return the list that the topic's messages will come into."""
        heard = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def until(self, condition, what):
        """Spin until the condition holds."""
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, f'not within {WAIT_S} s: {what}'
            self.executor.spin_once(timeout_sec=0.05)

    def close(self):
        """Leave nothing behind."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def audience():
    listener = Audience()
    yield listener
    listener.close()


@pytest.fixture
def play():
    """Start play_bag in a process of its own, as a launch file does; it is ended with the test."""
    running = []

    def start(**parameters):
        given = [a for name, value in parameters.items() for a in ('-p', f'{name}:={value}')]
        running.append(subprocess.Popen(
            [sys.executable, '-m', 'crosspoint_ros.ros.tools.play_bag', '--ros-args', *given],
            cwd=Path(__file__).parents[2], env=dict(os.environ), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return running[-1]

    yield start
    for process in running:
        process.terminate()  # not kill: DDS would leave its shared memory behind
        process.communicate(timeout=WAIT_S)


def recorded(bag, topic):
    """The stamps of a topic's images as they are in the bag."""
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        return [stamp_to_ns(reader.deserialize(data, c.msgtype).header.stamp)
                for c, _, data in reader.messages(connections=connections)]


def stamps(images):
    return [stamp_to_ns(message.header.stamp) for message in images]


@pytest.mark.parametrize('qos', [qos_profile_sensor_data, QoSProfile(depth=50)],
                         ids=['best effort', 'reliable'])
@pytest.mark.parametrize('bag', ['kitchen', 'apc_shelf'])
def test_every_image_arrives_with_its_own_stamp(audience, play, request, bag, qos):
    path = KITCHEN if bag == 'kitchen' else (
        request.getfixturevalue('shared_data') / 'apc_shelf' / 'bag')
    topic = '/wrist/color/image_raw/compressed'
    images = audience.hear(CompressedImage, topic, qos)
    play(bag=path, rate=8, loop='true')
    expected = set(recorded(path, topic))
    audience.until(lambda: expected <= set(stamps(images)), 'all images of the bag')
    assert set(stamps(images)) == expected


def test_the_bytes_are_those_of_the_bag(audience, play):
    topic = '/front/color/image_raw/compressed'
    images = audience.hear(CompressedImage, topic, QoSProfile(depth=50))
    play(rate=8, loop='true')
    audience.until(lambda: images, 'an image')
    with AnyReader([KITCHEN]) as reader:
        sent = {stamp_to_ns(m.header.stamp): m for m in (
            reader.deserialize(data, c.msgtype) for c, _, data in reader.messages(
                connections=[c for c in reader.connections if c.topic == topic]))}
    same = sent[stamps(images)[0]]
    assert np.array_equal(images[0].data, same.data)
    assert (images[0].format, images[0].header.frame_id) == (same.format, same.header.frame_id)


def test_who_comes_late_still_gets_what_is_static(audience, play):
    images = audience.hear(CompressedImage, '/wrist/color/image_raw/compressed',
                           qos_profile_sensor_data)
    play(rate=1)
    audience.until(lambda: images, 'an image')
    static = audience.hear(TFMessage, '/tf_static', QoSProfile(
        depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    audience.until(lambda: static, 'the static transforms, sent once, before this subscription')
    assert {t.child_frame_id for t in static[0].transforms} == {
        'front_color_optical_frame', 'side_color_optical_frame'}


def test_the_clock_goes_with_the_bag_at_its_rate_and_a_loop_is_a_jump_back(audience, play):
    clocks = audience.hear(Clock, '/clock', QoSProfile(depth=1000))
    play(rate=10, clock_hz=25, loop='true')

    def steps():
        return np.diff([stamp_to_ns(clock.clock) for clock in clocks])

    audience.until(lambda: (steps() < 0).sum() >= 2, 'two loops')
    forward = steps()[steps() > 0]
    assert (forward == 400_000_000).all(), '10 s of the bag a second, in 25 ticks'
    begin_ns = min(recorded(KITCHEN, '/wrist/color/image_raw/compressed'))
    assert min(stamp_to_ns(clock.clock) for clock in clocks) == begin_ns


def test_time_may_go_on_from_round_to_round(audience, play):
    clocks = audience.hear(Clock, '/clock', QoSProfile(depth=1000))
    images = audience.hear(CompressedImage, '/wrist/color/image_raw/compressed',
                           QoSProfile(depth=100))
    moved = audience.hear(TFMessage, '/tf', QoSProfile(depth=1000))
    play(rate=10, loop='true', time_goes_on='true')
    first = set(recorded(KITCHEN, '/wrist/color/image_raw/compressed'))
    third_ns = 2 * (max(first) - min(first)) + min(first)
    audience.until(lambda: len(images) > 2 * len(first) and stamps(images)[-1] > third_ns,
                   'a third round')
    ticks = [stamp_to_ns(clock.clock) for clock in clocks]
    assert ticks == sorted(set(ticks))
    assert stamps(images) == sorted(set(stamps(images)))
    poses = {stamp_to_ns(t.header.stamp) for message in moved for t in message.transforms}
    assert set(stamps(images)[1:-1]) <= poses, 'every image has its pose, in every round'
    recording = KnownScene(KITCHEN, tick_ns=250_000_000)
    assert {recording.find_frame('wrist', ns).stamp_ns for ns in stamps(images)} <= first


def test_the_cameras_of_the_kitchen_are_where_its_truth_says(audience, play):
    transforms = make_transform_lookup(audience.node)
    clocks = audience.hear(Clock, '/clock', QoSProfile(depth=1000))
    play(rate=8, loop='true')
    audience.until(lambda: any(b.clock.sec < a.clock.sec for a, b in pairwise(clocks)), 'a loop')
    transforms.clear()  # we came in the middle of the first one

    def is_where_it_was(frame):
        try:
            base_from_cam = transforms.lookup(
                'base_link', f'{frame["camera"]}_color_optical_frame', frame['stamp_ns'])
        except Rejected:
            return False
        np.testing.assert_allclose(base_from_cam.matrix, frame['base_from_camera'], atol=1e-6)
        return True

    frames = json.loads((KITCHEN / 'truth.json').read_text())['frames']
    assert len(frames) > 40
    for frame in frames:
        audience.until(partial(is_where_it_was, frame), f'TF at {frame["stamp_ns"]}')
    transforms.close()


def test_a_bag_that_is_over_ends_well(play):
    process = play(rate=50)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert '181 messages of 11 topics in 5.8 s, at rate 50' in output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(audience, play, number):
    process = play(loop='true')
    audience.until(lambda: audience.node.count_publishers('/clock'), 'the player')
    process.send_signal(number)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert 'Traceback' not in output


def write_bag(path, storage, messages=3):
    """Write a bag with text on /text and a message of a type that nobody has."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg('int32 x', 'martian_msgs/msg/Rock'))
    with Writer(path, version=9, storage_plugin=storage) as writer:
        text = writer.add_connection('/text', 'std_msgs/msg/String', typestore=store)
        rock = writer.add_connection('/rock', 'martian_msgs/msg/Rock', typestore=store)
        for n in range(messages):
            line = store.types['std_msgs/msg/String'](f'line {n}')
            stone = store.types['martian_msgs/msg/Rock'](n)
            writer.write(text, n * 10**8, store.serialize_cdr(line, 'std_msgs/msg/String'))
            writer.write(rock, n * 10**8, store.serialize_cdr(stone, 'martian_msgs/msg/Rock'))
    return path


@pytest.mark.parametrize('storage', list(StoragePlugin))
def test_both_storages_are_played_and_unknown_types_are_named(audience, play, tmp_path, storage):
    bag = write_bag(tmp_path / 'bag', storage)
    lines = audience.hear(String, '/text', QoSProfile(depth=50))
    process = play(bag=bag, loop='true')
    audience.until(lambda: {line.data for line in lines} == {'line 0', 'line 1', 'line 2'},
                   'three lines')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert '/rock is left out: martian_msgs/msg/Rock is not installed here (package ' \
           'martian_msgs)' in output


def write_topics(path, *topics):
    """Write three messages on each topic: name, type, durability, message of a number."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    forever = QosTime(9223372036, 854775807)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, kind, durability, make in topics:
            qos = [Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, durability, forever,
                       forever, QosLiveliness.AUTOMATIC, forever, False)]
            connection = writer.add_connection(name, kind, typestore=store,
                                               offered_qos_profiles=qos)
            for n in range(3):
                data = store.serialize_cdr(make(store.types, n), kind)
                writer.write(connection, 10**15 + n * 10**8, data)
    return path


def make_text(types, n):
    return types['std_msgs/msg/String'](f'line {n}')


@pytest.mark.parametrize('index', ['as recorded', 'edited'])
def test_what_was_latched_reaches_who_comes_late_and_nothing_else_does(
        audience, play, tmp_path, index):
    latched, volatile = QosDurability.TRANSIENT_LOCAL, QosDurability.VOLATILE
    kind = 'std_msgs/msg/String'
    recorded_as = latched if index == 'as recorded' else volatile
    bag = write_topics(tmp_path / 'bag', ('/map_name', kind, recorded_as, make_text),
                       ('/chatter', kind, volatile, make_text),
                       ('/later', kind, volatile, lambda types, n: make_text(types, 99)))
    if index == 'edited':  # ros2 bag play, too, takes the QoS of the index
        text = (bag / 'metadata.yaml').read_text()
        begin, end = text.index('/map_name'), text.index('/chatter')
        (bag / 'metadata.yaml').write_text(text[:begin] + text[begin:end].replace(
            'volatile', 'transient_local') + text[end:])
    clocks = audience.hear(Clock, '/clock', QoSProfile(depth=10))
    play(bag=bag, rate=0.01)  # the second message comes after ten seconds
    audience.until(lambda: clocks, 'the player')
    first = audience.hear(String, '/map_name', QoSProfile(
        depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    audience.until(lambda: first, 'what was latched')
    assert first[0].data == 'line 0'
    infos = audience.node.get_publishers_info_by_topic('/chatter')
    assert [info.qos_profile.durability for info in infos] == [DurabilityPolicy.VOLATILE]


def test_a_recorded_clock_is_played_alone(audience, play, tmp_path):
    """The stamps of a simulation are of its clock, whatever time the recorder wrote."""
    bag = write_topics(tmp_path / 'bag', (
        '/clock', 'rosgraph_msgs/msg/Clock', QosDurability.VOLATILE,
        lambda types, n: types['rosgraph_msgs/msg/Clock'](
            types['builtin_interfaces/msg/Time'](12, n))))
    clocks = audience.hear(Clock, '/clock', QoSProfile(depth=1000))
    play(bag=bag, rate=0.5, loop='true')
    audience.until(lambda: len(clocks) > 7, 'two rounds')
    assert {clock.clock.sec for clock in clocks} == {12}


def test_a_topic_of_calls_or_without_a_type_is_left_out_and_why(audience, play, tmp_path):
    bag = tmp_path / 'bag'
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        text = writer.add_connection('/text', 'std_msgs/msg/String', typestore=store)
        event = writer.add_connection(
            '/add/_service_event', 'example_interfaces/srv/AddTwoInts_Event',
            msgdef='int64 a\n---\nint64 sum\n', rihs01='RIHS01_' + '0' * 64)
        odd = writer.add_connection('/odd', 'nothing', msgdef='int32 x\n',
                                    rihs01='RIHS01_' + '0' * 64)
        for n in range(3):
            data = store.serialize_cdr(make_text(store.types, n), 'std_msgs/msg/String')
            for connection in (text, event, odd):
                writer.write(connection, n * 10**8, data)
    lines = audience.hear(String, '/text', QoSProfile(depth=50))
    process = play(bag=bag, loop='true')
    audience.until(lambda: {line.data for line in lines} == {'line 0', 'line 1', 'line 2'},
                   'three lines')
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert '/add/_service_event is left out: example_interfaces/srv/AddTwoInts_Event is of calls' \
        in output
    assert '/odd is left out: nothing is not installed here' in output


def refused(capsys, *parameters):
    code = main(['--ros-args', *(a for p in parameters for a in ('-p', p))])
    told = capsys.readouterr().err
    assert code == 1
    assert told.count('\n') == 1, 'one sentence'
    return told


@pytest.mark.parametrize(('parameter', 'words'), [
    ('bag:=/nowhere/at_all', 'there is no bag at /nowhere/at_all'),
    (f'bag:={Path(__file__).parent}', 'cannot be read as a rosbag2'),
    ('rate:=0', 'rate must be a number over 0 and at most 1000, got 0'),
    ('rate:=fast', "rate must be a number over 0 and at most 1000, got 'fast'"),
    ('clock_hz:=-1.0', 'clock_hz must be a number over 0'),
    ('loop:=3', "'loop' to '3'"),
    ('looop:=true', 'unknown parameter looop; did you mean loop?'),
    ('speed:=2.0', 'unknown parameter speed; known: bag, loop, time_goes_on, rate, clock_hz')])
def test_what_cannot_be_played_is_told_in_one_sentence(capsys, parameter, words):
    assert words in refused(capsys, parameter)


def test_a_bag_without_messages_is_told(capsys, tmp_path):
    bag = write_bag(tmp_path / 'bag', StoragePlugin.MCAP, messages=0)
    assert f'{bag} has no messages' in refused(capsys, f'bag:={bag}')


def test_a_missing_rosbags_is_told_with_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rosbags.rosbag2', None)
    assert 'pip install rosbags' in refused(capsys)


def test_the_built_in_scene_is_in_the_package():
    assert (Path(play_bag.__file__).parents[2] / 'scenes' / 'kitchen' / 'metadata.yaml').is_file()
    assert (KITCHEN / 'truth.json').is_file()
