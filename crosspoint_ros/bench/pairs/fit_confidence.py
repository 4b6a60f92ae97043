"""`crosspoint dev fit-confidence`: fits the weights of xfeat's confidence, across two scenes."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.pairs import metrics
from crosspoint_ros.bench.pairs.cli import parse_options, parse_situations
from crosspoint_ros.bench.pairs.dataset import InputConfig
from crosspoint_ros.bench.pairs.sources import add_source_arguments, open_source
from crosspoint_ros.core.datatypes import Array, Rejected
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.pipeline import check_click
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.matchers.xfeat.confidence import (
    AppearanceWeights,
    describe_appearance,
    find_appearance_doubt,
    predict_confidence,
)
from crosspoint_ros.matchers.xfeat.matcher import XFeatMatcher

RIDGE = 3.0  # of the weights of standardised evidence
SURE_RIGHT = 0.97  # of the answers of the scene that is fitted
BINS = np.linspace(0, 1, 11)
FITTED = ('images', 'noisy-poses')  # situations in which appearance finds the place

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class EvidenceTable:
    """The evidence of the candidates of one set: (n, k), and what became of them, (n,).

    right: visible, and within 20 px. shipped: the confidence by the weights in `confidence.py`.
    doubtful: never sure, as on one side few keypoints move with them.
    """

    name: str
    evidence: Array
    right: Mask
    visible: Mask
    pair: npt.NDArray[np.int_]
    shipped: Array
    doubtful: Mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_source_arguments(parser, '+')
    parser.add_argument('--situation', choices=FITTED, action='append', default=[],
                        help='what the matcher gets; may be repeated (default: both)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of xfeat; may be repeated')
    parser.add_argument('--plot', type=Path, metavar='OUT', help='draw the reliability diagrams')


def main(args: argparse.Namespace) -> int:
    """Fit on each set, print the figures on the others, and the weights of all together."""
    if len(args.folder) < 2:
        raise ValueError('give two sets or more: what was fitted on one is shown on another')
    matcher, limits = XFeatMatcher(**parse_options(args.option)), Limits()
    diagrams = {}
    args.situation = args.situation or list(FITTED)
    for situation, inputs in parse_situations(args).items():
        tables = [collect_evidence(args, folder, inputs, matcher) for folder in args.folder]
        print(f'{situation}, second image turned: {args.roll}')
        for table in tables:
            others = [other for other in tables if other is not table]
            weights = fit(others, limits)
            confidence = weights.predict(table.evidence)
            names = ' and '.join(other.name for other in others)
            for label, value in ((f'fitted on {names}', confidence), ('as shipped', table.shipped)):
                print(f'  {table.name}, {label}\n    ' + format_figures(table, value, limits))
            diagrams[f'{situation}: {table.name}, fitted on {names}'] = confidence, table.right
        print(f'  fitted on all: {fit(tables, limits)}')
    print(describe_machine())
    if args.plot:
        write_image(args.plot, draw_reliability(diagrams))
    return 0


def collect_evidence(args: argparse.Namespace, folder: Path, inputs: InputConfig,
                     matcher: XFeatMatcher) -> EvidenceTable:
    """Run the matcher on a set; refusals without a candidate have no evidence to be fitted."""
    source, rows = open_source(args, inputs, folder=folder), []
    for labelled in tqdm(source, unit='query', disable=None, desc=folder.name):
        query = labelled.query
        try:
            check_click(query.clicked, [query.other], query.pixel)
            pair, found = matcher.search(query)
        except Rejected:
            continue
        error_px = np.linalg.norm(pair.other.scaled.to_image(found.pixel) - labelled.ground_truth)
        visible = labelled.visibility == Visibility.VISIBLE
        rows.append((describe_appearance(found), visible and error_px <= metrics.CORRECT_PX,
                     visible, labelled.pair, predict_confidence(found),
                     bool(find_appearance_doubt(found))))
    if not rows:
        raise ValueError(f'{folder}: the matcher found no candidate to be fitted')
    return EvidenceTable(folder.resolve().name, *map(np.array, zip(*rows, strict=True)))


def fit(tables: Sequence[EvidenceTable], limits: Limits) -> AppearanceWeights:
    """Fit the probability of a right match, and temper it; scenes weigh the same.

    The logit is divided such that, in each scene, SURE_RIGHT of the answers above `sure_confidence`
    and without doubt are right: between 0.5, which stays, and 1 the confidence is then below the
    probability, by what a scene that was not fitted may cost.
    """
    each = np.concatenate([np.full(len(t.right), 1 / len(t.right)) for t in tables])
    weights, bias = fit_logistic(np.concatenate([t.evidence for t in tables]),
                                 np.concatenate([t.right for t in tables]), each / each.mean())
    high = float(np.log(limits.sure_confidence / (1 - limits.sure_confidence)))
    sure = max(high, *(find_sure_logit((t.evidence @ weights + bias)[~t.doubtful],
                                       t.right[~t.doubtful]) for t in tables))
    return AppearanceWeights(*(round(float(w) * high / sure, 3) for w in (*weights, bias)))


def find_sure_logit(logit: Array, right: Mask) -> float:
    """Return the least logit above which SURE_RIGHT of the answers are right, but for one."""
    order = np.argsort(-logit)
    wrong = np.cumsum(~right[order])
    enough = np.flatnonzero(wrong <= 1 + (1 - SURE_RIGHT) * np.arange(1, len(order) + 1))
    return float(logit[order[enough[-1]]])


def fit_logistic(evidence: Array, right: Mask, weight: Array, rounds: int = 1000
                 ) -> tuple[Array, float]:
    """Fit logistic weights (k,), none negative, and a bias, with a ridge.

    evidence (n, k) grows with the probability. Y. Nesterov's accelerated projected gradient, 1983.
    """
    mean, spread = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    inputs = np.hstack([(evidence - mean) / spread, np.ones((len(evidence), 1))])
    ridge = np.append(np.full(evidence.shape[1], RIDGE), 0.0)
    step = 1 / (0.25 * np.linalg.eigvalsh((inputs * weight[:, None]).T @ inputs).max() + RIDGE)
    found = ahead = np.zeros(inputs.shape[1])
    for index in range(rounds):
        expected = 1 / (1 + np.exp(-inputs @ ahead))
        after = ahead - step * (inputs.T @ (weight * (expected - right)) + ridge * ahead)
        after[:-1] = np.maximum(after[:-1], 0)
        found, ahead = after, after + index / (index + 3) * (after - found)
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ mean)


def format_figures(table: EvidenceTable, confidence: Array, limits: Limits) -> str:
    """Format how well a confidence (n,) separates right answers of a set from the others."""
    right, visible = table.right, table.visible
    answered, sure = (confidence >= c for c in (limits.min_confidence, limits.sure_confidence))
    sure &= ~table.doubtful
    low, high = metrics.PairBootstrap(table.pair.tolist()).mean(right, sure)
    at_75 = confidence >= np.quantile(confidence[visible], 0.25)
    counts, shares = measure_reliability(confidence, right)
    return '\n    '.join([
        f'sure: {right[sure].mean():.1%} of {sure.sum()} right ({low:.1%} to {high:.1%}), '
        f'{sure[visible].mean():.1%} of the visible points',
        f'answered: {answered[visible].mean():.1%} of the visible, '
        f'{answered[~visible].mean():.1%} of the others; {right[answered].mean():.1%} right; '
        f'{at_75[~visible].mean():.1%} of the others where 75 % of the visible are',
        f'AUROC right {metrics.compute_auroc(confidence[right], confidence[~right]):.3f}, visible '
        f'{metrics.compute_auroc(confidence[visible], confidence[~visible]):.3f}',
        'right by confidence: ' + ', '.join(
            f'{low:.1f} {share:.0%} of {count}' for low, share, count
            in zip(BINS, shares, counts, strict=False) if count)])


def measure_reliability(confidence: Array, right: Mask) -> tuple[Array, Array]:
    """Return the number of answers in each tenth of confidence, and the share that is right."""
    counts = np.histogram(confidence, BINS)[0]
    hits = np.histogram(confidence[right], BINS)[0]
    return counts, hits / np.maximum(counts, 1)


SIDE_PX, MARGIN_PX = 300, 45
BLACK, GREY, BLUE = (40, 40, 40), (200, 200, 200), (40, 90, 200)


def draw_reliability(diagrams: Mapping[str, tuple[Array, Mask]]) -> npt.NDArray[np.uint8]:
    """Draw the share of right answers over confidence, a diagram for each, two in a row.

    Areas of the dots: number of answers; dashed: the limits of confidence.
    """
    cells = [_draw_diagram(name, *each) for name, each in diagrams.items()]
    if len(cells) % 2:
        cells.append(np.full_like(cells[0], 255))
    return np.vstack([np.hstack(cells[i:i + 2]) for i in range(0, len(cells), 2)])


def _draw_diagram(name: str, confidence: Array, right: Mask) -> npt.NDArray[np.uint8]:
    size = SIDE_PX + 2 * MARGIN_PX
    image: npt.NDArray[np.uint8] = np.full((size, size, 3), 255, np.uint8)

    def place(x: float, y: float) -> tuple[int, int]:
        return round(MARGIN_PX + SIDE_PX * x), round(MARGIN_PX + SIDE_PX * (1 - y))

    def write(text: str, at: tuple[int, int]) -> None:
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.37, BLACK, 1, cv2.LINE_AA)

    for tick in (0, 0.2, 0.4, 0.5, 0.6, 0.8, 1):
        colour = BLACK if tick in (0, 1) else GREY
        cv2.line(image, place(tick, 0), place(tick, 1), colour)
        if tick != 0.5:
            cv2.line(image, place(0, tick), place(1, tick), colour)
            write(f'{tick:g}', (MARGIN_PX - 26, place(0, tick)[1] + 4))
        write(f'{tick:g}', (place(tick, 0)[0] - 8, size - MARGIN_PX + 16))
    cv2.line(image, place(0, 0), place(1, 1), GREY, 1, cv2.LINE_AA)
    counts, shares = measure_reliability(confidence, right)
    known = np.flatnonzero(counts)
    dots = [place((BINS[i] + BINS[i + 1]) / 2, shares[i]) for i in known]
    cv2.polylines(image, [np.array(dots, np.int32)], False, BLUE, 1, cv2.LINE_AA)
    for i, at in zip(known, dots, strict=True):
        cv2.circle(image, at, max(round(1.0 * np.sqrt(counts[i])), 2), BLUE, -1, cv2.LINE_AA)
    write(name, (8, 20))
    write('share of right answers over confidence', (MARGIN_PX, size - 10))
    return image
