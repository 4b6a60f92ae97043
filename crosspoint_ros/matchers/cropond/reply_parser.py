"""Parses points and multiple-choice answers from free-text model replies.

`DIALECTS` lists the ways in which models write a point, `THOUGHTS` how they mark their reasoning.
"""
from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosspoint_ros.core.datatypes import Code, Rejected

XY = tuple[float, float]
MAX_REPLY_CHARS = 4000  # the rest of a longer reply is ignored
QUOTED_CHARS = 120
# Full-width brackets, commas, colons and digits of Chinese text; signs of approximate equality.
ASCII_CHARACTERS = str.maketrans('（）［］【】，、：；．－≈≃０１２３４５６７８９',
                                 '()[][],,:;.-==0123456789')
NUMBER = r'[-+]?(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d+)?(?: ?px\b)?'
SEPARATOR = r'(?:\s*[,;]\s*|\s+)'
PAIR = rf'({NUMBER}){SEPARATOR}({NUMBER})'
QUOTE = r'["\']?'
KEY = rf'{QUOTE}point(?:_2d|s)?{QUOTE}\s*[:=]\s*'
IS = rf'(?:[-_ ]?(?:coordinate|position|value))?\d?{QUOTE}\s*(?:[:=]|\bis\b|\bat\b)\s*{QUOTE}'
NEXT = rf'(?:{QUOTE}[,;\s]\s*|\s+)(?:[-•]\s*)?(?:and\s+)?{QUOTE}(?:the\s+)?'
COMMENT = re.compile(r'(?<![:"\w])//[^\n]*|/\*.*?\*/|(?m:^\s*#[^\n]*)', re.S)
TRAILING_COMMA = re.compile(r',(\s*[\]}])')
# Bold, LaTeX and special tokens around a point; those of a box become its tag.
BOX_TOKEN = re.compile(r'<\|box_(start|end)\|>')
MARKUP = re.compile(r'\*\*|`|\$|\\(?:left|right|[bB]igg?[lr]?)\b|\\[,;!]|\\(?=[()\[\]{}])'
                    r'|~(?=\s?[\d.])|<\|[^|<>\s]{1,40}\|>')
POINT_CUE = (
    r'(?:\b(?:coordinate|coordonn|koordinat|coordenad|position|location|located|point|punkt'
    r'|координат|точк)|座標|坐标|位置|좌표|إحداثيات|نقطة|<\w+>|boxed\{)'
    r'(?:(?!\bnot\b|\bimage)[^\d\n(\[{]){0,40}?(-?\d+(?:\.\d+)?)\s*[,;،]\s*(-?\d+(?:\.\d+)?)')


@dataclass(frozen=True)
class Dialect:
    """One way to write a point in text.

    writers: models that do, coordinates: in the convention that they use, '' where it varies.
    order: 'pair' if the convention says which number is first, 'xy' or 'yx' if the text does,
    'box' for two corners. pattern: each number a group. is_alone: only in a reply of two numbers.
    """

    writers: str
    coordinates: str
    order: str
    pattern: str
    is_alone: bool = False


