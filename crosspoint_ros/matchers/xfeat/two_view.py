"""Relative pose of two cameras from matches of ideal pixels.

Sampson residuals after Hartley & Zisserman, Multiple View Geometry, 11.4.3.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.matchers.xfeat.matching import Mask, Matches

LEAST_SCALE_PX = 1.5  # of the robust weights
DATA_SIGMA_PX = 6.0  # of a match among hundreds, whose errors are alike
GENERATORS = np.array([[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
                       [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], dtype=np.float64)  # of rotations


@dataclass(frozen=True, eq=False)
class PinholePair:
    """The pinhole matrices (3, 3) of the clicked and the other view's ideal pixels."""

    clicked: Array
    other: Array


@dataclass(frozen=True)
class PosePrior:
    """Standard deviation of a motion per axis: rad, and the unit of its translation."""

    rotation_rad: float
    translation: float

    @property
    def stiffness(self) -> Array:
        """The information (6,) of rotation and translation."""
        return np.repeat([self.rotation_rad, self.translation], 3) ** -2.0


def cross_matrix(vector: Array) -> Array:
    """Return the cross-product matrices (..., 3, 3) of vectors (..., 3)."""
    return np.asarray((vector @ GENERATORS.reshape(3, 9)).reshape(*vector.shape, 3))


def fundamental_matrix(other_from_clicked: Transform, pinholes: PinholePair) -> Array:
    """Return F (3, 3): other' F clicked = 0 for ideal homogeneous pixels."""
    essential = cross_matrix(other_from_clicked.t_m) @ other_from_clicked.R
    return _to_fundamental(essential, pinholes)


def _to_fundamental(essential: Array, pinholes: PinholePair) -> Array:
    return np.asarray(np.linalg.inv(pinholes.other).T @ essential @ np.linalg.inv(pinholes.clicked))


def to_homogeneous(pixel: Array) -> Array:
    """Append a one: (n, 2) to (n, 3)."""
    return np.concatenate([pixel, np.ones((*pixel.shape[:-1], 1))], axis=-1)


def epipolar_distance(F: Array, matches: Matches) -> Array:
    """Return the distance (n,) of the other pixels from their epipolar lines, px."""
    line = to_homogeneous(matches.clicked_ideal) @ F.T
    offset = np.abs((line * to_homogeneous(matches.other_ideal)).sum(axis=1))
    return np.asarray(offset / (np.linalg.norm(line[:, :2], axis=1) + 1e-12))


def sampson_residual(F: Array, clicked: Array, other: Array) -> Array:
    """Return the signed Sampson residuals (n,) of homogeneous pixels (n, 3), px."""
    line_other, line_clicked = clicked @ F.T, other @ F
    norm = np.sqrt((line_other[:, :2] ** 2).sum(1) + (line_clicked[:, :2] ** 2).sum(1) + 1e-12)
    return np.asarray((other * line_other).sum(axis=1) / norm)


def _sampson_jacobian(F: Array, slopes: Array, clicked: Array, other: Array) -> tuple[Array, Array]:
    """Sampson residuals (n,) and their derivatives (k, n) along the slopes (k, 3, 3) of F."""
    a, b = np.ascontiguousarray(clicked.T), np.ascontiguousarray(other.T)
    line_other, line_clicked = F @ a, F.T @ b
    line_other[2] = line_clicked[2] = 0.0  # of the lines' normals alone
    square = (line_other ** 2).sum(axis=0) + (line_clicked ** 2).sum(axis=0) + 1e-12
    norm = np.sqrt(square)
    product = b[:, None] * a[None]
    residual = np.tensordot(F, product) / norm
    # Numerator and norm change linearly with the entries of F.
    norm_slope = line_other[:, None] * a[None] + b[:, None] * line_clicked[None]
    return residual, np.tensordot(slopes, product / norm - norm_slope * (residual / square))


def apply_update(motion: Transform, step: Array) -> Transform:
    """Rotate by the rotation vector step[:3], then translate by step[3:]."""
    turn = np.asarray(cv2.Rodrigues(np.ascontiguousarray(step[:3]))[0], dtype=np.float64)
    return Transform(turn, step[3:]) @ motion


