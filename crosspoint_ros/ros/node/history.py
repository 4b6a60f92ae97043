"""The active target, and the last 20 steps: answers and decisions about them, undo and redo."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import (
    GraspTarget,
    HistoryEntry,
    QueryResult,
    TargetSighting,
    TargetState,
)
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.ros.client.results import is_target_sure

MAX_STEPS = 20
MAX_LOCATE_RESULTS = 3  # answers whose images are kept, so that they can be corrected
DECISION_NAMES = {HistoryEntry.UNREVIEWED: 'unreviewed', HistoryEntry.ACCEPTED: 'accepted',
                  HistoryEntry.CORRECTED: 'corrected', HistoryEntry.MOVED: 'moved'}


@dataclass(frozen=True, eq=False)
class TargetRays:
    """The lines from the cameras that see a target to the target, in the base frame."""

    camera_origins_base_m: tuple[Array, ...]
    point_base_m: Array

    @classmethod
    def from_result(cls, result: LocateResult) -> TargetRays | None:
        """Return the rays of an answer, None without a target."""
        if result.target is None:
            return None
        views = (result.clicked, *(c.view for c in result.correspondences if c.rejected is None))
        return cls(tuple(view.base_from_cam.t_m for view in views
                         if view is not None and view.base_from_cam is not None),
                   result.target.base_from_target.t_m)


@dataclass(frozen=True, eq=False)
class FollowedTarget:
    """What following says of the active target.

    target: where it is, None to leave it where the step has it. state, message: as in
    TargetState.msg. is_withdrawn: it must not be used. sightings: one per camera, with the
    stamp of the newest image that shows it, ns.
    """

    target: GraspTarget | None
    state: int
    message: str
    is_withdrawn: bool
    sightings: tuple[TargetSighting, ...]
    last_seen_ns: int


@dataclass(frozen=True, eq=False)
class HistoryStep:
    """An answer, or a person's decision about one; `result` is None where the target was cleared.

    inherited: the earlier step whose target stays active, None if this answer has one.
    target_number: counts the targets, 0 for a step without one. end_state: how the target ended
    where `result` is None. is_sent: whether TF and `~/grasp_target` may have its target; else it
    waits for a person.
    """

    number: int
    result: QueryResult | None
    decision: int
    rays: TargetRays | None
    inherited: HistoryStep | None
    target_number: int = 0
    end_state: int = TargetState.NONE
    is_sent: bool = True

    @property
    def state(self) -> int:
        """The state of its target, if that is active."""
        return int(TargetState.STANDING if self.is_sent else TargetState.PENDING)

    @property
    def target_step(self) -> HistoryStep | None:
        """The step whose target is active after this one."""
        if self.result is None:
            return None
        return self if self.result.has_target else self.inherited

    @property
    def query_id(self) -> str:
        """The query of the answer; '' where the target was cleared."""
        return '' if self.result is None else str(self.result.query_id)

    @property
    def label(self) -> str:
        """The step's name in messages."""
        if self.result is None:
            return 'the cleared target'
        return f'step {self.number} (query {self.query_id}, {DECISION_NAMES[self.decision]})'

    @property
    def verdict(self) -> str:
        """What the markers say about the target."""
        if self.decision == HistoryEntry.MOVED or self.result is None:
            return 'moved by hand'
        return str(self.result.status.message) or 'ok'

    @property
    def is_sure(self) -> bool:
        """Whether a sure view confirms the target, and no one has moved it by hand."""
        return (self.result is not None and self.decision != HistoryEntry.MOVED
                and is_target_sure(self.result))

    @property
    def entry(self) -> HistoryEntry:
        """The step as a message."""
        assert self.result is not None
        return HistoryEntry(number=self.number, result=self.result, decided=self.decision)


