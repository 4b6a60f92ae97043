"""`crosspoint data build`: builds questions in CrossPoint-378K's format from recordings."""
from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.core.image_io import atomic_write, write_image
from crosspoint_ros.data.io import WarningCounter, assign_unique_names, describe_files, read_version
from crosspoint_ros.data.parallel import Pool, process_pool, ray_pool
from crosspoint_ros.data.qa import frame_builder, frame_pairs, scene_reader
from crosspoint_ros.data.qa.frame_builder import FrameReport, FrameTask
from crosspoint_ros.data.qa.frame_pairs import FramePair, pick_evenly
from crosspoint_ros.data.qa.questions import Coordinates
from crosspoint_ros.data.qa.scene_reader import BUILD, BuildConfig, SceneSource, SceneSummary
from crosspoint_ros.data.scenes import BAGS, add_read_arguments, expand_scenes, parse_read_options

log = logging.getLogger(__name__)
MIN_PER_PAIR = 12  # questions
QUESTIONS_PER_FRAME = 36  # fewer: more varied questions; more: a faster build
FRAMES_PER_TASK = 4  # planned together
REPORT = 'report.json'
OUTPUTS = ('parts', 'images', 'visual_image', 'own_body', 'crosspoint_train.json',
           'crosspoint_val.json', REPORT)
