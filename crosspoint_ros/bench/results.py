"""`crosspoint bench results`: the records as one page, with what others published beside them."""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from crosspoint_ros.bench.record import Record
from crosspoint_ros.data.building import write_whole

PUBLISHED = 'published.json'


@dataclass(frozen=True)
class Published:
    """A figure that others published: on what, of whom, by whom, and where it stands.

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
    """Write the page; 1 if a record cannot be read."""
    records, broken = read(args.folder)
    for problem in broken:
        print(f'crosspoint bench results: {problem}', file=sys.stderr)
    if not records:
        raise ValueError(f'{args.folder} holds no records')
    write_whole(args.out, page(records, published(args.folder / PUBLISHED)).encode())
    print(f'{len(records)} records in {args.out}')
    return int(bool(broken))


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the records in the order of their files' names, and what is wrong with others."""
    records, broken = [], []
    for path in sorted(folder.glob('*.json')):
        if path.name == PUBLISHED:
            continue
        try:
            records.append(Record(**json.loads(path.read_text())))
        except (ValueError, TypeError) as error:
            broken.append(f'{path.name} is no record: {error}')
    return records, broken


def published(path: Path) -> list[Published]:
    """Return what others published. Raises ValueError for a figure without a source."""
    if not path.is_file():
        return []
    try:
        return [Published(**each) for each in json.loads(path.read_text())]
    except TypeError as error:
        raise ValueError(f'{path.name}: {error}') from error


def page(records: list[Record], others: list[Published]) -> str:
    """Lay all of it out as Markdown."""
    lines = ['# Results', '',
             'Written by `crosspoint bench results` from the records of `crosspoint bench record`; '
             '`make results` runs them again.', '',
             '| measured | must reach | run | date |', '|---|---|---|---|']
    lines += [f'| [{_cell(r.title)}](#{_anchor(r.title)}) | {_cell(r.wanted) or "-"} | '
              f'{"as below" if r.exit_code == 0 else f"ended with {r.exit_code}"} | {r.date} |'
              for r in records]
    if others:
        lines += ['', '## Published by others', '',
                  'Not measured by us; beside it, what we measured of the same.', '',
                  '| benchmark | of | published | by | measured here |', '|---|---|---|---|---|']
        titles = {r.title for r in records}
        lines += [f'| {_cell(p.benchmark)} | {_cell(p.subject)} | {_cell(p.value)} | '
                  f'{_cell(p.by)}, {_cell(p.source)} | {_beside(p, titles)} |' for p in others]
    for record in records:
        lines += ['', f'## {record.title}', '', f'`{record.command}`', '',
                  f'{record.date}, {record.machine}. {record.wall_s:g} s, {record.cpu_s:g} s of '
                  f'CPU time, {record.peak_mb:g} MB at the most, exit code {record.exit_code}.',
                  '', '```', record.output.rstrip(), '```']
    return '\n'.join(lines) + '\n'


def _beside(figure: Published, titles: set[str]) -> str:
    if figure.measured in titles:
        return f'[{_cell(figure.measured)}](#{_anchor(figure.measured)})'
    return f'not measured: {_cell(figure.measured)}'


def _anchor(title: str) -> str:
    kept = ''.join(c for c in title.lower() if c.isalnum() or c in ' -_')
    return kept.replace(' ', '-')


def _cell(text: str) -> str:
    return ' '.join(text.split()).replace('|', '\\|')
