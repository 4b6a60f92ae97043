"""`crosspoint data check`: validates a data set against its files, its format and the geometry."""
from __future__ import annotations

import argparse
import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.image_io import read_image, write_image
from crosspoint_ros.core.visualization import concatenate_images
from crosspoint_ros.data.io import abbreviate
from crosspoint_ros.data.parallel import progress_bar
from crosspoint_ros.data.qa.frame_builder import draw_points
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.qa.questions import Coordinates, QuestionType
from crosspoint_ros.data.qa.scene_reader import (
    BUILD,
    BuildConfig,
    SceneReader,
    SceneSource,
    get_reader,
)
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData

PREFIX, SHEET_ITEMS, MAX_PLACES = 'crosspoint_', 10, 5
MAX_ERROR_PX, MAX_PX = 3.0, 1e6
PART_BYTES, MAX_TOKEN = 1 << 20, 16  # read at once; characters of `-Infinity` and the like
IMAGE, ROLES = '<image>', ('human', 'gpt')
BLANKS = frozenset(' \t\r\n')  # of JSON
NOT_UTF8 = re.compile('[\udc80-\udcff]')  # as `surrogateescape` decodes it
MISSING = object()
JSON_TYPES = {str: 'a string', list: 'a list', dict: 'an object', bool: 'a boolean',
              int: 'a number', float: 'a number', type(None): 'null'}
# Faults after which the geometry of a question can still be checked.
CONTENT_KINDS = ('a duplicate', 'a leak', 'an image that cannot be read',
                 'a point outside its image')


@dataclass(frozen=True)
class Fault:
    """A fault of a question: its field ('' for all of it), its kind, and the detail."""

    field: str
    kind: str
    detail: str = ''

    def __str__(self) -> str:
        return ': '.join(filter(None, (self.field, self.kind, self.detail)))


@dataclass(frozen=True, eq=False)
class DatasetItem:
    """One question, its split, and its number there, from 1.

    fault: why the file cannot be read there, or ''; then fields is empty.
    """

    split: str
    number: int
    fields: dict[str, Any]
    fault: str = ''

    @property
    def name(self) -> str:
        """The item's name in messages."""
        return f'{PREFIX}{self.split}.json: item {self.number}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, help='a data set built by `crosspoint data build`, or '
                        'another in its format')
    parser.add_argument('--geometry', type=int, default=500, metavar='N', help='check N answers '
                        'against the recordings, if these still exist (default: 500)')
    parser.add_argument('--sheet', type=Path, metavar='PNG', help='draw random samples')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')


def main(args: argparse.Namespace) -> int:
    """Check it; 1 for any fault."""
    get_reader.cache_clear()  # the files may have changed
    report = FaultReport()
    validator = Validator(args.folder)
    sampled: list[DatasetItem] = []
    rng, total, known, last = np.random.default_rng(args.seed), 0, 0, ''
    for item in progress_bar(iter_items(args.folder), unit='question'):
        total += item.name != last
        last = item.name
        faults = list(validator.find_faults(item))
        for fault in faults:
            report.add(item.name, fault)
        if any(fault.field and fault.kind not in CONTENT_KINDS for fault in faults) or item.fault:
            continue
        known, keep = known + 1, max(args.geometry, SHEET_ITEMS)
        if len(sampled) < keep:  # reservoir sampling
            sampled.append(item)
        elif (at := int(rng.integers(known))) < keep:
            sampled[at] = item
    print(f'{total} questions, {len(validator.scenes)} scene(s)')
    check_geometry(args.folder, sampled[:args.geometry], report)
    for line in report.format_lines():
        print(line)
    if args.sheet and sampled:
        chosen = rng.choice(len(sampled), min(SHEET_ITEMS, len(sampled)), replace=False)
        sheet = draw_sheet(args.folder, [sampled[i] for i in chosen])
        if sheet is not None:
            write_image(args.sheet, sheet)
            print(f'inspect {args.sheet}')
    print(f'{report.number} faults' if report.number else 'no faults' if total else
          f'there is nothing to check: the files in {args.folder} hold no questions')
    return int(bool(report.number) or not total)


