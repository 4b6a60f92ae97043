"""ROS messages to the nouns of core/datatypes and back, nowhere else.

What cannot be converted is `Rejected`, by name and with the numbers that disagree, never guessed.
"""
from __future__ import annotations

import array
import functools
import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from geometry_msgs.msg import Transform as TransformMsg
from rclpy.logging import get_logger
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from crosspoint_ros.core import encodings
from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Rejected, Transform, View
from crosspoint_ros.core.encodings import (
    COLOUR_ENCODINGS,
    U8,
    DepthM,
    Rgb,
    as_array,
    depth_m_from_raw,
    encoding_of,
    rgb_from_raw,
)

# --- images ---------------------------------------------------------------------------------------

def rgb_from_image(msg: Image) -> Rgb:
    """Return the image as (h, w, 3) RGB uint8; 16-bit colours are scaled down to 8.

    Raises `Rejected` (NO_IMAGE) for an encoding that says nothing of its colours, or is unknown,
    and for sizes that disagree.
    """
    bridge = get_cv_bridge()
    if bridge is None:
        return rgb_from_raw(msg)
    name = encoding_of(msg)
    raw = as_array(msg, COLOUR_ENCODINGS[name], Code.NO_IMAGE)
    return np.asarray(bridge.imgmsg_to_cv2(_repack_if_needed(msg, raw, name), 'rgb8'))


def depth_m_from_image(msg: Image) -> DepthM:
    """Return depth (h, w) in metres, NaN where unknown (REP-118: 16-bit is mm, float is m).

    Raises `Rejected` (NO_DEPTH) for an unknown encoding and for sizes that disagree.
    """
    # No cv_bridge here: it has nothing to convert, and its array of the message is ours.
    return depth_m_from_raw(msg)


def rgb_from_compressed(msg: CompressedImage) -> Rgb:
    """Return a JPEG or PNG image as (h, w, 3) RGB uint8. Raises `Rejected` (NO_IMAGE)."""
    return encodings.rgb_from_compressed(msg.data, msg.format)


def depth_m_from_compressed(msg: CompressedImage) -> DepthM:
    """Return depth (h, w) in metres, NaN where unknown. Raises `Rejected` (NO_DEPTH)."""
    return encodings.depth_m_from_compressed(msg.data, msg.format)


def image_from_rgb(rgb: Rgb, header: Header) -> Image:
    """Return the message of an (h, w, 3) RGB uint8 image."""
    height, width = rgb.shape[:2]
    msg = Image(header=header, height=height, width=width, encoding='rgb8', step=3 * width)
    msg.data = array.array('B', np.ascontiguousarray(rgb).tobytes())
    return msg


# --- cv_bridge ------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=1)
def get_cv_bridge() -> Any:
    """Return the converter that this process uses: see `chosen_bridge`."""
    return load_cv_bridge()


def load_cv_bridge() -> Any:
    """Return the distro's CvBridge, or None where ours is used: the one place that decides.

    Absent is normal without a distro. One that is there but fails (a NumPy 1 build against
    NumPy 2, the package of that name on PyPI) is named in one log line.
    """
    try:
        native = importlib.import_module('cv_bridge.boost.cv_bridge_boost')
    except ModuleNotFoundError as error:
        if error.name == 'cv_bridge':
            return None
        return _warn_unused_bridge(error)
    except Exception as error:  # an extension module may raise anything while it loads
        return _warn_unused_bridge(error)
    if str(native.__file__).endswith('.py'):
        return _warn_unused_bridge("it is PyPI's, not the distro's, and reads 16-bit images wrong")
    bridge = importlib.import_module('cv_bridge').CvBridge()
    known = np.array([[[250, 130, 10], [1, 2, 3]]], U8)
    try:
        seen = bridge.imgmsg_to_cv2(_make_image(known[..., ::-1], 'bgr8'), 'rgb8')
    except Exception as error:
        return _warn_unused_bridge(error)
    return bridge if np.array_equal(seen, known) else _warn_unused_bridge(f'it reads {known} as {seen}')


def _warn_unused_bridge(why: object) -> None:
    get_logger('crosspoint_ros').warning(f'cv_bridge is there but not used: {why}')


def _repack_if_needed(msg: Image, raw: npt.NDArray[Any], name: str) -> Image:
    """Return the message, or if cv_bridge's Python would misread it, the same pixels plainly.

    It skews rows whose padding is no whole number of pixels, cannot swap bytes under NumPy 2, and
    older ones do not know the new names of YUV.
    """
    pixel = raw.itemsize * (1 if raw.ndim == 2 else raw.shape[2])
    if msg.step % pixel == 0 and not msg.is_bigendian and msg.encoding == name:
        return msg
    return _make_image(raw, name)


