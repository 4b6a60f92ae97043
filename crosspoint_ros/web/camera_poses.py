"""Where each camera stands, and its lens: for the 3D view, and to keep marks on what they mark."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from crosspoint_ros.core.datatypes import Array, Intrinsics, Rejected, Transform
from crosspoint_ros.ros.client.node_info import KnownCamera
from crosspoint_ros.ros.conversions import intrinsics_from_info
from crosspoint_ros.ros.tf import Transforms, make_transforms
from crosspoint_ros.web.ros_bridge import Link

LATE_NS = 300_000_000  # TF may come that much later than the image it belongs to


class Vantages:
    """TF and camera infos, listened to only while there are browsers; of asyncio's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._transforms: Transforms | None = None
        self._lenses: dict[KnownCamera, Intrinsics] = {}
        self._last: dict[str, tuple[int, Transform]] = {}  # frame -> its last known pose
        self._open = False
        self._infos: dict[KnownCamera, Any] = {}  # of the thread of ROS

    def listen(self, wanted: bool) -> None:
        """Subscribe to TF, or leave it."""
        if wanted == self._open:
            return
        self._open = wanted
        self._last.clear()
        self._lenses.clear()  # a camera may come back with another
        self._link.post(self._listen if wanted else self._ignore)

    def want_lens(self, camera: KnownCamera) -> None:
        """See that the camera's lens gets known."""
        if camera not in self._lenses:
            self._link.post(partial(self._await_info, camera))

    def lens(self, camera: KnownCamera) -> Intrinsics | None:
        """Return the lens, None until it is known."""
        return self._lenses.get(camera)

    def where(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """Return base_from_cam at a stamp, or a little before it; None where it is not known."""
        if self._transforms is None or not frame:
            return None
        try:
            pose = self._transforms.lookup(base_frame, frame, at_ns)
        except Rejected:
            known = self._last.get(frame)
            return known[1] if known and 0 <= at_ns - known[0] <= LATE_NS else None
        self._last[frame] = (at_ns, pose)
        return pose

    # In the thread of ROS

    def _listen(self) -> None:
        if self._transforms is None:
            self._transforms = make_transforms(self._link.node)

    def _ignore(self) -> None:
        if self._transforms is not None:
            self._transforms.close()
        self._transforms = None
        for subscription in self._infos.values():
            self._link.node.destroy_subscription(subscription)
        self._infos.clear()

    def _await_info(self, camera: KnownCamera) -> None:
        if camera in self._infos:
            return

        def came(message: CameraInfo) -> None:
            self._link.tell(self._on_info, camera, message)

        self._infos[camera] = self._link.node.create_subscription(
            CameraInfo, camera.info_topic, came, qos_profile_sensor_data)

    def _on_info(self, camera: KnownCamera, message: CameraInfo) -> None:
        try:
            self._lenses[camera] = intrinsics_from_info(message, camera.rectified)
        except Rejected:  # the node says so, in its diagnostics
            return
        self._link.post(partial(self._stop_awaiting, camera))

    def _stop_awaiting(self, camera: KnownCamera) -> None:
        subscription = self._infos.pop(camera, None)
        if subscription is not None:
            self._link.node.destroy_subscription(subscription)


def corners_base(base_from_cam: Transform, lens: Intrinsics) -> Array:
    """The rays through the image corners (4, 3) in the base frame, 1 m deep; none if NaN."""
    right, bottom = lens.width_px - 0.5, lens.height_px - 0.5
    rays = lens.unproject(np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]))
    corners: Array = base_from_cam.direction(rays / rays[:, 2:])
    return corners if np.isfinite(corners).all() else np.empty((0, 3))


def pixel_of(point_base_m: Array, base_from_cam: Transform, lens: Intrinsics) -> Array | None:
    """Where an image shows a point; None where it does not (behind it, outside it)."""
    pixel = lens.project(base_from_cam.inverse.point(point_base_m))
    inside = np.isfinite(pixel).all() and lens.contains(pixel)
    return pixel if inside else None
