"""Fast DDS's files in /dev/shm: what killed processes leave there takes room, or blocks others."""
from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import threading
import time
from pathlib import Path

FOLDER = Path('/dev/shm')
LOCK_NAME = re.compile(r'fast(?:dds|rtps)_[0-9a-f]{16}_el')
MIN_AGE_S = 10.0  # a process creates a segment just before it takes the lock
PORT_NAME = re.compile(r'fast(?:dds|rtps)_port\d+')
PORT_BYTES, CORRUPTED = 4096, 3  # boost::interprocess's managed_open_or_create_impl.hpp
MIN_PORT_AGE_S = 2.0  # creating one takes less than a millisecond
REPAIR_PERIOD_S = 1.0
REPAIR_THREAD = 'shared memory'


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
    for lock in [path for path in FOLDER.glob('fast*_el') if LOCK_NAME.fullmatch(path.name)]:
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


def repair_ports(min_age_s: float = MIN_PORT_AGE_S) -> int:
    """Remove the ports that a process began to create when it was killed; return how many.

    A camera or node that sends to such a port waits for its creator for ever. When the port is
    marked as corrupted they go on at once, and make a new one.
    """
    count = 0
    for path in FOLDER.glob('fast*_port*'):
        with contextlib.suppress(OSError):  # removed meanwhile, or another user's
            status = path.stat()
            if (PORT_NAME.fullmatch(path.name) and status.st_size == 0
                    and time.time() - status.st_mtime >= min_age_s):
                with path.open('r+b') as file:
                    file.write(struct.pack(f'<I{PORT_BYTES - 4}x', CORRUPTED))
                path.unlink()
                count += 1
    return count


def start_repairs() -> threading.Thread:
    """Repair ports every second, in a thread that ends with the process."""
    def repair() -> None:
        while True:
            repair_ports()
            time.sleep(REPAIR_PERIOD_S)

    thread = threading.Thread(target=repair, name=REPAIR_THREAD, daemon=True)
    thread.start()
    return thread


def _get_segment(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix('_el'))
