"""Grades predictions by the authors' rules and by the corrected ones."""
from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crosspoint_ros.bench.crosspoint import dataset, rules_corrected, rules_official
from crosspoint_ros.bench.crosspoint.dataset import BenchItem, CrossPointBench, DataIssue
from crosspoint_ros.bench.crosspoint.predictions import FAILED, SOURCE, Prediction, PredictionReader
from crosspoint_ros.bench.pairs.metrics import wilson_interval
from crosspoint_ros.matchers.cropond.reply_parser import DIALECTS

log = logging.getLogger(__name__)
PREFETCH = 32
# How many points are graded in other conventions, and what makes another far better.
MAX_COMPARED, MIN_REPLIES, MIN_SIGMAS, MIN_GAIN = 300, 4, 2.0, 0.2
OUTCOMES = {'failed': 'no reply of the server or matcher', 'cut off': 'at the limit of tokens',
            'refused': 'by the matcher or a filter', 'unread': 'words without one answer'}
FILE_FIELDS = ('idx', 'type', 'level')


@dataclass(frozen=True)
class Accuracy:
    """Correct answers of a total. no_answer: the wrong ones that contain no answer."""

    correct: int = 0
    total: int = 0
    no_answer: int = 0

    @property
    def share(self) -> float:
        """Correct answers, 0..1; NaN of none."""
        return self.correct / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; NaN of none."""
        return wilson_interval(self.correct, self.total)


class AccuracyTable:
    """Counts graded replies: all of them (), by type (type,), and by (type, level)."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], Accuracy] = {(): Accuracy()}

    def add(self, record: Mapping[str, Any], is_correct: bool, has_answer: bool) -> None:
        """Count the reply of a record; every one counts alike, as in the authors' score."""
        kind, level = (str(record.get(name, 'Unknown')) for name in ('type', 'level'))
        for key in ((), (kind,), (kind, level)):
            before = self._counts.get(key, Accuracy())
            self._counts[key] = Accuracy(before.correct + is_correct, before.total + 1,
                                         before.no_answer + (not has_answer))

    @property
    def rows(self) -> list[tuple[tuple[str, ...], Accuracy]]:
        """All replies, then each type followed by its levels, by name."""
        return sorted(self._counts.items(), key=lambda row: row[0])

    @property
    def overall(self) -> Accuracy:
        """The accuracy of all replies."""
        return self._counts[()]


@dataclass
class AnswerCheck:
    """Finds faults of a model, or of the chosen coordinates, in its replies as a whole.

    read: replies with words, and those of them with an answer, by whether it is a point. unread:
    the first without. gains: replies that are right in one convention alone, minus those that are
    right in the chosen one alone; and the sum of both.
    """

    read: dict[bool, list[int]] = field(default_factory=lambda: {False: [0, 0], True: [0, 0]})
    unread: dict[bool, str] = field(default_factory=dict)
    points: set[tuple[float, float]] = field(default_factory=set)
    pixels: set[tuple[int, int]] = field(default_factory=set)
    gains: dict[str, list[int]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any], verdict: rules_corrected.CorrectedVerdict,
            coordinates: str, images: Path) -> None:
        """Count a graded reply."""
        is_point, reply = record.get('type') in dataset.COORDINATE_TYPES, record.get('assistant')
        if not isinstance(reply, str) or not reply.strip():
            return
        self.read[is_point][0] += 1
        if verdict.answer is None:
            self.unread.setdefault(is_point, reply)
            return
        self.read[is_point][1] += 1
        if not isinstance(verdict.answer, tuple) or verdict.pixel is None:
            return
        self.points.add(verdict.answer)
        self.pixels.add(verdict.pixel)
        if self.read[True][1] > MAX_COMPARED:
            return
        for name in set(rules_corrected.COORDINATES) - {coordinates}:
            other = rules_corrected.grade(record, name, images).is_correct
            gain = self.gains.setdefault(name, [0, 0])
            gain[0] += other - verdict.is_correct
            gain[1] += other != verdict.is_correct

    def list_faults(self) -> list[str]:
        """Describe what is wrong with all replies alike; empty if nothing is."""
        faults = []
        for is_point, (replies, read) in self.read.items():
            if replies >= MIN_REPLIES and not read:
                faults.append(f'no {"point" if is_point else "letter"} was read in any of '
                              f'{replies} replies; the first: '
                              f'{dataset.abbreviate(self.unread[is_point])}')
        read = self.read[True][1]
        compared = min(read, MAX_COMPARED)
        name, (gain, differing) = max(self.gains.items(), key=lambda each: each[1],
                                      default=('', [0, 0]))
        if gain > MIN_SIGMAS * math.sqrt(differing) and gain >= MIN_GAIN * compared:
            writers = next((f', as {d.writers.partition(":")[0]}' for d in DIALECTS
                            if d.coordinates == name), '')
            faults.append(f'--coordinates {name} makes {gain} more of {compared} points right: '
                          f'does the model write {name}{writers}?')
        elif read >= MIN_REPLIES and 1 in (len(self.points), len(self.pixels)):
            point = next(iter(self.points if len(self.points) == 1 else self.pixels))
            faults.append(f'all {read} points are the same one, {point}: does the model get the '
                          'images?')
        return faults


