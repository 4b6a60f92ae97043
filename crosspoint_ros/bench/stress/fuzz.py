"""`crosspoint dev fuzz`: random and mutated messages for a node, and for the page's server.

A node of the command's own, with synthetic cameras, gets them on every topic that it subscribes to
and every service that it offers. Between them valid clicks are sent, and each must be answered.
"""
from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import HistoryPolicy, qos_profile_sensor_data
from rclpy.serialization import serialize_message

from crosspoint_ros.bench.environment import describe_machine, write_figures
from crosspoint_ros.bench.stress.page_fuzz import fuzz_page
from crosspoint_ros.bench.stress.random_messages import MessageGenerator, load_interface
from crosspoint_ros.bench.stress.rig import StressRig
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.client import Client, is_accepted

CLICK_TYPES = ('geometry_msgs/msg/PointStamped', 'geometry_msgs/msg/Point')
MESSAGES_PER_CHECK = 250
REPLY_TIMEOUT_S = 20.0
RECOVERY_S = 30.0
OURS = 'File "crosspoint_ros/'
SETTLE_S = 0.002  # after each message: a queue of the middleware that overflows hides a fault


def parse_count(text: str) -> int:
    """Parse a number of messages, 0 for none (for argparse)."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--messages', type=parse_count, default=20_000,
                        help='messages and requests for the node (default: 20000)')
    parser.add_argument('--frames', type=parse_count, default=20_000,
                        help="frames and requests for the page's server (default: 20000)")
    parser.add_argument('--seed', type=int, default=0, help='of the random numbers (default: 0)')
    parser.add_argument('--json', type=Path, help='write the figures')


def main(args: argparse.Namespace) -> int:
    """Send them and print what they found; 1 if a process ended or a click got no answer."""
    print(describe_machine())
    figures: dict[str, Any] = {'seed': args.seed}
    with StressRig(width=160, height=120, rate_hz=5.0) as rig:
        rig.start('cameras', 'node')
        if args.messages:
            with NodeFuzzer(args.seed, rig.check) as fuzzer:
                figures |= fuzzer.run(args.messages)
        if args.frames:
            rig.start('server')
            figures |= asyncio.run(fuzz_page(rig.port, args.frames, args.seed, rig.check))
        rig.check()
        exceptions = sum(map(count_exceptions, rig.list_logs()), Counter[str]())
    figures['exceptions in this package'] = sum(
        times for text, times in exceptions.items() if text.startswith(OURS))
    figures['exceptions in libraries, logged'] = exceptions.total() - figures[
        'exceptions in this package']
    for name, value in figures.items():
        print(f'  {name}: {value}')
    for text, times in exceptions.most_common():
        print(f'    {times} x {text}')
    write_figures(args.json, figures)
    failed = sum(value for name, value in figures.items()
                 if name.endswith((' without an answer', 'in this package')))
    return 1 if failed or not figures.get('answers again', True) else 0


def count_exceptions(log: Path) -> Counter[str]:
    """Count the exceptions in a log, by the place in this package (else the last) and message."""
    found, frames, is_inside = Counter[str](), list[str](), False
    for line in log.read_text(errors='replace').splitlines():
        if line.endswith('Traceback (most recent call last):'):
            is_inside, frames = True, []
        elif is_inside and line.lstrip().startswith('File "'):
            frames.append(line.strip().replace(f'{Path(__file__).parents[3]}/', ''))
        elif is_inside and line and not line.startswith(' '):
            is_inside = False
            ours = [f for f in frames if f.startswith(OURS) and 'ros/executor.py' not in f]
            found[f'{(ours or frames or [""])[-1]}: {line[:200]}'] += 1
    return found


@dataclass(frozen=True)
class Endpoint:
    """A topic that the node subscribes to, or a service that it offers; send: sends one message."""

    name: str
    is_click: bool
    send: Any


class NodeFuzzer(Client):
    """A client that sends the messages, and clicks in between."""

    def __init__(self, seed: int, check_process: Any) -> None:
        super().__init__()
        self._rng, self._check_process = random.Random(seed), check_process
        self._results = 0
        self._fuzz_node = self.create_node('fuzz')
        self._fuzz_node.create_subscription(QueryResult, '/crosspoint/result', self._count, 10)
        self._counts: Counter[str] = Counter()

    def _count(self, result: QueryResult) -> None:
        self._results += 1

    def run(self, count: int) -> dict[str, Any]:
        """Send that many; return the counts."""
        if not self._wait_until_answered() or not self.spin_until(
                lambda: 'crosspoint' in self._fuzz_node.get_node_names(), RECOVERY_S):
            raise TimeoutError(f'no valid click was answered within {RECOVERY_S:g} s')
        generator = MessageGenerator(self._rng, ('front', 'side', 'base_link', 'front_optical',
                                                 'limits.min_confidence', 'rgb8', '16UC1', 'mono8',
                                                 'plumb_bob', 'cameras'))
        endpoints = self._find_endpoints(generator)
        print(f'{count} messages for {len(endpoints)} topics and services: '
              f'{", ".join(e.name for e in endpoints)}', flush=True)
        begun_s = time.monotonic()
        for number in range(count):
            self._send_to(self._rng.choice(endpoints))
            if number % MESSAGES_PER_CHECK == MESSAGES_PER_CHECK - 1:
                self._check_process()
                self._click_once()
        elapsed_s = time.monotonic() - begun_s
        return {**self._counts, 'messages sent': count, 'seconds': round(elapsed_s),
                'answers again': self._recover()}

    def _send_to(self, endpoint: Endpoint) -> None:
        before = self._results
        expects_result = endpoint.send() and endpoint.is_click
        if not expects_result:
            self.spin_for(SETTLE_S)
            return
        self._counts['clicks by topic'] += 1
        if not self.spin_until(lambda: self._results > before, REPLY_TIMEOUT_S):
            self._counts['clicks by topic without an answer'] += 1

    def _click_once(self) -> None:
        """Send a valid goal; whatever the fuzz did to the cameras, it must get a result."""
        self._counts['goals'] += 1
        try:
            result = self.click('front', (80.0, 60.0))
        except TimeoutError as error:
            self._counts['goals without an answer'] += 1
            print(f'  no answer: {error}', flush=True)
        else:
            self._counts['goals answered OK'] += is_accepted(result)

    def _find_endpoints(self, generator: MessageGenerator) -> list[Endpoint]:
        node, found = self._fuzz_node, []
        topics = node.get_subscriber_names_and_types_by_node('crosspoint', '/')
        services = node.get_service_names_and_types_by_node('crosspoint', '/')
        for name, (kind, *_) in topics:
            found.append(Endpoint(name, kind in CLICK_TYPES, self._make_topic_sender(
                name, load_interface(kind), generator)))
        for name, (kind, *_) in services:
            if not name.endswith('/change_state'):  # it may end the node, as asked
                found.append(Endpoint(name, False, self._make_service_sender(
                    name, load_interface(kind), generator)))
        return found

    def _make_topic_sender(self, topic: str, kind: type, generator: MessageGenerator) -> Any:
        samples = [serialize_message(kind())]
        qos = self._fuzz_node.get_subscriptions_info_by_topic(topic)[0].qos_profile
        qos.history, qos.depth = HistoryPolicy.KEEP_LAST, 10
        publisher: Any = self._fuzz_node.create_publisher(kind, topic, qos)
        self._fuzz_node.create_subscription(kind, topic, samples.append, qos_profile_sensor_data,
                                            raw=True)

        def send() -> bool:
            if len(samples) > 20:
                del samples[1:-10]
            if self._rng.random() < 0.5:
                publisher.publish(generator.fill(kind()))
                return True
            with suppress(RuntimeError):  # longer than the middleware expects of this type
                publisher.publish(generator.mutate(self._rng.choice(samples)))
            return False
        return send

    def _make_service_sender(self, name: str, kind: Any, generator: MessageGenerator) -> Any:
        client: Any = self._fuzz_node.create_client(kind, name)

        def send() -> bool:
            future = client.call_async(generator.fill(kind.Request()))
            self._counts['requests'] += 1
            wait_s = 0.0 if name.endswith('get_result') else REPLY_TIMEOUT_S  # of no goal: never
            if wait_s and not self.spin_until(future.done, wait_s):
                self._counts['requests without an answer'] += 1
                print(f'  no reply: {name}', flush=True)
            client.remove_pending_request(future)
            return False
        return send

    def _wait_until_answered(self) -> bool:
        end_s = time.monotonic() + RECOVERY_S
        while time.monotonic() < end_s:
            try:
                if is_accepted(self.click('front', (80.0, 60.0))):
                    return True
            except TimeoutError:
                self._check_process()
            self.spin_for(0.3)
        return False

    def _recover(self) -> bool:
        """Configure the node again; return whether a click is answered then."""
        client: Any = self._fuzz_node.create_client(ChangeState, '/crosspoint/change_state')
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                           Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self.spin_until(future.done, REPLY_TIMEOUT_S)
            self.spin_for(0.5)
        return self._wait_until_answered()
