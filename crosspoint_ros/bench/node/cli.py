"""`crosspoint bench node`: the node's idle load, overhead per click, and response while busy."""
from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.environment import describe_machine, parse_positive, write_figures
from crosspoint_ros.bench.node.click_timer import ClickTimer
from crosspoint_ros.bench.node.synthetic_cameras import DEPTH_MM
from crosspoint_ros.core.datatypes import Match, Query
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.ros.process import TRANSPORT_VARIABLES, NodeProcess

CAMERAS = ('front', 'side')
SYNTHETIC_CAMERAS = 'crosspoint_ros.bench.node.synthetic_cameras'
CROSSPOINT_NODE = 'crosspoint_ros.ros.node.lifecycle_node'
SETTLE_S = 3.0
SLOW_MATCH_S = 1.0
POLICIES = {'reject': 'refused as BUSY', 'preempt': 'the one before ended as CANCELLED'}


class PlaneMatcher:
    """Projects by the known plane of the synthetic cameras: only the node's own time remains."""

    def match(self, query: Query) -> Match:
        """Return the projection of the plane's point."""
        clicked, other = query.clicked, query.other
        point_cam_m = clicked.backproject(query.pixel, DEPTH_MM * 1e-3)
        other_from_clicked = require_pose(other).inverse @ require_pose(clicked)
        return Match(other.intrinsics.project(other_from_clicked.transform_points(point_cam_m)),
                     confidence=0.9, basis='the synthetic plane')


class SlowMatcher(PlaneMatcher):
    """Computes for a second first, as a model does: matrix products, and Python in between."""

    def __init__(self) -> None:
        self._weights = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)

    def match(self, query: Query) -> Match:
        """Return the same after a second."""
        end_s = time.monotonic() + SLOW_MATCH_S
        while time.monotonic() < end_s:
            np.tanh(self._weights @ self._weights)
            sum(number * number for number in range(10_000))
        return super().match(query)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint bench node`."""
    parser.add_argument('--clicks', type=parse_positive, default=100,
                        help='number of clicks (default: 100)')
    parser.add_argument('--seconds', type=float, default=10.0, help='idle time (default: 10 s)')
    parser.add_argument('--matcher', default=f'{__name__}:SlowMatcher',
                        help='computes while more clicks come (default: one that takes a second)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of that matcher; may be repeated')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Measure and print idle load, overhead and response time."""
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
    options = [f'{args.matcher}.{option}'.replace('=', ':=', 1) for option in args.option]
    for busy in POLICIES:
        responses_ms = measure_responses_ms(busy, args.clicks,
                                            [f'matcher:={args.matcher}', *options])
        figures[f'{busy}_median_ms'] = statistics.median(responses_ms)
        figures[f'{busy}_max_ms'] = max(responses_ms)
        print(f'a click while {args.matcher} computes another, busy: {busy}, {args.clicks} clicks: '
              f'{POLICIES[busy]} after median {figures[f"{busy}_median_ms"]:.1f} ms, '
              f'p90 {np.percentile(responses_ms, 90):.1f} ms, at most {max(responses_ms):.1f} ms')
    write_figures(args.json, figures)
    return 0


def measure_idle_percent(history_s: float, seconds: float) -> float:
    """Return the CPU time of the idle node with its middleware, % of one core."""
    with ExitStack() as stack:
        node = _start_node(stack, history_s, 1280, 720, f'matcher:={__name__}:PlaneMatcher')
        time.sleep(SETTLE_S)
        node.check()
        begun_s, before_s = time.monotonic(), read_cpu_s(node.pid)
        time.sleep(seconds)
        return 100 * (read_cpu_s(node.pid) - before_s) / (time.monotonic() - begun_s)


def measure_overheads_ms(clicks: int) -> list[float]:
    """Return, for each click, the time from its message to its result, less that in `locate`."""
    with ExitStack() as stack:
        timer = _start_timer(stack, f'matcher:={__name__}:PlaneMatcher')
        return [timer.measure_overhead_ms() for _ in range(clicks)]


def measure_responses_ms(busy: str, clicks: int, matcher: list[str]) -> list[float]:
    """Return, for each click on a busy node, the time until the result of the policy."""
    with ExitStack() as stack:
        timer = _start_timer(stack, f'busy:={busy}', *matcher)
        return [timer.measure_response_ms(busy) for _ in range(clicks)]


def _start_timer(stack: ExitStack, *parameters: str) -> ClickTimer:
    node = _start_node(stack, 2.0, 640, 480, *parameters)
    timer = stack.enter_context(ClickTimer())
    timer.wait_until_ready(node.check)
    return timer


def _start_node(stack: ExitStack, history_s: float, width: int, height: int, *parameters: str
                ) -> NodeProcess:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    start_process(stack, folder, SYNTHETIC_CAMERAS, f'width:={width}', f'height:={height}',
                  'rate_hz:=30.0')
    return start_process(stack, folder, CROSSPOINT_NODE, 'base_frame:=base_link',
                         f'history_s:={history_s}', *format_camera_parameters(CAMERAS),
                         *parameters)


def start_process(stack: ExitStack, folder: Path, module: str, *parameters: str,
                  arguments: Sequence[str] = ()) -> NodeProcess:
    """Start a ROS node or command, which ends with the stack and logs into the folder."""
    if not any(os.environ.get(name) for name in TRANSPORT_VARIABLES):
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'LARGE_DATA'
    words = [word for parameter in parameters for word in ('-p', parameter)]
    return stack.enter_context(NodeProcess(module, words, folder / f'{module}.log', os.environ,
                                           arguments))


def format_camera_parameters(cameras: Sequence[str]) -> list[str]:
    """Return the node's parameters for some synthetic cameras."""
    return [f'cameras:=[{",".join(cameras)}]',
            *(f'{c}.depth_topic:=/{c}/aligned_depth_to_color/image_raw' for c in cameras)]


def read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its threads, user and system (proc(5))."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
