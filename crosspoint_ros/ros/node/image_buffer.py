"""A camera's recent images, so that a click is answered on the image that was clicked.

Callbacks add messages; nothing is decoded before a query needs it.
"""
from __future__ import annotations

import threading
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Rejected, Transform, View
from crosspoint_ros.core.tf_tree import nearest_stamp_index, stamp_to_ns
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.camera_checks import ViewMessages, build_view, check_stamp
from crosspoint_ros.ros.conversions import CameraTopics
from crosspoint_ros.ros.node.stream_stamps import (
    MAX_BACKWARD_NS,
    BufferedInfo,
    InfoHistory,
    StampFilter,
)

STAMP_TOLERANCE_NS = 1_000_000  # some web clients keep stamps as float seconds or milliseconds
MIN_HISTORY_NS = 500_000_000  # an image waits this long for its depth, whatever history_s is
INFO_MARGIN_NS = 1_000_000_000  # by which camera infos are kept longer
POLL_S = 0.05  # how often a wait checks whether it should stop


@dataclass(frozen=True)
class BufferLimits:
    """How long images are kept and how closely image and depth must match, s."""

    history_s: float
    max_image_age_s: float
    max_depth_lag_s: float
    max_frames: int = 200


@dataclass(frozen=True, eq=False)
class DecodedView:
    """An image's view, and the messages it was built from."""

    info: BufferedInfo
    depth: BufferedMessage | None
    depth_info: BufferedInfo | None
    view: View

    @property
    def sources(self) -> tuple[object, ...]:
        """What decides whether it is still the view of its image."""
        return self.info, self.depth, self.depth_info


@dataclass(eq=False)
class BufferedMessage:
    """A message and, for an image that a query needed, its decoded view."""

    stamp_ns: int
    msg: Any
    received_ns: int = 0
    decoded: DecodedView | None = None


def reject_transform(target_frame: str, source_frame: str, at_ns: int) -> Transform:
    """Reject every look-up: the default where there is no TF."""
    raise Rejected(Code.NO_TF, f'no transform from {source_frame!r} to {target_frame!r}')


