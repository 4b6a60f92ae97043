"""Builds one frame's part of a data set: images, marked images, questions; all or nothing."""
from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.image_io import atomic_write
from crosspoint_ros.data.qa.frame_pairs import FramePair, find_pairs
from crosspoint_ros.data.qa.photometric import FlowReference, explain_rejection, measure_flow_px
from crosspoint_ros.data.qa.point_sampling import Labels, read_labels, sample_points
from crosspoint_ros.data.qa.questions import QAItem, collect_facts, generate_questions
from crosspoint_ros.data.qa.scene_reader import BuildConfig, SceneSource, get_reader
from crosspoint_ros.data.scenes.rgbd_scene import UnusableData

MAX_PER_PAIR = 240  # questions
JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, 88)


def plan_frames(out: Path, source: SceneSource, config: BuildConfig, names: tuple[str, ...],
                others: tuple[str, ...]) -> tuple[dict[str, list[FramePair]], Counter[str]]:
    """Find the pairs of clicked frames with others, all by name; count the skipped by reason."""
    reader = get_reader(out, source, config)
    skipped: Counter[str] = Counter()
    clicked, candidates = ([reader.frames[name] for name in each] for each in (names, others))
    return find_pairs(clicked, candidates, reader.view, skipped), skipped


def find_pair_rejections(out: Path, source: SceneSource, config: BuildConfig,
                         pairs: tuple[FramePair, ...]) -> tuple[str, ...]:
    """Return why each pair of one clicked frame is rejected; '' if its images agree."""
    reader = get_reader(out, source, config)
    reference = FlowReference.from_view(reader.view(reader.frames[pairs[0].clicked]))
    return tuple(explain_rejection(measure_flow_px(
        reference, reader.view(reader.frames[pair.other]))) for pair in pairs)


@dataclass(frozen=True)
class FrameTask:
    """The pairs of a clicked frame, the number of questions of each, and its support frames.

    file_name: of the frame in the data set.
    """

    source: SceneSource
    frame: str
    file_name: str
    pairs: tuple[FramePair, ...]
    counts: tuple[int, ...]
    support_frames: tuple[str, ...]


@dataclass(frozen=True)
class FrameReport:
    """What was skipped, by reason, and the warnings; named as in the JSON."""

    left_out: dict[str, int]
    said: tuple[str, ...] = ()


def build_frame(out: Path, task: FrameTask, config: BuildConfig) -> FrameReport:
    """Write the questions of a frame to its part, unless it exists; the report is its last line."""
    path = get_part_path(out, task)
    if path.is_file():
        return FrameReport(**json.loads(path.read_bytes().splitlines()[-1]))
    try:
        lines, skipped = _build_questions(out, task, config)
        report = FrameReport(dict(sorted(skipped.items())))
    except UnusableData as problem:
        lines, report = [], FrameReport({'frame: cannot be used': 1}, (str(problem),))
    atomic_write(path, '\n'.join(json.dumps(line) for line in [*lines, asdict(report)]).encode())
    return report


def _build_questions(out: Path, task: FrameTask, config: BuildConfig
                     ) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the questions of a frame, their images written. Raises `UnusableData`."""
    reader, scene = get_reader(out, task.source, config), task.source.name
    rng = np.random.default_rng(derive_seed(config.seed, scene, task.frame))
    clicked = reader.view(reader.frames[task.frame])
    labels = read_labels(Path(config.labels) / scene if config.labels else None,
                         task.file_name, clicked)
    pixels = sample_points(clicked, labels, rng)
    if not len(pixels):
        return [], Counter({'frame: nothing in it to ask about': 1})
    names = _name_points(config, labels, pixels)
    writer, reference = ImageWriter(out, scene, reader.file_names), FlowReference.from_view(clicked)
    lines: list[dict[str, Any]] = []
    skipped, seen_keys, missing = Counter[str](), set[str](), 0
    for pair, number in zip(task.pairs, task.counts, strict=True):
        missing += number  # what a pair does not yield, the next one must
        support_views = [reader.view(reader.frames[name]) for name in task.support_frames
                         if name != pair.other]
        other = reader.view(reader.frames[pair.other])
        facts = collect_facts(reference, other, pair, pixels, support_views, names,
                              config.coordinates, skipped)
        if facts is None:
            continue
        for item in generate_questions(facts, min(missing, MAX_PER_PAIR), rng, seen_keys):
            lines.append(writer.format_item(item, clicked, other, pair, config))
            missing -= 1
    return lines, skipped


def _name_points(config: BuildConfig, labels: Labels | None, pixels: Array) -> tuple[str, ...]:
    """Return the name of each point's label, by names.json; empty if there are no names."""
    path = Path(config.labels) / 'names.json'
    if labels is None or not config.labels or not path.is_file() or not len(pixels):
        return ()
    names = json.loads(path.read_text())
    column, row = np.rint(pixels).astype(int).T
    return tuple(names.get(str(label), '') for label in labels[row, column])


