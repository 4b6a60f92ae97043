"""Reads the views of one scene: caches them, and masks the robot's own body."""
from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.core.image_io import read_mask
from crosspoint_ros.data.io import assign_unique_names
from crosspoint_ros.data.qa.frame_pairs import subsample_keyframes
from crosspoint_ros.data.qa.questions import Coordinates
from crosspoint_ros.data.scenes import open_scene
from crosspoint_ros.data.scenes.consistency import check_scene
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, RgbdFrame, RgbdScene, UnusableData
from crosspoint_ros.data.self_mask_estimator import SelfMaskEstimator, SelfMaskUndetermined

log = logging.getLogger(__name__)
CACHED_VIEWS = 40
BUILD = 'build.json'  # what a data set is built from
SelfMasks = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class BuildConfig:
    """All that determines the result, apart from the recordings."""

    seed: int
    coordinates: Coordinates
    reading: ReadOptions
    labels: str = ''


@dataclass(frozen=True)
class SceneSource:
    """A scene: its name in the data set, and its path."""

    name: str
    path: str


@dataclass(frozen=True, eq=False)
class SceneSummary:
    """The usable frames of a scene and the masks of its cameras; rejection: why not, or ''."""

    rejection: str
    file_names: dict[str, str]  # of the data set's files, by frame
    self_masks: SelfMasks


def summarize_scene(source: SceneSource, config: BuildConfig) -> SceneSummary:
    """Open and check a scene; see `open_checked`."""
    try:
        reader = open_checked(open_scene(Path(source.path), config.reading))
    except UnusableData as problem:
        return SceneSummary(str(problem), {}, {})
    return SceneSummary('', {name: reader.file_names[name] for name in reader.frames},
                        reader.self_masks)


def open_checked(scene: RgbdScene) -> SceneReader:
    """Check a scene, skip unreadable frames, estimate the self masks. Raises `UnusableData`."""
    check_scene(scene)
    reader = SceneReader(scene, {})
    estimators: dict[str, SelfMaskEstimator] = {}
    for frame in list(reader.frames.values()):
        try:
            view = reader.view(frame)
        except UnusableData as problem:
            log.warning('%s: %s', scene.name, problem)
            del reader.frames[frame.name]
            continue
        with contextlib.suppress(SelfMaskUndetermined):
            estimators.setdefault(frame.camera, SelfMaskEstimator()).add(view.image, view.depth_m)
    self_masks: SelfMasks = {}
    for camera, estimator in estimators.items():
        with contextlib.suppress(SelfMaskUndetermined):
            self_masks[camera] = estimator.estimate().mask
    return SceneReader(scene, self_masks, reader.frames)


class SceneReader:
    """The keyframes of a scene; a self mask is added to views that have no mask."""

    def __init__(self, scene: RgbdScene, self_masks: SelfMasks,
                 frames: dict[str, RgbdFrame] | None = None) -> None:
        """self_masks: by camera. frames: by name, if the usable ones are known."""
        self._scene, self.self_masks = scene, self_masks
        self.frames = frames if frames is not None else {
            frame.name: frame for frame in subsample_keyframes(list(scene.frames))}
        names = list(dict.fromkeys(frame.name for frame in scene.frames))
        self.file_names = dict(zip(names, assign_unique_names(map(_format_file_name, names)),
                                   strict=True))
        self.view = lru_cache(CACHED_VIEWS)(self._read_view)

    def _read_view(self, frame: RgbdFrame) -> View:
        """Read a frame. Raises `UnusableData`."""
        view = self._scene.view(frame)
        mask = self.self_masks.get(frame.camera)
        if view.mask is None and mask is not None and mask.shape == view.image.shape[:2]:
            return replace(view, mask=mask)
        return view


@lru_cache(maxsize=2)
def get_reader(out: Path, source: SceneSource, config: BuildConfig) -> SceneReader:
    """Return this process's reader of a scene of a data set. Raises `UnusableData`."""
    cv2.setNumThreads(1)  # the processes share the cores
    scene = open_scene(Path(source.path), config.reading)
    return SceneReader(scene, {path.stem: read_mask(path)
                               for path in sorted(get_self_mask_folder(out, source).glob('*.png'))})


def _format_file_name(name: str) -> str:
    """Return a frame's name as one part of a path."""
    return name.replace('/', '-').replace('.png', '').replace('.jpg', '')


def get_self_mask_folder(out: Path, source: SceneSource) -> Path:
    """Return the folder of a scene's self masks, one image a camera."""
    return out / 'own_body' / source.name
