"""What people make of an answer: accept, correct, undo, redo, clear, drag; and its history."""
from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from geometry_msgs.msg import PoseWithCovariance
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.data.answer_log import UNDONE, AnswerLogger, LogEntry
from crosspoint_ros.msg import GraspTarget, HistoryEntry, QueryResult
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import pose_from_transform, transform_from_pose
from crosspoint_ros.ros.node.history import DECISION_NAMES, History, HistoryStep
from crosspoint_ros.ros.node.outputs import LATCHED_QOS, Outputs
from crosspoint_ros.ros.node.query_queue import Correction, QueryRequest, QueryTask
from crosspoint_ros.ros.node.result_messages import is_answered
from crosspoint_ros.ros.rviz.result_markers import rays_from_result
from crosspoint_ros.ros.rviz.target_marker import TargetMarker
from crosspoint_ros.srv import Accept, Correct


class StepLogger:
    """Listens to the steps; without a folder it does nothing."""

    def __init__(self, folder: str, complain: Callable[[str], object]) -> None:
        self._recorder = AnswerLogger(Path(folder).expanduser(), complain) if folder else None

    def __call__(self, entry: HistoryEntry, locate_result: LocateResult | None, undone: bool) -> None:
        """Take a step that was made, done again or undone; never waits."""
        if self._recorder is not None:
            self._recorder.log(build_log_entry(entry, locate_result, undone))

    def close(self) -> None:
        """Write what waits."""
        if self._recorder is not None:
            self._recorder.close()


def build_log_entry(entry: HistoryEntry, locate_result: LocateResult | None, undone: bool) -> LogEntry:
    """Return what the recording keeps of a step."""
    result = entry.result
    pose = transform_from_pose(result.target.pose.pose) if result.has_target else None
    return LogEntry(result.query_id, entry.number, UNDONE if undone else DECISION_NAMES[entry.decided],
                    locate_result, pose, result.target.header.frame_id)


ResultCallback = Callable[[QueryResult], None]
# Each step that was made, done again or undone (True); the images are None when not kept any more.
OnStep = Callable[[HistoryEntry, 'LocateResult | None', bool], None]


class QueryBackend(Protocol):
    """Who answers queries."""

    def submit(self, request: QueryRequest, reply: ResultCallback) -> QueryTask:
        """Take a query."""
        ...

    def unavailable_reason(self) -> str:
        """Say why nothing can be asked at the moment, or nothing."""
        ...

    def pending_reply(self, reply: Future) -> Awaitable[QueryResult]:
        """Wait for a reply that somebody waits for."""
        ...

    def start_timer(self) -> None:
        """There is a target to broadcast."""
        ...


