"""Sets of real pairs on disk: views, queries and their truth."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Query, Rejected, Transform, View
from crosspoint_ros.data.scenes.rgbd_scene import Say

LOG = logging.getLogger(__name__)
INDEX, QUERIES = 'index.json', 'queries.npz'
MAX_STRETCH = 1e-3  # of a rotation that was written with few digits
ANGLE_BINS = ('0-15', '15-30', '30-45', '45+', 'unknown')


class Status(IntEnum):
    """Whether the other view shows the point: `status` in queries.npz."""

    OCCLUDED = 0
    VISIBLE = 1
    OUT_OF_VIEW = 2


@dataclass(frozen=True)
class InputConfig:
    """What the matcher is told besides the images, and how wrong the poses are made."""

    poses: bool = True
    depth: bool = True
    noise_cm: float = 0.0
    noise_deg: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LabelledQuery:
    """One question with its answer. truth: pixel (2,) in the other view; bin: viewing angle."""

    query: Query
    ground_truth: Array
    status: Status
    pair: int
    bin: str


class PairSource(Protocol):
    """Questions about pairs of images; those of one pair follow each other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[LabelledQuery]: ...


class PairFolderSource:
    """A folder of `index.json`, `queries.npz` and `frames/`: pairs of images with queries."""

    def __init__(self, folder: Path, inputs: InputConfig, mask: npt.NDArray[np.bool_] | None,
                 say: Say = LOG.warning) -> None:
        """Raises FileNotFoundError or ValueError, naming the file and what it lacks."""
        for name in (INDEX, QUERIES):
            if not (folder / name).is_file():
                raise FileNotFoundError(f'{folder} is no set of pairs: it has no {name}')
        self._folder, self._inputs, self._mask, self._say = folder, inputs, mask, say
        self._index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        require_keys(folder / INDEX, self._index, ('pairs', 'frames', 'bins', 'depth_scale'))
        with np.load(folder / QUERIES) as queries:
            self._queries = dict(queries)
        require_keys(folder / QUERIES, self._queries, ('p', 'gt', 'pair', 'status'))
        if not len(self):
            raise ValueError(f'{folder / QUERIES} holds 0 queries (at least 1)')
        self._views: dict[str, View] = {}

    def __len__(self) -> int:
        return len(self._queries['p'])

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries pair by pair."""
        for number, pair in enumerate(self._index['pairs']):
            views = read_pair(partial(self._read_pair, number, pair),
                              f'{self._folder / INDEX}: pair {number}', self._say)
            if views is None:
                continue
            clicked, other = views
            for row in np.flatnonzero(self._queries['pair'] == number):
                yield LabelledQuery(Query(clicked, other, self._queries['p'][row].astype(np.float64)),
                           self._queries['gt'][row].astype(np.float64),
                           Status(int(self._queries['status'][row])), number,
                           self._index['bins'][pair['bin']])

    def _read_pair(self, number: int, pair: dict[str, Any]) -> tuple[View, View]:
        other_from_clicked = Transform.from_noisy_matrix(pair['T_BA'], MAX_STRETCH)
        views = (replace(self._read_view(pair['A']), base_from_cam=Transform(np.eye(3), np.zeros(3))),
                 replace(self._read_view(pair['B']), base_from_cam=other_from_clicked.inverse))
        return apply_inputs(views, self._inputs, number)

    def _read_view(self, name: str) -> View:
        if name not in self._views:
            image = _read_image(self._folder / 'frames' / f'{name}.png', cv2.IMREAD_COLOR)
            K = self._index['frames'][name]['K']
            height, width = image.shape[:2]
            self._views[name] = View(
                camera=name, image=np.ascontiguousarray(image[..., ::-1]), mask=self._mask,
                intrinsics=Intrinsics(K[0][0], K[1][1], K[0][2], K[1][2], width, height),
                depth_m=self._read_depth_m(name) if self._inputs.depth else None)
        return self._views[name]

    def _read_depth_m(self, name: str) -> npt.NDArray[np.float32]:
        raw = _read_image(self._folder / 'frames' / f'{name}.depth.png', cv2.IMREAD_UNCHANGED)
        depth_m = raw.astype(np.float32) / np.float32(self._index['depth_scale'])
        return np.where(raw > 0, depth_m, np.float32(np.nan))


def read_pair(read: Callable[[], tuple[View, View]], name: str, say: Say
              ) -> tuple[View, View] | None:
    """Read the views of a pair; what cannot be read is said, and None is returned."""
    try:
        return read()
    except (OSError, ValueError, LookupError, Rejected) as error:
        say(f'{name}: {error if not isinstance(error, KeyError) else f"there is no {error}"}; its '
            'questions are left out')
        return None


def apply_inputs(views: tuple[View, View], inputs: InputConfig, pair: int) -> tuple[View, View]:
    """Return clicked and other view with what the matcher is told; given are their true poses.

    The pose of the other view is the true one, moved by `noise`, drawn once per pair.
    """
    clicked, other = views
    if not inputs.depth:
        clicked, other = replace(clicked, depth_m=None), replace(other, depth_m=None)
    if not inputs.poses:
        return replace(clicked, base_from_cam=None), replace(other, base_from_cam=None)
    if clicked.base_from_cam is None or other.base_from_cam is None:
        return clicked, other
    rng = np.random.default_rng([inputs.seed, pair])
    other_from_clicked = sample_pose_noise(rng, inputs.noise_cm, inputs.noise_deg) \
        @ other.base_from_cam.inverse @ clicked.base_from_cam
    return clicked, replace(
        other, base_from_cam=clicked.base_from_cam @ other_from_clicked.inverse)


def bin_viewing_angle(clicked: View, other: View, point_base_m: Array | None) -> str:
    """How far apart two views look at a point; the last bin where that is not known."""
    if point_base_m is None or clicked.base_from_cam is None or other.base_from_cam is None:
        return ANGLE_BINS[-1]
    lines = [view.base_from_cam.t_m - point_base_m for view in (clicked, other)
             if view.base_from_cam is not None]
    a, b = (line / max(float(np.linalg.norm(line)), 1e-9) for line in lines)
    angle_deg = float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))
    return ANGLE_BINS[min(int(angle_deg // 15), 3)]


def sample_pose_noise(rng: np.random.Generator, shift_cm: float, turn_deg: float) -> Transform:
    """Draw a turn and a shift of the given lengths, in random directions."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = np.asarray(cv2.Rodrigues(axis * np.radians(turn_deg))[0], dtype=np.float64)
    return Transform(turn, direction * shift_cm / 100)


def require_keys(path: Path, content: Any, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless what a file holds has these names."""
    lacks = [name for name in keys if not isinstance(content, dict) or name not in content]
    if lacks:
        raise ValueError(f'{path} is of something else: it has no {", ".join(lacks)}')


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a mask, white where the robot's own body hides the scene."""
    return np.asarray(_read_image(path, cv2.IMREAD_GRAYSCALE) > 127)


def _read_image(path: Path, flags: int) -> npt.NDArray[Any]:
    picture = cv2.imread(str(path), flags)
    if picture is None:
        raise FileNotFoundError(f'{path} is no picture that can be read')
    return picture
