"""Corrects where cameras are mounted, by pooled matches of many pairs of posed frames.

Unknown are small motions of each camera on its body (the hand, or the base), in the camera's frame:
`body_from_cam @ exp(step)`. Gauss-Newton with robust weights whose scale shrinks; the declared
noise of each camera is the prior, so that a camera that is not asked for takes part as uncertain.
A direction of the wanted camera that the data do not see is not moved.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.core.extrinsics.residuals import (
    LENS_SIGMAS,
    Noise,
    PosedMatches,
    adjoint,
    exp_pose,
    log_pose,
    measure_residuals,
    measure_slopes,
    whiten_residuals,
)

ROUNDS, SHRINK, LEAST_SCALE, ROOM = 14, 0.65, 3.0, 60.0  # scale of the weights, in sigmas
# Matches of a pair share the errors of its lens, depth and keypoints: more say no more.
MAX_INDEPENDENT = 40.0
UNSEEN_SHARE = 0.25  # of the declared noise: a direction that is not known better is not moved
RESAMPLES = 200
MEASURED_FROM = 10.0  # scale below which the noise is measured, not assumed
NOISE_RANGE = (0.1, 5.0)


@dataclass(frozen=True, eq=False)
class CameraMount:
    """A camera's declared pose on its body, and how well that is known, per axis."""

    body_from_cam: Transform
    sigma_m: float
    sigma_rad: float

    @property
    def stiffness(self) -> Array:
        return np.repeat([self.sigma_rad, self.sigma_m], 3) ** -2.0


@dataclass(frozen=True, eq=False)
class Observability:
    """What the data see of a camera's six directions.

    directions: (6, 6) rows of unit length, rotation x working distance and translation, both m, in
    the camera's frame, the best seen first. sigmas_m: (6,) by the data alone. is_seen: (6,).
    """

    directions: Array
    sigmas_m: Array
    is_seen: npt.NDArray[np.bool_]
    distance_m: float


@dataclass(frozen=True, eq=False)
class MountEstimate:
    """Mounts after a fit.

    information, gradient: of each pair, (n, P, P) and (n, P), for the rotations and translations of
    all cameras. lens_information: (P, 4 cameras), with the errors of the lenses; empty until the
    end. noises: of each pair. stiffness: of the declared mounts (P,).
    """

    mounts: Mapping[str, CameraMount]
    body_from_cam: dict[str, Transform]
    information: Array
    gradient: Array
    lens_information: Array
    noises: Sequence[Noise]

    def slots(self, camera: str) -> npt.NDArray[np.intp]:
        """Return the indices (6,) of a camera's rotation and translation."""
        return 6 * list(self.mounts).index(camera) + np.arange(6)

    @property
    def stiffness(self) -> Array:
        return np.concatenate([mount.stiffness for mount in self.mounts.values()])

    @property
    def so_far(self) -> Array:
        """By how much all have been moved (P,)."""
        return np.concatenate([log_pose(mount.body_from_cam.inverse @ self.body_from_cam[name])
                               for name, mount in self.mounts.items()])


def fit_mounts(pairs: Sequence[PosedMatches], mounts: Mapping[str, CameraMount], target: str,
               ) -> tuple[MountEstimate, Observability]:
    """Fit all mounts to the matches; see the module."""
    poses = {name: mount.body_from_cam for name, mount in mounts.items()}
    distance_m, scale = measure_distance_m(pairs, poses), ROOM
    noises = [Noise()] * len(pairs)
    for _ in range(ROUNDS):
        estimate = linearize_pairs(pairs, mounts, poses, scale, noises)
        step = _solve(estimate, estimate.information.sum(axis=0), estimate.gradient.sum(axis=0),
                      target, observe(estimate, target, distance_m)).reshape(-1, 6)
        poses = {name: poses[name] @ exp_pose(part)
                 for name, part in zip(mounts, step, strict=True)}
        scale = max(LEAST_SCALE, scale * SHRINK)
        if scale < MEASURED_FROM:
            noises = [measure_noise(pair, poses) for pair in pairs]
    estimate = linearize_pairs(pairs, mounts, poses, scale, noises, with_lenses=True)
    return estimate, observe(estimate, target, distance_m)


