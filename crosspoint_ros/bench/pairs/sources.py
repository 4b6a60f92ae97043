"""Opens a folder as a set of pairs, in whatever layout it is."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.environment import parse_positive
from crosspoint_ros.bench.pairs.dataset import (
    INDEX,
    LOG,
    QUERIES,
    InputConfig,
    LabelledQuery,
    PairSource,
    PairFolderSource,
    Status,
    apply_inputs,
    bin_viewing_angle,
    read_mask,
    read_pair,
)
from crosspoint_ros.bench.pairs.known_scene import LabelledPoint, FrameKey, KnownScene
from crosspoint_ros.core.datatypes import Array, Query, Transform, View
from crosspoint_ros.data.answer_log import (
    ACCEPTED,
    ANSWERS_FILE,
    CORRECTED,
    UNREVIEWED,
    LoggedAnswer,
    LoggedView,
    read_answers,
)
from crosspoint_ros.data.qa.frame_builder import derive_seed
from crosspoint_ros.data.qa.frame_pairs import MAX_CANDIDATES, FramePair, find_pairs, allocate_quotas, pick_evenly, select_support_frames
from crosspoint_ros.data.qa.photometric import make_flow_reference
from crosspoint_ros.data.qa.point_visibility import Visibility, backproject_base_m
from crosspoint_ros.data.qa.questions import choose_points, collect_facts
from crosspoint_ros.data.qa.scene_reader import open_checked
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import add_read_arguments, find_scene_class, open_scene, parse_read_options
from crosspoint_ros.data.scenes.rgbd_scene import RgbdScene, Say, UnusableData


class KnownSceneSource:
    """Every named point, from where it was clicked to every image that the truth speaks of."""

    def __init__(self, scene: KnownScene, inputs: InputConfig, say: Say = LOG.warning) -> None:
        self._inputs, self._view, self._say = inputs, lru_cache(maxsize=40)(scene.read_view), say
        self._targets: list[tuple[LabelledPoint, FrameKey]] = sorted(
            ((a, moment) for a in scene.points for moment in a.projections),
            key=lambda each: (each[0].clicked, each[1]))

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the questions, pair of images by pair of images."""
        moments = groupby(self._targets, key=lambda each: (each[0].clicked, each[1]))
        for number, ((clicked, moment), asked) in enumerate(moments):
            true = read_pair(partial(self._read_pair, clicked, moment),
                             f'{_format_frame(clicked)} and {_format_frame(moment)}', self._say)
            if true is None:
                continue
            told = apply_inputs(true, self._inputs, number)
            for affordance, _ in asked:
                seen = affordance.projections[moment]
                status = Status.VISIBLE if seen.visible else (
                    Status.OCCLUDED if true[1].intrinsics.contains(seen.pixel)
                    else Status.OUT_OF_VIEW)
                yield LabelledQuery(Query(*told, affordance.pixel), seen.pixel, status, number,
                           bin_viewing_angle(*true, affordance.point_base_m))

    def _read_pair(self, clicked: FrameKey, other: FrameKey) -> tuple[View, View]:
        return self._view(clicked), self._view(other)


def _format_frame(frame: FrameKey) -> str:
    return f'{frame.camera}_{frame.stamp_ns}'


@dataclass(frozen=True, eq=False)
class LoggedPair:
    """A clicked point and where it is in one other view."""

    clicked: LoggedView
    other: LoggedView
    pixel: Array
    ground_truth: Array
    base_from_target: Transform | None


