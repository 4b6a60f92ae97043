"""Rigid transforms: matrices, quaternions, interpolation."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.camera import Array

MAX_ROTATION_ERROR = 1e-4
MAX_QUATERNION_ERROR = 0.01  # of the squared length: tf2's own tolerance


@dataclass(frozen=True, eq=False)
class Transform:
    """A rigid transform `a_from_b`: `point_a = R @ point_b + t_m`."""

    R: Array
    t_m: Array

    def __post_init__(self) -> None:
        R = np.asarray(self.R, dtype=np.float64)
        t_m = np.asarray(self.t_m, dtype=np.float64).reshape(-1)
        if R.shape != (3, 3) or t_m.shape != (3,):
            raise ValueError(f'a Transform takes R (3, 3) and t_m (3,), got {R.shape}, {t_m.shape}')
        errors, determinant = _measure_rotation(R.tolist())
        if not all(error < MAX_ROTATION_ERROR for error in errors) or determinant < 0:
            raise ValueError(f'R is not a rotation: |R R^T - 1| = {np.max(errors):.2g} (limit '
                             f'{MAX_ROTATION_ERROR:g}), det {determinant:.3f}')
        if not all(map(isfinite, t_m.tolist())):
            raise ValueError(f'translation must be finite, got {t_m}')
        object.__setattr__(self, 'R', R)
        object.__setattr__(self, 't_m', t_m)

    @classmethod
    def from_matrix(cls, matrix: npt.ArrayLike) -> Transform:
        """Create from a 4x4 homogeneous matrix (or 3x4)."""
        m = np.asarray(matrix, dtype=np.float64)
        return cls(m[:3, :3], m[:3, 3])

    @classmethod
    def from_noisy_matrix(cls, matrix: npt.ArrayLike, max_stretch: float) -> Transform:
        """Create from a 4x4 matrix whose rotation has drifted, by rounding or in a tracker.

        Takes the nearest rotation in the Frobenius norm (SVD). Raises ValueError if the matrix
        scales by more than max_stretch (of 1), or mirrors.
        """
        m = np.asarray(matrix, dtype=np.float64)
        U, scales, Vt = np.linalg.svd(m[:3, :3])
        stretch = float(np.abs(scales - 1).max())
        if not stretch <= max_stretch or np.linalg.det(m[:3, :3]) < 0:
            raise ValueError(f'R is not a rotation: it scales by {stretch:.2g} (limit '
                             f'{max_stretch:g}), det {np.linalg.det(m[:3, :3]):.3f}')
        return cls(U @ Vt, m[:3, 3])

    @classmethod
    def from_quaternion(cls, xyzw: npt.ArrayLike, t_m: npt.ArrayLike) -> Transform:
        """Create from a unit quaternion x, y, z, w and a translation (3,), m.

        Raises ValueError if the squared length of the quaternion is not 1 within 0.01.
        """
        q = np.asarray(xyzw, dtype=np.float64)
        squared = float(q @ q)
        if not abs(squared - 1) < MAX_QUATERNION_ERROR:
            raise ValueError(f'the quaternion {q.tolist()} has the squared length {squared:g} '
                             f'(must be 1 within {MAX_QUATERNION_ERROR:g})')
        x, y, z, w = q / np.sqrt(squared)
        return cls(np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]),
            np.asarray(t_m, dtype=np.float64))

    @property
    def quaternion_xyzw(self) -> Array:
        """The unit quaternion (4,) x, y, z, w of the rotation, w >= 0.

        The eigenvector of Bar-Itzhack's matrix (J. Guidance 2000), which has no special cases.
        """
        (a, b, c), (d, e, f), (g, h, i) = self.R
        _, vectors = np.linalg.eigh(np.array([
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i]]) / 3)
        q = vectors[:, -1]
        return np.asarray(-q if q[3] < 0 else q)

    @property
    def matrix(self) -> Array:
        """The 4x4 homogeneous matrix."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.R, self.t_m
        return m

    @cached_property
    def inverse(self) -> Transform:
        """`b_from_a`."""
        return Transform(self.R.T, -self.R.T @ self.t_m)

    def interpolate(self, later: Transform, ratio: float) -> Transform:
        """Interpolate: translation linearly, rotation about one axis (slerp)."""
        turn = cv2.Rodrigues(self.R.T @ later.R)[0]
        return Transform(self.R @ cv2.Rodrigues(turn * ratio)[0],
                         self.t_m + ratio * (later.t_m - self.t_m))

    def __matmul__(self, other: Transform) -> Transform:
        """`a_from_b @ b_from_c == a_from_c`: neighbours cancel like fractions."""
        return Transform(self.R @ other.R, self.R @ other.t_m + self.t_m)

    def transform_points(self, point_b_m: npt.ArrayLike) -> Array:
        """Transform points (..., 3) from b to a."""
        return np.asarray(np.asarray(point_b_m, dtype=np.float64) @ self.R.T + self.t_m)

    def rotate(self, direction_b: npt.ArrayLike) -> Array:
        """Rotate directions (..., 3) from b to a."""
        return np.asarray(np.asarray(direction_b, dtype=np.float64) @ self.R.T)


def _measure_rotation(rows: list[list[float]]) -> tuple[tuple[float, ...], float]:
    """Return how far each entry of R R^T is from the identity's, and det R; of floats, which for
    nine of them is ten times as fast as NumPy."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    errors = (abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1),
              abs(g * g + h * h + i * i - 1), abs(a * d + b * e + c * f),
              abs(a * g + b * h + c * i), abs(d * g + e * h + f * i))
    return errors, a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