@dataclass(frozen=True, eq=False)
class WrongReply:
    """A reply that is wrong by the corrected rules."""

    item: BenchItem
    reply: str
    verdict: rules_corrected.CorrectedVerdict


@dataclass(frozen=True)
class ItemResult:
    """The grade of the line of one item. took_s, tokens: of a reply, NaN and 0 if unknown."""

    kind: str
    level: str
    corrected: bool
    official: bool
    took_s: float
    tokens: int


@dataclass
class Grader:
    """The grades of a file of predictions; `add` grades one more.

    differences: idx of the replies on whose answer or grade the two sets of rules differ.
    no_answer: replies without an answer, by what happened, in OUTCOMES. unanswered: items without
    a line, of a type that was asked: wrong by the corrected rules.
    """

    images: Path
    coordinates: str
    corrected: AccuracyTable = field(default_factory=AccuracyTable)
    official: AccuracyTable = field(default_factory=AccuracyTable)
    differences: list[int | str] = field(default_factory=list)
    failures: list[WrongReply] = field(default_factory=list)
    issues: list[DataIssue] = field(default_factory=list)
    check: AnswerCheck = field(default_factory=AnswerCheck)
    no_answer: dict[str, int] = field(default_factory=dict)
    results: dict[str, ItemResult] = field(default_factory=dict)
    unanswered: int = 0
    not_asked: Counter[str] = field(default_factory=Counter)
    notice: str = ''
    _crash: str = ''
    _official_lines: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        """Grade a prediction by both sets of rules."""
        written, merged = prediction.official_record, prediction.merged_record
        theirs = rules_official.grade(written, self.official_coordinates, self.images)
        self.official.add(written, theirs.is_correct, theirs.answer is not None)
        self._crash = self._crash or theirs.crash or rules_official.find_write_error(written)
        self._official_lines.append({k: written[k] for k in FILE_FIELDS if k in written})
        where = f'{prediction.where}: {prediction.name}'
        if reason := written.get(FAILED):
            self.issues.append(DataIssue(where, str(reason)))  # logged when it happened
        if prediction.fault:
            self.add_issue(DataIssue(where, prediction.fault))
            return
        try:
            ours = rules_corrected.grade(merged, self.coordinates, self.images)
            mismatch = rules_corrected.describe_size_mismatch(merged, self.images)
        except rules_corrected.InvalidItem as error:
            self.add_issue(DataIssue(where, f'{error}; it is left out of the corrected score'))
            return
        if mismatch:
            self.add_issue(DataIssue(where, mismatch))
        self.corrected.add(merged, ours.is_correct, ours.answer is not None)
        self.check.add(merged, ours, self.coordinates, self.images)
        if prediction.item:
            self.results[prediction.item.key] = ItemResult(
                prediction.item.type, prediction.item.level, ours.is_correct, theirs.is_correct,
                _read_number(merged, 'took_s', math.nan), int(_read_number(merged, 'tokens', 0)))
        if ours.answer is None:
            outcome = classify_outcome(merged)
            self.no_answer[outcome] = self.no_answer.get(outcome, 0) + 1
        if not ours.is_correct and prediction.item:
            reply = str(merged.get('assistant', ''))
            self.failures.append(WrongReply(prediction.item, reply, ours))
        if (theirs.answer, theirs.is_correct, theirs.crash) != (ours.answer, ours.is_correct, ''):
            idx = merged.get('idx')
            self.differences.append(idx if type(idx) is int else dataset.format_idx(idx))

    def add_issue(self, issue: DataIssue) -> None:
        """Record something that is wrong with the data, and log it."""
        self.issues.append(issue)
        log.warning('%s', issue)

    def add_unanswered(self, items: Iterable[BenchItem], asked_types: set[str]) -> None:
        """Count items without a reply: wrong if their type was asked, else not asked."""
        for item in items:
            if item.type not in asked_types:
                self.not_asked[item.type] += 1
                continue
            self.unanswered += 1
            self.corrected.add(item.record, False, False)

    @property
    def official_coordinates(self) -> str:
        """The coordinates given to the authors' scripts: their default for what they lack."""
        known = self.coordinates in rules_official.COORDINATES
        return self.coordinates if known else rules_official.COORDINATES[0]

    @property
    def official_crash(self) -> str:
        """The error that ends the authors' scripts on these replies; '' if none does."""
        return next(filter(None, (self._crash, *(issue.ends_official for issue in self.issues))),
                    '') or rules_official.find_file_crash(self._official_lines)


