"""`crosspoint dev restarts`: what the node leaves behind when it is ended, again and again."""
from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from crosspoint_ros.bench.environment import describe_machine, parse_positive, write_figures
from crosspoint_ros.bench.node import cli as node_cli
from crosspoint_ros.ros.client.client import Client, is_accepted
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.process import NodeProcess, carry_images
from crosspoint_ros.ros.shared_memory import FOLDER, list_segments

NODE = 'crosspoint_ros.ros.node.lifecycle_node'
START_S = 60.0
GHOST_LIMIT_S = 30.0  # DDS drops a killed process after 20 s
MAX_GHOST_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint dev restarts`."""
    parser.add_argument('--count', type=parse_positive, default=50,
                        help='how often the node is started and ended (default: 50)')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Print what each end left; 1 for an exit code, a ghost, or anything left in /dev/shm."""
    print(describe_machine())
    carry_images()
    ends = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node_cli.start_process(stack, folder, node_cli.SYNTHETIC_CAMERAS, 'width:=320',
                               'height:=240', 'rate_hz:=5.0')
        parameters = ['base_frame:=base_link', f'matcher:={node_cli.__name__}:PlaneMatcher',
                      *node_cli.format_camera_parameters(node_cli.CAMERAS)]
        numbers = islice(cycle((signal.SIGINT, signal.SIGTERM)), args.count)
        for end in measure_ends([word for p in parameters for word in ('-p', p)], numbers, folder,
                                os.environ, _click):
            ends.append(end)
            print(f'  {len(ends)}: exit code {end.exit_code}, ended after {end.end_s:.2f} s, off '
                  f'the graph {end.ghost_s:.2f} s later, left {end.left_mb:.1f} MB', flush=True)
    ghosts_s = [end.ghost_s for end in ends]
    figures = {'restarts': len(ends), 'exit codes': sorted({end.exit_code for end in ends}),
               '/dev/shm MB': round(sum(end.left_mb for end in ends), 1),
               'median s to the end': statistics.median(end.end_s for end in ends),
               'max s to the end': max(end.end_s for end in ends),
               'max s on the graph after': max(ghosts_s)}
    for name, value in figures.items():
        print(f'  {name}: {value}')
    write_figures(args.json, figures)
    return int(any(end.exit_code or end.left or end.ghost_s > MAX_GHOST_S for end in ends))


def _click() -> None:
    """Click until a click is accepted, as the cameras have to be discovered first."""
    end_s = time.monotonic() + START_S
    with Client() as client:
        client.wait_until_active(START_S)
        while not is_accepted(result := client.click('front', (160.0, 120.0))):
            if time.monotonic() > end_s:
                raise TimeoutError(f'no click is accepted; last: {result.status.message}')
            client.spin_for(0.1)


@dataclass(frozen=True)
class NodeEnd:
    """One end of the node.

    end_s: from the signal to the end of the process. ghost_s: from then until the node is off the
    graph. left: its segments of shared memory that are still there. left_mb: their size, with
    the other files there that it made and left.
    """

    exit_code: int
    end_s: float
    ghost_s: float
    left: tuple[str, ...]
    left_mb: float


def measure_ends(arguments: list[str], numbers: Iterable[int], folder: Path,
                 environment: Mapping[str, str], use: Callable[[], None] = lambda: None
                 ) -> Iterator[NodeEnd]:
    """Start the node for each signal number, end it by that, and yield what came of it.

    arguments: after --ros-args. folder: for its log. use: called while it is active.
    Raises TimeoutError if it does not become active.
    """
    for number in numbers:
        yield _measure_end(arguments, number, folder / 'crosspoint_node.log', environment, use)


def _measure_end(arguments: list[str], number: int, log: Path, environment: Mapping[str, str],
                 use: Callable[[], None]) -> NodeEnd:
    before = set(FOLDER.iterdir())
    # A new observer each time: a ghost must not be found by the next measurement.
    with RosSession([]) as session, NodeProcess(NODE, arguments, log, environment) as process:
        observer = session.create_node('observer')

        def is_active() -> bool:
            process.check()
            return 'active: ' in log.read_text() and 'crosspoint' in observer.get_node_names()

        if not session.spin_until(is_active, START_S):
            raise TimeoutError(f'the node is not active after {START_S:g} s: see {log}')
        use()
        own = list_segments(process.pid)
        files = own | (list_port_files(process.pid) - before - list_port_files(os.getpid()))
        sent_s = time.monotonic()
        os.kill(process.pid, number)
        code = process.wait()
        ended_s = time.monotonic()
        session.spin_until(lambda: 'crosspoint' not in observer.get_node_names(), GHOST_LIMIT_S)
        return NodeEnd(code, ended_s - sent_s, time.monotonic() - ended_s,
                       tuple(sorted(path.name for path in own if path.exists())),
                       sum(path.stat().st_size for path in files if path.exists()) / 1e6)


def list_port_files(pid: int) -> set[Path]:
    """Return the files of ports in /dev/shm that a process has mapped (proc(5)): 52 kB each."""
    fields = (line.split(maxsplit=5) for line in Path(f'/proc/{pid}/maps').read_text().splitlines())
    return {Path(field[5]) for field in fields if len(field) == 6 and field[5].startswith(
        f'{FOLDER}/fastdds_port')}
