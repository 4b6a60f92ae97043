"""Scenes in TUM RGB-D's format: rgb.txt, depth.txt, groundtruth.txt, 16-bit depth."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.image_io import read_depth_m, read_image
from crosspoint_ros.core.tf_tree import nearest_stamp_index
from crosspoint_ros.data.scenes.rgbd_scene import (
    MAX_STRETCH,
    CameraMoved,
    ReadOptions,
    RgbdFrame,
    UnusableData,
    check_depth_lag,
    raise_unusable,
    warn_moved,
)

log = logging.getLogger(__name__)
CALIBRATION = 'calibration.txt'
DEPTH_PER_M = 5000.0
MAX_LAG_S, MAX_GAP_S = 0.02, 0.1  # to the depth and to the nearer pose; between two poses
STAMP_TOLERANCE_S = 1e-4  # stamps have 4 digits, or 6
# Published with the dataset for its three cameras: fx fy cx cy k1 k2 p1 p2 k3.
PUBLISHED_INTRINSICS = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6)}
Line = tuple[float, list[str]]  # stamp, values


class Trajectory(NamedTuple):
    """Poses base_from_cam, sorted by stamp."""

    stamps_s: list[float]
    poses: list[Transform]


class TumScene:
    """A folder of TUM RGB-D, with `calibration.txt` (fx fy cx cy, k1 k2 p1 p2 k3 if distorted)."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """Read the three lists. Raises `UnusableData`."""
        self.name: str = folder.name
        self._calibration = _read_calibration(folder)
        self._depth_per_m = options.depth_per_m or DEPTH_PER_M
        self._paths: dict[str, tuple[Path, Path]] = {}  # colour, depth
        self.frames: list[RgbdFrame] = []
        depths = sorted(_read_lines(folder / 'depth.txt', 2))
        depth_stamps_s = [stamp_s for stamp_s, _ in depths]
        trajectory = _read_trajectory(folder / 'groundtruth.txt', options.inverted)
        moved: list[CameraMoved] = []
        for stamp_s, (name,) in _read_lines(folder / 'rgb.txt', 2):
            try:
                nearest = _find_nearest(depth_stamps_s, stamp_s, name, 'depth')
                self._add_frame(folder, stamp_s, name, depths[nearest], trajectory)
            except CameraMoved as problem:
                moved.append(problem)
            except UnusableData as problem:
                log.warning('%s: %s: skipped', folder / 'rgb.txt', problem)
        warn_moved(moved, folder / 'rgb.txt')

    def _add_frame(self, folder: Path, stamp_s: float, name: str, depth_line: Line,
                   trajectory: Trajectory) -> None:
        depth_s, (depth,) = depth_line
        pose = _interpolate_pose(trajectory, stamp_s, name)
        check_depth_lag(pose, _interpolate_pose(trajectory, depth_s, depth), self._calibration[0],
                        name)
        self._paths[name] = (folder / name, folder / depth)
        self.frames.append(RgbdFrame(name, 'camera', round(stamp_s * 1e9), pose))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        colour_path, depth_path = self._paths[frame.name]
        with raise_unusable():
            image = read_image(colour_path)
            depth_m = read_depth_m(depth_path, self._depth_per_m)
            height, width = image.shape[:2]
            if depth_m.shape != (height, width):
                raise UnusableData(f'{depth_path} is {depth_m.shape[1]}x{depth_m.shape[0]}, its '
                                   f'image {width}x{height}')
            fx, fy, cx, cy, *distortion = self._calibration
            intrinsics = Intrinsics(fx, fy, cx, cy, width, height, tuple(distortion))
            return View(frame.camera, image, intrinsics, frame.stamp_ns, '', depth_m,
                        frame.base_from_cam)


def _read_calibration(folder: Path) -> Array:
    path = folder / CALIBRATION
    published = next((values for name, values in PUBLISHED_INTRINSICS.items()
                      if name in folder.name), None)
    if path.is_file():
        with raise_unusable(path):
            values = np.array(path.read_text().split(), float)
    elif published:
        values = np.array(published)
    else:
        raise UnusableData(f'{folder}: its intrinsics are unknown; write fx fy cx cy (and k1 k2 p1 '
                           f'p2 k3, if it is distorted) to {CALIBRATION}')
    if values.size not in (4, 8, 9):
        raise UnusableData(f'{path}: 4, 8 or 9 numbers are expected, it has {values.size}')
    return values


def _read_lines(path: Path, columns: int) -> Iterator[Line]:
    """Yield the lines of a list; further columns are dropped."""
    with raise_unusable(path):
        lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        values = line.split('#')[0].replace(',', ' ').split()
        if not values:
            continue
        try:
            if len(values) < columns:
                raise ValueError(f'{columns} values are expected, it has {len(values)}')
            if columns > 2:
                np.array(values, float)
            yield float(values[0]), values[1:columns]
        except ValueError as error:
            log.warning('%s: line %d is skipped: %s', path, number, error)


def _read_trajectory(path: Path, inverted: bool) -> Trajectory:
    trajectory = Trajectory([], [])
    for stamp_s, values in sorted(_read_lines(path, 8)):
        numbers = np.array(values, float)
        t_m, xyzw = numbers[:3], numbers[3:]
        length = float(np.linalg.norm(xyzw))
        try:
            if not abs(length - 1) <= MAX_STRETCH:
                raise ValueError(f'its quaternion has the length {length:.3f} (must be 1 within '
                                 f'{MAX_STRETCH:g})')
            pose = Transform.from_quaternion(xyzw / length, t_m)  # rounded to 4 digits
        except ValueError as error:
            log.warning('%s: the pose at %.6f is skipped: %s', path, stamp_s, error)
            continue
        trajectory.stamps_s.append(stamp_s)
        trajectory.poses.append(pose.inverse if inverted else pose)
    return trajectory


def _find_nearest(stamps_s: Sequence[float], stamp_s: float, item: str, what: str) -> int:
    """Return the index of the nearest stamp. Raises `UnusableData` if it is too far."""
    if not stamps_s:
        raise UnusableData(f'{item}: there is no {what}')
    index = nearest_stamp_index(stamps_s, stamp_s)
    if (lag_s := abs(stamps_s[index] - stamp_s)) > MAX_LAG_S:
        raise UnusableData(f'{item}: the nearest {what} is {lag_s:.3f} s away (limit '
                           f'{MAX_LAG_S:g})')
    return index


def _interpolate_pose(trajectory: Trajectory, stamp_s: float, item: str) -> Transform:
    """Return base_from_cam between two poses, never beyond them. Raises `UnusableData`."""
    stamps_s, poses = trajectory
    nearest = _find_nearest(stamps_s, stamp_s, item, 'pose')
    if abs(stamps_s[nearest] - stamp_s) <= STAMP_TOLERANCE_S:
        return poses[nearest]
    before = nearest if stamps_s[nearest] < stamp_s else nearest - 1
    if not 0 <= before < len(poses) - 1:
        raise UnusableData(f'{item}: it is outside of the poses by '
                           f'{abs(stamps_s[nearest] - stamp_s):.4f} s')
    gap_s = stamps_s[before + 1] - stamps_s[before]
    if gap_s > MAX_GAP_S:
        raise UnusableData(f'{item}: the poses around it are {gap_s:.3f} s apart (limit '
                           f'{MAX_GAP_S:g})')
    return poses[before].interpolate(poses[before + 1], (stamp_s - stamps_s[before]) / gap_s)
