"""`crosspoint dev drill`: ends processes at random, and what else goes wrong around a node.

Each part prints its figures and returns its faults. An answer is compared with the plane that the
synthetic cameras see: what is accepted must be right.
"""
from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

from crosspoint_ros.bench.environment import describe_machine, write_figures
from crosspoint_ros.bench.stress.fuzz import OURS, count_exceptions
from crosspoint_ros.bench.stress.rig import START_TIMEOUT_S, StressClient, StressRig
from crosspoint_ros.data.answer_log import ANSWERS_FILE
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.ros.process import ProcessExited
from crosspoint_ros.ros.shared_memory import remove_dead_segments

CLICK_S = 0.25
CABLE_S = 3.0
RECOVERY_S = 20.0
GHOST_LIMIT_S = 1.0
MAX_REFUSED_SHARE = 0.1  # of the clicks on much data: a computer may be too slow, and says so
EVENTS = ('kill cameras', 'kill node', 'kill server', 'kill browser', 'stop cameras 3 s',
          'end node')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--minutes', type=float, default=10.0,
                        help='how long processes are killed (default: 10)')
    parser.add_argument('--seed', type=int, default=0, help='of the random numbers (default: 0)')
    parser.add_argument('--scenario', choices=SCENARIOS, action='append',
                        help='only this one; may be repeated (default: all)')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Run the scenarios; 1 if a click got no answer or a wrong one, or nothing answers again."""
    print(describe_machine())
    figures, faults = dict[str, Any](), list[str]()
    for name in args.scenario or SCENARIOS:
        print(f'{name}:', flush=True)
        try:
            found, bad = SCENARIOS[name](args)
        except (TimeoutError, ProcessExited) as error:
            found, bad = {}, [str(error)]
        for what, value in found.items():
            print(f'  {what}: {value}', flush=True)
        for fault in bad:
            print(f'  FAILED: {fault}', flush=True)
        figures[name], faults = found | {'faults': bad}, faults + bad
    write_figures(args.json, figures)
    return 1 if faults else 0


class Drill:
    """Ends processes at random, and clicks before, during and after."""

    def __init__(self, rig: StressRig, client: StressClient, rng: random.Random) -> None:
        self._rig, self._client, self._rng, self._begun_s = rig, client, rng, time.monotonic()
        self._times_s = defaultdict[str, list[float]](list)
        self._counts = Counter[str]()
        self._left = set[Path]()
        self.faults: list[str] = []

    def run(self, duration_s: float) -> dict[str, Any]:
        """Go on for that long; return the figures."""
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._click_for(self._rng.uniform(0.5, 3.0))
            event = self._rng.choice(EVENTS)
            self._counts[event] += 1
            print(f'  {time.monotonic() - self._begun_s:.0f} s: {event}', flush=True)
            action, _, name = event.partition(' ')
            perform = {'kill': self._kill, 'stop': self._stop_cameras, 'end': self._end_node}
            try:
                perform[action](name)
                self._rig.check()
            except TimeoutError as error:
                last = self._rig.list_logs('node')[-1].read_text().splitlines()[-2:]
                self._fail(f'{event}: {error}; last lines of the node: {last}')
        left_mb = sum(path.stat().st_size for path in self._left if path.exists()) / 1e6
        times = {f'{name} s, p50 / max': f'{statistics.median(times_s):.2f} / {max(times_s):.2f}'
                 for name, times_s in self._times_s.items()}
        return {**self._counts, **times, **self._client.counts,
                'p50 / max of a click ms': f'{statistics.median(self._client.latencies_ms):.0f} / '
                                           f'{max(self._client.latencies_ms):.0f}',
                'refused': dict(self._client.refusals.most_common(8)),
                '/dev/shm of killed processes MB': round(left_mb, 1)}

    def _fail(self, text: str) -> None:
        self.faults.append(text)
        print(f'  FAILED: {text}', flush=True)

    def _click_for(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._client.click_once()
            self._client.spin_for(CLICK_S)

    def _kill(self, name: str) -> None:
        self._left.update(self._rig.end(name, signal.SIGKILL)[1])
        pause_s = self._rng.uniform(0.0, 3.0)
        if name == 'node':
            self._client.spin_for(pause_s)
        else:
            self._click_for(pause_s)
        self._restart(name)

    def _restart(self, name: str) -> None:
        begun_s = time.monotonic()
        self._rig.start(name)
        if name == 'server':  # a client of the old one has lost its connection
            self._left.update(self._rig.end('browser', signal.SIGKILL)[1])
            self._rig.start('browser')
        if name in ('server', 'browser'):
            self._client.wait_for(self._has_images, f'shown images after {name}', RECOVERY_S)
        else:
            self._client.wait_until_answered(RECOVERY_S, self._rig.check)
        self._times_s[f'from the start of {name} to the first '
                      f'{"image" if name in ("server", "browser") else "answer"}'].append(
            time.monotonic() - begun_s)

    def _has_images(self) -> bool:
        lines = self._rig.list_logs('browser')[-1].read_text().splitlines()
        return bool(lines) and lines[-1] > 'images 0'

    def _stop_cameras(self, name: str) -> None:
        """Stop them as a pulled cable does: images end without an error, then go on."""
        self._rig.send_signal('cameras', signal.SIGSTOP)
        self._click_for(CABLE_S)
        self._rig.send_signal('cameras', signal.SIGCONT)
        self._times_s['from the cable to the first answer'].append(
            self._client.wait_until_answered(RECOVERY_S, self._rig.check))

    def _end_node(self, name: str) -> None:
        """End it as Ctrl-C does; it must leave the graph, and nothing in /dev/shm."""
        names = self._client.get_node_names().count('crosspoint')  # with those killed before
        code, left = self._rig.end(name, signal.SIGINT)
        ended_s = time.monotonic()
        self._client.spin_until(
            lambda: self._client.get_node_names().count('crosspoint') < names, 3 * GHOST_LIMIT_S)
        ghost_s = time.monotonic() - ended_s
        self._times_s['on the graph after a clean end'].append(ghost_s)
        if code or left or ghost_s > GHOST_LIMIT_S:
            self._fail(f'a clean end: exit code {code}, on the graph for {ghost_s:.2f} s (limit '
                       f'{GHOST_LIMIT_S:g} s), left {[path.name for path in left]}')
        self._restart(name)


Outcome = tuple[dict[str, Any], list[str]]


def run_kills(args: argparse.Namespace) -> Outcome:
    """Kill processes at random for args.minutes."""
    with StressRig(width=320, height=240, rate_hz=10.0) as rig, StressClient(rig) as client:
        rig.start('cameras', 'node', 'server', 'browser')
        client.wait_until_answered(START_TIMEOUT_S, rig.check)
        drill = Drill(rig, client, random.Random(args.seed))
        figures = drill.run(60.0 * args.minutes)
        exceptions = sum((count_exceptions(log) for log in rig.list_logs()), Counter[str]())
    print(f'  removed from /dev/shm at the end: {remove_dead_segments() / 1e6:.1f} MB')
    return figures, [*drill.faults, *_find_faults(client),
                     *(f'{times} x {text}' for text, times in exceptions.items()
                       if text.startswith(OURS))]


def run_full_disk(args: argparse.Namespace) -> Outcome:
    """Let every write to a file fail while answers are recorded; what was written stays whole."""
    with tempfile.TemporaryDirectory() as folder, StressRig(
            f'record_dir:={folder}', rate_hz=10.0) as rig, StressClient(rig) as client:
        rig.start('cameras', 'node')
        client.wait_until_answered(START_TIMEOUT_S, rig.check)
        _click(client, 10)
        answers, pid = Path(folder) / ANSWERS_FILE, rig.get_pid('node')
        client.wait_for(lambda: answers.exists() and len(answers.read_text().splitlines()) > 9,
                        'recorded the first answers')
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        before = len(answers.read_text().splitlines())
        _click(client, 20)
        full = [json.loads(line) for line in answers.read_text().splitlines()]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        rig.check()
        code, _ = rig.end('node', signal.SIGINT)
        rig.start('node')
        client.wait_until_answered(START_TIMEOUT_S, rig.check)
        _click(client, 5)
        client.wait_for(lambda: len(answers.read_text().splitlines()) > len(full),
                        'recorded again after a restart')
        figures = {**client.counts, 'recorded before / while full': f'{before} / {len(full)}'}
    return figures, [*_find_faults(client, 0.0), *([f'exit code {code}'] if code else [])]


def run_clock_jumps(args: argparse.Namespace) -> Outcome:
    """Let the simulated time go back 100 s, and forward an hour."""
    times_s = dict[str, float]()
    with StressRig('use_sim_time:=true', rate_hz=10.0, camera_parameters=['use_sim_time:=true']
                   ) as rig, StressClient(rig) as client, _publish_clock(client) as jump:
        rig.start('cameras', 'node')
        client.wait_until_answered(START_TIMEOUT_S, rig.check)
        for name, seconds in (('back 100 s', -100.0), ('forward 1 h', 3600.0),
                              ('back 1 h', -3600.0)):
            _click(client, 4)
            jump(seconds)
            begun_s = time.monotonic()
            _click(client, 4)
            client.wait_until_answered(RECOVERY_S, rig.check)
            times_s[f'{name}: to an answer, s'] = round(time.monotonic() - begun_s, 2)
    return {**client.counts, **times_s}, _find_faults(client)


@contextmanager
def _publish_clock(client: StressClient) -> Iterator[Callable[[float], None]]:
    """Publish /clock until the block ends; yield what makes it jump by some seconds."""
    publisher = client.create_node('clock').create_publisher(Clock, '/clock', QoSProfile(depth=1))
    ended, offset_s = threading.Event(), [0.0]

    def publish() -> None:
        while not ended.wait(0.02):
            publisher.publish(Clock(clock=time_from_ns(int(1e9 * (time.time() + offset_s[0])))))

    def jump(seconds: float) -> None:
        offset_s[0] += seconds

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield jump
    finally:
        ended.set()
        thread.join()


def run_twelve_cameras(args: argparse.Namespace) -> Outcome:
    """Click on the first of twelve RGB-D cameras; two others see the point, nine do not."""
    return _click_on_rig(StressRig(cameras=[f'camera_{i}' for i in range(12)], rate_hz=5.0), 30)


def run_4k(args: argparse.Namespace) -> Outcome:
    """Click on two RGB-D cameras with 3840x2160 pixels."""
    return _click_on_rig(StressRig('limits.max_image_age_s:=3.0', width=3840, height=2160,
                                   rate_hz=1.0), 15)


def _click_on_rig(new_rig: StressRig, count: int) -> Outcome:
    with new_rig as rig, StressClient(rig) as client:
        rig.start('cameras', 'node')
        client.wait_until_answered(START_TIMEOUT_S, rig.check)
        _click(client, count)
        rig.check()
        figures = {**client.counts, 'p50 / max ms': f'{statistics.median(client.latencies_ms):.0f}'
                   f' / {max(client.latencies_ms):.0f}', 'refused': dict(client.refusals)}
    return figures, _find_faults(client, MAX_REFUSED_SHARE)


def _click(client: StressClient, count: int) -> None:
    for _ in range(count):
        client.click_once()
        client.spin_for(CLICK_S)


def _find_faults(client: StressClient, max_refused_share: float = 1.0) -> list[str]:
    counts = client.counts
    limits = {'unanswered': 0, 'wrong': 0, 'refused': max_refused_share * counts['sent']}
    return [f'{counts[name]} clicks {name} (limit {limit:g})' for name, limit in limits.items()
            if counts[name] > limit]


SCENARIOS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    'kills': run_kills, 'full-disk': run_full_disk, 'clock-jumps': run_clock_jumps,
    'twelve-cameras': run_twelve_cameras, '4k': run_4k}
