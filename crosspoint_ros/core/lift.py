"""Lifts matched pixels to one 3D target, or refuses when depths and rays contradict each other."""
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
    Query,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.depth import (
    explain_missing_depth,
    predict_depth_sigma_m,
    surface_normal_base,
    surface_points_m,
)
from crosspoint_ros.core.geometry import ray_base, require_baselines, require_pose, triangulate
from crosspoint_ros.core.verify import (
    DOUBTED_SHARE,
    Limits,
    find_click_doubt,
    find_doubt,
    lower_confidence,
)

CLICK_SIGMA_PX = 1.0
MATCH_SIGMA_PX = 3.0  # where a matcher gives no covariance
NO_NORMAL_SIGMA_RAD = 1.0
YAW_SIGMA_RAD = np.pi / np.sqrt(3)  # unknown: any angle is as likely
AGREE_SIGMAS = 3.0
MAX_FUSED_GAP_M = 0.02  # half of it is the error of a mean, if they are of two surfaces

MatchedViews = Sequence[tuple[View, Match]]


@dataclass(frozen=True, eq=False)
class Estimate3D:
    """An estimate of the point (3,), m in the base, and its covariance (3, 3) m^2.

    noise_m2: the part of the covariance (3, 3) that is of pixels and depth, not of poses. doubt:
    why it may be of another surface; '': nothing found.
    """

    method: Method
    point_base_m: Array
    covariance_m2: Array
    noise_m2: Array
    source: str
    doubt: str = ''


def lift(clicked: View, pixel: Array, found: MatchedViews, limits: Limits) -> GraspTarget:
    """Lift a click and its matches to a target in the base frame.

    Depth at the click, depth at each match and the triangulation of all rays are estimates of the
    same point. The depth at the click leads, else the most exact. Those that agree with it within
    three sigmas of pixels and depth, and 2 cm, are fused by their covariances; the others are
    checks: wrong poses may explain more, and so may another surface, which a mean would be between.
    One that the poses' error does not explain either, or that contradicts a target without depth at
    the click, makes it one to be checked.

    The confidence is that of the best match, below `limits.sure_confidence` with a doubt; without
    any match (a target that no view confirms) too. Raises `Rejected`: NO_DEPTH when there is no
    estimate, two cameras are at the same place, or the point is less exact than
    `limits.max_target_sigma_m`; INCONSISTENT when the estimates disagree.
    """
    located = [(view, match) for view, match in found if view.ray_pose is not None]
    try:
        require_pose(clicked)
        require_baselines([clicked, *(view for view, _ in located)])
    except Rejected as why:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {why.message}') from None
    measured = collect_estimates(clicked, pixel, located, limits)
    gap_m = max_gap_m(measured, limits)
    agreeing, doubt = select_agreeing(measured)
    if not found:
        doubt = find_click_doubt(clicked, pixel)
    point_base_m, covariance_m2 = fuse_estimates(agreeing)
    sigma_m = float(np.sqrt(np.linalg.eigvalsh(covariance_m2)[-1]))
    if sigma_m > limits.max_target_sigma_m:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {" and ".join(one.source for one in agreeing)} '
                       f'give the point to {sigma_m:.3f} m only (limits.max_target_sigma_m '
                       f'{limits.max_target_sigma_m:g}): look from nearer or from further apart, '
                       'use depth, or state how exact the extrinsics are (limits.pose_sigma_m, '
                       'limits.pose_sigma_rad)')
    rotation, normal_sigma_rad = approach_frame(clicked, pixel, located)
    turns_rad = rotation * (normal_sigma_rad, normal_sigma_rad, YAW_SIGMA_RAD)
    covariance = np.zeros((6, 6))
    covariance[:3, :3], covariance[3:, 3:] = covariance_m2, turns_rad @ turns_rad.T
    method = agreeing[0].method if len(agreeing) == 1 else Method.FUSED
    at_most = DOUBTED_SHARE * limits.sure_confidence if doubt or not found else 1.0
    confidence = min(at_most, max((lower_confidence(match, find_doubt(
        Query(clicked, view, pixel), match), limits).confidence for view, match in found),
        default=1.0))
    return GraspTarget(Transform(rotation, point_base_m), covariance, method, gap_m, confidence,
                       doubt)


