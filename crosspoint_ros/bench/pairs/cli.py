"""`crosspoint bench pairs`: score a matcher on a folder of real pairs."""
from __future__ import annotations

import argparse
import ast
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.dataset import InputConfig, LabelledQuery
from crosspoint_ros.bench.pairs.evaluate import Outcome, Wrong, exit_code_if_all_failed, draw_wrong, evaluate_queries
from crosspoint_ros.bench.pairs.metrics import PCK_PX, CORRECT_PX, PointAccuracy, MatchingScore, compute_score, wilson_interval
from crosspoint_ros.bench.pairs.sources import add_source_arguments, parse_inputs, open_source
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.matchers import MATCHERS, load_matcher, load_refiner, select_refiner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--matcher', default='xfeat',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: xfeat)')
    parser.add_argument('--decided', choices=('human', 'model'), default='human',
                        help='of recorded answers: those that people accepted or corrected, or '
                             'also those that nobody reviewed (default: human)')
    parser.add_argument('--refine', default='none', metavar='MATCHER',
                        help='the matcher that refines its finds, or auto (default: none)')
    add_evaluation_arguments(parser)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command has that asks a matcher the questions of a set."""
    add_source_arguments(parser)
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--limit', type=parse_positive, metavar='N',
                        help='ask the first N questions only')
    parser.add_argument('--markdown', type=Path, metavar='OUT', help='write the scores there as '
                        'Markdown')
    parser.add_argument('--failures', type=Path, metavar='FOLDER', help='draw every answer that is '
                        'wrong, and every visible point that was refused')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write scores and outcomes there')


def main(args: argparse.Namespace) -> int:
    """Run it and print its scores; 1 if something could not be used, or the matcher failed."""
    given = parse_inputs(args)
    limits, say = Limits(), WarningCounter('bench pairs')
    matcher = load_matcher(args.matcher, **parse_options(args.option))
    items = open_source(args, given, say, args.decided == 'model')
    refined_by = select_refiner(args.matcher, args.refine)
    refiner = load_refiner(refined_by) if refined_by else None
    outcomes, wrong = [], 0
    for item, outcome in evaluate_queries(islice(items, args.limit), matcher, limits, refiner):
        outcomes.append(outcome)
        if args.failures and is_failure(outcome):
            path = args.failures / f'{wrong:04}_pair_{item.pair}.png'
            draw_wrong(path, wrong_of(item, outcome), 'clicked', item.bin)
            wrong += 1
    if not outcomes:
        raise ValueError(f'{args.folder}: not one of its {len(items)} questions can be asked')
    scored = compute_score(outcomes, limits.sure_confidence)
    told = ' '.join([args.matcher, *args.option, *([f'+ {refined_by}'] if refiner else [])])
    title = f'{args.folder.name}, {len(outcomes)} queries, {told}, {describe_inputs(given)}'
    print(f'{title}\n{format_table(scored)}\n{describe_machine()}')
    if args.limit is None and len(outcomes) < len(items):
        print(f'left out: {len(items) - len(outcomes)} of {len(items)} questions, whose images '
              'cannot be read')
    if args.json:
        args.json.write_text(json.dumps({
            'machine': describe_machine(), 'matcher': args.matcher, 'options': parse_options(args.option),
            'refined_by': refined_by,
            'given': asdict(given), 'score': asdict(scored),
            'outcomes': [asdict(outcome) for outcome in outcomes]}, indent=1))
    if args.markdown:
        args.markdown.write_text(format_markdown(title, scored))
    if args.failures:
        print(f'{wrong} of {len(outcomes)} answers are wrong, and are drawn in {args.failures}')
    return exit_code_if_all_failed([(o.code, o.message) for o in outcomes]) or say.exit_code


def parse_options(assignments: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE; a value that is no Python literal and not true or false stays a string."""
    found: dict[str, Any] = {}
    for pair in assignments:
        key, equals, value = pair.partition('=')
        if not equals:
            raise SystemExit(f'--option takes KEY=VALUE, got {pair!r}')
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {'true': True, 'false': False}.get(value, value)  # as ROS writes them
    return found


