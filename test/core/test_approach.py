"""From where a target is approached: bound by the request, and what is known of it."""
from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, Match, Rejected
from crosspoint_ros.core.grasp.approach import (
    OPEN_APPROACH,
    YAW_SIGMA_RAD,
    Approach,
    ApproachMode,
    choose_frame,
)
from crosspoint_ros.core.lift import lift
from crosspoint_ros.core.pipeline import apply_correction, locate
from crosspoint_ros.core.verify import Limits

BOX = raycast_scenes.Box((-0.1, -0.1, 0.0), (0.1, 0.1, 0.12))
ON_TOP, ON_FRONT = np.array([0.02, 0.01, 0.12]), np.array([0.0, -0.1, 0.06])
LEFT, RIGHT = (raycast_scenes.render_depth(name, raycast_scenes.look_at(at), (BOX,)) for name, at in
               (('left', raycast_scenes.LEFT), ('right', raycast_scenes.RIGHT)))


def frame(mode=ApproachMode.AUTO, point_base_m=ON_TOP, view=LEFT, **more):
    return choose_frame(Approach(mode, **more), view,
                        raycast_scenes.project_point(view, point_base_m))


def turned_deg(one, other):
    return np.degrees(np.arccos(np.clip(one @ other, -1, 1)))


class Oracle:
    """Knows where the right camera shows a point."""

    def match(self, query):
        return Match(raycast_scenes.project_point(query.other, ON_TOP), np.eye(2), 0.9)


def locate_on_top(view=LEFT, **more):
    return locate(view, [RIGHT], raycast_scenes.project_point(view, ON_TOP), Oracle(), **more)


def test_a_measured_normal_is_the_approach_and_says_so():
    for point, normal in ((ON_TOP, (0, 0, -1)), (ON_FRONT, (0, 1, 0))):
        found = frame(point_base_m=point)
        assert found.normal_measured
        assert turned_deg(found.rotation[:, 2], np.array(normal)) < 1
        assert found.sigma_normal_rad < 0.1 < found.sigma_yaw_rad == pytest.approx(YAW_SIGMA_RAD)


def test_without_depth_the_approach_is_the_ray_and_no_normal():
    found = frame(view=replace(LEFT, depth_m=None))
    away = ON_TOP - LEFT.base_from_cam.t_m
    assert turned_deg(found.rotation[:, 2], away / np.linalg.norm(away)) < 0.1
    assert not found.normal_measured
    assert found.sigma_normal_rad == 1.0


@pytest.mark.parametrize(('mode', 'vector', 'expected'), [
    (ApproachMode.FROM_ABOVE, (0, 0, 0), (0, 0, -1)),
    (ApproachMode.ALONG, (0, 3, -4), (0, 0.6, -0.8)),
    (ApproachMode.ALONG, (1e-6, 0, 0), (1, 0, 0))])
def test_a_given_direction_is_exact_whatever_the_surface(mode, vector, expected):
    for point in (ON_TOP, ON_FRONT):
        found = frame(mode, point, vector_base=vector)
        assert found.rotation[:, 2] == pytest.approx(expected)
        assert np.linalg.det(found.rotation) == pytest.approx(1)
        assert not found.normal_measured
        assert found.sigma_normal_rad == 0


def test_horizontal_is_the_normal_of_an_upright_surface_else_the_side_of_the_camera():
    assert turned_deg(frame(ApproachMode.HORIZONTAL, ON_FRONT).rotation[:, 2],
                      np.array((0, 1, 0))) < 2
    on_level = frame(ApproachMode.HORIZONTAL, ON_TOP).rotation[:, 2]
    side = (ON_TOP - LEFT.base_from_cam.t_m) * (1, 1, 0)
    assert turned_deg(on_level, side / np.linalg.norm(side)) < 0.1
    above = raycast_scenes.render_depth(
        'above', raycast_scenes.look_at((0.0, -0.1, 0.9)), (BOX,))
    with pytest.raises(Rejected, match=r'HORIZONTAL: the surface is level, and the camera looks '
                       r'\d+ deg from the vertical') as why:
        frame(ApproachMode.HORIZONTAL, ON_TOP, above)
    assert why.value.code == Code.NO_DEPTH


def test_an_approach_along_the_normal_needs_one_and_leaves_the_correspondences():
    assert locate_on_top(approach=Approach(ApproachMode.NORMAL)).target.normal_measured
    blind = locate_on_top(replace(LEFT, depth_m=None), approach=Approach(ApproachMode.NORMAL))
    assert blind.target is not None, 'the other view has the normal'
    blind = locate(replace(LEFT, depth_m=None), [replace(RIGHT, depth_m=None)],
                   raycast_scenes.project_point(LEFT, ON_TOP), Oracle(), Limits(pose_sigma_m=0),
                   approach=Approach(ApproachMode.NORMAL))
    assert blind['right'].rejected is None
    assert blind.target is None
    assert blind.no_target.code == Code.NO_DEPTH
    assert 'NORMAL needs the normal' in blind.no_target.message


@pytest.mark.parametrize(('mode', 'vector', 'standoff_m', 'words'), [
    ('ALONG', (0, 0, 0), 0.1, r'approach_vector \(0, 0, 0\) has no direction'),
    ('ALONG', (0, np.nan, 1), 0.1, 'is not finite'), ('ALONG', (0, np.inf, 1), 0.1, 'not finite'),
    ('AUTO', (0, 0, -1), 0.1, 'is for ALONG alone; the approach is AUTO'),
    ('AUTO', (0, 0, 0), -0.1, 'approach_m -0.1 is not between 0 and 2 m'),
    ('ALONG', (0, 1), 0.1, 'is not three numbers'), ('ALONG', 1.0, 0.1, 'is not three numbers'),
    ('ALONG', ((1, 0, 0),), 0.1, 'is not three numbers'), ('ALONG', 'down', 0.1, 'not three'),
    ('ALONG', (1e200, 1e200, 0), 0.1, 'nor is its length'),
    ('AUTO', (0, 0, 0), 3.0, 'approach_m 3'), ('AUTO', (0, 0, 0), np.nan, 'approach_m nan')])
