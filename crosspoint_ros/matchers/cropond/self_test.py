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
from crosspoint_ros.matchers.cropond.prompt import Convention

POINTS = 8
NEEDED = 6
# With the halves swapped. Some points are plain table, hard to find where it has moved; to be right
# there by chance is rare.
NEEDED_SWAPPED = 4
WIDTH_PX, HEIGHT_PX = 644, 476
LIMIT_PX = 0.03 * (WIDTH_PX ** 2 + HEIGHT_PX ** 2) ** 0.5  # of error, for a right answer
# The second image of the other half of the test: the same at half the size, where thousandths stay
# what they are and pixels do not. Only that tells the conventions apart.
SMALLER = 0.5
CLEAR = 2  # answers by which the winner must be ahead of a convention that means other places
Image = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


class Pointer(Protocol):
    """Asks a model where the second image shows points of the first."""

    def ask(self, first: Image, second: Image, pixels: Sequence[Array],
            convention: Convention) -> list[Array | None]:
        """Return a pixel of the second image for each of the first; None where it says nothing."""
        ...


class SelfTestFailed(ValueError):  # noqa: N818
    """The model cannot find an image's points in the very same image."""


@dataclass(frozen=True)
class Score:
    """How one convention did: right answers of all asked, and their median error, px.

    swapped: those in the image with its halves swapped, asked of the winner alone; repeated: there,
    answers at the place of the click itself, which are wrong.
    """

    convention: Convention
    same: int
    smaller: int
    asked: int
    median_px: float
    swapped: int | None = None
    repeated: int = 0

    def __str__(self) -> str:
        error = f'median {self.median_px:.1f} px' if np.isfinite(self.median_px) else 'few answered'
        text = (f'{self.convention.value}: {self.same} of {self.asked} found in the same image '
                f'({error}), {self.smaller} in a smaller one')
        if self.swapped is None:
            return text
        return (f'{text}, {self.swapped} with its halves swapped, where {self.repeated} answers '
                'repeat the click')


def decide(pointer: Pointer, conventions: Sequence[Convention], allow_repeating: bool = False
           ) -> Score:
    """Return the convention in which a model finds an image's points in the same image.

    Of several the first that does best. Raises `SelfTestFailed`, with all that was tried, if none
    finds three in four, if it remains open whether the model means pixels or shares, or if it finds
    less than half once they have moved, as one does that repeats the click. allow_repeating: warn
    of that, no more.
    """
    image = picture()
    scores = [_score(pointer, image, convention) for convention in conventions]
    for score in scores:
        log.info('self-test: %s', score)
    passed = [score for score in scores if score.same >= NEEDED]
    if not passed:
        raise SelfTestFailed(f'the model failed its self-test ({NEEDED} of {POINTS} are needed): '
                             f'{_said(scores)}. It must be a CroPond or Qwen2.5-VL checkpoint, '
                             'with the right coordinates and template')
    best = max(passed, key=lambda score: score.same + score.smaller)
    if any(_rivals(best, other) for other in passed):
        raise SelfTestFailed('the self-test cannot tell in which coordinates the model writes: '
                             f'{_said(passed)}. Set the option coordinates')
    found = _swapped(pointer, image, best)
    _check_moved(found, allow_repeating)
    return found


def _said(scores: Sequence[Score]) -> str:
    return '; '.join(map(str, scores))


def _rivals(best: Score, other: Score) -> bool:
    """Tell whether another convention, of other places for the same numbers, does as well."""
    # Thousandths and fractions mean the same place: whichever is taken is right.
    differ = (best.convention is Convention.ABSOLUTE) != (other.convention is Convention.ABSOLUTE)
    return differ and best.same + best.smaller - other.same - other.smaller < CLEAR


def _swapped(pointer: Pointer, image: Image, score: Score) -> Score:
    """Ask where repeating the click is wrong: in the image with its halves swapped."""
    swapped, shift = np.roll(image, WIDTH_PX // 2, axis=1), np.array([WIDTH_PX // 2, 0])
    answers = pointer.ask(image, swapped, list(places()), score.convention)
    right_px = _errors_px(answers, (places() + shift) % (WIDTH_PX, HEIGHT_PX))
    repeated_px = _errors_px(answers, places())
    return replace(score, swapped=int((right_px <= LIMIT_PX).sum()),
                   repeated=int((repeated_px <= LIMIT_PX).sum()))


def _check_moved(score: Score, allow_repeating: bool) -> None:
    """Raise or warn if the model finds too few points that have moved."""
    if score.swapped is None or score.swapped >= NEEDED:
        return
    told = (f'with the halves of the image swapped the model finds {score.swapped} of {POINTS} '
            f'points ({NEEDED_SWAPPED} are needed), and answers {score.repeated} times with the '
            'click itself')
    if score.swapped < NEEDED_SWAPPED and not allow_repeating:
        raise SelfTestFailed(f'the model failed its self-test: {told}. It would be wrong wherever '
                             'views differ: use another model, or, if it is to run all the same, '
                             'set the option allow_repeating')
    log.warning('self-test: %s: it may be wrong wherever views differ', told)


def _score(pointer: Pointer, image: Image, convention: Convention) -> Score:
    pixels = places()
    smaller = cv2.resize(image, None, fx=SMALLER, fy=SMALLER, interpolation=cv2.INTER_AREA)
    same_px = _errors_px(pointer.ask(image, image, list(pixels), convention), pixels)
    smaller_px = _errors_px(pointer.ask(image, np.asarray(smaller, np.uint8), list(pixels),
                                        convention), pixels * SMALLER)
    return Score(convention, int((same_px <= LIMIT_PX).sum()),
                 int((smaller_px <= LIMIT_PX * SMALLER).sum()), POINTS, float(np.median(same_px)))


def _errors_px(found: Sequence[Array | None], expected: Array) -> Array:
    return np.array([np.inf if pixel is None else float(np.linalg.norm(pixel - place))
                     for pixel, place in zip(found, expected, strict=True)])


def places() -> Array:
    """The pixels (n, 2) that are asked for: one in each part of the image, none near its border."""
    rng = np.random.default_rng(1)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(2)), -1).reshape(-1, 2)
    return (0.1 + 0.8 * (cells + rng.uniform(0.2, 0.8, cells.shape)) / (4, 2)) \
        * (WIDTH_PX, HEIGHT_PX)


def picture() -> Image:
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
