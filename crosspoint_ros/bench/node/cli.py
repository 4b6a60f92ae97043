"""`crosspoint bench node`: what the node costs, and how soon it heeds a click while busy."""
from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.node.click_timer import ClickTimer
from crosspoint_ros.bench.node.synthetic_cameras import DEPTH_MM
from crosspoint_ros.core.datatypes import Match, Query
from crosspoint_ros.ros.process import NodeProcess

CAMERAS = ('front', 'side')
SETTLE_S = 3.0
SLOW_MATCH_S = 1.0
POLICIES = {'reject': 'refused as BUSY', 'preempt': 'the one before ended as CANCELLED'}


class PlaneMatcher:
    """Answers at once, for the test pattern's flat wall: what is left is what the node costs."""

    def match(self, query: Query) -> Match:
        """Where the wall's point is in the other view."""
        clicked, other = query.clicked, query.other
        assert clicked.base_from_cam is not None
        assert other.base_from_cam is not None
        ray_cam = clicked.intrinsics.unproject(query.pixel)
        point_cam_m = ray_cam / ray_cam[2] * DEPTH_MM * 1e-3
        other_from_clicked = other.base_from_cam.inverse @ clicked.base_from_cam
        return Match(other.intrinsics.project(other_from_clicked.transform_points(point_cam_m)),
                     confidence=0.9, basis='the test pattern')


class SlowMatcher(PlaneMatcher):
    """Computes for a second first, as a model does: large products, and Python between them."""

    def __init__(self) -> None:
        self._weights = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)

    def match(self, query: Query) -> Match:
        """Where the wall's point is, a second later."""
        end_s = time.monotonic() + SLOW_MATCH_S
        while time.monotonic() < end_s:
            np.tanh(self._weights @ self._weights)
            sum(number * number for number in range(10_000))
        return super().match(query)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint bench node`."""
    parser.add_argument('--clicks', type=parse_positive, default=100, help='how many (default 100)')
    parser.add_argument('--seconds', type=float, default=10.0, help='idle time (default 10 s)')
    parser.add_argument('--matcher', default=f'{__name__}:Laborious',
                        help='what computes while others click (default one that is slow)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of that matcher; may be repeated')
    parser.add_argument('--json', type=Path, help='write the figures there')


def main(args: argparse.Namespace) -> int:
    """Measure idle load and overhead; print them with the machine."""
    print(describe_machine())
    figures: dict[str, float] = {}
    for history_s in (2.0, 0.0):
        percent = measure_idle_percent(history_s, args.seconds)
        figures[f'idle_percent_history_{history_s:g}_s'] = percent
        print(f'idle, two RGB-D cameras 1280x720 at 30 Hz, history_s {history_s:g}: '
              f'{percent:.1f} % of one core')
    overheads_ms = measure_overheads_ms(args.clicks)
    figures['overhead_median_ms'] = statistics.median(overheads_ms)
    figures['overhead_p90_ms'] = float(np.percentile(overheads_ms, 90))
    print(f'click message to result message, less the time inside locate, {args.clicks} clicks: '
          f'median {figures["overhead_median_ms"]:.2f} ms, p90 {figures["overhead_p90_ms"]:.2f} ms')
    labour = [f'{args.matcher}.{option}'.replace('=', ':=', 1) for option in args.option]
    for busy in POLICIES:
        heeded_ms = measure_responses_ms(busy, args.clicks, [f'matcher:={args.matcher}', *labour])
        figures[f'{busy}_median_ms'] = statistics.median(heeded_ms)
        figures[f'{busy}_max_ms'] = max(heeded_ms)
        print(f'a click while {args.matcher} computes another, busy: {busy}, {args.clicks} clicks: '
              f'{POLICIES[busy]} after median {figures[f"{busy}_median_ms"]:.1f} ms, '
              f'p90 {np.percentile(heeded_ms, 90):.1f} ms, at most {max(heeded_ms):.1f} ms')
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + '\n')
    return 0


def measure_idle_percent(history_s: float, seconds: float) -> float:
    """Return the node's CPU time while nobody clicks, % of one core, its middleware's included."""
    with ExitStack() as stack:
        node = _start_node(stack, history_s, 1280, 720)
        time.sleep(SETTLE_S)
        node.check()
        begun_s, before_s = time.monotonic(), read_cpu_s(node.pid)
        time.sleep(seconds)
        return 100 * (read_cpu_s(node.pid) - before_s) / (time.monotonic() - begun_s)


def measure_overheads_ms(clicks: int) -> list[float]:
    """Return, for each click, the time from its message to its result's, less that in `locate`."""
    with ExitStack() as stack:
        node = _start_node(stack, 2.0, 640, 480)
        stopwatch = stack.enter_context(ClickTimer())
        stopwatch.wait_until_ready(node.check)
        return [stopwatch.measure_overhead_ms() for _ in range(clicks)]


def measure_responses_ms(busy: str, clicks: int, matcher: list[str]) -> list[float]:
    """Return, for each click on a busy node, the time until the policy's result is out."""
    with ExitStack() as stack:
        node = _start_node(stack, 2.0, 640, 480, [f'busy:={busy}', *matcher])
        stopwatch = stack.enter_context(ClickTimer())
        stopwatch.wait_until_ready(node.check)
        return [stopwatch.measure_response_ms(busy) for _ in range(clicks)]


def _start_node(stack: ExitStack, history_s: float, width: int, height: int,
           parameters: list[str] | None = None) -> NodeProcess:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA')
    pattern = [f'width:={width}', f'height:={height}', 'rate_hz:=30.0']
    node = [f'cameras:=[{",".join(CAMERAS)}]', 'base_frame:=base_link', f'history_s:={history_s}',
            *(parameters or [f'matcher:={__name__}:KnownPlane']),
            *(f'{c}.depth_topic:=/{c}/aligned_depth_to_color/image_raw' for c in CAMERAS)]
    stack.enter_context(NodeProcess('crosspoint_ros.bench.node.synthetic_cameras', _format_parameters(pattern),
                                    folder / 'test_pattern.log', os.environ))
    return stack.enter_context(NodeProcess('crosspoint_ros.ros.node.lifecycle_node', _format_parameters(node),
                                           folder / 'crosspoint_node.log', os.environ))


def _format_parameters(assignments: list[str]) -> list[str]:
    return [word for assignment in assignments for word in ('-p', assignment)]


def read_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its threads, user and system (proc(5))."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
