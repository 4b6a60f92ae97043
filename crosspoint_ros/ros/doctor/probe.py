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
from crosspoint_ros.ros.client.node_info import (
    NodeInfoClient,
    NodeReply,
    SpinUntil,
    read_params_file,
)
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError, Parameters
from crosspoint_ros.ros.conversions import CameraTopics, stamp_to_ns
from crosspoint_ros.ros.doctor.graph import (
    DOCTOR_NODE,
    collect_graph_info,
    find_qos_mismatches,
    list_publishers,
    resolve_node_name,
)
from crosspoint_ros.ros.doctor.snapshot import (
    Arrival,
    CameraSnapshot,
    NodeSnapshot,
    Snapshot,
    TopicStream,
    select_frame_id,
)
from crosspoint_ros.ros.node.camera import get_image_type, read_mask, resolve_topics
from crosspoint_ros.ros.tf import TransformTree, find_loop, make_tree


class PassiveNode(Node):
    """Has no publisher, no service and no action server; its parameters are its own affair."""

    def __init__(self, context: Context, parameters: Sequence[Parameter] = ()) -> None:
        """`parameters`: values for the node to declare, `use_sim_time` among them."""
        # Where rclpy offers a service with its types, this switches it off.
        quiet = [Parameter('start_type_description_service', value=False)] * bool(
            importlib.util.find_spec('rclpy.type_description_service'))
        super().__init__(DOCTOR_NODE, context=context, use_global_arguments=False, enable_rosout=False,
                         start_parameter_services=False,
                         parameter_overrides=[*parameters, *quiet])

    def create_publisher(self, *args: Any, **options: Any) -> Any:
        """Return what looks like a publisher to rclpy, which wants one for /parameter_events."""
        return NullPublisher()


class NullPublisher:
    """Takes messages, and tells nobody."""

    def publish(self, message: object) -> None:
        """Drop it."""


# Best effort and volatile takes from whoever sends.
ANY_PUBLISHER_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class TopicProbe:
    """Listens to one topic as the node does."""

    def __init__(self, node: PassiveNode, parameter: str, topic: str, kind: type) -> None:
        self._node, self._parameter, self.topic = node, parameter, topic
        self._type = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
        self._arrivals: list[Arrival] = []
        self.newest: Any = None
        node.create_subscription(kind, topic, self._on_message, qos_profile_sensor_data)

    def _on_message(self, message: Any) -> None:
        stamp: Time = message.clock if isinstance(message, Clock) else message.header.stamp
        self._arrivals.append(Arrival(stamp_to_ns(stamp), self._now_ns()))
        self.newest = message

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def stream(self) -> TopicStream:
        """Return what came, and from whom."""
        found = list_publishers(self._node, self.topic)
        return TopicStream(self._parameter, self.topic, self._type,
                      tuple(p for p in found if p.type == self._type),
                      tuple(p for p in found if p.type != self._type),
                      tuple(self._arrivals), self.newest, self._now_ns())


class CameraProbe:
    """Listens to the topics of one camera."""

    def __init__(self, node: PassiveNode, config: CameraConfig, source: CameraTopics) -> None:
        self.config, self.source = config, source
        name, kind = config.name, get_image_type(config)
        self.image = TopicProbe(node, f'{name}.image_topic', source.image_topic, kind)
        self.info = TopicProbe(node, f'{name}.info_topic', source.info_topic, CameraInfo)
        self.depth = TopicProbe(node, f'{name}.depth_topic', source.depth_topic, kind) \
            if source.depth_topic else None
        self.pose: Transform | None = None
        self._tf_stamp_ns = 0

    @property
    def is_complete(self) -> bool:
        """Tell whether something came on each topic."""
        return all(ear.newest is not None
                   for ear in (self.image, self.info, self.depth) if ear is not None)

    def fix_tf_stamp(self) -> None:
        """Choose the moment at which its pose is asked for."""
        newest = self.image.newest
        self._tf_stamp_ns = stamp_to_ns(newest.header.stamp) if newest is not None else 0

    def update_pose(self, tree: TransformTree, base: str) -> bool:
        """Look for its pose at that moment; tell whether looking again cannot help."""
        links, frame = tree.frames(), select_frame_id(self.image.newest, self.info.newest)
        if not self._tf_stamp_ns or not frame:
            return True
        if self.pose is None and not (find_loop(links, frame) or find_loop(links, base)):
            self.pose = tree.lookup(base.lstrip('/'), frame, self._tf_stamp_ns)
        return self.pose is not None

    def snapshot(self) -> CameraSnapshot:
        """Return what came, decoded."""
        image, info = self.image.stream(), self.info.stream()
        depth = None if self.depth is None else self.depth.stream()
        return CameraSnapshot(
            self.config, self.source, image, info, depth,
            rgb=_decode_newest(lambda message: conversions.decode_rgb(self.source, message), image),
            intrinsics=_decode_newest(lambda message: conversions.intrinsics_from_info(
                message, self.source.rectified), info),
            depth_m=_decode_newest(_decode_depth_m, depth), mask=_load_mask(self.config), base_from_cam=self.pose,
            tf_stamp_ns=self._tf_stamp_ns)


