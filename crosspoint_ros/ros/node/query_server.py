"""Takes clicks, goals and requests, has them answered, and says what they came to."""
from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult, corrected
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.camera import Camera
from crosspoint_ros.ros.node.click_inputs import MANY, request_from_goal, subscribe_clicks
from crosspoint_ros.ros.node.matcher_runtime import Loading, Relay, Warming
from crosspoint_ros.ros.node.outputs import Outputs
from crosspoint_ros.ros.node.query_queue import Job, QueryThread, Request
from crosspoint_ros.ros.node.result_messages import is_answered
from crosspoint_ros.ros.node.review import Steps
from crosspoint_ros.ros.node.views import ViewSource, answer
from crosspoint_ros.ros.rviz.image_markers import Pictures
from crosspoint_ros.ros.tf import make_transforms
from crosspoint_ros.srv import Correspond as CorrespondService

TICK_S = 0.1

Reply = Callable[[QueryResult], None]


class QueryServer:
    """All of the configured node.

    The executor's thread touches all of ROS and never waits; the thread of `QueryThread` runs the
    matcher and touches nothing of ROS but the overlays. What it has to say comes back through a
    queue, and a guard condition wakes the executor.
    """

    def __init__(self, node: LifecycleNode, config: Config, on_loaded: Callable[[], None]) -> None:
        """Offer the interfaces and begin to load the matcher; `on_loaded` when that has ended."""
        self._node, self._config, self._on_loaded = node, config, on_loaded
        self.limits: Limits = config.limits
        self.last_result: QueryResult | None = None
        # First: a mask that cannot be read must leave nothing on the graph.
        self.cameras = {c.name: Camera(node, c, config, self.forget) for c in config.cameras}
        self.outputs = Outputs(node, config)
        self.transforms = make_transforms(node)
        self._views = ViewSource(self.cameras, self.transforms, config)
        self._active = False
        self._jumped_s = -math.inf  # when the clock, or a camera's stamps, last went back
        self.soon_active = False  # it will be activated as soon as the matcher is loaded
        self._replies: dict[str, Reply] = {}
        self._owed = 0
        self._goals: dict[bytes, Job] = {}
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._posting, self._closed = threading.RLock(), False
        self._guard = node.create_guard_condition(self._deliver)
        self._relay = Relay(node.get_logger())
        self.loading = Loading(config, self._relay)
        self._thread = QueryThread(self._answer, self._draw, node.get_logger().error, config.busy,
                                   config.times.max_query_s, self._load)
        self._warming = Warming(config.warm_share, self._views, self._thread, self.loading)
        # The wall must tick on when a simulation's clock stands still.
        self._tick = node.create_timer(TICK_S, self._on_tick,
                                       clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._tick.cancel()  # until there is a query to time, or a target to broadcast
        self._clicks = subscribe_clicks(node, config.cameras, self.ask)
        self._pictures = Pictures(node, self.cameras, config.times.max_image_age_s, self.ask,
                                  self._post)
        self.steps = Steps(node, config, self.outputs, self)
        self._offer_services()
        self._jump = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=self._on_time_jump)

    def _offer_services(self) -> None:
        # Both wait for their answer, and must not keep anybody else waiting meanwhile.
        together = ReentrantCallbackGroup()
        self._action = ActionServer(
            self._node, CorrespondAction, '~/correspond', self._on_goal, callback_group=together,
            cancel_callback=self._on_cancel, goal_service_qos_profile=MANY,
            result_service_qos_profile=MANY, cancel_service_qos_profile=MANY)
        self._services = [
            self._node.create_service(CorrespondService, '~/correspond_once', self._on_request,
                                      callback_group=together, qos_profile=MANY)]

    # What the lifecycle asks for

    def activate(self) -> None:
        """Listen to the cameras (with history_s 0 only while a query needs them)."""
        self._active, self.soon_active = True, False
        if self._config.history_s > 0:
            self._listen()
            self._pictures.start()
        if self._warming.wanted:
            self._tick.reset()

    def deactivate(self) -> None:
        """End what is open, forget the target, and leave the cameras' topics."""
        self._active = self.soon_active = False
        if self.loading.failure:
            self._thread.cancel(self.loading.failure, Code.MATCHER_FAILED)
        self._thread.cancel('the node was deactivated')
        self._deliver()
        self.steps.forget('the node was deactivated')
        self._pictures.stop()
        self._ignore()

    def close(self) -> None:
        """Take everything off the graph; a matcher that hangs is left behind."""
        self._thread.close()
        self._relay.close()
        with self._posting:
            self._closed = True
        self._deliver()
        self._jump.unregister()
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)
        for subscription in self._clicks:
            self._node.destroy_subscription(subscription)
        self._node.destroy_timer(self._tick)
        self._node.destroy_guard_condition(self._guard)
        self.transforms.close()
        self._pictures.close()
        self.steps.close()
        self.outputs.close()

    @property
    def owed_replies(self) -> int:
        """How many goals and requests still wait for their reply."""
        return self._owed

    @property
    def held_s(self) -> float:
        """How long a query, or a preparation, has held the matcher, s; 0 when it is free."""
        return self._thread.held_s

    def _listen(self) -> None:
        for camera in self.cameras.values():
            camera.listen()

    def _ignore(self) -> None:
        for camera in self.cameras.values():
            camera.ignore()

    # A query's way: executor -> thread -> executor

    def ask(self, request: Request, reply: Reply = lambda result: None,
            at_stage: Callable[[str], None] = lambda stage: None) -> Job:
        """Take a query; `reply` gets its one result, `at_stage` is called as it goes on."""
        job = Job(request, on_stage=lambda stage: self._post(lambda: at_stage(stage)),
                  on_end=lambda job: self._post(lambda: self._conclude(job)))
        self._replies[job.query_id] = reply
        self._tick.reset()
        unable = self.not_now()
        refused = Rejected(Code.BUSY, unable) if unable else (
            request.refused or self.steps.refusal(request))
        if refused is not None:
            job.end(refused)
            return job
        if self._config.history_s == 0:
            self._listen()
        self._thread.submit(job)
        return job

    def not_now(self) -> str:
        """Say why nothing can be asked at the moment; an empty string when it can."""
        name = self._node.get_fully_qualified_name()
        if self.loading.failure:
            return f'{name} is not active: {self.loading.failure}'
        if not self._active and not self.soon_active:
            return f'{name} is not active: ros2 lifecycle set {name} activate'
        twins = self._node.get_node_names_and_namespaces().count(
            (self._node.get_name(), self._node.get_namespace()))
        if twins > 1:
            return (f'{twins} nodes are called {name}, and their targets would contradict each '
                    'other: stop one (one that was killed fades in some 20 s), or start it with '
                    'another name or namespace')
        return ''

    def _load(self) -> bool:
        loaded = self.loading.run()
        self._post(self._on_loaded)
        return loaded

    def _answer(self, job: Job) -> LocateResult:
        correction = job.request.correction
        if correction is not None:
            assert correction.located is not None
            job.enter('verify')
            return corrected(correction.located, correction.camera, correction.pixel, self.limits)
        assert self.loading.matchers is not None
        return answer(job, self._views, self.loading.matchers, self.limits)

    def _draw(self, job: Job) -> None:
        located = job.located
        if located is not None:  # a correction that came too late is withdrawn
            self.outputs.publish_overlays(located, self.limits)

    def _conclude(self, job: Job) -> None:
        too_late = self._too_late(job)
        if job.located is not None and too_late is not None:
            job.withdraw(too_late)
        self.last_result = self.outputs.publish(job, self.limits)
        self.steps.take(job, self.last_result)
        self._replies.pop(job.query_id)(self.last_result)
        if self._config.history_s == 0 and not self._thread.open_jobs:
            self._ignore()

    def _too_late(self, job: Job) -> Rejected | None:
        if not self._active and not self.soon_active:  # nothing may stand on TF any more
            return Rejected(Code.CANCELLED, 'the node was deactivated before it was published')
        if dict(job.stages).get('match', math.inf) < self._jumped_s:
            return Rejected(Code.CANCELLED, 'time jumped while it was answered: ask again')
        return self.steps.refusal(job.request)  # another answer came meanwhile

    def _post(self, news: Callable[[], None]) -> None:
        with self._posting:
            if not self._closed:  # a matcher may still load, or hang, when its node has gone on
                self._news.put(news)
                self._guard.trigger()

    def _deliver(self) -> None:
        while not self._news.empty():
            self._news.get()()

    # Callbacks

    async def _on_goal(self, goal_handle: ServerGoalHandle) -> CorrespondAction.Result:
        begun_s = time.monotonic()

        def feedback(stage: str) -> None:
            if goal_handle.is_active:
                goal_handle.publish_feedback(CorrespondAction.Feedback(
                    stage=stage, elapsed_s=time.monotonic() - begun_s))

        goal_id = bytes(goal_handle.goal_id.uuid)
        answered: Future = Future()
        self._goals[goal_id] = self.ask(request_from_goal(goal_handle.request),
                                        answered.set_result, feedback)
        if goal_handle.is_cancel_requested:  # it came before the goal began
            self._on_cancel(goal_handle)
        result = await self.owing(answered)
        del self._goals[goal_id]
        if is_answered(result):
            goal_handle.succeed()
        elif goal_handle.is_cancel_requested:
            goal_handle.canceled()
        else:
            goal_handle.abort()
        return CorrespondAction.Result(result=result)

    def _on_cancel(self, goal_handle: ServerGoalHandle) -> CancelResponse:
        job = self._goals.get(bytes(goal_handle.goal_id.uuid))
        if job is not None:
            job.end(Rejected(Code.CANCELLED, f'cancelled in stage {job.stage} after '
                             f'{job.age_s:.2f} s'))
        return CancelResponse.ACCEPT

    async def _on_request(self, request: CorrespondService.Request,
                          response: CorrespondService.Response) -> CorrespondService.Response:
        answered: Future = Future()
        self.ask(request_from_goal(request), answered.set_result)
        response.result = await self.owing(answered)
        return response

    async def owing(self, answered: Future) -> QueryResult:
        """Wait for a reply that somebody waits for."""
        self._owed += 1
        try:
            return await answered
        finally:
            self._owed -= 1

    def keep_ticking(self) -> None:
        """There is a target to broadcast, or a query to time."""
        self._tick.reset()

    def _on_tick(self) -> None:
        self._thread.expire()
        self.steps.tick()
        if self._active:
            self._warming.offer()
        # A query that has ended may still have its target to put up: until then a reply is owed.
        if self.outputs.on_tf.target is None and not self._replies and not self._warming.wanted:
            self._tick.cancel()

    def _on_time_jump(self, jump: TimeJump) -> None:
        self.forget(jump.delta.nanoseconds * 1e-9)

    def forget(self, jump_s: float) -> None:
        """Drop images, TF and the target, which belong to another time now."""
        self._node.get_logger().info(f'time jumped by {jump_s:.3f} s: images, TF and the target '
                                     'are forgotten')
        self._jumped_s = time.monotonic()
        for camera in self.cameras.values():
            camera.forget()
        self.transforms.clear()
        self.steps.forget('time jumped')
