"""Where each camera stands, and its lens: for the 3D view, and to keep marks on what they mark."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from crosspoint_ros.core.datatypes import Array, Intrinsics, Rejected, Transform
from crosspoint_ros.ros.client.node_info import NodeCamera
from crosspoint_ros.ros.conversions import intrinsics_from_info
from crosspoint_ros.ros.tf import TransformLookup, make_transform_lookup
from crosspoint_ros.web.ros_bridge import RosBridge

MAX_TF_DELAY_NS = 300_000_000  # TF may come that much later than the image it belongs to


class CameraPoses:
    """TF and camera infos, listened to only while there are browsers; of asyncio's thread."""

    def __init__(self, bridge: RosBridge) -> None:
        self._bridge = bridge
        self._transforms: TransformLookup | None = None
        self._intrinsics: dict[NodeCamera, Intrinsics] = {}
        self._last_pose: dict[str, tuple[int, Transform]] = {}  # frame -> its last known pose
        self._is_active = False
        self._info_subscriptions: dict[NodeCamera, Any] = {}  # of the thread of ROS

    def set_active(self, active: bool) -> None:
        """Subscribe to TF, or leave it."""
        if active == self._is_active:
            return
        self._is_active = active
        self._last_pose.clear()
        self._intrinsics.clear()  # a camera may come back with another
        self._bridge.run_in_ros(self._subscribe if active else self._unsubscribe)

    def request_intrinsics(self, camera: NodeCamera) -> None:
        """See that the camera's lens gets known."""
        if camera not in self._intrinsics:
            self._bridge.run_in_ros(partial(self._subscribe_info, camera))

    def get_intrinsics(self, camera: NodeCamera) -> Intrinsics | None:
        """Return the lens, None until it is known."""
        return self._intrinsics.get(camera)

    def lookup(self, base_frame: str, frame_id: str, stamp_ns: int) -> Transform | None:
        """Return base_from_cam at a stamp, or a little before it; None where it is not known."""
        if self._transforms is None or not frame_id:
            return None
        try:
            pose = self._transforms.lookup(base_frame, frame_id, stamp_ns)
        except Rejected:
            known = self._last_pose.get(frame_id)
            return known[1] if known and 0 <= stamp_ns - known[0] <= MAX_TF_DELAY_NS else None
        self._last_pose[frame_id] = (stamp_ns, pose)
        return pose

    # In the thread of ROS

    def _subscribe(self) -> None:
        if self._transforms is None:
            self._transforms = make_transform_lookup(self._bridge.node)

    def _unsubscribe(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
        self._transforms = None
        for subscription in self._info_subscriptions.values():
            self._bridge.node.destroy_subscription(subscription)
        self._info_subscriptions.clear()

    def _subscribe_info(self, camera: NodeCamera) -> None:
        if camera in self._info_subscriptions:
            return

        def came(message: CameraInfo) -> None:
            self._bridge.run_in_asyncio(self._on_info, camera, message)

        self._info_subscriptions[camera] = self._bridge.node.create_subscription(
            CameraInfo, camera.info_topic, came, qos_profile_sensor_data)

    def _on_info(self, camera: NodeCamera, message: CameraInfo) -> None:
        try:
            self._intrinsics[camera] = intrinsics_from_info(message, camera.rectified)
        except Rejected:  # the node says so, in its diagnostics
            return
        self._bridge.run_in_ros(partial(self._unsubscribe_info, camera))

    def _unsubscribe_info(self, camera: NodeCamera) -> None:
        subscription = self._info_subscriptions.pop(camera, None)
        if subscription is not None:
            self._bridge.node.destroy_subscription(subscription)


def unproject_corners(base_from_cam: Transform, intrinsics: Intrinsics) -> Array:
    """The rays through the image corners (4, 3) in the base frame, 1 m deep; none if NaN."""
    right, bottom = intrinsics.width_px - 0.5, intrinsics.height_px - 0.5
    rays = intrinsics.unproject(np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]))
    corners: Array = base_from_cam.rotate(rays / rays[:, 2:])
    return corners if np.isfinite(corners).all() else np.empty((0, 3))


def project_point(point_base_m: Array, base_from_cam: Transform, intrinsics: Intrinsics) -> Array | None:
    """Where an image shows a point; None where it does not (behind it, outside it)."""
    pixel = intrinsics.project(base_from_cam.inverse.transform_points(point_base_m))
    inside = np.isfinite(pixel).all() and intrinsics.contains(pixel)
    return pixel if inside else None
