"""One frame's task of a data set: its images, its marked images, its questions, all or nothing."""
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
from crosspoint_ros.data.io import atomic_write
from crosspoint_ros.data.qa.frame_pairs import FramePair, find_pairs
from crosspoint_ros.data.qa.photometric import (
    flow_magnitude_px,
    make_flow_reference,
    rejection_reason,
)
from crosspoint_ros.data.qa.point_sampling import Labels, read_labels
from crosspoint_ros.data.qa.questions import (
    QAItem,
    choose_points,
    collect_facts,
    generate_questions,
)
from crosspoint_ros.data.qa.scene_reader import BuildConfig, SceneSource, get_reader
from crosspoint_ros.data.scenes.rgbd_scene import UnusableData

MAX_PER_PAIR = 240  # questions
JPEG_OPTIONS = (cv2.IMWRITE_JPEG_QUALITY, 88)


def plan_frames(out: Path, source: SceneSource, recipe: BuildConfig, names: tuple[str, ...],
                others: tuple[str, ...]) -> tuple[dict[str, list[FramePair]], Counter[str]]:
    """Return the pairs of these frames, clicked, with those others; all by name."""
    reader = get_reader(out, source, recipe)
    skipped: Counter[str] = Counter()
    clicked, among = ([reader.frames[name] for name in each] for each in (names, others))
    return find_pairs(clicked, among, reader.view, skipped), skipped


def find_pair_rejections(out: Path, source: SceneSource, recipe: BuildConfig, pairs: tuple[FramePair, ...]
            ) -> tuple[str, ...]:
    """Return why nothing is certain of each pair of one clicked frame; '' where it is."""
    reader = get_reader(out, source, recipe)
    reference = make_flow_reference(reader.view(reader.frames[pairs[0].clicked]))
    return tuple(rejection_reason(flow_magnitude_px(reference, reader.view(reader.frames[pair.other]))) for pair in pairs)


@dataclass(frozen=True)
class FrameTask:
    """What one frame is asked: pairs with the number of questions of each.

    witnesses: further frames, which may confirm that a point is there.
    """

    source: SceneSource
    frame: str
    pairs: tuple[FramePair, ...]
    counts: tuple[int, ...]
    support_frames: tuple[str, ...]


@dataclass(frozen=True)
class FrameReport:
    """What became of a frame. said: what was wrong with it, in words."""

    skipped: dict[str, int]
    warnings: tuple[str, ...] = ()


def build_frame(out: Path, task: FrameTask, recipe: BuildConfig) -> FrameReport:
    """Write the questions of a frame to its part, unless it is there."""
    path = part_path(out, task.source.name, task.frame)
    if path.is_file():
        return FrameReport(**json.loads(path.read_bytes().splitlines()[-1]))
    try:
        lines, skipped = _build_questions(out, task, recipe)
        built = FrameReport(dict(sorted(skipped.items())))
    except UnusableData as problem:
        lines, built = [], FrameReport({'frame: cannot be used': 1}, (str(problem),))
    atomic_write(path, '\n'.join(json.dumps(line) for line in [*lines, asdict(built)]).encode())
    return built


