"""From what the model's digits say to one place, its covariance and a confidence."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Array

ROUNDING = 1 / 12  # variance of a number that was rounded to the nearest unit


@dataclass(frozen=True, eq=False)
class Spread:
    """The probabilities of the numbers that a reply may hold.

    px, py: p(x = v) and p(y = v), v = 0, 1, ..; each sums to one less what was pruned. mode: the
    most probable pair. form: how probable it is that two numbers are said at all, and what stands
    between them; 1 where nobody asked.
    """

    px: Array
    py: Array
    mode: tuple[int, int]
    form: float = 1.0


@dataclass(frozen=True)
class Heard:
    """What the model itself would have written where words were forced and a number was due.

    logprob: of the words. is_greedy: each of them was its first choice, so that forcing them
    changed nothing. number: the probability that a digit follows them. instead: the first token
    that the model would have preferred to the digit; '' where a digit was its first choice.
    """

    logprob: float = 0.0
    is_greedy: bool = True
    number: float = 1.0
    instead: str = ''

    @property
    def goes_on(self) -> bool:
        """Tell whether the model would have said the words, and a number behind them."""
        return self.is_greedy and not self.instead


@dataclass(frozen=True, eq=False)
class Place:
    """Mean (2,) and covariance (2, 2), in units, of the mass about the mode, and how much it is."""

    xy: Array
    covariance: Array
    confidence: float


def place(spread: Spread, window: tuple[float, float]) -> Place:
    """Return mean, covariance and mass of what lies within `window` units about the mode.

    The mean of all would lie between two peaks, where nobody says the point is. Pruned mass, mass
    elsewhere, and that of replies without two numbers (-1, none) count against the confidence.
    """
    axes = [_axis(p, mode, reach) for p, mode, reach in
            zip((spread.px, spread.py), spread.mode, window, strict=True)]
    (x, var_x, mass_x), (y, var_y, mass_y) = axes
    return Place(np.array([x, y]), np.diag([var_x, var_y]) + ROUNDING * np.eye(2),
                 float(np.clip(mass_x * mass_y * spread.form, 0.0, 1.0)))


def _axis(p: Array, mode: int, reach: float) -> tuple[float, float, float]:
    """Mean, variance and mass of p within reach of the mode."""
    v = np.arange(len(p))
    near = np.where(np.abs(v - mode) <= reach, p, 0.0)
    mass = float(near.sum())
    if not mass > 0:
        return float(mode), 0.0, 0.0
    mean = float(near @ v) / mass
    return mean, float(near @ (v - mean) ** 2) / mass, mass
