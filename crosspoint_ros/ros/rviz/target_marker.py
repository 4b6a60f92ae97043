"""The grasp target as a marker that people drag, with a menu: accept, undo, clear, show rays."""
from __future__ import annotations

import time
from typing import Protocol

import numpy as np
from geometry_msgs.msg import Pose, Quaternion, Vector3
from rclpy.node import Node
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    Marker,
    MenuEntry,
)

from crosspoint_ros.core.datatypes import Rejected, Transform
from crosspoint_ros.ros.conversions import pose_from_transform, transform_from_pose
from crosspoint_ros.ros.node.history import DECISION_NAMES, HistoryStep
from crosspoint_ros.ros.rviz.interactive_markers import InteractiveMarkers

# RViz says nothing while a hand holds still, nor when its window loses the focus in mid-drag.
DRAG_TIMEOUT_S = 10.0
MAX_DRAG_M = 1.0  # along a line of sight the mouse throws a marker kilometres away
MIN_MOVE_M, MIN_MOVE_RAD = 1e-4, 1e-3  # less is no move: RViz computes in 32 bits
ACCEPT, UNDO, CLEAR, RAYS = 1, 2, 3, 4
SCALE_M, GRIP_M = 0.15, 0.03
GREY = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)
# A control acts along or about its own x axis; these turn that to the target's x, y and z.
AXES = {'x': Quaternion(w=0.5**0.5, x=0.5**0.5), 'y': Quaternion(w=0.5**0.5, z=0.5**0.5),
        'z': Quaternion(w=0.5**0.5, y=0.5**0.5)}


class TargetActions(Protocol):
    """What becomes of people's wishes: words for the log, or `Rejected`."""

    def accept(self, query_id: str = '', number: int = 0) -> str:
        """Accept the answer of that number."""
        ...

    def undo(self) -> str:
        """Take back the last step."""
        ...

    def clear(self) -> str:
        """Forget the target."""
        ...

    def toggle_rays(self) -> str:
        """Show the rays, or hide them."""
        ...

    def preview_move(self, base_from_target: Transform) -> None:
        """The target is on its way; it is not released yet."""
        ...

    def commit_move(self, base_from_target: Transform) -> None:
        """The target is to stay here."""
        ...

    def restore_target(self) -> None:
        """The target stands again where it stood before the drag."""
        ...


