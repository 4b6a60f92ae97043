"""Frames that two senders place differently, such as a URDF's joint and a calibration."""
from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np

from crosspoint_ros.core.camera import Array
from crosspoint_ros.core.transform import Transform

LIVE_HISTORY_NS = 10 * 10**9  # as tf2's buffer
# Two placements that differ by less, m and rad, are one: by rounding; by the noise of a tracker or
# the steps of an encoder.
STATIC_TOLERANCE, MOVING_TOLERANCE = (0.001, math.radians(0.1)), (0.005, math.radians(0.5))
MIN_RETURNS = 8  # an outlier is not a second sender
MAX_JUMPS = 4  # between two returns, which have one before and one after; noise has more
MAX_STATIC_LINKS = 8  # kept of one frame


@dataclass(frozen=True, eq=False)
class TfLink:
    """One transform as it was sent."""

    topic: str
    parent: str
    parent_from_child: Transform
    stamp_ns: int

    def interpolate(self, later: TfLink, at_ns: int) -> TfLink:
        """Return the link at a stamp between them; before another parent the earlier one holds."""
        if self.parent != later.parent:
            return self
        ratio = (at_ns - self.stamp_ns) / (later.stamp_ns - self.stamp_ns)
        return replace(self, stamp_ns=at_ns, parent_from_child=self.parent_from_child.interpolate(
            later.parent_from_child, ratio))

    def is_same(self, other: TfLink, tolerance: tuple[float, float]) -> bool:
        """Whether parent and placement are the same."""
        return self.parent == other.parent and is_same(
            self.parent_from_child, other.parent_from_child, tolerance)

    def offset(self, other: TfLink) -> Array | None:
        """Return translation and rotation vector (6,) to the other; None: it has another parent."""
        if self.parent != other.parent:
            return None
        gap = self.parent_from_child.inverse @ other.parent_from_child
        return np.concatenate([gap.t_m, cv2.Rodrigues(gap.R)[0][:, 0]])


def is_same(a: Transform, b: Transform, tolerance: tuple[float, float]) -> bool:
    """Whether two transforms differ by less than m and rad."""
    shift_m = a.t_m - b.t_m
    # trace(Ra^T Rb) = 1 + 2 cos(angle), and 2 (1 - cos(angle)) = angle^2 for small ones
    return bool(shift_m @ shift_m <= tolerance[0] ** 2
                and 3 - np.vdot(a.R, b.R) <= tolerance[1] ** 2)


@dataclass(frozen=True)
class TfConflict:
    """A frame that two senders place differently."""

    child: str
    parents: tuple[str, str]
    topics: tuple[str, str]
    gap_m: float  # between the two origins of the frame; NaN: the parents are not connected
    gap_deg: float

    @classmethod
    def from_links(cls, child: str, first: TfLink, second: TfLink, gap: Transform | None
                   ) -> TfConflict:
        """Build it from two placements and the transform between them, if that is known."""
        gap_m, gap_deg = (math.nan, math.nan) if gap is None else (
            float(np.linalg.norm(gap.t_m)),
            math.degrees(float(np.linalg.norm(cv2.Rodrigues(gap.R)[0]))))
        return cls(child, (first.parent, second.parent), (first.topic, second.topic), gap_m,
                   gap_deg)

    def __str__(self) -> str:
        apart = ('how far apart is unknown' if math.isnan(self.gap_m) else
                 f'{self.gap_m:.3f} m and {self.gap_deg:.1f} deg apart')
        first, second = (f'below {parent!r} on {topic}' for parent, topic in
                         zip(self.parents, self.topics, strict=True))
        return f'{self.child!r} is sent with two placements, {apart}: {first}, and {second}'


@dataclass
class Alternation:
    """How often one frame's placement on /tf went away and came back by the same offset."""

    offset: Array | None = None  # None: to another parent
    returns: int = 0
    jumps: int = 0  # since the last return, not of its kind
    counted_ns: int = 0
    newest: TfLink | None = None
    links: tuple[TfLink, TfLink] | None = None  # with MIN_RETURNS of them
    first_ns: int = 0
    newest_ns: int = 0

    def count(self, on_line: TfLink, odd: TfLink) -> None:
        """Count one return, of the placement on the line to the one that is off it."""
        offset, at_ns = on_line.offset(odd), odd.stamp_ns
        if not (_is_same_offset(offset, self.offset) and self.jumps <= MAX_JUMPS
                and abs(at_ns - self.counted_ns) <= LIVE_HISTORY_NS):
            self.returns = 0
        self.returns, self.offset, self.counted_ns = self.returns + 1, offset, at_ns
        self.jumps = 0
        if self.returns >= MIN_RETURNS:
            self.first_ns = min(self.first_ns, at_ns) if self.links else at_ns
            self.links, self.newest_ns = (on_line, odd), max(self.newest_ns, at_ns)

    def is_known_at(self, at_ns: int) -> bool:
        """Whether two senders were active within ten seconds of a stamp."""
        return self.links is not None and (
            self.first_ns - LIVE_HISTORY_NS <= at_ns <= self.newest_ns + LIVE_HISTORY_NS)