def _make_image(raw: npt.NDArray[Any], encoding: str) -> Image:
    data = array.array('B', np.ascontiguousarray(raw).tobytes())
    height, width = raw.shape[:2]
    return Image(height=height, width=width, encoding=encoding, step=len(data) // height, data=data)


# --- camera info ----------------------------------------------------------------------------------

def intrinsics_from_info(msg: CameraInfo, rectified: bool = False) -> Intrinsics:
    """Return the lens of the published image: K and D, or P alone if the image is rectified.

    Binning and region of interest are taken off as in REP-104 and image_geometry. Raises
    `Rejected` (NO_IMAGE) if the camera is not calibrated or its distortion is unknown.
    """
    matrix = np.reshape(msg.p, (3, 4)) if rectified else np.reshape(msg.k, (3, 3))
    if rectified and (msg.p[3] or msg.p[7]):
        raise Rejected(Code.NOT_SUPPORTED, f'the camera info has P with Tx, Ty = {msg.p[3]:g}, '
                       f'{msg.p[7]:g} px m: the rectified second camera of a stereo pair, whose '
                       'frame is not its own; use the unrectified image')
    if not msg.distortion_model and any(msg.d) and not rectified:
        raise Rejected(Code.NO_IMAGE, f'the camera info has coefficients {list(msg.d)} and no '
                       f'distortion_model; known: {", ".join(Intrinsics.COEFFICIENTS)}')
    # Whatever the lens was, its rectified image is that of a pinhole.
    model = 'plumb_bob' if rectified or not msg.distortion_model else msg.distortion_model
    d = () if rectified else _coefficients(msg)
    try:
        full = Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2],
                          msg.width, msg.height, d, model)
    except ValueError as error:
        raise Rejected(Code.NO_IMAGE, f'the camera info is unusable: {error}') from error
    x, y = max(msg.binning_x, 1), max(msg.binning_y, 1)
    roi = msg.roi
    return replace(
        full, fx_px=full.fx_px / x, fy_px=full.fy_px / y,
        cx_px=(full.cx_px - roi.x_offset) / x, cy_px=(full.cy_px - roi.y_offset) / y,
        width_px=(roi.width or msg.width) // x, height_px=(roi.height or msg.height) // y)


def _coefficients(msg: CameraInfo) -> tuple[float, ...]:
    """Return D without the zeros that some drivers append to it."""
    d = tuple(float(v) for v in msg.d)
    lengths = Intrinsics.COEFFICIENTS.get(msg.distortion_model or 'plumb_bob', ())
    for length in lengths:
        if length <= len(d) and not any(d[length:]):
            return d[:length]
    return d


# --- time and rigid motions -----------------------------------------------------------------------

def stamp_to_ns(msg: Time) -> int:
    """Return the time in nanoseconds."""
    return int(msg.sec) * 10**9 + int(msg.nanosec)


def time_from_ns(ns: int) -> Time:
    """Return the message of a time in nanoseconds."""
    return Time(sec=ns // 10**9, nanosec=ns % 10**9)


def transform_from_msg(msg: TransformMsg) -> Transform:
    """Return `header.frame_id` from `child_frame_id` (parent_from_child) of a TransformStamped.

    Raises ValueError if the quaternion is not of unit length, or anything is NaN.
    """
    q, t = msg.rotation, msg.translation
    return Transform(rotation_from_quaternion((q.x, q.y, q.z, q.w)), np.array([t.x, t.y, t.z]))


def transform_to_msg(a_from_b: Transform) -> TransformMsg:
    """Return the message of a transform."""
    x, y, z = (float(v) for v in a_from_b.t_m)
    return TransformMsg(translation=Vector3(x=x, y=y, z=z), rotation=_quaternion_to_msg(a_from_b.R))


def pose_from_transform(a_from_b: Transform) -> Pose:
    """Return the pose of frame b in frame a."""
    x, y, z = (float(v) for v in a_from_b.t_m)
    return Pose(position=Point(x=x, y=y, z=z), orientation=_quaternion_to_msg(a_from_b.R))


def transform_from_pose(msg: Pose) -> Transform:
    """Return a_from_b of the pose of frame b in frame a; ValueError as above."""
    q, p = msg.orientation, msg.position
    return Transform(rotation_from_quaternion((q.x, q.y, q.z, q.w)), np.array([p.x, p.y, p.z]))


def rotation_from_quaternion(quaternion_xyzw: npt.ArrayLike) -> Array:
    """Return the rotation matrix (3, 3) of a unit quaternion x, y, z, w."""
    q = np.asarray(quaternion_xyzw, dtype=np.float64)
    squared = float(q @ q)
    if not abs(squared - 1) < 0.01:  # tf2's own tolerance
        raise ValueError(f'a rotation takes a quaternion of squared length 1 (within 0.01), got '
                         f'{squared:g}')
    x, y, z, w = q / np.sqrt(squared)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def quaternion_from_rotation(R: Array) -> Array:
    """Return the unit quaternion x, y, z, w of a rotation matrix, w >= 0.

    It is the eigenvector of Bar-Itzhack's matrix (J. Guidance 2000), which has no special cases.
    """
    (a, b, c), (d, e, f), (g, h, i) = R
    _, vectors = np.linalg.eigh(np.array([
        [a - e - i, b + d, c + g, h - f],
        [b + d, e - a - i, f + h, c - g],
        [c + g, f + h, i - a - e, d - b],
        [h - f, c - g, d - b, a + e + i]]) / 3)
    q = vectors[:, -1]
    return np.asarray(-q if q[3] < 0 else q)


def _quaternion_to_msg(R: Array) -> Quaternion:
    x, y, z, w = (float(v) for v in quaternion_from_rotation(R))
    return Quaternion(x=x, y=y, z=z, w=w)


@dataclass(frozen=True)
class CameraTopics:
    """Where a camera's messages come from, named in every refusal."""

    camera: str
    image_topic: str
    info_topic: str
    depth_topic: str = ''
    rectified: bool = False  # the image is undistorted: P holds, not K and D


def decode_rgb(topics: CameraTopics, image: Image | CompressedImage) -> Rgb:
    """Return the image as (h, w, 3) RGB uint8. Raises `Rejected` (NO_IMAGE)."""
    try:
        compressed = isinstance(image, CompressedImage)
        return rgb_from_compressed(image) if compressed else rgb_from_image(image)
    except Rejected as rejected:
        raise _prefix_topic(topics.image_topic, rejected) from rejected


def build_view(topics: CameraTopics, msg: Image | CompressedImage, rgb: Rgb, info: CameraInfo,
         depth: Image | CompressedImage | None, mask: npt.NDArray[np.bool_] | None) -> View:
    """Return the view of an image that was decoded to `picture`; its pose is left None.

    Raises `Rejected`: NO_IMAGE for an unusable lens or one of another size, NO_DEPTH for such a
    depth, BAD_REQUEST for a mask of another size.
    """
    height, width = rgb.shape[:2]
    intrinsics = _read_intrinsics(topics, info, (width, height))
    if mask is not None and mask.shape != (height, width):
        raise Rejected(Code.BAD_REQUEST, f'the mask of {topics.camera} is {mask.shape[1]}x'
                       f'{mask.shape[0]}, its image {width}x{height}')
    depth_m = None if depth is None else _decode_depth(topics, depth, (width, height))
    return View(topics.camera, rgb, intrinsics, stamp_to_ns(msg.header.stamp),
                msg.header.frame_id or info.header.frame_id, depth_m, mask=mask)


def _read_intrinsics(topics: CameraTopics, info: CameraInfo, size: tuple[int, int]) -> Intrinsics:
    try:
        intrinsics = intrinsics_from_info(info, topics.rectified)
    except Rejected as rejected:
        raise _prefix_topic(topics.info_topic, rejected) from rejected
    if (intrinsics.width_px, intrinsics.height_px) != size:
        raise Rejected(Code.NO_IMAGE, f'{topics.info_topic} is of a {intrinsics.width_px}x'
                       f'{intrinsics.height_px} image, {topics.image_topic} is '
                       f'{size[0]}x{size[1]}')
    return intrinsics


def _decode_depth(topics: CameraTopics, depth: Image | CompressedImage, size: tuple[int, int]) -> DepthM:
    topic = topics.depth_topic
    try:
        compressed = isinstance(depth, CompressedImage)
        depth_m = (depth_m_from_compressed if compressed else depth_m_from_image)(depth)
    except Rejected as rejected:
        raise _prefix_topic(topic, rejected) from rejected
    if depth_m.shape[::-1] != size:
        raise Rejected(Code.NO_DEPTH, f'{topic} is {depth_m.shape[1]}x{depth_m.shape[0]}, '
                       f'{topics.image_topic} is {size[0]}x{size[1]}: depth must be registered to '
                       'the colour image')
    if np.isnan(depth_m).all():
        raise Rejected(Code.NO_DEPTH, f'{topic}: none of its {depth_m.size} pixels has a depth')
    return depth_m


def _prefix_topic(topic: str, rejected: Rejected) -> Rejected:
    return Rejected(rejected.code, f'{topic}: {rejected.message}')
