"""Node, replay, `data build` and `bench` read camera infos, images, depth, TF and masks alike."""
from __future__ import annotations

import argparse
import struct
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.serialization import deserialize_message
from rgbd_folders import write_kitchen_bag
from sensor_msgs.msg import CompressedImage
from tf2_msgs.msg import TFMessage

from crosspoint_ros.bench.pairs import sources
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.image_io import read_image, read_mask, write_image
from crosspoint_ros.core.tf_tree import TfTree
from crosspoint_ros.data import rosbag
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions
from crosspoint_ros.ros.config import CameraConfig
from crosspoint_ros.ros.conversions import (
    CameraTopics,
    rgb_from_msg,
    time_from_ns,
    transform_to_msg,
)
from crosspoint_ros.ros.node.camera import load_mask
from crosspoint_ros.ros.node.image_buffer import BufferLimits, ImageBuffer
from crosspoint_ros.ros.replay.runner import ReplayImageBuffer
from crosspoint_ros.ros.tf import TransformLookup
from crosspoint_ros.ros.tools.play_bag import find_message_type
from crosspoint_ros.scenes import KITCHEN

BASE = 'base_link'
CAMERA = 'wrist'  # it moves: its poses are interpolated
RECTIFIED_K = np.array([500.0, 0, 300, 0, 500, 200, 0, 0, 1])


def crop(info, binning: int = 1, left: int = 0, top: int = 0):
    """The camera info of the same image, as a region of a larger sensor that is binned."""
    k = np.array(info.k).reshape(3, 3) * [[binning], [binning], [1]]
    k[0, 2], k[1, 2] = k[0, 2] + left, k[1, 2] + top
    width, height = info.width * binning, info.height * binning
    roi = replace(info.roi, x_offset=left, y_offset=top, width=width, height=height)
    return replace(info, k=k.ravel(), roi=roi, width=width + left, height=height + top,
                   binning_x=binning, binning_y=binning)


INFOS = {
    'plain': lambda info: info,
    'binned': lambda info: crop(info, 2),
    'region of interest': lambda info: crop(info, 1, 30, 10),
    'both': lambda info: crop(info, 2, 30, 10),
    'zeros after D': lambda info: replace(info, d=np.zeros(14)),
    'no model': lambda info: replace(info, d=np.zeros(0), distortion_model=''),
    'rectified': lambda info: replace(info, k=RECTIFIED_K,
                                      d=np.array([0.1, -0.2, 0.001, 0.002, 0.05])),
}


def fill_from_bag(bag_path, buffer: ImageBuffer, tree: TfTree) -> None:
    """Add the messages as the node's callbacks do, in the bag's order."""
    with closing(rosbag.open_bag(bag_path)) as bag:
        for connection, _, raw in bag.messages():
            message = deserialize_message(bytes(raw), find_message_type(connection.msgtype))
            if connection.topic in ('/tf', '/tf_static'):
                tree.add(message, static=connection.topic == '/tf_static')
            elif connection.topic.startswith(f'/{CAMERA}/'):
                add = (buffer.add_info if connection.msgtype.endswith('CameraInfo') else
                       buffer.add_depth if 'depth' in connection.topic else buffer.add_image)
                add(message)


@pytest.mark.parametrize('buffer_type', [ImageBuffer, ReplayImageBuffer])
@pytest.mark.parametrize('name', INFOS)
def test_node_replay_and_data_build_read_the_same_views(tmp_path, name, buffer_type):
    rectified = name == 'rectified'
    bag = write_kitchen_bag(tmp_path / 'bag', change_info=INFOS[name],
                            image='image_rect' if rectified else 'image_raw')
    scene = open_scene(bag, ReadOptions(base_frame=BASE))
    frames = [frame for frame in scene.frames if frame.camera == CAMERA][-2:]
    topics = CameraTopics(CAMERA, 'image', 'info', 'depth', rectified)
    buffer = buffer_type(topics, BufferLimits(60.0, 3600.0, 0.02, max_frames=10_000),
                         lambda: frames[-1].stamp_ns)
    tree = TfTree()
    fill_from_bag(bag, buffer, tree)
    for frame in frames:
        built, view = scene.view(frame), buffer.get_view_at(frame.stamp_ns)
        assert view.intrinsics == built.intrinsics
        np.testing.assert_array_equal(view.image, built.image)
        np.testing.assert_array_equal(view.depth_m, built.depth_m)
        base_from_cam = TransformLookup(tree).lookup(BASE, view.frame_id, frame.stamp_ns)
        np.testing.assert_array_equal(base_from_cam.matrix, built.base_from_cam.matrix)