# Brackets must be closed: in a reply that was cut off, `[512, 30` may be the beginning of
# [512, 307].
DIALECTS = (
    Dialect('InternVL, Qwen2-VL: <box>', 'relative_1000', 'box',
            rf'<box>\s*[\[(]*\s*{PAIR}(?:\s*[\])]\s*,?\s*[\[(]\s*|{SEPARATOR}){PAIR}[\])\s]*</box>'),
    Dialect('Seed1.5-VL, UI-TARS: <point>x y</point>', 'relative_1000', 'pair',
            rf'<points?>\s*[\[(]*\s*{PAIR}[\])\s]*</points?>'),
    Dialect('Molmo 2: coords="image number x y"', 'relative_1000', 'xy',
            rf'\bcoords="\d+(?:\s+\d+)?\s+({NUMBER})\s+({NUMBER})"'),
    Dialect('Molmo: <point x= y=>', 'relative_100', 'xy',
            rf'<points?\s+x1?="({NUMBER})"\s+y1?="({NUMBER})"'),
    Dialect('Gemini: "point": [y, x]', 'relative_1000_yx', 'pair',
            rf'"point"\s*:\s*\[\s*{PAIR}\s*\]'),
    Dialect('Qwen2.5-VL, Qwen3-VL, CroPond, RoboBrain: "point_2d": [x, y]', 'relative_1000', 'pair',
            rf'{KEY}[\[(]+\s*{PAIR}(?=\s*[\])}}])'),
    Dialect('YAML', '', 'pair', rf'{KEY}-\s*({NUMBER})\s*\n\s*-\s*({NUMBER})(?!\S|\s*\n\s*-)'),
    Dialect('keys without brackets', '', 'pair', rf'{KEY}{PAIR}(?![\d.]|{SEPARATOR}[-+.\d])'),
    Dialect('x: and y:', '', 'xy', rf'\bx{IS}({NUMBER}){NEXT}y{IS}({NUMBER})'),
    Dialect('y: before x:', '', 'yx', rf'\by{IS}({NUMBER}){NEXT}x{IS}({NUMBER})'),
    Dialect('Chinese prose', '', 'xy',
            rf'横坐标[^\d\n]{{0,4}}?({NUMBER})[^\d\n]{{0,4}}纵坐标[^\d\n]{{0,4}}?({NUMBER})'),
    Dialect('Florence-2: <loc_x><loc_y>', 'relative_1000', 'xy',
            r'(?<!>)<loc_(\d+)><loc_(\d+)>(?!<loc)'),
    Dialect('CroPond prose, Qwen2.5-VL: pixels of the shown image', 'absolute_shown', 'pair',
            rf'\[\s*{PAIR}\s*\]'),
    Dialect('RoboPoint: fractions', 'relative_1', 'pair', rf'\(\s*{PAIR}\s*\)'),
    Dialect('LaTeX', '', 'pair', rf'\bboxed\{{\s*{PAIR}\s*\}}'),
    Dialect('two numbers', '', 'pair', rf'^\s*{PAIR}\s*\.?\s*$', is_alone=True),
    Dialect('prose that calls two numbers a point', '', 'pair', POINT_CUE, is_alone=True),
)
IN_TEXT = re.compile('|'.join(f'(?P<d{n}>{d.pattern})' for n, d in enumerate(DIALECTS)
                              if not d.is_alone), re.I)
ALONE = tuple((d, re.compile(d.pattern, re.I)) for d in DIALECTS if d.is_alone)
ANY_NUMBER = re.compile(r'(?<![\w.])-?\d+(?:\.\d+)?(?![\d%])')

# What begins and what ends the reasoning before a reply, and who writes it.
THOUGHTS = (
    (r'<(?:seed:)?think(?:ing)?>', r'</(?:seed:)?think(?:ing)?>', 'Qwen3, DeepSeek, GLM, Seed'),
    (r'<(?:thought|reasoning|reflection|analysis)>',
     r'</(?:thought|reasoning|reflection|analysis)>', 'models prompted to'),
    (r'\[THINK\]', r'\[/THINK\]', 'Magistral'),
    ('◁think▷', '◁/think▷', 'Kimi-VL'),
    (r'<\|channel\|>(?:analysis|commentary)|^analysis(?=[A-Z])',
     r'<\|channel\|>final(?:\s*<\|constrain\|>\w+)?<\|message\|>|assistantfinal', 'gpt-oss'),
    (r'<\|channel>thought', r'<channel\|>', 'Gemma 4'),
    (r'<unused94>', r'<unused95>', 'MedGemma'),
    (r'<\|START_THINKING\|>', r'<\|END_THINKING\|>', 'Command A'),
    (r'<\|begin_of_thought\|>', r'<\|end_of_thought\|>', 'OpenThinker'),
    ('Here is my thought process:', 'Here is my response:', 'Granite 3'),
)
THOUGHT_BEGINS = re.compile('|'.join(begin for begin, _, _ in THOUGHTS))
THOUGHT_ENDS = re.compile('|'.join(end for _, end, _ in THOUGHTS))
# The answer alone; it ends a thought that a model forgot to end.
ANSWER_TAG = re.compile(r'(?:<answer>(?P<a>(?:(?!<answer>).)*)</answer>'
                        r'|<\|begin_of_box\|>(?P<b>(?:(?!<\|begin_of_box\|>).)*)<\|end_of_box\|>)'
                        r'\W*$', re.S | re.I)
FINAL_ANSWER = re.compile(r'\bfinal (?:answer|coordinates?|point)\W{0,5}?:', re.I)
# Statements that the point has no place in the image.
DENIAL = re.compile(
    r"\b(?:not|isn['’]t|aren['’]t|never)\s+(?:\w+\s+){0,2}?(?:visible|shown|seen|present|exist"
    r"|appear|in\s+(?:the\s+)?(?:view|frame|second|image))\b"
    r"|\b(?:cannot|can\s?not|can['’]t|could\s?n['’o]t|unable\s+to)\s+(?:be\s+)?"
    r"(?:\w+ly\s+)?(?:see|find|found|locate|identif|determin|match)"
    r"|\bno\s+(?:\w+\s+)?(?:correspond|match|such|visible)\w*\s+(?:point|location|place|position)"
    r"|\b(?:is|are|being)\s+(?:\w+\s+)?(?:occluded|hidden|outside|out\s+of)\b"
    r'|不可见|看不到|看不见|无法|没有对应|被遮挡|不在', re.I)
