"""`crosspoint data check`: hold a data set against its files, its own rules and the geometry."""
from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.visualization import concatenate_images, write_image
from crosspoint_ros.data.qa.frame_builder import draw_points
from crosspoint_ros.data.qa.point_visibility import Visibility, project_points
from crosspoint_ros.data.qa.scene_reader import BuildConfig, SceneReader, SceneSource, get_reader
from crosspoint_ros.data.qa.templates import Coordinates, QuestionType
from crosspoint_ros.data.scenes.rgbd_scene import ReadOptions, UnusableData, read_rgb

PREFIX, SHEET_ITEMS = 'crosspoint_', 10
REQUIRED_FIELDS = ('id', 'type', 'images', 'conversations')
MAX_ERROR_PX = 3.0
QUESTION_TYPES = {question_type.value for question_type in QuestionType}


@dataclass(frozen=True, eq=False)
class DatasetItem:
    """One question, and where it stands."""

    split: str
    number: int
    fields: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('folder', type=Path, help='a data set that was built')
    parser.add_argument('--geometry', type=int, default=500, metavar='N', help='hold so many '
                        'answers against the recordings, if these are still there (default: 500)')
    parser.add_argument('--sheet', type=Path, metavar='PNG', help='draw random samples')
    parser.add_argument('--seed', type=int, default=0, help='of the samples')


def main(args: argparse.Namespace) -> int:
    """Check it; 1 if anything is wrong."""
    wrong: Counter[str] = Counter()
    shown: dict[str, str] = {}
    ids: dict[str, str] = {}
    scenes: dict[str, str] = {}
    sampled: list[DatasetItem] = []
    rng, total = np.random.default_rng(args.seed), 0
    sizes: dict[str, tuple[int, int] | None] = {}
    for item in iter_items(args.folder):
        total += 1
        for problem in find_problems(args.folder, item, sizes, ids, scenes):
            reason = problem.partition(':')[0]
            wrong[reason] += 1
            shown.setdefault(reason, f'{PREFIX}{item.split}.json: item {item.number}: {problem}')
        keep = max(args.geometry, SHEET_ITEMS)
        if len(sampled) < keep:  # a fair sample of all, without keeping all
            sampled.append(item)
        elif (at := int(rng.integers(total))) < keep:
            sampled[at] = item
    print(f'{total} questions, {len(scenes)} scene(s)')
    off = check_geometry(args.folder, sampled[:args.geometry])
    wrong.update(off)
    for reason, number in wrong.most_common():
        print(f'  {number:8}  {reason}   e.g. {shown.get(reason, "")}')
    if args.sheet and sampled:
        chosen = rng.choice(len(sampled), min(SHEET_ITEMS, len(sampled)), replace=False)
        write_image(args.sheet, draw_sheet(args.folder, [sampled[i] for i in chosen]))
        print(f'look at {args.sheet}')
    print('nothing is wrong' if not wrong else f'{sum(wrong.values())} things are wrong')
    return int(bool(wrong) or not total)


def iter_items(folder: Path) -> Iterator[DatasetItem]:
    """Yield the questions of all splits, one in memory. Raises ValueError for a broken file."""
    paths = sorted(folder.glob(f'{PREFIX}*.json'))
    if not paths:
        raise FileNotFoundError(f'{folder} has no {PREFIX}train.json: it is no data set, or was '
                                'not finished')
    for path in paths:
        split = path.stem.removeprefix(PREFIX)
        with open(path, encoding='utf-8') as file:
            for number, line in enumerate(file):
                text = line.strip().rstrip(',')
                if text in ('', '[', ']'):
                    continue
                try:
                    fields = json.loads(text)
                except ValueError:
                    fields = {}
                yield DatasetItem(split, number, fields if isinstance(fields, dict) else {})


