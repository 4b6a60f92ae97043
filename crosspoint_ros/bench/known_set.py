"""A recorded scene whose truth is known as a set of pairs: its named points in all its images."""
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from crosspoint_ros.bench.items import Given, Item, Status, as_given, bin_of
from crosspoint_ros.bench.recording import Affordance, Moment, Recording
from crosspoint_ros.core.datatypes import Query


class KnownSet:
    """Every named point, from where it was clicked to every image that the truth speaks of."""

    def __init__(self, recording: Recording, given: Given) -> None:
        self._given, self._view = given, lru_cache(maxsize=40)(recording.view)
        self._asked: list[tuple[Affordance, Moment]] = sorted(
            ((a, moment) for a in recording.affordances for moment in a.seen),
            key=lambda each: (each[0].clicked, each[1]))

    def __len__(self) -> int:
        return len(self._asked)

    def __iter__(self) -> Iterator[Item]:
        """Yield the questions, pair of images by pair of images."""
        pair, last = -1, None
        for affordance, moment in self._asked:
            if last != (affordance.clicked, moment):
                pair, last = pair + 1, (affordance.clicked, moment)
                true = self._view(affordance.clicked), self._view(moment)
                told = as_given(true, self._given, pair)
            seen = affordance.seen[moment]
            status = Status.VISIBLE if seen.visible else (
                Status.OCCLUDED if true[1].intrinsics.contains(seen.pixel) else Status.OUT_OF_VIEW)
            yield Item(Query(*told, affordance.pixel), seen.pixel, status, pair,
                       bin_of(*true, affordance.point_base_m))
