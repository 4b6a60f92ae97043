"""Conversion of ROS messages to the types of core/datatypes and back.

Nothing is guessed: a message that cannot be converted is `Rejected` with the numbers that disagree.
"""
from __future__ import annotations

import array
import functools
import importlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from geometry_msgs.msg import Transform as TransformMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from crosspoint_ros.core.camera import Intrinsics, RectifiedFrameError
from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.encodings import (
    COLOUR_ENCODINGS,
    U8,
    Rgb,
    as_array,
    get_colour_encoding,
    rgb_from_compressed,
    rgb_from_raw,
)

log = logging.getLogger(__name__)

# --- images ---------------------------------------------------------------------------------------

def rgb_from_msg(msg: Image | CompressedImage) -> Rgb:
    """Return the image as (h, w, 3) RGB uint8; 16-bit colours are scaled down to 8.

    Raises `Rejected` (NO_IMAGE) for an unknown or colourless encoding and for sizes that disagree.
    """
    if isinstance(msg, CompressedImage):
        return rgb_from_compressed(msg.data, msg.format)
    bridge = get_cv_bridge()
    if bridge is None:
        return rgb_from_raw(msg)
    name = get_colour_encoding(msg)
    raw = as_array(msg, COLOUR_ENCODINGS[name], Code.NO_IMAGE)
    return np.asarray(bridge.imgmsg_to_cv2(_repack_if_needed(msg, raw, name), 'rgb8'))


def image_from_rgb(rgb: Rgb, header: Header) -> Image:
    """Return the message of an (h, w, 3) RGB uint8 image."""
    msg = _make_image(rgb, 'rgb8')
    msg.header = header
    return msg


def _make_image(pixels: npt.NDArray[Any], encoding: str) -> Image:
    data = array.array('B', np.ascontiguousarray(pixels).tobytes())
    height, width = pixels.shape[:2]
    return Image(height=height, width=width, encoding=encoding, step=len(data) // height, data=data)


# --- cv_bridge ------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=1)
def get_cv_bridge() -> Any:
    """Return the converter of this process: see `load_cv_bridge`."""
    return load_cv_bridge()


def load_cv_bridge() -> Any:
    """Return the distro's CvBridge, or None to use our own conversion: the only place that decides.

    Without a distro it is absent, which is normal. One that is installed but fails (built against
    NumPy 1, or the package of that name on PyPI) is reported in one log line.
    """
    try:
        native = importlib.import_module('cv_bridge.boost.cv_bridge_boost')
    except ModuleNotFoundError as error:
        return None if error.name == 'cv_bridge' else _warn_unused_bridge(error)
    except Exception as error:  # an extension module may raise anything while it loads
        return _warn_unused_bridge(error)
    if str(native.__file__).endswith('.py'):
        return _warn_unused_bridge("it is PyPI's, not the distro's, and reads 16-bit images wrong")
    bridge = importlib.import_module('cv_bridge').CvBridge()
    expected = np.array([[[250, 130, 10], [1, 2, 3]]], U8)
    try:
        converted = bridge.imgmsg_to_cv2(_make_image(expected[..., ::-1], 'bgr8'), 'rgb8')
    except Exception as error:
        return _warn_unused_bridge(error)
    return bridge if np.array_equal(converted, expected) else _warn_unused_bridge(
        f'it converts {expected} to {converted}')


def _warn_unused_bridge(reason: object) -> None:
    log.warning('cv_bridge is installed but not used: %s', reason)


def _repack_if_needed(msg: Image, raw: npt.NDArray[Any], name: str) -> Image:
    """Return the message, or a plain copy of its pixels if cv_bridge's Python would misread it.

    It skews rows padded by a fraction of a pixel, cannot swap bytes under NumPy 2, and older
    releases do not know the new names of YUV.
    """
    pixel_bytes = raw.itemsize * (1 if raw.ndim == 2 else raw.shape[2])
    if msg.step % pixel_bytes == 0 and not msg.is_bigendian and msg.encoding == name:
        return msg
    return _make_image(raw, name)


# --- time and transforms --------------------------------------------------------------------------

def time_from_ns(ns: int) -> Time:
    """Return the message of a time in nanoseconds."""
    return Time(sec=ns // 10**9, nanosec=ns % 10**9)


def transform_from_msg(msg: TransformMsg) -> Transform:
    """Return parent_from_child of a TransformStamped (`header.frame_id` from `child_frame_id`).

    Raises ValueError for a quaternion that is not of unit length, or NaN.
    """
    q, t = msg.rotation, msg.translation
    return Transform.from_quaternion((q.x, q.y, q.z, q.w), (t.x, t.y, t.z))


def transform_from_pose(msg: Pose) -> Transform:
    """Return a_from_b of the pose of frame b in frame a. Raises ValueError as above."""
    q, p = msg.orientation, msg.position
    return Transform.from_quaternion((q.x, q.y, q.z, q.w), (p.x, p.y, p.z))


def transform_to_msg(a_from_b: Transform) -> TransformMsg:
    """Return the message of a transform."""
    return transform_msg_from_pose(pose_from_transform(a_from_b))


def transform_msg_from_pose(pose: Pose) -> TransformMsg:
    """Return the transform a_from_b of the pose of frame b in frame a."""
    p = pose.position
    return TransformMsg(translation=Vector3(x=p.x, y=p.y, z=p.z), rotation=pose.orientation)


def pose_from_transform(a_from_b: Transform) -> Pose:
    """Return the pose of frame b in frame a."""
    x, y, z, w = a_from_b.quaternion_xyzw.tolist()
    return Pose(position=point_from_xyz(a_from_b.t_m), orientation=Quaternion(x=x, y=y, z=z, w=w))


def point_from_xyz(xyz: npt.ArrayLike) -> Point:
    """Return the message of a point (3,)."""
    x, y, z = np.asarray(xyz, dtype=np.float64).tolist()
    return Point(x=x, y=y, z=z)


# --- views ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class CameraTopics:
    """The full topic names of a camera; every rejection names the one it is about."""

    camera: str
    image_topic: str
    info_topic: str
    depth_topic: str = ''
    rectified: bool = False  # the image is undistorted: P applies, not K and D
    depth_info_topic: str = ''  # of depth that the node registers to the image


def intrinsics_from_info(msg: CameraInfo, rectified: bool = False) -> Intrinsics:
    """Return the intrinsics of the published image. Raises `Rejected` (NO_IMAGE, NOT_SUPPORTED)."""
    try:
        return Intrinsics.from_camera_info(msg, rectified=rectified)
    except RectifiedFrameError as error:
        raise Rejected(Code.NOT_SUPPORTED, str(error)) from error
    except ValueError as error:
        raise Rejected(Code.NO_IMAGE, f'the camera info is unusable: {error}') from error


def decode_rgb(topics: CameraTopics, image: Image | CompressedImage) -> Rgb:
    """Return the image as (h, w, 3) RGB uint8. Raises `Rejected` (NO_IMAGE)."""
    try:
        return rgb_from_msg(image)
    except Rejected as rejected:
        raise Rejected(rejected.code, f'{topics.image_topic}: {rejected.message}') from rejected
