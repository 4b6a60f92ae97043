"""Replies marked by both sets of rules, and what is to be told of them."""
from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.crosspoint import rules_corrected, rules_official
from crosspoint_ros.bench.crosspoint.dataset import (
    COORDINATE_TYPES,
    TYPES,
    Bench,
    Item,
    Trouble,
    meant_mask,
    official_mask,
)
from crosspoint_ros.bench.crosspoint.predictions import Replies, Reply
from crosspoint_ros.bench.pairs.metrics import wilson

EXTREME = 1e6
SIGNED = re.compile(r'[-−]\s*\d')


@dataclass(frozen=True)
class Difference:
    """One reply of which the two sets of rules make different things. why: of people's words."""

    name: str
    type: str
    official_answer: str
    official_right: bool
    corrected_answer: str
    corrected_right: bool
    why: str

    @property
    def in_score(self) -> bool:
        """Whether one counts it as right and the other does not."""
        return self.official_right != self.corrected_right


def difference(name: str, record: Mapping[str, Any], theirs: rules_official.Verdict,
               ours: rules_corrected.Verdict) -> Difference | None:
    """Compare answer and score; None if both agree in both."""
    if (theirs.answer, theirs.right, theirs.stops) == (ours.answer, ours.right, ''):
        return None
    return Difference(name, str(record.get('type')), told(theirs.answer), theirs.right,
                      told(ours.answer), ours.right, reason(record, theirs, ours))


def told(answer: tuple[float, float] | str | None) -> str:
    """Write an answer in few characters."""
    if answer is None:
        return 'none'
    return answer if isinstance(answer, str) else f'[{answer[0]:g}, {answer[1]:g}]'


def reason(record: Mapping[str, Any], theirs: rules_official.Verdict, ours: rules_corrected.Verdict) -> str:
    """Say which rule makes the difference."""
    if theirs.stops:
        return f"the authors' scripts end here with {theirs.stops}"
    if record.get('type') not in COORDINATE_TYPES:
        return _letters(theirs, ours)
    if theirs.answer != ours.answer:
        return _points(str(record.get('assistant', '')), theirs, ours)
    return _places(record, theirs, ours)


def _letters(theirs: rules_official.Verdict, ours: rules_corrected.Verdict) -> str:
    if theirs.answer == ours.answer:
        return "the item's right answer is written in a way that the authors do not compare"
    if theirs.answer is None:
        return 'the authors have no pattern for the way this option is named'
    if ours.answer is None:
        return 'no option, or several: the authors take the first that a pattern fits'
    return 'the authors take the first letter that a pattern fits, not the one the reply settles on'


def _points(said: str, theirs: rules_official.Verdict, ours: rules_corrected.Verdict) -> str:
    if theirs.answer is None:
        return 'the authors have no pattern for the way this point is written'
    if ours.answer is None:
        if ours.why.startswith('names no'):
            return 'two numbers, but no point: the authors take any pair with a comma'
        return 'the reply names several points, one is needed: the authors take the first'
    if isinstance(theirs.answer, tuple) and isinstance(ours.answer, tuple) and SIGNED.search(said) \
            and tuple(map(abs, ours.answer)) == tuple(map(abs, theirs.answer)):
        return 'the authors drop the sign'
    return 'the authors take another pair of numbers of the reply: the first that a pattern fits'


def _places(record: Mapping[str, Any], theirs: rules_official.Verdict, ours: rules_corrected.Verdict) -> str:
    mask, raw = meant_mask(str(record['answer'])), official_mask(str(record['answer']))
    if raw is None:
        return 'the mask is a data URL, which the authors do not decode'
    if theirs.pixel is None or ours.pixel is None or not all(
            abs(value) < EXTREME for value in theirs.pixel):
        return 'the point is no number that a pixel has'
    if (int(theirs.pixel[0]), int(theirs.pixel[1])) == ours.pixel:
        return (f'the mask is stored in mode {mask.mode!r}: the authors compare the stored numbers '
                'with 128')
    if min(theirs.pixel) < 0:
        return 'between -1 and 0: the authors round towards 0, onto the image'
    width, height = mask.size
    if ours.pixel[0] == width - 1 <= theirs.pixel[0] or \
            ours.pixel[1] == height - 1 <= theirs.pixel[1]:
        return "1000 is the image's edge: the authors place it outside"
    return (f'the point is scaled by the mask, {width}x{height}; the authors scale it by '
            'image_width and image_height, the first image, or not at all')


DECODED_AHEAD, LETTER_CHARACTERS = 32, 8
FILE_FIELDS = ('idx', 'type', 'level')


@dataclass(frozen=True, eq=False)
class Failure:
    """A reply that is wrong by the corrected rules."""

    item: Item
    said: str
    verdict: rules_corrected.Verdict


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
        theirs = rules_official.verdict(written, self.coordinates, self.images)
        self.theirs.append(_marked(written, theirs.right, theirs.answer is not None))
        self._ended = self._ended or theirs.stops or rules_official.unwritable(written)
        self._official_lines.append({name: written[name] for name in FILE_FIELDS
                                     if name in written})
        if reply.fault:
            self.trouble(Trouble(f'{reply.where}: {reply.name}', reply.fault))
            return
        try:
            ours = rules_corrected.verdict(whole, self.coordinates, self.images)
            other_size = rules_corrected.other_size(whole, self.images)
        except rules_corrected.BadItem as error:
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
            or rules_official.stops(self._official_lines)

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


@dataclass(frozen=True)
class Tally:
    """Right answers of so many. no_answer: those of the wrong ones in which none could be read."""

    right: int = 0
    total: int = 0
    no_answer: int = 0

    @property
    def share(self) -> float:
        """Right answers of 1; NaN where nothing was asked."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; NaN where nothing was asked."""
        return wilson(self.right, self.total)


@dataclass(frozen=True)
class Marked:
    """One reply, marked."""

    type: str
    level: str
    right: bool
    answered: bool


@dataclass(frozen=True)
class Row:
    """A line of a score: of all (type and level ''), of a type (level ''), or of a level of it."""

    type: str
    level: str
    tally: Tally


@dataclass(frozen=True)
class Score:
    """The rows of a score: all first, then each type with its levels, by name."""

    rows: tuple[Row, ...]

    @property
    def overall(self) -> Tally:
        """Every reply, one by one: types count by how many items they have, as the authors do."""
        return self.rows[0].tally

    def of(self, kind: str, level: str = '') -> Tally:
        """Return the tally of a type, or of a level of it."""
        return next((row.tally for row in self.rows
                     if (row.type, row.level) == (kind, level)), Tally())


def score(marked: Sequence[Marked]) -> Score:
    """Add up what was marked."""
    rows = [Row('', '', tally(marked))]
    for kind in sorted({each.type for each in marked}):
        of_type = [each for each in marked if each.type == kind]
        rows.append(Row(kind, '', tally(of_type)))
        rows += [Row(kind, level, tally(each for each in of_type if each.level == level))
                 for level in sorted({each.level for each in of_type})]
    return Score(tuple(rows))


def tally(marked: Iterable[Marked]) -> Tally:
    """Count right answers, and replies without one."""
    listed = list(marked)
    return Tally(sum(each.right for each in listed), len(listed),
                 sum(not each.answered for each in listed))
