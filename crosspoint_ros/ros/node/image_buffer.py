"""The short memory of images, one a camera: a click is answered on the image that was clicked.

Callbacks add messages as they come; nothing is decoded until a query asks for it.
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
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.conversions import Source, stamp_ns

SAME_STAMP_NS = 1_000_000  # some web clients carry stamps as float seconds or in milliseconds
PAIRING_NS = 500_000_000  # an image waits this long for its depth and info, whatever the history
POLL_S = 0.05  # how often a wait asks whether it should stop


@dataclass(frozen=True)
class Memory:
    """How long images are remembered and how well their parts must fit. Seconds."""

    history_s: float
    max_image_age_s: float
    max_depth_lag_s: float
    max_frames: int = 200


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image's view, and what it was made with."""

    info: Stamped
    depth: Stamped | None
    view: View


@dataclass(eq=False)
class Stamped:
    """A message and, for an image that somebody asked for, what it decoded to."""

    stamp_ns: int
    msg: Any
    decoded: Decoded | None = None


class FrameMemory:
    """What one camera has sent lately.

    `add_image`, `add_depth` and `add_info` are cheap and may be called from any thread; the
    look-ups decode, and belong in a query's thread. Asking twice for the same image gives the same
    `View`, so that what a matcher has computed for it stays good. Every refusal is a `Rejected`
    that names the topic.

    now_ns: the node's clock, by which images are too old.
    mask: (h, w) bool, True where the robot's own body hides the scene.
    """

    def __init__(self, source: Source, memory: Memory, now_ns: Callable[[], int],
                 mask: npt.NDArray[np.bool_] | None = None) -> None:
        self.source, self._memory, self._now_ns, self._mask = source, memory, now_ns, mask
        self._images: list[Stamped] = []  # by stamp, the newest last
        self._depths: list[Stamped] = []
        self._infos: list[Stamped] = []  # only those that differ from the one before
        self._changed = threading.Condition(threading.RLock())
        self._decoding = threading.Lock()

    # --- what callbacks do

    def add_image(self, msg: Image | CompressedImage) -> None:
        """Remember an image."""
        self._add(self._images, msg)

    def add_depth(self, msg: Image | CompressedImage) -> None:
        """Remember a depth image."""
        self._add(self._depths, msg)

    def add_info(self, msg: CameraInfo) -> None:
        """Remember the lens, if it is another one."""
        with self._changed:
            if not self._infos or not _same_lens(self._infos[-1].msg, msg):
                self._infos = [*self._infos[-7:], Stamped(stamp_ns(msg.header.stamp), msg)]
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget the images, as when time jumps; the lens stays."""
        with self._changed:
            self._images.clear()
            self._depths.clear()
            for info in self._infos:
                info.stamp_ns = 0
            self._changed.notify_all()

    def _add(self, kept: list[Stamped], msg: Any) -> None:
        new = Stamped(stamp_ns(msg.header.stamp), msg)
        window_ns = max(int(self._memory.history_s * 1e9), PAIRING_NS)
        with self._changed:
            if kept and new.stamp_ns < kept[-1].stamp_ns - window_ns - SAME_STAMP_NS:
                self.clear()  # a bag began again, or a clock was set back
            insort(kept, new, key=_stamp)
            oldest_ns = kept[-1].stamp_ns - window_ns
            first = bisect_left(kept, oldest_ns, key=_stamp)
            del kept[:max(min(first, len(kept) - 1), len(kept) - self._memory.max_frames)]
            self._changed.notify_all()

    # --- what queries ask

    def newest_ns(self) -> int | None:
        """Return the stamp of the newest image, None without one."""
        with self._changed:
            return self._images[-1].stamp_ns if self._images else None

    @property
    def has_info(self) -> bool:
        """Tell whether the lens is known."""
        return bool(self._infos)

    @property
    def has_depth(self) -> bool:
        """Tell whether depth is remembered."""
        return bool(self._depths)

    def ready(self, at_ns: int = 0) -> bool:
        """Tell whether the image of that stamp (0: the newest) is here with info and depth.

        Also True when waiting longer cannot bring it: later images are here already.
        """
        with self._changed:
            if not self._images or not self._infos:
                return False
            image = self._newest() if at_ns == 0 else self._find(at_ns)
            if image is None:
                return self._images[-1].stamp_ns > at_ns
            lag_ns = int(self._memory.max_depth_lag_s * 1e9)
            return self._has_depth(image) or bool(
                self._depths and self._depths[-1].stamp_ns > image.stamp_ns + lag_ns)

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float,
                 should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the predicate holds and return whether it does; give up on `should_stop`.

        The predicate is called when something was added; its own look at this memory is safe.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not predicate():
                left_s = end_s - time.monotonic()
                if left_s <= 0 or should_stop():
                    return False
                self._changed.wait(min(left_s, POLL_S))
            return True

    def at(self, at_ns: int) -> View:
        """Return the view of that stamp (to 1 ms).

        Raises `Rejected` (STALE if it is not here, or past history_s and max_image_age_s: the last
        image of a camera that is frozen stays in memory).
        """
        with self._changed:
            self._need_images()
            image = self._find(at_ns)
            if image is None:
                oldest, newest = self._images[0].stamp_ns, self._images[-1].stamp_ns
                raise Rejected(Code.STALE, f'{self.source.camera} has no image of stamp '
                               f'{_s(at_ns)} s; it remembers {len(self._images)} from {_s(oldest)} '
                               f'to {_s(newest)} s (history_s {self._memory.history_s:g})')
        age_s = (self._now_ns() - image.stamp_ns) / 1e9
        limit_s = self._memory.history_s + self._memory.max_image_age_s
        if age_s > limit_s:
            raise Rejected(Code.STALE, f'the clicked image of {self.source.camera} is {age_s:.3f} '
                           f's old (history_s {self._memory.history_s:g} and '
                           f'limits.max_image_age_s {self._memory.max_image_age_s:g}): click on a '
                           'newer one')
        return self._view(image)

    def newest(self) -> View:
        """Return the newest view. Raises `Rejected` (STALE past max_image_age_s).

        An image whose depth is still on its way is passed over for the one before.
        """
        with self._changed:
            self._need_images()
            image = self._newest()
        age_s, limit_s = (self._now_ns() - image.stamp_ns) / 1e9, self._memory.max_image_age_s
        if not -limit_s <= age_s <= limit_s:
            hint = ''
            if abs(age_s) > 60:
                hint = '; are stamps and clock of one kind? (use_sim_time, clock synchronisation)'
            raise Rejected(Code.STALE, f'the newest image on {self.source.image_topic} is '
                           f'{age_s:.3f} s old (limits.max_image_age_s {limit_s:g}){hint}')
        return self._view(image)

    def nearest(self, at_ns: int, max_gap_s: float) -> View:
        """Return the view nearest to that stamp. Raises `Rejected` (STALE past max_gap_s)."""
        with self._changed:
            self._need_images()
            image = _nearest(list(filter(self._has_depth, self._images)) or self._images, at_ns)
        gap_s = abs(image.stamp_ns - at_ns) / 1e9
        if gap_s > max_gap_s:
            raise Rejected(Code.STALE, f'the image of {self.source.camera} nearest to '
                           f'{_s(at_ns)} s is {gap_s:.3f} s away (limits.max_view_gap_s '
                           f'{max_gap_s:g})')
        return self._view(image)

    def _need_images(self) -> None:
        if not self._images:
            raise Rejected(Code.NO_IMAGE, f'{self.source.camera}: no image has come on '
                           f'{self.source.image_topic}; is it published, and with a compatible '
                           'type and QoS?')

    def _newest(self) -> Stamped:
        newest = self._images[-1]
        recent = (image for image in reversed(self._images)
                  if image.stamp_ns >= newest.stamp_ns - PAIRING_NS)
        return next(filter(self._has_depth, recent), newest)

    def _has_depth(self, image: Stamped) -> bool:
        return not self.source.depth_topic or self._depth_of(image) is not None

    def _find(self, at_ns: int) -> Stamped | None:
        image = _nearest(self._images, at_ns)
        return image if abs(image.stamp_ns - at_ns) <= SAME_STAMP_NS else None

    def _depth_of(self, image: Stamped) -> Stamped | None:
        if not self._depths:
            return None
        depth = _nearest(self._depths, image.stamp_ns)
        lag_s = abs(depth.stamp_ns - image.stamp_ns) / 1e9
        return depth if lag_s <= self._memory.max_depth_lag_s else None

    # --- decoding

    def _view(self, image: Stamped) -> View:
        """Return the image's view, decoded once."""
        with self._changed:
            info = self._info_of(image)
            depth = self._depth_of(image) if self.source.depth_topic else None
            if self.source.depth_topic and depth is None:
                raise self._no_depth(image)
        with self._decoding:
            done = image.decoded
            if done is None or (done.info, done.depth) != (info, depth):
                # A lens or a nearer depth that came since makes another view of the same array.
                picture = done.view.image if done else conversions.rgb(self.source, image.msg)
                view = conversions.view(self.source, image.msg, picture, info.msg,
                                     depth and depth.msg, self._mask)
                done = image.decoded = Decoded(info, depth, view)
            return done.view

    def _info_of(self, image: Stamped) -> Stamped:
        """Return the lens that held when the image was taken."""
        if not self._infos:
            raise Rejected(Code.NO_IMAGE, f'{self.source.camera}: no camera info has come on '
                           f'{self.source.info_topic}; without it no pixel has a ray')
        until = [info for info in self._infos if info.stamp_ns <= image.stamp_ns]
        return until[-1] if until else self._infos[0]

    def _no_depth(self, image: Stamped) -> Rejected:
        topic, limit_s = self.source.depth_topic, self._memory.max_depth_lag_s
        if not self._depths:
            return Rejected(Code.NO_DEPTH, f'{self.source.camera}: no depth has come on {topic}; '
                            'is it published? (depth_topic: \'\' does without)')
        lag_s = abs(_nearest(self._depths, image.stamp_ns).stamp_ns - image.stamp_ns) / 1e9
        return Rejected(Code.NO_DEPTH, f'the depth on {topic} nearest to the image of '
                        f'{_s(image.stamp_ns)} s is {lag_s:.3f} s away (limits.max_depth_lag_s '
                        f'{limit_s:g})')


def _stamp(kept: Stamped) -> int:
    return kept.stamp_ns


def _nearest(kept: list[Stamped], at_ns: int) -> Stamped:
    after = bisect_left(kept, at_ns, key=_stamp)
    return min(kept[max(after - 1, 0):after + 1], key=lambda each: abs(each.stamp_ns - at_ns))


def _s(ns: int) -> str:
    return f'{ns // 10**9}.{ns % 10**9:09d}'


def _same_lens(a: CameraInfo, b: CameraInfo) -> bool:
    return ((a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.roi, list(a.d))
            == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.roi, list(b.d))
            and np.array_equal(a.k, b.k) and np.array_equal(a.p, b.p))