class History:
    """Pure bookkeeping: it publishes nothing. A `Rejected` says why to the person who called."""

    def __init__(self, last_target_number: int = 0) -> None:
        """last_target_number: of an earlier history, so that no target's number comes twice."""
        self.last_target_number = last_target_number
        self._steps: list[HistoryStep] = []
        self._position = 0  # how many of the steps are not undone
        self._undo_limit = 0  # undo never leaves fewer steps than this
        self._undo_limit_reason = 'there is nothing to undo'
        self._last_number = 0
        self._locate_results: deque[tuple[str, LocateResult]] = deque(maxlen=MAX_LOCATE_RESULTS)
        self._rejected_query_id = ''  # the newest answer, if every view of it was refused

    @property
    def current(self) -> HistoryStep | None:
        """The newest step that is not undone."""
        return self._steps[self._position - 1] if self._position else None

    @property
    def target_step(self) -> HistoryStep | None:
        """The step whose target is active."""
        return None if self.current is None else self.current.target_step

    @property
    def target_state(self) -> int:
        """STANDING, PENDING until a person accepts it, or why there is no target."""
        if self.target_step is not None:
            return self.target_step.state
        return int(TargetState.NONE) if self.current is None else self.current.end_state

    # --- steps

    def add(self, result: QueryResult, decision: int, rays: TargetRays | None,
            inherits: bool = True, is_sent: bool = True) -> HistoryStep:
        """Append an answer, a correction or a move; the undone steps are dropped.

        inherits: if it has no target itself, it keeps the one that is active, unless that one
        waits for a person: only the current answer can be accepted. is_sent: as in `HistoryStep`.
        """
        self._last_number += 1
        self.last_target_number += result.has_target
        self._rejected_query_id = ''
        # A correction means that the target was wrong. A step with a target inherits none: each
        # would keep the one before it, for as long as the node runs.
        is_correction = decision == HistoryEntry.CORRECTED
        inherited = (self.target_step if inherits and not is_correction and not result.has_target
                     and self.target_state == TargetState.STANDING else None)
        return self._append(HistoryStep(
            self._last_number, result, decision, rays, inherited,
            self.last_target_number if result.has_target else 0,
            self.target_state if self.target_step is None else TargetState.CLEARED, is_sent))

    def clear(self, end_state: int = TargetState.CLEARED) -> None:
        """Append that the target was cleared, or has expired, if there is one."""
        if self.target_step is not None:
            self._append(HistoryStep(0, None, HistoryEntry.UNREVIEWED, None, None,
                                     end_state=end_state))

    def _append(self, step: HistoryStep) -> HistoryStep:
        self._steps[self._position:] = [step]
        if len(self._steps) > MAX_STEPS:
            del self._steps[0]
            # What was before the oldest step is no longer known.
            if self._undo_limit <= 1:
                self._undo_limit_reason = f'no more than the last {MAX_STEPS} steps are kept'
            self._undo_limit = max(self._undo_limit - 1, 1)
        self._position = len(self._steps)
        return step

    def accept(self, query_id: str = '', number: int = 0) -> HistoryStep:
        """Mark the current answer, named by either, as accepted by a person."""
        step = self.current
        if step is None or step.result is None:
            raise Rejected(Code.STALE, 'there is no answer to accept: click first, or undo')
        if query_id != step.query_id and number != step.number:
            named = f'step {number}' if number else f'query {query_id!r}'
            raise Rejected(Code.STALE, f'{named} is not the current answer; that is {step.label}: '
                           'check that one')
        if step.decision == HistoryEntry.UNREVIEWED or not step.is_sent:
            step = replace(step, is_sent=True, decision=HistoryEntry.ACCEPTED if (
                step.decision == HistoryEntry.UNREVIEWED) else step.decision)
            self._steps[self._position - 1] = step
        return step

    @property
    def can_undo(self) -> bool:
        """Whether `undo` would work."""
        return self._position > self._undo_limit

    @property
    def can_redo(self) -> bool:
        """Whether `redo` would work."""
        return self._position < len(self._steps)

    def undo(self) -> HistoryStep:
        """Go back by a step, and return the one that is undone."""
        if not self.can_undo:
            raise Rejected(Code.STALE, self._undo_limit_reason)
        self._position -= 1
        return self._steps[self._position]

    def redo(self) -> HistoryStep:
        """Go forward by a step, and return the one that is redone."""
        if not self.can_redo:
            raise Rejected(Code.STALE, 'there is nothing to redo')
        self._position += 1
        return self._steps[self._position - 1]

    def freeze(self, reason: str) -> None:
        """Keep the steps readable, but do not allow to undo, redo or correct them."""
        del self._steps[self._position:]
        self._undo_limit = self._position
        self._undo_limit_reason = f'there is nothing to undo since {reason}'
        self._locate_results.clear()
        self._rejected_query_id = ''

    # --- corrections

    def keep_locate_result(self, query_id: str, locate_result: LocateResult, is_accepted: bool
                           ) -> None:
        """Keep an answer with its images, so that it can be corrected."""
        self._locate_results.append((query_id, locate_result))
        self._rejected_query_id = '' if is_accepted else query_id

    def find_locate_result(self, query_id: str) -> LocateResult | None:
        """Return the result of a query with its images; None if they are no longer kept."""
        return dict(self._locate_results).get(query_id)

    def require_correctable(self, query_id: str) -> None:
        """Raise `Rejected` unless this is the current answer and its images are kept.

        If every view of the newest answer was refused, that one can be corrected too.
        """
        if not query_id:
            raise Rejected(Code.BAD_REQUEST, 'query_id is empty: name the answer to correct')
        current = '' if self.current is None else self.current.query_id
        if query_id not in (current, self._rejected_query_id):
            newest = self._rejected_query_id or current
            raise Rejected(Code.STALE, f'query {query_id} is not the newest answer'
                           + (f', {newest} is: correct that one' if newest else ': click again'))
        if self.find_locate_result(query_id) is None:
            raise Rejected(Code.STALE, f'the images of query {query_id} are not kept any more '
                           f'(those of the newest {MAX_LOCATE_RESULTS} answers are, until time '
                           'jumps or the node is deactivated): click again')

    def to_msg(self, header: Header) -> HistoryMsg:
        """Return all of it as a message; a cleared target is a step, but not an entry."""
        entries = [step.entry for step in self._steps if step.result is not None]
        undone = sum(step.result is not None for step in self._steps[self._position:])
        target_step = self.target_step
        return HistoryMsg(header=header, entries=entries, undone=undone,
                          current=0 if target_step is None else target_step.number,
                          can_undo=self.can_undo, can_redo=self.can_redo)


