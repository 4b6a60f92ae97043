"""Scenes in the layout of TUM RGB-D: rgb.txt, depth.txt, groundtruth.txt, depth times 5000."""
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.data.scenes.rgbd_scene import (
    CameraMoved,
    ReadOptions,
    RgbdFrame,
    Say,
    UnusableData,
    check_depth_lag,
    pose_from_quaternion,
    read_rgb,
    read_scaled_depth_m,
    warn_moved,
)

CALIBRATION = 'calibration.txt'
DEPTH_PER_M = 5000.0
MAX_LAG_S, MAX_GAP_S = 0.02, 0.1  # to the depth, to the nearer pose; between two poses
STAMP_TOLERANCE_S = 1e-4  # stamps are written with 4 digits, or 6
# What the authors of the dataset publish for their three cameras: fx fy cx cy k1 k2 p1 p2 k3.
PUBLISHED_INTRINSICS = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6)}
Line = tuple[float, list[str]]
Trajectory = list[tuple[float, Transform]]
Stamped = TypeVar('Stamped', bound=tuple[float, Any])


@dataclass(frozen=True)
class FramePaths:
    """Where the colour and the depth of a frame lie."""

    colour: Path
    depth: Path


class TumScene:
    """A folder of TUM RGB-D, with `calibration.txt` (fx fy cx cy, k1 k2 p1 p2 k3 if it bends)."""

    def __init__(self, folder: Path, reading: ReadOptions, say: Say) -> None:
        """Read the three lists. Raises `Unusable`."""
        self.name: str = folder.name
        self._calibration, self._per_m = _read_calibration(folder), reading.depth_per_m or DEPTH_PER_M
        self._files: dict[str, FramePaths] = {}
        self.frames: list[RgbdFrame] = []
        depths = sorted(_read_lines(folder / 'depth.txt', 2, say), key=_get_stamp_s)
        track = list(_read_trajectory(folder / 'groundtruth.txt', reading.inverted, say))
        moved: list[CameraMoved] = []
        for at_s, words in _read_lines(folder / 'rgb.txt', 2, say):
            try:
                self._add(folder, at_s, words[0], depths, track)
            except CameraMoved as problem:
                moved.append(problem)
            except UnusableData as problem:
                say(f'{folder / "rgb.txt"}: {problem}')
        warn_moved(moved, str(folder / 'rgb.txt'), say)

    def _add(self, folder: Path, at_s: float, name: str, depths: list[Line], track: Trajectory) -> None:
        depth_s, (depth, *_) = _find_nearest(depths, at_s, name, 'depth')
        pose = _interpolate_pose(track, at_s, name)
        check_depth_lag(pose, _interpolate_pose(track, depth_s, depth), self._calibration[0], name)
        self._files[name] = FramePaths(folder / name, folder / depth)
        self.frames.append(RgbdFrame(name, 'camera', round(at_s * 1e9), pose))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        files = self._files[frame.name]
        image = read_rgb(files.colour)
        depth_m = read_scaled_depth_m(files.depth, self._per_m)
        height, width = image.shape[:2]
        if depth_m.shape != (height, width):
            raise UnusableData(f'{files.depth}: it is {depth_m.shape[1]}x{depth_m.shape[0]}, its image '
                           f'{width}x{height}')
        fx, fy, cx, cy, *bends = self._calibration
        lens = Intrinsics(fx, fy, cx, cy, width, height, tuple(bends))
        return View(frame.camera, image, lens, frame.stamp_ns, '', depth_m, frame.base_from_cam)


def _read_calibration(folder: Path) -> Array:
    path = folder / CALIBRATION
    known = next((values for name, values in PUBLISHED_INTRINSICS.items() if name in folder.name), None)
    if path.is_file():
        try:
            values = np.array(path.read_text().split(), float)
        except ValueError as error:
            raise UnusableData(f'{path}: {error}') from error
    elif known:
        values = np.array(known)
    else:
        raise UnusableData(f'{folder}: its lens is not known; write fx fy cx cy (and k1 k2 p1 p2 k3, '
                       f'if it bends) to {CALIBRATION}')
    if values.size not in (4, 8, 9):
        raise UnusableData(f'{path}: 4, 8 or 9 numbers are expected, it has {values.size}')
    return values


def _read_lines(path: Path, words: int, say: Say) -> Iterator[Line]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableData(f'{path}: {error}') from error
    for number, line in enumerate(lines, 1):
        parts = line.split('#')[0].replace(',', ' ').split()
        if not parts:
            continue
        try:
            if len(parts) < words:
                raise ValueError(f'{words} words are expected, it has {len(parts)}')
            if words > 2:
                np.array(parts, float)
            yield float(parts[0]), parts[1:words]
        except ValueError as error:
            say(f'{path}: line {number} is left out: {error}')


def _read_trajectory(path: Path, inverted: bool, say: Say) -> Iterator[tuple[float, Transform]]:
    """Yield stamp and base_from_cam in the order of the stamps."""
    for at_s, words in sorted(_read_lines(path, 8, say), key=_get_stamp_s):
        try:
            pose = pose_from_quaternion(np.array(words[:3], float), np.array(words[3:], float),
                                f'{path}: {at_s:.6f}')
        except UnusableData as problem:
            say(str(problem))
            continue
        yield at_s, pose.inverse if inverted else pose


def _get_stamp_s(each: tuple[float, Any]) -> float:
    return each[0]


def _find_nearest(listed: Sequence[Stamped], at_s: float, item: str, what: str) -> Stamped:
    after = bisect_left(listed, at_s, key=_get_stamp_s)
    near = min(listed[max(after - 1, 0):after + 1], key=lambda each: abs(each[0] - at_s),
               default=None)
    if near is None or abs(near[0] - at_s) > MAX_LAG_S:
        lag = '' if near is None else f', the nearest is {abs(near[0] - at_s):.3f} s away'
        raise UnusableData(f'{item}: it has no {what} within {MAX_LAG_S:g} s{lag}')
    return near


def _interpolate_pose(track: Trajectory, at_s: float, item: str) -> Transform:
    """Return base_from_cam between two poses; never beyond them. Raises `Unusable`."""
    near_s, near = _find_nearest(track, at_s, item, 'pose')
    if abs(near_s - at_s) <= STAMP_TOLERANCE_S:
        return near
    after = bisect_left(track, at_s, key=_get_stamp_s)
    if not 0 < after < len(track):
        raise UnusableData(f'{item}: it lies outside of the poses by {abs(near_s - at_s):.4f} s')
    (start_s, before), (end_s, later) = track[after - 1:after + 1]
    if end_s - start_s > MAX_GAP_S:
        raise UnusableData(f'{item}: the poses around it are {end_s - start_s:.3f} s apart (limit '
                       f'{MAX_GAP_S:g})')
    return before.interpolate(later, (at_s - start_s) / (end_s - start_s))
