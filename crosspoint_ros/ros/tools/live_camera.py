"""Live images of one camera for some seconds, without a node of ours running."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.data.rosbag import COMPRESSED, RAW, RgbdTopics, choose_topics, iter_rgbd

TYPES = {RAW: Image, COMPRESSED: CompressedImage}
DISCOVERY_S = 10.0
SIBLINGS_S = 0.5  # a camera's other topics are discovered a moment later


def stream_images(camera: str, seconds: float, image_topic: str = '', depth_topic: str = ''
          ) -> Iterator[tuple[Rgb, DepthM | None]]:
    """Yield what the camera sends. Raises ValueError if it is not there, or the time is none."""
    if not 0 < seconds <= 3600:
        raise ValueError(f'--live takes more than 0 and at most 3600 seconds, got {seconds:g}')
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('crosspoint_mask', context=context, start_parameter_services=False,
                             enable_rosout=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        topics = _find_topics(node, executor, camera, image_topic, depth_topic)
        yield from iter_rgbd(_iter_messages(node, executor, topics, seconds), topics)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


def _find_topics(node: Node, executor: SingleThreadedExecutor, camera: str, image_topic: str,
           depth_topic: str) -> RgbdTopics:
    end_s = time.monotonic() + DISCOVERY_S
    while True:
        try:
            choose_topics(_published_types(node), camera, image_topic, depth_topic)
            time.sleep(SIBLINGS_S)
            return choose_topics(_published_types(node), camera, image_topic, depth_topic)
        except ValueError as error:
            if time.monotonic() > end_s:
                raise ValueError(f'{error} (looked for {DISCOVERY_S:g} s)') from error
        executor.spin_once(timeout_sec=0.1)


def _published_types(node: Node) -> dict[str, str]:
    return {name: kinds[0] for name, kinds in node.get_topic_names_and_types()
            if node.count_publishers(name)}


def _iter_messages(node: Node, executor: SingleThreadedExecutor, topics: RgbdTopics, seconds: float
              ) -> Iterator[tuple[str, Any]]:
    received: deque[tuple[str, Any]] = deque(maxlen=60)  # images that nobody had time for are dropped

    def on_message(topic: str, message: Any) -> None:
        received.append((topic, message))

    types = _published_types(node)
    for topic in filter(None, (topics.image, topics.depth)):
        node.create_subscription(TYPES[types[topic]], topic, partial(on_message, topic),
                                 qos_profile_sensor_data)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.1)
        while received:
            yield received.popleft()