class ReviewServer:
    """Offers `~/history` and the services; all of it belongs to the executor's thread."""

    def __init__(self, node: LifecycleNode, config: Config, outputs: Outputs,
                 backend: QueryBackend) -> None:
        self._node, self._outputs, self._backend = node, outputs, backend
        self._base_frame = config.base_frame
        self.history = History()
        self._recorder = StepLogger(config.record_dir, node.get_logger().error)
        self.step_listeners: list[OnStep] = [self._recorder]
        self._publisher = node.create_publisher(HistoryMsg, '~/history', LATCHED_QOS)
        self._target_marker = TargetMarker(node, config.base_frame, self)
        self._services = [
            node.create_service(Accept, '~/accept', self._on_accept),
            # It waits for its answer, and must not keep anybody else waiting meanwhile.
            node.create_service(Correct, '~/correct', self._on_correct,
                                callback_group=ReentrantCallbackGroup()),
            *(node.create_service(Trigger, name, _make_trigger_callback(wish)) for name, wish in (
                ('~/undo', self.undo), ('~/redo', self.redo), ('~/clear', self.clear)))]
        self._publish_history()

    def close(self) -> None:
        """Take everything off the graph."""
        self._recorder.close()
        self._target_marker.close()
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._publisher)

    # --- what the node says

    def on_result(self, task: QueryTask, result: QueryResult) -> None:
        """A query has ended, and its result is out."""
        if task.locate_result is None:
            return
        reply = is_answered(result)
        self.history.keep_views(task.query_id, task.locate_result, reply)
        if reply:
            by_hand = task.request.correction is not None
            step = self.history.add(
                result, HistoryEntry.CORRECTED if by_hand else HistoryEntry.UNREVIEWED,
                rays_from_result(task.locate_result) if result.has_target else None)
            self._notify(step)
            self._publish_history()

    def find_rejection(self, request: QueryRequest) -> Rejected | None:
        """Say why a correction cannot be taken: the answer is not the newest, or not kept."""
        if request.correction is None:
            return None
        try:
            self.history.require_correctable(request.correction.query_id)
        except Rejected as why:
            return why
        return None

    def tick(self) -> None:
        """Broadcast the target; notice when it has expired, or its drag has."""
        if self._outputs.tick():
            self.history.clear()
            self._publish_history()
        self._target_marker.tick()

    def reset(self, reason: str) -> None:
        """Forget the target for good; the history can still be read."""
        self._outputs.clear()
        self.history.clear()
        self.freeze(reason)

    def freeze(self, reason: str) -> None:
        """Keep the target, but nothing that was before, and no images."""
        self.history.freeze(reason)
        self._publish_history()

    # --- what people wish

    def accept(self, query_id: str = '', number: int = 0) -> str:
        """Accept the current answer, named by either; raise `Rejected`."""
        self._require_active()
        before = self.history.current
        step = self.history.accept(query_id, number)
        if step is not before:
            self._notify(step)
            self._publish_history()
        return f'accepted: {step.label}'

    def undo(self) -> str:
        """Take back the last step; raise `Rejected`."""
        self._require_active()
        undone = self.history.undo()
        self._notify(undone, undone=True)
        for step in (self.history.current, self.history.target_step):
            if step is not None and _get_query_id(step) == _get_query_id(undone):
                self._notify(step)  # a move was undone: the answer itself is as good as it was
                break
        self._publish_history()
        return f'took back {undone.label}; {self._describe_target()}'

    def redo(self) -> str:
        """Take the last undo back; raise `Rejected`."""
        self._require_active()
        done = self.history.redo()
        self._notify(done)
        self._publish_history()
        return f'did {done.label} again; {self._describe_target()}'

    def clear(self) -> str:
        """Forget the target until somebody undoes that."""
        reply_text = self._outputs.clear()
        self.history.clear()
        self._publish_history()
        return reply_text

    def toggle_rays(self) -> str:
        """Show the rays, or hide them."""
        self._outputs.show_rays = not self._outputs.show_rays
        target_step = self.history.target_step
        if target_step is not None:
            assert target_step.result is not None
            self._outputs.publish_markers(target_step.result.target, _verdict_text(target_step), target_step.rays)
        self.restore_target()
        return f'rays are {"shown" if self._outputs.show_rays else "hidden"}'

    def preview_move(self, base_from_target: Transform) -> None:
        """Move the target on TF alone, while somebody drags it."""
        target_step = self.history.target_step
        assert target_step is not None
        assert target_step.result is not None
        self._outputs.broadcaster.set(_move_target(target_step.result.target, base_from_target))

    def commit_move(self, base_from_target: Transform) -> None:
        """Make the place where the target was released a step of its own."""
        target_step = self.history.target_step
        assert target_step is not None
        assert target_step.result is not None
        result = copy.copy(target_step.result)
        result.target = _move_target(result.target, base_from_target)
        step = self.history.add(result, HistoryEntry.MOVED, target_step.rays)
        self._notify(step)
        self._publish_history()

    def restore_target(self) -> None:
        """Make what stands by the history stand everywhere."""
        target_step = self.history.target_step
        if target_step is None:
            self._outputs.clear()
        else:
            assert target_step.result is not None
            target = target_step.result.target
            if self._outputs.active_target is not target:
                self._outputs.set_target(target, _verdict_text(target_step), target_step.rays)
            elif self._outputs.broadcaster.target is not target:
                self._outputs.broadcaster.set(target)  # it was dragged, and nobody else knows
            self._backend.start_timer()
        self._target_marker.show(target_step, self._outputs.show_rays)

    # --- services

    def _on_accept(self, request: Accept.Request, response: Accept.Response) -> Accept.Response:
        try:
            response.success, response.message = True, self.accept(request.query_id)
        except Rejected as why:
            response.success, response.message = False, why.message
        return response

    async def _on_correct(self, request: Correct.Request,
                          response: Correct.Response) -> Correct.Response:
        locate_result = self.history.find_views(request.query_id)
        correction = Correction(request.query_id, request.camera,
                                np.array([request.x, request.y]), locate_result)
        asked = QueryRequest(correction=correction) if locate_result is None else QueryRequest(
            locate_result.clicked.camera, locate_result.clicked.stamp_ns, locate_result.pixel, correction=correction)
        reply: Future = Future()
        self._backend.submit(asked, reply.set_result)
        response.result = await self._backend.pending_reply(reply)
        return response

    # --- inside

    def _require_active(self) -> None:
        refused = self._backend.unavailable_reason()
        if refused:
            raise Rejected(Code.BUSY, refused)

    def _notify(self, step: HistoryStep, undone: bool = False) -> None:
        if step.result is not None:
            locate_result = self.history.find_views(step.result.query_id)
            for listener in self.step_listeners:
                listener(step.entry, locate_result, undone)

    def _publish_history(self) -> None:
        """Show everybody where the history stands."""
        self.restore_target()
        message = self.history.to_msg(Header(
            stamp=self._node.get_clock().now().to_msg(), frame_id=self._base_frame))
        self._publisher.publish(message)

    def _describe_target(self) -> str:
        target_step = self.history.target_step
        return 'no target stands' if target_step is None else f'the target of {target_step.label} stands'


def _make_trigger_callback(wish: Callable[[], str]) -> Callable[[Trigger.Request, Trigger.Response],
                                                    Trigger.Response]:
    def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.success, response.message = True, wish()
        except Rejected as why:
            response.success, response.message = False, why.message
        return response
    return answer


def _verdict_text(step: HistoryStep) -> str:
    if step.decision == HistoryEntry.MOVED or step.result is None:
        return 'moved by hand'
    return str(step.result.status.message) or 'ok'


def _get_query_id(step: HistoryStep) -> str:
    return '' if step.result is None else step.result.query_id


def _move_target(target: GraspTarget, base_from_target: Transform) -> GraspTarget:
    """The target at another pose, of which nobody knows how exact it is."""
    moved = copy.copy(target)
    moved.pose = PoseWithCovariance(pose=pose_from_transform(base_from_target),
                                    covariance=np.full(36, np.nan))
    return moved
