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
    CrossPointBench,
    BenchItem,
    DataIssue,
    decode_mask,
    decode_mask_official,
)
from crosspoint_ros.bench.crosspoint.predictions import PredictionReader, Prediction
from crosspoint_ros.bench.pairs.metrics import wilson_interval

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


def difference(name: str, record: Mapping[str, Any], theirs: rules_official.OfficialVerdict,
               ours: rules_corrected.CorrectedVerdict) -> Difference | None:
    """Compare answer and score; None if both agree in both."""
    if (theirs.answer, theirs.is_correct, theirs.crash) == (ours.answer, ours.is_correct, ''):
        return None
    return Difference(name, str(record.get('type')), format_answer(theirs.answer), theirs.is_correct,
                      format_answer(ours.answer), ours.is_correct, reason(record, theirs, ours))


def format_answer(answer: tuple[float, float] | str | None) -> str:
    """Write an answer in few characters."""
    if answer is None:
        return 'none'
    return answer if isinstance(answer, str) else f'[{answer[0]:g}, {answer[1]:g}]'


def reason(record: Mapping[str, Any], theirs: rules_official.OfficialVerdict, ours: rules_corrected.CorrectedVerdict) -> str:
    """Say which rule makes the difference."""
    if theirs.crash:
        return f"the authors' scripts end here with {theirs.crash}"
    if record.get('type') not in COORDINATE_TYPES:
        return _letters(theirs, ours)
    if theirs.answer != ours.answer:
        return _points(str(record.get('assistant', '')), theirs, ours)
    return _places(record, theirs, ours)


def _letters(theirs: rules_official.OfficialVerdict, ours: rules_corrected.CorrectedVerdict) -> str:
    if theirs.answer == ours.answer:
        return "the item's right answer is written in a way that the authors do not compare"
    if theirs.answer is None:
        return 'the authors have no pattern for the way this option is named'
    if ours.answer is None:
        return 'no option, or several: the authors take the first that a pattern fits'
    return 'the authors take the first letter that a pattern fits, not the one the reply settles on'


def _points(said: str, theirs: rules_official.OfficialVerdict, ours: rules_corrected.CorrectedVerdict) -> str:
    if theirs.answer is None:
        return 'the authors have no pattern for the way this point is written'
    if ours.answer is None:
        if ours.reason.startswith('names no'):
            return 'two numbers, but no point: the authors take any pair with a comma'
        return 'the reply names several points, one is needed: the authors take the first'
    if isinstance(theirs.answer, tuple) and isinstance(ours.answer, tuple) and SIGNED.search(said) \
            and tuple(map(abs, ours.answer)) == tuple(map(abs, theirs.answer)):
        return 'the authors drop the sign'
    return 'the authors take another pair of numbers of the reply: the first that a pattern fits'


def _places(record: Mapping[str, Any], theirs: rules_official.OfficialVerdict, ours: rules_corrected.CorrectedVerdict) -> str:
    mask, raw = decode_mask(str(record['answer'])), decode_mask_official(str(record['answer']))
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


PREFETCH, MAX_LETTER_LENGTH = 32, 8
FILE_FIELDS = ('idx', 'type', 'level')


@dataclass(frozen=True, eq=False)
class WrongReply:
    """A reply that is wrong by the corrected rules."""

    item: BenchItem
    reply: str
    verdict: rules_corrected.CorrectedVerdict


@dataclass
class Grader:
    """What is known of a file of replies so far; `add` marks one more.

    unanswered: items of a type that was asked, without a reply: wrong by the corrected rules.
    """

    images: Path
    coordinates: str
    tell: Callable[[DataIssue], None]
    corrected: list[GradedReply] = field(default_factory=list)
    official: list[GradedReply] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    failures: list[WrongReply] = field(default_factory=list)
    issues: list[DataIssue] = field(default_factory=list)
    unanswered: int = 0
    not_asked: dict[str, int] = field(default_factory=dict)
    _crash: str = ''
    _official_lines: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, reply: Prediction) -> None:
        """Mark a reply by both sets of rules."""
        written, whole = reply.official_record, reply.merged_record
        theirs = rules_official.grade(written, self.coordinates, self.images)
        self.official.append(_make_graded(written, theirs.is_correct, theirs.answer is not None))
        self._crash = self._crash or theirs.crash or rules_official.find_write_error(written)
        self._official_lines.append({name: written[name] for name in FILE_FIELDS
                                     if name in written})
        if reply.fault:
            self.add_issue(DataIssue(f'{reply.where}: {reply.name}', reply.fault))
            return
        try:
            ours = rules_corrected.grade(whole, self.coordinates, self.images)
            other_size = rules_corrected.describe_size_mismatch(whole, self.images)
        except rules_corrected.InvalidItem as error:
            self.add_issue(DataIssue(f'{reply.where}: {reply.name}', f'{error}; it is left out of the '
                                 'corrected score'))
            return
        if other_size:
            self.add_issue(DataIssue(f'{reply.where}: {reply.name}', other_size))
        self.corrected.append(_make_graded(whole, ours.is_correct, ours.answer is not None))
        if not ours.is_correct and reply.item is not None:
            self.failures.append(WrongReply(reply.item, str(whole.get('assistant', '')), ours))
        found = difference(reply.name, whole, theirs, ours)
        if found is not None:
            self.differences.append(found)

    def add_issue(self, trouble: DataIssue) -> None:
        """Tell of something that is wrong, at once, and keep it."""
        self.issues.append(trouble)
        self.tell(trouble)

    def add_unanswered(self, items: Iterable[BenchItem], asked_types: set[str]) -> None:
        """Count items without a reply: wrong if their type was asked, else not asked."""
        for item in items:
            if item.type in asked_types:
                self.unanswered += 1
                self.corrected.append(GradedReply(item.type, item.level, False, False))
            else:
                self.count_not_asked(item.type)

    def count_not_asked(self, kind: str) -> None:
        """Count an item that whoever replied cannot be asked."""
        self.not_asked[kind] = self.not_asked.get(kind, 0) + 1

    @property
    def official_crash(self) -> str:
        """The error with which the authors' scripts end on all of this; '' if they do not."""
        return self._crash or next((trouble.ends_official for trouble in self.issues
                                    if trouble.ends_official), '') \
            or rules_official.find_file_crash(self._official_lines)

    def build_tables(self) -> tuple[AccuracyTable, AccuracyTable]:
        """Return the corrected score and the authors'."""
        return build_table(self.corrected), build_table(self.official)


