"""Scenes in folders of image files: TUM RGB-D's format, ScanNet's, and the answer log's."""
from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.image_io import read_depth_m, read_image
from crosspoint_ros.core.tf_tree import nearest_stamp_index
from crosspoint_ros.data.answer_log import LoggedView, read_answers
from crosspoint_ros.data.scenes import rgbd_scene
from crosspoint_ros.data.scenes.rgbd_scene import CameraMoved, ReadOptions, RgbdFrame, UnusableData

log = logging.getLogger(__name__)
MAX_STRETCH = 0.05  # of a rotation or quaternion that was rounded, or has drifted in a tracker
COLOUR_FOLDERS = ('color', 'colour', 'rgb')
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
SCANNET_DEPTH_PER_M, TUM_DEPTH_PER_M = 1000.0, 5000.0
FRAME_PERIOD_NS = 33_333_333  # ScanNet has no stamps; its sensor takes 30 images a second
CALIBRATION = 'calibration.txt'
MAX_LAG_S, MAX_GAP_S = 0.02, 0.1  # to the depth and to the nearer pose; between two poses
STAMP_TOLERANCE_S = 1e-4  # stamps have 4 digits, or 6
# Published with the dataset for its three cameras: fx fy cx cy k1 k2 p1 p2 k3.
PUBLISHED_INTRINSICS = {
    'freiburg1': (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    'freiburg2': (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    'freiburg3': (535.4, 539.2, 320.1, 247.6)}
Line = tuple[float, list[str]]  # stamp, values
Trajectory = tuple[list[float], list[Transform]]  # sorted stamps, poses base_from_cam


class TumScene:
    """A folder of TUM RGB-D, with `calibration.txt` (fx fy cx cy, k1 k2 p1 p2 k3 if distorted)."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """Read the three lists. Raises `UnusableData`."""
        self.name: str = folder.name
        self._calibration = _read_calibration(folder)
        self._depth_per_m = options.depth_per_m or TUM_DEPTH_PER_M
        self._paths: dict[str, tuple[Path, Path]] = {}  # colour, depth
        self.frames: list[RgbdFrame] = []
        depths = sorted(_read_lines(folder / 'depth.txt', 2))
        depth_stamps_s = [stamp_s for stamp_s, _ in depths]
        trajectory = _read_trajectory(folder / 'groundtruth.txt', options.inverted)
        moved: list[CameraMoved] = []
        for stamp_s, (name,) in _read_lines(folder / 'rgb.txt', 2):
            try:
                depth_s, (depth,) = depths[_find_nearest(depth_stamps_s, stamp_s, name, 'depth')]
                pose = _interpolate_pose(trajectory, stamp_s, name)
                rgbd_scene.check_depth_lag(pose, _interpolate_pose(trajectory, depth_s, depth),
                                self._calibration[0], name)
                self._paths.setdefault(name, (folder / name, folder / depth))
                self.frames.append(RgbdFrame(name, 'camera', round(stamp_s * 1e9), pose))
            except CameraMoved as problem:
                moved.append(problem)
            except UnusableData as problem:
                log.warning('%s: %s: skipped', folder / 'rgb.txt', problem)
        rgbd_scene.warn_moved(moved, folder / 'rgb.txt')

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        colour_path, depth_path = self._paths[frame.name]
        with rgbd_scene.raise_unusable():
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
        values = np.array(list(_read_numbers(path)))
    elif published:
        values = np.array(published)
    else:
        raise UnusableData(f'{folder}: its intrinsics are unknown; write fx fy cx cy (and k1 k2 p1 '
                           f'p2 k3, if it is distorted) to {CALIBRATION}')
    if values.size not in (4, 8, 9):
        raise UnusableData(f'{path}: 4, 8 or 9 numbers are expected, it has {values.size}')
    return values


def _read_text_lines(path: Path) -> list[str]:
    """Read a text file as people's editors and tools leave it: a BOM, commas, comments."""
    with rgbd_scene.raise_unusable(path):
        data = path.read_bytes()
        encoding = 'utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig'
        return [line.split('#')[0].replace(',', ' ') for line in data.decode(encoding).splitlines()]


def _read_numbers(path: Path) -> Iterator[float]:
    """Yield all numbers of a file. Raises `UnusableData`, naming what is none, and its line."""
    for number, line in enumerate(_read_text_lines(path), 1):
        for word in line.split():
            try:
                yield float(word)
            except ValueError as error:
                raise UnusableData(f'{path}: line {number}: {word!r} is not a number: the file '
                                   'has numbers and # comments alone') from error


def _read_lines(path: Path, columns: int) -> Iterator[Line]:
    """Yield the lines of a list; further columns are dropped."""
    for number, line in enumerate(_read_text_lines(path), 1):
        values = line.split()
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
    trajectory: Trajectory = [], []
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
        trajectory[0].append(stamp_s)
        trajectory[1].append(pose.inverse if inverted else pose)
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


class ScanNetScene:
    """A folder with one file of colour, depth and pose (world_from_camera) a frame."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """List the frames that have a pose. Raises `UnusableData`."""
        self.name: str = folder.name
        self._folder, self._depth_per_m = folder, options.depth_per_m or SCANNET_DEPTH_PER_M
        colours = next((folder / c for c in COLOUR_FOLDERS if (folder / c).is_dir()),
                       folder / COLOUR_FOLDERS[0])
        self._colour_matrix, self._depth_matrix = _read_intrinsics(folder)
        self._image_paths: dict[str, Path] = {}
        self.frames: list[RgbdFrame] = []
        self._depth_paths = _index_by_stem(folder / 'depth', IMAGE_SUFFIXES)
        pose_paths = _index_by_stem(folder / 'pose', ('.txt',))
        images = _index_by_stem(colours, IMAGE_SUFFIXES).values()
        for number, path in enumerate(sorted(images, key=_natural_sort_key)):
            pose_path = pose_paths.get(path.stem, folder / 'pose' / f'{path.stem}.txt')
            try:
                with rgbd_scene.raise_unusable(pose_path):
                    matrix = _read_matrix(pose_path, (4, 4), (3, 4))
                    if not np.allclose(matrix[3:], [0, 0, 0, 1], atol=1e-4):
                        raise ValueError(f'its last row is {matrix[3].tolist()}, not 0 0 0 1: is '
                                         'it transposed?')
                    pose = Transform.from_noisy_matrix(matrix, MAX_STRETCH)
            except UnusableData as problem:
                log.warning('%s: frame %s is skipped: %s', self.name, path.stem, problem)
                continue
            self._image_paths[path.stem] = path
            index = int(path.stem) if path.stem.isdigit() else number
            self.frames.append(RgbdFrame(path.stem, 'camera', index * FRAME_PERIOD_NS,
                                         pose.inverse if options.inverted else pose))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`. The colours are warped into the depth camera where the two differ."""
        with rgbd_scene.raise_unusable():
            path = self._depth_paths.get(frame.name, self._folder / 'depth' / f'{frame.name}.png')
            depth_m = read_depth_m(path, self._depth_per_m)
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


def _index_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return a folder's files with these suffixes, in either case; the first goes before others."""
    paths = [p for p in sorted(folder.glob('*'))
             if p.suffix.lower() in suffixes and not p.name.startswith('.')]
    paths.sort(key=lambda p: suffixes.index(p.suffix.lower()), reverse=True)
    return {path.stem: path for path in paths}


def _natural_sort_key(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts 2 before 10."""
    return [(int(part or 0), '') if part.isdigit() else (0, part)
            for part in re.split(r'(\d+)', path.stem)]


def _read_matrix(path: Path, *shapes: tuple[int, int]) -> Array:
    """Read a text file of numbers as the first shape that fits. Raises `UnusableData`."""
    values = np.array(list(_read_numbers(path)))
    with rgbd_scene.raise_unusable(path):
        shape = next((s for s in shapes if s[0] * s[1] == values.size), None)
        if shape is None:
            expected = ' or '.join(f'{rows} x {columns}' for rows, columns in shapes)
            raise ValueError(f'{expected} numbers are expected, it has {values.size}')
        if not np.isfinite(values).all():
            raise ValueError('it has numbers that are not finite: the pose is unknown')
    return values.reshape(shape)


def _read_intrinsics(folder: Path) -> tuple[Array, Array]:
    """Read the matrices of colour and depth; the same one twice if there is only one."""
    paths = [folder / 'intrinsic' / f'intrinsic_{kind}.txt' for kind in ('color', 'depth')]
    matrices = [_read_matrix(path, (4, 4), (3, 3))[:3, :3] for path in paths if path.is_file()]
    if not matrices:
        raise UnusableData(f'{folder}: its intrinsics are unknown; write them to intrinsic/'
                           'intrinsic_color.txt and intrinsic/intrinsic_depth.txt, 4 x 4 each')
    return matrices[0], matrices[-1]


class AnswerLogScene:
    """The images of an answer log; each is a frame once."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """Read the log. Raises `UnusableData`."""
        self.name: str = folder.name
        if options.depth_per_m is not None:
            raise UnusableData(f'{folder}: logged depth is in mm; leave out --depth-per-m')
        self._views: dict[str, LoggedView] = {}
        self.frames: list[RgbdFrame] = []
        for answer in read_answers(folder):
            for view in (answer.clicked, *(match.view for match in answer.matches)):
                if view is not None:
                    self._views.setdefault(view.key, view)
        for key, view in self._views.items():
            pose = view.fields.get('base_from_cam')
            if pose is None or not view.fields.get('depth'):
                log.warning('%s: %s is skipped: it has no %s', folder, key,
                            'pose' if pose is None else 'depth')
                continue
            base_from_cam = Transform.from_matrix(np.reshape(pose, (4, 4)))
            self.frames.append(RgbdFrame(
                key, view.fields['camera'], view.fields['stamp_ns'],
                base_from_cam.inverse if options.inverted else base_from_cam))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        with rgbd_scene.raise_unusable():
            return replace(self._views[frame.name].read(), base_from_cam=frame.base_from_cam)
