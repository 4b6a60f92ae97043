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

from crosspoint_ros.bench.environment import positive
from crosspoint_ros.bench.pairs.dataset import (
    INDEX,
    LOG,
    QUERIES,
    Given,
    Item,
    ItemSet,
    PairSet,
    Status,
    as_given,
    bin_of,
    read_mask,
    read_pair,
)
from crosspoint_ros.bench.pairs.known_scene import Affordance, Moment, Recording
from crosspoint_ros.core.datatypes import Array, Query, Transform, View
from crosspoint_ros.data.answer_log import (
    ACCEPTED,
    ANSWERS,
    CORRECTED,
    UNREVIEWED,
    Recorded,
    Seen,
    read_answers,
)
from crosspoint_ros.data.qa.frame_builder import seed_of
from crosspoint_ros.data.qa.frame_pairs import OTHERS, Pair, pairs_of, quotas, spread, witnesses_of
from crosspoint_ros.data.qa.photometric import look_of
from crosspoint_ros.data.qa.point_visibility import Fate, points_base_m
from crosspoint_ros.data.qa.questions import choose_points, facts_of
from crosspoint_ros.data.qa.scene_reader import examined
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import add_reading_arguments, layout_of, open_scene, reading_of
from crosspoint_ros.data.scenes.rgbd_scene import RgbdScene, Say, Unusable


class KnownSet:
    """Every named point, from where it was clicked to every image that the truth speaks of."""

    def __init__(self, recording: Recording, given: Given, say: Say = LOG.warning) -> None:
        self._given, self._view, self._say = given, lru_cache(maxsize=40)(recording.view), say
        self._asked: list[tuple[Affordance, Moment]] = sorted(
            ((a, moment) for a in recording.affordances for moment in a.seen),
            key=lambda each: (each[0].clicked, each[1]))

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Item]:
        """Yield the questions, pair of images by pair of images."""
        moments = groupby(self._asked, key=lambda each: (each[0].clicked, each[1]))
        for number, ((clicked, moment), asked) in enumerate(moments):
            true = read_pair(partial(self._read, clicked, moment),
                             f'{_named(clicked)} and {_named(moment)}', self._say)
            if true is None:
                continue
            told = as_given(true, self._given, number)
            for affordance, _ in asked:
                seen = affordance.seen[moment]
                status = Status.VISIBLE if seen.visible else (
                    Status.OCCLUDED if true[1].intrinsics.contains(seen.pixel)
                    else Status.OUT_OF_VIEW)
                yield Item(Query(*told, affordance.pixel), seen.pixel, status, number,
                           bin_of(*true, affordance.point_base_m))

    def _read(self, clicked: Moment, moment: Moment) -> tuple[View, View]:
        return self._view(clicked), self._view(moment)


def _named(moment: Moment) -> str:
    return f'{moment.camera}_{moment.stamp_ns}'


@dataclass(frozen=True, eq=False)
class AnsweredPair:
    """A clicked point and where it is in one other view."""

    clicked: Seen
    other: Seen
    pixel: Array
    truth: Array
    base_from_target: Transform | None


class RecordedSet:
    """Accepted and corrected answers; with `model` also those that nobody reviewed.

    A target that was moved by hand says nothing of pixels, and a view that was refused nothing of
    where the point is: neither is asked.
    """

    def __init__(self, folder: Path, given: Given, model: bool = False,
                 say: Say = LOG.warning) -> None:
        """Read the answers; raise ValueError if none of them can be asked."""
        self._given, self._say = given, say
        kinds = (ACCEPTED, CORRECTED, UNREVIEWED) if model else (ACCEPTED, CORRECTED)
        answers = read_answers(folder, say)
        self._pairs = [pair for answer in answers if answer.how in kinds
                       for pair in _pairs(answer)]
        if not self._pairs:
            unreviewed = sum(answer.how == UNREVIEWED for answer in answers)
            raise ValueError(
                f'{folder} has {len(answers)} recorded answers, and no point in another view that '
                f'was decided by {"anybody" if model else "a person"}'
                + (f' (--decided model includes {unreviewed} that nobody reviewed)'
                   if unreviewed and not model else ''))
        # The questions of two images follow each other: what a matcher computed stays good.
        self._pairs.sort(key=lambda pair: (pair.clicked.key, pair.other.key))

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Item]:
        """Yield the questions, pair of images by pair of images."""
        both = groupby(self._pairs, key=lambda pair: (pair.clicked.key, pair.other.key))
        for number, (keys, group) in enumerate(both):
            pairs = list(group)
            read = read_pair(partial(self._read, pairs[0]), ' and '.join(keys), self._say)
            if read is None:
                continue
            views = as_given(read, self._given, number)
            for pair in pairs:
                yield Item(Query(*views, pair.pixel), pair.truth, Status.VISIBLE, number,
                           bin_of(*views, target_m(pair)))

    def _read(self, pair: AnsweredPair) -> tuple[View, View]:
        return pair.clicked.view(self._given.depth), pair.other.view(self._given.depth)


