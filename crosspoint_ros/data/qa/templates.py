"""The words of questions and answers: paraphrases of each type, and how a point is written."""
from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics

POINTING = ' Output the point coordinates in JSON format.'
ONE, TWO = '<image>\n', '<image>\n<image>\n'


class Coordinates(str, Enum):
    """How a point is written: in pixels, or in thousandths of width and height."""

    PIXEL = 'pixel'
    THOUSAND = 'thousand'


class Kind(str, Enum):
    """The types of CrossPoint-378K."""

    SPATIAL = 'single_spatial_understanding'
    GROUNDING = 'single_fine_grounding'
    CORRESPONDENCE = 'cross_correspondence'
    TRANSFORMATION = 'cross_spatial_transformation'
    DEPTH = 'cross_depth_variation'
    VISIBILITY = 'cross_occlusion_visibility'


QUESTIONS: dict[Kind, tuple[str, ...]] = {
    Kind.SPATIAL: (
        ONE + 'Which of these points is nearer to the camera: A {a} or B {b}?',
        ONE + 'Two points are given, A {a} and B {b}. Which one does the camera see at a smaller '
        'depth?',
        ONE + 'Compare the points A {a} and B {b}. Which is closer to the camera?'),
    Kind.GROUNDING: (
        ONE + 'Point to that of the places {a}, {b} and {c} that is nearest to the camera.'
        + POINTING,
        ONE + 'Of {a}, {b} and {c}, which one does the camera see at the smallest depth?'
        + POINTING,
        ONE + 'Three places are given: {a}, {b}, {c}. Point to the closest.' + POINTING),
    Kind.CORRESPONDENCE: (
        TWO + 'The point at {a} in the first image is visible in the second image, too. Where is '
        'it there?' + POINTING,
        TWO + 'Find the place in the second image that is the same physical point as {a} in the '
        'first image.' + POINTING,
        TWO + 'Both images show the same scene. Point, in the second one, to what is at {a} in the '
        'first.' + POINTING),
    Kind.TRANSFORMATION: (
        TWO + 'Two points of the first image, A {a} and B {b}, are visible in the second image, '
        'too. Is A left or right of B in the second image?',
        TWO + 'A is at {a} and B at {b} in the first image. As the second image shows them, on '
        'which side of B is A: left or right?',
        TWO + 'Seen from the second viewpoint, is the point A {a} of the first image to the left '
        'or to the right of its point B {b}?'),
    Kind.DEPTH: (
        TWO + 'The point at {a} in the first image is visible in the second image, too. In which '
        'image is it nearer to the camera?',
        TWO + 'Which of the two cameras is nearer to the point at {a} in the first image, along '
        'its viewing direction: that of the first or of the second image?',
        TWO + 'Look at the point {a} of the first image. Which image shows it at a smaller depth, '
        'the first or the second?'),
    Kind.VISIBILITY: (
        TWO + 'Is the point at {a} in the first image visible in the second image?',
        TWO + 'Can the point {a} of the first image be seen in the second image?',
        TWO + 'Does the second image show the point that is at {a} in the first image?')}

NAMED = (ONE + 'Point to the {name}.' + POINTING, ONE + 'Where is the {name}?' + POINTING,
         ONE + 'Locate the {name} in the image.' + POINTING)


def written(pixel: Array, lens: Intrinsics, how: Coordinates) -> tuple[int, int]:
    """Return a pixel (2,) as a question writes it, whole numbers that lie on the image."""
    size = np.array([lens.width_px, lens.height_px])
    if how is Coordinates.PIXEL:
        value = np.clip(np.rint(pixel), 0, size - 1)
    else:
        value = np.clip(np.rint(pixel / size * 1000), 0, 999)
    return int(value[0]), int(value[1])


def unwritten(value: npt.ArrayLike, size: tuple[int, int], how: Coordinates) -> Array:
    """Return the pixel (2,) that a written point means, in an image of a size (w, h)."""
    point = np.asarray(value, float)
    return point if how is Coordinates.PIXEL else np.asarray(point / 1000 * np.array(size))


def bracketed(point: tuple[int, int]) -> str:
    """A point in a sentence."""
    return f'[{point[0]}, {point[1]}]'


def pointed(point: tuple[int, int]) -> str:
    """A point as the answer that the benchmark's question asks for."""
    return f'```json\n[\n\t{{"point_2d": [{point[0]}, {point[1]}]}}\n]\n```'
