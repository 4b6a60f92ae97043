"""The part of tf2_ros that examples use, for environments of wheels, where it is missing."""
from __future__ import annotations

import time

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage


class Buffer:
    """Holds the newest transform of each pair of frames."""

    def __init__(self) -> None:
        self.transforms: dict[tuple[str, str], TransformStamped] = {}

    def lookup_transform(self, target_frame: str, source_frame: str, at: Time,
                         timeout: Duration) -> TransformStamped:
        end_s = time.monotonic() + timeout.nanoseconds * 1e-9
        while (target_frame, source_frame) not in self.transforms:
            if time.monotonic() > end_s:
                raise LookupError(f'no {source_frame} in {target_frame}')
            time.sleep(0.02)
        return self.transforms[target_frame, source_frame]


class TransformListener:
    """Fills a buffer from /tf."""

    def __init__(self, buffer: Buffer, node: Node) -> None:
        def on_tf(message: TFMessage) -> None:
            for each in message.transforms:
                buffer.transforms[each.header.frame_id, each.child_frame_id] = each
        node.create_subscription(TFMessage, '/tf', on_tf, QoSProfile(depth=100))
