"""`crosspoint mask`: from a bag or a live camera to a mask the node takes, or a sentence."""
from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
import rclpy
from gripper_scene import FINGERS, render_frame
from rclpy.context import Context
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from crosspoint_ros import cli
from crosspoint_ros.data.rosbag import RgbdTopics, choose_topics, iter_rgbd
from crosspoint_ros.ros.config import CameraConfig
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.ros.node.camera import load_mask
from crosspoint_ros.scenes import KITCHEN

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'


def run(*words: object) -> int:
    return cli.main(['mask', *map(str, words)])


def test_the_kitchen_s_mask_is_one_that_the_node_takes(tmp_path, capsys):
    out, picture = tmp_path / 'new/mask.png', tmp_path / 'check.png'
    assert run(KITCHEN, '--camera', 'wrist', '--out', out, '--picture', picture) == 0
    said = capsys.readouterr().out
    assert '36 different views among 36 images, colour and depth' in said
    mask = load_mask(CameraConfig('wrist', '', '', '', 'raw', str(out), False))
    assert mask.shape == (480, 640)
    assert 0.02 < mask.mean() < 0.06
    assert cv2.imread(str(picture)).shape == (960, 1280, 3)


def test_the_shelf_s_shares_are_printed_and_are_those_asked_for(shared_data, tmp_path, capsys):
    shelf = shared_data / 'apc_shelf'
    assert run(shelf / 'bag', '--camera', 'wrist', '--out', tmp_path / 'mask.png',
               '--truth', shelf / 'gripper_mask.png') == 0
    words = capsys.readouterr().out.rpartition('covers ')[2].split()
    assert float(words[0].rstrip('%')) >= 95.0
    assert words[2] == 'gripper_mask.png,'
    assert float(words[4].rstrip('%')) <= 3.0


@pytest.mark.parametrize(('words', 'said'), [
    ([KITCHEN, '--camera', 'front'], '1 different views among 6 images'),
    ([KITCHEN, '--camera', 'nose'], 'no images on /nose/...; image topics: /front/'),
    ([KITCHEN, '--camera', 'wrist', '--topic', '/x'], 'no images on /x'),
    ([KITCHEN, '--camera', 'wrist', '--live', '3'], 'one of the two'),
    (['--camera', 'wrist'], 'one of the two'),
    (['/nowhere', '--camera', 'wrist'], 'there is no bag at /nowhere'),
    (['--camera', 'wrist', '--live', '-1'], 'more than 0'),
    ([KITCHEN, '--camera', 'wrist', '--out', '/proc/mask.png'], '/proc/mask.png'),
    ([KITCHEN, '--camera', 'wrist', '--out', 'mask.nothing'], '.png'),
    ([KITCHEN, '--camera', 'wrist', '--out', 'mask.jpg'], 'ends in .png'),
])
def test_what_cannot_be_done_is_one_sentence(words, said, capsys):
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len([line for line in error.splitlines() if line.startswith('crosspoint')]) == 1


def test_a_bag_without_motion_leaves_no_mask_behind(tmp_path):
    out = tmp_path / 'mask.png'
    assert run(KITCHEN, '--camera', 'front', '--out', out) == 1
    assert not out.exists()


def test_several_topics_are_named_and_a_raw_image_goes_before_its_compressed_sibling():
    types = {'/c/color/image_raw': RAW, '/c/color/image_raw/compressed': COMPRESSED,
             '/c/depth/image': RAW, '/c/depth/image/compressedDepth': COMPRESSED,
             '/c/info': 'sensor_msgs/msg/CameraInfo'}
    assert choose_topics(types, 'c') == RgbdTopics('/c/color/image_raw', '/c/depth/image')
    with pytest.raises(ValueError, match='several: /c/color/image_raw, /c/infra; choose by'):
        choose_topics({**types, '/c/infra': RAW}, 'c')
    assert choose_topics({**types, '/c/infra': RAW}, 'c', '/c/infra').image == '/c/infra'


@pytest.mark.parametrize('named', ['', '/depthcam/color/image_raw'])
def test_the_depth_is_not_told_by_the_name_of_the_camera(named):
    types = dict.fromkeys(('/depthcam/color/image_raw', '/depthcam/depth/image'), RAW)
    assert choose_topics(types, 'depthcam', named) == RgbdTopics(
        '/depthcam/color/image_raw', '/depthcam/depth/image')
    del types['/depthcam/depth/image']
    assert choose_topics(types, 'depthcam', named).depth == ''


def image_message(at_ns: int, encoding: str, pixels: np.ndarray) -> Image:
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=pixels.strides[0], data=pixels.tobytes())
    message.header.stamp = time_from_ns(at_ns)
    return message


def test_each_image_gets_the_depth_of_its_own_moment_or_none():
    colour = np.zeros((4, 6, 3), np.uint8)
    messages = []
    for number in range(4):
        at_ns = 10**9 + number * 33_000_000
        messages.append(('/i', image_message(at_ns, 'bgr8', colour + number)))
        if number != 2:  # this one's depth was lost
            depth = np.full((4, 6), 1000 + number, np.uint16)
            messages.append(('/d', image_message(at_ns + 5_000_000, '16UC1', depth)))
    found = [(image[0, 0, 0], None if depth_m is None else round(float(depth_m[0, 0]), 3))
             for image, depth_m in iter_rgbd(messages, RgbdTopics('/i', '/d'))]
    assert found == [(0, 1.0), (1, 1.001), (2, None), (3, 1.003)]


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_a_live_camera_that_moves_gets_its_mask(transport, tmp_path, capsys):
    context, stop = Context(), threading.Event()
    rclpy.init(context=context)
    node = rclpy.create_node('moving_camera', context=context)
    topic = '/hand/color/image_raw' + '/compressed' * (transport == 'compressed')
    kind = Image if transport == 'raw' else CompressedImage
    publisher = node.create_publisher(kind, topic, qos_profile_sensor_data)

    def publish() -> None:
        step = 0
        while not stop.wait(0.03):
            image = np.ascontiguousarray(render_frame(step)[..., ::-1])
            if transport == 'raw':
                publisher.publish(image_message(step + 1, 'bgr8', image))
            else:
                data = cv2.imencode('.png', image)[1].tobytes()
                publisher.publish(CompressedImage(format='bgr8; png compressed bgr8', data=data))
            step += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        out = tmp_path / 'mask.png'
        assert run('--live', '2', '--camera', 'hand', '--out', out) == 0, capsys.readouterr().err
    finally:
        stop.set()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    mask = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE) > 127
    assert mask[FINGERS].mean() > 0.97
    assert mask[~FINGERS].mean() < 0.03


def test_a_live_camera_that_is_not_there_is_named(monkeypatch, capsys):
    from crosspoint_ros.ros.tools import live_camera
    monkeypatch.setattr(live_camera, 'DISCOVERY_S', 0.5)
    assert run('--live', '1', '--camera', 'nobody') == 1
    assert 'no images on /nobody/' in capsys.readouterr().err
