"""Other nodes of the same name: running, or killed and not yet off the graph."""
from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import LivelinessPolicy, QoSProfile
from std_msgs.msg import Empty

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

LEASE = Duration(seconds=1)
ALIVE_QOS = QoSProfile(depth=1, liveliness=LivelinessPolicy.AUTOMATIC,
                       liveliness_lease_duration=LEASE)


class TwinDetector:
    """Counts the nodes of this node's name that run.

    A killed node stays on the graph for some 20 s. But DDS itself reports within a second that a
    publisher is not alive: each node has one on `~/_alive`, on which nothing is ever published.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node, self._dead_count = node, 0
        self._subscription = node.create_subscription(
            Empty, '~/_alive', lambda message: None, ALIVE_QOS,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_liveliness))
        self._publisher = node.create_publisher(Empty, '~/_alive', ALIVE_QOS)

    def _on_liveliness(self, event: Any) -> None:
        self._dead_count = event.not_alive_count

    def count(self) -> int:
        """Return how many nodes of this name run, this one included."""
        named = self._node.get_node_names_and_namespaces().count(
            (self._node.get_name(), self._node.get_namespace()))
        return named - self._dead_count

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_subscription(self._subscription)
