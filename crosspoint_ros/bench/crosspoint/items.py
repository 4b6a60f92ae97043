"""CrossPoint-Bench as it is published: its lines read one by one, what is wrong with them said."""
from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GROUNDING, POINTING = 'Fine-grained Grounding', 'Correspondence-Pointing'
VISIBILITY, JUDGEMENT = 'Visibility Reasoning', 'Correspondence-Judgement'
TYPES = (GROUNDING, VISIBILITY, JUDGEMENT, POINTING)
COORDINATE_TYPES = (GROUNDING, POINTING)
ITEMS, IMAGES = 'CrossPoint-Bench.jsonl', 'image'
KEYED = ('idx', 'type', 'level', 'question', 'images', 'answer')
NEEDED = {'type': str, 'question': str, 'images': list, 'answer': str}


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong with what was given. where: file and line, or item.

    ends_official: the error with which the authors' scripts end at it; '' if they go on.
    """

    where: str
    what: str
    ends_official: str = ''

    def __str__(self) -> str:
        return f'{self.where}: {self.what}'


@dataclass(frozen=True, eq=False)
class Item:
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
class Bench:
    """The items of a folder that can be read, and what is wrong with the others."""

    folder: Path
    items: tuple[Item, ...]
    troubles: tuple[Trouble, ...]

    @property
    def images(self) -> Path:
        """The folder that the items' images are relative to."""
        return self.folder / IMAGES


@dataclass
class Keys:
    """Gives each content a key, and its n-th repetition one of its own."""

    seen: Counter[str] = field(default_factory=Counter)

    def of(self, record: Mapping[str, Any]) -> str:
        """Return the key of the next record with this content."""
        text = json.dumps([record.get(name) for name in KEYED], sort_keys=True)
        content = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.seen[content] += 1
        count = self.seen[content]
        return content if count == 1 else f'{content}#{count}'


def read(folder: Path) -> Bench:
    """Read CrossPoint-Bench.jsonl, or the .jsonl of the folder's name.

    Raises FileNotFoundError where there is neither.
    """
    path = next((p for p in (folder / ITEMS, folder / f'{folder.resolve().name}.jsonl')
                 if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f'{folder} is no CrossPoint-Bench: it has no {ITEMS}')
    keys, items, troubles = Keys(), [], []
    for line, found in records(path):
        problem = found if isinstance(found, Trouble) else _problem(path, line, found)
        if problem is not None:
            troubles.append(problem)
            continue
        assert not isinstance(found, Trouble)
        items.append(_item({'idx': line - 1, **found}, keys))
    return Bench(folder, tuple(items), (*troubles, *_repeated(path, items)))


def records(path: Path) -> Iterator[tuple[int, dict[str, Any] | Trouble]]:
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
                yield number, Trouble(where, f'no UTF-8 at byte {error.start}',
                                      'UnicodeDecodeError')
            except (ValueError, RecursionError) as error:
                cut = '' if line.endswith('\n') else '; the file ends within it'
                skipped = isinstance(error, json.JSONDecodeError)
                yield number, Trouble(where, f'no JSON ({error}){cut}',
                                      '' if skipped else type(error).__name__)
            else:
                ends = 'TypeError' if isinstance(found, list) else 'AttributeError'
                yield number, (found if isinstance(found, dict) else
                               Trouble(where, f'a {type(found).__name__}, not an object', ends))


def _problem(path: Path, line: int, record: Mapping[str, Any]) -> Trouble | None:
    where = f'{path.name}:{line}: item {record.get("idx", line - 1)}'
    for name, kind in NEEDED.items():
        if not isinstance(record.get(name), kind):
            return Trouble(where, f'{name!r} is {shown(record.get(name))}, it must be '
                           f'a {"list" if kind is list else "text"}')
    if record['type'] not in TYPES:
        return Trouble(where, f'the type {record["type"]!r} is none of {", ".join(TYPES)}')
    if not record['images'] or not all(isinstance(i, str) and i for i in record['images']):
        return Trouble(where, f'images {shown(record["images"])}: it names none, or not by text')
    return None


def idx_text(idx: Any) -> str:
    """Write an idx so that 1 and '1' differ, and anything can be compared."""
    return str(idx) if type(idx) is int else json.dumps(idx)


def shown(value: Any) -> str:
    """Write a value in few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _item(record: Mapping[str, Any], keys: Keys) -> Item:
    return Item(keys.of(record), record['idx'], record['type'], str(record.get('level', 'Unknown')),
                record['question'], tuple(record['images']), record['answer'], record)


def _repeated(path: Path, items: list[Item]) -> Iterator[Trouble]:
    for idx, count in Counter(idx_text(item.idx) for item in items).items():
        if count > 1:
            yield Trouble(f'{path.name}: item {idx}', f'{count} items have this idx; each is asked')
