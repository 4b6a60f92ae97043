"""The questions about one frame: its points, their places elsewhere, what is asked of them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa.frame_pairs import Pair
from crosspoint_ros.data.qa.photometric import Look, compare
from crosspoint_ros.data.qa.point_sampling import Labels, candidates
from crosspoint_ros.data.qa.point_visibility import WORDS, Fate, Indices, Placed, place
from crosspoint_ros.data.qa.templates import (
    NAMED,
    QUESTIONS,
    Coordinates,
    Kind,
    bracketed,
    pointed,
    written,
)

CANDIDATES = 260
NEARER_RATIO = 1.15  # between two depths that people are asked to compare
ASIDE_SHARE = 0.04  # of the width: between two points that are left and right of each other
MIN_TURN_DEG = 15.0
TRIES = 40  # for one question, before the frame is taken to have no more of them
KINDS = tuple(Kind)


@dataclass(frozen=True, eq=False)
class Asked:
    """One question; points are pixels of the clicked image, `found` one of the other or None."""

    kind: Kind
    question: str
    answer: str
    points: tuple[Array, ...]
    found: Array | None
    visible: bool | None


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the points of a frame in another one."""

    clicked: View
    other: View
    pair: Pair
    pixels: Array
    placed: Placed
    names: tuple[str, ...]
    coordinates: Coordinates

    def of(self, *fates: Fate) -> Indices:
        """The points of these fates."""
        return np.flatnonzero(np.isin(self.placed.fate, fates))

    def text(self, index: int) -> str:
        """A point of the clicked image, as a question has it."""
        return bracketed(written(self.pixels[index], self.clicked.intrinsics, self.coordinates))


def choose_points(view: View, labels: Labels | None, rng: np.random.Generator) -> Array:
    """Choose the points of a frame that are asked about."""
    return candidates(view, labels, CANDIDATES, rng)


def facts_of(look: Look, other: View, pair: Pair, pixels: Array, witnesses: list[View],
             names: tuple[str, ...], coordinates: Coordinates, left_out: Counter[str]
             ) -> Facts | None:
    """Find the points in the other view; count those that are not certain, by reason.

    None, which is counted too, where nothing of the pair is certain.
    """
    clicked = look.view
    placed = place(clicked, other, pixels)
    if problem := compare(look, other, pixels, placed):
        left_out[f'pair: {problem}'] += 1
        return None
    hidden = np.flatnonzero(placed.fate == Fate.HIDDEN)
    if len(hidden):
        confirmed = np.zeros(len(hidden), bool)
        for witness in witnesses:
            confirmed |= place(clicked, witness, pixels[hidden]).fate == Fate.VISIBLE
        placed.fate[hidden[~confirmed]] = Fate.UNCONFIRMED
    for fate, number in Counter(placed.fate.tolist()).items():
        if fate > Fate.OUTSIDE:
            left_out[f'point: {WORDS[Fate(fate)]}'] += number
    return Facts(clicked, other, pair, pixels, placed, names, coordinates)


def ask(facts: Facts, number: int, rng: np.random.Generator, asked: set[str]) -> Iterator[Asked]:
    """Yield up to `number` questions, the types in turn; `asked` holds what was asked before."""
    makers = {Kind.SPATIAL: _spatial, Kind.GROUNDING: _grounding, Kind.CORRESPONDENCE: _found,
              Kind.TRANSFORMATION: _side, Kind.DEPTH: _depth, Kind.VISIBILITY: _visible}
    open_kinds, failed = list(KINDS), Counter[Kind]()
    first = int(rng.integers(len(KINDS)))
    for turn in count(first):
        if number <= 0 or not open_kinds:
            return
        kind = open_kinds[turn % len(open_kinds)]
        made = makers[kind](facts, rng, turn)
        key = '' if made is None else f'{made.question} {facts.pair.other}' if (
            made.found is not None or made.visible is not None) else made.question
        if made is None or key in asked:
            failed[kind] += 1
            if failed[kind] >= TRIES:
                open_kinds.remove(kind)
            continue
        failed[kind] = 0
        asked.add(key)
        number -= 1
        yield made


def _say(facts: Facts, kind: Kind, rng: np.random.Generator, indices: list[int]) -> str:
    words = QUESTIONS[kind][int(rng.integers(len(QUESTIONS[kind])))]
    return words.format(**{letter: facts.text(i)
                           for letter, i in zip('abc', indices, strict=False)})


