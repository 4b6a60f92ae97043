"""`crosspoint demo`: plays the built-in kitchen, clicks everything in it, checks every answer."""
from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.data.scenes.known_scene import KnownScene, LabelledPoint
from crosspoint_ros.demo.report import (
    ClickOutcome,
    draw_result,
    format_header,
    format_row,
    format_summary,
    is_wrong,
    score_result,
    write_index,
)
from crosspoint_ros.ros.client.client import NODE_NAME, Client, format_result
from crosspoint_ros.ros.process import NodeProcess, ProcessExited, carry_images, find_config
from crosspoint_ros.scenes import KITCHEN

PAGE_PORT = 8088  # default of `crosspoint web`
START_S = 60.0  # a cold start reads OpenCV, NumPy and the model from disk
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
                        help='folder for images and logs (default: demo_output)')
    parser.add_argument('--pick', action='store_true', help='instead of the kitchen: a simulated '
                        'arm (MuJoCo) that picks up what is clicked')
    parser.epilog = 'Exit code: 0 no wrong answer, 1 a wrong answer or a failed start.'


def _parse_count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'invalid number of points {text!r} (1 or more)')
    return int(text)


def main(args: argparse.Namespace,
         run_pick: Callable[[Callable[[], None], bool], int] | None = None) -> int:
    """Run the demo; 1 when something does not start, or is answered wrongly.

    run_pick: the simulation of `--pick`, to which the check of the page and `--once` are given.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if run_pick is None:
            return run(args)
        carry_images()  # by one transport, or page and node would not find each other
        with nullcontext(lambda: None) if args.once else serve_page(args.output) as check_page:
            return run_pick(check_page, args.once)
    except (ProcessExited, TimeoutError, RuntimeError, FileNotFoundError) as error:
        print(f'crosspoint demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nended')
        return 0 if not args.once else 130


def run(args: argparse.Namespace) -> int:
    """Start nodes and page, click every point; without `--once` print further results."""
    scene = KnownScene(KITCHEN, TICK_NS)
    points = scene.points[:args.count]
    with run_nodes(args.output) as (client, check_nodes), ExitStack() as stack:
        check_page = None if args.once else stack.enter_context(serve_page(args.output))
        begun_s = time.monotonic()
        client.wait_until_active(START_S, check_nodes)
        print(f'{NODE_NAME} is active after {time.monotonic() - begun_s:.1f} s')
        wait_for_images(client, points[0], check_nodes)
        print(f'\nClicking {len(points)} points of the front camera to find them in the others.\n'
              f'Images: {args.output}{os.sep}\n\n{format_header()}', flush=True)
        pictures: list[tuple[Path, list[ClickOutcome]]] = []
        image_ns = 0
        for number, point in enumerate(points, 1):
            check_nodes()
            result, ms = click_visible_point(client, scene, point, image_ns)
            image_ns = stamp_to_ns(result.clicked.header.stamp)
            new = score_result(scene, result, point, ms)
            print(*(format_row(outcome, point, index) for index, outcome in enumerate(new)),
                  sep='\n', flush=True)
            file = args.output / f'{number:02}_{point.name.replace(" ", "_")}.png'
            draw_result(scene, result, point, file)
            pictures.append((file, new))
        outcomes = [outcome for _, new in pictures for outcome in new]
        print(f'\n{format_summary(outcomes)}', flush=True)
        print(f'All pictures: {write_index(args.output, pictures)}', flush=True)
        if check_page:
            print(format_instructions(), flush=True)
            print_results(client, [check_nodes, check_page], last=result.query_id)
    return 1 if any(map(is_wrong, outcomes)) else 0


@contextmanager
def run_nodes(output: Path) -> Iterator[tuple[Client, Callable[[], None]]]:
    """Run play_bag, crosspoint_node and a client until the block ends."""
    with ExitStack() as stack:
        client = stack.enter_context(Client())
        require_no_other_node(client)
        ros_args = ['--params-file', str(find_config('demo.yaml'))]
        processes = [
            stack.enter_context(NodeProcess(f'crosspoint_ros.ros.{module}', ros_args, output / log,
                                            os.environ))
            for module, log in (('tools.play_bag', 'play_bag.log'),
                                ('node.lifecycle_node', 'crosspoint_node.log'))]

        def check() -> None:
            for process in processes:
                process.check()

        print('starting play_bag and crosspoint_node …', flush=True)
        yield client, check


@contextmanager
def serve_page(output: Path) -> Iterator[Callable[[], None]]:
    """Serve the page until the block ends and print its address, or why there is none."""
    arguments = ['web', '--port', str(PAGE_PORT if is_port_free(PAGE_PORT) else 0)]
    with NodeProcess('crosspoint_ros.cli', [], output / 'web.log', os.environ,
                     arguments) as process:
        try:
            address = process.wait_for_output('http://', START_S)
        except ProcessExited as died:  # aiohttp is not there
            print(f'No page to click on: {died}\n', flush=True)
            yield lambda: None
            return
        print(f'\nClick in a browser, also while the table fills:\n\n  {address}\n', flush=True)
        yield process.check


def is_port_free(port: int) -> bool:
    """Whether a TCP port of this machine is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True


