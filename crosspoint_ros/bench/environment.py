"""Describes the machine of a benchmark, and runs commands while measuring them."""
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def parse_positive(text: str) -> int:
    """Parse a positive integer (for argparse)."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def describe_machine() -> str:
    """Return the processor, cores in use, and versions of what decides the speed."""
    return (f'{_read_processor_name()}, {len(os.sched_getaffinity(0))} cores, '
            f'{platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__} '
            f'({cv2.getNumThreads()} threads), NumPy {np.__version__}')


def write_figures(path: Path | None, figures: Any) -> None:
    """Write what the option --json asks for, if it is given."""
    if path:
        path.write_text(json.dumps(figures, indent=2) + '\n')


def _read_processor_name() -> str:
    info = Path('/proc/cpuinfo')
    names = [line.partition(':')[2].strip() for line in info.read_text().splitlines()
             if line.startswith(('model name', 'Model'))] if info.is_file() else []
    return names[0] if names else platform.processor() or 'unknown processor'


@dataclass(frozen=True)
class CommandRun:
    """A finished command. cpu_s, peak_mb: of its process and the children it waited for."""

    exit_code: int
    output: str
    errors: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def run_crosspoint(arguments: Sequence[str], echo: bool = False) -> CommandRun:
    """Run a `crosspoint` command in a process; echo: print its output too."""
    begun_s = time.monotonic()
    with tempfile.TemporaryFile('w+') as stderr:
        process = subprocess.Popen([sys.executable, '-m', 'crosspoint_ros.cli', *arguments],
                                   text=True, stdout=subprocess.PIPE, stderr=stderr)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            if echo:
                print(line, end='', flush=True)
            lines.append(line)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        errors = stderr.read()
    if echo:
        print(errors, end='', file=sys.stderr)
    return CommandRun(process.returncode, ''.join(lines), errors, time.monotonic() - begun_s,
                      usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
