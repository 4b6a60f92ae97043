"""The operator's review of answers: accept, undo, redo, clear, drag; and their history."""
from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import GraspTarget, HistoryEntry, QueryResult, TargetState
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.ros.client.results import is_accepted, is_target_sure
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.ros.node.outputs import LATCHED_QOS
from crosspoint_ros.ros.node.query_messages import place_target
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.rviz.target_marker import TargetMarker
from crosspoint_ros.ros.target.frames import get_target_frame
from crosspoint_ros.ros.target.history import DECISION_NAMES, History, HistoryStep, TargetRays
from crosspoint_ros.ros.target.targets import Targets
from crosspoint_ros.srv import Accept, ClearTarget

NOTHING_TO_CLEAR = 'there was no target'

# Called for each step that was made, redone or undone (True); the images are None when no longer
# kept.
StepListener = Callable[[HistoryEntry, 'LocateResult | None', bool], None]


class StepLogger:
    """A step listener that writes to the answer log in `folder`."""

    def __init__(self, folder: str) -> None:
        from crosspoint_ros.data.answer_log import AnswerLogger
        self._logger = AnswerLogger(Path(folder).expanduser())
        self.close = self._logger.close

    def __call__(self, entry: HistoryEntry, result: LocateResult | None, undone: bool) -> None:
        """Queue a step; never waits for the disk."""
        from crosspoint_ros.data.answer_log import UNDONE, LogEntry
        target = entry.result.target
        self._logger.log(LogEntry(
            entry.result.query_id, entry.number,
            UNDONE if undone else DECISION_NAMES[entry.decided], result,
            transform_from_pose(target.pose.pose) if entry.result.has_target else None,
            target.header.frame_id))


