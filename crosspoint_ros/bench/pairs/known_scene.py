"""A recorded scene whose answers are known: a bag, and the truth beside it. Read without ROS."""
from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crosspoint_ros.bench.pairs.dataset import require_keys
from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.encodings import depth_m_from_compressed, rgb_from_compressed
from crosspoint_ros.data.rosbag import open_bag, loop_duration_ns

IMAGE, DEPTH, INFO = 'image', 'depth', 'info'
OCCLUDER_GAP_M = 0.02  # nearer than the point by more than this: something is before it
UNNAMED_POINT = 'wall tile'  # the built-in scene's one point that its author left without a name


class FrameKey(NamedTuple):
    """One image: its camera and its stamp."""

    camera: str
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class Projection:
    """Where a view would show the point (2,), and whether it does."""

    pixel: Array
    visible: bool


@dataclass(frozen=True, eq=False)
class LabelledPoint:
    """A named point: where it was clicked, where every other image shows it, where it is."""

    name: str
    clicked: FrameKey
    pixel: Array
    projections: dict[FrameKey, Projection]
    point_base_m: Array


class KnownScene:
    """Views and truth of one folder: a rosbag2 of compressed images, and `truth.json`.

    Topics are `/<camera>/…/compressed`, `/<camera>/…/compressedDepth` and
    `/<camera>/…/camera_info`.
    """

    def __init__(self, folder: Path, tick_ns: int = 1) -> None:
        """Read it all; raise FileNotFoundError or ValueError, naming what is missing.

        tick_ns: of /clock, where `play_bag` plays it round after round and time goes on.
        """
        truth = folder / 'truth.json'
        if not truth.is_file():
            raise FileNotFoundError(f'{folder} is no recorded scene: it has no truth.json')
        known = json.loads(truth.read_text())
        require_keys(truth, known, ('frames', 'points'))
        self.base_from_cam = {
            FrameKey(frame['camera'], frame['stamp_ns']):
                Transform.from_matrix(frame['base_from_camera']) for frame in known['frames']}
        self.points = tuple(_parse_point(point) for point in known['points'])
        with closing(open_bag(folder)) as bag:
            self._messages = _read_messages(bag, {moment.camera for moment in self.base_from_cam})
            self._round_ns = loop_duration_ns(bag.duration, tick_ns)

    @property
    def frames(self) -> list[FrameKey]:
        """All images, in the order of their stamps."""
        return sorted(self.base_from_cam, key=lambda moment: (moment.stamp_ns, moment.camera))

    def find_frame(self, camera: str, stamp_ns: int) -> FrameKey:
        """Return the image that was played with that stamp, in the first round or a later one.

        Raises KeyError if there is none.
        """
        rounds = (stamp_ns - self.frames[0].stamp_ns) // self._round_ns
        moment = FrameKey(camera, stamp_ns - rounds * self._round_ns)
        self.base_from_cam[moment]
        return moment

    def read_view(self, frame: FrameKey) -> View:
        """Decode one image with its depth, lens and pose; raise KeyError if there is none."""
        image, info = self._messages[IMAGE, frame], self._messages[INFO, frame]
        depth = self._messages.get((DEPTH, frame))
        return View(
            camera=frame.camera, stamp_ns=frame.stamp_ns, frame_id=image.header.frame_id,
            image=rgb_from_compressed(image.data, image.format),
            depth_m=None if depth is None else depth_m_from_compressed(depth.data, depth.format),
            intrinsics=Intrinsics(
                fx_px=info.k[0], fy_px=info.k[4], cx_px=info.k[2], cy_px=info.k[5],
                width_px=info.width, height_px=info.height, distortion=tuple(info.d.tolist()),
                model=info.distortion_model),
            base_from_cam=self.base_from_cam[frame])

    def is_visible(self, frame: FrameKey, point_base_m: Array) -> bool:
        """Tell whether the point is on the image, and no surface of its depth before the point.

        Where the depth is not known, nothing is taken to be before it.
        """
        point_m, around_m = self._sample_depths(frame, point_base_m)
        known = around_m[np.isfinite(around_m)]
        return bool(around_m.size) and not (
            known.size and np.median(known) < point_m - OCCLUDER_GAP_M)

    def is_near_occlusion_edge(self, frame: FrameKey, point_base_m: Array) -> bool:
        """Tell whether the image shows the point's own surface within 2 px of the point.

        Of a point that is hidden by so little nobody can say that it must not be found.
        """
        point_m, around_m = self._sample_depths(frame, point_base_m)
        return bool((np.abs(around_m - point_m) < OCCLUDER_GAP_M).any())

    def _sample_depths(self, frame: FrameKey, point_base_m: Array) -> tuple[float, Array]:
        """The depth of a point, and those the image has within 2 px of it (none: outside)."""
        view = self.read_view(frame)
        point_cam = self.base_from_cam[frame].inverse.transform_points(point_base_m)
        pixel = view.intrinsics.project(point_cam)
        if view.depth_m is None or not np.isfinite(pixel).all() \
                or not view.intrinsics.contains(pixel):
            return float(point_cam[2]), np.empty(0)
        column, row = (max(round(float(p)), 0) for p in pixel)
        return float(point_cam[2]), view.depth_m[
            max(row - 2, 0):row + 3, max(column - 2, 0):column + 3].astype(float)

    def viewing_angle_deg(self, point: LabelledPoint, frame: FrameKey) -> float:
        """The angle at the point between the lines to the clicked camera and to another image."""
        towards = [self.base_from_cam[m].t_m - point.point_base_m
                   for m in (point.clicked, frame)]
        a, b = (line / np.linalg.norm(line) for line in towards)
        return float(np.degrees(np.arccos(np.clip(a @ b, -1.0, 1.0))))


def _parse_point(point: dict[str, Any]) -> LabelledPoint:
    clicked = point['clicked']
    return LabelledPoint(
        name=point['name'] or UNNAMED_POINT,
        clicked=FrameKey(clicked['camera'], clicked['stamp_ns']),
        pixel=np.array(clicked['pixel'], float),
        projections={FrameKey(a['camera'], a['stamp_ns']): Projection(np.array(a['pixel'], float), a['visible'])
              for a in point['answers']},
        point_base_m=np.array(point['point_base_m'], float))


def _read_messages(bag: Any, cameras: set[str]) -> dict[tuple[str, FrameKey], Any]:
    """All images, depths and camera infos of the bag, still compressed, by camera and stamp."""
    endings = {'/compressed': IMAGE, '/compressedDepth': DEPTH, '/camera_info': INFO}
    found = {}
    for connection, _, raw in bag.messages():
        camera = connection.topic.split('/')[1]
        kind = next((k for end, k in endings.items() if connection.topic.endswith(end)), None)
        if kind and camera in cameras:
            message = bag.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp
            moment = FrameKey(camera, stamp.sec * 10**9 + stamp.nanosec)
            found[kind, moment] = message
    return found
