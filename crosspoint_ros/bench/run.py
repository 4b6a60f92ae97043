"""Asking a matcher every question of a set, and holding its answers as the robot's path does."""
from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.bench.items import Item, Status
from crosspoint_ros.core.datatypes import Code, Match, Matcher, Refiner, Rejected
from crosspoint_ros.core.fusion import DEFAULT, Rule, fuse
from crosspoint_ros.core.pipeline import check_click
from crosspoint_ros.core.verify import Limits, examine, verify


@dataclass(frozen=True)
class Outcome:
    """One answer. error_px: of the best pixel, refused or not; infinite without one.

    code: OK if accepted, else why not. clickable: False where the robot's path would have refused
    the click itself. mahalanobis2: the error in units of the stated covariance.
    """

    pair: int
    bin: str
    visible: bool
    clickable: bool
    error_px: float
    confidence: float
    mahalanobis2: float
    code: Code
    message: str
    first_on_pair: bool
    ms: float
    found_px: tuple[float, float] = (np.nan, np.nan)

    @property
    def accepted(self) -> bool:
        """Whether the robot would have got this answer."""
        return self.code == Code.OK


def run(items: Iterable[Item], matcher: Matcher, limits: Limits, refiner: Refiner | None = None,
        rule: Rule = DEFAULT) -> Iterator[Outcome]:
    """Ask each question in turn; with a refiner, what the matcher finds counts as rough."""
    return (outcome for _, outcome in run_items(items, matcher, limits, refiner, rule))


def run_items(items: Iterable[Item], matcher: Matcher, limits: Limits,
              refiner: Refiner | None = None, rule: Rule = DEFAULT
              ) -> Iterator[tuple[Item, Outcome]]:
    """Ask as `run` does; yield each question beside what came of it."""
    pair = -1
    for item in items:
        first, pair = item.pair != pair, item.pair
        yield item, _ask(item, matcher, limits, first, refiner, rule)


def blame_failure(outcomes: Sequence[tuple[int, str]]) -> int:
    """Return an exit code: 1, with a line on stderr, if the matcher failed on every question.

    outcomes: code and message of each. Figures of a matcher that never ran say nothing of it.
    """
    if not outcomes or any(code != Code.MATCHER_FAILED for code, _ in outcomes):
        return 0
    print(f'the matcher failed on all {len(outcomes)} questions, first with: {outcomes[0][1]}',
          file=sys.stderr)
    return 1


def _ask(item: Item, matcher: Matcher, limits: Limits, first: bool, refiner: Refiner | None,
         rule: Rule) -> Outcome:
    match, why = Match(np.full(2, np.nan)), Rejected(Code.OK, '')
    begun_s = time.perf_counter()
    try:
        match = matcher.match(item.query)
        if refiner is not None:
            match = fuse(item.query, match, refiner, rule)
        verify(item.query, match, examine(item.query, match, limits), limits)
    except Rejected as rejected:
        why = rejected
    ms = 1000 * (time.perf_counter() - begun_s)
    error = match.pixel - item.truth
    distance_px = float(np.linalg.norm(error))
    return Outcome(item.pair, item.bin, item.status == Status.VISIBLE, _clickable(item),
                   distance_px if np.isfinite(distance_px) else np.inf, match.confidence,
                   float(error @ np.linalg.pinv(np.nan_to_num(match.covariance_px2)) @ error),
                   why.code, why.message, first, ms,
                   (float(match.pixel[0]), float(match.pixel[1])))


def _clickable(item: Item) -> bool:
    try:
        check_click(item.query.clicked, [item.query.other], item.query.pixel)
    except Rejected:
        return False
    return True
