"""Streams the images of one live camera for some seconds, without a crosspoint node."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
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
    check_seconds(seconds)
    with RosSession() as session:
        node = session.create_node('crosspoint_mask')
        choose = partial(choose_topics, camera=camera, image=image_topic, depth=depth_topic)
        types = wait_for_types(session, node, choose, DISCOVERY_S)
        topics = choose(types)
        yield from iter_rgbd(_iter_messages(session, node, types, topics, seconds), topics)


def check_seconds(seconds: float) -> None:
    """Raise ValueError for a time that is out of range."""
    if not 0 < seconds <= 3600:
        raise ValueError(f'--live takes more than 0 and at most 3600 seconds, got {seconds:g}')


def wait_for_types(session: RosSession, node: Node, choose: Callable[[dict[str, str]], Any],
                   timeout_s: float) -> dict[str, str]:
    """Return the types of all published topics, by name, once `choose` finds its own in them.

    Raises the ValueError of `choose` after that time.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            choose(_list_published_types(node))
            session.spin_for(SIBLINGS_S)
            return _list_published_types(node)
        except ValueError as error:
            if time.monotonic() > end_s:
                raise ValueError(f'{error} (waited {timeout_s:g} s)') from error
        session.spin_for(0.1)


def _list_published_types(node: Node) -> dict[str, str]:
    return {name: kinds[0] for name, kinds in node.get_topic_names_and_types()
            if node.count_publishers(name)}


def _iter_messages(session: RosSession, node: Node, types: dict[str, str], topics: RgbdTopics,
                   seconds: float) -> Iterator[tuple[str, Any]]:
    received: deque[tuple[str, Any]] = deque(maxlen=MAX_QUEUED)

    def on_message(topic: str, message: Any) -> None:
        received.append((topic, message))

    for topic in filter(None, (topics.image, topics.depth)):
        node.create_subscription(TYPES[types[topic]], topic, partial(on_message, topic),
                                 qos_profile_sensor_data)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        session.spin_until(lambda: bool(received), 0.1)
        while received:
            yield received.popleft()
