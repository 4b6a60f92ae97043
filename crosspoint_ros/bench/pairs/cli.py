"""`crosspoint bench pairs`: scores a matcher on image pairs with ground truth."""
from __future__ import annotations

import argparse
import ast
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs import metrics, report
from crosspoint_ros.bench.pairs.dataset import LETTERS, SITUATIONS, InputConfig
from crosspoint_ros.bench.pairs.evaluate import Outcome, draw_failure, evaluate
from crosspoint_ros.bench.pairs.metrics import MatchingScore
from crosspoint_ros.bench.pairs.sources import (
    add_source_arguments,
    find_sets,
    open_source,
    parse_inputs,
)
from crosspoint_ros.core.datatypes import Code, Matcher, Refiner
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.matchers import MATCHERS, load_matcher, load_refiner, select_refiner

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--matcher', default='xfeat',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: xfeat)')
    parser.add_argument('--decided', choices=('human', 'model'), default='human',
                        help='logged answers to use: those a person accepted or corrected, or '
                             'unreviewed ones too (default: human)')
    parser.add_argument('--refine', default='none', metavar='MATCHER',
                        help='the matcher that refines its matches, or auto (default: none)')
    parser.add_argument('--max-angle', type=float, default=metrics.MAX_ANGLE_DEG, metavar='DEG',
                        help='largest viewing angle in the table by camera, which is printed for '
                             f'scenes with ground truth in 3D (default: {metrics.MAX_ANGLE_DEG:g})')
    parser.add_argument('--situation', action='append', default=[],
                        choices=(*LETTERS, *SITUATIONS, 'all'), metavar='NAME',
                        help='what the matcher gets, instead of --no-poses and the others: '
                             f'{", ".join(map(" or ".join, LETTERS.items()))} (noisy: '
                             '1 cm and 1 deg), or all; may be repeated')
    add_evaluation_arguments(parser, nargs='+')


