"""Plays a rosbag2 (MCAP or sqlite3) with /clock, for machines without `ros2 bag play`."""
from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.data.rosbag import UnreadableBag, open_bag
from crosspoint_ros.ros.config import explain_unknown_parameter
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.ros.process import catch_shutdown_signals
from crosspoint_ros.scenes import KITCHEN

PARAMETERS = ('bag', 'loop', 'time_goes_on', 'rate', 'clock_hz')
CLOCK = ('/clock', 'rosgraph_msgs/msg/Clock')
POLL_S = 0.1  # how often a wait checks for shutdown


class UnplayableBag(UnreadableBag):
    """The bag or the parameters cannot be played; the message has the reason."""


class BagPlayer(Node):
    """Publishes a bag's messages as they were recorded, bytes and stamps unchanged.

    Parameters: bag (path; default: the built-in kitchen), rate (1.0: as recorded), loop (false),
    clock_hz (40.0, of /clock), time_goes_on (false: a loop is a jump back in time; true: the
    stamps of headers move on with every round).
    """

    def __init__(self, **options: Any) -> None:
        """Open the bag. Raises `UnreadableBag` if there is nothing to play."""
        super().__init__('play_bag', **options)
        path = Path(self._declare('bag', str(KITCHEN))).expanduser()
        self._loop = self._declare('loop', False)
        self._time_goes_on = self._declare('time_goes_on', False)
        self._rate = self._declare('rate', 1.0)
        self._tick_ns = round(1e9 * self._rate / self._declare('clock_hz', 40.0))
        for name in self._parameter_overrides:  # it has no public accessor
            if not self.has_parameter(name):
                raise UnplayableBag(explain_unknown_parameter(name, PARAMETERS))
        self._bag = open_bag(path)
        self._clock_publisher = self.create_publisher(Clock, '/clock', QoSProfile(depth=1))
        self._topic_publishers = self._create_publishers()
        if not self._topic_publishers:
            raise UnplayableBag(f'{path} has no message of a type that is installed here')
        self.get_logger().info(
            f'{path}: {self._bag.message_count} messages of {len(self._topic_publishers)} topics '
            f'in {self._bag.duration / 1e9:.1f} s, at rate {self._rate:g}'
            f'{", in a loop" if self._loop else ""}')

    def play(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Publish the bag, repeatedly with `loop`, until the end or `should_stop`."""
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        offset_ns = self._play_once(executor, should_stop, 0)
        while self._loop and not should_stop():
            offset_ns += self._play_once(executor, should_stop, offset_ns * self._time_goes_on)
        executor.shutdown()

    def _play_once(self, executor: SingleThreadedExecutor, should_stop: Callable[[], bool],
                   offset_ns: int) -> int:
        """Publish the bag with its stamps shifted; return its duration on /clock, ns."""
        start_ns, begun_s = self._bag.start_time, time.monotonic()

        def wait_until(bag_ns: int) -> None:
            while not should_stop():
                left_s = begun_s + (bag_ns - start_ns) / 1e9 / self._rate - time.monotonic()
                if left_s <= 0:
                    return
                executor.spin_once(timeout_sec=min(left_s, POLL_S))

        tick_ns = start_ns
        for connection, bag_ns, data in self._bag.messages(
                {topic for topic, _ in self._topic_publishers}):
            publisher = self._topic_publishers.get((connection.topic, connection.msgtype))
            if publisher is None:
                continue
            if should_stop():
                break
            while tick_ns <= bag_ns:
                wait_until(tick_ns)
                if CLOCK not in self._topic_publishers:  # else the recorded time is played
                    self._clock_publisher.publish(Clock(clock=time_from_ns(tick_ns + offset_ns)))
                tick_ns += self._tick_ns
            wait_until(bag_ns)
            publisher.publish(shift_stamps(bytes(data), publisher.msg_type, offset_ns))
        wait_until(tick_ns)
        return tick_ns - start_ns

    def _create_publishers(self) -> dict[tuple[str, str], Publisher[Any]]:
        """Create a publisher for each topic whose type is installed, by topic and type."""
        publishers: dict[tuple[str, str], Publisher[Any]] = {}
        counts = Counter[tuple[str, str]]()
        for connection in self._bag.connections:
            counts[connection.topic, connection.msgtype] += connection.msgcount
        for (topic, type_name), count in sorted(counts.items(), key=lambda item: -item[1]):
            kind, why = find_message_type(type_name), ''
            if '/srv/' in type_name or '/action/' in type_name:
                why = f'{type_name} is of calls, not a message'
            elif kind is None:
                why = (f'{type_name} is not installed here (package '
                       f'{type_name.partition("/")[0]})')
            elif any(topic == other for other, _ in publishers):
                why = f'{type_name} is its second type'
            else:
                publishers[topic, type_name] = self.create_publisher(
                    kind, topic, select_qos(topic, self._bag.list_qos(topic)))
            if why and count:
                self.get_logger().warning(f'{topic} is left out: {why}')
        return publishers

    def _declare(self, name: str, default: Any) -> Any:
        """Declare a parameter of the default's type and return its value; numbers: (0, 1000]."""
        number = isinstance(default, float)
        try:  # dynamic typing, so that 2 is as good as 2.0
            value = self.declare_parameter(
                name, default, ParameterDescriptor(dynamic_typing=number)).value
        except InvalidParameterTypeException as error:
            raise UnplayableBag(str(error)) from error
        if number and not (isinstance(value, (int, float)) and 0 < value <= 1000):
            raise UnplayableBag(f'{name} must be a number over 0 and at most 1000, got {value!r}')
        return value


def shift_stamps(data: bytes, kind: Any, offset_ns: int) -> bytes:
    """Shift the header stamps of a serialized message; others are returned unchanged."""
    if not offset_ns or not (kind is Clock or hasattr(kind, 'header') or hasattr(
            kind, 'transforms')):
        return data
    message = deserialize_message(data, kind)
    if kind is Clock:
        message.clock = time_from_ns(stamp_to_ns(message.clock) + offset_ns)
        return serialize_message(message)
    for stamped in (message.transforms if hasattr(kind, 'transforms') else [message]):
        stamped.header.stamp = time_from_ns(stamp_to_ns(stamped.header.stamp) + offset_ns)
    return serialize_message(message)


def find_message_type(name: str) -> Any:
    """Return the class of 'sensor_msgs/msg/Image'; None if it is not installed."""
    package, _, kind = name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), kind, None)
    except (ImportError, TypeError):  # of a name that no package can have
        return None


def select_qos(topic: str, offered: Sequence[Any]) -> QoSProfile:
    """Return a reliable profile, which every subscriber takes; latched if it was recorded so."""
    if topic == '/tf_static' or any(
            profile.durability.name == 'TRANSIENT_LOCAL' for profile in offered):
        # Several nodes may have latched a message each.
        return QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(depth=10)


def main(args: list[str] | None = None) -> int:
    """Play until the end of the bag, SIGINT or SIGTERM; return the exit code."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stop_requested = catch_shutdown_signals(lambda: None)
    try:
        BagPlayer().play(stop_requested.is_set)
    except UnreadableBag as error:
        print(f'play_bag: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
