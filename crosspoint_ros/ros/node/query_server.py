"""The node's server: takes clicks, goals and requests, and publishes one result for each."""
from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from enum import Enum, auto

from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode

from crosspoint_ros.core.datatypes import Code, Matcher, Rejected, Transform
from crosspoint_ros.core.extrinsics.drift import MountHealth
from crosspoint_ros.core.grasp.target_thing import turn_target
from crosspoint_ros.core.pipeline import LocateResult, apply_correction
from crosspoint_ros.core.tf_tree import list_ancestors
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.config import Config, is_target_frame
from crosspoint_ros.ros.follow.server import FollowServer
from crosspoint_ros.ros.grasp.server import ShapeServer
from crosspoint_ros.ros.node.camera import JUMP_WINDOW_S, Camera
from crosspoint_ros.ros.node.goals import GoalServer
from crosspoint_ros.ros.node.matcher_runtime import LogForwarder, MatcherLoader, Prefetcher
from crosspoint_ros.ros.node.operator_log import AnswerLog
from crosspoint_ros.ros.node.outputs import Outputs
from crosspoint_ros.ros.node.query_messages import OnResult, build_query_result, subscribe_clicks
from crosspoint_ros.ros.node.query_queue import (
    QueryRequest,
    QueryTask,
    QueryThread,
    explain_failure,
)
from crosspoint_ros.ros.node.twins import TwinDetector
from crosspoint_ros.ros.node.views import ViewCollector, explain_images_only, locate_query
from crosspoint_ros.ros.rviz.image_markers import ImageMarkers
from crosspoint_ros.ros.target.frames import SentFrames
from crosspoint_ros.ros.target.history import HistoryStep
from crosspoint_ros.ros.target.review import ReviewServer
from crosspoint_ros.ros.target.targets import Targets
from crosspoint_ros.ros.tf import make_transform_lookup

log = logging.getLogger(__name__)
TIMER_PERIOD_S = 0.1


class ServerState(Enum):
    """Whether queries are taken: STARTING queues them until the matcher is loaded."""

    INACTIVE = auto()
    STARTING = auto()
    ACTIVE = auto()


