"""Templates of questions, some paraphrases a type, and the formats of points."""
from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics

POINT_SUFFIX = ' Output the point coordinates in JSON format.'
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


QUESTIONS: dict[QuestionType, tuple[str, ...]] = {
    QuestionType.SPATIAL: (
        ONE + 'Which of these points is nearer to the camera: A {a} or B {b}?',
        ONE + 'Two points are given, A {a} and B {b}. Which one does the camera see at a smaller '
        'depth?',
        ONE + 'Compare the points A {a} and B {b}. Which is closer to the camera?'),
    QuestionType.GROUNDING: (
        ONE + 'Point to that of the places {a}, {b} and {c} that is nearest to the camera.'
        + POINT_SUFFIX,
        ONE + 'Of {a}, {b} and {c}, which one does the camera see at the smallest depth?'
        + POINT_SUFFIX,
        ONE + 'Three places are given: {a}, {b}, {c}. Point to the closest.' + POINT_SUFFIX),
    QuestionType.CORRESPONDENCE: (
        TWO + 'The point at {a} in the first image is visible in the second image, too. Where is '
        'it there?' + POINT_SUFFIX,
        TWO + 'Find the place in the second image that is the same physical point as {a} in the '
        'first image.' + POINT_SUFFIX,
        TWO + 'Both images show the same scene. Point, in the second one, to what is at {a} in the '
        'first.' + POINT_SUFFIX),
    QuestionType.TRANSFORMATION: (
        TWO + 'Two points of the first image, A {a} and B {b}, are visible in the second image, '
        'too. Is A left or right of B in the second image?',
        TWO + 'A is at {a} and B at {b} in the first image. As the second image shows them, on '
        'which side of B is A: left or right?',
        TWO + 'Seen from the second viewpoint, is the point A {a} of the first image to the left '
        'or to the right of its point B {b}?'),
    QuestionType.DEPTH: (
        TWO + 'The point at {a} in the first image is visible in the second image, too. In which '
        'image is it nearer to the camera?',
        TWO + 'Which of the two cameras is nearer to the point at {a} in the first image, along '
        'its viewing direction: that of the first or of the second image?',
        TWO + 'Look at the point {a} of the first image. Which image shows it at a smaller depth, '
        'the first or the second?'),
    QuestionType.VISIBILITY: (
        TWO + 'Is the point at {a} in the first image visible in the second image?',
        TWO + 'Can the point {a} of the first image be seen in the second image?',
        TWO + 'Does the second image show the point that is at {a} in the first image?')}

NAMED_QUESTIONS = tuple(ONE + question + POINT_SUFFIX for question in (
    'Point to the {name}.', 'Where is the {name}?', 'Locate the {name} in the image.'))


def encode_point(pixel: Array, intrinsics: Intrinsics, coordinates: Coordinates
                 ) -> tuple[int, int]:
    """Encode a pixel (2,) as whole numbers that are on the image."""
    size = np.array([intrinsics.width_px, intrinsics.height_px])
    if coordinates is Coordinates.PIXEL:
        value = np.clip(np.rint(pixel), 0, size - 1)
    else:
        value = np.clip(np.rint(pixel / size * 1000), 0, 999)
    return int(value[0]), int(value[1])


def decode_point(value: npt.ArrayLike, size: tuple[int, int], coordinates: Coordinates) -> Array:
    """Return the pixel (2,) of an encoded point in an image of a size (w, h)."""
    point = np.asarray(value, float)
    if coordinates is Coordinates.PIXEL:
        return point
    return np.asarray(point / 1000 * np.array(size))


def format_inline(point: tuple[int, int]) -> str:
    """Format a point within a sentence."""
    return f'[{point[0]}, {point[1]}]'


def format_json(point: tuple[int, int]) -> str:
    """Format a point as the JSON answer that the benchmark's questions demand."""
    return f'```json\n[\n\t{{"point_2d": [{point[0]}, {point[1]}]}}\n]\n```'
