"""What a reply means and whether that is right: the rules that are used by default."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from crosspoint_ros.bench.crosspoint import dataset
from crosspoint_ros.bench.crosspoint.dataset import COORDINATE_TYPES, TYPES
from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.matchers.cropond import reply_parser
from crosspoint_ros.matchers.cropond.image_processor import TRAINED_MAX_PIXELS, smart_resize
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat
from crosspoint_ros.matchers.cropond.reply_parser import (
    MAX_REPLY_CHARS,
    XY,
    cut_thoughts,
    parse_points,
    select_answers,
)

SHOWN = 'absolute_shown'  # pixels of the image after the model's resize to at most 768 tokens
COORDINATES = (*(coord_format.value for coord_format in CoordinateFormat), SHOWN)
LETTERS = 'ABCD'
# An explicit statement of the answer, in several languages; the last one counts.
EXPLICIT_ANSWER = re.compile(
    r'(?:\\boxed\{(?:\\text\{)?\s*|(?:answer|option|choice|choose|antwort|réponse|respuesta'
    r'|risposta|resposta|ответ|答案|答え|选择|選擇|正解|정답)'
    r'(?:\s*(?:is|ist|est|es|è|é|为|為|是|は|은|는))?[\s:：*("（\[]*)([A-D])(?![A-Za-z])'
    r'(?!(?<=(?-i:a))\s+(?!(?:or|and|is|because|since)\b)(?-i:[a-z]))'  # `a` as an article
    r'(?P<more>\s*(?:,|/|or|and|und|o|ou|或|和)\s*\(?[A-D](?!\s*[A-Za-z]))?', re.I)
# An option that the reply rules out.
REJECTED_OPTION = re.compile(
    r"(?i:\b(?:not|neither|nor)|n't)\s+(?i:choose\s+|option\s+)*\(?[A-D](?![A-Za-z'’])\)?"
    r'|(?i:option\s+)?\b[A-D]\)?\s+(?:(?:is|are)\s+'
    r'(?:wrong|incorrect|false|not\s+(?:right|correct|the answer))'
    r"|(?:does|can|could)\s*(?:not|n['’]t)\s+(?:match|fit|correspond|be))\b")
LEADING_LETTER = re.compile(r'\W*([A-D])\s*(?:[.):：、）]|\*\*|$)', re.I)
# A list of options, as `A: no. B: yes`: its first letter is not the answer.
LISTED_OPTION = re.compile(r'(?<![\w])([A-D])[.):](?!\w)')
LONE_LETTER = re.compile(r'[\W_]*([A-D])[\W_]*', re.I)
# `A cup` is an article; `A or B`, `A is right` are options.
SINGLE_LETTER = re.compile(r"(?<![A-Za-z'’])([B-D]|A(?!\s+(?!(?:or|and|is|because|since)\b)[a-z]))"
                      r"(?![A-Za-z'’])")
OPTION = re.compile(r'(?:^|[\s(])([A-D])[.):]\s*(.*?)(?=[\s(]+[A-D][.):]|$)', re.S)
FULL_WIDTH_LETTERS = str.maketrans('ＡＢＣＤ', 'ABCD')


class InvalidItem(ValueError):  # noqa: N818  (a fault of the benchmark's file, not of the reply)
    """An item without a valid ground truth."""


@dataclass(frozen=True)
class CorrectedVerdict:
    """The grade of one reply.

    answer: a point as written in the reply, a letter, or None. pixel: the point in the mask, px,
    possibly outside. reason: why it is wrong; '' if it is correct.
    """

    answer: XY | str | None
    pixel: tuple[int, int] | None
    is_correct: bool
    reason: str = ''


def grade(record: Mapping[str, Any], coordinates: str, images: Path) -> CorrectedVerdict:
    """Grade a reply against its item. Raises `InvalidItem` if the item has a fault."""
    if record.get('type') not in TYPES:
        raise InvalidItem(f'unknown type {dataset.abbreviate(record.get("type"))}; '
                          f'known: {", ".join(TYPES)}')
    text = record.get('assistant')
    reply = cut_thoughts(text) if isinstance(text, str) else ''
    if record.get('type') in COORDINATE_TYPES:
        return _grade_point(record, reply, coordinates, images)
    return _grade_choice(record, reply)


def parse_answer_mask(record: Mapping[str, Any]) -> Image.Image:
    """Return the mask of the correct points. Raises `InvalidItem` if it cannot be read."""
    answer = record.get('answer')
    if not isinstance(answer, str) or not answer:
        raise InvalidItem('it has no mask')
    try:
        return dataset.decode_mask(answer)
    except ValueError as error:
        raise InvalidItem(str(error)) from None


def _grade_choice(record: Mapping[str, Any], reply: str) -> CorrectedVerdict:
    written, question = str(record.get('answer', '')).strip(), record.get('question')
    match = re.fullmatch(r'[(\[]?([A-D])[)\].]?', written, re.I)
    if match is None:
        raise InvalidItem(f'its answer {written[:40]!r} is none of A, B, C, D')
    correct = match[1].upper()
    answer = parse_letter(reply, question if isinstance(question, str) else '')
    if answer is None:
        return CorrectedVerdict(None, None, False, 'names no option, or several')
    return CorrectedVerdict(answer, None, answer == correct,
                            '' if answer == correct else f'{correct} is correct')


def parse_letter(reply: str, question: str = '') -> str | None:
    """Return the option that a reply settles on; None if it names none, or several alike."""
    text = reply[-MAX_REPLY_CHARS:].translate(FULL_WIDTH_LETTERS)
    if match := LONE_LETTER.fullmatch(text):
        return match[1].upper()
    text = REJECTED_OPTION.sub(' ', text)
    if found := list(EXPLICIT_ANSWER.finditer(text)):
        return None if found[-1]['more'] else found[-1][1].upper()
    alone = {match[1].upper() for line in text.splitlines()
             if (match := LONE_LETTER.fullmatch(line))}
    if len(alone) == 1:
        return str(alone.pop())
    if (match := LEADING_LETTER.match(text)) and len(set(LISTED_OPTION.findall(text))) <= 1:
        return match[1].upper()
    if names := set(SINGLE_LETTER.findall(text)):
        return str(names.pop()) if len(names) == 1 else None
    try:  # no letter at all: perhaps the text of an option
        return reply_parser.parse_choice(text, parse_option_texts(question))
    except reply_parser.ParseError:
        return None


def parse_option_texts(question: str) -> tuple[str, ...]:
    """Return the texts of a question's options, which must be A, B, …; else none."""
    found = {name: ' '.join(text.split()) for name, text in OPTION.findall(question)}
    names = [name for name in LETTERS if found.get(name)]
    return tuple(found[name] for name in names) if names == list(LETTERS[:len(names)]) else ()


