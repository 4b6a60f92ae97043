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
from crosspoint_ros.core.self_mask import SelfMaskEstimator, SelfMaskUndetermined
from crosspoint_ros.data.qa.frame_pairs import subsample_keyframes
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.consistency import check_scene
from crosspoint_ros.data.scenes.rgbd_scene import (
    ReadOptions,
    RgbdFrame,
    RgbdScene,
    Say,
    UnusableData,
    read_rgb,
)

CACHED_VIEWS = 40
SelfMasks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class BuildConfig:
    """All that the result depends on, besides the recordings."""

    seed: int
    coordinates: Coordinates
    reading: ReadOptions
    labels: str = ''


@dataclass(frozen=True)
class SceneSource:
    """A scene: its name in the data set, and where it is."""

    name: str
    path: str


@dataclass(frozen=True, eq=False)
class SceneSummary:
    """What a first look at a scene came to. refused: why it cannot be used, or ''."""

    warnings: tuple[str, ...]
    rejection: str
    names: tuple[str, ...]
    self_masks: SelfMasks


def summarize_scene(source: SceneSource, recipe: BuildConfig) -> SceneSummary:
    """Open a scene, and examine it; see `examined`."""
    warnings: list[str] = []
    try:
        reader = open_checked(open_scene(Path(source.path), recipe.reading, warnings.append), warnings.append)
    except UnusableData as problem:
        return SceneSummary(tuple(warnings), str(problem), (), {})
    return SceneSummary(tuple(warnings), '', tuple(reader.frames), reader.self_masks)


def open_checked(scene: RgbdScene, say: Say) -> SceneReader:
    """Hold a scene's depth against its poses, read every frame, and find the robot's own body.

    What cannot be read is said, and left out. Raises `Unusable`.
    """
    check_scene(scene, say)
    plain = SceneReader(scene, {})
    finders: dict[str, SelfMaskEstimator] = {}
    for frame in list(plain.frames.values()):
        try:
            view = plain.view(frame)
        except UnusableData as problem:
            say(str(problem))
            del plain.frames[frame.name]
            continue
        with contextlib.suppress(SelfMaskUndetermined):
            finders.setdefault(frame.camera, SelfMaskEstimator()).add(view.image, view.depth_m)
    self_masks: SelfMasks = {}
    for camera, finder in finders.items():
        with contextlib.suppress(SelfMaskUndetermined):
            self_masks[camera] = finder.estimate().mask
    return SceneReader(scene, self_masks, plain.frames)


class SceneReader:
    """The frames of a scene that differ; the own body is masked where the scene has no mask."""

    def __init__(self, scene: RgbdScene, self_masks: SelfMasks,
                 frames: dict[str, RgbdFrame] | None = None) -> None:
        """frames: by name, where it is known which are used."""
        self._scene, self.self_masks = scene, self_masks
        self.frames = frames if frames is not None else {
            frame.name: frame for frame in subsample_keyframes(list(scene.frames))}
        self._cache: OrderedDict[str, View | UnusableData] = OrderedDict()

    def view(self, frame: RgbdFrame) -> View:
        """Raises `Unusable`."""
        if frame.name not in self._cache:
            self._cache[frame.name] = self._read(frame)
            while len(self._cache) > CACHED_VIEWS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(frame.name)
        kept = self._cache[frame.name]
        if isinstance(kept, UnusableData):
            raise kept
        return kept

    def _read(self, frame: RgbdFrame) -> View | UnusableData:
        try:
            view = self._scene.view(frame)
        except UnusableData as problem:
            return problem
        body = self.self_masks.get(frame.camera)
        if view.mask is None and body is not None and body.shape == view.image.shape[:2]:
            return replace(view, mask=body)
        return view


@lru_cache(maxsize=2)
def get_reader(out: Path, source: SceneSource, recipe: BuildConfig) -> SceneReader:
    """This process's reader of a scene that is built into a folder. Raises `Unusable`."""
    cv2.setNumThreads(1)  # processes share the cores, not threads
    scene = open_scene(Path(source.path), recipe.reading, lambda _: None)
    return SceneReader(scene, {path.stem: read_rgb(path)[..., 0] > 127
                          for path in sorted(self_mask_folder(out, source).glob('*.png'))})


def self_mask_folder(out: Path, source: SceneSource) -> Path:
    """Where the own bodies of a scene's cameras stand, white, a picture a camera."""
    return out / 'own_body' / source.name
