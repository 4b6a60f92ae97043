"""The target in RViz: its markers and rays, and a marker to drag it by, with a menu."""
from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rclpy.node import Node
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import (
    InteractiveMarker,
    InteractiveMarkerControl,
    InteractiveMarkerFeedback,
    Marker,
    MarkerArray,
    MenuEntry,
)

from crosspoint_ros.core import visualization
from crosspoint_ros.core.datatypes import Array, Rejected, Transform
from crosspoint_ros.msg import GraspTarget
from crosspoint_ros.ros.conversions import point_from_xyz, pose_from_transform, transform_from_pose
from crosspoint_ros.ros.rviz.interactive_markers import InteractiveMarkers
from crosspoint_ros.ros.target.history import DECISION_NAMES, HistoryStep, TargetRays
from crosspoint_ros.ros.target.targets import ActiveTarget

if TYPE_CHECKING:  # it imports this module
    from crosspoint_ros.ros.target.review import ReviewServer

log = logging.getLogger(__name__)
# The colours and shapes of core/visualization.py and of the page.
BLUE, GREEN, AMBER = (ColorRGBA(r=r / 255, g=g / 255, b=b / 255, a=1.0)
                      for r, g, b in (visualization.BLUE, visualization.GREEN, visualization.AMBER))
WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
GREY = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)
APPROACH_M, PYRAMID_M = 0.12, 0.011
# RViz sends nothing while the mouse does not move, nor when its window loses focus in mid-drag.
DRAG_TIMEOUT_S = 10.0
MAX_DRAG_M = 1.0  # along a line of sight the mouse throws a marker kilometres away
MIN_MOVE_M, MIN_MOVE_RAD = 1e-4, 1e-3  # less is rounding: RViz computes in 32 bits
ACCEPT, UNDO, CLEAR, RAYS = 1, 2, 3, 4
SCALE_M, GRIP_M = 0.15, 0.03
# A control acts along or about its own x axis; these turn that to the target's x, y and z.
AXES = {'x': Quaternion(w=0.5**0.5, x=0.5**0.5), 'y': Quaternion(w=0.5**0.5, z=0.5**0.5),
        'z': Quaternion(w=0.5**0.5, y=0.5**0.5)}

# --- ~/markers ------------------------------------------------------------------------------------

def delete_all_markers() -> MarkerArray:
    """Return the message that deletes all markers."""
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])


def build_target_markers(target: GraspTarget, verdict: str, rays: TargetRays | None,
                         is_sure: bool = True) -> list[Marker]:
    """Return the markers of a target, with its rays if given.

    A sure target is a green ball, one to be checked an amber pyramid.
    """
    header = Header(frame_id=target.header.frame_id)  # stamp 0: always the newest TF
    pose = target.pose.pose
    p = pose.position
    text = _make_marker(header, 'verdict', Marker.TEXT_VIEW_FACING, WHITE, (0.0, 0.0, 0.03),
                        Pose(position=Point(x=p.x, y=p.y, z=p.z + 0.06)))
    text.text = f'{target.name} {target.confidence:.2f} {verdict}'.strip()
    markers = [
        _make_marker(header, 'approach', Marker.ARROW, BLUE, (APPROACH_M, 0.008, 0.008),
                     _approach_pose(transform_from_pose(pose))),
        _make_marker(header, 'target', Marker.SPHERE, GREEN, (0.02, 0.02, 0.02), pose) if is_sure
        else _make_pyramid(header, pose), text]
    if rays is not None:
        for index, origin_base_m in enumerate(rays.camera_origins_base_m):
            ray = _make_marker(header, 'rays', Marker.LINE_STRIP, BLUE, (0.002, 0.0, 0.0), Pose())
            ray.id = index
            ray.points = [point_from_xyz(origin_base_m), point_from_xyz(rays.point_base_m)]
            markers.append(ray)
    for marker in markers:
        marker.ns += f'/{target.name}' * bool(target.name)
    return markers


