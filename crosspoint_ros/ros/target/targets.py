"""The active targets, by name: what the history, a drag and following make of each."""
from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.msg import GraspTarget, TargetSighting, TargetState
from crosspoint_ros.ros.config import PREGRASP
from crosspoint_ros.ros.target.history import MAX_STEPS, HistoryStep

MAX_NAME_LETTERS = 40  # TF frames and the page have room for it
MAX_NAMED = 16  # targets at once
MAX_HOLD_S = 3600.0
MOVED_M = 0.01
NEXT = 'next'  # the target of a click without a name, while the target without a name is held

TargetListener = Callable[['ActiveTarget'], None]


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


class ActiveTarget:
    """The active target of a name. Every change calls the `listeners`, which publish what differs.

    name: '' for the target without one. step: the history step whose target is active, None without
    one. preview: the target where a drag has it; the TF alias alone follows it, if `sends_drags`.
    followed: what following says of it, if anything; the target may then be elsewhere, or
    withdrawn. is_paused: following is. show_rays: whether RViz shows the rays. state, message: as
    in TargetState.msg. since_ns: when the state or the target last changed. valid_until_ns: when
    the target expires, 0: never.
    """

    def __init__(self, now_ns: Callable[[], int], ttl_s: float = 0.0, sends_drags: bool = True,
                 name: str = '', listeners: list[TargetListener] | None = None) -> None:
        """now_ns: the node's clock. ttl_s: a target expires after this time; 0: never.

        sends_drags: TF follows a drag before a person accepts it.
        """
        self.name = name
        self._now_ns, self._ttl_s, self._sends_drags = now_ns, ttl_s, sends_drags
        self.step: HistoryStep | None = None
        self.last_step: HistoryStep | None = None  # the active one, else the one before it ended
        self.preview: GraspTarget | None = None
        self.followed: FollowedTarget | None = None
        # By target, as put: one that was withdrawn, or had moved, is withdrawn after an undo too,
        # until it is seen again.
        self._withdrawn: deque[tuple[GraspTarget, FollowedTarget]] = deque(maxlen=MAX_STEPS)
        self.is_paused = False
        self.show_rays = True
        self.state, self.message = int(TargetState.NONE), 'there has been no target yet'
        self.since_ns, self.valid_until_ns = now_ns(), 0
        self.listeners = [] if listeners is None else listeners

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
    def held_until_ns(self) -> int:
        """Until when a click without a name does not replace the target; 0: it does.

        What is lost is not held: a person may click where it is now.
        """
        return 0 if self.step is None or self.active_target is None else self.step.held_until_ns

    @property
    def held_for_s(self) -> float:
        """How much longer the target is held, s; 0: it is not."""
        return max(self.held_until_ns - self._now_ns(), 0) * 1e-9

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
            if self.followed is not None and (self.followed.is_withdrawn
                                              or _has_moved(previous, self.followed.target)):
                kept.append((previous, replace(self.followed, is_withdrawn=True,
                                               state=int(TargetState.LOST))))
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
        self.valid_until_ns = max(self._now_ns() + round(self._ttl_s * 1e9),
                                  self.held_until_ns) if is_limited else 0

    def _notify(self, state: int, message: str | None = None, is_new: bool = False) -> None:
        if is_new or state != self.state:
            self.since_ns = self._now_ns()
        self.state = int(state)
        self.message = self.message if message is None else message
        for listener in self.listeners:
            listener(self)


class Targets:
    """The active targets by name; '' is the one without a name, and always there.

    listeners: called with each target that has changed.
    """

    def __init__(self, now_ns: Callable[[], int], ttl_s: float, sends_drags: bool) -> None:
        """See `ActiveTarget`."""
        self.now_ns = now_ns
        self.listeners: list[TargetListener] = []
        self._make = lambda name: ActiveTarget(now_ns, ttl_s, sends_drags, name, self.listeners)
        self._targets = {'': self._make('')}

    def __iter__(self) -> Iterator[ActiveTarget]:
        """Iterate over the targets, also over those that have ended."""
        return iter(tuple(self._targets.values()))

    def __getitem__(self, name: str) -> ActiveTarget:
        """Return the target of that name; a new name takes the place of one that has ended."""
        if name not in self._targets:
            ended = [each.name for each in self if each.name and each.step is None]
            if len(self._targets) > MAX_NAMED and ended:
                del self._targets[min(ended, key=lambda each: self._targets[each].since_ns)]
            self._targets[name] = self._make(name)
        return self._targets[name]

    def find(self, name: str) -> ActiveTarget | None:
        """Return the target of that name, if there has been one."""
        return self._targets.get(name)

    @property
    def standing(self) -> list[ActiveTarget]:
        """The targets that have not ended."""
        return [each for each in self if each.step is not None]

    def find_newest_sent(self) -> ActiveTarget | None:
        """Return the newest target that is sent; None without one."""
        return max((each for each in self.standing if each.sent_target is not None),
                   key=lambda each: each.step.target_number if each.step else 0, default=None)

    def choose_name(self, name: str, hold_s: float) -> str:
        """Return the name for the target of a query: `NEXT` rather than replace a held one."""
        is_diverted = not name and not hold_s and self[''].held_for_s > 0
        return NEXT if is_diverted else name

    def find_rejection(self, name: str, hold_s: float) -> Rejected | None:
        """Return why there can be no target of that name now; None if there can."""
        if not name and hold_s and self[''].held_for_s > 0:
            step = self[''].step
            return Rejected(Code.BUSY, f'the target of query {step.query_id if step else ""} is '
                            f'held for {self[""].held_for_s:.1f} s more: give yours a target_name, '
                            'or clear that one')
        names = {each.name for each in self.standing if each.name}
        if name and name not in names and len(names) >= MAX_NAMED:
            return Rejected(Code.BUSY, f'{len(names)} targets have names (limit {MAX_NAMED}), no '
                            f'room for {name!r}: clear one, ~/clear_target')
        return None


def check_target_name(name: str, hold_s: float = 0.0) -> None:
    """Raise `Rejected` (BAD_REQUEST) for what cannot be part of a TF frame's name, or a time."""
    if name and (len(name) > MAX_NAME_LETTERS or name.endswith(PREGRASP.lstrip('_'))
                 or not re.fullmatch('[A-Za-z](_?[A-Za-z0-9])*', name)):
        raise Rejected(Code.BAD_REQUEST, f'target_name {name[:60]!r} ({len(name)} letters) becomes '
                       f'part of a TF frame: use at most {MAX_NAME_LETTERS} letters, digits and '
                       f"single underscores, a letter first, and not {PREGRASP!r} at the end")
    if not 0 <= hold_s <= MAX_HOLD_S:
        raise Rejected(Code.BAD_REQUEST, f'hold_s {hold_s:g} is not in 0 to {MAX_HOLD_S:g} s')


def _get_put_target(step: HistoryStep | None) -> GraspTarget | None:
    """Where the answer or a person put the target of a step."""
    return None if step is None or step.result is None else step.result.target


def _has_moved(put: GraspTarget, target: GraspTarget | None) -> bool:
    """Whether a target was followed to another place than where it was put."""
    return target is not None and not np.allclose(
        _list_numbers(target)[:3], _list_numbers(put)[:3], atol=MOVED_M)


def _list_numbers(target: GraspTarget) -> list[float]:
    at, q = target.pose.pose.position, target.pose.pose.orientation
    return [at.x, at.y, at.z, q.x, q.y, q.z, q.w]
