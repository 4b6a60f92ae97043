"""Where a camera was when it took its image: TF at the image's own stamp, or a refusal.

tf2_ros answers where it is installed; elsewhere (it is not on PyPI) `tf_listener`, by the same
rules: interpolate between two stamps, never extrapolate, forget after ten seconds.
"""
from __future__ import annotations

import importlib
import importlib.util
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.ros.conversions import stamp_to_ns, transform_from_msg

POLL_S = 0.005
MAX_BACKWARD_JUMP_NS = 2 * 10**9  # no network delivers transforms that late out of order


@dataclass(frozen=True)
class FrameInfo:
    """What is known of a frame's transform to its parent (its newest one). Static: at any time."""

    parent: str
    oldest_ns: int = 0
    newest_ns: int = 0
    static: bool = False


class TimeJumpDetector:
    """Notices that the stamps of a frame went back: a bag began again, or a simulation.

    The clock's own jump is not enough: its message overtakes the last transforms of the time
    before, and between such a leftover and the first new one every stamp would be interpolated,
    some centimetres off.
    """

    def __init__(self) -> None:
        self._newest_ns: dict[str, int] = {}

    def detect(self, message: TFMessage) -> bool:
        """Tell whether a frame of the message is over two seconds older than it has been."""
        stamps = [(t.child_frame_id, stamp_to_ns(t.header.stamp)) for t in message.transforms]
        back = any(self._newest_ns.get(child, 0) - at_ns > MAX_BACKWARD_JUMP_NS for child, at_ns in stamps)
        if back:
            self._newest_ns.clear()
        for child, at_ns in stamps:
            self._newest_ns[child] = max(at_ns, self._newest_ns.get(child, 0))
        return back


class TransformTree(Protocol):
    """The transforms that came on /tf and /tf_static."""

    def lookup(self, base_frame: str, camera_frame: str, at_ns: int) -> Transform | None:
        """Return base_from_camera at that stamp, None if that is not known."""
        ...

    def frames(self) -> dict[str, FrameInfo]:
        """Return what is known of each frame that has a parent."""
        ...

    def clear(self) -> None:
        """Forget all but the static transforms, as when time jumps."""
        ...

    def close(self) -> None:
        """Unsubscribe."""
        ...


def make_tree(node: Node) -> TransformTree:
    """Listen to TF: through tf2_ros where it is installed, by ourselves where it is not."""
    if importlib.util.find_spec('tf2_ros') is not None:
        return Tf2Tree(node)
    from crosspoint_ros.ros.tf import TfListener
    return TfListener(node)


def make_transform_lookup(node: Node) -> TransformLookup:
    """Return what answers from the tree that this node hears."""
    return TransformLookup(make_tree(node))


