"""The last 20 steps: answers, of targets of several names, and decisions; undo and redo."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.msg import HistoryEntry, QueryResult, TargetState
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
class HistoryStep:
    """An answer, or a person's decision about one; `result` is None where the target was cleared.

    inherited: the earlier step whose target stays active, None if this answer has one.
    target_number: counts the targets, 0 for a step without one. end_state: how the target ended
    where `result` is None. is_sent: whether TF and `~/grasp_target` may have its target; else it
    waits for a person. name: of the target, None for all. held_until_ns: until then a click without
    a name does not replace its target.
    """

    number: int
    result: QueryResult | None
    decision: int
    rays: TargetRays | None
    inherited: HistoryStep | None
    target_number: int = 0
    end_state: int = TargetState.NONE
    is_sent: bool = True
    name: str | None = ''
    held_until_ns: int = 0

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
        named = f'target {self.name!r}, ' if self.name else ''
        return (f'step {self.number} ({named}query {self.query_id}, '
                f'{DECISION_NAMES[self.decision]})')

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
        return HistoryEntry(number=self.number, result=self.result, decided=self.decision,
                            target_name=self.name or '')


class History:
    """Pure bookkeeping: it publishes nothing. A `Rejected` says why to the person who called.

    Each step is of the target of one name, '' where it has none; undo and redo go through them all.
    """

    def __init__(self, last_target_number: int = 0) -> None:
        """last_target_number: of an earlier history, so that no target's number comes twice."""
        self.last_target_number = last_target_number
        self._steps: list[HistoryStep] = []
        self._dropped: dict[str, HistoryStep] = {}  # by name, the newest that is no longer kept
        self._position = 0  # how many of the steps are not undone
        self._undo_limit = 0  # undo never leaves fewer steps than this
        self._undo_limit_reason = 'there is nothing to undo'
        self._last_number = 0
        self._kept: deque[tuple[str, LocateResult, str]] = deque(maxlen=MAX_LOCATE_RESULTS)
        self._rejected_query_id = ''  # the newest answer, if every view of it was refused

    @property
    def current(self) -> HistoryStep | None:
        """The newest step that is not undone, of any target."""
        return self._steps[self._position - 1] if self._position else None

    @property
    def names(self) -> set[str]:
        """The names of all targets there have been, undone ones too; always that of none, ''."""
        return {'', *self._dropped, *(s.name for s in self._steps if s.name is not None)}

    def get_step(self, name: str = '') -> HistoryStep | None:
        """Return the newest step, not undone, of the target of that name."""
        return next((step for step in reversed(self._steps[:self._position])
                     if step.name in (name, None)), self._dropped.get(name))

    def get_target_step(self, name: str = '') -> HistoryStep | None:
        """Return the step whose target is active under that name."""
        step = self.get_step(name)
        return None if step is None else step.target_step

    def get_target_state(self, name: str = '') -> int:
        """Return STANDING, PENDING until a person accepts it, or why there is no target."""
        step, target_step = self.get_step(name), self.get_target_step(name)
        if target_step is not None:
            return target_step.state
        return int(TargetState.NONE) if step is None else step.end_state

    # --- steps

    def add(self, result: QueryResult, decision: int, rays: TargetRays | None,
            inherits: bool = True, is_sent: bool = True, name: str = '', held_until_ns: int = 0
            ) -> HistoryStep:
        """Append an answer, a correction or a move; the undone steps are dropped.

        inherits: if it has no target itself, it keeps the one that is active, unless that one
        waits for a person: only the current answer can be accepted. is_sent, name, held_until_ns:
        as in `HistoryStep`; what a person corrects or moves is held as it was.
        """
        self._last_number += 1
        self.last_target_number += result.has_target
        self._rejected_query_id = ''
        previous = self.get_target_step(name)
        # A correction means that the target was wrong. A step with a target inherits none: each
        # would keep the one before it, for as long as the node runs.
        is_correction = decision == HistoryEntry.CORRECTED
        if previous is not None and decision in (HistoryEntry.CORRECTED, HistoryEntry.MOVED):
            held_until_ns = previous.held_until_ns
        inherited = (previous if inherits and not is_correction and not result.has_target
                     and self.get_target_state(name) == TargetState.STANDING else None)
        return self._append(HistoryStep(
            self._last_number, result, decision, rays, inherited,
            self.last_target_number if result.has_target else 0,
            self.get_target_state(name) if previous is None else TargetState.CLEARED, is_sent,
            name, held_until_ns))

    def clear(self, name: str | None = None, end_state: int = TargetState.CLEARED) -> None:
        """Append that a target, or with None all, was cleared or has expired, if there is one."""
        if any(map(self.get_target_step, self.names if name is None else (name,))):
            self._append(HistoryStep(0, None, HistoryEntry.UNREVIEWED, None, None,
                                     end_state=end_state, name=name))

    def _append(self, step: HistoryStep) -> HistoryStep:
        self._steps[self._position:] = [step]
        if len(self._steps) > MAX_STEPS:
            self._drop(self._steps.pop(0))
            # What was before the oldest step is no longer known.
            if self._undo_limit <= 1:
                self._undo_limit_reason = f'no more than the last {MAX_STEPS} steps are kept'
            self._undo_limit = max(self._undo_limit - 1, 1)
        self._position = len(self._steps)
        return step

    def _drop(self, step: HistoryStep) -> None:
        """Keep of a step that is too old what undo can come back to."""
        names = (*self._dropped, '') if step.name is None else (step.name,)
        self._dropped |= dict.fromkeys(names, step)
        oldest = self._steps[0].name  # this one is not undone
        self._dropped = {name: each for name, each in self._dropped.items()
                         if oldest not in (name, None) and (each.target_step or not name)}

    def accept(self, query_id: str = '', number: int = 0) -> HistoryStep:
        """Mark the current answer of a target, named by either, as accepted by a person."""
        newest = self.current
        step = self.find_newest(query_id, number)
        if step is None:
            if newest is None or newest.result is None:
                raise Rejected(Code.STALE, 'there is no answer to accept: click first, or undo')
            named = f'step {number}' if number else f'query {query_id!r}'
            raise Rejected(Code.STALE, f'{named} is not the current answer; that is '
                           f'{newest.label}: check that one')
        if step.decision == HistoryEntry.UNREVIEWED or not step.is_sent:
            accepted = replace(step, is_sent=True, decision=HistoryEntry.ACCEPTED if (
                step.decision == HistoryEntry.UNREVIEWED) else step.decision)
            if step in self._steps:
                self._steps[self._steps.index(step)] = accepted
            else:
                self._dropped[step.name or ''] = accepted
            return accepted
        return step

    def find_newest(self, query_id: str = '', number: int = 0) -> HistoryStep | None:
        """Return the step of that query or number, if it is the newest of its target."""
        return next((step for step in map(self.get_step, self.names) if step is not None
                     and step.result is not None
                     and (query_id == step.query_id or number == step.number)), None)

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
        self._kept.clear()
        self._rejected_query_id = ''

    # --- corrections

    def keep_locate_result(self, query_id: str, locate_result: LocateResult, is_accepted: bool,
                           name: str = '') -> None:
        """Keep an answer with its images, so that it can be corrected. name: of its target."""
        self._kept.append((query_id, locate_result, name))
        self._rejected_query_id = '' if is_accepted else query_id

    def find_locate_result(self, query_id: str) -> LocateResult | None:
        """Return the result of a query with its images; None if they are no longer kept."""
        return next((found for kept, found, _ in self._kept if kept == query_id), None)

    def find_name(self, query_id: str) -> str:
        """Return the name of the target of a query whose images are kept; else ''."""
        return next((name for kept, _, name in self._kept if kept == query_id), '')

    def require_correctable(self, query_id: str) -> None:
        """Raise `Rejected` unless this is the newest answer of its target with its images kept.

        If every view of the newest answer was refused, that one can be corrected too.
        """
        if not query_id:
            raise Rejected(Code.BAD_REQUEST, 'query_id is empty: name the answer to correct')
        step = self.get_step(self.find_name(query_id)) or self.current
        current = '' if step is None else step.query_id
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
        active = {name: step.number for name in sorted(self.names)
                  if (step := self.get_target_step(name)) is not None}
        return HistoryMsg(header=header, entries=entries, undone=undone, current=active.get('', 0),
                          active=sorted(active.values()), can_undo=self.can_undo,
                          can_redo=self.can_redo)
