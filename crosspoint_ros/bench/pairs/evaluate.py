"""Asking a matcher every question of a set, and holding its answers as the robot's path does."""
from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pairs.dataset import LabelledQuery, Status
from crosspoint_ros.core.datatypes import Array, Code, Match, Matcher, Refiner, Rejected, View
from crosspoint_ros.core.fusion import DEFAULT, FusionParams, fuse_matches
from crosspoint_ros.core.pipeline import check_click
from crosspoint_ros.core.verify import Limits, measure_consistency, enforce_limits
from crosspoint_ros.core.visualization import (
    draw_clicked,
    draw_match,
    draw_refusal,
    concatenate_images,
    write_image,
)


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


def evaluate(queries: Iterable[LabelledQuery], matcher: Matcher, limits: Limits, refiner: Refiner | None = None,
        rule: FusionParams = DEFAULT) -> Iterator[Outcome]:
    """Ask each question in turn; with a refiner, what the matcher finds counts as rough."""
    return (outcome for _, outcome in evaluate_queries(queries, matcher, limits, refiner, rule))


def evaluate_queries(items: Iterable[LabelledQuery], matcher: Matcher, limits: Limits,
              refiner: Refiner | None = None, rule: FusionParams = DEFAULT
              ) -> Iterator[tuple[LabelledQuery, Outcome]]:
    """Ask as `run` does; yield each question beside what came of it."""
    pair = -1
    for item in items:
        first, pair = item.pair != pair, item.pair
        yield item, _evaluate_query(item, matcher, limits, first, refiner, rule)


def exit_code_if_all_failed(outcomes: Sequence[tuple[int, str]]) -> int:
    """Return an exit code: 1, with a line on stderr, if the matcher failed on every question.

    outcomes: code and message of each. Figures of a matcher that never ran say nothing of it.
    """
    if not outcomes or any(code != Code.MATCHER_FAILED for code, _ in outcomes):
        return 0
    print(f'the matcher failed on all {len(outcomes)} questions, first with: {outcomes[0][1]}',
          file=sys.stderr)
    return 1


def _evaluate_query(item: LabelledQuery, matcher: Matcher, limits: Limits, first: bool, refiner: Refiner | None,
         rule: FusionParams) -> Outcome:
    match, why = Match(np.full(2, np.nan)), Rejected(Code.OK, '')
    begun_s = time.perf_counter()
    try:
        match = matcher.match(item.query)
        if refiner is not None:
            match = fuse_matches(item.query, match, refiner, rule)
        enforce_limits(item.query, match, measure_consistency(item.query, match, limits), limits)
    except Rejected as rejected:
        why = rejected
    ms = 1000 * (time.perf_counter() - begun_s)
    error = match.pixel - item.ground_truth
    distance_px = float(np.linalg.norm(error))
    return Outcome(item.pair, item.bin, item.status == Status.VISIBLE, _is_clickable(item),
                   distance_px if np.isfinite(distance_px) else np.inf, match.confidence,
                   float(error @ np.linalg.pinv(np.nan_to_num(match.covariance_px2)) @ error),
                   why.code, why.message, first, ms,
                   (float(match.pixel[0]), float(match.pixel[1])))


def _is_clickable(item: LabelledQuery) -> bool:
    try:
        check_click(item.query.clicked, [item.query.other], item.query.pixel)
    except Rejected:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Wrong:
    """An answer that is wrong or missing. found: None if refused, why: then in words.

    truth: None where the other view does not show the point. how: what is told of an answer.
    """

    clicked: View
    pixel: Array
    other: View
    truth: npt.ArrayLike | None
    found: npt.ArrayLike | None
    how: str
    why: str
    error_px: float
    sure: bool = False
    covariance_px2: Array | None = None


def draw_wrong(path: Path, wrong: Wrong, name: str, seen_from: str) -> None:
    """Write it as a picture. name: of the point. seen_from: how far apart the views are."""
    if wrong.found is None:
        right = draw_refusal(wrong.other.image, f'refused: {wrong.why}', wrong.truth)
    else:
        right = draw_match(wrong.other.image, wrong.found, wrong.how, wrong.sure,
                           wrong.covariance_px2, ground_truth=wrong.truth)
    where = 'not visible there' if wrong.truth is None else f'{wrong.error_px:.0f} px off'
    cross = '' if wrong.truth is None else ' (white cross: the truth)'
    stamp = f' {wrong.other.stamp_ns} ns' if wrong.other.stamp_ns else ''
    picture = concatenate_images([draw_clicked(wrong.clicked.image, wrong.pixel, name), right],
                           [wrong.clicked.camera, f'{wrong.other.camera}{stamp}'],
                           f'{where}{cross}; seen from {seen_from} deg apart')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, picture)
