"""Marks that stay on the point they mark when their camera moves, and the answer in 3D."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform
from crosspoint_ros.msg import Correspondence, ImagePoint, QueryResult
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import VERDICTS, Json
from crosspoint_ros.ros.conversions import stamp_to_ns
from crosspoint_ros.web.camera_poses import CameraPoses, project_point, unproject_corners
from crosspoint_ros.web.image_streams import CameraImage

MOVED_PX = 1.0
MOVED_M, MOVED_RAD = 1e-3, 1e-3  # where there is no 3D point to measure it at
FREE_RAY_M = 2.0  # how far a ray is drawn that meets no target


@dataclass(frozen=True, eq=False)
class TrackedMark:
    """A mark of the answer: its pixel, and the pose of its camera at that image."""

    kind: str
    pixel: Array
    frame_id: str
    stamp_ns: int
    base_from_cam: Transform | None  # None: not known yet, or not any more


class Overlay:
    """What the answer on the screens looks like from where the cameras are now."""

    def __init__(self, poses: CameraPoses, find_camera: Callable[[str], NodeCamera | None]) -> None:
        """`source` returns the camera of a name, as it is subscribed to."""
        self._poses, self._find_camera = poses, find_camera
        self._marks: dict[str, TrackedMark] = {}
        self._target: Array | None = None
        self._approach: Array | None = None
        self.base_frame = ''

    def set_result(self, result: QueryResult | None) -> None:
        """Take the answer that is shown; None: there is none."""
        self._marks, self._target = {}, None
        if result is None:
            return
        if result.has_target:
            at, q = result.target.pose.pose.position, result.target.pose.pose.orientation
            self._target = np.array([at.x, at.y, at.z])
            # The third column of the rotation: +z points into the surface.
            self._approach = np.array([2 * (q.x * q.z + q.w * q.y), 2 * (q.y * q.z - q.w * q.x),
                                       1 - 2 * (q.x * q.x + q.y * q.y)])
        self._add_mark('clicked', result.clicked)
        for answer in result.correspondences:
            if answer.verdict != Correspondence.REFUSED:
                self._add_mark(VERDICTS[answer.verdict], answer.found)

    def _add_mark(self, kind: str, point: ImagePoint) -> None:
        if np.isfinite([point.x, point.y]).all():
            self._marks[point.camera] = self._with_pose(TrackedMark(
                kind, np.array([point.x, point.y]), point.header.frame_id,
                stamp_to_ns(point.header.stamp), None))

    def _with_pose(self, mark: TrackedMark) -> TrackedMark:
        pose = self._poses.lookup(self.base_frame, mark.frame_id, mark.stamp_ns)
        return replace(mark, base_from_cam=pose)

    def resolve_poses(self) -> None:
        """Look again for the poses that were not known when the answer came."""
        for name, anchor in self._marks.items():
            if anchor.base_from_cam is None:
                self._marks[name] = self._with_pose(anchor)

    def track_mark(self, image: CameraImage) -> Json:
        """Where the mark of the answer belongs on a picture, if the camera has moved since."""
        anchor, camera = self._marks.get(image.camera), self._find_camera(image.camera)
        if anchor is None or camera is None:
            return {}
        pose = self._poses.lookup(self.base_frame, image.frame_id, int(image.stamp))
        lens, before = self._poses.get_intrinsics(camera), anchor.base_from_cam
        if pose is None or lens is None or before is None:
            return {'moved': True, 'mark': None}
        if self._target is None:
            return {'moved': _has_moved(before, pose), 'mark': None}
        return self._reproject_mark(anchor.pixel, before, pose, lens)

    def _reproject_mark(self, pixel: Array, before: Transform, after: Transform,
                 intrinsics: Intrinsics) -> Json:
        assert self._target is not None
        was, seen = (project_point(self._target, pose, intrinsics) for pose in (before, after))
        if was is None or seen is None:
            return {'moved': True, 'mark': None}
        moved = bool(np.linalg.norm(seen - was) > MOVED_PX)
        x, y = pixel + seen - was
        return {'moved': moved, 'mark': [round(float(x), 2), round(float(y), 2)]}

    def build_scene(self, newest: dict[str, CameraImage]) -> Json:
        """Cameras as they stand now, the answer's rays and its target, in the base frame."""
        rays = [self._build_ray(name, anchor) for name, anchor in self._marks.items()]
        target = None if self._target is None or self._approach is None else {
            'position': _round(self._target), 'approach': _round(self._approach)}
        cameras = [self._build_camera(name, picture) for name, picture in sorted(newest.items())]
        return {'frame': self.base_frame, 'cameras': [c for c in cameras if c],
                'rays': [ray for ray in rays if ray], 'target': target}

    def _build_camera(self, name: str, image: CameraImage) -> Json | None:
        camera = self._find_camera(name)
        pose = self._poses.lookup(self.base_frame, image.frame_id, int(image.stamp))
        if camera is None or pose is None:
            return None
        lens = self._poses.get_intrinsics(camera)
        corners = [] if lens is None else [_round(ray) for ray in unproject_corners(pose, lens)]
        return {'name': name, 'position': _round(pose.t_m), 'corners': corners}

    def _build_ray(self, name: str, mark: TrackedMark) -> Json | None:
        pose, end, camera = mark.base_from_cam, self._target, self._find_camera(name)
        if pose is None:
            return None
        if end is None:
            lens = None if camera is None else self._poses.get_intrinsics(camera)
            if lens is None:
                return None
            end = pose.t_m + FREE_RAY_M * pose.rotate(lens.unproject(mark.pixel))
        if not np.isfinite(end).all():  # the lens bends no ray to that pixel
            return None
        return {'kind': mark.kind, 'from': _round(pose.t_m), 'to': _round(end)}


def _has_moved(before: Transform, after: Transform) -> bool:
    turned = float(np.arccos(np.clip((np.trace(before.R.T @ after.R) - 1) / 2, -1.0, 1.0)))
    return turned > MOVED_RAD or float(np.linalg.norm(after.t_m - before.t_m)) > MOVED_M


def _round(vector: Array) -> list[float]:
    return [round(float(v), 3) for v in vector]
