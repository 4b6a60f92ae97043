"""Collects posed frames of all cameras from a stream of messages, of a bag or live."""
from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Intrinsics, Rejected, Transform, View
from crosspoint_ros.core.encodings import depth_m_from_msg
from crosspoint_ros.core.extrinsics.calibration import CalibrationRefused, Refusal
from crosspoint_ros.core.tf_tree import FrameInfo, TfTree, explain_failure, find_root
from crosspoint_ros.data.rosbag import (
    COMPRESSED,
    INFO,
    MAX_LAG_NS,
    RAW,
    choose_info,
    choose_topics,
    decode_rgb,
    get_header_stamp_ns,
)
from crosspoint_ros.data.scenes.rosbag import CameraTopicSet

log = logging.getLogger(__name__)
TF, TF_STATIC = '/tf', '/tf_static'
SETTLE_NS, GIVE_UP_NS = 100_000_000, 1_000_000_000  # until TF and depth of an image have come
SPACING_DEG, SPACING_M, SPACING_NS = 3.0, 0.03, 300_000_000  # between the frames that are kept
MAX_MOVING, MAX_STILL = 36, 4  # frames of a camera
LOOSE_M, LOOSE_DEG = 0.002, 0.2  # by which a mount may change
MIN_POSED_SHARE = 0.5
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PosedView:
    """A view and the pose of the body that carries its camera; number: of the image."""

    view: View
    base_from_body: Transform
    number: int


@dataclass(frozen=True)
class CameraFrames:
    """The frames of TF around a camera: body is the hand, or the base for a still camera."""

    base: str
    body: str
    camera: str

    @property
    def is_still(self) -> bool:
        return self.base == self.body


@dataclass(eq=False)
class CameraStream:
    """What has come of a camera."""

    topics: CameraTopicSet
    lens: Intrinsics | None = None
    frames: CameraFrames | None = None
    body_from_cam: Transform | None = None
    images: list[Any] = field(default_factory=list)  # that wait for TF
    depths: list[Any] = field(default_factory=list)
    views: list[PosedView] = field(default_factory=list)
    spread: float = 1.0  # of the spacing
    seen: int = 0
    unposed: int = 0
    fault: str = ''


