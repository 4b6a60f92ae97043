"""Labelled queries: pairs of views with a clicked pixel and its ground truth in the other view."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Query, Rejected, Transform, View
from crosspoint_ros.core.image_io import read_depth_m, read_image
from crosspoint_ros.data.qa.point_visibility import Visibility

log = logging.getLogger(__name__)
INDEX, QUERIES = 'index.json', 'queries.npz'
TURN_STREAM = 1  # of the random numbers: apart from the noise of the poses
MAX_TURNED_VIEWS = 16
MAX_STRETCH = 1e-3  # of a rotation that was written with few digits
ANGLE_BINS = ('0-15', '15-30', '30-45', '45+', 'unknown')
STATUS_CODES = (Visibility.OCCLUDED, Visibility.VISIBLE, Visibility.OUTSIDE)  # of queries.npz


@dataclass(frozen=True)
class InputConfig:
    """The inputs of the matcher in addition to the images, and the error of the poses.

    depth_of: `both` views, or the `clicked` or the `other` alone; only where `depth` is given.
    """

    poses: bool = True
    depth: bool = True
    depth_of: str = 'both'
    noise_cm: float = 0.0
    noise_deg: float = 0.0
    seed: int = 0


SITUATIONS = {  # of `--situation`, also by LETTERS
    'images': InputConfig(poses=False, depth=False),
    'noisy-poses': InputConfig(depth=False, noise_cm=1, noise_deg=1),
    'noisy-poses-depth': InputConfig(noise_cm=1, noise_deg=1),
    'exact-poses-depth': InputConfig()}
LETTERS = dict(zip('abcd', SITUATIONS, strict=True))


@dataclass(frozen=True, eq=False)
class LabelledQuery:
    """A query with its ground truth.

    ground_truth: pixel (2,) in the other view. pair: number of the image pair. bin: of the viewing
    angle. angle_deg, point_base_m: viewing angle and 3D ground truth where they are known.
    roll_deg: how the other image is turned against the clicked one, where the source knows the
    poses (whether the matcher gets them or not); turn_deg: the part of it that `--roll` added.
    """

    query: Query
    ground_truth: Array
    visibility: Visibility
    pair: int
    bin: str
    angle_deg: float = np.nan
    point_base_m: Array | None = None
    roll_deg: float = np.nan
    turn_deg: int = 0


class PairSource(Protocol):
    """Labelled queries, those of one image pair after each other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[LabelledQuery]: ...


