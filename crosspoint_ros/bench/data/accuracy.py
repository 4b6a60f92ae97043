"""`crosspoint bench data`: what `data build` would say of points whose true place is known."""
from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.pairs.dataset import InputConfig, LabelledQuery, PairSource, Status
from crosspoint_ros.bench.pairs.metrics import wilson_interval
from crosspoint_ros.bench.pairs.sources import STATUS, add_source_arguments, open_source
from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.data.qa.photometric import reject_shifted_points, make_flow_reference
from crosspoint_ros.data.qa.point_visibility import REASONS, Visibility, project_points
from crosspoint_ros.data.qa.templates import Coordinates, decode_point, encode_point

LIMITS_PX = (3.0, 12.0)


@dataclass(frozen=True, eq=False)
class BuildAccuracy:
    """What the builder says of a set. errors_px: of its answers, as the data set writes them.

    visibility: of every point that is not left out, whether visible or not was said rightly.
    """

    points: int
    errors_px: Array
    visibility_correct: tuple[bool, ...]
    skipped: Counter[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_source_arguments(parser)
    parser.add_argument('--coordinates', choices=[c.value for c in Coordinates],
                        default=Coordinates.THOUSAND.value, help='how points are written and read '
                        'again (default: thousand)')


def main(args: argparse.Namespace) -> int:
    """Place every point by depth, and hold it against its truth; 1 if none could be, or read."""
    if args.noise_cm or args.noise_deg or args.no_depth or args.no_poses:
        raise ValueError('questions are built from depth and the poses as recorded: leave out '
                         '--noise-cm, --noise-deg, --no-depth and --no-poses')
    say = WarningCounter('bench data')
    items = open_source(args, InputConfig(), say)
    told = measure_accuracy(items, Coordinates(args.coordinates))
    unread = len(items) - told.points
    print(f'{args.folder.name}, {told.points} points whose place is known'
          + (f', and {unread} whose images cannot be read' if unread else '')
          + f'\n{format_table(told)}\n{describe_machine()}')
    return say.exit_code or int(not len(told.errors_px))


def measure_accuracy(queries: PairSource, coordinates: Coordinates) -> BuildAccuracy:
    """Place the points of a set pair by pair. A hidden one is not confirmed by a third view."""
    errors: list[float] = []
    visibility: list[bool] = []
    left_out: Counter[str] = Counter()
    number = 0
    for _, group in groupby(queries, key=lambda item: item.pair):
        pair = list(group)
        number += len(pair)
        query = pair[0].query
        pixels = np.array([item.query.pixel for item in pair])
        projected = project_points(query.clicked, query.other, pixels)
        if problem := reject_shifted_points(make_flow_reference(query.clicked), query.other, pixels, projected):
            left_out[problem] += len(pair)
            continue
        for item, kind, pixel in zip(pair, projected.visibility, projected.pixels, strict=True):
            if Visibility(int(kind)) not in STATUS:
                left_out[REASONS[Visibility(int(kind))]] += 1
                continue
            visible = item.status == Status.VISIBLE
            visibility.append((STATUS[Visibility(int(kind))] == Status.VISIBLE) == visible)
            if kind == Visibility.VISIBLE and visible:
                errors.append(_measure_error_px(item, pixel, coordinates))
    return BuildAccuracy(number, np.array(errors), tuple(visibility), left_out)


def _measure_error_px(query: LabelledQuery, pixel: Array, coordinates: Coordinates) -> float:
    lens = query.query.other.intrinsics
    answer = decode_point(encode_point(pixel, lens, coordinates), (lens.width_px, lens.height_px), coordinates)
    return float(np.linalg.norm(answer - query.ground_truth))


def format_table(accuracy: BuildAccuracy) -> str:
    """Lay it out for people."""
    lines = [_format_share(f'answers within {limit:g} px of the truth',
                    int((accuracy.errors_px <= limit).sum()), len(accuracy.errors_px))
             for limit in LIMITS_PX]
    if len(accuracy.errors_px):
        lines.append(f'error of answers: median {np.median(accuracy.errors_px):.2f} px, largest '
                     f'{accuracy.errors_px.max():.2f} px')
    lines.append(_format_share('visible or not said rightly', sum(accuracy.visibility_correct),
                        len(accuracy.visibility_correct)))
    lines.append(f'left out as uncertain: {sum(accuracy.skipped.values())} of {accuracy.points}')
    return '\n'.join([*lines, *(f'  {number:6}  {reason}'
                                for reason, number in accuracy.skipped.most_common())])


def _format_share(what: str, correct: int, total: int) -> str:
    if not total:
        return f'{what}: none'
    low, high = wilson_interval(correct, total)
    return f'{what}: {correct} of {total}, {correct / total:.1%} ({low:.1%} to {high:.1%})'
