"""Scenes of a rosbag2: colour and depth of every camera, poses from its TF, one frame in memory."""
from __future__ import annotations

import os
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Intrinsics, Rejected, View
from crosspoint_ros.core.tf_tree import TfTrack
from crosspoint_ros.data.rosbag import (
    COMPRESSED,
    MAX_LAG_NS,
    RAW,
    choose_topics,
    decode_depth_m,
    decode_rgb,
    header_stamp_ns,
    open_bag,
)
from crosspoint_ros.data.scenes.rgbd_scene import (
    CameraMoved,
    ReadOptions,
    RgbdFrame,
    Say,
    UnusableData,
    check_depth_lag,
    warn_moved,
)

INFO, TF = 'sensor_msgs/msg/CameraInfo', ('/tf', '/tf_static')


@dataclass(frozen=True)
class MessageRef:
    """Where a message is: its topic, and when it was recorded."""

    topic: str
    recorded_ns: int
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class FrameParts:
    """What a frame is made of."""

    image: MessageRef
    depth: MessageRef
    intrinsics: Intrinsics


class RosbagScene:
    """All cameras of a bag that have colour, depth, camera_info and a place in TF."""

    def __init__(self, folder: Path, reading: ReadOptions, say: Say) -> None:
        """Index it; images are read when asked for. Raises `Unusable`, `UnreadableBag`."""
        self.name, self._folder, self._reading = folder.stem, folder, reading
        self._bag: Any = None
        self._process = 0
        self._parts: dict[str, FrameParts] = {}
        self.frames: list[RgbdFrame] = []
        with closing(open_bag(folder)) as bag:
            types = {c.topic: c.msgtype for c in bag.connections}
            self._cameras = _find_cameras(types, say)
            self._index(bag, say)

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        parts = self._parts[frame.name]
        try:
            image, depth_m = decode_rgb(self._read_message(parts.image)), decode_depth_m(self._read_message(parts.depth))
            if self._reading.depth_per_m:
                depth_m = depth_m / np.float32(self._reading.depth_per_m)
            return View(frame.camera, image, parts.intrinsics, frame.stamp_ns, '', depth_m,
                        frame.base_from_cam)
        except (Rejected, ValueError) as error:
            raise UnusableData(f'{self._folder}: {frame.name}: {error}') from error

    def _index(self, bag: Any, say: Say) -> None:
        tracks = TfTrack(say)
        places: dict[str, list[MessageRef]] = {}
        infos: dict[str, Any] = {}
        frame_ids: dict[tuple[str, int], str] = {}
        wanted = {t for topics in self._cameras.values() for t in topics}
        for connection, recorded_ns, raw in bag.messages(
                connections=[c for c in bag.connections if c.topic in wanted | {*TF}]):
            message = bag.deserialize(raw, connection.msgtype)
            if connection.topic in TF:
                tracks.add(message, connection.topic == '/tf_static')
            elif connection.msgtype == INFO:
                infos.setdefault(connection.topic, message)
            else:
                place = MessageRef(connection.topic, recorded_ns, header_stamp_ns(message))
                places.setdefault(connection.topic, []).append(place)
                frame_ids[connection.topic, place.stamp_ns] = message.header.frame_id.lstrip('/')
        tracks.sort()
        self._build_frames(places, infos, frame_ids, tracks, say)

    def _build_frames(self, places: dict[str, list[MessageRef]], infos: dict[str, Any],
              frame_ids: dict[tuple[str, int], str], tracks: TfTrack, say: Say) -> None:
        """Make frames of images, their depth and their pose; what lacks one is said."""
        moved: list[CameraMoved] = []
        for camera, (image, depth, info) in self._cameras.items():
            if info not in infos:
                say(f'{self._folder}: camera {camera} is left out: nothing is on {info}')
                continue
            depths = sorted(places.get(depth, []), key=lambda p: p.stamp_ns)
            for place in sorted(places.get(image, []), key=lambda p: p.stamp_ns):
                try:
                    self._add_frame(camera, place, _nearest_depth(depths, place), infos[info], tracks,
                              frame_ids[place.topic, place.stamp_ns])
                except CameraMoved as problem:
                    moved.append(problem)
                except UnusableData as problem:
                    say(f'{self._folder}: {problem}')
        warn_moved(moved, str(self._folder), say)

    def _add_frame(self, camera: str, image: MessageRef, depth: MessageRef, info: Any, tracks: TfTrack,
             frame_id: str) -> None:
        base = self._reading.base_frame or tracks.root(frame_id)
        name = f'{camera}_{image.stamp_ns}'
        try:
            lens = intrinsics_from_info(info)
            pose, at_depth = (tracks.find(base, frame_id, at.stamp_ns) for at in (image, depth))
        except ValueError as error:
            raise UnusableData(f'{name}: {error}') from error
        check_depth_lag(pose, at_depth, lens.fx_px, name)
        self._parts[name] = FrameParts(image, depth, lens)
        self.frames.append(RgbdFrame(name, camera, image.stamp_ns,
                                 pose.inverse if self._reading.inverted else pose))

    def _read_message(self, place: MessageRef) -> Any:
        if self._bag is None or self._process != os.getpid():  # a file handle is for one process
            self._bag, self._process = open_bag(self._folder), os.getpid()
        own = [c for c in self._bag.connections if c.topic == place.topic]
        for connection, _, raw in self._bag.messages(
                connections=own, start=place.recorded_ns, stop=place.recorded_ns + 1):
            message = self._bag.deserialize(raw, connection.msgtype)
            if header_stamp_ns(message) == place.stamp_ns:
                return message
        raise UnusableData(f'the message on {place.topic} cannot be found again')

    def __getstate__(self) -> dict[str, Any]:
        """For another process: without the open file."""
        return {**self.__dict__, '_bag': None}


