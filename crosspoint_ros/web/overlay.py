"""Marks that stay on the point they mark when their camera moves, and the answer in 3D."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform
from crosspoint_ros.msg import Correspondence, ImagePoint, QueryResult
from crosspoint_ros.ros.client.node_info import KnownCamera
from crosspoint_ros.ros.conversions import stamp_ns
from crosspoint_ros.web.camera_poses import Vantages, corners_base, pixel_of
from crosspoint_ros.web.image_streams import Picture
from crosspoint_ros.web.protocol import VERDICTS, Json

MOVED_PX = 1.0
MOVED_M, MOVED_RAD = 1e-3, 1e-3  # where there is no 3D point to measure it at
OPEN_RAY_M = 2.0  # how far a ray is drawn that meets no target


@dataclass(frozen=True, eq=False)
class Anchor:
    """A mark of the answer: its pixel, and the pose of its camera at that image."""

    kind: str
    pixel: Array
    frame: str
    stamp_ns: int
    base_from_cam: Transform | None  # None: not known yet, or not any more


class Anchors:
    """What the answer on the screens looks like from where the cameras are now."""

    def __init__(self, vantages: Vantages, source: Callable[[str], KnownCamera | None]) -> None:
        """`source` returns the camera of a name, as it is subscribed to."""
        self._vantages, self._source = vantages, source
        self._anchors: dict[str, Anchor] = {}
        self._target: Array | None = None
        self._approach: Array | None = None
        self.base_frame = ''

    def hold(self, result: QueryResult | None) -> None:
        """Take the answer that is shown; None: there is none."""
        self._anchors, self._target = {}, None
        if result is None:
            return
        if result.has_target:
            at, q = result.target.pose.pose.position, result.target.pose.pose.orientation
            self._target = np.array([at.x, at.y, at.z])
            # The third column of the rotation: +z points into the surface.
            self._approach = np.array([2 * (q.x * q.z + q.w * q.y), 2 * (q.y * q.z - q.w * q.x),
                                       1 - 2 * (q.x * q.x + q.y * q.y)])
        self._add('clicked', result.clicked)
        for answer in result.correspondences:
            if answer.verdict != Correspondence.REFUSED:
                self._add(VERDICTS[answer.verdict], answer.found)

    def _add(self, kind: str, point: ImagePoint) -> None:
        if np.isfinite([point.x, point.y]).all():
            self._anchors[point.camera] = self._posed(Anchor(
                kind, np.array([point.x, point.y]), point.header.frame_id,
                stamp_ns(point.header.stamp), None))

    def _posed(self, anchor: Anchor) -> Anchor:
        pose = self._vantages.where(self.base_frame, anchor.frame, anchor.stamp_ns)
        return replace(anchor, base_from_cam=pose)

    def complete(self) -> None:
        """Look again for the poses that were not known when the answer came."""
        for name, anchor in self._anchors.items():
            if anchor.base_from_cam is None:
                self._anchors[name] = self._posed(anchor)

    def now(self, picture: Picture) -> Json:
        """Where the mark of the answer belongs on a picture, if the camera has moved since."""
        anchor, camera = self._anchors.get(picture.camera), self._source(picture.camera)
        if anchor is None or camera is None:
            return {}
        pose = self._vantages.where(self.base_frame, picture.frame_id, int(picture.stamp))
        lens, before = self._vantages.lens(camera), anchor.base_from_cam
        if pose is None or lens is None or before is None:
            return {'moved': True, 'mark': None}
        if self._target is None:
            return {'moved': _has_moved(before, pose), 'mark': None}
        return self._carried(anchor.pixel, before, pose, lens)

    def _carried(self, pixel: Array, before: Transform, after: Transform,
                 lens: Intrinsics) -> Json:
        assert self._target is not None
        was, seen = (pixel_of(self._target, pose, lens) for pose in (before, after))
        if was is None or seen is None:
            return {'moved': True, 'mark': None}
        moved = bool(np.linalg.norm(seen - was) > MOVED_PX)
        x, y = pixel + seen - was
        return {'moved': moved, 'mark': [round(float(x), 2), round(float(y), 2)]}

    def scene(self, newest: dict[str, Picture]) -> Json:
        """Cameras as they stand now, the answer's rays and its target, in the base frame."""
        rays = [self._ray(name, anchor) for name, anchor in self._anchors.items()]
        target = None if self._target is None or self._approach is None else {
            'position': _list(self._target), 'approach': _list(self._approach)}
        cameras = [self._camera(name, picture) for name, picture in sorted(newest.items())]
        return {'frame': self.base_frame, 'cameras': [c for c in cameras if c],
                'rays': [ray for ray in rays if ray], 'target': target}

    def _camera(self, name: str, picture: Picture) -> Json | None:
        camera = self._source(name)
        pose = self._vantages.where(self.base_frame, picture.frame_id, int(picture.stamp))
        if camera is None or pose is None:
            return None
        lens = self._vantages.lens(camera)
        corners = [] if lens is None else [_list(ray) for ray in corners_base(pose, lens)]
        return {'name': name, 'position': _list(pose.t_m), 'corners': corners}

    def _ray(self, name: str, anchor: Anchor) -> Json | None:
        pose, end, camera = anchor.base_from_cam, self._target, self._source(name)
        if pose is None:
            return None
        if end is None:
            lens = None if camera is None else self._vantages.lens(camera)
            if lens is None:
                return None
            end = pose.t_m + OPEN_RAY_M * pose.direction(lens.unproject(anchor.pixel))
        if not np.isfinite(end).all():  # the lens bends no ray to that pixel
            return None
        return {'kind': anchor.kind, 'from': _list(pose.t_m), 'to': _list(end)}


def _has_moved(before: Transform, after: Transform) -> bool:
    turned = float(np.arccos(np.clip((np.trace(before.R.T @ after.R) - 1) / 2, -1.0, 1.0)))
    return turned > MOVED_RAD or float(np.linalg.norm(after.t_m - before.t_m)) > MOVED_M


def _list(vector: Array) -> list[float]:
    return [round(float(v), 3) for v in vector]
