"""`crosspoint bench record`: run a command, and keep what it printed, on what machine, and when."""
from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.cli import get_version
from crosspoint_ros.core.image_io import atomic_write

ABSOLUTE_PATH = re.compile(r'(?<![\w.])/([\w.-]+)(?:/[\w.-]+)*')
ROOT_FOLDERS = {'home', 'root', 'tmp', 'work', 'Users', 'mnt', 'media', 'opt', 'srv', 'var', 'usr'}
WALL_TIME = 'wall_s'
MAX_ERROR_LINES = 20  # of what a command that failed said of it
FIELD_TYPES: dict[str, Any] = {'str': str, 'int': int, 'float': (int, float),
                         'float | None': (int, float, type(None))}


@dataclass(frozen=True)
class Record:
    """One run of a command. command: as a user types it. date: UTC, ISO 8601, when it began.

    figure: what was read out of the output, if it was there; wanted: the limit in words, or ''.
    reached: 'reached', 'missed' or '' where nothing was to be reached. load: how many processes
    ran on the machine on average, over the last minute, before it began. cpu_s: of the command's
    own process and those that it waited for. errors: the last that it said, if it failed.
    """

    title: str
    wanted: str
    figure: float | None
    reached: str
    command: str
    version: str
    machine: str
    load: float
    date: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    exit_code: int
    output: str
    errors: str

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(getattr(self, field.name), FIELD_TYPES[str(field.type)]):
                raise ValueError(f'{field.name} is {getattr(self, field.name)!r}, not a '
                                 f'{field.type}')
        for name in ('title', 'wanted', 'command', 'output', 'errors'):
            reject_private_paths(getattr(self, name))


def reject_private_paths(text: str) -> None:
    """Raise ValueError if a text names a path of this machine, or of anybody's."""
    for found in ABSOLUTE_PATH.finditer(text):
        if found[1] in ROOT_FOLDERS or Path('/', found[1]).exists():
            raise ValueError(f'{found[0]} is a path of this machine: run it where the data is, '
                             'with relative paths')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('record', type=Path, metavar='RECORD.json')
    parser.add_argument('--title', required=True)
    parser.add_argument('--figure', default='', metavar='PATTERN', help='a regular expression '
                        f'whose group is the figure, in the output; {WALL_TIME}: the seconds it took')
    parser.add_argument('--least', type=float, metavar='X', help='what the figure must reach')
    parser.add_argument('--most', type=float, metavar='X', help='what it must not exceed')
    parser.add_argument('--unit', default='', help='of the figure')
    parser.add_argument('command', nargs='+', metavar='-- COMMAND', help='of crosspoint, with its '
                        'options: bench scene --json')


def main(args: argparse.Namespace) -> int:
    """Run it, and return its exit code. Raises ValueError if it spoke of private paths."""
    command = shlex.join(['crosspoint', *args.command])
    reject_private_paths(f'{args.title}\n{command}')
    bounded = args.least is not None or args.most is not None
    if bounded != bool(args.figure):
        raise ValueError('--figure goes with --least or --most')
    load, date, begun_s = os.getloadavg()[0], datetime.now(timezone.utc), time.monotonic()
    with tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen([sys.executable, '-m', 'crosspoint_ros.cli', *args.command],
                                   text=True, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end='', flush=True)
            lines.append(line)
        _, status, used = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read()
    print(said, end='', file=sys.stderr)
    output = ''.join(lines)
    wall_s = round(time.monotonic() - begun_s, 1)
    figure = wall_s if args.figure == WALL_TIME else \
        read_figure(args.figure, output) if args.figure else None
    atomic_write(args.record, (json.dumps(asdict(Record(
        args.title, describe_bounds(args), figure, judge_figure(args, figure), command, get_version(), describe_machine(),
        round(load, 1), date.strftime('%Y-%m-%dT%H:%MZ'), wall_s,
        round(used.ru_utime + used.ru_stime, 1), round(used.ru_maxrss / 1024, 1), code, output,
        '\n'.join(said.splitlines()[-MAX_ERROR_LINES:]) if code else '')), indent=1) + '\n').encode())
    return code


def describe_bounds(args: argparse.Namespace) -> str:
    """Say what must be reached."""
    bounds = [f'{word} {value:g}{args.unit}' for word, value in (
        ('at least', args.least), ('at most', args.most)) if value is not None]
    return ', '.join(bounds)


def read_figure(pattern: str, output: str) -> float | None:
    """Return the number that the pattern's group finds last; None for none."""
    found = re.findall(pattern, output)
    return float(found[-1]) if found else None


def judge_figure(args: argparse.Namespace, figure: float | None) -> str:
    """Hold a figure against its bounds; one that was not found has missed them."""
    if args.least is None and args.most is None:
        return ''
    well = figure is not None and (args.least is None or figure >= args.least) and (
        args.most is None or figure <= args.most)
    return 'reached' if well else 'missed'
