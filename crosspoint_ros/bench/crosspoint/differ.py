"""Why the authors' rules and the corrected ones make different things of one reply."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crosspoint_ros.bench.crosspoint import corrected, official
from crosspoint_ros.bench.crosspoint.items import COORDINATE_TYPES
from crosspoint_ros.bench.crosspoint.masks import meant_mask, official_mask

EXTREME = 1e6
SIGNED = re.compile(r'[-−]\s*\d')


@dataclass(frozen=True)
class Difference:
    """One reply of which the two sets of rules make different things. why: of people's words."""

    name: str
    type: str
    official_answer: str
    official_right: bool
    corrected_answer: str
    corrected_right: bool
    why: str

    @property
    def in_score(self) -> bool:
        """Whether one counts it as right and the other does not."""
        return self.official_right != self.corrected_right


def difference(name: str, record: Mapping[str, Any], theirs: official.Verdict,
               ours: corrected.Verdict) -> Difference | None:
    """Compare answer and score; None if both agree in both."""
    if (theirs.answer, theirs.right, theirs.stops) == (ours.answer, ours.right, ''):
        return None
    return Difference(name, str(record.get('type')), told(theirs.answer), theirs.right,
                      told(ours.answer), ours.right, reason(record, theirs, ours))


def told(answer: tuple[float, float] | str | None) -> str:
    """Write an answer in few characters."""
    if answer is None:
        return 'none'
    return answer if isinstance(answer, str) else f'[{answer[0]:g}, {answer[1]:g}]'


def reason(record: Mapping[str, Any], theirs: official.Verdict, ours: corrected.Verdict) -> str:
    """Say which rule makes the difference."""
    if theirs.stops:
        return f"the authors' scripts end here with {theirs.stops}"
    if record.get('type') not in COORDINATE_TYPES:
        return _letters(theirs, ours)
    if theirs.answer != ours.answer:
        return _points(str(record.get('assistant', '')), theirs, ours)
    return _places(record, theirs, ours)


def _letters(theirs: official.Verdict, ours: corrected.Verdict) -> str:
    if theirs.answer == ours.answer:
        return "the item's right answer is written in a way that the authors do not compare"
    if theirs.answer is None:
        return 'the authors have no pattern for the way this option is named'
    if ours.answer is None:
        return 'no option, or several: the authors take the first that a pattern fits'
    return 'the authors take the first letter that a pattern fits, not the one the reply settles on'


def _points(said: str, theirs: official.Verdict, ours: corrected.Verdict) -> str:
    if theirs.answer is None:
        return 'the authors have no pattern for the way this point is written'
    if ours.answer is None:
        if ours.why.startswith('names no'):
            return 'two numbers, but no point: the authors take any pair with a comma'
        return 'the reply names several points, one is needed: the authors take the first'
    if isinstance(theirs.answer, tuple) and isinstance(ours.answer, tuple) and SIGNED.search(said) \
            and tuple(map(abs, ours.answer)) == tuple(map(abs, theirs.answer)):
        return 'the authors drop the sign'
    return 'the authors take another pair of numbers of the reply: the first that a pattern fits'


def _places(record: Mapping[str, Any], theirs: official.Verdict, ours: corrected.Verdict) -> str:
    mask, raw = meant_mask(str(record['answer'])), official_mask(str(record['answer']))
    if raw is None:
        return 'the mask is a data URL, which the authors do not decode'
    if theirs.pixel is None or ours.pixel is None or not all(
            abs(value) < EXTREME for value in theirs.pixel):
        return 'the point is no number that a pixel has'
    if (int(theirs.pixel[0]), int(theirs.pixel[1])) == ours.pixel:
        return (f'the mask is stored in mode {mask.mode!r}: the authors compare the stored numbers '
                'with 128')
    if min(theirs.pixel) < 0:
        return 'between -1 and 0: the authors round towards 0, onto the image'
    width, height = mask.size
    if ours.pixel[0] == width - 1 <= theirs.pixel[0] or \
            ours.pixel[1] == height - 1 <= theirs.pixel[1]:
        return "1000 is the image's edge: the authors place it outside"
    return (f'the point is scaled by the mask, {width}x{height}; the authors scale it by '
            'image_width and image_height, the first image, or not at all')
