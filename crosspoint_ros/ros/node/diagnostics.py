"""Publishes `/diagnostics`: every camera, the matcher, the last result."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from crosspoint_ros.core.datatypes import Grounder, Rejected, SupportsDescribe
from crosspoint_ros.msg import QueryResult, TargetState
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.follow.server import TargetFollow
from crosspoint_ros.ros.node.camera import Camera
from crosspoint_ros.ros.node.operator_log import CameraWatch
from crosspoint_ros.ros.node.query_server import QueryServer

PERIOD_S = 1.0
TF_FAULT_S = 2.0  # how long queries must have been without TF before it is reported
Level = bytes  # DiagnosticStatus.OK and its siblings are single bytes


class TransformWatch:
    """Whether a query on a camera's newest images would be refused for want of TF.

    TF may arrive later than the image, as a query allows (`limits.wait_tf_s`).
    """

    def __init__(self, wait_tf_s: float) -> None:
        self._wait_s = wait_tf_s
        self._stamps: deque[tuple[float, int]] = deque(maxlen=100)  # first noticed at, stamp
        self._failing_since_s: float | None = None

    def explain(self, stamp_ns: int, lookup: Callable[[int], object], now_s: float) -> str:
        """Return why queries have been refused for TF_FAULT_S; '' if they have not.

        stamp_ns: of the newest image. lookup: takes a stamp, raises `Rejected`. now_s: monotonic.
        """
        if not self._stamps or self._stamps[-1][1] != stamp_ns:
            self._stamps.append((now_s, stamp_ns))
        while len(self._stamps) > 1 and now_s - self._stamps[1][0] >= self._wait_s:
            self._stamps.popleft()  # a newer one has waited for long enough too
        noticed_s, oldest_ns = self._stamps[0]
        try:
            lookup(oldest_ns)
        except Rejected as rejected:
            if now_s - noticed_s < self._wait_s:
                return ''
            if self._failing_since_s is None:
                self._failing_since_s = now_s
            return rejected.message if now_s - self._failing_since_s >= TF_FAULT_S else ''
        self._failing_since_s = None
        return ''


class Diagnostics:
    """Publishes once a second while the node is configured."""

    def __init__(self, node: LifecycleNode, config: Config, server: QueryServer) -> None:
        self._node, self._config, self._server = node, config, server
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._transform_watches = {camera.name: TransformWatch(config.times.wait_tf_s)
                                   for camera in config.cameras}
        self._camera_watch = CameraWatch(node.get_logger(), config.times.max_image_age_s)
        self._timer = node.create_timer(PERIOD_S, self._publish,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        """Stop."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _publish(self) -> None:
        for camera in self._server.cameras.values():
            self._camera_watch.update(camera)
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [*(self._build_camera_status(c) for c in self._server.cameras.values()),
                        *(self._build_mount_status(c) for c in self._server.cameras),
                        self._build_matcher_status(), self._build_result_status(),
                        *map(self._build_follow_status, self._server.follow.list_follows())]
        self._publisher.publish(array)

    def _build_status(self, name: str, level: Level, message: str, *, hardware: str = '',
                      **values: object) -> DiagnosticStatus:
        """Return a status named as diagnostic_updater names it, with the namespace if any."""
        return DiagnosticStatus(
            name=f'{self._node.get_fully_qualified_name().lstrip("/")}: {name}',
            hardware_id=hardware or self._config.matcher,
            level=level, message=message,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])

    def _build_camera_status(self, camera: Camera) -> DiagnosticStatus:
        topics, buffer, name = camera.topics, camera.buffer, f'camera {camera.config.name}'
        values = {'hardware': camera.config.name, 'image_topic': topics.image_topic,
                  'depth_topic': topics.depth_topic or 'none',
                  'rate_hz': f'{camera.rate_hz:.1f}', 'age_s': f'{camera.age_s:.3f}',
                  'info': 'yes' if buffer.has_info else 'no',
                  'depth': 'yes' if buffer.has_depth else 'no'}
        if not camera.is_subscribed:
            return self._build_status(name, DiagnosticStatus.OK,
                                      'not subscribed: no query needs it', **values)
        if buffer.get_newest_stamp_ns() is None:
            return self._build_status(name, DiagnosticStatus.ERROR,
                                      f'no image has come on {topics.image_topic}', **values)
        tf = self._explain_tf(camera)
        values['tf'] = tf or ('yes' if self._config.use_tf else 'not used')
        limit_s = self._config.times.max_image_age_s
        problems = [
            f'no camera info on {topics.info_topic}' * (not buffer.has_info),
            f'no depth on {topics.depth_topic}' * bool(
                topics.depth_topic and not buffer.has_depth),
            f'newest image {camera.age_s:.3f} s old (limit {limit_s:g})' * (
                camera.age_s > limit_s),
            tf]
        message = '; '.join(problem for problem in problems if problem)
        level = DiagnosticStatus.WARN if message else DiagnosticStatus.OK
        return self._build_status(name, level, message or f'{camera.rate_hz:.1f} Hz', **values)

    def _build_mount_status(self, camera: str) -> DiagnosticStatus:
        health, name = self._server.mount_health, f'mount {camera}'
        drift, alarm = health.drifts.get(camera), health.explain(camera)
        level = DiagnosticStatus.WARN if alarm else DiagnosticStatus.OK
        if drift is None:
            return self._build_status(name, level, alarm or 'no evidence yet', hardware=camera)
        return self._build_status(name, level, alarm or 'where TF says', hardware=camera, off=drift,
                                  score=f'{drift.score:.1f}',
                                  cost_ms=f'{1000 * health.cost_s:.2f}')

    def _explain_tf(self, camera: Camera) -> str:
        if not self._config.use_tf:
            return ''
        return self._transform_watches[camera.config.name].explain(
            camera.buffer.get_newest_stamp_ns() or 0, lambda stamp_ns:
            self._server.transforms.lookup(self._config.base_frame, camera.frame_id, stamp_ns),
            time.monotonic())

    def _build_matcher_status(self) -> DiagnosticStatus:
        loader, busy_for_s = self._server.loader, self._server.busy_for_s
        values = {'matcher': self._config.matcher, 'refiner': self._config.refiner or 'none',
                  'load_s': f'{loader.elapsed_s:.2f}', 'last_match_s': self._format_match_s(),
                  'can ground': 'true' if self._can_ground() else 'false'}
        if loader.failure:
            return self._build_status('matcher', DiagnosticStatus.ERROR, loader.failure, **values)
        if loader.matchers is None:
            return self._build_status('matcher', DiagnosticStatus.WARN, loader.progress, **values)
        if isinstance(loader.matchers.matcher, SupportsDescribe):
            values |= loader.matchers.matcher.describe()
        if busy_for_s > self._config.times.max_query_s:
            return self._build_status('matcher', DiagnosticStatus.ERROR,
                                      f'has not returned for {busy_for_s:.1f} s', **values)
        return self._build_status('matcher', DiagnosticStatus.OK, self._config.matcher, **values)

    def _can_ground(self) -> bool:
        """Return whether the matcher takes an instruction: clients then offer a field for it."""
        matchers = self._server.loader.matchers
        return matchers is not None and isinstance(matchers.matcher, Grounder)

    def _format_match_s(self) -> str:
        result = self._server.last_result
        durations_s = {} if result is None else dict(
            zip(result.stages, result.stage_s, strict=True))
        return f'{durations_s["match"]:.3f}' if 'match' in durations_s else 'none yet'

    def _build_follow_status(self, follow: TargetFollow) -> DiagnosticStatus:
        target = follow.target
        is_lost = target.state in (TargetState.LOST, TargetState.COASTING) or (
            target.state == TargetState.MOVED and not target.is_valid)
        return self._build_status(
            f'follow {target.name}'.strip(),
            DiagnosticStatus.WARN if is_lost else DiagnosticStatus.OK, follow.explain(),
            mode=self._server.follow.config.mode, cycle_ms=f'{1e3 * follow.cycle_s:.1f}')

    def _build_result_status(self) -> DiagnosticStatus:
        result: QueryResult | None = self._server.last_result
        if result is None:
            return self._build_status('last result', DiagnosticStatus.OK, 'no query yet')
        return self._build_status('last result', DiagnosticStatus.OK, result.status.message or 'ok',
                                  code=result.status.code, query_id=result.query_id,
                                  camera=result.clicked.camera)
