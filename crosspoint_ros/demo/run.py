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

from crosspoint_ros.bench.pairs.known_scene import Affordance, Recording
from crosspoint_ros.bench.scene import Outcome
from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.demo.report import header, is_wrong, judge, picture, row, stamp_ns, summary
from crosspoint_ros.ros.client.client import NODE, Client, sentence
from crosspoint_ros.ros.process import Died, NodeProcess
from crosspoint_ros.scenes import KITCHEN

PAGE_PORT = 8088  # that of `crosspoint web`
START_S = 60.0  # a cold start reads OpenCV, NumPy and the model from a slow disk
FIRST_IMAGES_S = 20.0
TRIES = 12
TICK_NS = 10_000_000  # of /clock: clock_hz in demo.yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--once', action='store_true',
                        help='end after the table, instead of waiting for your own clicks')
    parser.add_argument('--count', type=_positive, metavar='N',
                        help='click the first N points only')
    parser.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR',
                        help='where the pictures and the logs go (default: demo_output)')


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of points: 1 or more')
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run the demo; 1 when something does not start, or is answered wrongly."""
    args.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _end)
    try:
        return run(args)
    except (Died, TimeoutError, RuntimeError, FileNotFoundError) as error:
        print(f'crosspoint demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nended')
        return 0 if not args.once else 130


def _end(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run(args: argparse.Namespace) -> int:
    """Start the nodes, click, tell; wait for the user's clicks unless `--once`."""
    recording = Recording(KITCHEN, TICK_NS)
    affordances = recording.affordances[:args.count]
    with nodes(args.output) as (client, check):
        wait_for_images(client, affordances[0], check)
        print(f'\nClicking {len(affordances)} points of the front camera; the same point is looked '
              f'for in the others.\nPictures: {args.output}{os.sep}\n\n{header()}', flush=True)
        outcomes: list[Outcome] = []
        image_ns = 0
        for number, affordance in enumerate(affordances, 1):
            check()
            result, ms = click(client, recording, affordance, image_ns)
            image_ns = stamp_ns(result.clicked)
            new = judge(recording, result, affordance, ms)
            print('\n'.join(row(outcome, affordance, index) for index, outcome in enumerate(new)),
                  flush=True)
            file = args.output / f'{number:02}_{affordance.name.replace(" ", "_")}.png'
            picture(recording, result, affordance, file)
            outcomes += new
        print(f'\n{summary(outcomes)}', flush=True)
        if not args.once:
            print(how_to_click(), flush=True)
            with page(args.output) as check_page:
                follow(client, [check, check_page], last=result.query_id)
    return 1 if any(map(is_wrong, outcomes)) else 0


@contextmanager
def nodes(output: Path) -> Iterator[tuple[Client, Callable[[], None]]]:
    """Run play_bag and crosspoint_node, active, and a client of theirs, until the block ends."""
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        refuse_a_second_node(client)
        ros_args = ['--params-file', str(config('demo.yaml'))]
        started = [stack.enter_context(NodeProcess(module, ros_args, output / log, os.environ))
                   for module, log in (('crosspoint_ros.ros.tools.play_bag', 'play_bag.log'),
                                       ('crosspoint_ros.ros.node.lifecycle_node', 'crosspoint_node.log'))]

        def check() -> None:
            for process in started:
                process.check()

        print('starting play_bag and crosspoint_node …', flush=True)
        begun_s = time.monotonic()
        client.wait_until_active(START_S, check)
        print(f'{NODE} is active after {time.monotonic() - begun_s:.1f} s')
        yield client, check


@contextmanager
def page(output: Path) -> Iterator[Callable[[], None]]:
    """Serve the page until the block ends, and print its address; say so where that cannot be."""
    arguments = ['web', '--port', str(PAGE_PORT if is_free(PAGE_PORT) else 0)]
    with NodeProcess('crosspoint_ros.cli', [], output / 'web.log', os.environ,
                     arguments) as process:
        try:
            address = process.said('http://', START_S)
        except Died as died:  # aiohttp is not there
            print(f'No page to click on: {died}', flush=True)
            yield lambda: None
            return
        print(f'Or click in a browser:\n\n  {address}\n', flush=True)
        yield process.check


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a TCP port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True


def refuse_a_second_node(client: Client) -> None:
    """Raise RuntimeError if a crosspoint node is here already: it would answer in our place."""
    try:
        client.wait_until_active(1.0)
    except TimeoutError:
        return
    raise RuntimeError(f'a node {NODE} runs already (ROS_DOMAIN_ID '
                       f'{os.environ.get("ROS_DOMAIN_ID", "0")}): end it, or set another '
                       'ROS_DOMAIN_ID for the demo')


def config(name: str) -> Path:
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


def wait_for_images(client: Client, affordance: Affordance, check: Callable[[], None]) -> None:
    """Click until every camera has sent an image; raise TimeoutError with the last refusal."""
    end_s = time.monotonic() + FIRST_IMAGES_S
    while time.monotonic() < end_s:
        check()
        result = client.click(affordance.clicked.camera, *affordance.pixel)
        if not is_early(result):
            return
        client.spin(0.2)
    raise TimeoutError(f'no images after {FIRST_IMAGES_S:g} s: {sentence(result)}')


def is_early(result: Any) -> bool:
    """Tell whether an image or a transform was not there: the recording has just begun (anew)."""
    codes = {result.status.code, *(answer.status.code for answer in result.correspondences)}
    return bool(codes & {Code.NO_IMAGE, Code.STALE, Code.NO_TF})


def click(client: Client, recording: Recording, affordance: Affordance,
          image_ns: int) -> tuple[Any, float]:
    """Click an image in which the robot's arm is not in front of the point; also ms.

    First the image with that stamp, whose features the matcher knows by now; where that will not
    do, or is forgotten, the newest ones.
    """
    for stamp in (image_ns, *([0] * TRIES)):
        begun_s = time.monotonic()
        x, y = affordance.pixel
        result = client.click(affordance.clicked.camera, x, y, stamp)
        ms = 1000 * (time.monotonic() - begun_s)
        if not is_early(result) and recording.shows(
                recording.played(result.clicked.camera, stamp_ns(result.clicked)),
                affordance.point_base_m):
            return result, ms
        client.spin(0.0 if stamp else 0.4)
    raise TimeoutError(f'{affordance.name}: no answer in {TRIES} tries, the last: '
                       f'{sentence(result)}')


def how_to_click() -> str:
    """Tell how to send a click of one's own."""
    python = _from_here(Path(sys.executable))
    script = Path(sys.executable).with_name('crosspoint')
    crosspoint = _from_here(script) if script.is_file() else f'{python} -m crosspoint_ros.cli'
    return f"""
The scene plays on: click yourself, from another terminal. Cameras front, side and wrist,
640x480 pixels; this is the drawer handle in front:

  {crosspoint} click front 122 227

  {python} -c "from crosspoint_ros.ros.client.client import *; print(sentence(click('front', 122, 227)))"

  ros2 action send_goal {NODE}/correspond crosspoint_ros/action/Correspond \
    "{{camera: front, x: 122.0, y: 227.0}}"

Ctrl-C ends the demo.
"""


def _from_here(path: Path) -> str:
    # Not resolved: a venv's python is a link out of it.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def follow(client: Client, checks: list[Callable[[], None]], last: str) -> NoReturn:
    """Tell the answer to every further click, whoever sends it, until Ctrl-C."""
    def tell(result: Any) -> None:
        if result.query_id != last:  # a latched topic begins with what was said last
            print(sentence(result), flush=True)

    client.on_result(tell)
    while True:
        client.spin(0.5)
        for check in checks:
            check()
