"""The TF tree: where a frame was at a stamp, interpolated, never extrapolated."""
from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crosspoint_ros.core.transform import Transform

log = logging.getLogger(__name__)
LIVE_HISTORY_NS = 10 * 10**9  # as tf2's buffer
MAX_BACKWARD_JUMP_NS = 2 * 10**9  # no network delivers transforms that late out of order


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
    some centimetres off.
    """

    def __init__(self) -> None:
        self._newest_ns: dict[str, int] = {}

    def detect(self, message: Any) -> bool:
        """Return whether a transform of the TFMessage is over two seconds older than before."""
        stamps = [(t.child_frame_id, stamp_to_ns(t.header.stamp)) for t in message.transforms]
        has_jumped = any(self._newest_ns.get(child, 0) - at_ns > MAX_BACKWARD_JUMP_NS
                         for child, at_ns in stamps)
        if has_jumped:
            self._newest_ns.clear()
        for child, at_ns in stamps:
            self._newest_ns[child] = max(at_ns, self._newest_ns.get(child, 0))
        return has_jumped


@dataclass
class FrameHistory:
    """One frame's transforms to its parents, by stamp."""

    static: bool
    history_ns: int | None
    stamps_ns: list[int] = field(default_factory=list)
    links: list[tuple[str, Transform]] = field(default_factory=list)  # parent, parent_from_child

    def add(self, at_ns: int, parent: str, parent_from_child: Transform) -> None:
        if self.static:
            self.stamps_ns, self.links = [at_ns], [(parent, parent_from_child)]
            return
        place = bisect_left(self.stamps_ns, at_ns)
        same = self.stamps_ns[place:place + 1] == [at_ns]
        self.stamps_ns[place:place + same] = [at_ns]
        self.links[place:place + same] = [(parent, parent_from_child)]
        if self.history_ns is not None:
            kept = bisect_left(self.stamps_ns, self.stamps_ns[-1] - self.history_ns)
            del self.stamps_ns[:kept], self.links[:kept]

    def interpolate(self, at_ns: int) -> tuple[str, Transform] | None:
        """Return parent and parent_from_child at a stamp; None where that would extrapolate.

        A new parent holds from its stamp on, the old one until then.
        """
        if self.static:
            return self.links[-1]
        after = bisect_left(self.stamps_ns, at_ns)
        if self.stamps_ns[after:after + 1] == [at_ns]:
            return self.links[after]
        if after in (0, len(self.stamps_ns)):
            return None
        (parent, before), (later_parent, later) = self.links[after - 1:after + 1]
        if parent != later_parent:
            return parent, before
        start_ns, end_ns = self.stamps_ns[after - 1:after + 1]
        return parent, before.interpolate(later, (at_ns - start_ns) / (end_ns - start_ns))


class TfTree:
    """The transforms of /tf and /tf_static.

    history_ns: how much of each frame is kept, counted from its newest transform; a jump back in
    time then clears it. None: all of it, for a recording.
    """

    def __init__(self, history_ns: int | None = LIVE_HISTORY_NS) -> None:
        self._history_ns = history_ns
        self._tracks: dict[str, FrameHistory] = {}
        self._warned_frames: set[str] = set()
        self._lock = threading.Lock()
        self._time_jumps = TimeJumpDetector()

    def add(self, message: Any, static: bool = False) -> None:
        """Add a TFMessage, of ROS or of a bag; an invalid transform is logged once per frame."""
        if not static and self._history_ns is not None and self._time_jumps.detect(message):
            self.clear()
        for stamped in message.transforms:
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
                continue
            with self._lock:
                track = self._tracks.get(child)
                if track is None or track.static != static:
                    track = self._tracks[child] = FrameHistory(static, self._history_ns)
                track.add(stamp_to_ns(stamped.header.stamp), parent, pose)

    def lookup(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """Return base_from_frame at the stamp; None if it is not known: see `explain_failure`."""
        with self._lock:
            above = self._ancestor_transforms(frame, at_ns)
            for ancestor, ancestor_from_base in self._ancestor_transforms(
                    base_frame, at_ns).items():
                if ancestor in above:
                    return ancestor_from_base.inverse @ above[ancestor]
        return None

    def frames(self) -> dict[str, FrameInfo]:
        """Return what is known of each frame that has a parent."""
        with self._lock:
            return {child: FrameInfo(track.links[-1][0], track.stamps_ns[0], track.stamps_ns[-1],
                                     track.static)
                    for child, track in self._tracks.items()}

    def clear(self) -> None:
        """Drop all but the static transforms, as when time jumps."""
        with self._lock:
            self._tracks = {child: track for child, track in self._tracks.items() if track.static}

    def _ancestor_transforms(self, frame: str, at_ns: int) -> dict[str, Transform]:
        """Return ancestor_from_frame for the frame itself and all that is known above it."""
        above = {frame: Transform(np.eye(3), np.zeros(3))}
        ancestor = frame
        while (known := ancestor in self._tracks and self._tracks[ancestor].interpolate(at_ns)):
            parent, parent_from_ancestor = known
            if parent in above:
                return {}  # a loop
            above[parent] = parent_from_ancestor @ above[ancestor]
            ancestor = parent
        return above


def find_root(frames: Mapping[str, FrameInfo], frame: str) -> str:
    """Return the root of a frame's tree. Raises ValueError for a loop."""
    loop = find_loop(frames, frame)
    if loop:
        raise ValueError(loop)
    return _ancestors(frames, frame)[-1]


def find_loop(frames: Mapping[str, FrameInfo], frame: str) -> str:
    """Return the loop above a frame as text; '' if it has a root."""
    chain = _ancestors(frames, frame)
    return f'TF has a loop: {" -> ".join(chain)}' if chain[-1] in chain[:-1] else ''


def explain_failure(frames: Mapping[str, FrameInfo], base_frame: str, frame: str,
                    at_ns: int) -> str:
    """Return why a look-up failed, with the stamps that are known."""
    reason = find_loop(frames, frame) or find_loop(frames, base_frame) or explain_disconnected(
        frames, base_frame, frame)
    if reason:
        return reason
    up, down = _ancestors(frames, frame), _ancestors(frames, base_frame)
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
    up, down = _ancestors(frames, frame), _ancestors(frames, base_frame)
    if up[-1] != down[-1]:
        return (f'they are in two trees: {frame!r} hangs from {up[-1]!r}, {base_frame!r} from '
                f'{down[-1]!r}')
    return ''


def _ancestors(frames: Mapping[str, FrameInfo], frame: str) -> list[str]:
    """The frame and its parents, up to the root or to the frame that closes a loop."""
    chain = [frame]
    while chain[-1] in frames and chain[-1] not in chain[:-1]:
        chain.append(frames[chain[-1]].parent)
    return chain
