"""Times clicks from another process: from the click message to the arrival of its result."""
from __future__ import annotations

import random
import time
from collections.abc import Callable

from geometry_msgs.msg import Point, PointStamped

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.session import RosSession

LOCATE_STAGES = ('match', 'verify', 'lift')
TIMEOUT_S = 15.0


class ClickTimer(RosSession):
    """A client of the node `/crosspoint` that clicks by topic."""

    def __init__(self) -> None:
        super().__init__()
        node = self.create_node('click_timer')
        self._results: list[QueryResult] = []
        node.create_subscription(QueryResult, '/crosspoint/result', self._results.append, 10)
        self._clicks = node.create_publisher(PointStamped, '/crosspoint/front/click', 10)

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Click until the matcher runs; `check` may raise if the node has died."""
        end_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end_s:
            check()
            if self._clicks.get_subscription_count() and 'match' in self._click().stages:
                return
            self.spin_for(0.1)
        last = self._results[-1].status.message if self._results else 'none'
        raise TimeoutError(f'no click reached the matcher within {TIMEOUT_S:g} s; last result: '
                           f'{last}')

    def measure_overhead_ms(self) -> float:
        """Click once; return the time until the result arrives, less that inside `locate`."""
        begun_s = time.monotonic()
        result = self._click()
        elapsed_s = time.monotonic() - begun_s
        stages = dict(zip(result.stages, result.stage_s, strict=True))
        return 1e3 * (elapsed_s - sum(stages.get(stage, 0.0) for stage in LOCATE_STAGES))

    def measure_response_ms(self, busy: str) -> float:
        """Click while another click is computed; return the time until the policy's result.

        'reject': that of the new click, BUSY; 'preempt': that of the previous one, CANCELLED.
        """
        end_s = time.monotonic() + TIMEOUT_S
        for first_px, second_px in zip(range(300, 340, 2), range(301, 341, 2), strict=True):
            self._results.clear()
            self._publish(first_px)
            self.spin_for(random.uniform(0.05, 0.25))
            begun_s = time.monotonic()
            self._publish(second_px)
            ended_px, code = {'reject': (second_px, Code.BUSY),
                              'preempt': (first_px, Code.CANCELLED)}[busy]
            result = self._wait_for_result(ended_px, end_s - time.monotonic())
            if result.status.code == code:
                return 1e3 * (time.monotonic() - begun_s)
        raise TimeoutError(f'the node is never busy: no click ended with {code.name}')

    def _click(self) -> QueryResult:
        self._results.clear()
        self._publish(320.0)
        return self._wait_for_result(320.0, TIMEOUT_S)

    def _publish(self, x_px: float) -> None:
        self._clicks.publish(PointStamped(point=Point(x=float(x_px), y=240.0)))

    def _wait_for_result(self, x_px: float, timeout_s: float) -> QueryResult:
        """Wait for the result of the click at this x, which identifies the click."""
        def find() -> list[QueryResult]:
            return [result for result in self._results if result.clicked.x == x_px]

        if not self.spin_until(lambda: bool(find()), timeout_s):
            raise TimeoutError(f'no result within {timeout_s:.0f} s')
        return find()[0]
