"""One camera: its subscriptions, its rate, and the buffer of its images."""
from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError
from crosspoint_ros.ros.conversions import CameraTopics
from crosspoint_ros.ros.node.image_buffer import BufferLimits, ImageBuffer
from crosspoint_ros.ros.node.stream_stamps import MAX_BACKWARD_NS

RATE_WINDOW_S = 5.0
FEED_PERIOD_S = 1.0  # how often topics on which nothing comes are looked at
ALIVE_S = 2.0
JUMP_WINDOW_S = 5.0  # in which others must jump too, or it was this camera's clock alone
LATCHED_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE,
                         durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TopicFeed:
    """A subscription that also gets what was published, latched, before it was made.

    A transient-local subscription gets nothing from a volatile publisher, and a volatile one only
    what is new: so it takes what the publishers offer, and looks again while nothing comes.
    """

    def __init__(self, node: Node, msg_type: type, topic: str,
                 callback: Callable[[Any], None]) -> None:
        self._node, self._type, self._topic, self._callback = node, msg_type, topic, callback
        self._subscription: Subscription | None = None
        self._is_latched = self._is_receiving = False
        self.update()

    def update(self) -> None:
        """Subscribe, or subscribe again if nothing has come and the publishers are others."""
        is_receiving, self._is_receiving = self._is_receiving, False
        if is_receiving:
            return
        is_latched = is_every_publisher_latched(self._node, self._topic)
        if self._subscription is None or is_latched != self._is_latched:
            self.close()
            # Best effort also receives from reliable publishers; the other way round nothing comes.
            self._is_latched, self._subscription = is_latched, self._node.create_subscription(
                self._type, self._topic, self._on_message,
                LATCHED_QOS if is_latched else qos_profile_sensor_data)

    def _on_message(self, message: Any) -> None:
        self._is_receiving = True
        self._callback(message)

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = None


def is_every_publisher_latched(node: Node, topic: str) -> bool:
    """Return whether a topic has publishers, and all of them keep messages for late subscribers."""
    offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    return bool(offered) and all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
                                 and qos.reliability == ReliabilityPolicy.RELIABLE
                                 for qos in offered)


