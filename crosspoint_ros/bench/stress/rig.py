"""Cameras, a node, the page's server and a browser as processes, and a client that clicks."""
from __future__ import annotations

import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from geometry_msgs.msg import Point, PointStamped

from crosspoint_ros.bench.node import cli as node_cli
from crosspoint_ros.bench.node.synthetic_cameras import BASELINE_M, DEPTH_MM
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.client import Client, is_accepted
from crosspoint_ros.ros.process import NodeProcess, carry_images
from crosspoint_ros.ros.shared_memory import FOLDER, list_segments

MODULES = {'cameras': node_cli.SYNTHETIC_CAMERAS, 'node': node_cli.CROSSPOINT_NODE,
           'server': 'crosspoint_ros.cli', 'browser': 'crosspoint_ros.bench.web.browsers'}
START_TIMEOUT_S = 60.0
PROBE_S = 1.0
ANSWER_TIMEOUT_S = 12.0  # limits.max_query_s is 10
MAX_PIXEL_ERROR_PX, MAX_TARGET_ERROR_M = 0.5, 0.002


@dataclass(frozen=True)
class ProcessFigures:
    """What a process uses: memory in MB, numbers of threads and of open files."""

    rss_mb: float
    pss_mb: float
    threads: int
    handles: int

    @classmethod
    def read(cls, pid: int) -> ProcessFigures:
        """Read them from /proc (proc(5)). PSS: shared pages count in proportion."""
        status = _read_fields(Path(f'/proc/{pid}/status'))
        rollup = _read_fields(Path(f'/proc/{pid}/smaps_rollup'))
        return cls(status['VmRSS'] / 1024, rollup['Pss'] / 1024, status['Threads'],
                   len(os.listdir(f'/proc/{pid}/fd')))


def _read_fields(path: Path) -> dict[str, int]:
    lines = (line.partition(':') for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) for name, _, value in lines
            if value.split()[:1] and value.split()[0].isdigit()}


def measure_shared_memory_mb() -> float:
    """Return the size of all files in /dev/shm, of other programs too."""
    return sum(path.lstat().st_size for path in FOLDER.iterdir() if path.exists()) / 1e6


class StressRig:
    """The processes by name (MODULES), each of which may be killed and started again."""

    def __init__(self, *node_parameters: str, cameras: Sequence[str] = node_cli.CAMERAS,
                 width: int = 640, height: int = 480, rate_hz: float = 30.0,
                 camera_parameters: Sequence[str] = ()) -> None:
        """Start nothing yet."""
        carry_images()  # before the caller joins the graph
        self.cameras, self.width, self.height = tuple(cameras), width, height
        self._stack, self._stacks = ExitStack(), dict[str, ExitStack]()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._processes: dict[str, NodeProcess] = {}
        self._starts = 0
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            self.port: int = probe.getsockname()[1]
        self._parameters = {
            'cameras': [f'cameras:=[{",".join(cameras)}]', f'width:={width}', f'height:={height}',
                        f'rate_hz:={float(rate_hz)}', 'kitchen:=true', *camera_parameters],
            'node': ['base_frame:=base_link', f'matcher:={node_cli.__name__}:PlaneMatcher',
                     *node_cli.format_camera_parameters(cameras)]}
        self.node_parameters = node_parameters  # of the next start
        self._arguments = {'server': ('web', '--port', str(self.port)),
                           'browser': (str(self.port), *cameras)}

    def __enter__(self) -> StressRig:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        for stack in self._stacks.values():
            stack.close()
        self._stack.close()

    def start(self, *names: str) -> None:
        """Start processes by name; wait until the server takes connections."""
        for name in names:
            self._starts += 1
            folder = self._folder / f'{self._starts:04}_{name}'
            folder.mkdir()
            self._stacks[name] = ExitStack()
            more = self.node_parameters if name == 'node' else ()
            self._processes[name] = node_cli.start_process(
                self._stacks[name], folder, MODULES[name], *self._parameters.get(name, ()), *more,
                arguments=self._arguments.get(name, ()))
            if name == 'server':
                self._processes[name].wait_for_output('http://', START_TIMEOUT_S)

    def get_pid(self, name: str) -> int:
        """Return the process id."""
        return self._processes[name].pid

    def check(self) -> None:
        """Raise `ProcessExited` if one that was started has ended by itself."""
        for process in self._processes.values():
            process.check()

    def send_signal(self, name: str, number: int) -> None:
        """Send it a signal."""
        os.kill(self._processes[name].pid, number)

    def end(self, name: str, number: int) -> tuple[int, list[Path]]:
        """End it by a signal; return its exit code, and its segments that are still there."""
        segments = list_segments(self.get_pid(name))
        self.send_signal(name, number)
        code = self._processes.pop(name).wait()
        return code, [path for path in segments if path.exists()]

    def list_logs(self, name: str = '*') -> list[Path]:
        """Return the logs of all processes, or of those with a name, by their start."""
        return sorted(self._folder.glob(f'????_{name}/*.log'))

    def find_answer_errors(self, result: QueryResult) -> list[str]:
        """Compare what a result accepts with the plane that the cameras see; [] if it is right."""
        clicked, focal_px, errors = result.clicked, 0.7 * self.width, list[str]()
        depth_m, first = DEPTH_MM * 1e-3, self.cameras.index(result.clicked.camera)
        for view in result.correspondences:
            if view.verdict == view.REFUSED:
                continue
            baseline_m = (self.cameras.index(view.found.camera) - first) * BASELINE_M
            error_px = float(np.hypot(view.found.x - clicked.x + baseline_m * focal_px / depth_m,
                                      view.found.y - clicked.y))
            if not error_px <= MAX_PIXEL_ERROR_PX:
                errors.append(f'{view.found.camera}: {error_px:.2f} px off')
        if result.has_target:
            true_m = ((clicked.x - self.width / 2) / focal_px * depth_m + first * BASELINE_M,
                      (clicked.y - self.height / 2) / focal_px * depth_m, depth_m)
            at = result.target.pose.pose.position
            error_m = float(np.linalg.norm(np.subtract((at.x, at.y, at.z), true_m)))
            if not error_m <= MAX_TARGET_ERROR_M:
                errors.append(f'target: {1e3 * error_m:.1f} mm off')
        return errors


