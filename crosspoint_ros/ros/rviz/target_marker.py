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
from crosspoint_ros.ros.node.history import DECIDED, Step
from crosspoint_ros.ros.rviz.interactive_markers import InteractiveMarkers

# RViz says nothing while a hand holds still, nor when its window loses the focus in mid-drag.
STILL_S = 10.0
MAX_DRAG_M = 1.0  # along a line of sight the mouse throws a marker kilometres away
MOVED_M, MOVED_RAD = 1e-4, 1e-3  # less is no move: RViz computes in 32 bits
ACCEPT, UNDO, CLEAR, RAYS = 1, 2, 3, 4
SCALE_M, GRIP_M = 0.15, 0.03
GREY = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)
# A control acts along or about its own x axis; these turn that to the target's x, y and z.
AXES = {'x': Quaternion(w=0.5**0.5, x=0.5**0.5), 'y': Quaternion(w=0.5**0.5, z=0.5**0.5),
        'z': Quaternion(w=0.5**0.5, y=0.5**0.5)}


class Wishes(Protocol):
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

    def nudge(self, base_from_target: Transform) -> None:
        """The target is on its way; it is not released yet."""
        ...

    def release(self, base_from_target: Transform) -> None:
        """The target is to stay here."""
        ...

    def put_back(self) -> None:
        """The target stands again where it stood before the drag."""
        ...


class Adjust:
    """Shows the standing target on `~/adjust`, and says what people do to it.

    The marker is named by the number of its step: what somebody does to a target that another step
    has replaced meanwhile is meant for a marker that is gone.
    """

    def __init__(self, node: Node, base_frame: str, wishes: Wishes) -> None:
        self._node, self._wishes = node, wishes
        self._header = Header(frame_id=base_frame)  # stamp 0: feedback comes in this frame too
        self._markers = InteractiveMarkers(node, '~/adjust')
        self._step: Step | None = None
        self._base_from_target: Transform | None = None
        self._rays = True
        self._heard_s: float | None = None  # of the drag that goes on, monotonic
        self._complained = ''

    def show(self, step: Step | None, rays: bool) -> None:
        """Show the target of this step, or none; a drag that goes on has ended."""
        self._heard_s = None
        same = (self._step is not None and step is not None and rays == self._rays
                and (step.number, step.decided) == (self._step.number, self._step.decided))
        if self._step is not None and (step is None or step.number != self._step.number):
            self._markers.remove(_name(self._step))
        if step is not None:
            assert step.result is not None
            pose = step.result.target.pose.pose
            self._base_from_target = transform_from_pose(pose)
            if same:
                self._markers.move(_name(step), pose, self._header)
            else:
                self._complained = ''
                self._markers.put(_marker(step, pose, self._header, rays), self._on_feedback)
        self._step, self._rays = step, rays
        self._markers.apply()

    def tick(self) -> None:
        """Put the target back if the one who dragged it is not heard of any more."""
        if self._heard_s is None:
            return
        silent_s = time.monotonic() - self._heard_s
        if silent_s > STILL_S or not self._markers.watched:
            self._node.get_logger().warning(
                f'the target was dragged and not released for {silent_s:.1f} s (limit {STILL_S:g} '
                's, or until the client is gone): it is back where it was')
            self._wishes.put_back()

    def close(self) -> None:
        """Take the marker off the graph."""
        self._markers.close()

    def _on_feedback(self, feedback: InteractiveMarkerFeedback) -> None:
        event = feedback.event_type
        if event == InteractiveMarkerFeedback.MENU_SELECT:
            self._on_menu(feedback.menu_entry_id)
        elif event == InteractiveMarkerFeedback.MOUSE_DOWN:
            self._heard_s = time.monotonic()
        elif event in (InteractiveMarkerFeedback.POSE_UPDATE, InteractiveMarkerFeedback.MOUSE_UP):
            try:
                self._on_drag(event, self._wished(feedback))
            except ValueError as error:
                self._refuse(str(error))

    def _on_drag(self, event: int, base_from_target: Transform) -> None:
        moved = not self._stands_at(base_from_target)
        if event == InteractiveMarkerFeedback.POSE_UPDATE:
            # RViz sends one before each press and release, also of a click that moves nothing.
            if moved or self._heard_s is not None:
                self._heard_s = time.monotonic()
                self._markers.move(self._named, pose_from_transform(base_from_target),
                                   self._header)
                self._markers.apply()
                self._wishes.nudge(base_from_target)
        elif self._heard_s is None:
            if moved:
                raise ValueError('it was released after its drag had been given up')
        elif moved:
            self._wishes.release(base_from_target)
        else:
            self._wishes.put_back()

    def _wished(self, feedback: InteractiveMarkerFeedback) -> Transform:
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

    def _stands_at(self, base_from_target: Transform) -> bool:
        assert self._base_from_target is not None
        change = self._base_from_target.inverse @ base_from_target
        angle_rad = np.arccos(np.clip((np.trace(change.R) - 1) / 2, -1.0, 1.0))
        return bool(np.linalg.norm(change.t_m) < MOVED_M and angle_rad < MOVED_RAD)

    def _refuse(self, why: str) -> None:
        if why != self._complained:  # a mouse repeats itself 60 times a second
            self._complained = why
            self._node.get_logger().warning(f'the target was not moved: {why}')
        self._wishes.put_back()

    def _on_menu(self, entry: int) -> None:
        assert self._step is not None
        try:
            if entry == ACCEPT:
                said = self._wishes.accept(number=self._step.number)
            elif entry == UNDO:
                said = self._wishes.undo()
            elif entry == CLEAR:
                said = self._wishes.clear()
            elif entry == RAYS:
                said = self._wishes.toggle_rays()
            else:
                said = f'there is no entry {entry} in the menu of the target'
        except Rejected as why:
            said = why.message
        self._node.get_logger().info(said)

    @property
    def _named(self) -> str:
        assert self._step is not None
        return _name(self._step)


def _name(step: Step) -> str:
    return f'step {step.number}'


def _marker(step: Step, pose: Pose, header: Header, rays: bool) -> InteractiveMarker:
    marker = InteractiveMarker(header=header, name=_name(step), pose=pose, scale=SCALE_M,
                               description=f'{step.number}: {DECIDED[step.decided]}')
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
