"""What the trials of `crosspoint bench pick` come to, as lines."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from crosspoint_ros.bench.pairs.metrics import wilson_interval
from crosspoint_ros.bench.pick.trial import PickOutcome


def summarize(outcomes: Sequence[PickOutcome]) -> list[str]:
    """Return the figures, and the failures by their cause."""
    answered = [each for each in outcomes if not each.refusal]
    picked = [each for each in answered if each.is_picked]
    lines = [f'answered {format_share(len(answered), len(outcomes))} of the clicks that both '
             'cameras show',
             f'picked {format_share(len(picked), len(answered))} of the answered',
             f'another object picked: {sum(each.is_wrong for each in answered)} of {len(outcomes)}']
    if unclear := sum(bool(each.unclear) for each in answered):
        lines.append(f'closed at the click, of an unclear shape: {unclear}')
    if unused := sum(bool(each.unused) for each in answered):
        lines.append(f'a further look was not used: {unused}')
    for what, values, unit in (
            ('target to clicked point', [1000 * each.off_m for each in answered], 'mm'),
            ('jaws to the direction across the object', [
                float(np.degrees(each.turned_rad)) for each in answered], 'deg'),
            ('width along the closing direction', [
                1000 * abs(each.width_off_m) for each in answered], 'mm off'),
            ('click to answer', [each.answer_s for each in outcomes], 's'),
            ('click to closed fingers', [each.grasp_s for each in answered], 's')):
        lines += _format_spread(what, values, unit)
    causes = Counter(each.cause for each in outcomes if each.cause)
    return lines + [f'not picked, {cause}: {count}' for cause, count in causes.most_common()]


def _format_spread(what: str, values: Iterable[float], unit: str) -> list[str]:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return []
    return [f'{what}: median {np.median(known):.1f} {unit}, p90 {np.percentile(known, 90):.1f}, '
            f'at most {max(known):.1f}']


def format_share(count: int, of: int) -> str:
    """Return a count with its share and the 95 % interval of that."""
    low, high = wilson_interval(count, of)
    return (f'{count} of {of} ({100 * count / max(of, 1):.0f} %, {100 * low:.0f} to '
            f'{100 * high:.0f})')