class ConflictDetector:
    """Detects frames that two senders place differently.

    On /tf_static two values are enough, as each sender may send once, and so is a value on one
    topic that contradicts the other topic. On /tf, where frames move, the placements of two
    senders alternate: a transform is off the line between its neighbours, which continue each
    other, again and again by the same offset.
    """

    def __init__(self) -> None:
        self._static: dict[str, list[TfLink]] = {}  # different ones
        self._mixed: dict[str, TfLink] = {}  # on /tf, of a frame that is static too
        self._moving: dict[str, Alternation] = {}

    def add_static(self, child: str, link: TfLink) -> None:
        """Add a transform of /tf_static."""
        known = self._static.get(child, ())
        self._static[child] = [*(old for old in known if not old.is_same(link, STATIC_TOLERANCE)),
                               link][-MAX_STATIC_LINKS:]
        moving = self._moving.get(child)
        if moving and moving.newest and not moving.newest.is_same(link, STATIC_TOLERANCE):
            self._mixed[child] = moving.newest

    def add_moving(self, child: str, stamps_ns: Sequence[int], links: Sequence[TfLink],
                   link: TfLink, replaced: TfLink | None) -> None:
        """Add a transform of /tf: to its frame's links, by stamp, or in place of one of them."""
        if not all(old.is_same(link, STATIC_TOLERANCE) for old in self._static.get(child, ())):
            self._mixed[child] = link
        frame = self._moving.setdefault(child, Alternation())
        frame.newest = link
        if replaced is not None:
            self.compare(child, replaced, link)
            return
        middle = min(bisect_left(stamps_ns, link.stamp_ns), len(links) - 2)
        if middle < 1:
            return
        before, odd, after = links[middle - 1:middle + 2]
        if odd.is_same(before, MOVING_TOLERANCE) or odd.is_same(after, MOVING_TOLERANCE):
            return
        line, gap = before.interpolate(after, odd.stamp_ns), before.offset(after)
        if gap is None or odd.is_same(line, MOVING_TOLERANCE):
            return
        step = line.offset(odd)
        if step is None:  # the parent changed and came back
            frame.count(line, odd)
            return
        limit = float(np.linalg.norm(step)) / 4
        is_alone = middle > 1 and all(
            off is not None and np.linalg.norm(off) <= limit
            for off in (gap, links[middle - 2].offset(before)))
        # From the links: those of a slow sender come between those that are here already.
        alternates = middle > 2 and all(
            off is not None and np.linalg.norm(step + sign * off) <= limit
            for off, sign in ((_step_off_line(links[middle - 2:middle + 1]), 1),
                              (_step_off_line(links[middle - 3:middle]), -1)))
        if is_alone or alternates:
            frame.count(line, odd)
        elif frame.offset is not None and np.linalg.norm(frame.offset) <= 8 * limit:
            frame.jumps += 1

    def compare(self, child: str, known: TfLink, link: TfLink) -> None:
        """Count a transform that differs from what is known of its stamp."""
        if not known.is_same(link, MOVING_TOLERANCE):
            self._moving.setdefault(child, Alternation()).count(known, link)

    def clear(self) -> None:
        """Forget what moved."""
        self._moving.clear()

    def forget(self, child: str) -> None:
        """Forget a frame that ended."""
        for known in (self._static, self._mixed, self._moving):
            known.pop(child, None)

    def list_pairs(self, child: str, at_ns: int | None) -> list[tuple[TfLink, TfLink]]:
        """Return the links that may contradict each other at a stamp; None: at any."""
        static, mixed = self._static.get(child, []), self._mixed.get(child)
        pairs = [*combinations(static, 2)] + [(old, mixed) for old in static if mixed]
        moving = self._moving.get(child)
        if moving and moving.links and (at_ns is None or moving.is_known_at(at_ns)):
            pairs.append(moving.links)
        return pairs


def _step_off_line(links: Sequence[TfLink]) -> Array | None:
    """Return the offset (6,) of the second of three links from the line between the others."""
    before, odd, after = links
    return before.interpolate(after, odd.stamp_ns).offset(odd)


def _is_same_offset(a: Array | None, b: Array | None) -> bool:
    """Whether two offsets are one, to a quarter of their size, there or back."""
    if a is None or b is None:
        return a is b
    return bool(min(np.linalg.norm(a - b), np.linalg.norm(a + b)) <= np.linalg.norm(a) / 4)
