"""`crosspoint bench build`: how soon questions are built, and what further processes are worth."""
from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from crosspoint_ros.bench.environment import describe_machine, parse_positive

RATE_PATTERN = re.compile(r'(\d+) questions .* (\d+) a second')


@dataclass(frozen=True)
class BuildTiming:
    """One build: questions a second, and the most memory of its first process, MB."""

    questions_per_s: float
    peak_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('scenes', nargs='+', type=Path, help='as for data build')
    parser.add_argument('--number', type=parse_positive, default=20000, help='of questions (default: '
                        '20000)')
    parser.add_argument('--processes', type=parse_positive, default=4, help='to compare with one '
                        '(default: 4)')
    parser.add_argument('--rounds', type=parse_positive, default=3, help='of one and several in turns '
                        '(default: 3)')


def main(args: argparse.Namespace) -> int:
    """Build in turns in one process and in several; 1 if they differ in a byte."""
    ones, severals = [], []
    with tempfile.TemporaryDirectory() as place:
        for number in range(args.rounds):
            one, several = (Path(place, f'{number}_{n}') for n in (1, args.processes))
            ones.append(run_build(args, one, 1))
            severals.append(run_build(args, several, args.processes))
            same = is_same_content(one, several)
            shutil.rmtree(one)
            shutil.rmtree(several)
            if not same:
                print(f'one process and {args.processes} made different files')
                return 1
    print(format_report(args, ones, severals))
    return 0


def run_build(args: argparse.Namespace, out: Path, processes: int) -> BuildTiming:
    """Build into a folder. Raises ValueError with what it said if it failed."""
    words = [sys.executable, '-m', 'crosspoint_ros.cli', 'data', 'build', *map(str, args.scenes),
             '--out', str(out), '--number', str(args.number), '--processes', str(processes)]
    with tempfile.TemporaryFile('w+') as said:
        process = subprocess.Popen(words, text=True, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    found = RATE_PATTERN.search(text)
    if process.returncode or found is None:
        raise ValueError(f'data build ended with {process.returncode}: {text.strip()}')
    return BuildTiming(float(found[2]), used.ru_maxrss / 1024)


def is_same_content(one: Path, other: Path) -> bool:
    """Tell whether two folders hold the same files with the same bytes."""
    files = [sorted(p.relative_to(folder) for p in folder.rglob('*') if p.is_file())
             for folder in (one, other)]
    return files[0] == files[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])


def format_report(args: argparse.Namespace, single: list[BuildTiming], parallel: list[BuildTiming]) -> str:
    """Say the median of the rounds, and how far they lie apart."""
    ratios = [b.questions_per_s / a.questions_per_s for a, b in zip(single, parallel, strict=True)]
    rates = [[each.questions_per_s for each in builds] for builds in (single, parallel)]
    return '\n'.join([
        f'{args.number} questions, {args.rounds} rounds in turns, the same bytes each time',
        *(f'{name}: {statistics.median(rate):.0f} a second ({min(rate):.0f} to {max(rate):.0f})'
          for name, rate in zip(('one process', f'{args.processes} processes'), rates,
                                strict=True)),
        f'{statistics.median(ratios):.2f} times as many ({min(ratios):.2f} to {max(ratios):.2f})',
        f'one process took {max(each.peak_mb for each in single):.0f} MB at the most', describe_machine()])