def intrinsics_from_info(info: Any) -> Intrinsics:
    """Return the lens that a CameraInfo tells of."""
    return Intrinsics(
        fx_px=float(info.k[0]), fy_px=float(info.k[4]), cx_px=float(info.k[2]),
        cy_px=float(info.k[5]), width_px=int(info.width), height_px=int(info.height),
        distortion=tuple(float(d) for d in info.d), model=info.distortion_model or 'plumb_bob')


def _find_cameras(types: dict[str, str], say: Say) -> dict[str, tuple[str, str, str]]:
    """Image, depth and camera_info topic of each camera that has all three."""
    found = {}
    for name in sorted({t.split('/')[1] for t, kind in types.items() if kind in (RAW, COMPRESSED)}):
        try:
            topics = choose_topics(types, name)
        except ValueError as error:
            say(f'camera {name} is left out: {error}')
            continue
        infos = sorted((t for t, kind in types.items() if kind == INFO
                        and t.startswith(f'/{name}/')), key=lambda t: ('depth' in t, t))
        if not topics.depth or not infos:
            lacks = 'camera_info' if topics.depth else 'depth'
            say(f'camera {name} is left out: it has no {lacks}')
            continue
        found[name] = (topics.image, topics.depth, infos[0])
    if not found:
        raise UnusableData('no camera of it has colour, depth and camera_info')
    return found


def _nearest_depth(depths: list[MessageRef], image: MessageRef) -> MessageRef:
    at = bisect_left(depths, image.stamp_ns, key=lambda d: d.stamp_ns)
    near = min(depths[max(at - 1, 0):at + 1], default=None,
               key=lambda d: abs(d.stamp_ns - image.stamp_ns))
    if near is None or abs(near.stamp_ns - image.stamp_ns) > MAX_LAG_NS:
        raise UnusableData(f'{image.topic} {image.stamp_ns}: it has no depth within '
                       f'{MAX_LAG_NS / 1e6:.0f} ms')
    return near
