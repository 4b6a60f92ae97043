"""Runs items on a backend concurrently; every reply is on disk before the next item starts."""
from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crosspoint_ros.bench.crosspoint import dataset
from crosspoint_ros.bench.crosspoint.backends import AnswerBackend, ModelReply
from crosspoint_ros.bench.crosspoint.dataset import BenchItem, CrossPointBench, DataIssue
from crosspoint_ros.bench.crosspoint.failures import UnreadableImage, read_item_image
from crosspoint_ros.bench.crosspoint.predictions import FAILED, IMAGE_HASH, KEY, SOURCE, STATE
from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.matchers.cropond.server.errors import REQUEST_STATUSES, ServerError

log = logging.getLogger(__name__)
LINE_START = b'{"'  # of every line that is written here
MAX_FIRST_FAILURES, MAX_UNREACHABLE = 5, 20


class PredictionFile:
    """The file of raw replies, one complete line per item, locked for one process."""

    def __init__(self, path: Path, source: str, state: str = '') -> None:
        """Open the file, and cut off an incomplete last line.

        source: the name of the backend; state: its version and files. Raises ValueError if the
        file belongs to another backend or state, or is in use.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._source, self._state = path, source, state
        self._file = path.open('ab', buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.keys = self._read_keys()  # of the images and the prompt, by item
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f'{path}: another run is writing it; end that run, or choose another '
                             'file with --replies') from error
        except (OSError, ValueError):
            self._file.close()
            raise

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, item: BenchItem, reply: ModelReply, took_s: float, images: str = '') -> None:
        """Write a reply to disk. Raises OSError if the disk is full, leaving complete lines.

        images: the hash of the item's images.
        """
        self._write(item, {
            'assistant': reply.text, 'prompt': reply.prompt, IMAGE_HASH: images,
            'refused': reply.refusal, 'took_s': round(took_s, 3), 'finish': reply.finish,
            'tokens': reply.tokens})
        self.keys[item.key] = images

    def add_failure(self, item: BenchItem, reason: str, **about: str) -> None:
        """Write that an item has no reply, until a later one; about: fields of a useless one."""
        self._write(item, {'assistant': '', FAILED: reason, **about})

    def _write(self, item: BenchItem, fields: dict[str, Any]) -> None:
        line = {**item.record, **fields, KEY: item.key, SOURCE: self._source, STATE: self._state}
        end = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(json.dumps(line).encode() + b'\n')
            while left:
                left = left[self._file.write(left):]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self._path, end)
            raise OSError(error.errno, f'{error.strerror}: the reply to {item.name} is lost; '
                          f'{self.resume_hint}') from error

    def check_images(self, items: Sequence[BenchItem], hash_image: Callable[[str], str]) -> None:
        """Raise ValueError if replies are to other images than the items have now."""
        changed = [item for item in items
                   if self.keys.get(item.key, known := join_hashes(item, hash_image)) != known]
        if changed:
            raise ValueError(
                f'{self._path.name} has replies to other images: {changed[0].name} '
                f'({", ".join(changed[0].images)}) and {len(changed) - 1} more; restore the '
                'images, or choose another file with --replies')

    @property
    def resume_hint(self) -> str:
        """The number of replies, and how to resume."""
        return f'{len(self.keys)} replies are in {self._path}; the same command resumes'

    def _read_keys(self) -> dict[str, str]:
        """Return the images' hash of each reply; cut off an incomplete last line, if it is ours."""
        content = self._path.read_bytes()
        lines, whole = content.count(b'\n'), content.rfind(b'\n') + 1
        keys = {}
        for line, record in dataset.iter_records(self._path):
            torn = line > lines
            if isinstance(record, DataIssue):
                if torn and content[whole:].startswith(LINE_START[:len(content) - whole]):
                    continue
                raise ValueError(f'{record}; delete the line, or choose another file')
            if record.get(SOURCE) != self._source:
                raise ValueError(f'{self._path.name}:{line} is a reply of {record.get(SOURCE)!r}, '
                                 f'not of {self._source!r}; choose another file with --replies')
            if (state := record.get(STATE)) != self._state:
                raise ValueError(f'{self._path.name}:{line} is a reply of other files or of '
                                 f'another version ({state!r}, now {self._state!r}); choose '
                                 'another file with --replies')
            if not torn and not record.get(FAILED):
                keys[str(record.get(KEY))] = str(record.get(IMAGE_HASH))
        os.truncate(self._path, whole)
        return keys


@dataclass(frozen=True)
class RunSummary:
    """The items of a run. failed: asked again by the next run. stopped: why it ended early."""

    asked: int
    reused: int
    not_asked: list[BenchItem]
    unreadable: list[DataIssue]
    failed: list[DataIssue]
    stopped: str = ''


