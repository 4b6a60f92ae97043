"""Ask a running crosspoint node, from Python or the command line, without writing a node."""
from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.action.client import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from crosspoint_ros.action import Correspond
from crosspoint_ros.core.visualization import concatenate_images, write_image
from crosspoint_ros.msg import Correspondence, QueryResult
from crosspoint_ros.ros.conversions import rgb_from_image, time_from_ns

__all__ = ['Client', 'click', 'format_result']

NODE_NAME = '/crosspoint'
DISCOVERY_TIMEOUT_S = 10.0  # rarely, two processes take some seconds to find each other
RESULT_TIMEOUT_S = 20.0  # a node gives up after limits.max_query_s, 10 s by default


def click(camera: str, x: float, y: float, node: str = NODE_NAME,
          image_path: Path | None = None, instruction: str = '') -> QueryResult:
    """Click on the newest image of a camera, once, and return what the node answers.

    `picture` names a PNG for the node's overlays, side by side. With an instruction ("the drawer
    handle") the matcher finds the pixel, and x and y are NaN. Raises TimeoutError if no node of
    that name is there, or it does not answer; `OverlayTimeout` if only the picture did not come.
    """
    with Client(node) as client:
        client.wait_until_reachable(DISCOVERY_TIMEOUT_S)
        overlays = client.subscribe_overlays() if image_path else {}
        result = client.click(camera, x, y, instruction=instruction)
        # A query that was refused before it had images has nothing to draw.
        if image_path and result.correspondences:
            cameras = [camera, *(c.found.camera for c in result.correspondences
                                 if c.header.stamp.sec or c.header.stamp.nanosec)]
            try:
                client.wait_for(lambda: overlays.keys() >= set(cameras), 'drawn its overlays')
            except TimeoutError as late:
                raise OverlayTimeout(f'{late}; {image_path} was not written', result) from late
            write_image(image_path, concatenate_images([overlays[c] for c in cameras], cameras))
        return result


class OverlayTimeout(TimeoutError):  # noqa: N818  (told to the user in one sentence)
    """The node answered, but its overlays did not come; `result` is the answer."""

    def __init__(self, message: str, result: QueryResult) -> None:
        super().__init__(message)
        self.result = result


class Client:
    """A connection to one crosspoint node; for many clicks, since finding it takes a moment."""

    def __init__(self, node: str = NODE_NAME) -> None:
        """Join the graph; nothing is waited for yet."""
        self._name = node
        self._context = Context()
        # Ctrl-C stays with the program that uses this.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('crosspoint_client', context=self._context,
                                       start_parameter_services=False, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._action: Any = ActionClient(self._node, Correspond, f'{node}/correspond')
        self._state: Any = self._node.create_client(GetState, f'{node}/get_state')

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the graph."""
        self._action.destroy()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait_until_active(self, timeout_s: float,
                          check: Callable[[], None] = lambda: None) -> None:
        """Wait until the node answers queries. `check` is called meanwhile, and may raise."""
        end_s, state = time.monotonic() + timeout_s, 'not found'
        while time.monotonic() < end_s:
            check()
            if self._state.service_is_ready():
                state = self._query_state()
                if state == 'active' and self._action.server_is_ready():
                    return
                if state == 'finalized':
                    raise TimeoutError(f'{self._name} was shut down for good: start it again')
            self.spin(0.1)
        advice = ('is crosspoint_node running here, in this ROS_DOMAIN_ID?'
                  if state in ('not found', 'active') else
                  f'ros2 lifecycle set {self._name} configure, then activate'
                  if state == 'unconfigured' else f'ros2 lifecycle set {self._name} activate')
        raise TimeoutError(f'{self._name} is {state} after {timeout_s:g} s: {advice}')

    def wait_until_reachable(self, timeout_s: float) -> None:
        """Wait until the node is active, or at least there to say why it cannot be."""
        try:
            self.wait_until_active(timeout_s)
        except TimeoutError:
            if not self._action.server_is_ready():
                raise

    def _query_state(self) -> str:
        try:
            reply = self._wait(self._state.call_async(GetState.Request()), 1.0, 'told its state')
        except TimeoutError:
            return 'not answering'
        return str(reply.current_state.label)

    def click(self, camera: str, x: float, y: float, stamp_ns: int = 0,
              timeout_s: float = RESULT_TIMEOUT_S, instruction: str = '') -> QueryResult:
        """Click a pixel of the image with that stamp (0: the newest) and wait for the answer.

        With an instruction the pixel is not looked at: the matcher finds what it names.
        Raises TimeoutError, or RuntimeError if the node does not take the goal.
        """
        self.wait_for(self._action.server_is_ready, 'offered its action')
        goal = Correspond.Goal(camera=camera, stamp=time_from_ns(stamp_ns), x=float(x), y=float(y),
                               instruction=instruction)
        handle = self._wait(self._action.send_goal_async(goal), timeout_s, 'taken the click')
        if not handle.accepted:
            raise RuntimeError(f'{self._name} did not take the goal: is it a crosspoint_node?')
        reply = self._wait(handle.get_result_async(), timeout_s, 'answered')
        result: QueryResult = reply.result.result
        return result

    def subscribe_results(self, callback: Callable[[QueryResult], None]) -> None:
        """Call back with every result of the node, whoever asked; the last one comes at once."""
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(QueryResult, f'{self._name}/result', callback, latched)

    def subscribe_overlays(self) -> dict[str, Any]:
        """Subscribe to the node's overlays; they come into the dict, RGB by camera."""
        seen: dict[str, Any] = {}
        begins, ends = f'{self._name}/', '/overlay'
        names = [topic[len(begins):-len(ends)]
                 for topic, _ in self._node.get_topic_names_and_types()
                 if topic.startswith(begins) and topic.endswith(ends)]
        for camera in names:
            def drawn(message: Image, camera: str = camera) -> None:
                seen[camera] = rgb_from_image(message)
            self._node.create_subscription(Image, f'{begins}{camera}{ends}', drawn, 1)
        self.wait_for(lambda: all(self._node.count_publishers(f'{begins}{c}{ends}')
                                  for c in names), 'offered its overlays')
        self.spin(0.5)  # the node's side of the discovery, which cannot be seen from here
        return seen

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Let callbacks run until the condition holds; raise TimeoutError if it does not."""
        end_s = time.monotonic() + DISCOVERY_TIMEOUT_S
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError(f'{self._name} has not {what} after {DISCOVERY_TIMEOUT_S:g} s')
            self.spin(0.05)

    def spin(self, seconds: float) -> None:
        """Let callbacks run for that long."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def _wait(self, future: Any, timeout_s: float, what: str) -> Any:
        self._executor.spin_until_future_complete(future, timeout_s)
        if not future.done():
            raise TimeoutError(f'{self._name} has not {what} after {timeout_s:g} s')
        return future.result()


