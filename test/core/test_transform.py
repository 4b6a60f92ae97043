"""Rotations survive quaternions, noise and interpolation."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.transform import Transform


def turned(axis, angle_rad, t_m=(0.0, 0.0, 0.0)):
    axis = np.asarray(axis, dtype=float)
    return Transform(cv2.Rodrigues(axis / np.linalg.norm(axis) * angle_rad)[0], np.array(t_m))


@pytest.mark.parametrize('axis', [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3)])
@pytest.mark.parametrize('angle_rad', [0.0, 1e-9, 0.3, 2.0, np.pi - 1e-9, np.pi])
def test_a_transform_survives_its_quaternion(axis, angle_rad):
    pose = turned(axis, angle_rad, (1.0, 2.0, 3.0))
    q = pose.quaternion_xyzw
    assert q[3] >= 0
    assert np.linalg.norm(q) == pytest.approx(1.0)
    back = Transform.from_quaternion(q, pose.t_m)
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-12)


def test_a_quarter_turn_about_z_takes_x_to_y():
    half = np.sqrt(0.5)
    quarter = Transform.from_quaternion((0, 0, half, half), (0, 0, 1))
    np.testing.assert_allclose(quarter.transform_points((1, 0, 0)), (0, 1, 1), atol=1e-12)


@pytest.mark.parametrize('xyzw', [(0, 0, 0, 0), (0, 0, 0, 1.01), (0, 0, 0, 0.99),
                                  (np.nan, 0, 0, 1), (1, 1, 0, 0)])
def test_a_quaternion_that_is_not_of_unit_length_is_refused_with_its_length(xyzw):
    with pytest.raises(ValueError, match=r'squared length .* \(must be 1 within 0.01\)'):
        Transform.from_quaternion(xyzw, (0, 0, 0))
    assert Transform.from_quaternion((0, 0, 0, 1.004), (0, 0, 0)).R[0, 0] == 1.0


def test_a_rotation_that_drifted_is_brought_back_and_a_scaled_one_refused():
    pose = turned((1, 2, 3), 0.7, (1.0, 0.0, 0.0))
    noisy = pose.matrix + np.pad(np.full((3, 3), 0.002), (0, 1))
    back = Transform.from_noisy_matrix(noisy, max_stretch=0.02)
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=0.01)
    with pytest.raises(ValueError, match=r'scales by 0.1 \(limit 0.02\)'):
        Transform.from_noisy_matrix(pose.matrix * 1.1, max_stretch=0.02)


def test_halfway_is_half_the_turn_and_half_the_shift():
    middle = turned((0, 0, 1), 0.2).interpolate(turned((0, 0, 1), 1.0, (2.0, 0.0, 0.0)), 0.5)
    np.testing.assert_allclose(middle.matrix, turned((0, 0, 1), 0.6, (1.0, 0.0, 0.0)).matrix,
                               atol=1e-12)
