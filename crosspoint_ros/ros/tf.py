"""TF look-ups at an image's stamp, on tf2_ros or on our own listener.

tf2_ros is used where it is installed (it is not on PyPI). Both interpolate between two stamps,
never extrapolate, and keep ten seconds.
"""
from __future__ import annotations

import importlib
import importlib.util
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.tf_tree import (
    FrameInfo,
    TfTree,
    TimeJumpDetector,
    explain_failure,
    find_loop,
)
from crosspoint_ros.ros.conversions import transform_from_msg

POLL_S = 0.005


# Whether a transform of /tf, or (True) of /tf_static, is used; called for each that is received.
TransformFilter = Callable[[TransformStamped, bool], bool]


def accept_all(stamped: TransformStamped, static: bool) -> bool:
    """Return True."""
    return True


def filter_message(message: TFMessage, accept: TransformFilter, static: bool) -> TFMessage:
    """Return the message without the transforms that are not accepted."""
    return TFMessage(transforms=[t for t in message.transforms if accept(t, static)])


class TransformTree(Protocol):
    """The transforms received on /tf and /tf_static: core's `TfTree`, or tf2's buffer."""

    def lookup(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """Return base_from_frame at the stamp, None if it is not known."""
        ...

    def frames(self) -> dict[str, FrameInfo]:
        """Return what is known of each frame that has a parent."""
        ...

    def clear(self) -> None:
        """Drop all but the static transforms, as when time jumps."""
        ...


def make_tree(node: Node, accept: TransformFilter = accept_all
              ) -> Tf2Tree | TfListener:
    """Subscribe to TF: with tf2_ros where it is installed, otherwise with our own listener."""
    has_tf2 = importlib.util.find_spec('tf2_ros') is not None
    return Tf2Tree(node, accept) if has_tf2 else TfListener(node, accept)


def make_transform_lookup(node: Node, accept: TransformFilter = accept_all
                          ) -> TransformLookup:
    """Return look-ups in the tree of the accepted transforms that this node receives."""
    tree = make_tree(node, accept)
    return TransformLookup(tree, close=tree.close)


class TransformLookup:
    """Looks up transforms, waits for them, and explains why one is missing."""

    def __init__(self, tree: TransformTree, now_s: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep,
                 close: Callable[[], None] = lambda: None) -> None:
        self._tree, self._now_s, self._sleep = tree, now_s, sleep
        self.clear, self.close = tree.clear, close

    def list_ancestors(self, frame: str) -> list[str]:
        """Return the frames above a frame, its parent first."""
        frames, chain = self._tree.frames(), [frame.lstrip('/')]
        while chain[-1] in frames and chain[-1] not in chain[:-1]:
            chain.append(frames[chain[-1]].parent)
        return chain[1:]

    def lookup(self, base_frame: str, frame: str, at_ns: int, timeout_s: float = 0.0,
               should_stop: Callable[[], bool] = lambda: False) -> Transform:
        """Return base_from_frame at that stamp, waiting for it up to `timeout_s`.

        Call it from a query's thread, never from the executor's, which receives the transforms.
        Raises `Rejected` (NO_TF) with what is known of the frames, or (CANCELLED) on `should_stop`.
        """
        what = f'transform from {frame!r} to {base_frame!r} at {at_ns / 1e9:.6f} s'
        if at_ns <= 0:
            # TF would take 0 for "the latest", which is another moment than the image's.
            raise Rejected(Code.NO_TF, f'no {what}: the image has no stamp')
        started_s = self._now_s()
        while True:
            found, reason = self._try_lookup(base_frame.lstrip('/'), frame.lstrip('/'), at_ns)
            if found is not None:
                return found
            if should_stop():
                raise Rejected(Code.CANCELLED, f'cancelled while waiting for the {what}')
            waited_s = self._now_s() - started_s
            if waited_s >= timeout_s:
                raise Rejected(Code.NO_TF, f'no {what}: {reason} (waited {waited_s:.2f} s, limit '
                               f'{timeout_s:g})')
            self._sleep(min(POLL_S, timeout_s - waited_s))

    def _try_lookup(self, base_frame: str, frame: str, at_ns: int
                    ) -> tuple[Transform | None, str]:
        frames = self._tree.frames()
        # Inside a loop tf2 itself answers if it happens to meet the base before it comes round.
        reason = find_loop(frames, frame) or find_loop(frames, base_frame)
        found = None if reason else self._tree.lookup(base_frame, frame, at_ns)
        return found, reason or explain_failure(frames, base_frame, frame, at_ns)


class Tf2Tree:
    """The buffer of tf2_ros as a `TransformTree`."""

    ENTRY = re.compile(r"^(\S.*?): *\n  parent: '(.*)'\n(?:  .*\n)*?"
                       r'  most_recent_transform: (\S+)\n  oldest_transform: (\S+)\n', re.MULTILINE)

    def __init__(self, node: Node, accept: TransformFilter = accept_all) -> None:
        tf2_ros = importlib.import_module('tf2_ros')
        self._error_type = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        time_jumps, clear = TimeJumpDetector(), self.clear

        class Listener(tf2_ros.TransformListener):  # type: ignore[misc,name-defined]
            def static_callback(self, data: TFMessage) -> None:
                super().static_callback(filter_message(data, accept, static=True))

            def callback(self, data: TFMessage) -> None:
                data = filter_message(data, accept, static=False)
                if time_jumps.detect(data):
                    clear()
                super().callback(data)

        self._listener = Listener(self._buffer, node, spin_thread=False)

    def lookup(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """See `TransformTree`."""
        try:
            found = self._buffer.lookup_transform(base_frame, frame, Time(nanoseconds=at_ns))
        except self._error_type:
            return None
        return transform_from_msg(found.transform)

    def frames(self) -> dict[str, FrameInfo]:
        """Parse the buffer's own listing, which is text, in seconds; static frames have 0."""
        entries = self.ENTRY.findall(self._buffer.all_frames_as_yaml() + '\n')
        return {child: FrameInfo(parent, round(float(oldest) * 1e9), round(float(newest) * 1e9),
                                 static=float(newest) == 0)
                for child, parent, newest, oldest in entries}

    def clear(self) -> None:
        """See `TransformTree`."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()


class TfListener(TfTree):
    """Fills a `TfTree` from /tf and /tf_static."""

    def __init__(self, node: Node, accept: TransformFilter = accept_all) -> None:
        super().__init__()
        self._node = node

        def add(message: TFMessage, static: bool) -> None:
            self.add(filter_message(message, accept, static), static)

        group = ReentrantCallbackGroup()
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = (
            node.create_subscription(TFMessage, '/tf', partial(add, static=False),
                                     QoSProfile(depth=100), callback_group=group),
            node.create_subscription(TFMessage, '/tf_static', partial(add, static=True),
                                     latched, callback_group=group))

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
