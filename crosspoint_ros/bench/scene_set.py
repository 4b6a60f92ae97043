"""Any recording of colour, depth and poses as a set of pairs: its own depth tells the truth."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.bench.items import (
    Given,
    Item,
    Status,
    as_given,
    bin_of,
)
from crosspoint_ros.core.datatypes import Array, Query, View
from crosspoint_ros.data.asked import choose_points, facts_of
from crosspoint_ros.data.building import seed_of
from crosspoint_ros.data.pairing import OTHERS, Pair, pairs_of, quotas, spread, witnesses_of
from crosspoint_ros.data.photometric import look_of
from crosspoint_ros.data.placed import Fate, points_base_m
from crosspoint_ros.data.reader import examined
from crosspoint_ros.data.rgbd import RgbdScene, Say, Unusable
from crosspoint_ros.data.wording import Coordinates

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
