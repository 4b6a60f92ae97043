"""Triangulates one point from pixels of some cameras, each in one or several images."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected, TrackedPixel, View
from crosspoint_ros.core.geometry import (
    Triangulation,
    cross,
    ray_angle_deg,
    ray_base,
    require_pose,
)

REFERENCE_SIGMA_PX = 0.3  # of the image in which tracking began: its error is the match's
MAX_RESIDUAL_SIGMAS = 1.0  # of tracked pixels, root mean square: their sigma has room
MAX_MATCH_SIGMAS = 3.0
STEPS = 5
POINT, PIXEL, TURN, SHIFT, MOUNT_TURN, MOUNT_SHIFT = (
    slice(0, 3), slice(3, 5), slice(5, 8), slice(8, 11), slice(11, 14), slice(14, 17))


@dataclass(frozen=True, eq=False)
class CameraPixels:
    """Where one camera shows a point that rests.

    covariance_px2: (2, 2) of the pixel; what is tracked is what it shows, with the same error.
    pose_covariance: (6, 6) of the pose of `view`, as in `CorrectedPose`. mount_covariance: (6, 6)
    of the camera on what moves it, rotation first: it errs alike in all images.
    """

    view: View
    pixel: Array
    covariance_px2: Array
    pose_covariance: Array = field(default_factory=lambda: np.zeros((6, 6)))
    tracked: tuple[TrackedPixel, ...] = ()
    mount_covariance: Array = field(default_factory=lambda: np.zeros((6, 6)))


def triangulate_bundle(cameras: Sequence[CameraPixels], start_m: Array
                       ) -> Triangulation:
    """Return the point that explains all pixels best, from a start (3,) in the base.

    Unknown are the point and, for each camera, the errors of its pixel, pose and mount, with their
    covariances as priors: the bundle adjustment (Triggs et al., 2000) of one point. Raises
    `Rejected` (INCONSISTENT) where tracked pixels contradict a point at rest.
    """
    priors = [_build_prior(camera) for camera in cameras]
    errors = [np.zeros(len(prior)) for prior in priors]  # with the point's place, left at zero
    point_m = np.array(start_m, dtype=np.float64)
    for _ in range(STEPS):
        information, pull, parts = np.zeros((3, 3)), np.zeros(3), []
        for camera, prior, error in zip(cameras, priors, errors, strict=True):
            residual, slope, weight = _linearize(camera, point_m, error)
            weighted = weight @ slope
            normal = prior + np.einsum('nij,nik->jk', weighted, slope)
            gradient = prior @ error + np.einsum('nij,ni->j', weighted, residual)
            own = np.linalg.solve(normal[3:, 3:], np.c_[normal[3:, :3], gradient[3:]])
            information += normal[:3, :3] - normal[:3, 3:] @ own[:, :3]
            pull += gradient[:3] - normal[:3, 3:] @ own[:, 3]
            parts.append(own)
        step_m = -np.linalg.solve(information, pull)
        point_m = point_m + step_m
        for error, own in zip(errors, parts, strict=True):
            error[3:] -= own[:, :3] @ step_m + own[:, 3]
    if not np.isfinite(point_m).all():
        raise Rejected(Code.INCONSISTENT, 'the rays of the images do not meet')
    for camera, error in zip(cameras, errors, strict=True):
        _require_rest(camera, point_m, error)
        _require_match(camera, error[PIXEL])
    off_px = np.array([error[PIXEL] for error in errors])
    return Triangulation(point_m, np.asarray(np.linalg.inv(information)),
                         _measure_angle_deg(cameras), np.nan, np.hypot(off_px[:, 0], off_px[:, 1]))


def _build_prior(camera: CameraPixels) -> Array:
    """The information (17, 17) on the point, which has none, and on a camera's errors."""
    prior = np.zeros((17, 17))
    for at, spread in ((PIXEL, camera.covariance_px2), (slice(5, 11), camera.pose_covariance),
                       (slice(11, 17), camera.mount_covariance)):
        prior[at, at] = np.linalg.inv(spread + 1e-12 * np.eye(len(spread)))
    return prior


def _project(camera: CameraPixels, states: Array) -> list[Array]:
    """Where a camera's images show the point, (q, 2) each; states: (q, 17) point and errors."""
    pose = require_pose(camera.view)
    in_cam_m = pose.inverse.transform_points(states[:, POINT])
    in_cam_m = in_cam_m + cross(states[:, TURN], in_cam_m) + states[:, SHIFT]
    pixels = [camera.view.intrinsics.project(in_cam_m) + states[:, PIXEL]]
    turn, shift_m = states[:, MOUNT_TURN], states[:, MOUNT_SHIFT]
    for one in camera.tracked:
        moved = require_pose(one.view).inverse @ pose
        there_m = moved.transform_points(in_cam_m + cross(turn, in_cam_m) + shift_m)
        there_m = there_m - cross(turn, there_m) - shift_m
        pixels.append(one.view.intrinsics.project(there_m) + states[:, PIXEL])
    return pixels


def _linearize(camera: CameraPixels, point_m: Array, error: Array) -> tuple[Array, Array, Array]:
    """Residuals (n, 2), derivatives (n, 2, 17) and information (n, 2, 2) of a camera's pixels."""
    step = 1e-5
    state = error.copy()
    state[POINT] = point_m
    predicted = np.array(_project(camera, np.vstack([state, state + step * np.eye(17)])))
    measured = np.array([camera.pixel, *(one.pixel for one in camera.tracked)])
    weight = np.array([np.eye(2) / REFERENCE_SIGMA_PX ** 2,
                       *(np.linalg.inv(one.covariance_px2) for one in camera.tracked)])
    slope = (predicted[:, 1:] - predicted[:, :1]).transpose(0, 2, 1) / step
    return predicted[:, 0] - measured, slope, weight


def _require_rest(camera: CameraPixels, point_m: Array, error: Array) -> None:
    """Raise `Rejected` (INCONSISTENT) where what was tracked is not one point at rest."""
    residual, _, weight = _linearize(camera, point_m, error)
    squared = np.einsum('ni,nij,nj->n', residual, weight, residual)[1:]
    if len(squared) and (off := float(np.sqrt(squared.mean() / 2))) > MAX_RESIDUAL_SIGMAS:
        raise Rejected(Code.INCONSISTENT, f'what {camera.view.camera} shows of the point in '
                       f'{len(squared)} further images is not one place at rest: {off:.1f} sigmas '
                       f'off (limit {MAX_RESIDUAL_SIGMAS:g}): it moved, or is at an edge')


def _require_match(camera: CameraPixels, off_px: Array) -> None:
    """Raise `Rejected` (INCONSISTENT) where the rays and the path of a camera contradict."""
    sigmas = float(np.sqrt(off_px @ np.linalg.solve(camera.covariance_px2, off_px)))
    if camera.tracked and sigmas > MAX_MATCH_SIGMAS:
        raise Rejected(Code.INCONSISTENT, f'the path of {camera.view.camera} places what it shows '
                       f'{np.linalg.norm(off_px):.1f} px from the clicked ray, {sigmas:.1f} sigmas '
                       f'of the match (limit {MAX_MATCH_SIGMAS:g}): a look-alike, or an edge')


def _measure_angle_deg(cameras: Sequence[CameraPixels]) -> float:
    rays = [ray_base(view, pixel)[1] for camera in cameras for view, pixel in (
        (camera.view, camera.pixel), *((one.view, one.pixel) for one in camera.tracked))]
    return max(ray_angle_deg(one, other) for one, other in combinations(rays, 2))
