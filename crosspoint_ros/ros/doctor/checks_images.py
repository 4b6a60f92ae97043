"""Checks that image, intrinsics, depth and mask decode and fit each other."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected
from crosspoint_ros.ros.config import ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode
from crosspoint_ros.ros.doctor.snapshot import PAIRING_SLACK_NS, CameraSnapshot, Snapshot

REGISTER_DEPTH = ('publish depth registered to the colour image (realsense: '
                  'align_depth.enable:=true; others: depth_image_proc/register)')


def check_image(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The image decodes."""
    if isinstance(camera.rgb, Rejected):
        yield Finding(FindingCode.IMAGE_REFUSED, camera.rgb.message,
                      'set the driver to one of those, e.g. rgb8')


def check_camera_info(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The camera is calibrated, by a known model, for the size of its images."""
    info, intrinsics, size = camera.info.newest, camera.intrinsics, camera.size
    topic = camera.info.topic
    if info is not None and not np.any(info.p if camera.config.rectified else info.k):
        yield Finding(FindingCode.UNCALIBRATED,
                      f'the camera info on {topic} is all zeros: the camera is not calibrated',
                      'calibrate it (camera_calibration) and load the file in the driver '
                      '(camera_info_url)')
    elif isinstance(intrinsics, Rejected):
        yield Finding(FindingCode.INFO_REFUSED, f'{topic}: {intrinsics.message}',
                      'calibrate with plumb_bob, rational_polynomial or equidistant; for '
                      f'rectified images set {camera.name}.rectified: true')
    elif isinstance(intrinsics, Intrinsics) and size and \
            (intrinsics.width_px, intrinsics.height_px) != size:
        yield Finding(FindingCode.INFO_SIZE,
                      f'{topic} is for {intrinsics.width_px}x{intrinsics.height_px} images, '
                      f'{camera.image.topic} is {size[0]}x{size[1]}',
                      'use the camera info published with these images; a calibration holds for '
                      'one resolution')


def check_depth(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Depth decodes, has values, and is pixel by pixel that of the image."""
    depth, depth_m, size = camera.depth, camera.depth_m, camera.size
    if depth is None or depth_m is None:
        return
    if isinstance(depth_m, Rejected):
        yield Finding(FindingCode.DEPTH_REFUSED, f'{depth.topic}: {depth_m.message}',
                      f"set the driver to one of those, or {camera.name}.depth_topic: '' for no "
                      'depth')
        return
    height, width = depth_m.shape
    if np.isnan(depth_m).all():
        yield Finding(FindingCode.DEPTH_EMPTY,
                      f'none of the {depth_m.size} pixels on {depth.topic} has a depth',
                      'check for a covered lens, a disabled emitter, a scene below the minimum '
                      'range, or a wrong unit (16UC1: mm, 32FC1: m)')
    if size and (width, height) != size:
        yield Finding(FindingCode.DEPTH_SIZE,
                      f'{depth.topic} is {width}x{height}, {camera.image.topic} is '
                      f'{size[0]}x{size[1]}: depth is not registered to colour', REGISTER_DEPTH)
    frame = depth.newest.header.frame_id.lstrip('/')
    if frame and camera.frame_id and frame != camera.frame_id:
        yield Finding(FindingCode.DEPTH_FRAME,
                      f'depth on {depth.topic} has frame {frame!r}, its image has '
                      f'{camera.frame_id!r}: depth is not registered to colour', REGISTER_DEPTH)


def check_depth_lag(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Depth and image are taken at the same time, by the median gap to the nearest depth."""
    if camera.depth is None or not camera.depth.arrivals:
        return
    depths_ns = np.array(camera.depth.stamps_ns)
    gaps_ns = [np.abs(depths_ns - stamp).min() for stamp in camera.image.stamps_ns
               if stamp <= depths_ns.max() + PAIRING_SLACK_NS]
    gap_s, limit_s = float(np.median(gaps_ns or [0])) * 1e-9, snapshot.times.max_depth_lag_s
    if gap_s > limit_s:
        yield Finding(FindingCode.DEPTH_APART,
                      f'depth on {camera.depth.topic} is {gap_s:.3f} s from its image (median; '
                      f'limits.max_depth_lag_s {limit_s:g})',
                      'synchronise them in the driver (realsense: enable_sync:=true), or raise '
                      'limits.max_depth_lag_s for static scenes')


def check_mask(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The mask can be read and has the size of the images."""
    mask, size = camera.mask, camera.size
    if isinstance(mask, ConfigError):
        yield Finding(FindingCode.MASK_REFUSED, f'{mask} (on this machine)',
                      "set mask_path to an 8-bit PNG, white where the robot's body hides the scene")
    elif mask is not None and size and mask.shape != (size[1], size[0]):
        yield Finding(FindingCode.MASK_SIZE,
                      f'the mask {camera.config.mask_path} is {mask.shape[1]}x{mask.shape[0]}, '
                      f'the images are {size[0]}x{size[1]}',
                      'make the mask from images of this size (crosspoint mask)')


CHECKS = (check_image, check_camera_info, check_depth, check_depth_lag, check_mask)
