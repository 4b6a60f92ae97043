"""Puts the wrist camera off on purpose, and lets `crosspoint calibrate` find where it is."""
from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.bench.pick.arm import Arm
from crosspoint_ros.bench.pick.rig import PickRig
from crosspoint_ros.bench.pick.scene import TOOL_FRAME
from crosspoint_ros.bench.pick.trial import IDENTITY, draw_world
from crosspoint_ros.bench.pick.world import CAMERAS
from crosspoint_ros.core.datatypes import Transform

LOOKS_AT_M, DISTANCE_M = np.array([0.52, 0.0, 0.03]), 0.42
TILTS_DEG, TURNS_DEG = (-22.0, -8.0, 8.0, 22.0), (-35.0, 0.0, 35.0)
DISCOVERY_S, LIVE_S, SOLVE_TIMEOUT_S = 5.0, 40.0, 240.0
STEPS = 250  # from pose to pose


def list_poses() -> Iterator[Transform]:
    """Yield base_from_hand of poses from which the wrist camera shows the table from all sides."""
    for index, tilt in enumerate(np.radians(TILTS_DEG)):
        for aside, turn in enumerate(np.radians(TURNS_DEG)):
            tip = np.radians(TILTS_DEG[(index + aside) % len(TILTS_DEG)])
            R = np.diag([1.0, -1.0, -1.0]) @ cv2.Rodrigues(np.array([0.0, 0.0, turn]))[0] @ (
                cv2.Rodrigues(np.array([tilt, 0.0, 0.0]))[0]) @ (
                cv2.Rodrigues(np.array([0.0, tip, 0.0]))[0])
            yield Transform(R, LOOKS_AT_M - DISTANCE_M * R[:, 2])


def calibrate(rig: PickRig, seed: int, arm: Arm, hand_eye: Transform, folder: Path) -> Transform:
    """Run `crosspoint calibrate --live` while the arm moves; return the error that is left.

    hand_eye: the error before. Raises RuntimeError with what the command prints if it refuses.
    """
    out, log = folder / 'calibration.yaml', folder / 'calibrate.log'
    error = {'front': IDENTITY, 'wrist': hand_eye}
    rng = np.random.default_rng([seed, 3])
    with closing(draw_world(seed, arm)) as world, log.open('w') as output:
        hand_from_cam = world.get_hand().inverse @ world.get_pose('wrist')
        process = subprocess.Popen(
            [sys.executable, '-m', 'crosspoint_ros.cli', 'calibrate', '--live', f'{LIVE_S:g}',
             '--camera', 'wrist', '--hand-frame', TOOL_FRAME, '--mask', str(rig.mask),
             '--out', str(out)], stdout=output, stderr=subprocess.STDOUT)
        try:
            end_s = time.monotonic() + DISCOVERY_S + LIVE_S
            for pose in cycle(list_poses()):
                if process.poll() is not None or time.monotonic() > end_s:
                    break
                world.move(pose, STEPS)
                rig.show(world, {camera: world.shoot(camera) for camera in CAMERAS}, error, rng)
            code = process.wait(SOLVE_TIMEOUT_S)
        finally:
            process.kill()
    if code:
        raise RuntimeError(f'crosspoint calibrate: {log.read_text()[-2000:]}')
    shift, turn = re.findall(r'body_from_camera:\n +translation_m: (\[.*\])\n'
                             r' +quaternion_xyzw: (\[.*\])', out.read_text())[0]
    calibrated = Transform.from_quaternion(json.loads(turn), json.loads(shift))
    return hand_from_cam.inverse @ calibrated


def format_error(error: Transform) -> str:
    """Return how far off a pose is, in mm and deg."""
    turn_rad = float(np.linalg.norm(cv2.Rodrigues(error.R)[0]))
    return f'{1000 * np.linalg.norm(error.t_m):.1f} mm and {np.degrees(turn_rad):.2f} deg off'