class FaultReport:
    """Counts faults by field and kind; keeps the first of each, and where some others are."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str]]()
        self._places: dict[tuple[str, str], list[str]] = {}

    @property
    def number(self) -> int:
        """The number of all faults."""
        return self._counts.total()

    def add(self, place: str, fault: Fault) -> None:
        """Count a fault. place: the file, and the question's number."""
        group = re.sub(r'\d+', '', fault.field), fault.kind
        self._counts[group] += 1
        places = self._places.setdefault(group, [])
        if len(places) < MAX_PLACES:
            places.append(place if places else f'{place}: {fault}')

    def format_lines(self) -> Iterator[str]:
        """Yield a line for each field and kind, the most frequent first."""
        for group, count in self._counts.most_common():
            first, *others = self._places[group]
            also = f' (also {", ".join(others)})' if others else ''
            # Half of a surrogate pair cannot be printed.
            yield f'  {count:8}  {first}{also}'.encode('utf-8', 'backslashreplace').decode()


def iter_items(folder: Path) -> Iterator[DatasetItem]:
    """Yield the questions of all splits, one in memory. Raises FileNotFoundError without any."""
    paths = sorted(folder.glob(f'{PREFIX}*.json'))
    if not paths:
        raise FileNotFoundError(f'{folder} has no {PREFIX}train.json: it is not a data set, or '
                                'its build has not finished')
    for path in paths:
        with open(path, 'rb') as file:
            yield from QuestionReader(file, path.stem.removeprefix(PREFIX)).iter_items()


