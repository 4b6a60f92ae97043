"""Listens to a camera's topics, TF, the clock and the diagnostics, and keeps what came."""
from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from crosspoint_ros.core.datatypes import Rejected, Transform
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.client.node_info import Question, Told, Until, parameters_from
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError, Parameters
from crosspoint_ros.ros.conversions import Source, stamp_ns
from crosspoint_ros.ros.doctor.graph import NAME, full_name, mismatches, publishers, surroundings
from crosspoint_ros.ros.doctor.snapshot import Arrival, CameraSeen, NodeSeen, Seen, Stream, frame_of
from crosspoint_ros.ros.node.camera import image_type, read_mask, source_of
from crosspoint_ros.ros.tf import Tree, loop, make_tree


class Onlooker(Node):
    """Has no publisher, no service and no action server; its parameters are its own affair."""

    def __init__(self, context: Context, parameters: Sequence[Parameter] = ()) -> None:
        """`parameters`: values for the node to declare, `use_sim_time` among them."""
        # Where rclpy offers a service with its types, this switches it off.
        quiet = [Parameter('start_type_description_service', value=False)] * bool(
            importlib.util.find_spec('rclpy.type_description_service'))
        super().__init__(NAME, context=context, use_global_arguments=False, enable_rosout=False,
                         start_parameter_services=False,
                         parameter_overrides=[*parameters, *quiet])

    def create_publisher(self, *args: Any, **options: Any) -> Any:
        """Return what looks like a publisher to rclpy, which wants one for /parameter_events."""
        return Silence()


class Silence:
    """Takes messages, and tells nobody."""

    def publish(self, message: object) -> None:
        """Drop it."""


# Best effort and volatile takes from whoever sends.
TAKES_ALL = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class Ear:
    """Listens to one topic as the node does."""

    def __init__(self, node: Onlooker, parameter: str, topic: str, kind: type) -> None:
        self._node, self._parameter, self.topic = node, parameter, topic
        self._type = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
        self._arrivals: list[Arrival] = []
        self.newest: Any = None
        node.create_subscription(kind, topic, self._take, qos_profile_sensor_data)

    def _take(self, message: Any) -> None:
        stamp: Time = message.clock if isinstance(message, Clock) else message.header.stamp
        self._arrivals.append(Arrival(stamp_ns(stamp), self._now_ns()))
        self.newest = message

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def stream(self) -> Stream:
        """Return what came, and from whom."""
        found = publishers(self._node, self.topic)
        return Stream(self._parameter, self.topic, self._type,
                      tuple(p for p in found if p.type == self._type),
                      tuple(p for p in found if p.type != self._type),
                      tuple(self._arrivals), self.newest, self._now_ns())


class CameraEars:
    """Listens to the topics of one camera."""

    def __init__(self, node: Onlooker, config: CameraConfig, source: Source) -> None:
        self.config, self.source = config, source
        name, kind = config.name, image_type(config)
        self.image = Ear(node, f'{name}.image_topic', source.image_topic, kind)
        self.info = Ear(node, f'{name}.info_topic', source.info_topic, CameraInfo)
        self.depth = Ear(node, f'{name}.depth_topic', source.depth_topic, kind) \
            if source.depth_topic else None
        self.pose: Transform | None = None
        self._posed_ns = 0

    @property
    def complete(self) -> bool:
        """Tell whether something came on each topic."""
        return all(ear.newest is not None
                   for ear in (self.image, self.info, self.depth) if ear is not None)

    def freeze(self) -> None:
        """Choose the moment at which its pose is asked for."""
        newest = self.image.newest
        self._posed_ns = stamp_ns(newest.header.stamp) if newest is not None else 0

    def posed(self, tree: Tree, base: str) -> bool:
        """Look for its pose at that moment; tell whether looking again cannot help."""
        links, frame = tree.links(), frame_of(self.image.newest, self.info.newest)
        if not self._posed_ns or not frame:
            return True
        if self.pose is None and not (loop(links, frame) or loop(links, base)):
            self.pose = tree.find(base.lstrip('/'), frame, self._posed_ns)
        return self.pose is not None

    def seen(self) -> CameraSeen:
        """Return what came, decoded."""
        image, info = self.image.stream(), self.info.stream()
        depth = None if self.depth is None else self.depth.stream()
        return CameraSeen(
            self.config, self.source, image, info, depth,
            picture=_made(lambda message: conversions.rgb(self.source, message), image),
            lens=_made(lambda message: conversions.intrinsics_from_info(
                message, self.source.rectified), info),
            depth_m=_made(_depth_m, depth), mask=_mask(self.config), base_from_cam=self.pose,
            posed_ns=self._posed_ns)