class ActiveTarget:
    """The one active target. Every change calls the `listeners`, which publish what differs.

    step: the history step whose target is active, None without one. preview: the target where a
    drag has it; the TF alias alone follows it, if `sends_drags`. followed: what following says of
    it, if anything; the target may then be elsewhere, or withdrawn. is_held: following is on hold.
    show_rays: whether RViz shows
    the rays. state, message: as in TargetState.msg. since_ns: when the state or the target last
    changed. valid_until_ns: when the target expires, 0: never.
    """

    def __init__(self, now_ns: Callable[[], int], ttl_s: float = 0.0, sends_drags: bool = True
                 ) -> None:
        """now_ns: the node's clock. ttl_s: a target expires after this time; 0: never.

        sends_drags: TF follows a drag before a person accepts it.
        """
        self._now_ns, self._ttl_s, self._sends_drags = now_ns, ttl_s, sends_drags
        self.step: HistoryStep | None = None
        self.last_step: HistoryStep | None = None  # the active one, else the one before it ended
        self.preview: GraspTarget | None = None
        self.followed: FollowedTarget | None = None
        # By target, as put: a withdrawn one stays so, after an undo too, until it is seen again.
        self._withdrawn: deque[tuple[GraspTarget, FollowedTarget]] = deque(maxlen=MAX_STEPS)
        self.is_held = False
        self.show_rays = True
        self.state, self.message = int(TargetState.NONE), 'there has been no target yet'
        self.since_ns, self.valid_until_ns = now_ns(), 0
        self.listeners: list[Callable[[ActiveTarget], None]] = []

    @property
    def active_target(self) -> GraspTarget | None:
        """The target of the step, or where it was followed to; None if it is withdrawn."""
        if self.step is None or self.step.result is None:
            return None
        if self.followed is None:
            return self.step.result.target
        return None if self.followed.is_withdrawn else (
            self.followed.target or self.step.result.target)

    @property
    def is_valid(self) -> bool:
        """Whether a pipeline may go on with the target."""
        return self.sent_target is not None and self.preview is None and self.state in (
            TargetState.STANDING, TargetState.TRACKING, TargetState.COASTING, TargetState.MOVED)

    @property
    def sent_target(self) -> GraspTarget | None:
        """The target for TF and `~/grasp_target`; None while it waits for a person."""
        return self.active_target if self.step is not None and self.step.is_sent else None

    @property
    def alias_target(self) -> GraspTarget | None:
        """The target for the TF alias: during a drag, another one."""
        dragged = self.preview if self._sends_drags and self.sent_target is not None else None
        return dragged or self.sent_target

    @property
    def has_expired(self) -> bool:
        """Whether the target is older than its time to live."""
        return self.step is not None and 0 < self.valid_until_ns <= self._now_ns()

    def set_target(self, step: HistoryStep | None, state: int, message: str | None = None) -> None:
        """Make the target of this step the active one, or none; a drag ends.

        message: what happened; None: nothing that people must know.
        """
        previous, was_dragged = self.active_target, self.preview is not None
        previous_sent = self.sent_target
        if _get_put_target(step) is not _get_put_target(self.step):
            self._exchange_followed(_get_put_target(self.step), _get_put_target(step))
        self.step, self.preview = step, None
        self.last_step = step or self.last_step
        if self.followed is not None and step is not None:
            state = self._followed_state
        if was_dragged or self.active_target is not previous or (
                self.sent_target is not previous_sent):
            self._restart_ttl()
        self._notify(state, message, is_new=self.active_target is not previous)

    def set_preview(self, preview: GraspTarget) -> None:
        """Move the target on TF alone, during a drag; until it is released the target is not valid.

        A mouse button that is pressed without a move changes nothing.
        """
        self.preview = preview
        self._restart_ttl()
        assert self.active_target is not None
        assert self.step is not None
        has_moved = not np.allclose(_list_numbers(preview), _list_numbers(self.active_target),
                                    atol=1e-4)
        self._notify(TargetState.PENDING if has_moved else self.step.state)

    def set_followed(self, followed: FollowedTarget | None) -> None:
        """Take what following says of the target; during a drag the person decides."""
        if self.step is None or (self.preview is not None and followed is not None):
            return
        self.followed = followed
        if self.preview is not None:
            return
        state = self._followed_state
        self._notify(state, None if followed is None or state == self.state else followed.message)

    def _exchange_followed(self, previous: GraspTarget | None, target: GraspTarget | None) -> None:
        if previous is not None:
            kept = [each for each in self._withdrawn if each[0] is not previous]
            if self.followed is not None and self.followed.is_withdrawn:
                kept.append((previous, self.followed))
            self._withdrawn = deque(kept, maxlen=MAX_STEPS)
        self.followed = next((found for put, found in self._withdrawn if put is target), None)

    @property
    def _followed_state(self) -> int:
        """What following says; while the target waits for a person, that, unless it is lost."""
        assert self.step is not None
        if self.followed is None or not (self.step.is_sent or self.followed.is_withdrawn):
            return self.step.state
        return self.followed.state

    def announce(self, message: str) -> None:
        """Say what happened that leaves the target as it is."""
        self._notify(self.state, message)

    def toggle_rays(self) -> None:
        """Show the rays, or hide them; a drag ends."""
        self.show_rays = not self.show_rays
        state = self.state if self.step is None else self.step.state
        self.set_target(self.step, state)

    def _restart_ttl(self) -> None:
        is_limited = self._ttl_s > 0 and self.step is not None
        self.valid_until_ns = self._now_ns() + round(self._ttl_s * 1e9) if is_limited else 0

    def _notify(self, state: int, message: str | None = None, is_new: bool = False) -> None:
        if is_new or state != self.state:
            self.since_ns = self._now_ns()
        self.state = int(state)
        self.message = self.message if message is None else message
        for listener in self.listeners:
            listener(self)


def _get_put_target(step: HistoryStep | None) -> GraspTarget | None:
    """Where the answer or a person put the target of a step."""
    return None if step is None or step.result is None else step.result.target


def _list_numbers(target: GraspTarget) -> list[float]:
    at, q = target.pose.pose.position, target.pose.pose.orientation
    return [at.x, at.y, at.z, q.x, q.y, q.z, q.w]