def collect_estimates(clicked: View, pixel: Array, found: MatchedViews, limits: Limits
                      ) -> list[Estimate3D]:
    """Return all estimates of the point; raise `Rejected` (NO_DEPTH), with reasons, if none."""
    measured, why_not = [], []
    surfaces_m = surface_points_m(clicked, pixel)
    seen = [(Method.DEPTH_CLICKED, clicked, pixel, np.eye(2) * CLICK_SIGMA_PX ** 2)]
    seen += [(Method.DEPTH_FOUND, view, match.pixel, _covariance(match)) for view, match in found]
    for method, view, at, covariance_px2 in seen:
        points_m = surface_points_m(view, at)
        if not len(points_m):
            why_not.append(explain_missing_depth(view, at))
            continue
        # Of several surfaces, the one nearest to that of the click, if it has depth.
        away_m = np.linalg.norm(points_m - (surfaces_m if len(surfaces_m) else points_m)[0], axis=1)
        point_base_m = points_m[away_m.argmin()]
        doubt = '' if view is clicked else find_doubt(Query(clicked, view, pixel), Match(at))
        noise_m2 = _depth_noise(view, point_base_m, covariance_px2)
        pose_m2 = np.eye(3) * _pose_sigma_m(view, point_base_m, limits) ** 2
        measured.append(Estimate3D(
            method, point_base_m, noise_m2 + pose_m2, noise_m2,
            f'the depth of {view.camera}', doubt))
    try:
        measured.append(triangulate_matches(clicked, pixel, found, limits))
    except Rejected as rejected:
        if rejected.code != Code.NO_DEPTH:
            raise
        why_not.append(rejected.message)
    if not measured:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {"; ".join(why_not)}')
    return measured


def triangulate_matches(clicked: View, pixel: Array, found: MatchedViews, limits: Limits
                        ) -> Estimate3D:
    """Triangulate, the covariance widened by the error of the poses.

    Raises `Rejected`: NO_DEPTH when the rays are too parallel (below 20 deg depth is some 5 % of
    the range off: the covariance says so), INCONSISTENT when they miss each other.
    """
    views = [clicked, *(view for view, _ in found)]
    if len(views) < 2:
        raise Rejected(Code.NO_DEPTH, 'no other view has a known pose and intrinsics')
    pixels = [pixel, *(match.pixel for _, match in found)]
    sigmas = [np.eye(2) * CLICK_SIGMA_PX ** 2, *(_covariance(match) for _, match in found)]
    about = triangulate(views, pixels, sigmas)
    met = triangulate(views, pixels, [
        covariance + np.eye(2) * _pose_sigma_px(view, about.point_base_m, limits) ** 2
        for view, covariance in zip(views, sigmas, strict=True)])
    if met.angle_deg < limits.min_ray_angle_deg:
        raise Rejected(Code.NO_DEPTH, f'the rays meet at {met.angle_deg:.1f} deg, too parallel to '
                       f'triangulate (limits.min_ray_angle_deg {limits.min_ray_angle_deg:g})')
    worst = int(met.errors_px.argmax())
    if met.errors_px[worst] > limits.max_epipolar_px:
        raise Rejected(Code.INCONSISTENT, f'the ray of {views[worst].camera} misses the others by '
                       f'{met.errors_px[worst]:.1f} px (limits.max_epipolar_px '
                       f'{limits.max_epipolar_px:g})')
    return Estimate3D(Method.TRIANGULATED, met.point_base_m, met.covariance_m2, about.covariance_m2,
                      'the triangulation')


def max_gap_m(measured: Sequence[Estimate3D], limits: Limits) -> float:
    """Return the largest distance between two estimates, m (NaN for one).

    Two depths agree within `limits.max_depth_gap_m`; a triangulation may be off by three sigma of
    the gap where that is wider: at a small angle it cannot contradict depth. Raises `Rejected`
    (INCONSISTENT) beyond.
    """
    gaps_m = [np.nan]
    for one, other in combinations(measured, 2):
        apart_m = one.point_base_m - other.point_base_m
        gap_m, limit_m = float(np.linalg.norm(apart_m)), limits.max_depth_gap_m
        if Method.TRIANGULATED in (one.method, other.method):
            limit_m = max(limit_m, _agree_within_m(
                apart_m, one.covariance_m2 + other.covariance_m2))
        if gap_m > limit_m:
            raise Rejected(Code.INCONSISTENT, f'{one.source} and {other.source} are {gap_m:.3f} m '
                           f'apart (limit {limit_m:.3f} m, limits.max_depth_gap_m '
                           f'{limits.max_depth_gap_m:g})')
        gaps_m.append(gap_m)
    return float(np.fmax.reduce(gaps_m))


