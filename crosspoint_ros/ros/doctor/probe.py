"""Observes a node, its cameras' topics, TF and the graph for a few seconds, publishing nothing."""
from __future__ import annotations

import importlib.util
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
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
from rclpy.utilities import get_rmw_implementation_identifier
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Empty

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.tf_tree import TfTree, explain_failure, find_loop, stamp_to_ns
from crosspoint_ros.data.view_consistency import find_disagreements
from crosspoint_ros.ros.camera_checks import MessageFault, ViewMessages, build_view, list_faults
from crosspoint_ros.ros.client.node_info import (
    NodeInfoClient,
    NodeReply,
    SpinUntil,
    read_params_files,
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
)
from crosspoint_ros.ros.node.camera import (
    TopicFeed,
    get_depth_type,
    get_image_type,
    load_mask,
    resolve_topics,
)
from crosspoint_ros.ros.node.twins import ALIVE_QOS, SubscriptionEventCallbacks
from crosspoint_ros.ros.process import TRANSPORT_VARIABLES
from crosspoint_ros.ros.tf import make_tree

DOCTOR_NODE = 'crosspoint_doctor'
MAX_WAIT_S = 10.0  # two processes may need seconds to discover each other
REPLY_TIMEOUT_S = 3.0  # a node that is starting replies late
RECENT_MESSAGES = 10
# Best effort and volatile is compatible with every publisher.
ANY_PUBLISHER_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
TF_QOS = {'/tf': QoSProfile(depth=100),
          '/tf_static': QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)}


def collect_snapshot(node: str, seconds: float, params: Sequence[Path] = (),
                     max_wait_s: float = MAX_WAIT_S) -> Snapshot:
    """Listen for `seconds`, and for what is missing then for `max_wait_s` in all.

    params: read the parameters from these files instead of asking the node. Raises OSError or
    ValueError for a file or a node name that cannot be used.
    """
    name = resolve_node_name(node)
    values = tuple(read_params_files(params, name).values()) if params else None
    end_s = time.monotonic() + max_wait_s
    with RosSession() as session:
        client = NodeInfoClient(session.add_node(PassiveNode(session.context)), name)
        session.spin_until(client.is_discovered, max_wait_s)
        reply = client.query(session.spin_until, REPLY_TIMEOUT_S)
        values = reply.parameters if values is None else values
        passive = session.add_node(PassiveNode(session.context, values or (),
                                               name.rpartition('/')[0]))
        config: Config | ConfigError | None = None
        try:
            config = Parameters(passive).read() if values else None
            probe = SystemProbe(passive, name, config)
        except ConfigError as error:
            config, probe = error, SystemProbe(passive, name, None)
        start_ns = passive.get_clock().now().nanoseconds
        session.spin_until(probe.subscribe_again, seconds)
        session.spin_until(lambda: probe.is_complete(reply.state), end_s - time.monotonic())
        probe.wait_for_poses(session.spin_until)
        return _assemble_snapshot(probe, name, reply, config, start_ns)


