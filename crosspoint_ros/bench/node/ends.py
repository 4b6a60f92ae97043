"""What the node leaves behind when it is ended, again and again."""
from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.process import NodeProcess
from crosspoint_ros.ros.shared_memory import list_segments

NODE = 'crosspoint_ros.ros.node.lifecycle_node'
START_S = 60.0
GHOST_LIMIT_S = 30.0  # DDS drops a killed process after 20 s


@dataclass(frozen=True)
class NodeEnd:
    """One end of the node.

    end_s: from the signal to the end of the process. ghost_s: from then until the node is off the
    graph. left: its segments of shared memory that are still there.
    """

    exit_code: int
    end_s: float
    ghost_s: float
    left: tuple[str, ...]


def measure_ends(arguments: list[str], numbers: Iterable[int], folder: Path,
                 environment: Mapping[str, str]) -> Iterator[NodeEnd]:
    """Start the node for each signal number, end it by that, and yield what came of it.

    arguments: after --ros-args. folder: for its log. Raises TimeoutError if it does not become
    active.
    """
    for number in numbers:
        yield _measure_end(arguments, number, folder / 'crosspoint_node.log', environment)


def _measure_end(arguments: list[str], number: int, log: Path, environment: Mapping[str, str]
                 ) -> NodeEnd:
    # A new observer each time: a ghost must not be found by the next measurement.
    with RosSession([]) as session, NodeProcess(NODE, arguments, log, environment) as process:
        observer = session.create_node('observer')

        def is_active() -> bool:
            process.check()
            return 'active: ' in log.read_text() and 'crosspoint' in observer.get_node_names()

        if not session.spin_until(is_active, START_S):
            raise TimeoutError(f'the node is not active after {START_S:g} s: see {log}')
        own = list_segments(process.pid)
        sent_s = time.monotonic()
        os.kill(process.pid, number)
        code = process.wait()
        ended_s = time.monotonic()
        session.spin_until(lambda: 'crosspoint' not in observer.get_node_names(), GHOST_LIMIT_S)
        return NodeEnd(code, ended_s - sent_s, time.monotonic() - ended_s,
                       tuple(sorted(path.name for path in own if path.exists())))
