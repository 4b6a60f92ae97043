"""Confidence intervals by resampling image pairs: clicks on one pair are not independent."""
from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DRAWS = 1000
TAILS = 0.025, 0.975
Interval = tuple[float, float]
UNKNOWN: Interval = (float('nan'), float('nan'))


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
