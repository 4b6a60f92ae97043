"""`crosspoint data check`: validates a data set against its files, its format and the geometry."""
from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.image_io import read_image, write_image
from crosspoint_ros.core.visualization import concatenate_images
from crosspoint_ros.data.parallel import progress_bar
from crosspoint_ros.data.qa.frame_builder import draw_points
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.qa.questions import Coordinates, QuestionType
from crosspoint_ros.data.qa.scene_reader import BuildConfig, SceneReader, SceneSource, get_reader
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData

PREFIX, SHEET_ITEMS = 'crosspoint_', 10
REQUIRED_FIELDS = ('id', 'type', 'images', 'conversations')
MAX_ERROR_PX = 3.0


@dataclass(frozen=True, eq=False)
class DatasetItem:
    """One question, its split and its index there; fields: empty if it is not JSON."""

    split: str
    index: int
    fields: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, help='a data set built by `crosspoint data build`')
    parser.add_argument('--geometry', type=int, default=500, metavar='N', help='check N answers '
                        'against the recordings, if these still exist (default: 500)')
    parser.add_argument('--sheet', type=Path, metavar='PNG', help='draw random samples')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')


def main(args: argparse.Namespace) -> int:
    """Check it; 1 for any fault."""
    faults: Counter[str] = Counter()
    examples: dict[str, str] = {}
    validator = Validator(args.folder)
    sampled: list[DatasetItem] = []
    rng, total = np.random.default_rng(args.seed), 0
    for item in progress_bar(iter_items(args.folder), unit='question'):
        total += 1
        for fault in validator.find_faults(item):
            reason = fault.partition(':')[0]
            faults[reason] += 1
            examples.setdefault(reason, f'{PREFIX}{item.split}.json: item {item.index}: {fault}')
        keep = max(args.geometry, SHEET_ITEMS)
        if len(sampled) < keep:  # reservoir sampling
            sampled.append(item)
        elif (at := int(rng.integers(total))) < keep:
            sampled[at] = item
    print(f'{total} questions, {len(validator.scenes)} scene(s)')
    faults.update(check_geometry(args.folder, sampled[:args.geometry]))
    for reason, number in faults.most_common():
        print(f'  {number:8}  {reason}   e.g. {examples.get(reason, "")}')
    if args.sheet and sampled:
        chosen = rng.choice(len(sampled), min(SHEET_ITEMS, len(sampled)), replace=False)
        write_image(args.sheet, draw_sheet(args.folder, [sampled[i] for i in chosen]))
        print(f'inspect {args.sheet}')
    print('no faults' if not faults else f'{sum(faults.values())} faults')
    return int(bool(faults) or not total)


def iter_items(folder: Path) -> Iterator[DatasetItem]:
    """Yield the questions of all splits, one in memory. Raises FileNotFoundError without any."""
    paths = sorted(folder.glob(f'{PREFIX}*.json'))
    if not paths:
        raise FileNotFoundError(f'{folder} has no {PREFIX}train.json: it is not a data set, or '
                                'its build has not finished')
    for path in paths:
        split = path.stem.removeprefix(PREFIX)
        with open(path, encoding='utf-8') as file:
            for index, line in enumerate(file):
                text = line.strip().rstrip(',')
                if text in ('', '[', ']'):
                    continue
                try:
                    fields = json.loads(text)
                except ValueError:
                    fields = {}
                yield DatasetItem(split, index, fields if isinstance(fields, dict) else {})


