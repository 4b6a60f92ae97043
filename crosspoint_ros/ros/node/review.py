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
from crosspoint_ros.data.answer_log import UNDONE, Decision, Recorder
from crosspoint_ros.msg import GraspTarget, HistoryEntry, QueryResult
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import pose_from_transform, transform_from_pose
from crosspoint_ros.ros.node.history import DECIDED, History, Step
from crosspoint_ros.ros.node.outputs import LATCHED, Outputs
from crosspoint_ros.ros.node.query_queue import Correction, Job, Request
from crosspoint_ros.ros.node.result_messages import is_answered
from crosspoint_ros.ros.rviz.result_markers import sight
from crosspoint_ros.ros.rviz.target_marker import Adjust
from crosspoint_ros.srv import Accept, Correct


class StepRecorder:
    """Listens to the steps; without a folder it does nothing."""

    def __init__(self, folder: str, complain: Callable[[str], object]) -> None:
        self._recorder = Recorder(Path(folder).expanduser(), complain) if folder else None

    def __call__(self, entry: HistoryEntry, located: LocateResult | None, undone: bool) -> None:
        """Take a step that was made, done again or undone; never waits."""
        if self._recorder is not None:
            self._recorder.put(decision(entry, located, undone))

    def close(self) -> None:
        """Write what waits."""
        if self._recorder is not None:
            self._recorder.close()


def decision(entry: HistoryEntry, located: LocateResult | None, undone: bool) -> Decision:
    """Return what the recording keeps of a step."""
    result = entry.result
    pose = transform_from_pose(result.target.pose.pose) if result.has_target else None
    return Decision(result.query_id, entry.number, UNDONE if undone else DECIDED[entry.decided],
                    located, pose, result.target.header.frame_id)


Reply = Callable[[QueryResult], None]
# Each step that was made, done again or undone (True); the images are None when not kept any more.
OnStep = Callable[[HistoryEntry, 'LocateResult | None', bool], None]


class Queries(Protocol):
    """Who answers queries."""

    def ask(self, request: Request, reply: Reply) -> Job:
        """Take a query."""
        ...

    def not_now(self) -> str:
        """Say why nothing can be asked at the moment, or nothing."""
        ...

    def owing(self, answered: Future) -> Awaitable[QueryResult]:
        """Wait for a reply that somebody waits for."""
        ...

    def keep_ticking(self) -> None:
        """There is a target to broadcast."""
        ...


