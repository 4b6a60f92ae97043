"""From pixels and depths to one 3D target, or a refusal when they contradict each other."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    GraspTarget,
    Match,
    Method,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.depth import front_depth_m, surface_normal_cam, surface_point
from crosspoint_ros.core.geometry import triangulate
from crosspoint_ros.core.verify import Limits

CLICK_SIGMA_PX = 1.0
MATCH_SIGMA_PX = 3.0  # where a matcher gives no covariance
POSE_SIGMA_M = 0.01  # what a good hand-eye calibration leaves
DEPTH_SIGMA_M, DEPTH_SIGMA_RATIO = 0.002, 0.005
NORMAL_SIGMA_RAD, NO_NORMAL_SIGMA_RAD = 0.1, 1.0
AGREE_SIGMAS = 3.0

Found = Sequence[tuple[View, Match]]


@dataclass(frozen=True, eq=False)
class Measurement:
    """One way to the point: (3,) m in the base, and its covariance (3, 3) m^2."""

    method: Method
    point_base_m: Array
    covariance_m2: Array
    what: str


def lift(clicked: View, pixel: Array, found: Found, limits: Limits) -> GraspTarget:
    """Lift a click and what was found of it to a target in the base frame.

    Depth in the clicked view, depth at each found point, and the triangulation of all rays are
    independent ways to the same point: they are fused by their covariances when they agree, and
    refused (INCONSISTENT) when they do not. Raises `Rejected` (NO_DEPTH) when there is no way, and
    (NO_TF) without poses.
    """
    if clicked.base_from_cam is None:
        raise Rejected(Code.NO_TF, f'no 3D: the pose of {clicked.camera} is not known')
    measured, why_not = measure(clicked, pixel, found, limits)
    if not measured:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {why_not}')
    gap_m = largest_gap_m(measured, limits)
    point_base_m, covariance_m2 = fuse(measured)
    base_from_target, normal_sigma_rad = approach(clicked, pixel, found, point_base_m)
    covariance = np.zeros((6, 6))
    covariance[:3, :3], covariance[3:, 3:] = covariance_m2, np.eye(3) * normal_sigma_rad ** 2
    method = measured[0].method if len(measured) == 1 else Method.FUSED
    confidence = max(match.confidence for _, match in found)
    return GraspTarget(base_from_target, covariance, method, gap_m, confidence)


def measure(clicked: View, pixel: Array, found: Found, limits: Limits
            ) -> tuple[list[Measurement], str]:
    """Return every way to the point, and why there is no triangulation ('' if there is)."""
    ways = [by_depth(clicked, pixel, Method.DEPTH_CLICKED)]
    ways += [by_depth(view, match.pixel, Method.DEPTH_FOUND) for view, match in found]
    measured, why_not = [way for way in ways if way is not None], ''
    try:
        measured.append(by_triangulation(clicked, pixel, found, limits))
    except Rejected as rejected:
        if rejected.code == Code.INCONSISTENT:
            raise
        why_not = rejected.message
    return measured, why_not


def by_depth(view: View, pixel: Array, method: Method) -> Measurement | None:
    """The surface at a pixel; None without depth there."""
    point_base_m = surface_point(view, pixel)
    if point_base_m is None or view.base_from_cam is None:
        return None
    ray_base = view.base_from_cam.direction(view.intrinsics.ray_cam(pixel))
    range_m = float(np.linalg.norm(point_base_m - view.base_from_cam.t_m))
    along_m = DEPTH_SIGMA_M + DEPTH_SIGMA_RATIO * range_m ** 2
    across_m = range_m * CLICK_SIGMA_PX / view.intrinsics.fx_px
    along = np.outer(ray_base, ray_base)
    covariance = along * along_m ** 2 + (np.eye(3) - along) * across_m ** 2
    return Measurement(method, point_base_m, covariance + np.eye(3) * POSE_SIGMA_M ** 2,
                       f'depth of {view.camera}')


def by_triangulation(clicked: View, pixel: Array, found: Found, limits: Limits) -> Measurement:
    """Where the rays meet; NO_DEPTH when they are too parallel to tell."""
    views = [clicked, *(view for view, _ in found if view.base_from_cam is not None)]
    if len(views) < 2:
        raise Rejected(Code.NO_DEPTH, 'no pose of another view')
    pixels = [pixel, *(match.pixel for _, match in found)]
    covariances = [np.eye(2) * CLICK_SIGMA_PX ** 2, *(_covariance(match) for _, match in found)]
    met = triangulate(views, pixels, covariances)
    if met.angle_deg < limits.min_ray_angle_deg:
        raise Rejected(Code.NO_DEPTH, f'the rays meet at {met.angle_deg:.1f} deg '
                       f'(limits.min_ray_angle_deg {limits.min_ray_angle_deg:g}), too parallel to '
                       'triangulate, and there is no depth at the point')
    # The error of the poses grows into depth as the rays close.
    pose_m = POSE_SIGMA_M / np.sin(np.radians(met.angle_deg))
    return Measurement(Method.TRIANGULATED, met.point_base_m,
                       met.covariance_m2 + np.eye(3) * pose_m ** 2, 'triangulation')


def largest_gap_m(measured: Sequence[Measurement], limits: Limits) -> float:
    """Return the largest distance between two ways, m (NaN for one); refuse if they disagree.

    Two ways agree within `limits.max_depth_gap_m`, or within three sigma of both where those are
    wider: a triangulation at a small angle is no witness against depth.
    """
    gaps_m = [np.nan]
    for one, other in combinations(measured, 2):
        apart = one.point_base_m - other.point_base_m
        gap_m = float(np.linalg.norm(apart))
        sigma_m = float(np.sqrt(apart @ (one.covariance_m2 + other.covariance_m2) @ apart)
                        / max(gap_m, 1e-12))
        limit_m = max(limits.max_depth_gap_m, AGREE_SIGMAS * sigma_m)
        if gap_m > limit_m:
            raise Rejected(Code.INCONSISTENT, f'{one.what} and {other.what} are {gap_m:.3f} m '
                           f'apart (limit {limit_m:.3f} m)')
        gaps_m.append(gap_m)
    return float(np.fmax.reduce(gaps_m))


def fuse(measured: Sequence[Measurement]) -> tuple[Array, Array]:
    """Return the mean of the points (3,), weighted by their covariances, and its own (3, 3)."""
    weights = [np.linalg.inv(m.covariance_m2) for m in measured]
    covariance_m2 = np.linalg.inv(sum(weights))
    point = covariance_m2 @ sum(w @ m.point_base_m for w, m in zip(weights, measured, strict=True))
    return point, covariance_m2


def approach(clicked: View, pixel: Array, found: Found, point_base_m: Array
             ) -> tuple[Transform, float]:
    """Return base_from_target at a point, and how uncertain its direction is, rad.

    +z goes into the surface, along the normal of the plane that depth shows around the point, the
    clicked view's first. Without depth there is no surface to see: +z is the clicked ray then, and
    the uncertainty a radian. +x is the clicked image's x, as far as it lies in the surface.
    """
    assert clicked.base_from_cam is not None
    z_base, sigma_rad = clicked.base_from_cam.direction(clicked.intrinsics.ray_cam(pixel)), (
        NO_NORMAL_SIGMA_RAD)
    for view, at in ((clicked, pixel), *((view, match.pixel) for view, match in found)):
        normal = _normal_base(view, at)
        if normal is not None:
            z_base, sigma_rad = normal, NORMAL_SIGMA_RAD
            break
    image_x_base = clicked.base_from_cam.R[:, 0]
    x_base = image_x_base - z_base * (z_base @ image_x_base)
    if np.linalg.norm(x_base) < 1e-3:  # the surface faces along the image's x
        x_base = clicked.base_from_cam.R[:, 1] - z_base * (z_base @ clicked.base_from_cam.R[:, 1])
    x_base /= np.linalg.norm(x_base)
    return Transform(np.stack([x_base, np.cross(z_base, x_base), z_base], axis=1),
                     point_base_m), sigma_rad


def _normal_base(view: View, pixel: Array) -> Array | None:
    if view.depth_m is None or view.base_from_cam is None:
        return None
    depth_m = front_depth_m(view, pixel)
    normal = surface_normal_cam(view, pixel, depth_m) if np.isfinite(depth_m) else None
    return None if normal is None else view.base_from_cam.direction(normal)


def _covariance(match: Match) -> Array:
    known = np.isfinite(match.covariance_px2).all()
    return match.covariance_px2 if known else np.eye(2) * MATCH_SIGMA_PX ** 2