class AnswerLogSource:
    """Accepted and corrected answers; with `model` also those that nobody reviewed.

    A target that was moved by hand says nothing of pixels, and a view that was refused nothing of
    where the point is: neither is asked.
    """

    def __init__(self, folder: Path, inputs: InputConfig, include_unreviewed: bool = False,
                 say: Say = LOG.warning) -> None:
        """Read the answers; raise ValueError if none of them can be asked."""
        self._inputs, self._say = inputs, say
        kinds = (ACCEPTED, CORRECTED, UNREVIEWED) if include_unreviewed else (ACCEPTED, CORRECTED)
        answers = read_answers(folder, say)
        self._pairs = [pair for answer in answers if answer.decision in kinds
                       for pair in _list_pairs(answer)]
        if not self._pairs:
            unreviewed = sum(answer.decision == UNREVIEWED for answer in answers)
            raise ValueError(
                f'{folder} has {len(answers)} recorded answers, and no point in another view that '
                f'was decided by {"anybody" if include_unreviewed else "a person"}'
                + (f' (--decided model includes {unreviewed} that nobody reviewed)'
                   if unreviewed and not include_unreviewed else ''))
        # The questions of two images follow each other: what a matcher computed stays good.
        self._pairs.sort(key=lambda pair: (pair.clicked.key, pair.other.key))

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the questions, pair of images by pair of images."""
        both = groupby(self._pairs, key=lambda pair: (pair.clicked.key, pair.other.key))
        for number, (keys, group) in enumerate(both):
            pairs = list(group)
            read = read_pair(partial(self._read_pair, pairs[0]), ' and '.join(keys), self._say)
            if read is None:
                continue
            views = apply_inputs(read, self._inputs, number)
            for pair in pairs:
                yield LabelledQuery(Query(*views, pair.pixel), pair.ground_truth, Status.VISIBLE, number,
                           bin_viewing_angle(*views, _get_target_m(pair)))

    def _read_pair(self, pair: LoggedPair) -> tuple[View, View]:
        return pair.clicked.read(self._inputs.depth), pair.other.read(self._inputs.depth)


def _get_target_m(pair: LoggedPair) -> Array | None:
    """Where the target is, base, m."""
    return None if pair.base_from_target is None else pair.base_from_target.t_m


def _list_pairs(answer: LoggedAnswer) -> Iterator[LoggedPair]:
    for found in answer.matches:
        if found.accepted and found.pixel is not None and found.view is not None:
            yield LoggedPair(answer.clicked, found.view, answer.pixel, found.pixel,
                       answer.base_from_target)


MAX_PER_PAIR, MIN_PER_PAIR, POINTS_PER_FRAME = 24, 4, 12
VISIBLE_SHARE = 2 / 3  # of the points of a pair, where it has enough of both
STATUS = {Visibility.VISIBLE: Status.VISIBLE, Visibility.OCCLUDED: Status.OCCLUDED,
          Visibility.OUTSIDE: Status.OUT_OF_VIEW}


@dataclass(frozen=True, eq=False)
class SampledPoint:
    """A pixel of the clicked frame, and what became of it in the other one."""

    pair: int
    pixel: Array
    ground_truth: Array
    status: Status
    bin: str


class RgbdSource:
    """Points of a scene of which all that is recorded agrees, chosen as `data build` does."""

    def __init__(self, scene: RgbdScene, inputs: InputConfig, number: int, say: Say) -> None:
        """Choose them. Raises `Unusable` for a scene that contradicts itself, or has none."""
        self._reader, self._inputs, left_out = open_checked(scene, say), inputs, Counter[str]()
        frames = list(self._reader.frames.values())
        by_frame = find_pairs(pick_evenly(frames, -(-number // POINTS_PER_FRAME)), pick_evenly(frames, MAX_CANDIDATES),
                            self._reader.view, left_out)
        self._witnesses = {name: select_support_frames(own) for name, own in by_frame.items()}
        found = [pair for own in by_frame.values() for pair in own]
        self._pairs: list[FramePair] = []
        self._points = list(self._sample_points(found, number, left_out))
        if not self._points:
            raise UnusableData(f'{scene.name}: not one point of its {len(frames)} frames is certain '
                           f'in another: {dict(left_out.most_common(3))}')

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the questions, pair of frames by pair of frames."""
        last = -1
        for point in self._points:
            if point.pair != last:
                last = point.pair
                told = apply_inputs(self._read_pair(self._pairs[last]), self._inputs, last)
            yield LabelledQuery(Query(*told, point.pixel), point.ground_truth, point.status, last, point.bin)

    def _sample_points(self, pairs: list[FramePair], number: int, skipped: Counter[str]) -> Iterator[SampledPoint]:
        """Yield the points of the pairs; what some do not yield is asked of further ones."""
        numbers = dict(zip(pairs, allocate_quotas(pairs, number, MAX_PER_PAIR, MIN_PER_PAIR), strict=True))
        asked = [pair for pair in pairs if numbers[pair]]
        spare = pick_evenly([pair for pair in pairs if not numbers[pair]], len(asked))
        short = 0
        for pair in asked + spare:
            short += numbers[pair]
            if not short:
                return  # all are asked, and none fell short
            self._pairs.append(pair)
            for point in self._sample_pair(pair, min(short, MAX_PER_PAIR), skipped):
                short -= 1
                yield point

    def _read_pair(self, pair: FramePair) -> tuple[View, View]:
        read, frames = self._reader.view, self._reader.frames
        return read(frames[pair.clicked]), read(frames[pair.other])

    def _sample_pair(self, pair: FramePair, count: int, skipped: Counter[str]) -> Iterator[SampledPoint]:
        clicked, other = self._read_pair(pair)
        rng = np.random.default_rng(derive_seed(self._inputs.seed, pair.clicked, pair.other))
        witnesses = [self._reader.view(self._reader.frames[name])
                     for name in self._witnesses[pair.clicked] if name != pair.other]
        facts = collect_facts(make_flow_reference(clicked), other, pair, choose_points(clicked, None, rng),
                         witnesses, (), Coordinates.PIXEL, skipped)
        if facts is None:
            return
        seen = rng.permutation(facts.indices(Visibility.VISIBLE))
        unseen = rng.permutation(facts.indices(Visibility.OCCLUDED, Visibility.OUTSIDE))
        few = min(len(unseen), count - round(VISIBLE_SHARE * count))
        for i in [*seen[:count - few], *unseen[:few]]:
            point = backproject_base_m(clicked, facts.pixels[i:i + 1], facts.projected.depth_m[i:i + 1])[0]
            yield SampledPoint(len(self._pairs) - 1, facts.pixels[i], facts.projected.pixels[i],
                        STATUS[Visibility(int(facts.projected.visibility[i]))], bin_viewing_angle(clicked, other, point))