def test_bench_reads_the_same_views_as_data_build():
    scene, known = open_scene(KITCHEN, ReadOptions(base_frame=BASE)), KnownScene(KITCHEN)
    for frame in scene.frames[::40]:
        built, view = scene.view(frame), known.read_view(FrameKey(frame.camera, frame.stamp_ns))
        assert view.intrinsics == built.intrinsics
        np.testing.assert_array_equal(view.image, built.image)
        np.testing.assert_array_equal(view.depth_m, built.depth_m)
        # Its ground truth is of the renderer, not of TF.
        np.testing.assert_allclose(view.base_from_cam.matrix, built.base_from_cam.matrix,
                                   atol=1e-6)


def tf_message(parent: str, child: str, at_s: float, x_m: float) -> TFMessage:
    pose = transform_to_msg(Transform(np.eye(3), [x_m, 0.0, 0.0]))
    stamped = TransformStamped(child_frame_id=child, transform=pose)
    stamped.header.frame_id, stamped.header.stamp = parent, time_from_ns(round(at_s * 1e9))
    return TFMessage(transforms=[stamped])


@pytest.mark.parametrize(('at_s', 'x_m'), [
    (1.0, 1.0), (1.25, 1.25), (1.9, 2.0), (2.5, 15.0), (3.0, 20.0), (0.9, None), (3.1, None)])
def test_live_and_recorded_tf_interpolate_alike_and_follow_a_new_parent(at_s, x_m):
    live, recorded = TfTree(), TfTree(history_ns=None)
    for tree in (live, recorded):
        tree.add(tf_message('base', 'hand', 0.0, 10.0), static=True)
        tree.add(tf_message('base', 'camera', 1.0, 1.0))
        tree.add(tf_message('base', 'camera', 1.5, 1.5))
        tree.add(tf_message('base', 'camera', 1.8, 2.0))
        tree.add(tf_message('hand', 'camera', 2.0, 0.0))
        tree.add(tf_message('hand', 'camera', 3.0, 10.0))
    found = [tree.lookup('base', 'camera', round(at_s * 1e9)) for tree in (live, recorded)]
    assert [None if f is None else pytest.approx(f.t_m[0]) for f in found] == [x_m, x_m]


def test_a_photograph_s_exif_orientation_is_ignored_by_node_recordings_and_files(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (255, 0, 0)
    jpeg = cv2.imencode('.jpg', image)[1].tobytes()
    tiff = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x0112, 3, 1, 6, 0, 0)  # turned by 90 degrees
    exif = b'Exif\0\0' + tiff
    turned = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
    (tmp_path / 'photo.jpg').write_bytes(turned)
    message = CompressedImage(format='jpeg', data=turned)
    read = [rgb_from_msg(message), rosbag.decode_rgb(message), read_image(tmp_path / 'photo.jpg')]
    for rgb in read:
        assert rgb.shape == (40, 60, 3)
        np.testing.assert_array_equal(rgb, read[0])


def test_node_data_build_and_bench_read_the_same_mask(tmp_path):
    path = tmp_path / 'mask.png'
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)
    write_image(path, pixels)
    expected = pixels > 127
    config = CameraConfig('front', '', '', '', 'raw', str(path), False)
    options = argparse.Namespace(mask=path, folder=tmp_path, no_mask=False)
    for mask in (load_mask(config), read_mask(path), sources.load_mask(options, tmp_path)):
        np.testing.assert_array_equal(mask, expected)