class QuestionReader:
    """Reads a JSON list of questions in any layout, or JSON lines, a part at a time.

    What a trainer's parser refuses is a fault of the question at or after it.
    """

    def __init__(self, file: BinaryIO, split: str) -> None:
        self._file, self._split = file, split
        self._decoder = codecs.getincrementaldecoder('utf-8')('surrogateescape')
        self._text, self._at, self._line, self._number = '', 0, 1, 0

    def iter_items(self) -> Iterator[DatasetItem]:
        """Yield the questions, and what cannot be read; goes on after it where a line begins."""
        is_padded = self._peek() != self._text[:1]
        if self._peek() == '\ufeff':
            yield self._fail('a byte order mark: save the file as UTF-8 without one', 1)
            self._at += 1
        if is_list := self._peek() == '[':
            self._at += 1
            if is_padded:
                yield self._fail('blanks before the list: remove them', 1)
        start, has_separator = None, True
        while (char := self._peek()) and not (is_list and char == ']'):
            if char == ',' and self._number and not (is_list and has_separator):
                self._at += 1
                has_separator = True
                if not is_list:
                    yield self._fail(f'invalid JSON: line {self._line_number}: a comma after an '
                                     'object that is not in a list', 1)
                continue
            if is_list and not has_separator:
                yield self._fail(f'invalid JSON: line {self._line_number}: no comma before it', 1)
            start = start or self._compile_start()
            self._number, has_separator = self._number + 1, False
            value, fault = self._parse()
            yield DatasetItem(self._split, self._number, value if isinstance(value, dict) else {},
                              fault)
            if value is MISSING:
                has_separator = True
                if not self._skip_to(start):
                    return
        if not is_list:
            return
        if not char:
            yield self._fail('the list has no end: a ] is missing')
        elif self._number and has_separator:
            yield self._fail(f'invalid JSON: line {self._line_number}: a comma before the ]', 1)
        self._at += 1
        if self._peek():
            yield self._fail(f'invalid JSON: line {self._line_number}: text after the list', 1)

    @property
    def _line_number(self) -> int:
        return self._line + self._text.count('\n', 0, self._at)

    def _fail(self, fault: str, ahead: int = 0) -> DatasetItem:
        return DatasetItem(self._split, max(self._number + ahead, 1), {}, fault)

    def _read(self) -> bool:
        """Drop what was parsed and read as much as is left, or more; False at the end."""
        data = self._file.read(max(PART_BYTES, len(self._text) - self._at))
        self._line += self._text.count('\n', 0, self._at)
        self._text = self._text[self._at:] + self._decoder.decode(data, not data)
        self._at = 0
        return bool(data)

    def _peek(self) -> str:
        """Return the next character that is not blank; '' at the end."""
        while True:
            while self._text[self._at:self._at + 1] in BLANKS:
                self._at += 1
            if self._at < len(self._text) or not self._read():
                return self._text[self._at:self._at + 1]

    def _parse(self) -> tuple[Any, str]:
        """Return the value that begins here, or MISSING, and its fault."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                position, reason = self._at, str(error)
                if isinstance(error, json.JSONDecodeError):
                    position, reason = error.pos, error.msg
                    is_cut = position > len(self._text) - MAX_TOKEN or 'Unterminated' in reason
                    if is_cut and self._read():
                        continue
                line = self._line + self._text.count('\n', 0, position)
                bad = NOT_UTF8.match(self._text, position)
                return MISSING, f'not UTF-8: line {line}' if bad else \
                    f'invalid JSON: line {line}: {reason}'
            if end == len(self._text) and self._read():
                continue
            bad = NOT_UTF8.search(self._text, self._at, end)
            self._at = end
            if bad:
                return value, f'not UTF-8: line {self._line_number}: save the file as UTF-8'
            return value, '' if isinstance(value, dict) else \
                f'not an object but {_name_type(value)}'

    def _compile_start(self) -> re.Pattern[str] | None:
        """Return how a question begins: on a separate line, after the same blanks."""
        before = self._text[:self._at].rpartition('\n')
        if before[2].strip() or not (before[1] or self._line == 1):
            return None
        return re.compile('\n' + re.escape(before[2]) + r'(?=\{)')

    def _skip_to(self, start: re.Pattern[str] | None) -> bool:
        """Go to the next beginning of a question; False if there is none."""
        while start:
            if found := start.search(self._text, self._at + 1):
                self._at = found.end()
                return True
            if not self._read():
                break
        return False


def _name_type(value: object) -> str:
    return 'missing' if value is MISSING else JSON_TYPES[type(value)]


def _expect(field: str, value: object, *types: type) -> Iterator[Fault]:
    """Yield what is wrong with a value that must be of one of the types, and not empty."""
    if type(value) not in types:
        expected = ' or '.join(dict.fromkeys(JSON_TYPES[each] for each in types))
        yield Fault(field, _name_type(value), '' if value is MISSING else f'must be {expected}')
    elif value == [] or (isinstance(value, str) and not value.replace(IMAGE, '').strip()):
        yield Fault(field, 'empty')


def _expect_list(field: str, values: object, kind: type) -> Iterator[Fault]:
    """Yield what is wrong with a list and its elements."""
    yield from _expect(field, values, list)
    for index, value in enumerate(values if isinstance(values, list) else ()):
        yield from _expect(f'{field}[{index}]', value, kind)


def find_training_faults(fields: dict[str, Any]) -> Iterator[Fault]:
    """Yield the faults in what a trainer reads: `images` and `conversations`."""
    images, turns = (fields.get(name, MISSING) for name in ('images', 'conversations'))
    yield from _expect_list('images', images, str)
    yield from _expect_list('conversations', turns, dict)
    if not isinstance(turns, list):
        return
    named = [(f'conversations[{index}]', turn) for index, turn in enumerate(turns)
             if isinstance(turn, dict)]
    if named and named[0][1].get('from') == 'system':
        del named[0]
    for number, (field, turn) in enumerate(named):
        role = turn.get('from', MISSING)
        if role != ROLES[number % 2]:
            yield Fault(f'{field}.from', 'missing' if role is MISSING else 'a wrong role',
                        f'{"" if role is MISSING else abbreviate(role) + ", "}must be '
                        f'{ROLES[number % 2]!r}')
        yield from _expect(f'{field}.value', turn.get('value', MISSING), str)
    if not named or len(named) % 2:
        yield Fault('conversations', 'no answer', f'it has {len(named)} turn(s)')
    if isinstance(images, list):
        number = sum(turn['value'].count(IMAGE) for _, turn in named
                     if isinstance(turn.get('value'), str))
        if number != len(images):
            yield Fault('conversations', f'{number} {IMAGE} for {len(images)} images')


def find_format_faults(fields: dict[str, Any]) -> Iterator[Fault]:
    """Yield the fields of a question that are missing, or not as `data build` writes them."""
    yield from _expect('id', fields.get('id', MISSING), str, int)
    for name, kind, values in (('type', 'an unknown type', QuestionType),
                               ('coordinates', 'an unknown unit', Coordinates)):
        value = fields.get(name, MISSING)
        if value is not MISSING or name == 'type':
            wrong = list(_expect(name, value, str))
            yield from wrong
            if not wrong and value not in [each.value for each in values]:
                yield Fault(name, kind, abbreviate(value))
    yield from find_training_faults(fields)
    if fields.get('visual_image', []) != []:
        yield from _expect_list('visual_image', fields['visual_image'], str)
    for name, types in (('scene', (str,)), ('visible', (bool, type(None)))):
        if name in fields:
            yield from _expect(name, fields[name], *types)
    if 'pair' in fields:
        yield from _expect('pair', fields['pair'], dict)
        for name in ('clicked', 'other') if isinstance(fields['pair'], dict) else ():
            yield from _expect(f'pair.{name}', fields['pair'].get(name, MISSING), str)
    points = fields.get('points', [])
    yield from () if isinstance(points, list) else _expect('points', points, list)
    named = [(f'points[{i}]', p) for i, p in enumerate(points if isinstance(points, list) else ())]
    named += [(name, fields[name]) for name in ('point1', 'point2')
              if fields.get(name) is not None]
    for name, point in named:
        if not (isinstance(point, list) and len(point) == 2 and all(
                type(value) in (int, float) and abs(value) < MAX_PX for value in point)):
            yield Fault(name, 'not a point [x, y]', abbreviate(point))
    if fields.get('visible') is True and fields.get('point2') is None:
        yield Fault('point2', 'missing, but visible is true')


class Validator:
    """Finds the faults of one question after another, duplicates and leaks included."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image_size = cache(self._read_size)
        self._keys: set[str] = set()
        self.scenes: dict[str, str] = {}  # scene -> split

    def find_faults(self, item: DatasetItem) -> Iterator[Fault]:
        """Yield what is wrong with one question."""
        fields = item.fields
        if item.fault:
            yield Fault('', 'not a question', item.fault)
            return
        wrong = list(find_format_faults(fields))
        if wrong:
            yield from wrong
            return
        # The same text about the same images is the same question, whatever its id.
        content = json.dumps([fields['images'], fields['conversations']])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        if key in self._keys:
            yield Fault('id', 'a duplicate', abbreviate(fields['id']))
        self._keys.add(key)
        scene = str(fields.get('scene', fields['images'][0]))
        if self.scenes.setdefault(scene, item.split) != item.split:
            yield Fault('scene', 'a leak', f'{abbreviate(scene)} is in {self.scenes[scene]} and in '
                        f'{item.split}')
        for name in ('images', 'visual_image'):
            for index, path in enumerate(fields.get(name, ())):
                size = self._image_size(path)
                if isinstance(size, str):
                    yield Fault(f'{name}[{index}]', 'an image that cannot be read', size)
        for name, image in (('point1', 0), ('point2', -1)):
            point, size = fields.get(name), self._image_size(fields['images'][image])
            if point is not None and not isinstance(size, str) and not (
                    0 <= point[0] <= size[0] - 0.5 and 0 <= point[1] <= size[1] - 0.5):
                yield Fault(name, 'a point outside its image', f'{point} of {size}')

    def _read_size(self, name: str) -> tuple[int, int] | str:
        """Return the size (w, h) of an image, or why it cannot be read."""
        try:
            height, width = read_image(self._folder / name).shape[:2]
        except (OSError, ValueError) as error:
            return f'{abbreviate(name)}: {str(error).removeprefix(f"{self._folder / name}: ")}'
        return width, height


