"""Whether the crosspoint node is there, active and answering, and what its parameters are."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType

from crosspoint_ros.ros.client.node_info import (
    WHOLE,
    KnownNode,
    node_from_parameters,
    parameter_names,
)
from crosspoint_ros.web.ros_bridge import Link

PERIOD_S = 0.5
SILENT_S = 3.0  # a node that was killed stays in the graph for some 20 s, and answers nothing
READ_AGAIN_S = 5.0  # another node of the same name may have taken its place


class Presence:
    """Asks the node for its state twice a second; in the thread of ROS."""

    def __init__(self, link: Link, on_node: Callable[[KnownNode], None],
                 on_words: Callable[[str], None]) -> None:
        """`on_words` is told what keeps the node from answering, '' for nothing."""
        self._link, self._on_node, self._on_words = link, on_node, on_words
        node, name = link.node, link.name
        self._state: Any = node.create_client(GetState, f'{name}/get_state')
        self._parameters: Any = node.create_client(GetParameters, f'{name}/get_parameters')
        self._asked_s: float | None = None
        self._pending: Any = None
        self._words: str | None = None
        self._known: KnownNode | None = None
        self._read_s = -READ_AGAIN_S
        self._timer = node.create_timer(PERIOD_S, self.look,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        link.post(self.look)

    def look(self) -> None:
        """Ask how the node is, unless the last question is still open."""
        name, now_s = self._link.name, time.monotonic()
        if not self._state.service_is_ready():
            self._forget_question()
            self._say(f'{name} is not there: is crosspoint_node running, in this ROS_DOMAIN_ID?')
            return
        if self._asked_s is not None:
            if now_s - self._asked_s > SILENT_S:
                self._forget_question()
                self._say(f'{name} has not answered for {SILENT_S:g} s')
            return
        self._asked_s = now_s
        self._pending = self._state.call_async(GetState.Request())
        self._pending.add_done_callback(self._on_state)

    def _forget_question(self) -> None:
        if self._pending is not None:
            self._state.remove_pending_request(self._pending)
        self._asked_s = self._pending = None

    def _on_state(self, reply: Any) -> None:
        if reply is not self._pending:
            return
        self._asked_s = self._pending = None
        label = reply.result().current_state.label
        name = self._link.name
        advice = 'configure, then activate' if label == 'unconfigured' else 'activate'
        self._say('' if label == 'active' else
                  f'{name} is {label}: ros2 lifecycle set {name} {advice}')
        if time.monotonic() - self._read_s > READ_AGAIN_S and self._parameters.service_is_ready():
            self._read_s = time.monotonic()
            request = GetParameters.Request(names=list(WHOLE))
            self._parameters.call_async(request).add_done_callback(self._on_whole)

    def _on_whole(self, reply: Any) -> None:
        whole = list(reply.result().values)
        if len(whole) != len(WHOLE):
            return
        names = list(whole[0].string_array_value)
        request = GetParameters.Request(names=parameter_names(names))
        self._parameters.call_async(request).add_done_callback(
            lambda done: self._on_cameras(whole, list(done.result().values)))

    def _on_cameras(self, whole: list[Any], values: list[Any]) -> None:
        expected = len(parameter_names(list(whole[0].string_array_value)))
        if len(values) != expected:
            return
        known = node_from_parameters(whole, values, self._link.name)
        if known != self._known:
            self._known = known
            self._link.tell(self._on_node, known)

    def _say(self, words: str) -> None:
        if words != self._words:
            if self._words:  # it comes back, maybe as another one
                self._read_s = -READ_AGAIN_S
            self._words = words
            self._link.tell(self._on_words, words)
