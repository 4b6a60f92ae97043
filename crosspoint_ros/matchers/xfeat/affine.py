"""Where the matches around a pixel carry it: a local affine map."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array

NEAREST = 10
RIDGE_PX2 = 40.0


@dataclass(frozen=True, eq=False)
class LocalAffine:
    """A pixel's neighbourhood in the other view.

    pixel: (2,) where the pixel goes. linear: (2, 2) how offsets around it turn and stretch.
    density: how many matches speak for it, near ones and agreeing ones more; 0 with none.
    residual_px: how far those matches are from the map.
    """

    pixel: Array
    linear: Array
    density: float
    residual_px: float


def overall_linear(clicked: Array, other: Array) -> Array:
    """Return the linear part (2, 2) that most matches (n, 2) share; unity if they share none."""
    if len(clicked) < 4:
        return np.eye(2)
    affine, _ = cv2.estimateAffine2D(clicked, other, ransacReprojThreshold=15)
    return np.eye(2) if affine is None else np.asarray(affine[:, :2], dtype=np.float64)


def local_affine(clicked: Array, other: Array, pixel: Array, overall: Array) -> LocalAffine:
    """Fit the 10 matches (n, 2) nearest to the pixel, ridge-regularised towards `overall`."""
    if len(clicked) < 4:
        return LocalAffine(np.array(pixel), np.eye(2), 0.0, np.inf)
    distance = np.linalg.norm(clicked - pixel, axis=1)
    near = np.argsort(distance)[:NEAREST]
    a, b = clicked[near], other[near]
    weight = closeness = (distance[near] + 6) ** -2.0
    for _ in range(3):
        weight = weight / weight.sum()
        mean_a, mean_b = weight @ a, weight @ b
        da, db = a - mean_a, b - mean_b
        spread = (da * weight[:, None]).T @ da
        ridge = 0.05 * np.trace(spread) + RIDGE_PX2
        linear = ((db * weight[:, None]).T @ da + ridge * overall) \
            @ np.linalg.inv(spread + ridge * np.eye(2))
        off = np.linalg.norm(db - da @ linear.T, axis=1)
        weight = closeness / (1 + (off / 6) ** 2)
    weight = weight / weight.sum()
    residual = float(weight @ off)
    density = float(np.exp(-distance / 30).sum() * np.exp(-residual / 6))
    return LocalAffine(mean_b + linear @ (pixel - mean_a), linear, density, residual)
