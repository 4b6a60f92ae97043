"""Two cameras over a plane, published over real DDS, and a node that looks through them."""
from __future__ import annotations

import array
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import numpy as np
import rclpy
from crosspoint_ros.msg import QueryResult
from domains import own_domains
from geometry_msgs.msg import PoseStamped, TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Intrinsics, Transform
from crosspoint_ros.ros.convert import message_from_transform, time_msg
from crosspoint_ros.ros.node import CrosspointNode
from crosspoint_ros.ros.outputs import LATCHED
from crosspoint_ros.ros.queries import Job

# Each rig has a domain of its own, so that what one leaves behind on the graph meets no other; that
# of the environment is for tests that start processes.
DOMAINS = cycle(d for d in own_domains() if d != int(os.environ['ROS_DOMAIN_ID']))
RUNNING: set[int] = set()  # the domains of rigs that run: there are not as many domains as tests
LENS = Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240)
EYES = {'front': (0.0, -0.6, 0.5), 'side': (0.35, -0.45, 0.5)}
DISCOVERY_S = 30.0


def looking_at(eye_base_m: tuple[float, float, float]) -> Transform:
    """The pose of a camera that looks at the base's origin."""
    forward = -np.array(eye_base_m) / np.linalg.norm(eye_base_m)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return Transform(np.stack([right, np.cross(forward, right), forward], axis=1),
                     np.array(eye_base_m))


POSES = {camera: looking_at(eye) for camera, eye in EYES.items()}


def plane_depth_m(base_from_cam: Transform) -> np.ndarray:
    """Depth (h, w) of the plane z = 0 of the base."""
    v, u = np.mgrid[:LENS.height_px, :LENS.width_px]
    rays = LENS.ray_cam(np.stack([u, v], axis=-1).astype(float))
    rays /= rays[..., 2:]
    return (-base_from_cam.t_m[2] / base_from_cam.direction(rays)[..., 2]).astype(np.float32)


def pixel_of(camera: str, point_base_m: tuple[float, float, float]) -> np.ndarray:
    """Where the camera shows a point."""
    return LENS.pixel(POSES[camera].inverse.point(point_base_m))


