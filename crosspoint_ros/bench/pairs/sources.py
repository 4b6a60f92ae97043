"""Opens a folder of any supported layout as a source of labelled queries."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.environment import parse_positive
from crosspoint_ros.bench.pairs import dataset
from crosspoint_ros.bench.pairs.dataset import InputConfig, LabelledQuery, PairSource
from crosspoint_ros.core.datatypes import Array, Query, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.image_io import read_mask
from crosspoint_ros.data import answer_log, scenes
from crosspoint_ros.data.answer_log import LoggedAnswer, LoggedView
from crosspoint_ros.data.qa import frame_pairs
from crosspoint_ros.data.qa.frame_builder import derive_seed
from crosspoint_ros.data.qa.frame_pairs import FramePair, pick_evenly
from crosspoint_ros.data.qa.photometric import FlowReference
from crosspoint_ros.data.qa.point_sampling import sample_points
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.data.qa.questions import Coordinates, collect_facts
from crosspoint_ros.data.qa.scene_reader import open_checked
from crosspoint_ros.data.rosbag import list_bag_files
from crosspoint_ros.data.scenes.known_scene import GROUND_TRUTH, FrameKey, KnownScene, LabelledPoint
from crosspoint_ros.data.scenes.rgbd_scene import RgbdScene, UnusableData


class KnownSceneSource:
    """Every labelled point of a scene with ground truth, in every other image."""

    def __init__(self, scene: KnownScene, inputs: InputConfig) -> None:
        self._inputs, self._read_view = inputs, lru_cache(maxsize=40)(scene.read_view)
        self._targets: list[tuple[LabelledPoint, FrameKey]] = sorted(
            ((point, frame) for point in scene.points for frame in point.projections),
            key=lambda target: (target[0].clicked, target[1]))

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries, image pair by image pair."""
        pairs = groupby(self._targets, key=lambda target: (target[0].clicked, target[1]))
        for number, ((clicked, other), targets) in enumerate(pairs):
            true = dataset.read_pair(partial(map, self._read_view, (clicked, other)),
                             ' and '.join(f'{f.camera}_{f.stamp_ns}' for f in (clicked, other)))
            if true is None:
                continue
            views = dataset.apply_inputs(true, self._inputs, number)
            for point, _ in targets:
                projection = point.projections[other]
                visibility = Visibility.VISIBLE if projection.visible else (
                    Visibility.OCCLUDED if true[1].intrinsics.contains(projection.pixel)
                    else Visibility.OUTSIDE)
                angle_deg = dataset.measure_viewing_angle_deg(*true, point.point_base_m)
                yield LabelledQuery(Query(*views, point.pixel), projection.pixel, visibility,
                                    number, dataset.select_angle_bin(angle_deg), angle_deg,
                                    point.point_base_m, dataset.measure_roll_deg(*true))


