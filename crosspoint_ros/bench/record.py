"""`crosspoint bench record`: run a command, and keep what it printed, on what machine, and when."""
from __future__ import annotations

import argparse
import json
import re
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from crosspoint_ros.bench.machine import machine
from crosspoint_ros.data.building import write_whole

ABSOLUTE = re.compile(r'(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+')


@dataclass(frozen=True)
class Record:
    """One run of a command. command: as a user types it. cpu_s, peak_mb: of all its processes.

    wanted: what it must reach, in words, or ''. date: UTC, ISO 8601.
    """

    title: str
    wanted: str
    command: str
    machine: str
    date: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    exit_code: int
    output: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('record', type=Path, metavar='RECORD.json')
    parser.add_argument('--title', required=True)
    parser.add_argument('--wanted', default='', help='what it must reach, in words')
    parser.add_argument('command', nargs='+', metavar='-- COMMAND', help='of crosspoint, with its '
                        'options: bench scene --json')


def main(args: argparse.Namespace) -> int:
    """Run it, and return its exit code. Raises ValueError if it spoke of private paths."""
    begun_s = time.monotonic()
    with subprocess.Popen([sys.executable, '-m', 'crosspoint_ros.cli', *args.command], text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = Record(
        args.title, args.wanted, shlex.join(['crosspoint', *args.command]), machine(),
        datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%MZ'),
        round(time.monotonic() - begun_s, 1), round(used.ru_utime + used.ru_stime, 1),
        round(used.ru_maxrss / 1024, 1), process.returncode, ''.join(lines))
    if private := ABSOLUTE.search(f'{made.command}\n{made.output}'):
        raise ValueError(f'{private.group()} is a path of this machine: run it where the data is, '
                         'with relative paths; nothing was kept')
    write_whole(args.record, (json.dumps(asdict(made), indent=1) + '\n').encode())
    return process.returncode
