"""Generates questions about the points of a frame: templates, formats, choice of points."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, View
from crosspoint_ros.data.qa import point_visibility
from crosspoint_ros.data.qa.frame_pairs import FramePair
from crosspoint_ros.data.qa.photometric import FlowReference, reject_shifted_points
from crosspoint_ros.data.qa.point_visibility import Indices, ProjectedPoints, Visibility

MIN_DEPTH_RATIO = 1.15  # between two depths that are compared
MIN_LATERAL_SHARE = 0.04  # of the width: between two points that are left and right of each other
MIN_TURN_DEG = 15.0
MAX_TRIES = 40  # for one question, before its type is exhausted
POINT_SUFFIX = ' Output the point coordinates in JSON format.'  # as the authors
ONE, TWO = '<image>\n', '<image>\n<image>\n'


class Coordinates(str, Enum):
    """The unit of points: pixels, or thousandths of width and height."""

    PIXEL = 'pixel'
    THOUSAND = 'thousand'


class QuestionType(str, Enum):
    """The types of CrossPoint-378K."""

    SPATIAL = 'single_spatial_understanding'
    GROUNDING = 'single_fine_grounding'
    CORRESPONDENCE = 'cross_correspondence'
    TRANSFORMATION = 'cross_spatial_transformation'
    DEPTH = 'cross_depth_variation'
    VISIBILITY = 'cross_occlusion_visibility'


def _expand(prefix: str, suffix: str, *questions: str) -> tuple[str, ...]:
    return tuple(prefix + question + suffix for question in questions)


QUESTIONS: dict[QuestionType, tuple[str, ...]] = {
    QuestionType.SPATIAL: _expand(
        ONE, '', 'Which of these points is nearer to the camera: A {a} or B {b}?',
        'Two points are given, A {a} and B {b}. Which one does the camera see at a smaller depth?',
        'Compare the points A {a} and B {b}. Which is closer to the camera?'),
    QuestionType.GROUNDING: _expand(
        ONE, POINT_SUFFIX, 'Point to that of the places {a}, {b} and {c} that is nearest to the '
        'camera.', 'Of {a}, {b} and {c}, which one does the camera see at the smallest depth?',
        'Three places are given: {a}, {b}, {c}. Point to the closest.'),
    QuestionType.CORRESPONDENCE: _expand(
        TWO, POINT_SUFFIX, 'The point at {a} in the first image is visible in the second image, '
        'too. Where is it there?', 'Find the place in the second image that is the same physical '
        'point as {a} in the first image.', 'Both images show the same scene. Point, in the second '
        'one, to what is at {a} in the first.'),
    QuestionType.TRANSFORMATION: _expand(
        TWO, '', 'Two points of the first image, A {a} and B {b}, are visible in the second image, '
        'too. Is A left or right of B in the second image?', 'A is at {a} and B at {b} in the '
        'first image. As the second image shows them, on which side of B is A: left or right?',
        'Seen from the second viewpoint, is the point A {a} of the first image to the left or to '
        'the right of its point B {b}?'),
    QuestionType.DEPTH: _expand(
        TWO, '', 'The point at {a} in the first image is visible in the second image, too. In '
        'which image is it nearer to the camera?', 'Which of the two cameras is nearer to the '
        'point at {a} in the first image, along its viewing direction: that of the first or of the '
        'second image?', 'Look at the point {a} of the first image. Which image shows it at a '
        'smaller depth, the first or the second?'),
    QuestionType.VISIBILITY: _expand(
        TWO, '', 'Is the point at {a} in the first image visible in the second image?',
        'Can the point {a} of the first image be seen in the second image?',
        'Does the second image show the point that is at {a} in the first image?')}
NAMED_QUESTIONS = _expand(ONE, POINT_SUFFIX, 'Point to the {name}.', 'Where is the {name}?',
                          'Locate the {name} in the image.')


def encode_point(pixel: Array, intrinsics: Intrinsics, coordinates: Coordinates
                 ) -> tuple[int, int]:
    """Encode a pixel (2,) as whole numbers that are on the image."""
    size = np.array([intrinsics.width_px, intrinsics.height_px])
    value = np.clip(np.rint(pixel), 0, size - 1) if coordinates is Coordinates.PIXEL else (
        np.clip(np.rint(pixel / size * 1000), 0, 999))
    return int(value[0]), int(value[1])


def decode_point(value: npt.ArrayLike, size: tuple[int, int], coordinates: Coordinates) -> Array:
    """Return the pixel (2,) of an encoded point in an image of a size (w, h)."""
    point = np.asarray(value, float)
    return point if coordinates is Coordinates.PIXEL else point / 1000 * np.array(size)


def format_inline(point: tuple[int, int]) -> str:
    """Format a point within a sentence."""
    return f'[{point[0]}, {point[1]}]'


def format_json(point: tuple[int, int]) -> str:
    """Format a point as the JSON answer that the benchmark's questions demand."""
    return f'```json\n[\n\t{{"point_2d": [{point[0]}, {point[1]}]}}\n]\n```'


