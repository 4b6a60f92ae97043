"""The interval in which a share is known to lie, from how many it was counted of."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pairs.evaluate import Outcome

Z_95 = 1.959963984540054


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of right / total; NaN where total is 0.

    E. B. Wilson, Probable inference, 1927: it stays within 0..1 and holds for few items too.
    """
    if not total:
        return math.nan, math.nan
    n, p, z2 = total, correct / total, Z_95 ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


PCK_PX = (5.0, 10.0, 20.0, 40.0)
CORRECT_PX = 20.0
RECALL = 0.9


@dataclass(frozen=True)
class PointAccuracy:
    """Of visible points: share within each of PCK_PX, and the median error, px.

    The best pixel counts, however low its confidence; a refusal without a pixel is a miss.
    """

    points: int
    pck: tuple[float, ...]
    median_px: float


@dataclass(frozen=True)
class MatchingScore:
    """The scores of one run; shares are of 1, NaN where there is nothing to share.

    visibility_auroc: how well confidence tells visible points from the others (a refusal without a
    pixel has confidence 0). precision_at_recall: right answers (visible, within 20 px) among those
    at least as confident as nine in ten right ones. sure_precision: right ones among answers
    accepted with sure_confidence or more. mahalanobis2_median: 1.39 if covariances are true.
    """

    overall: PointAccuracy
    by_bin: dict[str, PointAccuracy]
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


def compute_score(outcomes: Sequence[Outcome], sure_confidence: float) -> MatchingScore:
    """Score the outcomes of one run."""
    visible = np.array([o.visible for o in outcomes])
    confidence = np.array([o.confidence for o in outcomes])
    right = visible & (np.array([o.error_px for o in outcomes]) <= CORRECT_PX)
    accepted = np.array([o.accepted for o in outcomes])
    sure = accepted & (confidence >= sure_confidence)
    spread = [o.mahalanobis2 for o in outcomes
              if o.accepted and o.visible and o.error_px <= CORRECT_PX]
    return MatchingScore(
        overall=compute_accuracy(outcomes),
        by_bin={name: compute_accuracy([o for o in outcomes if o.bin == name])
                for name in dict.fromkeys(o.bin for o in outcomes)},
        visibility_auroc=compute_auroc(confidence[visible], confidence[~visible]),
        precision_at_recall=compute_precision_at_recall(confidence, right),
        accepted_precision=_compute_share(right[accepted]), sure_precision=_compute_share(right[sure]),
        sure_share=_compute_share(sure[visible]), accepted_visible=_compute_share(accepted[visible]),
        accepted_hidden=_compute_share(accepted[~visible]),
        refusals=dict(Counter(o.code.name for o in outcomes if not o.accepted).most_common()),
        mahalanobis2_median=_compute_median(spread),
        first_ms=_compute_median([o.ms for o in outcomes if o.first_on_pair]),
        again_ms=_compute_median([o.ms for o in outcomes if not o.first_on_pair]))


def compute_accuracy(outcomes: Sequence[Outcome]) -> PointAccuracy:
    """Measure how near the best pixels of visible points come."""
    errors = np.array([o.error_px for o in outcomes if o.visible])
    return PointAccuracy(len(errors), tuple(_compute_share(errors <= limit) for limit in PCK_PX),
                    _compute_median(errors))


def compute_auroc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Probability that a positive ranks above a negative, ties counting half."""
    if not len(positive) or not len(negative):
        return float('nan')
    order = np.sort(negative)
    below = np.searchsorted(order, positive, 'left') + np.searchsorted(order, positive, 'right')
    return float(below.mean() / (2 * len(negative)))


def compute_precision_at_recall(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_],
                        recall: float = RECALL) -> float:
    """Share of right answers among those kept by the limit that keeps `recall` of the right."""
    if not correct.any():
        return float('nan')
    return _compute_share(correct[confidence >= np.quantile(confidence[correct], 1 - recall)])


def _compute_share(chosen: npt.NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else float('nan')


def _compute_median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float('nan')
