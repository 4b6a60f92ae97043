"""Fast DDS's segments in /dev/shm: those of killed processes stay there, 68 MB each."""
from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

FOLDER = Path('/dev/shm')
LOCK_NAME = re.compile(r'fast(?:dds|rtps)_[0-9a-f]{16}_el')
MIN_AGE_S = 10.0  # a process creates a segment just before it takes the lock


def list_segments(pid: int) -> set[Path]:
    """Return the segments of a process, whose locks it holds open."""
    opened = set()
    for descriptor in Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            opened.add(descriptor.readlink())
    return {_get_segment(path) for path in opened
            if path.parent == FOLDER and LOCK_NAME.fullmatch(path.name)}


def remove_dead_segments(min_age_s: float = MIN_AGE_S) -> int:
    """Remove the segments whose process was killed; return how many bytes that freed.

    As `fastdds shm clean` does: a process locks `<segment>_el` for as long as it lives. Segments of
    other users, and those younger than min_age_s, are left alone.
    """
    freed = 0
    for lock in _list_locks():
        with contextlib.suppress(OSError), lock.open() as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < min_age_s:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while its process lives
            segment = _get_segment(lock)
            if segment.exists():
                size = segment.stat().st_size
                segment.unlink()
                freed += size
            lock.unlink()
    return freed


def _list_locks() -> list[Path]:
    return [path for path in FOLDER.glob('fast*_el') if LOCK_NAME.fullmatch(path.name)]


def _get_segment(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix('_el'))