def target_m(pair: AnsweredPair) -> Array | None:
    """Where the target is, base, m."""
    return None if pair.base_from_target is None else pair.base_from_target.t_m


def _pairs(answer: Recorded) -> Iterator[AnsweredPair]:
    for found in answer.found:
        if found.accepted and found.pixel is not None and found.seen is not None:
            yield AnsweredPair(answer.clicked, found.seen, answer.pixel, found.pixel,
                       answer.base_from_target)


MOST_A_PAIR, LEAST_A_PAIR, A_FRAME = 24, 4, 12
VISIBLE_SHARE = 2 / 3  # of the points of a pair, where it has enough of both
STATUS = {Fate.VISIBLE: Status.VISIBLE, Fate.HIDDEN: Status.OCCLUDED,
          Fate.OUTSIDE: Status.OUT_OF_VIEW}


@dataclass(frozen=True, eq=False)
class Point:
    """A pixel of the clicked frame, and what became of it in the other one."""

    pair: int
    pixel: Array
    truth: Array
    status: Status
    bin: str


class SceneSet:
    """Points of a scene of which all that is recorded agrees, chosen as `data build` does."""

    def __init__(self, scene: RgbdScene, given: Given, number: int, say: Say) -> None:
        """Choose them. Raises `Unusable` for a scene that contradicts itself, or has none."""
        self._reader, self._given, left_out = examined(scene, say), given, Counter[str]()
        frames = list(self._reader.frames.values())
        by_frame = pairs_of(spread(frames, -(-number // A_FRAME)), spread(frames, OTHERS),
                            self._reader.view, left_out)
        self._witnesses = {name: witnesses_of(own) for name, own in by_frame.items()}
        found = [pair for own in by_frame.values() for pair in own]
        self._pairs: list[Pair] = []
        self._points = list(self._choose(found, number, left_out))
        if not self._points:
            raise Unusable(f'{scene.name}: not one point of its {len(frames)} frames is certain '
                           f'in another: {dict(left_out.most_common(3))}')

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[Item]:
        """Yield the questions, pair of frames by pair of frames."""
        last = -1
        for point in self._points:
            if point.pair != last:
                last = point.pair
                told = as_given(self._views(self._pairs[last]), self._given, last)
            yield Item(Query(*told, point.pixel), point.truth, point.status, last, point.bin)

    def _choose(self, found: list[Pair], number: int, left_out: Counter[str]) -> Iterator[Point]:
        """Yield the points of the pairs; what some do not yield is asked of further ones."""
        numbers = dict(zip(found, quotas(found, number, MOST_A_PAIR, LEAST_A_PAIR), strict=True))
        asked = [pair for pair in found if numbers[pair]]
        spare = spread([pair for pair in found if not numbers[pair]], len(asked))
        short = 0
        for pair in asked + spare:
            short += numbers[pair]
            if not short:
                return  # all are asked, and none fell short
            self._pairs.append(pair)
            for point in self._chosen(pair, min(short, MOST_A_PAIR), left_out):
                short -= 1
                yield point

    def _views(self, pair: Pair) -> tuple[View, View]:
        read, frames = self._reader.view, self._reader.frames
        return read(frames[pair.clicked]), read(frames[pair.other])

    def _chosen(self, pair: Pair, wanted: int, left_out: Counter[str]) -> Iterator[Point]:
        clicked, other = self._views(pair)
        rng = np.random.default_rng(seed_of(self._given.seed, pair.clicked, pair.other))
        witnesses = [self._reader.view(self._reader.frames[name])
                     for name in self._witnesses[pair.clicked] if name != pair.other]
        facts = facts_of(look_of(clicked), other, pair, choose_points(clicked, None, rng),
                         witnesses, (), Coordinates.PIXEL, left_out)
        if facts is None:
            return
        seen = rng.permutation(facts.of(Fate.VISIBLE))
        unseen = rng.permutation(facts.of(Fate.HIDDEN, Fate.OUTSIDE))
        few = min(len(unseen), wanted - round(VISIBLE_SHARE * wanted))
        for i in [*seen[:wanted - few], *unseen[:few]]:
            point = points_base_m(clicked, facts.pixels[i:i + 1], facts.placed.depth_m[i:i + 1])[0]
            yield Point(len(self._pairs) - 1, facts.pixels[i], facts.placed.pixel[i],
                        STATUS[Fate(int(facts.placed.fate[i]))], bin_of(clicked, other, point))


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
