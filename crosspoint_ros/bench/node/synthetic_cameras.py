"""Publishes synthetic RGB-D cameras that face a plane: a load for benchmarks."""
from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.scenes import KITCHEN

DEPTH_MM = 700
BASELINE_M = 0.2


class SyntheticCameras(Node):
    """Parameters: cameras, width, height, rate_hz, kitchen (true: a kitchen image, not noise)."""

    def __init__(self, **options: Any) -> None:
        super().__init__('synthetic_cameras', **options)
        names: list[str] = self.declare_parameter('cameras', ['front', 'side']).value
        width: int = self.declare_parameter('width', 1280).value
        height: int = self.declare_parameter('height', 720).value
        rate_hz: float = self.declare_parameter('rate_hz', 30.0).value
        kitchen: bool = self.declare_parameter('kitchen', False).value
        self._camera_messages = make_camera_messages(width, height, kitchen)
        self._camera_publishers = {name: self._create_publishers(name) for name in names}
        self._tf = self._create_tf_publisher()
        self._tf.publish(self._make_poses(self.get_clock().now().to_msg()))
        self.create_timer(1.0 / rate_hz, self._publish)

    def _create_tf_publisher(self) -> Publisher:
        return self.create_publisher(TFMessage, '/tf_static', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))

    def _create_publishers(self, name: str) -> list[Publisher]:
        topics = ((Image, 'color/image_raw'), (Image, 'aligned_depth_to_color/image_raw'),
                  (CameraInfo, 'color/camera_info'))
        return [self.create_publisher(kind, f'/{name}/{topic}', qos_profile_sensor_data)
                for kind, topic in topics]

    def _make_poses(self, stamp: Time) -> TFMessage:
        poses = []
        for index, name in enumerate(self._camera_publishers):
            poses.append(TransformStamped(header=Header(stamp=stamp, frame_id='base_link'),
                                          child_frame_id=f'{name}_optical'))
            poses[-1].transform.translation.x = index * BASELINE_M
        return TFMessage(transforms=poses)

    def _publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for name, publishers in self._camera_publishers.items():
            for publisher, message in zip(publishers, self._camera_messages, strict=True):
                message.header.stamp, message.header.frame_id = stamp, f'{name}_optical'
                publisher.publish(message)


def make_camera_messages(width: int, height: int, kitchen: bool = True, depth_mm: int = DEPTH_MM
                         ) -> tuple[Image, Image, CameraInfo]:
    """Return image, depth and camera info of a camera that faces a plane."""
    if kitchen:  # a natural image: noise takes three times as long to compress
        scene = KnownScene(KITCHEN)
        pattern = cv2.resize(scene.read_view(scene.frames[0]).image, (width, height))
    else:
        pattern = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return (make_image('rgb8', pattern),
            make_image('16UC1', np.full((height, width), depth_mm, np.uint16)),
            CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5, k=[
                0.7 * width, 0.0, width / 2, 0.0, 0.7 * width, height / 2, 0.0, 0.0, 1.0]))


def make_image(encoding: str, pixels: np.ndarray) -> Image:
    """Return an image message without a header."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=pixels.strides[0])
    message.data = array.array('B', pixels.tobytes())
    return message


def main(args: list[str] | None = None) -> int:
    """Publish until SIGINT or SIGTERM."""
    rclpy.init(args=args)
    try:
        rclpy.spin(SyntheticCameras())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
