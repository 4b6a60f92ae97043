"""Opens a recording in any of the known formats as a scene."""
from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from crosspoint_ros.data.answer_log import ANSWERS_FILE
from crosspoint_ros.data.rosbag import BAGS, INDEX, ZSTD, list_bag_files
from crosspoint_ros.data.scenes import image_folders, rgbd_scene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, RgbdFrame, RgbdScene, UnusableData
from crosspoint_ros.data.scenes.rosbag import RosbagScene

log = logging.getLogger(__name__)
MIN_FRAMES = 2
SceneClass = Callable[[Path, ReadOptions], RgbdScene]


def add_read_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for reading a recording."""
    parser.add_argument('--inverted-poses', action='store_true', help='poses are camera_from_world')
    parser.add_argument('--depth-per-m', type=float, help='the stored value of one metre of depth')
    parser.add_argument('--base-frame', default='',
                        help='base frame of a bag (default: the root of its TF)')
    parser.add_argument('--topic', action='append', default=[], help='colour, depth or camera_info '
                        'topic of a bag to use where a camera has several; may be repeated')


def parse_read_options(args: argparse.Namespace) -> ReadOptions:
    """Return the values of these options. Raises ValueError."""
    if args.depth_per_m is not None and not 0 < args.depth_per_m < float('inf'):
        raise ValueError(f'--depth-per-m {args.depth_per_m:g} must be more than 0')
    return ReadOptions(args.inverted_poses, args.depth_per_m, args.base_frame, tuple(args.topic))


def find_scene_class(path: Path) -> SceneClass | None:
    """Return the class that reads this path; None if it is not a scene."""
    if path.suffix in BAGS or (path / INDEX).is_file():
        return RosbagScene
    if (path / ANSWERS_FILE).is_file():
        return image_folders.AnswerLogScene
    if (path / 'rgb.txt').is_file():
        return image_folders.TumScene
    if any((path / colour).is_dir() for colour in image_folders.COLOUR_FOLDERS):
        return image_folders.ScanNetScene
    if path.suffix == '.bag' or (path.suffix in ZSTD and Path(path.stem).suffix in BAGS):
        return RosbagScene  # which explains why it cannot be read
    return None


def open_scene(path: Path, options: ReadOptions) -> RgbdScene:
    """Open one scene. Raises `UnusableData`, naming the path and the reason."""
    scene_class = find_scene_class(path)
    if scene_class is None and (path.name == INDEX or list_bag_files(path)):
        scene_class = RosbagScene
    if scene_class is None:
        reason = 'its format is unknown' if path.exists() else 'there is no such file or folder'
        raise UnusableData(f'{path}: {reason}; a scene is a rosbag2, or a folder with '
                           f'{ANSWERS_FILE}, rgb.txt or color/')
    with rgbd_scene.raise_unusable():
        scene = scene_class(path, options)
    by_name: dict[str, RgbdFrame] = {}
    for frame in scene.frames:
        if by_name.setdefault(frame.name, frame) is not frame:
            log.warning('%s: %s is there more than once: the first is used', path, frame.name)
    scene.frames[:] = by_name.values()
    if len(scene.frames) < MIN_FRAMES:
        raise UnusableData(f'{path}: {len(scene.frames)} frame(s) with image, depth and pose (at '
                           f'least {MIN_FRAMES}): a point needs another view')
    return scene


def expand_scenes(paths: list[Path]) -> Iterator[Path]:
    """Yield the scenes themselves, and the scenes inside of folders that hold several."""
    for path in paths:
        is_folder = path.is_dir() and find_scene_class(path) is None
        yield from sorted(filter(find_scene_class, path.iterdir() if is_folder else ())) or [path]