class TargetMarker:
    """Shows the standing target on `~/adjust`, and says what people do to it.

    The marker is named by the number of its step: what somebody does to a target that another step
    has replaced meanwhile is meant for a marker that is gone.
    """

    def __init__(self, node: Node, base_frame: str, actions: TargetActions) -> None:
        self._node, self._actions = node, actions
        self._header = Header(frame_id=base_frame)  # stamp 0: feedback comes in this frame too
        self._markers = InteractiveMarkers(node, '~/adjust')
        self._step: HistoryStep | None = None
        self._base_from_target: Transform | None = None
        self._rays = True
        self._last_feedback_s: float | None = None  # of the drag that goes on, monotonic
        self._last_warning = ''

    def show(self, step: HistoryStep | None, rays: bool) -> None:
        """Show the target of this step, or none; a drag that goes on has ended."""
        self._last_feedback_s = None
        same = (self._step is not None and step is not None and rays == self._rays
                and (step.number, step.decision) == (self._step.number, self._step.decision))
        if self._step is not None and (step is None or step.number != self._step.number):
            self._markers.remove(_get_marker_name(self._step))
        if step is not None:
            assert step.result is not None
            pose = step.result.target.pose.pose
            self._base_from_target = transform_from_pose(pose)
            if same:
                self._markers.move(_get_marker_name(step), pose, self._header)
            else:
                self._last_warning = ''
                self._markers.put(_build_marker(step, pose, self._header, rays), self._on_feedback)
        self._step, self._rays = step, rays
        self._markers.apply()

    def tick(self) -> None:
        """Put the target back if the one who dragged it is not heard of any more."""
        if self._last_feedback_s is None:
            return
        silent_s = time.monotonic() - self._last_feedback_s
        if silent_s > DRAG_TIMEOUT_S or not self._markers.has_subscribers:
            self._node.get_logger().warning(
                f'the target was dragged and not released for {silent_s:.1f} s (limit {DRAG_TIMEOUT_S:g} '
                's, or until the client is gone): it is back where it was')
            self._actions.restore_target()

    def close(self) -> None:
        """Take the marker off the graph."""
        self._markers.close()

    def _on_feedback(self, feedback: InteractiveMarkerFeedback) -> None:
        event = feedback.event_type
        if event == InteractiveMarkerFeedback.MENU_SELECT:
            self._on_menu(feedback.menu_entry_id)
        elif event == InteractiveMarkerFeedback.MOUSE_DOWN:
            self._last_feedback_s = time.monotonic()
        elif event in (InteractiveMarkerFeedback.POSE_UPDATE, InteractiveMarkerFeedback.MOUSE_UP):
            try:
                self._on_drag(event, self._requested_pose(feedback))
            except ValueError as error:
                self._reject_move(str(error))

    def _on_drag(self, event: int, base_from_target: Transform) -> None:
        moved = not self._is_at(base_from_target)
        if event == InteractiveMarkerFeedback.POSE_UPDATE:
            # RViz sends one before each press and release, also of a click that moves nothing.
            if moved or self._last_feedback_s is not None:
                self._last_feedback_s = time.monotonic()
                self._markers.move(self._marker_name, pose_from_transform(base_from_target),
                                   self._header)
                self._markers.apply()
                self._actions.preview_move(base_from_target)
        elif self._last_feedback_s is None:
            if moved:
                raise ValueError('it was released after its drag had been given up')
        elif moved:
            self._actions.commit_move(base_from_target)
        else:
            self._actions.restore_target()

    def _requested_pose(self, feedback: InteractiveMarkerFeedback) -> Transform:
        frame, ours = feedback.header.frame_id, self._header.frame_id
        if frame.lstrip('/') != ours.lstrip('/'):
            raise ValueError(f'its pose is in the frame {frame!r}, not in {ours!r}')
        base_from_target = transform_from_pose(feedback.pose)
        assert self._base_from_target is not None
        drag_m = float(np.linalg.norm(base_from_target.t_m - self._base_from_target.t_m))
        if drag_m > MAX_DRAG_M:
            raise ValueError(f'{drag_m:.2f} m is too far (limit {MAX_DRAG_M:g} m a drag): click '
                             'where the target is to be')
        return base_from_target

    def _is_at(self, base_from_target: Transform) -> bool:
        assert self._base_from_target is not None
        change = self._base_from_target.inverse @ base_from_target
        angle_rad = np.arccos(np.clip((np.trace(change.R) - 1) / 2, -1.0, 1.0))
        return bool(np.linalg.norm(change.t_m) < MIN_MOVE_M and angle_rad < MIN_MOVE_RAD)

    def _reject_move(self, why: str) -> None:
        if why != self._last_warning:  # a mouse repeats itself 60 times a second
            self._last_warning = why
            self._node.get_logger().warning(f'the target was not moved: {why}')
        self._actions.restore_target()

    def _on_menu(self, entry: int) -> None:
        assert self._step is not None
        try:
            if entry == ACCEPT:
                reply_text = self._actions.accept(number=self._step.number)
            elif entry == UNDO:
                reply_text = self._actions.undo()
            elif entry == CLEAR:
                reply_text = self._actions.clear()
            elif entry == RAYS:
                reply_text = self._actions.toggle_rays()
            else:
                reply_text = f'there is no entry {entry} in the menu of the target'
        except Rejected as why:
            reply_text = why.message
        self._node.get_logger().info(reply_text)

    @property
    def _marker_name(self) -> str:
        assert self._step is not None
        return _get_marker_name(self._step)


def _get_marker_name(step: HistoryStep) -> str:
    return f'step {step.number}'


def _build_marker(step: HistoryStep, pose: Pose, header: Header, rays: bool) -> InteractiveMarker:
    marker = InteractiveMarker(header=header, name=_get_marker_name(step), pose=pose, scale=SCALE_M,
                               description=f'{step.number}: {DECISION_NAMES[step.decision]}')
    marker.menu_entries = [
        MenuEntry(id=number, title=title, command_type=MenuEntry.FEEDBACK)
        for number, title in ((ACCEPT, 'accept'), (UNDO, 'undo'), (CLEAR, 'clear'),
                              (RAYS, f'[{"x" if rays else " "}] show rays'))]
    # Seen by the eye through `~/markers`; here it is only what the mouse can grip.
    grip = Marker(type=Marker.SPHERE, scale=Vector3(x=GRIP_M, y=GRIP_M, z=GRIP_M), color=GREY)
    marker.controls = [InteractiveMarkerControl(
        name='menu', interaction_mode=InteractiveMarkerControl.MENU, always_visible=True,
        orientation=Quaternion(w=1.0), markers=[grip])]
    for axis, orientation in AXES.items():
        for does, mode in (('move', InteractiveMarkerControl.MOVE_AXIS),
                           ('turn', InteractiveMarkerControl.ROTATE_AXIS)):
            marker.controls.append(InteractiveMarkerControl(
                name=f'{does} {axis}', interaction_mode=mode, orientation=orientation))
    return marker
