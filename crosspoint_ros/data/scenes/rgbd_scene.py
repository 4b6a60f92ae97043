"""The interface of a scene: frames with colour, depth and poses, whatever the format on disk."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Rejected, Transform, View

log = logging.getLogger(__name__)
MAX_LAG_PX, LAG_DEPTH_M = 2.0, 1.0


class UnusableData(ValueError):  # noqa: N818
    """A scene, frame or file that cannot be used; the message names it and has the reason."""


class CameraMoved(UnusableData):
    """The camera moved between an image and its depth, which therefore disagree."""


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """One frame of a scene; its image and depth are read on demand."""

    name: str
    camera: str
    stamp_ns: int
    base_from_cam: Transform


@dataclass(frozen=True)
class ReadOptions:
    """How to read data that do not specify it."""

    inverted: bool = False  # the poses are camera_from_world
    depth_per_m: float | None = None  # the stored value of 1 m; None: the format's default
    base_frame: str = ''  # of a bag; '' for the root of its TF
    topics: tuple[str, ...] = ()  # of a bag, to prefer where a camera has several


class RgbdScene(Protocol):
    """Frames with poses in one fixed frame of reference."""

    name: str  # in messages
    frames: list[RgbdFrame]  # all images that have depth and a pose

    def view(self, frame: RgbdFrame) -> View:
        """Read one frame with its depth. Raises `UnusableData`, naming file and item."""


@contextmanager
def raise_unusable(*items: object) -> Iterator[None]:
    """Turn the errors of reading and decoding into `UnusableData`; items: prefixes."""
    try:
        yield
    except UnusableData:
        raise
    except (OSError, ValueError, Rejected) as error:
        raise UnusableData(': '.join(map(str, [*items, error]))) from error


def check_depth_lag(at_image: Transform, at_depth: Transform, focal_px: float, item: str) -> None:
    """Raise `CameraMoved` if a point at 1 m moves by more than 2 px from image to depth.

    at_image, at_depth: base_from_cam at the two stamps.
    """
    motion = at_image.inverse @ at_depth
    angle_rad = float(np.linalg.norm(cv2.Rodrigues(motion.R)[0]))
    lag_px = focal_px * (angle_rad + float(np.linalg.norm(motion.t_m)) / LAG_DEPTH_M)
    if lag_px > MAX_LAG_PX:
        raise CameraMoved(f'{item}: the camera moved by {lag_px:.1f} px between the image and its '
                          f'depth (limit {MAX_LAG_PX:g})')


def warn_moved(moved: list[CameraMoved], where: object) -> None:
    """Log all of them in one line: a hand-held camera has many."""
    if moved:
        others = f', and so did it in {len(moved) - 1} more images' if moved[1:] else ''
        log.warning('%s: %s%s: skipped', where, moved[0], others)