def test_an_approach_that_cannot_be_is_refused_in_words(mode, vector, standoff_m, words):
    with pytest.raises(Rejected, match=words) as why:
        Approach(ApproachMode[mode], vector, standoff_m)
    assert why.value.code == Code.BAD_REQUEST


@pytest.mark.parametrize('mode', ['FROM_ABOVE', 9, 1, None])
def test_a_mode_that_is_none_is_refused_in_words(mode):
    with pytest.raises(Rejected, match=r'is not one of AUTO 0, FROM_ABOVE 1') as why:
        Approach(mode)
    assert why.value.code == Code.BAD_REQUEST


def test_a_direction_that_comes_out_of_the_surface_is_no_target_and_leaves_the_correspondences():
    up = locate_on_top(approach=Approach(ApproachMode.ALONG, (0.2, 0, 1)))
    assert up['right'].rejected is None
    assert up.target is None
    assert up.no_target.code == Code.BAD_REQUEST
    assert re.search(r'ALONG comes out of the surface: .* is 0\.98 \(limit 0\.\d\d\)',
                     up.no_target.message)
    shelf = raycast_scenes.Box((-0.3, -0.1, 0.5), (0.3, 0.3, 0.52))
    below = raycast_scenes.render_depth('left', raycast_scenes.look_at(
        (-0.1, -0.6, 0.2), (0.0, 0.1, 0.5)), (shelf,))
    for mode in (ApproachMode.FROM_ABOVE, ApproachMode.AUTO):
        with nullcontext() if mode == ApproachMode.AUTO else pytest.raises(
                Rejected, match=r'FROM_ABOVE comes out of the surface: .* is 1\.00'):
            assert frame(mode, np.array([0.0, 0.1, 0.5]), below).normal_measured
    frame(ApproachMode.FROM_ABOVE, ON_FRONT)  # a vertical face
    for slope_deg, is_fine in ((5, True), (25, False)):
        slope = np.radians(slope_deg)
        with nullcontext() if is_fine else pytest.raises(Rejected, match='comes out'):
            frame(ApproachMode.ALONG, ON_FRONT, vector_base=(0, -np.sin(slope), -np.cos(slope)))


def test_a_measured_normal_of_another_view_goes_before_one_that_is_hardly_known(monkeypatch):
    known = {'left': (np.array([0.6, 0, -0.8]), 0.4), 'right': (np.array([0.0, 0, -1]), 0.05)}
    monkeypatch.setattr('crosspoint_ros.core.grasp.approach.measure_normal',
                        lambda view, pixel: known[view.camera])
    seen = [(view, raycast_scenes.project_point(view, ON_TOP)) for view in (LEFT, RIGHT)]
    found = choose_frame(Approach(), *seen[0], seen[1:])
    assert (found.normal_measured, found.sigma_normal_rad) == (True, 0.05)
    alone = choose_frame(Approach(), *seen[0])
    assert (alone.normal_measured, alone.sigma_normal_rad) == (False, 0.4)


def test_what_a_request_leaves_open_is_as_the_default_says():
    above = Approach(ApproachMode.FROM_ABOVE, standoff_m=0.2)
    assert OPEN_APPROACH.fill(above) is not above
    assert (OPEN_APPROACH.fill(above).mode, OPEN_APPROACH.fill(above).standoff_m) == (
        ApproachMode.FROM_ABOVE, 0.2)
    given = Approach(ApproachMode.ALONG, (1, 0, 0), 0.0).fill(above)
    assert (given.mode, given.standoff_m, tuple(given.vector_base)) == (
        ApproachMode.ALONG, 0.2, (1, 0, 0))
    assert Approach(standoff_m=0.05).fill(above).standoff_m == 0.05
    assert Approach(ApproachMode.ALONG, (1, 0, 0)).fill(above).standoff_m == 0.2
    assert locate_on_top().target.standoff_m == 0.1


def test_the_pregrasp_is_the_standoff_before_the_target_and_survives_a_correction():
    result = locate_on_top(approach=Approach(ApproachMode.FROM_ABOVE, standoff_m=0.15))
    moved = apply_correction(result, 'right', result['right'].pixel + 0.5, Limits())
    for target in (result.target, moved.target):
        back_m = target.base_from_pregrasp.t_m - target.base_from_target.t_m
        assert back_m == pytest.approx((0, 0, 0.15))
        assert np.array_equal(target.base_from_pregrasp.R, target.base_from_target.R)


def test_the_covariance_is_that_of_the_two_sigmas():
    pixel = raycast_scenes.project_point(LEFT, ON_FRONT)
    found = [(RIGHT, Match(raycast_scenes.project_point(RIGHT, ON_FRONT), np.eye(2), 0.9))]
    for approach in (Approach(), Approach(ApproachMode.FROM_ABOVE)):
        target = lift(LEFT, pixel, found, Limits(), approach)
        R = target.base_from_target.R
        assert R.T @ target.covariance[3:, 3:] @ R == pytest.approx(np.diag(np.square(
            [target.sigma_normal_rad, target.sigma_normal_rad, target.sigma_yaw_rad])), abs=1e-12)