class StressClient(Client):
    """Clicks by topic and by action in turn, and checks and counts the answers."""

    def __init__(self, rig: StressRig) -> None:
        super().__init__()
        self._rig, self._number = rig, 0
        self._results: dict[float, QueryResult] = {}
        self._click_node = self.create_node('stress')
        self._click_node.create_subscription(QueryResult, '/crosspoint/result', self._store, 10)
        self._publishers = {
            camera: self._click_node.create_publisher(PointStamped, f'/crosspoint/{camera}/click',
                                                      10) for camera in rig.cameras}
        self.counts = Counter(dict.fromkeys(('sent', 'accepted', 'refused', 'unanswered',
                                             'wrong'), 0))
        self.latencies_ms: list[float] = []
        self.refusals: Counter[str] = Counter()

    def _store(self, result: QueryResult) -> None:
        self._results[result.clicked.x] = result

    def get_node_names(self) -> list[str]:
        """Return the nodes on the graph, as this process knows it."""
        return self._click_node.get_node_names()

    def wait_until_answered(self, timeout_s: float, check: Callable[[], None]) -> float:
        """Click until a click by action and one by topic are accepted.

        Return when the first one was, s. Raises TimeoutError.
        """
        begun_s, last, first_s = time.monotonic(), 'no answer', float('nan')
        for click in (self.click, self._click_by_topic):  # each has to discover the node
            while True:
                check()
                try:
                    result = click(self._rig.cameras[0], self._choose_pixel(), timeout_s=PROBE_S)
                except (TimeoutError, RuntimeError) as error:
                    last = str(error)
                else:
                    last = f'{result.status.code}: {result.status.message}'
                    if is_accepted(result):
                        self.counts['sent'] += 1
                        self._count_answer(result)
                        break
                self.spin_for(0.05)
                if time.monotonic() - begun_s > timeout_s:
                    raise TimeoutError(f'no accepted answer within {timeout_s:g} s; last: {last}')
            first_s = first_s if first_s == first_s else time.monotonic() - begun_s
        return first_s

    def click_once(self) -> QueryResult | None:
        """Click, by topic or action in turn, and count what comes of it; None: nothing."""
        camera, pixel = self._rig.cameras[0], self._choose_pixel()
        begun_s = time.monotonic()
        self.counts['sent'] += 1
        try:
            click = self.click if self._number % 2 else self._click_by_topic
            result = click(camera, pixel, timeout_s=ANSWER_TIMEOUT_S)
        except (TimeoutError, RuntimeError) as error:
            self.counts['unanswered'] += 1
            print(f'  no answer: {error}', flush=True)
            return None
        self.latencies_ms.append(1e3 * (time.monotonic() - begun_s))
        self._count_answer(result)
        return result

    def _count_answer(self, result: QueryResult) -> None:
        self.counts['accepted' if is_accepted(result) else 'refused'] += 1
        if not is_accepted(result):
            self.refusals[f'{result.status.code}: {result.status.message[:90]}'] += 1
        for error in self._rig.find_answer_errors(result):
            self.counts['wrong'] += 1
            print(f'  wrong: {error}', flush=True)

    def _choose_pixel(self) -> tuple[float, float]:
        """Return a pixel that the next camera shows too; each click has its own x."""
        self._number += 1
        return (self._rig.width * 0.5 + self._number % 4000 / 64, self._rig.height * 0.5)

    def _click_by_topic(self, camera: str, pixel: Iterable[float], *,
                        timeout_s: float) -> QueryResult:
        x, y = pixel
        self._results.clear()
        self._publishers[camera].publish(PointStamped(point=Point(x=x, y=y)))
        self.wait_for(lambda: x in self._results, 'answered a click by topic', timeout_s)
        return self._results[x]