def select_agreeing(measured: Sequence[Estimate3D]) -> tuple[list[Estimate3D], str]:
    """Return the estimate that leads and those to fuse with it, and a doubt about the result.

    The doubt is that of the leading one, or a gap to another that three sigmas do not explain, or
    of two depths by more than 2 cm: one is then wrong by at least 1 cm, and which is unknown.
    """
    lead = min(measured, key=lambda one: (
        one.method != Method.DEPTH_CLICKED, bool(one.doubt),
        float(np.linalg.eigvalsh(one.covariance_m2)[-1])))
    agreeing, doubt = [lead], lead.doubt
    for one in measured:
        if one is lead or one.doubt:
            continue
        apart_m = one.point_base_m - lead.point_base_m
        gap_m = float(np.linalg.norm(apart_m))
        limit_m = _agree_within_m(apart_m, lead.covariance_m2 + one.covariance_m2)
        if Method.TRIANGULATED not in (lead.method, one.method):
            limit_m = min(limit_m, MAX_FUSED_GAP_M)
        if gap_m <= min(MAX_FUSED_GAP_M, _agree_within_m(apart_m, lead.noise_m2 + one.noise_m2)):
            agreeing.append(one)
        elif gap_m > limit_m or lead.method != Method.DEPTH_CLICKED:
            doubt = doubt or (f'{lead.source} and {one.source} are {gap_m:.3f} m apart (limit '
                              f'{limit_m:.3f} m: three sigmas, of depths at most '
                              f'{MAX_FUSED_GAP_M:g})')
    return agreeing, doubt


def _agree_within_m(apart_m: Array, covariance_m2: Array) -> float:
    """Three sigmas of a difference (3,) along it, m."""
    along = apart_m / max(float(np.linalg.norm(apart_m)), 1e-12)
    return AGREE_SIGMAS * float(np.sqrt(along @ covariance_m2 @ along))


def fuse_estimates(measured: Sequence[Estimate3D]) -> tuple[Array, Array]:
    """Return the mean of the points (3,), weighted by their covariances, and its covariance."""
    weights = [np.linalg.inv(m.covariance_m2) for m in measured]
    covariance_m2 = np.linalg.inv(np.sum(weights, axis=0))
    weighted = [w @ m.point_base_m for w, m in zip(weights, measured, strict=True)]
    return covariance_m2 @ np.sum(weighted, axis=0), covariance_m2


def approach_frame(clicked: View, pixel: Array, found: MatchedViews) -> tuple[Array, float]:
    """Return the target's axes in the base as columns (3, 3), and their uncertainty, rad.

    +z points into the surface, along the normal of the depth around the point, the clicked view's
    first; without depth along the clicked ray, with an uncertainty of a radian. +x is the clicked
    image's x projected onto the surface; its y where the surface faces along x. Nothing measures
    how the thing is turned about z: YAW_SIGMA_RAD.
    """
    normals = (surface_normal_base(view, at) for view, at in
               ((clicked, pixel), *((view, match.pixel) for view, match in found)))
    z_base, sigma_rad = next((n for n in normals if n is not None),
                             (ray_base(clicked, pixel)[1], NO_NORMAL_SIGMA_RAD))
    image_x, image_y, _ = require_pose(clicked).R.T
    aside = image_x if abs(z_base @ image_x) < 0.99 else image_y
    x_base = aside - z_base * (z_base @ aside)
    x_base /= np.linalg.norm(x_base)
    return np.stack([x_base, np.cross(z_base, x_base), z_base], axis=1), sigma_rad


def _depth_noise(view: View, point_base_m: Array, covariance_px2: Array) -> Array:
    """Propagate the errors of pixel and depth to the point: (3, 3) m^2, base."""
    pose, intrinsics = require_pose(view), view.intrinsics
    point_cam_m = pose.inverse.transform_points(point_base_m)
    depth_m = point_cam_m[2]
    px = np.array([[depth_m / intrinsics.fx_px, 0], [0, depth_m / intrinsics.fy_px], [0, 0]])
    along = (point_cam_m / depth_m)[:, None]
    in_cam = px @ covariance_px2 @ px.T + along @ along.T * predict_depth_sigma_m(depth_m) ** 2
    return np.asarray(pose.R @ in_cam @ pose.R.T)


def _pose_sigma_m(view: View, point_base_m: Array, limits: Limits) -> float:
    """The error of a point from that of a camera's pose, m along each axis."""
    range_m = float(np.linalg.norm(point_base_m - require_pose(view).t_m))
    return float(np.hypot(limits.pose_sigma_m, limits.pose_sigma_rad * range_m))


def _pose_sigma_px(view: View, point_base_m: Array, limits: Limits) -> float:
    range_m = float(np.linalg.norm(point_base_m - require_pose(view).t_m))
    return view.intrinsics.fx_px * _pose_sigma_m(view, point_base_m, limits) / range_m


def _covariance(match: Match) -> Array:
    known = np.isfinite(match.covariance_px2).all()
    return match.covariance_px2 if known else np.eye(2) * MATCH_SIGMA_PX ** 2
