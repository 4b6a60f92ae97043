"""The last 20 steps: answers, what people made of them, and where undo and redo stand."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.msg import HistoryEntry, QueryResult
from crosspoint_ros.ros.rviz.result_markers import TargetRays

MAX_STEPS = 20
MAX_VIEWS = 3  # answers whose images are kept, so that they can be corrected
DECISION_NAMES = {HistoryEntry.UNREVIEWED: 'unreviewed', HistoryEntry.ACCEPTED: 'accepted',
           HistoryEntry.CORRECTED: 'corrected', HistoryEntry.MOVED: 'moved'}


@dataclass(frozen=True, eq=False)
class HistoryStep:
    """An answer, or what a person made of one; `result` is None where the target was cleared.

    `stood` is the earlier step whose target goes on standing, None if this answer has one.
    """

    number: int
    result: QueryResult | None
    decision: int
    rays: TargetRays | None
    inherited: HistoryStep | None

    @property
    def target_step(self) -> HistoryStep | None:
        """The step whose target stands on TF after this one."""
        if self.result is None:
            return None
        return self if self.result.has_target else self.inherited

    @property
    def label(self) -> str:
        """Name the step."""
        if self.result is None:
            return 'the cleared target'
        return f'step {self.number} (query {self.result.query_id}, {DECISION_NAMES[self.decision]})'

    @property
    def entry(self) -> HistoryEntry:
        """The step as a message."""
        assert self.result is not None
        return HistoryEntry(number=self.number, result=self.result, decided=self.decision)


class History:
    """Pure bookkeeping: it publishes nothing, and moves no target.

    What it refuses it refuses with `Rejected`, in words for the person who asked.
    """

    def __init__(self) -> None:
        self._steps: list[HistoryStep] = []
        self._position = 0  # how many of the steps are not undone
        self._undo_limit = 0  # undo goes no further back than to so many steps
        self._undo_limit_reason = 'there is nothing to undo'
        self._last_number = 0
        self._views: deque[tuple[str, LocateResult]] = deque(maxlen=MAX_VIEWS)
        self._rejected_query_id = ''  # query_id of the newest answer, if every view of it was refused

    @property
    def current(self) -> HistoryStep | None:
        """The newest step that is not undone."""
        return self._steps[self._position - 1] if self._position else None

    @property
    def target_step(self) -> HistoryStep | None:
        """The step whose target stands on TF."""
        return None if self.current is None else self.current.target_step

    # --- steps

    def add(self, result: QueryResult, decision: int, rays: TargetRays | None) -> HistoryStep:
        """Append an answer, a correction or a move; the undone steps are gone."""
        self._last_number += 1
        self._rejected_query_id = ''
        # A person who corrects an answer says that its target was wrong. A step with a target keeps
        # no other: each would keep the one before it, for as long as the node runs.
        corrected = decision == HistoryEntry.CORRECTED
        inherited = None if corrected or result.has_target else self.target_step
        return self._append(HistoryStep(self._last_number, result, decision, rays, inherited))

    def clear(self) -> None:
        """The target was cleared, or has expired; nothing happens if none stands."""
        if self.target_step is not None:
            self._append(HistoryStep(0, None, HistoryEntry.UNREVIEWED, None, None))

    def _append(self, step: HistoryStep) -> HistoryStep:
        self._steps[self._position:] = [step]
        if len(self._steps) > MAX_STEPS:
            del self._steps[0]
            # What stood before the oldest step is not known any more.
            if self._undo_limit <= 1:
                self._undo_limit_reason = f'no more than the last {MAX_STEPS} steps are kept'
            self._undo_limit = max(self._undo_limit - 1, 1)
        self._position = len(self._steps)
        return step

    def accept(self, query_id: str = '', number: int = 0) -> HistoryStep:
        """A person accepts the current answer, which is named by either."""
        step = self.current
        if step is None or step.result is None:
            raise Rejected(Code.STALE, 'there is no answer to accept: click first, or undo')
        if query_id != step.result.query_id and number != step.number:
            named = f'step {number}' if number else f'query {query_id!r}'
            raise Rejected(Code.STALE, f'{named} is not the current answer, which is {step.label}: '
                           'look at that one')
        if step.decision == HistoryEntry.UNREVIEWED:
            step = replace(step, decision=HistoryEntry.ACCEPTED)
            self._steps[self._position - 1] = step
        return step

    @property
    def can_undo(self) -> bool:
        """Tell whether `undo` would work."""
        return self._position > self._undo_limit

    @property
    def can_redo(self) -> bool:
        """Tell whether `redo` would work."""
        return self._position < len(self._steps)

    def undo(self) -> HistoryStep:
        """Go back by a step, and return the one that is undone."""
        if not self.can_undo:
            raise Rejected(Code.STALE, self._undo_limit_reason)
        self._position -= 1
        return self._steps[self._position]

    def redo(self) -> HistoryStep:
        """Go forward by a step, and return the one that is done again."""
        if not self.can_redo:
            raise Rejected(Code.STALE, 'there is nothing to redo')
        self._position += 1
        return self._steps[self._position - 1]

    def freeze(self, reason: str) -> None:
        """What was can be read from now on, but not brought back or corrected."""
        del self._steps[self._position:]
        self._undo_limit, self._undo_limit_reason = self._position, f'there is nothing to undo since {reason}'
        self._views.clear()
        self._rejected_query_id = ''

    # --- what a correction needs

    def keep_views(self, query_id: str, locate_result: LocateResult, answered: bool) -> None:
        """Keep the images of an answer."""
        self._views.append((query_id, locate_result))
        self._rejected_query_id = '' if answered else query_id

    def find_views(self, query_id: str) -> LocateResult | None:
        """What was found, with its images; None when they are not kept any more."""
        return dict(self._views).get(query_id)

    def require_correctable(self, query_id: str) -> None:
        """Raise `Rejected` unless this is the answer that people look at, and its images are here.

        That is the current one, or the newest if every view of it was refused.
        """
        if not query_id:
            raise Rejected(Code.BAD_REQUEST, 'query_id is empty: name the answer to correct')
        step = self.current
        current = '' if step is None or step.result is None else step.result.query_id
        if query_id not in (current, self._rejected_query_id):
            newest = self._rejected_query_id or current
            raise Rejected(Code.STALE, f'query {query_id} is not the newest answer'
                           + (f', {newest} is: correct that one' if newest else ': click anew'))
        if self.find_views(query_id) is None:
            raise Rejected(Code.STALE, f'the images of query {query_id} are not kept any more '
                           f'(those of the newest {MAX_VIEWS} answers are, until time jumps or '
                           'the node is deactivated): click anew')

    # --- what others see

    def to_msg(self, header: Header) -> HistoryMsg:
        """All of it as a message; a cleared target is a step, but no entry."""
        entries = [step.entry for step in self._steps if step.result is not None]
        undone = sum(step.result is not None for step in self._steps[self._position:])
        target_step = self.target_step
        return HistoryMsg(header=header, entries=entries, undone=undone,
                          current=0 if target_step is None else target_step.number,
                          can_undo=self.can_undo, can_redo=self.can_redo)
