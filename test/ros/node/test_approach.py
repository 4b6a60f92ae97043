"""A goal's approach, and the pre-grasp frame that lives and dies with the target's."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from crosspoint_ros.msg import Status
from crosspoint_ros.srv import Correspond
from geometry_msgs.msg import Vector3
from operator_client import POINT_BASE_M
from target_listener import OTHER_BASE_M, Pipeline, run_pipeline
from two_camera_rig import project_point

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.conversions import transform_from_pose
from crosspoint_ros.ros.node.query_messages import place_target, request_from_goal

ALIAS = 'crosspoint_target'


@pytest.fixture(scope='module')
def shared() -> Iterator[Pipeline]:
    with run_pipeline(approach='from_above', approach_m=0.12) as pipeline:
        yield pipeline


@pytest.fixture
def pipeline(shared: Pipeline) -> Pipeline:
    shared.call('clear')
    shared.wait_for_history(current='')
    return shared


def make_goal(point_base_m=POINT_BASE_M, **fields):
    x, y = project_point('front', point_base_m)
    return Correspond.Request(camera='front', x=x, y=y, **fields)


def send(pipeline: Pipeline, **fields):
    pipeline.rig.send_frames()
    request = request_from_goal(make_goal(**fields))
    return pipeline.wait_for_result(pipeline.rig.run_in_executor(
        lambda: pipeline.rig.node._server.submit(request)))


def offset_m(target) -> np.ndarray:
    return transform_from_pose(target.pregrasp).t_m - transform_from_pose(target.pose.pose).t_m


def test_a_plain_click_is_approached_as_the_parameters_say(pipeline):
    target = pipeline.click().target
    assert offset_m(target) == pytest.approx((0, 0, 0.12))
    assert not target.normal_measured
    assert target.sigma_normal_rad == 0
    assert target.sigma_yaw_rad > 1.8
    assert np.isnan(target.width_m)


def test_a_goal_has_its_own_direction_and_standoff(pipeline):
    along = Vector3(x=1.0, y=0.0, z=-1.0)
    target = send(pipeline, approach=Correspond.Request.ALONG, approach_vector=along,
                  approach_m=0.2).target
    assert offset_m(target) == pytest.approx(0.2 / np.sqrt(2) * np.array((-1, 0, 1)))
    target = send(pipeline, approach=Correspond.Request.NORMAL).target
    assert target.normal_measured
    assert offset_m(target) == pytest.approx((0, 0, 0.12), abs=0.004)  # of a level plane
    assert 0 < target.sigma_normal_rad < 0.1


@pytest.mark.parametrize(('fields', 'words'), [
    ({'approach': 4}, 'approach_vector (0, 0, 0) has no direction'),
    ({'approach': 4, 'approach_vector': Vector3(x=np.nan)}, 'is not finite'),
    ({'approach_vector': Vector3(z=-1.0)}, 'is for ALONG alone'),
    ({'approach': 9}, 'approach 9 is not one of AUTO 0, FROM_ABOVE 1, HORIZONTAL 2'),
    ({'approach_m': -0.1}, 'approach_m -0.1 is not between 0 and 2 m')])
def test_a_bad_approach_is_a_bad_request_in_words(pipeline, fields, words):
    result = send(pipeline, **fields)
    assert result.status.code == Status.BAD_REQUEST
    assert words in result.status.message
    assert not result.has_target


def test_the_pregrasp_frame_comes_with_the_target_and_ends_with_it(pipeline):
    for point_base_m in (POINT_BASE_M, OTHER_BASE_M):
        result = pipeline.click(point_base_m)
        state = pipeline.wait_for_state(2, result.query_id)
        pipeline.wait_on_tf(f'{state.frame}_pregrasp')
        stamp_ns = stamp_to_ns(result.target.header.stamp)
        above = np.add(point_base_m, (0, 0, 0.12))
        assert pipeline.look_up(f'{state.frame}_pregrasp', stamp_ns) == pytest.approx(above,
                                                                                      abs=4e-3)
        sent = [t for t in pipeline.sent if t.child_frame_id == f'{ALIAS}_pregrasp'][-1]
        assert sent.transform.translation.z == pytest.approx(0.12, abs=4e-3)
        assert sent.transform.translation.x == pytest.approx(point_base_m[0], abs=4e-3)
    pipeline.call('clear')
    pipeline.wait_for_no_target()
    before = len(pipeline.sent)
    ticks = pipeline.rig.ticks
    pipeline.rig.until(lambda: pipeline.rig.ticks > ticks + 5)
    assert not [t.child_frame_id for t in pipeline.sent[before:] if ALIAS in t.child_frame_id]


def test_a_target_that_is_moved_takes_its_pregrasp_along(pipeline):
    target = pipeline.click().target
    quarter = Transform(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.array([0.3, 0.1, 0.2]))
    moved = place_target(target, quarter, np.diag([1e-6] * 3 + [0.01, 0.04, 0.09]))
    assert offset_m(moved) == pytest.approx(-0.12 * quarter.R[:, 2])
    assert (moved.sigma_normal_rad, moved.sigma_yaw_rad) == pytest.approx((0.3, 0.2))
    assert np.isnan(place_target(target, quarter, np.full((6, 6), np.nan)).sigma_yaw_rad)
