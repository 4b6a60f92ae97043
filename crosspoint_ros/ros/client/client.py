"""Python client of a running crosspoint node."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from geometry_msgs.msg import Vector3
from rclpy.action.client import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from crosspoint_ros.action import Correspond
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.grasp.approach import OPEN_APPROACH, Approach
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import QueryResult, TargetList, TargetState
from crosspoint_ros.ros.client.node_info import NodeCamera, NodeInfo, NodeInfoClient, suggest_cure
from crosspoint_ros.ros.client.results import explain_unset, find_view, format_result, is_accepted
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.conversions import rgb_from_msg, time_from_ns
from crosspoint_ros.srv import ClearTarget

__all__ = ['Client', 'find_view', 'format_result', 'is_accepted']

NODE_NAME = '/crosspoint'
DISCOVERY_TIMEOUT_S = 10.0  # two processes may need seconds to discover each other
LATCHED_QOS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RESULT_TIMEOUT_S = 20.0  # a node gives up after limits.max_query_s, 10 s by default


class PendingClick:
    """A click whose answer is to come, while its client spins."""

    def __init__(self, node: str, accepted: Any) -> None:
        """accepted: the future of the goal's handle."""
        self._node, self._is_cancelled = node, False
        self._handle: Any = None
        self._reply: Any = None
        accepted.add_done_callback(self._on_handle)

    def _on_handle(self, accepted: Any) -> None:
        self._handle = accepted.result()
        if self._handle.accepted:
            self._reply = self._handle.get_result_async()
            if self._is_cancelled:
                self._handle.cancel_goal_async()

    def is_received(self) -> bool:
        """Whether the node has accepted or rejected it."""
        return self._handle is not None

    def done(self) -> bool:
        """Whether `result` returns or raises."""
        return self._handle is not None and (self._reply is None or self._reply.done())

    def result(self) -> QueryResult:
        """Return the answer or refusal, once it is done.

        Raises RuntimeError if the node does not accept the goal, or no longer has its result.
        """
        if self._reply is None:
            raise RuntimeError(f'{self._node} rejected the goal: is it a crosspoint_node?')
        result: QueryResult = self._reply.result().result.result
        if unset := explain_unset(result):
            raise RuntimeError(f'{self._node}: {unset}')
        return result

    def cancel(self) -> None:
        """Let the node drop it; its result reports that."""
        self._is_cancelled = True
        if self._reply is not None and self._handle is not None:
            self._handle.cancel_goal_async()