class ImageWriter:
    """Writes the images of a scene's questions, each once."""

    def __init__(self, out: Path, scene: str, file_names: dict[str, str]) -> None:
        """file_names: by frame."""
        self._out, self._scene, self._file_names = out, scene, file_names

    def format_item(self, item: QAItem, clicked: View, other: View, pair: FramePair,
                    config: BuildConfig) -> dict[str, Any]:
        """Return a question as the data set has it, its images written."""
        is_cross = item.question_type.value.startswith('cross')
        images = [self._write_image(pair.clicked, clicked)]
        visual = [self._write_marked_image(pair.clicked, clicked, item.pixels)]
        if is_cross:
            images.append(self._write_image(pair.other, other))
            visual.append(images[1])
        fields: dict[str, Any] = {
            'id': '', 'type': item.question_type.value, 'scene': self._scene, 'images': images,
            'visual_image': visual, 'conversations': [
                {'from': 'human', 'value': item.question},
                {'from': 'gpt', 'value': item.answer}],
            'coordinates': config.coordinates.value,
            'points': [_round_pixel(p) for p in item.pixels]}
        if is_cross:
            other_pixel = item.other_pixel
            fields |= {'point1': _round_pixel(item.pixels[0]),
                       'point2': None if other_pixel is None else _round_pixel(other_pixel),
                       'visible': item.is_visible, 'pair': asdict(pair)}
        content = json.dumps(fields, sort_keys=True)
        fields['id'] = hashlib.sha256(content.encode()).hexdigest()[:16]
        return fields

    def _write_image(self, name: str, view: View) -> str:
        return self._write(f'images/{self._scene}/{self._file_names[name]}.jpg', view.image)

    def _write_marked_image(self, name: str, view: View, points: tuple[Array, ...]) -> str:
        at = '_'.join(f'{round(p[0])}-{round(p[1])}' for p in points)
        path = f'visual_image/{self._scene}/{self._file_names[name]}/{at}.jpg'
        if (self._out / path).is_file():
            return path
        return self._write(path, draw_points(view.image, points))

    def _write(self, relative: str, image: npt.NDArray[np.uint8]) -> str:
        path = self._out / relative
        if not path.is_file():
            encoded, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                                         JPEG_OPTIONS)
            if not encoded:
                raise OSError(f'{path} cannot be encoded as JPEG')
            atomic_write(path, data.tobytes())
        return relative


def draw_points(image: npt.NDArray[np.uint8], points: tuple[Array, ...]) -> npt.NDArray[np.uint8]:
    """Return a copy with a ring around each point, and its letter if there are several."""
    canvas, unit = image.copy(), max(1, image.shape[1] // 320)
    for letter, point in zip('ABC', points, strict=False):
        x, y = (round(float(p)) for p in point)
        above = (x + 5 * unit, y - 5 * unit)
        for colour, width in ((0, 0, 0), 3 * unit), ((255, 220, 0), unit):
            cv2.circle(canvas, (x, y), 5 * unit, colour, width, cv2.LINE_AA)
            if len(points) > 1:
                cv2.putText(canvas, letter, above, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * unit, colour,
                            width, cv2.LINE_AA)
    return canvas


def get_part_path(out: Path, task: FrameTask) -> Path:
    """Return the file of a frame's questions, from which the splits are merged."""
    return out / 'parts' / task.source.name / f'{task.file_name}.jsonl'


def _round_pixel(pixel: Array) -> list[float]:
    return [round(float(coordinate), 2) for coordinate in pixel]


def derive_seed(*parts: object) -> int:
    """Return a seed that is different for each place in the data."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], 'big')
