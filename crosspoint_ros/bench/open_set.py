"""Opens a folder as a set of pairs, in whatever layout it is."""
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.items import INDEX, QUERIES, Given, ItemSet, PairSet, read_mask
from crosspoint_ros.bench.known_set import KnownSet
from crosspoint_ros.bench.machine import positive
from crosspoint_ros.bench.recorded import RecordedSet
from crosspoint_ros.bench.recording import Recording
from crosspoint_ros.bench.scene_set import SceneSet
from crosspoint_ros.data.recording import ANSWERS
from crosspoint_ros.data.rgbd import Say
from crosspoint_ros.data.rgbd_open import (
    add_reading_arguments,
    layout_of,
    open_scene,
    reading_of,
)

MASK, TRUTH = 'gripper_mask.png', 'truth.json'
NUMBER = 500


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which set is asked, and what of it the matcher is told."""
    parser.add_argument('folder', type=Path, help='index.json, queries.npz and frames/; what '
                        'record_dir named; a rosbag2 with depth and TF, with or without '
                        'truth.json; or a folder in the layout of TUM RGB-D or ScanNet')
    parser.add_argument('--number', type=positive, default=NUMBER, help='of points that are chosen '
                        f'in a recording without a truth of its own (default: {NUMBER})')
    add_reading_arguments(parser)
    parser.add_argument('--noise-cm', type=float, default=0.0, help='error of the poses, cm')
    parser.add_argument('--noise-deg', type=float, default=0.0, help='error of the poses, deg')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: 0)')
    parser.add_argument('--no-depth', action='store_true', help='keep the depth to yourself')
    parser.add_argument('--no-poses', action='store_true', help='keep the poses to yourself')
    parser.add_argument('--mask', type=Path, help="the robot's own body, white "
                                                  f'(default: {MASK} of the folder, if there)')
    parser.add_argument('--no-mask', action='store_true', help='use no mask')


def chosen_given(args: argparse.Namespace) -> Given:
    """Read what the matcher is told besides the images."""
    return Given(not args.no_poses, not args.no_depth, args.noise_cm, args.noise_deg, args.seed)


def chosen_set(args: argparse.Namespace, given: Given, say: Say, model: bool = False) -> ItemSet:
    """Open the folder, whatever it is; model: also answers that nobody reviewed.

    Raises ValueError or OSError, naming what is wrong with it.
    """
    folder: Path = args.folder
    if (folder / INDEX).is_file() or (folder / QUERIES).is_file():
        return PairSet(folder, given, chosen_mask(args), say)
    if args.mask or args.no_mask:
        raise ValueError(f'{folder}: recordings have their own masks; leave out --mask and '
                         '--no-mask')
    if (folder / ANSWERS).is_file():
        return RecordedSet(folder, given, model, say)
    if (folder / TRUTH).is_file():
        if args.inverted_poses or args.depth_per_m or args.base_frame:
            raise ValueError(f'{folder}: {TRUTH} says how it is read; leave out --inverted-poses, '
                             '--depth-per-m and --base-frame')
        return KnownSet(Recording(folder), given, say)
    if layout_of(folder) is None:
        raise ValueError(f'{folder} is no set of pairs: that is a folder with {INDEX} and '
                         f'{QUERIES}, {ANSWERS}, rgb.txt or color/, or a rosbag2')
    return SceneSet(open_scene(folder, reading_of(args), say), given, args.number, say)


def chosen_mask(args: argparse.Namespace) -> npt.NDArray[np.bool_] | None:
    """Read the mask that was named, or the folder's own, unless none is wanted."""
    path = args.mask or args.folder / MASK
    if args.no_mask or (args.mask is None and not path.is_file()):
        return None
    return read_mask(path)