class ImageBuffer:
    """The recent messages of one camera.

    `add_image`, `add_depth` and `add_info` are cheap and thread-safe; the look-ups decode and
    belong in a query's thread. The same image always gives the same `View`, so that a matcher can
    reuse what it computed for it. Every `Rejected` names the topic.

    now_ns: the node's clock, for the age of images.
    mask: (h, w) bool, True where the robot's own body hides the scene.
    lookup_transform: target_from_source of two frames at a stamp, to register depth.
    """

    def __init__(self, topics: CameraTopics, limits: BufferLimits, now_ns: Callable[[], int],
                 mask: npt.NDArray[np.bool_] | None = None,
                 lookup_transform: Callable[[str, str, int], Transform] = reject_transform
                 ) -> None:
        self.topics, self._limits, self._now_ns, self._mask = topics, limits, now_ns, mask
        self._lookup_transform = lookup_transform
        self._images: list[BufferedMessage] = []  # by stamp, the newest last
        self._depths: list[BufferedMessage] = []
        self._window_ns = max(int(limits.history_s * 1e9), MIN_HISTORY_NS)
        max_backward_ns = min(self._window_ns + STAMP_TOLERANCE_NS, MAX_BACKWARD_NS)
        self._image_stamps = StampFilter(topics.image_topic, max_backward_ns)
        self._depth_stamps = StampFilter(topics.depth_topic, max_backward_ns)
        self._infos, self._depth_infos = (
            InfoHistory(topic, self._window_ns + INFO_MARGIN_NS)
            for topic in (topics.info_topic, topics.depth_info_topic))
        self._condition = threading.Condition(threading.RLock())
        self._decode_lock = threading.Lock()

    # --- callbacks

    def add_image(self, msg: Image | CompressedImage) -> float:
        """Add an image; return by how many seconds time has jumped back, 0 if it has not.

        An image whose stamp does not fit those before is dropped until the next one confirms it.
        """
        with self._condition:
            jump_ns = self._add(self._images, self._image_stamps, msg)
        return min(jump_ns, 0) * 1e-9

    def add_depth(self, msg: Image | CompressedImage) -> None:
        """Add a depth image."""
        with self._condition:
            self._add(self._depths, self._depth_stamps, msg)

    def add_info(self, msg: CameraInfo) -> None:
        """Add a camera info."""
        self._add_info(self._infos, msg)

    def add_depth_info(self, msg: CameraInfo) -> None:
        """Add a camera info of the depth."""
        self._add_info(self._depth_infos, msg)

    def _add_info(self, infos: InfoHistory, msg: CameraInfo) -> None:
        with self._condition:
            infos.add(msg, stamp_to_ns(msg.header.stamp), self._now_ns())
            self._condition.notify_all()

    def clear(self) -> None:
        """Drop the images, as when time jumps; the camera info stays."""
        with self._condition:
            for part in (self._images, self._depths, self._image_stamps, self._depth_stamps,
                         self._infos, self._depth_infos):
                part.clear()
            self._condition.notify_all()

    def reset(self) -> None:
        """Drop the images and the camera infos."""
        with self._condition:
            self.clear()
            self._infos.reset()
            self._depth_infos.reset()

    def _add(self, kept: list[BufferedMessage], stamps: StampFilter, msg: Any) -> int:
        """Add a message, or drop it for its stamp; return by how much time has jumped, ns."""
        new = BufferedMessage(stamp_to_ns(msg.header.stamp), msg, self._now_ns())
        jump_ns = stamps.accept(new.stamp_ns, new.received_ns)
        if jump_ns is None:
            return 0
        if jump_ns < 0:  # a bag started again, or a clock was set back
            if kept is self._images:
                self.clear()
            kept.clear()
        insort(kept, new, key=_get_stamp_ns)
        first = bisect_left(kept, kept[-1].stamp_ns - self._window_ns, key=_get_stamp_ns)
        del kept[:max(min(first, len(kept) - 1), len(kept) - self._limits.max_frames)]
        self._condition.notify_all()
        return jump_ns

    # --- look-ups

    def get_newest_stamp_ns(self) -> int | None:
        """Return the stamp of the newest image, None without one."""
        with self._condition:
            return self._images[-1].stamp_ns if self._images else None

    def list_stamps_ns(self) -> list[int]:
        """Return the stamps of the images that are kept."""
        with self._condition:
            return [image.stamp_ns for image in self._images]

    def get_period_s(self) -> float | None:
        """Return the median time between the last usable images, s; None with fewer than two."""
        with self._condition:
            usable = [image.stamp_ns for image in self._images if self._has_depth(image)]
        return float(np.median(np.diff(usable[-5:]))) * 1e-9 if len(usable) > 1 else None

    @property
    def has_info(self) -> bool:
        """Whether a camera info has come."""
        return bool(self._infos)

    @property
    def has_depth(self) -> bool:
        """Whether a depth image is kept."""
        return bool(self._depths)

    def is_ready(self, at_ns: int = 0, max_gap_s: float = 0.0) -> bool:
        """Return whether the image of that stamp (0: a fresh one) is here with info and depth.

        max_gap_s: an image that near will do. Also True if waiting is useless, because later
        images have arrived already.
        """
        with self._condition:
            if not self._images or not self._infos:
                return False
            if self.topics.depth_info_topic and not self._depth_infos:
                return False
            if at_ns == 0 and not self._is_fresh(self._newest_image()):
                return False
            image = self._newest_image() if at_ns == 0 else self._find_image(at_ns, max_gap_s)
            if image is None:
                return self._images[-1].stamp_ns > at_ns
            lag_ns = int(self._limits.max_depth_lag_s * 1e9)
            return self._has_depth(image) or bool(
                self._depths and self._depths[-1].stamp_ns > image.stamp_ns + lag_ns)

    def _is_fresh(self, image: BufferedMessage) -> bool:
        return abs(self._now_ns() - image.stamp_ns) <= self._limits.max_image_age_s * 1e9

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float,
                 should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the predicate holds, and return whether it does; stop on `should_stop`.

        The predicate is called after each change, with the lock held.
        """
        end_s = time.monotonic() + timeout_s
        with self._condition:
            while not predicate():
                left_s = end_s - time.monotonic()
                if left_s <= 0 or should_stop():
                    return False
                self._condition.wait(min(left_s, POLL_S))
            return True

    def get_view_at(self, at_ns: int) -> View:
        """Return the view of that stamp (to 1 ms).

        Raises `Rejected` (STALE if it is not kept, or older than history_s and max_image_age_s: the
        last image of a frozen camera stays in the buffer).
        """
        with self._condition:
            self._require_images()
            image = self._find_image(at_ns)
            if image is None:
                oldest, newest = self._images[0].stamp_ns, self._images[-1].stamp_ns
                raise Rejected(
                    Code.STALE, f'{self.topics.camera} has no image of stamp {_format_stamp(at_ns)}'
                    f' s; it keeps {len(self._images)} from {_format_stamp(oldest)} to '
                    f'{_format_stamp(newest)} s (history_s {self._limits.history_s:g})')
        age_s = (self._now_ns() - image.stamp_ns) / 1e9
        limit_s = self._limits.history_s + self._limits.max_image_age_s
        if age_s > limit_s:
            raise Rejected(Code.STALE, f'the clicked image of {self.topics.camera} is {age_s:.3f} '
                           f's old (history_s {self._limits.history_s:g} and '
                           f'limits.max_image_age_s {self._limits.max_image_age_s:g}): click on a '
                           'newer one')
        return self._decode_view(image)

    def get_newest_view(self) -> View:
        """Return the newest view. Raises `Rejected` (STALE past max_image_age_s).

        An image whose depth has not come yet is passed over for the one before.
        """
        with self._condition:
            self._require_images()
            image = self._newest_image()
        for fault in check_stamp(self.topics, image.stamp_ns):
            raise fault
        if not self._is_fresh(image):
            age_s, hint = (self._now_ns() - image.stamp_ns) / 1e9, ''
            if abs(age_s) > 60:
                hint = '; do stamps and node use the same clock? (use_sim_time, synchronisation)'
            raise Rejected(Code.STALE, f'the newest image on {self.topics.image_topic} is '
                           f'{age_s:.3f} s old (limits.max_image_age_s '
                           f'{self._limits.max_image_age_s:g}){hint}')
        return self._decode_view(image)

    def get_nearest_view(self, at_ns: int, max_gap_s: float) -> View:
        """Return the view nearest to that stamp. Raises `Rejected` (STALE past max_gap_s)."""
        with self._condition:
            self._require_images()
            image = self._find_nearest_image(at_ns)
        gap_s = abs(image.stamp_ns - at_ns) / 1e9
        if gap_s > max_gap_s:
            raise Rejected(Code.STALE, f'the image of {self.topics.camera} nearest to '
                           f'{_format_stamp(at_ns)} s is {gap_s:.3f} s away (limits.max_view_gap_s '
                           f'{max_gap_s:g})')
        return self._decode_view(image)

    def _require_images(self) -> None:
        if not self._images:
            raise Rejected(Code.NO_IMAGE, f'{self.topics.camera}: no image has come on '
                           f'{self.topics.image_topic}; is it published, and with a compatible '
                           'type and QoS?')

    def _newest_image(self) -> BufferedMessage:
        newest = self._images[-1]
        recent = (image for image in reversed(self._images)
                  if image.stamp_ns >= newest.stamp_ns - MIN_HISTORY_NS)
        return next(filter(self._has_depth, recent), newest)

    def _find_nearest_image(self, at_ns: int) -> BufferedMessage:
        by_gap = sorted(self._images, key=lambda image: abs(image.stamp_ns - at_ns))
        return next(filter(self._has_depth, by_gap), by_gap[0])

    def _has_depth(self, image: BufferedMessage) -> bool:
        return not self.topics.depth_topic or self._find_depth(image) is not None

    def _find_image(self, at_ns: int, max_gap_s: float = 0.0) -> BufferedMessage | None:
        """Return the image of that stamp, or within the gap one that has depth, if there is any."""
        image = self._find_nearest_image(at_ns) if max_gap_s else _find_nearest(self._images, at_ns)
        max_gap_ns = max(max_gap_s * 1e9, STAMP_TOLERANCE_NS)
        return image if abs(image.stamp_ns - at_ns) <= max_gap_ns else None

    def _find_depth(self, image: BufferedMessage) -> BufferedMessage | None:
        if not self._depths:
            return None
        depth = _find_nearest(self._depths, image.stamp_ns)
        lag_s = abs(depth.stamp_ns - image.stamp_ns) / 1e9
        return depth if lag_s <= self._limits.max_depth_lag_s else None

    # --- decoding

    def _decode_view(self, image: BufferedMessage) -> View:
        """Return the image's view, decoded once."""
        with self._condition:
            depth = self._find_depth(image) if self.topics.depth_topic else None
            if self.topics.depth_topic and depth is None:
                raise self._build_depth_rejection(image)
        with self._decode_lock:
            done = image.decoded
            rgb = done.view.image if done else conversions.decode_rgb(self.topics, image.msg)
            with self._condition:
                info = self._find_info(image, self._infos, self._images, rgb.shape[1::-1])
                depth_info = None if depth is None or not self.topics.depth_info_topic else \
                    self._find_info(depth, self._depth_infos, self._depths)
            if done and done.sources == (info, depth, depth_info):
                return done.view
            # A newer camera info or nearer depth makes another view of the same array.
            messages = ViewMessages.decode(self.topics, image.msg, info.msg, depth and depth.msg,
                                           depth_info and depth_info.msg, self._mask, rgb)
        # It may wait for TF, so without the lock: another query may be faster.
        new = DecodedView(info, depth, depth_info, build_view(messages, self._lookup_transform))
        with self._decode_lock:
            if image.decoded is None or image.decoded.sources != new.sources:
                image.decoded = new
            return image.decoded.view

    def _find_info(self, taken: BufferedMessage, infos: InfoHistory, kept: list[BufferedMessage],
                   size: tuple[int, int] | None = None) -> BufferedInfo:
        """Return the camera info that applied when an image, or depth, was taken."""
        found = infos.find(taken.stamp_ns, taken.received_ns, {k.stamp_ns for k in kept}, size)
        if found is None:
            is_depth = infos is self._depth_infos
            topic = self.topics.depth_info_topic if is_depth else self.topics.info_topic
            raise Rejected(
                Code.NO_DEPTH if is_depth else Code.NO_IMAGE,
                f'{self.topics.camera}: no camera info has come on {topic}; it is needed for the '
                'rays of pixels')
        return found

    def _build_depth_rejection(self, image: BufferedMessage) -> Rejected:
        topic, limit_s = self.topics.depth_topic, self._limits.max_depth_lag_s
        if not self._depths:
            return Rejected(Code.NO_DEPTH, f'{self.topics.camera}: no depth has come on {topic}; '
                            'is it published? (depth_topic: \'\' does without)')
        lag_s = abs(_find_nearest(self._depths, image.stamp_ns).stamp_ns - image.stamp_ns) / 1e9
        return Rejected(Code.NO_DEPTH, f'the depth on {topic} nearest to the image of '
                        f'{_format_stamp(image.stamp_ns)} s is {lag_s:.3f} s away '
                        f'(limits.max_depth_lag_s {limit_s:g})')


def _get_stamp_ns(kept: BufferedMessage) -> int:
    return kept.stamp_ns


def _find_nearest(kept: list[BufferedMessage], at_ns: int) -> BufferedMessage:
    return kept[nearest_stamp_index([message.stamp_ns for message in kept], at_ns)]


def _format_stamp(ns: int) -> str:
    return f'{ns // 10**9}.{ns % 10**9:09d}'
