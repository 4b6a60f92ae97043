"""CrossPoint-Bench as it is published: its lines read one by one, what is wrong with them said."""
from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

GROUNDING, POINTING = 'Fine-grained Grounding', 'Correspondence-Pointing'
VISIBILITY, JUDGEMENT = 'Visibility Reasoning', 'Correspondence-Judgement'
TYPES = (GROUNDING, VISIBILITY, JUDGEMENT, POINTING)
COORDINATE_TYPES = (GROUNDING, POINTING)
ITEMS, IMAGES = 'CrossPoint-Bench.jsonl', 'image'
KEY_FIELDS = ('idx', 'type', 'level', 'question', 'images', 'answer')
REQUIRED_FIELDS = {'type': str, 'question': str, 'images': list, 'answer': str}


@dataclass(frozen=True)
class DataIssue:
    """Something that is wrong with what was given. where: file and line, or item.

    ends_official: the error with which the authors' scripts end at it; '' if they go on.
    """

    where: str
    what: str
    ends_official: str = ''

    def __str__(self) -> str:
        return f'{self.where}: {self.what}'


@dataclass(frozen=True, eq=False)
class BenchItem:
    """One question. key: of its content; a repeated one has a number behind it.

    images: relative to image/. answer: a mask as base64, or a letter. record: all of its line.
    """

    key: str
    idx: Any
    type: str
    level: str
    question: str
    images: tuple[str, ...]
    answer: str
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What people find it by."""
        return f'item {self.idx}'

    @property
    def is_pointing(self) -> bool:
        """Whether a point is asked for, and not a letter."""
        return self.type in COORDINATE_TYPES


@dataclass(frozen=True, eq=False)
class CrossPointBench:
    """The items of a folder that can be read, and what is wrong with the others."""

    folder: Path
    items: tuple[BenchItem, ...]
    issues: tuple[DataIssue, ...]

    @property
    def images(self) -> Path:
        """The folder that the items' images are relative to."""
        return self.folder / IMAGES


@dataclass
class ContentKeys:
    """Gives each content a key, and its n-th repetition one of its own."""

    counts: Counter[str] = field(default_factory=Counter)

    def assign(self, record: Mapping[str, Any]) -> str:
        """Return the key of the next record with this content."""
        text = json.dumps([record.get(name) for name in KEY_FIELDS], sort_keys=True)
        content = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.counts[content] += 1
        count = self.counts[content]
        return content if count == 1 else f'{content}#{count}'


def read_bench(folder: Path) -> CrossPointBench:
    """Read CrossPoint-Bench.jsonl, or the .jsonl of the folder's name.

    Raises FileNotFoundError where there is neither.
    """
    path = next((p for p in (folder / ITEMS, folder / f'{folder.resolve().name}.jsonl')
                 if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f'{folder} is no CrossPoint-Bench: it has no {ITEMS}')
    keys, items, troubles = ContentKeys(), [], []
    for line, found in iter_records(path):
        problem = found if isinstance(found, DataIssue) else _validate_record(path, line, found)
        if problem is not None:
            troubles.append(problem)
            continue
        assert not isinstance(found, DataIssue)
        items.append(_make_item({'idx': line - 1, **found}, keys))
    return CrossPointBench(folder, tuple(items), (*troubles, *_find_duplicates(path, items)))


def iter_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataIssue]]:
    """Yield number and object of each line that is not blank, or what is wrong with it."""
    # As text: the authors' scripts end lines at a lone \r too, and pass over any blank around one.
    with path.open(encoding='utf-8', errors='surrogateescape') as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f'{path.name}:{number}'
            try:
                line.encode('utf-8', 'surrogateescape').decode()
                found = json.loads(line.strip())
            except UnicodeDecodeError as error:
                yield number, DataIssue(where, f'no UTF-8 at byte {error.start}',
                                      'UnicodeDecodeError')
            except (ValueError, RecursionError) as error:
                cut = '' if line.endswith('\n') else '; the file ends within it'
                skipped = isinstance(error, json.JSONDecodeError)
                yield number, DataIssue(where, f'no JSON ({error}){cut}',
                                      '' if skipped else type(error).__name__)
            else:
                ends = 'TypeError' if isinstance(found, list) else 'AttributeError'
                yield number, (found if isinstance(found, dict) else
                               DataIssue(where, f'a {type(found).__name__}, not an object', ends))