def classify_outcome(record: Mapping[str, Any]) -> str:
    """Return why a line of replies has no answer, one of OUTCOMES."""
    if record.get('finish') == 'length':
        return 'cut off'
    if record.get('refused'):
        return 'refused'
    return 'failed' if record.get(FAILED) else 'unread'


def grade_file(path: Path, bench: CrossPointBench | None, coordinates: str,
               items: Sequence[BenchItem] | None = None) -> Grader:
    """Grade a file of predictions, all of them.

    An item of the benchmark (or of `items`) without a line is wrong, if its type was asked; in a
    file of `bench crosspoint`, which has a line for each item that was asked, it was not asked.
    """
    grader = Grader(bench.images if bench else Path(), coordinates)
    for issue in bench.issues if bench else ():
        grader.add_issue(replace(issue, ends_official=''))  # their scripts read the replies alone
    answered: dict[str, str] = {}
    is_own_file = True
    for prediction in prefetch_masks(tqdm(PredictionReader(path, bench), unit='reply',
                                          disable=None)):
        if isinstance(prediction, DataIssue):
            grader.add_issue(prediction)
            continue
        grader.add(prediction)
        is_own_file = is_own_file and SOURCE in prediction.raw
        if prediction.item is not None:
            answered[prediction.item.key] = prediction.item.type
    if bench:
        grader.add_unanswered((item for item in (bench.items if items is None else items)
                               if item.key not in answered),
                              set() if is_own_file else set(answered.values()))
    return grader


def _read_number(record: Mapping[str, Any], name: str, missing: float) -> float:
    """Return a number of a record, which may be of another program."""
    value = record.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else missing


def prefetch_masks(predictions: Iterable[Prediction | DataIssue]
                   ) -> Iterator[Prediction | DataIssue]:
    """Yield predictions while threads decode the masks of the next ones."""
    waiting: deque[tuple[Prediction | DataIssue, Future[Any]]] = deque()
    with ThreadPoolExecutor() as pool:
        for prediction in predictions:
            mask = None if isinstance(prediction, DataIssue) else \
                prediction.merged_record.get('answer')
            waiting.append((prediction, pool.submit(dataset.decode_mask_official, str(mask or ''))))
            if len(waiting) > PREFETCH:
                first, decoded = waiting.popleft()
                decoded.result()
                yield first
        yield from (prediction for prediction, _ in waiting)