def _grade_point(record: Mapping[str, Any], reply: str, coordinates: str, images: Path
                 ) -> CorrectedVerdict:
    mask = parse_answer_mask(record)
    points = parse_answer_points(reply, str(record.get('question', '')), coordinates)
    if len(points) != 1:
        return CorrectedVerdict(None, None, False, f'names {len(points)} points, one is needed'
                                if points else 'names no point')
    (point,) = points
    sizes = _read_image_sizes(record, images)
    pixel = to_mask_pixel(point, coordinates, mask.size,
                          mask.size if mask.size in sizes or not sizes else sizes[-1] or mask.size)
    if pixel is None:
        return CorrectedVerdict(point, None, False, 'is not finite')
    width, height = mask.size
    if not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
        return CorrectedVerdict(point, pixel, False, f'is outside the image, {width}x{height}')
    is_white = bool(dataset.find_white(dataset.crop_pixel(mask, *pixel)))
    return CorrectedVerdict(point, pixel, is_white, '' if is_white else 'is off the mask')


def parse_answer_points(reply: str, question: str, coordinates: str = COORDINATES[0]
                        ) -> Sequence[XY]:
    """Return the distinct points of a reply (its last part, if it is long), but for those that it
    repeats from the question."""
    is_y_first = is_written_y_first(coordinates)
    return select_answers(cut_thoughts(reply)[-MAX_REPLY_CHARS:],
                          parse_points(question, is_y_first), is_y_first)


def is_written_y_first(coordinates: str) -> bool:
    """Return whether a pair is [y, x] in one of COORDINATES."""
    return coordinates != SHOWN and CoordinateFormat(coordinates).is_y_first


def find_full_scale(coordinates: str, image_size: tuple[int, int]) -> tuple[float, float]:
    """Return the numbers of the right and lower edge of an image in one of COORDINATES."""
    if coordinates == SHOWN:
        try:
            return smart_resize(*image_size, TRAINED_MAX_PIXELS)
        except Rejected:  # too thin to be shown
            return image_size
    scale = CoordinateFormat(coordinates).full_scale
    return image_size if scale is None else (scale, scale)


def to_mask_pixel(point: XY, coordinates: str, size: tuple[int, int], image_size: tuple[int, int]
                  ) -> tuple[int, int] | None:
    """Return the pixel of a point in the mask; None if it is not finite.

    size: of the mask. image_size: of the image of an absolute point. 1000 of 1000 is the last
    pixel.
    """
    pixel = []
    scale = find_full_scale(coordinates, image_size)
    for value, length, whole in zip(point, size, scale, strict=True):
        position = value / whole * length
        if not math.isfinite(position):
            return None
        at_edge = not coordinates.startswith('absolute') and value == whole
        pixel.append(length - 1 if at_edge else math.floor(position))
    return pixel[0], pixel[1]


def _read_image_sizes(record: Mapping[str, Any], images: Path) -> list[tuple[int, int] | None]:
    """Return the sizes of an item's images; without a benchmark the field may hold anything."""
    names = record.get('images')
    return [dataset.read_image_size(str(images), name)
            for name in (names if isinstance(names, list) else ()) if isinstance(name, str)]


def describe_size_mismatch(record: Mapping[str, Any], images: Path) -> str:
    """Describe a mask whose size differs from that of every image of its item; '' if it fits."""
    if record.get('type') not in COORDINATE_TYPES:
        return ''
    mask = parse_answer_mask(record)
    sizes = [size for size in _read_image_sizes(record, images) if size]
    if not sizes or mask.size in sizes:
        return ''
    names = ', '.join(f'{width}x{height}' for width, height in dict.fromkeys(sizes))
    return f'its mask is {mask.size[0]}x{mask.size[1]}, its images {names}: scaled by the mask'
