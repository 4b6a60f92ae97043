"""The accepted 3D target, kept on TF until it is replaced, cleared or expired."""
from __future__ import annotations

import time

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

from crosspoint_ros.msg import GraspTarget


class TargetOnTf:
    """Broadcasts `base_frame -> target_frame`; `broadcast` is called at 10 Hz.

    The stamp is the node's time now, not that of the click: the target stands still in the base
    frame, and a consumer that looks it up now must find it.
    """

    def __init__(self, node: Node, target_frame: str, ttl_s: float) -> None:
        self._node, self._target_frame, self._ttl_s = node, target_frame, ttl_s
        self._target: GraspTarget | None = None
        self._accepted_s = 0.0
        self._sent_ns = -1
        # tf2_ros's own broadcaster uses this topic and depth; it is not on every machine.
        self._publisher = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))

    @property
    def target(self) -> GraspTarget | None:
        """What stands on TF now."""
        return self._target

    def hold(self, target: GraspTarget) -> None:
        """Replace the target, and broadcast it at once."""
        self._target, self._accepted_s, self._sent_ns = target, time.monotonic(), -1
        self.broadcast()

    def clear(self) -> None:
        """Stop broadcasting."""
        self._target = None

    def broadcast(self) -> bool:
        """Send the transform; return True when the target has just expired instead."""
        if self._target is None:
            return False
        if self._ttl_s and time.monotonic() - self._accepted_s > self._ttl_s:
            self.clear()
            return True
        now = self._node.get_clock().now()
        if now.nanoseconds == self._sent_ns:
            return False  # a simulation is paused: listeners complain of the same stamp again
        self._sent_ns = now.nanoseconds
        pose = self._target.pose.pose
        transform = TransformStamped(child_frame_id=self._target_frame)
        transform.header.stamp = now.to_msg()
        transform.header.frame_id = self._target.header.frame_id
        transform.transform.translation.x = pose.position.x
        transform.transform.translation.y = pose.position.y
        transform.transform.translation.z = pose.position.z
        transform.transform.rotation = pose.orientation
        self._publisher.publish(TFMessage(transforms=[transform]))
        return False

    def close(self) -> None:
        """Leave the topic."""
        self._node.destroy_publisher(self._publisher)
