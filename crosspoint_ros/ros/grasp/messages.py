"""Messages of a clicked thing: its masks, cloud, shape and box."""
from __future__ import annotations

import array
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.grasp.planes import Mask
from crosspoint_ros.core.grasp.segment import Thing
from crosspoint_ros.core.grasp.shape import Box, Closing
from crosspoint_ros.msg import GraspTarget, TargetShape
from crosspoint_ros.ros.conversions import pose_from_transform, transform_from_pose

CLOUD_FIELDS = ('x', 'y', 'z', 'rgb', 'normal_x', 'normal_y', 'normal_z')
NAN = float('nan')
NAN_POSE = Pose(position=Point(x=NAN, y=NAN, z=NAN),
                orientation=Quaternion(x=NAN, y=NAN, z=NAN, w=NAN))


def build_mask(header: Header, mask: Mask) -> Image:
    """Return a mask (h, w) as mono8: 255 on the thing."""
    height, width = mask.shape
    data = array.array('B', np.where(mask, 255, 0).astype(np.uint8).tobytes())
    return Image(header=header, height=height, width=width, encoding='mono8', step=width, data=data)


def build_cloud(header: Header, thing: Thing) -> PointCloud2:
    """Return the points with colour, packed as PCL does, and normals; an empty cloud if unclear."""
    rows: npt.NDArray[np.float32] = np.zeros((len(thing.points_base_m), 7), np.float32)
    rows[:, :3], rows[:, 4:] = thing.points_base_m, thing.normals_base
    red, green, blue = thing.colours.astype(np.uint32).T
    rows[:, 3] = (red << 16 | green << 8 | blue).view(np.float32)
    return PointCloud2(
        header=header, height=1, width=len(rows), is_dense=True, point_step=rows.itemsize * 7,
        row_step=rows.nbytes, data=array.array('B', rows.tobytes()),
        fields=[PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
                for i, name in enumerate(CLOUD_FIELDS)])


def build_shape(target: GraspTarget, thing: Thing, box: Box | None, closing: Closing | None
                ) -> TargetShape:
    """Return what is known of the shape of a target's thing; NaN where it is not."""
    shape = TargetShape(
        header=target.header, query_id=target.query_id, code=int(thing.unclear),
        message=thing.message, box=NAN_POSE, size_m=Vector3(x=NAN, y=NAN, z=NAN), grasp=NAN_POSE,
        support=[NAN] * 4, width_m=NAN, sigma_yaw_rad=NAN)
    if box is not None:
        shape.box, shape.size_m = pose_from_transform(box.base_from_box), _build_size(box)
    if thing.support is not None:
        shape.support = [*thing.support.normal_base.tolist(), thing.support.offset_m]
    if closing is not None:
        shape.width_m, shape.sigma_yaw_rad = closing.width_m, closing.sigma_yaw_rad
        shape.grasp = _build_grasp(target.pose.pose, closing, box)
    return shape


def _build_size(box: Box) -> Vector3:
    x, y, z = box.size_m.tolist()
    return Vector3(x=x, y=y, z=z)


def _build_grasp(pose: Pose, closing: Closing, box: Box | None) -> Pose:
    """The click need not be in the middle of the thing, where both jaws are as far away."""
    at_m = transform_from_pose(pose).t_m
    if box is not None:
        x_base = closing.rotation[:, 0]
        at_m = at_m + x_base * (x_base @ (box.base_from_box.t_m - at_m))
    return pose_from_transform(Transform(closing.rotation, at_m))


def load_box_type() -> Any:
    """Return `vision_msgs.msg.Detection3DArray`, None where that package is not installed."""
    try:
        return importlib.import_module('vision_msgs.msg').Detection3DArray
    except ImportError:
        return None


def build_box_array(header: Header, box: Box | None, confidence: float) -> Any:
    """Return the box as the one detection of a `Detection3DArray`; none without a box."""
    messages = importlib.import_module('vision_msgs.msg')
    detections = []
    if box is not None:
        result = messages.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = 'target', confidence
        result.pose.pose = pose_from_transform(box.base_from_box)
        detection = messages.Detection3D(header=header, results=[result])
        detection.bbox.center, detection.bbox.size = result.pose.pose, _build_size(box)
        detections.append(detection)
    return messages.Detection3DArray(header=header, detections=detections)
