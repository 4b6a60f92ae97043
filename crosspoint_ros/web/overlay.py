"""Marks of the result, reprojected as the cameras move, and the 3D scene."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import Correspondence, ImagePoint, QueryResult
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.client.results import VERDICTS, Json, is_target_sure
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.web.camera_poses import CameraPoses, project_point, unproject_corners
from crosspoint_ros.web.image_streams import CameraImage

MOVED_PX = 1.0  # reprojection of the target
MOVED_M, MOVED_RAD = 1e-3, 1e-3  # of the camera, where there is no target
FREE_RAY_M = 2.0  # drawn length of a ray without a target
SHARED_S = 0.05  # within which all browsers get an image; TF may know more later


@dataclass(frozen=True, eq=False)
class TrackedMark:
    """A mark of the result: its pixel, and the pose of the camera at that image's stamp."""

    kind: str
    pixel: Array
    frame_id: str
    stamp_ns: int
    base_from_cam: Transform | None  # None: not known (yet)


class Overlay:
    """The displayed result as the cameras see it now."""

    def __init__(self, poses: CameraPoses, find_camera: Callable[[str], NodeCamera | None]) -> None:
        """`find_camera` returns the camera of a name, as `poses` knows it."""
        self._poses, self._find_camera = poses, find_camera
        self._marks: dict[str, TrackedMark] = {}
        self._target: Transform | None = None  # base_from_target
        self._verdict = 'check'  # of the target
        self._covariance: npt.ArrayLike = []  # of the target
        # By camera, of its last image: the image, when the mark was located, and where.
        self._located: dict[str, tuple[CameraImage, float, Json]] = {}
        self.base_frame = ''

    def set_result(self, result: QueryResult | None) -> None:
        self._marks, self._target = {}, None
        self._located.clear()
        if result is None:
            return
        if result.has_target:
            self._target = transform_from_pose(result.target.pose.pose)
            self._verdict = 'sure' if is_target_sure(result) else 'check'
            self._covariance = result.target.pose.covariance
        self._add_mark('clicked', result.clicked)
        for answer in result.correspondences:
            is_refused = answer.verdict == Correspondence.REFUSED
            self._add_mark(VERDICTS[answer.verdict],
                           answer.refused_at if is_refused else answer.found)

    def _add_mark(self, kind: str, point: ImagePoint) -> None:
        if np.isfinite([point.x, point.y]).all():
            self._marks[point.camera] = self._with_pose(TrackedMark(
                kind, np.array([point.x, point.y]), point.header.frame_id,
                stamp_to_ns(point.header.stamp), None))

    def _with_pose(self, mark: TrackedMark) -> TrackedMark:
        pose = self._poses.lookup(self.base_frame, mark.frame_id, mark.stamp_ns)
        return replace(mark, base_from_cam=pose)

    def resolve_poses(self) -> None:
        """Look up the poses that were unknown when the result arrived."""
        for name, mark in self._marks.items():
            if mark.base_from_cam is None:
                self._marks[name] = self._with_pose(mark)

    def find_lens(self, image: CameraImage) -> tuple[Intrinsics, Transform] | None:
        """Return the intrinsics and base_from_cam of an image; None where they are unknown."""
        return self.find_lens_at(image.camera, image.frame_id, int(image.stamp))

    def find_lens_at(self, name: str, frame_id: str, stamp_ns: int
                     ) -> tuple[Intrinsics, Transform] | None:
        """Return the same for a camera's frame at a time."""
        camera, mark = self._find_camera(name), self._marks.get(name)
        intrinsics = self._poses.get_intrinsics(camera) if camera else None
        pose = self._poses.lookup(self.base_frame, frame_id, stamp_ns)
        if pose is None and mark is not None and mark.stamp_ns == stamp_ns:
            pose = mark.base_from_cam  # older than what TF keeps
        return None if intrinsics is None or pose is None else (intrinsics, pose)

    def track_mark(self, image: CameraImage) -> Json:
        """Return the mark's pixel on an image and whether it moved; {} if there is no mark.

        The pixel is None where the point is outside the image or cannot be reprojected; `moved` is
        None where that is not known, as long as TF is behind the image. Browsers that get the image
        at the same time share the answer.
        """
        now_s = time.monotonic()
        known, located_s, tracked = self._located.get(image.camera, (None, 0.0, {}))
        if known is not image or now_s - located_s > SHARED_S:
            tracked = self._locate_mark(image)
            self._located[image.camera] = image, now_s, tracked
        return tracked

    def _locate_mark(self, image: CameraImage) -> Json:
        mark, camera = self._marks.get(image.camera), self._find_camera(image.camera)
        if mark is None or camera is None:
            return {}
        before, intrinsics = mark.base_from_cam, self._poses.get_intrinsics(camera)
        after = self._poses.lookup(self.base_frame, image.frame_id, int(image.stamp))
        if before is None or after is None or intrinsics is None:
            return {'moved': None, 'mark': None}
        if self._target is None or mark.kind == 'refused':
            return {'moved': _has_moved(before, after), 'mark': None}
        old = new = project_point(self._target.t_m, before, intrinsics)
        if not (np.array_equal(before.R, after.R) and np.array_equal(before.t_m, after.t_m)):
            new = project_point(self._target.t_m, after, intrinsics)
        if old is None or new is None:
            return {'moved': True, 'mark': None}
        x, y = mark.pixel + new - old
        return {'moved': bool(np.linalg.norm(new - old) > MOVED_PX),
                'mark': [round(float(x), 2), round(float(y), 2)]}

    def build_scene(self, newest: dict[str, CameraImage]) -> Json:
        """Return the cameras at their newest images and the rays, in the base frame."""
        rays = [self._build_ray(name, mark) for name, mark in self._marks.items()
                if mark.kind != 'refused']
        cameras = [self._build_camera(name, image) for name, image in sorted(newest.items())]
        return {'frame': self.base_frame, 'cameras': [c for c in cameras if c],
                'rays': [ray for ray in rays if ray]}

    def build_target(self) -> Json | None:
        """Return the target in the base frame; None without one."""
        return None if self._target is None else pose_to_json(
            self._target, self._covariance, self._verdict)

    def _build_camera(self, name: str, image: CameraImage) -> Json | None:
        camera = self._find_camera(name)
        pose = self._poses.lookup(self.base_frame, image.frame_id, int(image.stamp))
        if camera is None or pose is None:
            return None
        intrinsics = self._poses.get_intrinsics(camera)
        corners = () if intrinsics is None else unproject_corners(pose, intrinsics)
        return {'name': name, 'position': _round(pose.t_m),
                'corners': [_round(corner) for corner in corners]}

    def _build_ray(self, name: str, mark: TrackedMark) -> Json | None:
        pose, camera = mark.base_from_cam, self._find_camera(name)
        if pose is None:
            return None
        if self._target is not None:
            end_m = self._target.t_m
        else:
            intrinsics = self._poses.get_intrinsics(camera) if camera else None
            if intrinsics is None:
                return None
            end_m = pose.t_m + FREE_RAY_M * pose.rotate(intrinsics.unproject(mark.pixel))
        if not np.isfinite(end_m).all():  # the pixel cannot be unprojected
            return None
        return {'kind': mark.kind, 'from': _round(pose.t_m), 'to': _round(end_m)}


