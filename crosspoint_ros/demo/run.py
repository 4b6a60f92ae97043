"""`crosspoint demo`: play the built-in kitchen, click everything in it, and check every answer."""
from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.data.scenes.known_scene import KnownScene, LabelledPoint
from crosspoint_ros.demo.report import (
    ClickOutcome,
    draw_result,
    format_header,
    format_row,
    format_summary,
    is_wrong,
    score_result,
    stamp_ns,
)
from crosspoint_ros.ros.client.client import NODE_NAME, Client, format_result
from crosspoint_ros.ros.process import NodeProcess, ProcessExited
from crosspoint_ros.scenes import KITCHEN

PAGE_PORT = 8088  # that of `crosspoint web`
START_S = 60.0  # a cold start reads OpenCV, NumPy and the model from a slow disk
FIRST_IMAGES_S = 20.0
MAX_ATTEMPTS = 12
TICK_NS = 10_000_000  # of /clock: clock_hz in demo.yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--once', action='store_true',
                        help='end after the table, instead of waiting for your own clicks')
    parser.add_argument('--count', type=_parse_count, metavar='N',
                        help='click the first N points only')
    parser.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR',
                        help='where the pictures and the logs go (default: demo_output)')


def _parse_count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of points: 1 or more')
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run the demo; 1 when something does not start, or is answered wrongly."""
    args.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        return run(args)
    except (ProcessExited, TimeoutError, RuntimeError, FileNotFoundError) as error:
        print(f'crosspoint demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nended')
        return 0 if not args.once else 130


def _raise_interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> int:
    """Start the nodes, click, tell; wait for the user's clicks unless `--once`."""
    recording = KnownScene(KITCHEN, TICK_NS)
    affordances = recording.points[:args.count]
    with run_nodes(args.output) as (client, check):
        wait_for_images(client, affordances[0], check)
        print(f'\nClicking {len(affordances)} points of the front camera; the same point is looked '
              f'for in the others.\nPictures: {args.output}{os.sep}\n\n{format_header()}', flush=True)
        outcomes: list[ClickOutcome] = []
        image_ns = 0
        for number, affordance in enumerate(affordances, 1):
            check()
            result, ms = click_visible_point(client, recording, affordance, image_ns)
            image_ns = stamp_ns(result.clicked)
            new = score_result(recording, result, affordance, ms)
            print('\n'.join(format_row(outcome, affordance, index) for index, outcome in enumerate(new)),
                  flush=True)
            file = args.output / f'{number:02}_{affordance.name.replace(" ", "_")}.png'
            draw_result(recording, result, affordance, file)
            outcomes += new
        print(f'\n{format_summary(outcomes)}', flush=True)
        if not args.once:
            print(format_instructions(), flush=True)
            with serve_page(args.output) as check_page:
                print_results(client, [check, check_page], last=result.query_id)
    return 1 if any(map(is_wrong, outcomes)) else 0


@contextmanager
def run_nodes(output: Path) -> Iterator[tuple[Client, Callable[[], None]]]:
    """Run play_bag and crosspoint_node, active, and a client of theirs, until the block ends."""
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        require_no_other_node(client)
        ros_args = ['--params-file', str(find_config('demo.yaml'))]
        started = [stack.enter_context(NodeProcess(module, ros_args, output / log, os.environ))
                   for module, log in (('crosspoint_ros.ros.tools.play_bag', 'play_bag.log'),
                                       ('crosspoint_ros.ros.node.lifecycle_node', 'crosspoint_node.log'))]

        def check() -> None:
            for process in started:
                process.check()

        print('starting play_bag and crosspoint_node …', flush=True)
        begun_s = time.monotonic()
        client.wait_until_active(START_S, check)
        print(f'{NODE_NAME} is active after {time.monotonic() - begun_s:.1f} s')
        yield client, check


@contextmanager
def serve_page(output: Path) -> Iterator[Callable[[], None]]:
    """Serve the page until the block ends, and print its address; say so where that cannot be."""
    arguments = ['web', '--port', str(PAGE_PORT if is_port_free(PAGE_PORT) else 0)]
    with NodeProcess('crosspoint_ros.cli', [], output / 'web.log', os.environ,
                     arguments) as process:
        try:
            address = process.wait_for_output('http://', START_S)
        except ProcessExited as died:  # aiohttp is not there
            print(f'No page to click on: {died}', flush=True)
            yield lambda: None
            return
        print(f'Or click in a browser:\n\n  {address}\n', flush=True)
        yield process.check


