"""What can be wrong with TF: no way from a camera to the base, or not at the time of the image."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.doctor.checks_node import has_comparable_stamps
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot
from crosspoint_ros.ros.tf import explain_disconnected, explain_failure, find_loop

MIN_BASELINE_M = 0.001


def check_frame_id(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Nothing says whose images these are."""
    if camera.image.newest is not None and not camera.frame_id:
        yield Finding(
            FindingCode.NO_FRAME_ID, f'the images on {camera.image.topic} have an empty frame_id',
            "let the driver name the camera's optical frame (frame_id, camera_frame_id)",
            camera.name)


def check_tf_connected(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The two frames are not connected, whatever the time."""
    reason = _explain_disconnected(snapshot, camera)
    if reason:
        yield Finding(
            FindingCode.NO_TF, f'no transform from {camera.frame_id!r} to {_base_frame(snapshot)!r}: {reason}',
            'publish it: robot_state_publisher with the URDF, or ros2 run tf2_ros '
            'static_transform_publisher with the calibration; if the base is called otherwise, '
            'set base_frame', camera.name)


def check_tf_at_stamp(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """The two frames are connected, but not when the image was taken."""
    # What was sent before we came cannot be known here; of another clock, its own finding tells.
    asked = camera.tf_stamp_ns > snapshot.start_ns and has_comparable_stamps(snapshot, camera)
    if asked and camera.frame_id and camera.base_from_cam is None \
            and not _explain_disconnected(snapshot, camera):
        assert isinstance(snapshot.config, Config)
        reason = explain_failure(snapshot.links, _base_frame(snapshot), camera.frame_id, camera.tf_stamp_ns)
        yield Finding(
            FindingCode.TF_TIME,
            f'no transform from {camera.frame_id!r} to {_base_frame(snapshot)!r} at the stamp of the image, '
            f'{camera.tf_stamp_ns / 1e9:.3f} s: {reason} (waited '
            f'{snapshot.config.times.wait_tf_s:g} s)',
            'let the clocks of both agree, publish that transform more often or, if it never '
            'changes, on /tf_static; raise limits.wait_tf_s if it only comes late', camera.name)


def check_unique_frames(snapshot: Snapshot) -> Iterator[Finding]:
    """Two cameras claim one place."""
    users: dict[str, list[str]] = defaultdict(list)
    for camera in snapshot.cameras:
        if camera.frame_id:
            users[camera.frame_id].append(camera.name)
    for frame, names in users.items():
        if len(names) > 1:
            yield Finding(
                FindingCode.SAME_FRAME, f'{" and ".join(names)} have the same frame_id, {frame!r}',
                'give each camera an optical frame of its own: with one pose for two, every check '
                'by geometry is wrong')


def check_baselines(snapshot: Snapshot) -> Iterator[Finding]:
    """Two frames lie in one point."""
    for a, b in combinations(snapshot.cameras, 2):
        if a.base_from_cam is None or b.base_from_cam is None or a.frame_id == b.frame_id:
            continue
        gap_m = float(np.linalg.norm(a.base_from_cam.t_m - b.base_from_cam.t_m))
        if gap_m < MIN_BASELINE_M:
            yield Finding(
                FindingCode.SAME_PLACE,
                f'{a.name} and {b.name} are in the same place by TF ({1000 * gap_m:.1f} mm apart)',
                'check the calibration of both: from one place, nothing can be triangulated')


def _explain_disconnected(snapshot: Snapshot, camera: CameraSnapshot) -> str:
    """Say what keeps the two frames apart at any time; '' if nothing does."""
    frame, base, links = camera.frame_id, _base_frame(snapshot), snapshot.links
    if not frame or camera.base_from_cam is not None:
        return ''
    return find_loop(links, frame) or find_loop(links, base) or explain_disconnected(links, base, frame)


def _base_frame(snapshot: Snapshot) -> str:
    assert isinstance(snapshot.config, Config)
    return snapshot.config.base_frame.lstrip('/')


TF_CHECKS = (check_frame_id, check_tf_connected, check_tf_at_stamp)
TF_TREE_CHECKS = (check_unique_frames, check_baselines)