class Validator:
    """Finds the faults of one question after another, duplicates and leaks included."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image_size = cache(self._read_size)
        self._keys: set[str] = set()
        self.scenes: dict[str, str] = {}  # scene -> split

    def find_faults(self, item: DatasetItem) -> Iterator[str]:
        """Yield what is wrong with one question, as `kind: detail`."""
        fields = item.fields
        missing = [name for name in REQUIRED_FIELDS if name not in fields]
        if missing:
            yield f'a line that is not a question: it lacks {", ".join(missing)}'
            return
        if fields['type'] not in [question_type.value for question_type in QuestionType]:
            yield f'an unknown type: {fields["type"]}'
        # The same text about the same images is the same question, whatever its id.
        content = json.dumps([fields['images'], fields['conversations']])
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        if key in self._keys:
            yield f'a duplicate: {fields["id"]}'
        self._keys.add(key)
        scene = str(fields.get('scene', fields['images'][0]))
        if self.scenes.setdefault(scene, item.split) != item.split:
            yield f'a leak: scene {scene} is in {self.scenes[scene]} and in {item.split}'
        for name in [*fields['images'], *fields.get('visual_image', [])]:
            if self._image_size(name) is None:
                yield f'an image that cannot be read: {name}'
        if fields['conversations'][0]['value'].count('<image>') != len(fields['images']):
            yield f'the number of <image> is not that of images: {len(fields["images"])}'
        for name, image in (('point1', 0), ('point2', -1)):
            point, size = fields.get(name), self._image_size(fields['images'][image])
            if point is not None and size is not None and not (
                    0 <= point[0] <= size[0] - 0.5 and 0 <= point[1] <= size[1] - 0.5):
                yield f'a point outside its image: {name} {point} of {size}'

    def _read_size(self, name: str) -> tuple[int, int] | None:
        """Return the size (w, h) of an image; None if it cannot be read."""
        try:
            height, width = read_image(self._folder / name).shape[:2]
        except (OSError, ValueError):
            return None
        return width, height


def check_geometry(folder: Path, items: list[DatasetItem]) -> Counter[str]:
    """Project the points of some questions again in the recordings; count what disagrees."""
    path = folder / 'build.json'
    if not path.is_file():
        print('geometry: not checked, there is no build.json that names the recordings')
        return Counter()
    build = json.loads(path.read_text())
    fields = build['recipe']
    config = BuildConfig(fields['seed'], Coordinates(fields['coordinates']),
                         ReadOptions(**fields['reading']), fields['labels'])
    faults, checked = Counter[str](), 0
    for source in (SceneSource(**s) for s in build['sources']):
        own = sorted((i for i in items if i.fields.get('scene') == source.name
                      and i.fields.get('visible') is not None),
                     key=lambda i: (i.fields['pair']['clicked'], i.fields['pair']['other']))
        if not own:
            continue
        try:
            reader = get_reader(folder, source, config)
        except UnusableData as problem:
            print(f'geometry: not checked: {problem}')
            continue
        checked += len(own)
        for item in progress_bar(own, desc=source.name, unit='answer'):
            faults.update(_find_disagreement(reader, item.fields))
    print(f'geometry: {checked} answers were checked against the recordings')
    return faults


def _find_disagreement(reader: SceneReader, fields: dict[str, Any]) -> Iterator[str]:
    pair = fields['pair']
    clicked, other = (reader.view(reader.frames[pair[name]]) for name in ('clicked', 'other'))
    projected = project_points(clicked, other, np.array([fields['point1']], float))
    if (projected.visibility[0] in (
            Visibility.OCCLUDED, Visibility.OUTSIDE)) == fields['visible']:
        yield 'an answer that geometry contradicts (visible or not)'
    elif fields['visible'] and np.linalg.norm(
            projected.pixels[0] - fields['point2']) > MAX_ERROR_PX:
        yield f'an answer more than {MAX_ERROR_PX:g} px from where geometry puts it'


def draw_sheet(folder: Path, items: list[DatasetItem]) -> Any:
    """Draw questions with their images, the answer's point ringed in the last one."""
    rows = []
    for item in items:
        fields = item.fields
        images = [read_image(folder / n) for n in fields.get('visual_image', fields['images'])]
        if fields.get('point2') is not None:
            images[-1] = draw_points(images[-1], (np.array(fields['point2']),))
        question, answer = (' '.join(turn['value'].replace('<image>', '').split())
                            for turn in fields['conversations'][:2])
        images = images if len(images) > 1 else [*images, np.full_like(images[0], 40)]
        rows.append(concatenate_images(images, [fields['type'], ''], f'{question}  ->  {answer}'))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([cv2.copyMakeBorder(row, 0, 12, 0, width - row.shape[1],
                                              cv2.BORDER_CONSTANT) for row in rows])
