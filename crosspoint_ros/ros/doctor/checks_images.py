"""What can be wrong with what came: an image, lens, depth or mask that does not fit the others."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected
from crosspoint_ros.ros.config import Config, ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode
from crosspoint_ros.ros.doctor.snapshot import PAIRING_SLACK_NS, CameraSnapshot, Snapshot

REGISTER_DEPTH = ('take the depth that is registered to the colour image (realsense: '
            'align_depth.enable:=true and …/aligned_depth_to_color/image_raw; else '
            'depth_image_proc/register)')


def check_image_decodes(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It cannot be decoded."""
    if isinstance(camera.rgb, Rejected):
        yield Finding(FindingCode.IMAGE_REFUSED, camera.rgb.message,
                      'set the driver to one of those, e.g. rgb8', camera.name)


def check_calibration(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The camera info is there, and says nothing."""
    if _is_blank(camera):
        yield Finding(
            FindingCode.UNCALIBRATED,
            f'the camera info on {camera.info.topic} is all zeros: the camera is not calibrated',
            'calibrate it (camera_calibration), and give the driver the file (camera_info_url)',
            camera.name)


def check_camera_info(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The lens makes no sense."""
    if isinstance(camera.intrinsics, Rejected) and not _is_blank(camera):
        yield Finding(
            FindingCode.INFO_REFUSED, f'{camera.info.topic}: {camera.intrinsics.message}',
            'calibrate the camera again, with one of the models plumb_bob, rational_polynomial or '
            f'equidistant; if its images are rectified, set {camera.name}.rectified: true',
            camera.name)


def check_info_size(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The lens is that of another resolution."""
    lens, size = camera.intrinsics, camera.size
    if isinstance(lens, Intrinsics) and size and (lens.width_px, lens.height_px) != size:
        yield Finding(
            FindingCode.INFO_SIZE,
            f'{camera.info.topic} is of a {lens.width_px}x{lens.height_px} image, '
            f'{camera.image.topic} is {size[0]}x{size[1]}',
            'take the camera info that is published beside these images; a calibration holds for '
            'the resolution it was made at', camera.name)


def check_depth_decodes(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It cannot be decoded."""
    if isinstance(camera.depth_m, Rejected) and camera.depth is not None:
        yield Finding(FindingCode.DEPTH_REFUSED, f'{camera.depth.topic}: {camera.depth_m.message}',
                      f"set the driver to one of those, or {camera.name}.depth_topic: '' to do "
                      'without depth', camera.name)


def check_depth_valid(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It knows nothing."""
    if isinstance(camera.depth_m, np.ndarray) and np.isnan(camera.depth_m).all():
        assert camera.depth is not None
        yield Finding(
            FindingCode.DEPTH_EMPTY,
            f'none of the {camera.depth_m.size} pixels on {camera.depth.topic} has a depth',
            'is the lens covered, the emitter off, the scene nearer than the camera can measure, '
            'or the unit wrong (16UC1 is mm, 32FC1 is m)?', camera.name)


def check_depth_size(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It is of another size than the image."""
    if isinstance(camera.depth_m, np.ndarray) and camera.size:
        height, width = camera.depth_m.shape
        if (width, height) != camera.size:
            assert camera.depth is not None
            yield Finding(
                FindingCode.DEPTH_SIZE,
                f'{camera.depth.topic} is {width}x{height}, {camera.image.topic} '
                f'{camera.size[0]}x{camera.size[1]}: it is not registered to the colour image',
                REGISTER_DEPTH, camera.name)


def check_depth_frame(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It is seen from another place than the image."""
    if camera.depth is None or camera.depth.newest is None or not camera.frame_id:
        return
    frame = camera.depth.newest.header.frame_id.lstrip('/')
    if frame and frame != camera.frame_id:
        yield Finding(
            FindingCode.DEPTH_FRAME,
            f'the depth on {camera.depth.topic} is of frame {frame!r}, the image of '
            f'{camera.frame_id!r}: it is not registered to the colour image', REGISTER_DEPTH, camera.name)


def check_depth_sync(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The two are taken at different times."""
    assert isinstance(snapshot.config, Config)
    limit_s, gap_s = snapshot.config.times.max_depth_lag_s, _depth_gap_s(camera)
    if gap_s > limit_s:
        assert camera.depth is not None
        yield Finding(
            FindingCode.DEPTH_APART,
            f'the depth on {camera.depth.topic} is stamped {gap_s:.3f} s from its image, half of '
            f'the time or more (limits.max_depth_lag_s {limit_s:g})',
            'let the driver synchronise them (realsense: enable_sync:=true), or raise '
            'limits.max_depth_lag_s if nothing moves that fast', camera.name)


def check_mask_readable(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It is no picture."""
    if isinstance(camera.mask, ConfigError):
        yield Finding(
            FindingCode.MASK_REFUSED, f'{camera.mask} (as seen on this machine)',
            'give the path of an 8-bit PNG, white where the robot\'s own body hides the scene',
            camera.name)


def check_mask_size(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """It is of another size than the image."""
    mask, size = camera.mask, camera.size
    if isinstance(mask, np.ndarray) and size and mask.shape != (size[1], size[0]):
        yield Finding(
            FindingCode.MASK_SIZE,
            f'the mask {camera.config.mask_path} is {mask.shape[1]}x{mask.shape[0]}, the image '
            f'{size[0]}x{size[1]}', 'make the mask anew from an image of this size', camera.name)


def _is_blank(camera: CameraSnapshot) -> bool:
    info = camera.info.newest
    return info is not None and not np.any(info.p if camera.config.rectified else info.k)


def _depth_gap_s(camera: CameraSnapshot) -> float:
    """How far the nearest depth usually is from an image; NaN without either."""
    if camera.depth is None or not camera.depth.arrivals or not camera.image.arrivals:
        return float('nan')
    depths = np.array(camera.depth.stamps_ns)
    images = [s for s in camera.image.stamps_ns if s <= depths.max() + PAIRING_SLACK_NS]
    gaps_ns = [int(np.abs(depths - stamp).min()) for stamp in images]
    return float(np.median(gaps_ns)) * 1e-9 if gaps_ns else float('nan')


IMAGE_CHECKS = (check_image_decodes, check_calibration, check_camera_info, check_info_size, check_depth_decodes, check_depth_valid,
               check_depth_size, check_depth_frame, check_depth_sync, check_mask_readable, check_mask_size)
