"""Evidence that a place is the click's, from cues that do not depend on how rich a scene is."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.matchers.xfeat import score_map
from crosspoint_ros.matchers.xfeat.features import FeatureFrame
from crosspoint_ros.matchers.xfeat.matching import LocalAffine
from crosspoint_ros.matchers.xfeat.network import FloatMap
from crosspoint_ros.matchers.xfeat.pair_geometry import PairGeometry

RADIUS_PX, REACH_PX = 15.0, 75.0  # weights of keypoints fall by e; farther ones do not count
ALIKE_PX, ALIKE_SHARE = 6.0, 0.15  # sigma of a keypoint's motion, and its growth with distance
FEW, FEW_ON_A_SIDE = 0.5, 0.7  # weight of keypoints below which a share is not known
SIDES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)])
PATCH_PX, SHIFT_PX, SHIFT_STEP = 15, 4, 2  # half of the patch's side; how far off a place may be
GREY_NOISE = 1.0  # grey levels, after the smoothing: contrast below it shows nothing


@dataclass(frozen=True)
class LocalEvidence:
    """Whether the surroundings of a click and of a place in the other view are the same surface.

    support: share 0..1 of the keypoints around that are matched as the local affine map says; those
    that are hidden in the other view, or move otherwise, are not. worst_side: the same on the worst
    of eight half-planes through the point: lower at the edge of a surface. Both are the smaller of
    the two views. reverse_margin: by how much the click resembles the place more than anything else
    does in its own view, more than 24 px away, what is off the epipolar line less so; negative
    where another point fits better. patch_correlation: -1..1, of the grey levels around both.
    """

    support: float
    worst_side: float
    reverse_margin: float
    patch_correlation: float


def measure_local_evidence(pair: PairGeometry, pixel: Array, found: Array, there: LocalAffine,
                           back: LocalAffine, with_second: bool) -> LocalEvidence:
    """Measure the evidence for a scaled pixel and a place (2,).

    there, back: the affine maps at both. with_second: the second descriptor is to be used too.
    """
    clicked, other = pair.keypoints
    partners, partners_back = pair.partners
    support = np.minimum(measure_support(clicked - pixel, partners - found, there.linear),
                         measure_support(other - found, partners_back - pixel, back.linear))
    return LocalEvidence(
        float(support[0]), float(support[1]), _reverse_margin(pair, pixel, found, with_second),
        correlate_patches(pair.clicked.sample_grey(pixel + PATCH),
                          pair.other.sample_grey(found + WIDE_PATCH @ there.linear.T)))


def measure_support(away: Array, partners_away: Array, linear: Array) -> Array:
    """Return the support (2,) of keypoints around a place: their share, and on the worst side.

    away, partners_away: (n, 2) from the place, and from where it is mapped; NaN: not matched.
    """
    distance = np.linalg.norm(away, axis=1)
    near = distance < REACH_PX
    away, distance = away[near], distance[near]
    off = np.linalg.norm(partners_away[near] - away @ linear.T, axis=1)
    alike = np.exp(-0.5 * (off / (ALIKE_PX + ALIKE_SHARE * distance)) ** 2)
    weight = np.exp(-distance / RADIUS_PX)
    agreeing = weight * np.nan_to_num(alike)
    share = agreeing.sum() / (weight.sum() + FEW)
    on_side = away @ SIDES > 0
    sides = (agreeing @ on_side + share * FEW_ON_A_SIDE) / (weight @ on_side + FEW_ON_A_SIDE)
    return np.array([share, sides.min()])


def _patch(half_px: int) -> Array:
    """Offsets (n, n, 2) of a square patch."""
    side = np.arange(-half_px, half_px + 1.0)
    return np.stack(np.meshgrid(side, side), axis=-1)


PATCH, WIDE_PATCH = _patch(PATCH_PX), _patch(PATCH_PX + SHIFT_PX)


def correlate_patches(sought: FloatMap, seen: FloatMap) -> float:
    """Return the normalised correlation of a patch (n, n) with the best place in one (m, m) >= n.

    Grey levels less `GREY_NOISE` in variance, so that patches without contrast count nothing.
    """
    there = sliding_window_view(seen, sought.shape)[::SHIFT_STEP, ::SHIFT_STEP]
    there = there - there.mean(axis=(2, 3), keepdims=True)
    sought = sought - sought.mean()
    contrast = (np.mean(there ** 2, axis=(2, 3)) + GREY_NOISE ** 2) \
        * (np.mean(sought ** 2) + GREY_NOISE ** 2)
    return float((np.mean(there * sought, axis=(2, 3)) / np.sqrt(contrast)).max())


def _reverse_margin(pair: PairGeometry, pixel: Array, found: Array, with_second: bool) -> float:
    size = pair.clicked.fine_grid.shape[1::-1]
    networks = [pair.descriptors, *([pair.second_descriptors] if with_second else [])]
    similar = sum(cv2.resize(clicked.coarse @ other.sample(found[None])[0], size,
                             interpolation=cv2.INTER_CUBIC) for clicked, other in networks)
    scores = similar / np.float32(len(networks)) + score_map.reverse_epipolar_term(pair, found) / 2
    return score_map.score_at(exclude_mask(pair.clicked, scores), pair.clicked.fine_grid, pixel)[1]


def exclude_mask(frame: FeatureFrame, scores: FloatMap) -> FloatMap:
    """Return a score map whose places on the robot's own body cannot be chosen."""
    return np.where(frame.fine_masked, np.float32(score_map.MASKED_SCORE), scores)
