"""A simulated vision-language model: ground truth with Gaussian error, outliers, hallucinations."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.bench.pairs.dataset import LabelledQuery
from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Match, Query, Rejected, View
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.matchers.xfeat.features import FeatureFrame, FeatureLevel
from crosspoint_ros.matchers.xfeat.network import Backbone
from crosspoint_ros.matchers.xfeat.options import XFeatOptions

MAX_LOOKALIKES = 10
MIN_OUTLIER_SHARE = 0.1  # of the diagonal: least distance of a look-alike from the ground truth


@dataclass(frozen=True)
class ErrorModel:
    """The errors of the simulated matcher; lengths are shares of the image diagonal.

    sigma: of the Gaussian error, per axis. outliers: share of visible points that are found
    elsewhere. hallucinated: share of hidden points that are found at all (the rest is refused).
    missed: share of visible points that are refused. lookalike: outliers and hallucinations fall
    on the keypoints most similar to the click, not anywhere. stated: stated sigma over the true
    one. confidence: of every point, so it carries no information.
    """

    sigma: float = 0.02
    outliers: float = 0.1
    hallucinated: float = 0.35
    missed: float = 0.0
    lookalike: bool = False
    stated: float = 1.0
    confidence: float = 0.9
    seed: int = 0


class SimulatedVLM:
    """A matcher that knows the ground truth of every query and adds errors to it.

    Its draws depend on the seed and the number of the query only, so runs with errors of another
    size differ in nothing else.
    """

    def __init__(self, queries: Iterable[LabelledQuery], errors: ErrorModel) -> None:
        self._errors = errors
        self._known = {_query_key(labelled.query): (number, labelled)
                       for number, labelled in enumerate(queries)}
        self._finder = LookalikeFinder() if errors.lookalike else None

    def match(self, query: Query) -> Match:
        """Return the ground truth with an error, an outlier or a hallucination, or refuse."""
        number, labelled = self._known[_query_key(query)]
        rng = np.random.default_rng([self._errors.seed, number])
        chance, miss = rng.random(2)
        offset, anywhere = rng.normal(size=2), rng.random(2)
        which = int(rng.integers(MAX_LOOKALIKES))
        errors, size = self._errors, query.other.intrinsics
        visible = labelled.visibility == Visibility.VISIBLE
        if miss < errors.missed if visible else chance >= errors.hallucinated:
            raise Rejected(Code.NOT_VISIBLE, 'simulated: the model names no point')
        sigma_px = errors.sigma * compute_diagonal_px(size)
        if visible and chance >= errors.outliers:
            pixel = labelled.ground_truth + sigma_px * offset
        elif self._finder is not None:
            pixel = self._finder.find_lookalikes(query, labelled.ground_truth)[which]
        else:
            pixel = anywhere * (size.width_px, size.height_px) - 0.5
        last = np.array([size.width_px, size.height_px]) - 1.0
        return Match(np.clip(pixel, 0.0, last), np.eye(2) * (errors.stated * sigma_px) ** 2,
                     errors.confidence, 'simulated')


class LookalikeFinder:
    """Finds the keypoints most similar to a click by XFeat's descriptors, its hardest negatives."""

    def __init__(self) -> None:
        self._options, self._backbone = XFeatOptions(), Backbone()
        self._levels: dict[str, tuple[View, FeatureLevel]] = {}

    def find_lookalikes(self, query: Query, ground_truth: Array) -> Array:
        """Return pixels (10, 2) away from the ground truth, the most similar first."""
        (descriptor,) = self._extract_level(query.clicked).dense.sample(query.pixel[None])
        level = self._extract_level(query.other)
        away = np.linalg.norm(level.pixels - ground_truth, axis=1) > \
            MIN_OUTLIER_SHARE * compute_diagonal_px(query.other.intrinsics)
        similarity = np.where(away, level.descriptors @ descriptor, -1.0)
        return np.asarray(level.pixels[np.argsort(-similarity, kind='stable')[:MAX_LOOKALIKES]])

    def _extract_level(self, view: View) -> FeatureLevel:
        cached = self._levels.get(view.camera)
        if cached is None or cached[0].image is not view.image:
            level = FeatureFrame(view, self._options).ensure(1.0, self._backbone)
            cached = self._levels[view.camera] = view, level
        return cached[1]


def compute_diagonal_px(size: Intrinsics) -> float:
    """Return the length of an image diagonal."""
    return float(np.hypot(size.width_px, size.height_px))


def _query_key(query: Query) -> tuple[str, str, bytes]:
    return query.clicked.camera, query.other.camera, query.pixel.tobytes()
