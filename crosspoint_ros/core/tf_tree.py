"""TF of a recording: where a frame was at any stamp, interpolated, never extrapolated."""
from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.data.rosbag import header_stamp_ns
from crosspoint_ros.data.scenes.rgbd_scene import Say, UnusableData, pose_from_quaternion


class TfTrack:
    """The transforms of /tf and /tf_static, all of them."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._static: dict[str, tuple[str, Transform]] = {}
        self._moving: dict[str, list[tuple[int, str, Transform]]] = {}
        self._told: set[str] = set()

    def add(self, message: Any, static: bool) -> None:
        """Take a TFMessage; a transform that is none is said once a frame, and left out."""
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id.lstrip('/'), stamped.child_frame_id.lstrip('/')
            t, q = stamped.transform.translation, stamped.transform.rotation
            try:
                pose = pose_from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w),
                                            f'TF {parent!r} -> {child!r}')
            except UnusableData as problem:
                if child not in self._told:
                    self._say(str(problem))
                self._told.add(child)
                continue
            if static:
                self._static[child] = (parent, pose)
            else:
                self._moving.setdefault(child, []).append((header_stamp_ns(stamped), parent, pose))

    def sort(self) -> None:
        """Bring what came in any order into that of the stamps; call it when all is there."""
        for track in self._moving.values():
            track.sort(key=lambda each: each[0])

    def root(self, frame: str) -> str:
        """The last frame that this one hangs from."""
        seen = {frame}
        while True:
            if frame in self._static:
                frame = self._static[frame][0]
            elif frame in self._moving:
                frame = self._moving[frame][0][1]
            else:
                return frame
            if frame in seen:
                raise UnusableData(f'TF has a loop at {frame!r}')
            seen.add(frame)

    def find(self, base: str, frame: str, at_ns: int) -> Transform:
        """Return base_from_frame at the stamp. Raises `Unusable`."""
        up, down = self._above(frame, at_ns), self._above(base, at_ns)
        for ancestor, ancestor_from_base in down.items():
            if ancestor in up:
                return ancestor_from_base.inverse @ up[ancestor]
        raise UnusableData(f'TF does not join {frame!r} (up to {list(up)[-1]!r}) to {base!r} at '
                           f'{at_ns / 1e9:.3f} s')

    def _above(self, frame: str, at_ns: int) -> dict[str, Transform]:
        above = {frame: Transform(np.eye(3), np.zeros(3))}
        while (known := self._parent(frame, at_ns)) is not None and known[0] not in above:
            above[known[0]] = known[1] @ above[frame]
            frame = known[0]
        return above

    def _parent(self, child: str, at_ns: int) -> tuple[str, Transform] | None:
        if child in self._static:
            return self._static[child]
        track = self._moving.get(child, [])
        after = bisect_left(track, at_ns, key=lambda each: each[0]) if track else 0
        if after < len(track) and track[after][0] == at_ns:
            return track[after][1:]
        if not 0 < after < len(track) or track[after][1] != track[after - 1][1]:
            return None
        (start_ns, parent, a), (end_ns, _, b) = track[after - 1], track[after]
        ratio = (at_ns - start_ns) / (end_ns - start_ns)
        return parent, a.interpolate(b, ratio)
