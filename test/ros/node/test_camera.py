"""A camera hears every driver: latched or not, earlier or later, raw or compressed."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from crosspoint_ros.msg import QueryResult, Status
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage
from two_camera_rig import (
    POSES,
    Rig,
    make_image_message,
    make_info_message,
    render_plane_depth_m,
    run_rig,
)

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.config import CameraConfig
from crosspoint_ros.ros.conversions import transform_to_msg
from crosspoint_ros.ros.node.camera import (
    TopicFeed,
    get_depth_type,
    get_image_type,
    resolve_topics,
)
from crosspoint_ros.ros.node.query_queue import QueryRequest

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=5)
OFFERED = {'best effort': qos_profile_sensor_data, 'reliable': RELIABLE, 'latched': LATCHED,
           'latched best effort': QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT,
                                             durability=DurabilityPolicy.TRANSIENT_LOCAL)}


def ask(rig: Rig) -> QueryResult:
    """The result of a click on the newest image."""
    request = QueryRequest('front', pixel=np.array([159.5, 119.5]))
    rig.run_in_executor(lambda: rig.node._server.submit(request))
    return rig.wait_for_result()


def test_a_camera_info_published_once_before_the_node_was_there_is_heard():
    with run_rig(start=False, front__info_topic='/once', limits__max_image_age_s=60.0) as rig:
        publisher = rig.cameras.create_publisher(CameraInfo, '/once', LATCHED)
        publisher.publish(make_info_message(rig.cameras.now_ns(), 'front_optical'))
        rig.run_in_executor(rig.node.start)
        front = rig.node._server.cameras['front'].buffer
        rig.until(lambda: front.has_info, what='the latched camera info')
        rig.send_frames()
        assert ask(rig).status.code == Status.OK


def test_an_image_published_once_before_the_node_was_there_is_heard():
    with run_rig(start=False, front__image_topic='/once', limits__max_image_age_s=60.0,
                 front__depth_topic='') as rig:
        publisher = rig.cameras.create_publisher(Image, '/once', LATCHED)
        picture = rig.cameras.pictures['front']
        picture.header.stamp = rig.cameras.get_clock().now().to_msg()
        publisher.publish(picture)
        rig.run_in_executor(rig.node.start)
        front = rig.node._server.cameras['front'].buffer
        rig.until(lambda: front.get_newest_stamp_ns(), what='the latched image')


@pytest.fixture
def heard():
    """A feed on the topic /followed of a rig, and what it has received."""
    with run_rig() as rig:
        received: list[str] = []

        def note(message: CameraInfo) -> None:
            received.append(message.header.frame_id)

        feed = rig.run_in_executor(lambda: TopicFeed(rig.node, CameraInfo, '/followed', note))
        yield rig, feed, received
        rig.run_in_executor(feed.close)


def publish_until_heard(rig: Rig, feed: TopicFeed, received: list[str], qos: QoSProfile,
                        name: str) -> None:
    """Publish under this QoS until the feed has it, once only if it is latched."""
    publisher = rig.cameras.create_publisher(CameraInfo, '/followed', qos)
    message = make_info_message(1, name)
    publisher.publish(message)

    def is_heard() -> bool:
        if qos is not LATCHED:
            publisher.publish(message)
        rig.run_in_executor(feed.update)
        return name in received

    rig.until(is_heard, what=f'{name}')
    rig.cameras.destroy_publisher(publisher)
    rig.until(lambda: not rig.node.count_publishers('/followed'), what='the publisher is gone')


def test_a_publisher_is_heard_whatever_it_offers_and_whatever_was_there_before(heard):
    rig, feed, received = heard
    for turn, before in enumerate(OFFERED):
        for after in OFFERED:
            for name in (before, after):
                publish_until_heard(rig, feed, received, OFFERED[name], f'{name} {turn} {after}')


def test_a_topic_that_is_received_is_left_alone(heard):
    rig, feed, received = heard
    publisher = rig.cameras.create_publisher(CameraInfo, '/followed', RELIABLE)
    subscription = feed._subscription
    rig.until(lambda: publisher.publish(make_info_message(1, 'x')) or received)
    latched = rig.cameras.create_publisher(CameraInfo, '/followed', LATCHED)
    rig.until(lambda: rig.node.count_publishers('/followed') == 2)
    for _ in range(3):
        rig.run_in_executor(feed.update)
    assert feed._subscription is subscription
    rig.cameras.destroy_publisher(publisher)
    rig.cameras.destroy_publisher(latched)


def test_a_camera_that_is_not_subscribed_keeps_no_lens():
    with run_rig() as rig:
        rig.discover()
        rig.send_frames()
        front = rig.node._server.cameras['front']
        assert front.buffer.has_info
        rig.run_in_executor(front.unsubscribe)
        assert not front.buffer.has_info
        assert not front.is_subscribed


CONFIG = CameraConfig('front', 'image', 'info', 'depth', 'raw', '', False)


@pytest.mark.parametrize(('transport', 'depth_transport', 'topics', 'types'), [
    ('raw', '', ('/image', '/depth'), (Image, Image)),
    ('compressed', '', ('/image/compressed', '/depth/compressedDepth'),
     (CompressedImage, CompressedImage)),
    ('compressed', 'raw', ('/image/compressed', '/depth'), (CompressedImage, Image)),
    ('raw', 'compressed', ('/image', '/depth/compressedDepth'), (Image, CompressedImage))])
def test_image_and_depth_arrive_each_by_its_transport(transport, depth_transport, topics, types):
    config = replace(CONFIG, transport=transport, depth_transport=depth_transport,
                     depth_info_topic='lens')
    found = resolve_topics(config, lambda topic: f'/{topic}')
    assert (found.image_topic, found.depth_topic) == topics
    assert found.depth_info_topic == '/lens'
    assert (get_image_type(config), get_depth_type(config)) == types
    without = resolve_topics(replace(config, depth_topic=''), lambda topic: f'/{topic}')
    assert (without.depth_topic, without.depth_info_topic) == ('', '')


def test_a_query_waits_for_a_fresh_image_of_a_slow_camera():
    with run_rig(limits__max_image_age_s=0.3, limits__wait_images_s=10.0,
                 limits__max_query_s=20.0) as rig:
        rig.discover()
        rig.send_frames()
        front = rig.node._server.cameras['front']
        rig.until(lambda: front.age_s > 0.3)
        rig.cameras.create_timer(1.0, rig.cameras.send_all)
        assert ask(rig).status.code == Status.OK


def test_the_clicked_image_waits_for_the_nearest_of_a_slow_camera():
    with run_rig(limits__max_view_gap_s=0.2, limits__wait_images_s=10.0,
                 limits__max_image_age_s=60.0) as rig:
        rig.discover()
        first = rig.send_frames()
        rig.until(lambda: rig.cameras.now_ns() > first + 5 * 10**8)
        second = rig.cameras.now_ns()
        front = rig.node._server.cameras['front'].buffer

        def send_front() -> None:
            rig.cameras.send_info('front', second)
            rig.cameras.send_depth('front', second)
            rig.cameras.send_image('front', second)

        rig.until(lambda: send_front() or front.is_ready(second))
        rig.cameras.send_tf(second)
        rig.cameras.create_timer(1.0, lambda: rig.cameras.send_all(second))
        assert ask(rig).status.code == Status.OK


BESIDE = Transform(np.eye(3), np.array([0.05, 0.0, 0.0]))  # front_from_depth


def send_depth_of_another_lens(rig: Rig) -> int:
    """Send frames whose front depth is of a camera beside it, until the node has them."""
    depth = rig.cameras.create_publisher(Image, '/front/own_depth', qos_profile_sensor_data)
    info = rig.cameras.create_publisher(CameraInfo, '/front/own_info', LATCHED)
    static = rig.cameras.create_publisher(TFMessage, '/tf_static', LATCHED)
    beside = TransformStamped(child_frame_id='front_depth', transform=transform_to_msg(BESIDE))
    beside.header.frame_id = 'front_optical'
    static.publish(TFMessage(transforms=[beside]))
    stamp = rig.cameras.now_ns()
    info.publish(make_info_message(stamp, 'front_depth'))
    pixels = render_plane_depth_m(POSES['front'] @ BESIDE)
    cameras = rig.node._server.cameras.values()

    def is_here() -> bool:
        depth.publish(make_image_message(stamp, 'front_depth', '32FC1', pixels))
        rig.cameras.send_all(stamp)
        return all(c.buffer.is_ready(stamp) for c in cameras)

    rig.until(is_here)
    return stamp


def test_depth_of_another_lens_is_registered_by_camera_info_and_tf():
    with run_rig(front__depth_topic='/front/own_depth', front__depth_info_topic='/front/own_info',
                 limits__max_image_age_s=60.0, limits__wait_tf_s=5.0) as rig:
        send_depth_of_another_lens(rig)
        result = ask(rig)
        assert result.status.code == Status.OK, result.status.message
        at = result.target.pose.pose.position
        assert np.linalg.norm([at.x, at.y, at.z]) < 0.003


def test_depth_of_another_lens_without_its_camera_info_is_refused_with_both_frames():
    with run_rig(front__depth_topic='/front/own_depth', limits__max_image_age_s=60.0) as rig:
        send_depth_of_another_lens(rig)
        result = ask(rig)
        assert (result.status.code, result.has_target) == (Status.NO_DEPTH, False)
        for word in ("'front_depth'", "'front_optical'", 'not registered'):
            assert word in result.status.message
