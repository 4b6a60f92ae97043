"""Scenes in the layout of TUM RGB-D: rgb.txt, depth.txt, groundtruth.txt, depth times 5000."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, View
from crosspoint_ros.data.rgbd import (
    Frame,
    Reading,
    Say,
    Unusable,
    depth_m_of_file,
    rgb_of_file,
    transform_of,
)

CALIBRATION = 'calibration.txt'
DEPTH_PER_M = 5000.0
MAX_LAG_S = 0.02
# What the authors of the dataset publish for their three cameras: fx fy cx cy k1 k2 p1 p2 k3.
PUBLISHED = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6)}


@dataclass(frozen=True)
class Files:
    """Where the colour and the depth of a frame lie."""

    colour: Path
    depth: Path


class TumScene:
    """A folder of TUM RGB-D, with `calibration.txt` (fx fy cx cy, k1 k2 p1 p2 k3 if it bends)."""

    def __init__(self, folder: Path, reading: Reading, say: Say) -> None:
        """Read the three lists. Raises `Unusable`."""
        self.name: str = folder.name
        self._lens, self._per_m = _lens(folder), reading.depth_per_m or DEPTH_PER_M
        depths = list(_lines(folder / 'depth.txt', 2, say))
        poses = list(_lines(folder / 'groundtruth.txt', 8, say))
        self._files: dict[str, Files] = {}
        self.frames: list[Frame] = []
        for at_s, words in _lines(folder / 'rgb.txt', 2, say):
            item = f'{folder / "rgb.txt"}: {words[0]}'
            try:
                depth, pose = _near(depths, at_s, item, 'depth'), _near(poses, at_s, item, 'pose')
                base_from_cam = transform_of(
                    np.array(pose[:3], float), np.array(pose[3:], float), item)
            except Unusable as problem:
                say(str(problem))
                continue
            self._files[words[0]] = Files(folder / words[0], folder / depth[0])
            self.frames.append(Frame(
                words[0], 'camera', round(at_s * 1e9),
                base_from_cam.inverse if reading.inverted else base_from_cam))

    def view(self, frame: Frame) -> View:
        """See `RgbdScene`."""
        files = self._files[frame.name]
        image = rgb_of_file(files.colour)
        depth_m = depth_m_of_file(files.depth, self._per_m)
        height, width = image.shape[:2]
        if depth_m.shape != (height, width):
            raise Unusable(f'{files.depth}: it is {depth_m.shape[1]}x{depth_m.shape[0]}, its image '
                           f'{width}x{height}')
        fx, fy, cx, cy, *bends = self._lens
        lens = Intrinsics(fx, fy, cx, cy, width, height, tuple(bends))
        return View(frame.camera, image, lens, frame.stamp_ns, '', depth_m, frame.base_from_cam)


def _lens(folder: Path) -> Array:
    path = folder / CALIBRATION
    known = next((values for name, values in PUBLISHED.items() if name in folder.name), None)
    if path.is_file():
        try:
            values = np.array(path.read_text().split(), float)
        except ValueError as error:
            raise Unusable(f'{path}: {error}') from error
    elif known:
        values = np.array(known)
    else:
        raise Unusable(f'{folder}: its lens is not known; write fx fy cx cy (and k1 k2 p1 p2 k3, '
                       f'if it bends) to {CALIBRATION}')
    if values.size not in (4, 8, 9):
        raise Unusable(f'{path}: 4, 8 or 9 numbers are expected, it has {values.size}')
    return values


def _lines(path: Path, words: int, say: Say) -> Iterator[tuple[float, list[str]]]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f'{path}: {error}') from error
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


def _near(listed: list[tuple[float, list[str]]], at_s: float, item: str, what: str) -> list[str]:
    near = min(listed, key=lambda each: abs(each[0] - at_s), default=None)
    if near is None or abs(near[0] - at_s) > MAX_LAG_S:
        lag = '' if near is None else f', the nearest is {abs(near[0] - at_s):.3f} s away'
        raise Unusable(f'{item}: it has no {what} within {MAX_LAG_S:g} s{lag}')
    return near[1]
