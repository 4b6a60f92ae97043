"""TF at a stamp: one table of trees and questions, over tf2_ros and over our own listener."""
from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.ros.conversions import time_from_ns, transform_to_msg
from crosspoint_ros.ros.tf import Tf2Tree, TfListener, TransformLookup, make_transform_lookup

BEGIN_S = 1_760_000_000
DISCOVERY_S = 10.0
ALWAYS = None  # the time of a static transform


def pose(x_m=0.0, turn_deg=0.0, axis=(0.0, 0.0, 1.0)):
    R, _ = cv2.Rodrigues(np.array(axis) * np.radians(turn_deg))
    return Transform(R, np.array([x_m, 0.0, 0.0]))


def ns(at_s):
    return BEGIN_S * 10**9 + round(at_s * 1e9)


@dataclass(frozen=True, eq=False)
class Case:
    """Transforms (parent, child, seconds, pose) in the order sent, a question and its answer."""

    sent: tuple[tuple[str, str, float | None, Transform], ...]
    at_s: float
    expected: Transform | str
    base: str = 'base'
    camera: str = 'camera'


SKEW = (0.6, 0.48, 0.64)
NAN = pose()
object.__setattr__(NAN, 't_m', np.full(3, np.nan))
CASES = {
    'the transform of that very stamp': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2))), 2, pose(2)),
    'halfway between two stamps': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2, 90))), 1.5, pose(1.5, 45)),
    'a quarter of a turn about any axis': Case(
        (('base', 'camera', 1, pose(0, 10, SKEW)), ('base', 'camera', 2, pose(0, 130, SKEW))),
        1.25, pose(0, 40, SKEW)),
    'the short way round': Case(
        (('base', 'camera', 1, pose(0, 170)), ('base', 'camera', 2, pose(0, -170))), 1.5,
        pose(0, 180)),
    'three links, one of them moving': Case(
        (('base', 'arm', ALWAYS, pose(1, 90)), ('arm', 'hand', 1, pose(1)),
         ('arm', 'hand', 3, pose(3)), ('hand', 'camera', ALWAYS, pose(1, 30))), 2,
        pose(1, 90) @ pose(2) @ pose(1, 30)),
    'two branches of one tree': Case(
        (('world', 'base', ALWAYS, pose(1, 20)), ('world', 'camera', ALWAYS, pose(5, 50))), 1,
        pose(1, 20).inverse @ pose(5, 50)),
    'the base hangs from the camera': Case(
        (('camera', 'base', ALWAYS, pose(2, 40)),), 1, pose(2, 40).inverse),
    'the camera is the base': Case((('base', 'camera', ALWAYS, pose(1)),), 1, pose(),
                                   camera='base'),
    'a static one holds at any time': Case((('base', 'camera', ALWAYS, pose(3)),), 1e6, pose(3)),
    'a static one that is sent again': Case(
        (('base', 'camera', ALWAYS, pose(3)), ('base', 'camera', ALWAYS, pose(3))), 1, pose(3)),
    'two static ones that differ': Case(
        (('base', 'camera', ALWAYS, pose(3)), ('base', 'camera', ALWAYS, pose(4))), 1,
        "'camera' is sent with two placements, 1.000 m and 0.0 deg apart: below 'base' on "
        "/tf_static, and below 'base' on /tf_static"),
    'a static one and a moving one that differ': Case(
        (('base', 'camera', ALWAYS, pose(3)), ('base', 'camera', 1, pose(3, 10))), 1,
        "two placements, 0.000 m and 10.0 deg apart: below 'base' on /tf_static, and below 'base' "
        'on /tf'),
    'two placements below two parents': Case(
        (('base', 'hand', ALWAYS, pose(1)), ('hand', 'camera', ALWAYS, pose(1)),
         ('base', 'camera', ALWAYS, pose(2.1))), 1,
        "two placements, 0.100 m and 0.0 deg apart: below 'hand' on /tf_static, and below 'base'"),
    'two senders that alternate': Case(
        tuple(('base', 'camera', i / 20, pose(1 + i % 2 / 10)) for i in range(20)), 0.9,
        "two placements, 0.100 m and 0.0 deg apart: below 'base' on /tf, and below 'base' on /tf"),
    'a frame that was never sent, in itself': Case(
        (('base', 'arm', ALWAYS, pose(1)),), 1, "'camera' is unknown", base='camera'),
    'a wrong stamp is dropped': Case(
        (('base', 'camera', 100, pose(1)), ('base', 'camera', 10, pose(5)),
         ('base', 'camera', 101, pose(2)), ('base', 'camera', 900, pose(5)),
         ('base', 'camera', 102, pose(3))), 101.5, pose(2.5)),
    'the last of two with one stamp': Case(
        (('base', 'camera', 1, pose(3)), ('base', 'camera', 1, pose(4))), 1, pose(4)),
    'one that came late but belongs between': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 3, pose(3)),
         ('base', 'camera', 2, pose(7))), 2.5, pose(5)),
    'a slash in front is no part of the name': Case(
        (('/base', '/camera', ALWAYS, pose(3)),), 1, pose(3), camera='/camera'),
    'a new parent holds from its stamp on': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'hand', ALWAYS, pose(10)),
         ('hand', 'camera', 2, pose(2))), 2, pose(12)),
    'the old parent holds until then': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'hand', ALWAYS, pose(10)),
         ('hand', 'camera', 2, pose(2))), 1.9, pose(1)),
    'what is unknown above both does not matter': Case(
        (('map', 'odom', 50, pose(9)), ('odom', 'base', ALWAYS, pose(1)),
         ('odom', 'camera', ALWAYS, pose(4))), 1, pose(3)),
    'a loop elsewhere does not matter': Case(
        (('base', 'camera', ALWAYS, pose(3)), ('a', 'b', ALWAYS, pose(1)),
         ('b', 'a', ALWAYS, pose(1))), 1, pose(3)),
    'after the newest': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2))), 2.001,
        "'base' -> 'camera' is known only from 1760000001.000000 to 1760000002.000000 s"),
    'before the oldest': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2))), 0.999,
        "'base' -> 'camera' is known only from"),
    'beside the only one': Case((('base', 'camera', 1, pose(1)),), 1.001, 'is known only from'),
    'the link that is late is named': Case(
        (('base', 'arm', 1, pose(1)), ('base', 'arm', 2, pose(1)),
         ('arm', 'camera', 1, pose(1))), 2, "'arm' -> 'camera' is known only from"),
    'forgotten after ten seconds': Case(
        (('base', 'camera', 1, pose(1)), ('base', 'camera', 12, pose(2)),
         ('base', 'camera', 13, pose(2))), 1, 'known only from 1760000012'),
    'too old on arrival': Case(
        (('base', 'camera', 12, pose(1)), ('base', 'camera', 13, pose(2)),
         ('base', 'camera', 1, pose(2))), 2, 'known only from 1760000012'),
    'the camera is unknown': Case((('base', 'arm', ALWAYS, pose(1)),), 1,
                                  "'camera' is unknown; known: .*arm"),
    'the base is unknown': Case((('arm', 'camera', ALWAYS, pose(1)),), 1, "'base' is unknown"),
    'two trees': Case(
        (('world', 'base', ALWAYS, pose(1)), ('room', 'camera', ALWAYS, pose(1))), 1,
        "two trees: 'camera' hangs from 'room', 'base' from 'world'"),
    'the camera hangs from a loop': Case(
        (('a', 'b', ALWAYS, pose(1)), ('b', 'a', ALWAYS, pose(1)),
         ('a', 'camera', ALWAYS, pose(1)), ('c', 'base', ALWAYS, pose(1))), 1,
        'loop: camera -> a -> b -> a'),
    'base and camera are in a loop': Case(
        (('base', 'arm', ALWAYS, pose(1)), ('arm', 'camera', ALWAYS, pose(1)),
         ('camera', 'base', ALWAYS, pose(1))), 1, 'loop: camera -> arm -> base -> camera'),
    'NaN is ignored': Case((('base', 'arm', ALWAYS, pose(1)), ('base', 'camera', ALWAYS, NAN)), 1,
                           "'camera' is unknown"),
    'a frame that is its own parent is ignored': Case(
        (('base', 'arm', ALWAYS, pose(1)), ('camera', 'camera', ALWAYS, pose(1))), 1,
        "'camera' is unknown"),
}


