"""A model's first question: an image beside itself, where every answer is known."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat

POINT_COUNT = 8
MIN_CORRECT = 6
# With the halves swapped. Some points are plain table, hard to find where it has moved; to be right
# there by chance is rare.
MIN_CORRECT_SWAPPED = 4
WIDTH_PX, HEIGHT_PX = 644, 476
MAX_ERROR_PX = 0.03 * (WIDTH_PX ** 2 + HEIGHT_PX ** 2) ** 0.5  # of error, for a right answer
# The second image of the other half of the test: the same at half the size, where thousandths stay
# what they are and pixels do not. Only that tells the conventions apart.
DOWNSCALE = 0.5
MIN_LEAD = 2  # answers by which the winner must be ahead of a convention that means other places
Image = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


class PointModel(Protocol):
    """Asks a model where the second image shows points of the first."""

    def predict_points(self, first: Image, second: Image, pixels: Sequence[Array],
            coord_format: CoordinateFormat) -> list[Array | None]:
        """Return a pixel of the second image for each of the first; None where it says nothing."""
        ...


class SelfTestFailed(ValueError):  # noqa: N818
    """The model cannot find an image's points in the very same image."""


@dataclass(frozen=True)
class SelfTestScore:
    """How one convention did: right answers of all asked, and their median error, px.

    swapped: those in the image with its halves swapped, asked of the winner alone; repeated: there,
    answers at the place of the click itself, which are wrong.
    """

    coord_format: CoordinateFormat
    correct_same: int
    correct_downscaled: int
    total: int
    median_px: float
    correct_swapped: int | None = None
    repeated_clicks: int = 0

    def __str__(self) -> str:
        error = f'median {self.median_px:.1f} px' if np.isfinite(self.median_px) else 'few answered'
        text = (f'{self.coord_format.value}: {self.correct_same} of {self.total} found in the same image '
                f'({error}), {self.correct_downscaled} in a smaller one')
        if self.correct_swapped is None:
            return text
        return (f'{text}, {self.correct_swapped} with its halves swapped, where {self.repeated_clicks} answers '
                'repeat the click')


def run_self_test(model: PointModel, coord_formats: Sequence[CoordinateFormat], allow_repeating: bool = False
           ) -> SelfTestScore:
    """Return the convention in which a model finds an image's points in the same image.

    Of several the first that does best. Raises `SelfTestFailed`, with all that was tried, if none
    finds three in four, if it remains open whether the model means pixels or shares, or if it finds
    less than half once they have moved, as one does that repeats the click. allow_repeating: warn
    of that, no more.
    """
    image = draw_test_image()
    scores = [_score_format(model, image, convention) for convention in coord_formats]
    for score in scores:
        log.info('self-test: %s', score)
    passed = [score for score in scores if score.correct_same >= MIN_CORRECT]
    if not passed:
        raise SelfTestFailed(f'the model failed its self-test ({MIN_CORRECT} of {POINT_COUNT} are needed): '
                             f'{_format_scores(scores)}. It must be a CroPond or Qwen2.5-VL checkpoint, '
                             'with the right coordinates and template')
    best = max(passed, key=lambda score: score.correct_same + score.correct_downscaled)
    if any(_is_ambiguous(best, other) for other in passed):
        raise SelfTestFailed('the self-test cannot tell in which coordinates the model writes: '
                             f'{_format_scores(passed)}. Set the option coordinates')
    swapped = _score_swapped(model, image, best)
    _check_swapped(swapped, allow_repeating)
    return swapped


def _format_scores(scores: Sequence[SelfTestScore]) -> str:
    return '; '.join(map(str, scores))


def _is_ambiguous(best: SelfTestScore, other: SelfTestScore) -> bool:
    """Tell whether another convention, of other places for the same numbers, does as well."""
    # Thousandths and fractions mean the same place: whichever is taken is right.
    is_other_unit = (best.coord_format is CoordinateFormat.ABSOLUTE) != (other.coord_format is CoordinateFormat.ABSOLUTE)
    return is_other_unit and best.correct_same + best.correct_downscaled - other.correct_same - other.correct_downscaled < MIN_LEAD


