"""Scenes in a folder of logged answers: every image with depth and pose."""
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.data.answer_log import LoggedView, read_answers
from crosspoint_ros.data.scenes.rgbd_scene import (
    ReadOptions,
    RgbdFrame,
    UnusableData,
    raise_unusable,
)

log = logging.getLogger(__name__)


class AnswerLogScene:
    """The images of an answer log; each is a frame once."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        """Read the log. Raises `UnusableData`."""
        self.name, self._inverted = folder.name, options.inverted
        if options.depth_per_m is not None:
            raise UnusableData(f'{folder}: logged depth is in mm; leave out --depth-per-m')
        self._views: dict[str, LoggedView] = {}
        self.frames: list[RgbdFrame] = []
        for answer in read_answers(folder):
            for view in (answer.clicked, *(match.view for match in answer.matches)):
                if view is not None and view.key not in self._views:
                    self._views[view.key] = view
                    self._add_frame(view, folder)

    def _add_frame(self, view: LoggedView, folder: Path) -> None:
        pose = view.fields.get('base_from_cam')
        if pose is None or not view.fields.get('depth'):
            log.warning('%s: %s is skipped: it has no %s', folder, view.key,
                        'pose' if pose is None else 'depth')
            return
        base_from_cam = Transform.from_matrix([pose[i:i + 4] for i in range(0, 16, 4)])
        self.frames.append(RgbdFrame(
            view.key, view.fields['camera'], view.fields['stamp_ns'],
            base_from_cam.inverse if self._inverted else base_from_cam))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        with raise_unusable():
            return replace(self._views[frame.name].read(), base_from_cam=frame.base_from_cam)