class Broadcaster(Node):
    """Sends transforms over real topics."""

    def __init__(self, context):
        super().__init__('broadcaster', context=context)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.moving = self.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
        self.static = self.create_publisher(TFMessage, '/tf_static', latched)

    def send(self, transforms, prefix=''):
        """Send (parent, child, seconds or ALWAYS, pose) under names of their own."""
        for publisher, kept in ((self.moving, [t for t in transforms if t[2] is not ALWAYS]),
                                (self.static, [t for t in transforms if t[2] is ALWAYS])):
            publisher.publish(TFMessage(transforms=[stamped(t, prefix) for t in kept]))


def stamped(transform, prefix):
    parent, child, at_s, parent_from_child = transform
    msg = TransformStamped(child_frame_id=prefixed(child, prefix),
                           transform=transform_to_msg(parent_from_child))
    msg.header.frame_id = prefixed(parent, prefix)
    msg.header.stamp = time_from_ns(ns(at_s or 0))
    return msg


def prefixed(frame, prefix):
    return '/' + prefix + frame[1:] if frame.startswith('/') else prefix + frame


def until(condition, what):
    end_s = time.monotonic() + DISCOVERY_S
    while not condition():
        assert time.monotonic() < end_s, f'not within {DISCOVERY_S} s: {what}'
        time.sleep(0.005)


