"""A score as a table, Markdown or JSON: what was left out, and where the two rules differ."""
from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from crosspoint_ros.bench.crosspoint.dataset import Trouble
from crosspoint_ros.bench.crosspoint.grading import Difference, Marking, Row, Score

MOST_NAMES = 12


@dataclass(frozen=True)
class Report:
    """All that is told of one set of replies. by: 'corrected' or 'official', which is shown."""

    name: str
    by: str
    coordinates: str
    corrected: Score
    official: Score
    official_stops: str
    unanswered: int
    not_asked: dict[str, int]
    troubles: tuple[Trouble, ...]
    differences: tuple[Difference, ...]

    @property
    def shown(self) -> Score:
        """The score of the rules that were chosen."""
        return self.official if self.by == 'official' else self.corrected


def report(name: str, by: str, marking: Marking) -> Report:
    """Gather what a marking has found."""
    ours, theirs = marking.scores()
    return Report(name, by, marking.coordinates, ours, theirs, marking.official_stops,
                  marking.unanswered, marking.not_asked, tuple(marking.troubles),
                  tuple(marking.differences))


def table(told: Report) -> str:
    """Lay a report out for people."""
    rows = [f'{"":34}{"right":>13} {"share":>8}  95 % interval   no answer']
    for row in told.shown.rows:
        low, high = row.tally.interval
        rows.append(f'{_name(row):34}{row.tally.right:6} of {row.tally.total:4} '
                    f'{row.tally.share:8.2%}  {low:6.1%}..{high:6.1%} {row.tally.no_answer:9}')
    return '\n'.join([f'{told.name}, {told.by} rules, coordinates {told.coordinates}', *rows,
                      *_notes(told), *_groups(told)])


def markdown(told: Report) -> str:
    """Write a report as Markdown, with every item on which the rules differ."""
    lines = [f'# CrossPoint-Bench: {_cell(told.name)}', '',
             f'By the {told.by} rules; coordinates {told.coordinates}.', '',
             '| | right | of | share | 95 % interval (Wilson) | no answer |',
             '|---|--:|--:|--:|--:|--:|']
    for row in told.shown.rows:
        low, high = row.tally.interval
        lines.append(f'| {_cell(_name(row, "— "))} | {row.tally.right} | {row.tally.total} | '
                     f'{row.tally.share:.2%} | {low:.1%} to {high:.1%} | {row.tally.no_answer} |')
    lines += ['', *(f'* {note}' for note in _notes(told))]
    if told.differences:
        lines += ['', '## Where the two sets of rules differ', '',
                  '| item | type | official | corrected | why |', '|---|---|---|---|---|']
        lines += [f'| {_cell(d.name)} | {_cell(d.type)} | '
                  f'{_said(d.official_answer, d.official_right)} | '
                  f'{_said(d.corrected_answer, d.corrected_right)} | {_cell(d.why)} |'
                  for d in told.differences]
    if told.troubles:
        lines += ['', '## What was wrong with the input', '',
                  *(f'* {_cell(str(trouble))}' for trouble in told.troubles)]
    return '\n'.join(lines) + '\n'


def as_json(told: Report) -> str:
    """Write a report as JSON."""
    return json.dumps({
        'name': told.name, 'by': told.by, 'coordinates': told.coordinates,
        'corrected': _scored(told.corrected), 'official': _scored(told.official),
        'official_stops': told.official_stops, 'unanswered': told.unanswered,
        'not_asked': told.not_asked, 'troubles': [asdict(each) for each in told.troubles],
        'differences': [asdict(each) for each in told.differences]}, indent=1, allow_nan=False)


def _scored(scored: Score) -> list[dict[str, Any]]:
    return [{'type': row.type, 'level': row.level, 'right': row.tally.right,
             'total': row.tally.total, 'no_answer': row.tally.no_answer,
             'share': row.tally.share if row.tally.total else None,
             'interval': row.tally.interval if row.tally.total else None} for row in scored.rows]


def _notes(told: Report) -> list[str]:
    notes = [f'{name} rules: {scored.overall.right} of {scored.overall.total}, '
             f'{scored.overall.share:.2%}'
             for name, scored in (('corrected', told.corrected), ('official', told.official))]
    in_score = sum(d.in_score for d in told.differences)
    notes.append(f'the two differ on {len(told.differences)} replies, in the score of {in_score}')
    if told.official_stops:
        notes.append("the authors' scripts give no figure for these replies: "
                     f'{told.official_stops}')
    for kind, count in sorted(told.not_asked.items()):
        notes.append(f'not asked: {count} of {kind}; they are in no figure')
    if told.unanswered:
        notes.append(f'without a reply: {told.unanswered}; wrong by the corrected rules, not there '
                     'by the official ones')
    if told.troubles:
        notes.append(f'wrong with the input: {len(told.troubles)}, each told of above or below')
    return notes


def _groups(told: Report) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for each in told.differences:
        groups[each.why].append(each.name)
    lines = []
    for why, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''
        lines.append(f'  {len(names):5}  {why}: {", ".join(names[:MOST_NAMES])}{more}')
    return lines


def _name(row: Row, indent: str = '  ') -> str:
    return f'{indent}{row.level}' if row.level else row.type or 'all'


def _said(answer: str, right: bool) -> str:
    return f'{_cell(answer)} {"right" if right else "wrong"}'


def _cell(text: str) -> str:
    """Keep a text from ending a cell, or a line."""
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')
