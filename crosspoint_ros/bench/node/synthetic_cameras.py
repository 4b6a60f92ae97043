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
        super().__init__('test_pattern')
        names: list[str] = self.declare_parameter('cameras', ['front', 'side']).value
        self._width: int = self.declare_parameter('width', 1280).value
        self._height: int = self.declare_parameter('height', 720).value
        rate_hz: float = self.declare_parameter('rate_hz', 30.0).value
        kitchen: bool = self.declare_parameter('kitchen', False).value
        pattern = (_load_kitchen if kitchen else _draw_noise)(self._width, self._height)
        depth_mm = np.full((self._height, self._width), DEPTH_MM, np.uint16)
        self._colour = self._make_image('rgb8', pattern.astype(np.uint8))
        self._depth = self._make_image('16UC1', depth_mm)
        self._cameras = [self._create_publishers(name) for name in names]
        self._tf_static = self.create_publisher(TFMessage, '/tf_static', QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self._tf_static.publish(TFMessage(transforms=[
            self._make_pose(index, name) for index, name in enumerate(names)]))
        self.create_timer(1.0 / rate_hz, self._publish)

    def _create_publishers(self, name: str) -> tuple[str, Publisher, Publisher, Publisher]:
        topics = ((Image, 'color/image_raw'), (Image, 'aligned_depth_to_color/image_raw'),
                  (CameraInfo, 'color/camera_info'))
        image, depth, info = (self.create_publisher(kind, f'/{name}/{topic}',
                                                    qos_profile_sensor_data)
                              for kind, topic in topics)
        return name, image, depth, info

    def _make_image(self, encoding: str, pixels: np.ndarray) -> Image:
        message = Image(height=self._height, width=self._width, encoding=encoding,
                        step=pixels.strides[0])
        message.data = array.array('B', pixels.tobytes())
        return message

    def _make_info(self) -> CameraInfo:
        focal_px = 0.7 * self._width
        k = [focal_px, 0.0, self._width / 2, 0.0, focal_px, self._height / 2, 0.0, 0.0, 1.0]
        return CameraInfo(width=self._width, height=self._height, distortion_model='plumb_bob',
                          d=[0.0] * 5, k=k)

    def _make_pose(self, index: int, name: str) -> TransformStamped:
        pose = TransformStamped(child_frame_id=f'{name}_optical')
        pose.header.stamp, pose.header.frame_id = self.get_clock().now().to_msg(), 'base_link'
        pose.transform.translation.x = index * BASELINE_M
        return pose

    def _publish(self) -> None:
        stamp = self.get_clock().now().to_msg()
        for name, image, depth, info in self._cameras:
            for publisher, message in ((image, self._colour), (depth, self._depth),
                                       (info, self._make_info())):
                message.header.stamp, message.header.frame_id = stamp, f'{name}_optical'
                publisher.publish(message)


def _draw_noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3))


def _load_kitchen(width: int, height: int) -> np.ndarray:
    """Return a natural image: noise takes three times as long to compress."""
    scene = KnownScene(KITCHEN)
    return cv2.resize(scene.read_view(scene.frames[0]).image, (width, height))


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
