"""A file of raw replies: which item each belongs to, and what is wrong with it."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.crosspoint.dataset import CrossPointBench, BenchItem, ContentKeys, DataIssue, format_idx, iter_records

# The words of our own that stand in a line of replies, beside those of the item.
KEY, SOURCE = 'key', 'asked'


@dataclass(frozen=True, eq=False)
class Prediction:
    """One line. raw: as it stands there. item: what it answers, None without a benchmark.

    fault: why it is in the authors' score alone; '' if it is in the corrected one too.
    """

    where: str
    raw: Mapping[str, Any]
    item: BenchItem | None
    fault: str = ''

    @property
    def name(self) -> str:
        """What people find it by."""
        return self.item.name if self.item else f'item {self.raw.get("idx")}'

    @property
    def merged_record(self) -> Mapping[str, Any]:
        """The reply with its item, whose own words count."""
        return {**self.raw, **self.item.record} if self.item else self.raw

    @property
    def official_record(self) -> Mapping[str, Any]:
        """What the authors' scripts would be given: the line, or, if it lacks the item, both."""
        return self.raw if 'answer' in self.raw and 'type' in self.raw else self.merged_record


class PredictionReader:
    """Reads a file of replies, each line held against the items of a benchmark.

    A reply belongs to the item of its key, else to the item of the same content, else to the only
    one of its idx. The second of two equal ones belongs to the second of two equal items.
    """

    def __init__(self, path: Path, bench: CrossPointBench | None) -> None:
        self._path, self._bench = path, bench
        self._by_key = {item.key: item for item in bench.items} if bench else {}
        named = [(format_idx(item.idx), item) for item in (bench.items if bench else ())]
        counts = Counter(text for text, _ in named)
        self._by_idx = {text: item for text, item in named if counts[text] == 1}

    def __iter__(self) -> Iterator[Prediction | DataIssue]:
        """Yield every line's reply, or what is wrong with the line."""
        keys, taken, counts = ContentKeys(), set[str](), Counter[str]()
        for line, found in iter_records(self._path):
            where = f'{self._path.name}:{line}'
            if isinstance(found, DataIssue):
                yield found
                continue
            item = self._find_item(found, keys)
            fault = ''
            if self._bench and item is None:
                fault = 'it is no item of the benchmark, by content or by idx'
            elif item and item.key in taken:
                fault = 'another reply to it came before: the first counts'
            taken.add(item.key if item else '')
            repeated = self._describe_duplicate(found, counts)
            if repeated:
                yield DataIssue(f'{where}: item {found.get("idx")}', repeated)
            yield Prediction(where, found, item, fault)

    def _describe_duplicate(self, record: Mapping[str, Any], counts: Counter[str]) -> str:
        """Say that an idx came before; with a benchmark its items tell which of them is meant."""
        if self._bench or 'idx' not in record:
            return ''
        idx = format_idx(record['idx'])
        counts[idx] += 1
        return '' if counts[idx] == 1 else 'another reply of this idx came before: each counts'

    def _find_item(self, record: Mapping[str, Any], keys: ContentKeys) -> BenchItem | None:
        own = record.get(KEY)
        by_content = keys.assign(record)
        found = self._by_key.get(own if isinstance(own, str) else by_content)
        if found is not None or self._bench is None:
            return found
        by_idx = self._by_idx.get(format_idx(record.get('idx')))
        asked = record.get('question')
        return by_idx if by_idx and asked in (None, by_idx.question) else None
