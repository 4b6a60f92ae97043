"""`crosspoint bench pairs`: scores a matcher on image pairs with ground truth."""
from __future__ import annotations

import argparse
import ast
import json
import logging
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs import metrics
from crosspoint_ros.bench.pairs.dataset import InputConfig
from crosspoint_ros.bench.pairs.evaluate import Outcome, draw_failure, evaluate
from crosspoint_ros.bench.pairs.metrics import MatchingScore, PointAccuracy
from crosspoint_ros.bench.pairs.sources import add_source_arguments, open_source, parse_inputs
from crosspoint_ros.core.datatypes import Code
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
    add_evaluation_arguments(parser)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command that evaluates a matcher on pairs."""
    add_source_arguments(parser)
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--limit', type=parse_positive, metavar='N',
                        help='evaluate the first N queries only')
    parser.add_argument('--markdown', type=Path, metavar='OUT', help='write the scores as Markdown')
    parser.add_argument('--failures', type=Path, metavar='FOLDER', help='draw every wrong answer '
                        'and every visible point that was refused')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write scores and outcomes')


def main(args: argparse.Namespace) -> int:
    """Evaluate and print the scores; 1 if data could not be used or the matcher always failed."""
    inputs, limits = parse_inputs(args), Limits()
    with WarningCounter() as warnings:
        matcher = load_matcher(args.matcher, **parse_options(args.option))
        source = open_source(args, inputs, args.decided == 'model')
        refined_by = select_refiner(args.matcher, args.refine)
        refiner = load_refiner(refined_by) if refined_by else None
        outcomes, failures = [], 0
        queries = tqdm(islice(source, args.limit), unit='query', disable=None,
                       total=min(len(source), args.limit or len(source)))
        for query, outcome in evaluate(queries, matcher, limits, refiner):
            outcomes.append(outcome)
            if args.failures and is_failure(outcome):
                draw_failure(args.failures / f'{failures:04}_pair_{query.pair}.png', query, outcome,
                             limits.sure_confidence)
                failures += 1
    if not outcomes:
        raise ValueError(f'{args.folder}: none of its {len(source)} queries can be read')
    score = metrics.compute_score(outcomes, limits.sure_confidence, args.max_angle)
    setup = ' '.join([args.matcher, *args.option, *([f'+ {refined_by}'] if refiner else [])])
    roll = '' if args.roll == '0' else f'; second image turned: {args.roll}'
    title = f'{args.folder.name}, {len(outcomes)} queries, {setup}, {describe_inputs(inputs)}{roll}'
    print(f'{title}\n{format_table(score)}')
    if score.by_camera:
        print(format_camera_table(score, args.max_angle))
    print(describe_machine())
    if args.limit is None and len(outcomes) < len(source):
        print(f'skipped: {len(source) - len(outcomes)} of {len(source)} queries, whose images '
              'cannot be read')
    if args.json:
        args.json.write_text(json.dumps({
            'machine': describe_machine(), 'matcher': args.matcher,
            'options': parse_options(args.option), 'refined_by': refined_by,
            'given': asdict(inputs), 'score': asdict(score),
            'outcomes': [asdict(outcome) for outcome in outcomes]}, indent=1))
    if args.markdown:
        args.markdown.write_text(format_markdown(title, score))
    if args.failures:
        print(f'{failures} of {len(outcomes)} answers are wrong, drawn in {args.failures}')
    if all(outcome.code == Code.MATCHER_FAILED for outcome in outcomes):
        log.error('the matcher failed on all %d queries, first with: %s', len(outcomes),
                  outcomes[0].message)
        return 1
    return warnings.exit_code


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
    return (f'{names}; poses off by {inputs.noise_cm:g} cm, {inputs.noise_deg:g} deg, seed '
            f'{inputs.seed}')


def format_table(score: MatchingScore) -> str:
    """Format the scores as text."""
    limits = ' '.join(f'{f"@{px:g} px":>8}' for px in metrics.PCK_PX)
    intervals = ' '.join(f'{f"{low:.0%}-{high:.0%}":>8}'
                         for low, high in compute_pck_intervals(score.overall))
    return '\n'.join([
        f'visible points   number {limits}   median',
        *(f'{name:16} {accuracy.points:6} '
          f'{" ".join(f"{share:8.1%}" for share in accuracy.pck)} {accuracy.median_px:5.1f} px'
          for name, accuracy in list_accuracies(score)),
        f'{"95 % interval":23} {intervals}', *format_summary(score)])


def format_camera_table(score: MatchingScore, max_angle_deg: float) -> str:
    """Format the scores by camera as text, a column for each."""
    near = f'within {metrics.CAMERA_PX:g} px'
    labels = (f'viewing angle up to {max_angle_deg:g} deg', 'visible points',
              f'  accepted, {near}', '  accepted', '  error of accepted, median',
              f'  sure answers, {near}', 'hidden points', '  accepted', '3D error, median',
              '3D error, 90th percentile')
    columns = [(camera, f'{s.visible}', _format_share(s.near_share),
                _format_share(s.accepted_share), f'{s.error_px_median:.1f} px',
                _format_share(s.sure_near_share), f'{s.hidden}',
                _format_share(s.hidden_accepted_share), f'{s.error_3d_mm_median:.1f} mm',
                f'{s.error_3d_mm_p90:.1f} mm') for camera, s in score.by_camera.items()]
    width = max(map(len, labels)) + 2
    return '\n'.join(f'{label:{width}}' + ''.join(f'{cell:>10}' for cell in cells)
                     for label, *cells in zip(labels, *columns, strict=True))


def _format_share(share: float) -> str:
    return f'{100 * share:.1f} %'


def list_accuracies(score: MatchingScore) -> list[tuple[str, PointAccuracy]]:
    """Return the accuracy of each viewing angle, roll and turn, by name, and of all."""
    turns = score.by_turn if score.by_turn['0'].points < score.overall.points else {}
    return [*((f'{name} deg', one) for name, one in sorted(score.by_bin.items()) if one.points),
            *((f'roll {name}', one) for name, one in score.by_roll.items() if one.points),
            *((f'turned {name}', one) for name, one in turns.items() if one.points),
            ('all', score.overall)]


def compute_pck_intervals(accuracy: PointAccuracy) -> list[tuple[float, float]]:
    """Return Wilson's 95 % interval of each share."""
    return [metrics.wilson_interval(round(share * accuracy.points), accuracy.points)
            for share in accuracy.pck]


