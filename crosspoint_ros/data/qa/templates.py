"""The words of questions and answers: paraphrases of each type, and how a point is written."""
from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics

POINT_SUFFIX = ' Output the point coordinates in JSON format.'
ONE_IMAGE, TWO_IMAGES = '<image>\n', '<image>\n<image>\n'


class Coordinates(str, Enum):
    """How a point is written: in pixels, or in thousandths of width and height."""

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
        ONE_IMAGE + 'Which of these points is nearer to the camera: A {a} or B {b}?',
        ONE_IMAGE + 'Two points are given, A {a} and B {b}. Which one does the camera see at a smaller '
        'depth?',
        ONE_IMAGE + 'Compare the points A {a} and B {b}. Which is closer to the camera?'),
    QuestionType.GROUNDING: (
        ONE_IMAGE + 'Point to that of the places {a}, {b} and {c} that is nearest to the camera.'
        + POINT_SUFFIX,
        ONE_IMAGE + 'Of {a}, {b} and {c}, which one does the camera see at the smallest depth?'
        + POINT_SUFFIX,
        ONE_IMAGE + 'Three places are given: {a}, {b}, {c}. Point to the closest.' + POINT_SUFFIX),
    QuestionType.CORRESPONDENCE: (
        TWO_IMAGES + 'The point at {a} in the first image is visible in the second image, too. Where is '
        'it there?' + POINT_SUFFIX,
        TWO_IMAGES + 'Find the place in the second image that is the same physical point as {a} in the '
        'first image.' + POINT_SUFFIX,
        TWO_IMAGES + 'Both images show the same scene. Point, in the second one, to what is at {a} in the '
        'first.' + POINT_SUFFIX),
    QuestionType.TRANSFORMATION: (
        TWO_IMAGES + 'Two points of the first image, A {a} and B {b}, are visible in the second image, '
        'too. Is A left or right of B in the second image?',
        TWO_IMAGES + 'A is at {a} and B at {b} in the first image. As the second image shows them, on '
        'which side of B is A: left or right?',
        TWO_IMAGES + 'Seen from the second viewpoint, is the point A {a} of the first image to the left '
        'or to the right of its point B {b}?'),
    QuestionType.DEPTH: (
        TWO_IMAGES + 'The point at {a} in the first image is visible in the second image, too. In which '
        'image is it nearer to the camera?',
        TWO_IMAGES + 'Which of the two cameras is nearer to the point at {a} in the first image, along '
        'its viewing direction: that of the first or of the second image?',
        TWO_IMAGES + 'Look at the point {a} of the first image. Which image shows it at a smaller depth, '
        'the first or the second?'),
    QuestionType.VISIBILITY: (
        TWO_IMAGES + 'Is the point at {a} in the first image visible in the second image?',
        TWO_IMAGES + 'Can the point {a} of the first image be seen in the second image?',
        TWO_IMAGES + 'Does the second image show the point that is at {a} in the first image?')}

NAMED_QUESTIONS = (ONE_IMAGE + 'Point to the {name}.' + POINT_SUFFIX, ONE_IMAGE + 'Where is the {name}?' + POINT_SUFFIX,
         ONE_IMAGE + 'Locate the {name} in the image.' + POINT_SUFFIX)


def encode_point(pixel: Array, intrinsics: Intrinsics, coordinates: Coordinates) -> tuple[int, int]:
    """Return a pixel (2,) as a question writes it, whole numbers that lie on the image."""
    size = np.array([intrinsics.width_px, intrinsics.height_px])
    if coordinates is Coordinates.PIXEL:
        value = np.clip(np.rint(pixel), 0, size - 1)
    else:
        value = np.clip(np.rint(pixel / size * 1000), 0, 999)
    return int(value[0]), int(value[1])


def decode_point(value: npt.ArrayLike, size: tuple[int, int], coordinates: Coordinates) -> Array:
    """Return the pixel (2,) that a written point means, in an image of a size (w, h)."""
    point = np.asarray(value, float)
    return point if coordinates is Coordinates.PIXEL else np.asarray(point / 1000 * np.array(size))


def format_inline(point: tuple[int, int]) -> str:
    """A point in a sentence."""
    return f'[{point[0]}, {point[1]}]'


def format_json(point: tuple[int, int]) -> str:
    """A point as the answer that the benchmark's question asks for."""
    return f'```json\n[\n\t{{"point_2d": [{point[0]}, {point[1]}]}}\n]\n```'
