"""`crosspoint replay`: answers the clicks of a recording again and reports what changed."""
from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.data.rosbag import open_bag
from crosspoint_ros.msg import Correspondence, QueryResult
from crosspoint_ros.ros.config import Config, ConfigError
from crosspoint_ros.ros.node.camera import resolve_topics
from crosspoint_ros.ros.node.matcher_runtime import LogForwarder, MatcherLoader, Matchers
from crosspoint_ros.ros.replay.runner import (
    BagReplayer,
    RecordedClick,
    RecordedNode,
    index_by_camera,
    is_interrupted,
    read_clicks,
)

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'to be checked',
            Correspondence.SURE: 'sure'}
ABSENT = 'not searched'
SAME, CHANGED, UNUSABLE = 0, 1, 2  # exit codes


class Tolerance(NamedTuple):
    """How far a found point or a target may move and still be the same."""

    max_px: float
    max_mm: float
    max_deg: float = 2.0


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

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Whether the answer changed."""
        return ((self.was, self.was_code) != (self.now, self.now_code)
                or self.moved_px > tolerance.max_px)


@dataclass(frozen=True)
class ResultDiff:
    """One click then and now; compared is False without a recorded result to compare with."""

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

    def exceeds(self, tolerance: Tolerance) -> bool:
        """Whether a code, a verdict or the target changed, or a point or pose moved too far."""
        return self.compared and (
            self.was_code != self.now_code or any(view.exceeds(tolerance) for view in self.views)
            or self.target in ('new', 'gone') or self.moved_mm > tolerance.max_mm
            or self.turned_deg > tolerance.max_deg)


def diff_result(click: RecordedClick, now: QueryResult, start_ns: int) -> ResultDiff:
    """Compare the recorded result of a click with today's."""
    was = click.recorded_result
    before = None if was is None or is_interrupted(was) else was
    old, new = ({} if result is None else index_by_camera(result) for result in (before, now))
    target, moved_mm, turned_deg = _diff_target(before, now)
    clicked = now.clicked if now.clicked.camera or was is None else was.clicked
    return ResultDiff(
        at_s=round((click.at_ns - start_ns) * 1e-9, 3), camera=clicked.camera,
        pixel=(clicked.x, clicked.y), compared=before is not None, was_code=_get_code_name(was),
        now_code=_get_code_name(now), target=target, moved_mm=moved_mm, turned_deg=turned_deg,
        message=now.status.message,
        views=tuple(_diff_view(camera, old.get(camera), new.get(camera), before is not None)
                    for camera in sorted({*old, *new})))


def _diff_view(camera: str, was: Correspondence | None, now: Correspondence | None,
               compared: bool) -> ViewDiff:
    moved_px = confidence = epipolar_error_px = math.nan
    if now is not None:
        confidence, epipolar_error_px = float(now.confidence), float(now.epipolar_error_px)
        if was is not None:
            moved_px = math.hypot(now.found.x - was.found.x, now.found.y - was.found.y)
    return ViewDiff(
        camera, _get_verdict_name(was) if compared else '', _get_verdict_name(now),
        _get_code_name(was), _get_code_name(now), moved_px, confidence, epipolar_error_px,
        '' if now is None else now.status.message)


def _get_code_name(answer: QueryResult | Correspondence | None) -> str:
    return '' if answer is None else Code(answer.status.code).name


def _get_verdict_name(answer: Correspondence | None) -> str:
    return ABSENT if answer is None else VERDICTS[answer.verdict]


