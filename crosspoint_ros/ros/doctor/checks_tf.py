"""What can be wrong with TF: no way from a camera to the base, or not at the time of the image."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.doctor.checks_node import in_time
from crosspoint_ros.ros.doctor.finding import Finding, Sign
from crosspoint_ros.ros.doctor.snapshot import CameraSeen, Seen
from crosspoint_ros.ros.tf import loop, why_apart, why_not

NO_BASELINE_M = 0.001


def no_frame_id(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """Nothing says whose images these are."""
    if camera.image.newest is not None and not camera.frame_id:
        yield Finding(
            Sign.NO_FRAME_ID, f'the images on {camera.image.topic} have an empty frame_id',
            "let the driver name the camera's optical frame (frame_id, camera_frame_id)",
            camera.name)


def no_tf(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The two frames are not connected, whatever the time."""
    reason = _disconnected(seen, camera)
    if reason:
        yield Finding(
            Sign.NO_TF, f'no transform from {camera.frame_id!r} to {_base(seen)!r}: {reason}',
            'publish it: robot_state_publisher with the URDF, or ros2 run tf2_ros '
            'static_transform_publisher with the calibration; if the base is called otherwise, '
            'set base_frame', camera.name)


def tf_time(seen: Seen, camera: CameraSeen) -> Iterator[Finding]:
    """The two frames are connected, but not when the image was taken."""
    # What was sent before we came cannot be known here; of another clock, its own finding tells.
    asked = camera.posed_ns > seen.since_ns and in_time(seen, camera)
    if asked and camera.frame_id and camera.base_from_cam is None \
            and not _disconnected(seen, camera):
        assert isinstance(seen.config, Config)
        reason = why_not(seen.links, _base(seen), camera.frame_id, camera.posed_ns)
        yield Finding(
            Sign.TF_TIME,
            f'no transform from {camera.frame_id!r} to {_base(seen)!r} at the stamp of the image, '
            f'{camera.posed_ns / 1e9:.3f} s: {reason} (waited '
            f'{seen.config.times.wait_tf_s:g} s)',
            'let the clocks of both agree, publish that transform more often or, if it never '
            'changes, on /tf_static; raise limits.wait_tf_s if it only comes late', camera.name)


def same_frame(seen: Seen) -> Iterator[Finding]:
    """Two cameras claim one place."""
    users: dict[str, list[str]] = defaultdict(list)
    for camera in seen.cameras:
        if camera.frame_id:
            users[camera.frame_id].append(camera.name)
    for frame, names in users.items():
        if len(names) > 1:
            yield Finding(
                Sign.SAME_FRAME, f'{" and ".join(names)} have the same frame_id, {frame!r}',
                'give each camera an optical frame of its own: with one pose for two, every check '
                'by geometry is wrong')


def same_place(seen: Seen) -> Iterator[Finding]:
    """Two frames lie in one point."""
    for a, b in combinations(seen.cameras, 2):
        if a.base_from_cam is None or b.base_from_cam is None or a.frame_id == b.frame_id:
            continue
        gap_m = float(np.linalg.norm(a.base_from_cam.t_m - b.base_from_cam.t_m))
        if gap_m < NO_BASELINE_M:
            yield Finding(
                Sign.SAME_PLACE,
                f'{a.name} and {b.name} are in the same place by TF ({1000 * gap_m:.1f} mm apart)',
                'check the calibration of both: from one place, nothing can be triangulated')


def _disconnected(seen: Seen, camera: CameraSeen) -> str:
    """Say what keeps the two frames apart at any time; '' if nothing does."""
    frame, base, links = camera.frame_id, _base(seen), seen.links
    if not frame or camera.base_from_cam is not None:
        return ''
    return loop(links, frame) or loop(links, base) or why_apart(links, base, frame)


def _base(seen: Seen) -> str:
    assert isinstance(seen.config, Config)
    return seen.config.base_frame.lstrip('/')


OF_TF = (no_frame_id, no_tf, tf_time)
OF_ALL_TF = (same_frame, same_place)
