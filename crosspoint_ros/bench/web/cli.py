"""`crosspoint bench web`: what the page costs, and how soon a click becomes a mark."""
from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.node.cli import PlaneMatcher, read_cpu_s
from crosspoint_ros.bench.node.click_timer import ClickTimer
from crosspoint_ros.bench.web import browsers
from crosspoint_ros.bench.web.browsers import CAMERAS, BrowserClients, measure_click_overheads_ms
from crosspoint_ros.ros.process import NodeProcess

SETTLE_S = 3.0
MAX_BROWSERS = 10
START_TIMEOUT_S = 30.0
MATCHER = f'{PlaneMatcher.__module__}:{PlaneMatcher.__name__}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint bench web`."""
    parser.add_argument('--seconds', type=float, default=10.0,
                        help='how long each load is measured (default 10 s)')
    parser.add_argument('--clicks', type=parse_positive, default=50, help='how many (default 50)')
    parser.add_argument('--json', type=Path, help='write the figures there')


def main(args: argparse.Namespace) -> int:
    """Measure it all, and print it with the machine."""
    print(describe_machine())
    print(f'{len(CAMERAS)} cameras 640x480 at 10 Hz, raw; % of one core; ms: from a click to its '
          'result, less matching', flush=True)
    with ExitStack() as stack:
        bench = WebBench(stack)
        figures = bench.measure_loads(args.seconds, args.clicks) | bench.measure_chromium(args.clicks)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + '\n')
    return 0


class WebBench:
    """Cameras, node and server, each a process; a stopwatch that clicks as another client."""

    def __init__(self, stack: ExitStack) -> None:
        """Start them all; they end with the stack."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'LARGE_DATA')

        def start(module: str, *parameters: str, arguments: tuple[str, ...] = ()) -> NodeProcess:
            given = [word for parameter in parameters for word in ('-p', parameter)]
            return stack.enter_context(NodeProcess(
                module, given, folder / f'{module}.log', os.environ, arguments))

        names = f'cameras:=[{",".join(CAMERAS)}]'
        start('crosspoint_ros.bench.node.synthetic_cameras', names, 'width:=640', 'height:=480',
              'rate_hz:=10.0', 'kitchen:=true')
        self._node = start('crosspoint_ros.ros.node.lifecycle_node', names, 'base_frame:=base_link',
                           f'matcher:={MATCHER}', *(
                               f'{c}.depth_topic:=/{c}/aligned_depth_to_color/image_raw'
                               for c in CAMERAS))
        self._server = start('crosspoint_ros.cli', arguments=('web', '--port', '0'))
        self._address = self._server.wait_for_output('http://', START_TIMEOUT_S)
        self._port = int(self._address.rstrip('/').rpartition(':')[2])
        self._stopwatch = stack.enter_context(ClickTimer())
        self._stopwatch.wait_until_ready(self._node.check)

    def measure_loads(self, seconds: float, clicks: int) -> dict[str, float]:
        """Measure server and node under no, one and ten browsers, and ten that do not read."""
        figures: dict[str, float] = {}
        for name, count, read in (('nobody', 0, True), ('1 browser', 1, True),
                                  (f'{MAX_BROWSERS} browsers', MAX_BROWSERS, True),
                                  (f'{MAX_BROWSERS} that stopped reading', MAX_BROWSERS, False)):
            with BrowserClients(self._port, count, read) as clients:
                time.sleep(SETTLE_S + 5.0 * (not read))  # the topics are left after some seconds
                measured = self._measure_load(clients, seconds, clicks)
            figures |= {f'{name}: {what}': value for what, value in measured.items()}
            print(f'  {name:26}' + ', '.join(f'{what} {value:.1f}' for what, value
                                             in measured.items()), flush=True)
        return figures

    def _measure_load(self, clients: BrowserClients, seconds: float, clicks: int) -> dict[str, float]:
        before = {n: read_cpu_s(p.pid) for n, p in (('server', self._server), ('node', self._node))}
        taken, begun_s = clients.images_received.total(), time.monotonic()
        time.sleep(seconds)
        passed_s = time.monotonic() - begun_s
        percent = {'server %': 100 * (read_cpu_s(self._server.pid) - before['server']) / passed_s,
                   'node %': 100 * (read_cpu_s(self._node.pid) - before['node']) / passed_s}
        pictures_hz = (clients.images_received.total() - taken) / passed_s
        overheads_ms = [self._stopwatch.measure_overhead_ms() for _ in range(clicks)]
        return {**percent, 'pictures/s': pictures_hz,
                'a click by topic ms': statistics.median(overheads_ms),
                'by the page ms': statistics.median(measure_click_overheads_ms(self._port, clicks))}

    def measure_chromium(self, clicks: int) -> dict[str, float]:
        """Measure the page itself, where there is a Chromium and what drives it."""
        missing = browsers.find_missing_tool()
        if missing:
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