def grade_file(path: Path, bench: CrossPointBench | None, coordinates: str,
         tell: Callable[[DataIssue], None]) -> Grader:
    """Mark a file of replies, and count the items of the benchmark that have none."""
    marking = Grader(bench.images if bench else Path(), coordinates, tell)
    for trouble in bench.issues if bench else ():
        marking.add_issue(replace(trouble, ends_official=''))  # they are given the replies alone
    answered, types = set[str](), set[str]()
    for reply in prefetch_masks(PredictionReader(path, bench)):
        if isinstance(reply, DataIssue):
            marking.add_issue(reply)
            continue
        marking.add(reply)
        if reply.item is not None:
            answered.add(reply.item.key)
            types.add(reply.item.type)
    if bench:
        marking.add_unanswered((i for i in bench.items if i.key not in answered), types)
    return marking


def prefetch_masks(replies: Iterable[Prediction | DataIssue]) -> Iterator[Prediction | DataIssue]:
    """Yield what is given, with the masks of the next ones being decoded in other threads."""
    waiting: deque[tuple[Prediction | DataIssue, Future[Any] | None]] = deque()
    with ThreadPoolExecutor() as pool:
        for reply in replies:
            mask = '' if isinstance(reply, DataIssue) else reply.merged_record.get('answer')
            long = isinstance(mask, str) and len(mask) > MAX_LETTER_LENGTH
            waiting.append((reply, pool.submit(decode_mask_official, mask) if long else None))
            if len(waiting) > PREFETCH:
                first, decoded = waiting.popleft()
                if decoded:
                    decoded.result()
                yield first
        yield from (reply for reply, _ in waiting)


def _make_graded(record: Mapping[str, Any], right: bool, answered: bool) -> GradedReply:
    kind, level = record.get('type', 'Unknown'), record.get('level', 'Unknown')
    return GradedReply(kind if kind in TYPES else str(kind), str(level), right, answered)


@dataclass(frozen=True)
class Accuracy:
    """Right answers of so many. no_answer: those of the wrong ones in which none could be read."""

    correct: int = 0
    total: int = 0
    no_answer: int = 0

    @property
    def share(self) -> float:
        """Right answers of 1; NaN where nothing was asked."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; NaN where nothing was asked."""
        return wilson_interval(self.correct, self.total)


@dataclass(frozen=True)
class GradedReply:
    """One reply, marked."""

    type: str
    level: str
    is_correct: bool
    has_answer: bool


@dataclass(frozen=True)
class AccuracyRow:
    """A line of a score: of all (type and level ''), of a type (level ''), or of a level of it."""

    type: str
    level: str
    accuracy: Accuracy


@dataclass(frozen=True)
class AccuracyTable:
    """The rows of a score: all first, then each type with its levels, by name."""

    rows: tuple[AccuracyRow, ...]

    @property
    def overall(self) -> Accuracy:
        """Every reply, one by one: types count by how many items they have, as the authors do."""
        return self.rows[0].accuracy

    def find(self, kind: str, level: str = '') -> Accuracy:
        """Return the tally of a type, or of a level of it."""
        return next((row.accuracy for row in self.rows
                     if (row.type, row.level) == (kind, level)), Accuracy())


def build_table(marked: Sequence[GradedReply]) -> AccuracyTable:
    """Add up what was marked."""
    rows = [AccuracyRow('', '', count_accuracy(marked))]
    for kind in sorted({each.type for each in marked}):
        of_type = [each for each in marked if each.type == kind]
        rows.append(AccuracyRow(kind, '', count_accuracy(of_type)))
        rows += [AccuracyRow(kind, level, count_accuracy(each for each in of_type if each.level == level))
                 for level in sorted({each.level for each in of_type})]
    return AccuracyTable(tuple(rows))


def count_accuracy(marked: Iterable[GradedReply]) -> Accuracy:
    """Count right answers, and replies without one."""
    listed = list(marked)
    return Accuracy(sum(each.is_correct for each in listed), len(listed),
                 sum(not each.has_answer for each in listed))
