"""Shares of right answers by type, level and over all, with the interval they are known to."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crosspoint_ros.bench.interval import wilson


@dataclass(frozen=True)
class Tally:
    """Right answers of so many. no_answer: those of the wrong ones in which none could be read."""

    right: int = 0
    total: int = 0
    no_answer: int = 0

    @property
    def share(self) -> float:
        """Right answers of 1; NaN where nothing was asked."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; NaN where nothing was asked."""
        return wilson(self.right, self.total)


@dataclass(frozen=True)
class Marked:
    """One reply, marked."""

    type: str
    level: str
    right: bool
    answered: bool


@dataclass(frozen=True)
class Row:
    """A line of a score: of all (type and level ''), of a type (level ''), or of a level of it."""

    type: str
    level: str
    tally: Tally


@dataclass(frozen=True)
class Score:
    """The rows of a score: all first, then each type with its levels, by name."""

    rows: tuple[Row, ...]

    @property
    def overall(self) -> Tally:
        """Every reply, one by one: types count by how many items they have, as the authors do."""
        return self.rows[0].tally

    def of(self, kind: str, level: str = '') -> Tally:
        """Return the tally of a type, or of a level of it."""
        return next((row.tally for row in self.rows
                     if (row.type, row.level) == (kind, level)), Tally())


def score(marked: Sequence[Marked]) -> Score:
    """Add up what was marked."""
    rows = [Row('', '', tally(marked))]
    for kind in sorted({each.type for each in marked}):
        of_type = [each for each in marked if each.type == kind]
        rows.append(Row(kind, '', tally(of_type)))
        rows += [Row(kind, level, tally(each for each in of_type if each.level == level))
                 for level in sorted({each.level for each in of_type})]
    return Score(tuple(rows))


def tally(marked: Iterable[Marked]) -> Tally:
    """Count right answers, and replies without one."""
    listed = list(marked)
    return Tally(sum(each.right for each in listed), len(listed),
                 sum(not each.answered for each in listed))
