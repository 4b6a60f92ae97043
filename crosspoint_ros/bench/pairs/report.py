"""Formats the scores of `crosspoint bench pairs` as text and Markdown."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.pairs import metrics
from crosspoint_ros.bench.pairs.metrics import Interval, MatchingScore, PointAccuracy, TargetScore

DEFINITIONS = """\
In brackets: 95 % interval, of resampled image pairs. Right: visible, and within 20 px of the ground
truth. Normalised: e' C^-1 e / 3 of the target's error e and its position's covariance C: 1 if
calibrated, above it overconfident. Errors in 3D are those in the frame of the clicked camera; the
truth is the depth of the click where the data has no other, so that they say little of a target
that was lifted by that same depth."""


def format_table(score: MatchingScore) -> str:
    """Format the scores as text."""
    limits = ' '.join(f'{f"@{px:g} px":>8}' for px in metrics.PCK_PX)
    intervals = ' '.join(f'{f"{low:.0%}-{high:.0%}":>8}'
                         for low, high in score.overall.intervals)
    return '\n'.join([
        f'visible points   number {limits}   median',
        *(f'{name:16} {accuracy.points:6} '
          f'{" ".join(f"{share:8.1%}" for share in accuracy.pck)} {accuracy.median_px:5.1f} px'
          for name, accuracy in list_accuracies(score)),
        f'{"95 % interval":23} {intervals}', *format_summary(score)])


def format_camera_table(score: MatchingScore, max_angle_deg: float) -> str:
    """Format the scores by camera as text, a column for each."""
    near = f'within {metrics.CAMERA_PX:g} px'
    labels = (f'viewing angle up to {max_angle_deg:g} deg', 'visible points',
              f'  accepted, {near}', '  accepted', '  error of accepted, median',
              f'  sure answers, {near}', 'hidden points', '  accepted', '3D error, median',
              '3D error, 90th percentile')
    columns = [(camera, f'{s.visible}', _format_share(s.near_share),
                _format_share(s.accepted_share), f'{s.error_px_median:.1f} px',
                _format_share(s.sure_near_share), f'{s.hidden}',
                _format_share(s.hidden_accepted_share), f'{s.error_3d_mm_median:.1f} mm',
                f'{s.error_3d_mm_p90:.1f} mm') for camera, s in score.by_camera.items()]
    width = max(map(len, labels)) + 2
    return '\n'.join(f'{label:{width}}' + ''.join(f'{cell:>10}' for cell in cells)
                     for label, *cells in zip(labels, *columns, strict=True))


def _format_share(share: float) -> str:
    return f'{100 * share:.1f} %'


def list_accuracies(score: MatchingScore) -> list[tuple[str, PointAccuracy]]:
    """Return the accuracy of each viewing angle, roll and turn, by name, and of all."""
    turns = score.by_turn if score.by_turn['0'].points < score.overall.points else {}
    return [*((f'{name} deg', one) for name, one in sorted(score.by_bin.items()) if one.points),
            *((f'roll {name}', one) for name, one in score.by_roll.items() if one.points),
            *((f'turned {name}', one) for name, one in turns.items() if one.points),
            ('all', score.overall)]


def format_summary(score: MatchingScore) -> list[str]:
    """Return the lines below the table."""
    return [
        f'accepted: {score.accepted_visible:.1%} of the visible points, '
        f'{score.accepted_hidden:.1%} of the others; {score.accepted_precision:.1%} are right',
        f'sure: {score.sure_share:.1%} of the visible points; '
        f'{score.sure_precision:.1%} of {score.sure} are right',
        f'precision at 90 % recall {score.precision_at_recall:.1%}, '
        f'visibility AUROC {score.visibility_auroc:.3f}',
        *format_targets(score.targets),
        f'refused: {", ".join(f"{code} {n}" for code, n in score.refusals.items()) or "none"}',
        *([f'not scored: {score.unclickable} clicks that the robot refuses (masked or outside)']
          if score.unclickable else []),
        f'squared Mahalanobis error of right answers, median {score.mahalanobis2_median:.2f} '
        '(1.39 if covariances are calibrated)',
        f'first click on a pair {score.first_ms:.0f} ms, another {score.again_ms:.1f} ms '
        '(medians)']


def format_targets(targets: TargetScore) -> list[str]:
    """Return a line about the published targets, if the place of any is known."""
    if not targets.number:
        return []
    return [f'3D targets: {targets.number}, off by {targets.error_mm_median:.1f} mm (median), '
            f'{targets.error_mm_p90:.1f} mm (90th percentile), {targets.far_share:.1%} by more '
            f'than {metrics.PLACE_MM / 10:g} cm; normalised error squared '
            f'{targets.normalised_squared:.2f} (1 if calibrated; median '
            f'{targets.normalised_squared_median:.2f}, 0.79 if so); of {targets.sure} sure ones '
            f'{targets.sure_right:.1%} are right in pixel and place']


def format_markdown(name: str, score: MatchingScore) -> str:
    """Format the scores as Markdown."""
    limits = ' | '.join(f'within {px:g} px' for px in metrics.PCK_PX)
    lines = [f'# {name}', '', f'| visible points | number | {limits} | median |',
             '|---|--:|' + '--:|' * (len(metrics.PCK_PX) + 1)]
    for label, one in list_accuracies(score):
        cells = ' | '.join(f'{share:.1%} ({low:.1%} to {high:.1%})' for share, (low, high) in zip(
            one.pck, one.intervals, strict=True))
        lines.append(f'| {label} | {one.points} | {cells} | {one.median_px:.1f} px |')
    return '\n'.join([*lines, '', "In brackets: 95 % interval, of resampled image pairs.", '',
                      *(f'* {line}' for line in [*format_summary(score), describe_machine()]), ''])


def list_measures(score: MatchingScore) -> list[tuple[str, str]]:
    """Return name and value of everything that a table of several runs shows."""
    near = metrics.PCK_PX.index(metrics.CORRECT_PX)
    bins = [*((f'{name} deg', one) for name, one in sorted(score.by_bin.items())),
            *((f'roll {name}', one) for name, one in score.by_roll.items())]
    targets = score.targets

    def share(of: MatchingScore | TargetScore, field: str) -> str:
        return format_percent(getattr(of, field), of.intervals[field])

    def figure(field: str) -> str:
        return format_figure(getattr(targets, field), targets.intervals[field])

    return [
        ('visible / hidden points', f'{score.overall.points} / {score.hidden}'),
        *((f'  within {px:g} px', format_percent(value, interval)) for px, value, interval in zip(
            metrics.PCK_PX, score.overall.pck, score.overall.intervals, strict=True)),
        *((f'  within {metrics.CORRECT_PX:g} px, {name}',
           format_percent(one.pck[near], one.intervals[near])) for name, one in bins if one.points),
        ('answered: of visible', share(score, 'accepted_visible')),
        ('answered: of hidden', share(score, 'accepted_hidden')),
        ('right: of answered', share(score, 'accepted_precision')),
        ('SURE, number', f'{score.sure}'),
        ('SURE: right', share(score, 'sure_precision')),
        ('SURE: covers of visible', share(score, 'sure_share')),
        ('3D targets, number', f'{targets.number}'),
        ('  off, median, mm', figure('error_mm_median')),
        ('  off, 90th percentile, mm', figure('error_mm_p90')),
        (f'  more than {metrics.PLACE_MM / 10:g} cm off', share(targets, 'far_share')),
        ('  normalised squared, mean', figure('normalised_squared')),
        ('  normalised squared, median', figure('normalised_squared_median')),
        ('SURE targets, number', f'{targets.sure}'),
        ('  right in pixel and place', share(targets, 'sure_right')),
        ('first click / another, ms', f'{score.first_ms:.0f} / {score.again_ms:.1f}')]


def format_comparison(runs: Mapping[str, Mapping[str, MatchingScore]]) -> str:
    """Format the scores of several runs as text, a block for each set, a column for each run."""
    return '\n\n'.join('\n'.join(
        ''.join(f'{cell:{30 if column == 0 else ">23"}}' for column, cell in enumerate(row))
        for row in _collect_rows(name, scores)) for name, scores in runs.items())


def format_comparison_markdown(title: str, runs: Mapping[str, Mapping[str, MatchingScore]]) -> str:
    """Format the scores of several runs as Markdown, a table for each set."""
    lines = [f'# {title}']
    for name, scores in runs.items():
        head, *rows = _collect_rows(name, scores)
        lines += ['', _format_markdown_row(head), '|---|' + '--:|' * len(scores),
                  *map(_format_markdown_row, rows)]
    return '\n'.join([*lines, '', DEFINITIONS, '', describe_machine(), ''])


def _format_markdown_row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cell.strip() for cell in cells)} |'


def _collect_rows(name: str, scores: Mapping[str, MatchingScore]) -> list[list[str]]:
    """Return the rows of the table of a set, the head first."""
    columns = [dict(list_measures(score)) for score in scores.values()]
    return [[name, *scores],
            *([label, *(column[label] for column in columns)] for label in columns[0])]


def format_percent(share: float, interval: Interval) -> str:
    """Format a share 0..1 with its interval, in percent."""
    if share != share:
        return '-'
    return f'{100 * share:.1f} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})'


def format_figure(value: float, interval: Interval) -> str:
    """Format a figure with its interval."""
    return '-' if value != value else f'{value:.3g} ({interval[0]:.2g}-{interval[1]:.2g})'
