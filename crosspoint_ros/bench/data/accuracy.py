"""`crosspoint bench data`: what `data build` would say of points whose true place is known."""
from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from crosspoint_ros.bench.environment import machine
from crosspoint_ros.bench.pairs.dataset import Given, Item, ItemSet, Status
from crosspoint_ros.bench.pairs.metrics import wilson
from crosspoint_ros.bench.pairs.sources import STATUS, add_set_arguments, chosen_set
from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.data.io import Saying
from crosspoint_ros.data.qa.photometric import compare, look_of
from crosspoint_ros.data.qa.point_visibility import WORDS, Fate, place
from crosspoint_ros.data.qa.templates import Coordinates, unwritten, written

LIMITS_PX = (3.0, 12.0)


@dataclass(frozen=True, eq=False)
class Told:
    """What the builder says of a set. errors_px: of its answers, as the data set writes them.

    visibility: of every point that is not left out, whether visible or not was said rightly.
    """

    points: int
    errors_px: Array
    visibility: tuple[bool, ...]
    left_out: Counter[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_set_arguments(parser)
    parser.add_argument('--coordinates', choices=[c.value for c in Coordinates],
                        default=Coordinates.THOUSAND.value, help='how points are written and read '
                        'again (default: thousand)')


def main(args: argparse.Namespace) -> int:
    """Place every point by depth, and hold it against its truth; 1 if none could be, or read."""
    if args.noise_cm or args.noise_deg or args.no_depth or args.no_poses:
        raise ValueError('questions are built from depth and the poses as recorded: leave out '
                         '--noise-cm, --noise-deg, --no-depth and --no-poses')
    say = Saying('bench data')
    items = chosen_set(args, Given(), say)
    told = judge(items, Coordinates(args.coordinates))
    unread = len(items) - told.points
    print(f'{args.folder.name}, {told.points} points whose place is known'
          + (f', and {unread} whose images cannot be read' if unread else '')
          + f'\n{table(told)}\n{machine()}')
    return say.exit_code or int(not len(told.errors_px))


def judge(items: ItemSet, how: Coordinates) -> Told:
    """Place the points of a set pair by pair. A hidden one is not confirmed by a third view."""
    errors: list[float] = []
    visibility: list[bool] = []
    left_out: Counter[str] = Counter()
    number = 0
    for _, group in groupby(items, key=lambda item: item.pair):
        pair = list(group)
        number += len(pair)
        query = pair[0].query
        pixels = np.array([item.query.pixel for item in pair])
        placed = place(query.clicked, query.other, pixels)
        if problem := compare(look_of(query.clicked), query.other, pixels, placed):
            left_out[problem] += len(pair)
            continue
        for item, fate, pixel in zip(pair, placed.fate, placed.pixel, strict=True):
            if Fate(int(fate)) not in STATUS:
                left_out[WORDS[Fate(int(fate))]] += 1
                continue
            visible = item.status == Status.VISIBLE
            visibility.append((STATUS[Fate(int(fate))] == Status.VISIBLE) == visible)
            if fate == Fate.VISIBLE and visible:
                errors.append(_error_px(item, pixel, how))
    return Told(number, np.array(errors), tuple(visibility), left_out)


def _error_px(item: Item, pixel: Array, how: Coordinates) -> float:
    lens = item.query.other.intrinsics
    answer = unwritten(written(pixel, lens, how), (lens.width_px, lens.height_px), how)
    return float(np.linalg.norm(answer - item.truth))


def table(told: Told) -> str:
    """Lay it out for people."""
    lines = [_share(f'answers within {limit:g} px of the truth',
                    int((told.errors_px <= limit).sum()), len(told.errors_px))
             for limit in LIMITS_PX]
    if len(told.errors_px):
        lines.append(f'error of answers: median {np.median(told.errors_px):.2f} px, largest '
                     f'{told.errors_px.max():.2f} px')
    lines.append(_share('visible or not said rightly', sum(told.visibility),
                        len(told.visibility)))
    lines.append(f'left out as uncertain: {sum(told.left_out.values())} of {told.points}')
    return '\n'.join([*lines, *(f'  {number:6}  {reason}'
                                for reason, number in told.left_out.most_common())])


def _share(what: str, right: int, total: int) -> str:
    if not total:
        return f'{what}: none'
    low, high = wilson(right, total)
    return f'{what}: {right} of {total}, {right / total:.1%} ({low:.1%} to {high:.1%})'
