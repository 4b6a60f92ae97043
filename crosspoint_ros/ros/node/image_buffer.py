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

from crosspoint_ros.core.datatypes import Code, Rejected, View
from crosspoint_ros.core.tf_tree import nearest_stamp_index, stamp_to_ns
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.conversions import CameraTopics

STAMP_TOLERANCE_NS = 1_000_000  # some web clients keep stamps as float seconds or milliseconds
MIN_HISTORY_NS = 500_000_000  # an image waits this long for its depth, whatever history_s is
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

    info: BufferedMessage
    depth: BufferedMessage | None
    view: View


@dataclass(eq=False)
class BufferedMessage:
    """A message and, for an image that a query needed, its decoded view."""

    stamp_ns: int
    msg: Any
    decoded: DecodedView | None = None


class ImageBuffer:
    """The recent messages of one camera.

    `add_image`, `add_depth` and `add_info` are cheap and thread-safe; the look-ups decode and
    belong in a query's thread. The same image always gives the same `View`, so that a matcher can
    reuse what it computed for it. Every `Rejected` names the topic.

    now_ns: the node's clock, for the age of images.
    mask: (h, w) bool, True where the robot's own body hides the scene.
    """

    def __init__(self, topics: CameraTopics, limits: BufferLimits, now_ns: Callable[[], int],
                 mask: npt.NDArray[np.bool_] | None = None) -> None:
        self.topics, self._limits, self._now_ns, self._mask = topics, limits, now_ns, mask
        self._images: list[BufferedMessage] = []  # by stamp, the newest last
        self._depths: list[BufferedMessage] = []
        self._infos: list[BufferedMessage] = []  # only those that differ from the one before
        self._condition = threading.Condition(threading.RLock())
        self._decode_lock = threading.Lock()

    # --- callbacks

    def add_image(self, msg: Image | CompressedImage) -> None:
        """Add an image."""
        self._add(self._images, msg)

    def add_depth(self, msg: Image | CompressedImage) -> None:
        """Add a depth image."""
        self._add(self._depths, msg)

    def add_info(self, msg: CameraInfo) -> None:
        """Add a camera info if its calibration differs from the last one."""
        with self._condition:
            if not self._infos or not _is_same_calibration(self._infos[-1].msg, msg):
                info = BufferedMessage(stamp_to_ns(msg.header.stamp), msg)
                self._infos = [*self._infos[-7:], info]
            self._condition.notify_all()

    def clear(self) -> None:
        """Drop the images, as when time jumps; the camera info stays."""
        with self._condition:
            self._images.clear()
            self._depths.clear()
            for info in self._infos:
                info.stamp_ns = 0
            self._condition.notify_all()

    def _add(self, kept: list[BufferedMessage], msg: Any) -> None:
        new = BufferedMessage(stamp_to_ns(msg.header.stamp), msg)
        window_ns = max(int(self._limits.history_s * 1e9), MIN_HISTORY_NS)
        with self._condition:
            if kept and new.stamp_ns < kept[-1].stamp_ns - window_ns - STAMP_TOLERANCE_NS:
                self.clear()  # a bag started again, or a clock was set back
            insort(kept, new, key=_get_stamp_ns)
            oldest_ns = kept[-1].stamp_ns - window_ns
            first = bisect_left(kept, oldest_ns, key=_get_stamp_ns)
            del kept[:max(min(first, len(kept) - 1), len(kept) - self._limits.max_frames)]
            self._condition.notify_all()

    # --- look-ups

    def get_newest_stamp_ns(self) -> int | None:
        """Return the stamp of the newest image, None without one."""
        with self._condition:
            return self._images[-1].stamp_ns if self._images else None

    @property
    def has_info(self) -> bool:
        """Whether a camera info has come."""
        return bool(self._infos)

    @property
    def has_depth(self) -> bool:
        """Whether a depth image is kept."""
        return bool(self._depths)

    def is_ready(self, at_ns: int = 0) -> bool:
        """Return whether the image of that stamp (0: the newest) is here with info and depth.

        Also True if waiting is useless, because later images have arrived already.
        """
        with self._condition:
            if not self._images or not self._infos:
                return False
            image = self._newest_image() if at_ns == 0 else self._find_image(at_ns)
            if image is None:
                return self._images[-1].stamp_ns > at_ns
            lag_ns = int(self._limits.max_depth_lag_s * 1e9)
            return self._has_depth(image) or bool(
                self._depths and self._depths[-1].stamp_ns > image.stamp_ns + lag_ns)

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
        age_s, limit_s = (self._now_ns() - image.stamp_ns) / 1e9, self._limits.max_image_age_s
        if not -limit_s <= age_s <= limit_s:
            hint = ''
            if abs(age_s) > 60:
                hint = '; do stamps and node use the same clock? (use_sim_time, synchronisation)'
            raise Rejected(Code.STALE, f'the newest image on {self.topics.image_topic} is '
                           f'{age_s:.3f} s old (limits.max_image_age_s {limit_s:g}){hint}')
        return self._decode_view(image)

    def get_nearest_view(self, at_ns: int, max_gap_s: float) -> View:
        """Return the view nearest to that stamp. Raises `Rejected` (STALE past max_gap_s)."""
        with self._condition:
            self._require_images()
            by_gap = sorted(self._images, key=lambda image: abs(image.stamp_ns - at_ns))
            image = next(filter(self._has_depth, by_gap), by_gap[0])
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

    def _has_depth(self, image: BufferedMessage) -> bool:
        return not self.topics.depth_topic or self._find_depth(image) is not None

    def _find_image(self, at_ns: int) -> BufferedMessage | None:
        image = _find_nearest(self._images, at_ns)
        return image if abs(image.stamp_ns - at_ns) <= STAMP_TOLERANCE_NS else None

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
            info = self._find_info(image)
            depth = self._find_depth(image) if self.topics.depth_topic else None
            if self.topics.depth_topic and depth is None:
                raise self._build_depth_rejection(image)
        with self._decode_lock:
            done = image.decoded
            if done is None or (done.info, done.depth) != (info, depth):
                # A newer camera info or nearer depth makes another view of the same array.
                rgb = done.view.image if done else conversions.decode_rgb(self.topics, image.msg)
                view = conversions.build_view(self.topics, image.msg, rgb, info.msg,
                                              depth and depth.msg, self._mask)
                done = image.decoded = DecodedView(info, depth, view)
            return done.view

    def _find_info(self, image: BufferedMessage) -> BufferedMessage:
        """Return the camera info that applied when the image was taken."""
        if not self._infos:
            raise Rejected(Code.NO_IMAGE, f'{self.topics.camera}: no camera info has come on '
                           f'{self.topics.info_topic}; it is needed for the rays of pixels')
        until = [info for info in self._infos if info.stamp_ns <= image.stamp_ns]
        return until[-1] if until else self._infos[0]

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


def _is_same_calibration(a: CameraInfo, b: CameraInfo) -> bool:
    return ((a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.roi, list(a.d))
            == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.roi, list(b.d))
            and np.array_equal(a.k, b.k) and np.array_equal(a.p, b.p))
