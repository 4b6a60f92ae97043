"""Formats the scores of a grader as text, Markdown or JSON."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crosspoint_ros.bench.crosspoint.grading import AccuracyRow, Grader, build_table

MAX_NAMES = 12


@dataclass(frozen=True)
class ScoreReport:
    """The scores by both sets of rules; by: 'corrected' or 'official', the one that is printed."""

    name: str
    by: str
    grader: Grader
    corrected: tuple[AccuracyRow, ...]
    official: tuple[AccuracyRow, ...]

    @property
    def selected(self) -> tuple[AccuracyRow, ...]:
        """The score by the selected rules."""
        return self.official if self.by == 'official' else self.corrected


def build_report(name: str, by: str, grader: Grader) -> ScoreReport:
    """Add up the grades by both sets of rules."""
    return ScoreReport(name, by, grader, build_table(grader.corrected),
                       build_table(grader.official))


def format_table(report: ScoreReport) -> str:
    """Format a report as text."""
    rows = [f'{"":34}{"right":>13} {"share":>8}  95 % interval   no answer']
    for row in report.selected:
        accuracy, (low, high) = row.accuracy, row.accuracy.interval
        rows.append(f'{_format_row_name(row):34}{accuracy.correct:6} of {accuracy.total:4} '
                    f'{accuracy.share:8.2%}  {low:6.1%}..{high:6.1%} {accuracy.no_answer:9}')
    return '\n'.join([f'{report.name}, {report.by} rules, coordinates '
                      f'{report.grader.coordinates}', *rows, *_list_notes(report)])


def format_markdown(report: ScoreReport) -> str:
    """Format a report as Markdown, with the idx of every reply on which the rules differ."""
    grader = report.grader
    lines = [f'# CrossPoint-Bench: {_escape_cell(report.name)}', '',
             f'By the {report.by} rules; coordinates {grader.coordinates}.', '',
             '| | right | of | share | 95 % interval (Wilson) | no answer |',
             '|---|--:|--:|--:|--:|--:|']
    for row in report.selected:
        accuracy, (low, high) = row.accuracy, row.accuracy.interval
        lines.append(f'| {_escape_cell(_format_row_name(row, "— "))} | {accuracy.correct} | '
                     f'{accuracy.total} | {accuracy.share:.2%} | {low:.1%} to {high:.1%} | '
                     f'{accuracy.no_answer} |')
    lines += ['', *(f'* {_escape_cell(note)}' for note in _list_notes(report))]
    if grader.differences:
        lines += ['', '## Items on which the rules differ', '',
                  _escape_cell(', '.join(map(str, grader.differences)))]
    if grader.issues:
        lines += ['', '## Faults of the input', '',
                  *(f'* {_escape_cell(str(issue))}' for issue in grader.issues)]
    return '\n'.join(lines) + '\n'


def format_json(report: ScoreReport) -> str:
    """Format a report as JSON."""
    grader = report.grader
    return json.dumps({
        'name': report.name, 'by': report.by, 'coordinates': grader.coordinates,
        'corrected': _table_to_json(report.corrected), 'official': _table_to_json(report.official),
        'official_stops': grader.official_crash, 'unanswered': grader.unanswered,
        'not_asked': grader.not_asked, 'troubles': [asdict(issue) for issue in grader.issues],
        'differences': grader.differences}, indent=1, allow_nan=False)


def _table_to_json(table: Sequence[AccuracyRow]) -> list[dict[str, Any]]:
    return [{'type': row.type, 'level': row.level, 'right': row.accuracy.correct,
             'total': row.accuracy.total, 'no_answer': row.accuracy.no_answer,
             'share': row.accuracy.share if row.accuracy.total else None,
             'interval': row.accuracy.interval if row.accuracy.total else None} for row in table]


def _list_notes(report: ScoreReport) -> list[str]:
    grader, names = report.grader, [str(idx) for idx in report.grader.differences]
    notes = [f'{name} rules: {table[0].accuracy.correct} of {table[0].accuracy.total}, '
             f'{table[0].accuracy.share:.2%}'
             for name, table in (('corrected', report.corrected), ('official', report.official))]
    more = f' and {len(names) - MAX_NAMES} more' if len(names) > MAX_NAMES else ''
    notes.append(f'the rules differ on {len(names)} replies'
                 + (f': items {", ".join(names[:MAX_NAMES])}{more}' if names else ''))
    if grader.official_crash:
        notes.append("the authors' scripts end on these replies, without a score: "
                     f'{grader.official_crash}')
    for kind, count in sorted(grader.not_asked.items()):
        notes.append(f'not asked: {count} of {kind}; in no score')
    if grader.unanswered:
        notes.append(f'without a reply: {grader.unanswered}; wrong by the corrected rules, left '
                     'out by the official ones')
    if grader.issues:
        notes.append(f'faults of the input, each reported by a line: {len(grader.issues)}')
    return notes


def _format_row_name(row: AccuracyRow, indent: str = '  ') -> str:
    return f'{indent}{row.level}' if row.level else row.type or 'all'


def _escape_cell(text: str) -> str:
    """Escape what would end a cell or a line."""
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')
