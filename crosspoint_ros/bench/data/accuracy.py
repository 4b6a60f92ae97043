"""`crosspoint bench data`: measures the labels of `data build` against ground truth."""
from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.pairs.dataset import InputConfig, LabelledQuery, PairSource
from crosspoint_ros.bench.pairs.metrics import wilson_interval
from crosspoint_ros.bench.pairs.sources import add_source_arguments, open_source
from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.data.qa.photometric import FlowReference, reject_shifted_points
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.qa.questions import Coordinates, decode_point, encode_point

LIMITS_PX = (3.0, 12.0)
CERTAIN = (Visibility.VISIBLE, Visibility.OCCLUDED, Visibility.OUTSIDE)


@dataclass(frozen=True, eq=False)
class BuildAccuracy:
    """The accuracy of the builder's labels.

    errors_px: of visible points, as the data set writes them. visibility_correct: for each point
    that is not skipped.
    """

    points: int
    errors_px: Array
    visibility_correct: tuple[bool, ...]
    skipped: Counter[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_source_arguments(parser)
    parser.add_argument('--coordinates', choices=[c.value for c in Coordinates],
                        default=Coordinates.THOUSAND.value, help='format in which points are '
                        'written and read back (default: thousand)')


def main(args: argparse.Namespace) -> int:
    """Project every point by depth and compare; 1 if none could be, or data was unusable."""
    if args.noise_cm or args.noise_deg or args.no_depth or args.no_poses:
        raise ValueError('questions are built from depth and the recorded poses: leave out '
                         '--noise-cm, --noise-deg, --no-depth and --no-poses')
    with WarningCounter() as warnings:
        source = open_source(args, InputConfig())
        accuracy = measure_accuracy(source, Coordinates(args.coordinates))
    unread = len(source) - accuracy.points
    print(f'{args.folder.name}, {accuracy.points} points with ground truth'
          + (f', and {unread} whose images cannot be read' if unread else '')
          + f'\n{format_table(accuracy)}\n{describe_machine()}')
    return warnings.exit_code or int(not len(accuracy.errors_px))


def measure_accuracy(source: PairSource, coordinates: Coordinates) -> BuildAccuracy:
    """Project the points pair by pair, without the third view that confirms occlusions."""
    errors_px: list[float] = []
    visibility_correct: list[bool] = []
    skipped: Counter[str] = Counter()
    points = 0
    queries = tqdm(source, total=len(source), unit='point', disable=None)
    for _, group in groupby(queries, key=lambda labelled: labelled.pair):
        pair = list(group)
        points += len(pair)
        query = pair[0].query
        pixels = np.array([labelled.query.pixel for labelled in pair])
        projected = project_points(query.clicked, query.other, pixels)
        if reason := reject_shifted_points(FlowReference.from_view(query.clicked), query.other,
                                           pixels, projected):
            skipped[reason] += len(pair)
            continue
        for labelled, code, pixel in zip(pair, projected.visibility, projected.pixels,
                                         strict=True):
            visibility = Visibility(int(code))
            if visibility not in CERTAIN:
                skipped[visibility.reason] += 1
                continue
            visible = labelled.visibility == Visibility.VISIBLE
            visibility_correct.append((visibility == Visibility.VISIBLE) == visible)
            if visibility == Visibility.VISIBLE and visible:
                errors_px.append(_measure_error_px(labelled, pixel, coordinates))
    return BuildAccuracy(points, np.array(errors_px), tuple(visibility_correct), skipped)


def _measure_error_px(labelled: LabelledQuery, pixel: Array, coordinates: Coordinates) -> float:
    intrinsics = labelled.query.other.intrinsics
    answer = decode_point(encode_point(pixel, intrinsics, coordinates),
                          (intrinsics.width_px, intrinsics.height_px), coordinates)
    return float(np.linalg.norm(answer - labelled.ground_truth))


def format_table(accuracy: BuildAccuracy) -> str:
    """Format the figures as text."""
    errors_px, correct = accuracy.errors_px, accuracy.visibility_correct
    lines = [_format_share(f'answers within {limit:g} px of the ground truth',
                           int((errors_px <= limit).sum()), len(errors_px)) for limit in LIMITS_PX]
    if len(errors_px):
        lines.append(f'error of answers: median {np.median(errors_px):.2f} px, largest '
                     f'{errors_px.max():.2f} px')
    lines.append(_format_share('visibility correct', sum(correct), len(correct)))
    lines.append(f'skipped as uncertain: {sum(accuracy.skipped.values())} of {accuracy.points}')
    return '\n'.join([*lines, *(f'  {number:6}  {reason}'
                                for reason, number in accuracy.skipped.most_common())])


def _format_share(label: str, correct: int, total: int) -> str:
    if not total:
        return f'{label}: none'
    low, high = wilson_interval(correct, total)
    return f'{label}: {correct} of {total}, {correct / total:.1%} ({low:.1%} to {high:.1%})'
