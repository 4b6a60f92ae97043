"""Mounts of cameras from matches of posed frames: what is found, and what is refused."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from posed_matches import (
    DECLARED,
    ERROR,
    HAND_FROM_CAM,
    HERE,
    KNOWN,
    POINTS_M,
    hand_pairs,
    look,
    match,
    rich_views,
)

from crosspoint_ros.core.datatypes import Intrinsics, View
from crosspoint_ros.core.extrinsics.calibration import (
    CalibrationRefused,
    Refusal,
    calibrate_mount,
)
from crosspoint_ros.core.extrinsics.residuals import (
    Noise,
    adjoint,
    exp_pose,
    fit_planes,
    log_pose,
    measure_slopes,
    whiten_residuals,
)
from crosspoint_ros.core.extrinsics.solve import CameraMount


def refuse(pairs, mounts=None) -> CalibrationRefused:
    with pytest.raises(CalibrationRefused) as caught:
        calibrate_mount(pairs, mounts or {'wrist': DECLARED}, 'wrist')
    return caught.value


@pytest.mark.parametrize(('depth', 'most_m', 'most_deg'), [(True, 0.001, 0.1), (False, 0.002, 0.1)])
def test_two_centimetres_and_three_degrees_are_found_again(depth, most_m, most_deg):
    found = calibrate_mount(hand_pairs(rich_views(), depth), {'wrist': DECLARED}, 'wrist')
    error = log_pose(HAND_FROM_CAM.inverse @ found.body_from_cam)
    assert np.linalg.norm(error[3:]) < most_m
    assert np.degrees(np.linalg.norm(error[:3])) < most_deg
    assert (np.abs(error) < 2 * np.sqrt(np.diag(found.covariance))).all()
    assert found.after.px < 0.4 * found.before.px
    assert np.isfinite(found.after.plane_mm) == depth
    assert found.is_significant
    assert found.missing == ''


def test_a_still_camera_is_found_by_one_that_moves():
    views, front = rich_views(8), look((5, 20, 0))
    pairs = [match(('front', 'wrist'), (front, view), (HERE, view @ HAND_FROM_CAM.inverse),
                   (10, i)) for i, view in enumerate(views)]
    pairs += hand_pairs(views)[::3]
    found = calibrate_mount(pairs, {
        'front': CameraMount(front @ exp_pose(ERROR), 0.03, np.radians(3)),
        'wrist': replace(KNOWN, body_from_cam=HAND_FROM_CAM)}, 'front')
    error = log_pose(front.inverse @ found.body_from_cam)
    assert np.linalg.norm(error[3:]) < 0.002


def test_the_declared_noise_of_the_others_widens_the_covariance():
    front, side = look((5, 15, 0)), look((-10, -20, 0))
    pairs = [match(('front', 'side'), (front, side), (HERE, HERE), (i, 10 + j))
             for i in range(3) for j in range(3)]
    sigmas_m = [calibrate_mount(pairs, {
        'front': CameraMount(front @ exp_pose(ERROR), 0.05, np.radians(5)),
        'side': CameraMount(side, other, other)}, 'front').sigma_m for other in (0.001, 0.01)]
    assert sigmas_m[1] > 3 * sigmas_m[0] > 0.003


# --- refusals and directions that are not seen ----------------------------------------------------

def test_too_few_pairs_are_refused():
    assert refuse(hand_pairs(rich_views(3))).refusal is Refusal.TOO_FEW_PAIRS


def test_pure_translation_is_refused_as_too_little_rotation():
    views = [look(shift_m=shift) for shift in np.random.default_rng(7).uniform(-0.12, 0.12, (8, 3))]
    refused = refuse(hand_pairs(views, depth=False))
    assert refused.refusal is Refusal.TOO_LITTLE_ROTATION
    assert 'position along' in str(refused)
    assert 'two axes' in str(refused)


@pytest.mark.parametrize('depth', [True, False])
def test_turns_about_one_axis_are_refused_and_the_second_axis_asked_for(depth):
    views = [look((0, angle, 0), (0, shift, 0)) for angle, shift in
             zip(np.linspace(-20, 20, 8), np.linspace(-0.05, 0.05, 8) ** 2, strict=True)]
    refused = refuse(hand_pairs(views, depth))
    assert refused.refusal is Refusal.ONE_AXIS
    assert 'turn the wrist about a second axis' in str(refused)


def test_with_partial_the_direction_that_is_not_seen_is_left_alone():
    views = [look((0, angle, 0)) for angle in np.linspace(-20, 20, 8)]
    found = calibrate_mount(hand_pairs(views), {'wrist': DECLARED}, 'wrist', partial=True)
    unseen = found.observability.directions[~found.observability.is_seen]
    assert len(unseen) == 2  # along the axis, and about it
    assert 'position along' in found.missing
    moved = log_pose(found.correction) * np.repeat([found.observability.distance_m, 1.0], 3)
    assert np.abs(unseen @ moved).max() < 1e-3  # the rest moved by 2 cm
    along = unseen[0, 3:] / np.linalg.norm(unseen[0, 3:])
    assert np.sqrt(along @ found.covariance[3:, 3:] @ along) > 0.02  # as declared


def test_a_plane_without_depth_is_refused():
    flat = POINTS_M * (1, 1, 0)
    pairs = hand_pairs(rich_views(), depth=False, points_m=lambda index: flat)
    assert refuse(pairs).refusal is Refusal.PLANAR_SCENE
    assert calibrate_mount(hand_pairs(rich_views(), points_m=lambda index: flat),
                           {'wrist': DECLARED}, 'wrist').after.px < 1


def test_two_still_cameras_without_depth_leave_their_distance_alone():
    front, side = look((5, 15, 0)), look((-10, -20, 0))
    pairs = [replace(match(('front', 'side'), (front, side), (HERE, HERE), (i, 10 + j),
                           depth=False)) for i in range(3) for j in range(3)]
    found = calibrate_mount(pairs, {
        'front': CameraMount(front @ exp_pose(ERROR), 0.03, np.radians(3)),
        'side': CameraMount(side, 0.001, 0.001)}, 'front')
    assert (~found.observability.is_seen).sum() == 1
    assert 'position along' in found.missing
    assert 'move the other camera, or use depth' in found.missing


def test_a_moving_scene_is_refused():
    moved = np.random.default_rng(3).normal(size=(8, 6)) * 0.05
    pairs = [replace(pair, base_from_body=tuple(exp_pose(moved[f]) @ body for f, body in zip(
        pair.frames, pair.base_from_body, strict=True)))
        for pair in hand_pairs(rich_views())]
    assert refuse(pairs).refusal is Refusal.MOVING_SCENE


def test_a_pose_that_is_right_is_kept():
    refused = refuse(hand_pairs(rich_views()), {'wrist': replace(
        DECLARED, body_from_cam=HAND_FROM_CAM)})
    assert refused.refusal is Refusal.NOT_BETTER
    assert 'the pose as given is right' in str(refused)


# --- residuals ------------------------------------------------------------------------------------

def test_slopes_are_those_of_the_residuals():
    for depth in (True, False):
        pair = match(('a', 'b'), (look(), look((5, 10, 3), (0.1, 0, 0))), (HERE, HERE), (0, 1),
                     depth=depth)
        pose = look((5, 10, 3), (0.1, 0, 0)).inverse @ look()
        _, slopes = measure_slopes(pair, pose, Noise(), with_lenses=False)
        step = 1e-4 * np.array([1.0, -2, 1, 0.5, 1, -1])
        change = (whiten_residuals(pair, exp_pose(step) @ pose, Noise())
                  - whiten_residuals(pair, pose, Noise()))
        assert np.isfinite(change).sum() == len(pair) * (3 if depth else 1)
        assert change == pytest.approx(slopes @ step, abs=0.02 * np.nanmax(np.abs(change)),
                                       nan_ok=True)


def test_the_adjoint_moves_a_step_to_the_other_side():
    pose, step = look((10, 20, 30), (0.1, 0.2, 0.3)), 1e-5 * np.arange(1, 7)
    right, left = pose @ exp_pose(step), exp_pose(adjoint(pose) @ step) @ pose
    assert np.allclose(right.matrix, left.matrix, atol=1e-9)


def test_planes_are_fitted_exactly_and_not_across_edges():
    lens = Intrinsics(300, 300, 31.5, 31.5, 64, 64)
    columns, rows = np.meshgrid(np.arange(64), np.arange(64))
    rays = lens.unproject(np.stack([columns, rows], axis=-1))
    rays = rays / rays[..., 2:]
    normal = np.array([0.3, 0.2, 1.0]) / np.linalg.norm([0.3, 0.2, 1.0])
    depth_m = (0.5 * normal[2] / (rays @ normal)).astype(np.float32)
    depth_m[:, 40:] += 0.3
    view = View('a', np.zeros((64, 64, 3), np.uint8), lens, depth_m=depth_m)
    depths_m, normals = fit_planes(view, np.array([[20.3, 30.6], [40.0, 30.0]]))
    ray = lens.unproject(np.array([20.3, 30.6]))
    assert depths_m[0] == pytest.approx(0.5 * normal[2] / (ray / ray[2] @ normal), rel=1e-5)
    assert normals[0] == pytest.approx(normal, abs=1e-3)
    assert np.isnan(depths_m[1])
