"""A score as a table, Markdown or JSON: what was left out, and where the two rules differ."""
from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from crosspoint_ros.bench.crosspoint.dataset import DataIssue
from crosspoint_ros.bench.crosspoint.grading import Difference, Grader, AccuracyRow, AccuracyTable

MOST_NAMES = 12


@dataclass(frozen=True)
class ScoreReport:
    """All that is told of one set of replies. by: 'corrected' or 'official', which is shown."""

    name: str
    by: str
    coordinates: str
    corrected: AccuracyTable
    official: AccuracyTable
    official_crash: str
    unanswered: int
    not_asked: dict[str, int]
    issues: tuple[DataIssue, ...]
    differences: tuple[Difference, ...]

    @property
    def selected(self) -> AccuracyTable:
        """The score of the rules that were chosen."""
        return self.official if self.by == 'official' else self.corrected


def build_report(name: str, by: str, grader: Grader) -> ScoreReport:
    """Gather what a marking has found."""
    ours, theirs = grader.build_tables()
    return ScoreReport(name, by, grader.coordinates, ours, theirs, grader.official_crash,
                  grader.unanswered, grader.not_asked, tuple(grader.issues),
                  tuple(grader.differences))


def format_table(report: ScoreReport) -> str:
    """Lay a report out for people."""
    rows = [f'{"":34}{"right":>13} {"share":>8}  95 % interval   no answer']
    for row in report.selected.rows:
        low, high = row.accuracy.interval
        rows.append(f'{_format_row_name(row):34}{row.accuracy.correct:6} of {row.accuracy.total:4} '
                    f'{row.accuracy.share:8.2%}  {low:6.1%}..{high:6.1%} {row.accuracy.no_answer:9}')
    return '\n'.join([f'{report.name}, {report.by} rules, coordinates {report.coordinates}', *rows,
                      *_list_notes(report), *_groups(report)])


def format_markdown(report: ScoreReport) -> str:
    """Write a report as Markdown, with every item on which the rules differ."""
    lines = [f'# CrossPoint-Bench: {_escape_cell(report.name)}', '',
             f'By the {report.by} rules; coordinates {report.coordinates}.', '',
             '| | right | of | share | 95 % interval (Wilson) | no answer |',
             '|---|--:|--:|--:|--:|--:|']
    for row in report.selected.rows:
        low, high = row.accuracy.interval
        lines.append(f'| {_escape_cell(_format_row_name(row, "— "))} | {row.accuracy.correct} | {row.accuracy.total} | '
                     f'{row.accuracy.share:.2%} | {low:.1%} to {high:.1%} | {row.accuracy.no_answer} |')
    lines += ['', *(f'* {note}' for note in _list_notes(report))]
    if report.differences:
        lines += ['', '## Where the two sets of rules differ', '',
                  '| item | type | official | corrected | why |', '|---|---|---|---|---|']
        lines += [f'| {_escape_cell(d.name)} | {_escape_cell(d.type)} | '
                  f'{_said(d.official_answer, d.official_right)} | '
                  f'{_said(d.corrected_answer, d.corrected_right)} | {_escape_cell(d.why)} |'
                  for d in report.differences]
    if report.issues:
        lines += ['', '## What was wrong with the input', '',
                  *(f'* {_escape_cell(str(trouble))}' for trouble in report.issues)]
    return '\n'.join(lines) + '\n'


def format_json(report: ScoreReport) -> str:
    """Write a report as JSON."""
    return json.dumps({
        'name': report.name, 'by': report.by, 'coordinates': report.coordinates,
        'corrected': _table_to_json(report.corrected), 'official': _table_to_json(report.official),
        'official_stops': report.official_crash, 'unanswered': report.unanswered,
        'not_asked': report.not_asked, 'troubles': [asdict(each) for each in report.issues],
        'differences': [asdict(each) for each in report.differences]}, indent=1, allow_nan=False)


def _table_to_json(table: AccuracyTable) -> list[dict[str, Any]]:
    return [{'type': row.type, 'level': row.level, 'right': row.accuracy.correct,
             'total': row.accuracy.total, 'no_answer': row.accuracy.no_answer,
             'share': row.accuracy.share if row.accuracy.total else None,
             'interval': row.accuracy.interval if row.accuracy.total else None} for row in table.rows]


def _list_notes(report: ScoreReport) -> list[str]:
    notes = [f'{name} rules: {scored.overall.correct} of {scored.overall.total}, '
             f'{scored.overall.share:.2%}'
             for name, scored in (('corrected', report.corrected), ('official', report.official))]
    in_score = sum(d.in_score for d in report.differences)
    notes.append(f'the two differ on {len(report.differences)} replies, in the score of {in_score}')
    if report.official_crash:
        notes.append("the authors' scripts give no figure for these replies: "
                     f'{report.official_crash}')
    for kind, count in sorted(report.not_asked.items()):
        notes.append(f'not asked: {count} of {kind}; they are in no figure')
    if report.unanswered:
        notes.append(f'without a reply: {report.unanswered}; wrong by the corrected rules, not there '
                     'by the official ones')
    if report.issues:
        notes.append(f'wrong with the input: {len(report.issues)}, each told of above or below')
    return notes


def _groups(told: ScoreReport) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for each in told.differences:
        groups[each.why].append(each.name)
    lines = []
    for why, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''
        lines.append(f'  {len(names):5}  {why}: {", ".join(names[:MOST_NAMES])}{more}')
    return lines


def _format_row_name(row: AccuracyRow, indent: str = '  ') -> str:
    return f'{indent}{row.level}' if row.level else row.type or 'all'


def _said(answer: str, right: bool) -> str:
    return f'{_escape_cell(answer)} {"right" if right else "wrong"}'


def _escape_cell(text: str) -> str:
    """Keep a text from ending a cell, or a line."""
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')