def _score_swapped(model: PointModel, image: Image, score: SelfTestScore) -> SelfTestScore:
    """Ask where repeating the click is wrong: in the image with its halves swapped."""
    swapped, shift = np.roll(image, WIDTH_PX // 2, axis=1), np.array([WIDTH_PX // 2, 0])
    answers = model.predict_points(image, swapped, list(sample_test_points()), score.coord_format)
    right_px = _measure_errors_px(answers, (sample_test_points() + shift) % (WIDTH_PX, HEIGHT_PX))
    repeated_px = _measure_errors_px(answers, sample_test_points())
    return replace(score, swapped=int((right_px <= MAX_ERROR_PX).sum()),
                   repeated=int((repeated_px <= MAX_ERROR_PX).sum()))


def _check_swapped(score: SelfTestScore, allow_repeating: bool) -> None:
    """Raise or warn if the model finds too few points that have moved."""
    if score.correct_swapped is None or score.correct_swapped >= MIN_CORRECT:
        return
    summary = (f'with the halves of the image swapped the model finds {score.correct_swapped} of {POINT_COUNT} '
            f'points ({MIN_CORRECT_SWAPPED} are needed), and answers {score.repeated_clicks} times with the '
            'click itself')
    if score.correct_swapped < MIN_CORRECT_SWAPPED and not allow_repeating:
        raise SelfTestFailed(f'the model failed its self-test: {summary}. It would be wrong wherever '
                             'views differ: use another model, or, if it is to run all the same, '
                             'set the option allow_repeating')
    log.warning('self-test: %s: it may be wrong wherever views differ', summary)


def _score_format(model: PointModel, image: Image, coord_format: CoordinateFormat) -> SelfTestScore:
    pixels = sample_test_points()
    smaller = cv2.resize(image, None, fx=DOWNSCALE, fy=DOWNSCALE, interpolation=cv2.INTER_AREA)
    same_px = _measure_errors_px(model.predict_points(image, image, list(pixels), coord_format), pixels)
    smaller_px = _measure_errors_px(model.predict_points(image, np.asarray(smaller, np.uint8), list(pixels),
                                        coord_format), pixels * DOWNSCALE)
    return SelfTestScore(coord_format, int((same_px <= MAX_ERROR_PX).sum()),
                 int((smaller_px <= MAX_ERROR_PX * DOWNSCALE).sum()), POINT_COUNT, float(np.median(same_px)))


def _measure_errors_px(predicted: Sequence[Array | None], expected: Array) -> Array:
    return np.array([np.inf if pixel is None else float(np.linalg.norm(pixel - place))
                     for pixel, place in zip(predicted, expected, strict=True)])


def sample_test_points() -> Array:
    """The pixels (n, 2) that are asked for: one in each part of the image, none near its border."""
    rng = np.random.default_rng(1)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(2)), -1).reshape(-1, 2)
    return (0.1 + 0.8 * (cells + rng.uniform(0.2, 0.8, cells.shape)) / (4, 2)) \
        * (WIDTH_PX, HEIGHT_PX)


def draw_test_image() -> Image:
    """Draw the image (h, w, 3): things unlike each other on a table, each with a number.

    Drawn, not photographed: it is the same on every machine, and takes no room in the package.
    """
    rng = np.random.default_rng(0)
    grain = cv2.GaussianBlur(rng.normal(0, 40, (HEIGHT_PX, WIDTH_PX)), (0, 0), 3)
    image = np.clip(np.array([165.0, 140.0, 110.0]) + grain[..., None] * 3, 0, 255).astype(np.uint8)
    for number in range(20):
        x, y = 70 + 126 * (number % 5), 65 + 112 * (number // 5)
        colour = tuple(int(c) for c in rng.integers(20, 236, 3))
        size = int(rng.integers(22, 40))
        if number % 3 == 0:
            cv2.circle(image, (x, y), size, colour, -1)
        elif number % 3 == 1:
            cv2.rectangle(image, (x - size, y - size // 2), (x + size, y + size // 2), colour, -1)
        else:
            corners = np.array([[x - size, y + size], [x + size, y + size], [x, y - size]])
            cv2.fillPoly(image, [corners], colour)
        cv2.putText(image, str(number), (x - 12, y + 8), cv2.FONT_HERSHEY_SIMPLEX, 0.8,
                    tuple(255 - c for c in colour), 2, cv2.LINE_AA)
    return image
