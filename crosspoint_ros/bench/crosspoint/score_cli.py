"""`crosspoint bench score`: scores a file of replies to CrossPoint-Bench."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crosspoint_ros.bench.crosspoint.dataset import read_bench
from crosspoint_ros.bench.crosspoint.failures import draw_failures
from crosspoint_ros.bench.crosspoint.grading import Grader, grade_file
from crosspoint_ros.bench.crosspoint.report import format_json, format_markdown, format_table
from crosspoint_ros.bench.crosspoint.rules_corrected import COORDINATES
from crosspoint_ros.bench.environment import parse_positive
from crosspoint_ros.core.image_io import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('replies', type=Path, metavar='REPLIES.jsonl',
                        help='a JSON object per line: the item and the reply as `assistant`')
    parser.add_argument('--bench', type=Path, metavar='DIR', help='the folder with '
                        'CrossPoint-Bench.jsonl and image/; without it, lines hold whole items')
    add_score_arguments(parser)


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of scoring and its reports."""
    parser.add_argument('--official', action='store_true', help="print the score by the authors' "
                        'rules (default: by the corrected ones)')
    parser.add_argument('--coordinates', choices=COORDINATES, default='relative_1000',
                        metavar='FORMAT', help='format of points in the replies: '
                        f'{", ".join(COORDINATES)} (default: relative_1000)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the report as JSON')
    parser.add_argument('--markdown', type=Path, metavar='OUT', help='write it as Markdown')
    parser.add_argument('--failures', type=Path, metavar='FOLDER', help='draw wrong answers with '
                        'the mask, at most --most-failures')
    parser.add_argument('--most-failures', type=parse_positive, default=100, metavar='N',
                        help='drawings of wrong answers (default: 100)')


def main(args: argparse.Namespace) -> int:
    """Score a file of replies; 1 if the input has any fault."""
    bench = read_bench(args.bench) if args.bench else None
    grader = grade_file(args.replies, bench, args.coordinates)
    if bench is None or not bench.images.is_dir():
        grader.notice = 'without the images ' + (
            '(--bench was not given)' if bench is None else f'({bench.images} is missing)') + \
            ': sizes are those of the masks, or of the lines; the official rules read pixels else'
    return write_report(args, args.replies.stem, grader, bench.images if bench else None)


def write_report(args: argparse.Namespace, name: str, grader: Grader, images: Path | None) -> int:
    """Print the report, and write the files that were asked for."""
    if not grader.official.overall.total + grader.corrected.overall.total:
        raise ValueError(f'{name} has no reply to score')
    by = 'official' if args.official else 'corrected'
    encoding = sys.stdout.encoding or 'utf-8'  # which may not have half of a surrogate pair
    print(format_table(name, by, grader).encode(encoding, 'backslashreplace').decode(encoding))
    for path, format_report in ((args.json, format_json), (args.markdown, format_markdown)):
        if path:
            text = format_report(name, by, grader)
            atomic_write(path, text.encode('utf-8', 'backslashreplace'))
    if args.failures and images is None:
        raise ValueError('--failures needs the images: give their folder with --bench')
    if args.failures and images:
        count = draw_failures(grader.failures[:args.most_failures], images, args.coordinates,
                              args.failures)
        print(f'{count} of {len(grader.failures)} wrong answers are drawn in {args.failures}')
    return 1 if grader.issues else 0
