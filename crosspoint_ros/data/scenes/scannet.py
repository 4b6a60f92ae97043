"""Scenes in ScanNet's format: color/N.jpg, depth/N.png in mm, pose/N.txt, intrinsic/*.txt."""
from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.image_io import read_depth_m, read_image
from crosspoint_ros.data.scenes.rgbd_scene import (
    MAX_STRETCH,
    ReadOptions,
    RgbdFrame,
    UnusableData,
    natural_sort_key,
    raise_unusable,
    read_matrix,
)

log = logging.getLogger(__name__)
COLOUR_FOLDERS, IMAGE_SUFFIXES = ('color', 'colour', 'rgb'), ('.jpg', '.jpeg', '.png')
DEPTH_PER_M = 1000.0
FRAME_PERIOD_NS = 33_333_333  # the format has no stamps; its sensor takes 30 images a second


class ScanNetScene:
    """A folder with one file of colour, depth and pose (world_from_camera) a frame."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """List the frames that have a pose. Raises `UnusableData`."""
        self.name: str = folder.name
        self._folder, self._depth_per_m = folder, options.depth_per_m or DEPTH_PER_M
        colours = next((folder / c for c in COLOUR_FOLDERS if (folder / c).is_dir()),
                       folder / COLOUR_FOLDERS[0])
        self._colour_matrix, self._depth_matrix = _read_intrinsics(folder)
        self._image_paths: dict[str, Path] = {}
        self.frames: list[RgbdFrame] = []
        images = [p for p in colours.glob('*') if p.suffix.lower() in IMAGE_SUFFIXES]
        for number, path in enumerate(sorted(images, key=lambda p: natural_sort_key(p.stem))):
            try:
                pose = _read_pose(folder / 'pose' / f'{path.stem}.txt')
            except UnusableData as problem:
                log.warning('%s: frame %s is skipped: %s', self.name, path.stem, problem)
                continue
            self._image_paths[path.stem] = path
            index = int(path.stem) if path.stem.isdigit() else number
            self.frames.append(RgbdFrame(path.stem, 'camera', index * FRAME_PERIOD_NS,
                                         pose.inverse if options.inverted else pose))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`. The colours are warped into the depth camera where the two differ."""
        with raise_unusable():
            depth_m = read_depth_m(self._folder / 'depth' / f'{frame.name}.png', self._depth_per_m)
            image = read_image(self._image_paths[frame.name])
            height, width = depth_m.shape
            K = self._depth_matrix
            intrinsics = Intrinsics(K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height)
            return View(frame.camera, self._register_to_depth(image, width, height), intrinsics,
                        frame.stamp_ns, '', depth_m, frame.base_from_cam)

    def _register_to_depth(self, image: Rgb, width: int, height: int) -> Rgb:
        colour_from_depth = self._colour_matrix @ np.linalg.inv(self._depth_matrix)
        if image.shape[:2] == (height, width) and np.allclose(colour_from_depth, np.eye(3)):
            return image
        scale = 1 / max(colour_from_depth[0, 0], 1.0)
        if scale < 0.75:  # average first, or fine texture would alias
            image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale,
                                          interpolation=cv2.INTER_AREA), np.uint8)
            half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
            colour_from_depth = np.linalg.inv(half) @ np.diag([scale, scale, 1]) @ half \
                @ colour_from_depth
        return np.asarray(cv2.warpPerspective(
            image, colour_from_depth, (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.uint8)


def _read_pose(path: Path) -> Transform:
    """Read a pose; trackers multiply rotations until they drift. Raises `UnusableData`."""
    matrix = read_matrix(path, (4, 4))
    with raise_unusable(path):
        return Transform.from_noisy_matrix(matrix, MAX_STRETCH)


def _read_intrinsics(folder: Path) -> tuple[Array, Array]:
    """Read the matrices of colour and depth; the same one twice if there is only one."""
    paths = [folder / 'intrinsic' / f'intrinsic_{kind}.txt' for kind in ('color', 'depth')]
    matrices = [read_matrix(path, (4, 4), (3, 3))[:3, :3] for path in paths if path.is_file()]
    if not matrices:
        raise UnusableData(f'{folder}: its intrinsics are unknown; write them to intrinsic/'
                           'intrinsic_color.txt and intrinsic/intrinsic_depth.txt, 4 x 4 each')
    return matrices[0], matrices[-1]
