"""One frame's share of a data set: its images, its marked images, its questions, all or nothing."""
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
from crosspoint_ros.data.io import write_whole
from crosspoint_ros.data.qa.frame_pairs import Pair, pairs_of
from crosspoint_ros.data.qa.photometric import doubt, look_of, shift_px
from crosspoint_ros.data.qa.point_sampling import Labels, labels_of
from crosspoint_ros.data.qa.questions import Asked, ask, choose_points, facts_of
from crosspoint_ros.data.qa.scene_reader import Recipe, Source, reader_of
from crosspoint_ros.data.scenes.rgbd_scene import Unusable

MOST_A_PAIR = 240  # questions
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 88)


def plan_frames(out: Path, source: Source, recipe: Recipe, names: tuple[str, ...],
                others: tuple[str, ...]) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """Return the pairs of these frames, clicked, with those others; all by name."""
    reader = reader_of(out, source, recipe)
    left_out: Counter[str] = Counter()
    clicked, among = ([reader.frames[name] for name in each] for each in (names, others))
    return pairs_of(clicked, among, reader.view, left_out), left_out


def doubted(out: Path, source: Source, recipe: Recipe, pairs: tuple[Pair, ...]
            ) -> tuple[str, ...]:
    """Return why nothing is certain of each pair of one clicked frame; '' where it is."""
    reader = reader_of(out, source, recipe)
    look = look_of(reader.view(reader.frames[pairs[0].clicked]))
    return tuple(doubt(shift_px(look, reader.view(reader.frames[pair.other]))) for pair in pairs)


@dataclass(frozen=True)
class Share:
    """What one frame is asked: pairs with the number of questions of each.

    witnesses: further frames, which may confirm that a point is there.
    """

    source: Source
    name: str
    pairs: tuple[Pair, ...]
    numbers: tuple[int, ...]
    witnesses: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """What became of a frame. said: what was wrong with it, in words."""

    left_out: dict[str, int]
    said: tuple[str, ...] = ()


def build_frame(out: Path, share: Share, recipe: Recipe) -> Built:
    """Write the questions of a frame to its part, unless it is there."""
    path = part_of(out, share.source.name, share.name)
    if path.is_file():
        return Built(**json.loads(path.read_bytes().splitlines()[-1]))
    try:
        lines, left_out = _questions(out, share, recipe)
        built = Built(dict(sorted(left_out.items())))
    except Unusable as problem:
        lines, built = [], Built({'frame: cannot be used': 1}, (str(problem),))
    write_whole(path, '\n'.join(json.dumps(line) for line in [*lines, asdict(built)]).encode())
    return built


def _questions(out: Path, share: Share, recipe: Recipe
               ) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Make the questions of a frame, their images on the disk. Raises `Unusable`."""
    reader, left_out, lines = reader_of(out, share.source, recipe), Counter[str](), []
    rng = np.random.default_rng(seed_of(recipe.seed, share.source.name, share.name))
    clicked = reader.view(reader.frames[share.name])
    labels = labels_of(Path(recipe.labels) / share.source.name if recipe.labels else None,
                       file_name(share.name), clicked)
    pixels = choose_points(clicked, labels, rng)
    names = _names(recipe, labels, pixels)
    asked: set[str] = set()
    folder = Folder(out, share.source.name)
    look, short = look_of(clicked), 0
    for pair, number in zip(share.pairs, share.numbers, strict=True):
        short += number  # what a pair does not yield is asked of the next
        witnesses = [reader.view(reader.frames[n]) for n in share.witnesses if n != pair.other]
        other = reader.view(reader.frames[pair.other])
        facts = facts_of(look, other, pair, pixels, witnesses, names, recipe.coordinates, left_out)
        for made in ask(facts, min(short, MOST_A_PAIR), rng, asked) if facts else ():
            lines.append(folder.item(made, clicked, other, pair, recipe))
            short -= 1
    return lines, left_out


def _names(recipe: Recipe, labels: Labels | None, pixels: Array) -> tuple[str, ...]:
    """What the labels call each point: names.json maps a label to its name."""
    path = Path(recipe.labels) / 'names.json'
    if labels is None or not recipe.labels or not path.is_file() or not len(pixels):
        return ()
    known = json.loads(path.read_text())
    column, row = np.rint(pixels).astype(int).T
    return tuple(known.get(str(label), '') for label in labels[row, column])


class Folder:
    """Writes the images of a scene's questions, each once."""

    def __init__(self, out: Path, scene: str) -> None:
        self._out, self._scene = out, scene

    def item(self, made: Asked, clicked: View, other: View, pair: Pair, recipe: Recipe
             ) -> dict[str, Any]:
        """Return the question as the data set has it; its images are on the disk then."""
        crossing = made.kind.value.startswith('cross')
        images = [self._image(pair.clicked, clicked)]
        visual = [self._marked(pair.clicked, clicked, made.points)]
        if crossing:
            images.append(self._image(pair.other, other))
            visual.append(images[1])
        item: dict[str, Any] = {
            'id': '', 'type': made.kind.value, 'scene': self._scene, 'images': images,
            'visual_image': visual, 'conversations': [
                {'from': 'human', 'value': made.question},
                {'from': 'gpt', 'value': made.answer}],
            'coordinates': recipe.coordinates.value,
            'points': [_rounded(p) for p in made.points]}
        if crossing:
            item |= {'point1': _rounded(made.points[0]),
                     'point2': None if made.found is None else _rounded(made.found),
                     'visible': made.visible, 'pair': asdict(pair)}
        item['id'] = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:16]
        return item

    def _image(self, name: str, view: View) -> str:
        return self._write(f'images/{self._scene}/{file_name(name)}.jpg', view.image)

    def _marked(self, name: str, view: View, points: tuple[Array, ...]) -> str:
        at = '_'.join(f'{round(p[0])}-{round(p[1])}' for p in points)
        path = f'visual_image/{self._scene}/{file_name(name)}_{at}.jpg'
        if (self._out / path).is_file():
            return path
        return self._write(path, marked(view.image, points))

    def _write(self, relative: str, image: npt.NDArray[np.uint8]) -> str:
        path = self._out / relative
        if not path.is_file():
            done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG)
            if not done:
                raise OSError(f'{path} cannot be encoded as JPEG')
            write_whole(path, data.tobytes())
        return relative


def marked(image: npt.NDArray[np.uint8], points: tuple[Array, ...]) -> npt.NDArray[np.uint8]:
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


def part_of(out: Path, scene: str, name: str) -> Path:
    """Where the questions of a frame are until all are there."""
    return out / 'parts' / scene / f'{file_name(name)}.jsonl'


def file_name(name: str) -> str:
    """A frame's name as one part of a path."""
    return name.replace('/', '-').replace('.png', '').replace('.jpg', '')


def _rounded(pixel: Array) -> list[float]:
    return [round(float(pixel[0]), 2), round(float(pixel[1]), 2)]


def seed_of(*words: object) -> int:
    """A seed of its own for each place in the data."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], 'big')