def linearize_pairs(pairs: Sequence[PosedMatches], mounts: Mapping[str, CameraMount],
                    poses: dict[str, Transform], scale: float, noises: Sequence[Noise],
                    with_lenses: bool = False) -> MountEstimate:
    """Return the normal equations of each pair at these poses."""
    names = list(mounts)
    size = 6 * len(names)
    information, gradient = np.zeros((len(pairs), size, size)), np.zeros((len(pairs), size))
    lens_information = np.zeros((size, 4 * len(names)))
    for index, (pair, noise) in enumerate(zip(pairs, noises, strict=True)):
        a, b = pair.cameras
        b_from_a = pair.relative_pose(poses[a], poses[b])
        white, slopes = measure_slopes(pair, b_from_a, noise, with_lenses)
        known = np.isfinite(white) & np.isfinite(slopes).all(axis=2)
        white, slopes = np.where(known, white, 0), np.where(known[..., None], slopes, 0)
        weight = known.any(axis=1) / (1 + (white ** 2).sum(axis=1) / scale ** 2) ** 2
        weight *= min(1.0, MAX_INDEPENDENT / max(float(weight.sum()), 1e-9))
        chain = np.zeros((6, size))
        for name, part in ((a, adjoint(b_from_a)), (b, -np.eye(6))):
            start = 6 * names.index(name)
            chain[:, start:start + 6] += part
        rows = slopes[..., :6].reshape(-1, 6) @ chain
        weighted = rows * np.repeat(weight, 3)[:, None]
        information[index] = weighted.T @ rows
        gradient[index] = weighted.T @ white.ravel()
        if with_lenses:
            for name, first in ((a, 6), (b, 10)):
                start = 4 * names.index(name)
                lens_information[:, start:start + 4] += \
                    weighted.T @ slopes[..., first:first + 4].reshape(-1, 4)
    return MountEstimate(mounts, poses, information, gradient, lens_information, noises)


def measure_noise(pair: PosedMatches, poses: Mapping[str, Transform]) -> Noise:
    """Return the sizes of a pair's residuals, robustly: 1.48 times the median.

    By pair: matches of distant views, and depth at a distance, are worse than others.
    """
    white = np.abs(whiten_residuals(pair, pair.relative_pose(
        *(poses[name] for name in pair.cameras)), Noise()))
    across = np.where(np.isfinite(white[:, 1]), white[:, 1], white[:, 0])
    px, plane = (1.48 * float(np.median(each[each < ROOM])) if (each < ROOM).any() else 1.0
                 for each in (across, white[:, 2]))
    return Noise(*np.clip([px, plane], *NOISE_RANGE).tolist())


def observe(estimate: MountEstimate, target: str, distance_m: float) -> Observability:
    """Return which directions of the camera the data see, all else known as declared."""
    at, stiffness = estimate.slots(target), estimate.stiffness
    rest = np.ones(len(stiffness), bool)
    rest[at] = False
    whole = estimate.information.sum(axis=0) + np.diag(np.where(rest, stiffness, 0))
    across = whole[at][:, rest]
    information = whole[np.ix_(at, at)] - across @ np.linalg.solve(
        whole[np.ix_(rest, rest)], across.T)
    per_m = np.repeat([1 / distance_m, 1.0], 3)  # a metre of rotation at the working distance
    values, vectors = np.linalg.eigh(per_m[:, None] * information * per_m)
    sigmas_m = np.maximum(values, 1e-12)[::-1] ** -0.5
    directions, mount = vectors.T[::-1], estimate.mounts[target]
    declared = np.linalg.norm(directions * np.repeat(
        [mount.sigma_rad * distance_m, mount.sigma_m], 3), axis=1)
    return Observability(directions, sigmas_m, sigmas_m < UNSEEN_SHARE * declared, distance_m)


def _solve(estimate: MountEstimate, information: Array, gradient: Array, target: str,
           seen: Observability) -> Array:
    """Return the step (P,) that moves the target in its seen directions only."""
    basis = _allow(estimate, target, seen)
    whole = information + np.diag(estimate.stiffness)
    pull = gradient + estimate.stiffness * estimate.so_far
    return -basis @ np.linalg.solve(basis.T @ whole @ basis, basis.T @ pull)


def _allow(estimate: MountEstimate, target: str, seen: Observability) -> Array:
    """Return the basis (P, p) of the steps that are allowed."""
    at, size = estimate.slots(target), len(estimate.stiffness)
    allowed = np.zeros((size, int(seen.is_seen.sum())))
    allowed[at] = (seen.directions[seen.is_seen] * np.repeat([1 / seen.distance_m, 1.0], 3)).T
    return np.concatenate([np.delete(np.eye(size), at, axis=1), allowed], axis=1)