def is_failure(outcome: Outcome) -> bool:
    """Tell whether a visible point was refused or missed, or another one answered."""
    if outcome.visible:
        return not (outcome.accepted and outcome.error_px <= CORRECT_PX)
    return outcome.accepted


def wrong_of(item: LabelledQuery, outcome: Outcome) -> Wrong:
    """Return a failure as it is drawn."""
    return Wrong(item.query.clicked, item.query.pixel, item.query.other,
                 item.ground_truth if outcome.visible else None,
                 outcome.found_px if outcome.accepted else None,
                 f'confidence {outcome.confidence:.2f}', outcome.message, outcome.error_px)


def describe_inputs(inputs: InputConfig) -> str:
    """Say what the matcher was told."""
    if not inputs.poses:
        return 'images and depth' if inputs.depth else 'images only'
    told = 'images, poses and depth' if inputs.depth else 'images and poses'
    return f'{told}; poses off by {inputs.noise_cm:g} cm, {inputs.noise_deg:g} deg, seed {inputs.seed}'


def format_table(score: MatchingScore) -> str:
    """Lay the scores out for people."""
    limits = ' '.join(f'{f"@{px:g} px":>8}' for px in PCK_PX)
    intervals = ' '.join(f'{f"{low:.0%}-{high:.0%}":>8}' for low, high in compute_pck_intervals(score.overall))
    return '\n'.join([
        f'visible points   number {limits}   median',
        *(_format_row(name, one) for name, one in list_accuracies(score)), f'{"95 % interval":23} {intervals}',
        *format_summary(score)])


def list_accuracies(score: MatchingScore) -> list[tuple[str, PointAccuracy]]:
    """The scores of each viewing angle, by name, and of all."""
    return [*((f'{name} deg', one) for name, one in sorted(score.by_bin.items()) if one.points),
            ('all', score.overall)]


def compute_pck_intervals(accuracy: PointAccuracy) -> list[tuple[float, float]]:
    """How far the shares within each distance can be trusted: Wilson's 95 % intervals."""
    return [wilson_interval(round(share * accuracy.points), accuracy.points) for share in accuracy.pck]


def format_summary(score: MatchingScore) -> list[str]:
    """What is told besides distances."""
    return [
        f'accepted: {score.accepted_visible:.1%} of the visible points, '
        f'{score.accepted_hidden:.1%} of the others; {score.accepted_precision:.1%} are right',
        f'sure: {score.sure_share:.1%} of the visible points; '
        f'{score.sure_precision:.1%} are right',
        f'precision at 90 % recall {score.precision_at_recall:.1%}, '
        f'visibility AUROC {score.visibility_auroc:.3f}',
        f'refused: {", ".join(f"{code} {n}" for code, n in score.refusals.items()) or "none"}',
        f'squared Mahalanobis error of right answers, median {score.mahalanobis2_median:.2f} '
        '(1.39 if covariances are true)',
        f'first click on a pair {score.first_ms:.0f} ms, another {score.again_ms:.1f} ms '
        '(medians)']


def format_markdown(name: str, score: MatchingScore) -> str:
    """Lay the scores out as Markdown."""
    limits = ' | '.join(f'within {px:g} px' for px in PCK_PX)
    lines = [f'# {name}', '', f'| visible points | number | {limits} | median |',
             '|---|--:|' + '--:|' * (len(PCK_PX) + 1)]
    for label, one in list_accuracies(score):
        cells = ' | '.join(f'{share:.1%} ({low:.1%} to {high:.1%})' for share, (low, high) in zip(
            one.pck, compute_pck_intervals(one), strict=True))
        lines.append(f'| {label} | {one.points} | {cells} | {one.median_px:.1f} px |')
    return '\n'.join([*lines, '', "In brackets: Wilson's 95 % interval.", '',
                      *(f'* {line}' for line in [*format_summary(score), describe_machine()]), ''])


def _format_row(name: str, accuracy: PointAccuracy) -> str:
    shares = ' '.join(f'{share:8.1%}' for share in accuracy.pck)
    return f'{name:16} {accuracy.points:6} {shares} {accuracy.median_px:5.1f} px'


if __name__ == '__main__':
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(main(_parser.parse_args()))