class AnswerLogSource:
    """Accepted and corrected answers of a log, optionally the unreviewed ones too.

    A target that was moved by hand has no pixel, and a view that was refused no position: neither
    becomes a query.
    """

    def __init__(self, folder: Path, inputs: InputConfig, include_unreviewed: bool = False
                 ) -> None:
        """Read the answers; raise ValueError if they give no query."""
        self._inputs = inputs
        kinds = [answer_log.ACCEPTED, answer_log.CORRECTED]
        kinds += [answer_log.UNREVIEWED] * include_unreviewed
        answers = answer_log.read_answers(folder)
        self._matches = [(answer, match.view, match.pixel) for answer in answers
                         if answer.decision in kinds for match in answer.matches
                         if match.accepted and match.pixel is not None and match.view is not None]
        if not self._matches:
            unreviewed = sum(answer.decision == answer_log.UNREVIEWED for answer in answers)
            raise ValueError(
                f'{folder} has {len(answers)} logged answers, none with a match in another view '
                f'that {"is accepted" if include_unreviewed else "a person accepted or corrected"}'
                + (f' (--decided model includes {unreviewed} unreviewed ones)'
                   if unreviewed and not include_unreviewed else ''))
        self._matches.sort(key=_get_pair_key)  # by image pair: the matcher's caches stay valid

    def __len__(self) -> int:
        return len(self._matches)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries, image pair by image pair."""
        for number, (key, group) in enumerate(groupby(self._matches, key=_get_pair_key)):
            matches = list(group)
            true = dataset.read_pair(partial(self._read_pair, *matches[0][:2]), ' and '.join(key))
            if true is None:
                continue
            views = dataset.apply_inputs(true, self._inputs, number)
            for answer, _, pixel in matches:
                point_base_m = answer.base_from_target.t_m if answer.base_from_target else None
                angle_deg = dataset.measure_viewing_angle_deg(*views, point_base_m)
                yield LabelledQuery(Query(*views, answer.pixel), pixel, Visibility.VISIBLE, number,
                                    dataset.select_angle_bin(angle_deg),
                                    roll_deg=dataset.measure_roll_deg(*true))

    def _read_pair(self, answer: LoggedAnswer, other: LoggedView) -> tuple[View, View]:
        return answer.clicked.read(self._inputs.depth), other.read(self._inputs.depth)


def _get_pair_key(match: tuple[LoggedAnswer, LoggedView, Array]) -> tuple[str, str]:
    return match[0].clicked.key, match[1].key


# Number of the pair, clicked pixel, ground truth, visibility, angle bin.
SampledPoint = tuple[int, Array, Array, Visibility, str]
MAX_PER_PAIR, MIN_PER_PAIR, POINTS_PER_FRAME = 24, 4, 12
VISIBLE_SHARE = 2 / 3  # of the points of a pair, where it has enough of both


class RgbdSource:
    """Points of an RGB-D scene, labelled by its depth and poses as `data build` does."""

    def __init__(self, scene: RgbdScene, inputs: InputConfig, number: int) -> None:
        """Sample `number` points. Raises `UnusableData` for a scene that contradicts itself."""
        self._reader, self._inputs, skipped = open_checked(scene), inputs, Counter[str]()
        frames = list(self._reader.frames.values())
        by_frame = frame_pairs.find_pairs(
            pick_evenly(frames, -(-number // POINTS_PER_FRAME)),
            pick_evenly(frames, frame_pairs.MAX_CANDIDATES), self._reader.view, skipped)
        self._support = {name: frame_pairs.select_support_frames(pairs)
                         for name, pairs in by_frame.items()}
        candidates = [pair for pairs in by_frame.values() for pair in pairs]
        self._pairs: list[FramePair] = []
        self._points = list(self._sample_points(candidates, number, skipped))
        if not self._points:
            raise UnusableData(f'{scene.name}: no point of its {len(frames)} frames is certain in '
                               f'another: {dict(skipped.most_common(3))}')

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries, frame pair by frame pair."""
        for number, group in groupby(self._points, key=lambda point: point[0]):
            true = self._read_pair(self._pairs[number])
            views = dataset.apply_inputs(true, self._inputs, number)
            for _, pixel, ground_truth, visibility, angle_bin in group:
                yield LabelledQuery(Query(*views, pixel), ground_truth, visibility, number,
                                    angle_bin,
                                    point_base_m=dataset.locate_by_depth(true[0], pixel),
                                    roll_deg=dataset.measure_roll_deg(*true))

    def _sample_points(self, pairs: list[FramePair], number: int, skipped: Counter[str]
                       ) -> Iterator[SampledPoint]:
        """Yield the points of the pairs; spare pairs make up for those that fall short."""
        quotas = dict(zip(pairs, frame_pairs.allocate_quotas(
            pairs, number, MAX_PER_PAIR, MIN_PER_PAIR), strict=True))
        chosen = [pair for pair in pairs if quotas[pair]]
        spare = pick_evenly([pair for pair in pairs if not quotas[pair]], len(chosen))
        missing = 0
        for pair in chosen + spare:
            missing += quotas[pair]
            if not missing:
                return
            self._pairs.append(pair)
            for point in self._sample_pair(pair, min(missing, MAX_PER_PAIR), skipped):
                missing -= 1
                yield point

    def _read_pair(self, pair: FramePair) -> tuple[View, View]:
        read, frames = self._reader.view, self._reader.frames
        return read(frames[pair.clicked]), read(frames[pair.other])

    def _sample_pair(self, pair: FramePair, count: int, skipped: Counter[str]
                     ) -> Iterator[SampledPoint]:
        clicked, other = self._read_pair(pair)
        rng = np.random.default_rng(derive_seed(self._inputs.seed, pair.clicked, pair.other))
        support = [self._reader.view(self._reader.frames[name])
                   for name in self._support[pair.clicked] if name != pair.other]
        facts = collect_facts(FlowReference.from_view(clicked), other, pair,
                              sample_points(clicked, None, rng), support, (), Coordinates.PIXEL,
                              skipped)
        if facts is None:
            return
        visible = rng.permutation(facts.indices(Visibility.VISIBLE))
        hidden = rng.permutation(facts.indices(Visibility.OCCLUDED, Visibility.OUTSIDE))
        few = min(len(hidden), count - round(VISIBLE_SHARE * count))
        points = facts.projected
        for i in [*visible[:count - few], *hidden[:few]]:
            point_base_m = require_pose(clicked).transform_points(
                clicked.backproject(facts.pixels[i], points.depth_m[i]))
            angle_deg = dataset.measure_viewing_angle_deg(clicked, other, point_base_m)
            yield (len(self._pairs) - 1, facts.pixels[i], points.pixels[i],
                   Visibility(int(points.visibility[i])), dataset.select_angle_bin(angle_deg))


MASK = 'gripper_mask.png'
DEFAULT_POINTS = 500


