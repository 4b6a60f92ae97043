"""The robot's time, as the stamps of the node's diagnostics give it, and the target's state."""
from __future__ import annotations

import time
from collections import deque

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import QueryResult, TargetState
from crosspoint_ros.ros.client.results import (
    STATE_NAMES,
    Json,
    is_target_sure,
    result_to_json,
    round_finite,
)
from crosspoint_ros.web.plain_text import format_time

WINDOW = 10  # messages; the one that came with the least delay counts


class RobotClock:
    """The clock of the node's stamps, also where that is another machine's, or a simulation's."""

    def __init__(self) -> None:
        self._offsets_ns: deque[int] = deque(maxlen=WINDOW)

    def add(self, stamp_ns: int) -> None:
        """Take a stamp that was the node's time when its message was sent."""
        offset_ns = stamp_ns - time.monotonic_ns()
        if self._offsets_ns and abs(offset_ns - self._offsets_ns[-1]) > 10**9:
            self._offsets_ns.clear()  # time jumped
        self._offsets_ns.append(offset_ns)

    @property
    def now_ns(self) -> int | None:
        """The robot's time; None before the first stamp."""
        return max(self._offsets_ns) + time.monotonic_ns() if self._offsets_ns else None


def target_to_json(state: TargetState, result: QueryResult | None, number: int | None) -> Json:
    """Return what the page says of the target; result and number: of its click, if known."""
    at = state.pose.pose.position
    position_m = [round_finite(v) for v in (at.x, at.y, at.z)]
    target = None if result is None else result_to_json(result)['target']
    since_ns = stamp_to_ns(state.since)
    return {
        'state': STATE_NAMES.get(state.state, str(state.state)), 'valid': bool(state.valid),
        'query_id': state.query_id, 'number': number, 'frame': state.frame,
        'base_frame': state.header.frame_id,
        'position_m': None if None in position_m else position_m,
        'sigma_mm': _find_sigma_mm(state),
        'verdict': None if result is None else 'sure' if is_target_sure(result) else 'check',
        'confidence': target and target['confidence'], 'method': target and target['method'],
        'since': format_time(since_ns * 1e-9), 'since_ms': since_ns / 1e6}


def _find_sigma_mm(state: TargetState) -> float | None:
    """Return the largest standard deviation along an axis; None where it is unknown."""
    variances = [float(state.pose.covariance[7 * i]) for i in range(3)]
    return round_finite(1000 * max(variances) ** 0.5, 1) if min(variances) >= 0 else None
