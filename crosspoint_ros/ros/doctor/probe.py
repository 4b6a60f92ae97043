"""Observes a node, its cameras' topics, TF and the graph for a few seconds, publishing nothing."""
from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo

from crosspoint_ros.core.datatypes import Rejected, Transform
from crosspoint_ros.core.tf_tree import find_loop, stamp_to_ns
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.client.node_info import (
    NodeInfoClient,
    NodeReply,
    SpinUntil,
    read_params_file,
    resolve_topic,
)
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError, Parameters
from crosspoint_ros.ros.doctor.snapshot import (
    Arrival,
    CameraSnapshot,
    GraphInfo,
    NodeSnapshot,
    PublisherInfo,
    QosMismatch,
    Snapshot,
    TopicStream,
    select_frame_id,
)
from crosspoint_ros.ros.node.camera import get_image_type, load_mask, resolve_topics
from crosspoint_ros.ros.tf import TransformTree, make_tree

DOCTOR_NODE = 'crosspoint_doctor'
MAX_WAIT_S = 10.0  # two processes may need seconds to discover each other
REPLY_TIMEOUT_S = 3.0  # a node that is starting replies late
# Best effort and volatile is compatible with every publisher.
ANY_PUBLISHER_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
TF_QOS = {'/tf': QoSProfile(depth=100),
          '/tf_static': QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)}
TRANSPORT_VARIABLES = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
                       'FASTRTPS_DEFAULT_PROFILES_FILE')


def collect_snapshot(node: str, seconds: float, params: Path | None = None,
                     max_wait_s: float = MAX_WAIT_S) -> Snapshot:
    """Listen for `seconds`, and for what is missing then for `max_wait_s` in all.

    params: read the parameters from this file instead of asking the node. Raises OSError or
    ValueError for a file or a node name that cannot be used.
    """
    name = resolve_node_name(node)
    values = None if params is None else tuple(read_params_file(params, name).values())
    end_s = time.monotonic() + max_wait_s
    with RosSession() as session:
        client = NodeInfoClient(session.add_node(PassiveNode(session.context)), name)
        session.spin_until(client.is_discovered, max_wait_s)
        reply = client.query(session.spin_until, REPLY_TIMEOUT_S)
        values = reply.parameters if values is None else values
        passive = session.add_node(PassiveNode(session.context, values or ()))
        config: Config | ConfigError | None = None
        try:
            config = Parameters(passive).read() if values else None
            probe = SystemProbe(passive, name, config)
        except ConfigError as error:
            config, probe = error, SystemProbe(passive, name, None)
        start_ns = passive.get_clock().now().nanoseconds
        session.spin_for(seconds)
        session.spin_until(lambda: probe.is_complete(reply.state), end_s - time.monotonic())
        probe.wait_for_poses(session.spin_until)
        return _assemble_snapshot(probe, name, reply, config, start_ns)


def _assemble_snapshot(probe: SystemProbe, name: str, reply: NodeReply,
                       config: Config | ConfigError | None, start_ns: int) -> Snapshot:
    graph = collect_graph_info(probe.node)
    cameras = tuple(camera.snapshot() for camera in probe.cameras)
    expected = {s.topic: qos_profile_sensor_data for c in cameras for s in c.streams}
    is_crosspoint = reply.parameters is None or bool(reply.parameters)
    return Snapshot(
        NodeSnapshot(name, graph.nodes.count(name), reply.is_responding, reply.state,
                     is_crosspoint, probe.matcher),
        graph, config, probe.use_sim_time, cameras,
        find_qos_mismatches(probe.node, name, expected), probe.tree.frames(),
        probe.clock.stream(), start_ns)


def resolve_node_name(name: str) -> str:
    """Return the name with its leading slash. Raises ValueError if it is invalid."""
    full = '/' + name.strip('/')
    try:
        validate_full_topic_name(full)
    except NameValidationException as error:
        raise ValueError(f'invalid node name {name!r}: {error}') from error
    return full


# --- topics ---------------------------------------------------------------------------------------

