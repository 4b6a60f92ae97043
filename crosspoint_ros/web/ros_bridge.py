"""The ROS side of the web server: one rclpy node in a thread, called from asyncio."""
from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.results import explain_unset
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.srv import Accept, ClearTarget, Correct

# ROS services queue ten requests and ten replies; more at a time are lost silently.
MAX_OPEN_REQUESTS = 8
REPLY_TIMEOUT_S = 20.0  # the node itself gives up after limits.max_query_s, 10 s by default

log = logging.getLogger(__name__)


class NodeUnavailableError(Exception):
    """The node is not there or does not reply; the message is for the user."""


class RosBridge:
    """A node whose callbacks run in a ROS thread, and requests to it from asyncio.

    Each thread runs the other's work by `run_in_ros` and `run_in_asyncio`; neither blocks.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, ros_args: list[str]) -> None:
        """Join the graph; `start` spins. Raises RuntimeError for an invalid name or argument."""
        self._loop = loop
        self._session = RosSession(['--ros-args', *ros_args])
        self.node = self._session.create_node('crosspoint_web')
        self.name = name = self.node.resolve_topic_name(name)
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._guard = self.node.create_guard_condition(self._run_work)
        self._is_closing = threading.Event()
        self.failed: asyncio.Future[None] = loop.create_future()  # of an exception in the thread
        self._thread = threading.Thread(target=self._spin, name='ros', daemon=True)
        self._subscriptions: dict[object, Any] = {}
        self._pending: set[asyncio.Future[Any]] = set()
        self._acts: set[asyncio.Future[Any]] = set()  # those of them that count
        self._goals: dict[object, Any] = {}
        self._correspond_client: Any = ActionClient(self.node, Correspond, f'{name}/correspond')
        self._service_clients: dict[str, Any] = {
            service: self.node.create_client(kind, f'{name}/{service}')
            for service, kind in {'accept': Accept, 'correct': Correct, 'undo': Trigger,
                                  'redo': Trigger, 'clear': Trigger, 'clear_target': ClearTarget,
                                  'get_parameters': GetParameters,
                                  'set_parameters': SetParameters}.items()}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and leave the graph."""
        self._is_closing.set()
        self._guard.trigger()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._correspond_client.destroy()
        self._session.close()

    # Between the threads

    def run_in_ros(self, work: Callable[[], object]) -> None:
        self._work.put(work)
        self._guard.trigger()

    def run_in_asyncio(self, callback: Callable[..., object], *args: Any) -> None:
        """Run it in asyncio's thread, unless the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _run_work(self) -> None:
        while not self._work.empty():
            self._work.get()()

    def _spin(self) -> None:
        try:
            while not self._is_closing.is_set():
                self._session.executor.spin_once()
        except Exception as error:  # a bug: end the server rather than serve stale state
            log.exception('the ROS thread has ended')
            self.run_in_asyncio(self._resolve, self.failed, error)

    def subscribe(self, key: object, kind: type, topic: str, callback: Callable[[Any], None],
                  qos: QoSProfile) -> None:
        """Call back in asyncio's thread; replaces an earlier subscription with that key."""
        def subscribe() -> None:
            self._unsubscribe(key)
            self._subscriptions[key] = self.node.create_subscription(
                kind, topic, partial(self.run_in_asyncio, callback), qos)
        self.run_in_ros(subscribe)

    def unsubscribe(self, key: object) -> None:
        self.run_in_ros(partial(self._unsubscribe, key))

    def _unsubscribe(self, key: object) -> None:
        subscription = self._subscriptions.pop(key, None)
        if subscription is not None:
            self.node.destroy_subscription(subscription)

    def find_undiscovered(self) -> str:
        """Return which of the node's servers cannot be called yet, '' if none; in ROS's thread."""
        if not self._correspond_client.server_is_ready():
            return 'action server'
        return next((f'{name} service' for name, client in self._service_clients.items()
                     if not client.service_is_ready()), '')

    # Requests, from asyncio's thread

    async def correspond(self, goal: Correspond.Goal, key: object,
                         on_stage: Callable[[str, float], None]) -> QueryResult:
        """Send a query and return its result; `cancel` takes `key`. Raises NodeUnavailableError."""
        def send(reply: asyncio.Future[Any]) -> None:
            if not self._correspond_client.server_is_ready():
                self._settle(reply, NodeUnavailableError(f'{self.name} has no action server now'))
                return
            self._correspond_client.send_goal_async(
                goal, lambda message: self.run_in_asyncio(
                    on_stage, message.feedback.stage, message.feedback.elapsed_s)
            ).add_done_callback(partial(on_goal_response, reply))

        def on_goal_response(reply: asyncio.Future[Any], future: Any) -> None:
            handle = future.result()
            if not handle.accepted:
                self._settle(reply, NodeUnavailableError(f'{self.name} rejected the goal'))
                return
            self._goals[key] = handle
            handle.get_result_async().add_done_callback(
                lambda done: self._settle(reply, done.result().result.result))

        try:
            result: QueryResult = await self._request(send)
        finally:
            self.run_in_ros(lambda: self._goals.pop(key, None))
        unset = explain_unset(result)
        if unset:
            raise NodeUnavailableError(unset)
        return result

    def cancel(self, key: object) -> None:
        """Cancel a query; its result reports that."""
        def cancel() -> None:
            if key in self._goals:
                self._goals[key].cancel_goal_async()
        self.run_in_ros(cancel)

    async def call(self, service: str, request: Any, is_act: bool = True) -> Any:
        """Call one of the node's services. Raises NodeUnavailableError.

        is_act: it counts among MAX_OPEN_REQUESTS; of others the caller has one open at a time.
        """
        def send(reply: asyncio.Future[Any]) -> None:
            client = self._service_clients[service]
            if not client.service_is_ready():
                self._settle(reply, NodeUnavailableError(
                    f'{self.name} has no {service} service now'))
                return
            client.call_async(request).add_done_callback(
                lambda done: self._settle(reply, done.result()))
        return await self._request(send, is_act)

    async def _request(self, send: Callable[[asyncio.Future[Any]], None],
                       is_act: bool = True) -> Any:
        """Run `send` in the ROS thread, and await the reply that it settles."""
        if is_act and len(self._acts) >= MAX_OPEN_REQUESTS:
            raise NodeUnavailableError(f'{MAX_OPEN_REQUESTS} requests of this page are open, the '
                                       'limit: wait for one of them')
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._pending.add(reply)
        reply.add_done_callback(self._pending.discard)
        if is_act:
            self._acts.add(reply)
            reply.add_done_callback(self._acts.discard)
        self.run_in_ros(partial(send, reply))
        try:
            return await asyncio.wait_for(reply, REPLY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise NodeUnavailableError(
                f'{self.name} has not replied within {REPLY_TIMEOUT_S:g} s') from None

    def _settle(self, reply: asyncio.Future[Any], outcome: Any) -> None:
        self.run_in_asyncio(self._resolve, reply, outcome)

    @staticmethod
    def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def fail_pending(self, reason: str) -> None:
        """Fail all open requests: the node has gone. For asyncio's thread."""
        for reply in list(self._pending):
            self._resolve(reply, NodeUnavailableError(reason))
