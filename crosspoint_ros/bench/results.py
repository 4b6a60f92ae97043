"""`crosspoint dev results`: formats the records and published figures as one page."""
from __future__ import annotations

import argparse
import json
import logging
import re
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from crosspoint_ros.bench.record import Record
from crosspoint_ros.core.image_io import atomic_write

log = logging.getLogger(__name__)
PUBLISHED = 'published.json'


@dataclass(frozen=True)
class PublishedFigure:
    """A figure published by others.

    measured: the title of the record that measures the same, or why there is none.
    """

    benchmark: str
    subject: str
    value: str
    by: str
    source: str
    measured: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value.strip():
                raise ValueError(f'a published figure ({self.subject}) has no {name}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, help='folder of the records and published.json')
    parser.add_argument('--out', type=Path, required=True, help='the page to write')


def main(args: argparse.Namespace) -> int:
    """Write the page; 1 if a record is invalid, which the page reports too."""
    records, faults = read_records(args.folder)
    for fault in faults:
        log.warning('%s', fault)
    if not records:
        raise ValueError(f'{args.folder} holds no records')
    page = render_page(records, read_published(args.folder / PUBLISHED), faults)
    atomic_write(args.out, page.encode())
    print(f'{len(records)} records in {args.out}')
    return int(bool(faults))


def read_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the records in the order of their file names, and the faults of others."""
    records: list[Record] = []
    faults = []
    for path in sorted(folder.glob('*.json')):
        if path.name == PUBLISHED:
            continue
        try:
            record = Record(**json.loads(path.read_text()))
            if record.title in [known.title for known in records]:
                raise ValueError(f'another record has the title {record.title}')
            records.append(record)
        except (ValueError, TypeError) as error:
            faults.append(f'{path.name} is not a record: {error}')
    return records, faults


def read_published(path: Path) -> list[PublishedFigure]:
    """Return the published figures. Raises ValueError for one without a source."""
    if not path.is_file():
        return []
    try:
        return [PublishedFigure(**each) for each in json.loads(path.read_text())]
    except TypeError as error:
        raise ValueError(f'{path.name}: {error}') from error


def render_page(records: list[Record], published: list[PublishedFigure], faults: list[str]) -> str:
    """Format the page as Markdown."""
    lines = ['# Results', '',
             'Written by `crosspoint dev results` from the records of `crosspoint dev record`; '
             '`make results` runs them again.', '',
             *(f'**Not shown: {_escape_cell(fault)}.**\n' for fault in faults),
             '| | must reach | measured | | date | machine |', '|---|---|---|---|---|---|']
    lines += [_format_row(record) for record in records]
    titles = {record.title for record in records}
    if published:
        lines += ['', '## Published by others', '',
                  'As published; the last column links to our own measurement, if there is one.']
    for benchmark, figures in groupby(published, key=lambda each: each.benchmark):
        lines += ['', f'### {benchmark}', '', '| of | published | by | measured here |',
                  '|---|---|---|---|']
        lines += [f'| {_escape_cell(figure.subject)} | {_escape_cell(figure.value)} | '
                  f'{_escape_cell(figure.by)}: {_escape_cell(figure.source)} | '
                  f'{_link_measurement(figure, titles)} |' for figure in figures]
    for record in records:
        lines += ['', *_format_record(record)]
    return '\n'.join(lines) + '\n'


def _format_row(record: Record) -> str:
    figure = 'below' if record.figure is None else f'{record.figure:g}'
    state = f'failed: {record.exit_code}' if record.exit_code else \
        {'missed': '**missed**'}.get(record.reached, record.reached)
    return (f'| [{_escape_cell(record.title)}](#{_make_anchor(record.title)}) '
            f'| {_escape_cell(record.wanted) or "-"} | {figure} | {state} | {record.date[:10]} '
            f'| {record.machine.partition(",")[0]} |')


def _format_record(record: Record) -> list[str]:
    output = record.output.rstrip() + (f'\n{record.errors.rstrip()}' if record.errors else '')
    fence = '`' * max(3, 1 + max(map(len, re.findall('`+', output)), default=0))
    return [f'## {record.title}', '', f'`{record.command}`', '',
            f'{record.date}, crosspoint {record.version}, {record.machine}; load average before '
            f'it {record.load:g}. {record.wall_s:g} s, {record.cpu_s:g} s of CPU time, peak memory '
            f'{record.peak_mb:g} MB, exit code {record.exit_code}.', '', fence, output, fence]


def _link_measurement(figure: PublishedFigure, titles: set[str]) -> str:
    if figure.measured in titles:
        return f'[{_escape_cell(figure.measured)}](#{_make_anchor(figure.measured)})'
    return f'not measured: {_escape_cell(figure.measured)}'


def _make_anchor(title: str) -> str:
    return re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')


def _escape_cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|')
