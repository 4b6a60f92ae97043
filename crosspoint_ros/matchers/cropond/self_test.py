"""Self-test: the model must find points of a drawn image in variants of that image."""
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat

POINT_COUNT = 8
MIN_CORRECT = 6
# With swapped halves. Some points lie on plain table and are hard to find again; few are found by
# chance.
MIN_CORRECT_SWAPPED = 4
WIDTH_PX, HEIGHT_PX = 644, 476
MAX_ERROR_PX = 0.03 * (WIDTH_PX ** 2 + HEIGHT_PX ** 2) ** 0.5
# At half the size relative coordinates are the same and absolute ones are not, which is what
# distinguishes the formats.
DOWNSCALE = 0.5
MIN_LEAD = 2  # correct answers by which the best format must lead one with another meaning
SKIPPED = 'self_test is off: it is unknown whether this model finds anything'
Image = npt.NDArray[np.uint8]
# (first, second, pixels of the first, format) -> pixels of the second; None without an answer.
PredictPoints = Callable[[Image, Image, Sequence[Array], CoordinateFormat], list[Array | None]]

log = logging.getLogger(__name__)


class SelfTestFailed(ValueError):  # noqa: N818
    """The model does not find an image's points in the same image."""


@dataclass(frozen=True)
class SelfTestScore:
    """Result of one coordinate format: correct answers of `total`, and the median error, px.

    correct_swapped: in the image with swapped halves, asked only for the best format;
    repeated_clicks: wrong answers there that repeat the click.
    """

    coord_format: CoordinateFormat
    correct_same: int
    correct_downscaled: int
    total: int
    median_px: float
    correct_swapped: int | None = None
    repeated_clicks: int = 0

    @property
    def correct(self) -> int:
        """Correct answers in the same image and the smaller one."""
        return self.correct_same + self.correct_downscaled

    def __str__(self) -> str:
        error = f'median {self.median_px:.1f} px' if np.isfinite(self.median_px) else 'few answered'
        text = (f'{self.coord_format.value}: {self.correct_same} of {self.total} found in the same '
                f'image ({error}), {self.correct_downscaled} in a smaller one')
        if self.correct_swapped is None:
            return text
        return (f'{text}, {self.correct_swapped} with its halves swapped, where '
                f'{self.repeated_clicks} answers repeat the click')


def run_self_test(predict: PredictPoints, coord_formats: Sequence[CoordinateFormat],
                  allow_repeating: bool = False) -> SelfTestScore:
    """Return the score of the coordinate format that the model uses: the best, or first of equals.

    Raises `SelfTestFailed`, with all scores, if the model finds fewer than 6 of 8 points in any
    format, if it is undecided whether it writes pixels or shares, or if it finds fewer than 4 after
    the halves were swapped, as a model does that repeats the click. allow_repeating: only warn of
    the latter.
    """
    image = draw_test_image()
    scores = [_score_format(predict, image, coord_format) for coord_format in coord_formats]
    for score in scores:
        log.info('self-test: %s', score)
    summary = '; '.join(map(str, scores))
    passed = [score for score in scores if score.correct_same >= MIN_CORRECT]
    if not passed:
        raise SelfTestFailed(f'the model failed its self-test ({MIN_CORRECT} of {POINT_COUNT} are '
                             f'needed): {summary}. It must be a CroPond, '
                             'Qwen2.5-VL or Qwen3-VL checkpoint, with the right coordinates '
                             'and template')
    best = max(passed, key=lambda score: score.correct)
    # In which the same numbers mean other pixels.
    rivals = [score for score in passed if (score.coord_format is CoordinateFormat.ABSOLUTE)
              != (best.coord_format is CoordinateFormat.ABSOLUTE)]
    if any(best.correct - rival.correct < MIN_LEAD for rival in rivals):
        raise SelfTestFailed('the self-test cannot determine the coordinate format of the model: '
                             f'{summary}. Set the option coordinates')
    final = _score_swapped(predict, image, best)
    # Asked about the same image, one that means [y, x] finds each point whatever it was asked.
    if (final.correct_swapped or 0) < MIN_CORRECT_SWAPPED and len(coord_formats) > 1 \
            and best.coord_format is CoordinateFormat.RELATIVE_1000:
        y_first = _score_swapped(predict, image, replace(
            best, coord_format=CoordinateFormat.RELATIVE_1000_YX))
        final = y_first if (y_first.correct_swapped or 0) >= MIN_CORRECT else final
    _check_swapped(final, allow_repeating)
    return final


def _score_swapped(predict: PredictPoints, image: Image, score: SelfTestScore
                   ) -> SelfTestScore:
    """Add the score in the image with swapped halves, where repeating the click is wrong."""
    swapped, shift = np.roll(image, WIDTH_PX // 2, axis=1), np.array([WIDTH_PX // 2, 0])
    pixels = sample_test_points()
    predicted = predict(image, swapped, list(pixels), score.coord_format)
    errors_px = _measure_errors_px(predicted, (pixels + shift) % (WIDTH_PX, HEIGHT_PX))
    from_click_px = _measure_errors_px(predicted, pixels)
    return replace(score, correct_swapped=int((errors_px <= MAX_ERROR_PX).sum()),
                   repeated_clicks=int((from_click_px <= MAX_ERROR_PX).sum()))


def _check_swapped(score: SelfTestScore, allow_repeating: bool) -> None:
    """Raise or warn if the model finds too few points that have moved."""
    if score.correct_swapped is None or score.correct_swapped >= MIN_CORRECT:
        return
    summary = (f'with the halves of the image swapped the model finds {score.correct_swapped} of '
               f'{POINT_COUNT} points ({MIN_CORRECT_SWAPPED} are needed), and repeats the click '
               f'{score.repeated_clicks} times')
    if score.correct_swapped < MIN_CORRECT_SWAPPED and not allow_repeating:
        raise SelfTestFailed(f'the model failed its self-test: {summary}. It would be wrong where '
                             'the views differ: use another model, or set the option '
                             'allow_repeating to run it anyway')
    log.warning('self-test: %s: it may be wrong where the views differ', summary)


def _score_format(predict: PredictPoints, image: Image, coord_format: CoordinateFormat
                  ) -> SelfTestScore:
    pixels = sample_test_points()
    smaller = np.asarray(cv2.resize(image, None, fx=DOWNSCALE, fy=DOWNSCALE,
                                    interpolation=cv2.INTER_AREA), np.uint8)
    same_px, smaller_px = (
        _measure_errors_px(predict(image, second, list(pixels), coord_format), pixels * scale)
        for second, scale in ((image, 1.0), (smaller, DOWNSCALE)))
    return SelfTestScore(coord_format, int((same_px <= MAX_ERROR_PX).sum()),
                         int((smaller_px <= MAX_ERROR_PX * DOWNSCALE).sum()), POINT_COUNT,
                         float(np.median(same_px)))


def _measure_errors_px(predicted: Sequence[Array | None], expected: Array) -> Array:
    return np.array([np.inf if pixel is None else float(np.linalg.norm(pixel - point))
                     for pixel, point in zip(predicted, expected, strict=True)])


def sample_test_points() -> Array:
    """Return the pixels (n, 2) to ask for: one in each eighth of the image, off its border."""
    rng = np.random.default_rng(1)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(2)), -1).reshape(-1, 2)
    return (0.1 + 0.8 * (cells + rng.uniform(0.2, 0.8, cells.shape)) / (4, 2)) \
        * (WIDTH_PX, HEIGHT_PX)


def draw_test_image() -> Image:
    """Draw the image (h, w, 3): numbered shapes of different colours on a grained table."""
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
