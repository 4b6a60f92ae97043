"""`crosspoint dev fusion`: scores a fine matcher that refines a simulated vision-language model."""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.cli import add_evaluation_arguments, describe_inputs, parse_options
from crosspoint_ros.bench.pairs.dataset import LabelledQuery
from crosspoint_ros.bench.pairs.evaluate import Outcome, evaluate
from crosspoint_ros.bench.pairs.metrics import MatchingScore, compute_score
from crosspoint_ros.bench.pairs.simulated_vlm import ErrorModel, SimulatedVLM
from crosspoint_ros.bench.pairs.sources import open_source, parse_inputs
from crosspoint_ros.core.datatypes import Refiner
from crosspoint_ros.core.fusion import FusionParams
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.matchers import load_refiner

LEVELS = ((0.02, 0.1), (0.02, 0.25), (0.04, 0.1), (0.04, 0.25))
SIMULATION_NOTE = """\
The coarse matcher is SIMULATED: ground truth plus Gaussian error. Its outliers, and its answers for
hidden points, are uniform over the image, or at the keypoints whose XFeat descriptors are most
similar to the click. Its confidence is constant; it refuses the remaining hidden points."""


@dataclass(frozen=True, eq=False)
class FusionCase:
    """One row of the table: a condition, who answers, and a run for each draw of the simulation."""

    condition: str
    name: str
    runs: tuple[Iterator[tuple[LabelledQuery, Outcome]], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_evaluation_arguments(parser)
    parser.add_argument('--refiner', default='xfeat', help='the fine matcher (default: xfeat)')
    parser.add_argument('--draws', type=parse_positive, default=3, metavar='N',
                        help='simulate N times (default: 3)')
    parser.add_argument('--level', action='append', type=parse_level, metavar='SIGMA,OUTLIERS',
                        help='sigma as a share of the diagonal, and share of outliers; may be '
                             'repeated (default: 0.02,0.1 0.02,0.25 0.04,0.1 0.04,0.25)')
    parser.add_argument('--simulate', action='append', default=[], metavar='KEY=VALUE',
                        help='a field of ErrorModel: hallucinated, missed, stated, confidence')
    parser.add_argument('--rule', action='append', default=[], metavar='KEY=VALUE',
                        help='a field of FusionParams (core/fusion.py); may be repeated')


def parse_level(text: str) -> tuple[float, float]:
    """Parse SIGMA,OUTLIERS (for argparse)."""
    sigma, outliers = map(float, text.split(','))
    if not (0 < sigma <= 0.5 and 0 <= outliers <= 1):
        raise ValueError(text)
    return sigma, outliers


def main(args: argparse.Namespace) -> int:
    """Run all cases and print their scores; 1 if some data could not be used."""
    limits, inputs = Limits(), parse_inputs(args)
    refiner = load_refiner(args.refiner, **parse_options(args.option))
    params = FusionParams(**parse_options(args.rule))
    errors = ErrorModel(**parse_options(args.simulate))
    with WarningCounter() as warnings:
        queries = list(islice(open_source(args, inputs), args.limit))
    cases = build_cases(queries, refiner, params, limits, errors, args.level or LEVELS, args.draws)
    scores = score_interleaved(cases, limits, len(queries))
    print(f'{args.folder.name}, {len(queries)} queries, {" ".join([args.refiner, *args.option])}, '
          f'{describe_inputs(inputs)}\n{SIMULATION_NOTE}\n{args.draws} draws: mean and +- the '
          f'standard deviation; %\n\n{format_table(cases, scores)}\n{describe_machine()}')
    if args.json:
        args.json.write_text(json.dumps({
            'machine': describe_machine(), 'simulated': asdict(errors), 'rule': asdict(params),
            'given': asdict(inputs), 'scores': [
                {'place': case.condition, 'name': case.name, 'draws': [asdict(s) for s in each]}
                for case, each in zip(cases, scores, strict=True)]}, indent=1))
    return warnings.exit_code


def build_cases(queries: Sequence[LabelledQuery], refiner: Refiner, params: FusionParams,
                limits: Limits, errors: ErrorModel, levels: Sequence[tuple[float, float]],
                draws: int) -> list[FusionCase]:
    """Return the fine matcher alone, then at each level the coarse one alone and both."""
    cases = [FusionCase('no coarse matcher', 'fine alone', (evaluate(queries, refiner, limits),))]
    for lookalike in (False, True):
        for sigma, outliers in levels:
            condition = (f'error {sigma:.0%}, {outliers:.0%} outliers '
                         f'{"on look-alikes" if lookalike else "anywhere"}')
            coarse = [SimulatedVLM(queries, replace(errors, sigma=sigma, outliers=outliers,
                                                    lookalike=lookalike, seed=seed))
                      for seed in range(draws)]
            cases.append(FusionCase(condition, 'coarse alone', tuple(
                evaluate(queries, each, limits) for each in coarse)))
            cases.append(FusionCase(condition, 'both', tuple(
                evaluate(queries, each, limits, refiner, params) for each in coarse)))
    return cases


def score_interleaved(cases: Sequence[FusionCase], limits: Limits, total: int | None = None
                      ) -> list[list[MatchingScore]]:
    """Run all cases query by query, so that an image pair is prepared once; score each run."""
    together = zip(*(run for case in cases for run in case.runs), strict=True)
    rows = [[outcome for _, outcome in row]
            for row in tqdm(together, total=total, unit='query', disable=None)]
    outcomes = iter(list(zip(*rows, strict=True)))
    return [[compute_score(next(outcomes), limits.sure_confidence) for _ in case.runs]
            for case in cases]


def format_table(cases: Sequence[FusionCase], scores: Sequence[Sequence[MatchingScore]]) -> str:
    """Format the scores as text."""
    lines, condition = [f'{"":14}  @20 px  @40 px | accepted: visible   hidden      right | '
                        f'sure: visible      right | P@90R'], ''
    for case, each in zip(cases, scores, strict=True):
        if case.condition != condition:
            lines.append(condition := case.condition)
        lines.append(f'  {case.name:12} {_format_scores(each)}')
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
