"""A folder of recorded answers as a set of pairs: the truth is what people decided."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.items import Given, Item, Status, noise
from crosspoint_ros.core.datatypes import Array, Query, Transform, View
from crosspoint_ros.data.answers import Recorded, Seen, read_answers
from crosspoint_ros.data.recording import ACCEPTED, CORRECTED, UNREVIEWED

BINS = ('0-15', '15-30', '30-45', '45+', 'unknown')


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

    def __init__(self, folder: Path, given: Given, model: bool = False) -> None:
        """Read the answers; raise ValueError if none of them can be asked."""
        self._given = given
        kinds = (ACCEPTED, CORRECTED, UNREVIEWED) if model else (ACCEPTED, CORRECTED)
        answers = read_answers(folder, logging.getLogger(__name__).warning)
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

    @property
    def bins(self) -> list[str]:
        """The names of the viewing-angle bins."""
        return list(BINS)

    def __iter__(self) -> Iterator[Item]:
        """Yield the questions, pair of images by pair of images."""
        number, last, views = -1, ('', ''), None
        for pair in self._pairs:
            key = pair.clicked.key, pair.other.key
            if key != last or views is None:
                number, last = number + 1, key
                views = self._views(pair, number)
            yield Item(Query(*views, pair.pixel), pair.truth, Status.VISIBLE, number,
                       _bin(pair, *views))

    def _views(self, pair: Pair, number: int) -> tuple[View, View]:
        clicked, other = (seen.view(self._given.depth) for seen in (pair.clicked, pair.other))
        if not self._given.poses:
            return replace(clicked, base_from_cam=None), replace(other, base_from_cam=None)
        if clicked.base_from_cam is None or other.base_from_cam is None:
            return clicked, other
        rng = np.random.default_rng([self._given.seed, number])
        other_from_clicked = noise(rng, self._given.noise_cm, self._given.noise_deg) \
            @ other.base_from_cam.inverse @ clicked.base_from_cam
        return clicked, replace(
            other, base_from_cam=clicked.base_from_cam @ other_from_clicked.inverse)


def _pairs(answer: Recorded) -> Iterator[Pair]:
    for found in answer.found:
        if found.accepted and found.pixel is not None and found.seen is not None:
            yield Pair(answer.clicked, found.seen, answer.pixel, found.pixel,
                       answer.base_from_target)


def _bin(pair: Pair, clicked: View, other: View) -> str:
    """How far apart the views look at the target."""
    if pair.base_from_target is None or clicked.base_from_cam is None \
            or other.base_from_cam is None:
        return BINS[-1]
    lines = [view.base_from_cam.t_m - pair.base_from_target.t_m for view in (clicked, other)
             if view.base_from_cam is not None]
    a, b = (line / max(float(np.linalg.norm(line)), 1e-9) for line in lines)
    angle_deg = float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))
    return BINS[min(int(angle_deg // 15), 3)]
