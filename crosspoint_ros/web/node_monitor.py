"""Whether the crosspoint node is there, active and answering, and what its parameters are."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType

from crosspoint_ros.ros.client.node_info import NodeInfo, NodeInfoClient, suggest_cure
from crosspoint_ros.web.ros_bridge import RosBridge

PERIOD_S = 0.5
TIMEOUT_S = 3.0  # a node that was killed stays in the graph for some 20 s, and answers nothing
PARAMETER_PERIOD_S = 5.0  # another node of the same name may have taken its place


class NodeMonitor:
    """Asks the node for its state twice a second; in the thread of ROS."""

    def __init__(self, bridge: RosBridge, on_node: Callable[[NodeInfo], None],
                 on_status: Callable[[str], None]) -> None:
        """`on_words` is told what keeps the node from answering, '' for nothing."""
        self._bridge, self._on_node, self._on_new_status = bridge, on_node, on_status
        self._client = NodeInfoClient(bridge.node, bridge.name)
        self._sent_s: float | None = None
        self._pending: Any = None
        self._status: str | None = None
        self._node_info: NodeInfo | None = None
        self._read_s = -PARAMETER_PERIOD_S
        self._timer = bridge.node.create_timer(PERIOD_S, self.poll,
                                               clock=Clock(clock_type=ClockType.STEADY_TIME))
        bridge.run_in_ros(self.poll)

    def poll(self) -> None:
        """Ask how the node is, unless the last question is still open."""
        name, now_s = self._bridge.name, time.monotonic()
        if not self._client.is_ready():
            self._drop_request()
            self._set_status(f'{name} is not there: is crosspoint_node running, in this ROS_DOMAIN_ID?')
            return
        if self._sent_s is not None:
            if now_s - self._sent_s > TIMEOUT_S:
                self._drop_request()
                self._set_status(f'{name} has not answered for {TIMEOUT_S:g} s')
            return
        self._sent_s = now_s
        self._pending = self._client.request_state(self._on_state)

    def _drop_request(self) -> None:
        if self._pending is not None:
            self._client.cancel(self._pending)
        self._sent_s = self._pending = None

    def _on_state(self, state: str) -> None:
        self._sent_s = self._pending = None
        name = self._bridge.name
        self._set_status('' if state == 'active' else
                         f'{name} is {state}: {suggest_cure(name, state) or "wait"}')
        if time.monotonic() - self._read_s > PARAMETER_PERIOD_S:
            self._read_s = time.monotonic()
            self._client.request_info(self._on_info)

    def _on_info(self, info: NodeInfo) -> None:
        if info != self._node_info:
            self._node_info = info
            self._bridge.run_in_asyncio(self._on_node, info)

    def _set_status(self, status: str) -> None:
        if status != self._status:
            if self._status:  # it comes back, maybe as another one
                self._read_s = -PARAMETER_PERIOD_S
            self._status = status
            self._bridge.run_in_asyncio(self._on_new_status, status)
