"""Times clicks as another process sees them: from its message to the result's arrival."""
from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import rclpy
from geometry_msgs.msg import Point, PointStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from crosspoint_ros.msg import QueryResult

IN_LOCATE = ('match', 'verify', 'lift')
PATIENCE_S = 15.0


class ClickStopwatch:
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

    def __enter__(self) -> ClickStopwatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait_for_answers(self, check: Callable[[], None]) -> None:
        """Click until the node has all its images; `check` may raise if it has died."""
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            check()
            if self._clicks.get_subscription_count() and any(
                    c.verdict for c in self._click().correspondences):
                return
            self._executor.spin_once(timeout_sec=0.1)
        last = self._results[-1].status.message if self._results else 'no result at all'
        raise TimeoutError(f'no accepted answer within {PATIENCE_S} s; last: {last}')

    def overhead_ms(self) -> float:
        """Click once; return the time until the result is here, less that inside `locate`."""
        begun_s = time.monotonic()
        result = self._click()
        passed_s = time.monotonic() - begun_s
        spent = dict(zip(result.stages, result.stage_s, strict=True))
        return 1e3 * (passed_s - sum(spent.get(stage, 0.0) for stage in IN_LOCATE))

    def _click(self) -> QueryResult:
        self._results.clear()
        self._clicks.publish(PointStamped(point=Point(x=320.0, y=240.0)))
        end_s = time.monotonic() + PATIENCE_S
        while not self._results and time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=0.5)
        if not self._results:
            raise TimeoutError(f'no result within {PATIENCE_S} s')
        return self._results[0]
