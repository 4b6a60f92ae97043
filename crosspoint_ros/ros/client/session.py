"""A ROS context, its nodes and one executor, spun by the calling thread."""
from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

SPIN_STEP_S = 0.05
NodeT = TypeVar('NodeT', bound=Node)
SessionT = TypeVar('SessionT', bound='RosSession')


class RosSession:
    """Context manager around a private `rclpy` context; callbacks run only while it spins.

    Signals stay with the program, and so do other contexts, such as the default one.
    """

    def __init__(self, ros_args: list[str] | None = None) -> None:
        """Join the graph. ros_args: as for `rclpy.init`, which reads sys.argv for None."""
        self.context = Context()
        rclpy.init(args=ros_args, context=self.context,
                   signal_handler_options=SignalHandlerOptions.NO)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Node] = []

    def __enter__(self: SessionT) -> SessionT:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def create_node(self, name: str) -> Node:
        """Return a node without parameter services and /rosout, spun by this session."""
        return self.add_node(rclpy.create_node(
            name, context=self.context, start_parameter_services=False, enable_rosout=False))

    def add_node(self, node: NodeT) -> NodeT:
        """Spin this node too, and destroy it with the session; return it."""
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Run callbacks until the condition holds or time is up; return whether it holds."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self.executor.spin_once(timeout_sec=min(left_s, SPIN_STEP_S))
        return True

    def spin_for(self, seconds: float) -> None:
        """Run callbacks for that long."""
        self.spin_until(lambda: False, seconds)

    def close(self) -> None:
        """Destroy the nodes and leave the graph."""
        self.executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()
