"""`crosspoint dev web`: the load of the page's server, and the latency from click to mark."""
from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from crosspoint_ros.bench.environment import describe_machine, parse_positive, write_figures
from crosspoint_ros.bench.node import cli as node_cli
from crosspoint_ros.bench.node.click_timer import ClickTimer
from crosspoint_ros.bench.web import browsers
from crosspoint_ros.bench.web.browsers import CAMERAS, BrowserClients

SETTLE_S = 3.0
MAX_BROWSERS = 10
START_TIMEOUT_S = 30.0
MATCHER = f'{node_cli.__name__}:PlaneMatcher'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--seconds', type=float, default=10.0,
                        help='time per load (default: 10 s)')
    parser.add_argument('--clicks', type=parse_positive, default=50,
                        help='number of clicks (default: 50)')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Measure and print all figures."""
    print(describe_machine())
    print(f'{len(CAMERAS)} cameras 640x480 at 10 Hz, raw; % of one core; ms: click to result '
          'without matching', flush=True)
    with ExitStack() as stack:
        bench = WebBench(stack)
        figures = (bench.measure_loads(args.seconds, args.clicks)
                   | bench.measure_lines(args.clicks) | bench.measure_chromium(args.clicks))
    write_figures(args.json, figures)
    return 0


class WebBench:
    """Cameras, node and server as processes, and a timer that clicks as another client."""

    def __init__(self, stack: ExitStack) -> None:
        """Start all of them; they end with the stack."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        start = partial(node_cli.start_process, stack, folder)
        start(node_cli.SYNTHETIC_CAMERAS, f'cameras:=[{",".join(CAMERAS)}]', 'width:=640',
              'height:=480', 'rate_hz:=10.0', 'kitchen:=true')
        self._node = start(node_cli.CROSSPOINT_NODE, 'base_frame:=base_link', f'matcher:={MATCHER}',
                           *node_cli.format_camera_parameters(CAMERAS))
        self._server = start('crosspoint_ros.cli', arguments=('web', '--port', '0'))
        self._address = self._server.wait_for_output('http://', START_TIMEOUT_S)
        self._port = int(self._address.rstrip('/').rpartition(':')[2])
        self._timer = stack.enter_context(ClickTimer())
        self._timer.wait_until_ready(self._node.check)

    def measure_loads(self, seconds: float, clicks: int) -> dict[str, float]:
        """Measure with no, one and ten browsers, and with ten that stopped reading."""
        figures: dict[str, float] = {}
        for name, count, read in (('no browser', 0, True), ('1 browser', 1, True),
                                  (f'{MAX_BROWSERS} browsers', MAX_BROWSERS, True),
                                  (f'{MAX_BROWSERS} that stopped reading', MAX_BROWSERS, False)):
            with BrowserClients(self._port, count, read) as clients:
                time.sleep(SETTLE_S + 5.0 * (not read))  # unread topics are dropped after seconds
                measured = self._measure_load(clients, seconds, clicks)
            figures |= {f'{name}: {what}': value for what, value in measured.items()}
            print(f'  {name:26}' + ', '.join(f'{what} {value:.1f}' for what, value
                                             in measured.items()), flush=True)
        return figures

    def _measure_load(self, clients: BrowserClients, seconds: float, clicks: int
                      ) -> dict[str, float]:
        processes = {'server %': self._server.pid, 'node %': self._node.pid}
        before_s = {name: node_cli.read_cpu_s(pid) for name, pid in processes.items()}
        images, begun_s = clients.images_received.total(), time.monotonic()
        time.sleep(seconds)
        elapsed_s = time.monotonic() - begun_s
        percent = {name: 100 * (node_cli.read_cpu_s(pid) - before_s[name]) / elapsed_s
                   for name, pid in processes.items()}
        images_hz = (clients.images_received.total() - images) / elapsed_s
        overheads_ms = [self._timer.measure_overhead_ms() for _ in range(clicks)]
        return {**percent, 'images/s': images_hz,
                'a click by topic ms': statistics.median(overheads_ms),
                'by the page ms': statistics.median(
                    browsers.measure_click_overheads_ms(self._port, clicks))}

    def measure_lines(self, rounds: int) -> dict[str, float]:
        """Measure the round trip of the epipolar lines of the pixel under the cursor."""
        lines_ms = browsers.measure_line_ms(self._port, rounds)
        figures = {'epipolar lines, median ms': statistics.median(lines_ms),
                   'epipolar lines, worst ms': max(lines_ms)}
        for what, value in figures.items():
            print(f'  {what} {value:.1f}', flush=True)
        return figures

    def measure_chromium(self, clicks: int) -> dict[str, float]:
        """Measure the page in Chromium, if it and playwright are installed."""
        if missing := browsers.find_missing_tool():
            print(f'  not measured in a browser: {missing}')
            return {}
        usable, marks = browsers.measure_page_ms(self._address, clicks)
        figures = {'page usable, median ms': statistics.median(usable),
                   'page usable, worst ms': max(usable),
                   'click to mark less matching, median ms': statistics.median(marks),
                   'click to mark less matching, worst ms': max(marks)}
        for what, value in figures.items():
            print(f'  {what} {value:.0f}')
        return figures
