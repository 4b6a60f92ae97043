"""The robot's time, as the stamps of the node's diagnostics give it."""
from __future__ import annotations

import time
from collections import deque

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
