"""Reads the views of one scene, keeps the last ones, and hides the robot's own body in them."""
from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.core.self_mask import BodyFinder, Undecidable
from crosspoint_ros.data.qa.frame_pairs import different
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.consistency import examine_scene
from crosspoint_ros.data.scenes.rgbd_scene import (
    Frame,
    Reading,
    RgbdScene,
    Say,
    Unusable,
    rgb_of_file,
)

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
    """Open a scene, and examine it; see `examined`."""
    said: list[str] = []
    try:
        reader = examined(open_scene(Path(source.path), recipe.reading, said.append), said.append)
    except Unusable as problem:
        return Looked(tuple(said), str(problem), (), {})
    return Looked(tuple(said), '', tuple(reader.frames), reader.bodies)


def examined(scene: RgbdScene, say: Say) -> Reader:
    """Hold a scene's depth against its poses, read every frame, and find the robot's own body.

    What cannot be read is said, and left out. Raises `Unusable`.
    """
    examine_scene(scene, say)
    plain = Reader(scene, {})
    finders: dict[str, BodyFinder] = {}
    for frame in list(plain.frames.values()):
        try:
            view = plain.view(frame)
        except Unusable as problem:
            say(str(problem))
            del plain.frames[frame.name]
            continue
        with contextlib.suppress(Undecidable):
            finders.setdefault(frame.camera, BodyFinder()).add(view.image, view.depth_m)
    bodies: Bodies = {}
    for camera, finder in finders.items():
        with contextlib.suppress(Undecidable):
            bodies[camera] = finder.found().mask
    return Reader(scene, bodies, plain.frames)


class Reader:
    """The frames of a scene that differ; the own body is masked where the scene has no mask."""

    def __init__(self, scene: RgbdScene, bodies: Bodies,
                 frames: dict[str, Frame] | None = None) -> None:
        """frames: by name, where it is known which are used."""
        self._scene, self.bodies = scene, bodies
        self.frames = frames if frames is not None else {
            frame.name: frame for frame in different(list(scene.frames))}
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
        body = self.bodies.get(frame.camera)
        if view.mask is None and body is not None and body.shape == view.image.shape[:2]:
            return replace(view, mask=body)
        return view


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