def _make_marker(header: Header, namespace: str, kind: int, colour: ColorRGBA,
                 scale_m: tuple[float, float, float], pose: Pose) -> Marker:
    x, y, z = scale_m
    return Marker(header=header, ns=namespace, type=kind, action=Marker.ADD, pose=pose,
                  color=colour, scale=Vector3(x=x, y=y, z=z))


def _make_pyramid(header: Header, pose: Pose) -> Marker:
    """Return a tetrahedron around the target, which looks like a triangle from everywhere."""
    marker = _make_marker(header, 'target', Marker.TRIANGLE_LIST, AMBER, (1.0, 1.0, 1.0), pose)
    corners = [point_from_xyz(PYRAMID_M * np.array(corner)) for corner in
               ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    marker.points = [corners[i] for face in ((0, 1, 2), (0, 3, 1), (0, 2, 3), (1, 3, 2))
                     for i in face]
    return marker


def _approach_pose(base_from_target: Transform) -> Pose:
    """The arrow that ends on the surface: an ARROW points along its x, the approach is +z."""
    return Pose(position=point_from_xyz(base_from_target.transform_points((0.0, 0.0, -APPROACH_M))),
                orientation=_quaternion_from_x_axis(base_from_target.rotate((0.0, 0.0, 1.0))))


def _quaternion_from_x_axis(direction: Array) -> Quaternion:
    """Return the shortest rotation that turns +x to the unit direction (3,)."""
    x, y, z = direction.tolist()
    if x < -1 + 1e-9:
        return Quaternion(x=0.0, y=0.0, z=1.0, w=0.0)
    norm = (2 * (1 + x)) ** 0.5
    return Quaternion(x=0.0, y=-z / norm, z=y / norm, w=norm / 2)


# --- ~/adjust -------------------------------------------------------------------------------------

class TargetMarker:
    """Shows the active target on `~/adjust`, and forwards drags and menu entries.

    Of those there are, the one without a name. The marker is named by the number of its step:
    feedback for a target that was replaced meanwhile names a marker that is gone.
    """

    def __init__(self, node: Node, base_frame: str, actions: ReviewServer) -> None:
        self._actions = actions
        self._header = Header(frame_id=base_frame)  # stamp 0: feedback comes in this frame too
        self._markers = InteractiveMarkers(node, '~/adjust')
        self._step: HistoryStep | None = None
        self._base_from_target: Transform | None = None
        self._shows_rays = True
        self._last_feedback_s: float | None = None  # of the current drag, monotonic
        self._last_warning = ''

    def update(self, state: ActiveTarget) -> None:
        """Show the active target, or none, and end a drag; a preview changes nothing."""
        if state.name or state.preview is not None:
            return
        self._last_feedback_s = None
        target, shown = state.active_target, self._step
        step = None if target is None else state.step
        is_same = (shown is not None and step is not None and state.show_rays == self._shows_rays
                   and (step.number, step.decision) == (shown.number, shown.decision))
        if shown is not None and (step is None or step.number != shown.number):
            self._markers.remove(_get_marker_name(shown))
        if step is not None:
            assert target is not None
            pose = target.pose.pose
            self._base_from_target = transform_from_pose(pose)
            if is_same:
                self._markers.move(_get_marker_name(step), pose, self._header)
            else:
                self._last_warning = ''
                self._markers.put(_build_marker(step, pose, self._header, state.show_rays),
                                  self._on_feedback)
        self._step, self._shows_rays = step, state.show_rays
        self._markers.apply()

    def tick(self) -> None:
        """Undo a drag whose client is silent or gone."""
        if self._last_feedback_s is None:
            return
        silent_s = time.monotonic() - self._last_feedback_s
        if silent_s > DRAG_TIMEOUT_S or not self._markers.has_subscribers:
            log.warning('the target was dragged and not released for %.1f s (limit %g s, or until '
                        'the client is gone): it is back where it was', silent_s, DRAG_TIMEOUT_S)
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
        assert self._step is not None
        has_moved = not self._is_at(base_from_target)
        if event == InteractiveMarkerFeedback.POSE_UPDATE:
            # RViz sends one before each press and release, also for a click that moves nothing.
            if has_moved or self._last_feedback_s is not None:
                self._last_feedback_s = time.monotonic()
                self._markers.move(_get_marker_name(self._step),
                                   pose_from_transform(base_from_target), self._header)
                self._markers.apply()
                self._actions.preview_move(base_from_target)
        elif self._last_feedback_s is None:
            if has_moved:
                raise ValueError('it was released after its drag had been given up')
        elif has_moved:
            self._actions.commit_move(base_from_target)
        else:
            self._actions.restore_target()

    def _requested_pose(self, feedback: InteractiveMarkerFeedback) -> Transform:
        frame, expected = feedback.header.frame_id, self._header.frame_id
        if frame.lstrip('/') != expected.lstrip('/'):
            raise ValueError(f'its pose is in the frame {frame!r}, not in {expected!r}')
        base_from_target = transform_from_pose(feedback.pose)
        assert self._base_from_target is not None
        drag_m = float(np.linalg.norm(base_from_target.t_m - self._base_from_target.t_m))
        if drag_m > MAX_DRAG_M:
            raise ValueError(f'{drag_m:.2f} m is too far (limit {MAX_DRAG_M:g} m a drag): click '
                             'where the target should be')
        return base_from_target

    def _is_at(self, base_from_target: Transform) -> bool:
        assert self._base_from_target is not None
        change = self._base_from_target.inverse @ base_from_target
        angle_rad = np.arccos(np.clip((np.trace(change.R) - 1) / 2, -1.0, 1.0))
        return bool(np.linalg.norm(change.t_m) < MIN_MOVE_M and angle_rad < MIN_MOVE_RAD)

    def _reject_move(self, reason: str) -> None:
        if reason != self._last_warning:  # a mouse sends 60 events a second
            self._last_warning = reason
            log.warning('the target was not moved: %s', reason)
        self._actions.restore_target()

    def _on_menu(self, entry: int) -> None:
        assert self._step is not None
        number, actions = self._step.number, self._actions
        choices = {ACCEPT: lambda: actions.accept(number=number), UNDO: actions.undo,
                   CLEAR: actions.clear, RAYS: actions.toggle_rays}
        try:
            message = choices[entry]() if entry in choices else (
                f'there is no entry {entry} in the menu of the target')
        except Rejected as rejected:
            message = rejected.message
        log.info(message)


def _get_marker_name(step: HistoryStep) -> str:
    return f'step {step.number}'


def _build_marker(step: HistoryStep, pose: Pose, header: Header, rays: bool) -> InteractiveMarker:
    marker = InteractiveMarker(header=header, name=_get_marker_name(step), pose=pose, scale=SCALE_M,
                               description=f'{step.number}: {DECISION_NAMES[step.decision]}')
    marker.menu_entries = [
        MenuEntry(id=number, title=title, command_type=MenuEntry.FEEDBACK)
        for number, title in ((ACCEPT, 'accept'), (UNDO, 'undo'), (CLEAR, 'clear'),
                              (RAYS, f'[{"x" if rays else " "}] show rays'))]
    # `~/markers` shows the target; this is only what the mouse can grip.
    grip = Marker(type=Marker.SPHERE, scale=Vector3(x=GRIP_M, y=GRIP_M, z=GRIP_M), color=GREY)
    marker.controls = [InteractiveMarkerControl(
        name='menu', interaction_mode=InteractiveMarkerControl.MENU, always_visible=True,
        orientation=Quaternion(w=1.0), markers=[grip])]
    for axis, orientation in AXES.items():
        for action, mode in (('move', InteractiveMarkerControl.MOVE_AXIS),
                             ('turn', InteractiveMarkerControl.ROTATE_AXIS)):
            marker.controls.append(InteractiveMarkerControl(
                name=f'{action} {axis}', interaction_mode=mode, orientation=orientation))
    return marker