def _assemble_snapshot(probe: SystemProbe, name: str, reply: NodeReply,
                       config: Config | ConfigError | None, start_ns: int) -> Snapshot:
    graph = collect_graph_info(probe.node)
    cameras = tuple(camera.snapshot(probe.tree) for camera in probe.cameras)
    views = [camera.view for camera in cameras if camera.view is not None]
    expected = {s.topic: qos_profile_sensor_data for c in cameras for s in c.streams}
    is_crosspoint = reply.parameters is None or bool(reply.parameters)
    return Snapshot(
        NodeSnapshot(name, graph.nodes.count(name) - probe.dead_count, reply.is_responding,
                     reply.state, is_crosspoint, probe.matcher,
                     tuple(sorted(probe.moved_mounts.items()))),
        graph, config, probe.use_sim_time, cameras,
        find_qos_mismatches(probe.node, name, expected), probe.tree.frames(),
        probe.tree.conflicts(), tuple(find_disagreements(views)), probe.clock.stream(), start_ns)


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

    def __init__(self, context: Context, parameters: Sequence[Parameter] = (),
                 namespace: str = '') -> None:
        """parameters: values for the node to declare, `use_sim_time` among them."""
        # Where rclpy offers a service with its types, this switches it off.
        quiet = [Parameter('start_type_description_service', value=False)] * bool(
            importlib.util.find_spec('rclpy.type_description_service'))
        super().__init__(DOCTOR_NODE, context=context, namespace=namespace,
                         use_global_arguments=False, enable_rosout=False,
                         start_parameter_services=False,
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
        self.recent: deque[Any] = deque(maxlen=RECENT_MESSAGES)
        self._feed = TopicFeed(node, kind, topic, self._on_message)

    @property
    def newest(self) -> Any:
        """The newest message; None without any."""
        return self.recent[-1] if self.recent else None

    def find_nearest(self, message: Any) -> Any:
        """Return the recent message whose stamp is nearest to that of another; None without any."""
        return min(self.recent, default=None, key=partial(_measure_gap_ns, message))

    def _on_message(self, message: Any) -> None:
        stamp = message.clock if isinstance(message, Clock) else message.header.stamp
        self._arrivals.append(Arrival(stamp_to_ns(stamp), self._now_ns()))
        self.recent.append(message)

    def subscribe_again(self) -> None:
        """Take what the publishers offer while nothing has arrived, as the node does.

        So what a driver sent once, latched, before we listened, arrives too.
        """
        if self.newest is None:
            self._feed.update()

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


def _measure_gap_ns(a: Any, b: Any) -> int:
    return abs(stamp_to_ns(a.header.stamp) - stamp_to_ns(b.header.stamp))


class CameraProbe:
    """Subscribes to the topics of one camera."""

    def __init__(self, node: PassiveNode, config: CameraConfig,
                 resolve: Callable[[str], str]) -> None:
        name = config.name
        self.config, self.topics = config, resolve_topics(config, resolve)
        self.image = TopicProbe(node, f'{name}.image_topic', self.topics.image_topic,
                                get_image_type(config))
        self.info = TopicProbe(node, f'{name}.info_topic', self.topics.info_topic, CameraInfo)
        self.depth = TopicProbe(node, f'{name}.depth_topic', self.topics.depth_topic,
                                get_depth_type(config)) if self.topics.depth_topic else None
        self.depth_info = TopicProbe(node, f'{name}.depth_info_topic', self.topics.depth_info_topic,
                                     CameraInfo) if self.topics.depth_info_topic else None
        self._mask, self._mask_error = _load_mask(config)
        self._image: Any = None
        self._base_from_cam: Transform | None = None
        self._tf_conflict = ''

    @property
    def probes(self) -> tuple[TopicProbe, ...]:
        """Its topics."""
        return tuple(filter(None, (self.image, self.info, self.depth, self.depth_info)))

    @property
    def is_complete(self) -> bool:
        """Whether something arrived on each topic."""
        return all(probe.newest is not None for probe in self.probes)

    def choose_image(self, max_lag_s: float) -> None:
        """Choose the image whose pose is looked up: the newest that has depth."""
        def has_depth(image: Any) -> bool:
            depth = self.depth and self.depth.find_nearest(image)
            return depth is not None and _measure_gap_ns(image, depth) <= max_lag_s * 1e9
        self._image = next(filter(has_depth, reversed(self.image.recent)), self.image.newest)

    def update_pose(self, tree: TfTree, base: str) -> bool:
        """Look the pose up at its stamp; return False while another attempt may help."""
        frames, frame, stamp_ns = tree.frames(), self._messages.frame_id, self._tf_stamp_ns
        if not stamp_ns or not frame:
            return True
        if self._base_from_cam is None and not (find_loop(frames, frame)
                                                or find_loop(frames, base)):
            self._base_from_cam = tree.lookup(base, frame, stamp_ns)
            self._tf_conflict = tree.explain_conflict(base, frame, stamp_ns)
        return self._base_from_cam is not None or bool(self._tf_conflict)

    @property
    def _tf_stamp_ns(self) -> int:
        return 0 if self._image is None else stamp_to_ns(self._image.header.stamp)

    @cached_property
    def _messages(self) -> ViewMessages:
        """The messages of the chosen view, decoded."""
        image = self._image
        depth = self.depth and (self.depth.newest if image is None
                                else self.depth.find_nearest(image))
        return ViewMessages.decode(self.topics, image, self.info.newest, depth,
                                   self.depth_info and self.depth_info.newest, self._mask)

    def snapshot(self, tree: TfTree) -> CameraSnapshot:
        """Return what arrived, decoded."""
        view, fault = None, None
        if None not in (self._image, self.info.newest):
            try:
                view = build_view(self._messages, partial(_lookup, tree))
            except MessageFault as refused:
                known = {each.finding for each in list_faults(self._messages)}
                fault = None if refused.finding in known else refused
        return CameraSnapshot(
            self.config, self.image.stream(), self.info.stream(),
            self.depth.stream() if self.depth else None,
            self.depth_info.stream() if self.depth_info else None,
            self._messages, fault, self._mask_error,
            view and replace(view, base_from_cam=self._base_from_cam),
            self._base_from_cam, self._tf_stamp_ns, self._tf_conflict)


def _lookup(tree: TfTree, target: str, source: str, stamp_ns: int) -> Transform:
    """Return target_from_source for the registration of depth. Raises `Rejected` (NO_TF)."""
    found = tree.lookup(target, source, stamp_ns)
    if found is None:
        raise Rejected(Code.NO_TF, f'no transform from {source!r} to {target!r}: '
                       f'{explain_failure(tree.frames(), target, source, stamp_ns)}')
    return found


def _load_mask(config: CameraConfig
               ) -> tuple[npt.NDArray[np.bool_] | None, ConfigError | None]:
    try:
        return load_mask(config), None
    except ConfigError as error:
        return None, error


class SystemProbe:
    """Subscribes to everything that the node needs; without a config, to nothing of cameras."""

    def __init__(self, node: PassiveNode, name: str, config: Config | None) -> None:
        """Subscribe. Raises ConfigError for an invalid topic name."""
        self.node, self._config, self._matcher_name = (
            node, config, f'{name.lstrip("/")}: matcher')
        self.cameras = [CameraProbe(node, camera, lambda topic: resolve_topic(topic, name))
                        for camera in (config.cameras if config else ())]
        self.tree: TfTree = make_tree(node)
        self.clock = TopicProbe(node, 'use_sim_time', '/clock', Clock)
        self.use_sim_time = bool(node.get_parameter('use_sim_time').value)
        self.matcher: tuple[bytes, str] | None = None
        self._mount_prefix = f'{name.lstrip("/")}: mount '
        self.moved_mounts: dict[str, str] = {}
        self.dead_count = 0  # nodes of that name that were killed and are not yet off the graph
        node.create_subscription(
            Empty, f'{name}/_alive', lambda message: None, ALIVE_QOS,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_liveliness))
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics,
                                 ANY_PUBLISHER_QOS)

    def _on_liveliness(self, event: Any) -> None:
        self.dead_count = event.not_alive_count

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._matcher_name:
                self.matcher = status.level, status.message
            elif status.name.startswith(self._mount_prefix):
                camera = status.name[len(self._mount_prefix):]
                self.moved_mounts.pop(camera, None)
                if status.level != DiagnosticStatus.OK:
                    self.moved_mounts[camera] = status.message

    def subscribe_again(self) -> bool:
        """Take what publishers offer on topics where nothing has arrived; return False."""
        for camera in self.cameras:
            for probe in camera.probes:
                probe.subscribe_again()
        return False

    def is_complete(self, state: str) -> bool:
        """Whether everything arrived that a node in this lifecycle state should have."""
        self.subscribe_again()
        return (all(camera.is_complete for camera in self.cameras)
                and (self.matcher is not None or state in ('', 'unconfigured'))
                and (self.clock.newest is not None or not self.use_sim_time))

    def wait_for_poses(self, spin_until: SpinUntil) -> None:
        """Look each camera up at the stamp of its newest image, as long as the node would wait."""
        if self._config is None or not self._config.use_tf:
            return
        base = self._config.base_frame.lstrip('/')
        for camera in self.cameras:
            camera.choose_image(self._config.times.max_depth_lag_s)
        spin_until(lambda: sum(camera.update_pose(self.tree, base) for camera in self.cameras)
                   == len(self.cameras), self._config.times.wait_tf_s)


# --- graph ----------------------------------------------------------------------------------------

def collect_graph_info(node: Node) -> GraphInfo:
    """Return the other nodes, all topics, and this process's middleware settings."""
    names = [f'{space.rstrip("/")}/{name}' for name, space in node.get_node_names_and_namespaces()]
    transport = next((f'{variable}={os.environ[variable]}' for variable in TRANSPORT_VARIABLES
                      if os.environ.get(variable, 'DEFAULT') not in ('', 'DEFAULT')), '')
    return GraphInfo(
        tuple(sorted(name for name in names if not name.endswith(f'/{DOCTOR_NODE}'))),
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


def _get_node_name(info: Any) -> str:  # TopicEndpointInfo, whose module Lyrical renamed
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
