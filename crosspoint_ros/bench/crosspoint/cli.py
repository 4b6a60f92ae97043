"""`crosspoint bench crosspoint`: runs CrossPoint-Bench on a matcher or a model, and scores it."""
from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
from pathlib import Path

from crosspoint_ros.bench.crosspoint import backends
from crosspoint_ros.bench.crosspoint.dataset import CrossPointBench, read_bench
from crosspoint_ros.bench.crosspoint.grading import Grader, grade_file
from crosspoint_ros.bench.crosspoint.report import compare_graders, format_comparison
from crosspoint_ros.bench.crosspoint.rules_corrected import COORDINATES
from crosspoint_ros.bench.crosspoint.runner import PredictionFile, run_items
from crosspoint_ros.bench.crosspoint.score_cli import add_score_arguments, write_report
from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.cli import parse_options
from crosspoint_ros.core.image_io import atomic_write
from crosspoint_ros.data.io import describe_files, read_version
from crosspoint_ros.matchers import MATCHERS, load_matcher

log = logging.getLogger(__name__)
SERVER_CONCURRENCY = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, metavar='DIR',
                        help='folder with CrossPoint-Bench.jsonl and image/')
    parser.add_argument('--matcher', action='append', default=[],
                        help=f'{", ".join(MATCHERS)}, or module:Class; answers items that ask for '
                        'a point. This and the next two may be repeated: one table compares them')
    parser.add_argument('--checkpoint', metavar='FOLDER', action='append', default=[],
                        help='a local CroPond or Qwen2.5-VL; answers every item')
    parser.add_argument('--model', metavar='URL', action='append', default=[],
                        help='an OpenAI-compatible server, the URL ending in /v1; answers every '
                        'item')
    parser.add_argument('--model-name', action='append', default=[],
                        help='the name of the model on the server (default: the only one); once '
                        'for each --model')
    parser.add_argument('--key-env', default='CROSSPOINT_API_KEY', metavar='NAME', help='the '
                        'environment variable of the API key (default: CROSSPOINT_API_KEY)')
    parser.add_argument('--deadline-s', type=float, default=120.0, metavar='S',
                        help='timeout of a reply from the server (default: 120)')
    parser.add_argument('--max-wait-s', type=float, default=backends.MAX_WAIT_S, metavar='S',
                        help='longest pause of an item for an overloaded server (429, 503), '
                        f'which may request one (default: {backends.MAX_WAIT_S:g})')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher, or of the checkpoint: device, weights, '
                        'max_pixels; may be repeated')
    parser.add_argument('--at-once', type=parse_positive, metavar='N', help='concurrent items '
                        f'(default: {SERVER_CONCURRENCY} with a server, else 1)')
    parser.add_argument('--replies', type=Path, metavar='FILE', help='raw replies; an interrupted '
                        'run resumes from them (default: crosspoint_replies/<backend>.jsonl)')
    parser.add_argument('--limit', type=parse_positive, metavar='N',
                        help='run the first N items only')
    add_score_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the items without a reply, and score all replies; 1 if anything was wrong."""
    bench = read_bench(args.folder)
    selected = split_backends(args)
    runs = {}
    for one in selected:
        source, grader, is_complete = run_backend(one, bench)
        runs[source] = (grader, is_complete)
    all_complete = all(is_complete for _, is_complete in runs.values())
    graders = {source: grader for source, (grader, _) in runs.items()}
    if len(selected) == 1:
        return write_report(args, *next(iter(graders.items())), bench.images) or int(
            not all_complete)
    by = 'official' if args.official else 'corrected'
    print(format_comparison(graders, by))
    if args.markdown:
        atomic_write(args.markdown, format_comparison(graders, by, as_markdown=True).encode())
    if args.json:
        atomic_write(args.json, json.dumps({'by': by, 'rows': compare_graders(graders, by)},
                                           indent=1).encode())
    return int(not all_complete or any(grader.issues for grader in graders.values()))


def split_backends(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the arguments of each backend alone. Raises ValueError for none, or one twice."""
    names = args.model_name or [''] * len(args.model)
    chosen = [*(('matcher', value, '') for value in args.matcher),
              *(('checkpoint', value, '') for value in args.checkpoint),
              *(('model', value, name) for value, name in zip(args.model, names, strict=False))]
    if not chosen or len(set(chosen)) != len(chosen) or len(names) != len(args.model):
        raise ValueError('give --matcher, --checkpoint or --model, each different one once, and '
                         '--model-name not at all or once for each --model')
    if len(chosen) > 1 and (args.replies or args.failures):
        raise ValueError('--replies and --failures are of one matcher or model')
    return [argparse.Namespace(**{**vars(args), 'matcher': '', 'checkpoint': '', 'model': '',
                                  kind: value, 'model_name': name})
            for kind, value, name in chosen]


def run_backend(args: argparse.Namespace, bench: CrossPointBench) -> tuple[str, Grader, bool]:
    """Ask one backend; return its name, the grades of its replies, and whether the run ended."""
    items = bench.items[:args.limit]
    at_once = args.at_once or (SERVER_CONCURRENCY if args.model else 1)
    backend, source = load_backend(args)
    state = describe_state(args)
    path = args.replies or Path(
        'crosspoint_replies', f'{re.sub("[^A-Za-z0-9]+", "_", source)[-60:].strip("_")}_'
        f'{hashlib.sha256(source.encode()).hexdigest()[:6]}.jsonl')
    with PredictionFile(path, source, state) as predictions:
        try:
            summary = run_items(bench, items, backend, predictions, at_once)
        except KeyboardInterrupt:
            log.warning('%s', predictions.resume_hint)
            raise
    print(f'{summary.asked} items asked, {summary.reused} had their reply, '
          f'{len(summary.not_asked)} not asked, {len(summary.unreadable)} without their images, '
          f'{len(summary.failed)} failed; {path}\n{describe_machine()}')
    grader = grade_file(path, bench, args.coordinates, items)
    grader.issues += summary.unreadable
    if summary.stopped:
        log.error('%s; %s', summary.stopped, predictions.resume_hint)
    return source, grader, not summary.stopped


def load_backend(args: argparse.Namespace) -> tuple[backends.AnswerBackend, str]:
    """Return the selected backend and its name."""
    options = ' '.join(args.option)
    if args.matcher:
        backend = backends.MatcherBackend(
            load_matcher(args.matcher, **parse_options(args.option)), args.coordinates)
        unit = '' if args.coordinates == COORDINATES[0] else f'--coordinates {args.coordinates}'
        return backend, ' '.join(filter(None, (args.matcher, options, unit)))
    if args.checkpoint:
        try:
            checkpoint = backends.CheckpointBackend(args.checkpoint, **parse_options(args.option))
        except TypeError as error:
            raise ValueError(f'--option of a checkpoint is device, weights or max_pixels: '
                             f'{error}') from error
        return checkpoint, f'{Path(args.checkpoint).resolve()} {options}'.strip()
    server = backends.ServerBackend(args.model, args.model_name, args.key_env, args.deadline_s,
                                    args.max_wait_s)
    return server, f'{server.model} on {args.model}'


def describe_state(args: argparse.Namespace) -> str:
    """Return what else decides the replies: our version and the files given; '' of a server."""
    if args.model:
        return ''
    paths = [Path(option.partition('=')[2]) for option in args.option]
    paths += [Path(args.checkpoint)] if args.checkpoint else []
    files = {str(path): describe_files(path) for path in paths if path.exists()}
    content = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]
    return f'{read_version()}, files {content if files else "none"}'
