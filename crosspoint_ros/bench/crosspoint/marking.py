"""Replies marked by both sets of rules, and what is to be told of them."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.crosspoint import corrected, official
from crosspoint_ros.bench.crosspoint.differ import Difference, difference
from crosspoint_ros.bench.crosspoint.items import TYPES, Bench, Item, Trouble
from crosspoint_ros.bench.crosspoint.masks import official_mask
from crosspoint_ros.bench.crosspoint.replies import Replies, Reply
from crosspoint_ros.bench.crosspoint.score import Marked, Score, score

DECODED_AHEAD, LETTER_CHARACTERS = 32, 8
FILE_FIELDS = ('idx', 'type', 'level')


@dataclass(frozen=True, eq=False)
class Failure:
    """A reply that is wrong by the corrected rules."""

    item: Item
    said: str
    verdict: corrected.Verdict


@dataclass
class Marking:
    """What is known of a file of replies so far; `add` marks one more.

    unanswered: items of a type that was asked, without a reply: wrong by the corrected rules.
    """

    images: Path
    coordinates: str
    tell: Callable[[Trouble], None]
    ours: list[Marked] = field(default_factory=list)
    theirs: list[Marked] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    unanswered: int = 0
    not_asked: dict[str, int] = field(default_factory=dict)
    _ended: str = ''
    _official_lines: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, reply: Reply) -> None:
        """Mark a reply by both sets of rules."""
        written, whole = reply.as_written, reply.whole
        theirs = official.verdict(written, self.coordinates, self.images)
        self.theirs.append(_marked(written, theirs.right, theirs.answer is not None))
        self._ended = self._ended or theirs.stops or official.unwritable(written)
        self._official_lines.append({name: written[name] for name in FILE_FIELDS
                                     if name in written})
        if reply.fault:
            self.trouble(Trouble(f'{reply.where}: {reply.name}', reply.fault))
            return
        try:
            ours = corrected.verdict(whole, self.coordinates, self.images)
            other_size = corrected.other_size(whole, self.images)
        except corrected.BadItem as error:
            self.trouble(Trouble(f'{reply.where}: {reply.name}', f'{error}; it is left out of the '
                                 'corrected score'))
            return
        if other_size:
            self.trouble(Trouble(f'{reply.where}: {reply.name}', other_size))
        self.ours.append(_marked(whole, ours.right, ours.answer is not None))
        if not ours.right and reply.item is not None:
            self.failures.append(Failure(reply.item, str(whole.get('assistant', '')), ours))
        found = difference(reply.name, whole, theirs, ours)
        if found is not None:
            self.differences.append(found)

    def trouble(self, trouble: Trouble) -> None:
        """Tell of something that is wrong, at once, and keep it."""
        self.troubles.append(trouble)
        self.tell(trouble)

    def missing(self, items: Iterable[Item], asked_types: set[str]) -> None:
        """Count items without a reply: wrong if their type was asked, else not asked."""
        for item in items:
            if item.type in asked_types:
                self.unanswered += 1
                self.ours.append(Marked(item.type, item.level, False, False))
            else:
                self.left_out(item.type)

    def left_out(self, kind: str) -> None:
        """Count an item that whoever replied cannot be asked."""
        self.not_asked[kind] = self.not_asked.get(kind, 0) + 1

    @property
    def official_stops(self) -> str:
        """The error with which the authors' scripts end on all of this; '' if they do not."""
        return self._ended or next((trouble.ends_official for trouble in self.troubles
                                    if trouble.ends_official), '') \
            or official.stops(self._official_lines)

    def scores(self) -> tuple[Score, Score]:
        """Return the corrected score and the authors'."""
        return score(self.ours), score(self.theirs)


def mark(path: Path, bench: Bench | None, coordinates: str,
         tell: Callable[[Trouble], None]) -> Marking:
    """Mark a file of replies, and count the items of the benchmark that have none."""
    marking = Marking(bench.images if bench else Path(), coordinates, tell)
    for trouble in bench.troubles if bench else ():
        marking.trouble(replace(trouble, ends_official=''))  # they are given the replies alone
    answered, types = set[str](), set[str]()
    for reply in ahead(Replies(path, bench)):
        if isinstance(reply, Trouble):
            marking.trouble(reply)
            continue
        marking.add(reply)
        if reply.item is not None:
            answered.add(reply.item.key)
            types.add(reply.item.type)
    if bench:
        marking.missing((i for i in bench.items if i.key not in answered), types)
    return marking


def ahead(replies: Iterable[Reply | Trouble]) -> Iterator[Reply | Trouble]:
    """Yield what is given, with the masks of the next ones being decoded in other threads."""
    waiting: deque[tuple[Reply | Trouble, Future[Any] | None]] = deque()
    with ThreadPoolExecutor() as pool:
        for reply in replies:
            mask = '' if isinstance(reply, Trouble) else reply.whole.get('answer')
            long = isinstance(mask, str) and len(mask) > LETTER_CHARACTERS
            waiting.append((reply, pool.submit(official_mask, mask) if long else None))
            if len(waiting) > DECODED_AHEAD:
                first, decoded = waiting.popleft()
                if decoded:
                    decoded.result()
                yield first
        yield from (reply for reply, _ in waiting)


def _marked(record: Mapping[str, Any], right: bool, answered: bool) -> Marked:
    kind, level = record.get('type', 'Unknown'), record.get('level', 'Unknown')
    return Marked(kind if kind in TYPES else str(kind), str(level), right, answered)