def refine_motion(motion: Transform, pinholes: PinholePair, matches: Matches, prior: PosePrior,
                  rounds: int = 20) -> Transform:
    """Minimise the Sampson residuals of the matches over the motion.

    Gauss-Newton on six parameters with robust weights whose scale shrinks, and a prior.
    """
    stiffness, step = prior.stiffness, np.zeros(6)
    for index in range(rounds):
        scale_px = max(LEAST_SCALE_PX, 12 * 0.75 ** index)
        curvature, gradient = _sampson_equations(apply_update(motion, step), step[3:], pinholes,
                                                 matches, scale_px)
        step = step - np.linalg.solve(curvature + np.diag(stiffness), gradient + stiffness * step)
    return apply_update(motion, step)


def motion_covariance(motion: Transform, pinholes: PinholePair, matches: Matches, prior: PosePrior
                      ) -> Array:
    """Return the covariance (6, 6) of a refined motion, as in `CorrectedPose`."""
    curvature, _ = _sampson_equations(motion, np.zeros(3), pinholes, matches, LEAST_SCALE_PX)
    return np.asarray(np.linalg.inv(curvature + np.diag(prior.stiffness)), dtype=np.float64)


def _sampson_equations(now: Transform, shift: Array, pinholes: PinholePair, matches: Matches,
                       scale_px: float) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and gradient (6,) of a motion that was turned, then shifted."""
    by_turn = cross_matrix(GENERATORS @ (now.t_m - shift)) + cross_matrix(now.t_m) @ GENERATORS
    slopes = _to_fundamental(np.concatenate([by_turn, GENERATORS]) @ now.R, pinholes)
    residual, slope = _sampson_jacobian(
        fundamental_matrix(now, pinholes), slopes, to_homogeneous(matches.clicked_ideal),
        to_homogeneous(matches.other_ideal))
    weighted = slope * ((1 + (residual / scale_px) ** 2) ** -2 / DATA_SIGMA_PX ** 2)
    return weighted @ slope.T, weighted @ residual


def triangulate_depths(motion: Transform, pinholes: PinholePair, matches: Matches
                       ) -> tuple[Array, Array]:
    """Triangulate each match: depths (n,) in the clicked and in the other camera.

    Least squares of z_other * ray_other = z_clicked * R ray_clicked + t.
    """
    ray = to_homogeneous(matches.clicked_ideal) @ np.linalg.inv(pinholes.clicked).T @ motion.R.T
    seen = to_homogeneous(matches.other_ideal) @ np.linalg.inv(pinholes.other).T
    rr, rs, ss = (ray * ray).sum(1), (ray * seen).sum(1), (seen * seen).sum(1)
    rt, st = ray @ motion.t_m, seen @ motion.t_m
    determinant = rr * ss - rs * rs
    with np.errstate(divide='ignore', invalid='ignore'):
        return (rs * st - ss * rt) / determinant, (rr * st - rs * rt) / determinant


def is_in_front(motion: Transform, pinholes: PinholePair, matches: Matches, near: float,
                far: float) -> npt.NDArray[np.bool_]:
    """Return which matches are in front of both cameras, `near` to `far` from the clicked one."""
    z_clicked, z_other = triangulate_depths(motion, pinholes, matches)
    return np.asarray((z_clicked > near) & (z_clicked < far) & (z_other > 0))


MIN_MATCHES = 8
FUNDAMENTAL_PX = (1.0, 2.0, 4.0)
ESSENTIAL_PX = 2.0
ROUNDS = 3000
# Depths in units of the baseline, the only unit of images.
NEAREST, FARTHEST = 0.05, 1e4
LOOSE = PosePrior(rotation_rad=0.15, translation=0.6)


@dataclass(frozen=True, eq=False)
class RelativePose:
    """A motion with a unit baseline; support: about the number of its inliers in front."""

    motion: Transform
    support: float


def estimate_relative_pose(matches: Matches, pinholes: PinholePair,
                           parallel: Callable[..., Iterable[Any]] = map,
                           estimators: int = 5) -> RelativePose | None:
    """Return the motion with the largest support, of that many estimators; None below 8."""
    best: RelativePose | None = None
    for essential, fits in _estimate_essentials(matches, pinholes, parallel, estimators):
        candidate = _decompose(essential, matches.select(fits), pinholes)
        _, ok = measure_support(candidate, pinholes, matches, 6.0)
        if ok.sum() < MIN_MATCHES:
            continue
        candidate = refine_unit_baseline(candidate, pinholes, matches.select(ok))
        found, _ = measure_support(candidate, pinholes, matches, 3.0)
        if best is None or found > best.support:
            best = RelativePose(candidate, found)
    return best if best is not None and best.support >= MIN_MATCHES else None


def measure_support(motion: Transform, pinholes: PinholePair, matches: Matches,
                    limit_px: float) -> tuple[float, Mask]:
    """Return the sum of 1 - (r / limit)^2 over the inliers in front of both cameras, and these."""
    residual = sampson_residual(fundamental_matrix(motion, pinholes),
                                to_homogeneous(matches.clicked_ideal),
                                to_homogeneous(matches.other_ideal))
    fits = (np.abs(residual) < limit_px) & is_in_front(motion, pinholes, matches, NEAREST, FARTHEST)
    return float((1 - (residual[fits] / limit_px) ** 2).sum()), fits


def refine_unit_baseline(motion: Transform, pinholes: PinholePair, matches: Matches) -> Transform:
    """Refine a motion with a unit baseline, which is kept."""
    motion = refine_motion(motion, pinholes, matches, LOOSE, rounds=12)
    return Transform(motion.R, motion.t_m / np.linalg.norm(motion.t_m))


def _estimate_essentials(matches: Matches, pinholes: PinholePair,
                         parallel: Callable[..., Iterable[Any]], estimators: int
                         ) -> list[tuple[Array, Mask]]:
    """Essential matrices of several robust estimators, each with its inliers."""
    if len(matches) < MIN_MATCHES:
        return []
    clicked, other = matches.clicked_ideal, matches.other_ideal
    rays = _rays(clicked, pinholes.clicked), _rays(other, pinholes.other)

    def by_pixels(limit_px: float) -> tuple[Any, Any]:
        F, mask = cv2.findFundamentalMat(clicked, other, cv2.USAC_MAGSAC, limit_px, 0.999, ROUNDS)
        whole = F is not None and F.shape == (3, 3)
        return pinholes.other.T @ F @ pinholes.clicked if whole else None, mask

    def by_rays(method: int) -> tuple[Any, Any]:
        E, mask = cv2.findEssentialMat(*rays, np.eye(3), method, 0.999,
                                       ESSENTIAL_PX / pinholes.clicked[0, 0])
        return E if E is not None and E.shape == (3, 3) else None, mask

    jobs = [(by_rays, cv2.USAC_MAGSAC), (by_rays, cv2.USAC_ACCURATE),
            *((by_pixels, limit_px) for limit_px in FUNDAMENTAL_PX)]
    found = parallel(lambda job: job[0](job[1]), jobs[:estimators])
    return [(E, mask.ravel() > 0) for E, mask in found if E is not None and mask.sum() >= 6]


def _rays(ideal: Array, pinhole: Array) -> Array:
    return np.ascontiguousarray((to_homogeneous(ideal) @ np.linalg.inv(pinhole).T)[:, :2])


def _decompose(essential: Array, matches: Matches, pinholes: PinholePair) -> Transform:
    """Return the one of the four motions that puts the most matches in front of both cameras."""
    turn, other_turn, t = cv2.decomposeEssentialMat(essential)
    motions = [Transform(np.asarray(R, np.float64), sign * np.asarray(t, np.float64).ravel())
               for R in (turn, other_turn) for sign in (1, -1)]
    return max(motions, key=lambda motion: is_in_front(motion, pinholes, matches, NEAREST,
                                                       FARTHEST).sum())
