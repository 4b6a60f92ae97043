"""The authors' extraction and scoring rules, reproduced exactly with all their quirks."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crosspoint_ros.bench.crosspoint import dataset
from crosspoint_ros.bench.crosspoint.dataset import COORDINATE_TYPES

XY = tuple[float, float]
COORDINATES = ('relative_1000', 'absolute', 'relative_1')
THRESHOLD = 128
FENCED = re.compile(r'```json\s*(.*?)\s*```', re.S | re.I)
# An object without nested braces that has a key; all matches of one key precede those of the next.
BARE = tuple(re.compile(r'\{[^{}]*"' + key + r'"[^{}]*\}', re.S)
             for key in ('point_2d', 'point', '(?:x|position|coordinates)'))
LINE_COMMENT = re.compile(r'//.*?(?=\n|$)', re.M)
BLOCK_COMMENT = re.compile(r'/\*.*?\*/', re.S)
NUMBER = '([0-9.]+)'
# Tried in turn, each on the whole text; the sign of a number is dropped. The fourth has y first.
IN_TEXT = tuple(re.compile(pattern, re.I | re.S) for pattern in (
    rf'<point\s+x="{NUMBER}"\s+y="{NUMBER}"[^>]*>.*?</point>',
    rf'(?:coordinates?|position|location).*?(?:are|is)\s+{NUMBER},\s*{NUMBER}',
    rf'[xX]\s*:\s*{NUMBER}.*?[yY]\s*:\s*{NUMBER}',
    rf'[yY]\s*:\s*{NUMBER}.*?[xX]\s*:\s*{NUMBER}',
    rf'["\']?x["\']?\s*:\s*{NUMBER}.*?["\']?y["\']?\s*:\s*{NUMBER}',
    rf'\[{NUMBER},\s*{NUMBER}\]', rf'\({NUMBER},\s*{NUMBER}\)', rf'{NUMBER},\s*{NUMBER}'))
Y_FIRST = 3
LETTER = '([ABCD])'
FIRST_LETTER = tuple(re.compile(pattern, re.I | re.M) for pattern in (
    rf'\\boxed\{{(?:\\text\{{)?{LETTER}(?:\..*?)?\}}',
    rf'\\\(?\s*\\boxed\{{\\text\{{{LETTER}\}}\}}\s*\\\)?',
    rf'\$+\s*\\boxed\{{\\text\{{{LETTER}(?:\..*?)?\}}\}}\s*\$+',
    rf'\((?:Choice\s+)?{LETTER}\)',
    rf'\*\*Answer:\s*{LETTER}\*\*',
    rf'\*\*{LETTER}\.\s*(?:Yes|No|Green dot|Yellow dot|Blue dot|Red dot)\*\*',
    rf'(?:答案是|answer is|选择|choose|correct answer is)\s*[:\s]*\*?\*?\(?{LETTER}\)?',
    rf'(?:^|\n)\s*\*?{LETTER}\*?\.\s*(?:Yes|No)',
    rf'\*\*{LETTER}\*\*',
    rf'(?:^|\s|Answer:\s*)\(?{LETTER}\)?\s*[\.:]',
    rf'^\s*\(?{LETTER}\)?\s*$'))
LAST_LETTER = tuple(re.compile(pattern, re.I | re.S) for pattern in (
    r'(?:Final Answer|Therefore|So|Hence|Thus|The correct answer is|The answer is)'
    rf'.*?(?:\\boxed\{{{LETTER}\}}|\*\*{LETTER}\*\*|\(?{LETTER}\)?)',
    rf'Answer:\s*\(?{LETTER}\)?'))
OPTION = re.compile(r'([ABCD])\.([^A-D\n]+?)(?=\s*[ABCD]\.|$)', re.I | re.S)
BOLD = tuple(re.compile(pattern, re.I | re.S) for pattern in (
    r'\*\*(.*?)\*\*', r'(?:Therefore|So|The correct answer is|The answer is).*?\*\*(.*?)\*\*'))
POINT_KEYS = ('point_2d', 'point')


@dataclass(frozen=True)
class OfficialVerdict:
    """The grade of one reply.

    answer: a point as written in the reply, a letter, or None. pixel: the point on the image, px.
    crash: the error that ends the authors' scripts at this reply, which counts as no answer.
    """

    answer: XY | str | None
    pixel: XY | None
    is_correct: bool
    crash: str = ''


def grade(record: Mapping[str, Any], coordinates: str, images: Path) -> OfficialVerdict:
    """Extract and grade one reply. coordinates: absolute, relative_1000 or relative_1."""
    try:
        answer = extract_answer(record)
        pixel = to_pixel(record, answer, coordinates, images)
        right = is_correct(record, answer, pixel)
    except Exception as error:  # what the authors' scripts do not catch ends them
        return OfficialVerdict(None, None, False, f'{type(error).__name__}: {error}'[:200])
    return OfficialVerdict(answer, pixel if isinstance(pixel, tuple) else None, right)


def find_file_crash(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the error that ends the scripts on the file as a whole; '' if none does."""
    try:
        sorted(record.get('idx', 0) for record in records)
        kinds = {record.get('type', 'Unknown') for record in records}
        for kind in kinds:
            sorted({record.get('level', 'Unknown') for record in records
                    if record.get('type', 'Unknown') == kind})
        sorted(kinds)
    except TypeError as error:
        return f'{type(error).__name__}: {error}'[:200]
    return "KeyError: 'Overall'" if 'Overall' in kinds else ''


