"""`crosspoint bench score`: score replies that somebody's script has written."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crosspoint_ros.bench.crosspoint.dataset import DataIssue, read_bench
from crosspoint_ros.bench.crosspoint.failures import draw_failures
from crosspoint_ros.bench.crosspoint.grading import Grader, grade_file
from crosspoint_ros.bench.crosspoint.report import format_json, format_markdown, build_report, format_table
from crosspoint_ros.bench.crosspoint.rules_corrected import COORDINATES
from crosspoint_ros.bench.environment import parse_positive
from crosspoint_ros.data.io import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('replies', type=Path, metavar='REPLIES.jsonl',
                        help='a line of JSON for each reply: the item, and `assistant`')
    parser.add_argument('--bench', type=Path, metavar='DIR', help='the folder of '
                        'CrossPoint-Bench.jsonl and image/; without it the lines must hold all')
    add_score_arguments(parser)


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say how replies are scored and what is written of it."""
    parser.add_argument('--official', action='store_true', help="show the score by the authors' "
                        'own rules, oddities included (default: the corrected ones)')
    parser.add_argument('--coordinates', choices=COORDINATES, default='relative_1000',
                        help='how the replies write points (default: relative_1000)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write the report there as JSON')
    parser.add_argument('--markdown', type=Path, metavar='OUT', help='and there as Markdown')
    parser.add_argument('--failures', type=Path, metavar='FOLDER', help='draw wrong answers into '
                        'that folder, with the mask: at most --most-failures')
    parser.add_argument('--most-failures', type=parse_positive, default=100, metavar='N',
                        help='how many are drawn (default: 100)')


def main(args: argparse.Namespace) -> int:
    """Score a file of replies; 1 if anything was wrong with what was given."""
    bench = read_bench(args.bench) if args.bench else None
    marking = grade_file(args.replies, bench, args.coordinates, tell)
    return write_report(args, args.replies.stem, marking, bench.images if bench else None)


def write_report(args: argparse.Namespace, name: str, grader: Grader, images: Path | None) -> int:
    """Print the report, and write what else was asked for."""
    if not grader.official and not grader.corrected:
        raise ValueError(f'{name}: there is not a single reply to score')
    told = build_report(name, 'official' if args.official else 'corrected', grader)
    print(_escape_unprintable(format_table(told)))
    for path, text in ((args.json, format_json), (args.markdown, format_markdown)):
        if path:
            atomic_write(path, text(told).encode('utf-8', 'backslashreplace'))
    if args.failures and images is None:
        raise ValueError('--failures needs the images: name their folder with --bench')
    if args.failures and images:
        count = draw_failures(grader.failures[:args.most_failures], images, args.coordinates,
                              args.failures)
        print(f'{count} of {len(grader.failures)} wrong answers are drawn in {args.failures}')
    return 1 if grader.issues else 0


def _escape_unprintable(text: str) -> str:
    """Write as \\u… what the terminal has no letters for, such as a half of an emoji."""
    coding = sys.stdout.encoding or 'utf-8'
    return text.encode(coding, 'backslashreplace').decode(coding)


def tell(trouble: DataIssue) -> None:
    """Say at once what is wrong."""
    print(trouble, file=sys.stderr)
