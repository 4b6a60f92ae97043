"""Multi-view geometry: epipolar segments, triangulation, pose refinement by PnP.

Errors are angles between rays, in pixels at the focal length, so that they hold for wide lenses
too. Only the epipolar error is measured in the image itself.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Rejected, Transform, View

NEAREST_M = 0.05  # no camera here sees anything nearer
MIN_BASELINE_M = 0.005  # closer than this, two cameras are at the same place
MIN_ANGLE_DEG = 0.01
YZX, ZXY = np.array([1, 2, 0]), np.array([2, 0, 1])
MAX_STEPS, CONVERGED_M = 5, 1e-7  # of a triangulation
SEGMENT_POINTS = 129  # at most 1.4 degrees apart: straight in between, whatever the lens


def epipolar_segment(clicked: Intrinsics, other: Intrinsics, other_from_clicked: Transform,
                     pixel: npt.ArrayLike, nearest_m: float = NEAREST_M,
                     farthest_m: float = np.inf) -> Array:
    """Project the clicked ray between two depths: a polyline (n, 2) in the other view.

    Depths are along the clicked camera's optical axis, m. Points that the other camera cannot
    project are left out; (0, 2) if there are none. Distortion bends the line, hence a polyline.
    """
    ray_clicked = clicked.unproject(pixel)
    point_clicked = ray_clicked / ray_clicked[2]
    near = _normalize(other_from_clicked.transform_points(point_clicked * nearest_m))
    far = _normalize(other_from_clicked.rotate(point_clicked) if np.isinf(farthest_m) else
                     other_from_clicked.transform_points(point_clicked * farthest_m))
    # Even steps in angle: even steps in depth would crowd at one end.
    angle = np.arctan2(np.linalg.norm(cross(near, far)), near @ far)
    step = np.linspace(0.0, 1.0, SEGMENT_POINTS)[:, None]
    pixels = other.project(near[None] if angle < 1e-9 else (
        np.sin((1 - step) * angle) * near + np.sin(step * angle) * far) / np.sin(angle))
    return np.asarray(pixels[np.isfinite(pixels).all(axis=1)])


def distance_to_segment_px(polyline_px: Array, pixel: npt.ArrayLike) -> float:
    """Return the distance of a pixel (2,) from a polyline (n, 2); infinite if n is 0."""
    pixel = np.asarray(pixel, dtype=np.float64)
    if len(polyline_px) < 2:
        return float(np.linalg.norm(polyline_px - pixel, axis=1).min(initial=np.inf))
    start, along = polyline_px[:-1], np.diff(polyline_px, axis=0)
    length_px2 = np.maximum((along ** 2).sum(axis=1), 1e-12)
    at = np.clip(((pixel - start) * along).sum(axis=1) / length_px2, 0.0, 1.0)
    return float(np.linalg.norm(start + at[:, None] * along - pixel, axis=1).min())


def ray_base(view: View, pixel: npt.ArrayLike) -> tuple[Array, Array]:
    """Return the ray through a pixel, in the base: origin (3,) m and unit direction (3,)."""
    pose = require_pose(view)
    return pose.t_m, pose.rotate(view.intrinsics.unproject(pixel))


def require_pose(view: View) -> Transform:
    """Return `ray_pose`; raise `Rejected` (NO_TF, or NO_DEPTH for assumed intrinsics) if None."""
    if view.intrinsics.is_assumed:
        raise Rejected(Code.NO_DEPTH, f'the intrinsics of {view.camera} are unknown: give them')
    if view.ray_pose is None:
        raise Rejected(Code.NO_TF, f'the pose of {view.camera} at the stamp of its image is '
                       'unknown')
    return view.ray_pose


@dataclass(frozen=True, eq=False)
class Triangulation:
    """The point where two or more rays meet.

    covariance_m2: (3, 3) base. angle_deg: the largest between two rays. gap_m: distance of the
    point from the farthest ray. errors_px: (n,) of each ray, in pixels at its focal length.
    """

    point_base_m: Array
    covariance_m2: Array
    angle_deg: float
    gap_m: float
    errors_px: Array


def triangulate(views: Sequence[View], pixels: Sequence[Array],
                covariances_px2: Sequence[Array]) -> Triangulation:
    """Triangulate the pixels (2,) of two or more views; see `RayBundle`."""
    return RayBundle(views, pixels).triangulate(covariances_px2)


class RayBundle:
    """The rays of the pixels (2,) of two or more views, to be triangulated.

    Raises `Rejected`: NO_DEPTH when they are parallel or two cameras are at the same place, NO_TF
    when a pose is unknown.
    """

    def __init__(self, views: Sequence[View], pixels: Sequence[Array]) -> None:
        self._views = views
        rays = [ray_base(view, pixel) for view, pixel in zip(views, pixels, strict=True)]
        self._origins, self._directions = (np.array(each) for each in zip(*rays, strict=True))
        self._angle_deg = max(ray_angle_deg(a, b) for a, b in combinations(self._directions, 2))
        require_baselines(views)
        if self._angle_deg < MIN_ANGLE_DEG:
            raise Rejected(Code.NO_DEPTH, f'the rays are parallel ({self._angle_deg:.3f} deg; at '
                                          f'least {MIN_ANGLE_DEG} deg)')
        # (n, 3, 3) off each ray
        self._across = np.eye(3) - self._directions[:, :, None] * self._directions[:, None, :]
        self._tangents = _tangents(self._directions)
        self._px_per_rad = np.array([_px_per_rad(*each) for each in zip(
            views, self._directions, self._tangents, strict=True)])

    def triangulate(self, covariances_px2: Sequence[Array]) -> Triangulation:
        """Return the point with the least angular errors, weighted by the covariances (2, 2).

        Gauss-Newton from the midpoint of the rays. Raises `Rejected` (INCONSISTENT) when they meet
        behind a camera.
        """
        across, origins, tangents = self._across, self._origins, self._tangents
        at = across @ origins[:, :, None]
        point = np.linalg.solve(across.sum(axis=0), at.sum(axis=0)[:, 0])
        # Of the angles of `_ray_errors`: the inverse of their covariances, rad^2.
        weights = self._px_per_rad.transpose(0, 2, 1) @ np.linalg.inv(
            np.array(covariances_px2)) @ self._px_per_rad
        for _ in range(MAX_STEPS):
            residual, jacobian = _ray_errors(point - origins, tangents)
            weighted = weights @ jacobian
            information = (jacobian.transpose(0, 2, 1) @ weighted).sum(axis=0)
            step = np.linalg.solve(information, (residual[:, None] @ weighted).sum(axis=0)[0])
            point = point - step
            if np.abs(step).max() < CONVERGED_M:
                break
        _require_in_front(self._views, point, origins, self._directions)
        residual, _ = _ray_errors(point - origins, tangents)
        focal_px = np.array([_focal_px(view.intrinsics) for view in self._views])
        off_m = (across @ (point - origins)[:, :, None])[:, :, 0]
        return Triangulation(
            point, np.linalg.inv(information), self._angle_deg,
            gap_m=float(np.linalg.norm(off_m, axis=1).max()),
            errors_px=np.linalg.norm(residual, axis=1) * focal_px)


def ray_angle_deg(ray_a: Array, ray_b: Array) -> float:
    """Return the angle between two directions (3,)."""
    return float(np.degrees(np.arctan2(np.linalg.norm(cross(ray_a, ray_b)), ray_a @ ray_b)))


def require_baselines(views: Sequence[View]) -> None:
    """Raise `Rejected` (NO_DEPTH) if the poses of two cameras coincide: one must be wrong."""
    for one, other in combinations(views, 2):
        apart_m = float(np.linalg.norm(require_pose(one).t_m - require_pose(other).t_m))
        if apart_m < MIN_BASELINE_M:
            raise Rejected(Code.NO_DEPTH, f'{one.camera} and {other.camera} are {apart_m:.4f} m '
                           f'apart (at least {MIN_BASELINE_M} m): two cameras cannot be at the '
                           'same place, check their TF')


def _require_in_front(views: Sequence[View], point: Array, origins: Array, directions: Array
                      ) -> None:
    ahead_m = ((point - origins) * directions).sum(axis=1)
    for view, depth_m in zip(views, ahead_m, strict=True):
        if not depth_m > 0:
            raise Rejected(Code.INCONSISTENT, f'the rays meet {-depth_m:.3f} m behind {view.camera}'
                           ' (at least 0 m in front): a wrong match, or wrong poses')


def _px_per_rad(view: View, direction_base: Array, tangent: Array) -> Array:
    """Return the derivatives (2, 2) of a pixel by the angles of `_ray_errors`."""
    to_cam = require_pose(view).R.T
    _, slopes = view.intrinsics.project_with_jacobian((to_cam @ direction_base)[None])
    return np.asarray(slopes[0] @ to_cam @ tangent)


def _ray_errors(offsets_m: Array, tangents: Array) -> tuple[Array, Array]:
    """Angles of points (n, 3) from rays of a camera: rad (n, 2), and d/dpoint (n, 2, 3).

    Measured in the plane tangent to the unit sphere at the ray: along `_tangents`.
    """
    range_m = np.sqrt((offsets_m * offsets_m).sum(axis=1))[:, None]
    unit = offsets_m / range_m
    residual = (unit[:, None] @ tangents)[:, 0]
    jacobian = tangents.transpose(0, 2, 1) - residual[:, :, None] * unit[:, None]
    return residual, jacobian / range_m[:, None]


def _tangents(rays: Array) -> Array:
    """Two unit vectors across each ray (n, 3), as columns: (n, 3, 2)."""
    aside = np.where(np.abs(rays[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    first = cross(rays, aside)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, cross(rays, first)], axis=2)


def cross(a: Array, b: Array) -> Array:
    """The cross products of vectors (..., 3): `np.cross` takes nine times as long for few."""
    return a.take(YZX, -1) * b.take(ZXY, -1) - a.take(ZXY, -1) * b.take(YZX, -1)


def _normalize(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def _focal_px(intrinsics: Intrinsics) -> float:
    return float(np.sqrt(intrinsics.fx_px * intrinsics.fy_px))


PNP_PIXEL_SIGMA = 2.0  # a matcher's own noise, px
# Of a match among hundreds, whose errors are alike: measured by the errors of corrected poses.
PNP_COVARIANCE_SIGMA_PX = 6.0
PNP_INLIER_PX = 6.0
PNP_MIN_POINTS = 6
PNP_SURE_POINTS = 20  # more than agree by chance that the given pose is wrong
PNP_MAX_SIGMAS = 3.0  # a correction beyond this is not noise


def refine_pose_pnp(points_a_m: Array, pixels_b: Array, intrinsics_b: Intrinsics,
                    b_from_a: Transform, sigma_cm: float, sigma_deg: float,
                    ) -> tuple[Transform, npt.NDArray[np.bool_], Array]:
    """Refine `b_from_a` by points (n, 3) of a, m, and their pixels (n, 2) in b.

    `sigma_cm` and `sigma_deg` are the expected lengths (rms) of its error. Returns the refined
    transform, the inliers (n,), and the covariance (6, 6) of what it is still off: a rotation, rad,
    then a translation, m, in b. Robust least squares with the given transform as a prior:
    Geman-McClure weights 1 / (1 + (r/s)^2)^2, whose scale s shrinks from the noise's size to the
    pixels' (graduated non-convexity). Raises `Rejected`: LOW_CONFIDENCE for fewer than 6 inliers
    (20 for a correction beyond 3 sigma), INCONSISTENT when 20 or more show that the given transform
    is off by more than 3 sigma.
    """
    if not (sigma_cm > 0 and sigma_deg > 0):
        raise ValueError(f'noise must be positive, got {sigma_cm} cm, {sigma_deg} deg')
    sigmas = np.repeat([np.radians(sigma_deg), sigma_cm / 100], 3) / np.sqrt(3)
    rays_b, focal_px = intrinsics_b.unproject(pixels_b), _focal_px(intrinsics_b)
    given_b_m = b_from_a.transform_points(points_a_m)
    usable = np.isfinite(rays_b).all(axis=1) & (np.linalg.norm(given_b_m, axis=1) > NEAREST_M)
    _require_enough(int(usable.sum()), len(usable), 'are usable', PNP_MIN_POINTS)
    range_m = float(np.median(np.linalg.norm(given_b_m[usable], axis=1)))
    start_px = 2 * focal_px * (np.radians(sigma_deg) + sigma_cm / 100 / range_m)
    sight = rays_b[usable], _tangents(rays_b[usable])
    correction = Transform(np.eye(3), np.zeros(3))
    for turn in range(20):
        scale_px = max(PNP_PIXEL_SIGMA, start_px * 0.7 ** turn)
        correction = _pnp_step(given_b_m[usable], sight, correction, sigmas, focal_px, scale_px)
    corrected = correction @ b_from_a
    projected = intrinsics_b.project(corrected.transform_points(points_a_m))
    error_px = np.linalg.norm(projected - pixels_b, axis=1)
    agree = error_px < PNP_INLIER_PX
    contradiction = exceeds_prior(correction, sigma_cm, sigma_deg)
    _require_enough(int(agree.sum()), len(agree),
                    f'agree with one correction of the pose within {PNP_INLIER_PX:g} px',
                    PNP_SURE_POINTS if contradiction else PNP_MIN_POINTS)
    if contradiction:
        raise Rejected(Code.INCONSISTENT, f'{agree.sum()} points agree that {contradiction}')
    information, _ = _pnp_equations(given_b_m[usable], sight, correction, focal_px,
                                    PNP_PIXEL_SIGMA)
    return corrected, agree, np.asarray(np.linalg.inv(
        information * PNP_COVARIANCE_SIGMA_PX ** -2 + np.diag(sigmas ** -2)), dtype=np.float64)


def _pnp_step(given_b_m: Array, sight: tuple[Array, Array], correction: Transform, sigmas: Array,
              focal_px: float, scale_px: float) -> Transform:
    """One Gauss-Newton step of the correction, on the left: rotation, then translation.

    sight: the rays (n, 3) of b, and their tangents.
    """
    information, gradient = (part * PNP_PIXEL_SIGMA ** -2 for part in _pnp_equations(
        given_b_m, sight, correction, focal_px, scale_px))
    so_far = np.concatenate([cv2.Rodrigues(correction.R)[0].ravel(), correction.t_m])
    step = -np.linalg.solve(information + np.diag(sigmas ** -2),
                            gradient + so_far / sigmas ** 2)
    return Transform(cv2.Rodrigues(step[:3])[0] @ correction.R, correction.t_m + step[3:])


def _pnp_equations(given_b_m: Array, sight: tuple[Array, Array], correction: Transform,
                   focal_px: float, scale_px: float) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and gradient (6,) of the weighted errors, px^2."""
    points_b_m = correction.transform_points(given_b_m)
    rays_b, tangents = sight
    residual, d_point = _ray_errors(points_b_m, tangents)
    residual, d_point = residual * focal_px, d_point * focal_px
    ahead = (points_b_m * rays_b).sum(axis=1) > 0
    weight = ahead / (1 + (residual ** 2).sum(axis=1) / scale_px ** 2) ** 2
    turned = points_b_m - correction.t_m
    d_turn = np.cross(turned[:, None, :], d_point)  # d(w x p)/dw, row by row
    jacobian = np.concatenate([d_turn, d_point], axis=2).reshape(-1, 6)
    weighted = jacobian * np.repeat(weight, 2)[:, None]
    return weighted.T @ jacobian, weighted.T @ residual.ravel()


