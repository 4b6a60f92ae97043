"""`crosspoint data build`: make questions in CrossPoint-378K's format from recordings."""
from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.data.io import WarningCounter, atomic_write
from crosspoint_ros.data.parallel import Pool, process_pool, ray_pool
from crosspoint_ros.data.qa.frame_builder import (
    MAX_PER_PAIR,
    FrameTask,
    build_frame,
    find_pair_rejections,
    part_path,
    plan_frames,
)
from crosspoint_ros.data.qa.frame_pairs import (
    MAX_CANDIDATES,
    FramePair,
    allocate_quotas,
    pick_evenly,
    select_support_frames,
)
from crosspoint_ros.data.qa.scene_reader import (
    BuildConfig,
    SceneSource,
    SceneSummary,
    self_mask_folder,
    summarize_scene,
)
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import (
    BAGS,
    add_read_arguments,
    expand_scene_paths,
    parse_read_options,
)

MIN_PER_PAIR = 12
QUESTIONS_PER_FRAME = 36  # questions: what is asked of many frames has more variety, of few it is sooner made
FRAMES_PER_TASK = 4  # frames that are planned together
FrameId = tuple[SceneSource, str]  # a frame of a scene, by name


def plan_tasks(pool: Pool, out: Path, scenes: list[tuple[SceneSource, SceneSummary]], recipe: BuildConfig,
            number: int) -> tuple[list[FrameTask], Counter[str]]:
    """Choose the pairs of all scenes, and how much each is asked; no more frames than it takes."""
    frames = [(source, name) for source, looked in scenes for name in looked.names]
    most = max(len(looked.names) for _, looked in scenes)
    few = (pick_evenly(frames, -(-number // QUESTIONS_PER_FRAME)), min(MAX_CANDIDATES, most))
    for clicked, others in (few, (frames, most)):
        found: dict[FrameId, list[FramePair]] = {}
        skipped: Counter[str] = Counter()
        among = {source: tuple(pick_evenly(list(looked.names), others)) for source, looked in scenes}
        for owned, reasons in _find_pairs(pool, out, recipe, clicked, among):
            found |= owned
            skipped += reasons
        asked = _allocate(pool, out, recipe, found, number, skipped)
        total = sum(sum(own.values()) for own in asked.values())
        if total >= number or (len(clicked), others) == (len(frames), most):
            break  # enough, or already all there are
    return [FrameTask(*frame, tuple(own), tuple(own.values()), select_support_frames(found[frame]))
            for frame, own in asked.items()], skipped


def _allocate(pool: Pool, out: Path, recipe: BuildConfig, found: dict[FrameId, list[FramePair]], number: int,
            skipped: Counter[str]) -> dict[FrameId, dict[FramePair, int]]:
    """Share the questions among pairs whose images agree; others are dropped from `found`."""
    sure: set[tuple[FrameId, FramePair]] = set()
    while True:
        pairs = [(frame, pair) for frame, own in found.items() for pair in own]
        numbers = allocate_quotas([pair for _, pair in pairs], number, MAX_PER_PAIR, MIN_PER_PAIR)
        asked: dict[FrameId, dict[FramePair, int]] = {}
        for (frame, pair), share in zip(pairs, numbers, strict=True):
            if share:
                asked.setdefault(frame, {})[pair] = share
        items = [(out, frame[0], recipe, new) for frame, own in asked.items()
                 if (new := tuple(pair for pair in own if (frame, pair) not in sure))]
        if not items:
            return asked
        whys = pool(find_pair_rejections, items, itemgetter(1))
        for (_, source, _, new), why in zip(items, whys, strict=True):
            frame = source, new[0].clicked
            sure |= {(frame, pair) for pair in new}
            skipped.update(f'pair: {reason}' for reason in why if reason)
            bad = {pair for pair, reason in zip(new, why, strict=True) if reason}
            found[frame] = [pair for pair in found[frame] if pair not in bad]


def _find_pairs(pool: Pool, out: Path, recipe: BuildConfig, frames: Sequence[tuple[SceneSource, str]],
              among: dict[SceneSource, tuple[str, ...]]
              ) -> Iterator[tuple[dict[FrameId, list[FramePair]], Counter[str]]]:
    """Look for pairs of these frames, some of one scene at a time: they read the same others."""
    items = []
    for source, own in groupby(frames, key=itemgetter(0)):
        names = [name for _, name in own]
        items += [(out, source, recipe, tuple(names[at:at + FRAMES_PER_TASK]), among[source])
                  for at in range(0, len(names), FRAMES_PER_TASK)]
    for item, (found, reasons) in zip(items, pool(plan_frames, items, itemgetter(1)), strict=True):
        yield {(item[1], name): pairs for name, pairs in found.items()}, reasons


MAX_WARNINGS = 8  # that are told of what is wrong with one scene
SPLITS = ('train', 'val')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('scenes', nargs='+', type=Path, help='rosbag2, or folders in the layout of '
                        'TUM RGB-D, ScanNet or recorded answers; or folders of such')
    parser.add_argument('--out', type=Path, required=True, help='the folder of the data set')
    parser.add_argument('--number', type=int, default=1000, help='of questions (default: 1000)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--coordinates', choices=[c.value for c in Coordinates],
                        default=Coordinates.THOUSAND.value, help='thousandths of width and height '
                        '(default), or pixels')
    parser.add_argument('--val', type=float, default=0.1, help='share of the scenes that is kept '
                        'for validation (default: 0.1)')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--ray', nargs='?', const='', metavar='ADDRESS', help='build on a Ray '
                        'cluster, scene by scene (no address: one on this machine)')
    add_read_arguments(parser)
    parser.add_argument('--labels', type=Path, help='SCENE/FRAME.png of labels (0: nothing), and '
                        'names.json that names them: points are chosen on these things alone')


def main(args: argparse.Namespace) -> int:
    """Build it; 1 if some scene or frame could not be used, or fewer questions were found."""
    if args.number < 1 or args.processes < 1 or not 0 <= args.val < 1:
        raise ValueError('--number and --processes are 1 or more, --val is 0 or more and below 1')
    recipe = BuildConfig(args.seed, Coordinates(args.coordinates), parse_read_options(args),
                    str(args.labels.absolute()) if args.labels else '')
    say, begun_s = WarningCounter('data build'), time.monotonic()
    with ray_pool(args.ray) if args.ray is not None else process_pool(args.processes) as pool:
        scenes = list(_iter_usable_scenes(pool, list(name_scenes(expand_scene_paths(args.scenes))), recipe, say))
        if not scenes:
            raise ValueError('none of the scenes can be used')
        write_build_info(args.out, recipe, scenes, args.number)
        tasks, skipped = plan_tasks(pool, args.out, scenes, recipe, args.number)
        made = pool(build_frame, [(args.out, task, recipe) for task in tasks],
                    lambda item: item[1].source)
    for built in made:
        skipped.update(built.skipped)
        for line in built.warnings:
            say(line)
    written = merge_parts(args.out, tasks, args.val, args.seed)
    total = sum(written.values())
    report = {'questions': written, 'left_out': dict(sorted(skipped.items())), 'said': say.lines}
    atomic_write(args.out / 'report.json', json.dumps(report, indent=1).encode())
    print(format_summary(args.out, written, skipped, time.monotonic() - begun_s, len(scenes)))
    if total < args.number:
        print(f'{args.number} were asked for: the scenes hold no more that are certain')
    return say.exit_code or int(total < args.number)


def name_scenes(paths: Iterable[Path]) -> Iterator[SceneSource]:
    """Give each scene a name of its own: its folder's, with a number where two are alike."""
    names: Counter[str] = Counter()
    for path in paths:
        whole = path.absolute()
        stem = whole.stem if whole.suffix in BAGS else whole.name
        name = f'{whole.parent.name}_{stem}' if stem == 'bag' else stem
        names[name] += 1
        yield SceneSource(name if names[name] == 1 else f'{name}_{names[name]}', str(whole))


def _iter_usable_scenes(pool: Pool, sources: list[SceneSource], recipe: BuildConfig, say: Callable[[str], None]
            ) -> Iterator[tuple[SceneSource, SceneSummary]]:
    """Look at each scene; what is wrong with one is said, and the rest goes on."""
    looks = pool(summarize_scene, [(source, recipe) for source in sources], itemgetter(0))
    for source, looked in zip(sources, looks, strict=True):
        for line in looked.warnings[:MAX_WARNINGS]:
            say(line)
        if len(looked.warnings) > MAX_WARNINGS:
            say(f'{source.name}: and {len(looked.warnings) - MAX_WARNINGS} more lines of that kind')
        if looked.rejection:
            say(looked.rejection)
        else:
            yield source, looked


def write_build_info(out: Path, recipe: BuildConfig, scenes: list[tuple[SceneSource, SceneSummary]], number: int) -> None:
    """Note what is built here. Raises ValueError if something else was begun here."""
    wanted = {'recipe': asdict(recipe), 'sources': [asdict(source) for source, _ in scenes],
              'number': number}
    path = out / 'build.json'
    if path.is_file():
        if json.loads(path.read_text()) != json.loads(json.dumps(wanted)):
            raise ValueError(f'{out} was begun with other scenes or options ({path}); choose '
                             'another --out, or remove it')
    else:
        atomic_write(path, json.dumps(wanted, indent=1).encode())
    for source, looked in scenes:
        for camera, body in looked.self_masks.items():
            atomic_write(self_mask_folder(out, source) / f'{camera}.png',
                        cv2.imencode('.png', body.astype(np.uint8) * 255)[1].tobytes())


def merge_parts(out: Path, tasks: list[FrameTask], val: float, seed: int) -> dict[str, int]:
    """Write the parts as one JSON a split; a scene is in one of them alone."""
    scenes = sorted({task.source.name for task in tasks})
    order = np.random.default_rng(seed).permutation(len(scenes))
    kept = {scenes[i] for i in order[:min(round(val * len(scenes)), len(scenes) - 1)]}
    written = {}
    for split in SPLITS:
        own = [task for task in tasks if (task.source.name in kept) == (split == 'val')]
        written[split] = _merge_split(out / f'crosspoint_{split}.json', out, own)
    return written


def _merge_split(path: Path, out: Path, tasks: list[FrameTask]) -> int:
    part, number = path.with_suffix('.part'), 0
    with open(part, 'wb') as file:
        file.write(b'[')
        for task in tasks:
            with open(part_path(out, task.source.name, task.frame), 'rb') as lines:
                for line in lines:
                    if not line.endswith(b'\n'):
                        continue  # the last one: the part's count
                    file.write(b',\n' if number else b'\n')
                    file.write(line.rstrip(b'\n'))
                    number += 1
        file.write(b'\n]\n')
    part.replace(path)
    return number


def format_summary(out: Path, written: dict[str, int], skipped: Counter[str], seconds: float,
         scenes: int) -> str:
    """Say what was made, and what was left out and why."""
    total = sum(written.values())
    lines = [f'{total} questions ({written["train"]} to train, {written["val"]} to validate) from '
             f'{scenes} scene(s) in {out}, {seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a '
             'second', 'left out:']
    return '\n'.join([*lines, *(f'  {number:8}  {reason}' for reason, number in sorted(
        skipped.items(), key=lambda each: -each[1]))])
