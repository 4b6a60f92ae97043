"""A recorded scene with ground truth: a rosbag2 and `truth.json`, read without ROS."""
from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.encodings import depth_m_from_msg
from crosspoint_ros.data.rosbag import (
    INFO,
    choose_info,
    choose_topics,
    decode_rgb,
    get_header_stamp_ns,
    iter_messages,
    open_bag,
)

GROUND_TRUTH = 'truth.json'
IMAGE, DEPTH, CALIBRATION = 'image', 'depth', 'info'  # a camera's messages
OCCLUDER_GAP_M = 0.02  # a surface this much nearer than a point occludes it
UNNAMED_POINT = 'wall tile'  # the one point of the built-in scene without a name


class FrameKey(NamedTuple):
    """Identifies one image by camera and stamp."""

    camera: str
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class Projection:
    """The pixel (2,) of a point in another image, and whether the point is visible there."""

    pixel: Array
    visible: bool


@dataclass(frozen=True, eq=False)
class LabelledPoint:
    """A named 3D point: the clicked image and pixel, and its projections into all others."""

    name: str
    clicked: FrameKey
    pixel: Array
    projections: dict[FrameKey, Projection]
    point_base_m: Array


class KnownScene:
    """Views and ground truth of a folder: a rosbag2 of compressed images, and `truth.json`."""

    def __init__(self, folder: Path, tick_ns: int = 1) -> None:
        """Read the folder; raise FileNotFoundError or ValueError, naming what is missing.

        tick_ns: the period of /clock while `play_bag` loops the recording.
        """
        path = folder / GROUND_TRUTH
        if not path.is_file():
            raise FileNotFoundError(f'{folder} is not a recorded scene: it has no {GROUND_TRUTH}')
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not {'frames', 'points'} <= content.keys():
            raise ValueError(f'{path} is not ground truth: it needs the keys frames and points')
        self.base_from_cam = {
            FrameKey(frame['camera'], frame['stamp_ns']):
                Transform.from_matrix(frame['base_from_camera']) for frame in content['frames']}
        self.points = tuple(LabelledPoint(
            name=point['name'] or UNNAMED_POINT,
            clicked=FrameKey(point['clicked']['camera'], point['clicked']['stamp_ns']),
            pixel=np.array(point['clicked']['pixel'], float),
            projections={FrameKey(each['camera'], each['stamp_ns']):
                         Projection(np.array(each['pixel'], float), each['visible'])
                         for each in point['answers']},
            point_base_m=np.array(point['point_base_m'], float)) for point in content['points'])
        with closing(open_bag(folder)) as bag:
            self._messages = _read_messages(bag, {key.camera for key in self.base_from_cam})
            self._round_ns = (bag.duration // tick_ns + 1) * tick_ns  # /clock ticks past its end

    @property
    def frames(self) -> list[FrameKey]:
        """All images in the order of their stamps."""
        return sorted(self.base_from_cam, key=lambda key: (key.stamp_ns, key.camera))

    def find_frame(self, camera: str, stamp_ns: int) -> FrameKey:
        """Return the image played with this stamp in any round; raise KeyError for none."""
        rounds = (stamp_ns - self.frames[0].stamp_ns) // self._round_ns
        key = FrameKey(camera, stamp_ns - rounds * self._round_ns)
        self.base_from_cam[key]
        return key

    def read_view(self, frame: FrameKey) -> View:
        """Decode one image with depth, intrinsics and pose; raise KeyError if there is none."""
        image, info = self._messages[IMAGE, frame], self._messages[CALIBRATION, frame]
        depth = self._messages.get((DEPTH, frame))
        return View(
            camera=frame.camera, stamp_ns=frame.stamp_ns, frame_id=image.header.frame_id,
            image=decode_rgb(image), depth_m=None if depth is None else depth_m_from_msg(depth),
            intrinsics=Intrinsics.from_camera_info(info),
            base_from_cam=self.base_from_cam[frame])

    def is_visible(self, frame: FrameKey, point_base_m: Array) -> bool:
        """Return whether the point is in the image, not occluded by any known depth."""
        point_m, around_m = self._sample_depths(frame, point_base_m)
        known = around_m[np.isfinite(around_m)]
        return bool(around_m.size) and not (
            known.size and np.median(known) < point_m - OCCLUDER_GAP_M)

    def is_near_occlusion_edge(self, frame: FrameKey, point_base_m: Array) -> bool:
        """Return whether the surface of an occluded point is visible within 2 px of it.

        Such a point may be found or refused: neither is an error.
        """
        point_m, around_m = self._sample_depths(frame, point_base_m)
        return bool((np.abs(around_m - point_m) < OCCLUDER_GAP_M).any())

    def _sample_depths(self, frame: FrameKey, point_base_m: Array) -> tuple[float, Array]:
        """Return a point's depth and the image's depths within 2 px (none: outside), m."""
        view = self.read_view(frame)
        point_cam_m = self.base_from_cam[frame].inverse.transform_points(point_base_m)
        pixel = view.intrinsics.project(point_cam_m)
        if view.depth_m is None or not np.isfinite(pixel).all() \
                or not view.intrinsics.contains(pixel):
            return float(point_cam_m[2]), np.empty(0)
        column, row = (max(round(float(p)), 0) for p in pixel)
        return float(point_cam_m[2]), view.depth_m[
            max(row - 2, 0):row + 3, max(column - 2, 0):column + 3].astype(float)


def _read_messages(bag: Any, cameras: set[str]) -> dict[tuple[str, FrameKey], Any]:
    """Return all images, depths and camera infos, still compressed, by camera and stamp."""
    types = {c.topic: c.msgtype for c in bag.connections}
    infos = [topic for topic, kind in types.items() if kind == INFO]
    kinds: dict[str, tuple[str, str]] = {}  # by topic
    for camera in cameras:
        image, depth = choose_topics(types, camera)
        kinds |= {image: (IMAGE, camera), depth: (DEPTH, camera),
                  choose_info(infos, image, {}): (CALIBRATION, camera)}
    messages = {}
    for topic, message in iter_messages(bag, kinds):
        kind, camera = kinds[topic]
        messages[kind, FrameKey(camera, get_header_stamp_ns(message))] = message
    return messages
