"""The node as a process, and a client that publishes what the cameras of a world see."""
from __future__ import annotations

import tempfile
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from crosspoint_ros.bench.node.cli import CROSSPOINT_NODE, format_camera_parameters, start_process
from crosspoint_ros.bench.node.synthetic_cameras import make_image
from crosspoint_ros.bench.pick.grasp import Answer
from crosspoint_ros.bench.pick.world import CAMERAS, PickWorld, Shot
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.grasp.approach import Approach, ApproachMode
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.msg import QueryResult, TargetShape, TargetState
from crosspoint_ros.ros.client.client import LATCHED_QOS, Client
from crosspoint_ros.ros.conversions import time_from_ns, transform_to_msg

DEPTH_SIGMA_PER_M = 0.002  # of a depth of 1 m; it grows with the square
MAX_DEPTH_M = 5.0
START_TIMEOUT_S, SHAPE_S, STATE_S = 60.0, 10.0, 2.0
IDENTITY = Transform(np.eye(3), np.zeros(3))
FROM_ABOVE = Approach(ApproachMode.FROM_ABOVE)
FRAMES, FRAME_S = 3, 0.15  # before a click, so that the node has the newest and its poses


class PickRig:
    """Publishes the cameras of a world, clicks, and returns what the node answers."""

    def __init__(self, world: PickWorld, *parameters: str) -> None:
        """Start the node; world: its gripper's mask, the file `mask`, is the wrist camera's."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.mask = mask = folder / 'gripper.png'
            covered = (world.shoot('wrist').things == -2).astype(np.uint8)
            write_image(mask, 255 * cv2.dilate(covered, np.ones((9, 9), np.uint8)))
            self._node = start_process(
                stack, folder, CROSSPOINT_NODE, 'base_frame:=base_link',
                *format_camera_parameters(CAMERAS), f'wrist.mask_path:={mask}', 'yaw:=shape',
                *parameters)
            self._client = stack.enter_context(Client())
            node = self._client.create_node('pick_cameras')
            self._tf = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
            self._clock = node.get_clock()
            self._topics = {
                (camera, topic): node.create_publisher(kind, f'/{camera}/{topic}',
                                                       qos_profile_sensor_data)
                for camera in CAMERAS for topic, kind in (
                    ('color/image_raw', Image), ('aligned_depth_to_color/image_raw', Image),
                    ('color/camera_info', CameraInfo))}
            self._targets: dict[str, TargetState] = {}
            self._shapes: list[TargetShape] = []
            node.create_subscription(TargetShape, '/crosspoint/target_shape', self._shapes.append,
                                     LATCHED_QOS)
            self._client.wait_until_active(START_TIMEOUT_S, self._node.check)
            self._stack = stack.pop_all()

    def __enter__(self) -> PickRig:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._stack.close()

    def show(self, world: PickWorld, shots: dict[str, Shot], error: dict[str, Transform],
             rng: np.random.Generator) -> int:
        """Publish what a still world shows; return the stamp of the newest images, ns.

        error: by camera, what its published pose is wrong by, in its own frame.
        """
        stamp_ns = 0
        for _ in range(FRAMES):
            stamp_ns = self.publish(world, shots, error, rng)
            self.spin_for(FRAME_S)
        return stamp_ns

    def click(self, camera: str, pixel: tuple[float, float], stamp_ns: int) -> Answer:
        """Click in a camera's image; return the answer and the thing."""
        result = self._client.click(camera, pixel, stamp_ns=stamp_ns, approach=FROM_ABOVE)
        return self.wait_for_shape(result) if result.has_target else Answer(result, None)

    def wait_for_shape(self, result: QueryResult) -> Answer:
        """Return an answer that has a target, with its thing."""
        self._client.spin_until(lambda: self._has_shape(result), SHAPE_S)
        return Answer.from_messages(result, self._shapes[-1]) if self._has_shape(result) else (
            Answer(result, None, f'no shape within {SHAPE_S:g} s'))

    def collect_results(self) -> deque[QueryResult]:
        """Return a queue to which the results of all clients are added while this one spins."""
        results: deque[QueryResult] = deque()
        self._client.subscribe_targets(self._targets.update)
        # rclpy inspects a callback, and a deque's own methods have no signature.
        self._client.subscribe_results(lambda result: results.append(result))
        return results

    def explain_invalid(self, result: QueryResult) -> str:
        """Return why an arm must not go to the target of a result; '' if it may."""
        self._client.spin_until(lambda: self._get_state(result) is not None, STATE_S)
        state = self._get_state(result)
        if state is None:
            return 'another target has taken its place, or it was cleared'
        return '' if state.valid else state.message

    def _get_state(self, result: QueryResult) -> TargetState | None:
        state = self._targets.get(result.target.name)
        return state if state is not None and state.query_id == result.query_id else None

    def spin_for(self, seconds: float) -> None:
        """Receive messages, and raise `ProcessExited` if the node has died."""
        self._client.spin_for(seconds)
        self._node.check()

    def _has_shape(self, result: QueryResult) -> bool:
        return bool(self._shapes) and self._shapes[-1].query_id == result.query_id

    def publish(self, world: PickWorld, shots: dict[str, Shot], error: dict[str, Transform],
                rng: np.random.Generator) -> int:
        """Publish the images and the poses of now; return their stamp, ns."""
        stamp_ns: int = self._clock.now().nanoseconds
        stamp = time_from_ns(stamp_ns)
        poses = []
        for parent, child, parent_from_child in world.list_frames():
            off = error.get(child.removesuffix('_optical'), IDENTITY)
            pose = TransformStamped(child_frame_id=child,
                                    transform=transform_to_msg(parent_from_child @ off))
            pose.header.stamp, pose.header.frame_id = stamp, parent
            poses.append(pose)
        self._tf.publish(TFMessage(transforms=poses))
        for camera in CAMERAS:
            for topic, message in _make_messages(world, camera, shots[camera], rng).items():
                message.header.stamp, message.header.frame_id = stamp, f'{camera}_optical'
                self._topics[camera, topic].publish(message)
        return stamp_ns


def _make_messages(world: PickWorld, camera: str, shot: Shot, rng: np.random.Generator
                   ) -> dict[str, Any]:
    lens, depth_m = world.get_lens(camera), shot.depth_m
    noisy_m = depth_m + DEPTH_SIGMA_PER_M * depth_m ** 2 * rng.normal(size=depth_m.shape)
    depth_mm = np.where(depth_m < MAX_DEPTH_M, 1000 * noisy_m, 0).round().astype(np.uint16)
    return {'color/image_raw': make_image('rgb8', shot.image),
            'aligned_depth_to_color/image_raw': make_image('16UC1', depth_mm),
            'color/camera_info': CameraInfo(
                width=lens.width_px, height=lens.height_px, distortion_model='plumb_bob',
                d=[0.0] * 5, k=list(lens.matrix.ravel()))}