def find_problems(folder: Path, item: DatasetItem, sizes: dict[str, tuple[int, int] | None],
             ids: dict[str, str], scenes: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with one question; `sizes`, `ids`, `scenes` remember across them."""
    fields = item.fields
    missing = [name for name in REQUIRED_FIELDS if name not in fields]
    if missing:
        yield f'a line that is no question: it lacks {", ".join(missing)}'
        return
    if fields['type'] not in QUESTION_TYPES:
        yield f'an unknown type: {fields["type"]}'
    # The same words about the same images are the same question, whatever its id.
    content = json.dumps([fields['images'], fields['conversations']])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    if key in ids:
        yield f'a duplicate: {fields["id"]}'
    ids[key] = item.split
    scene = str(fields.get('scene', fields['images'][0]))
    if scenes.setdefault(scene, item.split) != item.split:
        yield f'a leak: scene {scene} is in {scenes[scene]} and in {item.split}'
    for name in [*fields['images'], *fields.get('visual_image', [])]:
        if name not in sizes:
            picture = cv2.imread(str(folder / name))
            sizes[name] = None if picture is None else picture.shape[1::-1]
        if sizes[name] is None:
            yield f'an image that cannot be read: {name}'
    if fields['conversations'][0]['value'].count('<image>') != len(fields['images']):
        yield f'another number of <image> than of images: {len(fields["images"])}'
    for name, image in (('point1', 0), ('point2', -1)):
        point, size = fields.get(name), sizes.get(fields['images'][image])
        if point is not None and size is not None and not (
                0 <= point[0] <= size[0] - 0.5 and 0 <= point[1] <= size[1] - 0.5):
            yield f'a point outside its image: {name} {point} of {size}'


def check_geometry(folder: Path, items: list[DatasetItem]) -> Counter[str]:
    """Find the points of some questions again in the recordings; count what disagrees."""
    path = folder / 'build.json'
    if not path.is_file():
        print('geometry: not checked, there is no build.json that names the recordings')
        return Counter()
    known = json.loads(path.read_text())
    fields = known['recipe']
    recipe = BuildConfig(fields['seed'], Coordinates(fields['coordinates']),
                    ReadOptions(**fields['reading']), fields['labels'])
    wrong, checked = Counter[str](), 0
    for source in (SceneSource(**s) for s in known['sources']):
        own = sorted((i for i in items if i.fields.get('scene') == source.name
                      and i.fields.get('visible') is not None),
                     key=lambda i: (i.fields['pair']['clicked'], i.fields['pair']['other']))
        if not own:
            continue
        try:
            reader = get_reader(folder, source, recipe)
        except UnusableData as problem:
            print(f'geometry: not checked: {problem}')
            continue
        for item in own:
            wrong.update(_find_disagreement(reader, item.fields))
            checked += 1
    print(f'geometry: {checked} answers were held against the recordings')
    return wrong


def _find_disagreement(reader: SceneReader, fields: dict[str, Any]) -> Iterator[str]:
    pair = fields['pair']
    clicked, other = (reader.view(reader.frames[pair[name]]) for name in ('clicked', 'other'))
    projected = project_points(clicked, other, np.array([fields['point1']], float))
    if (projected.visibility[0] in (Visibility.OCCLUDED, Visibility.OUTSIDE)) == fields['visible']:
        yield 'an answer that geometry contradicts (visible or not)'
    elif fields['visible'] and np.linalg.norm(projected.pixels[0] - fields['point2']) > MAX_ERROR_PX:
        yield f'an answer more than {MAX_ERROR_PX:g} px from where geometry has it'


def draw_sheet(folder: Path, items: list[DatasetItem]) -> Any:
    """Draw questions with their images, the answer's point ringed in the last one."""
    rows = []
    for item in items:
        fields = item.fields
        images = [read_rgb(folder / n) for n in fields.get('visual_image', fields['images'])]
        if fields.get('point2') is not None:
            images[-1] = draw_points(images[-1], (np.array(fields['point2']),))
        question, answer = (' '.join(turn['value'].replace('<image>', '').split())
                            for turn in fields['conversations'][:2])
        images = images if len(images) > 1 else [*images, np.full_like(images[0], 40)]
        rows.append(concatenate_images(images, [fields['type'], ''], f'{question}  ->  {answer}'))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([cv2.copyMakeBorder(row, 0, 12, 0, width - row.shape[1],
                                              cv2.BORDER_CONSTANT) for row in rows])
