"""Claims about the motion between two views, on points whose motion is known."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from raycast_scenes import add_pose_noise

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.matchers.xfeat import two_view
from crosspoint_ros.matchers.xfeat.matching import Matches, neighbourhood_consensus
from crosspoint_ros.matchers.xfeat.two_view import (
    PinholePair,
    PosePrior,
    _sampson_jacobian,
    cross_matrix,
    epipolar_distance,
    fundamental_matrix,
    motion_covariance,
    refine_motion,
    sampson_residual,
    to_homogeneous,
    triangulate_depths,
)

LENSES = PinholePair(np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]]),
                np.array([[500.0, 0, 310], [0, 505, 250], [0, 0, 1]]))
MOTION = Transform(add_pose_noise(Transform(np.eye(3), np.zeros(3)), 0, 12, 1).R,
                   np.array([0.3, 0.05, 0.02]))


def project(pinhole, points):
    pixels = points @ pinhole.T
    return pixels[:, :2] / pixels[:, 2:]


def scene(count=200, outliers=0, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.uniform([-0.5, -0.4, 0.8], [0.5, 0.4, 2.0], (count, 3))
    clicked = project(LENSES.clicked, points)
    other = project(LENSES.other, MOTION.transform_points(points)) + rng.normal(0, 0.3, (count, 2))
    other[:outliers] = rng.uniform(0, 480, (outliers, 2))
    return points, Matches(clicked, other, clicked, other)


def test_the_slopes_of_the_residuals_are_their_derivatives():
    _, matches = scene(20)
    a, b = to_homogeneous(matches.clicked_ideal), to_homogeneous(matches.other_ideal + 5)
    F = fundamental_matrix(MOTION, LENSES)
    bend = np.linalg.inv(LENSES.other).T @ cross_matrix(np.eye(3)) @ MOTION.R \
        @ np.linalg.inv(LENSES.clicked)
    _, slopes = _sampson_jacobian(F, bend, a, b)
    for k in range(3):
        numeric = (sampson_residual(F + 1e-6 * bend[k], a, b) - sampson_residual(F - 1e-6 * bend[k],
                                                                                 a, b)) / 2e-6
        assert slopes[k] == pytest.approx(numeric, rel=1e-4, abs=1e-3)


def test_a_slightly_wrong_pose_is_bent_until_the_lines_meet_the_matches():
    _, matches = scene(outliers=60)
    given = add_pose_noise(MOTION, 1, 1, 5)
    bent = refine_motion(given, LENSES, matches, PosePrior(np.radians(1), 0.01))
    true = matches.select(np.arange(200) >= 60)
    assert np.median(epipolar_distance(fundamental_matrix(given, LENSES), true)) > 3
    assert np.median(epipolar_distance(fundamental_matrix(bent, LENSES), true)) < 0.5


def test_the_covariance_of_a_refined_motion_covers_its_error_and_is_less_than_the_noise():
    prior, squared = PosePrior(np.radians(1) / 1.7, 0.01 / 1.7), []
    for seed in range(20):
        _, matches = scene(seed=seed)
        bent = refine_motion(add_pose_noise(MOTION, 1, 1, seed), LENSES, matches, prior)
        covariance = motion_covariance(bent, LENSES, matches, prior)
        left = MOTION @ bent.inverse
        error = np.concatenate([cv2.Rodrigues(left.R)[0].ravel(), left.t_m])
        squared.append(error @ np.linalg.solve(covariance, error))
        assert (np.diag(covariance) < 1 / prior.stiffness).all()
    assert 1 < np.mean(squared) < 9  # six are expected; the scale is not measured


def test_without_matches_to_the_contrary_the_given_pose_stays():
    _, matches = scene(6)
    bent = refine_motion(MOTION, LENSES, matches.select(np.zeros(6, bool)), PosePrior(0.01, 0.01))
    assert bent.matrix == pytest.approx(MOTION.matrix)


def test_depths_are_those_of_the_points():
    points, matches = scene(outliers=0)
    z, z_other = triangulate_depths(MOTION, LENSES, matches)
    assert np.median(np.abs(z - points[:, 2])) < 0.01
    assert np.median(np.abs(z_other - MOTION.transform_points(points)[:, 2])) < 0.01


def test_images_alone_tell_the_motion_up_to_scale_in_spite_of_outliers():
    _, matches = scene(outliers=80)
    found = two_view.estimate_relative_pose(matches, LENSES)
    assert found is not None
    direction = MOTION.t_m / np.linalg.norm(MOTION.t_m)
    assert found.motion.t_m @ direction > np.cos(np.radians(3))
    turn = np.arccos((np.trace(found.motion.R.T @ MOTION.R) - 1) / 2)
    assert np.degrees(turn) < 1
    assert found.support > 80


def test_too_few_matches_tell_no_motion():
    _, matches = scene(7)
    assert two_view.estimate_relative_pose(matches, LENSES) is None


def test_a_match_that_contradicts_its_neighbours_is_dropped():
    _, matches = scene(100)
    moved = np.zeros((100, 2))
    moved[3] = 150
    shifted = matches.clicked + np.array([20, 5]) + moved
    off = Matches(matches.clicked, shifted, matches.clicked,
                  matches.clicked)
    assert np.flatnonzero(~neighbourhood_consensus(off)).tolist() == [3]
