"""Reads the views of one scene, keeps the last ones, and hides the robot's own body in them."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.core.own_body import BodyFinder, Undecidable
from crosspoint_ros.data.pairing import different
from crosspoint_ros.data.rgbd import Frame, Reading, RgbdScene, Unusable, rgb_of_file
from crosspoint_ros.data.rgbd_open import open_scene
from crosspoint_ros.data.sound import examine_scene
from crosspoint_ros.data.wording import Coordinates

CACHED_VIEWS = 40
Bodies = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Recipe:
    """All that the result depends on, besides the recordings."""

    seed: int
    coordinates: Coordinates
    reading: Reading
    labels: str = ''


@dataclass(frozen=True)
class Source:
    """A scene: its name in the data set, and where it is."""

    name: str
    path: str


@dataclass(frozen=True, eq=False)
class Looked:
    """What a first look at a scene came to. refused: why it cannot be used, or ''."""

    said: tuple[str, ...]
    refused: str
    names: tuple[str, ...]
    bodies: Bodies


def look_at(source: Source, recipe: Recipe) -> Looked:
    """Open a scene, hold its depth against its poses, and find the robot's own body in it."""
    said: list[str] = []
    try:
        scene = open_scene(Path(source.path), recipe.reading, said.append)
        examine_scene(scene, said.append)
    except Unusable as problem:
        return Looked(tuple(said), str(problem), (), {})
    reader = Reader(scene, {})
    return Looked(tuple(said), '', tuple(reader.frames), reader.own_bodies())


class Reader:
    """The frames of a scene that differ; the own body is masked where the scene has no mask."""

    def __init__(self, scene: RgbdScene, bodies: Bodies) -> None:
        self._scene, self._bodies = scene, bodies
        self.frames = {frame.name: frame for frame in different(list(scene.frames))}
        self._kept: OrderedDict[str, View | Unusable] = OrderedDict()

    def view(self, frame: Frame) -> View:
        """Raises `Unusable`."""
        if frame.name not in self._kept:
            self._kept[frame.name] = self._read(frame)
            while len(self._kept) > CACHED_VIEWS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(frame.name)
        kept = self._kept[frame.name]
        if isinstance(kept, Unusable):
            raise kept
        return kept

    def _read(self, frame: Frame) -> View | Unusable:
        try:
            view = self._scene.view(frame)
        except Unusable as problem:
            return problem
        body = self._bodies.get(frame.camera)
        if view.mask is None and body is not None and body.shape == view.image.shape[:2]:
            return replace(view, mask=body)
        return view

    def own_bodies(self) -> Bodies:
        """The part of each moving camera's image that never changes; none where that is open."""
        finders: dict[str, BodyFinder] = {}
        for frame in self.frames.values():
            finder = finders.setdefault(frame.camera, BodyFinder())
            try:
                view = self.view(frame)
                finder.add(view.image, view.depth_m)
            except (Unusable, Undecidable):
                continue
        bodies: Bodies = {}
        for camera, finder in finders.items():
            try:
                bodies[camera] = finder.found().mask
            except Undecidable:
                continue
        return bodies


@lru_cache(maxsize=2)
def reader_of(out: Path, source: Source, recipe: Recipe) -> Reader:
    """This process's reader of a scene that is built into a folder. Raises `Unusable`."""
    cv2.setNumThreads(1)  # processes share the cores, not threads
    scene = open_scene(Path(source.path), recipe.reading, lambda _: None)
    return Reader(scene, {path.stem: rgb_of_file(path)[..., 0] > 127
                          for path in sorted(bodies_folder(out, source).glob('*.png'))})


def bodies_folder(out: Path, source: Source) -> Path:
    """Where the own bodies of a scene's cameras stand, white, a picture a camera."""
    return out / 'own_body' / source.name