def read_build_info(path: Path) -> tuple[BuildConfig, list[SceneSource]]:
    """Read the options and recordings of a build. Raises ValueError if another program wrote it."""
    try:
        build = json.loads(path.read_text('utf-8'))
        recipe, reading = build['recipe'], build['recipe']['reading']
        options = ReadOptions(**{**reading, 'topics': tuple(reading.get('topics', ()))})
        if (type(options.inverted), type(options.base_frame)) != (bool, str) or not (
                options.depth_per_m is None or options.depth_per_m > 0) or not all(
                isinstance(topic, str) for topic in options.topics):
            raise ValueError(f'reading: {abbreviate(reading)}')
        config = BuildConfig(int(recipe['seed']), Coordinates(recipe['coordinates']), options,
                             str(recipe['labels']))
        return config, [SceneSource(str(s['name']), str(s['path'])) for s in build['sources']]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f'not as data build wrote it: {type(error).__name__}: '
                         f'{error}') from error


def check_geometry(folder: Path, items: list[DatasetItem], report: FaultReport) -> None:
    """Project the points of some questions again in the recordings; report what disagrees."""
    path = folder / BUILD
    if not path.is_file():
        print(f'geometry: not checked, there is no {BUILD} that names the recordings')
        return
    try:
        config, sources = read_build_info(path)
    except ValueError as problem:
        report.add(BUILD, Fault('', 'unusable', str(problem)))
        return
    checked = 0
    for source in sources:
        own = sorted((i for i in items if i.fields.get('scene') == source.name
                      and i.fields.get('visible') is not None
                      and i.fields.get('pair') and i.fields.get('point1')),
                     key=lambda i: (i.fields['pair']['clicked'], i.fields['pair']['other']))
        if not own:
            continue
        try:
            reader = get_reader(folder, source, config)
        except (OSError, ValueError) as problem:
            print(f'geometry: not checked: {problem}'.encode('utf-8', 'backslashreplace').decode())
            continue
        checked += len(own)
        for item in progress_bar(own, desc=source.name, unit='answer'):
            for fault in _find_disagreement(reader, item.fields):
                report.add(item.name, fault)
    print(f'geometry: {checked} answers were checked against the recordings')


