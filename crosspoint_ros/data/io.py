"""What the data commands share: counted warnings, unique names, the state of input files."""
from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

PACKAGE_LOG = logging.getLogger('crosspoint_ros')


class WarningCounter(logging.Handler):
    """Collects the package's warnings, passing the first `limit` of each kind to its handlers.

    A context manager. A kind is a message without its arguments; equal lines count once.
    """

    def __init__(self, limit: int = 8) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._limit, self._kinds = limit, Counter[str]()
        self._outputs: list[logging.Handler] = []

    def __enter__(self) -> WarningCounter:
        self._outputs, PACKAGE_LOG.handlers = PACKAGE_LOG.handlers, [self]
        return self

    def __exit__(self, *exception: Any) -> None:
        PACKAGE_LOG.handlers = self._outputs
        for kind, number in self._kinds.items():
            if number > self._limit:
                PACKAGE_LOG.warning('%d more warnings of the kind: %s', number - self._limit, kind)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record, and pass it on while there are few of its kind."""
        if record.levelno >= logging.WARNING:
            line, kind = record.getMessage(), getattr(record, 'kind', str(record.msg))
            if line in self.lines:
                return
            self.lines.append(line)
            self._kinds[kind] += 1
            if self._kinds[kind] > self._limit:
                return
        for output in self._outputs:
            if record.levelno >= output.level:
                output.handle(record)

    @property
    def exit_code(self) -> int:
        """1 after any warning, otherwise 0."""
        return int(bool(self.lines))


class RecordCollector(BufferingHandler):
    """Keeps log records in a form that can be pickled, for another process to handle."""

    def emit(self, record: logging.LogRecord) -> None:
        """Format the message and drop what may not be pickled."""
        record.kind, record.msg, record.args = str(record.msg), record.getMessage(), None
        record.exc_info = None
        super().emit(record)


def abbreviate(value: Any) -> str:
    """Return the repr of a value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def assign_unique_names(names: Iterable[str]) -> Iterator[str]:
    """Yield each name, with a number if it was given before: one that no other has, or gets."""
    names = list(names)
    taken, given = set(names), set[str]()
    for name in names:
        number, unique = 1, name
        while unique in given or (number > 1 and unique in taken):
            number += 1
            unique = f'{name}_{number}'
        given.add(unique)
        yield unique


def describe_files(path: Path, without: Path | None = None) -> dict[str, str]:
    """Return size and time of change of a file, or of all in a folder by their names in it.

    Follows links. without: a folder to leave out. Hidden files are left out.
    """
    paths, seen = [path] if path.is_file() else [], set[str]()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (without and real == os.path.realpath(without)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        paths += [Path(folder, name) for name in sorted(names) if not name.startswith('.')]
    states = {}
    for each in paths:
        try:
            state = each.stat()
        except OSError as error:  # a broken link: unusable before and after
            states[str(each.relative_to(path))] = str(error.strerror)
        else:
            states[str(each.relative_to(path))] = f'{state.st_size} bytes at {state.st_mtime_ns} ns'
    return states


def read_version() -> str:
    """Return the version of this package, '' if it is not installed."""
    try:
        return metadata.version('crosspoint_ros')
    except metadata.PackageNotFoundError:
        return ''
