"""Publishes synthetic RGB-D cameras that face a plane: a load for benchmarks."""
from __future__ import annotations

import array
import sys

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.scenes import KITCHEN

DEPTH_MM = 700
BASELINE_M = 0.2


class SyntheticCameras(Node):
    """Parameters: cameras, width, height, rate_hz, kitchen (true: a kitchen image, not noise)."""

    def __init__(self) -> None:
        super().__init__('synthetic_cameras')
        names: list[str] = self.declare_parameter('cameras', ['front', 'side']).value
        width: int = self.declare_parameter('width', 1280).value
        height: int = self.declare_parameter('height', 720).value
        rate_hz: float = self.declare_parameter('rate_hz', 30.0).value
        kitchen: bool = self.declare_parameter('kitchen', False).value
        if kitchen:  # a natural image: noise takes three times as long to compress
            scene = KnownScene(KITCHEN)
            pattern = cv2.resize(scene.read_view(scene.frames[0]).image, (width, height))
        else:
            pattern = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
        self._camera_messages = (
            self._make_image('rgb8', pattern),
            self._make_image('16UC1', np.full((height, width), DEPTH_MM, np.uint16)),
            CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5, k=[
                0.7 * width, 0.0, width / 2, 0.0, 0.7 * width, height / 2, 0.0, 0.0, 1.0]))
        self._camera_publishers = {name: self._create_publishers(name) for name in names}
        self._tf_static = self.create_publisher(TFMessage, '/tf_static', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self._tf_static.publish(TFMessage(transforms=[
            self._make_pose(index, name) for index, name in enumerate(names)]))
        self.create_timer(1.0 / rate_hz, self._publish)

    def _create_publishers(self, name: str) -> list[Publisher]:
        topics = ((Image, 'color/image_raw'), (Image, 'aligned_depth_to_color/image_raw'),
                  (CameraInfo, 'color/camera_info'))
        return [self.create_publisher(kind, f'/{name}/{topic}', qos_profile_sensor_data)
                for kind, topic in topics]

    def _make_image(self, encoding: str, pixels: np.ndarray) -> Image:
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                        step=pixels.strides[0])
        message.data = array.array('B', pixels.tobytes())
        return message

    def _make_pose(self, index: int, name: str) -> TransformStamped:
        pose = TransformStamped(child_frame_id=f'{name}_optical')
        pose.header.stamp, pose.header.frame_id = self.get_clock().now().to_msg(), 'base_link'
        pose.transform.translation.x = index * BASELINE_M
        return pose

    def _publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for name, publishers in self._camera_publishers.items():
            for publisher, message in zip(publishers, self._camera_messages, strict=True):
                message.header.stamp, message.header.frame_id = stamp, f'{name}_optical'
                publisher.publish(message)


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
