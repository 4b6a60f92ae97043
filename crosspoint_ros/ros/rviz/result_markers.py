"""The answer in RViz: the target, the rays it was seen along, and the verdict in words."""
from __future__ import annotations

from dataclasses import dataclass

from geometry_msgs.msg import Point, Pose, Quaternion
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import GraspTarget
from crosspoint_ros.ros.conversions import transform_from_pose

# Okabe and Ito's palette: told apart by the colour-blind.
BLUE = ColorRGBA(r=0.0, g=0.45, b=0.70, a=1.0)
ORANGE = ColorRGBA(r=0.90, g=0.62, b=0.0, a=1.0)
WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
APPROACH_M = 0.12


@dataclass(frozen=True, eq=False)
class Sight:
    """Where a target was seen, and by which cameras; a person may move the target from there."""

    eyes_base_m: tuple[Array, ...]
    seen_base_m: Array


def sight(located: LocateResult) -> Sight:
    """Return what the rays of an answer with a target are drawn from."""
    assert located.target is not None
    views = (located.clicked, *(a.view for a in located.answers if a.rejected is None))
    return Sight(tuple(v.base_from_cam.t_m for v in views
                       if v is not None and v.base_from_cam is not None),
                 located.target.base_from_target.t_m)


def deletion() -> MarkerArray:
    """Take everything away."""
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])


def target_markers(target: GraspTarget, verdict: str, seen: Sight | None) -> MarkerArray:
    """Draw a target, with its rays if `seen` is given; an earlier one's marks are deleted first."""
    in_base = Header(frame_id=target.header.frame_id)  # stamp 0: always the newest TF
    pose = target.pose.pose
    marks = [
        _marker(in_base, 'approach', Marker.ARROW, BLUE, (APPROACH_M, 0.008, 0.008),
                _approach(transform_from_pose(pose))),
        _marker(in_base, 'target', Marker.SPHERE, ORANGE, (0.02, 0.02, 0.02), pose),
        _verdict(in_base, f'{target.confidence:.2f} {verdict}', pose.position),
    ]
    if seen is not None:
        marks += [_ray(in_base, index, eye_base_m, seen.seen_base_m)
                  for index, eye_base_m in enumerate(seen.eyes_base_m)]
    return MarkerArray(markers=[*deletion().markers, *marks])


def _marker(header: Header, name: str, kind: int, colour: ColorRGBA,
            scale_m: tuple[float, float, float], pose: Pose) -> Marker:
    marker = Marker(header=header, ns=name, type=kind, action=Marker.ADD, pose=pose, color=colour)
    marker.scale.x, marker.scale.y, marker.scale.z = scale_m
    return marker


def _approach(base_from_target: Transform) -> Pose:
    """The arrow that ends on the surface: an ARROW points along its x, the approach is +z."""
    arrow = Pose(position=_point(base_from_target.point((0.0, 0.0, -APPROACH_M))))
    arrow.orientation = _x_along(base_from_target.direction((0.0, 0.0, 1.0)))
    return arrow


def _x_along(direction: Array) -> Quaternion:
    """The shortest rotation that turns +x to the unit direction (3,)."""
    x, y, z = (float(value) for value in direction)
    if x < -1 + 1e-9:
        return Quaternion(x=0.0, y=0.0, z=1.0, w=0.0)
    norm = (2 * (1 + x)) ** 0.5
    return Quaternion(x=0.0, y=-z / norm, z=y / norm, w=norm / 2)


def _verdict(header: Header, words: str, above: Point) -> Marker:
    pose = Pose(position=Point(x=above.x, y=above.y, z=above.z + 0.06))
    text = _marker(header, 'verdict', Marker.TEXT_VIEW_FACING, WHITE, (0.0, 0.0, 0.03), pose)
    text.text = words
    return text


def _ray(header: Header, index: int, eye_base_m: Array, seen_base_m: Array) -> Marker:
    ray = _marker(header, 'rays', Marker.LINE_STRIP, ORANGE, (0.002, 0.0, 0.0), Pose())
    ray.id, ray.points = index, [_point(eye_base_m), _point(seen_base_m)]
    return ray


def _point(xyz_m: Array) -> Point:
    x, y, z = (float(value) for value in xyz_m)
    return Point(x=x, y=y, z=z)
