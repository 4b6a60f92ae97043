"""Chooses the pairs of frames that are asked about, and how much each is asked."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from crosspoint_ros.data.building import MOST_A_PAIR, Share, doubted, plan_frames
from crosspoint_ros.data.pairing import OTHERS, Pair, quotas, spread, witnesses_of
from crosspoint_ros.data.reader import Looked, Recipe, Source
from crosspoint_ros.data.workers import Pool

LEAST_A_PAIR = 12
A_FRAME = 36  # questions: what is asked of many frames has more variety, of few it is sooner made
AT_ONCE = 4  # frames that are planned together
Clicked = tuple[Source, str]  # a frame of a scene, by name


def planned(pool: Pool, out: Path, scenes: list[tuple[Source, Looked]], recipe: Recipe,
            number: int) -> tuple[list[Share], Counter[str]]:
    """Choose the pairs of all scenes, and how much each is asked; no more frames than it takes."""
    frames = [(source, name) for source, looked in scenes for name in looked.names]
    most = max(len(looked.names) for _, looked in scenes)
    few = (spread(frames, -(-number // A_FRAME)), min(OTHERS, most))
    for clicked, others in (few, (frames, most)):
        found: dict[Clicked, list[Pair]] = {}
        left_out: Counter[str] = Counter()
        among = {source: tuple(spread(list(looked.names), others)) for source, looked in scenes}
        for owned, reasons in _pairs_of(pool, out, recipe, clicked, among):
            found |= owned
            left_out += reasons
        asked = _shared(pool, out, recipe, found, number, left_out)
        total = sum(sum(own.values()) for own in asked.values())
        if total >= number or (len(clicked), others) == (len(frames), most):
            break  # enough, or already all there are
    return [Share(*frame, tuple(own), tuple(own.values()), witnesses_of(found[frame]))
            for frame, own in asked.items()], left_out


def _shared(pool: Pool, out: Path, recipe: Recipe, found: dict[Clicked, list[Pair]], number: int,
            left_out: Counter[str]) -> dict[Clicked, dict[Pair, int]]:
    """Share the questions among pairs whose images agree; others are dropped from `found`."""
    sure: set[tuple[Clicked, Pair]] = set()
    while True:
        pairs = [(frame, pair) for frame, own in found.items() for pair in own]
        numbers = quotas([pair for _, pair in pairs], number, MOST_A_PAIR, LEAST_A_PAIR)
        asked: dict[Clicked, dict[Pair, int]] = {}
        for (frame, pair), share in zip(pairs, numbers, strict=True):
            if share:
                asked.setdefault(frame, {})[pair] = share
        items = [(out, frame[0], recipe, new) for frame, own in asked.items()
                 if (new := tuple(pair for pair in own if (frame, pair) not in sure))]
        if not items:
            return asked
        whys = pool(doubted, items, itemgetter(1))
        for (_, source, _, new), why in zip(items, whys, strict=True):
            frame = source, new[0].clicked
            sure |= {(frame, pair) for pair in new}
            left_out.update(f'pair: {reason}' for reason in why if reason)
            bad = {pair for pair, reason in zip(new, why, strict=True) if reason}
            found[frame] = [pair for pair in found[frame] if pair not in bad]


def _pairs_of(pool: Pool, out: Path, recipe: Recipe, frames: Sequence[tuple[Source, str]],
              among: dict[Source, tuple[str, ...]]
              ) -> Iterator[tuple[dict[Clicked, list[Pair]], Counter[str]]]:
    """Look for pairs of these frames, some of one scene at a time: they read the same others."""
    items = []
    for source, own in groupby(frames, key=itemgetter(0)):
        names = [name for _, name in own]
        items += [(out, source, recipe, tuple(names[at:at + AT_ONCE]), among[source])
                  for at in range(0, len(names), AT_ONCE)]
    for item, (found, reasons) in zip(items, pool(plan_frames, items, itemgetter(1)), strict=True):
        yield {(item[1], name): pairs for name, pairs in found.items()}, reasons
