"""Pixels: as published, on the working scale, and without the lens."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics

# Rays further off the axis than this have no useful place on a flat ideal image.
MIN_RAY_Z = 0.2


class WorkingImage:
    """One camera's image, shrunk or enlarged until its long side is `long_side_px`.

    Three kinds of pixels: *published* (the topic's own), *working* (the same image, resized:
    descriptors live here) and *ideal* (working, lens distortion removed: geometry lives here).
    """

    def __init__(self, intrinsics: Intrinsics, long_side_px: float) -> None:
        if intrinsics.model != 'equidistant' and not any(intrinsics.distortion):
            intrinsics = replace(intrinsics, distortion=())   # no need to undistort anything
        self.intrinsics = intrinsics
        self.zoom = long_side_px / max(intrinsics.width_px, intrinsics.height_px)
        self.width_px = intrinsics.width_px * self.zoom
        self.height_px = intrinsics.height_px * self.zoom
        self.ideal_matrix: Array = np.array([
            [intrinsics.fx_px * self.zoom, 0, self._shrink(intrinsics.cx_px)],
            [0, intrinsics.fy_px * self.zoom, self._shrink(intrinsics.cy_px)],
            [0, 0, 1]])

    def _shrink(self, value: npt.ArrayLike) -> Array:
        return (np.asarray(value, dtype=np.float64) + 0.5) * self.zoom - 0.5

    def working(self, published: npt.ArrayLike) -> Array:
        """Published pixels (..., 2) to working pixels; (0, 0) is the centre of the first pixel."""
        return self._shrink(published)

    def published(self, working: npt.ArrayLike) -> Array:
        """Working pixels (..., 2) to published ones."""
        return (np.asarray(working, dtype=np.float64) + 0.5) / self.zoom - 0.5

    def ray_cam(self, working: npt.ArrayLike) -> Array:
        """Working pixels (..., 2) to rays (..., 3) with z = 1; NaN far off the optical axis."""
        rays = self.intrinsics.ray_cam(self.published(working))
        return rays / np.where(rays[..., 2:] > MIN_RAY_Z, rays[..., 2:], np.nan)

    def ideal(self, working: npt.ArrayLike) -> Array:
        """Working pixels (..., 2) to ideal ones; NaN far off the optical axis."""
        return np.asarray((self.ray_cam(working) @ self.ideal_matrix.T)[..., :2])

    def project(self, point_cam_m: npt.ArrayLike) -> Array:
        """Points (..., 3) to working pixels; NaN where this camera cannot see them at all."""
        return self.working(self.intrinsics.pixel(point_cam_m))

    def contains(self, working: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell which working pixels (..., 2) lie on the image."""
        x, y = np.moveaxis(np.asarray(working, dtype=np.float64), -1, 0)
        return np.asarray((x >= -0.5) & (y >= -0.5)
                          & (x <= self.width_px - 0.5) & (y <= self.height_px - 0.5))

    def grid(self, step_px: float) -> Array:
        """Working pixels (rows, columns, 2), about `step_px` apart, that tile the image."""
        columns, rows = self.grid_size(step_px)
        x = (np.arange(columns) + 0.5) * self.width_px / columns - 0.5
        y = (np.arange(rows) + 0.5) * self.height_px / rows - 0.5
        return np.stack(np.meshgrid(x, y), axis=-1)

    def grid_size(self, step_px: float) -> tuple[int, int]:
        """Columns and rows of `grid(step_px)`; an 8 px grid is half a 4 px one in each way."""
        fine = 8.0 / step_px
        return (round(round(self.width_px / 8) * fine), round(round(self.height_px / 8) * fine))
