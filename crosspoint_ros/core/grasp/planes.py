"""The surroundings of a pixel in space: normals, and the planes that support things."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.geometry import cross, require_pose

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]

LEVEL = 0.94  # cosine: a plane within 20 deg of level
UPRIGHT = 0.35  # sine: a plane within 20 deg of upright
MAX_PLANES, PLANE_TRIALS, PLANE_POINTS = 5, 60, 1500
MIN_PLANE_PIXELS, MIN_PLANE_M, MIN_PIECE_M = 150, 0.22, 0.1  # its extent, that of its largest part
BIN_M = 0.004  # of heights: a plane is within two
MIN_CLEARANCE_M, CLEARANCE_SIGMAS = 0.003, 2.5  # above a plane, what is not the plane
CREASE_M = 0.008  # the scale of a crease, and of normals


@dataclass(frozen=True, eq=False)
class Plane:
    """The points p with normal @ p == offset_m, base; sigma_m: their spread off it."""

    normal_base: Array
    offset_m: float
    sigma_m: float

    def height_m(self, points_base_m: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return how far points (..., 3) are before it, m."""
        return np.asarray(points_base_m @ self.normal_base.astype(points_base_m.dtype)
                          - points_base_m.dtype.type(self.offset_m), dtype=np.float32)

    @property
    def clearance_m(self) -> float:
        """The height above which a point is not of the plane, m."""
        return max(MIN_CLEARANCE_M, CLEARANCE_SIGMAS * self.sigma_m)


@dataclass(frozen=True, eq=False)
class Region:
    """The part of a view around the point: every `step`-th pixel from (left, top)."""

    view: View
    left: int
    top: int
    step: int
    depth_m: Points  # (h, w), 0 where unknown
    points_base_m: Points  # (h, w, 3)
    seed: tuple[int, int]  # row, column
    seed_base_m: Points


@dataclass(frozen=True, eq=False)
class Surface:
    """A plane and the pixels (h, w) that show it."""

    plane: Plane
    shown: Mask


def estimate_normals(region: Region, known: Mask) -> Points:
    """Normals (h, w, 3) towards the camera, of planes over some 8 mm; 0 where unknown."""
    half = crease_px(region)
    normals = np.zeros_like(region.points_base_m)
    window = _find_window(known, 2 * half)
    known, points = known[window], region.points_base_m[window]
    if min(known.shape) <= 2 * half:
        return normals
    weight = cv2.blur(known.astype(np.float32), (half, half))
    smooth = cv2.blur(points * known[..., None], (half, half)) / np.maximum(weight, 1e-6)[..., None]
    down, right = smooth[2 * half:, half:-half] - smooth[:-2 * half, half:-half], (
        smooth[half:-half, 2 * half:] - smooth[half:-half, :-2 * half])
    inner = cross(down, right)
    away = require_pose(region.view).t_m.astype(np.float32) - smooth[half:-half, half:-half]
    length = np.sqrt(np.einsum('hwi,hwi->hw', inner, inner))
    inner *= (np.sign(np.einsum('hwi,hwi->hw', inner, away)) / np.maximum(length, 1e-9))[..., None]
    normals[window][half:-half, half:-half] = inner
    return normals


def _find_window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The rows and columns of a mask (h, w), and some around."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
            slice(max(0, columns[0] - margin), columns[-1] + margin + 1))


def crease_px(region: Region) -> int:
    pixel_m = region.step * region.depth_m[region.seed] / region.view.intrinsics.fx_px
    return max(2, round(CREASE_M / float(pixel_m) / 2))


def find_planes(region: Region, known: Mask, normals: Points) -> list[Surface]:
    """Find the supports, at the heights that many level points have, and a wall."""
    upward, eye = normals[..., 2], require_pose(region.view).t_m.astype(np.float32)
    height_m, level, surfaces = region.points_base_m[..., 2], known & (upward > LEVEL), []
    for _ in range(MAX_PLANES):
        heights = height_m[level]
        if len(heights) < MIN_PLANE_PIXELS:
            break
        low = float(heights.min())
        counts = np.bincount(((heights - low) / BIN_M).astype(np.int32))
        peak = int(np.convolve(counts, np.ones(3), 'same').argmax())
        chosen = level & (np.abs(height_m - (low + (peak + 0.5) * BIN_M)) < 2 * BIN_M)
        if chosen.sum() < MIN_PLANE_PIXELS:
            break
        surfaces += _fit_surface(region, chosen, level & chosen, eye)
        level &= ~chosen
    upright = known & (np.abs(upward) < UPRIGHT) & (normals != 0).any(axis=-1)
    wall = _find_wall(region.points_base_m[upright], normals[upright])
    if wall is not None:
        chosen = upright & (np.abs(region.points_base_m @ wall[:3] - wall[3]) < 2 * BIN_M)
        surfaces += _fit_surface(region, chosen, chosen, eye)
    return surfaces


def _find_wall(points: Points, normals: Points) -> npt.NDArray[np.float32] | None:
    """RANSAC: the upright plane (normal, offset) of most points; each trial is a point's own."""
    if len(points) < MIN_PLANE_PIXELS:
        return None
    rng = np.random.default_rng(0)
    trials = rng.integers(len(points), size=PLANE_TRIALS)
    some = rng.integers(len(points), size=PLANE_POINTS)
    offsets = (points[trials] * normals[trials]).sum(axis=1)
    off = np.abs(points[some] @ normals[trials].T - offsets)
    best = int((off < 2 * BIN_M).sum(axis=0).argmax())
    return np.append(normals[trials[best]], offsets[best]).astype(np.float32)


def _fit_surface(region: Region, chosen: Mask, oriented: Mask, eye: Points) -> list[Surface]:
    """Fit a plane to its pixels by least squares; nothing if it is small, or in small pieces."""
    if chosen.sum() < MIN_PLANE_PIXELS:
        return []
    points = region.points_base_m[chosen]
    if _measure_extent_m(points) < MIN_PLANE_M:
        return []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(chosen.astype(np.uint8))
    largest = region.points_base_m[labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
    if _measure_extent_m(largest) < MIN_PIECE_M:
        return []
    centre = points.mean(axis=0)
    thin = (points - centre)[::max(1, len(points) // PLANE_POINTS)]
    _, axes = np.linalg.eigh(thin.T @ thin)
    normal = axes[:, 0] * np.sign(axes[:, 0] @ (eye - centre))
    plane = Plane(normal.astype(np.float64), float(normal @ centre),
                  float(np.median(np.abs(thin @ normal)) * 1.48))
    around = cv2.dilate(oriented.astype(np.uint8), np.ones((2 * crease_px(region) + 3,) * 2,
                                                           np.uint8)) > 0
    return [Surface(plane, around & (
        np.abs(plane.height_m(region.points_base_m)) < plane.clearance_m))]


def _measure_extent_m(points: Points) -> float:
    return max(float(np.ptp(points[:, axis])) for axis in range(3))