def _diff_target(was: QueryResult | None, now: QueryResult) -> tuple[str, float, float]:
    if was is None or was.has_target != now.has_target:
        kind = '' if was is None else 'new' if now.has_target else 'gone'
        return kind, math.nan, math.nan
    if not now.has_target:
        return '', math.nan, math.nan
    a, b = (result.target.pose.pose for result in (was, now))
    moved_m = math.dist((a.position.x, a.position.y, a.position.z),
                        (b.position.x, b.position.y, b.position.z))
    p, q = a.orientation, b.orientation
    half = abs(p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w)
    return 'kept', 1000 * moved_m, math.degrees(2 * math.acos(min(half, 1.0)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', type=Path, help='rosbag2 with the cameras, TF, and the clicks or '
                                               '~/result')
    parser.add_argument('--params', type=Path, action='append', default=[], metavar='FILE.yaml',
                        help="the node's parameters; may be repeated")
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='override a parameter; may be repeated')
    parser.add_argument('--node', default='/crosspoint',
                        help='name of the node (default: /crosspoint)')
    parser.add_argument('--max-px', type=float, default=1.0,
                        help='a found point that moved further has changed (default: 1)')
    parser.add_argument('--max-mm', type=float, default=2.0,
                        help='a target that moved further has changed (default: 2)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = 'Exit code: 0 as recorded, 1 something changed, 2 it cannot be replayed.'


def main(args: argparse.Namespace) -> int:
    """Answer the clicks again; return an exit code as the epilog has it."""
    tolerance = Tolerance(args.max_px, args.max_mm)
    try:
        diffs, skipped = replay_clicks(args)
    except (OSError, ValueError, MemoryError) as error:
        print(f'crosspoint replay: {error}', file=sys.stderr)
        return UNUSABLE
    if args.json:
        print(format_json(diffs, skipped, tolerance))
    else:
        for diff in diffs:
            print(format_diff(diff, tolerance))
        print(format_summary(diffs, skipped, tolerance))
    return CHANGED if any(diff.exceeds(tolerance) for diff in diffs) else SAME


def replay_clicks(args: argparse.Namespace) -> tuple[list[ResultDiff], list[str]]:
    """Answer all clicks; ValueError for what is wrong with the bag or the parameters."""
    try:
        node = RecordedNode.read(args.node, args.params, args.set)
    except ConfigError as error:
        raise ValueError(f"{error}; give the node's parameters: --params FILE.yaml, or --set "
                         'NAME=VALUE') from error
    with closing(open_bag(args.bag)) as bag:
        check_topics(bag, node)
        clicks, skipped = read_clicks(bag, node)
        if not clicks:
            raise ValueError(f'{args.bag} has no clicks: none on the click topics, and no usable '
                             f'{args.node}/result (another node name: --node)'
                             + ''.join(f'; {why}' for why in skipped))
        replayer = BagReplayer(bag, node, load_matchers(node.config))
        return [diff_result(click, replayer.replay(click), int(bag.start_time))
                for click in tqdm(clicks, unit='click', disable=None)], skipped


def check_topics(bag: Any, node: RecordedNode) -> None:
    """Raise ValueError if a camera's images, camera info or depth were not recorded."""
    recorded = {connection.topic for connection in bag.connections}
    for camera in node.config.cameras:
        topics = resolve_topics(camera, node.resolve_topic_name)
        for topic in filter(None, (topics.image_topic, topics.info_topic, topics.depth_topic,
                                   topics.depth_info_topic)):
            if topic not in recorded:
                near = sorted(t for t in recorded if t.startswith(f'/{camera.name}/'))
                raise ValueError(f'{camera.name}: the bag has no {topic}'
                                 + (f'; it has {", ".join(near)}' if near else ''))


def load_matchers(config: Config) -> Matchers:
    """Load the matcher as the node does. Raises ValueError if that fails."""
    silent = logging.Logger('silent', logging.CRITICAL + 1)  # `crosspoint` prints the log
    with closing(LogForwarder(silent)) as log_forwarder:
        loader = MatcherLoader(config, log_forwarder)
        loader.load()
    if loader.matchers is None:
        raise ValueError(loader.failure)
    return loader.matchers


def format_diff(diff: ResultDiff, tolerance: Tolerance) -> str:
    """Return one click in one line."""
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
    mark = 'CHANGED' if diff.exceeds(tolerance) else 'same' if diff.compared else 'new'
    x, y = diff.pixel
    return f'{mark:8} {diff.at_s:9.3f} s  {diff.camera} ({x:.1f}, {y:.1f})  ' + '; '.join(parts)


def _format_view(view: ViewDiff, compared: bool) -> str:
    is_refused = view.now == 'refused'
    now = view.now + f' {view.now_code}' * is_refused
    if not compared:
        return f'{view.camera} {now}' + ('' if is_refused else f' {view.confidence:.2f}')
    was = view.was + f' {view.was_code}' * (view.was == 'refused')
    moved = f' {view.moved_px:.1f} px' if math.isfinite(view.moved_px) else ''
    return f'{view.camera} {now if was == now else f"{was} -> {now}"}{moved}'


def format_summary(diffs: list[ResultDiff], skipped: list[str], tolerance: Tolerance) -> str:
    """Return the counts, the largest changes, the epipolar errors and what was skipped."""
    compared = [diff for diff in diffs if diff.compared]
    changed = sum(diff.exceeds(tolerance) for diff in compared)
    lines = [f'{len(diffs)} clicks: {len(compared)} with a recorded answer, {changed} changed '
             f'(verdict, code, more than {tolerance.max_px:g} px, {tolerance.max_mm:g} mm or '
             f'{tolerance.max_deg:g} deg)']
    if compared:
        px, mm = map(_format_max, ([v.moved_px for diff in compared for v in diff.views],
                                   [diff.moved_mm for diff in compared]))
        lines.append(f'furthest: {px} px, {mm} mm')
    else:
        lines.append('nothing was compared: the bag has no result of a completed query')
    lines += [f'{camera}: {error_px:.1f} px from the clicked ray (median)'
              for camera, error_px in compute_epipolar_errors_px(diffs).items()]
    return '\n'.join([*lines, *(f'left out: {why}' for why in skipped)])


def compute_epipolar_errors_px(diffs: list[ResultDiff]) -> dict[str, float]:
    """Return the median distance of the found points from the clicked ray: the extrinsics."""
    by_camera: dict[str, list[float]] = {}
    for view in (view for diff in diffs for view in diff.views):
        if math.isfinite(view.epipolar_error_px):
            by_camera.setdefault(view.camera, []).append(view.epipolar_error_px)
    return {camera: float(np.median(found)) for camera, found in sorted(by_camera.items())}


def _format_max(values: list[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f'{max(finite):.1f}' if finite else 'no'


def format_json(diffs: list[ResultDiff], skipped: list[str], tolerance: Tolerance) -> str:
    """Return everything as JSON; null where there is nothing to measure."""
    clicks = [{**asdict(diff), 'changed': diff.exceeds(tolerance)} for diff in diffs]
    return json.dumps(_replace_nan({
        'clicks': clicks, 'left_out': skipped,
        'epipolar_error_px': compute_epipolar_errors_px(diffs),
        'changed': sum(click['changed'] for click in clicks),
        'compared': sum(diff.compared for diff in diffs)}), indent=1, allow_nan=False)


def _replace_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
