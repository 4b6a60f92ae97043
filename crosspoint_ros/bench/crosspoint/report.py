"""Formats the scores of a grader as text, Markdown or JSON."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from crosspoint_ros.bench.crosspoint.grading import OUTCOMES, Accuracy, AccuracyTable, Grader
from crosspoint_ros.bench.pairs.metrics import Z_95

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


def measure_paired_difference(first: Sequence[bool], second: Sequence[bool]
                              ) -> tuple[float, float, float]:
    """Return the share right of the second minus that of the first on the same items, with its
    95 % interval; NaN of none.

    D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data, 2012.
    """
    n = len(first)
    if not n:
        return math.nan, math.nan, math.nan
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    p_gained, p_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z_95 * math.sqrt((p_gained + p_lost - (p_gained - p_lost) ** 2) / (n + 2))
    centre = p_gained - p_lost
    return (gained - lost) / n, max(centre - half, -1.0), min(centre + half, 1.0)


def compare_graders(graders: Mapping[str, Grader], by: str) -> list[dict[str, Any]]:
    """Return a row for each type and level and each name: its score, and how it differs from the
    first on the items that both were asked."""
    rows = []
    first = next(iter(graders.values()))
    results = [result for grader in graders.values() for result in grader.results.values()]
    keys = sorted({(r.kind, r.level)[:depth] for r in results for depth in range(3)})
    for key in keys:
        for name, grader in graders.items():
            mine = {k: r for k, r in grader.results.items() if (r.kind, r.level)[:len(key)] == key}
            right = Accuracy(sum(getattr(r, by) for r in mine.values()), len(mine))
            common = [k for k in mine if k in first.results]
            difference = measure_paired_difference(
                [getattr(first.results[k], by) for k in common],
                [getattr(mine[k], by) for k in common])
            took_s = sorted(r.took_s for r in mine.values() if r.took_s == r.took_s)
            tokens = [r.tokens for r in mine.values() if r.tokens]
            rows.append({
                'type': ''.join(key[:1]), 'level': ''.join(key[1:]), 'name': name,
                'right': right.correct, 'total': right.total, 'common': len(common),
                'share': right.share if mine else None,
                'interval': right.interval if mine else None,
                'difference': difference if common and grader is not first else None,
                'seconds': took_s[len(took_s) // 2] if took_s else None,
                'tokens': sum(tokens) / len(tokens) if tokens else None})
    return rows


def format_comparison(graders: Mapping[str, Grader], by: str, as_markdown: bool = False) -> str:
    """Format several scores as one table, with what is wrong with each."""
    cells = [['', 'of', 'right', 'share', '95 % interval', 'minus the first', '95 % interval',
              's', 'tokens']]
    for row in compare_graders(graders, by):
        key = (row['type'], row['level']) if row['level'] else (row['type'],) * bool(row['type'])
        low, high = row['interval'] or (math.nan, math.nan)
        change = row['difference']
        cells.append([
            _format_key(key, '  '), row['name'], f'{row["right"]} of {row["total"]}',
            f'{row["share"]:.1%}' if row['total'] else '-',
            f'{low:.1%}..{high:.1%}' if row['total'] else '-',
            f'{change[0]:+.1%} of {row["common"]}' if change else '-',
            f'{change[1]:+.1%}..{change[2]:+.1%}' if change else '-',
            '-' if row['seconds'] is None else f'{row["seconds"]:.2f}',
            '-' if row['tokens'] is None else f'{row["tokens"]:.0f}'])
    notes = [f'{name}: {note}' for name, grader in graders.items() for note in _list_notes(grader)]
    title = (f'{by} rules, coordinates {next(iter(graders.values())).coordinates}; s: median time '
             'of an item; tokens: mean of a reply')
    if as_markdown:
        lines = [f'| {" | ".join(map(_escape_cell, row))} |' for row in cells]
        return '\n'.join([f'# CrossPoint-Bench, {title}', '', lines[0],
                          '|---' * len(cells[0]) + '|', *lines[1:], '',
                          *(f'* {_escape_cell(note)}' for note in notes)]) + '\n'
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return '\n'.join([title, *('  '.join(cell.ljust(width) for cell, width in zip(
        row, widths, strict=True)).rstrip() for row in cells), *notes])


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
