"""A robot with many cameras, most of them with one fault, published over real DDS."""
from __future__ import annotations

import array
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rig import LENS, image_message, info_message, looking_at
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Intrinsics
from crosspoint_ros.ros.convert import message_from_transform, time_msg

PERIOD_S = 0.2
SIM_NS = 1000 * 10**9  # what /clock says when it begins
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
GREY = np.full((LENS.height_px, LENS.width_px, 3), 128, np.uint8)
DEPTH_MM = np.full((LENS.height_px, LENS.width_px), 700, np.uint16)


@dataclass(frozen=True)
class Ailment:
    """What a camera does otherwise than a good one. None for a topic: it is not published."""

    image: str | None = '{name}/color/image_raw'
    image_type: type = Image
    sends: bool = True
    every: int = 1  # only each n-th image is sent; its camera info always is
    whole_every: int = 1  # the same for both
    shift_s: float = 0.0  # of the stamps
    sim_time: bool = False
    unstamped: bool = False
    encoding: str = 'rgb8'
    info: str = 'good'  # 'blank', 'warped', 'small'
    depth: np.ndarray | None = None
    depth_encoding: str = '16UC1'
    depth_frame: str = ''
    depth_shift_s: float = 0.0
    frame: str | None = None  # the frame_id; None: <name>_optical
    tf: str = 'static'  # 'none', 'old'
    place: int = 0  # its own where 0
    image_publishers: int = 1


class Camera:
    """Publishes one camera with its ailment."""

    def __init__(self, node: Node, other: Node, name: str, number: int, ailment: Ailment) -> None:
        self.name, self.ailment, self._node = name, ailment, node
        self.frame = f'{name}_optical' if ailment.frame is None else ailment.frame
        self.pose = looking_at((0.02 * (ailment.place or number), -0.5, 0.5))
        self._ticks = number  # so that not all are sent at once
        publish = qos_profile_sensor_data
        self._image: Publisher | None = None
        if ailment.image is not None:
            topic = '/' + ailment.image.format(name=name)
            self._image = node.create_publisher(ailment.image_type, topic, publish)
            for _ in range(ailment.image_publishers - 1):
                other.create_publisher(ailment.image_type, topic, publish)
        self._info = node.create_publisher(CameraInfo, f'/{name}/color/camera_info', publish)
        self._depth = None if ailment.depth is None else node.create_publisher(
            Image, f'/{name}/depth', publish)

    def send(self, now_ns: int, sim_ns: int) -> None:
        """Send one of each."""
        a = self.ailment
        self._ticks += 1
        if not a.sends or self._ticks % a.whole_every:
            return
        stamp_ns = 0 if a.unstamped else (sim_ns if a.sim_time else now_ns) + int(a.shift_s * 1e9)
        self._info.publish(self._lens(stamp_ns))
        if self._image is not None and self._ticks % a.every == 0:
            self._image.publish(self._picture(stamp_ns))
        if self._depth is not None:
            self._depth.publish(image_message(stamp_ns + int(a.depth_shift_s * 1e9),
                                              a.depth_frame or self.frame, a.depth_encoding,
                                              a.depth))

    def _picture(self, stamp_ns: int) -> Any:
        if self.ailment.image_type is Image:
            return image_message(stamp_ns, self.frame, self.ailment.encoding, GREY)
        message = CompressedImage(format='rgb8; jpeg compressed bgr8')
        message.header.stamp, message.header.frame_id = time_msg(stamp_ns), self.frame
        message.data = array.array('B', cv2.imencode('.jpg', GREY)[1].tobytes())
        return message

    def _lens(self, stamp_ns: int) -> CameraInfo:
        small = Intrinsics(150.0, 150.0, 79.5, 59.5, 160, 120)
        lens = small if self.ailment.info == 'small' else LENS
        message = info_message(stamp_ns, self.frame, lens)
        if self.ailment.info == 'blank':
            message.k, message.p = np.zeros(9), np.zeros(12)
        if self.ailment.info == 'warped':
            message.distortion_model = 'barrel_of_my_own'
        return message

    def transform(self, stamp_ns: int) -> TransformStamped:
        """Its pose in the base."""
        message = TransformStamped(child_frame_id=self.frame,
                                   transform=message_from_transform(self.pose))
        message.header.stamp, message.header.frame_id = time_msg(stamp_ns), 'base_link'
        return message


class Ward:
    """All cameras, their TF and a /clock, from two nodes of one name."""

    def __init__(self, domain: int, ailments: dict[str, Ailment]) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('ward', context=self._context)
        self.other = rclpy.create_node('ward', context=self._context)
        self._cameras = [Camera(self.node, self.other, name, number, ailment)
                         for number, (name, ailment) in enumerate(ailments.items())]
        self._static = self.node.create_publisher(TFMessage, '/tf_static', LATCHED)
        self._static.publish(TFMessage(transforms=[
            c.transform(0) for c in self._cameras if c.ailment.tf == 'static' and c.frame]))
        self._tf = self.node.create_publisher(TFMessage, '/tf', 10)
        self._clock = self.node.create_publisher(Clock, '/clock', 10)
        self._begun_s = time.monotonic()
        self._kept: list[Publisher] = []
        self.node.create_timer(PERIOD_S, self._send)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def careless(self) -> None:
        """Let the other node send TF as nobody can take it."""
        self._kept += [
            self.other.create_publisher(TFMessage, '/tf_static', 10),
            self.other.create_publisher(TFMessage, '/tf', QoSProfile(
                depth=10, reliability=ReliabilityPolicy.BEST_EFFORT))]

    def _send(self) -> None:
        now_ns = self.node.get_clock().now().nanoseconds
        sim_ns = SIM_NS + int((time.monotonic() - self._begun_s) * 1e9)
        self._clock.publish(Clock(clock=time_msg(sim_ns)))
        old = [c.transform(now_ns - 5 * 10**9) for c in self._cameras if c.ailment.tf == 'old']
        if old:
            self._tf.publish(TFMessage(transforms=old))
        for camera in self._cameras:
            camera.send(now_ns, sim_ns)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self.node)
        with suppress(ExternalShutdownException):
            executor.spin()

    def close(self) -> None:
        """Leave the graph."""
        rclpy.try_shutdown(context=self._context)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        self.other.destroy_node()


@contextmanager
def ward(domain: int, ailments: dict[str, Ailment]) -> Iterator[Ward]:
    """Run it for a while."""
    open_ward = Ward(domain, ailments)
    open_ward.start()
    try:
        yield open_ward
    finally:
        open_ward.close()
