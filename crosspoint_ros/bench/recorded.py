"""A folder of recorded answers as a set of pairs: the truth is what people decided."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from crosspoint_ros.bench.items import LOG, Given, Item, Status, as_given, bin_of, read_pair
from crosspoint_ros.core.datatypes import Array, Query, Transform, View
from crosspoint_ros.data.answers import Recorded, Seen, read_answers
from crosspoint_ros.data.recording import ACCEPTED, CORRECTED, UNREVIEWED
from crosspoint_ros.data.rgbd import Say


@dataclass(frozen=True, eq=False)
class Pair:
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

    def _read(self, pair: Pair) -> tuple[View, View]:
        return pair.clicked.view(self._given.depth), pair.other.view(self._given.depth)


def target_m(pair: Pair) -> Array | None:
    """Where the target is, base, m."""
    return None if pair.base_from_target is None else pair.base_from_target.t_m


def _pairs(answer: Recorded) -> Iterator[Pair]:
    for found in answer.found:
        if found.accepted and found.pixel is not None and found.seen is not None:
            yield Pair(answer.clicked, found.seen, answer.pixel, found.pixel,
                       answer.base_from_target)