def _validate_record(path: Path, line: int, record: Mapping[str, Any]) -> DataIssue | None:
    where = f'{path.name}:{line}: item {record.get("idx", line - 1)}'
    for name, kind in REQUIRED_FIELDS.items():
        if not isinstance(record.get(name), kind):
            return DataIssue(where, f'{name!r} is {abbreviate(record.get(name))}, it must be '
                           f'a {"list" if kind is list else "text"}')
    if record['type'] not in TYPES:
        return DataIssue(where, f'the type {record["type"]!r} is none of {", ".join(TYPES)}')
    if not record['images'] or not all(isinstance(i, str) and i for i in record['images']):
        return DataIssue(where, f'images {abbreviate(record["images"])}: it names none, or not by text')
    return None


def format_idx(idx: Any) -> str:
    """Write an idx so that 1 and '1' differ, and anything can be compared."""
    return str(idx) if type(idx) is int else json.dumps(idx)


def abbreviate(value: Any) -> str:
    """Write a value in few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _make_item(record: Mapping[str, Any], keys: ContentKeys) -> BenchItem:
    return BenchItem(keys.assign(record), record['idx'], record['type'], str(record.get('level', 'Unknown')),
                record['question'], tuple(record['images']), record['answer'], record)


def _find_duplicates(path: Path, items: list[BenchItem]) -> Iterator[DataIssue]:
    for idx, count in Counter(format_idx(item.idx) for item in items).items():
        if count > 1:
            yield DataIssue(f'{path.name}: item {idx}', f'{count} items have this idx; each is asked')


DATA_URL = 'data:'
WHITE_THRESHOLD = 128
MASK_CACHE_SIZE, SIZE_CACHE_SIZE = 40, 8192
BYTE_MODES = ('L', 'P', 'RGB', 'RGBA')  # modes whose pixels Pillow gives as NumPy would


@dataclass(frozen=True, eq=False)
class AnswerMask:
    """A decoded mask."""

    image: Image.Image

    @property
    def mode(self) -> str:
        """How it is stored: '1', 'L', 'P', 'RGB', …"""
        return self.image.mode

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.image.size

    def read_stored(self, x: int, y: int) -> npt.NDArray[Any]:
        """Return the numbers of a pixel on the mask as they are stored: () or (channels,)."""
        if self.mode in BYTE_MODES:
            return np.asarray(self.image.getpixel((x, y)))
        return np.asarray(np.array(self.image.crop((x, y, x + 1, y + 1)))[0, 0])

    @property
    def white(self) -> npt.NDArray[np.bool_]:
        """Which pixels (h, w) are white, however that is stored."""
        if self.mode.startswith('I;16'):
            return np.asarray(np.array(self.image) > WHITE_THRESHOLD * 257)
        if self.mode in ('I', 'F'):
            return np.asarray(np.array(self.image) > WHITE_THRESHOLD)
        return np.asarray(self.image.convert('L')) > WHITE_THRESHOLD

    def is_white(self, x: int, y: int) -> bool:
        """Tell whether one pixel on the mask is white."""
        if self.mode == 'L':
            return bool(self.read_stored(x, y) > WHITE_THRESHOLD)
        return bool(AnswerMask(self.image.crop((x, y, x + 1, y + 1))).white[0, 0])


@lru_cache(MASK_CACHE_SIZE)
def decode_mask_official(text: str) -> AnswerMask | None:
    """Decode a mask as the authors do, who pass over what is no base64; None if that fails."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        image.load()
    except Exception:  # as the authors': any failure is no mask
        return None
    return AnswerMask(image)


def decode_mask(text: str) -> AnswerMask:
    """Decode a mask; a data URL too. Raises ValueError that says what is wrong with it."""
    body = text.partition(',')[2] if text.startswith(DATA_URL) else text
    mask = decode_mask_official(body)
    if mask is not None:
        return mask
    try:
        content = base64.b64decode(''.join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'its mask is no base64 ({error})') from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError:
        raise ValueError(f'its mask, {len(content)} bytes, is no image') from None
    except Exception as error:
        raise ValueError(f'its mask is a damaged image ({error})') from None
    raise ValueError('its mask cannot be read')


@lru_cache(SIZE_CACHE_SIZE)
def read_image_size(folder: str, name: str) -> tuple[int, int] | None:
    """Return width and height of an image file; None if it is not there or is none."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # whatever a damaged file does
        return None
