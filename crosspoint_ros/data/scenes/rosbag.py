"""Scenes in a rosbag2: colour, depth and camera_info of every camera, poses from its TF."""
from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected, View
from crosspoint_ros.core.encodings import DEPTH_ENCODINGS, DepthM, Rgb, depth_m_from_msg
from crosspoint_ros.core.tf_tree import TfTree, explain_failure, find_root, nearest_stamp_index
from crosspoint_ros.data import rosbag
from crosspoint_ros.data.io import assign_unique_names
from crosspoint_ros.data.rosbag import INFO, Bag
from crosspoint_ros.data.scenes import rgbd_scene
from crosspoint_ros.data.scenes.rgbd_scene import CameraMoved, ReadOptions, RgbdFrame, UnusableData

log = logging.getLogger(__name__)
TF, TF_STATIC = '/tf', '/tf_static'
MAX_DAMAGED = 30  # messages at the beginning of a topic
CDR_STAMP = slice(4, 12)  # of a serialized message that begins with a header


@dataclass(frozen=True)
class MessageRef:
    """An image message in the bag."""

    topic: str
    recorded_ns: int
    stamp_ns: int
    frame_id: str


class CameraTopicSet(NamedTuple):
    """A camera's topics in a bag."""

    image: str
    depth: str
    info: str