@pytest.fixture(scope='module', params=['own', 'tf2_ros'])
def listening(request):
    """A tree that listens in a thread of its own, and somebody who broadcasts to it."""
    if request.param == 'tf2_ros':
        pytest.importorskip('tf2_ros')
    context = Context()
    rclpy.init(context=context)
    node, broadcaster = Node('listener', context=context), Broadcaster(context)
    tree = Tf2Tree(node) if request.param == 'tf2_ros' else TfListener(node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stopped = threading.Event()

    def spin():
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    until(lambda: broadcaster.moving.get_subscription_count()
          and broadcaster.static.get_subscription_count(), 'discovery')
    yield tree, broadcaster
    stopped.set()
    thread.join()
    tree.close()
    executor.shutdown()
    node.destroy_node()
    broadcaster.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def sent(listening):
    """Send transforms under a prefix and wait until they are there; return the Transforms."""
    tree, broadcaster = listening

    def send(transforms, prefix):
        # The last of each message: when they are there, so are those before them.
        markers = (('sent', 'moving', 1, pose()), ('sent', 'static', ALWAYS, pose()))
        broadcaster.send((*transforms, *markers), prefix)
        until(lambda: {f'{prefix}moving', f'{prefix}static'} <= set(tree.frames()), 'transforms')
        return TransformLookup(tree)
    return send


@pytest.mark.parametrize('name', CASES)
def test_a_look_up_answers_or_says_why_not(sent, name):
    case, prefix = CASES[name], f'{list(CASES).index(name)}_'
    transforms = sent(case.sent, prefix)
    base, camera = prefixed(case.base, prefix), prefixed(case.camera, prefix)
    if isinstance(case.expected, Transform):
        found = transforms.lookup(base, camera, ns(case.at_s))
        np.testing.assert_allclose(found.matrix, case.expected.matrix, atol=1e-9)
        return
    with pytest.raises(Rejected) as caught:
        transforms.lookup(base, camera, ns(case.at_s))
    assert caught.value.code == Code.NO_TF
    message = caught.value.message.replace(prefix, '')
    assert re.search(case.expected, message)
    assert f"from '{case.camera}' to '{case.base}' at {BEGIN_S + case.at_s:.6f} s" in message


def test_an_image_without_a_stamp_has_no_transform(sent):
    transforms = sent([('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2))], 'zero_')
    with pytest.raises(Rejected, match='the image has no stamp') as caught:
        transforms.lookup('zero_base', 'zero_camera', 0)
    assert caught.value.code == Code.NO_TF


def test_a_transform_that_is_late_is_waited_for(listening, sent):
    transforms = sent([('base', 'camera', 1, pose(1))], 'late_')
    _, broadcaster = listening
    later = threading.Timer(0.2, broadcaster.send, ([('base', 'camera', 3, pose(3))], 'late_'))
    later.start()
    found = transforms.lookup('late_base', 'late_camera', ns(2), timeout_s=DISCOVERY_S)
    later.join()
    np.testing.assert_allclose(found.t_m, (2, 0, 0))


def test_waiting_ends_at_its_limit_and_says_so(sent):
    transforms = sent([('base', 'camera', 1, pose(1))], 'limit_')
    with pytest.raises(Rejected, match=r'waited 0\.\d\d s, limit 0\.1'):
        transforms.lookup('limit_base', 'limit_camera', ns(2), timeout_s=0.1)


def test_waiting_ends_when_the_query_is_cancelled(sent):
    transforms = sent([('base', 'camera', 1, pose(1))], 'cancel_')
    asked = []
    with pytest.raises(Rejected, match='cancelled while waiting') as caught:
        transforms.lookup('cancel_base', 'cancel_camera', ns(2), timeout_s=600,
                          should_stop=lambda: asked.append(1) or len(asked) > 3)
    assert caught.value.code == Code.CANCELLED


def test_a_jump_in_time_forgets_what_moved_and_keeps_what_is_static(sent):
    transforms = sent([('base', 'arm', ALWAYS, pose(1)), ('arm', 'camera', 5, pose(1))], 'jump_')
    transforms.lookup('jump_base', 'jump_camera', ns(5))
    transforms.clear()
    with pytest.raises(Rejected):
        transforms.lookup('jump_base', 'jump_camera', ns(5))
    np.testing.assert_allclose(transforms.lookup('jump_base', 'jump_arm', ns(5)).t_m, (1, 0, 0))


def test_what_is_left_of_a_bags_end_is_no_neighbour_of_its_beginning(sent):
    transforms = sent([('base', 'camera', 9, pose(9))], 'rewind_')
    transforms = sent([('base', 'camera', 1, pose(1)), ('base', 'camera', 2, pose(2))], 'rewind_')
    np.testing.assert_allclose(
        transforms.lookup('rewind_base', 'rewind_camera', ns(1.5), DISCOVERY_S).t_m, (1.5, 0, 0))
    with pytest.raises(Rejected) as caught:
        transforms.lookup('rewind_base', 'rewind_camera', ns(5))
    assert caught.value.code == Code.NO_TF


def test_nothing_on_tf_is_told_as_such(listening):
    context = Context()
    rclpy.init(context=context, domain_id=101)  # a domain where nobody broadcasts
    node = Node('alone', context=context)
    transforms = make_transform_lookup(node)
    with pytest.raises(Rejected, match='nothing has come on /tf or /tf_static'):
        transforms.lookup('base', 'camera', ns(1))
    transforms.close()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def test_a_conflict_of_two_latched_senders_ends_with_one_of_them_and_a_new_tree():
    """As cleanup and configure make one: it hears only the senders that are there."""
    context = Context()
    rclpy.init(context=context)
    node, urdf, calibration = Node('listens', context=context), *(
        Broadcaster(context) for _ in range(2))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    urdf.send([('latched_base', 'latched_camera', ALWAYS, pose(1))])
    calibration.send([('latched_base', 'latched_camera', ALWAYS, pose(1.1))])
    transforms = make_transform_lookup(node)

    def spin_until(condition):
        until(lambda: executor.spin_once(timeout_sec=0.05) or condition(), 'transforms')

    spin_until(transforms.tree.conflicts)
    with pytest.raises(Rejected, match=r'two placements, 0\.100 m .* clean up and configure'):
        transforms.lookup('latched_base', 'latched_camera', ns(1), timeout_s=60.0)
    transforms.close()
    calibration.destroy_node()
    transforms = make_transform_lookup(node)
    spin_until(transforms.tree.frames)
    end_s = time.monotonic() + 1.0
    while time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.05)
    found = transforms.lookup('latched_base', 'latched_camera', ns(1))
    np.testing.assert_allclose(found.t_m, (1, 0, 0))
    transforms.close()
    executor.shutdown()
    node.destroy_node()
    urdf.destroy_node()
    rclpy.try_shutdown(context=context)


def test_tf2_ros_is_used_where_it_is_installed():
    context = Context()
    rclpy.init(context=context)
    node = Node('chooses', context=context)
    transforms = make_transform_lookup(node)
    assert isinstance(transforms.tree, Tf2Tree if find_spec('tf2_ros') else TfListener)
    transforms.close()
    node.destroy_node()
    rclpy.try_shutdown(context=context)
