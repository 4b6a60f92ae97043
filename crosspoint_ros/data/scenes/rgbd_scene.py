"""Scenes of colour, depth and poses, whoever recorded them: what all layouts offer."""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.core.encodings import DepthM, Rgb, depth_m_from_pixels

Say = Callable[[str], object]
MAX_NORM_ERROR = 0.05  # of a quaternion: more is no rounding, it is something else
MAX_LAG_PX, LAG_AT_M = 2.0, 1.0


class UnusableData(ValueError):  # noqa: N818  (told to the user in one sentence)
    """This file or this item cannot be used, and why."""


class CameraMoved(UnusableData):
    """The camera moved between an image and its depth: they disagree."""


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """One image of a scene; what it holds is read when somebody asks."""

    name: str
    camera: str
    stamp_ns: int
    base_from_cam: Transform


@dataclass(frozen=True)
class ReadOptions:
    """How people want a folder to be read, where the folder itself does not say.

    inverted: its poses are camera_from_world. depth_per_m: what a stored 1 m of depth is, or None
    for what its layout says. base_frame: of a bag; '' for the root of its TF.
    """

    inverted: bool = False
    depth_per_m: float | None = None
    base_frame: str = ''


class RgbdScene(Protocol):
    """Frames that share one frame of reference, and that did not move against it."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def frames(self) -> Sequence[RgbdFrame]:
        """All images that have depth and a pose."""
        ...

    def view(self, frame: RgbdFrame) -> View:
        """Read one frame with its depth. Raises `Unusable`, naming file and item."""
        ...


def read_rgb(path: Path) -> Rgb:
    """Read a picture. Raises `Unusable`."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        raise UnusableData(f'{path}: {_describe_unreadable(path)}')
    return np.ascontiguousarray(picture[..., ::-1])


def read_scaled_depth_m(path: Path, per_m: float) -> DepthM:
    """Read a 16-bit depth picture whose values are metres times `per_m`. Raises `Unusable`."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if raw is None:
        raise UnusableData(f'{path}: {_describe_unreadable(path)}')
    if raw.ndim != 2 or raw.dtype not in (np.uint16, np.float32):
        raise UnusableData(f'{path}: depth is one channel of 16 bits or of float32, this is '
                       f'{raw.dtype} {raw.shape}')
    return depth_m_from_pixels(raw.astype(np.float32) / np.float32(per_m))


def _describe_unreadable(path: Path) -> str:
    if not path.is_file():
        return 'there is no such file'
    return f'{path.stat().st_size} bytes that are no picture'


def read_matrix(path: Path, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Read a matrix of numbers that is written as text. Raises `Unusable`."""
    try:
        values = np.array(path.read_text().split(), float)
    except (OSError, ValueError) as error:
        raise UnusableData(f'{path}: {error}') from error
    if values.size != shape[0] * shape[1]:
        raise UnusableData(f'{path}: {shape[0]} x {shape[1]} numbers are expected, it has '
                       f'{values.size}')
    if not np.isfinite(values).all():
        raise UnusableData(f'{path}: its pose is not known (it has numbers that are not finite)')
    return values.reshape(shape)


def check_depth_lag(at_image: Transform, at_depth: Transform, focal_px: float, item: str) -> None:
    """Raise `Moved` if what lies at `LAG_AT_M` moves by more than `MAX_LAG_PX` in between.

    Both are base_from_cam.
    """
    moved = at_image.inverse @ at_depth
    turn_rad = float(np.linalg.norm(cv2.Rodrigues(moved.R)[0]))
    lag_px = focal_px * (turn_rad + float(np.linalg.norm(moved.t_m)) / LAG_AT_M)
    if lag_px > MAX_LAG_PX:
        raise CameraMoved(f'{item}: between the image and its depth the camera moved by {lag_px:.1f} px '
                    f'(limit {MAX_LAG_PX:g})')


def warn_moved(moved: list[CameraMoved], where: str, say: Say) -> None:
    """Tell of all images that moved in one line: a hand-held camera has many."""
    if moved:
        others = f'; so did it in {len(moved) - 1} more images' if moved[1:] else ''
        say(f'{where}: {moved[0]}{others}: left out')


def pose_from_quaternion(translation: npt.ArrayLike, xyzw: npt.ArrayLike, item: str) -> Transform:
    """Make a pose of a translation, m, and a quaternion. Raises `Unusable`, naming the item."""
    q = np.asarray(xyzw, float)
    length = float(np.linalg.norm(q))
    if not abs(length - 1) <= MAX_NORM_ERROR:
        raise UnusableData(f'{item}: its quaternion has the length {length:.3f} (1 is expected, limit '
                       f'{MAX_NORM_ERROR:g} off)')
    x, y, z, w = q / length
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
    try:
        return Transform(rotation, np.asarray(translation, float))
    except ValueError as error:
        raise UnusableData(f'{item}: {error}') from error


def natural_sort_key(name: str) -> tuple[tuple[int, str], ...]:
    """A key by which 2 comes before 10."""
    return tuple((int(part or 0), '') if part.isdigit() else (0, part)
                 for part in re.split(r'(\d+)', name))