def pose_to_json(base_from_target: Transform, covariance: npt.ArrayLike, kind: str,
                 name: str = '') -> Json:
    """Return a target for the 3D view; kind: of its verdict, covariance: (36,)."""
    return {'position': _round(base_from_target.t_m),
            'approach': _round(base_from_target.R[:, 2]),  # +z points into the surface
            'axes': [_round(axis) for axis in base_from_target.R.T],
            'sigmas': find_sigma_axes(covariance), 'kind': kind, 'name': name}


def find_sigma_axes(covariance: npt.ArrayLike) -> list[list[float]]:
    """Return the half axes of the position's one-sigma ellipsoid, m; [] where it is unknown.

    covariance: (36,) of a PoseWithCovariance.
    """
    position_m2 = np.reshape(np.asarray(covariance, dtype=np.float64), (6, 6))[:3, :3]
    if not np.isfinite(position_m2).all() or not position_m2.any():
        return []
    variances, axes = np.linalg.eigh(position_m2)
    return [[round(float(v), 5) for v in axis] for axis in (
        axes * np.sqrt(np.maximum(variances, 0.0))).T]


def _has_moved(before: Transform, after: Transform) -> bool:
    angle_rad = np.arccos(np.clip((np.trace(before.R.T @ after.R) - 1) / 2, -1.0, 1.0))
    return bool(angle_rad > MOVED_RAD or np.linalg.norm(after.t_m - before.t_m) > MOVED_M)


def _round(vector: Array) -> list[float]:
    return [round(float(v), 3) for v in vector]
