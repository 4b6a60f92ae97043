"""Counts the warnings of a command and prints the first of each kind."""
from __future__ import annotations

import logging
from collections import Counter
from logging.handlers import BufferingHandler
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
