"""Scenes in a rosbag2: colour, depth and camera_info of every camera, poses from its TF."""
from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, View
from crosspoint_ros.core.tf_tree import TfTree, explain_failure, find_root, nearest_stamp_index
from crosspoint_ros.data import rosbag
from crosspoint_ros.data.scenes import rgbd_scene
from crosspoint_ros.data.scenes.rgbd_scene import CameraMoved, ReadOptions, RgbdFrame, UnusableData

log = logging.getLogger(__name__)
INFO, TF, TF_STATIC = 'sensor_msgs/msg/CameraInfo', '/tf', '/tf_static'


@dataclass(frozen=True)
class MessageRef:
    """An image message in the bag."""

    topic: str
    recorded_ns: int
    stamp_ns: int
    frame_id: str


class RosbagScene:
    """All cameras of a bag that have colour, depth, camera_info and a pose in TF."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """Index it; images are read on demand. Raises `UnusableData`, `UnreadableBag`."""
        self.name, self._folder, self._options = folder.stem, folder, options
        self._bag: Any = None
        self._process = 0
        self._parts: dict[str, tuple[MessageRef, MessageRef, Intrinsics]] = {}  # image, depth
        self.frames: list[RgbdFrame] = []
        with closing(rosbag.open_bag(folder)) as bag:
            self._index(bag, _find_cameras({c.topic: c.msgtype for c in bag.connections}))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        image_ref, depth_ref, intrinsics = self._parts[frame.name]
        with rgbd_scene.raise_unusable(self._folder, frame.name):
            image = rosbag.decode_rgb(self._read_message(image_ref))
            depth_m = rosbag.decode_depth_m(self._read_message(depth_ref))
            if self._options.depth_per_m:
                depth_m = depth_m / np.float32(self._options.depth_per_m)
            return View(frame.camera, image, intrinsics, frame.stamp_ns, '', depth_m,
                        frame.base_from_cam)

    def _index(self, bag: Any, cameras: dict[str, tuple[rosbag.RgbdTopics, str]]) -> None:
        tf_tree = TfTree(history_ns=None)
        refs: dict[str, list[MessageRef]] = {}
        infos: dict[str, Any] = {}
        wanted = {TF, TF_STATIC, *(topic for topics, info in cameras.values()
                                   for topic in (topics.image, topics.depth, info))}
        for connection, recorded_ns, raw in bag.messages(
                connections=[c for c in bag.connections if c.topic in wanted]):
            message, topic = bag.deserialize(raw, connection.msgtype), connection.topic
            if topic in (TF, TF_STATIC):
                tf_tree.add(message, topic == TF_STATIC)
            elif connection.msgtype == INFO:
                infos.setdefault(topic, message)
            else:
                refs.setdefault(topic, []).append(MessageRef(
                    topic, recorded_ns, rosbag.get_header_stamp_ns(message),
                    message.header.frame_id.lstrip('/')))
        for camera, (topics, info) in cameras.items():
            images, depths = (sorted(refs.get(topic, []), key=lambda ref: ref.stamp_ns)
                              for topic in (topics.image, topics.depth))
            try:
                if info not in infos:
                    raise ValueError(f'there are no messages on {info}')
                intrinsics = Intrinsics.from_camera_info(infos[info], rectified=any(
                    # image_proc's topics: image_rect, image_rect_color/compressed, ...
                    part.startswith('image_rect') for part in topics.image.split('/')))
            except ValueError as error:
                log.warning('%s: camera %s is skipped: %s', self._folder, camera, error)
            else:
                self._add_frames(camera, images, depths, intrinsics, tf_tree)

    def _add_frames(self, camera: str, images: list[MessageRef], depths: list[MessageRef],
                    intrinsics: Intrinsics, tf_tree: TfTree) -> None:
        """Add the images that have depth and a pose, which was the same for both."""
        moved: list[CameraMoved] = []
        tf_frames, depth_stamps_ns = tf_tree.frames(), [depth.stamp_ns for depth in depths]
        for image in images:
            name = f'{camera}_{image.stamp_ns}'
            try:
                depth = depths[_find_nearest(depth_stamps_ns, image.stamp_ns)]
                base = self._options.base_frame or find_root(tf_frames, image.frame_id)
                poses = []
                for stamp_ns in (image.stamp_ns, depth.stamp_ns):
                    pose = tf_tree.lookup(base, image.frame_id, stamp_ns)
                    if pose is None:
                        raise ValueError(f'no pose at {stamp_ns / 1e9:.3f} s: ' + explain_failure(
                            tf_frames, base, image.frame_id, stamp_ns))
                    poses.append(pose)
                rgbd_scene.check_depth_lag(poses[0], poses[1], intrinsics.fx_px, name)
            except CameraMoved as problem:
                moved.append(problem)
                continue
            except ValueError as error:
                log.warning('%s: %s is skipped: %s', self._folder, name, error)
                continue
            self._parts[name] = image, depth, intrinsics
            self.frames.append(RgbdFrame(name, camera, image.stamp_ns, poses[0].inverse
                                         if self._options.inverted else poses[0]))
        rgbd_scene.warn_moved(moved, self._folder)

    def _read_message(self, ref: MessageRef) -> Any:
        if self._bag is None or self._process != os.getpid():  # a fork must not share the file
            self._bag, self._process = rosbag.open_bag(self._folder), os.getpid()
        connections = [c for c in self._bag.connections if c.topic == ref.topic]
        for connection, _, raw in self._bag.messages(
                connections=connections, start=ref.recorded_ns, stop=ref.recorded_ns + 1):
            message = self._bag.deserialize(raw, connection.msgtype)
            if rosbag.get_header_stamp_ns(message) == ref.stamp_ns:
                return message
        raise ValueError(f'its message on {ref.topic} is missing')

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open file."""
        return {**self.__dict__, '_bag': None}


def _find_cameras(types: dict[str, str]) -> dict[str, tuple[rosbag.RgbdTopics, str]]:
    """Return the image topics and the camera_info of each camera that has all three."""
    cameras = {}
    for name in sorted({topic.split('/')[1] for topic, type_name in types.items()
                        if type_name in (rosbag.RAW, rosbag.COMPRESSED)}):
        try:
            topics = rosbag.choose_topics(types, name)
            infos = sorted((topic for topic, type_name in types.items() if type_name == INFO
                            and topic.startswith(f'/{name}/')), key=lambda t: ('depth' in t, t))
            if not topics.depth or not infos:
                raise ValueError(f'it has no {"camera_info" if topics.depth else "depth"}')
        except ValueError as error:
            log.warning('camera %s is skipped: %s', name, error)
            continue
        cameras[name] = topics, infos[0]
    if not cameras:
        raise UnusableData('none of its cameras has colour, depth and camera_info')
    return cameras


def _find_nearest(depth_stamps_ns: list[int], stamp_ns: int) -> int:
    """Return the index of an image's depth. Raises ValueError if there is none within 20 ms."""
    index = nearest_stamp_index(depth_stamps_ns, stamp_ns) if depth_stamps_ns else 0
    if depth_stamps_ns and abs(depth_stamps_ns[index] - stamp_ns) <= rosbag.MAX_LAG_NS:
        return index
    raise ValueError(f'it has no depth within {rosbag.MAX_LAG_NS / 1e6:.0f} ms')
