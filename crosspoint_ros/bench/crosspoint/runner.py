"""Asking the items, some at once; every reply is on the disk before the next is asked."""
from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from crosspoint_ros.bench.crosspoint.backends import Answerer, NotAsked, Said
from crosspoint_ros.bench.crosspoint.dataset import CrossPointBench, BenchItem, DataIssue, iter_records
from crosspoint_ros.bench.crosspoint.failures import UnreadableImage, read_image
from crosspoint_ros.bench.crosspoint.predictions import SOURCE, KEY
from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.matchers.cropond.server.errors import ServerError

SHOW_EVERY_S = 0.5
# How every line begins that is written here.
BEGUN = b'{"'
MOST_FAILED_AT_FIRST, MOST_SILENT = 5, 20


class Kept:
    """The file of raw replies: a line an item, whole or not there. One process at a time."""

    def __init__(self, path: Path, asked: str) -> None:
        """Open it, and take off what a kill has left of a last line.

        asked: who replies. Raises ValueError for a file of somebody else's, or one in use.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._asked = path, asked
        self._file = path.open('ab', buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.keys = self._known()
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f'{path}: another run is writing it: end that, or give --replies '
                             'another file') from error
        except (OSError, ValueError):
            self._file.close()
            raise

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, item: BenchItem, said: Said, took_s: float) -> None:
        """Write a reply to the disk. Raises OSError if that is full, and leaves no half line."""
        line = {**item.record, 'assistant': said.text, 'prompt': said.prompt, KEY: item.key,
                SOURCE: self._asked, 'refused': said.refused, 'took_s': round(took_s, 3)}
        end = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(json.dumps(line).encode() + b'\n')
            while left:
                left = left[self._file.write(left):]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self._path, end)
            raise OSError(error.errno, f'{error.strerror}: the reply to {item.name} is lost; '
                          f'{self.told}') from error
        self.keys.add(item.key)

    @property
    def told(self) -> str:
        """How many replies there are, and how to go on."""
        return f'{len(self.keys)} replies are kept in {self._path}: the same command goes on'

    def _known(self) -> set[str]:
        """Read whose replies are there; cut off a torn last line, of a file of our own alone."""
        content = self._path.read_bytes()
        lines, whole = content.count(b'\n'), content.rfind(b'\n') + 1
        found = set()
        for line, record in iter_records(self._path):
            torn = line > lines
            if isinstance(record, DataIssue):
                if torn and content[whole:].startswith(BEGUN[:len(content) - whole]):
                    continue
                raise ValueError(f'{record}: take the line out, or begin another file')
            if record.get(SOURCE) != self._asked:
                raise ValueError(f'{self._path.name}:{line} is a reply of {record.get(SOURCE)!r}, '
                                 f'not of {self._asked!r}: give each its own --replies')
            if not torn:
                found.add(str(record.get(KEY)))
        os.truncate(self._path, whole)
        return found


@dataclass(frozen=True)
class Ran:
    """What came of a run. not_asked: with the reason of each. failed: to be asked again."""

    asked: int
    known: int
    not_asked: tuple[tuple[BenchItem, str], ...]
    bad: tuple[tuple[BenchItem, DataIssue], ...]
    failed: tuple[DataIssue, ...]


def ask_all(bench: CrossPointBench, items: Sequence[BenchItem], answerer: Answerer, kept: Kept, at_once: int,
            tell: Callable[[DataIssue], None]) -> Ran:
    """Ask every item that has no reply yet, at most `at_once` at a time.

    Raises ValueError where nobody replies any more, as `Patience` says.
    """
    todo, not_asked = _askable(items, answerer)
    waiting = [item for item in todo if item.key not in kept.keys]
    bad: list[tuple[BenchItem, DataIssue]] = []
    failed: list[DataIssue] = []
    patience, progress = Patience(not kept.keys), Progress(len(waiting))
    for item, future, took_s in _in_turn(bench, waiting, answerer, at_once):
        error = future.exception()
        progress.step()
        if error is None:
            kept.add(item, future.result(), took_s)
            patience.replied()
            continue
        trouble = _trouble(item, error)
        tell(trouble)
        if isinstance(error, UnreadableImage):
            bad.append((item, trouble))
            continue
        failed.append(trouble)
        if ended := patience.failed(error):
            raise ValueError(f'{ended}; {kept.told}')
    progress.end()
    return Ran(len(waiting) - len(bad) - len(failed), len(todo) - len(waiting), not_asked,
               tuple(bad), tuple(failed))


@dataclass
class Patience:
    """When to end: all of the first five items of a new file failed, or the server is gone.

    Items that can never be asked must not keep a later run from the others.
    """

    at_first: bool
    failures: int = 0
    silent: int = 0

    def replied(self) -> None:
        """Note a reply."""
        self.at_first, self.silent = False, 0

    def failed(self, error: BaseException) -> str:
        """Note a failure; return why it is no use to go on, '' if it is."""
        self.failures += 1
        self.silent += isinstance(error, ServerError) and not error.status
        if self.at_first and self.failures == MOST_FAILED_AT_FIRST:
            return f'the first {self.failures} items all failed'
        if self.silent == MOST_SILENT:
            return f'{self.silent} items in a row came to no server'
        return ''


def _askable(items: Sequence[BenchItem], answerer: Answerer
             ) -> tuple[list[BenchItem], tuple[tuple[BenchItem, str], ...]]:
    """Return the items that can be asked, and the others with the reason."""
    todo, not_asked = [], []
    for item in items:
        try:
            answerer.check(item)
        except NotAsked as reason:
            not_asked.append((item, str(reason)))
        else:
            todo.append(item)
    return todo, tuple(not_asked)


def _trouble(item: BenchItem, error: BaseException) -> DataIssue:
    """Word what happened to one item; the rest goes on, but for what is no ordinary error."""
    where = f'{item.name} ({item.type})'
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, UnreadableImage):
        return DataIssue(where, f'{error}; it is left out')
    told = error.message if isinstance(error, Rejected) else repr(error)
    return DataIssue(where, f'no reply: {told}; run again to ask it')


def _in_turn(bench: CrossPointBench, items: Sequence[BenchItem], answerer: Answerer, at_once: int
             ) -> Iterator[tuple[BenchItem, Future[Said], float]]:
    """Yield items as they are done; no more than `at_once` are under way."""
    def one(item: BenchItem) -> Said:
        return answerer.answer(item, [read_image(bench.images, name) for name in item.images])

    pool = ThreadPoolExecutor(at_once)
    begun: dict[Future[Said], tuple[BenchItem, float]] = {}
    left = iter(items)
    try:
        while True:
            for item in left:
                begun[pool.submit(one, item)] = (item, time.monotonic())
                if len(begun) == at_once:
                    break
            if not begun:
                return
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                item, begun_s = begun.pop(future)
                yield item, future, time.monotonic() - begun_s
    except KeyboardInterrupt:
        before = signal.signal(signal.SIGINT, _leave)  # ahead of the words that promise it
        try:
            print(f'\nending when the {len(begun)} under way are done; Ctrl-C again: at once',
                  file=sys.stderr)
            pool.shutdown(cancel_futures=True)
        finally:
            signal.signal(signal.SIGINT, before)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _leave(number: int, frame: object) -> None:
    """End without waiting for the replies under way, as a kill would: that harms nothing."""
    sys.stdout.flush()
    os._exit(128 + number)


class Progress:
    """A bar with the time left on stderr, where that is a terminal; else a line now and then."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._begun_s = self._shown_s = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def step(self) -> None:
        """Count one more."""
        self.done += 1
        now_s = time.monotonic()
        if now_s - self._shown_s >= (SHOW_EVERY_S if self._terminal else 60 * SHOW_EVERY_S):
            self._shown_s = now_s
            print(f'\r{self.line()}' if self._terminal else self.line(), file=sys.stderr,
                  end='' if self._terminal else '\n', flush=True)

    def end(self) -> None:
        """Leave the last state on a line of its own."""
        if self.total:
            print(f'\r{self.line()}' if self._terminal else self.line(), file=sys.stderr)

    def line(self) -> str:
        """Say how much is done, and how long the rest will take at this pace."""
        spent_s = time.monotonic() - self._begun_s
        left_s = spent_s / self.done * (self.total - self.done) if self.done else 0.0
        bar = '#' * round(30 * self.done / self.total)
        return (f'[{bar:30}] {self.done} of {self.total}, {_clock(spent_s)} gone, '
                f'{_clock(left_s)} left')


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'