@dataclass
class LensHistory:
    """The intrinsics that a camera_info topic had, by stamp."""

    lenses: list[Intrinsics | str] = field(default_factory=list)  # or why it is unusable
    _keys: dict[bytes, int] = field(default_factory=dict)
    _by_stamp: dict[int, int] = field(default_factory=dict)
    _stamps_ns: list[int] = field(default_factory=list)

    def add(self, message: Any, data: bytes, rectified: bool) -> None:
        """Add a CameraInfo and its serialized form."""
        key = bytes(data[:CDR_STAMP.start]) + bytes(data[CDR_STAMP.stop:])
        if key not in self._keys:
            try:
                lens: Intrinsics | str = Intrinsics.from_camera_info(message, rectified=rectified)
            except ValueError as error:
                lens = str(error)
            if lens not in self.lenses:
                self.lenses.append(lens)
            self._keys[key] = self.lenses.index(lens)
        self._by_stamp[rosbag.get_header_stamp_ns(message)] = self._keys[key]

    def find_at(self, stamp_ns: int) -> Intrinsics:
        """Return the intrinsics of an image; where they change, those with its stamp.

        Raises ValueError if they are unusable, or changed around a stamp that has none.
        """
        if len(self._stamps_ns) != len(self._by_stamp):
            self._stamps_ns = sorted(self._by_stamp)
        index = 0
        if len(self.lenses) > 1:
            after = bisect_left(self._stamps_ns, stamp_ns)
            near = self._stamps_ns[max(after - 1, 0):after + 1]
            found = {self._by_stamp[ns] for ns in ([stamp_ns] if stamp_ns in near else near)}
            if len(found) > 1 or not near[0] <= stamp_ns <= near[-1]:
                raise ValueError(f'its camera_info changes in this recording ({len(self.lenses)} '
                                 'lenses or sizes), and none has its stamp; the nearest is '
                                 f'{min(abs(ns - stamp_ns) for ns in near) / 1e9:.3f} s away')
            index = found.pop()
        lens = self.lenses[index]
        if isinstance(lens, str):
            raise ValueError(lens)
        return lens


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
            cameras = find_cameras(bag, options.topics)
            if not cameras:
                raise UnusableData(f'{folder}: none of its cameras has colour, depth that is '
                                   'registered to it, and camera_info')
            self._index(bag, cameras)

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        image_ref, depth_ref, intrinsics = self._parts[frame.name]
        with rgbd_scene.raise_unusable(self._folder, frame.name):
            image = rosbag.decode_rgb(self._read_message(image_ref))
            depth_m = depth_m_from_msg(self._read_message(depth_ref))
            if self._options.depth_per_m:
                depth_m = depth_m / np.float32(self._options.depth_per_m)
            return View(frame.camera, image, intrinsics, frame.stamp_ns, '', depth_m,
                        frame.base_from_cam)

    def _index(self, bag: Bag, cameras: dict[str, CameraTopicSet]) -> None:
        tf_tree = TfTree(history_ns=None)
        refs: dict[str, list[MessageRef]] = {}
        lenses = {topics.info: LensHistory() for topics in cameras.values()}
        rectified = {topics.info: any(
            # image_proc's topics: image_rect, image_rect_color/compressed, ...
            part.startswith('image_rect') for part in topics.image.split('/'))
            for topics in cameras.values()}
        for connection, recorded_ns, raw in bag.messages(
                {TF, TF_STATIC, *(topic for topics in cameras.values() for topic in topics)}):
            topic = connection.topic
            try:
                message = bag.deserialize(raw, connection.msgtype)
            except rosbag.UnreadableBag as problem:
                log.warning('%s: a message on %s is skipped', problem, topic)
                continue
            if topic in (TF, TF_STATIC):
                tf_tree.add(message, topic == TF_STATIC)
            elif connection.msgtype == INFO:
                lenses[topic].add(message, raw, rectified[topic])
            else:
                refs.setdefault(topic, []).append(MessageRef(
                    topic, recorded_ns, rosbag.get_header_stamp_ns(message),
                    message.header.frame_id.lstrip('/')))
        for camera, topics in cameras.items():
            images, depths = (sorted(refs.get(topic, []), key=lambda ref: ref.stamp_ns)
                              for topic in (topics.image, topics.depth))
            faults = [lens for lens in lenses[topics.info].lenses if isinstance(lens, str)]
            if len(faults) == len(lenses[topics.info].lenses):
                log.warning('%s: camera %s is skipped: %s', self._folder, camera,
                            faults[0] if faults else f'there are no messages on {topics.info}')
            else:
                self._add_frames(camera, images, depths, lenses[topics.info], tf_tree)

    def _add_frames(self, camera: str, images: list[MessageRef], depths: list[MessageRef],
                    lenses: LensHistory, tf_tree: TfTree) -> None:
        """Add the images that have depth and a pose, which was the same for both."""
        moved: list[CameraMoved] = []
        stamped = {image.stamp_ns: image for image in reversed(images) if image.stamp_ns > 0}
        if len(stamped) < len(images):
            log.warning('%s: %d of the %d images of camera %s are skipped: they have no stamp (0 '
                        'or less), or that of another one', self._folder,
                        len(images) - len(stamped), len(images), camera)
        tf_frames, depth_stamps_ns = tf_tree.frames(), [depth.stamp_ns for depth in depths]
        for _, image in sorted(stamped.items()):
            name = f'{camera}_{image.stamp_ns}'
            try:
                intrinsics = lenses.find_at(image.stamp_ns)
                depth = depths[_find_nearest(depth_stamps_ns, image.stamp_ns)]
                base = self._options.base_frame or find_root(tf_frames, image.frame_id)
                poses = []
                for stamp_ns in (image.stamp_ns, depth.stamp_ns):
                    pose = tf_tree.lookup(base, image.frame_id, stamp_ns)
                    if pose is None:
                        raise ValueError(f'no pose at {stamp_ns / 1e9:.3f} s: ' + (
                            tf_tree.explain_conflict(base, image.frame_id, stamp_ns)
                            or explain_failure(tf_frames, base, image.frame_id, stamp_ns)))
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
        for connection, _, raw in self._bag.messages({ref.topic}, start=ref.recorded_ns,
                                                     stop=ref.recorded_ns + 1):
            message = self._bag.deserialize(raw, connection.msgtype)
            if rosbag.get_header_stamp_ns(message) == ref.stamp_ns:
                return message
        raise ValueError(f'its message on {ref.topic} is missing')

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open file."""
        return {**self.__dict__, '_bag': None}


class _Stream(NamedTuple):
    """What the first message of an image topic shows."""

    frame_id: str
    size: tuple[int, ...]  # () if it cannot be decoded
    is_depth: bool
    is_grey: bool
    fault: str  # why it cannot be decoded


def find_cameras(bag: Bag, given: Collection[str] = ()) -> dict[str, CameraTopicSet]:
    """Return the topics of each camera that has colour, depth in the same frame, and camera_info.

    given: topics to prefer where a camera has several. Logs why a camera is left out. Raises
    ValueError if a given topic is not in the bag.
    """
    types = {c.topic: c.msgtype for c in bag.connections if c.msgcount}
    missing = sorted(set(given) - types.keys())
    if missing:
        raise ValueError(f'there are no messages on {", ".join(missing)}; topics: '
                         f'{", ".join(sorted(types))}')
    streams = {topic: stream for topic, kind in sorted(types.items())
               if kind in (rosbag.RAW, rosbag.COMPRESSED)
               for stream in [_read_stream(bag, topic)] if stream}
    infos = {topic: message.header.frame_id.lstrip('/') for topic, kind in sorted(types.items())
             if kind == INFO for message in [_read_first(bag, topic)] if message}
    frame_ids = {topic: stream.frame_id for topic, stream in streams.items()} | infos
    found: dict[str, CameraTopicSet] = {}
    problems: dict[str, tuple[str, bool]] = {}  # by image topic
    for images in _group_images(streams, given):
        image = images[0]
        try:
            if len(images) > 1:
                image = rosbag.choose_single(images, '--topic')
            depth = _choose_depth(image, streams, given)
            found[image] = CameraTopicSet(
                image, depth, rosbag.choose_info(infos, image, frame_ids, given))
        except ValueError as error:
            problems[image] = str(error), streams[image].is_grey
    for image, (problem, is_grey) in problems.items():
        # Infrared images next to a colour camera are not missed.
        if not (is_grey and any(_get_device(image) == _get_device(other) for other in found)):
            log.warning('camera %s is skipped: %s', image.split('/')[1], problem)
    names = assign_unique_names(_name_camera(image, found) for image in found)
    return dict(zip(names, found.values(), strict=True))


def _read_first(bag: Bag, topic: str) -> Any:
    """Return a topic's first message that can be read; None, and a warning, if there is none."""
    fault: object = 'it has no messages'
    try:
        for connection, _, raw in islice(bag.messages({topic}), MAX_DAMAGED):
            try:
                return bag.deserialize(raw, connection.msgtype)
            except rosbag.UnreadableBag as problem:
                fault = problem
    except rosbag.UnreadableBag as problem:
        fault = problem
    log.warning('%s: %s is left out', fault, topic)
    return None