class Ears:
    """Listens to all that a node needs."""

    def __init__(self, node: Onlooker, name: str, config: Config | None,
                 resolve: Callable[[str], str]) -> None:
        """Subscribe; `config` None: to what concerns no camera. `resolve`: names of topics."""
        self._config, self._matcher_name = config, f'{name}: matcher'
        self.tree: Tree = make_tree(node)
        self.clock = Ear(node, 'use_sim_time', '/clock', Clock)
        self.matcher: tuple[bytes, str] | None = None
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, TAKES_ALL)
        self._cameras = [CameraEars(node, camera, source_of(camera, resolve))
                         for camera in (config.cameras if config else ())]
        self._sim_time = bool(node.get_parameter('use_sim_time').value)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._matcher_name:
                self.matcher = status.level, status.message

    def missing(self, state: str) -> bool:
        """Tell whether something has yet to come, from a node in this state of its life cycle."""
        return not (all(camera.complete for camera in self._cameras)
                    and (self.matcher is not None or state in ('', 'unconfigured'))
                    and (self.clock.newest is not None or not self._sim_time))

    def keep_poses(self, until: Until) -> None:
        """Look each camera up at the stamp of its newest image, as long as the node would wait."""
        if self._config is None:
            return
        base, times = self._config.base_frame, self._config.times
        for camera in self._cameras:
            camera.freeze()
        until(lambda: sum(camera.posed(self.tree, base) for camera in self._cameras)
              == len(self._cameras), times.wait_tf_s)

    def cameras(self) -> tuple[CameraSeen, ...]:
        """Return what came of each."""
        return tuple(camera.seen() for camera in self._cameras)


def _made(make: Callable[[Any], Any], stream: Stream | None) -> Any:
    """Return what the newest message decodes to, or why it does not; None without one."""
    if stream is None or stream.newest is None:
        return None
    try:
        return make(stream.newest)
    except Rejected as rejected:
        return rejected


def _depth_m(message: Any) -> Any:
    compressed = isinstance(message, CompressedImage)
    return (conversions.depth_m_from_compressed if compressed
            else conversions.depth_m_from_image)(message)


def _mask(config: CameraConfig) -> npt.NDArray[np.bool_] | ConfigError | None:
    try:
        return read_mask(config)
    except ConfigError as error:
        return error


PATIENCE_S = 10.0  # rarely, two processes take some seconds to find each other
ANSWER_S = 3.0  # a node that is busy with starting answers later than others
STEP_S = 0.05


def look(node: str, seconds: float, params: Path | None = None,
         patience_s: float = PATIENCE_S) -> Seen:
    """Return what was seen of a node and of all that it needs.

    params: take the parameters from this file, not from the node. The node is waited for, and
    what is missing after `seconds` too, for `patience_s` in all. Raises OSError or ValueError for a
    file or a name that will not do.
    """
    name = full_name(node)
    given = None if params is None else parameters_from(params, name)
    end_s = time.monotonic() + patience_s
    with Visit() as visit:
        told = visit.ask(name, patience_s)
        values = told.parameters if given is None else given
        watching = Onlooker(visit.context, values or ())
        visit.add(watching)
        config = _config(watching) if values else None
        ears = _ears(watching, name, config)
        if isinstance(ears, ConfigError):
            config, ears = ears, _no_ears(watching, name)
        since_ns = watching.get_clock().now().nanoseconds
        visit.until(lambda: False, seconds)
        visit.until(lambda: not ears.missing(told.state), end_s - time.monotonic())
        ears.keep_poses(visit.until)
        return _seen(watching, name, told, config, ears, since_ns)


def _seen(node: Onlooker, name: str, told: Told, config: Config | ConfigError | None,
          ears: Ears, since_ns: int) -> Seen:
    around = surroundings(node)
    cameras = ears.cameras()
    expected = {s.topic: qos_profile_sensor_data for c in cameras for s in c.streams}
    is_crosspoint = told.parameters is None or bool(told.parameters)
    return Seen(
        NodeSeen(name, around.nodes.count(name), told.answers, told.state, is_crosspoint,
                 ears.matcher),
        around, config, bool(node.get_parameter('use_sim_time').value), cameras,
        mismatches(node, name, expected), ears.tree.links(), ears.clock.stream(), since_ns)


def _config(node: Onlooker) -> Config | ConfigError:
    """Let the node's own code read the parameters, and say what it would not take."""
    try:
        return Parameters(node).read()
    except ConfigError as error:
        return error


def _ears(node: Onlooker, name: str, config: Config | ConfigError | None) -> Ears | ConfigError:
    if not isinstance(config, Config):
        return _no_ears(node, name)
    try:
        return Ears(node, name, config, _resolver(name))
    except ConfigError as error:
        return error


def _no_ears(node: Onlooker, name: str) -> Ears:
    return Ears(node, name, None, _resolver(name))


def _resolver(node: str) -> Callable[[str], str]:
    """Return what makes a topic's full name out of the one that a node was given."""
    space, _, name = node.rpartition('/')

    def resolve(topic: str) -> str:
        try:
            full = expand_topic_name(topic, name, space or '/')
            validate_full_topic_name(full)
        except (NameValidationException, ValueError) as error:
            raise ConfigError(f'a topic cannot be called {topic!r}') from error
        return full
    return resolve


class Visit:
    """A place on the graph, for as long as it is open."""

    def __init__(self) -> None:
        self.context = Context()
        # Ctrl-C stays with the program that uses this.
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Onlooker] = []

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()

    def add(self, node: Onlooker) -> None:
        """Let its callbacks run, and take it off the graph at the end."""
        self._nodes.append(node)
        self._executor.add_node(node)

    def ask(self, name: str, patience_s: float) -> Told:
        """Wait for the node, and return what it says of itself."""
        asking = Onlooker(self.context)
        self.add(asking)
        question = Question(asking, name, self.until)
        self.until(question.ready, patience_s)
        return question.ask(ANSWER_S)

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let callbacks run until the condition holds, or so long; return whether it does."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, STEP_S))
        return True
