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
class TargetRays:
    """Where a target was seen, and by which cameras; a person may move the target from there."""

    camera_origins_base_m: tuple[Array, ...]
    point_base_m: Array


def rays_from_result(locate_result: LocateResult) -> TargetRays:
    """Return what the rays of an answer with a target are drawn from."""
    assert locate_result.target is not None
    views = (locate_result.clicked, *(a.view for a in locate_result.correspondences if a.rejected is None))
    return TargetRays(tuple(v.base_from_cam.t_m for v in views
                       if v is not None and v.base_from_cam is not None),
                 locate_result.target.base_from_target.t_m)


def delete_all_markers() -> MarkerArray:
    """Take everything away."""
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL)])


def build_target_markers(target: GraspTarget, verdict: str, rays: TargetRays | None) -> MarkerArray:
    """Draw a target, with its rays if `seen` is given; an earlier one's marks are deleted first."""
    in_base = Header(frame_id=target.header.frame_id)  # stamp 0: always the newest TF
    pose = target.pose.pose
    marks = [
        _make_marker(in_base, 'approach', Marker.ARROW, BLUE, (APPROACH_M, 0.008, 0.008),
                _approach_pose(transform_from_pose(pose))),
        _make_marker(in_base, 'target', Marker.SPHERE, ORANGE, (0.02, 0.02, 0.02), pose),
        _verdict_marker(in_base, f'{target.confidence:.2f} {verdict}', pose.position),
    ]
    if rays is not None:
        marks += [_ray_marker(in_base, index, origin_base_m, rays.point_base_m)
                  for index, origin_base_m in enumerate(rays.camera_origins_base_m)]
    return MarkerArray(markers=[*delete_all_markers().markers, *marks])


def _make_marker(header: Header, name: str, kind: int, colour: ColorRGBA,
            scale_m: tuple[float, float, float], pose: Pose) -> Marker:
    marker = Marker(header=header, ns=name, type=kind, action=Marker.ADD, pose=pose, color=colour)
    marker.scale.x, marker.scale.y, marker.scale.z = scale_m
    return marker


def _approach_pose(base_from_target: Transform) -> Pose:
    """The arrow that ends on the surface: an ARROW points along its x, the approach is +z."""
    arrow = Pose(position=_to_point_msg(base_from_target.transform_points((0.0, 0.0, -APPROACH_M))))
    arrow.orientation = _quaternion_from_x_axis(base_from_target.rotate((0.0, 0.0, 1.0)))
    return arrow


def _quaternion_from_x_axis(direction: Array) -> Quaternion:
    """The shortest rotation that turns +x to the unit direction (3,)."""
    x, y, z = (float(value) for value in direction)
    if x < -1 + 1e-9:
        return Quaternion(x=0.0, y=0.0, z=1.0, w=0.0)
    norm = (2 * (1 + x)) ** 0.5
    return Quaternion(x=0.0, y=-z / norm, z=y / norm, w=norm / 2)


def _verdict_marker(header: Header, words: str, above: Point) -> Marker:
    pose = Pose(position=Point(x=above.x, y=above.y, z=above.z + 0.06))
    text = _make_marker(header, 'verdict', Marker.TEXT_VIEW_FACING, WHITE, (0.0, 0.0, 0.03), pose)
    text.text = words
    return text


def _ray_marker(header: Header, index: int, origin_base_m: Array, point_base_m: Array) -> Marker:
    ray = _make_marker(header, 'rays', Marker.LINE_STRIP, ORANGE, (0.002, 0.0, 0.0), Pose())
    ray.id, ray.points = index, [_to_point_msg(origin_base_m), _to_point_msg(point_base_m)]
    return ray


def _to_point_msg(xyz_m: Array) -> Point:
    x, y, z = (float(value) for value in xyz_m)
    return Point(x=x, y=y, z=z)
