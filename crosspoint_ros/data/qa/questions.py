"""The questions about one frame: its points, their places elsewhere, what is asked of them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa.frame_pairs import FramePair
from crosspoint_ros.data.qa.photometric import FlowReference, reject_shifted_points
from crosspoint_ros.data.qa.point_sampling import Labels, sample_points
from crosspoint_ros.data.qa.point_visibility import (
    REASONS,
    Indices,
    ProjectedPoints,
    Visibility,
    project_points,
)
from crosspoint_ros.data.qa.templates import (
    NAMED_QUESTIONS,
    QUESTIONS,
    Coordinates,
    QuestionType,
    encode_point,
    format_inline,
    format_json,
)

MAX_POINTS = 260
NEARER_RATIO = 1.15  # between two depths that people are asked to compare
MIN_LATERAL_SHARE = 0.04  # of the width: between two points that are left and right of each other
MIN_TURN_DEG = 15.0
MAX_TRIES = 40  # for one question, before the frame is taken to have no more of them
QUESTION_TYPES = tuple(QuestionType)


@dataclass(frozen=True, eq=False)
class QAItem:
    """One question; points are pixels of the clicked image, `found` one of the other or None."""

    question_type: QuestionType
    question: str
    answer: str
    pixels: tuple[Array, ...]
    other_pixel: Array | None
    is_visible: bool | None


@dataclass(frozen=True, eq=False)
class PairFacts:
    """What is known of the points of a frame in another one."""

    clicked: View
    other: View
    pair: FramePair
    pixels: Array
    projected: ProjectedPoints
    names: tuple[str, ...]
    coordinates: Coordinates

    def indices(self, *visibilities: Visibility) -> Indices:
        """The points of these fates."""
        return np.flatnonzero(np.isin(self.projected.visibility, visibilities))

    def format_pixel(self, index: int) -> str:
        """A point of the clicked image, as a question has it."""
        return format_inline(encode_point(self.pixels[index], self.clicked.intrinsics, self.coordinates))


def choose_points(view: View, labels: Labels | None, rng: np.random.Generator) -> Array:
    """Choose the points of a frame that are asked about."""
    return sample_points(view, labels, MAX_POINTS, rng)


def collect_facts(reference: FlowReference, other: View, pair: FramePair, pixels: Array, support_views: list[View],
             names: tuple[str, ...], coordinates: Coordinates, skipped: Counter[str]
             ) -> PairFacts | None:
    """Find the points in the other view; count those that are not certain, by reason.

    None, which is counted too, where nothing of the pair is certain.
    """
    clicked = reference.view
    projected = project_points(clicked, other, pixels)
    if problem := reject_shifted_points(reference, other, pixels, projected):
        skipped[f'pair: {problem}'] += 1
        return None
    hidden = np.flatnonzero(projected.visibility == Visibility.OCCLUDED)
    if len(hidden):
        confirmed = np.zeros(len(hidden), bool)
        for witness in support_views:
            confirmed |= project_points(clicked, witness, pixels[hidden]).visibility == Visibility.VISIBLE
        projected.visibility[hidden[~confirmed]] = Visibility.UNCONFIRMED
    for visibility, number in Counter(projected.visibility.tolist()).items():
        if visibility > Visibility.OUTSIDE:
            skipped[f'point: {REASONS[Visibility(visibility)]}'] += number
    return PairFacts(clicked, other, pair, pixels, projected, names, coordinates)


def generate_questions(facts: PairFacts, number: int, rng: np.random.Generator, seen_keys: set[str]) -> Iterator[QAItem]:
    """Yield up to `number` questions, the types in turn; `asked` holds what was asked before."""
    makers = {QuestionType.SPATIAL: _spatial, QuestionType.GROUNDING: _grounding, QuestionType.CORRESPONDENCE: _correspondence,
              QuestionType.TRANSFORMATION: _left_right, QuestionType.DEPTH: _depth, QuestionType.VISIBILITY: _visibility}
    open_kinds, failed = list(QUESTION_TYPES), Counter[QuestionType]()
    first = int(rng.integers(len(QUESTION_TYPES)))
    for turn in count(first):
        if number <= 0 or not open_kinds:
            return
        question_type = open_kinds[turn % len(open_kinds)]
        made = makers[question_type](facts, rng, turn)
        key = '' if made is None else f'{made.question} {facts.pair.other}' if (
            made.other_pixel is not None or made.is_visible is not None) else made.question
        if made is None or key in seen_keys:
            failed[question_type] += 1
            if failed[question_type] >= MAX_TRIES:
                open_kinds.remove(question_type)
            continue
        failed[question_type] = 0
        seen_keys.add(key)
        number -= 1
        yield made


def _fill_template(facts: PairFacts, question_type: QuestionType, rng: np.random.Generator, indices: list[int]) -> str:
    words = QUESTIONS[question_type][int(rng.integers(len(QUESTIONS[question_type])))]
    return words.format(**{letter: facts.format_pixel(i)
                           for letter, i in zip('abc', indices, strict=False)})


def _make_item(facts: PairFacts, question_type: QuestionType, rng: np.random.Generator, indices: list[int], answer: str,
           other_pixel: Array | None = None, is_visible: bool | None = None) -> QAItem:
    return QAItem(question_type, _fill_template(facts, question_type, rng, indices), answer,
                 tuple(facts.pixels[i] for i in indices), other_pixel, is_visible)


def _find_certain(facts: PairFacts) -> Indices:
    """The points whose own depth is known for certain."""
    return np.flatnonzero(~np.isin(facts.projected.visibility, (
        Visibility.NO_DEPTH, Visibility.DEPTH_EDGE, Visibility.SELF_MASK, Visibility.SEEN_THROUGH, Visibility.UNCONFIRMED)))


def _spatial(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    known = _find_certain(facts)
    if len(known) < 2:
        return None
    a, b = (int(i) for i in rng.choice(known, 2, replace=False))
    near, far = sorted((facts.projected.depth_m[a], facts.projected.depth_m[b]))
    if far < NEARER_RATIO * near:
        return None
    nearer = 'A' if facts.projected.depth_m[a] == near else 'B'
    return _make_item(facts, QuestionType.SPATIAL, rng, [a, b], f'{nearer} is nearer to the camera.')


def _grounding(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    known = _find_certain(facts)
    named = [int(i) for i in known if facts.names[i]] if facts.names else []
    if named:
        index = int(rng.choice(named))
        words = NAMED_QUESTIONS[int(rng.integers(len(NAMED_QUESTIONS)))].format(name=facts.names[index])
        at = encode_point(facts.pixels[index], facts.clicked.intrinsics, facts.coordinates)
        return QAItem(QuestionType.GROUNDING, words, format_json(at), (facts.pixels[index],), None, None)
    if len(known) < 3:  # what is not named can be told by its depth alone
        return None
    chosen = [int(i) for i in rng.choice(known, 3, replace=False)]
    nearest, second, _ = sorted(chosen, key=lambda i: facts.projected.depth_m[i])
    if facts.projected.depth_m[second] < NEARER_RATIO * facts.projected.depth_m[nearest]:
        return None
    at = encode_point(facts.pixels[nearest], facts.clicked.intrinsics, facts.coordinates)
    return _make_item(facts, QuestionType.GROUNDING, rng, chosen, format_json(at))


def _correspondence(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    seen = facts.indices(Visibility.VISIBLE)
    if not len(seen):
        return None
    index = int(rng.choice(seen))
    pixel = facts.projected.pixels[index]
    answer = format_json(encode_point(pixel, facts.other.intrinsics, facts.coordinates))
    return _make_item(facts, QuestionType.CORRESPONDENCE, rng, [index], answer, pixel, True)


def _left_right(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    seen = facts.indices(Visibility.VISIBLE)
    if len(seen) < 2 or facts.pair.angle_deg < MIN_TURN_DEG:
        return None
    a, b = (int(i) for i in rng.choice(seen, 2, replace=False))
    aside = facts.projected.pixels[a][0] - facts.projected.pixels[b][0]
    if abs(aside) < MIN_LATERAL_SHARE * facts.other.intrinsics.width_px:
        return None
    side = 'left' if aside < 0 else 'right'
    return _make_item(facts, QuestionType.TRANSFORMATION, rng, [a, b],
                  f'In the second image A is {side} of B.', facts.projected.pixels[a], True)


def _depth(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    seen = facts.indices(Visibility.VISIBLE)
    if not len(seen):
        return None
    index = int(rng.choice(seen))
    depths, there = facts.projected.depth_m[index], facts.projected.other_depth_m[index]
    if max(depths, there) < NEARER_RATIO * min(depths, there):
        return None
    which = 'first' if depths < there else 'second'
    return _make_item(facts, QuestionType.DEPTH, rng, [index], f'It is nearer in the {which} image.',
                  facts.projected.pixels[index], True)


def _visibility(facts: PairFacts, rng: np.random.Generator, turn: int) -> QAItem | None:
    """Yes and no by halves; of the noes, what is hidden before what is outside."""
    is_visible = bool(rng.integers(2))
    hidden, outside = facts.indices(Visibility.OCCLUDED), facts.indices(Visibility.OUTSIDE)
    choices = facts.indices(Visibility.VISIBLE) if is_visible else (
        hidden if len(hidden) and (rng.integers(4) or not len(outside)) else outside)
    if not len(choices):
        return None
    index = int(rng.choice(choices))
    if is_visible:
        answer = 'Yes, the second image shows it.'
    elif facts.projected.visibility[index] == Visibility.OCCLUDED:
        answer = 'No, something in front of it hides it in the second image.'
    else:
        answer = 'No, it lies outside the second image.'
    return _make_item(facts, QuestionType.VISIBILITY, rng, [index], answer,
                  facts.projected.pixels[index] if is_visible else None, is_visible)
