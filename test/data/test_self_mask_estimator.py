"""The robot's own body is what stays the same while the view changes."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from gripper_scene import FINGERS, HEIGHT, WIDTH, render_frame

from crosspoint_ros.data.rosbag import choose_topics, iter_messages, iter_rgbd, open_bag
from crosspoint_ros.data.self_mask_estimator import SelfMaskEstimator, SelfMaskUndetermined
from crosspoint_ros.scenes import KITCHEN


def finder_of(images, depths=None) -> SelfMaskEstimator:
    finder = SelfMaskEstimator()
    for image, depth_m in zip(images, depths or [None] * len(images), strict=True):
        finder.add(image, depth_m)
    return finder


def shares(mask: np.ndarray, ground_truth: np.ndarray) -> tuple[float, float]:
    """How much of the ground_truth, and of the rest, the mask covers."""
    return float(mask[ground_truth].mean()), float(mask[~ground_truth].mean())


def recorded(folder, camera: str) -> list:
    bag = open_bag(folder)
    topics = choose_topics({c.topic: c.msgtype for c in bag.connections}, camera)
    found = list(iter_rgbd(iter_messages(bag, (topics.image, topics.depth)), topics))
    bag.close()
    return found


@pytest.mark.parametrize('views', [5, 12, 40])
def test_fingers_before_a_moving_world_are_found(views):
    body = finder_of([render_frame(step) for step in range(views)]).estimate()
    covered, of_the_rest = shares(body.mask, FINGERS)
    assert covered > 0.97
    assert of_the_rest < 0.03
    assert body.views == views


def test_a_camera_that_sees_nothing_of_the_robot_gets_an_empty_mask():
    nothing = np.zeros_like(FINGERS)
    assert not finder_of([render_frame(step, nothing) for step in range(12)]).estimate().mask.any()


def test_a_plain_body_is_found_whole_by_its_edges():
    images = [render_frame(step) for step in range(12)]
    for image in images:
        image[FINGERS] = 40
    covered, of_the_rest = shares(finder_of(images).estimate().mask, FINGERS)
    assert covered > 0.9
    assert of_the_rest < 0.03


def test_images_of_a_camera_that_stands_still_are_refused():
    with pytest.raises(SelfMaskUndetermined,
                       match=r'1 different views among 20 images \(at least 5\)'):
        finder_of([render_frame(3)] * 20).estimate()


def test_light_that_changes_is_no_motion():
    still = render_frame(3).astype(float)
    flickering = [np.clip(still * gain, 0, 255).astype(np.uint8)
                  for gain in (0.4, 1.0, 0.5, 0.9, 0.45, 1.0, 0.6, 0.85)]
    with pytest.raises(SelfMaskUndetermined, match='the light changed'):
        finder_of(flickering).estimate()


def test_a_plain_wall_in_most_of_the_image_is_refused():
    images = [render_frame(step) for step in range(12)]
    for image in images:
        image[:, :200] = 128  # a wall
    with pytest.raises(SelfMaskUndetermined,
                       match=r'change by 0.0 grey levels at most \(at least 8\)'):
        finder_of(images).estimate()


def test_too_few_images_are_refused_with_the_number():
    with pytest.raises(SelfMaskUndetermined, match='4 different views among 4 images'):
        finder_of([render_frame(step) for step in range(4)]).estimate()


def test_images_of_another_size_are_refused_with_both_sizes():
    finder = finder_of([render_frame(0)])
    with pytest.raises(SelfMaskUndetermined, match='160x120, the first is 320x240'):
        finder.add(render_frame(1)[::2, ::2])
    with pytest.raises(SelfMaskUndetermined, match='the depth is 160x120, the image 320x240'):
        finder.add(render_frame(1), np.ones((120, 160), np.float32))


def test_standing_still_on_the_way_does_not_count():
    steps = [0] * 30 + list(range(12)) + [11] * 30
    finder = finder_of([render_frame(step) for step in steps])
    assert finder.views == 12
    assert shares(finder.estimate().mask, FINGERS)[0] > 0.97


def test_depth_that_changes_keeps_a_patch_that_looks_the_same_out_of_the_mask():
    sign = np.zeros_like(FINGERS)
    sign[40:100, 120:200] = True  # by its looks alone it is the robot's
    images = [render_frame(step, FINGERS | sign) for step in range(12)]
    assert shares(finder_of(images).estimate().mask, sign)[0] > 0.9
    depths = []
    for step in range(12):
        depth_m = np.full((HEIGHT, WIDTH), 1.0 + 0.05 * step, np.float32)
        depth_m[FINGERS] = 0.2
        depths.append(depth_m)
    mask = finder_of(images, depths).estimate().mask
    assert shares(mask, sign)[0] < 0.1
    assert shares(mask, FINGERS)[0] > 0.97


def test_on_the_shelf_it_covers_the_gripper_and_little_else(shared_data):
    ground_truth = cv2.imread(str(shared_data / 'apc_shelf/gripper_mask.png'), 0) > 127
    finder = SelfMaskEstimator()
    for image, depth_m in recorded(shared_data / 'apc_shelf/bag', 'wrist'):
        finder.add(image, depth_m)
    covered, of_the_rest = shares(finder.estimate().mask, ground_truth)
    assert covered >= 0.95
    assert of_the_rest <= 0.03


@pytest.mark.parametrize('half', [slice(0, None, 2), slice(1, None, 2)])
def test_half_of_the_shelf_s_images_tell_nearly_as_much(half, shared_data):
    ground_truth = cv2.imread(str(shared_data / 'apc_shelf/gripper_mask.png'), 0) > 127
    images, depths = zip(*recorded(shared_data / 'apc_shelf/bag', 'wrist')[half], strict=True)
    covered, of_the_rest = shares(finder_of(images, depths).estimate().mask, ground_truth)
    assert covered >= 0.95
    assert of_the_rest <= 0.05


@pytest.mark.parametrize(('with_depth', 'at_most'), [(True, 0.005), (False, 0.01)])
def test_in_the_kitchen_the_fingers_are_found_with_and_without_depth(with_depth, at_most):
    images, depths = zip(*recorded(KITCHEN, 'wrist'), strict=True)
    far_m = np.nanmax(np.stack(depths), axis=0)
    fingers = far_m < 0.25  # nothing of the scene comes that near in all images
    assert 0.02 < fingers.mean() < 0.06
    found = finder_of(images, depths if with_depth else None).estimate()
    covered, of_the_rest = shares(found.mask, fingers)
    assert covered > 0.95
    assert of_the_rest < at_most


@pytest.mark.parametrize('camera', ['front', 'side'])
def test_the_kitchen_s_still_cameras_are_refused(camera):
    images, depths = zip(*recorded(KITCHEN, camera), strict=True)
    with pytest.raises(SelfMaskUndetermined, match=r'[12] different views among 6 images'):
        finder_of(images, depths).estimate()
