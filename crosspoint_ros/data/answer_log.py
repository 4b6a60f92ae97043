"""Keeps what was decided about answers, with their images, in a folder, without holding anybody up.

One line of `answers.jsonl` a decision, written after its images and as a whole or not at all; the
last line of an id wins. `answers.py` reads it.
"""
from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.data.io import atomic_write

ANSWERS_FILE = 'answers.jsonl'
UNREVIEWED, ACCEPTED, CORRECTED, MOVED, UNDONE = (
    'unreviewed', 'accepted', 'corrected', 'moved', 'undone')
MAX_PENDING = 16  # decisions with images that wait for the disk; their images stay in memory
MAX_CACHED_LINES = 64  # lines, so that one whose images are gone can be written again with another `how`
CLOSE_TIMEOUT_S = 2.0
MAX_DEPTH_MM = 65535


@dataclass(frozen=True, eq=False)
class LogEntry:
    """What was decided about an answer.

    located is None when its images are not kept any more: they were written with an earlier line.
    base_from_target is None without a target.
    """

    id: str
    number: int
    decision: str
    result: LocateResult | None
    base_from_target: Transform | None
    base_frame: str


class AnswerLogger:
    """Writes in a thread of its own. What goes wrong is said once, and ends the recording alone."""

    def __init__(self, folder: Path, complain: Callable[[str], object]) -> None:
        """Begin; the folder is made, and found wanting, in the thread."""
        self._folder, self._complain = folder, complain
        self._pending: deque[LogEntry] = deque()
        self._wake = threading.Condition()
        self._closed, self.failed, self._dropped = False, False, 0
        self._lines: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name='crosspoint-recorder', daemon=True)
        self._thread.start()

    def log(self, decision: LogEntry) -> None:
        """Take a decision; never waits, whatever the disk does."""
        with self._wake:
            if self.failed or self._closed:
                return
            if decision.decision == UNDONE:  # it needs no images, and must not keep them in memory
                decision = replace(decision, result=None)
            heavy = sum(d.result is not None for d in self._pending)
            full = heavy >= MAX_PENDING and decision.result is not None
            if not full:
                self._pending.append(decision)
                self._wake.notify()
                return
            self._dropped += 1
            first = self._dropped == 1
        if first:
            self._complain(f'{self._folder} is written too slowly: {MAX_PENDING} answers wait for it; '
                           'some are left out of the recording')

    def close(self) -> None:
        """Write what waits, within two seconds, and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            left = len(self._pending) + 1
            self._complain(f'{left} decisions are not recorded: the disk does not '
                           f'answer within {CLOSE_TIMEOUT_S:g} s ({self._folder})')

    def _run(self) -> None:
        try:
            for name in ('images', 'depth', 'masks'):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            with open(self._folder / ANSWERS_FILE, 'ab'):
                pass  # it can be written
            while (decision := self._next()) is not None:
                self._write(decision)
        except Exception as error:  # a disk, or a bug of ours: the robot must go on
            with self._wake:
                self.failed = True
                self._pending.clear()
            self._complain(f'record_dir {self._folder}: {type(error).__name__}: {error}. Nothing '
                           'more is recorded until the node is configured anew')

    def _next(self) -> LogEntry | None:
        with self._wake:
            while not self._pending and not self._closed:
                self._wake.wait()
            return self._pending.popleft() if self._pending else None

    def _write(self, decision: LogEntry) -> None:
        before = self._lines.get(decision.id)
        if decision.result is not None:
            line = self._format_entry(decision, decision.result, before)
        elif before is not None:
            line = dict(before)
        else:
            return  # its images are gone, and it never was written: there is nothing to change
        line.update(number=decision.number, how=decision.decision, decided_ns=time.time_ns(),
                    decided_by='model' if decision.decision == UNREVIEWED else 'human',
                    target=_format_target(decision))
        append_line(self._folder / ANSWERS_FILE, line)
        self._lines[decision.id] = line
        while len(self._lines) > MAX_CACHED_LINES:
            self._lines.popitem(last=False)

    def _format_entry(self, decision: LogEntry, located: LocateResult, before: dict[str, Any] | None
               ) -> dict[str, Any]:
        """All of a line, with its images on the disk."""
        corrects = before['corrects'] if before else None
        if decision.decision == CORRECTED and corrects is None:
            corrects = self._find_corrected_id(located)
        models = {} if corrects is None else {
            found['camera']: found['model_pixel'] for found in self._lines[corrects]['found']} \
            if corrects in self._lines else {}
        clicked = {**self._write_view(located.clicked), 'pixel': _format_pixel(located.pixel)}
        return {'id': decision.id, 'corrects': corrects, 'clicked': clicked, 'found': [
            self._format_match(answer, models) for answer in located.correspondences]}

    def _find_corrected_id(self, located: LocateResult) -> str | None:
        """The id of the answer to the same click, in the same images, that stands corrected."""
        for line in reversed(self._lines.values()):
            clicked = line['clicked']
            same = (clicked['camera'], clicked['stamp_ns'], clicked['pixel']) == (
                located.clicked.camera, located.clicked.stamp_ns, _format_pixel(located.pixel))
            if same and line['how'] != UNDONE:
                return str(line['id'])
        return None

    def _format_match(self, answer: ViewCorrespondence, models: dict[str, Any]) -> dict[str, Any]:
        match = answer.match
        pixel = None if match is None else _format_pixel(match.pixel)
        seen = {'camera': answer.camera} if answer.view is None else self._write_view(answer.view)
        return {**seen, 'pixel': pixel, 'model_pixel': models.get(answer.camera, pixel),
                'accepted': answer.rejected is None and pixel is not None,
                'confidence': float(match.confidence) if match is not None and np.isfinite(
                    match.confidence) else None}

    def _write_view(self, view: View) -> dict[str, Any]:
        name = f'{view.camera}_{view.stamp_ns}.png'
        pose = view.base_from_cam
        return {
            'camera': view.camera, 'stamp_ns': view.stamp_ns, 'frame_id': view.frame_id,
            'image': self._write_image('images', name, np.ascontiguousarray(view.image[..., ::-1])),
            'depth': None if view.depth_m is None else self._write_image(
                'depth', name, depth_to_mm(view.depth_m)),
            'mask': None if view.mask is None else self._write_image(
                'masks', f'{view.camera}.png', np.where(view.mask, 255, 0).astype(np.uint8)),
            'intrinsics': intrinsics_to_dict(view.intrinsics),
            'base_from_cam': None if pose is None else pose.matrix.ravel().tolist()}

    def _write_image(self, kind: str, name: str, pixels: npt.NDArray[Any]) -> str:
        """Write a picture, unless it is there, and return its path in the folder.

        Another one of that name, of an earlier run that had the same clock, is left alone.
        """
        done, encoded = cv2.imencode('.png', pixels)
        if not done:
            raise OSError(f'{name} cannot be encoded as PNG')
        data, path, number = encoded.tobytes(), self._folder / kind / name, 1
        while path.exists():
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return f'{kind}/{path.name}'
            number += 1
            path = self._folder / kind / name.replace('.png', f'_{number}.png')
        atomic_write(path, data, cure='free some space')
        return f'{kind}/{path.name}'


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append a line to a file that others may append to; all of it, or OSError and none of it."""
    data = (json.dumps(line, allow_nan=False) + '\n').encode()
    with open(path, 'a+b', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b'\n':  # somebody was killed while he wrote: that line stays alone
                data = b'\n' + data
        try:
            written = file.write(data)
            if written != len(data):
                raise OSError(f'{path}: {written} of {len(data)} bytes were written')
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def depth_to_mm(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Depth as 16-bit millimetres, 0 where it is unknown or further than they reach."""
    mm = np.nan_to_num(depth_m.astype(np.float64) * 1000, posinf=0, neginf=0).round()
    return np.where((mm > 0) & (mm <= MAX_DEPTH_MM), mm, 0).astype(np.uint16)


def intrinsics_to_dict(intrinsics: Intrinsics) -> dict[str, Any]:
    """The lens as JSON takes it."""
    return {'fx_px': float(intrinsics.fx_px), 'fy_px': float(intrinsics.fy_px), 'cx_px': float(intrinsics.cx_px),
            'cy_px': float(intrinsics.cy_px), 'width_px': int(intrinsics.width_px),
            'height_px': int(intrinsics.height_px), 'model': intrinsics.model,
            'distortion': [float(d) for d in intrinsics.distortion]}


def _format_target(decision: LogEntry) -> dict[str, Any] | None:
    pose = decision.base_from_target
    return None if pose is None else {'frame': decision.base_frame,
                                      'base_from_target': pose.matrix.ravel().tolist()}


def _format_pixel(pixel: npt.NDArray[np.float64]) -> list[float] | None:
    return [float(pixel[0]), float(pixel[1])] if np.isfinite(pixel).all() else None


@dataclass(frozen=True, eq=False)
class LoggedMatch:
    """One searched view of a recorded answer; pixels (2,) or None, `seen` None without a view."""

    camera: str
    pixel: Array | None
    model_pixel: Array | None
    accepted: bool
    view: LoggedView | None


@dataclass(frozen=True, eq=False)
class LoggedView:
    """A view on the disk, read when somebody asks."""

    folder: Path
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells two views apart."""
        return str(self.fields['image'])

    def read(self, with_depth: bool = True) -> View:
        """Read it. Raises FileNotFoundError, naming the picture."""
        fields, lens = self.fields, dict(self.fields['intrinsics'])
        lens['distortion'] = tuple(lens['distortion'])
        image = _read_image(self.folder / fields['image'], cv2.IMREAD_COLOR)
        depth_m = None
        if with_depth and fields['depth']:
            mm = _read_image(self.folder / fields['depth'], cv2.IMREAD_UNCHANGED).astype(np.float32)
            depth_m = np.where(mm > 0, mm * np.float32(1e-3), np.float32(np.nan))
        mask = None
        if fields.get('mask'):
            mask = _read_image(self.folder / fields['mask'], cv2.IMREAD_GRAYSCALE) > 127
        pose = fields['base_from_cam']
        return View(fields['camera'], np.ascontiguousarray(image[..., ::-1]), Intrinsics(**lens),
                    fields['stamp_ns'], fields['frame_id'], depth_m,
                    None if pose is None else Transform.from_matrix(np.reshape(pose, (4, 4))), mask)


@dataclass(frozen=True, eq=False)
class LoggedAnswer:
    """What stands of one answer; decided_by is 'human' or 'model'."""

    id: str
    corrects: str | None
    decided_by: str
    decision: str
    clicked: LoggedView
    pixel: Array
    matches: tuple[LoggedMatch, ...]
    base_from_target: Transform | None


def read_answers(folder: Path, warn: Callable[[str], object]) -> list[LoggedAnswer]:
    """Read what stands: the last line of each id, unless it was undone or corrected by another.

    A line that is no answer (the last one, of a node that was killed) is left out with a warning.
    """
    newest: dict[str, LoggedAnswer | None] = {}
    for number, fields in _read_lines(folder / ANSWERS_FILE, warn):
        try:
            answer = _parse_answer(folder, fields)
        except (KeyError, TypeError, ValueError) as error:
            warn(f'{folder / ANSWERS_FILE}: line {number} is no answer: {type(error).__name__} {error}')
            continue
        newest.pop(answer.id, None)  # to its new place in the order
        newest[answer.id] = None if answer.decision == UNDONE else answer
    corrected = {a.corrects for a in newest.values() if a is not None}
    return [a for a in newest.values() if a is not None and a.id not in corrected]


def _read_lines(path: Path, warn: Callable[[str], object]) -> Iterator[tuple[int, Any]]:
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, json.loads(line)
            except ValueError:
                warn(f'{path}: line {number} is cut short ({len(line)} bytes) and left out')


def _parse_answer(folder: Path, fields: Any) -> LoggedAnswer:
    target = fields['target']
    return LoggedAnswer(
        fields['id'], fields['corrects'], fields['decided_by'], fields['how'],
        LoggedView(folder, fields['clicked']), np.array(fields['clicked']['pixel'], float),
        tuple(_parse_match(folder, found) for found in fields['found']),
        None if target is None else Transform.from_matrix(
            np.reshape(target['base_from_target'], (4, 4))))


def _parse_match(folder: Path, fields: Any) -> LoggedMatch:
    def pixel(name: str) -> Array | None:
        return None if fields[name] is None else np.array(fields[name], float)

    return LoggedMatch(fields['camera'], pixel('pixel'), pixel('model_pixel'), fields['accepted'],
                 LoggedView(folder, fields) if 'image' in fields else None)


def _read_image(path: Path, how: int) -> npt.NDArray[Any]:
    image = cv2.imread(str(path), how)
    if image is None:
        raise FileNotFoundError(f'{path} is no picture that can be read')
    return image
