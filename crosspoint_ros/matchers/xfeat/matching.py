"""Keypoint matching: candidates, mutual nearest neighbours, consensus, local affine maps."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.features import FeatureLevel

Indices = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

DUPLICATE_PX = 3.0
NEIGHBOURS = 8
KD_TREE_OF_ONE = 4  # FLANN's KDTREE_SINGLE: exact in two dimensions
# A scene without texture has millions of similar pairs; the most similar are enough.
MAX_CANDIDATES = 300_000


@dataclass(frozen=True, eq=False)
class Matches:
    """Matched pixels of two views: clicked and other, each (n, 2), scaled and ideal."""

    clicked: Array
    other: Array
    clicked_ideal: Array
    other_ideal: Array

    def __len__(self) -> int:
        return len(self.clicked)

    def select(self, keep: Mask | Indices) -> Matches:
        return Matches(self.clicked[keep], self.other[keep],
                       self.clicked_ideal[keep], self.other_ideal[keep])


@dataclass(frozen=True, eq=False)
class CandidateMatches:
    """Pairs of keypoints of one scale whose cosine exceeds a limit, the least similar first.

    clicked, other: (n,) indices into the keypoints of the two levels.
    """

    clicked_level: FeatureLevel
    other_level: FeatureLevel
    clicked: Indices
    other: Indices
    cosine: npt.NDArray[np.float32]

    def select(self, keep: Mask) -> Matches:
        i, j = self.clicked[keep], self.other[keep]
        return Matches(self.clicked_level.pixels[i], self.other_level.pixels[j],
                       self.clicked_level.ideal[i], self.other_level.ideal[j])

    def near_epipolar_lines(self, F: Array, limit_px: float) -> Mask:
        """Return the mask of pairs within a band around the epipolar lines of F (3, 3)."""
        ones = np.ones((len(self.clicked_level.ideal), 1))
        lines = F @ np.hstack([self.clicked_level.ideal, ones]).T
        lines /= np.linalg.norm(lines[:2], axis=0) + 1e-12
        a, b, c = (each.take(self.clicked) for each in lines.astype(np.float32))
        x, y = (each.take(self.other) for each in self.other_level.ideal.T.astype(np.float32))
        return np.asarray(np.abs(a * x + b * y + c) < limit_px)

    def mutual(self, allowed: Mask) -> Mask:
        """Return the mask of mutual nearest neighbours among the allowed pairs."""
        rank = np.flatnonzero(allowed)
        best = np.zeros(len(self.cosine), bool)
        if not len(rank):
            return best
        # Ascending: of repeated indices the last, most similar one is kept.
        best_of_clicked = np.full(self.clicked.max() + 1, -1)
        best_of_other = np.full(self.other.max() + 1, -1)
        best_of_clicked[self.clicked[rank]] = rank
        best_of_other[self.other[rank]] = rank
        best[rank] = (best_of_clicked[self.clicked[rank]] == rank) & \
            (best_of_other[self.other[rank]] == rank)
        return best


def find_candidates(clicked: FeatureLevel, other: FeatureLevel, min_cosine: float
                    ) -> CandidateMatches:
    """Compare all keypoints of one level with all of the other view's."""
    cosines = (clicked.descriptors @ other.descriptors.T).ravel()
    candidates = np.flatnonzero(cosines > min_cosine)
    cosine = cosines[candidates]
    # A stable sort of 16 bits is a radix sort: a seventh of the time.
    steps = ((cosine - min_cosine) * (65535 / max(1.001 - min_cosine, 1e-3))).astype(np.uint16)
    order = np.argsort(steps, kind='stable')[-MAX_CANDIDATES:]
    i, j = np.divmod(candidates[order].astype(np.int32), np.int32(max(len(other.pixels), 1)))
    return CandidateMatches(clicked, other, i, j, cosine[order])


