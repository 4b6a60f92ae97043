"""The TF tree: where a frame was at a stamp, interpolated, never extrapolated."""
from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crosspoint_ros.core.tf_conflict import (
    LIVE_HISTORY_NS,
    STATIC_TOLERANCE,
    ConflictDetector,
    TfConflict,
    TfLink,
    is_same,
)
from crosspoint_ros.core.transform import Transform
from crosspoint_ros.core.verify import Limits

log = logging.getLogger(__name__)
DEAD_S = 600.0  # other nodes have a new frame for each target
MAX_STAMP_JUMP_NS = 2 * 10**9  # no network delivers transforms that late out of order
IDENTITY = Transform(np.eye(3), np.zeros(3))
# Where two placements are compared, in the frame that is looked up: a camera, and what it sees.
COMPARED_POINTS_M = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.0, 0.5, 1.0]])


def stamp_to_ns(stamp: Any) -> int:
    """Return a builtin_interfaces/Time, of ROS or of a bag, in nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def nearest_stamp_index(sorted_stamps_ns: Sequence[float], stamp_ns: float) -> int:
    """Return the index of the nearest stamp, the earlier of two; ValueError if there is none."""
    after = bisect_left(sorted_stamps_ns, stamp_ns)
    around = range(max(after - 1, 0), min(after + 1, len(sorted_stamps_ns)))
    return min(around, key=lambda index: abs(sorted_stamps_ns[index] - stamp_ns))


@dataclass(frozen=True)
class FrameInfo:
    """A frame's newest parent, and between which stamps the frame is known (static: always)."""

    parent: str
    oldest_ns: int = 0
    newest_ns: int = 0
    static: bool = False


class TimeJumpDetector:
    """Detects stamps that go back: a bag in a loop, or a simulation that was reset.

    The clock's own jump is not enough: its message overtakes the last transforms of the time
    before, and between such a leftover and the first new one every stamp would be interpolated,
    some centimetres off. A transform that is two seconds from all that was sent, and from the time
    that has passed since, is held back until the next one of its frame agrees with it; if that one
    does not, its stamp was wrong.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s, self._received_s = now_s, now_s()
        self._pause_ns = 0.0  # before the message that is filtered
        self._newest_ns: dict[str, int] = {}
        self._suspects: dict[str, Any] = {}

    def filter(self, transforms: Sequence[Any]) -> tuple[bool, list[Any], list[Any]]:
        """Return whether time jumped back, which transforms are valid, and which had wrong stamps.

        A transform that is held back is in one of the two lists of a later message.
        """
        has_jumped, kept, dropped = False, [], []
        received_s = self._now_s()
        self._pause_ns, self._received_s = 1e9 * (received_s - self._received_s), received_s
        for stamped in transforms:
            child, at_ns = stamped.child_frame_id, stamp_to_ns(stamped.header.stamp)
            suspect = self._suspects.pop(child, None)
            if not self._is_expected(child, at_ns):
                is_behind = self._is_behind(child, at_ns)
                suspect_ns = stamp_to_ns(suspect.header.stamp) if suspect else math.inf
                if (at_ns < suspect_ns - MAX_STAMP_JUMP_NS
                        or is_behind != self._is_behind(child, suspect_ns)):
                    dropped += [suspect] * (suspect is not None)
                    self._suspects[child] = stamped
                    continue
                if is_behind:
                    has_jumped = True
                    self._newest_ns.clear()
                kept.append(suspect)
            elif suspect is not None:
                dropped.append(suspect)
            kept.append(stamped)
            self._newest_ns[child] = max(at_ns, self._newest_ns.get(child, at_ns))
        return has_jumped, kept, dropped

    def forget(self, child: str) -> None:
        """Forget a frame."""
        self._newest_ns.pop(child, None)
        self._suspects.pop(child, None)

    def _is_behind(self, child: str, at_ns: float) -> bool:
        return self._newest_ns.get(child, -math.inf) - at_ns > MAX_STAMP_JUMP_NS

    def _is_expected(self, child: str, at_ns: int) -> bool:
        """Whether a stamp goes on from its frame's newest, or has reached another frame's."""
        newest_ns = self._newest_ns.get(child)
        if newest_ns is not None and at_ns - newest_ns <= MAX_STAMP_JUMP_NS:
            return newest_ns - at_ns <= MAX_STAMP_JUMP_NS
        return not self._newest_ns or any(
            -MAX_STAMP_JUMP_NS <= at_ns - known_ns <= MAX_STAMP_JUMP_NS + self._pause_ns
            for known_ns in self._newest_ns.values())


@dataclass
class FrameHistory:
    """One frame's transforms to its parents, by stamp."""

    static: bool
    history_ns: int | None
    stamps_ns: list[int] = field(default_factory=list)
    links: list[TfLink] = field(default_factory=list)
    added_s: float = 0.0  # when the last one was (monotonic)

    def add(self, link: TfLink) -> TfLink | None:
        """Add it; return the one of the same stamp that it replaces."""
        self.added_s = time.monotonic()
        if self.static:
            self.stamps_ns, self.links = [link.stamp_ns], [link]
            return None
        place = bisect_left(self.stamps_ns, link.stamp_ns)
        replaced = self.links[place:place + 1] if self.stamps_ns[place:place + 1] == [
            link.stamp_ns] else []
        self.stamps_ns[place:place + len(replaced)] = [link.stamp_ns]
        self.links[place:place + len(replaced)] = [link]
        if self.history_ns is not None:
            kept = bisect_left(self.stamps_ns, self.stamps_ns[-1] - self.history_ns)
            del self.stamps_ns[:kept], self.links[:kept]
        return replaced[0] if replaced else None

    def interpolate(self, at_ns: int) -> TfLink | None:
        """Return the transform at a stamp; None where that would extrapolate.

        A new parent holds from its stamp on, the old one until then.
        """
        if self.static:
            return self.links[-1]
        after = bisect_left(self.stamps_ns, at_ns)
        if self.stamps_ns[after:after + 1] == [at_ns]:
            return self.links[after]
        if after in (0, len(self.stamps_ns)):
            return None
        return self.links[after - 1].interpolate(self.links[after], at_ns)


