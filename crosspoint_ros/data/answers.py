"""Reads a folder of recorded answers: what stands of each, and its views."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.data.recording import ANSWERS, UNDONE


@dataclass(frozen=True, eq=False)
class Found:
    """One searched view of a recorded answer; pixels (2,) or None, `seen` None without a view."""

    camera: str
    pixel: Array | None
    model_pixel: Array | None
    accepted: bool
    seen: Seen | None


@dataclass(frozen=True, eq=False)
class Seen:
    """A view on the disk, read when somebody asks."""

    folder: Path
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells two views apart."""
        return str(self.fields['image'])

    def view(self, with_depth: bool = True) -> View:
        """Read it. Raises FileNotFoundError, naming the picture."""
        fields, lens = self.fields, dict(self.fields['intrinsics'])
        lens['distortion'] = tuple(lens['distortion'])
        image = _picture(self.folder / fields['image'], cv2.IMREAD_COLOR)
        depth_m = None
        if with_depth and fields['depth']:
            mm = _picture(self.folder / fields['depth'], cv2.IMREAD_UNCHANGED).astype(np.float32)
            depth_m = np.where(mm > 0, mm * np.float32(1e-3), np.float32(np.nan))
        mask = None
        if fields.get('mask'):
            mask = _picture(self.folder / fields['mask'], cv2.IMREAD_GRAYSCALE) > 127
        pose = fields['base_from_cam']
        return View(fields['camera'], np.ascontiguousarray(image[..., ::-1]), Intrinsics(**lens),
                    fields['stamp_ns'], fields['frame_id'], depth_m,
                    None if pose is None else Transform.from_matrix(np.reshape(pose, (4, 4))), mask)


@dataclass(frozen=True, eq=False)
class Recorded:
    """What stands of one answer; decided_by is 'human' or 'model'."""

    id: str
    corrects: str | None
    decided_by: str
    how: str
    clicked: Seen
    pixel: Array
    found: tuple[Found, ...]
    base_from_target: Transform | None


def read_answers(folder: Path, warn: Callable[[str], object]) -> list[Recorded]:
    """Read what stands: the last line of each id, unless it was undone or corrected by another.

    A line that is no answer (the last one, of a node that was killed) is left out with a warning.
    """
    newest: dict[str, Recorded | None] = {}
    for number, fields in _lines(folder / ANSWERS, warn):
        try:
            answer = _recorded(folder, fields)
        except (KeyError, TypeError, ValueError) as error:
            warn(f'{folder / ANSWERS}: line {number} is no answer: {type(error).__name__} {error}')
            continue
        newest.pop(answer.id, None)  # to its new place in the order
        newest[answer.id] = None if answer.how == UNDONE else answer
    corrected = {a.corrects for a in newest.values() if a is not None}
    return [a for a in newest.values() if a is not None and a.id not in corrected]


def _lines(path: Path, warn: Callable[[str], object]) -> Iterator[tuple[int, Any]]:
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError:
                warn(f'{path}: line {number} is cut short ({len(line)} bytes) and left out')


def _recorded(folder: Path, fields: Any) -> Recorded:
    target = fields['target']
    return Recorded(
        fields['id'], fields['corrects'], fields['decided_by'], fields['how'],
        Seen(folder, fields['clicked']), np.array(fields['clicked']['pixel'], float),
        tuple(_found(folder, found) for found in fields['found']),
        None if target is None else Transform.from_matrix(
            np.reshape(target['base_from_target'], (4, 4))))


def _found(folder: Path, fields: Any) -> Found:
    def pixel(name: str) -> Array | None:
        return None if fields[name] is None else np.array(fields[name], float)

    return Found(fields['camera'], pixel('pixel'), pixel('model_pixel'), fields['accepted'],
                 Seen(folder, fields) if 'image' in fields else None)


def _picture(path: Path, how: int) -> npt.NDArray[Any]:
    picture = cv2.imread(str(path), how)
    if picture is None:
        raise FileNotFoundError(f'{path} is no picture that can be read')
    return picture