class Camera:
    """The subscriptions to a camera's topics, and the `buffer` that they fill."""

    def __init__(self, node: Node, config: CameraConfig, node_config: Config,
                 on_jump: Callable[[Camera], None],
                 lookup_transform: Callable[[str, str, int], Transform]) -> None:
        """Read the mask; raise ConfigError if it cannot be used.

        on_jump: its stamps went back; called again with each image until `clear`, for 5 s.
        """
        self._node, self.config, self._on_jump = node, config, on_jump
        self.topics = resolve_topics(config, node.resolve_topic_name)
        self.buffer = ImageBuffer(self.topics, get_buffer_limits(node_config), self._now_ns,
                                  load_mask(config), lookup_transform)
        self.frame_id = ''  # of the newest image, for diagnostics
        self.jump_s, self.jumped_s = 0.0, -math.inf  # by how much, and when (monotonic)
        self._arrivals_s: deque[float] = deque(maxlen=600)
        self._subscribed_s = 0.0
        self._feeds: list[TopicFeed] = []
        self._timer: Timer | None = None

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def subscribe(self) -> None:
        """Subscribe, if not subscribed."""
        if self._feeds:
            return
        self._subscribed_s = time.monotonic()
        topics, buffer = self.topics, self.buffer
        wanted = [(get_image_type(self.config), topics.image_topic, self._on_image),
                  (CameraInfo, topics.info_topic, buffer.add_info),
                  (get_depth_type(self.config), topics.depth_topic, buffer.add_depth),
                  (CameraInfo, topics.depth_info_topic, buffer.add_depth_info)]
        self._feeds = [TopicFeed(self._node, msg_type, topic, callback)
                       for msg_type, topic, callback in wanted if topic]
        self._timer = self._node.create_timer(FEED_PERIOD_S, self._update_feeds,
                                              clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _update_feeds(self) -> None:
        for feed in self._feeds:
            feed.update()

    def unsubscribe(self) -> None:
        """Unsubscribe and drop all: an old image, or lens, must not pass for the newest later."""
        self.buffer.reset()
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = None
        self._arrivals_s.clear()

    def clear(self) -> None:
        """Drop the images, as when time jumps."""
        self.buffer.clear()
        self.jumped_s = -math.inf

    def _on_image(self, message: Image | CompressedImage) -> None:
        now_s = time.monotonic()
        self._arrivals_s.append(now_s)
        self.frame_id = message.header.frame_id
        jump_s = self.buffer.add_image(message)
        if jump_s < -MAX_BACKWARD_NS * 1e-9:
            self.jump_s, self.jumped_s = jump_s, now_s
        if now_s - self.jumped_s < JUMP_WINDOW_S:
            self._on_jump(self)

    @property
    def silent_s(self) -> float:
        """Wall time since the last image came, or since the subscription without any, s."""
        return time.monotonic() - (
            self._arrivals_s[-1] if self._arrivals_s else self._subscribed_s)

    @property
    def is_alive(self) -> bool:
        """Whether an image has come in the last two seconds."""
        return bool(self._arrivals_s) and time.monotonic() - self._arrivals_s[-1] < ALIVE_S

    @property
    def is_subscribed(self) -> bool:
        """Whether it is subscribed."""
        return bool(self._feeds)

    @property
    def rate_hz(self) -> float:
        """Images per second over the last five seconds."""
        since_s = time.monotonic() - RATE_WINDOW_S
        return sum(arrival_s > since_s for arrival_s in self._arrivals_s) / RATE_WINDOW_S

    @property
    def age_s(self) -> float:
        """Age of the newest image by the node's clock; NaN without one."""
        newest_ns = self.buffer.get_newest_stamp_ns()
        return float('nan') if newest_ns is None else (self._now_ns() - newest_ns) * 1e-9


def get_buffer_limits(config: Config) -> BufferLimits:
    """Return how long images are kept, and how well image and depth must match."""
    return BufferLimits(config.history_s, config.times.max_image_age_s,
                        config.times.max_depth_lag_s)


def get_image_type(config: CameraConfig) -> type:
    """Return the message type of images."""
    return CompressedImage if config.transport == 'compressed' else Image


def get_depth_type(config: CameraConfig) -> type:
    """Return the message type of depth."""
    return CompressedImage if _get_depth_transport(config) == 'compressed' else Image


def _get_depth_transport(config: CameraConfig) -> str:
    return config.depth_transport or config.transport


def resolve_topics(config: CameraConfig, resolve: Callable[[str], str]) -> CameraTopics:
    """Return the full names of a camera's topics; `resolve` is the node's resolve_topic_name."""
    image = '/compressed' * (config.transport == 'compressed')
    depth = '/compressedDepth' * (_get_depth_transport(config) == 'compressed')
    return CameraTopics(config.name, resolve(config.image_topic) + image,
                        resolve(config.info_topic),
                        config.depth_topic and resolve(config.depth_topic) + depth,
                        config.rectified, config.depth_topic and config.depth_info_topic and
                        resolve(config.depth_info_topic))


def load_mask(config: CameraConfig) -> npt.NDArray[np.bool_] | None:
    """Read `mask_path`, if set. Raises ConfigError if the file cannot be used as a mask."""
    if not config.mask_path:
        return None
    from crosspoint_ros.core.image_io import read_mask
    path = Path(config.mask_path).expanduser()
    try:
        return read_mask(path)
    except OSError as error:
        raise ConfigError(f'{config.name}.mask_path: {path}: {error.strerror}') from error
    except ValueError as error:
        raise ConfigError(f'{config.name}.mask_path: {error}') from error
