"""The stamps of a camera's streams: wrong ones, jumps of time, and the lens of an image."""
from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
from sensor_msgs.msg import CameraInfo

from crosspoint_ros.core.datatypes import Code, Rejected

log = logging.getLogger(__name__)
MAX_BACKWARD_NS = 2_000_000_000  # no network delivers images that late out of order
MAX_AHEAD_NS = 1_000_000_000  # of the stamps before, by the delay until reception
LENS_CHANGE_NS = 200_000_000  # images and camera infos may be received that far apart
WARN_PERIOD_S = 10.0
MAX_INFOS, MAX_STAMPS = 200, 600


class StampFilter:
    """Distinguishes one wrong stamp from time that jumped: the next message decides.

    topic: for the log. max_backward_ns: messages older than the newest by more are not just late.
    """

    def __init__(self, topic: str, max_backward_ns: int = MAX_BACKWARD_NS) -> None:
        self._topic, self._max_backward_ns = topic, max_backward_ns
        self._warned_s = float('-inf')
        self.clear()

    def clear(self) -> None:
        """Forget the stamps, as when time jumps."""
        self._newest_ns: int | None = None
        self._suspect_ns: int | None = None
        self._leads_ns: deque[int] = deque(maxlen=100)  # stamp minus time of reception

    def accept(self, stamp_ns: int, now_ns: int) -> int | None:
        """Return by how much time has jumped, ns, 0 if it has not; None to drop the message."""
        newest_ns, suspect_ns, self._suspect_ns = self._newest_ns, self._suspect_ns, None
        jump_ns = 0
        if newest_ns is not None and self._is_wrong(stamp_ns, now_ns, newest_ns):
            if suspect_ns is None or abs(stamp_ns - suspect_ns) >= abs(stamp_ns - newest_ns):
                self._suspect_ns = stamp_ns
                self._warn(stamp_ns, newest_ns)
                return None
            jump_ns = stamp_ns - newest_ns
            self.clear()
        self._newest_ns = max(stamp_ns, self._newest_ns or stamp_ns)
        self._leads_ns.append(stamp_ns - now_ns)
        return jump_ns

    def _is_wrong(self, stamp_ns: int, now_ns: int, newest_ns: int) -> bool:
        return (stamp_ns < newest_ns - self._max_backward_ns
                or stamp_ns - now_ns > max(self._leads_ns) + MAX_AHEAD_NS)

    def _warn(self, stamp_ns: int, newest_ns: int) -> None:
        if time.monotonic() - self._warned_s < WARN_PERIOD_S:
            return
        self._warned_s = time.monotonic()
        log.warning('%s: a message has stamp %.3f s, %+.3f s from the one before; it is dropped '
                    '(time has jumped if the next one agrees)', self._topic, stamp_ns * 1e-9,
                    (stamp_ns - newest_ns) * 1e-9)


@dataclass(eq=False)
class BufferedInfo:
    """Camera infos of one calibration, received one after the other."""

    msg: CameraInfo
    received_ns: int  # the first
    last_received_ns: int
    stamps_ns: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_STAMPS))


class InfoHistory:
    """The camera infos received, and the one that an image was taken with.

    Stamps are compared only while infos carry the stamps of images, as drivers send them. Others
    (of another clock, constant, zero, latched) apply from their reception on.
    """

    def __init__(self, topic: str, history_ns: int) -> None:
        self._topic, self._history_ns = topic, history_ns
        self._infos: list[BufferedInfo] = []  # the newest last

    def __len__(self) -> int:
        return len(self._infos)

    def add(self, msg: CameraInfo, stamp_ns: int, now_ns: int) -> None:
        """Add a camera info, received now."""
        if not self._infos or not _is_same_calibration(self._infos[-1].msg, msg):
            self._infos.append(BufferedInfo(msg, now_ns, now_ns))
            self._infos = [info for info in self._infos[-MAX_INFOS:]
                           if info.last_received_ns >= now_ns - self._history_ns]
        self._infos[-1].stamps_ns.append(stamp_ns)
        self._infos[-1].last_received_ns = now_ns

    def clear(self) -> None:
        """Keep the newest alone, from now on: its stamps are of another time."""
        self._infos = self._infos[-1:]
        for info in self._infos:
            info.stamps_ns.clear()
            info.received_ns = info.last_received_ns = 0

    def reset(self) -> None:
        """Drop all."""
        self._infos = []

    def find(self, stamp_ns: int, received_ns: int, image_stamps_ns: Set[int],
             size: tuple[int, int] | None) -> BufferedInfo | None:
        """Return the camera info of an image; None if none has come.

        image_stamps_ns: of the images that are kept. size: width and height of the image, px; None
        if unknown. Infos of another size are left out if there are others. Raises `Rejected`
        (STALE) when the lens changed and it is unknown which the image was taken with.
        """
        infos = [info for info in self._infos if size in (None, _get_image_size(info.msg))]
        infos = infos or self._infos
        same = [info for info in infos if stamp_ns in info.stamps_ns]
        if same:
            is_unclear, found = not _is_same_calibration(same[0].msg, same[-1].msg), same[-1:]
        elif any(not image_stamps_ns.isdisjoint(info.stamps_ns) for info in self._infos):
            found = [info for info in infos if info.stamps_ns and info.stamps_ns[0] <= stamp_ns]
            is_unclear = 0 < len(found) < len(infos) and found[-1].stamps_ns[-1] < stamp_ns
        else:
            found = [info for info in infos if info.received_ns <= received_ns]
            is_unclear = any(abs(info.received_ns - received_ns) <= LENS_CHANGE_NS
                             for info in infos[1:])
        if is_unclear:
            raise Rejected(Code.STALE, f'{self._topic}: the camera info changed when the image of '
                           f'{stamp_ns * 1e-9:.3f} s was taken, and which one belongs to it is '
                           'unknown: click on a newer image (one driver should publish both, with '
                           'the same stamp)')
        return next(iter(found[-1:] or infos[:1]), None)


def _get_image_size(info: CameraInfo) -> tuple[int, int]:
    """Return width and height of the images, px, as `Intrinsics.from_camera_info` reads them."""
    return ((info.roi.width or info.width) // max(info.binning_x, 1),
            (info.roi.height or info.height) // max(info.binning_y, 1))


def _is_same_calibration(a: CameraInfo, b: CameraInfo) -> bool:
    return ((a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.roi, list(a.d))
            == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.roi, list(b.d))
            and np.array_equal(a.k, b.k) and np.array_equal(a.p, b.p))
