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
from crosspoint_ros.ros.node.camera import resolve_topics
from crosspoint_ros.ros.node.matcher_runtime import MatcherLoader, Matchers, LogForwarder
from crosspoint_ros.ros.replay.offline_node import OfflineNode, read_parameters
from crosspoint_ros.ros.replay.runner import (
    BagReplayer,
    RecordedClick,
    index_by_camera,
    is_interrupted,
    read_clicks,
)

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'to be checked',
            Correspondence.SURE: 'sure'}
ABSENT = 'not searched'


@dataclass(frozen=True)
class ViewDiff:
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

    def exceeds(self, max_px: float) -> bool:
        """Tell whether it is another answer."""
        return (self.was, self.was_code) != (self.now, self.now_code) or self.moved_px > max_px


@dataclass(frozen=True)
class ResultDiff:
    """One click, then and now. compared is False where there is nothing to compare with."""

    at_s: float
    camera: str
    pixel: tuple[float, float]
    compared: bool
    was_code: str
    now_code: str
    views: tuple[ViewDiff, ...]
    target: str  # '', 'new', 'gone', or 'kept' on both sides
    moved_mm: float
    turned_deg: float
    message: str

    def exceeds(self, max_px: float, max_mm: float, max_deg: float = 2.0) -> bool:
        """Tell whether it changed: a code, a verdict, a target, a place or pose by more."""
        return self.compared and (
            self.was_code != self.now_code or any(view.exceeds(max_px) for view in self.views)
            or self.target in ('new', 'gone') or self.moved_mm > max_mm
            or self.turned_deg > max_deg)


def diff_result(click: RecordedClick, now: QueryResult, start_ns: int) -> ResultDiff:
    """Compare what was recorded with what is answered now."""
    was = click.recorded_result
    compared = was is not None and not is_interrupted(was)
    before = was if compared else None
    target, moved_mm, turned_deg = _diff_target(before, now)
    clicked = now.clicked if now.clicked.camera or was is None else was.clicked
    return ResultDiff(
        at_s=round((click.at_ns - start_ns) * 1e-9, 3), camera=clicked.camera,
        pixel=(clicked.x, clicked.y), compared=compared,
        was_code='' if was is None else Code(was.status.code).name,
        now_code=Code(now.status.code).name, views=_diff_views(before, now), target=target,
        moved_mm=moved_mm, turned_deg=turned_deg, message=now.status.message)


def _diff_views(was: QueryResult | None, now: QueryResult) -> tuple[ViewDiff, ...]:
    before = {} if was is None else index_by_camera(was)
    after = index_by_camera(now)
    return tuple(_diff_view(camera, before.get(camera), after.get(camera), was is not None)
                 for camera in sorted({*before, *after}))


def _diff_view(camera: str, was: Correspondence | None, now: Correspondence | None, compared: bool
          ) -> ViewDiff:
    moved_px = math.nan
    if was is not None and now is not None:
        moved_px = math.hypot(now.found.x - was.found.x, now.found.y - was.found.y)
    return ViewDiff(
        camera, _verdict_name(was) if compared else '', _verdict_name(now),
        '' if was is None else Code(was.status.code).name,
        '' if now is None else Code(now.status.code).name, moved_px,
        math.nan if now is None else float(now.confidence),
        math.nan if now is None else float(now.epipolar_error_px),
        '' if now is None else now.status.message)


def _verdict_name(answer: Correspondence | None) -> str:
    return ABSENT if answer is None else VERDICTS[answer.verdict]


def _diff_target(was: QueryResult | None, now: QueryResult) -> tuple[str, float, float]:
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
        diffs, skipped = replay_clicks(args)
    except (OSError, ValueError, MemoryError) as error:
        print(f'crosspoint replay: {error}', file=sys.stderr)
        return UNUSABLE
    if args.json:
        print(format_json(diffs, skipped, args.max_px, args.max_mm))
    else:
        for diff in diffs:
            print(format_diff(diff, args.max_px, args.max_mm))
        print(format_summary(diffs, skipped, args.max_px, args.max_mm))
    return CHANGED if any(c.exceeds(args.max_px, args.max_mm) for c in diffs) else SAME


def replay_clicks(args: argparse.Namespace) -> tuple[list[ResultDiff], list[str]]:
    """Answer all clicks. Raises ValueError with what is wrong with the bag or the parameters."""
    node = OfflineNode(args.node, read_parameters(args.params, args.node, args.set))
    config = node.read_config()
    with closing(open_bag(args.bag)) as bag:
        check_topics(bag, node, config)
        clicks = read_clicks(bag, node, config, f'{args.node}/result')
        if not clicks.clicks:
            raise ValueError(f'{args.bag} has no clicks: none on the click topics, and no usable '
                             f'{args.node}/result (another name of the node: --node)'
                             + ''.join(f'; {why}' for why in clicks.skipped))
        replayer = BagReplayer(bag, node, config, load_matchers(config, node))
        return [diff_result(click, replayer.replay(click), int(bag.start_time))
                for click in clicks.clicks], clicks.skipped


