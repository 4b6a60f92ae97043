"""A server for RViz's interactive markers.

It speaks the protocol of ROS 2's package interactive_markers, which is not on every machine:
numbered updates on a topic, a service with all markers for a late client, and feedback from the
clients. A client that misses a number starts again with the service.
"""
from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import Pose
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerFeedback,
    InteractiveMarkerPose,
    InteractiveMarkerUpdate,
)
from visualization_msgs.srv import GetInteractiveMarkers

# As in the original, except for feedback: with its depth of 1 the end of a drag can be lost.
QOS = QoSProfile(depth=100)
DRAG_TIMEOUT_S = 1.0  # as in the original: a client that is silent for longer has let go

OnFeedback = Callable[[InteractiveMarkerFeedback], None]
DRAGS = (InteractiveMarkerFeedback.MOUSE_DOWN, InteractiveMarkerFeedback.POSE_UPDATE,
         InteractiveMarkerFeedback.MOUSE_UP, InteractiveMarkerFeedback.KEEP_ALIVE)


@dataclass(frozen=True)
class DragState:
    """Who drags a marker, and the time of the last feedback (monotonic s)."""

    client_id: str
    last_feedback_s: float


class InteractiveMarkers:
    """The markers of one namespace, in the executor's thread.

    Changes are sent together by `apply`. Feedback changes no marker by itself: its callback calls
    `move` and `apply`.
    """

    def __init__(self, node: Node, namespace: str,
                 on_unknown_marker: OnFeedback | None = None) -> None:
        """Offer `<namespace>/update`, `/feedback` and `/get_interactive_markers`.

        on_unknown_marker: gets feedback for a marker that is gone; without it that is logged.
        """
        self._node, self._sequence, self._on_unknown_marker = node, 0, on_unknown_marker
        self._shown: dict[str, InteractiveMarker] = {}  # what clients have
        self._changes: dict[str, InteractiveMarker | InteractiveMarkerPose | None] = {}
        self._callbacks: dict[str, OnFeedback] = {}
        self._drags: dict[str, DragState] = {}
        self._updates = node.create_publisher(InteractiveMarkerUpdate, f'{namespace}/update', QOS)
        self._feedback = node.create_subscription(
            InteractiveMarkerFeedback, f'{namespace}/feedback', self._on_feedback, QOS)
        self._everything = node.create_service(
            GetInteractiveMarkers, f'{namespace}/get_interactive_markers', self._on_request)

    @property
    def has_subscribers(self) -> bool:
        """Whether any client shows the markers."""
        return bool(self._updates.get_subscription_count())

    def put(self, marker: InteractiveMarker, on_feedback: OnFeedback) -> None:
        """Add a marker, or replace the one of that name; do not change the message later."""
        self._changes[marker.name] = marker
        self._callbacks[marker.name] = on_feedback

    def move(self, name: str, pose: Pose, header: Header) -> None:
        """Move a marker. Raises KeyError if there is none of that name."""
        if name not in self._callbacks:
            raise KeyError(f'no marker {name!r}; there are: {", ".join(self._callbacks) or "none"}')
        pending = self._changes.get(name)
        self._changes[name] = _with_pose(pending, pose, header) if isinstance(
            pending, InteractiveMarker) else InteractiveMarkerPose(
                name=name, pose=pose, header=header)

    def remove(self, name: str) -> None:
        """Remove a marker, if there is one of that name."""
        self._callbacks.pop(name, None)
        self._drags.pop(name, None)
        self._changes.pop(name, None)
        if name in self._shown:
            self._changes[name] = None

    def apply(self) -> None:
        """Send the changes since the last call, if any."""
        if not self._changes:
            return
        update = InteractiveMarkerUpdate(type=InteractiveMarkerUpdate.UPDATE)
        for name, change in self._changes.items():
            if change is None:
                del self._shown[name]
                update.erases.append(name)
            elif isinstance(change, InteractiveMarkerPose):
                self._shown[name] = _with_pose(self._shown[name], change.pose, change.header)
                update.poses.append(change)
            else:
                self._shown[name] = change
                update.markers.append(change)
        self._changes.clear()
        self._sequence += 1
        update.seq_num = self._sequence
        self._updates.publish(update)

    def close(self) -> None:
        """Remove every marker, and leave the graph."""
        for name in list(self._callbacks):
            self.remove(name)
        self.apply()
        self._node.destroy_service(self._everything)
        self._node.destroy_subscription(self._feedback)
        self._node.destroy_publisher(self._updates)

    def _on_request(self, request: GetInteractiveMarkers.Request,
                    response: GetInteractiveMarkers.Response) -> GetInteractiveMarkers.Response:
        # Pending changes come with the next number, so the reply must not contain them.
        response.sequence_number = self._sequence
        response.markers = list(self._shown.values())
        return response

    def _on_feedback(self, feedback: InteractiveMarkerFeedback) -> None:
        name = feedback.marker_name
        is_unknown = name not in self._shown or name not in self._callbacks
        if is_unknown and self._on_unknown_marker is not None:
            self._on_unknown_marker(feedback)
        elif is_unknown:
            self._node.get_logger().info(f'{feedback.client_id}: there is no marker {name!r} any '
                                         'more', throttle_duration_sec=1.0)
        elif self._is_dragged_by_other(feedback):
            self._node.get_logger().info(
                f'{feedback.client_id} may not move the marker {name!r}, which '
                f'{self._drags[name].client_id} drags', throttle_duration_sec=1.0)
        else:
            self._callbacks[name](feedback)

    def _is_dragged_by_other(self, feedback: InteractiveMarkerFeedback) -> bool:
        """Return whether another client drags the marker; clicks and menus are always taken."""
        if feedback.event_type not in DRAGS:
            return False
        name, now_s = feedback.marker_name, time.monotonic()
        drag = self._drags.get(name)
        if (drag and drag.client_id != feedback.client_id
                and now_s - drag.last_feedback_s < DRAG_TIMEOUT_S):
            return True
        if feedback.event_type == InteractiveMarkerFeedback.MOUSE_UP:
            self._drags.pop(name, None)
        else:
            self._drags[name] = DragState(feedback.client_id, now_s)
        return False


def _with_pose(marker: InteractiveMarker, pose: Pose, header: Header) -> InteractiveMarker:
    moved = copy.copy(marker)
    moved.pose, moved.header = pose, header
    return moved
