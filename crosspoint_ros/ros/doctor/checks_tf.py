"""Checks that TF connects every camera to the base, at the stamps of its images."""
from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from crosspoint_ros.core.tf_tree import explain_disconnected, explain_failure, find_loop
from crosspoint_ros.ros.doctor.checks_node import has_comparable_stamps
from crosspoint_ros.ros.doctor.finding import Finding, FindingCode, find_shared
from crosspoint_ros.ros.doctor.snapshot import CameraSnapshot, Snapshot

MIN_BASELINE_M = 0.001


def check_tf(snapshot: Snapshot, camera: CameraSnapshot) -> Iterator[Finding]:
    """Images have a frame_id, which is connected to the base when they are taken."""
    frame, base, frames = camera.frame_id, snapshot.base_frame, snapshot.frames
    if not frame:
        if camera.image.newest is not None:
            yield Finding(FindingCode.NO_FRAME_ID,
                          f'the images on {camera.image.topic} have an empty frame_id',
                          "set the camera's optical frame in the driver (frame_id, "
                          'camera_frame_id)')
        return
    if camera.base_from_cam is not None:
        return
    no_transform = f'no transform from {frame!r} to {base!r}'
    reason = (find_loop(frames, frame) or find_loop(frames, base)
              or explain_disconnected(frames, base, frame))
    if reason:
        yield Finding(FindingCode.NO_TF, f'{no_transform}: {reason}',
                      'publish it (robot_state_publisher with the URDF, or '
                      'static_transform_publisher with the calibration), or correct base_frame')
    # Transforms sent before the doctor listened are unknown; other clocks have their own finding.
    elif camera.tf_stamp_ns > snapshot.start_ns and has_comparable_stamps(snapshot, camera):
        reason = explain_failure(frames, base, frame, camera.tf_stamp_ns)
        yield Finding(FindingCode.TF_TIME,
                      f"{no_transform} at the image's stamp, {camera.tf_stamp_ns / 1e9:.3f} s: "
                      f'{reason} (waited {snapshot.times.wait_tf_s:g} s)',
                      'synchronise the clocks; publish it more often, or on /tf_static if it '
                      'never changes; raise limits.wait_tf_s if it arrives late')


def check_unique_frames(snapshot: Snapshot) -> Iterator[Finding]:
    """No two cameras share a frame."""
    for frame, names in find_shared((camera.frame_id, camera.name) for camera in snapshot.cameras):
        yield Finding(FindingCode.SAME_FRAME,
                      f'{" and ".join(names)} have the same frame_id, {frame!r}',
                      'give each camera its optical frame: with one pose for two cameras, every '
                      'geometric check is wrong')


def check_baselines(snapshot: Snapshot) -> Iterator[Finding]:
    """No two frames are in one place."""
    for a, b in combinations(snapshot.cameras, 2):
        if a.base_from_cam is None or b.base_from_cam is None or a.frame_id == b.frame_id:
            continue
        gap_m = float(np.linalg.norm(a.base_from_cam.t_m - b.base_from_cam.t_m))
        if gap_m < MIN_BASELINE_M:
            yield Finding(FindingCode.SAME_PLACE,
                          f'{a.name} and {b.name} are {1000 * gap_m:.1f} mm apart in TF (minimum '
                          f'{1000 * MIN_BASELINE_M:g})',
                          'check both calibrations: without a baseline nothing can be '
                          'triangulated')


CHECKS = (check_tf,)
SYSTEM_CHECKS = (check_unique_frames, check_baselines)
