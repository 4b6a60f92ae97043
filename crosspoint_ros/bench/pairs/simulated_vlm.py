"""SIMULATED coarse matcher: the truth, made wrong as a vision-language model's points are wrong."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.bench.pairs.dataset import LabelledQuery, Status
from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Match, Query, Rejected, View
from crosspoint_ros.matchers.xfeat.features import FeatureFrame, FeatureLevel
from crosspoint_ros.matchers.xfeat.network import Backbone
from crosspoint_ros.matchers.xfeat.options import XFeatOptions

MAX_LOOKALIKES = 10
# An outlier nearer to the truth than this share of the diagonal would be none.
MIN_OUTLIER_SHARE = 0.1


@dataclass(frozen=True)
class ErrorModel:
    """How wrong the simulated matcher is; lengths are shares of the image's diagonal.

    sigma: of the Gaussian error, per axis. outliers: share of the visible points that are found
    elsewhere, hallucinated: of the others that are found at all (the rest is refused), missed: of
    the visible ones that are refused. lookalike: outliers and hallucinations fall on the keypoints
    that look most like the click, instead of anywhere. stated: its stated sigma over the true one.
    confidence: what it says of every point; it tells nothing, as a simulation cannot know more.
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
    """No matcher: it knows the truth of every item, and errs on purpose.

    Its draws depend on the seed and the item's number alone, so that runs which differ in the size
    of the errors differ in nothing else.
    """

    def __init__(self, queries: Iterable[LabelledQuery], errors: ErrorModel) -> None:
        self._errors = errors
        self._known = {_query_key(item.query): (number, item) for number, item in enumerate(queries)}
        self._looks = LookalikeFinder() if errors.lookalike else None

    def match(self, query: Query) -> Match:
        """Answer with the truth and its error, an outlier, a hallucination, or a refusal."""
        number, item = self._known[_query_key(query)]
        rng = np.random.default_rng([self._errors.seed, number])
        chance, miss = rng.random(2)
        offset, anywhere, which = rng.normal(size=2), rng.random(2), int(rng.integers(MAX_LOOKALIKES))
        errors, size = self._errors, query.other.intrinsics
        visible = item.status == Status.VISIBLE
        if miss < errors.missed if visible else chance >= errors.hallucinated:
            raise Rejected(Code.NOT_VISIBLE, 'simulated: the model names no point')
        sigma_px = errors.sigma * compute_diagonal_px(size)
        if visible and chance >= errors.outliers:
            pixel = item.ground_truth + sigma_px * offset
        elif self._looks is not None:
            pixel = self._looks.find_lookalikes(query, item.ground_truth)[which]
        else:
            pixel = anywhere * (size.width_px, size.height_px) - 0.5
        last = np.array([size.width_px, size.height_px]) - 1.0
        return Match(np.clip(pixel, 0.0, last), np.eye(2) * (errors.stated * sigma_px) ** 2,
                     errors.confidence, 'simulated')


class LookalikeFinder:
    """The keypoints of a view that look most like a click, by the descriptors of xfeat itself:
    the places that are hardest for it to tell from the right one."""

    def __init__(self) -> None:
        self._recipe, self._backbone = XFeatOptions(), Backbone()
        self._levels: dict[str, tuple[View, FeatureLevel]] = {}

    def find_lookalikes(self, query: Query, ground_truth: Array) -> Array:
        """Return pixels (10, 2) away from the truth, the most alike first."""
        (sought,) = self._extract_level(query.clicked).dense.sample(query.pixel[None])
        level = self._extract_level(query.other)
        away = np.linalg.norm(level.pixels - ground_truth, axis=1) > \
            MIN_OUTLIER_SHARE * compute_diagonal_px(query.other.intrinsics)
        alike = np.where(away, level.descriptors @ sought, -1.0)
        return np.asarray(level.pixels[np.argsort(-alike, kind='stable')[:MAX_LOOKALIKES]])

    def _extract_level(self, view: View) -> FeatureLevel:
        known = self._levels.get(view.camera)
        if known is None or known[0].image is not view.image:
            level = FeatureFrame(view, self._recipe).ensure(1.0, self._backbone)
            known = self._levels[view.camera] = view, level
        return known[1]


def compute_diagonal_px(size: Intrinsics) -> float:
    """The diagonal of an image."""
    return float(np.hypot(size.width_px, size.height_px))


def _query_key(query: Query) -> tuple[str, str, bytes]:
    return query.clicked.camera, query.other.camera, query.pixel.tobytes()
