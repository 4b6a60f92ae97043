"""Camera poses from TF and intrinsics from CameraInfo, for the 3D view and the tracked marks."""
from __future__ import annotations

import math
from functools import partial

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from crosspoint_ros.core.datatypes import Array, Intrinsics, Rejected, Transform
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.tf import TransformLookup, make_transform_lookup
from crosspoint_ros.web.ros_bridge import RosBridge

MAX_TF_AGE_NS = 10_000_000_000  # TF keeps that much
MAX_TF_DELAY_NS = 300_000_000  # how much later than an image its TF may arrive


class CameraPoses:
    """Subscribes to TF and CameraInfo while browsers are connected.

    Public methods run in asyncio's thread.
    """

    def __init__(self, bridge: RosBridge) -> None:
        self._bridge = bridge
        self._transforms: TransformLookup | None = None
        self._intrinsics: dict[NodeCamera, Intrinsics] = {}
        # By frame_id: the last stamp, base frame and pose.
        self._last_pose: dict[str, tuple[int, str, Transform]] = {}
        self._is_active = False
        self._awaited: set[NodeCamera] = set()  # cameras whose CameraInfo is subscribed to

    def set_active(self, active: bool) -> None:
        """Subscribe to TF, or unsubscribe from TF and CameraInfo."""
        if active == self._is_active:
            return
        self._is_active = active
        self._last_pose.clear()
        self._intrinsics.clear()  # they may change while we are not subscribed
        for camera in list(self._awaited):
            self._unsubscribe_info(camera)
        self._bridge.run_in_ros(self._subscribe if active else self._unsubscribe)

    def request_intrinsics(self, camera: NodeCamera) -> None:
        """Subscribe to CameraInfo until the intrinsics are known."""
        if camera not in self._intrinsics and camera not in self._awaited:
            self._awaited.add(camera)
            self._bridge.subscribe(camera, CameraInfo, camera.info_topic,
                                   partial(self._on_info, camera), qos_profile_sensor_data)

    def get_intrinsics(self, camera: NodeCamera) -> Intrinsics | None:
        return self._intrinsics.get(camera)

    def lookup(self, base_frame: str, frame_id: str, stamp_ns: int) -> Transform | None:
        """Return base_from_cam at the stamp or up to MAX_TF_DELAY_NS before; None if unknown."""
        if self._transforms is None or not frame_id:
            return None
        last_ns, last_base, last_pose = self._last_pose.get(frame_id, (-math.inf, '', None))
        if last_base != base_frame:
            last_ns, last_pose = -math.inf, None
        elif last_ns == stamp_ns:  # marks, targets and scene ask for the same image
            return last_pose
        try:
            pose = self._transforms.lookup(base_frame, frame_id, stamp_ns)
        except Rejected:
            return last_pose if 0 <= stamp_ns - last_ns <= MAX_TF_DELAY_NS else None
        # That of an answer's image is older than the newest; TF knows none so old but after a jump.
        if stamp_ns >= last_ns or last_ns - stamp_ns > MAX_TF_AGE_NS:
            self._last_pose[frame_id] = stamp_ns, base_frame, pose
        return pose

    def _on_info(self, camera: NodeCamera, message: CameraInfo) -> None:
        if camera not in self._awaited:
            return
        try:
            self._intrinsics[camera] = Intrinsics.from_camera_info(
                message, rectified=camera.rectified)
        except ValueError:  # the node reports it in its diagnostics
            return
        self._unsubscribe_info(camera)

    def _unsubscribe_info(self, camera: NodeCamera) -> None:
        self._awaited.discard(camera)
        self._bridge.unsubscribe(camera)

    # In the ROS thread

    def _subscribe(self) -> None:
        if self._transforms is None:
            self._transforms = make_transform_lookup(self._bridge.node)

    def _unsubscribe(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
        self._transforms = None


def unproject_corners(base_from_cam: Transform, intrinsics: Intrinsics) -> Array:
    """Return the rays through the image corners (4, 3) in the base frame, at a depth of 1 m.

    An empty (0, 3) if the distortion model cannot unproject one of them.
    """
    right, bottom = intrinsics.width_px - 0.5, intrinsics.height_px - 0.5
    rays_cam = intrinsics.unproject(
        np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]))
    corners: Array = base_from_cam.rotate(rays_cam / rays_cam[:, 2:])
    return corners if np.isfinite(corners).all() else np.empty((0, 3))


def project_point(point_base_m: Array, base_from_cam: Transform,
                  intrinsics: Intrinsics) -> Array | None:
    """Project a point (3,) to a pixel (2,); None behind the camera and outside the image."""
    pixel = intrinsics.project(base_from_cam.inverse.transform_points(point_base_m))
    is_inside = np.isfinite(pixel).all() and intrinsics.contains(pixel)
    return pixel if is_inside else None