class QueryServer:
    """Everything the node owns between configure and cleanup.

    The executor's thread touches all of ROS and never waits; the threads of `QueryThread` run the
    matcher and touch nothing of ROS but the overlays. Their results come back through a queue, and
    a guard condition wakes the executor.
    """

    def __init__(self, node: LifecycleNode, config: Config, on_loaded: Callable[[], None],
                 sent: SentFrames) -> None:
        """Offer the interfaces and start to load the matcher; on_loaded: it has, or has failed.

        sent: before the node was last cleaned up.
        """
        self._node, self._config, self._on_loaded = node, config, on_loaded
        self.limits: Limits = config.limits
        self.last_result: QueryResult | None = None
        options = {**config.refiner_options, **config.matcher_options}
        self.mount_health = MountHealth(**{name: float(options[name]) for name in (
            'pose_noise_cm', 'pose_noise_deg') if name in options})
        self._health_lock = threading.Lock()  # queries may run at the same time
        # First: a mask that cannot be read must leave nothing on the graph.
        self.cameras = {c.name: Camera(node, c, config, self._on_stamp_jump, self._lookup_transform)
                        for c in config.cameras}
        self._log_forwarder = LogForwarder(node.get_logger())
        self._answer_log = AnswerLog(node.get_logger())
        self.targets = Targets(self._now_ns, config.target_ttl_s,
                               sends_drags=config.publish_target != 'on_accept')
        self.outputs = Outputs(node, config, self.targets, sent)
        guard = self.outputs.frames.guard
        guard.on_conflict = self._on_frame_conflict
        self.transforms = make_transform_lookup(node, guard.accept)
        self._views = ViewCollector(self.cameras, self.transforms, config)
        self.state = ServerState.INACTIVE
        self._time_jump_s = -math.inf  # when the clock, or a camera's stamps, last went back
        self._cleared_s: dict[str | None, float] = {}  # when a person last cleared a target, or all
        # The queries without a published result, in the order of their clicks.
        self._unpublished: dict[QueryTask, OnResult] = {}
        self._callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._callback_lock, self._is_closed = threading.RLock(), False
        self._guard = node.create_guard_condition(self._run_callbacks)
        self._twins = TwinDetector(node)
        self.loader = MatcherLoader(config, self._log_forwarder)
        self._thread = QueryThread(self._run_query, self._publish_overlays, config.busy,
                                   config.times.max_query_s, self._load, self._is_same_target)
        self._prefetcher = Prefetcher(config.warm_share, self._views, self._thread, self.loader)
        # Wall time, which goes on while a simulation is paused.
        self._timer = node.create_timer(TIMER_PERIOD_S, self._on_tick,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()  # until there is a query to time, or a target to broadcast
        self.targets.listeners.append(lambda target: self._timer.reset())
        self._clicks = subscribe_clicks(node, config.cameras, self.submit)
        self._image_markers = ImageMarkers(node, self.cameras, config.times.max_image_age_s,
                                           self.submit, self._call_in_executor)
        self.review = ReviewServer(node, config, self.targets, self.explain_unavailable,
                                   self._on_clear, sent.last_target_number)
        self.follow = FollowServer(
            node, config, self.targets, self._views, self._thread, self._get_fine_matcher,
            self.review.history.find_locate_result, self._call_in_executor)
        self._shape = ShapeServer(node, config, self.targets,
                                  self.review.history.find_locate_result, lambda: self.limits,
                                  self._call_in_executor)
        self._goals = GoalServer(node, self.submit, self.review.history.find_locate_result)
        self._jump = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=self._on_time_jump)

    # --- lifecycle

    def activate(self) -> None:
        """Subscribe to the cameras (with history_s 0 only while a query needs them)."""
        self.state = ServerState.ACTIVE
        if self._config.history_s > 0:
            self._subscribe_cameras()
            self._image_markers.start()
        if self._prefetcher.is_enabled:
            self._timer.reset()

    def deactivate(self, reason: str = 'the node was deactivated') -> None:
        """End the open queries, clear the target, and unsubscribe from the cameras."""
        self.state = ServerState.INACTIVE
        if self.loader.failure:
            self._thread.cancel_all(self.loader.failure, Code.MATCHER_FAILED)
        self._thread.cancel_all('the node was deactivated')
        self._run_callbacks()
        self.review.reset(reason)
        self._image_markers.stop()
        self._unsubscribe_cameras()

    def close(self) -> None:
        """Take everything off the graph; a matcher that hangs is left behind."""
        self._thread.close()
        self.follow.close()
        with self._callback_lock:
            self._is_closed = True
        self._run_callbacks()
        if self.targets.standing:  # after an error, without deactivation
            self.review.reset('the node has ended')
        self._jump.unregister()
        self._goals.close()
        for subscription in self._clicks:
            self._node.destroy_subscription(subscription)
        self._node.destroy_timer(self._timer)
        self._node.destroy_guard_condition(self._guard)
        self._twins.close()
        self.transforms.close()
        self._image_markers.close()
        self.review.close()
        self._shape.close()
        self.outputs.close()
        self._log_forwarder.close()

    @property
    def sent(self) -> SentFrames:
        """What listeners to TF have of this server."""
        return SentFrames(self.review.history.last_target_number,
                          dict(self.outputs.frames.alias_stamps_ns))

    @property
    def pending_replies(self) -> int:
        """How many goals and requests still wait for their reply."""
        return self._goals.pending_replies

    @property
    def busy_for_s(self) -> float:
        """Seconds that a query, or a preparation, has held the matcher; 0 when it is free."""
        return self._thread.busy_for_s

    def _subscribe_cameras(self) -> None:
        for camera in self.cameras.values():
            camera.subscribe()

    def _unsubscribe_cameras(self) -> None:
        for camera in self.cameras.values():
            camera.unsubscribe()

    # --- a query: executor -> query thread -> executor

    def submit(self, request: QueryRequest, on_result: OnResult = lambda result: None
               ) -> QueryTask:
        """Take a query; `on_result` gets its one result."""
        task = QueryTask(request, lambda task: self._call_in_executor(
            lambda: self._finish_query(task)))
        self._unpublished[task] = on_result
        self._timer.reset()
        try:
            self._accept(task)
        except Exception as error:
            log.exception('query %s failed', task.query_id)
            task.finish(explain_failure(task, error))
        return task

    def _accept(self, task: QueryTask) -> None:
        """Give a query to the thread, or refuse it."""
        request = task.request
        unavailable = self.explain_unavailable()
        rejected = Rejected(Code.BUSY, unavailable) if unavailable else (
            request.rejected or self.review.find_rejection(request)
            or self._find_name_rejection(self.review.choose_name(request)))
        if rejected is not None:
            task.finish(rejected)
            return
        if self._config.history_s == 0:
            self._subscribe_cameras()
        self._thread.submit(task)

    def explain_unavailable(self) -> str:
        """Return why no query is taken at the moment; '' if queries are taken."""
        name = self._node.get_fully_qualified_name()
        if self.loader.failure:
            return f'{name} is not active: {self.loader.failure}'
        if self.state is ServerState.INACTIVE:
            return f'{name} is not active: ros2 lifecycle set {name} activate'
        twins = self._twins.count()
        if twins > 1:
            return (f'{twins} nodes are called {name}, and their targets would contradict each '
                    'other: stop one, or start it with another name or namespace')
        return self._explain_frame_conflict()

    def _explain_frame_conflict(self) -> str:
        """Return why a target would overwrite what others send on TF; '' if it would not."""
        target_frame, guard = self._config.target_frame, self.outputs.frames.guard
        taken = next((f'target_frame: {frame!r} is {what}; give target_frame, now '
                      f'{target_frame!r}, a unique name'
                      for frame, what in self._list_frame_owners().items()
                      if is_target_frame(frame, target_frame, guard.names)), '')
        return taken or guard.conflict

    def _list_frame_owners(self) -> dict[str, str]:
        """Return the frames that no target may have, and what each is."""
        owners = {camera.frame_id: f'the frame of the images of {name}'
                  for name, camera in self.cameras.items()}
        base_frame = self._config.base_frame
        above = list_ancestors(self.transforms.tree.frames(), base_frame.lstrip('/'))[1:]
        return owners | dict.fromkeys(above, f'above base_frame {base_frame!r} on TF')

    def _find_name_rejection(self, name: str) -> Rejected | None:
        """Return why the frames of a name are not free; None if they are, or are ours."""
        if not name or name in self.outputs.frames.guard.names:
            return None
        frames = dict.fromkeys(self.transforms.tree.frames(), 'on TF already')
        for frame, what in (frames | self._list_frame_owners()).items():
            if is_target_frame(frame, self._config.target_frame, [name]):
                return Rejected(Code.BAD_REQUEST, f'target_name {name!r}: {frame!r} is {what}: '
                                'give the target another name')
        return None

    def _on_frame_conflict(self, conflict: str) -> None:
        self._node.get_logger().error(f'no target is sent: {conflict}')
        self.review.withdraw(conflict)

    def _on_clear(self, name: str | None) -> bool:
        self._cleared_s[name] = time.monotonic()
        return self._thread.cancel_all('the target was cleared', selects=lambda task: name in (
            None, self.review.choose_name(task.request)))

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _get_fine_matcher(self) -> Matcher | None:
        """Return the matcher that finds exact places: the refiner, if there is one."""
        matchers = self.loader.matchers
        return None if matchers is None else matchers.refiner or matchers.matcher

    def _load(self) -> int:
        max_concurrent = self.loader.load()
        self._call_in_executor(self._on_loaded)
        return max_concurrent

    def _run_query(self, task: QueryTask) -> LocateResult:
        correction = task.request.correction
        if correction is not None:
            assert correction.locate_result is not None
            task.enter_stage('verify')
            corrected = apply_correction(correction.locate_result, correction.camera,
                                         correction.pixel, self.limits)
            return self._turn_target(task, corrected) if self._config.use_tf else (
                explain_images_only(corrected))
        assert self.loader.matchers is not None
        self.transforms.tree.max_gap_m = self.limits.max_target_sigma_m
        result = locate_query(task, self._views, self.loader.matchers, self.limits)
        try:
            with self._health_lock:
                self.mount_health.add(result)
        except Exception:  # the answer is none the worse
            log.exception('the mounts of the cameras were not measured')
        return self._turn_target(task, result)

    def _turn_target(self, task: QueryTask, result: LocateResult) -> LocateResult:
        """Turn the target across the clicked thing, with the parameter `yaw` on shape."""
        if self._config.yaw != 'shape' or result.target is None:
            return result
        task.enter_stage('shape')
        try:
            return turn_target(result, self.limits)
        except Exception:  # its yaw is then the image's, and its sigma says so
            log.exception('the target was not turned')
            return result

    def _publish_overlays(self, task: QueryTask) -> None:
        result = task.locate_result
        if result is not None:  # a correction that came too late is revoked
            self.outputs.publish_overlays(result, self.limits)

    def _finish_query(self, task: QueryTask) -> None:
        """Publish a finished query, and those that waited for it.

        A target never replaces that of a later click: of queries that run at the same time, an
        answer waits for those of earlier ones for the same target.
        """
        for each in tuple(self._unpublished):
            if each.is_done and not (self._may_change_target(each) and self._has_earlier(each)):
                self._publish_outcome(each)

    def _may_change_target(self, task: QueryTask) -> bool:
        return task.rejected is None or (self._config.on_refusal == 'clear'
                                         and task.rejected.code is not Code.BUSY)

    def _has_earlier(self, task: QueryTask) -> bool:
        """Whether an earlier query for the same target has no published result."""
        earlier = itertools.takewhile(lambda each: each is not task, self._unpublished)
        return any(self._is_same_target(each, task) for each in earlier)

    def _is_same_target(self, a: QueryTask, b: QueryTask) -> bool:
        return self.review.choose_name(a.request) == self.review.choose_name(b.request)

    def _publish_outcome(self, task: QueryTask) -> None:
        """Publish the target, then the result, then the history; a bug there refuses the query."""
        step, has_failed = None, False
        try:
            result, step = self._build_outcome(task)
        except Exception as error:
            log.exception('query %s failed', task.query_id)
            has_failed = True
            task.revoke(explain_failure(task, error))
            result = build_query_result(task, self._config.base_frame, self.limits)
        self.last_result = result
        age_s = task.age_s
        try:
            self.outputs.publish_result(result)
            if step is not None:
                self.review.publish_step(step)
            elif has_failed:  # its target may be active
                self.review.reset(result.status.message)
        finally:
            self._unpublished.pop(task)(result)
            self._answer_log.log(result, age_s)  # takes a millisecond
        if self._config.history_s == 0 and not self._thread.open_tasks:
            self._unsubscribe_cameras()

    def _build_outcome(self, task: QueryTask) -> tuple[QueryResult, HistoryStep | None]:
        """Return the result of a finished query, and the step of its target, which is active."""
        late_rejection = self._find_late_rejection(task)
        if task.locate_result is not None and late_rejection is not None:
            task.revoke(late_rejection)
        started_s = time.monotonic()
        result = build_query_result(task, self._config.base_frame, self.limits)
        step = self.review.add_result(task, result)
        result.stages.append('publish')
        result.stage_s.append(time.monotonic() - started_s)
        return result, step

    def _find_late_rejection(self, task: QueryTask) -> Rejected | None:
        """Return why an answer became invalid before it was published; None if it is valid."""
        if self.state is ServerState.INACTIVE:  # there must be no target on TF
            return Rejected(Code.CANCELLED, 'the node was deactivated before it was published')
        if dict(task.stages).get('match', math.inf) < self._time_jump_s:
            return Rejected(Code.CANCELLED, 'time jumped while it was answered: click again')
        name = self.review.choose_name(task.request)
        if task.started_s < max(self._cleared_s.get(each, -math.inf) for each in (None, name)):
            return Rejected(Code.CANCELLED, 'the target was cleared before it was published')
        conflict = self._explain_frame_conflict()
        if conflict:
            return Rejected(Code.BUSY, conflict)
        return self.review.find_rejection(task.request)  # there is a newer answer

    def _call_in_executor(self, callback: Callable[[], None]) -> None:
        with self._callback_lock:
            if not self._is_closed:  # a matcher may still load, or hang, after its node was closed
                self._callbacks.put(callback)
                self._guard.trigger()

    def _run_callbacks(self) -> None:
        try:
            while not self._callbacks.empty():
                self._callbacks.get()()
        finally:
            if not self._callbacks.empty():  # one raised
                self._guard.trigger()

    # --- time

    def _on_tick(self) -> None:
        self._thread.expire_overdue()
        self._goals.tick()
        self.review.tick()
        self._shape.tick()
        self.outputs.frames.broadcast()
        if self.state is ServerState.ACTIVE:
            self._prefetcher.submit()
        # A query that has ended may still have its target to publish: until then it has a callback.
        if not (self.targets.standing or self._unpublished
                or self._prefetcher.is_enabled):
            self._timer.cancel()

    def _lookup_transform(self, target_frame: str, source_frame: str, at_ns: int) -> Transform:
        return self.transforms.lookup(target_frame, source_frame, at_ns,
                                      self._config.times.wait_tf_s)

    def _on_stamp_jump(self, camera: Camera) -> None:
        """Reset if time itself went back, as in a bag that loops, not the clock of one camera.

        Then another camera, or TF, goes back too; or there is none to ask.
        """
        others = [c for c in self.cameras.values() if c is not camera and c.is_alive]
        jumps_s = [self.transforms.jumped_s, *(other.jumped_s for other in others)]
        if time.monotonic() - max(jumps_s) < JUMP_WINDOW_S or not (
                others or self.transforms.is_moving(camera.frame_id)):
            self.reset(camera.jump_s)

    def _on_time_jump(self, jump: TimeJump) -> None:
        self.reset(jump.delta.nanoseconds * 1e-9)

    def reset(self, jump_s: float) -> None:
        """Drop images, TF and the target, which belong to another time now."""
        self._node.get_logger().info(f'time jumped by {jump_s:.3f} s: images, TF and the target '
                                     'are cleared')
        self._time_jump_s = time.monotonic()
        for camera in self.cameras.values():
            camera.clear()
        self.transforms.clear()
        self.review.reset('time jumped')
        self.outputs.frames.reset()
