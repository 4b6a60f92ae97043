"""`crosspoint bench score`: score replies that somebody's script has written."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crosspoint_ros.bench.crosspoint.dataset import Trouble, read
from crosspoint_ros.bench.crosspoint.failures import draw_failures
from crosspoint_ros.bench.crosspoint.grading import Marking, mark
from crosspoint_ros.bench.crosspoint.report import as_json, markdown, report, table
from crosspoint_ros.bench.crosspoint.rules_corrected import COORDINATES
from crosspoint_ros.bench.environment import positive
from crosspoint_ros.data.io import write_whole


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
    parser.add_argument('--most-failures', type=positive, default=100, metavar='N',
                        help='how many are drawn (default: 100)')


def main(args: argparse.Namespace) -> int:
    """Score a file of replies; 1 if anything was wrong with what was given."""
    bench = read(args.bench) if args.bench else None
    marking = mark(args.replies, bench, args.coordinates, tell)
    return finish(args, args.replies.stem, marking, bench.images if bench else None)


def finish(args: argparse.Namespace, name: str, marking: Marking, images: Path | None) -> int:
    """Print the report, and write what else was asked for."""
    if not marking.theirs and not marking.ours:
        raise ValueError(f'{name}: there is not a single reply to score')
    told = report(name, 'official' if args.official else 'corrected', marking)
    print(_printable(table(told)))
    for path, text in ((args.json, as_json), (args.markdown, markdown)):
        if path:
            write_whole(path, text(told).encode('utf-8', 'backslashreplace'))
    if args.failures and images is None:
        raise ValueError('--failures needs the images: name their folder with --bench')
    if args.failures and images:
        count = draw_failures(marking.failures[:args.most_failures], images, args.coordinates,
                              args.failures)
        print(f'{count} of {len(marking.failures)} wrong answers are drawn in {args.failures}')
    return 1 if marking.troubles else 0


def _printable(text: str) -> str:
    """Write as \\u… what the terminal has no letters for, such as a half of an emoji."""
    coding = sys.stdout.encoding or 'utf-8'
    return text.encode(coding, 'backslashreplace').decode(coding)


def tell(trouble: Trouble) -> None:
    """Say at once what is wrong."""
    print(trouble, file=sys.stderr)
