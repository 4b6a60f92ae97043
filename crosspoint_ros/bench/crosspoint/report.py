"""Formats the scores of a grader as text, Markdown or JSON."""
from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from crosspoint_ros.bench.crosspoint.grading import OUTCOMES, AccuracyTable, Grader

MAX_NAMES = 12


def format_table(name: str, by: str, grader: Grader) -> str:
    """Format a score as text; by: 'corrected' or 'official', the rules to print."""
    rows = [f'{"":34}{"right":>13} {"share":>8}  95 % interval   no answer']
    for key, accuracy in getattr(grader, by).rows:
        low, high = accuracy.interval
        rows.append(f'{_format_key(key, "  "):34}{accuracy.correct:6} of {accuracy.total:4} '
                    f'{accuracy.share:8.2%}  {low:6.1%}..{high:6.1%} {accuracy.no_answer:9}')
    return '\n'.join([*filter(None, [grader.notice]),
                      f'{name}, {by} rules, coordinates {grader.coordinates}', *rows,
                      *_list_notes(grader)])


def format_markdown(name: str, by: str, grader: Grader) -> str:
    """Format a score as Markdown, with the idx of every reply on which the rules differ."""
    lines = [f'# CrossPoint-Bench: {_escape_cell(name)}', '',
             *([f'**{_escape_cell(grader.notice)}**', ''] if grader.notice else []),
             f'By the {by} rules; coordinates {grader.coordinates}.', '',
             '| | right | of | share | 95 % interval (Wilson) | no answer |',
             '|---|--:|--:|--:|--:|--:|']
    for key, accuracy in getattr(grader, by).rows:
        low, high = accuracy.interval
        lines.append(f'| {_escape_cell(_format_key(key, "— "))} | {accuracy.correct} | '
                     f'{accuracy.total} | {accuracy.share:.2%} | {low:.1%} to {high:.1%} | '
                     f'{accuracy.no_answer} |')
    lines += ['', *(f'* {_escape_cell(note)}' for note in _list_notes(grader))]
    if grader.differences:
        lines += ['', '## Items on which the rules differ', '',
                  _escape_cell(', '.join(map(str, grader.differences)))]
    if grader.issues:
        lines += ['', '## Faults of the input', '',
                  *(f'* {_escape_cell(str(issue))}' for issue in grader.issues)]
    return '\n'.join(lines) + '\n'


def format_json(name: str, by: str, grader: Grader) -> str:
    """Format both scores as JSON."""
    return json.dumps({
        'name': name, 'by': by, 'coordinates': grader.coordinates,
        'corrected': _table_to_json(grader.corrected), 'official': _table_to_json(grader.official),
        'official_stops': grader.official_crash, 'unanswered': grader.unanswered,
        'without_answer': grader.no_answer, 'faults': grader.check.list_faults(),
        'not_asked': grader.not_asked,
        'troubles': [asdict(issue) for issue in grader.issues],
        'differences': grader.differences}, indent=1, allow_nan=False)


def _table_to_json(table: AccuracyTable) -> list[dict[str, Any]]:
    return [{'type': ''.join(key[:1]), 'level': ''.join(key[1:]), 'right': accuracy.correct,
             'total': accuracy.total, 'no_answer': accuracy.no_answer,
             'share': accuracy.share if accuracy.total else None,
             'interval': accuracy.interval if accuracy.total else None}
            for key, accuracy in table.rows]


def _list_notes(grader: Grader) -> list[str]:
    names = list(map(str, grader.differences))
    notes = [f'{name} rules: {table.overall.correct} of {table.overall.total}, '
             f'{table.overall.share:.2%}'
             for name, table in (('corrected', grader.corrected), ('official', grader.official))]
    more = f' and {len(names) - MAX_NAMES} more' if len(names) > MAX_NAMES else ''
    notes.append(f'the rules differ on {len(names)} replies'
                 + (f': items {", ".join(names[:MAX_NAMES])}{more}' if names else ''))
    if grader.no_answer:
        notes.append('without an answer, and wrong: ' + ', '.join(
            f'{grader.no_answer[name]} {name} ({what})' for name, what in OUTCOMES.items()
            if name in grader.no_answer))
    notes += grader.check.list_faults()
    if grader.official_coordinates != grader.coordinates:
        notes.append(f'the official rules do not know {grader.coordinates}: scored as '
                     f'{grader.official_coordinates}')
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


def _format_key(key: tuple[str, ...], indent: str) -> str:
    return f'{indent}{key[1]}' if len(key) > 1 else ''.join(key) or 'all'


def _escape_cell(text: str) -> str:
    """Escape what would end a cell or a line."""
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')
