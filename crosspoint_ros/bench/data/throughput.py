"""`crosspoint dev build`: times `data build` in one process and in several."""
from __future__ import annotations

import argparse
import filecmp
import re
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from crosspoint_ros.bench.environment import describe_machine, parse_positive, run_crosspoint

RATE_PATTERN = re.compile(r'(\d+) questions .* (\d+) a second')


@dataclass(frozen=True)
class BuildTiming:
    """One build: questions per second, and the peak memory of its first process, MB."""

    questions_per_s: float
    peak_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('scenes', nargs='+', type=Path, help='recordings, as for data build')
    parser.add_argument('--number', type=parse_positive, default=20000,
                        help='number of questions (default: 20000)')
    parser.add_argument('--processes', type=parse_positive, default=4,
                        help='number of processes to compare with one (default: 4)')
    parser.add_argument('--rounds', type=parse_positive, default=3,
                        help='alternating builds of each (default: 3)')


def main(args: argparse.Namespace) -> int:
    """Build alternately in one process and in several; 1 if their files differ."""
    single, parallel = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            one, several = (Path(folder, f'{number}_{n}') for n in (1, args.processes))
            single.append(run_build(args, one, 1))
            parallel.append(run_build(args, several, args.processes))
            if not is_same_content(one, several):
                print(f'one process and {args.processes} made different files')
                return 1
            shutil.rmtree(one)
            shutil.rmtree(several)
    print(format_report(args, single, parallel))
    return 0


def run_build(args: argparse.Namespace, out: Path, processes: int) -> BuildTiming:
    """Build into a folder. Raises ValueError with the output if it failed."""
    run = run_crosspoint(['data', 'build', *map(str, args.scenes), '--out', str(out), '--number',
                          str(args.number), '--processes', str(processes)])
    text = run.output + run.errors
    found = RATE_PATTERN.search(text)
    if run.exit_code or found is None:
        raise ValueError(f'data build ended with {run.exit_code}: {text.strip()}')
    return BuildTiming(float(found[2]), run.peak_mb)


def is_same_content(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files with the same bytes."""
    files = [sorted(p.relative_to(folder) for p in folder.rglob('*') if p.is_file())
             for folder in (one, other)]
    return files[0] == files[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])


def format_report(args: argparse.Namespace, single: list[BuildTiming],
                  parallel: list[BuildTiming]) -> str:
    """Format the medians and ranges of the rounds."""
    ratios = [b.questions_per_s / a.questions_per_s for a, b in zip(single, parallel, strict=True)]
    rates = [[each.questions_per_s for each in builds] for builds in (single, parallel)]
    return '\n'.join([
        f'{args.number} questions, {args.rounds} alternating rounds, identical files',
        *(f'{name}: {statistics.median(rate):.0f} a second ({min(rate):.0f} to {max(rate):.0f})'
          for name, rate in zip(('one process', f'{args.processes} processes'), rates,
                                strict=True)),
        f'{statistics.median(ratios):.2f} times as many ({min(ratios):.2f} to {max(ratios):.2f})',
        f'peak memory of one process {max(each.peak_mb for each in single):.0f} MB',
        describe_machine()])