def _find_disagreement(reader: SceneReader, fields: dict[str, Any]) -> Iterator[Fault]:
    pair = fields['pair']
    views = []
    for name in ('clicked', 'other'):
        if pair[name] not in reader.frames:
            yield Fault(f'pair.{name}', 'a frame that its recording does not have',
                        abbreviate(pair[name]))
            return
        try:
            views.append(reader.view(reader.frames[pair[name]]))
        except UnusableData as problem:
            yield Fault(f'pair.{name}', 'a frame that cannot be read', str(problem))
            return
    clicked, other = views
    column, row = (round(value) for value in fields['point1'])
    if not (0 <= row < clicked.image.shape[0] and 0 <= column < clicked.image.shape[1]):
        return  # reported as outside its image
    projected = project_points(clicked, other, np.array([fields['point1']], float))
    if (projected.visibility[0] in (
            Visibility.OCCLUDED, Visibility.OUTSIDE)) == fields['visible']:
        yield Fault('visible', 'an answer that geometry contradicts (visible or not)')
    elif fields['visible'] and np.linalg.norm(
            projected.pixels[0] - fields['point2']) > MAX_ERROR_PX:
        yield Fault('point2', f'an answer more than {MAX_ERROR_PX:g} px from where geometry puts '
                    'it')


def draw_sheet(folder: Path, items: list[DatasetItem]) -> npt.NDArray[np.uint8] | None:
    """Draw questions with their images, the answer's point ringed in the last one.

    Returns None if none of the images can be read.
    """
    rows = []
    for item in items:
        fields = item.fields
        try:
            images = [read_image(folder / name)
                      for name in fields.get('visual_image') or fields['images']]
        except (OSError, ValueError):  # reported as a fault
            continue
        if fields.get('point2') is not None:
            images[-1] = draw_points(images[-1], (np.array(fields['point2'], float),))
        question, answer = (' '.join(turn['value'].replace(IMAGE, '').split())
                            for turn in fields['conversations'][:2])
        images = images if len(images) > 1 else [*images, np.full_like(images[0], 40)]
        caption = f'{question}  ->  {answer}'.encode('ascii', 'replace').decode()
        titles = [fields['type'], *[''] * (len(images) - 1)]
        rows.append(concatenate_images(images, titles, caption))
    if not rows:
        return None
    width = max(row.shape[1] for row in rows)
    return np.concatenate([cv2.copyMakeBorder(row, 0, 12, 0, width - row.shape[1],
                                              cv2.BORDER_CONSTANT) for row in rows])
