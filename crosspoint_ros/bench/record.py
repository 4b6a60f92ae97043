"""`crosspoint dev record`: runs a benchmark, and records its output, machine and date."""
from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.environment import describe_machine, run_crosspoint
from crosspoint_ros.core.image_io import atomic_write

ABSOLUTE_PATH = re.compile(r'(?<![\w.])/([\w.-]+)(?:/[\w.-]+)*')
ROOT_FOLDERS = {'home', 'root', 'tmp', 'work', 'Users', 'mnt', 'media', 'opt', 'srv', 'var', 'usr'}
WALL_TIME = 'wall_s'
MAX_ERROR_LINES = 20  # of a command that failed
FIELD_TYPES: dict[str, Any] = {'str': str, 'int': int, 'float': (int, float),
                               'float | None': (int, float, type(None))}


@dataclass(frozen=True)
class Record:
    """One run of a command.

    figure: parsed from the output, None if not found. wanted: its bounds as text. reached:
    'reached', 'missed', or '' without bounds. date: UTC, ISO 8601, of the start. load: the load
    average of the minute before. errors: the last lines on stderr of a command that failed.
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
    """Raise ValueError if a text names an absolute path."""
    for found in ABSOLUTE_PATH.finditer(text):
        if found[1] in ROOT_FOLDERS or Path('/', found[1]).exists():
            raise ValueError(f'{found[0]} is a path of this machine: run the command in the '
                             'folder of the data, with relative paths')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('record', type=Path, metavar='RECORD.json')
    parser.add_argument('--title', required=True)
    parser.add_argument('--figure', default='', metavar='PATTERN', help='a regular expression '
                        'whose group matches the figure in the output; '
                        f'{WALL_TIME}: the elapsed seconds')
    parser.add_argument('--least', type=float, metavar='X', help='lower bound of the figure')
    parser.add_argument('--most', type=float, metavar='X', help='upper bound of the figure')
    parser.add_argument('--unit', default='', help='unit of the figure, such as " px"')
    parser.add_argument('command', nargs='+', metavar='-- COMMAND', help='the command with '
                        'its options, such as bench pairs apc_shelf')


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code. Raises ValueError for private paths."""
    command = shlex.join(['crosspoint', *args.command])
    reject_private_paths(f'{args.title}\n{command}')
    has_bounds = args.least is not None or args.most is not None
    if has_bounds != bool(args.figure):
        raise ValueError('--figure needs --least or --most, and they need --figure')
    load, date = os.getloadavg()[0], datetime.now(timezone.utc)
    run = run_crosspoint(args.command, echo=True)
    version = run_crosspoint(['--version']).output.split(maxsplit=1)[1].strip()
    wall_s = round(run.wall_s, 1)
    found = re.findall(args.figure, run.output) if args.figure else []
    figure = wall_s if args.figure == WALL_TIME else float(found[-1]) if found else None
    errors = '\n'.join(run.errors.splitlines()[-MAX_ERROR_LINES:]) if run.exit_code else ''
    record = Record(args.title, describe_bounds(args), figure, judge_figure(args, figure), command,
                    version, describe_machine(), round(load, 1), date.strftime('%Y-%m-%dT%H:%MZ'),
                    wall_s, round(run.cpu_s, 1), round(run.peak_mb, 1), run.exit_code, run.output,
                    errors)
    atomic_write(args.record, (json.dumps(asdict(record), indent=1) + '\n').encode())
    return run.exit_code


def describe_bounds(args: argparse.Namespace) -> str:
    """Format the bounds of the figure."""
    bounds = (('at least', args.least), ('at most', args.most))
    return ', '.join(f'{word} {x:g}{args.unit}' for word, x in bounds if x is not None)


def judge_figure(args: argparse.Namespace, figure: float | None) -> str:
    """Return whether the figure is within its bounds; a missing one is not."""
    if not args.figure:  # then there are no bounds
        return ''
    within = figure is not None and (args.least is None or figure >= args.least) and (
        args.most is None or figure <= args.most)
    return 'reached' if within else 'missed'