@dataclass(frozen=True, eq=False)
class QAItem:
    """One question; pixels are of the clicked image, other_pixel of the other one or None."""

    question_type: QuestionType
    question: str
    answer: str
    pixels: tuple[Array, ...]
    other_pixel: Array | None = None
    is_visible: bool | None = None


@dataclass(frozen=True, eq=False)
class PairFacts:
    """The points of a frame, (n, 2) pixels, and their projections into another one."""

    clicked: View
    other: View
    pair: FramePair
    pixels: Array
    projected: ProjectedPoints
    names: tuple[str, ...]
    coordinates: Coordinates

    def indices(self, *classes: Visibility) -> Indices:
        """Return the indices of the points of these classes."""
        return np.flatnonzero(np.isin(self.projected.visibility, classes))

    def encode(self, index: int) -> tuple[int, int]:
        """Encode a point of the clicked image."""
        return encode_point(self.pixels[index], self.clicked.intrinsics, self.coordinates)

    def build_item(self, question_type: QuestionType, rng: np.random.Generator,
                   indices: list[int], answer: str, other_pixel: Array | None = None,
                   is_visible: bool | None = None) -> QAItem:
        """Fill one of the type's templates with points."""
        templates = QUESTIONS[question_type]
        question = templates[int(rng.integers(len(templates)))].format(**{
            letter: format_inline(self.encode(i))
            for letter, i in zip('abc', indices, strict=False)})
        return QAItem(question_type, question, answer, tuple(self.pixels[i] for i in indices),
                      other_pixel, is_visible)


def collect_facts(reference: FlowReference, other: View, pair: FramePair, pixels: Array,
                  support_views: list[View], names: tuple[str, ...], coordinates: Coordinates,
                  skipped: Counter[str]) -> PairFacts | None:
    """Project the points into the other view; count those that are uncertain by reason.

    None, which is counted too, if the images of the pair disagree.
    """
    clicked = reference.view
    projected = point_visibility.project_points(clicked, other, pixels)
    if reason := reject_shifted_points(reference, other, pixels, projected):
        skipped[f'pair: {reason}'] += 1
        return None
    occluded = np.flatnonzero(projected.visibility == Visibility.OCCLUDED)
    if len(occluded):
        confirmed = np.zeros(len(occluded), bool)
        for support in support_views:
            confirmed |= point_visibility.project_points(
                clicked, support, pixels[occluded]).visibility == Visibility.VISIBLE
        projected.visibility[occluded[~confirmed]] = Visibility.UNCONFIRMED
    for visibility, number in Counter(projected.visibility.tolist()).items():
        if visibility > Visibility.OUTSIDE:
            skipped[f'point: {Visibility(visibility).reason}'] += number
    return PairFacts(clicked, other, pair, pixels, projected, names, coordinates)


def generate_questions(facts: PairFacts, number: int, rng: np.random.Generator,
                       seen_keys: set[str]) -> Iterator[QAItem]:
    """Yield up to `number` questions, the types in turn; seen_keys: of the frame's earlier ones."""
    generators = [_generate_spatial, _generate_grounding, _generate_correspondence,
                  _generate_left_right, _generate_depth, _generate_visibility]
    failures = Counter[object]()
    for turn in count(int(rng.integers(len(generators)))):
        if number <= 0 or not generators:
            return
        generate = generators[turn % len(generators)]
        item = generate(facts, rng)
        key = '' if item is None else item.question
        if item is not None and item.is_visible is not None:
            key += f' {facts.pair.other}'
        if item is None or key in seen_keys:
            failures[generate] += 1
            if failures[generate] >= MAX_TRIES:
                generators.remove(generate)
            continue
        failures[generate] = 0
        seen_keys.add(key)
        number -= 1
        yield item