def image_message(stamp_ns: int, frame_id: str, encoding: str, pixels: np.ndarray) -> Image:
    """An image as drivers send it."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=pixels.strides[0])
    message.header.stamp, message.header.frame_id = time_msg(stamp_ns), frame_id
    message.data = array.array('B', pixels.tobytes())
    return message


def info_message(stamp_ns: int, frame_id: str, lens: Intrinsics = LENS) -> CameraInfo:
    """The lens as drivers send it."""
    message = CameraInfo(height=lens.height_px, width=lens.width_px,
                         distortion_model=lens.model, d=list(lens.distortion or (0.0,) * 5),
                         k=lens.matrix.ravel(), r=np.eye(3).ravel(),
                         p=np.hstack([lens.matrix, np.zeros((3, 1))]).ravel())
    message.header.stamp, message.header.frame_id = time_msg(stamp_ns), frame_id
    return message


class Cameras(Node):
    """Publishes images, depth, lens and pose of the cameras."""

    def __init__(self, context: Context) -> None:
        super().__init__('rig', context=context)
        self.images = {c: self.create_publisher(Image, f'/{c}/color/image_raw',
                                                qos_profile_sensor_data) for c in EYES}
        self.depths = {c: self.create_publisher(Image, f'/{c}/depth', qos_profile_sensor_data)
                       for c in EYES}
        self.infos = {c: self.create_publisher(CameraInfo, f'/{c}/color/camera_info',
                                               qos_profile_sensor_data) for c in EYES}
        self.tf = self.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
        texture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
        self.pictures = {c: image_message(0, f'{c}_optical', 'rgb8', texture) for c in EYES}
        self.depth_images = {
            c: image_message(0, f'{c}_optical', '32FC1', plane_depth_m(POSES[c])) for c in EYES}

    def now_ns(self) -> int:
        """The clock of the rig."""
        return int(self.get_clock().now().nanoseconds)

    def send_image(self, camera: str, stamp_ns: int, **changed: Any) -> None:
        """Send a picture, with any field changed."""
        message = self.pictures[camera]
        if changed:
            message = Image(**{f: changed.get(f, getattr(message, f)) for f in (
                'header', 'height', 'width', 'encoding', 'is_bigendian', 'step', 'data')})
        message.header.stamp = time_msg(stamp_ns)
        message.header.frame_id = f'{camera}_optical'
        self.images[camera].publish(message)

    def send_depth(self, camera: str, stamp_ns: int) -> None:
        """Send the plane's depth."""
        self.depth_images[camera].header.stamp = time_msg(stamp_ns)
        self.depths[camera].publish(self.depth_images[camera])

    def send_info(self, camera: str, stamp_ns: int, lens: Intrinsics = LENS) -> None:
        """Send the lens."""
        self.infos[camera].publish(info_message(stamp_ns, f'{camera}_optical', lens))

    def send_uncalibrated(self, camera: str, stamp_ns: int) -> None:
        """Send what drivers send before a calibration: zeros."""
        message = info_message(stamp_ns, f'{camera}_optical')
        message.k, message.p = np.zeros(9), np.zeros(12)
        self.infos[camera].publish(message)

    def send_tf(self, stamp_ns: int, poses: dict[str, Transform] = POSES) -> None:
        """Send the poses."""
        self.tf.publish(TFMessage(transforms=[
            _stamped(stamp_ns, 'base_link', f'{c}_optical', pose) for c, pose in poses.items()]))

    def send_loop(self, stamp_ns: int) -> None:
        """Send poses that hang on each other instead of on the base."""
        self.tf.publish(TFMessage(transforms=[
            _stamped(stamp_ns, 'side_optical', 'front_optical', POSES['front']),
            _stamped(stamp_ns, 'front_optical', 'side_optical', POSES['side'])]))

    def send_all(self, stamp_ns: int | None = None) -> int:
        """Send everything at one stamp, and return it."""
        stamp_ns = self.now_ns() if stamp_ns is None else stamp_ns
        self.send_tf(stamp_ns)
        for camera in EYES:
            self.send_info(camera, stamp_ns)
            self.send_depth(camera, stamp_ns)
            self.send_image(camera, stamp_ns)
        return stamp_ns


def _stamped(stamp_ns: int, parent: str, child: str, pose: Transform) -> TransformStamped:
    message = TransformStamped(child_frame_id=child, transform=message_from_transform(pose))
    message.header.stamp, message.header.frame_id = time_msg(stamp_ns), parent
    return message


