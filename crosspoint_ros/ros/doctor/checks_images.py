"""What can be wrong with what came: an image, lens, depth or mask that does not fit the others."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected
from crosspoint_ros.ros.config import Config, ConfigError
from crosspoint_ros.ros.doctor.finding import Finding, Sign
from crosspoint_ros.ros.doctor.snapshot import ON_THE_WAY_NS, CameraSeen, Seen

REGISTER = ('take the depth that is registered to the colour image (realsense: '
            'align_depth.enable:=true and …/aligned_depth_to_color/image_raw; else '
            'depth_image_proc/register)')


def image_refused(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It cannot be decoded."""
    if isinstance(camera.picture, Rejected):
        yield Finding(Sign.IMAGE_REFUSED, camera.picture.message,
                      'set the driver to one of those, e.g. rgb8', camera.name)


def uncalibrated(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The camera info is there, and says nothing."""
    if _is_blank(camera):
        yield Finding(
            Sign.UNCALIBRATED,
            f'the camera info on {camera.info.topic} is all zeros: the camera is not calibrated',
            'calibrate it (camera_calibration), and give the driver the file (camera_info_url)',
            camera.name)


def info_refused(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The lens makes no sense."""
    if isinstance(camera.lens, Rejected) and not _is_blank(camera):
        yield Finding(
            Sign.INFO_REFUSED, f'{camera.info.topic}: {camera.lens.message}',
            'calibrate the camera again, with one of the models plumb_bob, rational_polynomial or '
            f'equidistant; if its images are rectified, set {camera.name}.rectified: true',
            camera.name)


def info_size(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The lens is that of another resolution."""
    lens, size = camera.lens, camera.size
    if isinstance(lens, Intrinsics) and size and (lens.width_px, lens.height_px) != size:
        yield Finding(
            Sign.INFO_SIZE,
            f'{camera.info.topic} is of a {lens.width_px}x{lens.height_px} image, '
            f'{camera.image.topic} is {size[0]}x{size[1]}',
            'take the camera info that is published beside these images; a calibration holds for '
            'the resolution it was made at', camera.name)


def depth_refused(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It cannot be decoded."""
    if isinstance(camera.depth_m, Rejected) and camera.depth is not None:
        yield Finding(Sign.DEPTH_REFUSED, f'{camera.depth.topic}: {camera.depth_m.message}',
                      f"set the driver to one of those, or {camera.name}.depth_topic: '' to do "
                      'without depth', camera.name)


def depth_empty(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It knows nothing."""
    if isinstance(camera.depth_m, np.ndarray) and np.isnan(camera.depth_m).all():
        assert camera.depth is not None
        yield Finding(
            Sign.DEPTH_EMPTY,
            f'none of the {camera.depth_m.size} pixels on {camera.depth.topic} has a depth',
            'is the lens covered, the emitter off, the scene nearer than the camera can measure, '
            'or the unit wrong (16UC1 is mm, 32FC1 is m)?', camera.name)


def depth_size(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It is of another size than the image."""
    if isinstance(camera.depth_m, np.ndarray) and camera.size:
        height, width = camera.depth_m.shape
        if (width, height) != camera.size:
            assert camera.depth is not None
            yield Finding(
                Sign.DEPTH_SIZE,
                f'{camera.depth.topic} is {width}x{height}, {camera.image.topic} '
                f'{camera.size[0]}x{camera.size[1]}: it is not registered to the colour image',
                REGISTER, camera.name)


def depth_frame(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It is seen from another place than the image."""
    if camera.depth is None or camera.depth.newest is None or not camera.frame_id:
        return
    frame = camera.depth.newest.header.frame_id.lstrip('/')
    if frame and frame != camera.frame_id:
        yield Finding(
            Sign.DEPTH_FRAME,
            f'the depth on {camera.depth.topic} is of frame {frame!r}, the image of '
            f'{camera.frame_id!r}: it is not registered to the colour image', REGISTER, camera.name)


def depth_apart(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The two are taken at different times."""
    assert isinstance(seen.config, Config)
    limit_s, gap_s = seen.config.times.max_depth_lag_s, _depth_gap_s(camera)
    if gap_s > limit_s:
        assert camera.depth is not None
        yield Finding(
            Sign.DEPTH_APART,
            f'the depth on {camera.depth.topic} is stamped {gap_s:.3f} s from its image, half of '
            f'the time or more (limits.max_depth_lag_s {limit_s:g})',
            'let the driver synchronise them (realsense: enable_sync:=true), or raise '
            'limits.max_depth_lag_s if nothing moves that fast', camera.name)


def mask_refused(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It is no picture."""
    if isinstance(camera.mask, ConfigError):
        yield Finding(
            Sign.MASK_REFUSED, f'{camera.mask} (as seen on this machine)',
            'give the path of an 8-bit PNG, white where the robot\'s own body hides the scene',
            camera.name)


def mask_size(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """It is of another size than the image."""
    mask, size = camera.mask, camera.size
    if isinstance(mask, np.ndarray) and size and mask.shape != (size[1], size[0]):
        yield Finding(
            Sign.MASK_SIZE,
            f'the mask {camera.config.mask_path} is {mask.shape[1]}x{mask.shape[0]}, the image '
            f'{size[0]}x{size[1]}', 'make the mask anew from an image of this size', camera.name)


def _is_blank(camera: CameraSeen) -> bool:
    info = camera.info.newest
    return info is not None and not np.any(info.p if camera.config.rectified else info.k)


def _depth_gap_s(camera: CameraSeen) -> float:
    """How far the nearest depth usually is from an image; NaN without either."""
    if camera.depth is None or not camera.depth.arrivals or not camera.image.arrivals:
        return float('nan')
    depths = np.array(camera.depth.stamps_ns)
    images = [s for s in camera.image.stamps_ns if s <= depths.max() + ON_THE_WAY_NS]
    gaps_ns = [int(np.abs(depths - stamp).min()) for stamp in images]
    return float(np.median(gaps_ns)) * 1e-9 if gaps_ns else float('nan')


OF_IMAGES = (image_refused, uncalibrated, info_refused, info_size, depth_refused, depth_empty,
               depth_size, depth_frame, depth_apart, mask_refused, mask_size)
