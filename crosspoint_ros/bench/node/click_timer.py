"""Times clicks as another process sees them: from its message to the result's arrival."""
from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType

import rclpy
from geometry_msgs.msg import Point, PointStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import QueryResult

LOCATE_STAGES = ('match', 'verify', 'lift')
TIMEOUT_S = 15.0


class ClickTimer:
    """A client of the node `/crosspoint` that clicks by topic."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node('click_stopwatch', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._results: list[QueryResult] = []
        self._node.create_subscription(QueryResult, '/crosspoint/result', self._results.append, 10)
        self._clicks = self._node.create_publisher(PointStamped, '/crosspoint/front/click', 10)

    def __enter__(self) -> ClickTimer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Click until the matcher is asked; `check` may raise if the node has died."""
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            check()
            if self._clicks.get_subscription_count() and 'match' in self._click().stages:
                return
            self._executor.spin_once(timeout_sec=0.1)
        last = self._results[-1].status.message if self._results else 'no result at all'
        raise TimeoutError(f'no click reached the matcher within {TIMEOUT_S} s; last: {last}')

    def measure_overhead_ms(self) -> float:
        """Click once; return the time until the result is here, less that inside `locate`."""
        begun_s = time.monotonic()
        result = self._click()
        passed_s = time.monotonic() - begun_s
        spent = dict(zip(result.stages, result.stage_s, strict=True))
        return 1e3 * (passed_s - sum(spent.get(stage, 0.0) for stage in LOCATE_STAGES))

    def measure_response_ms(self, busy: str) -> float:
        """Click while a click is computed; return the time until the result that `busy` demands.

        'reject': that of the new click, BUSY; 'preempt': that of the one before, CANCELLED.
        """
        end_s = time.monotonic() + TIMEOUT_S
        for first_px, second_px in zip(range(300, 340, 2), range(301, 341, 2), strict=True):
            self._results.clear()
            self._publish(first_px)
            self._spin(random.uniform(0.05, 0.25))
            begun_s = time.monotonic()
            self._publish(second_px)
            told_px, code = {'reject': (second_px, Code.BUSY),
                             'preempt': (first_px, Code.CANCELLED)}[busy]
            result = self._wait_for_result(told_px, end_s)
            if result.status.code == code:
                return 1e3 * (time.monotonic() - begun_s)
        raise TimeoutError(f'the node is never busy: no click ended with {code.name}')

    def _spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    def _click(self) -> QueryResult:
        self._results.clear()
        self._publish(320.0)
        return self._wait_for_result(320.0, time.monotonic() + TIMEOUT_S)

    def _publish(self, x_px: float) -> None:
        self._clicks.publish(PointStamped(point=Point(x=float(x_px), y=240.0)))

    def _wait_for_result(self, x_px: float, end_s: float) -> QueryResult:
        """Wait for the result of the click at that x: it tells the clicks apart."""
        while time.monotonic() < end_s:
            for result in self._results:
                if result.clicked.x == x_px:
                    return result
            self._executor.spin_once(timeout_sec=0.5)
        raise TimeoutError(f'no result within {TIMEOUT_S} s')
