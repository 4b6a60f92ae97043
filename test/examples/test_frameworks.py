"""The examples for py_trees and MoveIt: examples/pick_behaviour.py and examples/moveit_grasp.py."""
from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import moveit_msgs_double
import pytest
from crosspoint_ros.msg import QueryResult, Status
from two_camera_rig import run_rig

import crosspoint_ros as cp

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
CENTRE = (159.5, 119.5)
needs_py_trees = pytest.mark.skipif(
    importlib.util.find_spec('py_trees') is None and not os.environ.get('CROSSPOINT_NEEDS_EXTRAS'),
    reason='py_trees: make test-extras')


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tick_until_done(behaviour, limit_s=30.0):
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        behaviour.tick_once()
        if behaviour.status.name != 'RUNNING':
            return behaviour.status.name
    raise AssertionError(behaviour.feedback_message)


@pytest.fixture
def client(monkeypatch, request):
    with run_rig(limits__max_image_age_s=60.0, **getattr(request, 'param', {})) as rig:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(rig.domain))
        rig.discover()
        rig.send_frames()
        with cp.Client() as client:
            client.wait_until_active(30.0)
            client.rig = rig
            yield client


@needs_py_trees
def test_a_tree_points_and_notices_that_the_target_holds_no_more(client):
    behaviours = load('pick_behaviour')
    point, holds = (behaviours.PointAt(client, 'front', CENTRE), behaviours.TargetHolds(client))
    assert tick_until_done(point) == 'SUCCESS', point.feedback_message
    assert tick_until_done(holds) == 'SUCCESS', holds.feedback_message
    client.clear()
    client.spin_until(lambda: not holds.states[-1].valid, 10.0)
    assert tick_until_done(holds) == 'FAILURE'


@needs_py_trees
def test_a_refusal_fails_the_behaviour_with_its_reason(client):
    point = load('pick_behaviour').PointAt(client, 'front', (-5.0, 0.0))
    assert tick_until_done(point) == 'FAILURE'
    assert 'outside' in point.feedback_message


@needs_py_trees
@pytest.mark.parametrize('client', [{'matcher': 'fake_matchers:SlowMatcher'}], indirect=True)
def test_a_tree_that_is_interrupted_cancels_its_click(client):
    import py_trees
    point = load('pick_behaviour').PointAt(client, 'front', CENTRE)
    point.tick_once()
    client.spin_until(point.click.is_received, 10.0)
    point.stop(py_trees.common.Status.INVALID)
    client.spin_until(point.click.done, 20.0)
    assert point.click.result().status.code == Status.CANCELLED


def test_a_grasp_of_moveit_is_filled(client, monkeypatch):
    moveit_msgs_double.install(monkeypatch)
    result = client.click('front', CENTRE, approach=cp.Approach(cp.ApproachMode.FROM_ABOVE))
    grasp = load('moveit_grasp').fill_grasp(result, ['finger'], [0.04], [0.0])
    assert grasp.id == result.query_id
    assert grasp.grasp_pose.pose == result.target.pose.pose
    assert grasp.grasp_pose.header.frame_id == 'base_link'
    down = grasp.pre_grasp_approach.direction.vector
    assert (down.x, down.y, down.z) == pytest.approx((0.0, 0.0, -1.0), abs=1e-6)
    assert grasp.pre_grasp_posture.points[0].positions == [0.04]
    assert grasp.post_grasp_retreat.direction.vector.z == 1.0


def test_without_a_target_there_is_no_grasp(monkeypatch):
    moveit_msgs_double.install(monkeypatch)
    refused = QueryResult(status=Status(code=Status.STALE, message='the image is 9 s old'))
    with pytest.raises(ValueError, match='no target: the image is 9 s old'):
        load('moveit_grasp').fill_grasp(refused, ['finger'], [0.04], [0.0])