class FrameCollector:
    """Takes messages in the order of arrival, and keeps frames at different poses.

    target: the camera to be calibrated; hand_frame: what carries it, '' for the frame that moves
    nearest to it in TF. Messages of topics that are not in `topics` must not be added.
    """

    def __init__(self, cameras: Mapping[str, CameraTopicSet], target: str, hand_frame: str = '',
                 base_frame: str = '', with_depth: bool = True, mask: Mask | None = None) -> None:
        self.streams = {name: CameraStream(topics) for name, topics in cameras.items()}
        self.tree = TfTree(history_ns=None)
        self._target, self._hand, self._base = target, hand_frame, base_frame
        self._with_depth, self._mask = with_depth, mask
        self._roles = {topic: (name, kind) for name, topics in cameras.items()
                       for kind, topic in topics._asdict().items() if topic}
        self._newest_ns = 0
        self._numbers = 0

    @property
    def topics(self) -> set[str]:
        return {TF, TF_STATIC, *self._roles}

    def add(self, topic: str, message: Any) -> list[PosedView]:
        """Add a message; return the frames that are kept from now on.

        Raises ValueError if the hand frame does not carry the camera.
        """
        if topic in (TF, TF_STATIC):
            self.tree.add(message, topic == TF_STATIC)
            return []
        name, kind = self._roles[topic]
        stream = self.streams[name]
        if kind == 'info':
            if stream.lens is None:
                rectified = any(p.startswith('image_rect') for p in stream.topics.image.split('/'))
                stream.lens = Intrinsics.from_camera_info(message, rectified=rectified)
            return []
        self._newest_ns = max(self._newest_ns, get_header_stamp_ns(message))
        if kind == 'depth':
            stream.depths = [*stream.depths[-30:], message]
            return []
        stream.images.append(message)
        stream.seen += 1
        return self._settle(stream, SETTLE_NS)

    def finish(self) -> list[PosedView]:
        """Return the frames that were still waiting. Raises `CalibrationRefused` without poses."""
        views = [view for stream in self.streams.values() for view in self._settle(stream, 0, True)]
        stream = self.streams[self._target]
        if stream.seen and stream.unposed > (1 - MIN_POSED_SHARE) * stream.seen:
            raise CalibrationRefused(Refusal.NO_POSES, (
                f'TF places {self._target} at the stamps of {stream.seen - stream.unposed} of its '
                f'{stream.seen} images (at least {MIN_POSED_SHARE:.0%}): {stream.fault}'))
        return views

    def _settle(self, stream: CameraStream, wait_ns: int, last: bool = False) -> list[PosedView]:
        """Take the images whose TF and depth should have come by now."""
        views, waiting = [], []
        for message in stream.images:
            stamp_ns = get_header_stamp_ns(message)
            age_ns = self._newest_ns - stamp_ns
            if age_ns < wait_ns:
                waiting.append(message)
                continue
            pose = None if stream.lens is None else self._find_pose(stream, message)
            if pose is not None:
                views += self._keep(stream, message, pose)
            elif last or age_ns > GIVE_UP_NS:
                stream.unposed += 1
            else:
                waiting.append(message)
        stream.images = waiting
        return views

    def _find_pose(self, stream: CameraStream, message: Any) -> Transform | None:
        """Return base_from_body at the image's stamp; None if TF does not know it."""
        stamp_ns, frame = get_header_stamp_ns(message), message.header.frame_id.lstrip('/')
        known = self.tree.frames()
        try:
            base = self._base or find_root(known, frame)
        except ValueError as error:
            stream.fault = str(error)
            return None
        is_target = stream is self.streams[self._target]
        body = self._hand if is_target and self._hand else find_body(known, base, frame)
        base_from_body = self.tree.lookup(base, body, stamp_ns)
        body_from_cam = self.tree.lookup(body, frame, stamp_ns)
        if base_from_body is None or body_from_cam is None:
            stream.fault = (self.tree.explain_conflict(base, frame, stamp_ns)
                            or explain_failure(known, base, body, stamp_ns)
                            if base_from_body is None
                            else explain_failure(known, body, frame, stamp_ns))
            return None
        if stream.body_from_cam is None:
            stream.frames = CameraFrames(base, body, frame)
            stream.body_from_cam = body_from_cam
        moved = stream.body_from_cam.inverse @ body_from_cam
        turned_deg = float(np.degrees(np.linalg.norm(cv2.Rodrigues(moved.R)[0])))
        if np.linalg.norm(moved.t_m) > LOOSE_M or turned_deg > LOOSE_DEG:
            raise ValueError(f'{frame} moves against {body} by {np.linalg.norm(moved.t_m):.3f} m '
                             f'and {turned_deg:.1f} deg: --hand-frame must be the last frame that '
                             'moves with the camera')
        return base_from_body

    def _keep(self, stream: CameraStream, message: Any, pose: Transform) -> list[PosedView]:
        """Return the frame if its pose is new; thin out when there are too many."""
        assert stream.lens is not None
        assert stream.frames is not None
        assert stream.body_from_cam is not None
        stamp_ns = get_header_stamp_ns(message)
        still = stream.frames.is_still
        if still and (len(stream.views) >= MAX_STILL or any(
                abs(v.view.stamp_ns - stamp_ns) < SPACING_NS for v in stream.views)):
            return []
        if not still and any(_measure_spacing(v.base_from_body, pose) < stream.spread
                             for v in stream.views):
            return []
        name = next(n for n, each in self.streams.items() if each is stream)
        try:
            view = View(name, decode_rgb(message), stream.lens, stamp_ns, stream.frames.camera,
                        self._find_depth(stream, message), pose @ stream.body_from_cam,
                        self._mask if name == self._target else None)
        except (Rejected, ValueError) as error:
            log.warning('%s: an image is skipped: %s', name, error)
            return []
        self._numbers += 1
        stream.views.append(PosedView(view, pose, self._numbers))
        if len(stream.views) > MAX_MOVING:
            stream.spread *= 1.4
            kept: list[PosedView] = []
            for each in stream.views:
                if all(_measure_spacing(k.base_from_body, each.base_from_body) >= stream.spread
                       for k in kept):
                    kept.append(each)
            stream.views = kept
        return [each for each in stream.views if each.number == self._numbers]

    def _find_depth(self, stream: CameraStream, message: Any) -> Any:
        stamp_ns, frame = get_header_stamp_ns(message), message.header.frame_id
        near = [(abs(get_header_stamp_ns(d) - stamp_ns), i) for i, d in enumerate(stream.depths)
                if d.header.frame_id == frame]
        if not self._with_depth or not near or min(near)[0] > MAX_LAG_NS:
            return None
        depth_m = depth_m_from_msg(stream.depths[min(near)[1]])
        return depth_m if stream.lens is not None and depth_m.shape == (
            stream.lens.height_px, stream.lens.width_px) else None


def _measure_spacing(a: Transform, b: Transform) -> float:
    """Return how far two poses are apart, in units of the spacing."""
    turn_deg = float(np.degrees(np.linalg.norm(cv2.Rodrigues(a.R.T @ b.R)[0])))
    return turn_deg / SPACING_DEG + float(np.linalg.norm(a.t_m - b.t_m)) / SPACING_M


def find_body(frames: Mapping[str, FrameInfo], base: str, camera: str) -> str:
    """Return the frame that carries a camera: the first above it that moves, or else the base."""
    name = camera
    while name != base and name in frames and frames[name].static:
        name = frames[name].parent
    return name if name in frames and name != base else base


def find_camera_topics(types: Mapping[str, str], target: str, image: str = '', depth: str = ''
                       ) -> dict[str, CameraTopicSet]:
    """Return the topics of the target and of all other cameras, by name; depth is '' for none.

    types: topic -> type. image, depth: of the target, '' to find them. Raises ValueError if the
    target has no images or no camera_info.
    """
    infos = [topic for topic, kind in types.items() if kind == INFO]
    names = {topic.split('/')[1] for topic, kind in types.items() if kind in (RAW, COMPRESSED)}
    found: dict[str, CameraTopicSet] = {}
    for name in sorted(names | {target}):
        try:
            topics = choose_topics(types, name, *((image, depth) if name == target else ()))
            found[name] = CameraTopicSet(topics.image, topics.depth,
                                         choose_info(infos, topics.image, {}))
        except ValueError as error:
            if name == target:
                raise
            log.info('camera %s takes no part: %s', name, error)
    return found


def select_streams(streams: Mapping[str, CameraStream], target: str, others: Collection[str]
                   ) -> dict[str, CameraStream]:
    """Return the cameras with frames: the target, and of the others those that are named."""
    return {name: stream for name, stream in streams.items()
            if stream.views and (name == target or not others or name in others)}

