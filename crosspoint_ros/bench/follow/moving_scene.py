"""Reads recordings of moving objects whose true places are known: a bag and its truth.json."""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.track.observation import sample_depth_m
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, RgbdScene

TRUTH = 'truth.json'


@dataclass(frozen=True, eq=False)
class TruePlace:
    """Where a point is at a stamp: (3,) m in the base, and the cameras that show it."""

    stamp_ns: int
    point_base_m: Array
    visible: frozenset[str]


@dataclass(frozen=True, eq=False)
class TruePoint:
    """A point to click, and its place in every frame."""

    name: str
    moves: bool
    camera: str
    stamp_ns: int
    pixel: Array
    places: tuple[TruePlace, ...]


class MovingRecording:
    """One recording: `views_at` gives the images of all cameras at a stamp."""

    def __init__(self, folder: Path, cameras: tuple[str, ...], with_depth: bool) -> None:
        """Index it. cameras: to follow in; empty: all. Raises ValueError, UnusableData."""
        self.name, self._with_depth = folder.name, with_depth
        self._scene: RgbdScene = open_scene(folder, ReadOptions())
        self._frames: dict[int, list] = {}
        for frame in self._scene.frames:
            self._frames.setdefault(frame.stamp_ns, []).append(frame)
        known = sorted({frame.camera for frame in self._scene.frames})
        if unknown := set(cameras) - set(known):
            raise ValueError(f'{folder}: it has no camera {", ".join(unknown)}; it has: '
                             f'{", ".join(known)}')
        self.all_cameras, self.cameras = tuple(known), cameras or tuple(known)
        self.points = tuple(self._read_points(json.loads((folder / TRUTH).read_text())))

    @property
    def stamps_ns(self) -> list[int]:
        """The stamps of the images."""
        return sorted(self._frames)

    def views_at(self, stamp_ns: int) -> list[View]:
        """Return the views of a stamp, without depth if that is how it is used."""
        views = [self._scene.view(frame) for frame in self._frames[stamp_ns]]
        return views if self._with_depth else [replace(view, depth_m=None) for view in views]

    def _read_points(self, truth: dict[str, Any]) -> Iterator[TruePoint]:
        for point in truth['points']:
            clicked = point['clicked']
            camera, stamp_ns = clicked['camera'], int(clicked['stamp_ns'])
            pixel = np.array(clicked['pixel'], dtype=np.float64)
            places = tuple(TruePlace(int(place['stamp_ns']), np.array(place['point_base_m']),
                                     frozenset(camera for camera, view in place['views'].items()
                                               if view['visible'])) for place in point['track']
                           ) if 'track' in point else self._rest(camera, stamp_ns, pixel, {
                               (answer['camera'], answer['stamp_ns'])
                               for answer in point['answers'] if answer['visible']})
            yield TruePoint(point['name'] or f'{camera} {clicked["pixel"]}',
                            bool(point.get('moves')), camera, stamp_ns, pixel, places)

    def _rest(self, camera: str, stamp_ns: int, pixel: Array, visible: set[tuple[str, int]]
              ) -> tuple[TruePlace, ...]:
        """Return the places of a point that stays where the depth at the click says.

        A camera whose next image is due shows what its last one did.
        """
        view = self._scene.view(next(frame for frame in self._frames[stamp_ns]
                                     if frame.camera == camera))
        depth_m = float(sample_depth_m(view, pixel[None])[0])
        if not np.isfinite(depth_m):
            raise ValueError(f'{self.name}: {camera} has no depth in 3x3 px around '
                             f'({pixel[0]:.0f}, {pixel[1]:.0f}), and the point has no track: give '
                             'it one, or click where there is depth')
        at_m = require_pose(view).transform_points(view.backproject(pixel, depth_m))
        shown, places = set[str](), list[TruePlace]()
        for at_ns in self.stamps_ns:
            shown -= {frame.camera for frame in self._frames[at_ns]}
            shown |= {frame.camera for frame in self._frames[at_ns]
                      if frame.camera == camera or (frame.camera, at_ns) in visible}
            places.append(TruePlace(at_ns, at_m, frozenset(shown)))
        return tuple(place for place in places if place.stamp_ns >= stamp_ns)

    def click_later(self, point: TruePoint, after_s: float) -> TruePoint:
        """Return a point clicked that much later, at the next stamp at which its camera shows it.

        Raises ValueError where there is none.
        """
        if not after_s:
            return point
        later = [place for place in point.places if point.camera in place.visible
                 and place.stamp_ns - point.stamp_ns >= after_s * 1e9]
        if not later:
            raise ValueError(f'{self.name}: {point.camera} does not show {point.name} from '
                             f'{after_s:g} s after its first image')
        place = later[0]
        view = next(view for view in self.views_at(place.stamp_ns) if view.camera == point.camera)
        pixel = view.intrinsics.project(require_pose(view).inverse.transform_points(
            place.point_base_m))
        return replace(point, stamp_ns=place.stamp_ns, pixel=pixel, places=tuple(
            each for each in point.places if each.stamp_ns >= place.stamp_ns))


def find_recordings(path: Path) -> list[Path]:
    """Return the recordings in a folder, or the folder itself. Raises ValueError without any."""
    found = [path] if (path / TRUTH).is_file() else sorted(
        each.parent for each in path.glob(f'*/{TRUTH}'))
    if not found:
        raise ValueError(f'{path}: there is no {TRUTH} in it, nor in a folder in it')
    return found
