"""`crosspoint bench results`: the records as one page, with what others published beside them."""
from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from crosspoint_ros.bench.record import Record
from crosspoint_ros.core.image_io import atomic_write

PUBLISHED = 'published.json'


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that others published: on what, of whom, by whom, and where it was read.

    measured: the title of the record that measures the same, or why there is none.
    """

    benchmark: str
    subject: str
    value: str
    by: str
    source: str
    measured: str

    def __post_init__(self) -> None:
        for name in ('benchmark', 'subject', 'value', 'by', 'source', 'measured'):
            if not getattr(self, name).strip():
                raise ValueError(f'a published figure ({self.subject}) has no {name}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, help='of records, and of published.json')
    parser.add_argument('--out', type=Path, required=True, help='the page')


def main(args: argparse.Namespace) -> int:
    """Write the page; 1 if a record cannot be read, which the page says too."""
    records, broken = read_records(args.folder)
    for problem in broken:
        print(f'crosspoint bench results: {problem}', file=sys.stderr)
    if not records:
        raise ValueError(f'{args.folder} holds no records')
    atomic_write(args.out, render_page(records, read_published(args.folder / PUBLISHED), broken).encode())
    print(f'{len(records)} records in {args.out}')
    return int(bool(broken))


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the records in the order of their files' names, and what is wrong with others."""
    records: list[Record] = []
    broken = []
    for path in sorted(folder.glob('*.json')):
        if path.name == PUBLISHED:
            continue
        try:
            record = Record(**json.loads(path.read_text()))
            if record.title in [known.title for known in records]:
                raise ValueError(f'another has its title: {record.title}')
            records.append(record)
        except (ValueError, TypeError) as error:
            broken.append(f'{path.name} is no record: {error}')
    return records, broken


def read_published(path: Path) -> list[PublishedFigure]:
    """Return what others published. Raises ValueError for a figure without a source."""
    if not path.is_file():
        return []
    try:
        return [PublishedFigure(**each) for each in json.loads(path.read_text())]
    except TypeError as error:
        raise ValueError(f'{path.name}: {error}') from error


def render_page(records: list[Record], published: list[PublishedFigure], broken: list[str]) -> str:
    """Lay all of it out as Markdown."""
    lines = ['# Results', '',
             'Written by `crosspoint bench results` from the records of `crosspoint bench record`; '
             '`make results` runs them again.', '',
             *(f'**Not shown: {_escape_cell(problem)}.**\n' for problem in broken),
             '| | must reach | measured | | date | machine |', '|---|---|---|---|---|---|']
    lines += [_format_row(record) for record in records]
    titles = {record.title for record in records}
    if published:
        lines += ['', '## Published by others', '',
                  'Read where it says, not measured by us; beside it what we measured of the same.']
    for benchmark, own in groupby(published, key=lambda each: each.benchmark):
        lines += ['', f'### {benchmark}', '', '| of | published | by | measured here |',
                  '|---|---|---|---|']
        lines += [f'| {_escape_cell(p.subject)} | {_escape_cell(p.value)} | {_escape_cell(p.by)}: {_escape_cell(p.source)} | '
                  f'{_link_measurement(p, titles)} |' for p in own]
    for record in records:
        lines += ['', *_format_record(record)]
    return '\n'.join(lines) + '\n'


def _format_row(record: Record) -> str:
    figure = 'below' if record.figure is None else f'{record.figure:g}'
    state = f'failed: {record.exit_code}' if record.exit_code else \
        {'missed': '**missed**'}.get(record.reached, record.reached)
    return (f'| [{_escape_cell(record.title)}](#{_make_anchor(record.title)}) | {_escape_cell(record.wanted) or "-"} '
            f'| {figure} | {state} | {record.date[:10]} | {record.machine.partition(",")[0]} |')


def _format_record(record: Record) -> list[str]:
    said = record.output.rstrip() + (f'\n{record.errors.rstrip()}' if record.errors else '')
    fence = '`' * max(3, 1 + max(map(len, re.findall('`+', said)), default=0))
    return [f'## {record.title}', '', f'`{record.command}`', '',
            f'{record.date}, crosspoint {record.version}, {record.machine}; load before '
            f'{record.load:g}. {record.wall_s:g} s, exit code {record.exit_code}. The process '
            f'itself: {record.cpu_s:g} s of CPU time, {record.peak_mb:g} MB at the most.', '',
            fence, said, fence]


def _link_measurement(figure: PublishedFigure, titles: set[str]) -> str:
    if figure.measured in titles:
        return f'[{_escape_cell(figure.measured)}](#{_make_anchor(figure.measured)})'
    return f'not measured: {_escape_cell(figure.measured)}'


def _make_anchor(title: str) -> str:
    kept = ''.join(c for c in title.lower() if c.isalnum() or c in ' -_')
    return kept.replace(' ', '-')


def _escape_cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|')
