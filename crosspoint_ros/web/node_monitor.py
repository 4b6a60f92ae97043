"""Polls the node's lifecycle state and parameters."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType

from crosspoint_ros.ros.client.node_info import NodeInfo, NodeInfoClient, suggest_cure
from crosspoint_ros.web.ros_bridge import RosBridge

PERIOD_S = 0.5
TIMEOUT_S = 3.0  # a killed node stays discovered for some 20 s
PARAMETER_PERIOD_S = 5.0  # another node may have taken its name


class NodeMonitor:
    """Reports changes of the node's status and info to asyncio; runs in the ROS thread."""

    def __init__(self, bridge: RosBridge, on_node: Callable[[NodeInfo], None],
                 on_status: Callable[[str, bool], None]) -> None:
        """`on_status` gets why the node cannot answer, '' if it can, and whether it is silent."""
        self._bridge, self._on_node, self._on_status = bridge, on_node, on_status
        self._client = NodeInfoClient(bridge.node, bridge.name)
        self._sent_s = 0.0
        self._pending: Any = None
        self._status: str | None = None
        self._node_info: NodeInfo | None = None
        self._read_s = -PARAMETER_PERIOD_S
        self._timer = bridge.node.create_timer(PERIOD_S, self.poll,
                                               clock=Clock(clock_type=ClockType.STEADY_TIME))
        bridge.run_in_ros(self.poll)

    def poll(self) -> None:
        """Request the state, unless the last request is still pending."""
        name, now_s = self._bridge.name, time.monotonic()
        if not self._client.is_ready():
            self._drop_request()
            self._set_status(f'{name} not found: is crosspoint_node running in this ROS_DOMAIN_ID?',
                             is_silent=True)
        elif self._pending is None:
            self._sent_s = now_s
            self._pending = self._client.request_state(self._on_state)
        elif now_s - self._sent_s > TIMEOUT_S:
            self._drop_request()
            self._set_status(f'{name} has not replied for {TIMEOUT_S:g} s', is_silent=True)

    def _drop_request(self) -> None:
        if self._pending is not None:
            self._client.cancel(self._pending)
        self._pending = None

    def _on_state(self, state: str) -> None:
        self._pending = None
        name = self._bridge.name
        if state != 'active':
            self._set_status(f'{name} is {state}: {suggest_cure(name, state) or "wait"}')
        elif self._status != '' and (server := self._bridge.find_undiscovered()):
            self._set_status(f'{name} is active; its {server} is not discovered yet: wait')
        else:
            self._set_status('')
        if time.monotonic() - self._read_s > PARAMETER_PERIOD_S:
            self._read_s = time.monotonic()
            self._client.request_info(self._on_info)

    def _on_info(self, info: NodeInfo) -> None:
        if info != self._node_info:
            self._node_info = info
            self._bridge.run_in_asyncio(self._on_node, info)

    def _set_status(self, status: str, is_silent: bool = False) -> None:
        if status != self._status:
            if self._status:  # the node is back, perhaps with other parameters
                self._read_s = -PARAMETER_PERIOD_S
            self._status = status
            self._bridge.run_in_asyncio(self._on_status, status, is_silent)
