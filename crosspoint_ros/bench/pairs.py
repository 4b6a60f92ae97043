"""`crosspoint bench pairs`: score a matcher on a folder of real pairs."""
from __future__ import annotations

import argparse
import ast
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.items import Given, PairSet, read_mask
from crosspoint_ros.bench.machine import machine, positive
from crosspoint_ros.bench.recorded import RecordedSet
from crosspoint_ros.bench.run import blame_failure, run
from crosspoint_ros.bench.score import PCK_PX, Accuracy, Score, score
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.recording import ANSWERS
from crosspoint_ros.matchers import MATCHERS, load_matcher, load_refiner, refiner_of

MASK = 'gripper_mask.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--matcher', default='xfeat',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: xfeat)')
    parser.add_argument('--decided', choices=('human', 'model'), default='human',
                        help='of recorded answers: those that people accepted or corrected, or '
                             'also those that nobody reviewed (default: human)')
    parser.add_argument('--refine', default='none', metavar='MATCHER',
                        help='the matcher that refines its finds, or auto (default: none)')
    add_set_arguments(parser)


def add_set_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which set is asked, and what of it the matcher is told."""
    parser.add_argument('folder', type=Path, help='index.json, queries.npz and frames/; for bench '
                                                     'pairs, or what record_dir named')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--noise-cm', type=float, default=0.0, help='error of the poses, cm')
    parser.add_argument('--noise-deg', type=float, default=0.0, help='error of the poses, deg')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: 0)')
    parser.add_argument('--no-depth', action='store_true', help='keep the depth to yourself')
    parser.add_argument('--no-poses', action='store_true', help='keep the poses to yourself')
    parser.add_argument('--mask', type=Path, help="the robot's own body, white "
                                                  f'(default: {MASK} of the folder, if there)')
    parser.add_argument('--no-mask', action='store_true', help='use no mask')
    parser.add_argument('--limit', type=positive, metavar='N',
                        help='ask the first N questions only')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write scores and outcomes there')


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and print its scores."""
    given = chosen_given(args)
    limits = Limits()
    matcher = load_matcher(args.matcher, **options(args.option))
    items = chosen_set(args, given)
    refined_by = refiner_of(args.matcher, args.refine)
    refiner = load_refiner(refined_by) if refined_by else None
    outcomes = list(run(islice(items, args.limit), matcher, limits, refiner))
    scored = score(outcomes, limits.sure_confidence)
    told = ' '.join([args.matcher, *args.option, *([f'+ {refined_by}'] if refiner else [])])
    print(f'{args.folder.name}, {len(outcomes)} queries, {told}, {described(given)}\n'
          f'{table(scored)}\n{machine()}')
    if args.json:
        args.json.write_text(json.dumps({
            'machine': machine(), 'matcher': args.matcher, 'options': options(args.option),
            'refined_by': refined_by,
            'given': asdict(given), 'score': asdict(scored),
            'outcomes': [asdict(outcome) for outcome in outcomes]}, indent=1))
    return blame_failure([(outcome.code, outcome.message) for outcome in outcomes])


def options(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE; a value that is no Python literal and not true or false stays a string."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        if not equals:
            raise SystemExit(f'--option takes KEY=VALUE, got {pair!r}')
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {'true': True, 'false': False}.get(value, value)  # as ROS writes them
    return found


def chosen_set(args: argparse.Namespace, given: Given) -> PairSet | RecordedSet:
    """Open the folder, whichever of the two kinds it is."""
    if (args.folder / ANSWERS).is_file():
        if args.mask or args.no_mask:
            raise ValueError(f'{args.folder}: recorded answers have their own masks; leave out '
                             '--mask and --no-mask')
        return RecordedSet(args.folder, given, args.decided == 'model')
    return PairSet(args.folder, given, chosen_mask(args))


def chosen_given(args: argparse.Namespace) -> Given:
    """Read what the matcher is told besides the images."""
    return Given(not args.no_poses, not args.no_depth, args.noise_cm, args.noise_deg, args.seed)


def chosen_mask(args: argparse.Namespace) -> npt.NDArray[np.bool_] | None:
    """Read the mask that was named, or the folder's own, unless none is wanted."""
    path = args.mask or args.folder / MASK
    if args.no_mask or (args.mask is None and not path.is_file()):
        return None
    return read_mask(path)


def described(given: Given) -> str:
    """Say what the matcher was told."""
    if not given.poses:
        return 'images and depth' if given.depth else 'images only'
    told = 'images, poses and depth' if given.depth else 'images and poses'
    return f'{told}; poses off by {given.noise_cm:g} cm, {given.noise_deg:g} deg, seed {given.seed}'


def table(scored: Score) -> str:
    """Lay the scores out for people."""
    limits = ' '.join(f'{f"@{px:g} px":>8}' for px in PCK_PX)
    rows = [_row(f'{name} deg', one) for name, one in scored.by_bin.items() if one.points]
    return '\n'.join([
        f'visible points   number {limits}   median', *rows, _row('all', scored.overall),
        f'accepted: {scored.accepted_visible:.1%} of the visible points, '
        f'{scored.accepted_hidden:.1%} of the others; {scored.accepted_precision:.1%} are right',
        f'sure: {scored.sure_share:.1%} of the visible points; '
        f'{scored.sure_precision:.1%} are right',
        f'precision at 90 % recall {scored.precision_at_recall:.1%}, '
        f'visibility AUROC {scored.visibility_auroc:.3f}',
        f'refused: {", ".join(f"{code} {n}" for code, n in scored.refusals.items()) or "none"}',
        f'squared Mahalanobis error of right answers, median {scored.mahalanobis2_median:.2f} '
        '(1.39 if covariances are true)',
        f'first click on a pair {scored.first_ms:.0f} ms, another {scored.again_ms:.1f} ms '
        '(medians)'])


def _row(name: str, one: Accuracy) -> str:
    shares = ' '.join(f'{share:8.1%}' for share in one.pck)
    return f'{name:16} {one.points:6} {shares} {one.median_px:5.1f} px'


if __name__ == '__main__':
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(main(_parser.parse_args()))
