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
EXHAUSTED = ('out of memory', 'not enough memory', 'allocate memory')
CURE = 'end other programs, choose a smaller model, or cropond.weights: 4bit'


def free_bytes(device: str) -> int:
    """How much memory is free there."""
    if device == 'cuda' and not torch.cuda.get_device_properties(0).is_integrated:
        torch.cuda.empty_cache()  # what PyTorch keeps for later counts as taken
        return int(torch.cuda.mem_get_info()[0])
    # A Jetson's GPU has no memory of its own, and CUDA counts what files are cached in as taken.
    left = container_bytes()
    return machine_bytes() if left is None else min(machine_bytes(), left)


def machine_bytes() -> int:
    """How much memory the machine can still give."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith('MemAvailable:'):
            return int(line.split()[1]) * 1024
    raise OSError(f'{MEMINFO} does not say how much memory is available')


def container_bytes() -> int | None:
    """How much a container may still take; None outside of one, or in one without a limit."""
    try:
        limit = (CGROUP / 'memory.max').read_text().strip()
        taken = int((CGROUP / 'memory.current').read_text())
        stat = dict(line.split() for line in (CGROUP / 'memory.stat').read_text().splitlines())
    except OSError:
        return None
    if limit == 'max':
        return None
    return max(int(limit) - taken + int(stat.get('inactive_file', 0)), 0)


def check_memory(name: str, needs: int, device: str) -> None:
    """Raise MemoryError if there is less than a model needs."""
    if needs > free_bytes(device):
        raise MemoryError(f'{shortage(name, needs, device)}; {CURE}')


@contextmanager
def memory_errors(name: str, needs: int, device: str) -> Iterator[None]:
    """Turn every way of running out of memory into a MemoryError with the figures."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) \
                and not any(words in str(error) for words in EXHAUSTED):
            raise
        first = str(error).strip().split('\n')[0]
        raise MemoryError(f'{shortage(name, needs, device)}; {CURE} ({first})') from error


def shortage(name: str, needs: int, device: str) -> str:
    """Say what a model needs and what there is."""
    return (f'{name} needs about {needs / GB:.1f} GB on {device}, '
            f'{free_bytes(device) / GB:.1f} GB are free')