def run_items(bench: CrossPointBench, items: Sequence[BenchItem], backend: AnswerBackend,
              predictions: PredictionFile, at_once: int) -> RunSummary:
    """Ask every item that has no reply yet, at most `at_once` at a time, up to `FailureLimit`.

    Raises ValueError if a reply is to other images.
    """
    supported = [item for item in items if backend.can_answer(item)]
    hash_images = cache(partial(_hash_image, bench.images))
    predictions.check_images(supported, hash_images)
    waiting = [item for item in supported if item.key not in predictions.keys]
    unreadable: list[DataIssue] = []
    failed: list[DataIssue] = []
    limit, stopped = FailureLimit(not predictions.keys), ''
    asked, useless = 0, UselessReplies(predictions)
    for item, future, took_s in tqdm(_answer_concurrently(bench, waiting, backend, at_once),
                                     total=len(waiting), unit='item', disable=None):
        error = future.exception()
        if error is None:
            reply = future.result()
            line = (item, reply, took_s, join_hashes(item, hash_images))
            asked += 1
            if reply.is_usable:
                useless.flush()
                predictions.add(*line)
                limit.on_reply()
                continue
            useless.lines.append(line)
            if stopped := limit.on_failure(None):
                break
            continue
        issue = _make_issue(item, error)
        log.warning('%s', issue)
        if isinstance(error, UnreadableImage):
            unreadable.append(issue)
            continue
        failed.append(issue)
        predictions.add_failure(item, issue.what)
        if stopped := limit.on_failure(error):
            break
    if not stopped:
        useless.flush()
    asked -= len(useless.lines)
    failed += useless.fail()
    return RunSummary(asked, len(supported) - len(waiting),
                      [item for item in items if not backend.can_answer(item)], unreadable, failed,
                      stopped)


class UselessReplies:
    """Replies in a row without an answer: failures, to be asked again, if the run ends by them."""

    def __init__(self, predictions: PredictionFile) -> None:
        self._predictions = predictions
        self.lines: list[tuple[BenchItem, ModelReply, float, str]] = []

    def flush(self) -> None:
        """Write them as replies: the model has none, and the server works."""
        for line in self.lines:
            self._predictions.add(*line)
        self.lines.clear()

    def fail(self) -> list[DataIssue]:
        """Write that the items have no reply."""
        issues = []
        for item, reply, *_ in self.lines:
            issues.append(DataIssue(f'{item.name} ({item.type})', 'no reply: it has no answer '
                                    f'({reply.refusal or reply.finish or "no text"}); run again '
                                    'to ask it'))
            self._predictions.add_failure(item, issues[-1].what, finish=reply.finish,
                                          refused=reply.refusal)
        self.lines.clear()
        return issues


def join_hashes(item: BenchItem, hash_image: Callable[[str], str]) -> str:
    """Return the beginnings of the hashes of an item's images."""
    return ' '.join(hash_image(name) for name in item.images)


def _hash_image(folder: Path, name: str) -> str:
    try:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
    except (OSError, ValueError):
        return 'unreadable'


@dataclass
class FailureLimit:
    """Ends a run whose first five items bring nothing, or whose server is gone or brings nothing.

    A file that has replies is exempt from the first rule: items that always fail must not keep a
    later run from the others.
    """

    at_first: bool
    failures: int = 0
    in_a_row: int = 0

    def on_reply(self) -> None:
        """Count a reply."""
        self.at_first, self.in_a_row = False, 0

    def on_failure(self, error: BaseException | None) -> str:
        """Count a failure, or without an error a reply without an answer.

        Returns why the run ends, '' if it goes on.
        """
        self.failures += 1
        self.in_a_row += error is None or (isinstance(error, ServerError)
                                           and error.status not in REQUEST_STATUSES)
        if self.at_first and self.failures == MAX_FIRST_FAILURES:
            return f'the first {self.failures} items all failed' if error else \
                f'the first {self.failures} items have no usable reply'
        if self.in_a_row == MAX_UNREACHABLE:
            is_gone = isinstance(error, ServerError) and not error.status
            return f'{self.in_a_row} items in a row ' + (
                'did not reach the server' if is_gone else 'have no usable reply')
        return ''


def _make_issue(item: BenchItem, error: BaseException) -> DataIssue:
    """Describe the failure of one item; what is not an Exception is raised again."""
    where = f'{item.name} ({item.type})'
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, UnreadableImage):
        return DataIssue(where, f'{error}; it is left out')
    message = error.message if isinstance(error, Rejected) else repr(error)
    return DataIssue(where, f'no reply: {message}; run again to ask it')


def _answer_concurrently(bench: CrossPointBench, items: Sequence[BenchItem],
                         backend: AnswerBackend, at_once: int
                         ) -> Iterator[tuple[BenchItem, Future[ModelReply], float]]:
    """Yield items as they are done, at most `at_once` in progress."""
    def answer(item: BenchItem) -> ModelReply:
        return backend.answer(item, [read_item_image(bench.images, name) for name in item.images])

    pool = ThreadPoolExecutor(at_once)
    in_progress: dict[Future[ModelReply], tuple[BenchItem, float]] = {}
    remaining = iter(items)
    try:
        while True:
            for item in remaining:
                in_progress[pool.submit(answer, item)] = (item, time.monotonic())
                if len(in_progress) == at_once:
                    break
            if not in_progress:
                return
            for future in wait(in_progress, return_when=FIRST_COMPLETED).done:
                item, begun_s = in_progress.pop(future)
                yield item, future, time.monotonic() - begun_s
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, _exit_now)  # before the message that promises it
        try:
            log.warning('waiting for the %d items in progress; Ctrl-C again quits at once',
                        len(in_progress))
            pool.shutdown(cancel_futures=True)
        finally:
            signal.signal(signal.SIGINT, before)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _exit_now(number: int, _frame: object) -> None:
    """Exit without waiting for the replies in progress; nothing but those is lost."""
    sys.stdout.flush()
    os._exit(128 + number)
