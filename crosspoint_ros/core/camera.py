"""Camera intrinsics: projection with distortion, and back to rays."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MAX_UNDISTORTION_ERROR_PX = 0.1
DIFFERENCE_M = 1e-4  # of numerical derivatives
MAX_RECTIFICATION_DEG = 0.2
MIN_FOCAL_RATIO = 0.2  # of the width: 136 deg for a pinhole, 286 deg for a fisheye
CORNER_RATIO = 0.1  # of width and height: where K of twice the resolution has its principal point
ASSUMED_FOCAL_RATIO = 1.2  # of the longer side
# Other names, of Kalibr and of drivers, of the same formulas.
MODEL_ALIASES = {'radtan': 'plumb_bob', 'radial_tangential': 'plumb_bob',
                 'kannala_brandt': 'equidistant', 'kannala_brandt4': 'equidistant'}


class RectifiedFrameError(ValueError):
    """A rectified image is not in the frame of its camera: a stereo pair's second one."""


@dataclass(frozen=True)
class Intrinsics:
    """The intrinsics of the published image, distorted if that topic is.

    `distortion` holds the coefficients in OpenCV's order for `model`: `plumb_bob` (0, 4 or 5),
    `rational_polynomial` (8) or `equidistant` (4, Kannala-Brandt as in `cv2.fisheye`).
    is_assumed: a guess, see `assume`; good enough to match images, never for 3D.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    width_px: int
    height_px: int
    distortion: tuple[float, ...] = ()
    model: str = 'plumb_bob'
    is_assumed: bool = False

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

    @classmethod
    def assume(cls, width_px: int, height_px: int) -> Intrinsics:
        """Return a pinhole for an unknown camera: COLMAP's prior, a focal length of 1.2 widths."""
        focal_px = ASSUMED_FOCAL_RATIO * max(width_px, height_px)
        return cls(focal_px, focal_px, (width_px - 1) / 2, (height_px - 1) / 2, width_px,
                   height_px, is_assumed=True)

    @classmethod
    def from_camera_info(cls, info: Any, *, rectified: bool = False) -> Intrinsics:
        """Return the intrinsics of a published image: K and D, or P alone if it is rectified.

        info: anything with the fields of sensor_msgs/CameraInfo, of ROS or of a bag. Binning and
        region of interest are taken off as in REP-104 and image_geometry, zeros appended to D
        are dropped. Raises ValueError if the camera is not calibrated or its distortion model is
        unknown, `RectifiedFrameError` for a rectified image in another frame than its camera's.
        """
        x, y, roi = max(int(info.binning_x), 1), max(int(info.binning_y), 1), info.roi
        (fx, _, cx), (_, fy, cy), _ = np.asarray(info.k, np.float64).reshape(3, 3).tolist()
        model, d = info.distortion_model, tuple(float(k) for k in info.d)
        if rectified:  # a pinhole's image, whatever the lens
            P = np.asarray(info.p, dtype=np.float64).reshape(3, 4)
            _require_own_frame(P, np.asarray(info.r, dtype=np.float64).reshape(3, 3))
            (fx, _, cx, _), (_, fy, cy, _), _ = P.tolist()
            model, d = '', ()
        if not model and any(d):
            raise ValueError(f'camera info has coefficients {list(d)} but no distortion_model; '
                             f'known: {", ".join([*cls.COEFFICIENTS, *MODEL_ALIASES])}')
        model = MODEL_ALIASES.get(model, model) or 'plumb_bob'
        lengths = cls.COEFFICIENTS.get(model, ())
        d = next((d[:n] for n in lengths if n <= len(d) and not any(d[n:])), d)
        return cls(fx / x, fy / y, (cx - int(roi.x_offset)) / x, (cy - int(roi.y_offset)) / y,
                   (int(roi.width) or int(info.width)) // x,
                   (int(roi.height) or int(info.height)) // y, d, model)

    def explain_implausible(self, cropped: bool = False) -> str:
        """Return what no camera has, with its limit; '' for a plausible lens.

        cropped: the image is a region of interest, which need not contain the principal point.
        """
        if min(self.fx_px, self.fy_px) < MIN_FOCAL_RATIO * self.width_px:
            return (f'a focal length of {self.fx_px:.4g} x {self.fy_px:.4g} px at a width of '
                    f'{self.width_px} (at least {MIN_FOCAL_RATIO:g} of it)')
        from_edge = min(self.cx_px, self.width_px - 1 - self.cx_px) / self.width_px, min(
            self.cy_px, self.height_px - 1 - self.cy_px) / self.height_px
        is_outside, is_in_corner = min(from_edge) < 0, max(from_edge) < CORNER_RATIO
        if not cropped and (is_outside or is_in_corner):
            return (f'a principal point of ({self.cx_px:.4g}, {self.cy_px:.4g}), '
                    f'{"outside" if is_outside else "in a corner of"} its {self.width_px}x'
                    f'{self.height_px} image')
        return ''

    @property
    def matrix(self) -> Array:
        """The 3x3 pinhole matrix K, px."""
        return np.array([[self.fx_px, 0, self.cx_px], [0, self.fy_px, self.cy_px], [0, 0, 1.0]])

    def project(self, point_cam: npt.ArrayLike) -> Array:
        """Project points (..., 3) in the camera's frame to pixels (..., 2).

        NaN behind the camera, and beyond the angle where its distortion would fold them back.
        """
        points = np.asarray(point_cam, dtype=np.float64)
        if self._is_pinhole:
            z_m = points[..., 2:]
            return np.asarray(points[..., :2] / np.where(z_m > 0, z_m, np.nan) * self._focal_px
                              + self._centre_px)
        flat = points.reshape(-1, 3)
        pixels = np.full((len(flat), 2), np.nan)
        shown = flat[:, 2] > 0
        shown[shown] = np.hypot(*flat[shown, :2].T) <= self._max_radius * flat[shown, 2]
        if shown.any():
            front, zero = flat[shown].reshape(-1, 1, 3), np.zeros(3)
            project = (cv2.fisheye.projectPoints if self.model == 'equidistant'
                       else cv2.projectPoints)
            pixels[shown] = project(front, zero, zero, self.matrix, self._coefficients)[0][:, 0]
        return pixels.reshape(*points.shape[:-1], 2)

    def project_with_jacobian(self, point_cam: Array) -> tuple[Array, Array]:
        """Project points (n, 3), m; also return the derivatives (n, 2, 3) of the pixels."""
        if not self._is_pinhole:
            steps = DIFFERENCE_M * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
            around = self.project(point_cam[:, None] + steps)  # (n, 7, 2)
            return around[:, 0], np.asarray(
                (around[:, 1:4] - around[:, 4:]).transpose(0, 2, 1) / (2 * DIFFERENCE_M))
        pixels, z_m = self.project(point_cam), point_cam[:, 2]
        slopes = np.zeros((len(point_cam), 2, 3))
        slopes[:, 0, 0], slopes[:, 1, 1] = self.fx_px / z_m, self.fy_px / z_m
        slopes[:, :, 2] = (self._centre_px - pixels) / z_m[:, None]
        return pixels, slopes

    def unproject(self, pixel: npt.ArrayLike) -> Array:
        """Undistort pixels (..., 2) to unit rays (..., 3); NaN where no ray reaches the pixel."""
        pixels = np.asarray(pixel, dtype=np.float64)
        if self._is_pinhole:
            rays = np.ones((*pixels.shape[:-1], 3))
            rays[..., :2] = (pixels - self._centre_px) / self._focal_px
        else:
            rays = self._undistort_rays(pixels.reshape(-1, 1, 2)).reshape(*pixels.shape[:-1], 3)
        rays /= np.sqrt((rays * rays).sum(axis=-1, keepdims=True))
        return rays

    def _undistort_rays(self, flat: Array) -> Array:
        """Return the rays (n, 3), z = 1, of pixels (n, 1, 2); NaN where none reaches the pixel."""
        undistort = cv2.fisheye.undistortPoints if self.model == 'equidistant' else _undistort
        plane = undistort(flat, self.matrix, self._coefficients)
        rays = np.concatenate([plane.reshape(-1, 2), np.ones((len(flat), 1))], axis=1)
        # It may not converge, and a fisheye's pixels beyond 90 degrees end on its rim.
        missed_px = np.linalg.norm(self.project(rays) - flat[:, 0], axis=1)
        rays[~(missed_px < MAX_UNDISTORTION_ERROR_PX)] = np.nan
        return rays

    @cached_property
    def _focal_px(self) -> Array:
        return np.array([self.fx_px, self.fy_px])

    @cached_property
    def _centre_px(self) -> Array:
        return np.array([self.cx_px, self.cy_px])

    @cached_property
    def _is_pinhole(self) -> bool:
        # Drivers publish five zeros for images that they have rectified.
        return self.model != 'equidistant' and not any(self.distortion)

    @property
    def _coefficients(self) -> Array:
        return np.array(self.distortion or (0.0,) * 4)

    @cached_property
    def _max_radius(self) -> float:
        """The radius at z = 1 up to which the distorted radius grows."""
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

    def turn(self, quarters: int) -> Intrinsics:
        """Return the intrinsics of the image that `np.rot90(image, quarters)` gives, exactly.

        One quarter (x' = y, y' = -x about the principal point) exchanges the axes, and of the
        distortion only the tangential coefficients p1, p2, which are about axes.
        """
        turned = self
        for _ in range(quarters % 4):
            k = turned.distortion
            if turned.model != 'equidistant' and k:
                k = (*k[:2], -k[3], k[2], *k[4:])
            turned = replace(
                turned, fx_px=turned.fy_px, fy_px=turned.fx_px, cx_px=turned.cy_px,
                cy_px=turned.width_px - 1 - turned.cx_px, width_px=turned.height_px,
                height_px=turned.width_px, distortion=k)
        return turned

    def turn_pixel(self, pixel: npt.ArrayLike, quarters: int) -> Array:
        """Return where pixels (..., 2) are in the image that `np.rot90(image, quarters)` gives."""
        x, y = np.moveaxis(np.asarray(pixel, dtype=np.float64), -1, 0)
        width_px, height_px = self.width_px, self.height_px
        for _ in range(quarters % 4):
            x, y, width_px, height_px = y, width_px - 1 - x, height_px, width_px
        return np.stack([x, y], axis=-1)

    def contains(self, pixel: npt.ArrayLike) -> bool:
        """Return whether the pixel (2,) is on the image, borders of half a pixel included."""
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


def _require_own_frame(P: Array, R: Array) -> None:
    """Raise RectifiedFrameError for the rectified image of a stereo pair's second camera."""
    if P[0, 3] or P[1, 3]:
        raise RectifiedFrameError(
            f'camera info has P with Tx, Ty = {P[0, 3]:g}, {P[1, 3]:g} px m (must be 0): the '
            "rectified image of a stereo pair's second camera is in the frame of the first; use "
            'the unrectified image')
    turn_deg = float(np.degrees(np.linalg.norm(cv2.Rodrigues(R)[0]))) if R.any() else 0.0
    if turn_deg > MAX_RECTIFICATION_DEG:
        raise RectifiedFrameError(
            f'camera info has R that turns the rectified image by {turn_deg:.2f} deg (limit '
            f'{MAX_RECTIFICATION_DEG:g}) against the frame of its camera; use the unrectified '
            'image')
