"""What the model is asked, and how it reads and writes coordinates."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected

SYSTEM = 'You are a helpful assistant.'
POINTING = ('The point at [{x}, {y}] in the first image corresponds to which point in the second '
            'image? Output the point coordinates in JSON format.')
GROUNDING = 'Point to {instruction} in the image. Output the point coordinates in JSON format.'
VISIBILITY = ('Is the point at [{x}, {y}] in the first image visible in the second image?\n'
              'A. Yes\nB. No\nAnswer with the letter of the option.')
JUDGEMENT = ('Do the point at [{x}, {y}] in the first image and the point at [{other_x}, '
             '{other_y}] in the second image show the same place?\n'
             'A. Yes\nB. No\nAnswer with the letter of the option.')
RELATIVE_UNITS = 1000
MOST_CHARACTERS = 500  # of an instruction
SPECIAL = '<|'  # what tokens begin with that are no words: an image, the end of a turn


class Convention(str, Enum):
    """How a checkpoint writes a pixel of an image.

    RELATIVE_1000: thousandths of width and height, whole numbers 0..999. ABSOLUTE: pixels of the
    image as the model is given it, after the resize to multiples of 28: Qwen2.5-VL's own way.
    RELATIVE_1: fractions of width and height, three decimals.
    """

    RELATIVE_1000 = 'relative_1000'
    ABSOLUTE = 'absolute'
    RELATIVE_1 = 'relative_1'


@dataclass(frozen=True)
class Shown:
    """The sizes of one image: as published, and as the model is given it, px."""

    width_px: int
    height_px: int
    seen_width_px: int
    seen_height_px: int

    @property
    def size_px(self) -> Array:
        """Width and height as published."""
        return np.array([self.width_px, self.height_px], dtype=np.float64)

    @property
    def seen_px(self) -> Array:
        """Width and height as the model is given it."""
        return np.array([self.seen_width_px, self.seen_height_px], dtype=np.float64)


@dataclass(frozen=True)
class Template:
    """What stands around the two numbers of a reply."""

    before: str = '```json\n[\n\t{"point_2d": ['
    between: str = ', '
    after: str = ']'


def units(convention: Convention, shown: Shown) -> Array:
    """How many of the convention's units width and height measure: (2,)."""
    if convention is Convention.ABSOLUTE:
        return shown.seen_px
    return np.full(2, float(RELATIVE_UNITS))


def digits(convention: Convention, shown: Shown) -> int:
    """How many digits the largest number has that can name a pixel."""
    return len(str(int(units(convention, shown).max()) - 1))


def written(convention: Convention, pixel: Array, shown: Shown) -> tuple[str, str]:
    """Write a pixel (2,) of the published image as the model reads it."""
    whole = units(convention, shown)
    values = np.clip(np.rint(np.asarray(pixel) * whole / shown.size_px), 0, whole - 1).astype(int)
    if convention is Convention.RELATIVE_1:
        return f'0.{values[0]:03d}', f'0.{values[1]:03d}'
    return str(values[0]), str(values[1])


def pixel_of(convention: Convention, x: float, y: float, shown: Shown) -> Array:
    """Return the published pixel (2,) that two numbers of a reply name; it may lie outside."""
    if convention is Convention.RELATIVE_1:
        return np.array([x, y], dtype=np.float64) * shown.size_px
    return np.array([x, y], dtype=np.float64) * px_per_unit(convention, shown)


def px_per_unit(convention: Convention, shown: Shown) -> Array:
    """Published pixels that one unit of the last digit is worth, along x and y: (2,)."""
    return shown.size_px / units(convention, shown)


def check_question(question: str) -> None:
    """Raise ValueError unless the clicked point has its place in a question."""
    missing = [name for name in ('{x}', '{y}') if name not in question]
    if missing:
        raise ValueError(f'question: {question!r} does not say where the clicked point goes: it '
                         f'needs {" and ".join(missing)}')


def pointing(x: str, y: str, question: str = POINTING) -> str:
    """Ask for the point of the second image that the first shows at x, y."""
    return question.replace('{x}', x).replace('{y}', y)


def grounding(instruction: str) -> str:
    """Ask where the only image shows what the instruction names.

    Raises `Rejected` (BAD_REQUEST) for an instruction that is too long, or no words.
    """
    if len(instruction) > MOST_CHARACTERS:
        raise Rejected(Code.BAD_REQUEST, f'the instruction is {len(instruction)} characters long '
                       f'(limit {MOST_CHARACTERS}): name one thing')
    if SPECIAL in instruction:
        raise Rejected(Code.BAD_REQUEST, f'the instruction {instruction[:80]!r} holds {SPECIAL!r}, '
                       'which to the model is no word: leave it out')
    return GROUNDING.replace('{instruction}', instruction.strip())


def visibility(x: str, y: str) -> str:
    """Ask whether the second image shows the point at all."""
    return VISIBILITY.format(x=x, y=y)


def judgement(x: str, y: str, other_x: str, other_y: str) -> str:
    """Ask whether two points are the same place."""
    return JUDGEMENT.format(x=x, y=y, other_x=other_x, other_y=other_y)
