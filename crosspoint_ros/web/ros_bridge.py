"""The page's own ROS node: asks the crosspoint node as any client does, and hears what it says."""
from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import History, QueryResult
from crosspoint_ros.srv import Accept, Correct

# ROS services hold ten requests, and as many replies; what is more at a time is lost in silence.
MAX_OPEN_REQUESTS = 8
REPLY_TIMEOUT_S = 20.0  # a node gives up after limits.max_query_s, 10 s by default

log = logging.getLogger('crosspoint_web')


class NodeUnavailableError(Exception):
    """The node is not there, or does not answer; says so, with what to do."""


class RosBridge:
    """One rclpy node in a thread of its own.

    Everything of ROS happens in that thread; what is asked from asyncio is posted there, and what
    comes from there is posted back. Neither waits for the other.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, ros_args: list[str]) -> None:
        """Join the graph; `start` begins to spin."""
        self._loop = loop
        self._context = Context()
        rclpy.init(args=['--ros-args', *ros_args], context=self._context,
                   signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('crosspoint_web', context=self._context,
                                      start_parameter_services=False, enable_rosout=False)
        self.name = name = self.node.resolve_topic_name(name)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._guard = self.node.create_guard_condition(self._run_posted)
        self._stopping = threading.Event()
        self.failed: asyncio.Future[None] = loop.create_future()  # ends when spinning has, by a bug
        self._thread = threading.Thread(target=self._spin, name='ros', daemon=True)
        self._pending: set[asyncio.Future[Any]] = set()
        self._goals: dict[object, Any] = {}
        self._correspond_client: Any = ActionClient(self.node, Correspond, f'{name}/correspond')
        self._service_clients: dict[str, Any] = {
            'accept': self.node.create_client(Accept, f'{name}/accept'),
            'correct': self.node.create_client(Correct, f'{name}/correct'),
            **{step: self.node.create_client(Trigger, f'{name}/{step}')
               for step in ('undo', 'redo', 'clear')}}

    def start(self) -> None:
        """Begin to spin."""
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._stopping.set()
        self._guard.trigger()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._correspond_client.destroy()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    # From one world to the other

    def run_in_ros(self, work: Callable[[], None]) -> None:
        """Have something done in the thread of ROS."""
        self._posted.put(work)
        self._guard.trigger()

    def run_in_asyncio(self, callback: Callable[..., None], *args: Any) -> None:
        """Have something done in the thread of asyncio; nothing when that has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _run_posted(self) -> None:
        while not self._posted.empty():
            self._posted.get()()

    def _spin(self) -> None:
        try:
            while not self._stopping.is_set():
                self._executor.spin_once()
        except Exception as error:  # a bug: nothing is heard any more, and all would seem well
            log.exception('the thread of ROS has ended')
            self.run_in_asyncio(self._set_failed, error)

    def _set_failed(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def subscribe(self, on_result: Callable[[QueryResult], None], on_history: Callable[[History], None],
             on_diagnostics: Callable[[DiagnosticArray], None]) -> None:
        """Subscribe; the callbacks run in asyncio's thread. Latched ones tell the last at once."""
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        newest = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, qos, callback in (
                (QueryResult, f'{self.name}/result', latched, on_result),
                (History, f'{self.name}/history', newest, on_history),
                (DiagnosticArray, '/diagnostics', 10, on_diagnostics)):
            self.node.create_subscription(
                kind, topic, lambda message, callback=callback: self.run_in_asyncio(callback, message), qos)

    # What the page asks

    async def correspond(self, goal: Correspond.Goal, key: object,
                         on_stage: Callable[[str, float], None]) -> QueryResult:
        """Click, or instruct, and return the result; `key` names it to `cancel`."""
        answered = self._open_request()
        self.run_in_ros(lambda: self._send_goal(goal, key, on_stage, answered))
        try:
            return await self._await_reply(answered)
        finally:
            self.run_in_ros(lambda: self._goals.pop(key, None) and None)

    def _send_goal(self, goal: Correspond.Goal, key: object, on_stage: Callable[[str, float], None],
                   answered: asyncio.Future[Any]) -> None:
        if not self._correspond_client.server_is_ready():
            self._resolve(answered, NodeUnavailableError(f'{self.name} does not offer its action now'))
            return

        def feedback(message: Any) -> None:
            self.run_in_asyncio(on_stage, message.feedback.stage, message.feedback.elapsed_s)

        def taken(future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                self._resolve(answered, NodeUnavailableError(f'{self.name} did not take the goal'))
                return
            self._goals[key] = handle
            handle.get_result_async().add_done_callback(
                lambda done: self._resolve(answered, done.result().result.result))

        self._correspond_client.send_goal_async(goal, feedback).add_done_callback(taken)

    def cancel(self, key: object) -> None:
        """Ask the node to give up that query; its result then says so."""
        def give_up() -> None:
            handle = self._goals.get(key)
            if handle is not None:
                handle.cancel_goal_async()
        self.run_in_ros(give_up)

    async def call(self, service: str, request: Any) -> Any:
        """Call accept, correct, undo, redo or clear; raise Unanswered."""
        answered = self._open_request()

        def send() -> None:
            client = self._service_clients[service]
            if not client.service_is_ready():
                self._resolve(answered, NodeUnavailableError(f'{self.name} does not offer {service} now'))
                return
            client.call_async(request).add_done_callback(
                lambda done: self._resolve(answered, done.result()))

        self.run_in_ros(send)
        return await self._await_reply(answered)

    def _open_request(self) -> asyncio.Future[Any]:
        if len(self._pending) >= MAX_OPEN_REQUESTS:
            raise NodeUnavailableError(f'{MAX_OPEN_REQUESTS} requests of this page are open: wait for one of them')
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(answered)
        answered.add_done_callback(self._pending.discard)
        return answered

    async def _await_reply(self, reply: asyncio.Future[Any]) -> Any:
        try:
            return await asyncio.wait_for(reply, REPLY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise NodeUnavailableError(f'{self.name} has not answered after {REPLY_TIMEOUT_S:g} s') from None

    def _resolve(self, reply: asyncio.Future[Any], outcome: Any) -> None:
        def settle() -> None:
            if reply.done():
                return
            if isinstance(outcome, Exception):
                reply.set_exception(outcome)
            else:
                reply.set_result(outcome)
        self.run_in_asyncio(settle)

    def fail_pending(self, reason: str) -> None:
        """End all that is asked and not answered: the node has gone. For asyncio's thread."""
        for answered in list(self._pending):
            if not answered.done():
                answered.set_exception(NodeUnavailableError(reason))