def _read_stream(bag: Bag, topic: str) -> _Stream | None:
    message = _read_first(bag, topic)
    if message is None:
        return None
    form: str = message.encoding if hasattr(message, 'encoding') else message.format
    encoding = form.partition(';')[0].strip()
    is_depth = 'compressedDepth' in form or (encoding in DEPTH_ENCODINGS and (
        encoding != 'mono16' or 'depth' in topic))
    size: tuple[int, ...] = ()
    fault = ''
    decoders: list[Callable[[Any], Rgb | DepthM]] = [depth_m_from_msg]
    if not is_depth:  # the second names the encodings of depth
        decoders = [rosbag.decode_rgb, *decoders[:'depth' in topic]]
    for decode in decoders:
        try:
            size = decode(message).shape[:2]
            break
        except (Rejected, ValueError) as error:
            fault = f'{topic}: {error}'
    return _Stream(message.header.frame_id.lstrip('/'), size, is_depth,
                   encoding.startswith('mono'), '' if size else fault)


def _group_images(streams: dict[str, _Stream], given: Collection[str]) -> list[list[str]]:
    """Return the topics with the images of each camera: the given ones, else all in its frame."""
    groups: dict[tuple[str, str], list[str]] = {}
    for topic, stream in streams.items():
        if not stream.is_depth and (topic in given or 'depth' not in topic.split('/', 2)[-1]):
            groups.setdefault((topic.split('/')[1], stream.frame_id), []).append(topic)
    chosen = []
    for topics in groups.values():
        coloured = [topic for topic in topics if not streams[topic].is_grey]
        chosen.append([t for t in topics if t in given] or coloured or topics)
    return chosen


def _choose_depth(image: str, streams: dict[str, _Stream], given: Collection[str]) -> str:
    """Return the depth topic that is registered to an image. Raises ValueError."""
    frame_id, size, *_ = streams[image]
    near = {topic for topic, stream in streams.items()
            if stream.is_depth and _get_device(topic) == _get_device(image)}
    registered = {topic for topic, stream in streams.items()
                  if stream.is_depth and stream.frame_id == frame_id}
    chosen = registered.intersection(given) or near.intersection(given) or \
        registered & near or registered
    same_size = {topic for topic in chosen if streams[topic].size == size}
    if chosen:
        return rosbag.choose_single(same_size or chosen, '--topic')
    if not near:
        faults = [stream.fault for topic, stream in streams.items() if stream.fault
                  and 'depth' in topic and _get_device(topic) == _get_device(image)]
        raise ValueError('; '.join(['it has no depth', *faults]))
    others = ', '.join(f'{topic} in the frame {streams[topic].frame_id}' for topic in sorted(near))
    raise ValueError(f'it has no depth in the frame of {image}, {frame_id}, only {others}: record '
                     'registered depth (RealSense: align_depth.enable:=true); if this one is '
                     f'registered all the same, give it with --topic {min(near)}')


def _get_device(topic: str) -> list[str]:
    """Return the namespace of a driver: /camera of /camera/color/image_raw/compressed."""
    parts = rosbag.split_transport(topic)[0].split('/')[1:]
    return parts[:max(len(parts) - 2, 1)]


def _name_camera(image: str, others: Collection[str]) -> str:
    """Return the shortest beginning of a camera's topics that no other one has."""
    parts = image.split('/')[1:]
    length = next((n for n in range(1, len(parts)) if sum(
        other.split('/')[1:n + 1] == parts[:n] for other in others) == 1), len(parts))
    return '_'.join(parts[:length])


def _find_nearest(depth_stamps_ns: list[int], stamp_ns: int) -> int:
    """Return the index of an image's depth. Raises ValueError if there is none within 20 ms."""
    index = nearest_stamp_index(depth_stamps_ns, stamp_ns) if depth_stamps_ns else 0
    if depth_stamps_ns and abs(depth_stamps_ns[index] - stamp_ns) <= rosbag.MAX_LAG_NS:
        return index
    raise ValueError(f'it has no depth within {rosbag.MAX_LAG_NS / 1e6:.0f} ms')
