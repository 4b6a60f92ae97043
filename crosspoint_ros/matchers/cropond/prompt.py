"""Prompts, and the formats in which the model reads and writes coordinates."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond.image_processor import ImageSizes

SYSTEM_PROMPT = 'You are a helpful assistant.'
# Of Qwen2.5-VL, for a tokenizer without a chat template.
PROMPT_HEADER = f'<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n'
REPLY_HEADER = '<|im_end|>\n<|im_start|>assistant\n'
POINTING_PROMPT = ('The point at [{x}, {y}] in the first image corresponds to which point in the '
                   'second image? Output the point coordinates in JSON format.')
GROUNDING_PROMPT = ('Point to {instruction} in the image. Output the point coordinates in JSON '
                    'format.')
RELATIVE_UNITS = 1000
MAX_INSTRUCTION_CHARS = 500
SPECIAL_TOKEN_PREFIX = '<|'  # of an image, the end of a turn
FREE_REPLY_TOKENS = 96  # limit of an unconstrained reply: a sentence about both points, then JSON


class CoordinateFormat(str, Enum):
    """How a checkpoint writes a pixel of an image.

    RELATIVE_1000: thousandths of width and height, integers 0..999. ABSOLUTE: pixels of the image
    after the resize to multiples of 28, as Qwen2.5-VL was trained. RELATIVE_1: fractions of width
    and height with three decimals. RELATIVE_100: per cent with one decimal, as Molmo.
    RELATIVE_1000_YX: thousandths, y before x, as Gemini.
    """

    RELATIVE_1000 = 'relative_1000'
    ABSOLUTE = 'absolute'
    RELATIVE_1 = 'relative_1'
    RELATIVE_100 = 'relative_100'
    RELATIVE_1000_YX = 'relative_1000_yx'

    @property
    def is_y_first(self) -> bool:
        """Whether a pair is [y, x]."""
        return self is CoordinateFormat.RELATIVE_1000_YX

    @property
    def full_scale(self) -> float | None:
        """The number of the right and of the lower edge; None for pixels."""
        return {CoordinateFormat.ABSOLUTE: None, CoordinateFormat.RELATIVE_1: 1.0,
                CoordinateFormat.RELATIVE_100: 100.0}.get(self, float(RELATIVE_UNITS))

    @property
    def decimals(self) -> int:
        """Number of decimals of its numbers."""
        return {CoordinateFormat.RELATIVE_1: 3, CoordinateFormat.RELATIVE_100: 1}.get(self, 0)


@dataclass(frozen=True)
class ReplyTemplate:
    """The text around the two numbers of a reply."""

    before: str = '```json\n[\n\t{"point_2d": ['
    between: str = ', '
    after: str = ']'


@dataclass(frozen=True)
class PointCodec:
    """Converts between pixels of a published image and the numbers of a coordinate format.

    A unit is one step of a number's last digit: a thousandth, or a pixel of the resized image.
    """

    coord_format: CoordinateFormat
    sizes: ImageSizes

    @property
    def units(self) -> Array:
        """Width and height of the image in units, (2,)."""
        if self.coord_format is CoordinateFormat.ABSOLUTE:
            return self.sizes.model_size_px
        return np.full(2, float(RELATIVE_UNITS))

    @property
    def unit_px(self) -> Array:
        """Size of a unit in published pixels along x and y, (2,)."""
        return self.sizes.size_px / self.units

    @property
    def digits(self) -> int:
        """Number of digits of the largest coordinate."""
        return len(str(int(self.units.max()) - 1))

    def encode(self, pixel: Array) -> tuple[str, str]:
        """Format a published pixel (2,) as the model reads it: two numbers in its order."""
        units = self.units
        x, y = np.clip(np.rint(np.asarray(pixel) * units / self.sizes.size_px),
                       0, units - 1).astype(int)
        decimals = self.coord_format.decimals
        first, second = (f'{v / 10 ** decimals:.{decimals}f}' for v in
                         ((y, x) if self.coord_format.is_y_first else (x, y)))
        return first, second

    def to_units(self, x: float, y: float) -> Array:
        """Return two numbers of a reply, x before y, in units, (2,)."""
        return np.array([x, y], dtype=np.float64) * 10 ** self.coord_format.decimals

    def decode(self, x: float, y: float) -> Array:
        """Return the published pixel (2,) of x and y of a reply; it may be off the image."""
        return self.to_units(x, y) * self.unit_px

    def window_units(self, share: float) -> tuple[float, float]:
        """Return a share of the image's longer side in units along x and y."""
        x, y = share * max(self.sizes.width_px, self.sizes.height_px) / self.unit_px
        return float(x), float(y)


def check_question(question: str) -> None:
    """Raise ValueError unless a question has the placeholders of the clicked point."""
    missing = [name for name in ('{x}', '{y}') if name not in question]
    if missing:
        raise ValueError(f'question: {question!r} lacks the clicked point: it needs '
                         f'{" and ".join(missing)}')


def build_pointing_prompt(x: str, y: str, question: str = POINTING_PROMPT) -> str:
    """Ask for the point of the second image that corresponds to x, y in the first."""
    return question.replace('{x}', x).replace('{y}', y)


def build_grounding_prompt(instruction: str) -> str:
    """Ask where the only image shows what an instruction names.

    Raises `Rejected` (BAD_REQUEST) for one that is too long or contains special tokens.
    """
    if len(instruction) > MAX_INSTRUCTION_CHARS:
        raise Rejected(Code.BAD_REQUEST, f'the instruction is {len(instruction)} characters long '
                       f'(limit {MAX_INSTRUCTION_CHARS}): name one thing')
    if SPECIAL_TOKEN_PREFIX in instruction:
        raise Rejected(Code.BAD_REQUEST, f'the instruction {instruction[:80]!r} contains '
                       f'{SPECIAL_TOKEN_PREFIX!r}, which begins a special token: remove it')
    return GROUNDING_PROMPT.replace('{instruction}', instruction.strip())
