"""Streams the images of one live camera for some seconds, without a crosspoint node."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.data.rosbag import COMPRESSED, RAW, RgbdTopics, choose_topics, iter_rgbd
from crosspoint_ros.ros.client.session import RosSession

TYPES = {RAW: Image, COMPRESSED: CompressedImage}
MAX_QUEUED = 60  # older images are dropped
DISCOVERY_S = 10.0
SIBLINGS_S = 0.5  # a camera's other topics are discovered a moment later


def stream_images(camera: str, seconds: float, image_topic: str = '', depth_topic: str = ''
                  ) -> Iterator[tuple[Rgb, DepthM | None]]:
    """Yield images (h, w, 3) RGB with their depth (h, w) in metres, or None.

    Raises ValueError if the camera is not found, or `seconds` is out of range.
    """
    if not 0 < seconds <= 3600:
        raise ValueError(f'--live takes more than 0 and at most 3600 seconds, got {seconds:g}')
    with RosSession() as session:
        node = session.create_node('crosspoint_mask')
        topics = _find_topics(session, node, camera, image_topic, depth_topic)
        yield from iter_rgbd(_iter_messages(session, node, topics, seconds), topics)


def _find_topics(session: RosSession, node: Node, camera: str, image_topic: str,
                 depth_topic: str) -> RgbdTopics:
    end_s = time.monotonic() + DISCOVERY_S
    while True:
        try:
            choose_topics(_list_published_types(node), camera, image_topic, depth_topic)
            time.sleep(SIBLINGS_S)
            return choose_topics(_list_published_types(node), camera, image_topic, depth_topic)
        except ValueError as error:
            if time.monotonic() > end_s:
                raise ValueError(f'{error} (waited {DISCOVERY_S:g} s)') from error
        session.spin_for(0.1)


def _list_published_types(node: Node) -> dict[str, str]:
    return {name: kinds[0] for name, kinds in node.get_topic_names_and_types()
            if node.count_publishers(name)}


def _iter_messages(session: RosSession, node: Node, topics: RgbdTopics, seconds: float
                   ) -> Iterator[tuple[str, Any]]:
    received: deque[tuple[str, Any]] = deque(maxlen=MAX_QUEUED)

    def on_message(topic: str, message: Any) -> None:
        received.append((topic, message))

    types = _list_published_types(node)
    for topic in filter(None, (topics.image, topics.depth)):
        node.create_subscription(TYPES[types[topic]], topic, partial(on_message, topic),
                                 qos_profile_sensor_data)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        session.spin_until(lambda: bool(received), 0.1)
        while received:
            yield received.popleft()