class TurnedSource:
    """A source whose second views are turned by `np.rot90`, with their poses and ground truth.

    turn_deg: 90 is counter-clockwise; None: one of the four for each pair, drawn by the seed.
    """

    def __init__(self, source: PairSource, turn_deg: int | None, seed: int) -> None:
        self._source, self._turn_deg, self._seed = source, turn_deg, seed
        self._views: dict[tuple[int, int], tuple[View, View]] = {}  # by image: given, turned

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries in the order of the source."""
        for labelled in self._source:
            query, quarters = labelled.query, self._select_quarters(labelled.pair)
            pixel = query.other.intrinsics.turn_pixel(labelled.ground_truth, quarters)
            # A camera turned counter-clockwise sees the scene turned clockwise, and y is down.
            turn_deg, roll_deg = 90 * quarters, labelled.roll_deg - 90 * quarters
            yield replace(
                labelled, query=replace(query, other=self._turn(query.other, quarters)),
                ground_truth=pixel, turn_deg=turn_deg, roll_deg=(roll_deg + 180) % 360 - 180)

    def _select_quarters(self, pair: int) -> int:
        if self._turn_deg is None:
            return int(np.random.default_rng([self._seed, pair, TURN_STREAM]).integers(4))
        return self._turn_deg // 90

    def _turn(self, view: View, quarters: int) -> View:
        """Turn a view; an image that comes again is the same array: the matcher's caches go by it.

        The given views are kept too, so that an identity is of one image only.
        """
        known = self._views.get((id(view.image), quarters))
        if known is not None and known[0] is view:
            return known[1]
        turned = view.turn(quarters)
        if known is not None:
            same = {name: getattr(known[1], name) for name in ('image', 'depth_m', 'mask')
                    if getattr(known[0], name) is getattr(view, name)}
            turned = replace(turned, **same)
        self._views[id(view.image), quarters] = view, turned
        while len(self._views) > MAX_TURNED_VIEWS:
            self._views.pop(next(iter(self._views)))
        return turned


class PairFolderSource:
    """A folder of `index.json`, `queries.npz` and `frames/`: image pairs with queries."""

    def __init__(self, folder: Path, inputs: InputConfig, mask: npt.NDArray[np.bool_] | None
                 ) -> None:
        """Raises FileNotFoundError or ValueError, naming the file and what it lacks."""
        for name in (INDEX, QUERIES):
            if not (folder / name).is_file():
                raise FileNotFoundError(f'{folder} is not a folder of pairs: it has no {name}')
        self._folder, self._inputs, self._mask = folder, inputs, mask
        self._index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        _require_keys(folder / INDEX, self._index, ('pairs', 'frames', 'bins', 'depth_scale'))
        with np.load(folder / QUERIES) as queries:
            self._queries = dict(queries)
        _require_keys(folder / QUERIES, self._queries, ('p', 'gt', 'pair', 'status'))
        if not len(self):
            raise ValueError(f'{folder / QUERIES} holds 0 queries (at least 1)')
        self._views: dict[str, View] = {}

    def __len__(self) -> int:
        return len(self._queries['p'])

    def __iter__(self) -> Iterator[LabelledQuery]:
        """Yield the queries pair by pair."""
        for number, pair in enumerate(self._index['pairs']):
            true = read_pair(partial(self._read_pair, pair),
                             f'{self._folder / INDEX}: pair {number}')
            if true is None:
                continue
            views = apply_inputs(true, self._inputs, number)
            for row in np.flatnonzero(self._queries['pair'] == number):
                pixel = self._queries['p'][row].astype(np.float64)
                yield LabelledQuery(
                    Query(*views, pixel), self._queries['gt'][row].astype(np.float64),
                    STATUS_CODES[int(self._queries['status'][row])], number,
                    self._index['bins'][pair['bin']], point_base_m=locate_by_depth(true[0], pixel),
                    roll_deg=measure_roll_deg(*true))

    def _read_pair(self, pair: dict[str, Any]) -> tuple[View, View]:
        other_from_clicked = Transform.from_noisy_matrix(pair['T_BA'], MAX_STRETCH)
        identity = Transform(np.eye(3), np.zeros(3))
        return (replace(self._read_view(pair['A']), base_from_cam=identity),
                replace(self._read_view(pair['B']), base_from_cam=other_from_clicked.inverse))

    def _read_view(self, name: str) -> View:
        if name not in self._views:
            frames = self._folder / 'frames'
            image, depth = read_image(frames / f'{name}.png'), frames / f'{name}.depth.png'
            K, (height, width) = self._index['frames'][name]['K'], image.shape[:2]
            self._views[name] = View(
                camera=name, image=image, mask=self._mask,
                intrinsics=Intrinsics(K[0][0], K[1][1], K[0][2], K[1][2], width, height),
                depth_m=read_depth_m(depth, self._index['depth_scale'])
                if self._inputs.depth or depth.is_file() else None)
        return self._views[name]


def read_pair(read: Callable[[], Iterable[View]], name: str) -> tuple[View, View] | None:
    """Read the views of a pair; return None, with a warning, if one of them cannot be read."""
    try:
        clicked, other = read()
        return clicked, other
    except (OSError, ValueError, LookupError, Rejected) as error:
        log.warning('%s: %s; its queries are skipped', name,
                    f'there is no {error}' if isinstance(error, KeyError) else error)
        return None


def apply_inputs(views: tuple[View, View], inputs: InputConfig, pair: int) -> tuple[View, View]:
    """Return the clicked and the other view as the matcher gets them.

    The pose of the other view is off by `sample_pose_noise`, drawn once per pair.
    """
    clicked, other = views
    if not inputs.depth or inputs.depth_of == 'other':
        clicked = replace(clicked, depth_m=None)
    if not inputs.depth or inputs.depth_of == 'clicked':
        other = replace(other, depth_m=None)
    if not inputs.poses:
        return replace(clicked, base_from_cam=None), replace(other, base_from_cam=None)
    if clicked.base_from_cam is None or other.base_from_cam is None:
        return clicked, other
    rng = np.random.default_rng([inputs.seed, pair])
    other_from_clicked = sample_pose_noise(rng, inputs.noise_cm, inputs.noise_deg) \
        @ other.base_from_cam.inverse @ clicked.base_from_cam
    return clicked, replace(
        other, base_from_cam=clicked.base_from_cam @ other_from_clicked.inverse)


def measure_viewing_angle_deg(clicked: View, other: View, point_base_m: Array | None) -> float:
    """Return the angle at a point between the rays to two cameras; NaN if it is not known."""
    if point_base_m is None or clicked.base_from_cam is None or other.base_from_cam is None:
        return np.nan
    a, b = (ray / max(float(np.linalg.norm(ray)), 1e-9) for ray in (
        clicked.base_from_cam.t_m - point_base_m, other.base_from_cam.t_m - point_base_m))
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def measure_roll_deg(clicked: View, other: View) -> float:
    """Return how the other image is turned against the clicked one; NaN if it is not known.

    The turn about the optical axis (-180..180, the twist of swing-twist) of the relative rotation;
    positive where the scene appears turned clockwise in the other image.
    """
    if clicked.base_from_cam is None or other.base_from_cam is None:
        return np.nan
    _, _, z, w = (other.base_from_cam.inverse @ clicked.base_from_cam).quaternion_xyzw
    return float(np.degrees(2 * np.arctan2(z, w)))


def locate_by_depth(view: View, pixel: Array) -> Array | None:
    """Return the point (3,) that the depth of the nearest pixel measures, in the base, or None."""
    if view.depth_m is None or view.base_from_cam is None:
        return None
    column, row = pixel.round().astype(int)
    point_cam_m = view.backproject(pixel, view.depth_m[row, column])
    return view.base_from_cam.transform_points(point_cam_m) if np.isfinite(point_cam_m).all() \
        else None


def select_angle_bin(angle_deg: float) -> str:
    """Return the bin of a viewing angle; the last one for NaN."""
    return ANGLE_BINS[-1 if np.isnan(angle_deg) else min(int(angle_deg // 15), 3)]


def sample_pose_noise(rng: np.random.Generator, shift_cm: float, turn_deg: float) -> Transform:
    """Draw a rotation and a translation of the given lengths in random directions."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    turn = np.asarray(cv2.Rodrigues(axis * np.radians(turn_deg))[0], dtype=np.float64)
    return Transform(turn, direction * shift_cm / 100)


def _require_keys(path: Path, content: Any, keys: tuple[str, ...]) -> None:
    missing = [name for name in keys if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f'{path} is not that of a folder of pairs: it has no {", ".join(missing)}')