def _require_enough(agreeing: int, total: int, what: str, least: int) -> None:
    if agreeing < least:
        raise Rejected(Code.LOW_CONFIDENCE, f'{agreeing} of {total} points {what} (at least '
                                            f'{least})')


def _exceeds(part: Array, limit: float, covariance: Array | None) -> bool:
    """Whether a vector (3,) is longer than a limit, and known well enough to say so.

    covariance: (3, 3) of it. Known is a vector three sigmas long, or whose components of three
    sigmas each, along the axes of the covariance, are together longer than the limit.
    """
    length = float(np.linalg.norm(part))
    if covariance is None or length <= limit:
        return length > limit
    variances, axes = np.linalg.eigh(covariance)
    along = part @ axes
    known = np.abs(along) > PNP_MAX_SIGMAS * np.sqrt(variances)
    sigma = np.sqrt(part @ covariance @ part) / length
    return bool(length > PNP_MAX_SIGMAS * sigma or np.linalg.norm(along[known]) > limit)


def exceeds_prior(correction: Transform, sigma_cm: float, sigma_deg: float,
                  covariance: Array | None = None) -> str:
    """Return by how much a correction exceeds the noise, as text; '' if it does not.

    covariance: (6, 6) of the correction, rotation, rad, then translation, m: what it does not know
    to three sigmas, as a slide along the one plane that both views show, may be noise.
    """
    turned = np.asarray(cv2.Rodrigues(correction.R)[0].ravel(), dtype=np.float64)
    turned_deg = float(np.degrees(np.linalg.norm(turned)))
    moved_cm = 100 * float(np.linalg.norm(correction.t_m))
    blocks = (None, None) if covariance is None else (covariance[:3, :3], covariance[3:, 3:])
    if not (_exceeds(turned, np.radians(PNP_MAX_SIGMAS * sigma_deg), blocks[0])
            or _exceeds(correction.t_m, PNP_MAX_SIGMAS * sigma_cm / 100, blocks[1])):
        return ''
    return (f'the pose is off by {moved_cm:.1f} cm and {turned_deg:.1f} deg (limits '
            f'{PNP_MAX_SIGMAS * sigma_cm:g} cm, {PNP_MAX_SIGMAS * sigma_deg:g} deg): check the '
            'calibration')