def _asked(facts: Facts, kind: Kind, rng: np.random.Generator, indices: list[int], answer: str,
           found: Array | None = None, visible: bool | None = None) -> Asked:
    return Asked(kind, _say(facts, kind, rng, indices), answer,
                 tuple(facts.pixels[i] for i in indices), found, visible)


def _certain(facts: Facts) -> Indices:
    """The points whose own depth is known for certain."""
    return np.flatnonzero(~np.isin(facts.placed.fate, (
        Fate.NO_DEPTH, Fate.DEPTH_EDGE, Fate.OWN_BODY, Fate.SEEN_THROUGH, Fate.UNCONFIRMED)))


def _spatial(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    known = _certain(facts)
    if len(known) < 2:
        return None
    a, b = (int(i) for i in rng.choice(known, 2, replace=False))
    near, far = sorted((facts.placed.depth_m[a], facts.placed.depth_m[b]))
    if far < NEARER_RATIO * near:
        return None
    nearer = 'A' if facts.placed.depth_m[a] == near else 'B'
    return _asked(facts, Kind.SPATIAL, rng, [a, b], f'{nearer} is nearer to the camera.')


def _grounding(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    known = _certain(facts)
    named = [int(i) for i in known if facts.names[i]] if facts.names else []
    if named:
        index = int(rng.choice(named))
        words = NAMED[int(rng.integers(len(NAMED)))].format(name=facts.names[index])
        at = written(facts.pixels[index], facts.clicked.intrinsics, facts.coordinates)
        return Asked(Kind.GROUNDING, words, pointed(at), (facts.pixels[index],), None, None)
    if len(known) < 3:  # what is not named can be told by its depth alone
        return None
    chosen = [int(i) for i in rng.choice(known, 3, replace=False)]
    nearest, second, _ = sorted(chosen, key=lambda i: facts.placed.depth_m[i])
    if facts.placed.depth_m[second] < NEARER_RATIO * facts.placed.depth_m[nearest]:
        return None
    at = written(facts.pixels[nearest], facts.clicked.intrinsics, facts.coordinates)
    return _asked(facts, Kind.GROUNDING, rng, chosen, pointed(at))


def _found(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    seen = facts.of(Fate.VISIBLE)
    if not len(seen):
        return None
    index = int(rng.choice(seen))
    pixel = facts.placed.pixel[index]
    answer = pointed(written(pixel, facts.other.intrinsics, facts.coordinates))
    return _asked(facts, Kind.CORRESPONDENCE, rng, [index], answer, pixel, True)


def _side(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    seen = facts.of(Fate.VISIBLE)
    if len(seen) < 2 or facts.pair.angle_deg < MIN_TURN_DEG:
        return None
    a, b = (int(i) for i in rng.choice(seen, 2, replace=False))
    aside = facts.placed.pixel[a][0] - facts.placed.pixel[b][0]
    if abs(aside) < ASIDE_SHARE * facts.other.intrinsics.width_px:
        return None
    side = 'left' if aside < 0 else 'right'
    return _asked(facts, Kind.TRANSFORMATION, rng, [a, b],
                  f'In the second image A is {side} of B.', facts.placed.pixel[a], True)


def _depth(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    seen = facts.of(Fate.VISIBLE)
    if not len(seen):
        return None
    index = int(rng.choice(seen))
    here, there = facts.placed.depth_m[index], facts.placed.depth_there_m[index]
    if max(here, there) < NEARER_RATIO * min(here, there):
        return None
    which = 'first' if here < there else 'second'
    return _asked(facts, Kind.DEPTH, rng, [index], f'It is nearer in the {which} image.',
                  facts.placed.pixel[index], True)


def _visible(facts: Facts, rng: np.random.Generator, turn: int) -> Asked | None:
    """Yes and no by halves; of the noes, what is hidden before what is outside."""
    visible = bool(rng.integers(2))
    hidden, outside = facts.of(Fate.HIDDEN), facts.of(Fate.OUTSIDE)
    choices = facts.of(Fate.VISIBLE) if visible else (
        hidden if len(hidden) and (rng.integers(4) or not len(outside)) else outside)
    if not len(choices):
        return None
    index = int(rng.choice(choices))
    if visible:
        answer = 'Yes, the second image shows it.'
    elif facts.placed.fate[index] == Fate.HIDDEN:
        answer = 'No, something in front of it hides it in the second image.'
    else:
        answer = 'No, it lies outside the second image.'
    return _asked(facts, Kind.VISIBILITY, rng, [index], answer,
                  facts.placed.pixel[index] if visible else None, visible)
