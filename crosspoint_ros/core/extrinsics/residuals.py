"""Residuals of matches between two posed frames, and their slopes along the extrinsics.

A match that has depth in one frame is compared by reprojection in the other (px), one that has it
in both also point to plane (m); one without depth by its Sampson distance (Hartley & Zisserman,
Multiple View Geometry, 11.4.3). All are divided by their sigma, so that they can be pooled.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.depth import predict_depth_sigma_m

MATCH_SIGMA_RAD = 0.002  # of a keypoint, in each image: 1 px at 500 px, as images are resized
MIN_BASELINE_M = 0.01  # below it two rays say nothing of where the cameras are
TAPS_PX = 2.0 * np.array([(x, y) for y in range(-2, 3) for x in range(-2, 3)])
MIN_TAPS, MAX_PLANE_ERROR = 15, 0.01  # of the 25; of the depth
STEP = 1e-6  # of numeric slopes
# What may be wrong with a calibrated lens: its principal point (px, px), its focal length and the
# scale of its depth. They are not estimated, but count in the covariance.
LENS_SIGMAS = np.array([0.5, 0.5, 0.002, 0.003])
PERFECT = np.zeros((2, 4))


@dataclass(frozen=True, eq=False)
class PosedMatches:
    """Matches of two frames, and where TF places the bodies that carry their cameras.

    Everything is a pair, of the first frame and the second. cameras: names. base_from_body: at the
    frame's own stamp; the body of a still camera is the base. rays: (n, 3) with z = 1, in the
    camera. depths_m: (n,) along the optical axis, NaN where unknown. normals: (n, 3) of the
    surface, NaN where unknown. focals_px. frames: two numbers that identify the images.
    """

    cameras: tuple[str, str]
    base_from_body: tuple[Transform, Transform]
    rays: tuple[Array, Array]
    depths_m: tuple[Array, Array]
    normals: tuple[Array, Array]
    focals_px: tuple[float, float]
    frames: tuple[int, int]

    @classmethod
    def from_views(cls, views: tuple[View, View], base_from_body: tuple[Transform, Transform],
                   pixels: tuple[Array, Array], frames: tuple[int, int]) -> PosedMatches:
        """Create from matched pixels (n, 2) of two views."""
        rays = [view.intrinsics.unproject(at) for view, at in zip(views, pixels, strict=True)]
        rays = [ray / np.where(ray[:, 2:] > 0.1, ray[:, 2:], np.nan) for ray in rays]
        known = np.isfinite(np.hstack(rays)).all(axis=1)
        (depth_a, normal_a), (depth_b, normal_b) = (
            fit_planes(view, at[known]) for view, at in zip(views, pixels, strict=True))
        a, b = views
        return cls((a.camera, b.camera), base_from_body, (rays[0][known], rays[1][known]),
                   (depth_a, depth_b), (normal_a, normal_b),
                   (a.intrinsics.fx_px, b.intrinsics.fx_px), frames)

    def __len__(self) -> int:
        return len(self.rays[0])

    @property
    def has_depth(self) -> bool:
        return bool(np.isfinite(self.depths_m).any())

    def select(self, keep: Array) -> PosedMatches:
        """Return some of the matches, by a mask or indices."""
        rays, depths_m, normals = (tuple(each[keep] for each in both) for both in (
            self.rays, self.depths_m, self.normals))
        return replace(self, rays=rays, depths_m=depths_m, normals=normals)

    def relative_pose(self, a: Transform, b: Transform) -> Transform:
        """Return b_from_a of the cameras; a, b: body_from_cam of each."""
        return (self.base_from_body[1] @ b).inverse @ self.base_from_body[0] @ a


def fit_planes(view: View, pixels: Array) -> tuple[Array, Array]:
    """Return depths (n,), m, and unit normals (n, 3) of the surface around pixels (n, 2).

    Inverse depth is linear in the ray on a plane, n . ray = 1 / z: least squares over 9x9 px. NaN
    without depth, and at edges, where no plane fits.
    """
    depths_m, normals = np.full(len(pixels), np.nan), np.full((len(pixels), 3), np.nan)
    if view.depth_m is None or not len(pixels):
        return depths_m, normals
    places = np.rint(pixels[:, None] + TAPS_PX)
    height, width = view.depth_m.shape
    x, y = places[..., 0].astype(int), places[..., 1].astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    z = view.depth_m[y.clip(0, height - 1), x.clip(0, width - 1)].astype(float)
    rays = view.intrinsics.unproject(places.reshape(-1, 2)).reshape(*places.shape[:2], 3)
    with np.errstate(divide='ignore', invalid='ignore'):
        rays, inverse = rays / rays[..., 2:], 1 / z
    use = inside & (z > 0) & np.isfinite(inverse) & np.isfinite(rays).all(axis=2)
    rays, inverse = np.where(use[..., None], rays, 0), np.where(use, inverse, 0)
    matrix = np.einsum('nki,nkj->nij', rays, rays) + 1e-9 * np.eye(3)
    plane = np.linalg.solve(matrix, np.einsum('nki,nk->ni', rays, inverse)[..., None])[..., 0]
    off = np.abs((rays * plane[:, None]).sum(axis=2) - inverse).max(axis=1)
    at = view.intrinsics.unproject(pixels)
    slope = (at / at[:, 2:] * plane).sum(axis=1)
    flat = (use.sum(axis=1) >= MIN_TAPS) & (off < MAX_PLANE_ERROR * slope) & (slope > 0)
    depths_m[flat] = 1 / slope[flat]
    normals[flat] = plane[flat] / np.linalg.norm(plane[flat], axis=1, keepdims=True)
    return depths_m, normals


@dataclass(frozen=True)
class Noise:
    """Measured sizes of the residuals, in multiples of what `MATCH_SIGMA_RAD` and depth allow."""

    px: float = 1.0
    plane: float = 1.0


def measure_residuals(matches: PosedMatches, b_from_a: Transform) -> Array:
    """Return residuals (n, 3), NaN where not measured.

    Columns: two of reprojection (px), or Sampson (px) and NaN; then point to plane (m).
    """
    return _Geometry(matches, b_from_a).measure(b_from_a, PERFECT)


def whiten_residuals(matches: PosedMatches, b_from_a: Transform, noise: Noise) -> Array:
    """Return the residuals (n, 3) in sigmas."""
    geometry = _Geometry(matches, b_from_a)
    return geometry.whiten(geometry.measure(b_from_a, PERFECT), noise)


def measure_slopes(matches: PosedMatches, b_from_a: Transform, noise: Noise, with_lenses: bool
                   ) -> tuple[Array, Array]:
    """Return residuals (n, 3) in sigmas and their slopes (n, 3, 6 or 14), numerically.

    The slopes are along a small rotation, rad, and translation, m, of b_from_a, in b; then, with
    lenses, along the errors of the lens of a and of b.
    """
    geometry = _Geometry(matches, b_from_a)

    def whiten(step: Array) -> Array:
        return geometry.whiten(geometry.measure(
            exp_pose(step[:6]) @ b_from_a, step[6:].reshape(2, 4)), noise)

    now = whiten(np.zeros(14))
    return now, np.stack([(whiten(step) - now) / STEP
                          for step in STEP * np.eye(14)[:14 if with_lenses else 6]], axis=-1)


class _Geometry:
    """Which way depth goes, and what the residuals are divided by: fixed while slopes are taken."""

    def __init__(self, matches: PosedMatches, b_from_a: Transform) -> None:
        self.matches = matches
        known = [np.isfinite(depth_m) for depth_m in matches.depths_m]
        self.forward = bool(known[0].sum() >= known[1].sum())
        self.a, self.b = a, b = (0, 1) if self.forward else (1, 0)
        motion = b_from_a if self.forward else b_from_a.inverse
        depth_m, focal_px = matches.depths_m[a], matches.focals_px[b]
        points, ray = motion.transform_points(
            matches.rays[a] * depth_m[:, None]), motion.rotate(matches.rays[a])
        with np.errstate(divide='ignore', invalid='ignore'):
            along = focal_px * (ray[:, :2] - points[:, :2] / points[:, 2:] * ray[:, 2:]
                                ) / points[:, 2:]
            length = np.linalg.norm(along, axis=1)
            unit = np.where(length[:, None] > 1e-9, along / length[:, None], [1.0, 0.0])
            off_m = predict_depth_sigma_m(depth_m)
            sigma_px = MATCH_SIGMA_RAD * focal_px * np.hypot(1, depth_m / points[:, 2])
        self.across = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
        self.unit, self.sigma_px, self.along_px = unit, sigma_px, length * off_m
        self.plane_m = np.hypot(off_m, predict_depth_sigma_m(matches.depths_m[b]))

    def measure(self, b_from_a: Transform, lenses: Array) -> Array:
        """Return the residuals (n, 3), px, px, m."""
        matches, a, b = self.matches, self.a, self.b
        motion = b_from_a if self.forward else b_from_a.inverse
        ray_a, ray_b = (_bend(matches.rays[i], lenses[i], matches.focals_px[i]) for i in (a, b))
        depth_a, depth_b = (matches.depths_m[i] * (1 + lenses[i, 3]) for i in (a, b))
        points = motion.transform_points(ray_a * depth_a[:, None])
        raw = np.empty((len(matches), 3))
        with np.errstate(divide='ignore', invalid='ignore'):
            raw[:, :2] = matches.focals_px[b] * (points[:, :2] / points[:, 2:] - ray_b[:, :2])
        raw[~(points[:, 2] > 0), :2] = np.nan
        raw[:, 2] = ((points - ray_b * depth_b[:, None]) * matches.normals[b]).sum(axis=1)
        flat = ~np.isfinite(depth_a)
        if flat.any() and np.linalg.norm(motion.t_m) > MIN_BASELINE_M:
            raw[flat, 0] = _sampson_px(motion, ray_a[flat], ray_b[flat], matches.focals_px[a],
                                       matches.focals_px[b])
        return raw

    def whiten(self, raw: Array, noise: Noise) -> Array:
        """Divide by the sigmas: along the epipolar line that of depth counts, too."""
        white = np.empty_like(raw)
        sigma_px = noise.px * self.sigma_px
        white[:, 0] = (raw[:, :2] * self.unit).sum(axis=1) / np.hypot(
            sigma_px, noise.plane * self.along_px)
        white[:, 1] = (raw[:, :2] * self.across).sum(axis=1) / sigma_px
        white[:, 2] = raw[:, 2] / (noise.plane * self.plane_m)
        flat = np.isfinite(raw[:, 0]) & ~np.isfinite(raw[:, 1])
        white[flat, 0] = raw[flat, 0] / (noise.px * MATCH_SIGMA_RAD * max(self.matches.focals_px))
        return white


def _bend(rays: Array, lens: Array, focal_px: float) -> Array:
    """Return rays (n, 3) of a lens with an offset of its principal point, px, and a scale."""
    bent = rays.copy()
    bent[:, :2] = rays[:, :2] * (1 + lens[2]) + lens[:2] / focal_px
    return np.asarray(bent)


def _sampson_px(motion: Transform, ray_a: Array, ray_b: Array, focal_a_px: float,
                focal_b_px: float) -> Array:
    """Signed Sampson distances (n,) of rays with z = 1, px."""
    x, y, z = motion.t_m
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ motion.R
    line_b, line_a = ray_a @ essential.T, ray_b @ essential
    norm = np.sqrt(((line_b[:, :2] / focal_b_px) ** 2).sum(1)
                   + ((line_a[:, :2] / focal_a_px) ** 2).sum(1))
    return np.asarray((ray_b * line_b).sum(axis=1) / norm)


def exp_pose(step: Array) -> Transform:
    """Return the transform of a rotation vector step[:3], rad, and a translation step[3:], m."""
    turn = np.asarray(cv2.Rodrigues(np.ascontiguousarray(step[:3]))[0], dtype=np.float64)
    return Transform(turn, step[3:])


def log_pose(pose: Transform) -> Array:
    """Return the rotation vector, rad, and the translation, m, of a transform: (6,)."""
    return np.concatenate([cv2.Rodrigues(pose.R)[0].ravel(), pose.t_m])


def adjoint(pose: Transform) -> Array:
    """Return (6, 6) that takes a small motion on the right of a transform to its left."""
    x, y, z = pose.t_m
    shift = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose.R
    return np.block([[pose.R, np.zeros((3, 3))], [shift, pose.R]])
