"""Who is on the ROS graph, what they publish and how, as far as one process can see."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier
from rclpy.validate_full_topic_name import validate_full_topic_name

from crosspoint_ros.ros.doctor.snapshot import GraphInfo, PublisherInfo, QosMismatch

DOCTOR_NODE = 'crosspoint_doctor'

TF_QOS = {'/tf': QoSProfile(depth=100),
          '/tf_static': QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)}


def resolve_node_name(name: str) -> str:
    """Return the name with its leading slash. Raises ValueError if it cannot be one."""
    full = '/' + name.strip('/')
    try:
        validate_full_topic_name(full)
    except NameValidationException as error:
        raise ValueError(f'{name!r} is no name of a node: {error}') from error
    return full


def collect_graph_info(node: Node) -> GraphInfo:
    """Return the other nodes, all topics, and what this process was told about its transport."""
    named = [f'{space.rstrip("/")}/{name}' for name, space in node.get_node_names_and_namespaces()]
    return GraphInfo(
        tuple(sorted(name for name in named if name != f'/{DOCTOR_NODE}')),
        {topic: tuple(types) for topic, types in node.get_topic_names_and_types()},
        node.context.get_domain_id(), get_rmw_implementation_identifier(), _transport_setting())


def list_publishers(node: Node, topic: str) -> tuple[PublisherInfo, ...]:
    """Return who publishes on a topic."""
    return tuple(
        PublisherInfo(_node_name(info), info.topic_type,
                  info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT,
                  info.qos_profile.durability == DurabilityPolicy.VOLATILE)
        for info in node.get_publishers_info_by_topic(topic))


def find_qos_mismatches(node: Node, name: str, expected: Mapping[str, QoSProfile]) -> tuple[QosMismatch, ...]:
    """Return the publishers from which the node `name` takes nothing for their QoS.

    What the node subscribes to is read from the graph; `expected` is what it would, were it there.
    """
    wanted = {**TF_QOS, **expected, **_subscription_qos(node, name)}
    return tuple(
        QosMismatch(topic, _node_name(info), reason)
        for topic, qos in sorted(wanted.items())
        for info in node.get_publishers_info_by_topic(topic)
        if (reason := _explain_incompatibility(info.qos_profile, qos)))


def _subscription_qos(node: Node, name: str) -> dict[str, QoSProfile]:
    return {topic: info.qos_profile
            for topic, _ in node.get_topic_names_and_types()
            for info in node.get_subscriptions_info_by_topic(topic) if _node_name(info) == name}


def _explain_incompatibility(publisher: QoSProfile, subscription: QoSProfile) -> str:
    compatibility, reason = qos_check_compatible(publisher, subscription)
    return _describe_qos(publisher, subscription) or str(reason) \
        if compatibility == QoSCompatibility.ERROR else ''


def _describe_qos(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Say it in the words of the QoS, where it is one of the usual two."""
    reasons = []
    if (publisher.reliability, subscription.reliability) == (
            ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        reasons.append('it sends best effort, reliable is asked for')
    if (publisher.durability, subscription.durability) == (
            DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL):
        reasons.append('it sends volatile, transient local (latched) is asked for')
    return '; '.join(reasons)


def _node_name(info: TopicEndpointInfo) -> str:
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def _transport_setting() -> str:
    """Return how this process was told to send large messages; '' for Fast DDS's default."""
    chosen: Iterable[str] = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
                             'FASTRTPS_DEFAULT_PROFILES_FILE')
    return next((f'{variable}={os.environ[variable]}' for variable in chosen
                 if os.environ.get(variable, 'DEFAULT') not in ('', 'DEFAULT')), '')