POINT_KEYS = ('point_2d', 'point', 'points', 'coordinates', 'coordinate', 'position', 'points_2d')
VISIBILITY_KEYS, OCCLUSION_KEYS = ('visible', 'is_visible', 'found'), ('occluded', 'is_occluded')
# Corners of a box by name; `<points x1= .. x2= ..>` are points.
BOX_KEYS = re.compile(rf'(?<!<points )(?<!<point )\bx1{QUOTE}\s*[:=].*\bx2{QUOTE}\s*[:=]'
                      r'|\bx_?min\b', re.S | re.I)
# An option named as the answer, else a single letter, unless it is an article (`A cup`).
LABELLED_CHOICE = re.compile(
    r'(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?\s*[*("]*([A-D])(?![A-Za-z])')
BARE_CHOICE = re.compile(r'(?<![A-Za-z])(?:A(?!\s+[a-z])|[B-D])(?![A-Za-z])')


class ParseError(ValueError):
    """A reply without the expected point or answer; the message quotes it."""

    def __init__(self, reply: str, expected: str = 'point') -> None:
        text = ' '.join(reply.split())
        quote = text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + '…'
        super().__init__(f'the model replied {quote!r}: no {expected}' if text
                         else 'the model replied nothing')


def cut_thoughts(reply: str) -> str:
    """Return a reply without the reasoning before it; '' if that does not end."""
    if match := ANSWER_TAG.search(reply):
        return match['a'] if match['b'] is None else match['b']
    end = max((match.end() for match in THOUGHT_ENDS.finditer(reply)), default=0)
    return '' if THOUGHT_BEGINS.search(reply, end) else reply[end:]


def parse_points(reply: str, is_y_first: bool = False) -> list[XY]:
    """Return all points (x, y) of a reply in order: those of its JSON, or else those of its text.

    Numbers are returned as written, also negative ones and those off the image. is_y_first: a pair
    is [y, x]; numbers that are called x and y are what they are called.
    """
    text = FINAL_ANSWER.split(cut_thoughts(reply))[-1][:MAX_REPLY_CHARS]
    text, reader = text.translate(ASCII_CHARACTERS), _Reader(is_y_first)
    if DENIAL.search(text):  # also where a point has to be written, as [0, 0]
        return []
    values = list(_iter_json(text))
    points = [point for value in values for point in reader.iter_json_points(value)]
    if points or any(map(_has_no_point, values)):
        return points
    return [] if BOX_KEYS.search(text) else reader.find_text_points(text)


def select_answers(reply: str, asked: Sequence[XY], is_y_first: bool = False) -> list[XY]:
    """Return the distinct points of a reply but for those that it repeats from the question.

    asked: the points of the question, in the order of `parse_points`. Alone, a repeated point is
    the answer, unless the reply denies that there is one.
    """
    points = list(dict.fromkeys(parse_points(reply, is_y_first)))
    own = [point for point in points if point not in asked]
    return own or ([] if DENIAL.search(reply) else points)


def parse_point(reply: str, clicked: tuple[str, str] | None = None,
                is_y_first: bool = False) -> XY:
    """Return the only point (x, y) of a reply. Raises `ParseError` for none or several.

    clicked: the point in the question as written; ignored where a reply repeats it next to another
    one ("the point [56, 323] maps to [512, 307]").
    """
    asked = [] if clicked is None else parse_points(f'[{clicked[0]}, {clicked[1]}]', is_y_first)
    points = select_answers(reply, asked, is_y_first)
    if not points:
        raise ParseError(reply)
    if len(points) > 1:  # choosing one would be a guess, and a robot moves on it
        raise ParseError(reply, f'single point but {len(points)}')
    return points[0]


def parse_visible_point(reply: str, clicked: tuple[str, str] | None = None,
                        is_y_first: bool = False) -> XY:
    """Return the only point of a reply; raises `Rejected` (NOT_VISIBLE) for none or a negative one.

    Models write -1 for a point that the image does not show.
    """
    try:
        x, y = parse_point(reply, clicked, is_y_first)
    except ParseError as error:
        raise Rejected(Code.NOT_VISIBLE, str(error)) from None
    if min(x, y) < 0:
        raise Rejected(Code.NOT_VISIBLE, f'the model replied ({x:g}, {y:g}): negative coordinates '
                       'mean that the point is not visible')
    return x, y


