"""Scenes of recorded answers: the images that a node kept of what it was asked."""
from __future__ import annotations

from pathlib import Path

from crosspoint_ros.core.datatypes import Transform, View
from crosspoint_ros.data.answer_log import LoggedView, read_answers
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, RgbdFrame, Say, UnusableData


class AnswerLogScene:
    """Every image with depth and pose that a folder of recorded answers holds."""

    def __init__(self, folder: Path, reading: ReadOptions, say: Say) -> None:
        """Read what stands of the answers."""
        self.name, self._inverted = folder.name, reading.inverted
        if reading.depth_per_m is not None:
            raise UnusableData(f'{folder}: recorded depth is in mm; its unit cannot be chosen')
        self._views: dict[str, LoggedView] = {}
        self.frames: list[RgbdFrame] = []
        for answer in read_answers(folder, say):
            for seen in (answer.clicked, *(f.view for f in answer.matches)):
                if seen is not None and seen.key not in self._views:
                    self._views[seen.key] = seen
                    self._add_frame(seen, folder, say)

    def _add_frame(self, seen: LoggedView, folder: Path, say: Say) -> None:
        pose = seen.fields.get('base_from_cam')
        if pose is None or not seen.fields.get('depth'):
            say(f'{folder}: {seen.key} is left out: it has no '
                f'{"pose" if pose is None else "depth"}')
            return
        base_from_cam = Transform.from_matrix([pose[i:i + 4] for i in range(0, 16, 4)])
        self.frames.append(RgbdFrame(
            seen.key, seen.fields['camera'], seen.fields['stamp_ns'],
            base_from_cam.inverse if self._inverted else base_from_cam))

    def view(self, frame: RgbdFrame) -> View:
        """See `RgbdScene`."""
        try:
            view = self._views[frame.name].read()
        except (OSError, ValueError) as error:
            raise UnusableData(str(error)) from error
        return View(view.camera, view.image, view.intrinsics, view.stamp_ns, view.frame_id,
                    view.depth_m, frame.base_from_cam, view.mask)