MAX_CHANGES = 3  # in a message
FrameId = tuple[SceneSource, str]
Scenes = list[tuple[SceneSource, SceneSummary]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('scenes', nargs='+', type=Path, help='a rosbag2, a folder in the format of '
                        'TUM RGB-D, ScanNet or the answer log, or a folder of several')
    parser.add_argument('--out', type=Path, required=True, help='the folder of the data set')
    parser.add_argument('--number', type=int, default=1000,
                        help='number of questions (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    parser.add_argument('--coordinates', choices=[c.value for c in Coordinates],
                        default=Coordinates.THOUSAND.value, help='unit of points: thousandths of '
                        'width and height (default), or pixels')
    parser.add_argument('--val', type=float, default=0.1, help='share of the scenes kept for '
                        'validation (default: 0.1)')
    parser.add_argument('--processes', type=int, default=1,
                        help='number of processes, at most one per core (default: 1)')
    parser.add_argument('--ray', nargs='?', const='', metavar='ADDRESS', help='build on a Ray '
                        'cluster, one task per scene (no address: start one on this machine)')
    parser.add_argument('--restart', action='store_true', help='remove what was built in --out '
                        'before, and build it again')
    add_read_arguments(parser)
    parser.add_argument('--labels', type=Path, help='a folder of SCENE/FRAME.png (0: nothing), and '
                        'names.json with the names: points are sampled on labelled objects alone')


def main(args: argparse.Namespace) -> int:
    """Build it; 1 after any warning, or with fewer questions than requested."""
    if args.number < 1 or args.processes < 1 or not 0 <= args.val < 1:
        raise ValueError('--number and --processes must be 1 or more, --val 0 or more and below 1')
    config = BuildConfig(args.seed, Coordinates(args.coordinates), parse_read_options(args),
                         str(args.labels.absolute()) if args.labels else '')
    start_s = time.monotonic()
    scene_reader.get_reader.cache_clear()  # the files may have changed
    workers = ray_pool(args.ray) if args.ray is not None else process_pool(args.processes)
    with WarningCounter() as warnings, workers as pool:
        sources = list(name_scenes(expand_scenes(args.scenes)))
        if args.restart:
            remove_build(args.out)
        info = describe_build(args.out, config, sources, args.number)
        check_resumable(args.out, info)
        scenes = list(_iter_usable_scenes(pool, sources, config))
        if not scenes:
            raise ValueError('none of the scenes can be used')
        write_build_info(args.out, info, scenes)
        tasks, skipped = plan_tasks(pool, args.out, scenes, config, args.number)
        for part in pool(frame_builder.build_frame, [(args.out, task, config) for task in tasks],
                         lambda item: item[1].source, 'build'):
            skipped.update(part.left_out)
            for line in part.said:
                log.warning('a frame is skipped: %s', line)
        counts = merge_parts(args.out, tasks, args.val, args.seed)
    total = sum(counts.values())
    report = FrameReport(dict(sorted(skipped.items())), tuple(warnings.lines))
    atomic_write(args.out / REPORT,
                 json.dumps({'questions': counts, **asdict(report)}, indent=1).encode())
    print(format_summary(args.out, counts, skipped, time.monotonic() - start_s, len(scenes)))
    if total < args.number:
        print(f'{args.number} were requested: the scenes have no more that are certain')
    return warnings.exit_code or int(total < args.number)


def name_scenes(paths: Iterable[Path]) -> Iterator[SceneSource]:
    """Name each scene after its folder, with a number if that name is another's."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # without ..
    stems = [path.stem if path.suffix in BAGS else path.name for path in absolute]
    names = assign_unique_names(f'{path.parent.name}_{stem}' if stem == 'bag' else stem or 'root'
                                for path, stem in zip(absolute, stems, strict=True))
    for name, path in zip(names, absolute, strict=True):
        yield SceneSource(name, str(path))


def _iter_usable_scenes(pool: Pool, sources: list[SceneSource], config: BuildConfig
                        ) -> Iterator[tuple[SceneSource, SceneSummary]]:
    """Check the scenes; yield the usable ones, log why the others are not."""
    summaries = pool(scene_reader.summarize_scene, [(source, config) for source in sources],
                     itemgetter(0), 'check scenes')
    for source, summary in zip(sources, summaries, strict=True):
        if summary.rejection:
            log.warning('scene %s is skipped: %s', source.name, summary.rejection)
        else:
            yield source, summary


def describe_build(out: Path, config: BuildConfig, sources: list[SceneSource], number: int
                   ) -> dict[str, Any]:
    """Return all that determines what is built; of recordings and labels, their files' times."""
    inputs = {source.name: describe_files(Path(source.path), out) for source in sources}
    return {'version': read_version(), 'recipe': asdict(config),
            'sources': [asdict(source) for source in sources], 'number': number, 'inputs': inputs,
            'labels': describe_files(Path(config.labels), out) if config.labels else {}}


def check_resumable(out: Path, info: dict[str, Any]) -> None:
    """Raise ValueError with what differs if another build was begun here, or its inputs changed."""
    path = out / BUILD
    if not path.is_file():
        if found := [name for name in OUTPUTS if (out / name).exists()]:
            raise ValueError(f'{out} has {", ".join(found)} and no {BUILD}: what wrote it is '
                             'unknown; choose another --out')
        return
    try:
        known = _flatten(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f'{path} cannot be read ({error}); --restart removes what was built '
                         'there') from error
    now = _flatten(json.loads(json.dumps(info)))  # where a tuple is a list
    changes = [f'{name} is new' if name not in known else f'{name} is missing' if name not in now
               else f'{name} was {known[name]!r}, is {now[name]!r}'
               for name in {**known, **now} if known.get(name) != now.get(name)]
    if changes:
        more = f', and {len(changes) - MAX_CHANGES} more' if len(changes) > MAX_CHANGES else ''
        raise ValueError(f'{out} was begun with other scenes or options, or their files have '
                         f'changed: {"; ".join(changes[:MAX_CHANGES])}{more}. Choose another '
                         '--out, or --restart, which removes what was built there')


def _flatten(info: Any, name: str = '') -> dict[str, Any]:
    """Return the values of nested objects by their joined names; of files, "scene: file"."""
    if not isinstance(info, dict):
        return {name: info}
    flat: dict[str, Any] = {}
    for key, value in info.items():
        own = key if not name or name == 'inputs' else \
            f'{name}.{key}' if name.startswith('recipe') else f'{name}: {key}'
        flat |= _flatten(value, own)
    return flat


def remove_build(out: Path) -> None:
    """Remove what a build wrote; nothing from a folder that is not of a build."""
    if not (out / BUILD).is_file():
        return
    for path in (*(out / name for name in OUTPUTS), out / BUILD):  # the mark of a build last
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_build_info(out: Path, info: dict[str, Any], scenes: Scenes) -> None:
    """Write build.json, and the self masks."""
    atomic_write(out / BUILD, json.dumps(info, indent=1).encode())
    for source, summary in scenes:
        for camera, mask in summary.self_masks.items():
            write_image(scene_reader.get_self_mask_folder(out, source) / f'{camera}.png', mask)


def plan_tasks(pool: Pool, out: Path, scenes: Scenes, config: BuildConfig, number: int
               ) -> tuple[list[FrameTask], Counter[str]]:
    """Select the pairs of all scenes, from few frames first; count the skipped by reason."""
    frames = [(source, name) for source, summary in scenes for name in summary.file_names]
    largest = max(len(summary.file_names) for _, summary in scenes)
    few = (pick_evenly(frames, -(-number // QUESTIONS_PER_FRAME)),
           min(frame_pairs.MAX_CANDIDATES, largest))
    for clicked, candidates in (few, (frames, largest)):
        others = {source: tuple(pick_evenly(list(summary.file_names), candidates))
                  for source, summary in scenes}
        found, skipped = _find_pairs(pool, out, config, clicked, others)
        quotas = _allocate(pool, out, config, found, number, skipped)
        total = sum(sum(own.values()) for own in quotas.values())
        if total >= number or (len(clicked), candidates) == (len(frames), largest):
            break  # enough, or these are all there are
    file_names = {source: summary.file_names for source, summary in scenes}
    return [FrameTask(source, frame, file_names[source][frame], tuple(own), tuple(own.values()),
                      frame_pairs.select_support_frames(found[source, frame]))
            for (source, frame), own in quotas.items()], skipped


def _find_pairs(pool: Pool, out: Path, config: BuildConfig, frames: list[FrameId],
                others: dict[SceneSource, tuple[str, ...]]
                ) -> tuple[dict[FrameId, list[FramePair]], Counter[str]]:
    """Find the pairs of these frames, some of one scene at a time: they read the same others."""
    items, found, skipped = [], dict[FrameId, list[FramePair]](), Counter[str]()
    for source, own in groupby(frames, key=itemgetter(0)):
        names = [name for _, name in own]
        items += [(out, source, config, tuple(names[at:at + FRAMES_PER_TASK]), others[source])
                  for at in range(0, len(names), FRAMES_PER_TASK)]
    planned = pool(frame_builder.plan_frames, items, itemgetter(1), 'find pairs')
    for item, (pairs, reasons) in zip(items, planned, strict=True):
        found |= {(item[1], name): own for name, own in pairs.items()}
        skipped += reasons
    return found, skipped


def _allocate(pool: Pool, out: Path, config: BuildConfig, found: dict[FrameId, list[FramePair]],
              number: int, skipped: Counter[str]) -> dict[FrameId, dict[FramePair, int]]:
    """Share the questions among pairs whose images agree; removes the others from `found`."""
    accepted: set[tuple[FrameId, FramePair]] = set()
    while True:
        pairs = [(frame, pair) for frame, own in found.items() for pair in own]
        shares = frame_pairs.allocate_quotas([pair for _, pair in pairs], number,
                                             frame_builder.MAX_PER_PAIR, MIN_PER_PAIR)
        quotas: dict[FrameId, dict[FramePair, int]] = {}
        for (frame, pair), share in zip(pairs, shares, strict=True):
            if share:
                quotas.setdefault(frame, {})[pair] = share
        items = [(out, frame[0], config, new) for frame, own in quotas.items()
                 if (new := tuple(pair for pair in own if (frame, pair) not in accepted))]
        if not items:
            return quotas
        rejections = pool(frame_builder.find_pair_rejections, items, itemgetter(1),
                          'compare images')
        for (_, source, _, new), reasons in zip(items, rejections, strict=True):
            frame = source, new[0].clicked
            accepted |= {(frame, pair) for pair in new}
            skipped.update(f'pair: {reason}' for reason in reasons if reason)
            rejected = {pair for pair, reason in zip(new, reasons, strict=True) if reason}
            found[frame] = [pair for pair in found[frame] if pair not in rejected]


def merge_parts(out: Path, tasks: list[FrameTask], val: float, seed: int) -> dict[str, int]:
    """Merge the parts into one JSON a split; a scene is in one split alone. Returns the counts."""
    scenes = sorted({task.source.name for task in tasks})
    order = np.random.default_rng(seed).permutation(len(scenes))
    val_scenes = {scenes[i] for i in order[:min(round(val * len(scenes)), len(scenes) - 1)]}
    counts = {'train': 0, 'val': 0}
    for split in counts:
        unfinished = out / f'crosspoint_{split}.part'
        with open(unfinished, 'wb') as file:
            file.write(b'[')
            for task in tasks:
                if (task.source.name in val_scenes) == (split == 'val'):
                    part = frame_builder.get_part_path(out, task)
                    for line in part.read_bytes().splitlines()[:-1]:  # the last is the report
                        file.write((b',\n' if counts[split] else b'\n') + line)
                        counts[split] += 1
            file.write(b'\n]\n')
        unfinished.replace(unfinished.with_suffix('.json'))
    return counts


def format_summary(out: Path, counts: dict[str, int], skipped: Counter[str], seconds: float,
                   scenes: int) -> str:
    """Describe what was built, and what was skipped and why."""
    total = sum(counts.values())
    return '\n'.join([
        f'{total} questions ({counts["train"]} to train, {counts["val"]} to validate) from '
        f'{scenes} scene(s) in {out}, {seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a second',
        'skipped:', *(f'  {number:8}  {reason}' for reason, number in skipped.most_common())])
