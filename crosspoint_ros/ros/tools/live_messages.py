"""Streams TF and all cameras' messages from the graph, without a crosspoint node."""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from crosspoint_ros.data.calibration.frames import TF, TF_STATIC, find_camera_topics
from crosspoint_ros.data.rosbag import INFO
from crosspoint_ros.ros.client.session import RosSession
from crosspoint_ros.ros.tools.live_camera import DISCOVERY_S, TYPES, check_seconds, wait_for_types

MESSAGE_TYPES = {**TYPES, INFO: CameraInfo}
MAX_QUEUED = 200  # older messages are dropped
POLL_S = 0.02
Messages = Iterator[tuple[str, Any]]


def open_live(camera: str, seconds: float) -> tuple[dict[str, str], Callable[[set[str]], Messages]]:
    """Return the topics and types of the graph, and what iterates over messages for that long.

    Raises ValueError if the camera is not found in ten seconds, or `seconds` is out of range.
    """
    check_seconds(seconds)
    session = RosSession()
    try:
        node = session.create_node('crosspoint_calibrate')
        types = wait_for_types(session, node, partial(find_camera_topics, target=camera),
                               DISCOVERY_S)
    except BaseException:
        session.close()
        raise
    return types, lambda topics: _iter_messages(session, node, types, topics, seconds)


def _iter_messages(session: RosSession, node: Node, types: dict[str, str], topics: set[str],
                   seconds: float) -> Messages:
    received: deque[tuple[str, Any]] = deque(maxlen=MAX_QUEUED)
    transforms: deque[tuple[str, Any]] = deque()  # small, and none may be lost

    def on_message(topic: str, message: Any) -> None:
        (transforms if topic in (TF, TF_STATIC) else received).append((topic, message))

    stopped = threading.Event()
    spinner = threading.Thread(target=session.spin_until, args=(stopped.is_set, 2 * seconds + 60),
                               daemon=True)
    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    try:
        for topic in topics:
            kind = TFMessage if topic in (TF, TF_STATIC) else MESSAGE_TYPES[types[topic]]
            qos = latched if topic == TF_STATIC else QoSProfile(depth=1000) if topic == TF \
                else qos_profile_sensor_data
            node.create_subscription(kind, topic, partial(on_message, topic), qos)
        # TF must not wait while images are matched: a gap in it would be interpolated.
        spinner.start()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            while transforms or received:
                yield (transforms or received).popleft()
            time.sleep(POLL_S)
    finally:
        stopped.set()
        if spinner.is_alive():
            spinner.join()
        session.close()
