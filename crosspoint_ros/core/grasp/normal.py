"""The normal at a pixel, of curved things too: a paraboloid through the depth around it."""
from __future__ import annotations

import math

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.depth import (
    MIN_NORMAL_POINTS,
    NEAREST_PIXELS,
    NORMAL_SIGMA_RAD,
    NORMAL_WINDOW_PX,
    PLANE_INLIER_RATIO,
    SPLIT_M,
    SPLIT_RATIO,
    depth_window,
    surface_depths_m,
    surface_normal_base,
)
from crosspoint_ros.core.geometry import require_pose

ROUNDS = 4  # of weighting down what is off the paraboloid
ALIKE_PX = 6.0  # neighbouring errors of a depth image are alike over this many pixels
MAX_SIGMA_RAD = 0.15  # above it a normal is not called measured


def measure_normal(view: View, pixel: Array) -> tuple[Array, float] | None:
    """Return the unit normal (3,) into the surface at a pixel (2,), base, and its sigma, rad.

    None if unknown. That of a paraboloid over the window, nearest pixels most, and its standard
    error; near an edge, where none fits, the plane's (`surface_normal_base`) with the larger sigma.
    """
    plane = surface_normal_base(view, pixel)
    if plane is None:
        return None
    normal_cam, sigma_rad = _fit_paraboloid(view, pixel, require_pose(view).R.T @ plane[0])
    if sigma_rad > MAX_SIGMA_RAD:
        return plane[0], max(plane[1], sigma_rad)
    return require_pose(view).rotate(normal_cam), sigma_rad


def _fit_paraboloid(view: View, pixel: Array, about_cam: Array) -> tuple[Array, float]:
    """Fit in the frame of a normal (3,) that is about right; return the normal, camera, and sigma.

    Reweighted least squares; the residuals beyond the tolerance of a plane count as that.
    """
    depths_m = surface_depths_m(view, pixel)
    pixels, depths, _ = depth_window(view, pixel, NORMAL_WINDOW_PX)
    here = np.abs(depths - depths_m[0]) < SPLIT_M + SPLIT_RATIO * depths_m[0]
    if here.sum() < MIN_NORMAL_POINTS:
        return about_cam, math.inf
    points = view.backproject(pixels[here], depths[here])
    away_px = np.linalg.norm(pixels[here] - np.asarray(pixel), axis=1)
    origin = np.median(points[np.argsort(away_px)[:NEAREST_PIXELS]], axis=0)
    axes = np.linalg.svd(about_cam[None])[2]
    x, y, z = np.stack([axes[1], axes[2], about_cam]) @ (points - origin).T
    terms = np.stack([x, y, np.ones_like(x), x * x, x * y, y * y], axis=1)
    window_px = NORMAL_WINDOW_PX * view.intrinsics.width_px / 640
    near = np.exp(-0.5 * (4 * away_px / window_px) ** 2)
    tolerance_m, weights = PLANE_INLIER_RATIO * origin[2], near
    for _ in range(ROUNDS):
        weighted = terms.T * weights ** 2
        solved = np.linalg.lstsq(weighted @ terms, weighted @ z, rcond=None)[0]
        off_m = z - terms @ solved
        weights = near / (1 + (2 * off_m / tolerance_m) ** 2)
    rms_m = math.sqrt(float(np.average(np.minimum(np.abs(off_m), tolerance_m) ** 2, weights=near)))
    spread = np.linalg.pinv(terms.T * weights @ terms)
    slope_sigma = rms_m * math.sqrt(max(0.0, float(spread[0, 0] + spread[1, 1])))
    slope = np.array([-solved[0], -solved[1], 1.0])
    normal = slope / np.linalg.norm(slope) @ np.stack([axes[1], axes[2], about_cam])
    return normal, math.hypot(NORMAL_SIGMA_RAD, ALIKE_PX * slope_sigma)
