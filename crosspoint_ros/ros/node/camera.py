"""One camera: its subscriptions, its rate, and the buffer of its images."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError
from crosspoint_ros.ros.conversions import CameraTopics
from crosspoint_ros.ros.node.image_buffer import BufferLimits, ImageBuffer
from crosspoint_ros.ros.node.stream_stamps import MAX_BACKWARD_NS

RATE_WINDOW_S = 5.0


class Camera:
    """The subscriptions to a camera's topics, and the `buffer` that they fill."""

    def __init__(self, node: Node, config: CameraConfig, node_config: Config,
                 on_jump: Callable[[float], None]) -> None:
        """Read the mask; raise ConfigError if it cannot be used. on_jump: stamps went back by s."""
        self._node, self.config, self._on_jump = node, config, on_jump
        self._type = get_image_type(config)
        self.topics = resolve_topics(config, node.resolve_topic_name)
        self.buffer = ImageBuffer(self.topics, get_buffer_limits(node_config), self._now_ns,
                                  load_mask(config))
        self.frame_id = ''  # of the newest image, for diagnostics
        self._arrivals_s: deque[float] = deque(maxlen=600)
        self._subscriptions: list[Subscription] = []

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def subscribe(self) -> None:
        """Subscribe, if not subscribed."""
        if self._subscriptions:
            return
        self._create_subscription(self._type, self.topics.image_topic, self._on_image)
        self._create_subscription(CameraInfo, self.topics.info_topic, self.buffer.add_info)
        if self.topics.depth_topic:
            self._create_subscription(get_depth_type(self.config), self.topics.depth_topic,
                                      self.buffer.add_depth)
        if self.topics.depth_info_topic:
            self._create_subscription(CameraInfo, self.topics.depth_info_topic,
                                      self.buffer.add_depth_info)

    def _create_subscription(self, msg_type: type, topic: str,
                             callback: Callable[[Any], None]) -> None:
        # Best effort also receives from reliable publishers; the other way round nothing comes.
        self._subscriptions.append(self._node.create_subscription(
            msg_type, topic, callback, qos_profile_sensor_data))

    def unsubscribe(self) -> None:
        """Unsubscribe and clear: an old image must not pass for the newest later."""
        self.buffer.clear()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._arrivals_s.clear()

    def clear(self) -> None:
        """Drop the images, as when time jumps."""
        self.buffer.clear()

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._arrivals_s.append(time.monotonic())
        self.frame_id = message.header.frame_id
        jump_s = self.buffer.add_image(message)
        if jump_s < -MAX_BACKWARD_NS * 1e-9:
            self._on_jump(jump_s)

    @property
    def is_subscribed(self) -> bool:
        """Whether it is subscribed."""
        return bool(self._subscriptions)

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
