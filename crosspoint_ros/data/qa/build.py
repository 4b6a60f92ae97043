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

from crosspoint_ros.data.io import Saying, write_whole
from crosspoint_ros.data.parallel import Pool, in_processes, on_ray
from crosspoint_ros.data.qa.frame_builder import (
    MOST_A_PAIR,
    Share,
    build_frame,
    doubted,
    part_of,
    plan_frames,
)
from crosspoint_ros.data.qa.frame_pairs import OTHERS, Pair, quotas, spread, witnesses_of
from crosspoint_ros.data.qa.scene_reader import Looked, Recipe, Source, bodies_folder, look_at
from crosspoint_ros.data.qa.templates import Coordinates
from crosspoint_ros.data.scenes import BAGS, add_reading_arguments, reading_of, scene_paths

LEAST_A_PAIR = 12
A_FRAME = 36  # questions: what is asked of many frames has more variety, of few it is sooner made
AT_ONCE = 4  # frames that are planned together
Clicked = tuple[Source, str]  # a frame of a scene, by name


def planned(pool: Pool, out: Path, scenes: list[tuple[Source, Looked]], recipe: Recipe,
            number: int) -> tuple[list[Share], Counter[str]]:
    """Choose the pairs of all scenes, and how much each is asked; no more frames than it takes."""
    frames = [(source, name) for source, looked in scenes for name in looked.names]
    most = max(len(looked.names) for _, looked in scenes)
    few = (spread(frames, -(-number // A_FRAME)), min(OTHERS, most))
    for clicked, others in (few, (frames, most)):
        found: dict[Clicked, list[Pair]] = {}
        left_out: Counter[str] = Counter()
        among = {source: tuple(spread(list(looked.names), others)) for source, looked in scenes}
        for owned, reasons in _pairs_of(pool, out, recipe, clicked, among):
            found |= owned
            left_out += reasons
        asked = _shared(pool, out, recipe, found, number, left_out)
        total = sum(sum(own.values()) for own in asked.values())
        if total >= number or (len(clicked), others) == (len(frames), most):
            break  # enough, or already all there are
    return [Share(*frame, tuple(own), tuple(own.values()), witnesses_of(found[frame]))
            for frame, own in asked.items()], left_out


def _shared(pool: Pool, out: Path, recipe: Recipe, found: dict[Clicked, list[Pair]], number: int,
            left_out: Counter[str]) -> dict[Clicked, dict[Pair, int]]:
    """Share the questions among pairs whose images agree; others are dropped from `found`."""
    sure: set[tuple[Clicked, Pair]] = set()
    while True:
        pairs = [(frame, pair) for frame, own in found.items() for pair in own]
        numbers = quotas([pair for _, pair in pairs], number, MOST_A_PAIR, LEAST_A_PAIR)
        asked: dict[Clicked, dict[Pair, int]] = {}
        for (frame, pair), share in zip(pairs, numbers, strict=True):
            if share:
                asked.setdefault(frame, {})[pair] = share
        items = [(out, frame[0], recipe, new) for frame, own in asked.items()
                 if (new := tuple(pair for pair in own if (frame, pair) not in sure))]
        if not items:
            return asked
        whys = pool(doubted, items, itemgetter(1))
        for (_, source, _, new), why in zip(items, whys, strict=True):
            frame = source, new[0].clicked
            sure |= {(frame, pair) for pair in new}
            left_out.update(f'pair: {reason}' for reason in why if reason)
            bad = {pair for pair, reason in zip(new, why, strict=True) if reason}
            found[frame] = [pair for pair in found[frame] if pair not in bad]


def _pairs_of(pool: Pool, out: Path, recipe: Recipe, frames: Sequence[tuple[Source, str]],
              among: dict[Source, tuple[str, ...]]
              ) -> Iterator[tuple[dict[Clicked, list[Pair]], Counter[str]]]:
    """Look for pairs of these frames, some of one scene at a time: they read the same others."""
    items = []
    for source, own in groupby(frames, key=itemgetter(0)):
        names = [name for _, name in own]
        items += [(out, source, recipe, tuple(names[at:at + AT_ONCE]), among[source])
                  for at in range(0, len(names), AT_ONCE)]
    for item, (found, reasons) in zip(items, pool(plan_frames, items, itemgetter(1)), strict=True):
        yield {(item[1], name): pairs for name, pairs in found.items()}, reasons


MOST_LINES = 8  # that are told of what is wrong with one scene
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
    add_reading_arguments(parser)
    parser.add_argument('--labels', type=Path, help='SCENE/FRAME.png of labels (0: nothing), and '
                        'names.json that names them: points are chosen on these things alone')


def main(args: argparse.Namespace) -> int:
    """Build it; 1 if some scene or frame could not be used, or fewer questions were found."""
    if args.number < 1 or args.processes < 1 or not 0 <= args.val < 1:
        raise ValueError('--number and --processes are 1 or more, --val is 0 or more and below 1')
    recipe = Recipe(args.seed, Coordinates(args.coordinates), reading_of(args),
                    str(args.labels.absolute()) if args.labels else '')
    say, begun_s = Saying('data build'), time.monotonic()
    with on_ray(args.ray) if args.ray is not None else in_processes(args.processes) as pool:
        scenes = list(_usable(pool, list(named(scene_paths(args.scenes))), recipe, say))
        if not scenes:
            raise ValueError('none of the scenes can be used')
        begin(args.out, recipe, scenes, args.number)
        shares, left_out = planned(pool, args.out, scenes, recipe, args.number)
        made = pool(build_frame, [(args.out, share, recipe) for share in shares],
                    lambda item: item[1].source)
    for built in made:
        left_out.update(built.left_out)
        for line in built.said:
            say(line)
    written = merge(args.out, shares, args.val, args.seed)
    total = sum(written.values())
    report = {'questions': written, 'left_out': dict(sorted(left_out.items())), 'said': say.lines}
    write_whole(args.out / 'report.json', json.dumps(report, indent=1).encode())
    print(told(args.out, written, left_out, time.monotonic() - begun_s, len(scenes)))
    if total < args.number:
        print(f'{args.number} were asked for: the scenes hold no more that are certain')
    return say.exit_code or int(total < args.number)


def named(paths: Iterable[Path]) -> Iterator[Source]:
    """Give each scene a name of its own: its folder's, with a number where two are alike."""
    names: Counter[str] = Counter()
    for path in paths:
        whole = path.absolute()
        stem = whole.stem if whole.suffix in BAGS else whole.name
        name = f'{whole.parent.name}_{stem}' if stem == 'bag' else stem
        names[name] += 1
        yield Source(name if names[name] == 1 else f'{name}_{names[name]}', str(whole))


def _usable(pool: Pool, sources: list[Source], recipe: Recipe, say: Callable[[str], None]
            ) -> Iterator[tuple[Source, Looked]]:
    """Look at each scene; what is wrong with one is said, and the rest goes on."""
    looks = pool(look_at, [(source, recipe) for source in sources], itemgetter(0))
    for source, looked in zip(sources, looks, strict=True):
        for line in looked.said[:MOST_LINES]:
            say(line)
        if len(looked.said) > MOST_LINES:
            say(f'{source.name}: and {len(looked.said) - MOST_LINES} more lines of that kind')
        if looked.refused:
            say(looked.refused)
        else:
            yield source, looked


def begin(out: Path, recipe: Recipe, scenes: list[tuple[Source, Looked]], number: int) -> None:
    """Note what is built here. Raises ValueError if something else was begun here."""
    wanted = {'recipe': asdict(recipe), 'sources': [asdict(source) for source, _ in scenes],
              'number': number}
    path = out / 'build.json'
    if path.is_file():
        if json.loads(path.read_text()) != json.loads(json.dumps(wanted)):
            raise ValueError(f'{out} was begun with other scenes or options ({path}); choose '
                             'another --out, or remove it')
    else:
        write_whole(path, json.dumps(wanted, indent=1).encode())
    for source, looked in scenes:
        for camera, body in looked.bodies.items():
            write_whole(bodies_folder(out, source) / f'{camera}.png',
                        cv2.imencode('.png', body.astype(np.uint8) * 255)[1].tobytes())


def merge(out: Path, shares: list[Share], val: float, seed: int) -> dict[str, int]:
    """Write the parts as one JSON a split; a scene is in one of them alone."""
    scenes = sorted({share.source.name for share in shares})
    order = np.random.default_rng(seed).permutation(len(scenes))
    kept = {scenes[i] for i in order[:min(round(val * len(scenes)), len(scenes) - 1)]}
    written = {}
    for split in SPLITS:
        own = [s for s in shares if (s.source.name in kept) == (split == 'val')]
        written[split] = _merge(out / f'crosspoint_{split}.json', out, own)
    return written


def _merge(path: Path, out: Path, shares: list[Share]) -> int:
    part, number = path.with_suffix('.part'), 0
    with open(part, 'wb') as file:
        file.write(b'[')
        for share in shares:
            with open(part_of(out, share.source.name, share.name), 'rb') as lines:
                for line in lines:
                    if not line.endswith(b'\n'):
                        continue  # the last one: the part's count
                    file.write(b',\n' if number else b'\n')
                    file.write(line.rstrip(b'\n'))
                    number += 1
        file.write(b'\n]\n')
    part.replace(path)
    return number


def told(out: Path, written: dict[str, int], left_out: Counter[str], seconds: float,
         scenes: int) -> str:
    """Say what was made, and what was left out and why."""
    total = sum(written.values())
    lines = [f'{total} questions ({written["train"]} to train, {written["val"]} to validate) from '
             f'{scenes} scene(s) in {out}, {seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a '
             'second', 'left out:']
    return '\n'.join([*lines, *(f'  {number:8}  {reason}' for reason, number in sorted(
        left_out.items(), key=lambda each: -each[1]))])