MASK, TRUTH = 'gripper_mask.png', 'truth.json'
DEFAULT_POINTS = 500


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which set is asked, and what of it the matcher is told."""
    parser.add_argument('folder', type=Path, help='index.json, queries.npz and frames/; what '
                        'record_dir named; a rosbag2 with depth and TF, with or without '
                        'truth.json; or a folder in the layout of TUM RGB-D or ScanNet')
    parser.add_argument('--number', type=parse_positive, default=DEFAULT_POINTS, help='of points that are chosen '
                        f'in a recording without a truth of its own (default: {DEFAULT_POINTS})')
    add_read_arguments(parser)
    parser.add_argument('--noise-cm', type=float, default=0.0, help='error of the poses, cm')
    parser.add_argument('--noise-deg', type=float, default=0.0, help='error of the poses, deg')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: 0)')
    parser.add_argument('--no-depth', action='store_true', help='keep the depth to yourself')
    parser.add_argument('--no-poses', action='store_true', help='keep the poses to yourself')
    parser.add_argument('--mask', type=Path, help="the robot's own body, white "
                                                  f'(default: {MASK} of the folder, if there)')
    parser.add_argument('--no-mask', action='store_true', help='use no mask')


def parse_inputs(args: argparse.Namespace) -> InputConfig:
    """Read what the matcher is told besides the images."""
    return InputConfig(not args.no_poses, not args.no_depth, args.noise_cm, args.noise_deg, args.seed)


def open_source(args: argparse.Namespace, inputs: InputConfig, say: Say, include_unreviewed: bool = False) -> PairSource:
    """Open the folder, whatever it is; model: also answers that nobody reviewed.

    Raises ValueError or OSError, naming what is wrong with it.
    """
    folder: Path = args.folder
    if (folder / INDEX).is_file() or (folder / QUERIES).is_file():
        return PairFolderSource(folder, inputs, load_mask(args), say)
    if args.mask or args.no_mask:
        raise ValueError(f'{folder}: recordings have their own masks; leave out --mask and '
                         '--no-mask')
    if (folder / ANSWERS_FILE).is_file():
        return AnswerLogSource(folder, inputs, include_unreviewed, say)
    if (folder / TRUTH).is_file():
        if args.inverted_poses or args.depth_per_m or args.base_frame:
            raise ValueError(f'{folder}: {TRUTH} says how it is read; leave out --inverted-poses, '
                             '--depth-per-m and --base-frame')
        return KnownSceneSource(KnownScene(folder), inputs, say)
    if find_scene_class(folder) is None:
        raise ValueError(f'{folder} is no set of pairs: that is a folder with {INDEX} and '
                         f'{QUERIES}, {ANSWERS_FILE}, rgb.txt or color/, or a rosbag2')
    return RgbdSource(open_scene(folder, parse_read_options(args), say), inputs, args.number, say)


def load_mask(args: argparse.Namespace) -> npt.NDArray[np.bool_] | None:
    """Read the mask that was named, or the folder's own, unless none is wanted."""
    path = args.mask or args.folder / MASK
    if args.no_mask or (args.mask is None and not path.is_file()):
        return None
    return read_mask(path)