def find_write_error(record: Mapping[str, Any]) -> str:
    """Return the error that ends the scripts when they write a reply: half a surrogate pair."""
    try:
        json.dumps(dict(record), ensure_ascii=False).encode()
    except ValueError as error:
        return f'{type(error).__name__}: {error}'[:200]
    return ''


def extract_answer(record: Mapping[str, Any]) -> XY | str | None:
    """Return the point or the letter that the authors extract from a reply."""
    text = record.get('assistant', '')
    if record.get('type', '') in COORDINATE_TYPES:
        point = find_point_in_json(text)
        return find_point_in_text(text) if point is None else point
    return extract_letter(text, record.get('question', ''))


def find_point_in_json(text: str) -> XY | None:
    """Return the first point in the reply's JSON."""
    blocks = FENCED.findall(text) or [block for form in BARE for block in form.findall(text)]
    for block in blocks:
        bare = BLOCK_COMMENT.sub('', LINE_COMMENT.sub('', block.strip()))
        try:
            point = find_point_in_data(json.loads(bare))
        except (KeyError, IndexError, ValueError):
            continue
        if point is not None:
            return point
    return None


def find_point_in_data(data: Any) -> XY | None:
    """Return the point of an object, or of the first object in a list."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return _get_point_list(data[0])
    if not isinstance(data, dict):
        return None
    if point := _get_point_list(data):
        return point
    places = (data, data.get('position'), data.get('coordinates'))
    return next((xy for each in places if isinstance(each, dict) and (xy := _get_xy(each))), None)


def _get_point_list(data: Mapping[str, Any]) -> XY | None:
    for key in POINT_KEYS:
        value = data.get(key)
        if isinstance(value, list) and len(value) >= 2:
            return float(value[0]), float(value[1])
    return None


def _get_xy(data: Mapping[str, Any]) -> XY | None:
    if data.get('x') is None or data.get('y') is None:
        return None
    return float(data['x']), float(data['y'])


def find_point_in_text(text: str) -> XY | None:
    """Return the first point in prose, by the first pattern that matches."""
    for number, form in enumerate(IN_TEXT):
        match = form.search(text)
        if match is None:
            continue
        try:
            x, y = float(match[1].rstrip('.')), float(match[2].rstrip('.'))
        except ValueError:
            continue
        return (y, x) if number == Y_FIRST else (x, y)
    return None


def extract_letter(text: str, question: str = '') -> str | None:
    """Return the option of a reply: the first of eleven patterns, else the last of two."""
    for form in FIRST_LETTER:
        if match := form.search(text):
            return str(match[1]).upper()
    for form in LAST_LETTER:
        if found := form.findall(text):
            last = found[-1]
            return str(last if isinstance(last, str) else next(filter(None, last))).upper()
    return match_option_text(text, question) if question else None


def match_option_text(text: str, question: str) -> str | None:
    """Return the option whose text begins the reply, or is bold in it.

    The authors parse no option whose text has a letter from a to d in it.
    """
    options = {name.upper(): re.sub(r'\s+', ' ', value.strip()).lower()
               for name, value in OPTION.findall(question)}
    begun = text.lower().strip()
    for name, value in options.items():
        if begun.startswith(value):
            return name
    bold = (each.strip().lower() for form in BOLD if options for each in form.findall(text))
    return next((name for each in bold for name, value in options.items()
                 if each == value.strip()), None)


def to_pixel(record: Mapping[str, Any], answer: XY | str | None, coordinates: str,
             images: Path) -> Any:
    """Return the pixel of a point, scaled by the size in the item, else that of its FIRST image.

    If neither is known, the numbers are pixels.
    """
    if not isinstance(answer, tuple):
        return record.get('extracted_answer_absolute')
    if coordinates == 'absolute':
        return answer
    size: Any = (record.get('image_width'), record.get('image_height'))
    if not all(size):
        named = record.get('images', [])
        size = dataset.read_image_size(str(images), named[0]) if named else None
    if size is None:
        return answer
    share = (answer[0] / 1000.0, answer[1] / 1000.0) if coordinates == 'relative_1000' else answer
    return share[0] * size[0], share[1] * size[1]


def is_correct(record: Mapping[str, Any], answer: XY | str | None, pixel: Any) -> bool:
    """Return whether the authors count an answer as right."""
    correct = record.get('answer')
    if answer is None or not isinstance(correct, str):
        return False
    if record.get('type', '') in (*COORDINATE_TYPES, 'Level 1', 'Level 4'):
        mask = None if pixel is None else dataset.decode_mask_official(correct)
        return mask is not None and is_in_mask(pixel, mask)
    return answer == correct.strip().upper().strip('()')


def is_in_mask(pixel: Any, mask: Image.Image) -> bool:
    """Return whether a pixel is white; in a 1-bit or palette mask none is."""
    try:
        at = pixel if isinstance(pixel, tuple) else (pixel['x'], pixel['y'])
        x, y = int(at[0]), int(at[1])
        width, height = mask.size
        return 0 <= x < width and 0 <= y < height \
            and bool(np.mean(np.array(dataset.crop_pixel(mask, x, y))) > THRESHOLD)
    except Exception:  # as the authors: NaN and infinity are not pixels
        return False
