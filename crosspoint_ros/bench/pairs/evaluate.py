"""Evaluates a matcher on labelled queries along the robot's own path, `core.pipeline.locate`."""
from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.pairs.dataset import LabelledQuery
from crosspoint_ros.core import visualization
from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    GraspTarget,
    Match,
    Matcher,
    Refiner,
    Rejected,
)
from crosspoint_ros.core.fusion import FusionParams
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.pipeline import FUSION, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.qa.point_visibility import Visibility


@dataclass(frozen=True)
class Outcome:
    """The result of one query.

    clickable: False if the robot refuses the click itself (on its own body, outside the image):
    such a query is in no score. error_px: distance of the found pixel from the ground truth,
    accepted or not; infinite without a pixel. mahalanobis2: that error in units of the stated
    covariance. code: OK if accepted. camera: the one searched. error_3d_mm: of the target,
    whose normalised_squared is e' C^-1 e / 3 (see `TargetScore`) and whose target_sigma_mm is the
    largest. roll_deg, turn_deg: as in `LabelledQuery`. NaN: unknown.
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
    camera: str = ''
    angle_deg: float = np.nan
    error_3d_mm: float = np.nan
    normalised_squared: float = np.nan
    target_confidence: float = np.nan
    target_sigma_mm: float = np.nan
    roll_deg: float = np.nan
    turn_deg: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the robot gets this answer."""
        return self.code == Code.OK


def evaluate(queries: Iterable[LabelledQuery], matcher: Matcher, limits: Limits,
             refiner: Refiner | None = None, fusion: FusionParams = FUSION
             ) -> Iterator[tuple[LabelledQuery, Outcome]]:
    """Yield each query with its outcome; with a refiner, the matcher's match is the coarse one."""
    pair = -1
    for query in queries:
        first, pair = query.pair != pair, query.pair
        yield query, _evaluate_query(query, matcher, limits, refiner, fusion, first)


def _evaluate_query(labelled: LabelledQuery, matcher: Matcher, limits: Limits,
                    refiner: Refiner | None, fusion: FusionParams, first: bool) -> Outcome:
    query, match, target, clickable = labelled.query, None, None, True
    begun_s = time.perf_counter()
    try:
        result = locate(query.clicked, [query.other], query.pixel, matcher, limits,
                        refiner=refiner, fusion=fusion)
        (found,), target = result.correspondences, result.target
        match, rejected = found.match, found.rejected
    except Rejected as error:
        clickable, rejected = False, error
    ms = 1000 * (time.perf_counter() - begun_s)
    match = match or Match(np.full(2, np.nan))
    error_px = match.pixel - labelled.ground_truth
    distance_px = float(np.linalg.norm(error_px))
    return Outcome(
        labelled.pair, labelled.bin, labelled.visibility == Visibility.VISIBLE, clickable,
        distance_px if np.isfinite(distance_px) else np.inf, float(match.confidence),
        float(error_px @ np.linalg.pinv(np.nan_to_num(match.covariance_px2)) @ error_px),
        Code.OK if rejected is None else rejected.code,
        '' if rejected is None else rejected.message, first, ms,
        (float(match.pixel[0]), float(match.pixel[1])), query.other.camera, labelled.angle_deg,
        *measure_target(target, labelled.point_base_m), labelled.roll_deg, labelled.turn_deg)


def measure_target(target: GraspTarget | None, point_base_m: Array | None
                   ) -> tuple[float, float, float, float]:
    """Return error, mm, e' C^-1 e / 3, confidence and largest sigma, mm, of a target; or NaN.

    In the base: that is the clicked camera's frame, whose pose `apply_inputs` leaves exact.
    """
    if target is None or point_base_m is None:
        return np.nan, np.nan, np.nan, np.nan
    error_m, covariance_m2 = target.base_from_target.t_m - point_base_m, target.covariance[:3, :3]
    return (1000 * float(np.linalg.norm(error_m)),
            float(error_m @ np.linalg.pinv(covariance_m2, hermitian=True) @ error_m) / 3,
            target.confidence, 1000 * float(np.linalg.eigvalsh(covariance_m2)[-1]) ** 0.5)


def draw_failure(path: Path, labelled: LabelledQuery, outcome: Outcome, sure_confidence: float
                 ) -> None:
    """Draw a wrong or missing answer, the ground truth as a white cross, and write it."""
    query, visible = labelled.query, outcome.visible
    ground_truth = labelled.ground_truth if visible else None
    if outcome.accepted:
        other = visualization.draw_match(
            query.other.image, outcome.found_px, f'confidence {outcome.confidence:.2f}',
            outcome.confidence >= sure_confidence, ground_truth=ground_truth)
    else:
        other = visualization.draw_refusal(query.other.image, f'refused: {outcome.message}',
                                           ground_truth)
    error = f'{outcome.error_px:.0f} px off (white cross: ground truth)' if visible \
        else 'not visible there'
    stamp = f' {query.other.stamp_ns} ns' if query.other.stamp_ns else ''
    write_image(path, visualization.concatenate_images(
        [visualization.draw_clicked(query.clicked.image, query.pixel, 'clicked'), other],
        [query.clicked.camera, f'{query.other.camera}{stamp}'],
        f'{error}; viewing angle {labelled.bin} deg'))
