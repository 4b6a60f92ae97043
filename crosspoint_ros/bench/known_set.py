"""A recorded scene whose truth is known as a set of pairs: its named points in all its images."""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import groupby

from crosspoint_ros.bench.items import LOG, Given, Item, Status, as_given, bin_of, read_pair
from crosspoint_ros.bench.recording import Affordance, Moment, Recording
from crosspoint_ros.core.datatypes import Query, View
from crosspoint_ros.data.rgbd import Say


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
