"""Writes a file so that it is whole or absent, whoever is killed and however full the disk is."""
from __future__ import annotations

import errno
import os
import sys
import uuid
from pathlib import Path


def atomic_write(path: Path, data: bytes,
                cure: str = 'free some space, and the same command goes on') -> None:
    """Write it beside its place, and move it there. Raises OSError, naming the file.

    cure: what to do about a full disk, told with it.
    """
    # Threads of one process may write the same file.
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        told = f'; {cure}' if error.errno == errno.ENOSPC else ''
        raise OSError(error.errno, f'{error.strerror}: {path} is not written{told}') from error
    finally:
        part.unlink(missing_ok=True)


class WarningCounter:
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