def format_result(result: QueryResult) -> str:
    """Tell a result in lines that a person can read."""
    clicked = result.clicked
    lines = [f'{clicked.camera} ({clicked.x:.1f}, {clicked.y:.1f})']
    for answer in result.correspondences:
        if answer.verdict == Correspondence.REFUSED:
            told = f'refused: {answer.status.message}'
        else:
            sure = 'sure' if answer.verdict == Correspondence.SURE else 'to be checked'
            told = (f'({answer.found.x:.1f}, {answer.found.y:.1f}), {sure}, confidence '
                    f'{answer.confidence:.2f}')
        lines.append(f'  in {answer.found.camera}: {told}')
    if result.has_target:
        at = result.target.pose.pose.position
        spread = [math.sqrt(max(result.target.pose.covariance[7 * i], 0.0)) for i in range(3)]
        lines.append(f'  3D in {result.target.header.frame_id}: ({at.x:.3f}, {at.y:.3f}, '
                     f'{at.z:.3f}) m, +-{1000 * max(spread):.0f} mm')
    if result.status.message:
        lines.append(f'  {result.status.message}')
    return '\n'.join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint click`."""
    parser.add_argument('camera', help='name of the camera, as in the parameter cameras')
    parser.add_argument('x', type=float, nargs='?', default=math.nan, help='px, from the left')
    parser.add_argument('y', type=float, nargs='?', default=math.nan, help='px, from the top')
    parser.add_argument('--instruction', default='', metavar='WORDS',
                        help='instead of x and y: what to find there, "the drawer handle"')
    parser.add_argument('--picture', type=Path, help='PNG to draw the views into')
    parser.add_argument('--node', default=NODE_NAME, help=f'name of the node (default: {NODE_NAME})')


def main(args: argparse.Namespace) -> int:
    """Click once and print the answer; 1 if it is refused or nobody answers."""
    if bool(args.instruction) == math.isfinite(args.x + args.y):
        raise ValueError('give a pixel, X and Y, or --instruction; one of the two')
    try:
        result = click(args.camera, args.x, args.y, args.node, args.picture, args.instruction)
    except OverlayTimeout as late:
        print(f'{format_result(late.result)}\n{late}')
        return 1
    except (TimeoutError, RuntimeError) as error:
        print(error)
        return 1
    print(format_result(result))
    accepted = any(a.verdict != Correspondence.REFUSED for a in result.correspondences)
    return 0 if accepted else 1
