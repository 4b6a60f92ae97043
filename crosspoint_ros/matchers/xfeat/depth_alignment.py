"""Corrects the relative pose of two frames by their depths, point to plane, and by matches.

Point to plane after Chen & Medioni, Object modelling by registration of multiple range images,
1992; both ways, with robust weights whose scale shrinks, and the given pose as a prior. Directions
that the surfaces do not fix, as along a single plane, stay at the prior.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.core.depth import predict_depth_sigma_m

if TYPE_CHECKING:
    from crosspoint_ros.matchers.xfeat.features import FeatureFrame
    from crosspoint_ros.matchers.xfeat.two_view import PosePrior

SURFEL_PX = 8.0
TAPS_PX = 2.0 * np.array([(x, y) for y in range(-2, 3) for x in range(-2, 3)])
MIN_TAPS = 15
SAME_SURFACE_M, SAME_SURFACE_SHARE = 0.02, 0.03
MIN_FACING, MIN_COSINE = 0.1, 0.7
ROUNDS, SHRINK, ROOM_SIGMAS, SCALE_SIGMAS = 12, 0.6, 3.5, 1.5
SETTLED_ROUND, SETTLED = 6, 1e-4  # the scale is the sensors' by then; rad and m
# Errors of neighbouring depths, and of neighbouring matches, are alike: more say no more. What is
# left of them is as large as of fewer: errors of the lens and of the depth's scale.
MAX_INDEPENDENT, TRUSTED_INDEPENDENT = 100.0, 12.0
MATCH_SIGMA_PX = 2.0
AGREE_SIGMAS = 3.0
MIN_SURFELS, MIN_EXPLAINED, MAX_UNEXPLAINED = 60, 0.75, 0.5


NormalEquations = tuple[Array, Array, float]  # (6, 6), (6,), sum of the weights


@dataclass(frozen=True, eq=False)
class Surfels:
    """Planes around a grid of places of a frame.

    points_m, normals: (rows * columns, 3) in the camera's frame, the unit normals pointing into
    the surface; NaN where the depth is not known or not flat. shape: rows, columns.
    """

    points_m: Array
    normals: Array
    shape: tuple[int, int]

    @classmethod
    def fit(cls, frame: FeatureFrame) -> Surfels:
        """Fit 9x9 px: inverse depth is linear in the ray, n . ray = 1 / z."""
        grid = frame.scaled.grid(SURFEL_PX)
        if not frame.has_depth:
            nowhere = np.full((grid.shape[0] * grid.shape[1], 3), np.nan)
            return cls(nowhere, nowhere, (grid.shape[0], grid.shape[1]))
        places = grid.reshape(-1, 1, 2) + TAPS_PX
        height, width = frame.smooth_depth_m.shape
        pixels = np.rint(frame.scaled.to_image(places)).astype(int)
        inside = pixels.clip(0, (width - 1, height - 1))
        z = frame.smooth_depth_m[inside[..., 1], inside[..., 0]].astype(np.float64)
        z[(inside != pixels).any(axis=-1) | frame.is_masked(places)] = np.nan
        centre = z[:, len(TAPS_PX) // 2, None]
        with np.errstate(invalid='ignore'):
            here = np.abs(z - centre) < SAME_SURFACE_M + SAME_SURFACE_SHARE * centre
        flat = np.flatnonzero(here.sum(axis=1) >= MIN_TAPS)
        here, z = here[flat], np.where(here[flat], z[flat], 1.0)
        rays = frame.view.intrinsics.unproject(pixels[flat].astype(np.float64))
        rays = rays / rays[..., 2:]
        known = rays * here[..., None]
        square = np.einsum('nki,nkj->nij', known, known) + 1e-12 * np.eye(3)
        plane = np.linalg.solve(square, (known / z[..., None]).sum(axis=1)[..., None])[..., 0]
        off_m = (here * (1 - z * (rays @ plane[..., None])[..., 0]) * z)
        middle = rays[:, len(TAPS_PX) // 2]
        depth_m = 1 / (middle * plane).sum(axis=1)
        rough_m = np.sqrt((off_m ** 2).sum(axis=1) / here.sum(axis=1))
        normal = plane / np.linalg.norm(plane, axis=1, keepdims=True)
        facing = (normal * middle).sum(axis=1) / np.linalg.norm(middle, axis=1)
        good = (depth_m > 0) & (rough_m < 2 * predict_depth_sigma_m(depth_m)) \
            & (facing > MIN_FACING)
        points_m = np.full((len(places), 3), np.nan)
        normals = points_m.copy()
        points_m[flat[good]] = (middle * depth_m[:, None])[good]
        normals[flat[good]] = normal[good]
        return cls(points_m, normals, (grid.shape[0], grid.shape[1]))

    @cached_property
    def known(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.isfinite(self.points_m[:, 0]))


@dataclass(frozen=True, eq=False)
class SurfelPairs:
    """Surfels of one frame and the planes of the other that they fall on.

    points_m, normals: (n, 3) in the other camera. offset_m: (n,) signed distance from the plane,
    negative in front of it. sigma_m: (n,) of the sensors. is_alike: (n,) whether both face alike,
    and the camera.
    """

    points_m: Array
    normals: Array
    offset_m: Array
    sigma_m: Array
    is_alike: npt.NDArray[np.bool_]


def pair_surfels(source: FeatureFrame, seen_by: FeatureFrame, motion: Transform) -> SurfelPairs:
    """Project the surfels of one frame into the other; motion: seen_by_from_source."""
    ours, theirs = source.surfels, seen_by.surfels
    points_m = motion.transform_points(ours.points_m[ours.known])
    pixels = seen_by.scaled.project(points_m)
    shown = np.isfinite(pixels).all(axis=1) & (points_m[:, 2] > 0)
    shown &= seen_by.scaled.contains(np.where(shown[:, None], pixels, -1e6))
    rows, columns = theirs.shape
    x, y = (pixels[shown] + 0.5).T
    at = (y * rows / seen_by.scaled.height_px).astype(int).clip(0, rows - 1) * columns \
        + (x * columns / seen_by.scaled.width_px).astype(int).clip(0, columns - 1)
    both = np.isfinite(theirs.points_m[at, 0])
    points_m, at = points_m[shown][both], at[both]
    normals, planes = motion.rotate(ours.normals[ours.known][shown][both]), theirs.normals[at]
    facing = (normals * points_m).sum(axis=1) / np.linalg.norm(points_m, axis=1)
    return SurfelPairs(
        points_m, planes, ((points_m - theirs.points_m[at]) * planes).sum(axis=1),
        np.hypot(predict_depth_sigma_m(points_m[:, 2]),
                 predict_depth_sigma_m(theirs.points_m[at, 2])),
        ((normals * planes).sum(axis=1) > MIN_COSINE) & (facing > MIN_FACING))


@dataclass(frozen=True, eq=False)
class Alignment:
    """A corrected pose.

    motion: other_from_clicked. covariance: (6, 6) as in `CorrectedPose`. agreeing: surfels of
    either frame within three sigmas of the other's surface; seen_through: those further in front of
    it, where the other camera should have seen them. noise_ratio: measured offsets, in sigmas of
    the sensors.
    """

    motion: Transform
    covariance: Array
    agreeing: int
    seen_through: int
    noise_ratio: float

    @property
    def is_confirmed(self) -> bool:
        """Whether the depths of both frames say that the pose is right."""
        return self.agreeing >= max(MIN_SURFELS, MIN_EXPLAINED * self._compared)

    @property
    def is_contradicted(self) -> bool:
        """Whether no pose near the given one makes the depths of both frames agree."""
        return self._compared >= MIN_SURFELS and self.agreeing < MAX_UNEXPLAINED * self._compared

    @property
    def _compared(self) -> int:
        return self.agreeing + self.seen_through


@dataclass(frozen=True, eq=False)
class MatchedPoints:
    """Points (n, 3) of the source frame, m, and their ideal pixels (n, 2) in the other one."""

    points_m: Array
    ideal_px: Array


def align_depths(clicked: FeatureFrame, other: FeatureFrame, given: Transform, start: Transform,
                 prior: PosePrior, matches: MatchedPoints, reverse_matches: MatchedPoints
                 ) -> Alignment:
    """Correct `given` (other_from_clicked), from `start`, by depths and matches.

    reverse_matches: of points of the other frame.
    """
    stiffness = np.repeat([prior.rotation_rad, prior.translation], 3) ** -2.0
    motion = start
    for turn in range(ROUNDS):
        correction = motion @ given.inverse
        so_far = np.concatenate([cv2.Rodrigues(correction.R)[0].ravel(), correction.t_m])
        terms = [_surfel_term(clicked, other, motion, False, turn, prior),
                 _surfel_term(other, clicked, motion, True, turn, prior),
                 _match_term(other, motion, matches, False, turn),
                 _match_term(clicked, motion, reverse_matches, True, turn)]
        information, gradient = _limit_and_sum(terms, MAX_INDEPENDENT)
        step = -np.linalg.solve(information + np.diag(stiffness), gradient + stiffness * so_far)
        turned = np.asarray(cv2.Rodrigues(np.ascontiguousarray(step[:3]))[0], dtype=np.float64)
        motion = Transform(turned, step[3:]) @ motion
        if turn >= SETTLED_ROUND and (np.abs(step) < SETTLED).all():
            break
    information, _ = _limit_and_sum(terms, TRUSTED_INDEPENDENT)
    covariance = np.asarray(np.linalg.inv(information + np.diag(stiffness)), dtype=np.float64)
    return _assess(clicked, other, motion, covariance)


def _limit_and_sum(terms: list[NormalEquations], most: float) -> tuple[Array, Array]:
    """Sum surfels and matches, each with the weight of at most `most` independent ones."""
    information, gradient = np.zeros((6, 6)), np.zeros(6)
    for two in (terms[:2], terms[2:]):
        share = min(1.0, most / max(sum(count for _, _, count in two), 1.0))
        information = information + share * (two[0][0] + two[1][0])
        gradient = gradient + share * (two[0][1] + two[1][1])
    return information, gradient


def _surfel_term(source: FeatureFrame, seen_by: FeatureFrame, motion: Transform, is_reverse: bool,
                 turn: int, prior: PosePrior) -> NormalEquations:
    """Normal equations (6, 6), (6,) of point to plane, and the sum of their weights."""
    pairs = pair_surfels(source, seen_by, motion.inverse if is_reverse else motion)
    range_m = np.linalg.norm(pairs.points_m, axis=1)
    room_m = ROOM_SIGMAS * SHRINK ** turn * np.hypot(prior.translation,
                                                     prior.rotation_rad * range_m)
    scale_m = SCALE_SIGMAS * np.maximum(pairs.sigma_m, room_m)
    weight = pairs.is_alike / (1 + (pairs.offset_m / scale_m) ** 2) ** 2
    points_m, normals = pairs.points_m, pairs.normals
    if is_reverse:  # the other camera's points move against the motion
        points_m, normals = motion.transform_points(points_m), motion.rotate(normals)
    slope = np.concatenate([np.cross(points_m, normals), normals], axis=1)
    sign = -1 if is_reverse else 1
    weighted = slope * (sign * weight / pairs.sigma_m ** 2)[:, None]
    return sign * weighted.T @ slope, weighted.T @ pairs.offset_m, float(weight.sum())


def _match_term(seen_by: FeatureFrame, motion: Transform, matches: MatchedPoints, is_reverse: bool,
                turn: int) -> NormalEquations:
    """Normal equations (6, 6), (6,) of reprojection, and the sum of their weights."""
    matrix = seen_by.scaled.ideal_matrix
    points_m = (motion.inverse if is_reverse else motion).transform_points(matches.points_m)
    ahead = points_m[:, 2] > 0
    points_m, ideal = points_m[ahead], matches.ideal_px[ahead]
    depth_m = points_m[:, 2:]
    off_px = points_m[:, :2] / depth_m * np.diag(matrix)[:2] + matrix[:2, 2] - ideal
    d_point = np.zeros((len(points_m), 2, 3))
    d_point[:, [0, 1], [0, 1]] = np.diag(matrix)[:2] / depth_m
    d_point[:, :, 2] = -np.diag(matrix)[:2] * points_m[:, :2] / depth_m ** 2
    if is_reverse:
        d_point, points_m = -d_point @ motion.R.T, motion.transform_points(points_m)
    slope = np.concatenate([np.cross(points_m[:, None, :], d_point), d_point], axis=2)
    scale_px = max(MATCH_SIGMA_PX, 10 * SHRINK ** turn)
    weight = 1 / (1 + (off_px ** 2).sum(axis=1) / scale_px ** 2) ** 2
    weighted = (slope * (weight / MATCH_SIGMA_PX ** 2)[:, None, None]).reshape(-1, 6)
    return (weighted.T @ slope.reshape(-1, 6), weighted.T @ off_px.ravel(), float(weight.sum()))


def _assess(clicked: FeatureFrame, other: FeatureFrame, motion: Transform, covariance: Array
            ) -> Alignment:
    """Count the surfels that agree, and those that the other camera sees through."""
    both = (pair_surfels(clicked, other, motion), pair_surfels(other, clicked, motion.inverse))
    sigmas = np.concatenate([(p.offset_m / p.sigma_m)[p.is_alike] for p in both])
    agree = np.abs(sigmas) < AGREE_SIGMAS
    through = sum(int((p.offset_m < -AGREE_SIGMAS * p.sigma_m).sum()) for p in both)
    return Alignment(motion, covariance, int(agree.sum()), through,
                     float(1.48 * np.median(np.abs(sigmas[agree]))) if agree.any() else 1.0)