def is_port_free(port: int) -> bool:
    """Tell whether nobody listens on a TCP port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True


def require_no_other_node(client: Client) -> None:
    """Raise RuntimeError if a crosspoint node is here already: it would answer in our place."""
    try:
        client.wait_until_active(1.0)
    except TimeoutError:
        return
    raise RuntimeError(f'a node {NODE_NAME} runs already (ROS_DOMAIN_ID '
                       f'{os.environ.get("ROS_DOMAIN_ID", "0")}): end it, or set another '
                       'ROS_DOMAIN_ID for the demo')


def find_config(name: str) -> Path:
    """Find a file of config/: beside the source, or where it was installed."""
    package = Path(__file__).absolute().parents[1]  # <prefix>/lib/python3.x/site-packages/<package>
    installed = package / '..' / '..' / '..' / '..' / 'share' / package.name / 'config'
    places = [package.parent / 'config', Path(os.path.normpath(installed)),
              Path(sys.prefix) / 'share' / package.name / 'config']
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f'{name} is in none of {", ".join(map(str, places))}: install the '
                            'package again')


def wait_for_images(client: Client, affordance: LabelledPoint, check: Callable[[], None]) -> None:
    """Click until every camera has sent an image; raise TimeoutError with the last refusal."""
    end_s = time.monotonic() + FIRST_IMAGES_S
    while time.monotonic() < end_s:
        check()
        result = client.click(affordance.clicked.camera, affordance.pixel)
        if not is_not_ready(result):
            return
        client.spin(0.2)
    raise TimeoutError(f'no images after {FIRST_IMAGES_S:g} s: {format_result(result)}')


def is_not_ready(result: Any) -> bool:
    """Tell whether an image or a transform was not there: the recording has just begun (anew)."""
    codes = {result.status.code, *(answer.status.code for answer in result.correspondences)}
    return bool(codes & {Code.NO_IMAGE, Code.STALE, Code.NO_TF})


def click_visible_point(client: Client, recording: KnownScene, affordance: LabelledPoint,
          image_ns: int) -> tuple[Any, float]:
    """Click an image in which the robot's arm is not in front of the point; also ms.

    First the image with that stamp, whose features the matcher knows by now; where that will not
    do, or is forgotten, the newest ones.
    """
    for stamp in (image_ns, *([0] * MAX_ATTEMPTS)):
        begun_s = time.monotonic()
        result = client.click(affordance.clicked.camera, affordance.pixel, stamp_ns=stamp)
        ms = 1000 * (time.monotonic() - begun_s)
        if not is_not_ready(result) and recording.is_visible(
                recording.find_frame(result.clicked.camera, stamp_ns(result.clicked)),
                affordance.point_base_m):
            return result, ms
        client.spin(0.0 if stamp else 0.4)
    raise TimeoutError(f'{affordance.name}: no answer in {MAX_ATTEMPTS} tries, the last: '
                       f'{format_result(result)}')


def format_instructions() -> str:
    """Tell how to send a click of one's own."""
    python = _relative_path(Path(sys.executable))
    script = Path(sys.executable).with_name('crosspoint')
    crosspoint = _relative_path(script) if script.is_file() else f'{python} -m crosspoint_ros.cli'
    return f"""
The scene plays on: click yourself, from another terminal. Cameras front, side and wrist,
640x480 pixels; this is the drawer handle in front:

  {crosspoint} click front 122 227

  {python} -c "from crosspoint_ros.ros.client.client import *; print(format_result(Client().click('front', (122, 227))))"

  ros2 action send_goal {NODE_NAME}/correspond crosspoint_ros/action/Correspond \
    "{{camera: front, x: 122.0, y: 227.0}}"

Ctrl-C ends the demo.
"""


def _relative_path(path: Path) -> str:
    # Not resolved: a venv's python is a link out of it.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_results(client: Client, checks: list[Callable[[], None]], last: str) -> NoReturn:
    """Tell the answer to every further click, whoever sends it, until Ctrl-C."""
    def tell(result: Any) -> None:
        if result.query_id != last:  # a latched topic begins with what was said last
            print(format_result(result), flush=True)

    client.subscribe_results(tell)
    while True:
        client.spin(0.5)
        for check in checks:
            check()