class TransformLookup:
    """Answers where frames are, or says why it cannot."""

    def __init__(self, tree: TransformTree, now_s: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self._tree, self._now_s, self._sleep = tree, now_s, sleep

    def lookup(self, base_frame: str, camera_frame: str, at_ns: int, timeout_s: float = 0.0,
               should_stop: Callable[[], bool] = lambda: False) -> Transform:
        """Return base_from_camera at that stamp, waiting for it up to `timeout_s`.

        Call it from a query's thread, never from the executor's: what it waits for comes in there.
        Raises `Rejected` (NO_TF) with what is known of the frames, or (CANCELLED) on `should_stop`.
        """
        what = f'transform from {camera_frame!r} to {base_frame!r} at {at_ns / 1e9:.6f} s'
        if at_ns <= 0:
            # TF would take 0 for "the latest", which is another moment than the image's.
            raise Rejected(Code.NO_TF, f'no {what}: the image has no stamp')
        begun_s = self._now_s()
        while True:
            found, reason = self._try_lookup(base_frame.lstrip('/'), camera_frame.lstrip('/'), at_ns)
            if found is not None:
                return found
            if should_stop():
                raise Rejected(Code.CANCELLED, f'cancelled while waiting for the {what}')
            waited_s = self._now_s() - begun_s
            if waited_s >= timeout_s:
                raise Rejected(Code.NO_TF, f'no {what}: {reason} (waited {waited_s:.2f} s, limit '
                               f'{timeout_s:g})')
            self._sleep(min(POLL_S, timeout_s - waited_s))

    def clear(self) -> None:
        """Forget all but the static transforms, as when time jumps."""
        self._tree.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._tree.close()

    def _try_lookup(self, base_frame: str, camera_frame: str,
                 at_ns: int) -> tuple[Transform | None, str]:
        links = self._tree.frames()
        # tf2 itself answers inside a loop if it happens to meet the base before it comes round.
        reason = find_loop(links, camera_frame) or find_loop(links, base_frame)
        found = None if reason else self._tree.lookup(base_frame, camera_frame, at_ns)
        return found, reason or explain_failure(links, base_frame, camera_frame, at_ns)


def find_loop(frames: dict[str, FrameInfo], frame: str) -> str:
    """Name the loop that the frame hangs from; '' if it hangs from a root."""
    chain = _ancestors(frames, frame)
    return f'TF has a loop: {" -> ".join(chain)}' if chain[-1] in chain[:-1] else ''


def explain_failure(frames: dict[str, FrameInfo], base_frame: str, camera_frame: str, at_ns: int) -> str:
    """Say what keeps a look-up in a tree without loops from its answer."""
    apart = explain_disconnected(frames, base_frame, camera_frame)
    if apart:
        return apart
    up, down = _ancestors(frames, camera_frame), _ancestors(frames, base_frame)
    for child in (frame for frame in up + down if not (frame in up and frame in down)):
        link = frames[child]
        if not link.static and not link.oldest_ns <= at_ns <= link.newest_ns:
            return (f'{link.parent!r} -> {child!r} is known only from {link.oldest_ns / 1e9:.6f} '
                    f'to {link.newest_ns / 1e9:.6f} s')
    return 'the tree was another one then'


def explain_disconnected(frames: dict[str, FrameInfo], base_frame: str, camera_frame: str) -> str:
    """Say what keeps two frames of a tree without loops apart at any time; '' if nothing does."""
    known = {*frames, *(link.parent for link in frames.values())}
    if not known:
        return 'nothing has come on /tf or /tf_static'
    for frame in (base_frame, camera_frame):
        if frame not in known:
            return f'frame {frame!r} is unknown; known: {", ".join(sorted(known))}'
    up, down = _ancestors(frames, camera_frame), _ancestors(frames, base_frame)
    if up[-1] != down[-1]:
        return (f'they are in two trees: {camera_frame!r} hangs from {up[-1]!r}, {base_frame!r} '
                f'from {down[-1]!r}')
    return ''


def _ancestors(frames: dict[str, FrameInfo], frame: str) -> list[str]:
    """Return the frame and its parents, up to the root or to the frame that closes a loop."""
    chain = [frame]
    while chain[-1] in frames and chain[-1] not in chain[:-1]:
        chain.append(frames[chain[-1]].parent)
    return chain


class Tf2Tree:
    """The tree of tf2_ros."""

    ENTRY = re.compile(r"^(\S.*?): *\n  parent: '(.*)'\n(?:  .*\n)*?"
                       r'  most_recent_transform: (\S+)\n  oldest_transform: (\S+)\n', re.MULTILINE)

    def __init__(self, node: Node) -> None:
        tf2_ros = importlib.import_module('tf2_ros')
        self._refusal = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        rewind, clear = TimeJumpDetector(), self.clear

        class Listener(tf2_ros.TransformListener):  # type: ignore[misc,name-defined]
            def callback(self, data: TFMessage) -> None:
                if rewind.detect(data):
                    clear()
                super().callback(data)

        self._listener = Listener(self._buffer, node, spin_thread=False)

    def lookup(self, base_frame: str, camera_frame: str, at_ns: int) -> Transform | None:
        """See `Tree`."""
        try:
            found = self._buffer.lookup_transform(base_frame, camera_frame, Time(nanoseconds=at_ns))
        except self._refusal:
            return None
        return transform_from_msg(found.transform)

    def frames(self) -> dict[str, FrameInfo]:
        """Read what the buffer tells of itself, which is text, in seconds; static ones have 0."""
        entries = self.ENTRY.findall(self._buffer.all_frames_as_yaml() + '\n')
        return {child: FrameInfo(parent, round(float(oldest) * 1e9), round(float(newest) * 1e9),
                            static=float(newest) == 0)
                for child, parent, newest, oldest in entries}

    def clear(self) -> None:
        """See `Tree`."""
        self._buffer.clear()

    def close(self) -> None:
        """See `Tree`."""
        self._listener.unregister()


BUFFER_NS = 10 * 10**9


@dataclass
class FrameHistory:
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

    def interpolate(self, at_ns: int) -> tuple[str, Transform] | None:
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
        return parent, before.interpolate(later, (at_ns - start_ns) / (end_ns - start_ns))


class TfTree:
    """The tree of the transforms that it is given: a `Tree` of transforms.py."""

    def __init__(self, complain: Callable[[str], object]) -> None:
        self._complain = complain
        self._tracks: dict[str, FrameHistory] = {}
        self._warned_frames: set[str] = set()
        self._lock = threading.Lock()
        self._rewind = TimeJumpDetector()

    def lookup(self, base_frame: str, camera_frame: str, at_ns: int) -> Transform | None:
        """See `Tree`."""
        with self._lock:
            above_camera = self._ancestor_transforms(camera_frame, at_ns)
            for ancestor, ancestor_from_base in self._ancestor_transforms(base_frame, at_ns).items():
                if ancestor in above_camera:
                    return ancestor_from_base.inverse @ above_camera[ancestor]
        return None

    def frames(self) -> dict[str, FrameInfo]:
        """See `Tree`."""
        with self._lock:
            return {child: FrameInfo(track.links[-1][0], track.stamps_ns[0], track.stamps_ns[-1],
                                track.static)
                    for child, track in self._tracks.items()}

    def clear(self) -> None:
        """See `Tree`."""
        with self._lock:
            self._tracks = {child: track for child, track in self._tracks.items() if track.static}

    def close(self) -> None:
        """See `Tree`."""

    def _ancestor_transforms(self, frame: str, at_ns: int) -> dict[str, Transform]:
        """Return ancestor_from_frame for the frame itself and all that is known above it."""
        above = {frame: Transform(np.eye(3), np.zeros(3))}
        ancestor = frame
        while (known := ancestor in self._tracks and self._tracks[ancestor].interpolate(at_ns)):
            parent, parent_from_ancestor = known
            if parent in above:
                return {}  # a loop
            above[parent] = parent_from_ancestor @ above[ancestor]
            ancestor = parent
        return above

    def add(self, msg: TFMessage) -> None:
        """Take what came on /tf."""
        if self._rewind.detect(msg):
            self.clear()
        for stamped in msg.transforms:
            self._add_transform(stamped, static=False)

    def add_static(self, msg: TFMessage) -> None:
        """Take what came on /tf_static."""
        for stamped in msg.transforms:
            self._add_transform(stamped, static=True)

    def _add_transform(self, stamped: TransformStamped, static: bool) -> None:
        parent, child = stamped.header.frame_id.lstrip('/'), stamped.child_frame_id.lstrip('/')
        try:
            if not parent or not child or parent == child:
                raise ValueError('parent and child must be two named frames')
            parent_from_child = transform_from_msg(stamped.transform)
        except ValueError as error:
            if child not in self._warned_frames:
                self._warned_frames.add(child)
                self._complain(f'a transform from {child!r} to {parent!r} is ignored: {error}')
            return
        with self._lock:
            track = self._tracks.get(child)
            if track is None or track.static != static:
                track = self._tracks[child] = FrameHistory(static)
            track.add(stamp_to_ns(stamped.header.stamp), parent, parent_from_child)


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
