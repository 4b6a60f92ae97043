"""Twelve cameras: one of 4K, one of 160x120, one with a name of 60 letters, depth of NaN alone."""
from __future__ import annotations

import numpy as np
import pytest
from chromium import Page
from rclpy.parameter import Parameter

from crosspoint_ros.bench.node.synthetic_cameras import make_camera_messages, make_image
from crosspoint_ros.bench.stress.rig import StressRig
from crosspoint_ros.bench.web.drill_rig import DrillCameras, RobotObserver
from crosspoint_ros.ros.client.session import RosSession

LONG = 'a_camera_at_the_end_of_the_third_finger_of_the_left_gripper_'
CAMERAS = ('tiny', 'huge', LONG, *(f'camera_{i}' for i in range(9)))
SIZES = {'tiny': (160, 120), 'huge': (3840, 2160), LONG: (640, 480)}


@pytest.fixture(scope='module')
def robot():
    with RosSession() as session:
        cameras = session.add_node(DrillCameras(context=session.context, parameter_overrides=[
            Parameter('cameras', value=[*CAMERAS]), Parameter('rate_hz', value=1.0),
            Parameter('width', value=320), Parameter('height', value=240)]))
        for name, (width, height) in SIZES.items():
            cameras.messages[name] = make_camera_messages(width, height)
        observer = RobotObserver(session, cameras)
        yield observer
        observer.close()


@pytest.fixture(scope='module')
def rig(robot):
    with StressRig('limits.max_image_age_s:=10.0', 'limits.max_view_gap_s:=2.0', 'history_s:=8.0',
                   'limits.wait_tf_s:=2.0', cameras=CAMERAS) as rig:
        rig.start('node', 'server')
        yield rig


@pytest.fixture(scope='module')
def tab(browser, rig):
    tab = Page(browser, f'http://127.0.0.1:{rig.port}/')
    tab.wait(lambda: tab.tab.locator('.view').count() == len(CAMERAS), 'twelve views')
    yield tab
    tab.close()


def click_middle(page, camera):
    """Click in the middle of a camera's image, until it is answered; return the result."""
    page.focus(camera)
    view = page.view(camera)
    page.wait(lambda: view.get_attribute('data-stamp'), f'image of {camera}')

    def click():
        before = page.query_id()
        box = view.locator('svg').bounding_box()
        page.tab.mouse.click(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
        page.tab.wait_for_timeout(1500)
        return page.query_id() not in ('', before) and view.locator('.mark.clicked').count()

    page.wait(click, f'answer in {camera}')
    return page.query_id()


@pytest.mark.parametrize('camera', ['tiny', 'huge', LONG])
def test_a_click_in_the_middle_is_that_of_the_cameras_own_pixels(page, robot, camera):
    query_id = click_middle(page, camera)
    page.wait(lambda: query_id in robot.results, 'result of the node')
    clicked = robot.results[query_id].clicked
    width, height = SIZES[camera]
    assert clicked.camera == camera
    assert clicked.x == pytest.approx(width / 2, abs=width / 200 + 1)
    assert clicked.y == pytest.approx(height / 2, abs=height / 200 + 1)
    shown = page.view(camera).evaluate("view => view.querySelector('canvas').width")
    assert shown <= 1280


def test_a_name_of_60_letters_moves_nothing_and_is_read_in_full(page):
    assert page.tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert page.view(LONG).get_attribute('aria-label') == f'camera {LONG}'


def test_depth_of_nan_alone_is_no_number_on_the_page(page, robot):
    before = dict(robot.cameras.messages)
    try:
        for name in CAMERAS:
            width, height = SIZES.get(name, (320, 240))
            image, _, info = make_camera_messages(width, height)
            depth = make_image('32FC1', np.full((height, width), np.nan, np.float32))
            robot.cameras.messages[name] = image, depth, info
        page.tab.wait_for_timeout(2500)
        query_id = click_middle(page, LONG)
    finally:
        robot.cameras.messages = before
    page.wait(lambda: query_id in robot.results, 'result of the node')
    text = page.tab.inner_text('body')
    assert 'NaN' not in text
    assert 'nan' not in text.split()
