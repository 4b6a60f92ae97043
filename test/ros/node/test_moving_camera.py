"""A click without depth in the node: placed by the path of a moving camera, or refused at once."""
from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from crosspoint_ros.msg import GraspTarget, QueryResult, Status
from moving_scenes import LENS, POSES, TARGET_M, Thing, render
from raycast_scenes import look_at
from two_camera_rig import Rig, make_image_message, run_rig

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.node.query_queue import QueryRequest

WITHOUT_DEPTH = {'front__depth_topic': '', 'side__depth_topic': '',
                 'matcher': 'fake_matchers:InexactMatcher'}
PERIOD_S = 0.1


def pose_of(step: int) -> Transform:
    """Where the side camera is after so many steps of 12 mm."""
    return look_at((0.12 + 0.012 * step, -0.5, 0.35))


@cache
def picture(camera: str, step: int) -> np.ndarray:
    return render(camera, (Thing(),), pose=POSES['front'] if camera == 'front' else pose_of(step),
                  with_depth=False).image


def send(rig: Rig, step: int) -> None:
    """Send the images of a step until the node has them."""
    stamp_ns = rig.cameras.now_ns()
    for camera in ('front', 'side'):
        rig.cameras.pictures[camera] = make_image_message(
            stamp_ns, f'{camera}_optical', 'rgb8', picture(camera, step))

    def here() -> bool:
        if not rig.is_buffered(stamp_ns):
            rig.cameras.send_tf(stamp_ns, {'front': POSES['front'], 'side': pose_of(step)})
            for camera in ('front', 'side'):
                rig.cameras.send_info(camera, stamp_ns)
                rig.cameras.send_image(camera, stamp_ns)
        return rig.is_buffered(stamp_ns)

    rig.until(here, what=f'the images of step {step}')


def discover(rig: Rig) -> None:
    """Wait for what these tests use: nothing subscribes to depth."""
    cameras = rig.cameras
    rig.until(lambda: all(each.get_subscription_count() for each in (
        *cameras.images.values(), *cameras.infos.values(), cameras.tf)), what='discovery')
    rig.until(lambda: cameras.count_publishers('/crosspoint/result'), what='results')


def click(rig: Rig) -> None:
    pixel = LENS.project(POSES['front'].inverse.transform_points(TARGET_M))
    rig.run_in_executor(lambda: rig.node._server.submit(
        QueryRequest(camera='front', pixel=pixel)))


def require_target(result: QueryResult) -> None:
    assert result.has_target, result.status.message
    at = result.target.pose.pose.position
    sigma_m = np.sqrt(np.linalg.eigvalsh(np.reshape(result.target.pose.covariance, (6, 6))[
        :3, :3])[-1])
    assert result.target.method == GraspTarget.TRIANGULATED
    assert np.linalg.norm(np.array([at.x, at.y, at.z]) - TARGET_M) < 2 * sigma_m < 0.04


@pytest.fixture(autouse=True)
def rendered() -> None:
    for step in range(12):  # not while the cameras are expected to send
        picture('front', step), picture('side', step)


def test_the_images_before_the_click_place_it():
    with run_rig(**WITHOUT_DEPTH) as rig:
        discover(rig)
        for step in range(9, -1, -1):
            send(rig, step)
        click(rig)
        require_target(rig.wait_for_result())


def test_the_click_waits_while_the_camera_moves():
    with run_rig(limits__wait_images_s=20.0, **WITHOUT_DEPTH) as rig:
        discover(rig)
        for step in range(2):
            send(rig, step)
        click(rig)
        for step in range(2, 12):
            if rig.results:
                break
            send(rig, step)
            until_s = time.monotonic() + PERIOD_S
            rig.until(lambda until_s=until_s: rig.results or time.monotonic() > until_s)
        require_target(rig.wait_for_result())


def test_a_click_of_cameras_at_rest_is_refused_at_once():
    with run_rig(limits__wait_images_s=25.0, **WITHOUT_DEPTH) as rig:
        discover(rig)
        for _ in range(3):
            send(rig, 0)
        click(rig)
        result = rig.wait_for_result(timeout_s=15.0)
        assert not result.has_target
        assert result.status.code == Status.NO_DEPTH
