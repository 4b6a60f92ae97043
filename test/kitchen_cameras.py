"""The built-in kitchen as camera drivers would send it: time goes on, only the wrist moves.

The recording itself, played in a loop, jumps back in time every 5.8 s, and a jump ends a history.
Run as a program: `kitchen_cameras.py [--still]`. Each stamp tells which moment its image is of.
"""
from __future__ import annotations

import sys

import rclpy
import rclpy.serialization
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from crosspoint_ros.bench.recording import Moment, Recording
from crosspoint_ros.ros.convert import message_from_transform, time_msg
from crosspoint_ros.scenes import KITCHEN

PERIOD_S = 0.2
PAUSE_MOMENTS = 5  # the wrist stays so long at each place, so that a click has time
RECORDING = Recording(KITCHEN)
MOMENTS = RECORDING.moments
FIRST = {camera: min(m for m in MOMENTS if m.camera == camera)
         for camera in ('front', 'side', 'wrist')}


def stamp_for(now_ns: int, moment: Moment) -> int:
    """A stamp whose last six digits are the moment's number."""
    return now_ns - now_ns % 1_000_000 + MOMENTS.index(moment)


def moment_of(stamp_ns: int) -> Moment:
    """The moment that an image with that stamp is of."""
    return MOMENTS[stamp_ns % 1_000_000]


class KitchenCameras(Node):
    """Publishes images, depths, lenses and poses of the three cameras."""

    def __init__(self, still: bool) -> None:
        super().__init__('kitchen_cameras')
        self._wrist = [FIRST['wrist']] if still else [m for m in MOMENTS if m.camera == 'wrist']
        self._messages = _messages_by_moment()
        self._beat = 0
        self._topics = {}
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._tf = self.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
        static = self.create_publisher(TFMessage, '/tf_static', latched)
        static.publish(TFMessage(transforms=[
            self._pose(FIRST[camera], 0) for camera in ('front', 'side')]))
        self.create_timer(PERIOD_S, self._send)

    def _pose(self, moment: Moment, stamp_ns: int) -> TransformStamped:
        frame = self._messages[moment]['/color/image_raw/compressed'].header.frame_id
        pose = TransformStamped(child_frame_id=frame, transform=message_from_transform(
            RECORDING.base_from_cam[moment]))
        pose.header.frame_id, pose.header.stamp = 'base_link', time_msg(stamp_ns)
        return pose

    def _send(self) -> None:
        self._beat += 1
        there = (self._beat // PAUSE_MOMENTS) % len(self._wrist)
        now_ns = self.get_clock().now().nanoseconds
        for moment in (FIRST['front'], FIRST['side'], self._wrist[there]):
            stamp_ns = stamp_for(now_ns, moment)
            if moment.camera == 'wrist':
                self._tf.publish(TFMessage(transforms=[self._pose(moment, stamp_ns)]))
            for topic, message in self._messages[moment].items():
                message.header.stamp = time_msg(stamp_ns)
                self._publisher(f'/{moment.camera}{topic}', type(message)).publish(message)

    def _publisher(self, topic, kind):
        if topic not in self._topics:
            self._topics[topic] = self.create_publisher(kind, topic, qos_profile_sensor_data)
        return self._topics[topic]


def _messages_by_moment() -> dict:
    """Each moment's messages by the rest of their topic, as rclpy's own types."""
    kinds = {'sensor_msgs/msg/CompressedImage': CompressedImage,
             'sensor_msgs/msg/CameraInfo': CameraInfo}
    found: dict = {moment: {} for moment in MOMENTS}
    with AnyReader([KITCHEN]) as reader:
        for connection, _, raw in reader.messages():
            if connection.msgtype in kinds:
                message = rclpy.serialization.deserialize_message(
                    bytes(raw), kinds[connection.msgtype])
                _, camera, rest = connection.topic.split('/', 2)
                stamp = message.header.stamp
                moment = Moment(camera, stamp.sec * 10**9 + stamp.nanosec)
                if moment in found:
                    found[moment][f'/{rest}'] = message
    return found


def main() -> int:
    """Publish until the end."""
    rclpy.init(args=sys.argv)
    try:
        rclpy.spin(KitchenCameras('--still' in sys.argv))
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        return 0
    return 0


if __name__ == '__main__':
    sys.exit(main())