def _build_questions(out: Path, task: FrameTask, recipe: BuildConfig
               ) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Make the questions of a frame, their images on the disk. Raises `Unusable`."""
    reader, skipped, lines = get_reader(out, task.source, recipe), Counter[str](), []
    rng = np.random.default_rng(derive_seed(recipe.seed, task.source.name, task.frame))
    clicked = reader.view(reader.frames[task.frame])
    labels = read_labels(Path(recipe.labels) / task.source.name if recipe.labels else None,
                       frame_file_name(task.frame), clicked)
    pixels = choose_points(clicked, labels, rng)
    names = _name_points(recipe, labels, pixels)
    asked: set[str] = set()
    folder = ImageWriter(out, task.source.name)
    reference, short = make_flow_reference(clicked), 0
    for pair, number in zip(task.pairs, task.counts, strict=True):
        short += number  # what a pair does not yield is asked of the next
        support_frames = [reader.view(reader.frames[n]) for n in task.support_frames if n != pair.other]
        other = reader.view(reader.frames[pair.other])
        facts = collect_facts(reference, other, pair, pixels, support_frames, names, recipe.coordinates, skipped)
        for made in generate_questions(facts, min(short, MAX_PER_PAIR), rng, asked) if facts else ():
            lines.append(folder.format_item(made, clicked, other, pair, recipe))
            short -= 1
    return lines, skipped


def _name_points(recipe: BuildConfig, labels: Labels | None, pixels: Array) -> tuple[str, ...]:
    """What the labels call each point: names.json maps a label to its name."""
    path = Path(recipe.labels) / 'names.json'
    if labels is None or not recipe.labels or not path.is_file() or not len(pixels):
        return ()
    known = json.loads(path.read_text())
    column, row = np.rint(pixels).astype(int).T
    return tuple(known.get(str(label), '') for label in labels[row, column])


class ImageWriter:
    """Writes the images of a scene's questions, each once."""

    def __init__(self, out: Path, scene: str) -> None:
        self._out, self._scene = out, scene

    def format_item(self, made: QAItem, clicked: View, other: View, pair: FramePair, recipe: BuildConfig
             ) -> dict[str, Any]:
        """Return the question as the data set has it; its images are on the disk then."""
        crossing = made.question_type.value.startswith('cross')
        images = [self._write_image(pair.clicked, clicked)]
        visual = [self._write_marked_image(pair.clicked, clicked, made.pixels)]
        if crossing:
            images.append(self._write_image(pair.other, other))
            visual.append(images[1])
        item: dict[str, Any] = {
            'id': '', 'type': made.question_type.value, 'scene': self._scene, 'images': images,
            'visual_image': visual, 'conversations': [
                {'from': 'human', 'value': made.question},
                {'from': 'gpt', 'value': made.answer}],
            'coordinates': recipe.coordinates.value,
            'points': [_round_pixel(p) for p in made.pixels]}
        if crossing:
            item |= {'point1': _round_pixel(made.pixels[0]),
                     'point2': None if made.other_pixel is None else _round_pixel(made.other_pixel),
                     'visible': made.is_visible, 'pair': asdict(pair)}
        item['id'] = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]
        return item

    def _write_image(self, name: str, view: View) -> str:
        return self._write(f'images/{self._scene}/{frame_file_name(name)}.jpg', view.image)

    def _write_marked_image(self, name: str, view: View, points: tuple[Array, ...]) -> str:
        at = '_'.join(f'{round(p[0])}-{round(p[1])}' for p in points)
        path = f'visual_image/{self._scene}/{frame_file_name(name)}_{at}.jpg'
        if (self._out / path).is_file():
            return path
        return self._write(path, draw_points(view.image, points))

    def _write(self, relative: str, image: npt.NDArray[np.uint8]) -> str:
        path = self._out / relative
        if not path.is_file():
            done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG_OPTIONS)
            if not done:
                raise OSError(f'{path} cannot be encoded as JPEG')
            atomic_write(path, data.tobytes())
        return relative


def draw_points(image: npt.NDArray[np.uint8], points: tuple[Array, ...]) -> npt.NDArray[np.uint8]:
    """Return the image with a ring around each point, and its letter where there are several."""
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


def part_path(out: Path, scene: str, name: str) -> Path:
    """Where the questions of a frame are until all are there."""
    return out / 'parts' / scene / f'{frame_file_name(name)}.jsonl'


def frame_file_name(name: str) -> str:
    """A frame's name as one part of a path."""
    return name.replace('/', '-').replace('.png', '').replace('.jpg', '')


def _round_pixel(pixel: Array) -> list[float]:
    return [round(float(pixel[0]), 2), round(float(pixel[1]), 2)]


def derive_seed(*words: object) -> int:
    """A seed of its own for each place in the data."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], 'big')