def add_evaluation_arguments(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Declare the options of every command that evaluates a matcher on pairs."""
    add_source_arguments(parser, nargs)
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--limit', type=parse_positive, metavar='N',
                        help='evaluate the first N queries only')
    parser.add_argument('--markdown', type=Path, metavar='OUT', help='write the scores as Markdown')
    parser.add_argument('--failures', type=Path, metavar='FOLDER', help='draw every wrong answer '
                        'and every visible point that was refused')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write scores and outcomes')


@dataclass(frozen=True)
class EvaluationRun:
    """The outcomes of one set in one situation, and what was skipped."""

    name: str
    situation: str
    inputs: InputConfig
    outcomes: list[Outcome]
    skipped: int


def main(args: argparse.Namespace) -> int:
    """Evaluate and print the scores; 1 if data could not be used or the matcher always failed."""
    limits, situations = Limits(), parse_situations(args)
    with WarningCounter() as warnings:
        matcher = load_matcher(args.matcher, **parse_options(args.option))
        refined_by = select_refiner(args.matcher, args.refine)
        refiner = load_refiner(refined_by) if refined_by else None
        folders = find_sets(args.folder)
        is_only = len(folders) * len(situations) == 1
        runs = [evaluate_set(args, folder, situation, inputs, matcher, limits, refiner, is_only)
                for folder in folders for situation, inputs in situations.items()]
    scores: dict[str, dict[str, MatchingScore]] = {}
    for run in [*runs, *pool_runs(runs)]:
        scores.setdefault(run.name, {})[run.situation] = metrics.compute_score(
            run.outcomes, limits.sure_confidence, args.max_angle)
    queries = sum(len(run.outcomes) for run in runs)
    setup = ' '.join([args.matcher, *args.option, *([f'+ {refined_by}'] if refiner else [])])
    roll = '' if args.roll == '0' else f'; second image turned: {args.roll}'
    if is_only:
        only, score = runs[0], scores[runs[0].name][runs[0].situation]
        title = f'{only.name}, {queries} queries, {setup}, {describe_inputs(only.inputs)}{roll}'
        print(f'{title}\n{report.format_table(score)}')
        if score.by_camera:
            print(report.format_camera_table(score, args.max_angle))
        markdown = report.format_markdown(title, score)
    else:
        title = f'{queries} queries, {setup}{roll}'
        print(f'{title}\n{report.format_comparison(scores)}\n{report.DEFINITIONS}')
        markdown = report.format_comparison_markdown(title, scores)
    print(describe_machine())
    if skipped := sum(run.skipped for run in runs):
        print(f'skipped: {skipped} of {queries + skipped} queries, whose images cannot be read')
    if args.json:
        args.json.write_text(format_json(args, runs, scores, refined_by))
    if args.markdown:
        args.markdown.write_text(markdown)
    if args.failures:
        failures = sum(is_failure(outcome) for run in runs for outcome in run.outcomes)
        print(f'{failures} of {queries} answers are wrong, drawn in {args.failures}')
    for run in runs:
        if all(outcome.code == Code.MATCHER_FAILED for outcome in run.outcomes):
            log.error('the matcher failed on all %d queries, first with: %s', len(run.outcomes),
                      run.outcomes[0].message)
            return 1
    return warnings.exit_code


def evaluate_set(args: argparse.Namespace, folder: Path, situation: str, inputs: InputConfig,
                 matcher: Matcher, limits: Limits, refiner: Refiner | None,
                 is_only: bool) -> EvaluationRun:
    """Evaluate one set in one situation; unless it is the only run, its drawings are apart."""
    name = folder.resolve().name
    failures = args.failures if is_only or not args.failures else args.failures / name / situation
    source = open_source(args, inputs, args.decided == 'model', folder)
    outcomes, drawn = [], 0
    queries = tqdm(islice(source, args.limit), unit='query', disable=None,
                   desc=f'{name} {situation}'.strip(),
                   total=min(len(source), args.limit or len(source)))
    for query, outcome in evaluate(queries, matcher, limits, refiner):
        outcomes.append(outcome)
        if failures and is_failure(outcome):
            draw_failure(failures / f'{drawn:04}_pair_{query.pair}.png', query, outcome,
                         limits.sure_confidence)
            drawn += 1
    if not outcomes:
        raise ValueError(f'{folder}: none of its {len(source)} queries can be read')
    skipped = 0 if args.limit else len(source) - len(outcomes)
    return EvaluationRun(name, situation, inputs, outcomes, skipped)


def pool_runs(runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """Return the runs of all sets together, one for each situation; none for a single set."""
    pooled = []
    for situation in dict.fromkeys(run.situation for run in runs):
        same = [run for run in runs if run.situation == situation]
        outcomes: list[Outcome] = []
        for run in same:
            first = 1 + max((outcome.pair for outcome in outcomes), default=-1)
            outcomes += [replace(each, pair=first + each.pair) for each in run.outcomes]
        if len(same) > 1:
            pooled.append(EvaluationRun('all sets', situation, same[0].inputs, outcomes, 0))
    return pooled


def format_json(args: argparse.Namespace, runs: Sequence[EvaluationRun],
                scores: Mapping[str, Mapping[str, MatchingScore]], refined_by: str | None) -> str:
    """Return scores and outcomes as JSON: of a single run on the top level, of several in `runs`.

    `pooled`: the scores of all sets together, by situation.
    """
    each = [{'set': run.name, 'situation': run.situation, 'given': asdict(run.inputs),
             'score': asdict(scores[run.name][run.situation]),
             'outcomes': [asdict(outcome) for outcome in run.outcomes]} for run in runs]
    pooled = {situation: asdict(score)
              for situation, score in scores.get('all sets', {}).items()}
    return json.dumps({
        'machine': describe_machine(), 'matcher': args.matcher,
        'options': parse_options(args.option), 'refined_by': refined_by, 'roll': args.roll,
        **(each[0] if len(runs) == 1 else {'runs': each, 'pooled': pooled})}, indent=1)


def parse_situations(args: argparse.Namespace) -> dict[str, InputConfig]:
    """Return the situations to evaluate by name; a single one without a name if none is chosen."""
    if not args.situation:
        return {'': parse_inputs(args)}
    if parse_inputs(args) != InputConfig(seed=args.seed):
        raise ValueError('--situation defines what the matcher gets; leave out --no-poses, '
                         '--no-depth, --depth-of, --noise-cm and --noise-deg')
    chosen = {LETTERS.get(name, name) for name in args.situation}
    return {name: replace(inputs, seed=args.seed) for name, inputs in SITUATIONS.items()
            if name in chosen or 'all' in chosen}


def parse_options(assignments: list[str]) -> dict[str, Any]:
    """Parse KEY=VALUE as Python literals; what is not a literal, true or false is a string."""
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition('=')
        if not equals:
            raise SystemExit(f'--option takes KEY=VALUE, got {assignment!r}')
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = {'true': True, 'false': False}.get(value, value)  # as ROS spells them
    return parsed


def is_failure(outcome: Outcome) -> bool:
    """Return whether a visible point was refused or missed, or a hidden one accepted."""
    return outcome.accepted != outcome.visible or (
        outcome.visible and outcome.error_px > metrics.CORRECT_PX)


def describe_inputs(inputs: InputConfig) -> str:
    """Name what the matcher gets."""
    if not inputs.poses:
        return 'images and depth' if inputs.depth else 'images only'
    names = 'images, poses and depth' if inputs.depth else 'images and poses'
    if inputs.depth and inputs.depth_of != 'both':
        names += f' of the {inputs.depth_of} view'
    return (f'{names}; poses off by {inputs.noise_cm:g} cm, {inputs.noise_deg:g} deg, seed '
            f'{inputs.seed}')
