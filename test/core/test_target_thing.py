"""A target turned across the thing that was clicked."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes
import textured_scenes

from crosspoint_ros.core.datatypes import CorrectedPose, Match
from crosspoint_ros.core.grasp.approach import Approach, ApproachMode
from crosspoint_ros.core.grasp.target_thing import measure_thing, turn_target
from crosspoint_ros.core.pipeline import locate
from crosspoint_ros.core.verify import Limits

CARTON = raycast_scenes.Box((-0.04, -0.03, 0.0), (0.04, 0.03, 0.12))
ON_CARTON = np.array([0.0, -0.01, 0.12])
VIEWS = [textured_scenes.render_view(name, raycast_scenes.look_at(place, (0, 0, 0.05)), (CARTON,))
         for name, place in (('left', raycast_scenes.LEFT), ('right', raycast_scenes.RIGHT))]


class Oracle:
    """Knows where another view shows a point."""

    def __init__(self, point_base_m):
        self.point_base_m = np.asarray(point_base_m)

    def match(self, query):
        return Match(raycast_scenes.project_point(query.other, self.point_base_m), np.eye(2), 0.9)


def answer(point_base_m=ON_CARTON, mode=ApproachMode.AUTO, views=VIEWS):
    return locate(views[0], views[1:], raycast_scenes.project_point(VIEWS[0], np.asarray(
        point_base_m)), Oracle(point_base_m), approach=Approach(mode))


def test_the_jaws_close_across_the_smaller_side_and_the_covariance_says_how_sure():
    before = answer(mode=ApproachMode.FROM_ABOVE)
    after = turn_target(before, Limits())
    old, new = before.target, after.target
    assert np.isnan(old.width_m)
    assert new.width_m == pytest.approx(0.06, abs=0.006)
    assert abs(new.base_from_target.R[:, 0]) == pytest.approx((0, 1, 0), abs=0.1)
    assert new.base_from_target.R[:, 2] == pytest.approx(old.base_from_target.R[:, 2])
    assert np.array_equal(new.base_from_target.t_m, old.base_from_target.t_m)
    assert new.sigma_yaw_rad < 0.2 < old.sigma_yaw_rad
    turned = new.base_from_target.R.T @ new.covariance[3:, 3:] @ new.base_from_target.R
    assert turned == pytest.approx(np.diag([0, 0, new.sigma_yaw_rad ** 2]), abs=1e-9)
    assert np.array_equal(new.covariance[:3, :3], old.covariance[:3, :3])
    assert after.correspondences is before.correspondences


def test_an_approach_from_the_side_closes_across_the_side_that_it_sees():
    target = turn_target(answer((0.0, -0.03, 0.06)), Limits()).target
    assert target.base_from_target.R[:, 2] == pytest.approx((0, 1, 0), abs=0.1)
    assert target.width_m == pytest.approx(0.08, abs=0.008)
    assert abs(target.base_from_target.R[:, 0]) == pytest.approx((1, 0, 0), abs=0.15)


def test_what_is_unclear_leaves_the_answer_as_it_is():
    on_table = answer((0.15, -0.15, 0.0))
    assert turn_target(on_table, Limits()) is on_table
    blind = replace(answer(), target=None)
    assert turn_target(blind, Limits()) is blind


def test_views_without_depth_are_left_out_and_none_is_unclear():
    one = measure_thing(answer(views=[VIEWS[0], replace(VIEWS[1], depth_m=None)]), np.eye(3),
                        Limits())
    assert one.thing.masks.keys() == {'left'}
    blind = answer(views=[replace(view, depth_m=None) for view in VIEWS])
    none = measure_thing(blind, np.eye(3), Limits())
    assert none.thing.unclear.name == 'NO_DEPTH'
    assert none.closing is none.box is None


def test_a_view_is_placed_by_the_images_where_its_pose_is_off():
    left, right = VIEWS
    exact = CorrectedPose(right.base_from_cam.inverse @ left.base_from_cam, np.eye(6) * 1e-8)
    off = replace(right, base_from_cam=raycast_scenes.add_pose_noise(right.base_from_cam, 2, 1, 3))

    class Corrected:
        def match(self, query):
            return Match(raycast_scenes.project_point(right, ON_CARTON), np.eye(2), 0.9,
                         corrected_pose=exact)

    located = locate(left, [off], raycast_scenes.project_point(left, ON_CARTON), Corrected())
    found = measure_thing(located, located.target.base_from_target.R, Limits())
    assert found.views[1].base_from_cam.t_m == pytest.approx(right.base_from_cam.t_m, abs=1e-6)
    assert found.thing.masks.keys() == {'left', 'right'}
    assert sorted(found.box.size_m) == pytest.approx((0.06, 0.08, 0.12), abs=0.005)