def check_topics(bag: Any, node: OfflineNode, config: Config) -> None:
    """Raise ValueError if a camera's images or its lens were not recorded."""
    recorded = {connection.topic for connection in bag.connections}
    for camera in config.cameras:
        source = resolve_topics(camera, node.resolve_topic_name)
        for topic in filter(None, (source.image_topic, source.info_topic, source.depth_topic)):
            if topic not in recorded:
                near = sorted(t for t in recorded if t.startswith(f'/{camera.name}/'))
                raise ValueError(f'{camera.name}: the bag has no {topic}'
                                 + (f'; it has {", ".join(near)}' if near else ''))


def load_matchers(config: Config, node: OfflineNode) -> Matchers:
    """Load the matcher as the node does. Raises ValueError if that fails."""
    log_forwarder = LogForwarder(node.get_logger())
    loading = MatcherLoader(config, log_forwarder)
    try:
        loading.run()
    finally:
        log_forwarder.close()
    if loading.matchers is None:
        raise ValueError(loading.failure)
    return loading.matchers


def format_diff(diff: ResultDiff, max_px: float, max_mm: float) -> str:
    """One click in one line."""
    parts = [_format_view(view, diff.compared) for view in diff.views]
    if not diff.views:
        parts = [diff.now_code + (f': {diff.message}' if diff.message else '')]
    if diff.compared and diff.was_code != diff.now_code:
        parts.insert(0, f'{diff.was_code} -> {diff.now_code}')
    elif diff.was_code and not diff.compared:
        parts.insert(0, f'was {diff.was_code}, not compared')
    if diff.target in ('new', 'gone'):
        parts.append(f'the target is {diff.target}')
    elif math.isfinite(diff.moved_mm):
        parts.append(f'target {diff.moved_mm:.1f} mm, {diff.turned_deg:.1f} deg')
    mark = 'CHANGED ' if diff.exceeds(max_px, max_mm) else 'same    ' if diff.compared else \
        'new     '
    x, y = diff.pixel
    return f'{mark} {diff.at_s:9.3f} s  {diff.camera} ({x:.1f}, {y:.1f})  ' + '; '.join(parts)


def _format_view(view: ViewDiff, compared: bool) -> str:
    now = view.now + (f' {view.now_code}' if view.now == 'refused' else '')
    if not compared:
        return f'{view.camera} {now}' + (
            f' {view.confidence:.2f}' if view.now != 'refused' else '')
    was = view.was + (f' {view.was_code}' if view.was == 'refused' else '')
    parts = now if was == now else f'{was} -> {now}'
    return f'{view.camera} {parts}' + (
        f' {view.moved_px:.1f} px' if math.isfinite(view.moved_px) else '')


def format_summary(diffs: list[ResultDiff], skipped: list[str], max_px: float, max_mm: float) -> str:
    """What it all comes to."""
    compared = [c for c in diffs if c.compared]
    exceeds = [c for c in compared if c.exceeds(max_px, max_mm)]
    lines = [f'{len(diffs)} clicks: {len(compared)} with a recorded answer, {len(exceeds)} '
             f'changed (verdict, code, more than {max_px:g} px, {max_mm:g} mm or 2 deg)']
    if not compared:
        lines.append('nothing was compared: the bag has no answer that ended by itself')
    px, mm = (_format_max(values) for values in (
        [v.moved_px for c in compared for v in c.views], [c.moved_mm for c in compared]))
    if compared:
        lines.append(f'furthest: {px} px, {mm} mm')
    for camera, error_px in median_epipolar_errors_px(diffs).items():
        lines.append(f'{camera}: {error_px:.1f} px from the clicked ray (median)')
    return '\n'.join([*lines, *(f'left out: {why}' for why in skipped)])


def median_epipolar_errors_px(diffs: list[ResultDiff]) -> dict[str, float]:
    """The median distance of what was found from the clicked ray, by camera: the extrinsics."""
    by_camera: dict[str, list[float]] = {}
    for view in (view for diff in diffs for view in diff.views):
        if math.isfinite(view.epipolar_error_px):
            by_camera.setdefault(view.camera, []).append(view.epipolar_error_px)
    return {camera: float(np.median(found)) for camera, found in sorted(by_camera.items())}


def _format_max(values: list[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f'{max(known):.1f}' if known else 'no'


def format_json(diffs: list[ResultDiff], skipped: list[str], max_px: float, max_mm: float) -> str:
    """Everything, for programs; null where there is nothing to measure."""
    clicks = [{**asdict(diff), 'changed': diff.exceeds(max_px, max_mm)} for diff in diffs]
    return json.dumps(_replace_nan({
        'clicks': clicks, 'left_out': skipped, 'epipolar_error_px': median_epipolar_errors_px(diffs),
        'changed': sum(c.exceeds(max_px, max_mm) for c in diffs),
        'compared': sum(c.compared for c in diffs)}), indent=1, allow_nan=False)


def _replace_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _replace_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
