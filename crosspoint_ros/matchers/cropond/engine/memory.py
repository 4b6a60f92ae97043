"""How much memory is free on a device, and what to say when a model has too little."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

GB = 1e9
MEMINFO = Path('/proc/meminfo')
# What a container may take: less than the machine has, and beyond it the process is killed.
CGROUP = Path('/sys/fs/cgroup')
OUT_OF_MEMORY_MESSAGES = ('out of memory', 'not enough memory', 'allocate memory')
CURE = 'end other programs, choose a smaller model, or cropond.weights: 4bit'


def get_free_bytes(device: str) -> int:
    """How much memory is free there."""
    if device == 'cuda' and not torch.cuda.get_device_properties(0).is_integrated:
        torch.cuda.empty_cache()  # what PyTorch keeps for later counts as taken
        return int(torch.cuda.mem_get_info()[0])
    # A Jetson's GPU has no memory of its own, and CUDA counts what files are cached in as taken.
    container_free = get_container_free_bytes()
    return get_machine_free_bytes() if container_free is None else min(get_machine_free_bytes(), container_free)


def get_machine_free_bytes() -> int:
    """How much memory the machine can still give."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise OSError(f'{MEMINFO} does not say how much memory is available')


def get_container_free_bytes() -> int | None:
    """How much a container may still take; None outside of one, or in one without a limit."""
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
    """Raise MemoryError if there is less than a model needs."""
    if required_bytes > get_free_bytes(device):
        raise MemoryError(f'{describe_shortage(name, required_bytes, device)}; {CURE}')


@contextmanager
def explain_memory_errors(name: str, required_bytes: int, device: str) -> Iterator[None]:
    """Turn every way of running out of memory into a MemoryError with the figures."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) \
                and not any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES):
            raise
        first = str(error).strip().split('\n')[0]
        raise MemoryError(f'{describe_shortage(name, required_bytes, device)}; {CURE} ({first})') from error


def describe_shortage(name: str, required_bytes: int, device: str) -> str:
    """Say what a model needs and what there is."""
    return (f'{name} needs about {required_bytes / GB:.1f} GB on {device}, '
            f'{get_free_bytes(device) / GB:.1f} GB are free')
