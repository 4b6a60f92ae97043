"""The answer log: writes the node's answers with their images to a folder, and reads them back.

`answers.jsonl` has one line per decision, appended complete or not at all, after its images; the
last line of an id wins.
"""
from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View
from crosspoint_ros.core.image_io import atomic_write, read_depth_m, read_image, read_mask
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence

log = logging.getLogger(__name__)
ANSWERS_FILE = 'answers.jsonl'
UNREVIEWED, ACCEPTED, CORRECTED, MOVED, UNDONE = (
    'unreviewed', 'accepted', 'corrected', 'moved', 'undone')
MAX_PENDING = 16  # entries with images that wait for the disk; their images stay in memory
MAX_CACHED_LINES = 64  # to append again with another decision after the images are released
CLOSE_TIMEOUT_S = 2.0
DEPTH_PER_M, MAX_DEPTH = 1000.0, 65535  # 16-bit millimetres


@dataclass(frozen=True, eq=False)
class LogEntry:
    """A decision about an answer."""

    id: str
    number: int
    decision: str
    result: LocateResult | None  # None if its images were released: an earlier line has them
    base_from_target: Transform | None  # None without a target
    base_frame: str


class AnswerLogger:
    """Writes entries in a thread. An error is logged once, and ends the recording only."""

    def __init__(self, folder: Path) -> None:
        """Start the thread, which makes the folder."""
        self._folder = folder
        self._pending: deque[LogEntry] = deque()
        self._wake = threading.Condition()
        self._closed, self.failed, self._has_dropped = False, False, False
        self._lines: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name='crosspoint-recorder', daemon=True)
        self._thread.start()

    def log(self, entry: LogEntry) -> None:
        """Queue an entry without ever waiting for the disk; drop it if too many are pending."""
        with self._wake:
            if self.failed or self._closed:
                return
            if entry.decision == UNDONE:  # needs no images, and must not keep them in memory
                entry = replace(entry, result=None)
            with_images = sum(e.result is not None for e in self._pending)
            if with_images < MAX_PENDING or entry.result is None:
                self._pending.append(entry)
                self._wake.notify()
                return
            first, self._has_dropped = not self._has_dropped, True
        if first:
            log.error('%s: the disk is too slow: %d answers are pending; further ones are dropped',
                      self._folder, MAX_PENDING)

    def close(self) -> None:
        """Write what is pending, within two seconds, and end the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.error('%d decisions are not recorded: the disk does not respond within %g s (%s)',
                      len(self._pending) + 1, CLOSE_TIMEOUT_S, self._folder)

    def _run(self) -> None:
        try:
            for name in ('images', 'depth', 'masks'):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            with open(self._folder / ANSWERS_FILE, 'ab'):
                pass  # raises now if it cannot be written
            while (entry := self._next()) is not None:
                self._write(entry)
        except Exception as error:  # whatever fails here must not stop the robot
            with self._wake:
                self.failed = True
                self._pending.clear()
            log.error('record_dir %s: %s: %s. Nothing more is recorded until the node is '
                      'configured again', self._folder, type(error).__name__, error)

    def _next(self) -> LogEntry | None:
        with self._wake:
            self._wake.wait_for(lambda: self._pending or self._closed)
            return self._pending.popleft() if self._pending else None

    def _write(self, entry: LogEntry) -> None:
        previous = self._lines.get(entry.id)
        if entry.result is not None:
            line = self._format_entry(entry, entry.result, previous)
        elif previous is not None:
            line = dict(previous)
        else:
            return  # never written, and its images are gone
        target = None if entry.base_from_target is None else {
            'frame': entry.base_frame, 'base_from_target': _format_pose(entry.base_from_target)}
        line.update(number=entry.number, how=entry.decision, decided_ns=time.time_ns(),
                    decided_by='model' if entry.decision == UNREVIEWED else 'human', target=target)
        append_line(self._folder / ANSWERS_FILE, line)
        self._lines[entry.id] = line
        while len(self._lines) > MAX_CACHED_LINES:
            self._lines.popitem(last=False)

    def _format_entry(self, entry: LogEntry, result: LocateResult,
                      previous: dict[str, Any] | None) -> dict[str, Any]:
        """Return the line of an entry, its images written."""
        corrects = previous['corrects'] if previous else None
        if entry.decision == CORRECTED and corrects is None:
            corrects = self._find_corrected_id(result)
        model_pixels = {match['camera']: match['model_pixel']
                        for match in self._lines.get(corrects or '', {}).get('found', ())}
        clicked = {**self._write_view(result.clicked), 'pixel': _format_pixel(result.pixel)}
        return {'id': entry.id, 'corrects': corrects, 'clicked': clicked, 'found': [
            self._format_match(match, model_pixels) for match in result.correspondences]}

    def _find_corrected_id(self, result: LocateResult) -> str | None:
        """Return the id of the latest answer to the same click in the same images."""
        click = {'camera': result.clicked.camera, 'stamp_ns': result.clicked.stamp_ns,
                 'pixel': _format_pixel(result.pixel)}
        return next((str(line['id']) for line in reversed(self._lines.values())
                     if line['how'] != UNDONE and click.items() <= line['clicked'].items()), None)

    def _format_match(self, found: ViewCorrespondence, model_pixels: dict[str, Any]
                      ) -> dict[str, Any]:
        match = found.match
        pixel = None if match is None else _format_pixel(match.pixel)
        confidence = np.nan if match is None else float(match.confidence)
        view = {'camera': found.camera} if found.view is None else self._write_view(found.view)
        return {**view, 'pixel': pixel, 'model_pixel': model_pixels.get(found.camera, pixel),
                'accepted': found.rejected is None and pixel is not None,
                'confidence': confidence if np.isfinite(confidence) else None}

    def _write_view(self, view: View) -> dict[str, Any]:
        name = f'{view.camera}_{view.stamp_ns}.png'
        return {
            'camera': view.camera, 'stamp_ns': view.stamp_ns, 'frame_id': view.frame_id,
            'image': self._write_png('images', name, np.ascontiguousarray(view.image[..., ::-1])),
            'depth': None if view.depth_m is None else self._write_png(
                'depth', name, depth_to_mm(view.depth_m)),
            'mask': None if view.mask is None else self._write_png(
                'masks', f'{view.camera}.png', np.where(view.mask, 255, 0).astype(np.uint8)),
            'intrinsics': asdict(view.intrinsics),
            'base_from_cam': _format_pose(view.base_from_cam)}

    def _write_png(self, kind: str, name: str, pixels: npt.NDArray[Any]) -> str:
        """Write an image unless it exists; return its path within the folder.

        A different image of that name, from a run with the same clock, gets another number.
        """
        encoded, png = cv2.imencode('.png', pixels)
        if not encoded:
            raise OSError(f'{name} cannot be encoded as PNG')
        data, path, number = png.tobytes(), self._folder / kind / name, 1
        while path.exists():
            if path.stat().st_size == len(data) and path.read_bytes() == data:
                return f'{kind}/{path.name}'
            number += 1
            path = self._folder / kind / name.replace('.png', f'_{number}.png')
        atomic_write(path, data)
        return f'{kind}/{path.name}'


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append a line to a file that others may append to; all of it, or OSError and none of it."""
    data = (json.dumps(line, allow_nan=False) + '\n').encode()
    with open(path, 'a+b', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b'\n':
            data = b'\n' + data  # a writer was killed: leave its line incomplete
        try:
            written = file.write(data)
            if written != len(data):
                raise OSError(f'{path}: {written} of {len(data)} bytes were written')
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def depth_to_mm(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Convert to 16-bit millimetres, 0 where unknown or out of range."""
    mm = np.nan_to_num(depth_m.astype(np.float64) * DEPTH_PER_M, posinf=0, neginf=0).round()
    return np.where((mm > 0) & (mm <= MAX_DEPTH), mm, 0).astype(np.uint16)


def _format_pixel(pixel: npt.NDArray[np.float64]) -> list[float] | None:
    return [float(pixel[0]), float(pixel[1])] if np.isfinite(pixel).all() else None


def _format_pose(pose: Transform | None) -> list[float] | None:
    return None if pose is None else pose.matrix.ravel().tolist()


def _parse_pose(values: list[float] | None) -> Transform | None:
    return None if values is None else Transform.from_matrix(np.reshape(values, (4, 4)))


@dataclass(frozen=True, eq=False)
class LoggedMatch:
    """One searched view of a logged answer; pixels (2,) or None, view None without an image."""

    camera: str
    pixel: Array | None
    model_pixel: Array | None
    accepted: bool
    view: LoggedView | None


@dataclass(frozen=True, eq=False)
class LoggedView:
    """A view on the disk, read on demand."""

    folder: Path
    fields: dict[str, Any]

    @property
    def key(self) -> str:
        """Identifies the view within its folder."""
        return str(self.fields['image'])

    def read(self, with_depth: bool = True) -> View:
        """Read it. Raises OSError or ValueError, naming the file."""
        fields = self.fields
        return View(
            fields['camera'], read_image(self.folder / fields['image']),
            Intrinsics(**fields['intrinsics']), fields['stamp_ns'], fields['frame_id'],
            read_depth_m(self.folder / fields['depth'], DEPTH_PER_M)
            if with_depth and fields['depth'] else None,
            _parse_pose(fields['base_from_cam']),
            read_mask(self.folder / fields['mask']) if fields.get('mask') else None)


@dataclass(frozen=True, eq=False)
class LoggedAnswer:
    """The last decision about one answer; decided_by is 'human' or 'model'."""

    id: str
    corrects: str | None
    decided_by: str
    decision: str
    clicked: LoggedView
    pixel: Array
    matches: tuple[LoggedMatch, ...]
    base_from_target: Transform | None


def read_answers(folder: Path) -> list[LoggedAnswer]:
    """Read the last line of each id, unless it was undone or corrected by another.

    An invalid line (the last one of a node that was killed) is skipped with a warning.
    """
    newest: dict[str, LoggedAnswer] = {}
    path = folder / ANSWERS_FILE
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            try:
                answer = _parse_answer(folder, json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError):
                log.warning('%s: line %d is cut short (%d bytes); it is skipped', path, number,
                            len(line))
            except (KeyError, TypeError, ValueError) as error:
                log.warning('%s: line %d is not an answer: %s %s; it is skipped', path, number,
                            type(error).__name__, error)
            else:
                newest.pop(answer.id, None)  # moves it to the end
                newest[answer.id] = answer
    answers = [answer for answer in newest.values() if answer.decision != UNDONE]
    corrected = {answer.corrects for answer in answers}
    return [answer for answer in answers if answer.id not in corrected]


def _parse_answer(folder: Path, fields: Any) -> LoggedAnswer:
    return LoggedAnswer(
        fields['id'], fields['corrects'], fields['decided_by'], fields['how'],
        LoggedView(folder, fields['clicked']), np.array(fields['clicked']['pixel'], float),
        tuple(_parse_match(folder, match) for match in fields['found']),
        _parse_pose(fields['target'] and fields['target']['base_from_target']))


def _parse_match(folder: Path, fields: Any) -> LoggedMatch:
    def pixel(name: str) -> Array | None:
        return None if fields[name] is None else np.array(fields[name], float)

    return LoggedMatch(fields['camera'], pixel('pixel'), pixel('model_pixel'), fields['accepted'],
                       LoggedView(folder, fields) if 'image' in fields else None)
