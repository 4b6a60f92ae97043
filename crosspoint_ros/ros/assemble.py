"""An image, its lens and its depth become a View, or a refusal that names the topic at fault."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected, View
from crosspoint_ros.core.decode import DepthM, Rgb
from crosspoint_ros.ros.convert import (
    depth_m_from_compressed,
    depth_m_from_image,
    intrinsics_from_info,
    rgb_from_compressed,
    rgb_from_image,
    stamp_ns,
)


@dataclass(frozen=True)
class Source:
    """Where a camera's messages come from, named in every refusal."""

    camera: str
    image_topic: str
    info_topic: str
    depth_topic: str = ''
    rectified: bool = False  # the image is undistorted: P holds, not K and D


def rgb(source: Source, image: Image | CompressedImage) -> Rgb:
    """Return the image as (h, w, 3) RGB uint8. Raises `Rejected` (NO_IMAGE)."""
    try:
        compressed = isinstance(image, CompressedImage)
        return rgb_from_compressed(image) if compressed else rgb_from_image(image)
    except Rejected as rejected:
        raise _on(source.image_topic, rejected) from rejected


def view(source: Source, image: Image | CompressedImage, picture: Rgb, info: CameraInfo,
         depth: Image | CompressedImage | None, mask: npt.NDArray[np.bool_] | None) -> View:
    """Return the view of an image that was decoded to `picture`; its pose is left None.

    Raises `Rejected`: NO_IMAGE for an unusable lens or one of another size, NO_DEPTH for such a
    depth, BAD_REQUEST for a mask of another size.
    """
    height, width = picture.shape[:2]
    intrinsics = _intrinsics(source, info, (width, height))
    if mask is not None and mask.shape != (height, width):
        raise Rejected(Code.BAD_REQUEST, f'the mask of {source.camera} is {mask.shape[1]}x'
                       f'{mask.shape[0]}, its image {width}x{height}')
    depth_m = None if depth is None else _depth_m(source, depth, (width, height))
    return View(source.camera, picture, intrinsics, stamp_ns(image.header.stamp),
                image.header.frame_id or info.header.frame_id, depth_m, mask=mask)


def _intrinsics(source: Source, info: CameraInfo, size: tuple[int, int]) -> Intrinsics:
    try:
        intrinsics = intrinsics_from_info(info, source.rectified)
    except Rejected as rejected:
        raise _on(source.info_topic, rejected) from rejected
    if (intrinsics.width_px, intrinsics.height_px) != size:
        raise Rejected(Code.NO_IMAGE, f'{source.info_topic} is of a {intrinsics.width_px}x'
                       f'{intrinsics.height_px} image, {source.image_topic} is '
                       f'{size[0]}x{size[1]}')
    return intrinsics


def _depth_m(source: Source, depth: Image | CompressedImage, size: tuple[int, int]) -> DepthM:
    topic = source.depth_topic
    try:
        compressed = isinstance(depth, CompressedImage)
        depth_m = (depth_m_from_compressed if compressed else depth_m_from_image)(depth)
    except Rejected as rejected:
        raise _on(topic, rejected) from rejected
    if depth_m.shape[::-1] != size:
        raise Rejected(Code.NO_DEPTH, f'{topic} is {depth_m.shape[1]}x{depth_m.shape[0]}, '
                       f'{source.image_topic} is {size[0]}x{size[1]}: depth must be registered to '
                       'the colour image')
    if np.isnan(depth_m).all():
        raise Rejected(Code.NO_DEPTH, f'{topic}: none of its {depth_m.size} pixels has a depth')
    return depth_m


def _on(topic: str, rejected: Rejected) -> Rejected:
    return Rejected(rejected.code, f'{topic}: {rejected.message}')
