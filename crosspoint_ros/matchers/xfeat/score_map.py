"""Score map: how well each place of the other view fits the click."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat.features import COARSE_PX
from crosspoint_ros.matchers.xfeat.matching import LocalAffine
from crosspoint_ros.matchers.xfeat.network import FloatMap
from crosspoint_ros.matchers.xfeat.pair_geometry import DescriptorPair, PairGeometry
from crosspoint_ros.matchers.xfeat.two_view import fundamental_matrix, to_homogeneous

# Offsets (24, 2) of the patch around the click.
NEIGHBOURS_PX = 10.0 * np.array([(x, y) for y in range(-2, 3) for x in range(-2, 3) if x or y])
PATCH_SIGMA_PX = 20.0
W_PATCH = 2.0
W_SECOND = 2.0
W_AFFINE, PRIOR_SIGMA_PX, PRIOR_HALF_DENSITY = 0.1, 25.0, 0.6
W_EPIPOLAR, BAND_SIGMA_PX = 0.2, 4.0
W_REPROJECTION = 0.5
W_SEARCH_PRIOR = 0.2
FLOOR = 0.01
PEAK_SEPARATION_PX = 24.0
NEIGHBOURHOOD_PX = 8.0
FAR_PX = 200.0
MASKED_SCORE = -9.0


@dataclass(frozen=True, eq=False)
class Peak:
    """The maximum of a score map: scaled pixel (2,), row and column, score, and margin over all
    places more than 24 px away."""

    pixel: Array
    cell: tuple[int, int]
    score: float
    margin: float


@dataclass(frozen=True, eq=False)
class SearchPrior:
    """A coarse match: pixel (2,) and covariance (2, 2), scaled px."""

    pixel: Array
    covariance_px2: Array

    def mahalanobis_squared(self, pixel: Array) -> Array:
        """Squared distance, in sigmas, of scaled pixels (..., 2)."""
        away = pixel - self.pixel
        return np.asarray((away @ np.linalg.inv(self.covariance_px2) * away).sum(axis=-1))


def similarity_term(pair: PairGeometry, descriptors: DescriptorPair, pixel: Array, linear: Array,
                    patch_weight: float) -> FloatMap:
    """Score the similarity of the pixel, and of the patch around it, to each place."""
    offsets = NEIGHBOURS_PX if patch_weight else np.zeros((0, 2))
    offsets = offsets[pair.clicked.scaled.contains(pixel + offsets)]
    clicked, other = descriptors
    sought, coarse = clicked.sample(np.concatenate([pixel[None], pixel + offsets])), other.coarse
    rows, columns, channels = coarse.shape
    cosine = (sought @ coarse.reshape(-1, channels).T).reshape(-1, rows, columns)
    size = pair.other.fine_grid.shape[1::-1]
    similar = cv2.resize(cosine[0], size, interpolation=cv2.INTER_CUBIC)
    if len(offsets):
        similar = similar + patch_weight * patch_consensus(cosine[1:], offsets, linear, size)
    return similar


def patch_consensus(cosine: FloatMap, offsets: Array, linear: Array, size: tuple[int, int]
                    ) -> FloatMap:
    """Sum the neighbours' cubed cosines (n, rows, columns), each shifted back to the centre."""
    weight = np.exp(-(offsets ** 2).sum(axis=1) / (2 * PATCH_SIGMA_PX ** 2))
    weight /= weight.sum()
    shift = offsets @ linear.T / COARSE_PX
    total = np.zeros(size[::-1], np.float32)
    for index, (dx, dy) in enumerate(shift):
        near = cv2.dilate(np.maximum(cosine[index], 0) ** 3, np.ones((3, 3), np.uint8))
        back = np.array([[0.5, 0, dx - 0.25], [0, 0.5, dy - 0.25]])
        total += np.float32(weight[index]) * cv2.warpAffine(
            near, back, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return total


def affine_term(pair: PairGeometry, prior: LocalAffine) -> FloatMap:
    """Score the distance from where the matches around the click map it."""
    square = ((pair.other.fine_grid - prior.pixel) ** 2).sum(axis=-1)
    gain = prior.density / (prior.density + PRIOR_HALF_DENSITY)
    return (W_AFFINE * gain * np.log(FLOOR + np.exp(-square / (2 * PRIOR_SIGMA_PX ** 2)))
            ).astype(np.float32)


def epipolar_term(pair: PairGeometry, pixel: Array) -> FloatMap:
    """Score the distance from the epipolar segment between the possible depths."""
    if pair.motion is None or not np.isfinite(pair.max_depth):
        return np.zeros(pair.other.fine_grid.shape[:2], np.float32)
    return _score_distance(pair, epipolar_segment_distance(pair, pixel))


def reverse_epipolar_term(pair: PairGeometry, found: Array) -> FloatMap:
    """Score the distance, in the clicked view, from the epipolar line of a place in the other."""
    if pair.motion is None:
        return np.zeros(pair.clicked.fine_grid.shape[:2], np.float32)
    line = to_homogeneous(pair.other.scaled.to_ideal(found)) \
        @ fundamental_matrix(pair.motion, pair.pinholes)
    line = line / (np.linalg.norm(line[:2]) + 1e-12)
    distance = np.abs(pair.clicked.fine_ideal @ line[:2] + line[2])
    return _score_distance(pair, np.nan_to_num(distance, nan=FAR_PX))


def _score_distance(pair: PairGeometry, distance: Array) -> FloatMap:
    fits = np.log(FLOOR + np.exp(-distance ** 2 / (2 * BAND_SIGMA_PX ** 2)))
    return (W_EPIPOLAR * pair.pose_confidence * fits).astype(np.float32)


def epipolar_segment_distance(pair: PairGeometry, pixel: Array) -> Array:
    """Return the distance (rows, columns) from the projected ray of the click, ideal px."""
    assert pair.motion is not None
    inverse_depth = np.linspace(1 / pair.max_depth, 1 / pair.min_depth, 400)
    ray = pair.clicked.scaled.unproject(pixel)
    seen = pair.motion.transform_points(ray / inverse_depth[:, None])
    seen = seen[seen[:, 2] > 0.05 * pair.min_depth]
    distance = np.full(pair.other.fine_grid.shape[:2], FAR_PX)
    if len(seen) < 2:
        return distance
    ends = seen[[0, -1]] @ pair.pinholes.other.T
    start, end = ends[:, :2] / ends[:, 2:]
    along = end - start
    grid = pair.other.fine_ideal
    part = np.clip((grid - start) @ along / (along @ along + 1e-9), 0, 1)
    distance = np.linalg.norm(grid - start - part[..., None] * along, axis=-1)
    return np.minimum(np.nan_to_num(distance, nan=FAR_PX), FAR_PX)


def reprojection_term(pair: PairGeometry, distance: Array) -> FloatMap:
    """Score the reprojection distance (rows, columns), px.

    Places without depth (NaN) lose half of what a wrong place loses.
    """
    sigma_px = max(pair.reprojection_sigma_px, BAND_SIGMA_PX)
    fits = np.log(FLOOR + np.exp(-distance ** 2 / (2 * sigma_px ** 2)))
    return (W_REPROJECTION * np.nan_to_num(fits, nan=np.log(FLOOR) / 2)).astype(np.float32)


def search_prior_term(pair: PairGeometry, near: SearchPrior) -> FloatMap:
    """Score the distance from a coarse match."""
    squared = near.mahalanobis_squared(pair.other.fine_grid)
    return (-0.5 * W_SEARCH_PRIOR * squared).astype(np.float32)


def find_peak(scores: FloatMap, grid: Array) -> Peak:
    """Return the maximum, refined between the places by a parabola."""
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    best = float(scores[row, column])
    step = grid[1, 1] - grid[0, 0]
    pixel = grid[row, column] + step * (_vertex(scores[row], int(column)),
                                        _vertex(scores[:, column], int(row)))
    away = ((grid - pixel) ** 2).sum(axis=-1) > PEAK_SEPARATION_PX ** 2
    rival = float(scores[away].max()) if away.any() else MASKED_SCORE
    return Peak(pixel, (int(row), int(column)), best, best - rival)


def score_at(scores: FloatMap, grid: Array, pixel: Array) -> tuple[float, float]:
    """Return the score around a place, and its margin over all places more than 24 px away.

    The margin is negative where another place scores higher.
    """
    square = ((grid - pixel) ** 2).sum(axis=-1)
    here = float(scores[square <= max(NEIGHBOURHOOD_PX ** 2, float(square.min()))].max())
    away = square > PEAK_SEPARATION_PX ** 2
    return here, here - float(scores[away].max()) if away.any() else here - MASKED_SCORE


def _vertex(line: FloatMap, at: int) -> float:
    """Offset, in steps, of the vertex of the parabola through a maximum and its neighbours."""
    left, mid, right = (float(line[min(max(at + i, 0), len(line) - 1)]) for i in (-1, 0, 1))
    bend = 2 * mid - left - right
    return min(max(0.5 * (right - left) / bend, -0.5), 0.5) if bend > 1e-6 else 0.0
