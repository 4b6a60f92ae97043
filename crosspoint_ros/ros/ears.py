"""Listens to a camera's topics, TF, the clock and the diagnostics, and keeps what came."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from crosspoint_ros.core.datatypes import Rejected, Transform
from crosspoint_ros.ros import assemble, convert
from crosspoint_ros.ros.asking import Until
from crosspoint_ros.ros.assemble import Source
from crosspoint_ros.ros.cameras import image_type, read_mask, source_of
from crosspoint_ros.ros.config import CameraConfig, Config, ConfigError
from crosspoint_ros.ros.convert import stamp_ns
from crosspoint_ros.ros.graph import publishers
from crosspoint_ros.ros.onlooker import Onlooker
from crosspoint_ros.ros.seen import Arrival, CameraSeen, Stream, frame_of
from crosspoint_ros.ros.transforms import Tree, loop, make_tree

# Best effort and volatile takes from whoever sends.
TAKES_ALL = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class Ear:
    """Listens to one topic as the node does."""

    def __init__(self, node: Onlooker, parameter: str, topic: str, kind: type) -> None:
        self._node, self._parameter, self.topic = node, parameter, topic
        self._type = f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'
        self._arrivals: list[Arrival] = []
        self.newest: Any = None
        node.create_subscription(kind, topic, self._take, qos_profile_sensor_data)

    def _take(self, message: Any) -> None:
        stamp: Time = message.clock if isinstance(message, Clock) else message.header.stamp
        self._arrivals.append(Arrival(stamp_ns(stamp), self._now_ns()))
        self.newest = message

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def stream(self) -> Stream:
        """Return what came, and from whom."""
        found = publishers(self._node, self.topic)
        return Stream(self._parameter, self.topic, self._type,
                      tuple(p for p in found if p.type == self._type),
                      tuple(p for p in found if p.type != self._type),
                      tuple(self._arrivals), self.newest, self._now_ns())


class CameraEars:
    """Listens to the topics of one camera."""

    def __init__(self, node: Onlooker, config: CameraConfig, source: Source) -> None:
        self.config, self.source = config, source
        name, kind = config.name, image_type(config)
        self.image = Ear(node, f'{name}.image_topic', source.image_topic, kind)
        self.info = Ear(node, f'{name}.info_topic', source.info_topic, CameraInfo)
        self.depth = Ear(node, f'{name}.depth_topic', source.depth_topic, kind) \
            if source.depth_topic else None
        self.pose: Transform | None = None
        self._posed_ns = 0

    @property
    def complete(self) -> bool:
        """Tell whether something came on each topic."""
        return all(ear.newest is not None
                   for ear in (self.image, self.info, self.depth) if ear is not None)

    def freeze(self) -> None:
        """Choose the moment at which its pose is asked for."""
        newest = self.image.newest
        self._posed_ns = stamp_ns(newest.header.stamp) if newest is not None else 0

    def posed(self, tree: Tree, base: str) -> bool:
        """Look for its pose at that moment; tell whether looking again cannot help."""
        links, frame = tree.links(), frame_of(self.image.newest, self.info.newest)
        if not self._posed_ns or not frame:
            return True
        if self.pose is None and not (loop(links, frame) or loop(links, base)):
            self.pose = tree.find(base.lstrip('/'), frame, self._posed_ns)
        return self.pose is not None

    def seen(self) -> CameraSeen:
        """Return what came, decoded."""
        image, info = self.image.stream(), self.info.stream()
        depth = None if self.depth is None else self.depth.stream()
        return CameraSeen(
            self.config, self.source, image, info, depth,
            picture=_made(lambda message: assemble.rgb(self.source, message), image),
            lens=_made(lambda message: convert.intrinsics_from_info(
                message, self.source.rectified), info),
            depth_m=_made(_depth_m, depth), mask=_mask(self.config), base_from_cam=self.pose,
            posed_ns=self._posed_ns)


class Ears:
    """Listens to all that a node needs."""

    def __init__(self, node: Onlooker, name: str, config: Config | None,
                 resolve: Callable[[str], str]) -> None:
        """Subscribe; `config` None: to what concerns no camera. `resolve`: names of topics."""
        self._config, self._matcher_name = config, f'{name}: matcher'
        self.tree: Tree = make_tree(node)
        self.clock = Ear(node, 'use_sim_time', '/clock', Clock)
        self.matcher: tuple[bytes, str] | None = None
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, TAKES_ALL)
        self._cameras = [CameraEars(node, camera, source_of(camera, resolve))
                         for camera in (config.cameras if config else ())]
        self._sim_time = bool(node.get_parameter('use_sim_time').value)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._matcher_name:
                self.matcher = status.level, status.message

    def missing(self, state: str) -> bool:
        """Tell whether something has yet to come, from a node in this state of its life cycle."""
        return not (all(camera.complete for camera in self._cameras)
                    and (self.matcher is not None or state in ('', 'unconfigured'))
                    and (self.clock.newest is not None or not self._sim_time))

    def keep_poses(self, until: Until) -> None:
        """Look each camera up at the stamp of its newest image, as long as the node would wait."""
        if self._config is None:
            return
        base, times = self._config.base_frame, self._config.times
        for camera in self._cameras:
            camera.freeze()
        until(lambda: sum(camera.posed(self.tree, base) for camera in self._cameras)
              == len(self._cameras), times.wait_tf_s)

    def cameras(self) -> tuple[CameraSeen, ...]:
        """Return what came of each."""
        return tuple(camera.seen() for camera in self._cameras)


def _made(make: Callable[[Any], Any], stream: Stream | None) -> Any:
    """Return what the newest message decodes to, or why it does not; None without one."""
    if stream is None or stream.newest is None:
        return None
    try:
        return make(stream.newest)
    except Rejected as rejected:
        return rejected


def _depth_m(message: Any) -> Any:
    compressed = isinstance(message, CompressedImage)
    return (convert.depth_m_from_compressed if compressed
            else convert.depth_m_from_image)(message)


def _mask(config: CameraConfig) -> npt.NDArray[np.bool_] | ConfigError | None:
    try:
        return read_mask(config)
    except ConfigError as error:
        return error
