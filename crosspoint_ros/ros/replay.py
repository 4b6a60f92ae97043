"""`crosspoint replay`: the clicks of a recording, answered again by today's configuration."""
from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.data.bag import open_bag
from crosspoint_ros.ros.cameras import source_of
from crosspoint_ros.ros.changes import Change, ViewChange, change_of
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.loading import Loading, Matchers
from crosspoint_ros.ros.offline import OfflineNode, given_parameters
from crosspoint_ros.ros.relay import Relay
from crosspoint_ros.ros.rerun import Rerun, recorded_clicks

SAME, CHANGED, UNUSABLE = 0, 1, 2  # exit codes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', type=Path, help='a rosbag2 with the cameras, TF, and the clicks or '
                                               '~/result')
    parser.add_argument('--params', type=Path, metavar='FILE.yaml',
                        help='the parameters of the node, as it is started with')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='a parameter over those of the file; may be repeated')
    parser.add_argument('--node', default='/crosspoint', help='its name (default: /crosspoint)')
    parser.add_argument('--max-px', type=float, default=1.0,
                        help='a found point that moved further has changed (default: 1)')
    parser.add_argument('--max-mm', type=float, default=2.0,
                        help='a target that moved further has changed (default: 2)')
    parser.add_argument('--json', action='store_true', help='print JSON')


def main(args: argparse.Namespace) -> int:
    """Answer the clicks again; 0: as recorded, 1: something changed, 2: cannot be done."""
    try:
        changes, skipped = replayed(args)
    except (OSError, ValueError, MemoryError) as error:
        print(f'crosspoint replay: {error}', file=sys.stderr)
        return UNUSABLE
    if args.json:
        print(as_json(changes, skipped, args.max_px, args.max_mm))
    else:
        for change in changes:
            print(line(change, args.max_px, args.max_mm))
        print(summary(changes, skipped, args.max_px, args.max_mm))
    return CHANGED if any(c.beyond(args.max_px, args.max_mm) for c in changes) else SAME


def replayed(args: argparse.Namespace) -> tuple[list[Change], list[str]]:
    """Answer all clicks. Raises ValueError with what is wrong with the bag or the parameters."""
    node = OfflineNode(args.node, given_parameters(args.params, args.node, args.set))
    config = node.config()
    with closing(open_bag(args.bag)) as bag:
        check_topics(bag, node, config)
        clicks = recorded_clicks(bag, node, config, f'{args.node}/result')
        if not clicks.asked:
            raise ValueError(f'{args.bag} has no clicks: none on the click topics, and no usable '
                             f'{args.node}/result (another name of the node: --node)'
                             + ''.join(f'; {why}' for why in clicks.skipped))
        rerun = Rerun(bag, node, config, loaded(config, node))
        return [change_of(click, rerun.answer(click), int(bag.start_time))
                for click in clicks.asked], clicks.skipped


def check_topics(bag: Any, node: OfflineNode, config: Config) -> None:
    """Raise ValueError if a camera's images or its lens were not recorded."""
    recorded = {connection.topic for connection in bag.connections}
    for camera in config.cameras:
        source = source_of(camera, node.resolve_topic_name)
        for topic in filter(None, (source.image_topic, source.info_topic, source.depth_topic)):
            if topic not in recorded:
                near = sorted(t for t in recorded if t.startswith(f'/{camera.name}/'))
                raise ValueError(f'{camera.name}: the bag has no {topic}'
                                 + (f'; it has {", ".join(near)}' if near else ''))


def loaded(config: Config, node: OfflineNode) -> Matchers:
    """Load the matcher as the node does. Raises ValueError if that fails."""
    relay = Relay(node.get_logger())
    loading = Loading(config, relay)
    try:
        loading.run()
    finally:
        relay.close()
    if loading.matchers is None:
        raise ValueError(loading.failure)
    return loading.matchers


def line(change: Change, max_px: float, max_mm: float) -> str:
    """One click in one line."""
    told = [_view(view, change.compared) for view in change.views]
    if not change.views:
        told = [change.now_code + (f': {change.message}' if change.message else '')]
    if change.compared and change.was_code != change.now_code:
        told.insert(0, f'{change.was_code} -> {change.now_code}')
    elif change.was_code and not change.compared:
        told.insert(0, f'was {change.was_code}, not compared')
    if change.target in ('new', 'gone'):
        told.append(f'the target is {change.target}')
    elif math.isfinite(change.moved_mm):
        told.append(f'target {change.moved_mm:.1f} mm, {change.turned_deg:.1f} deg')
    mark = 'CHANGED ' if change.beyond(max_px, max_mm) else 'same    ' if change.compared else \
        'new     '
    x, y = change.pixel
    return f'{mark} {change.at_s:9.3f} s  {change.camera} ({x:.1f}, {y:.1f})  ' + '; '.join(told)


def _view(view: ViewChange, compared: bool) -> str:
    now = view.now + (f' {view.now_code}' if view.now == 'refused' else '')
    if not compared:
        return f'{view.camera} {now}' + (
            f' {view.confidence:.2f}' if view.now != 'refused' else '')
    was = view.was + (f' {view.was_code}' if view.was == 'refused' else '')
    told = now if was == now else f'{was} -> {now}'
    return f'{view.camera} {told}' + (
        f' {view.moved_px:.1f} px' if math.isfinite(view.moved_px) else '')


def summary(changes: list[Change], skipped: list[str], max_px: float, max_mm: float) -> str:
    """What it all comes to."""
    compared = [c for c in changes if c.compared]
    beyond = [c for c in compared if c.beyond(max_px, max_mm)]
    lines = [f'{len(changes)} clicks: {len(compared)} with a recorded answer, {len(beyond)} '
             f'changed (verdict, code, more than {max_px:g} px, {max_mm:g} mm or 2 deg)']
    if not compared:
        lines.append('nothing was compared: the bag has no answer that ended by itself')
    px, mm = (_largest(values) for values in (
        [v.moved_px for c in compared for v in c.views], [c.moved_mm for c in compared]))
    if compared:
        lines.append(f'furthest: {px} px, {mm} mm')
    for camera, error_px in errors(changes).items():
        lines.append(f'{camera}: {error_px:.1f} px from the clicked ray (median)')
    return '\n'.join([*lines, *(f'left out: {why}' for why in skipped)])


def errors(changes: list[Change]) -> dict[str, float]:
    """The median distance of what was found from the clicked ray, by camera: the extrinsics."""
    by_camera: dict[str, list[float]] = {}
    for view in (view for change in changes for view in change.views):
        if math.isfinite(view.epipolar_error_px):
            by_camera.setdefault(view.camera, []).append(view.epipolar_error_px)
    return {camera: float(np.median(found)) for camera, found in sorted(by_camera.items())}


def _largest(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f'{max(known):.1f}' if known else 'no'


def as_json(changes: list[Change], skipped: list[str], max_px: float, max_mm: float) -> str:
    """Everything, for programs; null where there is nothing to measure."""
    clicks = [{**asdict(change), 'changed': change.beyond(max_px, max_mm)} for change in changes]
    return json.dumps(_plain({
        'clicks': clicks, 'left_out': skipped, 'epipolar_error_px': errors(changes),
        'changed': sum(c.beyond(max_px, max_mm) for c in changes),
        'compared': sum(c.compared for c in changes)}), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