class Steps:
    """Offers `~/history` and the services; all of it belongs to the executor's thread."""

    def __init__(self, node: LifecycleNode, config: Config, outputs: Outputs,
                 queries: Queries) -> None:
        self._node, self._outputs, self._queries = node, outputs, queries
        self._base_frame = config.base_frame
        self.history = History()
        self._recorder = StepRecorder(config.record_dir, node.get_logger().error)
        self.on_step: list[OnStep] = [self._recorder]
        self._publisher = node.create_publisher(HistoryMsg, '~/history', LATCHED)
        self._adjust = Adjust(node, config.base_frame, self)
        self._services = [
            node.create_service(Accept, '~/accept', self._on_accept),
            # It waits for its answer, and must not keep anybody else waiting meanwhile.
            node.create_service(Correct, '~/correct', self._on_correct,
                                callback_group=ReentrantCallbackGroup()),
            *(node.create_service(Trigger, name, _answering(wish)) for name, wish in (
                ('~/undo', self.undo), ('~/redo', self.redo), ('~/clear', self.clear)))]
        self._stepped()

    def close(self) -> None:
        """Take everything off the graph."""
        self._recorder.close()
        self._adjust.close()
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._publisher)

    # --- what the node says

    def take(self, job: Job, result: QueryResult) -> None:
        """A query has ended, and its result is out."""
        if job.located is None:
            return
        answered = is_answered(result)
        self.history.remember(job.query_id, job.located, answered)
        if answered:
            by_hand = job.request.correction is not None
            step = self.history.add(
                result, HistoryEntry.CORRECTED if by_hand else HistoryEntry.UNREVIEWED,
                sight(job.located) if result.has_target else None)
            self._tell(step)
            self._stepped()

    def refusal(self, request: Request) -> Rejected | None:
        """Say why a correction cannot be taken: the answer is not the newest, or not kept."""
        if request.correction is None:
            return None
        try:
            self.history.check_correctable(request.correction.query_id)
        except Rejected as why:
            return why
        return None

    def tick(self) -> None:
        """Broadcast the target; notice when it has expired, or its drag has."""
        if self._outputs.tick():
            self.history.clear()
            self._stepped()
        self._adjust.tick()

    def forget(self, because: str) -> None:
        """Forget the target for good; the history can still be read."""
        self._outputs.clear()
        self.history.clear()
        self.seal(because)

    def seal(self, because: str) -> None:
        """Keep the target, but nothing that was before, and no images."""
        self.history.seal(because)
        self._stepped()

    # --- what people wish

    def accept(self, query_id: str = '', number: int = 0) -> str:
        """Accept the current answer, named by either; raise `Rejected`."""
        self._check_active()
        before = self.history.current
        step = self.history.accept(query_id, number)
        if step is not before:
            self._tell(step)
            self._stepped()
        return f'accepted: {step.words}'

    def undo(self) -> str:
        """Take back the last step; raise `Rejected`."""
        self._check_active()
        undone = self.history.undo()
        self._tell(undone, undone=True)
        for step in (self.history.current, self.history.standing):
            if step is not None and _query_id(step) == _query_id(undone):
                self._tell(step)  # a move was undone: the answer itself is as good as it was
                break
        self._stepped()
        return f'took back {undone.words}; {self._standing_words()}'

    def redo(self) -> str:
        """Take the last undo back; raise `Rejected`."""
        self._check_active()
        done = self.history.redo()
        self._tell(done)
        self._stepped()
        return f'did {done.words} again; {self._standing_words()}'

    def clear(self) -> str:
        """Forget the target until somebody undoes that."""
        said = self._outputs.clear()
        self.history.clear()
        self._stepped()
        return said

    def toggle_rays(self) -> str:
        """Show the rays, or hide them."""
        self._outputs.show_rays = not self._outputs.show_rays
        standing = self.history.standing
        if standing is not None:
            assert standing.result is not None
            self._outputs.draw(standing.result.target, _verdict(standing), standing.sight)
        self.put_back()
        return f'rays are {"shown" if self._outputs.show_rays else "hidden"}'

    def nudge(self, base_from_target: Transform) -> None:
        """Move the target on TF alone, while somebody drags it."""
        standing = self.history.standing
        assert standing is not None
        assert standing.result is not None
        self._outputs.on_tf.hold(_moved(standing.result.target, base_from_target))

    def release(self, base_from_target: Transform) -> None:
        """Make the place where the target was released a step of its own."""
        standing = self.history.standing
        assert standing is not None
        assert standing.result is not None
        result = copy.copy(standing.result)
        result.target = _moved(result.target, base_from_target)
        step = self.history.add(result, HistoryEntry.MOVED, standing.sight)
        self._tell(step)
        self._stepped()

    def put_back(self) -> None:
        """Make what stands by the history stand everywhere."""
        standing = self.history.standing
        if standing is None:
            self._outputs.clear()
        else:
            assert standing.result is not None
            target = standing.result.target
            if self._outputs.stands is not target:
                self._outputs.stand(target, _verdict(standing), standing.sight)
            elif self._outputs.on_tf.target is not target:
                self._outputs.on_tf.hold(target)  # it was dragged, and nobody else knows
            self._queries.keep_ticking()
        self._adjust.show(standing, self._outputs.show_rays)

    # --- services

    def _on_accept(self, request: Accept.Request, response: Accept.Response) -> Accept.Response:
        try:
            response.success, response.message = True, self.accept(request.query_id)
        except Rejected as why:
            response.success, response.message = False, why.message
        return response

    async def _on_correct(self, request: Correct.Request,
                          response: Correct.Response) -> Correct.Response:
        located = self.history.located(request.query_id)
        correction = Correction(request.query_id, request.camera,
                                np.array([request.x, request.y]), located)
        asked = Request(correction=correction) if located is None else Request(
            located.clicked.camera, located.clicked.stamp_ns, located.pixel, correction=correction)
        answered: Future = Future()
        self._queries.ask(asked, answered.set_result)
        response.result = await self._queries.owing(answered)
        return response

    # --- inside

    def _check_active(self) -> None:
        refused = self._queries.not_now()
        if refused:
            raise Rejected(Code.BUSY, refused)

    def _tell(self, step: Step, undone: bool = False) -> None:
        if step.result is not None:
            located = self.history.located(step.result.query_id)
            for listener in self.on_step:
                listener(step.entry, located, undone)

    def _stepped(self) -> None:
        """Show everybody where the history stands."""
        self.put_back()
        message = self.history.message(Header(
            stamp=self._node.get_clock().now().to_msg(), frame_id=self._base_frame))
        self._publisher.publish(message)

    def _standing_words(self) -> str:
        standing = self.history.standing
        return 'no target stands' if standing is None else f'the target of {standing.words} stands'


def _answering(wish: Callable[[], str]) -> Callable[[Trigger.Request, Trigger.Response],
                                                    Trigger.Response]:
    def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.success, response.message = True, wish()
        except Rejected as why:
            response.success, response.message = False, why.message
        return response
    return answer


def _verdict(step: Step) -> str:
    if step.decided == HistoryEntry.MOVED or step.result is None:
        return 'moved by hand'
    return str(step.result.status.message) or 'ok'


def _query_id(step: Step) -> str:
    return '' if step.result is None else step.result.query_id


def _moved(target: GraspTarget, base_from_target: Transform) -> GraspTarget:
    """The target at another pose, of which nobody knows how exact it is."""
    moved = copy.copy(target)
    moved.pose = PoseWithCovariance(pose=pose_from_transform(base_from_target),
                                    covariance=np.full(36, np.nan))
    return moved