class PassiveNode(Node):
    """A node with subscriptions and service clients only: no publisher, service or action."""

    def __init__(self, context: Context, parameters: Sequence[Parameter] = ()) -> None:
        """parameters: values for the node to declare, `use_sim_time` among them."""
        # Where rclpy offers a service with its types, this switches it off.
        quiet = [Parameter('start_type_description_service', value=False)] * bool(
            importlib.util.find_spec('rclpy.type_description_service'))
        super().__init__(DOCTOR_NODE, context=context, use_global_arguments=False,
                         enable_rosout=False, start_parameter_services=False,
                         parameter_overrides=[*parameters, *quiet])

    def create_publisher(self, *args: Any, **options: Any) -> Any:
        """Return a stand-in for the publisher of /parameter_events, which rclpy insists on."""
        return NullPublisher()


class NullPublisher:
    """Drops what is published."""

    def publish(self, message: object) -> None:
        """Drop it."""


class TopicProbe:
    """Subscribes to one topic as the node does."""

    def __init__(self, node: PassiveNode, parameter: str, topic: str, kind: type) -> None:
        self._node, self._parameter, self.topic = node, parameter, topic
        self._type = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
        self._arrivals: list[Arrival] = []
        self.newest: Any = None
        node.create_subscription(kind, topic, self._on_message, qos_profile_sensor_data)

    def _on_message(self, message: Any) -> None:
        stamp = message.clock if isinstance(message, Clock) else message.header.stamp
        self._arrivals.append(Arrival(stamp_to_ns(stamp), self._now_ns()))
        self.newest = message

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def stream(self) -> TopicStream:
        """Return what arrived, and who publishes."""
        publishers = [PublisherInfo(_get_node_name(info), info.topic_type)
                      for info in self._node.get_publishers_info_by_topic(self.topic)]
        return TopicStream(self._parameter, self.topic, self._type,
                           tuple(p for p in publishers if p.type == self._type),
                           tuple(p for p in publishers if p.type != self._type),
                           tuple(self._arrivals), self.newest, self._now_ns())


class CameraProbe:
    """Subscribes to the topics of one camera."""

    def __init__(self, node: PassiveNode, config: CameraConfig,
                 resolve: Callable[[str], str]) -> None:
        name, kind = config.name, get_image_type(config)
        self.config, self.topics = config, resolve_topics(config, resolve)
        self.image = TopicProbe(node, f'{name}.image_topic', self.topics.image_topic, kind)
        self.info = TopicProbe(node, f'{name}.info_topic', self.topics.info_topic, CameraInfo)
        self.depth = TopicProbe(node, f'{name}.depth_topic', self.topics.depth_topic, kind) \
            if self.topics.depth_topic else None
        self.base_from_cam: Transform | None = None
        self._tf_stamp_ns = 0

    @property
    def is_complete(self) -> bool:
        """Whether something arrived on each topic."""
        return all(probe.newest is not None
                   for probe in (self.image, self.info, self.depth) if probe is not None)

    def fix_tf_stamp(self) -> None:
        """Choose the stamp of the newest image for the look-up of the pose."""
        newest = self.image.newest
        self._tf_stamp_ns = stamp_to_ns(newest.header.stamp) if newest is not None else 0

    def update_pose(self, tree: TransformTree, base: str) -> bool:
        """Look the pose up at that stamp; return False while another attempt may help."""
        frames, frame = tree.frames(), select_frame_id(self.image.newest, self.info.newest)
        if not self._tf_stamp_ns or not frame:
            return True
        if self.base_from_cam is None and not (find_loop(frames, frame)
                                               or find_loop(frames, base)):
            self.base_from_cam = tree.lookup(base.lstrip('/'), frame, self._tf_stamp_ns)
        return self.base_from_cam is not None

    def snapshot(self) -> CameraSnapshot:
        """Return what arrived, decoded."""
        return CameraSnapshot(
            self.config, self.image.stream(), self.info.stream(),
            self.depth.stream() if self.depth else None,
            rgb=_decode_newest(self.image, lambda message: conversions.decode_rgb(
                self.topics, message)),
            intrinsics=_decode_newest(self.info, lambda message: conversions.intrinsics_from_info(
                message, self.topics.rectified)),
            depth_m=_decode_newest(self.depth, conversions.depth_m_from_msg),
            mask=_load_mask(self.config), base_from_cam=self.base_from_cam,
            tf_stamp_ns=self._tf_stamp_ns)


