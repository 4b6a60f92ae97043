"""Free memory of a device, and errors that state what a model needs."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

GB = 1e9
MEMINFO = Path('/proc/meminfo')
CGROUP = Path('/sys/fs/cgroup')  # a container's limit: beyond it the process is killed
OUT_OF_MEMORY_MESSAGES = ('out of memory', 'not enough memory', 'allocate memory')
CURE = 'end other programs, choose a smaller model, or cropond.weights: 4bit'


def get_free_bytes(device: str) -> int:
    """Return the free memory of 'cuda' or 'cpu'."""
    if device == 'cuda' and not torch.cuda.get_device_properties(0).is_integrated:
        torch.cuda.empty_cache()  # PyTorch's cache counts as used
        return int(torch.cuda.mem_get_info()[0])
    # A Jetson's GPU shares the machine's memory, and CUDA counts the file cache as used.
    limits = (get_machine_free_bytes(), get_container_free_bytes())
    return min(limit for limit in limits if limit is not None)


def get_machine_free_bytes() -> int:
    for line in MEMINFO.read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise OSError(f'{MEMINFO} does not report the available memory')


def get_container_free_bytes() -> int | None:
    """Return what is left of a container's limit; None without one."""
    try:
        limit = (CGROUP / 'memory.max').read_text().strip()
        used = int((CGROUP / 'memory.current').read_text())
        stat = dict(line.split() for line in (CGROUP / 'memory.stat').read_text().splitlines())
    except OSError:
        return None
    if limit == 'max':
        return None
    return max(int(limit) - used + int(stat.get('inactive_file', 0)), 0)


def check_memory(name: str, required_bytes: int, device: str) -> None:
    """Raise MemoryError if less is free than a model needs."""
    if required_bytes > get_free_bytes(device):
        raise MemoryError(f'{describe_shortage(name, required_bytes, device)}; {CURE}')


@contextmanager
def explain_memory_errors(name: str, required_bytes: int, device: str) -> Iterator[None]:
    """Turn any out-of-memory error into a MemoryError with required and free memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) \
                and not any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES):
            raise
        first = str(error).strip().split('\n')[0]
        raise MemoryError(f'{describe_shortage(name, required_bytes, device)}; {CURE} ({first})'
                          ) from error


def describe_shortage(name: str, required_bytes: int, device: str) -> str:
    return (f'{name} needs about {required_bytes / GB:.1f} GB on {device}, '
            f'{get_free_bytes(device) / GB:.1f} GB are free')