class SystemProbe:
    """Listens to all that a node needs."""

    def __init__(self, node: PassiveNode, name: str, config: Config | None,
                 resolve: Callable[[str], str]) -> None:
        """Subscribe; `config` None: to what concerns no camera. `resolve`: names of topics."""
        self._config, self._matcher_name = config, f'{name}: matcher'
        self.tree: TransformTree = make_tree(node)
        self.clock = TopicProbe(node, 'use_sim_time', '/clock', Clock)
        self.matcher: tuple[bytes, str] | None = None
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, ANY_PUBLISHER_QOS)
        self._cameras = [CameraProbe(node, camera, resolve_topics(camera, resolve))
                         for camera in (config.cameras if config else ())]
        self._sim_time = bool(node.get_parameter('use_sim_time').value)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._matcher_name:
                self.matcher = status.level, status.message

    def is_incomplete(self, state: str) -> bool:
        """Tell whether something has yet to come, from a node in this state of its life cycle."""
        return not (all(camera.is_complete for camera in self._cameras)
                    and (self.matcher is not None or state in ('', 'unconfigured'))
                    and (self.clock.newest is not None or not self._sim_time))

    def wait_for_poses(self, until: SpinUntil) -> None:
        """Look each camera up at the stamp of its newest image, as long as the node would wait."""
        if self._config is None:
            return
        base, times = self._config.base_frame, self._config.times
        for camera in self._cameras:
            camera.fix_tf_stamp()
        until(lambda: sum(camera.update_pose(self.tree, base) for camera in self._cameras)
              == len(self._cameras), times.wait_tf_s)

    def camera_snapshots(self) -> tuple[CameraSnapshot, ...]:
        """Return what came of each."""
        return tuple(camera.snapshot() for camera in self._cameras)


def _decode_newest(make: Callable[[Any], Any], stream: TopicStream | None) -> Any:
    """Return what the newest message decodes to, or why it does not; None without one."""
    if stream is None or stream.newest is None:
        return None
    try:
        return make(stream.newest)
    except Rejected as rejected:
        return rejected


def _decode_depth_m(message: Any) -> Any:
    compressed = isinstance(message, CompressedImage)
    return (conversions.depth_m_from_compressed if compressed
            else conversions.depth_m_from_image)(message)


def _load_mask(config: CameraConfig) -> npt.NDArray[np.bool_] | ConfigError | None:
    try:
        return read_mask(config)
    except ConfigError as error:
        return error


MAX_WAIT_S = 10.0  # rarely, two processes take some seconds to find each other
REPLY_TIMEOUT_S = 3.0  # a node that is busy with starting answers later than others
SPIN_STEP_S = 0.05


def collect_snapshot(node: str, seconds: float, params: Path | None = None,
         max_wait_s: float = MAX_WAIT_S) -> Snapshot:
    """Return what was seen of a node and of all that it needs.

    params: take the parameters from this file, not from the node. The node is waited for, and
    what is missing after `seconds` too, for `patience_s` in all. Raises OSError or ValueError for a
    file or a name that will not do.
    """
    name = resolve_node_name(node)
    given = None if params is None else read_params_file(params, name)
    end_s = time.monotonic() + max_wait_s
    with ProbeSession() as visit:
        told = visit.query_node(name, max_wait_s)
        values = told.parameters if given is None else given
        watching = PassiveNode(visit.context, values or ())
        visit.add_node(watching)
        config = _read_config(watching) if values else None
        ears = _open_probe(watching, name, config)
        if isinstance(ears, ConfigError):
            config, ears = ears, _open_graph_probe(watching, name)
        since_ns = watching.get_clock().now().nanoseconds
        visit.spin_until(lambda: False, seconds)
        visit.spin_until(lambda: not ears.is_incomplete(told.state), end_s - time.monotonic())
        ears.wait_for_poses(visit.spin_until)
        return _assemble_snapshot(watching, name, told, config, ears, since_ns)


def _assemble_snapshot(node: PassiveNode, name: str, told: NodeReply, config: Config | ConfigError | None,
          ears: SystemProbe, since_ns: int) -> Snapshot:
    around = collect_graph_info(node)
    cameras = ears.camera_snapshots()
    expected = {s.topic: qos_profile_sensor_data for c in cameras for s in c.streams}
    is_crosspoint = told.parameters is None or bool(told.parameters)
    return Snapshot(
        NodeSnapshot(name, around.nodes.count(name), told.is_responding, told.state, is_crosspoint,
                 ears.matcher),
        around, config, bool(node.get_parameter('use_sim_time').value), cameras,
        find_qos_mismatches(node, name, expected), ears.tree.frames(), ears.clock.stream(), since_ns)


def _read_config(node: PassiveNode) -> Config | ConfigError:
    """Let the node's own code read the parameters, and say what it would not take."""
    try:
        return Parameters(node).read()
    except ConfigError as error:
        return error


def _open_probe(node: PassiveNode, name: str, config: Config | ConfigError | None) -> SystemProbe | ConfigError:
    if not isinstance(config, Config):
        return _open_graph_probe(node, name)
    try:
        return SystemProbe(node, name, config, _topic_resolver(name))
    except ConfigError as error:
        return error


def _open_graph_probe(node: PassiveNode, name: str) -> SystemProbe:
    return SystemProbe(node, name, None, _topic_resolver(name))


def _topic_resolver(node: str) -> Callable[[str], str]:
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


class ProbeSession:
    """A place on the graph, for as long as it is open."""

    def __init__(self) -> None:
        self.context = Context()
        # Ctrl-C stays with the program that uses this.
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[PassiveNode] = []

    def __enter__(self) -> ProbeSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        self.context.try_shutdown()

    def add_node(self, node: PassiveNode) -> None:
        """Let its callbacks run, and take it off the graph at the end."""
        self._nodes.append(node)
        self._executor.add_node(node)

    def query_node(self, name: str, patience_s: float) -> NodeReply:
        """Wait for the node, and return what it says of itself."""
        asking = PassiveNode(self.context)
        self.add_node(asking)
        question = NodeInfoClient(asking, name, self.spin_until)
        self.spin_until(question.is_ready, patience_s)
        return question.query(REPLY_TIMEOUT_S)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Let callbacks run until the condition holds, or so long; return whether it does."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left_s, SPIN_STEP_S))
        return True
