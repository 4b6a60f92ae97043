"""Scenes in ScanNet's layout: color/N.jpg, depth/N.png in mm, pose/N.txt, intrinsic/*.txt."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.data.scenes.rgbd_scene import (
    MAX_NORM_ERROR,
    ReadOptions,
    RgbdFrame,
    Say,
    UnusableData,
    natural_sort_key,
    read_matrix,
    read_rgb,
    read_scaled_depth_m,
)

COLOUR_FOLDERS, IMAGE_SUFFIXES = ('color', 'colour', 'rgb'), ('.jpg', '.jpeg', '.png')
DEPTH_PER_M = 1000.0
FRAME_PERIOD_NS = 33_333_333  # the layout has no stamps; its sensor takes 30 a second


class ScanNetScene:
    """A folder of colours, depths and poses world_from_camera, one file a frame each."""

    def __init__(self, folder: Path, reading: ReadOptions, say: Say) -> None:
        """List the frames that have a pose. Raises `Unusable`."""
        self.name: str = folder.name
        self._folder, self._per_m = folder, reading.depth_per_m or DEPTH_PER_M
        colours = next((folder / c for c in COLOUR_FOLDERS if (folder / c).is_dir()), folder / COLOUR_FOLDERS[0])
        self._colour_matrix, self._depth_matrix = _read_intrinsics(folder)
        self._colours: dict[str, Path] = {}
        self.frames: list[RgbdFrame] = []
        found = [p for p in colours.glob('*') if p.suffix.lower() in IMAGE_SUFFIXES]
        for number, path in enumerate(sorted(found, key=lambda p: natural_sort_key(p.stem))):
            try:
                pose = _read_pose(folder / 'pose' / f'{path.stem}.txt')
            except UnusableData as problem:
                say(str(problem))
                continue
            self._colours[path.stem] = path
            self.frames.append(RgbdFrame(
                path.stem, 'camera', (int(path.stem) if path.stem.isdigit() else number)
                * FRAME_PERIOD_NS, pose.inverse if reading.inverted else pose))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`. The colours are brought to the depth's lens, where they differ."""
        depth_m = read_scaled_depth_m(self._folder / 'depth' / f'{frame.name}.png', self._per_m)
        image = read_rgb(self._colours[frame.name])
        height, width = depth_m.shape
        m = self._depth_matrix
        lens = Intrinsics(m[0, 0], m[1, 1], m[0, 2], m[1, 2], width, height)
        return View(frame.camera, self._register_to_depth(image, width, height), lens, frame.stamp_ns, '',
                    depth_m, frame.base_from_cam)

    def _register_to_depth(self, image: Rgb, width: int, height: int) -> Rgb:
        colour_from_depth = self._colour_matrix @ np.linalg.inv(self._depth_matrix)
        if image.shape[:2] == (height, width) and np.allclose(colour_from_depth, np.eye(3)):
            return image
        shrunk = 1 / max(colour_from_depth[0, 0], 1.0)  # else fine texture would turn to noise
        if shrunk < 0.75:
            image = np.asarray(cv2.resize(image, None, fx=shrunk, fy=shrunk,
                                          interpolation=cv2.INTER_AREA), np.uint8)
            half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
            colour_from_depth = np.linalg.inv(half) @ np.diag([shrunk, shrunk, 1]) @ half \
                @ colour_from_depth
        return np.asarray(cv2.warpPerspective(
            image, colour_from_depth, (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.uint8)


def _read_pose(path: Path) -> Transform:
    """Read a pose; trackers multiply rotations until they are none any more. Raises `Unusable`."""
    matrix = read_matrix(path, (4, 4))
    try:
        return Transform.from_noisy_matrix(matrix, MAX_NORM_ERROR)
    except ValueError as error:
        raise UnusableData(f'{path}: {error}') from error


def _read_intrinsics(folder: Path) -> tuple[Array, Array]:
    """The matrices of colour and depth; one stands for both where there is one."""
    matrices = []
    for kind in ('color', 'depth'):
        path = folder / 'intrinsic' / f'intrinsic_{kind}.txt'
        if path.is_file():
            size = len(path.read_text().split())
            matrices.append(read_matrix(path, (3, 3) if size == 9 else (4, 4))[:3, :3])
    if not matrices:
        raise UnusableData(f'{folder}: its lens is not known; intrinsic/intrinsic_color.txt and '
                       'intrinsic/intrinsic_depth.txt hold it, 4 x 4 numbers each')
    return matrices[0], matrices[-1]
