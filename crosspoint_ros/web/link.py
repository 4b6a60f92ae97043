"""How large images may be for a browser's link, so that they are not far behind."""
from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from crosspoint_ros.web.image_streams import JPEG_LEVELS

GOAL_S = 0.45  # from an image to the request for the next one, which the browser sends once drawn
MIN_SHARE_S = 0.1  # of it, for the transfer, however long the way is
MAX_MEASURED_S = 10.0  # a hidden page requests nothing for longer
ACTIVE_S = 5.0  # since its last request, a camera counts among those that share the link
REMEMBERED = 9  # transfers: three of each camera, of three
LATE_S = 1.0  # a delay that says at once that the link has become slow
FIRST_LEVEL = 3  # before anything is known of the link: small, and better at once
FIRST_BYTES_PER_S = 60_000.0  # likewise
UNKNOWN_WIDTH_PX = 640  # of an image that was not requested as a live one
MIN_DIFFERENCE = 0.1  # of two sizes, for a slope
MIN_PER_BYTE_S = 1e-9
SIZE_RATIO = 1.9  # between an image at one level and at the next one, until both are known


@dataclass(frozen=True)
class _Transfer:
    sent_s: float
    size_bytes: int
    ahead_bytes: int  # with those that were on the way


class LinkMonitor:
    """Chooses each image's level from the times between images and the requests that follow."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._transfers: dict[str, _Transfer] = {}  # by camera
        # Bytes that were on the way with an image, and how long it took.
        self._measured: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._sizes: dict[tuple[str, int], int] = {}  # by camera and level, of the last images
        self._levels: dict[str, int] = {}  # by camera, of the last image
        self._requests: dict[str, tuple[float, int]] = {}  # by camera: when, and width as displayed
        self._event_bytes, self._event_s = 0, -math.inf  # of large events that may be on the way

    def add_request(self, camera: str, width_px: int, is_late: bool = False) -> None:
        """Take the request for a camera's next image: the last one has arrived.

        width_px: at which the image is displayed. is_late: it was not sent at once, since the page
        was hidden, so that the time until it came says nothing of the link.
        """
        now_s = self._monotonic_s()
        self._requests[camera] = now_s, width_px
        transfer = self._transfers.pop(camera, None)
        if transfer is None:
            return
        if transfer.sent_s >= self._event_s:
            self._event_bytes = 0
        if is_late:
            return
        delay_s = min(now_s - transfer.sent_s, MAX_MEASURED_S)
        self._measured.append((transfer.ahead_bytes, delay_s))

    def add_image(self, camera: str, level: int, size_bytes: int) -> None:
        """Take an image that is sent."""
        self._sizes[camera, level], self._levels[camera] = size_bytes, level
        ahead_bytes = self._event_bytes + size_bytes + sum(
            each.size_bytes for each in self._transfers.values())
        self._transfers[camera] = _Transfer(self._monotonic_s(), size_bytes, ahead_bytes)

    def add_event(self, size_bytes: int) -> None:
        """Take a large event that is sent: the images after it have to wait for it."""
        self._event_bytes, self._event_s = self._event_bytes + size_bytes, self._monotonic_s()

    @property
    def bytes_per_s(self) -> float:
        """Return what the link carries, as measured; FIRST_BYTES_PER_S before that."""
        return 1 / self._fit()[1] if self._measured else FIRST_BYTES_PER_S

    def _fit(self) -> tuple[float, float]:
        delay_s, per_byte_s = _fit_line(self._measured)
        ahead_bytes, last_s = self._measured[-1]
        if last_s > LATE_S:
            per_byte_s = max(per_byte_s, last_s / max(ahead_bytes, 1))
        return delay_s, per_byte_s

    def choose_level(self, camera: str) -> int:
        """Return the best of JPEG_LEVELS with which all cameras keep to GOAL_S."""
        if not self._measured:
            return FIRST_LEVEL
        delay_s, per_byte_s = self._fit()
        left_s = max(GOAL_S - delay_s, MIN_SHARE_S)
        begin_s = self._monotonic_s() - ACTIVE_S
        _, own_px = self._requests.get(camera, (0.0, UNKNOWN_WIDTH_PX))
        others_px = sum(width_px for name, (at_s, width_px) in self._requests.items()
                        if at_s > begin_s and name != camera)
        allowed_bytes = left_s / per_byte_s * own_px / (own_px + others_px)
        # Small images say little of a link: each image may be one level better than the last.
        levels = range(max(self._levels.get(camera, FIRST_LEVEL) - 1, 0), len(JPEG_LEVELS))
        return next((level for level in levels
                     if self._estimate_bytes(camera, level) <= allowed_bytes), levels[-1])

    def _estimate_bytes(self, camera: str, level: int) -> float:
        known = [at for name, at in self._sizes if name == camera]
        if not known:
            return 0.0
        nearest = min(known, key=lambda at: abs(at - level))
        return float(self._sizes[camera, nearest] * SIZE_RATIO ** (nearest - level))


def _fit_line(points: deque[tuple[int, float]]) -> tuple[float, float]:
    """Return the time of no bytes, and that per byte: Theil and Sen's line, which ignores outliers.

    With sizes that hardly differ, all of the time is taken to be the bytes'.
    """
    slopes = [(b - a) / (n - m) for (m, a), (n, b) in combinations(points, 2)
              if abs(n - m) > MIN_DIFFERENCE * max(m, n)]
    if not slopes:
        return 0.0, max(statistics.median(s / max(size, 1) for size, s in points), MIN_PER_BYTE_S)
    slope = max(statistics.median(slopes), MIN_PER_BYTE_S)
    return max(statistics.median(s - slope * size for size, s in points), 0.0), slope