def _decode_newest(probe: TopicProbe | None, decode: Callable[[Any], Any]) -> Any:
    """Return what the newest message decodes to, or its rejection; None without one."""
    if probe is None or probe.newest is None:
        return None
    try:
        return decode(probe.newest)
    except Rejected as rejected:
        return rejected


def _load_mask(config: CameraConfig) -> npt.NDArray[np.bool_] | ConfigError | None:
    try:
        return load_mask(config)
    except ConfigError as error:
        return error


class SystemProbe:
    """Subscribes to everything that the node needs; without a config, to nothing of cameras."""

    def __init__(self, node: PassiveNode, name: str, config: Config | None) -> None:
        """Subscribe. Raises ConfigError for an invalid topic name."""
        self.node, self._config, self._matcher_name = node, config, f'{name}: matcher'
        self.cameras = [CameraProbe(node, camera, lambda topic: resolve_topic(topic, name))
                        for camera in (config.cameras if config else ())]
        self.tree: TransformTree = make_tree(node)
        self.clock = TopicProbe(node, 'use_sim_time', '/clock', Clock)
        self.use_sim_time = bool(node.get_parameter('use_sim_time').value)
        self.matcher: tuple[bytes, str] | None = None
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                 ANY_PUBLISHER_QOS)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._matcher_name:
                self.matcher = status.level, status.message

    def is_complete(self, state: str) -> bool:
        """Whether everything arrived that a node in this lifecycle state should have."""
        return (all(camera.is_complete for camera in self.cameras)
                and (self.matcher is not None or state in ('', 'unconfigured'))
                and (self.clock.newest is not None or not self.use_sim_time))

    def wait_for_poses(self, spin_until: SpinUntil) -> None:
        """Look each camera up at the stamp of its newest image, as long as the node would wait."""
        if self._config is None:
            return
        base = self._config.base_frame
        for camera in self.cameras:
            camera.fix_tf_stamp()
        spin_until(lambda: sum(camera.update_pose(self.tree, base) for camera in self.cameras)
                   == len(self.cameras), self._config.times.wait_tf_s)


# --- graph ----------------------------------------------------------------------------------------

def collect_graph_info(node: Node) -> GraphInfo:
    """Return the other nodes, all topics, and this process's middleware settings."""
    names = [f'{space.rstrip("/")}/{name}' for name, space in node.get_node_names_and_namespaces()]
    transport = next((f'{variable}={os.environ[variable]}' for variable in TRANSPORT_VARIABLES
                      if os.environ.get(variable, 'DEFAULT') not in ('', 'DEFAULT')), '')
    return GraphInfo(
        tuple(sorted(name for name in names if name != f'/{DOCTOR_NODE}')),
        {topic: tuple(types) for topic, types in node.get_topic_names_and_types()},
        node.context.get_domain_id(), get_rmw_implementation_identifier(), transport)


def find_qos_mismatches(node: Node, name: str, expected: Mapping[str, QoSProfile]
                        ) -> tuple[QosMismatch, ...]:
    """Return the publishers from which the node `name` receives nothing because of their QoS.

    Its subscriptions are read from the graph; `expected` are those it would have if it ran.
    """
    subscriptions = {topic: info.qos_profile
                     for topic, _ in node.get_topic_names_and_types()
                     for info in node.get_subscriptions_info_by_topic(topic)
                     if _get_node_name(info) == name}
    return tuple(
        QosMismatch(topic, _get_node_name(info), reason)
        for topic, qos in sorted({**TF_QOS, **expected, **subscriptions}.items())
        for info in node.get_publishers_info_by_topic(topic)
        if (reason := _explain_incompatibility(info.qos_profile, qos)))


def _explain_incompatibility(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Return why nothing gets through; '' if it does."""
    compatibility, reason = qos_check_compatible(publisher, subscription)
    if compatibility != QoSCompatibility.ERROR:
        return ''
    reasons = []
    if (publisher.reliability, subscription.reliability) == (
            ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        reasons.append('it offers best effort, reliable is requested')
    if (publisher.durability, subscription.durability) == (
            DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL):
        reasons.append('it offers volatile, transient local (latched) is requested')
    return '; '.join(reasons) or str(reason)


def _get_node_name(info: TopicEndpointInfo) -> str:
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