def require_no_other_node(client: Client) -> None:
    """Raise RuntimeError if another crosspoint node runs, which would answer our clicks."""
    try:
        client.wait_until_active(1.0)
    except TimeoutError:
        return
    raise RuntimeError(f'a node {NODE_NAME} runs already (ROS_DOMAIN_ID '
                       f'{os.environ.get("ROS_DOMAIN_ID", "0")}): end it, or set another '
                       'ROS_DOMAIN_ID for the demo')


def wait_for_images(client: Client, point: LabelledPoint, check: Callable[[], None]) -> None:
    """Click until every camera has sent an image; raise TimeoutError with the last refusal."""
    end_s = time.monotonic() + FIRST_IMAGES_S
    while time.monotonic() < end_s:
        check()
        result = client.click(point.clicked.camera, point.pixel)
        if not is_not_ready(result):
            return
        client.spin_for(0.2)
    raise TimeoutError(f'no images after {FIRST_IMAGES_S:g} s: {format_result(result)}')


def is_not_ready(result: Any) -> bool:
    """Whether to click again: a loop has just begun, or a click in the page interfered."""
    codes = {result.status.code, *(answer.status.code for answer in result.correspondences)}
    return bool(codes & {Code.NO_IMAGE, Code.STALE, Code.NO_TF, Code.BUSY, Code.CANCELLED})


def click_visible_point(client: Client, scene: KnownScene, point: LabelledPoint,
                        image_ns: int) -> tuple[Any, float]:
    """Click an image in which the robot's arm does not occlude the point; return result and ms.

    The image of stamp image_ns comes first, since its features are cached; then the newest.
    """
    for stamp_ns in (image_ns, *([0] * MAX_ATTEMPTS)):
        begun_s = time.monotonic()
        result = client.click(point.clicked.camera, point.pixel, stamp_ns=stamp_ns)
        ms = 1000 * (time.monotonic() - begun_s)
        # A query that was refused as a whole, a late one too, has the stamp of no image.
        if not is_not_ready(result) and result.correspondences and scene.is_visible(
                scene.find_frame(result.clicked.camera,
                                 stamp_to_ns(result.clicked.header.stamp)), point.point_base_m):
            return result, ms
        client.spin_for(0.0 if stamp_ns else 0.4)
    raise TimeoutError(f'{point.name}: no answer in {MAX_ATTEMPTS} attempts; last: '
                       f'{format_result(result)}')


def format_instructions() -> str:
    """Return the commands for clicks from other terminals."""
    python = _shorten_path(Path(sys.executable))
    script = Path(sys.executable).with_name('crosspoint')
    crosspoint = _shorten_path(script) if script.is_file() else f'{python} -m crosspoint_ros.cli'
    code = ('from crosspoint_ros.ros.client.client import *; '
            "print(format_result(Client().click('front', (122, 227))))")
    goal = '"{camera: front, x: 122.0, y: 227.0}"'
    return f"""
The scene plays on: click in the page, or from another terminal. Cameras: front, side and wrist,
640x480 pixels; this is the drawer handle in front:

  {crosspoint} click front 122 227

  {python} -c "{code}"

With a ROS distro sourced also:

  ros2 action send_goal {NODE_NAME}/correspond crosspoint_ros/action/Correspond {goal}

Ctrl-C ends the demo.
"""


def _shorten_path(path: Path) -> str:
    # Not resolved: a venv's python is a link out of it.
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_results(client: Client, checks: list[Callable[[], None]], last: str) -> NoReturn:
    """Print the result of every further click, also of other clients, until Ctrl-C."""
    def on_result(result: Any) -> None:
        if result.query_id != last:  # the latched topic starts with the last result
            print(format_result(result), flush=True)

    client.subscribe_results(on_result)
    while True:
        client.spin_for(0.5)
        for check in checks:
            check()
