"""The last 20 steps: answers, what people made of them, and where undo and redo stand."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import History as HistoryMsg
from crosspoint_ros.msg import HistoryEntry, QueryResult
from crosspoint_ros.ros.rviz.result_markers import Sight

STEPS_KEPT = 20
VIEWS_KEPT = 3  # answers whose images are kept, so that they can be corrected
DECIDED = {HistoryEntry.UNREVIEWED: 'unreviewed', HistoryEntry.ACCEPTED: 'accepted',
           HistoryEntry.CORRECTED: 'corrected', HistoryEntry.MOVED: 'moved'}


@dataclass(frozen=True, eq=False)
class Step:
    """An answer, or what a person made of one; `result` is None where the target was cleared.

    `stood` is the earlier step whose target goes on standing, None if this answer has one.
    """

    number: int
    result: QueryResult | None
    decided: int
    sight: Sight | None
    stood: Step | None

    @property
    def standing(self) -> Step | None:
        """The step whose target stands on TF after this one."""
        if self.result is None:
            return None
        return self if self.result.has_target else self.stood

    @property
    def words(self) -> str:
        """Name the step."""
        if self.result is None:
            return 'the cleared target'
        return f'step {self.number} (query {self.result.query_id}, {DECIDED[self.decided]})'

    @property
    def entry(self) -> HistoryEntry:
        """The step as a message."""
        assert self.result is not None
        return HistoryEntry(number=self.number, result=self.result, decided=self.decided)


class History:
    """Pure bookkeeping: it publishes nothing, and moves no target.

    What it refuses it refuses with `Rejected`, in words for the person who asked.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._done = 0  # how many of the steps are not undone
        self._floor = 0  # undo goes no further back than to so many steps
        self._floor_because = 'there is nothing to undo'
        self._numbered = 0
        self._views: deque[tuple[str, LocateResult]] = deque(maxlen=VIEWS_KEPT)
        self._unanswered = ''  # query_id of the newest answer, if every view of it was refused

    @property
    def current(self) -> Step | None:
        """The newest step that is not undone."""
        return self._steps[self._done - 1] if self._done else None

    @property
    def standing(self) -> Step | None:
        """The step whose target stands on TF."""
        return None if self.current is None else self.current.standing

    # --- steps

    def add(self, result: QueryResult, decided: int, sight: Sight | None) -> Step:
        """Append an answer, a correction or a move; the undone steps are gone."""
        self._numbered += 1
        self._unanswered = ''
        # A person who corrects an answer says that its target was wrong. A step with a target keeps
        # no other: each would keep the one before it, for as long as the node runs.
        corrected = decided == HistoryEntry.CORRECTED
        stood = None if corrected or result.has_target else self.standing
        return self._append(Step(self._numbered, result, decided, sight, stood))

    def clear(self) -> None:
        """The target was cleared, or has expired; nothing happens if none stands."""
        if self.standing is not None:
            self._append(Step(0, None, HistoryEntry.UNREVIEWED, None, None))

    def _append(self, step: Step) -> Step:
        self._steps[self._done:] = [step]
        if len(self._steps) > STEPS_KEPT:
            del self._steps[0]
            # What stood before the oldest step is not known any more.
            if self._floor <= 1:
                self._floor_because = f'no more than the last {STEPS_KEPT} steps are kept'
            self._floor = max(self._floor - 1, 1)
        self._done = len(self._steps)
        return step

    def accept(self, query_id: str = '', number: int = 0) -> Step:
        """A person accepts the current answer, which is named by either."""
        step = self.current
        if step is None or step.result is None:
            raise Rejected(Code.STALE, 'there is no answer to accept: click first, or undo')
        if query_id != step.result.query_id and number != step.number:
            named = f'step {number}' if number else f'query {query_id!r}'
            raise Rejected(Code.STALE, f'{named} is not the current answer, which is {step.words}: '
                           'look at that one')
        if step.decided == HistoryEntry.UNREVIEWED:
            step = replace(step, decided=HistoryEntry.ACCEPTED)
            self._steps[self._done - 1] = step
        return step

    @property
    def can_undo(self) -> bool:
        """Tell whether `undo` would work."""
        return self._done > self._floor

    @property
    def can_redo(self) -> bool:
        """Tell whether `redo` would work."""
        return self._done < len(self._steps)

    def undo(self) -> Step:
        """Go back by a step, and return the one that is undone."""
        if not self.can_undo:
            raise Rejected(Code.STALE, self._floor_because)
        self._done -= 1
        return self._steps[self._done]

    def redo(self) -> Step:
        """Go forward by a step, and return the one that is done again."""
        if not self.can_redo:
            raise Rejected(Code.STALE, 'there is nothing to redo')
        self._done += 1
        return self._steps[self._done - 1]

    def seal(self, because: str) -> None:
        """What was can be read from now on, but not brought back or corrected."""
        del self._steps[self._done:]
        self._floor, self._floor_because = self._done, f'there is nothing to undo since {because}'
        self._views.clear()
        self._unanswered = ''

    # --- what a correction needs

    def remember(self, query_id: str, located: LocateResult, answered: bool) -> None:
        """Keep the images of an answer."""
        self._views.append((query_id, located))
        self._unanswered = '' if answered else query_id

    def located(self, query_id: str) -> LocateResult | None:
        """What was found, with its images; None when they are not kept any more."""
        return dict(self._views).get(query_id)

    def check_correctable(self, query_id: str) -> None:
        """Raise `Rejected` unless this is the answer that people look at, and its images are here.

        That is the current one, or the newest if every view of it was refused.
        """
        if not query_id:
            raise Rejected(Code.BAD_REQUEST, 'query_id is empty: name the answer to correct')
        step = self.current
        current = '' if step is None or step.result is None else step.result.query_id
        if query_id not in (current, self._unanswered):
            newest = self._unanswered or current
            raise Rejected(Code.STALE, f'query {query_id} is not the newest answer'
                           + (f', {newest} is: correct that one' if newest else ': click anew'))
        if self.located(query_id) is None:
            raise Rejected(Code.STALE, f'the images of query {query_id} are not kept any more '
                           f'(those of the newest {VIEWS_KEPT} answers are, until time jumps or '
                           'the node is deactivated): click anew')

    # --- what others see

    def message(self, header: Header) -> HistoryMsg:
        """All of it as a message; a cleared target is a step, but no entry."""
        entries = [step.entry for step in self._steps if step.result is not None]
        undone = sum(step.result is not None for step in self._steps[self._done:])
        standing = self.standing
        return HistoryMsg(header=header, entries=entries, undone=undone,
                          current=0 if standing is None else standing.number,
                          can_undo=self.can_undo, can_redo=self.can_redo)
