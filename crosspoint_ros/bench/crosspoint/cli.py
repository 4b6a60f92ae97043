"""`crosspoint bench crosspoint`: ask CrossPoint-Bench of a matcher or a model, and score it."""
from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from crosspoint_ros.bench.crosspoint.backends import Answerer, ByCheckpoint, ByMatcher, ByServer
from crosspoint_ros.bench.crosspoint.dataset import CrossPointBench, BenchItem, DataIssue, read_bench
from crosspoint_ros.bench.crosspoint.grading import Grader
from crosspoint_ros.bench.crosspoint.predictions import PredictionReader
from crosspoint_ros.bench.crosspoint.runner import Kept, Ran, ask_all
from crosspoint_ros.bench.crosspoint.score_cli import add_score_arguments, write_report, tell
from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.cli import parse_options
from crosspoint_ros.matchers import MATCHERS, load_matcher

ASKED_OF_A_SERVER = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, metavar='DIR',
                        help='of CrossPoint-Bench.jsonl and image/')
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument('--matcher', help=f'{", ".join(MATCHERS)}, or module:Class: asked for points, '
                                       'never for options')
    who.add_argument('--checkpoint', metavar='FOLDER', help='a CroPond or Qwen2.5-VL on this '
                                                            'machine, asked in words')
    who.add_argument('--model', metavar='URL', help='an OpenAI-compatible server, up to and with '
                                                    '/v1, asked in words')
    parser.add_argument('--model-name', default='', help='its name there (default: the only one)')
    parser.add_argument('--key-env', default='CROSSPOINT_API_KEY', metavar='NAME', help='the '
                        'environment variable of its key (default: CROSSPOINT_API_KEY)')
    parser.add_argument('--deadline-s', type=float, default=120.0, metavar='S',
                        help='the longest a reply of a server may take (default: 120)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='of the matcher, or device, weights, max_pixels of the checkpoint')
    parser.add_argument('--at-once', type=parse_positive, metavar='N', help='items under way at a time '
                        f'(default: {ASKED_OF_A_SERVER} of a server, else 1)')
    parser.add_argument('--replies', type=Path, metavar='FILE', help='where the raw replies are '
                        'kept, and a run that was ended goes on (default: '
                        'crosspoint_replies/<who>.jsonl)')
    parser.add_argument('--limit', type=parse_positive, metavar='N', help='ask the first N items only')
    add_score_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Ask what has no reply yet, and score all there are; 1 if anything was wrong."""
    bench = read_bench(args.folder)
    for trouble in bench.issues:
        tell(trouble)
    items = bench.items[:args.limit]
    at_once = args.at_once or (ASKED_OF_A_SERVER if args.model else 1)
    answerer, who = chosen(args, at_once)
    path = args.replies or Path('crosspoint_replies') / f'{file_name(who)}.jsonl'
    with Kept(path, who) as kept:
        try:
            ran = ask_all(bench, items, answerer, kept, at_once, tell)
        except KeyboardInterrupt:
            print(kept.told, file=sys.stderr)
            raise
    print(f'{ran.asked} items asked, {ran.known} had their reply, {len(ran.not_asked)} not asked, '
          f'{len(ran.bad)} without their images, {len(ran.failed)} failed; {path}\n{describe_machine()}')
    marking = marked(args, bench, items, path, ran)
    return write_report(args, who, marking, bench.images)


def chosen(args: argparse.Namespace, at_once: int) -> tuple[Answerer, str]:
    """Load whoever is to be asked; say who it is."""
    given = ' '.join(args.option)
    if args.matcher:
        matcher = load_matcher(args.matcher, **parse_options(args.option))
        return ByMatcher(matcher, args.coordinates), f'{args.matcher} {given}'.strip()
    if args.checkpoint:
        try:
            checkpoint = ByCheckpoint(args.checkpoint, **parse_options(args.option))
        except TypeError as error:
            raise ValueError(f'--option of a checkpoint is device, weights or max_pixels: '
                             f'{error}') from error
        return checkpoint, f'{Path(args.checkpoint).resolve()} {given}'.strip()
    server = ByServer(args.model, args.model_name, args.key_env, args.deadline_s, at_once)
    return server, f'{server.model} on {args.model}'


def file_name(who: str) -> str:
    """Write a name that files can have; of two that come out alike each keeps its own."""
    return f'{re.sub("[^A-Za-z0-9]+", "_", who)[-60:].strip("_")}_' \
           f'{hashlib.sha256(who.encode()).hexdigest()[:6]}'


def marked(args: argparse.Namespace, bench: CrossPointBench, items: Sequence[BenchItem], path: Path, ran: Ran
           ) -> Grader:
    """Mark the replies of the chosen items."""
    wanted = {item.key for item in items}
    marking = Grader(bench.images, args.coordinates, tell)
    marking.issues += [replace(trouble, ends_official='') for trouble in bench.issues]
    marking.issues += [*(trouble for _, trouble in ran.bad), *ran.failed]
    for reply in PredictionReader(path, bench):
        if isinstance(reply, DataIssue):
            marking.add_issue(reply)
        elif reply.item is None or reply.item.key in wanted:
            marking.add(reply)
    for item, _ in ran.not_asked:
        marking.count_not_asked(item.type)
    return marking
