"""Reads CrossPoint-Bench as published: items, masks, image sizes, and the faults of its lines."""
from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crosspoint_ros.data.io import abbreviate

GROUNDING, POINTING = 'Fine-grained Grounding', 'Correspondence-Pointing'
VISIBILITY, JUDGEMENT = 'Visibility Reasoning', 'Correspondence-Judgement'
TYPES = (GROUNDING, VISIBILITY, JUDGEMENT, POINTING)
COORDINATE_TYPES = (GROUNDING, POINTING)
ITEMS, IMAGES = 'CrossPoint-Bench.jsonl', 'image'
KEY_FIELDS = ('idx', 'type', 'level', 'question', 'images', 'answer')
WHITE_THRESHOLD = 128
MASK_CACHE_SIZE, SIZE_CACHE_SIZE = 40, 8192
REQUIRED_FIELDS = {'type': str, 'question': str, 'images': list, 'answer': str}


@dataclass(frozen=True)
class DataIssue:
    """A fault of the input. where: file and line, or item.

    ends_official: the error that ends the authors' scripts there; '' if they continue.
    """

    where: str
    what: str
    ends_official: str = ''

    def __str__(self) -> str:
        return f'{self.where}: {self.what}'


@dataclass(frozen=True, eq=False)
class BenchItem:
    """One question. key: of its content; numbered if repeated.

    images: relative to image/. answer: a mask in base64, or a letter. record: the whole line.
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
        """The item's name in messages."""
        return f'item {self.idx}'

    @property
    def is_pointing(self) -> bool:
        """Whether the answer is a point, not a letter."""
        return self.type in COORDINATE_TYPES


@dataclass(frozen=True, eq=False)
class CrossPointBench:
    """The valid items of a folder, and the faults of the others."""

    folder: Path
    items: tuple[BenchItem, ...]
    issues: tuple[DataIssue, ...]

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.folder / IMAGES


def assign_key(record: Mapping[str, Any], counts: Counter[str]) -> str:
    """Return the key of a record's content, numbered if `counts` has it already."""
    text = json.dumps([record.get(name) for name in KEY_FIELDS], sort_keys=True)
    content = hashlib.sha256(text.encode()).hexdigest()[:32]
    counts[content] += 1
    return content if counts[content] == 1 else f'{content}#{counts[content]}'


def read_bench(folder: Path) -> CrossPointBench:
    """Read CrossPoint-Bench.jsonl, or the .jsonl of the folder's name.

    Raises FileNotFoundError if there is neither.
    """
    path = next((p for p in (folder / ITEMS, folder / f'{folder.resolve().name}.jsonl')
                 if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f'{folder} is not a CrossPoint-Bench: it has no {ITEMS}')
    items: list[BenchItem] = []
    issues: list[DataIssue] = []
    counts = Counter[str]()
    for line, record in iter_records(path):
        if isinstance(record, DataIssue):
            issues.append(record)
        elif issue := _validate_record(path, line, record):
            issues.append(issue)
        else:
            record = {'idx': line - 1, **record}
            items.append(BenchItem(assign_key(record, counts), record['idx'], record['type'],
                                   str(record.get('level', 'Unknown')), record['question'],
                                   tuple(record['images']), record['answer'], record))
    issues += [DataIssue(f'{path.name}: item {idx}', f'{count} items have this idx; each is asked')
               for idx, count in Counter(format_idx(item.idx) for item in items).items()
               if count > 1]
    return CrossPointBench(folder, tuple(items), tuple(issues))


def iter_records(path: Path) -> Iterator[tuple[int, dict[str, Any] | DataIssue]]:
    """Yield number and object, or fault, of each line that is not blank."""
    # As text: the authors' scripts end lines at a lone \r too, and strip any whitespace.
    with path.open(encoding='utf-8', errors='surrogateescape') as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f'{path.name}:{number}'
            try:
                line.encode('utf-8', 'surrogateescape').decode()
                record = json.loads(line.strip())
            except UnicodeDecodeError as error:
                yield number, DataIssue(where, f'invalid UTF-8 at byte {error.start}',
                                        'UnicodeDecodeError')
            except (ValueError, RecursionError) as error:
                cut = '' if line.endswith('\n') else '; the file ends within it'
                skipped = isinstance(error, json.JSONDecodeError)
                yield number, DataIssue(where, f'invalid JSON ({error}){cut}',
                                        '' if skipped else type(error).__name__)
            else:
                ends = 'TypeError' if isinstance(record, list) else 'AttributeError'
                yield number, (record if isinstance(record, dict) else
                               DataIssue(where, f'a {type(record).__name__}, not an object', ends))


def _validate_record(path: Path, line: int, record: Mapping[str, Any]) -> DataIssue | None:
    where = f'{path.name}:{line}: item {record.get("idx", line - 1)}'
    for name, kind in REQUIRED_FIELDS.items():
        if not isinstance(record.get(name), kind):
            return DataIssue(where, f'{name!r} is {abbreviate(record.get(name))} (must be a '
                                    f'{"list" if kind is list else "string"})')
    if record['type'] not in TYPES:
        return DataIssue(where, f'unknown type {record["type"]!r}; known: {", ".join(TYPES)}')
    if not record['images'] or not all(isinstance(i, str) and i for i in record['images']):
        return DataIssue(where, f"'images' is {abbreviate(record['images'])} (must be file names)")
    return None


def format_idx(idx: Any) -> str:
    """Return an idx as text in which 1 and '1' differ."""
    return str(idx) if type(idx) is int else json.dumps(idx)


def find_white(mask: Image.Image) -> npt.NDArray[np.bool_]:
    """Return the white pixels (h, w) of a mask in any mode."""
    if mask.mode.startswith('I;16'):
        return np.asarray(np.array(mask) > WHITE_THRESHOLD * 257)
    return np.array(mask if mask.mode in ('I', 'F') else mask.convert('L')) > WHITE_THRESHOLD


def crop_pixel(mask: Image.Image, x: int, y: int) -> Image.Image:
    """Return a mask of one pixel."""
    return mask.crop((x, y, x + 1, y + 1))


@lru_cache(MASK_CACHE_SIZE)
def decode_mask_official(text: str) -> Image.Image | None:
    """Decode a mask as the authors do, skipping what is not base64; None if that fails."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        image.load()
    except Exception:  # as the authors: any failure means no mask
        return None
    return image


def decode_mask(text: str) -> Image.Image:
    """Decode a mask, also from a data URL. Raises ValueError with the fault."""
    body = text.partition(',')[2] if text.startswith('data:') else text
    if (mask := decode_mask_official(body)) is not None:
        return mask
    try:
        content = base64.b64decode(''.join(body.split()), validate=True)
    except ValueError as error:
        raise ValueError(f'its mask is not base64 ({error})') from None
    raise ValueError(f'its mask, {len(content)} bytes, is not an image, or a damaged one')


@lru_cache(SIZE_CACHE_SIZE)
def read_image_size(folder: str, name: str) -> tuple[int, int] | None:
    """Return width and height of an image file; None if it is missing or not an image."""
    path = os.path.join(folder, name)
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # whatever a damaged file does
        return None
