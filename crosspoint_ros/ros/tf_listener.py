"""TF without tf2_ros: a small listener on /tf and /tf_static, by tf2's own rules."""
from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.convert import stamp_ns, transform_from_msg
from crosspoint_ros.ros.transforms import Link, Rewind

BUFFER_NS = 10 * 10**9


@dataclass
class Track:
    """One frame's transforms to its parent, by stamp."""

    static: bool
    stamps_ns: list[int] = field(default_factory=list)
    links: list[tuple[str, Transform]] = field(default_factory=list)  # parent, parent_from_child

    def add(self, at_ns: int, parent: str, parent_from_child: Transform) -> None:
        """Keep a transform; drop what is more than ten seconds older than the newest."""
        if self.static:
            self.stamps_ns, self.links = [at_ns], [(parent, parent_from_child)]
            return
        place = bisect_left(self.stamps_ns, at_ns)
        same = self.stamps_ns[place:place + 1] == [at_ns]
        self.stamps_ns[place:place + same] = [at_ns]
        self.links[place:place + same] = [(parent, parent_from_child)]
        kept = bisect_left(self.stamps_ns, self.stamps_ns[-1] - BUFFER_NS)
        del self.stamps_ns[:kept], self.links[:kept]

    def at(self, at_ns: int) -> tuple[str, Transform] | None:
        """Return parent and parent_from_child at a stamp; None where that would extrapolate."""
        if self.static:
            return self.links[-1]
        after = bisect_left(self.stamps_ns, at_ns)
        if self.stamps_ns[after:after + 1] == [at_ns]:
            return self.links[after]
        if after in (0, len(self.stamps_ns)):
            return None
        (parent, before), (later_parent, later) = self.links[after - 1:after + 1]
        if parent != later_parent:
            return parent, before
        start_ns, end_ns = self.stamps_ns[after - 1:after + 1]
        return parent, before.towards(later, (at_ns - start_ns) / (end_ns - start_ns))


class TfTree:
    """The tree of the transforms that it is given: a `Tree` of transforms.py."""

    def __init__(self, complain: Callable[[str], object]) -> None:
        self._complain = complain
        self._tracks: dict[str, Track] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._rewind = Rewind()

    def find(self, base_frame: str, camera_frame: str, at_ns: int) -> Transform | None:
        """See `Tree`."""
        with self._lock:
            above_camera = self._above(camera_frame, at_ns)
            for ancestor, ancestor_from_base in self._above(base_frame, at_ns).items():
                if ancestor in above_camera:
                    return ancestor_from_base.inverse @ above_camera[ancestor]
        return None

    def links(self) -> dict[str, Link]:
        """See `Tree`."""
        with self._lock:
            return {child: Link(track.links[-1][0], track.stamps_ns[0], track.stamps_ns[-1],
                                track.static)
                    for child, track in self._tracks.items()}

    def clear(self) -> None:
        """See `Tree`."""
        with self._lock:
            self._tracks = {child: track for child, track in self._tracks.items() if track.static}

    def close(self) -> None:
        """See `Tree`."""

    def _above(self, frame: str, at_ns: int) -> dict[str, Transform]:
        """Return ancestor_from_frame for the frame itself and all that is known above it."""
        above = {frame: Transform(np.eye(3), np.zeros(3))}
        ancestor = frame
        while (known := ancestor in self._tracks and self._tracks[ancestor].at(at_ns)):
            parent, parent_from_ancestor = known
            if parent in above:
                return {}  # a loop
            above[parent] = parent_from_ancestor @ above[ancestor]
            ancestor = parent
        return above

    def add(self, msg: TFMessage) -> None:
        """Take what came on /tf."""
        if self._rewind.seen_in(msg):
            self.clear()
        for stamped in msg.transforms:
            self._take(stamped, static=False)

    def add_static(self, msg: TFMessage) -> None:
        """Take what came on /tf_static."""
        for stamped in msg.transforms:
            self._take(stamped, static=True)

    def _take(self, stamped: TransformStamped, static: bool) -> None:
        parent, child = stamped.header.frame_id.lstrip('/'), stamped.child_frame_id.lstrip('/')
        try:
            if not parent or not child or parent == child:
                raise ValueError('parent and child must be two named frames')
            parent_from_child = transform_from_msg(stamped.transform)
        except ValueError as error:
            if child not in self._told:
                self._told.add(child)
                self._complain(f'a transform from {child!r} to {parent!r} is ignored: {error}')
            return
        with self._lock:
            track = self._tracks.get(child)
            if track is None or track.static != static:
                track = self._tracks[child] = Track(static)
            track.add(stamp_ns(stamped.header.stamp), parent, parent_from_child)


class TfListener(TfTree):
    """The tree of /tf and /tf_static, as a node hears them."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.get_logger().error)
        self._node = node
        group = ReentrantCallbackGroup()
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = (
            node.create_subscription(TFMessage, '/tf', self.add, QoSProfile(depth=100),
                                     callback_group=group),
            node.create_subscription(TFMessage, '/tf_static', self.add_static, latched,
                                     callback_group=group))

    def close(self) -> None:
        """See `Tree`."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