class Client(RosSession):
    """Client of one crosspoint node; discovery takes a moment, so use one for many clicks.

    >>> with Client('/crosspoint') as client:
    ...     result = client.click('front', (320, 240))
    ...     if is_accepted(result):
    ...         print(find_view(result, 'wrist').found.x, result.target.pose)
    ...     print(format_result(client.instruct('front', 'the drawer handle')))

    Each result is a `crosspoint_ros.msg.QueryResult`; a refusal is one too, with its reason in
    `result.status`. TimeoutError: the node is not there or does not reply, with what to do.

    It has a ROS context to itself and works with or without a node of the caller. Callbacks run
    while a method waits, or in `spin_for`.
    """

    def __init__(self, node: str = NODE_NAME) -> None:
        """Join the graph without waiting for the node of that name."""
        super().__init__()
        self._name = self.name = node
        self._node = self.create_node('crosspoint_client')
        self._action: Any = ActionClient(self._node, Correspond, f'{node}/correspond')
        self._info = NodeInfoClient(self._node, node)

    def close(self) -> None:
        """Leave the graph."""
        self._action.destroy()
        super().close()

    def wait_until_active(self, timeout_s: float = DISCOVERY_TIMEOUT_S,
                          check: Callable[[], None] = lambda: None) -> None:
        """Wait until the node answers clicks. `check` is called meanwhile, and may raise."""
        end_s, state = time.monotonic() + timeout_s, 'not found'
        while time.monotonic() < end_s:
            check()
            if self._info.is_ready():
                state = self._info.query_state(self.spin_until, 1.0) or 'not replying'
                if state == 'active' and self._action.server_is_ready():
                    return
                if state == 'finalized':
                    break
            self.spin_for(0.1)
        cure = (suggest_cure(self._name, state)
                or 'is crosspoint_node running here, in this ROS_DOMAIN_ID?')
        raise TimeoutError(f'{self._name} is {state} after {timeout_s:g} s: {cure}')

    def wait_until_reachable(self, timeout_s: float = DISCOVERY_TIMEOUT_S) -> None:
        """Wait until the node is active, or at least able to report why it is not."""
        try:
            self.wait_until_active(timeout_s)
        except TimeoutError:
            if not self._action.server_is_ready():
                raise

    def click(self, camera: str, pixel: Iterable[float], *, stamp_ns: int = 0,
              approach: Approach = OPEN_APPROACH, target_name: str = '', hold_s: float = 0.0,
              timeout_s: float = RESULT_TIMEOUT_S) -> QueryResult:
        """Find, in all other cameras, the point at a pixel (x, y) of one camera.

        stamp_ns: the image that was clicked; 0: the newest. approach: from where the target is to
        be approached; without it as the node's parameters say. target_name: several targets may be
        active at once; a new one replaces the one of the same name. hold_s: without a name, clicks
        do not replace the target for that long. Raises TimeoutError, or RuntimeError if the node
        does not accept the goal, or no longer has its result.
        """
        x, y = map(float, pixel)
        return self._send(Correspond.Goal(
            camera=camera, stamp=time_from_ns(stamp_ns), x=x, y=y, target_name=target_name,
            hold_s=float(hold_s)), approach, timeout_s)

    def instruct(self, camera: str, text: str, *, stamp_ns: int = 0,
                 approach: Approach = OPEN_APPROACH, target_name: str = '', hold_s: float = 0.0,
                 timeout_s: float = RESULT_TIMEOUT_S) -> QueryResult:
        """Like `click`, at the pixel that the matcher finds for the text in that camera."""
        nan = float('nan')
        return self._send(Correspond.Goal(
            camera=camera, stamp=time_from_ns(stamp_ns), x=nan, y=nan, instruction=text,
            target_name=target_name, hold_s=float(hold_s)), approach, timeout_s)

    def send(self, goal: Correspond.Goal) -> PendingClick:
        """Send a goal; its answer comes while the client spins. Raises TimeoutError."""
        self.wait_for(lambda: self._action.server_is_ready() and self._info.is_ready(),
                      'offered its action')
        # A node that has not discovered this client yet takes the goal, and its reply is lost. Its
        # state is asked for until it replies: from then on it has.
        if not self._info.query_state(self.spin_until, DISCOVERY_TIMEOUT_S):
            raise TimeoutError(f'{self._name} has not replied after {DISCOVERY_TIMEOUT_S:g} s: it '
                               'is stopped or busy; see its log, or `crosspoint doctor`')
        return PendingClick(self._name, self._action.send_goal_async(goal))

    def _send(self, goal: Correspond.Goal, approach: Approach, timeout_s: float) -> QueryResult:
        x, y, z = approach.vector_base.tolist()
        goal.approach, goal.approach_m = int(approach.mode), approach.standoff_m
        goal.approach_vector = Vector3(x=x, y=y, z=z)
        click = self.send(goal)
        self.wait_for(click.is_received, 'accepted the click', timeout_s)
        self.wait_for(click.done, 'answered', timeout_s)
        return click.result()

    def query_info(self) -> NodeInfo:
        """Return the node's cameras and frames. Raises TimeoutError."""
        replies: list[NodeInfo] = []
        self.wait_for(self._info.is_discovered, 'offered its parameters')
        self._info.request_info(replies.append)
        self.wait_for(lambda: bool(replies), 'returned its parameters')
        return replies[0]

    def receive_image(self, camera: NodeCamera, timeout_s: float = DISCOVERY_TIMEOUT_S
                      ) -> tuple[Rgb, int]:
        """Return the next image of a camera, (h, w, 3) RGB, and its stamp in ns.

        Raises TimeoutError, and `Rejected` (NO_IMAGE) for one that cannot be read.
        """
        received: list[Any] = []
        subscription = self._node.create_subscription(
            CompressedImage if camera.compressed else Image, camera.image_topic, received.append,
            qos_profile_sensor_data)
        try:
            if not self.spin_until(lambda: bool(received), timeout_s):
                raise TimeoutError(f'no image on {camera.image_topic} within {timeout_s:g} s: is '
                                   f'the camera {camera.name} running? crosspoint doctor')
        finally:
            self._node.destroy_subscription(subscription)
        return rgb_from_msg(received[-1]), stamp_to_ns(received[-1].header.stamp)

    def clear(self, target_name: str | None = None) -> str:
        """Clear the target of a name, '' for that without one, or all; return what the node says.

        Raises TimeoutError, or RuntimeError if there was no target of that name.
        """
        kind, name, request = (Trigger, 'clear', Trigger.Request()) if target_name is None else (
            ClearTarget, 'clear_target', ClearTarget.Request(target_name=target_name))
        service: Any = self._node.create_client(kind, f'{self._name}/{name}')
        try:
            self.wait_for(service.service_is_ready, f'offered ~/{name}')
            future = service.call_async(request)
            self.wait_for(future.done, 'cleared the target', RESULT_TIMEOUT_S)
        finally:
            self._node.destroy_client(service)
        reply = future.result()
        if not reply.success:
            raise RuntimeError(f'{self._name} cleared nothing: {reply.message}')
        return str(reply.message)

    def subscribe_results(self, callback: Callable[[QueryResult], None]) -> None:
        """Call back with the results of all clients; the last one arrives at once."""
        self._node.create_subscription(QueryResult, f'{self._name}/result', callback, LATCHED_QOS)

    def subscribe_target_state(self, callback: Callable[[TargetState], None]) -> None:
        """Call back whenever the target's state changes; the present one arrives at once.

        It is that of the target without a name. Go on only while `state.valid`; a node that was
        killed says nothing more.
        """
        self._node.create_subscription(TargetState, f'{self._name}/target_state', callback,
                                       LATCHED_QOS)

    def subscribe_targets(self, callback: Callable[[dict[str, TargetState]], None]) -> None:
        """Call back with the states of all targets, by name, whenever one changes, and at once."""
        self._node.create_subscription(
            TargetList, f'{self._name}/targets',
            lambda message: callback({state.name: state for state in message.targets}), LATCHED_QOS)

    def has_node(self) -> bool:
        """Whether a node publishes the target's state: one that was killed says nothing more."""
        return self._node.count_publishers(f'{self._name}/target_state') > 0

    def subscribe_overlays(self) -> dict[str, Any]:
        """Subscribe to the node's overlays; they arrive in the dict, (h, w, 3) RGB by camera."""
        overlays: dict[str, Any] = {}
        start, end = f'{self._name}/', '/overlay'
        names = [topic[len(start):-len(end)]
                 for topic, _ in self._node.get_topic_names_and_types()
                 if topic.startswith(start) and topic.endswith(end)]
        for camera in names:
            def on_overlay(message: Image, camera: str = camera) -> None:
                overlays[camera] = rgb_from_msg(message)
            self._node.create_subscription(Image, f'{start}{camera}{end}', on_overlay, 1)
        self.wait_for(lambda: all(self._node.count_publishers(f'{start}{c}{end}')
                                  for c in names), 'offered its overlays')
        self.spin_for(0.5)  # until the node has discovered us too, which cannot be seen from here
        return overlays

    def wait_for(self, condition: Callable[[], bool], what: str,
                 timeout_s: float | None = None) -> None:
        """Run callbacks until the condition holds; raise TimeoutError if it does not."""
        limit_s = DISCOVERY_TIMEOUT_S if timeout_s is None else timeout_s
        if not self.spin_until(condition, limit_s):
            raise TimeoutError(f'{self._name} has not {what} after {limit_s:g} s')
