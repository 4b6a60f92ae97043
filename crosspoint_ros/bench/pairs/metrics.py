"""Scores of outcomes: PCK, precision, refusals, 3D errors, with intervals over image pairs."""
from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pairs.evaluate import Outcome

Z_95 = 1.959963984540054
PCK_PX = (5.0, 10.0, 20.0, 40.0)
ROLL_BINS = (('0-15', 0, 15), ('15-30', 15, 30), ('30-45', 30, 45), ('45-90', 45, 90),
             ('90+', 90, 181))  # deg, without the sign
CORRECT_PX = 20.0
CAMERA_PX = 10.0
PLACE_MM = 50.0  # a target further off is wrong
MAX_ANGLE_DEG = 40.0
RECALL = 0.9
DRAWS, TAILS = 1000, (0.025, 0.975)  # of the bootstrap
Interval = tuple[float, float]
UNKNOWN: Interval = (math.nan, math.nan)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of correct / total; NaN where total is 0.

    E. B. Wilson, Probable inference, 1927: stays within 0..1 and holds for few samples too.
    """
    if not total:
        return math.nan, math.nan
    n, p, z2 = total, correct / total, Z_95 ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half_width = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(centre - half_width, 0.0), min(centre + half_width, 1.0)


class PairBootstrap:
    """95 % percentile intervals over resampled pairs (B. Efron, Bootstrap methods, 1979).

    Each draw takes as many pairs as there are, with replacement, and all clicks of each. It does
    not cover how scenes differ: that needs more scenes.
    """

    def __init__(self, pairs: Sequence[int]) -> None:
        """pairs: the pair of each click."""
        names, self._pair = np.unique(np.asarray(pairs, dtype=int), return_inverse=True)
        rng = np.random.default_rng(0)
        self._weights = rng.multinomial(
            len(names), np.full(len(names), 1 / max(len(names), 1)), DRAWS).astype(np.float64)

    def mean(self, values: npt.ArrayLike, among: npt.NDArray[np.bool_]) -> Interval:
        """Return the interval of the mean of the values (n,) of the chosen clicks (n,)."""
        if not among.any():
            return UNKNOWN
        chosen = np.where(among, np.asarray(values, dtype=np.float64), 0.0)
        count = self._weights.shape[1]
        total, number = (self._weights @ np.bincount(self._pair, each, count)
                         for each in (chosen, among.astype(np.float64)))
        return _take_tails(total[number > 0] / number[number > 0])

    def quantile(self, values: npt.ArrayLike, among: npt.NDArray[np.bool_], level: float
                 ) -> Interval:
        """Return the interval of a quantile of the values (n,) of the chosen clicks (n,)."""
        rows = np.flatnonzero(among)
        if not len(rows):
            return UNKNOWN
        rows = rows[np.argsort(np.asarray(values)[rows])]
        below = self._weights[:, self._pair[rows]].cumsum(axis=1)
        at = (below < level * below[:, -1:]).sum(axis=1)
        return _take_tails(np.asarray(values)[rows][at[below[:, -1] > 0]])


def _take_tails(drawn: npt.NDArray[np.float64]) -> Interval:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # between two infinite medians: NaN
        low, high = np.quantile(drawn, TAILS)
    return float(low), float(high)


@dataclass(frozen=True)
class PointAccuracy:
    """Of visible points: share within each of PCK_PX, and the median error, px.

    The found pixel counts, however low its confidence; a refusal without a pixel is a miss.
    intervals: of the shares.
    """

    points: int
    pck: tuple[float, ...]
    median_px: float
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class TargetScore:
    """The published 3D targets whose true place is known, of visible and hidden points.

    Errors are those of the clicked camera's frame: its pose is exact, and all noise is in the
    other's. far_share: more than PLACE_MM off. normalised_squared: mean of e' C^-1 e / 3, with the
    error e (3,) and the position's covariance C (3, 3) of the target: 1 if calibrated, above it
    overconfident (Bar-Shalom's NEES over its dimension); _median: 0.79 if calibrated. sure: number
    with sure_confidence or more; sure_right: those within PLACE_MM whose pixel is right too.
    """

    number: int
    error_mm_median: float
    error_mm_p90: float
    far_share: float
    normalised_squared: float
    normalised_squared_median: float
    sure: int
    sure_right: float
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class CameraScore:
    """The answers in one camera, of viewing angles up to a limit; a refusal is a miss.

    near: within CAMERA_PX of the ground truth.
    """

    visible: int
    near_share: float
    accepted_share: float
    sure_near_share: float
    error_px_median: float
    hidden: int
    hidden_accepted_share: float
    error_3d_mm_median: float
    error_3d_mm_p90: float


@dataclass(frozen=True)
class MatchingScore:
    """The scores of one run; shares are 0..1, NaN of an empty set.

    visibility_auroc: how well confidence separates visible points from the others (a refusal
    without a pixel has confidence 0). precision_at_recall: correct answers (visible, within 20 px)
    among those at least as confident as 90 % of the correct ones. sure_precision: correct ones
    among the answers accepted with sure_confidence or more. mahalanobis2_median: 1.39 if the
    covariances are calibrated. unclickable: queries that are in no score, since the robot refuses
    the click itself. by_camera: where viewing angles are known; by_roll where poses are known;
    by_turn: of the second image, by `--roll`. hidden, accepted, sure: numbers of hidden points, of
    answers, of sure answers. intervals: 95 %, of the shares, by name.
    """

    overall: PointAccuracy
    by_bin: dict[str, PointAccuracy]
    by_roll: dict[str, PointAccuracy]
    by_turn: dict[str, PointAccuracy]
    hidden: int
    accepted: int
    sure: int
    targets: TargetScore
    visibility_auroc: float
    precision_at_recall: float
    accepted_precision: float
    sure_precision: float
    sure_share: float
    accepted_visible: float
    accepted_hidden: float
    refusals: dict[str, int]
    mahalanobis2_median: float
    first_ms: float
    again_ms: float
    unclickable: int
    by_camera: dict[str, CameraScore]
    intervals: dict[str, Interval]


def compute_score(outcomes: Sequence[Outcome], sure_confidence: float,
                  max_angle_deg: float = MAX_ANGLE_DEG) -> MatchingScore:
    """Score the outcomes of one run; max_angle_deg: limit of `by_camera`."""
    clicks = [o for o in outcomes if o.clickable]
    bootstrap = PairBootstrap([o.pair for o in clicks])
    visible = _collect(clicks, lambda o: o.visible)
    confidence = np.array([o.confidence for o in clicks])
    correct, accepted = _collect(clicks, _is_correct), _collect(clicks, lambda o: o.accepted)
    sure = accepted & (confidence >= sure_confidence)
    in_angle = [o for o in clicks if o.angle_deg <= max_angle_deg]
    shares = {'accepted_precision': (correct, accepted), 'sure_precision': (correct, sure),
              'sure_share': (sure, visible), 'accepted_visible': (accepted, visible),
              'accepted_hidden': (accepted, ~visible)}
    bins, turns_deg = np.array([o.bin for o in clicks]), np.array([o.turn_deg for o in clicks])
    roll_deg = np.abs([o.roll_deg for o in clicks])
    measure = partial(compute_accuracy, clicks, bootstrap)
    return MatchingScore(
        overall=measure(np.ones(len(clicks), bool)),
        by_bin={name: measure(bins == name) for name in dict.fromkeys(o.bin for o in clicks)},
        by_roll={name: measure((low <= roll_deg) & (roll_deg < high))
                 for name, low, high in ROLL_BINS},
        by_turn={str(turn): measure(turns_deg == turn) for turn in (0, 90, 180, 270)},
        hidden=int((~visible).sum()), accepted=int(accepted.sum()), sure=int(sure.sum()),
        targets=score_targets(clicks, bootstrap, sure_confidence),
        visibility_auroc=compute_auroc(confidence[visible], confidence[~visible]),
        precision_at_recall=compute_precision_at_recall(confidence, correct),
        refusals=dict(Counter(o.code.name for o in clicks if not o.accepted).most_common()),
        mahalanobis2_median=_median(
            [o.mahalanobis2 for o in clicks if o.accepted and _is_correct(o)]),
        first_ms=_median([o.ms for o in clicks if o.first_on_pair]),
        again_ms=_median([o.ms for o in clicks if not o.first_on_pair]),
        unclickable=len(outcomes) - len(clicks),
        by_camera={camera: _score_camera([o for o in in_angle if o.camera == camera],
                                         sure_confidence)
                   for camera in dict.fromkeys(o.camera for o in in_angle)},
        intervals={name: bootstrap.mean(*share) for name, share in shares.items()},
        **{name: _mean(of[among]) for name, (of, among) in shares.items()})


def score_targets(clicks: Sequence[Outcome], bootstrap: PairBootstrap, sure_confidence: float
                  ) -> TargetScore:
    """Score the targets of those clicks whose place is known."""
    error_mm = np.array([o.error_3d_mm for o in clicks])
    squared = np.array([o.normalised_squared for o in clicks])
    known, far = np.isfinite(error_mm), error_mm > PLACE_MM
    sure = known & _collect(clicks, lambda o: o.target_confidence >= sure_confidence)
    right = ~far & _collect(clicks, _is_correct)
    return TargetScore(
        int(known.sum()), _median(error_mm[known]), _quantile(error_mm[known], 0.9),
        _mean(far[known]), _mean(squared[known]), _median(squared[known]), int(sure.sum()),
        _mean(right[sure]), {
            'error_mm_median': bootstrap.quantile(error_mm, known, 0.5),
            'error_mm_p90': bootstrap.quantile(error_mm, known, 0.9),
            'far_share': bootstrap.mean(far, known),
            'normalised_squared': bootstrap.mean(squared, known),
            'normalised_squared_median': bootstrap.quantile(squared, known, 0.5),
            'sure_right': bootstrap.mean(right, sure)})


def _collect(outcomes: Sequence[Outcome], test: Callable[[Outcome], bool]
             ) -> npt.NDArray[np.bool_]:
    return np.array([test(o) for o in outcomes], dtype=bool)


def _is_correct(outcome: Outcome) -> bool:
    return outcome.visible and outcome.error_px <= CORRECT_PX


def _score_camera(outcomes: Sequence[Outcome], sure_confidence: float) -> CameraScore:
    visible = [o for o in outcomes if o.visible]
    hidden = [o for o in outcomes if not o.visible]
    errors_mm = [o.error_3d_mm for o in outcomes if np.isfinite(o.error_3d_mm)]

    def is_near(outcome: Outcome) -> bool:
        return outcome.visible and outcome.accepted and outcome.error_px <= CAMERA_PX

    return CameraScore(
        visible=len(visible), near_share=_mean([is_near(o) for o in visible]),
        accepted_share=_mean([o.accepted for o in visible]),
        sure_near_share=_mean([is_near(o) for o in outcomes
                               if o.accepted and o.confidence >= sure_confidence]),
        error_px_median=_median([o.error_px for o in visible if o.accepted]),
        hidden=len(hidden), hidden_accepted_share=_mean([o.accepted for o in hidden]),
        error_3d_mm_median=_median(errors_mm),
        error_3d_mm_p90=_quantile(np.array(errors_mm), 0.9))


def compute_accuracy(outcomes: Sequence[Outcome], bootstrap: PairBootstrap,
                     among: npt.NDArray[np.bool_]) -> PointAccuracy:
    """Return the accuracy of the pixels of the visible points among those chosen (n,)."""
    chosen = among & _collect(outcomes, lambda o: o.visible)
    errors_px = np.array([o.error_px for o in outcomes])
    near = [errors_px <= limit for limit in PCK_PX]
    return PointAccuracy(int(chosen.sum()), tuple(_mean(each[chosen]) for each in near),
                         _median(errors_px[chosen]),
                         tuple(bootstrap.mean(each, chosen) for each in near))


def compute_auroc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Return the probability that a positive ranks above a negative; ties count half."""
    if not len(positive) or not len(negative):
        return math.nan
    order = np.sort(negative)
    below = np.searchsorted(order, positive, 'left') + np.searchsorted(order, positive, 'right')
    return float(below.mean() / (2 * len(negative)))


def compute_precision_at_recall(confidence: npt.NDArray[np.float64],
                                correct: npt.NDArray[np.bool_], recall: float = RECALL) -> float:
    """Return the precision at the confidence that keeps `recall` of the correct answers."""
    if not correct.any():
        return math.nan
    return _mean(correct[confidence >= np.quantile(confidence[correct], 1 - recall)])


def _quantile(values: npt.NDArray[np.float64], level: float) -> float:
    return float(np.quantile(values, level)) if len(values) else math.nan


def _mean(values: Sequence[bool] | npt.NDArray[Any]) -> float:
    return float(np.mean(np.asarray(values, dtype=np.float64))) if len(values) else math.nan


def _median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else math.nan