def parse_choice(reply: str, options: Sequence[str] = ()) -> str:
    """Return the option A to D that a reply chooses. Raises `ParseError` if it chooses none.

    options: their texts, for a reply that quotes one of them instead of its letter.
    """
    letters = LABELLED_CHOICE.findall(reply) or BARE_CHOICE.findall(reply)
    if letters:
        return str(letters[-1])
    matching = [name for name, text in zip('ABCD', options, strict=False)
                if re.search(rf'(?<!\w){re.escape(text)}(?!\w)', reply, re.I)]
    if len(matching) != 1:
        raise ParseError(reply, 'answer')
    return matching[0]


def _iter_json(reply: str) -> Iterator[Any]:
    """Objects and lists of objects in a reply's JSON, without code fences and comments."""
    text = re.sub(r'```(?:\w+)?', '\n', COMMENT.sub('', reply))
    text = TRAILING_COMMA.sub(r'\1', text)
    decoder = json.JSONDecoder()
    position = 0
    while match := re.compile(r'[\[{]').search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # ValueError also for a number of 5000 digits
            position = match.end()
            continue
        if isinstance(value, dict) or any(isinstance(item, dict) for item in value):
            yield value


def _is_denied(keys: Mapping[str, Any]) -> bool:
    """Return whether an object with a point says that it is not visible."""
    return any(str(keys[name]).lower() in words for names, words in (
        (VISIBILITY_KEYS, ('false', 'no', '0')), (OCCLUSION_KEYS, ('true', 'yes', '1')))
        for name in names if name in keys)


def _has_no_point(value: Any) -> bool:
    """Return whether JSON says that there is no point: an empty one, or not visible."""
    if isinstance(value, list):
        return any(map(_has_no_point, value))
    keys = {str(key).lower(): each for key, each in value.items()} \
        if isinstance(value, dict) else {}
    return _is_denied(keys) or any(
        name in keys and keys[name] in (None, [], {}, '', 'null', 'none', 'None')
        for name in POINT_KEYS)


@dataclass(frozen=True)
class _Reader:
    """Reads points (x, y) in a convention whose pairs are [x, y] or [y, x]."""

    is_y_first: bool

    def iter_json_points(self, data: Any) -> Iterator[XY]:
        """Points of a JSON value, however deep."""
        if isinstance(data, list):
            for item in data:
                yield from self.iter_json_points(item)
            return
        keys = {str(key).lower(): value for key, value in data.items()} \
            if isinstance(data, dict) else {}
        if _is_denied(keys):
            return
        for name in POINT_KEYS:
            if name in keys:
                yield from self._iter_value_points(keys[name])
        if 'x' in keys and 'y' in keys:
            yield from _iter_pair([keys['x'], keys['y']])

    def _iter_value_points(self, value: Any) -> Iterator[XY]:
        """Points of the value of a key in POINT_KEYS."""
        if isinstance(value, dict):
            yield from self.iter_json_points(value)
        elif isinstance(value, str):
            yield from self.find_text_points(value)
        elif isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            for item in value:
                yield from self._iter_value_points(item)
        elif isinstance(value, list) and len(value) == 2:
            yield from _iter_pair(value[::-1] if self.is_y_first else value)

    def find_text_points(self, text: str) -> list[XY]:
        """Points of a text, by the table of dialects."""
        text = MARKUP.sub('', BOX_TOKEN.sub(
            lambda match: '<box>' if match[1] == 'start' else '</box>', text))
        found = [self._order(DIALECTS[int(str(match.lastgroup)[1:])], match.groups())
                 for match in IN_TEXT.finditer(text)]
        if not found and len(ANY_NUMBER.findall(text)) == 2:
            found = [self._order(dialect, ('', *match.groups()))
                     for dialect, pattern in ALONE if (match := pattern.search(text))][:1]
        return [point for pair in found for point in _iter_pair(pair)]

    def _order(self, dialect: Dialect, groups: Sequence[str | None]) -> list[Any]:
        """Return x and y of a match, whose first group is the whole of it."""
        written = [group.lower().removesuffix('px') for group in groups if group is not None][1:]
        if dialect.order == 'box':
            a, b = ((float(low) + float(high)) / 2 for low, high in
                    zip(written[:2], written[2:], strict=True))
            return [b, a] if self.is_y_first else [a, b]
        is_reversed = dialect.order == 'yx' or (dialect.order == 'pair' and self.is_y_first)
        return written[::-1] if is_reversed else written


def _iter_pair(values: Sequence[Any]) -> Iterator[XY]:
    try:
        x, y = (float(value) for value in values if not isinstance(value, bool))
    except (TypeError, ValueError, OverflowError):
        return
    if math.isfinite(x) and math.isfinite(y):
        yield x, y