def bootstrap(estimate: MountEstimate, pairs: Sequence[PosedMatches], target: str,
              seen: Observability, seed: int = 0) -> Array:
    """Return the covariance (6, 6) of the target's pose: rotation, rad, translation, m.

    Frames of moving cameras are drawn with replacement, and a pair counts as often as both of its
    frames: pairs that share an image share its errors (Owen, The pigeonhole bootstrap, 2007).
    Between still cameras the pairs themselves are drawn. The errors of what was declared come on
    top: other cameras, lenses, and the directions that are not seen.
    """
    at, draw = estimate.slots(target), np.random.default_rng(seed)
    steps = []
    for _ in range(RESAMPLES):
        weight = _resample(pairs, draw)
        if weight.any():
            weight *= len(pairs) / weight.sum()
            steps.append(_solve(estimate, np.tensordot(weight, estimate.information, 1),
                                weight @ estimate.gradient, target, seen)[at])
    basis, stiffness = _allow(estimate, target, seen), np.diag(estimate.stiffness)
    whole = estimate.information.sum(axis=0) + stiffness
    gain = basis @ np.linalg.solve(basis.T @ whole @ basis, basis.T)
    left = np.eye(len(whole)) - gain @ estimate.information.sum(axis=0)  # of a declared error
    declared = left @ np.linalg.inv(stiffness) @ left.T
    lenses = gain @ estimate.lens_information * np.tile(LENS_SIGMAS, len(estimate.mounts))
    return np.asarray(np.cov(np.array(steps).T)
                      + (declared + lenses @ lenses.T)[np.ix_(at, at)])


def _resample(pairs: Sequence[PosedMatches], draw: np.random.Generator) -> Array:
    """Return how often each pair (n,) counts in one resample."""
    poses = {frame: (camera, pose.matrix.tobytes()) for pair in pairs
             for camera, frame, pose in zip(pair.cameras, pair.frames, pair.base_from_body,
                                            strict=True)}
    places = Counter(camera for camera, _ in set(poses.values()))
    moving = [frame for frame, (camera, _) in poses.items() if places[camera] > 1]
    if not moving:
        return np.bincount(draw.integers(len(pairs), size=len(pairs)),
                           minlength=len(pairs)).astype(float)
    times = dict.fromkeys(moving, 0) | dict(Counter(
        moving[i] for i in draw.integers(len(moving), size=len(moving))))
    return np.array([float(times.get(a, 1) * times.get(b, 1)) for a, b in (
        pair.frames for pair in pairs)])


def measure_prospect(pairs: Sequence[PosedMatches], mounts: Mapping[str, CameraMount], target: str
                     ) -> Array:
    """Return the covariance (6, 6) that these pairs promise, at the poses as given: to show while
    more are gathered."""
    used = {camera for pair in pairs for camera in pair.cameras} | {target}
    mounts = {name: mount for name, mount in mounts.items() if name in used}
    poses = {name: mount.body_from_cam for name, mount in mounts.items()}
    estimate = linearize_pairs(pairs, mounts, poses, ROOM, [Noise()] * len(pairs))
    whole = estimate.information.sum(axis=0) + np.diag(estimate.stiffness)
    at = estimate.slots(target)
    return np.asarray(np.linalg.inv(whole)[np.ix_(at, at)])


def measure_distance_m(pairs: Sequence[PosedMatches], poses: Mapping[str, Transform]) -> float:
    """Return the median distance of the matches along the optical axis; 1 m where unknown."""
    depths = [np.nanmedian(pair.depths_m[0]) for pair in pairs
              if np.isfinite(pair.depths_m[0]).any()]
    if depths:
        return float(np.median(depths))
    found = [z for pair in pairs for z in _triangulate(
        pair, pair.relative_pose(*(poses[name] for name in pair.cameras)))]
    return float(np.median(found)) if found else 1.0


def _triangulate(pair: PosedMatches, b_from_a: Transform) -> Array:
    ray, seen, t = b_from_a.rotate(pair.rays[0]), pair.rays[1], b_from_a.t_m
    rr, rs, ss = (ray * ray).sum(1), (ray * seen).sum(1), (seen * seen).sum(1)
    with np.errstate(divide='ignore', invalid='ignore'):
        z = (rs * (seen @ t) - ss * (ray @ t)) / (rr * ss - rs * rs)
    return np.asarray(z[(z > 0.05) & (z < 20) & (rr * ss - rs * rs > 1e-3)])


def measure_error(pairs: Sequence[PosedMatches], poses: Mapping[str, Transform]
                  ) -> tuple[float, float]:
    """Return the median error of matches in px, and point to plane in m (NaN without depth)."""
    raw = np.concatenate([measure_residuals(pair, pair.relative_pose(
        *(poses[name] for name in pair.cameras))) for pair in pairs])
    px = np.sqrt(np.nansum(raw[:, :2] ** 2, axis=1))[np.isfinite(raw[:, 0])]
    off_m = np.abs(raw[np.isfinite(raw[:, 2]), 2])
    return (float(np.median(px)) if len(px) else np.nan,
            float(np.median(off_m)) if len(off_m) else np.nan)
