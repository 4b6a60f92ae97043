"""What a benchmark ran on, in one line: numbers without it mean nothing."""
from __future__ import annotations

import os
import platform
from pathlib import Path

import cv2
import numpy as np


def parse_positive(text: str) -> int:
    """Read a number of things to measure, of which there must be one at least (for argparse)."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def describe_machine() -> str:
    """Describe processor, cores in use, and the versions that decide the speed."""
    return (f'{_read_processor_name()}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, '
            f'Python {platform.python_version()}, OpenCV {cv2.__version__} '
            f'({cv2.getNumThreads()} threads), NumPy {np.__version__}')


def _read_processor_name() -> str:
    info = Path('/proc/cpuinfo')
    names = [line.partition(':')[2].strip() for line in info.read_text().splitlines()
             if line.startswith(('model name', 'Model'))] if info.is_file() else []
    return names[0] if names else platform.processor() or 'unknown processor'