def concatenate(parts: list[Matches]) -> Matches:
    """Join the matches of several scales, keeping one of those within 3 px of each other."""
    names = ('clicked', 'other', 'clicked_ideal', 'other_ideal')
    joined = Matches(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
    cells = np.round(np.hstack([joined.clicked, joined.other]) / DUPLICATE_PX).astype(np.int64)
    key = cells @ np.array([1, 1 << 14, 1 << 28, 1 << 42])
    return joined.select(np.unique(key, return_index=True)[1])


def mutual_matches(scales: list[CandidateMatches], min_cosine: float) -> Matches:
    return concatenate([s.select(s.mutual(s.cosine > min_cosine)) for s in scales])


def find_partners(keypoints: Array, matched: Array, partners: Array) -> Array:
    """Return the matched pixels (n, 2) of keypoints (n, 2), NaN where the matches have none.

    matched, partners: (m, 2); a match counts within 3 px of the keypoint, both rounded.
    """
    if not len(matched) or not len(keypoints):
        return np.full((len(keypoints), 2), np.nan)
    reach = int(DUPLICATE_PX)
    cells, sought = (np.round(pixels).astype(int) + reach for pixels in (matched, keypoints))
    nearest = np.full(np.maximum(cells.max(axis=0), sought.max(axis=0)) + reach + 1, -1)
    offsets = np.mgrid[-reach:reach + 1, -reach:reach + 1].reshape(2, -1).T
    square = (offsets ** 2).sum(axis=1)
    for offset in offsets[np.argsort(-square)][(square > DUPLICATE_PX ** 2).sum():]:  # nearest last
        nearest[tuple((cells + offset).T)] = np.arange(len(cells))
    found = nearest[tuple(sought.T)]
    return np.where(found[:, None] >= 0, partners[found], np.nan)


def neighbourhood_consensus(matches: Matches) -> Mask:
    """Return the mask of matches that move like the median of their 8 neighbours."""
    if len(matches) < 12:
        return np.ones(len(matches), bool)
    points = (matches.clicked - matches.clicked.mean(axis=0)).astype(np.float32)
    tree = cv2.flann_Index(points, {'algorithm': KD_TREE_OF_ONE})  # type: ignore[attr-defined]
    near, square = tree.knnSearch(points, NEIGHBOURS + 1, params={'checks': -1})
    others = near != np.arange(len(points))[:, None]
    others[:, -1] &= ~others.all(axis=1)  # crowded out at its own pixel
    near = near[others].reshape(-1, NEIGHBOURS)
    reach = np.sqrt(square[others]).reshape(-1, NEIGHBOURS).mean(axis=1)
    moved = matches.other - matches.clicked
    off = np.linalg.norm(moved - np.median(moved[near], axis=1), axis=1)
    return np.asarray(off < 2 * (12 + 0.5 * reach))


NEAREST = 10
RIDGE_PX2 = 40.0


@dataclass(frozen=True, eq=False)
class LocalAffine:
    """The affine map of a pixel's neighbourhood to the other view.

    pixel: (2,) mapped. linear: (2, 2). density: number of matches that support it, weighted by
    distance and residual.
    """

    pixel: Array
    linear: Array
    density: float


def fit_global_linear(clicked: Array, other: Array) -> Array:
    """Return the linear part (2, 2) of a robust affine map of matches (n, 2); identity if none."""
    if len(clicked) < 4:
        return np.eye(2)
    affine, _ = cv2.estimateAffine2D(clicked, other, ransacReprojThreshold=15)
    return np.eye(2) if affine is None else np.asarray(affine[:, :2], dtype=np.float64)


def fit_local_affine(clicked: Array, other: Array, pixel: Array, global_linear: Array
                     ) -> LocalAffine:
    """Fit the 10 matches (n, 2) nearest to the pixel, ridge-regularised towards `global_linear`."""
    if len(clicked) < 4:
        return LocalAffine(np.array(pixel), np.eye(2), 0.0)
    distance = np.linalg.norm(clicked - pixel, axis=1)
    near = np.argsort(distance)[:NEAREST]
    a, b = clicked[near], other[near]
    weight = closeness = (distance[near] + 6) ** -2.0
    for _ in range(3):
        weight = weight / weight.sum()
        mean_a, mean_b = weight @ a, weight @ b
        da, db = a - mean_a, b - mean_b
        spread = (da * weight[:, None]).T @ da
        ridge = 0.05 * np.trace(spread) + RIDGE_PX2
        linear = ((db * weight[:, None]).T @ da + ridge * global_linear) \
            @ np.linalg.inv(spread + ridge * np.eye(2))
        off = np.linalg.norm(db - da @ linear.T, axis=1)
        weight = closeness / (1 + (off / 6) ** 2)
    weight = weight / weight.sum()
    residual = float(weight @ off)
    density = float(np.exp(-distance / 30).sum() * np.exp(-residual / 6))
    return LocalAffine(mean_b + linear @ (pixel - mean_a), linear, density)