def add_source_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Declare the options that choose the data (nargs: '+' for several), and the inputs."""
    parser.add_argument('folder', type=Path, nargs=nargs, help='index.json, queries.npz and '
                        'frames/; an answer log (record_dir); a rosbag2 with depth and TF, with or '
                        'without truth.json; or a folder in the layout of TUM RGB-D or ScanNet'
                        + ('; or a folder that holds several of these' if nargs else ''))
    parser.add_argument('--number', type=parse_positive, default=DEFAULT_POINTS,
                        help='points to sample in a recording without ground truth (default: '
                             f'{DEFAULT_POINTS})')
    scenes.add_read_arguments(parser)
    parser.add_argument('--noise-cm', type=float, default=0.0, help='error added to the poses, cm')
    parser.add_argument('--noise-deg', type=float, default=0.0,
                        help='error added to the poses, deg')
    parser.add_argument('--seed', type=int, default=0,
                        help='random seed of noise and sampling (default: 0)')
    parser.add_argument('--no-depth', action='store_true', help='withhold the depth')
    parser.add_argument('--depth-of', choices=('both', 'clicked', 'other'), default='both',
                        help='the views that keep their depth (default: both)')
    parser.add_argument('--no-poses', action='store_true', help='withhold the poses')
    parser.add_argument('--roll', choices=('0', '90', '180', '270', 'random'), default='0',
                        help='turn the second image of each pair by this many degrees (np.rot90), '
                             'with its depth, mask, intrinsics, pose and ground truth; random: '
                             'by one of the four, drawn for each pair (default: 0)')
    parser.add_argument('--mask', type=Path, help="the robot's own body, white "
                                                  f'(default: {MASK} of the folder, if any)')
    parser.add_argument('--no-mask', action='store_true', help='use no mask')


def parse_inputs(args: argparse.Namespace) -> InputConfig:
    """Return the inputs of the matcher in addition to the images."""
    return InputConfig(not args.no_poses, not args.no_depth, args.depth_of, args.noise_cm,
                       args.noise_deg, args.seed)


def find_sets(folders: Sequence[Path]) -> list[Path]:
    """Return the folders, and instead of one that is not a source those in it that are, if any."""
    found: list[Path] = []
    for folder in folders:
        inner = [] if _is_source(folder) else [*filter(_is_source, sorted(folder.glob('*')))]
        found += inner or [folder]
    if len({folder.resolve().name for folder in found}) < len(found):
        raise ValueError(f'two of {", ".join(map(str, found))} have the same name')
    return found


def _is_source(folder: Path) -> bool:
    files = dataset.INDEX, dataset.QUERIES, GROUND_TRUTH
    return any((folder / name).is_file() for name in files) or bool(
        scenes.find_scene_class(folder) or list_bag_files(folder))


def open_source(args: argparse.Namespace, inputs: InputConfig, include_unreviewed: bool = False,
                folder: Path | None = None) -> PairSource:
    """Open a folder (`args.folder`, or one of several) of any supported layout.

    Raises ValueError or OSError, naming the fault.
    """
    source = _open_folder(args, folder or args.folder, inputs, include_unreviewed)
    turn_deg = None if args.roll == 'random' else int(args.roll)
    return source if turn_deg == 0 else dataset.TurnedSource(source, turn_deg, inputs.seed)


def _open_folder(args: argparse.Namespace, folder: Path, inputs: InputConfig,
                 include_unreviewed: bool) -> PairSource:
    if (folder / dataset.INDEX).is_file() or (folder / dataset.QUERIES).is_file():
        return dataset.PairFolderSource(folder, inputs, load_mask(args, folder))
    if args.mask or args.no_mask:
        raise ValueError(f'{folder}: recordings have their own masks; leave out --mask and '
                         '--no-mask')
    if (folder / answer_log.ANSWERS_FILE).is_file():
        return AnswerLogSource(folder, inputs, include_unreviewed)
    if (folder / GROUND_TRUTH).is_file():
        if args.inverted_poses or args.depth_per_m or args.base_frame or args.topic:
            raise ValueError(f'{folder}: {GROUND_TRUTH} defines how it is read; leave out '
                             '--inverted-poses, --depth-per-m, --base-frame and --topic')
        return KnownSceneSource(KnownScene(folder), inputs)
    if scenes.find_scene_class(folder) is None and not list_bag_files(folder):
        raise ValueError(f'{folder} is not a source of pairs: that is a folder with '
                         f'{dataset.INDEX} and {dataset.QUERIES}, {answer_log.ANSWERS_FILE}, '
                         'rgb.txt or color/, or a rosbag2')
    scene = scenes.open_scene(folder, scenes.parse_read_options(args))
    return RgbdSource(scene, inputs, args.number)


def load_mask(args: argparse.Namespace, folder: Path) -> npt.NDArray[np.bool_] | None:
    """Read the mask of the options, or the folder's own if it has one."""
    path = args.mask or folder / MASK
    return None if args.no_mask or not (args.mask or path.is_file()) else read_mask(path)
