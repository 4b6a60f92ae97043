"""The lifecycle node: its parameters, transitions and shutdown."""
from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from crosspoint_ros.ros.config import ConfigError, Parameters
from crosspoint_ros.ros.executor import FaultTolerantExecutor, refuse_on_error
from crosspoint_ros.ros.node.diagnostics import Diagnostics
from crosspoint_ros.ros.node.query_server import QueryServer, ServerState
from crosspoint_ros.ros.process import SIGNAL_THREAD, catch_shutdown_signals
from crosspoint_ros.ros.shared_memory import REPAIR_THREAD, remove_dead_segments, start_repairs
from crosspoint_ros.ros.target.frames import SentFrames

REPLY_FLUSH_S = 0.2  # to send the last replies, the actions' too


Transition = Callable[['CrosspointNode', LifecycleState], TransitionCallbackReturn]


def log_errors(transition: Transition) -> Transition:
    """Wrap a transition: an exception is logged and reported. (rclpy drops it in silence.)"""
    @wraps(transition)
    def run(node: CrosspointNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(f'{transition.__name__} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
    return run


class CrosspointNode(LifecycleNode):
    """Configure offers the interfaces and loads the matcher, activate subscribes to the cameras."""

    def __init__(self, **options: Any) -> None:
        """Declare the parameters; raise ConfigError for the first that is invalid."""
        super().__init__('crosspoint', **options)
        self._config_parameters = Parameters(self)
        self._server: QueryServer | None = None
        self._diagnostics: Diagnostics | None = None
        self._sent = SentFrames()
        self.add_on_set_parameters_callback(self._on_set_parameters)

    def create_service(self, srv_type: Any, srv_name: str, callback: Any, **options: Any) -> Any:
        """Override rclpy's: the service answers also when its callback raises."""
        return super().create_service(srv_type, srv_name, refuse_on_error(callback), **options)

    def destroy_node(self, farewell_s: float = 0.0) -> None:
        """Override rclpy's, which leaves the state machine, and with it the participant, to the
        garbage collector: it stays in /dev/shm if a matcher's thread still refers to the node.

        farewell_s: how long the participant stays for others to read what the node's last entities
        sent. Who reads that after the participant has gone keeps the node on its graph for ever.
        """
        super().destroy_node()
        time.sleep(farewell_s)
        self._state_machine.destroy_when_not_in_use()

    def start(self) -> bool:
        """Activate, unless `autostart` leaves that to a lifecycle manager; False if it cannot."""
        if not self._config_parameters.read().autostart:
            self.get_logger().info('autostart is false: waiting to be configured and activated')
            return True
        if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            return False
        assert self._server is not None
        self._server.state = ServerState.STARTING
        return True

    def stop(self) -> None:
        """Reject every open query; the replies are sent while the executor spins on."""
        if self._server is not None:
            self._server.deactivate('the node has ended')

    def close(self) -> None:
        """Take everything off the graph."""
        if self._diagnostics is not None:
            self._diagnostics.close()
        if self._server is not None:
            self._server.close()
            self._sent = self._server.sent
        self._server = self._diagnostics = None

    @log_errors
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Offer the interfaces and start to load the matcher; no camera is subscribed to yet."""
        try:
            config = self._config_parameters.read()
            self._server = QueryServer(self, config, self._on_matcher_loaded, self._sent)
        except Exception as error:  # rclpy would silently drop it
            self.get_logger().error(f'not configured: {type(error).__name__}: {error}')
            return TransitionCallbackReturn.FAILURE
        self._diagnostics = Diagnostics(self, config, self._server)
        self.get_logger().info(f'cameras {", ".join(self._server.cameras)}; answers in '
                               f'{config.base_frame}; loading the matcher {config.matcher}')
        return TransitionCallbackReturn.SUCCESS

    def _on_matcher_loaded(self) -> None:
        """Activate if that waited for the matcher; go inactive if it was not loaded."""
        server = self._server
        if server is None or server.loader.is_loading:  # of an earlier configuration
            return
        if server.loader.failure:
            self.get_logger().error(f'{server.loader.failure}. The node stays inactive; clean it '
                                    'up and configure it to try again')
            server.deactivate()
            if self._state_machine.current_state[1] == 'active':
                self.trigger_deactivate()
            return
        self.get_logger().info(f'matcher loaded in {server.loader.elapsed_s:.2f} s')
        if server.state is ServerState.STARTING:
            self.trigger_activate()

    @log_errors
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras; a query waits for a matcher that is still loading."""
        assert self._server is not None
        if self._server.loader.failure:
            self.get_logger().error(f'not activated: {self._server.loader.failure}')
            return TransitionCallbackReturn.FAILURE
        self._server.activate()
        self.get_logger().info(f'active: takes clicks on {", ".join(self._server.cameras)}')
        return super().on_activate(state)

    @log_errors
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reject the open queries, clear the target, unsubscribe from the cameras."""
        assert self._server is not None
        self._server.deactivate()
        self.get_logger().info('inactive: takes no clicks')
        return super().on_deactivate(state)

    @log_errors
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the matcher and all interfaces, unless a client waits for a reply."""
        # rclpy ends the process when it replies to a service that was destroyed meanwhile.
        pending = 0 if self._server is None else self._server.pending_replies
        if pending:
            self.get_logger().error(f'not cleaned up: {pending} replies are pending; try again')
            return TransitionCallbackReturn.FAILURE
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @log_errors
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reject the open queries and all later ones; the interfaces stay."""
        self.stop()
        return TransitionCallbackReturn.SUCCESS

    @log_errors
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take everything off the graph: the node can be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = self._config_parameters.explain_refusal(
            parameters, configured=self._server is not None)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        if self._server is not None:
            self._server.limits = self._config_parameters.merge_limits(parameters)
            self._server.follow.set_limits(self._server.limits)
            self._server.follow.set_config(self._config_parameters.merge_follow(parameters))
        return SetParametersResult(successful=True)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 if it cannot start."""
    # rclpy's own handlers would close the graph before the last refusals are published.
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl could not read the arguments, or the params file
        print(f'crosspoint_node: {error}', file=sys.stderr)
        return 1
    executor = FaultTolerantExecutor()
    # A task, not executor.wake(): spin_once goes on waiting when it wakes to no work.
    shutdown_event = catch_shutdown_signals(lambda: executor.create_task(lambda: None))
    start_repairs()  # before the node sends, which could wait for ever
    try:
        node = CrosspointNode()
    except ConfigError as error:
        print(f'crosspoint_node: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor.add_node(node)
    freed = remove_dead_segments()
    if freed:
        node.get_logger().info(f'removed {freed / 1e6:.0f} MB that killed processes had left in '
                               '/dev/shm')
    try:
        started = node.start()
        while started and not shutdown_event.is_set():
            executor.spin_once()
        node.stop()
        end_s = time.monotonic() + REPLY_FLUSH_S
        while time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.02)
        node.close()
    finally:  # whatever fails: what a participant leaves in /dev/shm and on the graph
        executor.shutdown()
        node.destroy_node(farewell_s=REPLY_FLUSH_S)
        rclpy.try_shutdown()
    return exit_process(0 if started else 1)


def exit_process(code: int) -> int:
    """Return the exit code; exit at once if a matcher is still running in its thread."""
    if any(thread.daemon and thread.name not in (SIGNAL_THREAD, REPAIR_THREAD)
           for thread in threading.enumerate()):
        # Finalizing the interpreter while a thread is inside torch aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
