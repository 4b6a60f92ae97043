"""TF look-ups at an image's stamp, on tf2_ros or on our own listener.

tf2_ros is used where it is installed (it is not on PyPI). Both interpolate between two stamps,
never extrapolate, and keep ten seconds.
"""
from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from functools import partial

from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.tf_tree import TfTree, explain_failure, find_loop, list_ancestors
from crosspoint_ros.ros.conversions import transform_from_msg

POLL_S = 0.005
# Whether a transform of /tf, or (True) of /tf_static, is used; called for each that is received.
TransformFilter = Callable[[TransformStamped, bool], bool]


def accept_all(stamped: TransformStamped, static: bool) -> bool:
    """Return True."""
    return True


def filter_message(message: TFMessage, accept: TransformFilter, static: bool) -> TFMessage:
    """Return the message without the transforms that are not accepted."""
    kept = [t for t in message.transforms if accept(t, static)]
    return message if len(kept) == len(message.transforms) else TFMessage(transforms=kept)


def make_tree(node: Node, accept: TransformFilter = accept_all) -> TfListener:
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

    def __init__(self, tree: TfTree, now_s: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], None] = time.sleep,
                 close: Callable[[], None] = lambda: None) -> None:
        self.tree, self._now_s, self._sleep = tree, now_s, sleep
        self.clear, self.close = tree.clear, close

    @property
    def jumped_s(self) -> float:
        """When time last jumped back in TF (monotonic)."""
        return self.tree.jumped_s

    def is_moving(self, frame: str) -> bool:
        """Return whether a transform above the frame is not static."""
        frames = self.tree.frames()
        return any(name in frames and not frames[name].static
                   for name in list_ancestors(frames, frame.lstrip('/')))

    def lookup(self, base_frame: str, frame: str, at_ns: int, timeout_s: float = 0.0,
               should_stop: Callable[[], bool] = lambda: False) -> Transform:
        """Return base_from_frame at that stamp, waiting for it up to `timeout_s`.

        Call it from a query's thread, never from the executor's, which receives the transforms.
        Raises `Rejected` (NO_TF) with what is known of the frames, at once if two senders place
        one of them differently, or (CANCELLED) on `should_stop`.
        """
        base_frame, frame = base_frame.lstrip('/'), frame.lstrip('/')
        what = f'transform from {frame!r} to {base_frame!r} at {at_ns / 1e9:.6f} s'
        if at_ns <= 0:
            # TF would take 0 for "the latest", which is another moment than the image's.
            raise Rejected(Code.NO_TF, f'no {what}: the image has no stamp')
        started_s = self._now_s()
        while True:
            frames = self.tree.frames()
            # Inside a loop tf2 itself answers if it happens to meet the base before it comes round.
            loop = find_loop(frames, frame) or find_loop(frames, base_frame)
            found = None if loop else self.tree.lookup(base_frame, frame, at_ns)
            if found is not None:
                return found
            conflict = self.tree.explain_conflict(base_frame, frame, at_ns)
            if conflict:
                raise Rejected(Code.NO_TF, f'no {what}: {conflict}')
            if should_stop():
                raise Rejected(Code.CANCELLED, f'cancelled while waiting for the {what}')
            waited_s = self._now_s() - started_s
            if waited_s >= timeout_s:
                reason = explain_failure(frames, base_frame, frame, at_ns)
                raise Rejected(Code.NO_TF, f'no {what}: {reason} (waited {waited_s:.2f} s, limit '
                               f'{timeout_s:g})')
            self._sleep(min(POLL_S, timeout_s - waited_s))


class TfListener(TfTree):
    """Fills a `TfTree` from /tf and /tf_static."""

    def __init__(self, node: Node, accept: TransformFilter = accept_all) -> None:
        super().__init__()
        self._node, self._accept = node, accept
        self.close = self._subscribe()

    def receive(self, message: TFMessage, static: bool) -> TFMessage:
        """Add what is accepted; return what is used of it."""
        return TFMessage(transforms=self.add(filter_message(message, self._accept, static),
                                             static))

    def _subscribe(self) -> Callable[[], None]:
        """Subscribe; return what unsubscribes."""
        group = ReentrantCallbackGroup()
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscriptions = [self._node.create_subscription(
            TFMessage, topic, partial(self.receive, static=static), qos, callback_group=group)
            for topic, static, qos in (('/tf', False, QoSProfile(depth=100)),
                                       ('/tf_static', True, latched))]

        def unsubscribe() -> None:
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)
        return unsubscribe


class Tf2Tree(TfListener):
    """The buffer of tf2_ros, which looks transforms up; what it does not report is ours.

    It gets what our own tree uses: no wrong stamp, none that is invalid.
    """

    def _subscribe(self) -> Callable[[], None]:
        tf2_ros = importlib.import_module('tf2_ros')
        self._error_type = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        receive = self.receive

        class Listener(tf2_ros.TransformListener):  # type: ignore[misc,name-defined]
            def callback(self, data: TFMessage) -> None:
                super().callback(receive(data, static=False))

            def static_callback(self, data: TFMessage) -> None:
                super().static_callback(receive(data, static=True))

        listener = Listener(self._buffer, self._node, spin_thread=False)
        unregister: Callable[[], None] = listener.unregister
        return unregister

    def lookup(self, base_frame: str, frame: str, at_ns: int) -> Transform | None:
        """See `TfTree`."""
        # tf2 places a frame in itself even if it was never sent.
        if self.explain_conflict(base_frame, frame, at_ns) or not self.is_known(frame):
            return None
        try:
            found = self._buffer.lookup_transform(base_frame, frame, Time(nanoseconds=at_ns))
        except self._error_type:
            return None
        return transform_from_msg(found.transform)

    def clear(self) -> None:
        """See `TfTree`."""
        super().clear()
        self._buffer.clear()
