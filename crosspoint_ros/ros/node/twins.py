"""Other nodes of the same name: running, or killed and not yet off the graph."""
from __future__ import annotations

import math
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import LivelinessPolicy, QoSProfile
from rclpy.utilities import get_rmw_implementation_identifier
from std_msgs.msg import Empty

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

LEASE = Duration(seconds=1)
ALIVE_QOS = QoSProfile(depth=1, liveliness=LivelinessPolicy.AUTOMATIC,
                       liveliness_lease_duration=LEASE)
PERIOD_S = 0.5
DISCOVERY_S = 5.0  # after which a node that runs is known to be alive


class TwinDetector:
    """Counts the nodes of this node's name that run.

    A killed node stays on the graph for some 20 s. But DDS itself reports within a second that a
    publisher is not alive: each node has one on `~/_alive`, on which nothing is ever published.
    (Zenoh reports nothing: there every name counts.)
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node, self._alive_count, self._dead_count = node, 0, 0
        self._named_count, self._changed_s = 1, -math.inf
        self._subscription = node.create_subscription(
            Empty, '~/_alive', lambda message: None, ALIVE_QOS,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_liveliness))
        self._publisher = node.create_publisher(Empty, '~/_alive', ALIVE_QOS)
        self._timer = node.create_timer(PERIOD_S, self._update,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_liveliness(self, event: Any) -> None:
        self._alive_count, self._dead_count = event.alive_count, event.not_alive_count

    def _update(self) -> None:
        named = self._node.get_node_names_and_namespaces().count(
            (self._node.get_name(), self._node.get_namespace()))
        if named != self._named_count:
            self._named_count, self._changed_s = named, time.monotonic()

    def count(self) -> int:
        """Return how many nodes of this name run, this one included."""
        self._update()
        is_new = time.monotonic() - self._changed_s < DISCOVERY_S
        if is_new or 'zenoh' in get_rmw_implementation_identifier():
            return self._named_count - self._dead_count
        return min(self._named_count, 1 + self._alive_count)  # its own publisher is not reported

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_subscription(self._subscription)
