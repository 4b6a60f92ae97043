"""Records topics from DDS into a rosbag2, as `ros2 bag record` does where there is a distro."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

MSG = Path(__file__).resolve().parents[1] / 'msg'
TF = 'geometry_msgs/TransformStamped[] transforms'


class Recording:
    """Subscribes with a node, and writes what came."""

    def __init__(self, node: Node, topics: dict[str, type]) -> None:
        self._node, self._topics = node, topics
        self._came: list[tuple[str, int, bytes]] = []
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, kind in topics.items():
            qos = latched if topic.endswith('result') else qos_profile_sensor_data
            node.create_subscription(kind, topic, partial(self._take, topic), qos, raw=True)

    def _take(self, topic: str, data: bytes) -> None:
        self._came.append((topic, self._node.get_clock().now().nanoseconds, data))

    def count(self, topic: str) -> int:
        """How many came on a topic."""
        return sum(one == topic for one, _, _ in self._came)

    def write(self, path: Path, keep: Callable[[str], bool] = lambda topic: True) -> Path:
        """Write the bag; `keep` chooses topics."""
        store = _types()
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            connections = {topic: writer.add_connection(topic, _name(kind), typestore=store)
                           for topic, kind in self._topics.items() if keep(topic)}
            for topic, at_ns, data in self._came:
                if topic in connections:
                    writer.write(connections[topic], at_ns, data)
        return path


def with_click(path: Path, bag: Path, topic: str, click: PointStamped, at_ns: int) -> Path:
    """Write the messages of a bag again, and a click among them."""
    store = _types()
    with AnyReader([bag]) as reader, Writer(
            path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
                       for c in reader.connections}
        for connection, stamp_ns, data in reader.messages():
            writer.write(connections[connection.topic], stamp_ns, data)
        clicks = writer.add_connection(topic, _name(PointStamped), typestore=store)
        writer.write(clicks, at_ns, serialize_message(click))
    return path


def _name(kind: type) -> str:
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def _types() -> Any:
    store = get_typestore(Stores.ROS2_HUMBLE)
    found: dict[str, Any] = {}
    if 'tf2_msgs/msg/TFMessage' not in store.types:
        found |= get_types_from_msg(TF, 'tf2_msgs/msg/TFMessage')
    for file in MSG.glob('*.msg'):
        found |= get_types_from_msg(file.read_text(), f'crosspoint_ros/msg/{file.stem}')
    store.register(found)
    return store
