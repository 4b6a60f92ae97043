"""A camera's lens: from rays to the pixels of the published image, and back."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MAX_UNDISTORTION_ERROR_PX = 0.1


@dataclass(frozen=True)
class Intrinsics:
    """A camera's lens: from rays to the pixels of the published image, and back.

    `distortion` holds the coefficients in OpenCV's order for `model`: `plumb_bob` (0, 4 or 5),
    `rational_polynomial` (8) or `equidistant` (4, Kannala-Brandt as in `cv2.fisheye`).
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int
    distortion: tuple[float, ...] = ()
    model: str = 'plumb_bob'

    COEFFICIENTS: ClassVar[dict[str, tuple[int, ...]]] = {
        'plumb_bob': (0, 4, 5), 'rational_polynomial': (0, 8), 'equidistant': (0, 4)}

    def __post_init__(self) -> None:
        if self.model not in self.COEFFICIENTS:
            raise ValueError(f'distortion model {self.model!r} is unknown; '
                             f'known: {", ".join(self.COEFFICIENTS)}')
        if len(self.distortion) not in self.COEFFICIENTS[self.model]:
            raise ValueError(f'{self.model} takes {self.COEFFICIENTS[self.model]} coefficients, '
                             f'got {len(self.distortion)}')
        object.__setattr__(self, 'distortion', tuple(float(k) for k in self.distortion))
        numbers = (self.fx_px, self.fy_px, self.cx_px, self.cy_px, *self.distortion)
        if not np.isfinite(numbers).all():
            raise ValueError(f'intrinsics must be finite, got {numbers}')
        if self.fx_px <= 0 or self.fy_px <= 0:
            raise ValueError('focal length must be positive, got '
                             f'fx={self.fx_px} fy={self.fy_px} px: the camera is not calibrated')
        if self.width_px <= 0 or self.height_px <= 0:
            raise ValueError(f'image size must be positive, got {self.width_px}x{self.height_px}')

    @property
    def matrix(self) -> Array:
        """The 3x3 pinhole matrix K, px."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1.0]])

    def project(self, point_cam: npt.ArrayLike) -> Array:
        """Project points (..., 3) in the camera's frame to pixels (..., 2).

        NaN behind the lens, and beyond the angle where its distortion would fold them back.
        """
        points = np.asarray(point_cam, dtype=np.float64)
        flat = points.reshape(-1, 3)
        pixels = np.full((len(flat), 2), np.nan)
        shown = flat[:, 2] > 0
        shown[shown] = np.hypot(*flat[shown, :2].T) <= self._max_radius * flat[shown, 2]
        if self._is_pinhole:
            pixels[shown] = flat[shown, :2] / flat[shown, 2:] * (self.fx_px, self.fy_px) + (
                self.cx_px, self.cy_px)
        elif shown.any():
            front, zero = flat[shown].reshape(-1, 1, 3), np.zeros(3)
            project = (cv2.fisheye.projectPoints if self.model == 'equidistant'
                       else cv2.projectPoints)
            pixels[shown] = project(front, zero, zero, self.matrix, self._coefficients)[0][:, 0]
        return pixels.reshape(*points.shape[:-1], 2)

    def unproject(self, pixel: npt.ArrayLike) -> Array:
        """Undistort pixels (..., 2) to unit rays (..., 3); NaN where no ray reaches the pixel."""
        pixels = np.asarray(pixel, dtype=np.float64)
        flat = pixels.reshape(-1, 1, 2)
        if self.model == 'equidistant':
            plane = cv2.fisheye.undistortPoints(flat, self.matrix, self._coefficients)
        elif not self._is_pinhole:
            plane = _undistort(flat, self.matrix, self._coefficients)
        else:
            plane = (flat - (self.cx_px, self.cy_px)) / (self.fx_px, self.fy_px)
        rays = np.concatenate([plane.reshape(-1, 2), np.ones((len(flat), 1))], axis=1)
        if not self._is_pinhole:
            # Undistorting is iterative, and ends anywhere where it does not converge; a fisheye's
            # pixels beyond 90 degrees end on its rim.
            missed_px = np.linalg.norm(self.project(rays) - flat[:, 0], axis=1)
            rays[~(missed_px < MAX_UNDISTORTION_ERROR_PX)] = np.nan
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        return rays.reshape(*pixels.shape[:-1], 3)

    @property
    def _is_pinhole(self) -> bool:
        """Drivers publish five zeros for images that they have rectified."""
        return self.model != 'equidistant' and not any(self.distortion)

    @property
    def _coefficients(self) -> Array:
        wanted = self.distortion or (0.0,) * 4
        return np.array(wanted)

    @cached_property
    def _max_radius(self) -> float:
        """The largest distance from the axis, at z = 1, up to which the distortion only grows."""
        if self._is_pinhole:
            return np.inf
        angle = np.linspace(0.0, np.pi / 2, 2001)[:-1]
        k = (*self.distortion, *(0.0,) * (8 - len(self.distortion)))
        if self.model == 'equidistant':
            r2 = angle ** 2
            shown = angle * (1 + r2 * (k[0] + r2 * (k[1] + r2 * (k[2] + r2 * k[3]))))
        else:
            r2 = np.tan(angle) ** 2
            shown = np.tan(angle) * ((1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4])))
                                     / (1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))))
        folds = np.flatnonzero(~(np.diff(shown) > 0))
        return float(np.tan(angle[folds[0]])) if len(folds) else np.inf

    def contains(self, pixel: npt.ArrayLike) -> bool:
        """Tell whether the pixel (2,) lies on the image, borders of half a pixel included."""
        x, y = np.asarray(pixel, dtype=np.float64)
        return bool(-0.5 <= x <= self.width_px - 0.5 and -0.5 <= y <= self.height_px - 0.5)


def _undistort(pixels: Array, matrix: Array, coefficients: Array) -> Array:
    """Undistort pixels (n, 1, 2) to the plane z = 1."""
    # The default five iterations leave up to a pixel at the corners of a wide lens. OpenCV 5
    # merged the function that takes criteria into the other.
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-10)
    iterate: Any = getattr(cv2, 'undistortPointsIter', cv2.undistortPoints)
    return np.asarray(iterate(pixels, matrix, coefficients, R=np.eye(3), P=np.eye(3),
                              criteria=criteria))