class TfTree:
    """The transforms of /tf and /tf_static.

    history_ns: how much of each frame is kept, counted from its newest transform; a jump back in
    time then clears it. None: all of it, for a recording. max_gap_m: two placements of one frame
    that move the point looked at by more are refused.
    """

    def __init__(self, history_ns: int | None = LIVE_HISTORY_NS,
                 max_gap_m: float = Limits.max_target_sigma_m) -> None:
        self.max_gap_m = max_gap_m
        self.jumped_s = -math.inf  # when time last jumped back (monotonic)
        self._history_ns = history_ns
        self._tracks: dict[str, FrameHistory] = {}
        self._warned_frames: set[str] = set()
        self._warned_conflicts: set[str] = set()
        self._lock = threading.RLock()
        self._time_jumps, self._detector = TimeJumpDetector(), ConflictDetector()

    def add(self, message: Any, static: bool = False) -> list[Any]:
        """Add a TFMessage, of ROS or of a bag; return the transforms that are used.

        An invalid transform, and a frame that two senders place differently, are logged once.
        """
        transforms: list[Any] = message.transforms
        dropped: list[Any] = []
        with self._lock:
            if not static and self._history_ns is not None:
                has_jumped, transforms, dropped = self._time_jumps.filter(transforms)
                if has_jumped:
                    self.jumped_s = time.monotonic()
                    self.clear()
            used = [stamped for stamped in transforms if self._add(stamped, static)]
            for stamped in dropped:
                self._compare_dropped(stamped)
            return used

    def _add(self, stamped: Any, static: bool) -> bool:
        parsed = self._parse(stamped, static)
        if parsed is None:
            return False
        child, link = parsed
        track = self._tracks.get(child)
        if track is None or track.static != static:
            self._forget_dead()
            track = self._tracks[child] = FrameHistory(static, self._history_ns)
        replaced = track.add(link)
        if static:
            self._detector.add_static(child, link)
        else:
            self._detector.add_moving(child, track.stamps_ns, track.links, link, replaced)
        if child not in self._warned_conflicts:
            self._find_conflict(child, link.stamp_ns)  # logs it
        return True

    def _forget_dead(self) -> None:
        """Forget, in a live tree, what ended ten minutes before the newest transform came."""
        moving = {child: track.added_s for child, track in self._tracks.items()
                  if not track.static and self._history_ns is not None}
        newest_s = max(moving.values(), default=0.0)
        for child in [child for child, added_s in moving.items() if newest_s - added_s > DEAD_S]:
            del self._tracks[child]
            self._time_jumps.forget(child)
            self._detector.forget(child)

    def _compare_dropped(self, stamped: Any) -> None:
        """Compare a transform of another time: a second sender may have another clock."""
        parsed = self._parse(stamped, static=False)
        track = self._tracks.get(parsed[0]) if parsed else None
        if parsed and track:
            child, link = parsed
            known = track.interpolate(link.stamp_ns) or track.links[-1]
            self._detector.compare(child, known, replace(link, stamp_ns=known.stamp_ns))

    def _parse(self, stamped: Any, static: bool) -> tuple[str, TfLink] | None:
        """Return the child and its link; None, logged once a frame, if it is invalid."""
        parent, child = (name.lstrip('/')
                         for name in (stamped.header.frame_id, stamped.child_frame_id))
        t, q = stamped.transform.translation, stamped.transform.rotation
        try:
            if not parent or not child or parent == child:
                raise ValueError('parent and child must be two named frames')
            pose = Transform.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))
        except ValueError as error:
            if child not in self._warned_frames:
                self._warned_frames.add(child)
                log.warning('transform from %r to %r ignored: %s', child, parent, error)
            return None
        return child, TfLink('/tf_static' if static else '/tf', parent, pose,
                             stamp_to_ns(stamped.header.stamp))

    def lookup(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """Return base_from_frame at the stamp.

        None if it is not known (see `explain_failure`), or if two senders place one of the frames
        between them differently (see `explain_conflict`).
        """
        with self._lock:
            up, down = (self._ancestor_transforms(name, at_ns) for name in (frame, base_frame))
            base_from_frame = _join_at_ancestor(up, down)
            has_conflict = self._explain_conflict(frame, at_ns, up, down, base_from_frame)
            return None if has_conflict else base_from_frame

    def explain_conflict(self, base_frame: str, frame: str, at_ns: int) -> str:
        """Return why the senders' contradiction forbids this look-up, and the cure; '' if not."""
        with self._lock:
            up, down = (self._ancestor_transforms(name, at_ns) for name in (frame, base_frame))
            return self._explain_conflict(frame, at_ns, up, down, _join_at_ancestor(up, down))

    def _explain_conflict(self, frame: str, at_ns: int, up: Mapping[str, Transform],
                          down: Mapping[str, Transform], base_from_frame: Transform | None) -> str:
        """See `explain_conflict`; up, down: the ancestors of frame and base."""
        if base_from_frame is None:
            return ''
        for child in up.keys() ^ down.keys():
            if not self._detector.list_pairs(child, at_ns):
                continue
            child_from_frame = up[child] if child in up else down[child] @ base_from_frame
            conflict, moved_m = self._find_conflict(child, at_ns, child_from_frame)
            if conflict is not None and not moved_m <= self.max_gap_m:
                moved = f'{moved_m:.3f} m' if moved_m < math.inf else 'an unknown distance'
                return (f'{conflict}. That moves {frame!r}, or a point seen at 1 m, by {moved} '
                        f'(limit {self.max_gap_m:g}, limits.max_target_sigma_m): stop one of '
                        "the senders, such as the URDF's joint or the calibration; then, or if "
                        'the value was replaced on purpose, clean up and configure the node')
        return ''

    def conflicts(self) -> dict[str, TfConflict]:
        """Return the frames that two senders place differently, in a live tree at present."""
        with self._lock:
            at_ns = None if self._history_ns is None else max(
                (track.stamps_ns[-1] for track in self._tracks.values()), default=0)
            return {child: conflict for child in sorted(self._tracks)
                    if (conflict := self._find_conflict(child, at_ns)[0])}

    def _find_conflict(self, child: str, at_ns: int | None,
                       child_from_frame: Transform | None = None
                       ) -> tuple[TfConflict | None, float]:
        """Return the worst contradiction of a frame, logged once, and how far it moves points."""
        points = COMPARED_POINTS_M if child_from_frame is None else (
            child_from_frame.transform_points(COMPARED_POINTS_M))
        worst, worst_m = None, 0.0
        for first, second in self._detector.list_pairs(child, at_ns):
            gap = self._find_gap(first, second, at_ns)
            if gap is not None and is_same(gap, IDENTITY, STATIC_TOLERANCE):
                continue
            moved_m = math.inf if gap is None else float(np.linalg.norm(
                gap.transform_points(points) - points, axis=1).max())
            if moved_m > worst_m:
                worst, worst_m = TfConflict.from_links(child, first, second, gap), moved_m
        if worst and not math.isnan(worst.gap_m) and child not in self._warned_conflicts:
            self._warned_conflicts.add(child)
            log.warning('%s', worst)
        return worst, worst_m

    def _find_gap(self, first: TfLink, second: TfLink, at_ns: int | None) -> Transform | None:
        """Return child_from_child of two placements; None if their parents are not connected."""
        first_from_second: Transform | None = IDENTITY
        if first.parent != second.parent:
            moving_ns = [link.stamp_ns for link in (first, second) if link.topic == '/tf']
            of_ns = max(moving_ns, default=at_ns or 0)
            first_from_second = _join_at_ancestor(*(
                self._ancestor_transforms(link.parent, of_ns) for link in (second, first)))
        return None if first_from_second is None else (
            first.parent_from_child.inverse @ first_from_second @ second.parent_from_child)

    def is_known(self, frame: str) -> bool:
        """Whether the frame was sent, as a child or a parent."""
        with self._lock:
            return frame in self._tracks or any(
                track.links[-1].parent == frame for track in self._tracks.values())

    def frames(self) -> dict[str, FrameInfo]:
        """Return what is known of each frame that has a parent."""
        with self._lock:
            return {child: FrameInfo(track.links[-1].parent, track.stamps_ns[0],
                                     track.stamps_ns[-1], track.static)
                    for child, track in self._tracks.items()}

    def clear(self) -> None:
        """Drop all but the static transforms, as when time jumps."""
        with self._lock:
            self._tracks = {child: track for child, track in self._tracks.items() if track.static}
            self._detector.clear()

    def _ancestor_transforms(self, frame: str, at_ns: int) -> dict[str, Transform]:
        """Return ancestor_from_frame for the frame itself and all that is known above it.

        Empty for a frame that was never sent, and for a loop.
        """
        if not self.is_known(frame):
            return {}
        above = {frame: IDENTITY}
        ancestor = frame
        while (known := ancestor in self._tracks and self._tracks[ancestor].interpolate(at_ns)):
            if known.parent in above:
                return {}
            above[known.parent] = known.parent_from_child @ above[ancestor]
            ancestor = known.parent
        return above


def _join_at_ancestor(up: Mapping[str, Transform], down: Mapping[str, Transform]
                      ) -> Transform | None:
    """Return base_from_frame of the ancestors of frame and base; None if they share none."""
    return next((ancestor_from_base.inverse @ up[ancestor]
                 for ancestor, ancestor_from_base in down.items() if ancestor in up), None)


def find_root(frames: Mapping[str, FrameInfo], frame: str) -> str:
    """Return the root of a frame's tree. Raises ValueError for a loop."""
    loop = find_loop(frames, frame)
    if loop:
        raise ValueError(loop)
    return list_ancestors(frames, frame)[-1]


def find_loop(frames: Mapping[str, FrameInfo], frame: str) -> str:
    """Return the loop above a frame as text; '' if it has a root."""
    chain = list_ancestors(frames, frame)
    return f'TF has a loop: {" -> ".join(chain)}' if chain[-1] in chain[:-1] else ''


def explain_failure(frames: Mapping[str, FrameInfo], base_frame: str, frame: str,
                    at_ns: int) -> str:
    """Return why a look-up failed, with the stamps that are known."""
    reason = find_loop(frames, frame) or find_loop(frames, base_frame) or explain_disconnected(
        frames, base_frame, frame)
    if reason:
        return reason
    up, down = list_ancestors(frames, frame), list_ancestors(frames, base_frame)
    for child in (name for name in up + down if not (name in up and name in down)):
        link = frames[child]
        if not link.static and not link.oldest_ns <= at_ns <= link.newest_ns:
            return (f'{link.parent!r} -> {child!r} is known only from {link.oldest_ns / 1e9:.6f} '
                    f'to {link.newest_ns / 1e9:.6f} s')
    return 'a frame had another parent then'


def explain_disconnected(frames: Mapping[str, FrameInfo], base_frame: str, frame: str) -> str:
    """Return why two frames of a tree without loops are never connected; '' if they are."""
    known = {*frames, *(link.parent for link in frames.values())}
    if not known:
        return 'nothing has come on /tf or /tf_static'
    for name in (base_frame, frame):
        if name not in known:
            return f'frame {name!r} is unknown; known: {", ".join(sorted(known))}'
    up, down = list_ancestors(frames, frame), list_ancestors(frames, base_frame)
    if up[-1] != down[-1]:
        return (f'they are in two trees: {frame!r} hangs from {up[-1]!r}, {base_frame!r} from '
                f'{down[-1]!r}')
    return ''


def list_ancestors(frames: Mapping[str, FrameInfo], frame: str) -> list[str]:
    """Return the frame and its parents, up to the root or to the frame that closes a loop."""
    chain = [frame]
    while chain[-1] in frames and chain[-1] not in chain[:-1]:
        chain.append(frames[chain[-1]].parent)
    return chain