def format_summary(score: MatchingScore) -> list[str]:
    """Return the lines below the table."""
    return [
        f'accepted: {score.accepted_visible:.1%} of the visible points, '
        f'{score.accepted_hidden:.1%} of the others; {score.accepted_precision:.1%} are right',
        f'sure: {score.sure_share:.1%} of the visible points; '
        f'{score.sure_precision:.1%} are right',
        f'precision at 90 % recall {score.precision_at_recall:.1%}, '
        f'visibility AUROC {score.visibility_auroc:.3f}',
        f'refused: {", ".join(f"{code} {n}" for code, n in score.refusals.items()) or "none"}',
        *([f'not scored: {score.unclickable} clicks that the robot refuses (masked or outside)']
          if score.unclickable else []),
        f'squared Mahalanobis error of right answers, median {score.mahalanobis2_median:.2f} '
        '(1.39 if covariances are calibrated)',
        f'first click on a pair {score.first_ms:.0f} ms, another {score.again_ms:.1f} ms '
        '(medians)']


def format_markdown(name: str, score: MatchingScore) -> str:
    """Format the scores as Markdown."""
    limits = ' | '.join(f'within {px:g} px' for px in metrics.PCK_PX)
    lines = [f'# {name}', '', f'| visible points | number | {limits} | median |',
             '|---|--:|' + '--:|' * (len(metrics.PCK_PX) + 1)]
    for label, one in list_accuracies(score):
        cells = ' | '.join(f'{share:.1%} ({low:.1%} to {high:.1%})' for share, (low, high) in zip(
            one.pck, compute_pck_intervals(one), strict=True))
        lines.append(f'| {label} | {one.points} | {cells} | {one.median_px:.1f} px |')
    return '\n'.join([*lines, '', "In brackets: Wilson's 95 % interval.", '',
                      *(f'* {line}' for line in [*format_summary(score), describe_machine()]), ''])
