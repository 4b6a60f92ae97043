"""Reads a file of raw replies and assigns each to its benchmark item."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.crosspoint import dataset
from crosspoint_ros.bench.crosspoint.dataset import BenchItem, CrossPointBench, DataIssue

# Fields added to the item in a line of replies: the backend, its version and files, the images.
KEY, SOURCE, STATE, IMAGE_HASH = 'key', 'asked', 'state', 'images_sha256'
# Why there is no reply, '' if there is one; a later reply to the item replaces such a line.
FAILED = 'failed'


@dataclass(frozen=True, eq=False)
class Prediction:
    """One reply. raw: its line. item: the item it answers, None without a benchmark.

    fault: why only the authors' score counts it; '' if both scores do.
    """

    where: str
    raw: Mapping[str, Any]
    item: BenchItem | None
    fault: str = ''

    @property
    def name(self) -> str:
        """The item's name in messages."""
        return self.item.name if self.item else f'item {self.raw.get("idx")}'

    @property
    def merged_record(self) -> Mapping[str, Any]:
        """The line with the fields of its item, which take precedence."""
        return {**self.raw, **self.item.record} if self.item else self.raw

    @property
    def official_record(self) -> Mapping[str, Any]:
        """What the authors' scripts read: the line, merged if it lacks the item."""
        return self.raw if 'answer' in self.raw and 'type' in self.raw else self.merged_record


class PredictionReader:
    """Iterates over a file of replies.

    A reply belongs to the item of its key, else of its content, else to the only one of its idx.
    The second of two equal replies belongs to the second of two equal items.
    """

    def __init__(self, path: Path, bench: CrossPointBench | None) -> None:
        self._path, self._bench = path, bench
        self._by_key = {item.key: item for item in bench.items} if bench else {}
        by_idx = [(dataset.format_idx(item.idx), item) for item in self._by_key.values()]
        counts = Counter(idx for idx, _ in by_idx)
        self._by_idx = {idx: item for idx, item in by_idx if counts[idx] == 1}

    def __iter__(self) -> Iterator[Prediction | DataIssue]:
        """Yield the reply of every line, or what is wrong with it."""
        contents, answered, counts = Counter[str](), set[str](), Counter[str]()
        failed: dict[str, Prediction] = {}
        for line, record in dataset.iter_records(self._path):
            where = f'{self._path.name}:{line}'
            if isinstance(record, DataIssue):
                yield record
                continue
            if record.get(FAILED) and SOURCE in record:
                key = str(record.get(KEY))
                item = self._by_key.get(key)
                failed[key] = Prediction(where, record, item)
                continue
            item = self._find_item(record, contents)
            fault = ''
            if self._bench and item is None:
                fault = 'not in the benchmark, by content or by idx'
            elif item and item.key in answered:
                fault = 'a second reply to this item; the first one counts'
            answered.add(item.key if item else '')
            failed.pop(str(record.get(KEY)), None)
            if not self._bench and 'idx' in record:
                idx = dataset.format_idx(record['idx'])
                counts[idx] += 1
                if counts[idx] > 1:
                    yield DataIssue(f'{where}: item {record["idx"]}',
                                    'a second reply with this idx; each counts')
            yield Prediction(where, record, item, fault)
        yield from (prediction for key, prediction in failed.items() if key not in answered)

    def _find_item(self, record: Mapping[str, Any], contents: Counter[str]) -> BenchItem | None:
        key, by_content = record.get(KEY), dataset.assign_key(record, contents)
        if found := self._by_key.get(key if isinstance(key, str) else by_content):
            return found
        by_idx = self._by_idx.get(dataset.format_idx(record.get('idx')))
        return by_idx if by_idx and record.get('question') in (None, by_idx.question) else None