class Rig:
    """The cameras, the node under test in a thread of its own, and all its results."""

    def __init__(self, context: Context, node: CrosspointNode,
                 spinning: SingleThreadedExecutor, domain: int) -> None:
        self.context, self.node, self._spinning, self.domain = context, node, spinning, domain
        self.cameras = Cameras(context)
        self.results: list[QueryResult] = []
        self.targets: list[PoseStamped] = []
        # Deep: two at once must not become one, or nobody could tell.
        deep = QoSProfile(depth=100, durability=LATCHED.durability)
        self.cameras.create_subscription(QueryResult, '/crosspoint/result', self.results.append,
                                         deep)
        self.cameras.create_subscription(PoseStamped, '/crosspoint/grasp_target',
                                         self.targets.append, deep)
        self.ticks = 0  # one each 0.1 s, the period at which the node broadcasts its target
        self.cameras.create_timer(0.1, self._count)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.cameras)

    def _count(self) -> None:
        self.ticks += 1

    def until(self, condition: Callable[[], Any], timeout_s: float = DISCOVERY_S,
              what: str = '') -> Any:
        """Spin until the condition holds; fail with its name when it does not."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            found = condition()
            if found:
                return found
            self.executor.spin_once(timeout_sec=0.02)
        raise AssertionError(f'not within {timeout_s} s: {what or condition}')

    def on_executor(self, work: Callable[[], Any]) -> Any:
        """Run something where the node's own callbacks run, and return what it returned."""
        task = self._spinning.create_task(work)
        self.until(task.done, what='the executor of the node')
        return task.result()

    def open_jobs(self) -> list[Job]:
        """The queries that the node works on."""
        return self.node._server._thread.open_jobs

    def discover(self) -> None:
        """Wait until the node sees the rig's topics, and the rig the node's."""
        publishers = [*self.cameras.images.values(), *self.cameras.depths.values(),
                      *self.cameras.infos.values(), self.cameras.tf]
        self.until(lambda: all(p.get_subscription_count() for p in publishers), what='discovery')
        self.until(lambda: self.cameras.count_publishers('/crosspoint/result')
                   and self.cameras.count_publishers('/crosspoint/grasp_target'), what='results')

    def remembered(self, stamp_ns: int, cameras: tuple[str, ...] = tuple(EYES)) -> None:
        """Wait until the node has the frames of that stamp, which best effort may lose: resend."""
        frames = [self.node._server.cameras[c].frames for c in cameras]

        def here() -> bool:
            if all(f.newest_ns() == stamp_ns and f.ready(stamp_ns) for f in frames):
                return True
            self.cameras.send_all(stamp_ns)
            return False

        self.until(here, what=f'frames of {stamp_ns}')

    def show(self) -> int:
        """Let the node see a new frame of every camera, and return its stamp."""
        stamp_ns = self.cameras.now_ns()
        self.remembered(stamp_ns)
        return stamp_ns

    def next_result(self, earlier: int = 0, timeout_s: float = DISCOVERY_S) -> QueryResult:
        """Wait for the result after so many earlier ones."""
        return self.until(lambda: self.results[earlier:] and self.results[earlier], timeout_s,
                          'a result')


@contextmanager
def running(start: bool = True, namespace: str = '', domain: int | None = None,
            cli_args: list[str] | None = None, **parameters: Any) -> Iterator[Rig]:
    """Run a node with these parameters (`__` for `.`) over the rig; stop all of it at the end."""
    domain = next(d for d in DOMAINS if d not in RUNNING) if domain is None else domain
    RUNNING.add(domain)
    given: dict[str, Any] = {
        'cameras': list(EYES), 'base_frame': 'base_link', 'front.depth_topic': '/front/depth',
        'side.depth_topic': '/side/depth', 'matcher': 'doubles:ExactMatcher',
        **{name.replace('__', '.'): value for name, value in parameters.items()}}
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = CrosspointNode(context=context, namespace=namespace, cli_args=cli_args,
                          parameter_overrides=[
        Parameter(name, value=value) for name, value in given.items() if value is not None])
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stopped = threading.Event()
    thread = threading.Thread(target=_spin, args=(executor, stopped), daemon=True)
    rig = Rig(context, node, executor, domain)
    if start:
        node.start()
    thread.start()
    try:
        yield rig
    finally:
        RUNNING.discard(domain)
        stopped.set()
        thread.join(timeout=5.0)
        node.stop()
        node.close()
        rig.executor.shutdown()
        executor.shutdown()
        node.destroy_node()
        rig.cameras.destroy_node()
        rclpy.try_shutdown(context=context)
        # An executor remembers what its tasks returned: queries, and through them the node.
        del node, executor, rig.node, rig.cameras, rig.executor, rig._spinning
        gc.collect()  # rclpy's cycles: leave no participant for a later test to end
    assert not thread.is_alive(), 'the executor was held up'


def _spin(executor: SingleThreadedExecutor, stopped: threading.Event) -> None:
    while not stopped.is_set():
        executor.spin_once(timeout_sec=0.1)
