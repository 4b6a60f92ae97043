"""Tells at once what is wrong with what was given, and remembers it: the exit code hangs on it."""
from __future__ import annotations

import sys


class Saying:
    """What a command has told; call it with one more line."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Tell it, unless it was told."""
        if line not in self.lines:
            self.lines.append(line)
            print(f'crosspoint {self._command}: {line}', file=sys.stderr)

    @property
    def exit_code(self) -> int:
        """1 if anything was told."""
        return int(bool(self.lines))
