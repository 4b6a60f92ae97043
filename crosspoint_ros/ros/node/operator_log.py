"""What an operator reads in the log: one line an answer, and one when a camera dies or returns."""
from __future__ import annotations

import time
from typing import Any

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.results import VERDICTS, is_accepted
from crosspoint_ros.ros.node.camera import Camera

MAX_LINES, LINES_PER_S = 20.0, 2.0  # at once, and from then on
FIRST_IMAGE_S = 5.0  # a driver may start after the node
REPEAT_S = 60.0  # between two reports of one camera's death: its rate may be near the limit


class AnswerLog:
    """Logs each result in one line; of a flood a few lines a second, with how many are left out."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._left, self._updated_s, self._skipped = MAX_LINES, time.monotonic(), 0

    def log(self, result: QueryResult, elapsed_s: float) -> None:
        """Log an answer as INFO, a refusal as WARN."""
        now_s = time.monotonic()
        self._left = min(self._left + (now_s - self._updated_s) * LINES_PER_S, MAX_LINES)
        self._updated_s = now_s
        if self._left < 1:
            self._skipped += 1
            return
        skipped = f' ({self._skipped} results before it are not logged)' if self._skipped else ''
        line = format_answer_line(result, elapsed_s) + skipped
        self._left, self._skipped = self._left - 1, 0
        if is_accepted(result):
            self._logger.info(line)
        else:
            self._logger.warning(line)


def format_answer_line(result: QueryResult, elapsed_s: float) -> str:
    """Return a result in one line."""
    clicked = result.clicked
    where = clicked.camera or '3D point'
    if clicked.x == clicked.x:
        where += f' ({clicked.x:.1f}, {clicked.y:.1f})'
    parts = [f'{view.found.camera} {VERDICTS[view.verdict]}' for view in result.correspondences]
    if result.has_target:
        at = result.target.pose.pose.position
        parts.append(f'target ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m in '
                     f'{result.target.header.frame_id}')
    code = Code(result.status.code).name
    if not is_accepted(result):
        parts.insert(0, f'refused, {code}')
    elif result.status.message:
        parts.append(code)
    if result.status.message:
        parts[-1] += f': {result.status.message}'
    return f'{where}: {"; ".join(parts)} ({1000 * elapsed_s:.0f} ms, query {result.query_id[:8]})'


class CameraWatch:
    """Logs when a camera's images end, and when they return; call `update` once a second."""

    def __init__(self, logger: Any, max_image_age_s: float) -> None:
        self._logger, self._max_image_age_s = logger, max_image_age_s
        self._reported_s: dict[str, float] = {}  # when each death was logged last, monotonic
        self._lost_s: dict[str, float] = {}  # cameras logged as lost: since when, monotonic

    def update(self, camera: Camera) -> None:
        """Compare a camera with its last report."""
        name, now_s, silent_s = camera.config.name, time.monotonic(), camera.silent_s
        if not camera.is_subscribed:
            self._lost_s.pop(name, None)
        elif not self._is_silent(camera):
            since_s = self._lost_s.pop(name, None)
            if since_s is not None:
                self._logger.info(f'camera {name}: images again, after {now_s - since_s:.1f} s')
        elif name not in self._lost_s and (
                now_s - self._reported_s.get(name, -REPEAT_S) >= REPEAT_S):
            self._lost_s[name], self._reported_s[name] = now_s - silent_s, now_s
            self._logger.warning(
                f'camera {name}: no image on {camera.topics.image_topic} for {silent_s:.1f} s '
                f'(limits.max_image_age_s {self._max_image_age_s:g}): clicks on it are refused')

    def _is_silent(self, camera: Camera) -> bool:
        """Return whether images are missing by wall time and by the node's clock, if it has any."""
        if camera.buffer.get_newest_stamp_ns() is None:
            return camera.silent_s > max(FIRST_IMAGE_S, self._max_image_age_s)
        # While a simulation is paused, the newest image does not become old.
        return min(camera.silent_s, camera.age_s) > self._max_image_age_s
