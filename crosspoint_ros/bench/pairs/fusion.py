"""`crosspoint bench refine`: what a fine matcher makes of the finds of a SIMULATED coarse one."""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.cli import add_evaluation_arguments, describe_inputs, parse_options
from crosspoint_ros.bench.pairs.dataset import LabelledQuery
from crosspoint_ros.bench.pairs.evaluate import Outcome, evaluate
from crosspoint_ros.bench.pairs.metrics import MatchingScore, compute_score
from crosspoint_ros.bench.pairs.simulated_vlm import ErrorModel, SimulatedVLM
from crosspoint_ros.bench.pairs.sources import parse_inputs, open_source
from crosspoint_ros.core.datatypes import Refiner
from crosspoint_ros.core.fusion import FusionParams
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.matchers import load_refiner

LEVELS = ((0.02, 0.1), (0.02, 0.25), (0.04, 0.1), (0.04, 0.25))
SIMULATION_NOTE = """The coarse matcher is SIMULATED: the truth plus Gaussian error. Its outliers, and what
it finds of points that are not visible, lie anywhere, or on the keypoints that xfeat finds most
like them. It is always as confident, and refuses the other points that are not visible."""


@dataclass(frozen=True, eq=False)
class FusionCase:
    """One line of the table: who answers. One run for each draw of the simulation."""

    condition: str
    name: str
    runs: tuple[Iterator[Outcome], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_evaluation_arguments(parser)
    parser.add_argument('--refiner', default='xfeat', help='the fine matcher (default: xfeat)')
    parser.add_argument('--draws', type=parse_positive, default=3, metavar='N',
                        help='simulate N times (default: 3)')
    parser.add_argument('--level', action='append', type=parse_level, metavar='SIGMA,OUTLIERS',
                        help='error, as a share of the diagonal, and share of outliers; may be '
                             'repeated (default: 0.02,0.1 0.02,0.25 0.04,0.1 0.04,0.25)')
    parser.add_argument('--simulate', action='append', default=[], metavar='KEY=VALUE',
                        help='another way to err: hallucinated, missed, stated, confidence')
    parser.add_argument('--rule', action='append', default=[], metavar='KEY=VALUE',
                        help='a number or switch of core/fusion.py; may be repeated')


def parse_level(text: str) -> tuple[float, float]:
    """Read SIGMA,OUTLIERS (for argparse)."""
    sigma, outliers = map(float, text.split(','))
    if not (0 < sigma <= 0.5 and 0 <= outliers <= 1):
        raise ValueError(text)
    return sigma, outliers


def main(args: argparse.Namespace) -> int:
    """Run it and print its scores; 1 if something of the set could not be used."""
    limits, given, say = Limits(), parse_inputs(args), WarningCounter('bench refine')
    refiner = load_refiner(args.refiner, **parse_options(args.option))
    rule, plain = FusionParams(**parse_options(args.rule)), ErrorModel(**parse_options(args.simulate))
    items = list(islice(open_source(args, given, say), args.limit))
    contests = build_cases(items, refiner, rule, limits, plain, args.level or LEVELS, args.draws)
    scores = score_interleaved(contests, limits)
    print(f'{args.folder.name}, {len(items)} queries, {" ".join([args.refiner, *args.option])}, '
          f'{describe_inputs(given)}\n{SIMULATION_NOTE}\n{args.draws} draws: mean, and +- the deviation; %\n\n'
          f'{format_table(contests, scores)}\n{describe_machine()}')
    if args.json:
        args.json.write_text(json.dumps({
            'machine': describe_machine(), 'simulated': asdict(plain), 'rule': asdict(rule),
            'given': asdict(given), 'scores': [
                {'place': contest.condition, 'name': contest.name, 'draws': [asdict(s) for s in each]}
                for contest, each in zip(contests, scores, strict=True)]}, indent=1))
    return say.exit_code


def build_cases(queries: Sequence[LabelledQuery], refiner: Refiner, rule: FusionParams, limits: Limits, errors: ErrorModel,
            levels: Sequence[tuple[float, float]], draws: int) -> list[FusionCase]:
    """Let the fine matcher alone, then at each level the coarse alone and both, answer all."""
    contests = [FusionCase('no coarse matcher', 'fine alone', (evaluate(queries, refiner, limits),))]
    for lookalike in (False, True):
        for sigma, outliers in levels:
            place = (f'error {sigma:.0%}, {outliers:.0%} outliers '
                     f'{"on look-alikes" if lookalike else "anywhere"}')
            coarse = [SimulatedVLM(queries, replace(errors, sigma=sigma, outliers=outliers,
                                                     lookalike=lookalike, seed=seed))
                      for seed in range(draws)]
            contests.append(FusionCase(place, 'coarse alone', tuple(
                evaluate(queries, each, limits) for each in coarse)))
            contests.append(FusionCase(place, 'both', tuple(
                evaluate(queries, each, limits, refiner, rule) for each in coarse)))
    return contests


def score_interleaved(cases: Sequence[FusionCase], limits: Limits) -> list[list[MatchingScore]]:
    """Ask everybody each question before the next one, since a pair of frames is prepared once."""
    together = zip(*(each for contest in cases for each in contest.runs), strict=True)
    outcomes = iter(list(zip(*together, strict=True)))
    return [[compute_score(next(outcomes), limits.sure_confidence) for _ in contest.runs]
            for contest in cases]


def format_table(cases: Sequence[FusionCase], scores: Sequence[Sequence[MatchingScore]]) -> str:
    """Lay the scores out for people."""
    lines, place = [f'{"":14}  @20 px  @40 px | accepted: visible   hidden      right | '
                    f'sure: visible      right | P@90R'], ''
    for contest, each in zip(cases, scores, strict=True):
        if contest.condition != place:
            place = contest.condition
            lines.append(place)
        lines.append(f'  {contest.name:12} {_format_scores(each)}')
    return '\n'.join(lines)


def _format_scores(scores: Sequence[MatchingScore]) -> str:
    def share(name: str, width: int) -> str:
        return f'{_to_percent([getattr(s, name) for s in scores]).mean():{width}.1f}'

    def spread(name: str) -> str:
        values = _to_percent([getattr(s, name) for s in scores])
        if np.isnan(values).any():  # a draw without any such answer
            return f'{"-":>11}'
        return f'{values.mean():5.1f} +-{values.std():3.1f}'

    near, wide = (_to_percent([s.overall.pck[i] for s in scores]).mean() for i in (2, 3))
    return (f'{near:7.1f} {wide:7.1f} | {share("accepted_visible", 17)} '
            f'{share("accepted_hidden", 8)} {spread("accepted_precision")} | '
            f'{share("sure_share", 13)} {spread("sure_precision")} | '
            f'{share("precision_at_recall", 5)}')


def _to_percent(shares: Sequence[float]) -> np.ndarray:
    return 100 * np.array(shares, dtype=np.float64)


if __name__ == '__main__':
    _parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(_parser)
    raise SystemExit(main(_parser.parse_args()))
