"""Estimates how a rigid object has moved, from pixels and depths of its points in some views."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.depth import predict_depth_sigma_m
from crosspoint_ros.core.geometry import cross, require_pose
from crosspoint_ros.core.track.patches import invert_2x2
from crosspoint_ros.core.verify import Limits

ROBUST_SCALES = (8.0, 4.0, 2.0, 1.0, 1.0)  # graduated non-convexity, of MAX_SIGMAS
REST_SCALES = (2.0, 1.0, 1.0)  # from where it rested
FINAL_SCALES = (1.0, 1.0)  # of a motion that is almost right
MAX_SIGMAS = 3.0  # a pixel or depth further off is not of this motion
SETTLED_STEP = 1e-5  # rad and m: the step before was the last
NEAREST_M = 0.05  # no camera measures depths below
LEAST_WEIGHT = 1e-6  # of a point that takes part
LEAST_SIGMA_PX = 0.7  # of a pixel, by the error of the 3D point
INDEPENDENT_DEPTHS = 4.0  # neighbouring depths err alike: any number counts as these
ASIDE_SHARE, ASIDE_M = 0.3, 0.002  # of the way, by which what moves may have left its direction
LEAST_PATH_NS = 10**8  # a speed of two looks in quick succession is noise


@dataclass(frozen=True, eq=False)
class TrackedPoints:
    """Points of an object in one view.

    points_m: (n, 3) in the base when the object was clicked. pixels: (n, 2) now, NaN: not found.
    information: (n, 2, 2) of the pixels, px^-2. depths_m: (n,) measured there, NaN: unknown.
    weights: (n,) 0..1. pose_covariance: (6, 6) of the movement that a wrong pose of the camera
    would feign, a rotation, rad, then a translation of the object, m, in the base.
    """

    view: View
    points_m: Array
    pixels: Array
    information: Array
    depths_m: Array
    weights: Array
    pose_covariance: Array

    @cached_property
    def found(self) -> TrackedPoints:
        """Those whose pixels are known."""
        kept = np.isfinite(self.pixels[:, 0])
        return self if kept.all() else replace(
            self, **{name: getattr(self, name)[kept] for name in (
                'points_m', 'pixels', 'information', 'depths_m', 'weights')})

    @cached_property
    def whitening(self) -> Array:
        """Takes errors of the pixels to sigmas (n, 2, 2), with the error of the 3D points in it."""
        spread = invert_2x2(self.information + 1e-9 * np.eye(2)) + LEAST_SIGMA_PX ** 2 * np.eye(2)
        return np.asarray(np.linalg.cholesky(invert_2x2(spread)).transpose(0, 2, 1))


@dataclass(frozen=True, eq=False)
class Motion:
    """How an object has moved since it was clicked.

    base_from_clicked: takes a point of the object, in the base then, to where it is now.
    covariance: (6, 6) of a small rotation about `centre_m` (3,), rad, then a translation, m, in the
    base.
    """

    base_from_clicked: Transform
    covariance: Array
    centre_m: Array

    @property
    def sigma_m(self) -> float:
        """The standard deviation of the centre along its worst axis, m."""
        return float(np.sqrt(max(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1], 0.0)))

    def spread(self, position_sigma_m: float, rotation_sigma_rad: float) -> Motion:
        """Return the same motion, less certain by so much along and about each axis."""
        added = np.diag(np.repeat([rotation_sigma_rad, position_sigma_m], 3) ** 2)
        return Motion(self.base_from_clicked, self.covariance + added, self.centre_m)


def keep_direction(path: Sequence[tuple[int, Array]], measured: Motion, now_ns: int) -> Motion:
    """Return a measured motion with its worst known axis from the path before, if that agrees.

    path: when, ns, and where (3,), m, the centre was known exactly, oldest first. What moves is
    expected to keep its direction, at any speed. As measured: what rested, and what the measurement
    shows elsewhere by two sigmas.
    """
    (begun_ns, begin_m), (end_ns, end_m) = path[0], path[-1]
    way_m = (end_m - begin_m) * max(now_ns - end_ns, 0) / max(end_ns - begun_ns, LEAST_PATH_NS)
    length_m = float(np.linalg.norm(way_m))
    if length_m < ASIDE_M:
        return measured
    aside_m2 = (ASIDE_SHARE * length_m + ASIDE_M) ** 2
    information = np.linalg.inv(np.outer(way_m, way_m) + aside_m2 * np.eye(3))
    axis = np.linalg.eigh(measured.covariance[3:, 3:])[1][:, -1]
    variance_m2 = 1 / float(axis @ information @ axis)  # along the axis, by the path
    shift_m = variance_m2 * float(axis @ information @ (end_m + way_m - measured.centre_m))
    if shift_m ** 2 > 4 * (variance_m2 + measured.sigma_m ** 2):
        return measured
    kept = np.eye(6)
    kept[3:, 3:] -= np.outer(axis, axis)
    covariance = kept @ measured.covariance @ kept
    covariance[3:, 3:] += (variance_m2 + shift_m ** 2) * np.outer(axis, axis)
    return Motion(Transform(np.eye(3), shift_m * axis) @ measured.base_from_clicked, covariance,
                  measured.centre_m + shift_m * axis)


def predict_pose_noise(reference: View, view: View, centre_m: Array, limits: Limits) -> Array:
    """Return the covariance (6, 6) of the movement that wrong extrinsics feign.

    A camera that has not moved since the reference feigns none, whatever its error; one that has
    turned by an angle a and moved by b feigns 2 sin(a/2) of its error along, and that times the
    range, and b, times its error about each axis. Rotation first, as in `Motion`.
    """
    moved = require_pose(view).inverse @ require_pose(reference)
    angle_rad = float(np.linalg.norm(cv2.Rodrigues(moved.R)[0]))
    share, moved_m = 2 * np.sin(angle_rad / 2), float(np.linalg.norm(moved.t_m))
    range_m = float(np.linalg.norm(centre_m - require_pose(view).t_m))
    turn = share * limits.pose_sigma_rad
    shift = np.hypot(share * limits.pose_sigma_m,
                     (share * range_m + moved_m) * limits.pose_sigma_rad)
    return np.diag(np.repeat([turn, shift], 3) ** 2)


def estimate_motion(prior: Motion, seen: Sequence[TrackedPoints],
                    scales: Sequence[float] = ROBUST_SCALES) -> Motion:
    """Return the motion that explains pixels and depths best, near the prior.

    scales: of the weights, for each step.

    An iterated extended Kalman update with Geman-McClure weights whose scale shrinks, so that
    points of another surface do not take part.
    """
    centre_m = prior.centre_m
    turn, shift = np.zeros(3), np.zeros(3)
    prior_information = np.linalg.inv(prior.covariance)
    information = prior_information
    found = [points.found for points in seen]
    step, done = np.full(6, np.inf), 0.0
    for scale in scales:
        if scale == done and np.abs(step).max() < SETTLED_STEP:
            break  # the same weights again
        done = scale
        moved = _correct(turn, shift, centre_m) @ prior.base_from_clicked
        information = prior_information
        gradient = prior_information @ np.concatenate([turn, shift])
        for points in found:
            part, slope = _build_equations(points, moved, centre_m + shift, scale * MAX_SIGMAS)
            if points.pose_covariance.any():
                blur = np.linalg.inv(np.eye(6) + part @ points.pose_covariance)
                part, slope = blur @ part, blur @ slope
            information = information + part
            gradient = gradient + slope
        step = -np.linalg.solve(information, gradient)
        turn, shift = turn + step[:3], shift + step[3:]
    moved = _correct(turn, shift, centre_m) @ prior.base_from_clicked
    covariance = np.linalg.inv((information + information.T) / 2)
    return Motion(moved, covariance, centre_m + shift)


def _correct(turn: Array, shift: Array, centre_m: Array) -> Transform:
    R = np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
    return Transform(R, centre_m - R @ centre_m + shift)


def measure_errors(points: TrackedPoints, base_from_clicked: Transform) -> tuple[Array, Array]:
    """Return how far pixels (n,) and depths (n,) are off, in sigmas; depths are signed: negative
    is nearer to the camera than the object."""
    _, errors, _, depth_error_m, depth_sigma_m = _measure(points, base_from_clicked)
    return np.asarray(np.hypot(errors[:, 0], errors[:, 1])), depth_error_m / depth_sigma_m


def _measure(points: TrackedPoints, base_from_clicked: Transform
             ) -> tuple[Array, Array, Array, Array, Array]:
    """Points (n, 3) in the base now, errors of pixels (n, 2), in sigmas, and their derivatives
    (n, 2, 3) by those points; errors (n,) of depths and their sigmas, m."""
    pose, lens, white = require_pose(points.view), points.view.intrinsics, points.whitening
    now_m = base_from_clicked.transform_points(points.points_m)
    at_cam = (now_m - pose.t_m) @ pose.R
    pixels, d_cam = lens.project_with_jacobian(at_cam)
    errors = (white @ (pixels - points.pixels)[..., None])[..., 0]
    return (now_m, errors, np.asarray(white @ (d_cam @ pose.R.T)),
            points.depths_m - at_cam[:, 2],
            predict_depth_sigma_m(np.maximum(at_cam[:, 2], NEAREST_M)))


def _build_equations(points: TrackedPoints, base_from_clicked: Transform, centre_m: Array,
                     max_sigmas: float) -> tuple[Array, Array]:
    """Normal matrix (6, 6) and gradient (6,), rotation about `centre_m` first."""
    now_m, errors, slopes, depth_error_m, depth_sigma_m = _measure(points, base_from_clicked)
    residual = np.concatenate([errors, -(depth_error_m / depth_sigma_m)[:, None]], axis=1)
    squared = (residual / max_sigmas) ** 2
    agrees = points.weights / (1 + squared[:, 0] + squared[:, 1]) ** 2
    agrees = np.where(np.isfinite(agrees), agrees, 0.0)
    share = agrees / (1 + squared[:, 2]) ** 2
    share = np.where(np.isfinite(share), share, 0.0)
    share *= min(1.0, INDEPENDENT_DEPTHS / max(share.sum(), LEAST_WEIGHT))
    weights = np.sqrt(np.stack([agrees, agrees, share], axis=1))[..., None]
    jacobian = np.empty((len(now_m), 3, 6))
    by_point = jacobian[..., 3:]
    by_point[:, :2] = slopes
    by_point[:, 2] = require_pose(points.view).R[:, 2] / depth_sigma_m[:, None]
    jacobian[..., :3] = cross((now_m - centre_m)[:, None], by_point)
    J = np.where(weights > 0, jacobian * weights, 0.0).reshape(-1, 6)  # an unknown one is NaN
    return J.T @ J, J.T @ np.where(weights > 0, residual[..., None] * weights, 0.0).ravel()