def _find_certain(facts: PairFacts) -> Indices:
    """Return the points whose depth in their own view is certain."""
    return np.flatnonzero(~np.isin(facts.projected.visibility, (
        Visibility.NO_DEPTH, Visibility.DEPTH_EDGE, Visibility.SELF_MASK, Visibility.SEEN_THROUGH,
        Visibility.UNCONFIRMED)))


def _generate_spatial(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    known = _find_certain(facts)
    if len(known) < 2:
        return None
    a, b = (int(i) for i in rng.choice(known, 2, replace=False))
    depth_m = facts.projected.depth_m
    near, far = sorted((depth_m[a], depth_m[b]))
    if far < MIN_DEPTH_RATIO * near:
        return None
    answer = f'{"A" if depth_m[a] == near else "B"} is nearer to the camera.'
    return facts.build_item(QuestionType.SPATIAL, rng, [a, b], answer)


def _generate_grounding(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    known = _find_certain(facts)
    named = [int(i) for i in known if facts.names[i]] if facts.names else []
    if named:
        index = int(rng.choice(named))
        question = NAMED_QUESTIONS[int(rng.integers(len(NAMED_QUESTIONS)))].format(
            name=facts.names[index])
        return QAItem(QuestionType.GROUNDING, question, format_json(facts.encode(index)),
                      (facts.pixels[index],))
    if len(known) < 3:  # without names, points differ by their depth alone
        return None
    chosen = [int(i) for i in rng.choice(known, 3, replace=False)]
    depth_m = facts.projected.depth_m
    nearest, second, _ = sorted(chosen, key=lambda i: depth_m[i])
    if depth_m[second] < MIN_DEPTH_RATIO * depth_m[nearest]:
        return None
    return facts.build_item(QuestionType.GROUNDING, rng, chosen, format_json(facts.encode(nearest)))


def _generate_correspondence(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    visible = facts.indices(Visibility.VISIBLE)
    if not len(visible):
        return None
    index = int(rng.choice(visible))
    pixel = facts.projected.pixels[index]
    answer = format_json(encode_point(pixel, facts.other.intrinsics, facts.coordinates))
    return facts.build_item(QuestionType.CORRESPONDENCE, rng, [index], answer, pixel, True)


def _generate_left_right(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    visible = facts.indices(Visibility.VISIBLE)
    if len(visible) < 2 or facts.pair.angle_deg < MIN_TURN_DEG:
        return None
    a, b = (int(i) for i in rng.choice(visible, 2, replace=False))
    pixels = facts.projected.pixels
    offset_px = pixels[a][0] - pixels[b][0]
    if abs(offset_px) < MIN_LATERAL_SHARE * facts.other.intrinsics.width_px:
        return None
    answer = f'In the second image A is {"left" if offset_px < 0 else "right"} of B.'
    return facts.build_item(QuestionType.TRANSFORMATION, rng, [a, b], answer, pixels[a], True)


def _generate_depth(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    visible = facts.indices(Visibility.VISIBLE)
    if not len(visible):
        return None
    index = int(rng.choice(visible))
    first, second = facts.projected.depth_m[index], facts.projected.other_depth_m[index]
    if max(first, second) < MIN_DEPTH_RATIO * min(first, second):
        return None
    answer = f'It is nearer in the {"first" if first < second else "second"} image.'
    return facts.build_item(QuestionType.DEPTH, rng, [index], answer,
                            facts.projected.pixels[index], True)


def _generate_visibility(facts: PairFacts, rng: np.random.Generator) -> QAItem | None:
    """Half yes, half no; of the noes, three quarters are occluded, if there are any."""
    visible = bool(rng.integers(2))
    occluded, outside = (facts.indices(v) for v in (Visibility.OCCLUDED, Visibility.OUTSIDE))
    choices = facts.indices(Visibility.VISIBLE) if visible else (
        occluded if len(occluded) and (rng.integers(4) or not len(outside)) else outside)
    if not len(choices):
        return None
    index = int(rng.choice(choices))
    if visible:
        answer = 'Yes, the second image shows it.'
    elif facts.projected.visibility[index] == Visibility.OCCLUDED:
        answer = 'No, something in front of it hides it in the second image.'
    else:
        answer = 'No, it lies outside the second image.'
    return facts.build_item(QuestionType.VISIBILITY, rng, [index], answer,
                            facts.projected.pixels[index] if visible else None, visible)
