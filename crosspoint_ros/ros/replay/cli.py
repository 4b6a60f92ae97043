"""`crosspoint replay`: the clicks of a recording, answered again by today's configuration."""
from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.data.rosbag import open_bag
from crosspoint_ros.msg import Correspondence, QueryResult
from crosspoint_ros.ros.config import Config
from crosspoint_ros.ros.node.camera import source_of
from crosspoint_ros.ros.node.matcher_runtime import Loading, Matchers, Relay
from crosspoint_ros.ros.replay.offline_node import OfflineNode, given_parameters
from crosspoint_ros.ros.replay.runner import (
    Click,
    Rerun,
    found_by_camera,
    recorded_clicks,
    was_interrupted,
)

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'to be checked',
            Correspondence.SURE: 'sure'}
ABSENT = 'not searched'


@dataclass(frozen=True)
class ViewChange:
    """One other view: verdict and code then and now; moved_px is NaN unless both answered."""

    camera: str
    was: str
    now: str
    was_code: str
    now_code: str
    moved_px: float
    confidence: float
    epipolar_error_px: float
    message: str

    def beyond(self, max_px: float) -> bool:
        """Tell whether it is another answer."""
        return (self.was, self.was_code) != (self.now, self.now_code) or self.moved_px > max_px


@dataclass(frozen=True)
class Change:
    """One click, then and now. compared is False where there is nothing to compare with."""

    at_s: float
    camera: str
    pixel: tuple[float, float]
    compared: bool
    was_code: str
    now_code: str
    views: tuple[ViewChange, ...]
    target: str  # '', 'new', 'gone', or 'kept' on both sides
    moved_mm: float
    turned_deg: float
    message: str

    def beyond(self, max_px: float, max_mm: float, max_deg: float = 2.0) -> bool:
        """Tell whether it changed: a code, a verdict, a target, a place or pose by more."""
        return self.compared and (
            self.was_code != self.now_code or any(view.beyond(max_px) for view in self.views)
            or self.target in ('new', 'gone') or self.moved_mm > max_mm
            or self.turned_deg > max_deg)


def change_of(click: Click, now: QueryResult, start_ns: int) -> Change:
    """Compare what was recorded with what is answered now."""
    was = click.recorded
    compared = was is not None and not was_interrupted(was)
    before = was if compared else None
    target, moved_mm, turned_deg = _target(before, now)
    clicked = now.clicked if now.clicked.camera or was is None else was.clicked
    return Change(
        at_s=round((click.at_ns - start_ns) * 1e-9, 3), camera=clicked.camera,
        pixel=(clicked.x, clicked.y), compared=compared,
        was_code='' if was is None else Code(was.status.code).name,
        now_code=Code(now.status.code).name, views=_views(before, now), target=target,
        moved_mm=moved_mm, turned_deg=turned_deg, message=now.status.message)


def _views(was: QueryResult | None, now: QueryResult) -> tuple[ViewChange, ...]:
    before = {} if was is None else found_by_camera(was)
    after = found_by_camera(now)
    return tuple(_view_in(camera, before.get(camera), after.get(camera), was is not None)
                 for camera in sorted({*before, *after}))


def _view_in(camera: str, was: Correspondence | None, now: Correspondence | None, compared: bool
          ) -> ViewChange:
    moved_px = math.nan
    if was is not None and now is not None:
        moved_px = math.hypot(now.found.x - was.found.x, now.found.y - was.found.y)
    return ViewChange(
        camera, _verdict(was) if compared else '', _verdict(now),
        '' if was is None else Code(was.status.code).name,
        '' if now is None else Code(now.status.code).name, moved_px,
        math.nan if now is None else float(now.confidence),
        math.nan if now is None else float(now.epipolar_error_px),
        '' if now is None else now.status.message)


def _verdict(answer: Correspondence | None) -> str:
    return ABSENT if answer is None else VERDICTS[answer.verdict]


def _target(was: QueryResult | None, now: QueryResult) -> tuple[str, float, float]:
    if was is None or was.has_target != now.has_target:
        kind = '' if was is None else 'new' if now.has_target else 'gone'
        return kind, math.nan, math.nan
    if not now.has_target:
        return '', math.nan, math.nan
    a, b = (r.target.pose.pose.position for r in (was, now))
    moved_m = float(np.linalg.norm((b.x - a.x, b.y - a.y, b.z - a.z)))
    p, q = (r.target.pose.pose.orientation for r in (was, now))
    half = abs(p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w)
    return 'kept', 1000 * moved_m, math.degrees(2 * math.acos(min(half, 1.0)))


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