class ReviewServer:
    """Offers `~/history`, `~/adjust` and the services; all in the executor's thread."""

    def __init__(self, node: LifecycleNode, config: Config, targets: Targets,
                 explain_unavailable: Callable[[], str], on_clear: Callable[[str | None], bool],
                 last_target_number: int = 0) -> None:
        """explain_unavailable: why the node takes no requests; '' if it does.

        on_clear: called before a person's clear, to end the queries whose target, of that name or
        with None of any, would come after; returns whether there was one. last_target_number: of
        the targets before the node was last cleaned up.
        """
        self._node, self._targets, self._explain_unavailable = node, targets, explain_unavailable
        self._target = targets['']  # the one that RViz can drag
        self._target_frame = config.target_frame.lstrip('/')
        self._on_clear = on_clear
        self._base_frame, self._ttl_s = config.base_frame, config.target_ttl_s
        self._keeps_target = config.on_refusal == 'keep'
        self._publish_target = config.publish_target
        self.history = History(last_target_number)
        self._step_logger = StepLogger(config.record_dir) if config.record_dir else None
        self.step_listeners: list[StepListener] = [self._step_logger] if self._step_logger else []
        self._publisher = node.create_publisher(HistoryMsg, '~/history', LATCHED_QOS)
        self._target_marker = TargetMarker(node, config.base_frame, self)
        targets.listeners.append(self._target_marker.update)
        self._services = [
            node.create_service(Accept, '~/accept', self._on_accept),
            node.create_service(ClearTarget, '~/clear_target', self._on_clear_target),
            *(node.create_service(Trigger, name, _make_trigger_callback(action))
              for name, action in (('~/undo', self.undo), ('~/redo', self.redo),
                                   ('~/clear', self.clear)))]
        self._publish_history()

    def close(self) -> None:
        """Take everything off the graph."""
        if self._step_logger is not None:
            self._step_logger.close()
        self._target_marker.close()
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._publisher)

    # --- called by the node

    def add_result(self, task: QueryTask, result: QueryResult) -> HistoryStep | None:
        """Add a finished query, and activate its target; the result is published after that.

        Returns the new step, for `publish_step`; None if nothing was found.
        """
        located, request, step = task.locate_result, task.request, None
        correction, name = request.correction, self.choose_name(request)
        if located is not None:
            self.history.keep_locate_result(task.query_id, located, is_accepted(result), name)
        if located is not None and is_accepted(result):
            step = self._add_step(
                result, HistoryEntry.UNREVIEWED if correction is None else HistoryEntry.CORRECTED,
                TargetRays.from_result(located), self._sends_by_itself(result), name,
                request.hold_s)
        elif not self._keeps_target and self.history.get_target_step(name) is not None:
            self.history.clear(name)
            self._publish_history(self._describe_result(result, name))
            return None
        if step is None:
            target = self._targets.find(name) or self._target
            target.announce(self._describe_result(result, name))
        else:
            self._activate_target(self._describe_result(result, name), name)
        return step

    def _add_step(self, result: QueryResult, decision: int, rays: TargetRays | None, is_sent: bool,
                  name: str, hold_s: float = 0.0) -> HistoryStep:
        """Add a step; its target's message gets the name, and the frame of its number."""
        held_until_ns = self._targets.now_ns() + round(hold_s * 1e9) if hold_s else 0
        step = self.history.add(result, decision, rays, self._keeps_target, is_sent, name,
                                held_until_ns)
        if result.has_target:
            result.target.name = name
            result.target.frame = get_target_frame(self._target_frame, step.target_number)
        return step

    def choose_name(self, request: QueryRequest) -> str:
        """Return the name that the target of a query gets, or would get now."""
        if request.correction is not None:
            return self.history.find_name(request.correction.query_id)
        return self._targets.choose_name(request.target_name, request.hold_s)

    def publish_step(self, step: HistoryStep, message: str | None = None) -> None:
        """Report a step to the listeners, and publish the history."""
        self._notify(step)
        self._publish_history(message, step.name)

    def find_rejection(self, request: QueryRequest) -> Rejected | None:
        """Return why a query cannot have its target, or its correction not be applied."""
        if request.correction is None:
            return self._targets.find_rejection(self.choose_name(request), request.hold_s)
        try:
            self.history.require_correctable(request.correction.query_id)
        except Rejected as rejected:
            return rejected
        return None

    def tick(self) -> None:
        """Clear an expired target, and end an abandoned drag."""
        for target in self._targets:
            if target.has_expired:
                self.history.clear(target.name, TargetState.EXPIRED)
                self._publish_history(f'the target has expired (target_ttl_s {self._ttl_s:g} s)',
                                      target.name)
        self._target_marker.tick()

    def reset(self, reason: str) -> None:
        """Clear the target for good; the history stays readable."""
        self.history.clear()
        self.history.freeze(reason)
        self._publish_history(reason)

    def withdraw(self, reason: str) -> None:
        """Clear the target; `undo` brings it back."""
        self.history.clear()
        self._publish_history(reason)

    # --- called by people

    def accept(self, query_id: str = '', number: int = 0) -> str:
        """Accept the current answer, named by either. Raises `Rejected`."""
        self._require_active()
        previous = self.history.find_newest(query_id, number)
        step = self.history.accept(query_id, number)
        message = f'accepted: {step.label}'
        if step is not previous:
            if previous is None or step.decision != previous.decision:
                self._notify(step)
            self._publish_history(message, step.name)
        return message

    def undo(self) -> str:
        """Undo the last step. Raises `Rejected`."""
        self._require_active()
        undone = self.history.undo()
        self._notify(undone, undone=True)
        name = undone.name or ''
        for step in (self.history.get_step(name), self.history.get_target_step(name)):
            if step is not None and step.query_id == undone.query_id:
                self._notify(step)  # a move was undone: the answer itself is valid again
                break
        return self._publish_history(f'undone: {undone.label}; {self._describe_target(name)}',
                                     undone.name)

    def redo(self) -> str:
        """Redo the last undone step. Raises `Rejected`."""
        self._require_active()
        step = self.history.redo()
        message = f'redone: {step.label}; {self._describe_target(step.name or "")}'
        self.publish_step(step, message)
        return message

    def clear(self, name: str | None = None) -> str:
        """Clear a target, or all, and end the queries for it; `undo` brings what it was back."""
        has_ended_query = self._on_clear(name)
        cleared = [step.query_id for each in self._targets if name in (None, each.name)
                   if (step := self.history.get_target_step(each.name)) is not None]
        self.history.clear(name)
        return self._publish_history(
            f'cleared target {", ".join(cleared)}' if cleared else
            'the query for a target was ended' if has_ended_query else NOTHING_TO_CLEAR, name)

    def toggle_rays(self) -> str:
        """Show the rays, or hide them."""
        self._target.toggle_rays()
        return f'rays are {"shown" if self._target.show_rays else "hidden"}'

    def preview_move(self, base_from_target: Transform) -> None:
        """Move the target on TF alone, during a drag."""
        assert self._target.active_target is not None
        self._target.set_preview(_move_target(self._target.active_target, base_from_target))

    def commit_move(self, base_from_target: Transform) -> None:
        """Add a step with the target at the pose where it was released."""
        target_step = self.history.get_target_step()
        assert target_step is not None
        assert target_step.result is not None
        result = copy.copy(target_step.result)
        result.target = _move_target(result.target, base_from_target)
        step = self._add_step(result, HistoryEntry.MOVED, target_step.rays, (
            target_step.is_sent and self._publish_target != 'on_accept'), '')
        self.publish_step(step, f'moved by hand: {step.label}')

    def restore_target(self) -> None:
        """End a drag: the target is where the history has it."""
        self._activate_target(name='')

    def _on_clear_target(self, request: ClearTarget.Request, response: ClearTarget.Response
                         ) -> ClearTarget.Response:
        response.message = self.clear(request.target_name)
        response.success = response.message != NOTHING_TO_CLEAR
        return response

    def _on_accept(self, request: Accept.Request, response: Accept.Response) -> Accept.Response:
        response.success, response.message = _run(lambda: self.accept(request.query_id))
        return response

    # --- internal

    def _require_active(self) -> None:
        reason = self._explain_unavailable()
        if reason:
            raise Rejected(Code.BUSY, reason)

    def _sends_by_itself(self, result: QueryResult) -> bool:
        return self._publish_target == 'always' or (
            self._publish_target == 'sure' and is_target_sure(result))

    def _notify(self, step: HistoryStep, undone: bool = False) -> None:
        if step.result is not None:
            locate_result = self.history.find_locate_result(step.query_id)
            for listener in self.step_listeners:
                listener(step.entry, locate_result, undone)

    def _activate_target(self, message: str | None = None, name: str | None = None) -> None:
        """Make what the history has the active target of a name, or with None of all."""
        for each in self.history.names if name is None else (name,):
            step, found = self.history.get_target_step(each), self._targets.find(each)
            if name is None and each and step is (found and found.step):
                continue  # nothing has happened to it
            self._targets[each].set_target(step, self.history.get_target_state(each), message)

    def _publish_history(self, message: str | None = None, name: str | None = None) -> str:
        """Publish the history, and activate its targets; return the message about them."""
        self._activate_target(message, name)
        self._publisher.publish(self.history.to_msg(Header(
            stamp=self._node.get_clock().now().to_msg(), frame_id=self._base_frame)))
        return message or ''

    def _describe_result(self, result: QueryResult, name: str) -> str:
        reason = f': {result.status.message}' if result.status.message else ''
        if result.has_target:
            waiting = self.history.get_target_state(name) == TargetState.PENDING
            return (f'query {result.query_id} is answered{reason}'
                    + f'; {self._describe_target(name)}' * waiting)
        failure = 'has no 3D target' if is_accepted(result) else 'is refused'
        return f'query {result.query_id} {failure}{reason}; {self._describe_target(name)}'

    def _describe_target(self, name: str) -> str:
        step = self.history.get_target_step(name)
        if step is None:
            return f'no target {name!r} is active' if name else 'no target is active'
        return f'the target of {step.label} ' + (
            'is active' if step.is_sent else 'is not sent: it waits for ~/accept')


def _run(action: Callable[[], str]) -> tuple[bool, str]:
    """Return whether an action succeeded, and its message."""
    try:
        return True, action()
    except Rejected as rejected:
        return False, rejected.message


def _make_trigger_callback(action: Callable[[], str]) -> Callable[
        [Trigger.Request, Trigger.Response], Trigger.Response]:
    def on_trigger(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = _run(action)
        return response
    return on_trigger


def _move_target(target: GraspTarget, base_from_target: Transform) -> GraspTarget:
    """Return the target at another pose, whose covariance is unknown."""
    moved = place_target(target, base_from_target, np.full((6, 6), np.nan))
    moved.normal_measured, moved.width_m = False, float('nan')
    return moved
