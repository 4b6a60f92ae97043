"""Messages of a query: clicks and goals to `QueryRequest`, answers to `QueryResult`."""
from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped, Pose, PoseWithCovariance, Quaternion
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from std_msgs.msg import Header

from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.core.datatypes import Array, Code, Match, Rejected, Transform
from crosspoint_ros.core.grasp.approach import Approach, ApproachMode
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import (
    Correspondence,
    GraspTarget,
    ImagePoint,
    QueryResult,
    Status,
    TargetSighting,
    TargetState,
)
from crosspoint_ros.ros.config import CameraConfig
from crosspoint_ros.ros.conversions import pose_from_transform, time_from_ns, transform_from_pose
from crosspoint_ros.ros.node.query_queue import QueryRequest, QueryTask
from crosspoint_ros.ros.target.targets import ActiveTarget, check_target_name
from crosspoint_ros.srv import Correspond as CorrespondService

OnResult = Callable[[QueryResult], None]

log = logging.getLogger(__name__)
# DDS silently drops what does not fit; rclpy's services and most clients have room for 10.
DEEP_QOS = QoSProfile(depth=200)
NAN_PIXEL = np.full(2, np.nan)
NAN_POSE = PoseWithCovariance(
    pose=Pose(position=Point(x=np.nan, y=np.nan, z=np.nan),
              orientation=Quaternion(x=np.nan, y=np.nan, z=np.nan, w=np.nan)),
    covariance=np.full(36, np.nan))

# --- requests -------------------------------------------------------------------------------------

def request_from_goal(goal: CorrespondAction.Goal | CorrespondService.Request) -> QueryRequest:
    """Return the request of an action goal or a service call, which have the same fields."""
    def build() -> QueryRequest:
        check_target_name(goal.target_name, goal.hold_s)
        return QueryRequest(
            camera=goal.camera, stamp_ns=stamp_to_ns(goal.stamp),
            pixel=None if goal.instruction else np.array([goal.x, goal.y]),
            instruction=goal.instruction, other_cameras=tuple(dict.fromkeys(goal.other_cameras)),
            approach=_approach_from_goal(goal), target_name=goal.target_name, hold_s=goal.hold_s)
    return QueryRequest.build(goal.camera, build)


def _approach_from_goal(goal: CorrespondAction.Goal | CorrespondService.Request) -> Approach:
    if goal.approach not in set(ApproachMode):
        raise Rejected(Code.BAD_REQUEST, f'approach {goal.approach} is not one of ' + ', '.join(
            f'{mode.name} {mode.value}' for mode in ApproachMode))
    vector = goal.approach_vector
    return Approach(ApproachMode(goal.approach), np.array([vector.x, vector.y, vector.z]),
                    goal.approach_m)


def request_from_click(camera: str, click: PointStamped) -> QueryRequest:
    """Return the request of `~/<camera>/click`: pixels, stamp of the image or 0 for the newest."""
    return QueryRequest(camera=camera, stamp_ns=stamp_to_ns(click.header.stamp),
                        pixel=np.array([click.point.x, click.point.y]))


def request_from_mouse(camera: str, click: Point) -> QueryRequest:
    """Return the request of a click in rqt_image_view: no stamp, up to a pixel off the image."""
    return QueryRequest(camera=camera, pixel=np.array([click.x, click.y]), clamp=True)


def request_from_rviz(click: PointStamped) -> QueryRequest:
    """Return the request of RViz2's Publish Point: a 3D point on what is rendered."""
    if click.point.z == 0.0:
        log.warning('/clicked_point has z = 0 exactly in %r: some tools publish the ground plane '
                    'under the cursor, not the surface that was clicked', click.header.frame_id)
    return QueryRequest(point_m=np.array([click.point.x, click.point.y, click.point.z]),
                        point_frame=click.header.frame_id)


@dataclass(frozen=True)
class ClickTopic:
    """A topic of clicks, and how its messages become requests. camera: '' for a 3D point."""

    name: str
    msg_type: type
    to_request: Callable[[Any], QueryRequest]
    camera: str = ''


def list_click_topics(cameras: tuple[CameraConfig, ...], resolve: Callable[[str], str]
                      ) -> list[ClickTopic]:
    """Return all click topics of docs/node.md; `resolve` gives the full name of a topic."""
    topics = [ClickTopic('/clicked_point', PointStamped, request_from_rviz)]
    for camera in cameras:
        topics += [
            ClickTopic(resolve(f'~/{camera.name}/click'), PointStamped,
                       partial(request_from_click, camera.name), camera.name),
            ClickTopic(f'{resolve(camera.image_topic)}_mouse_left', Point,
                       partial(request_from_mouse, camera.name), camera.name)]
    return topics


def subscribe_clicks(node: Node, cameras: tuple[CameraConfig, ...],
                     submit: Callable[[QueryRequest], object]) -> list[Subscription]:
    """Subscribe to all click topics; a click that cannot be read is a request that is refused."""

    def on_click(topic: ClickTopic, serialized: bytes) -> None:
        submit(QueryRequest.build(topic.camera, lambda: topic.to_request(
            _deserialize_click(topic, serialized))))

    # Raw: DDS silently drops a message that it cannot deserialize itself.
    return [node.create_subscription(topic.msg_type, topic.name, partial(on_click, topic), DEEP_QOS,
                                     raw=True)
            for topic in list_click_topics(cameras, node.resolve_topic_name)]


def _deserialize_click(topic: ClickTopic, serialized: bytes) -> Any:
    try:
        return deserialize_message(serialized, topic.msg_type)
    except Exception as error:  # of a class that rclpy keeps to itself
        raise Rejected(Code.BAD_REQUEST, f'the {len(serialized)} bytes that came on {topic.name} '
                       f'are not a {topic.msg_type.__name__}: {error}') from error


# --- results --------------------------------------------------------------------------------------

def make_header(stamp_ns: int, frame_id: str) -> Header:
    """Return a header."""
    return Header(stamp=time_from_ns(stamp_ns), frame_id=frame_id)


def build_query_result(task: QueryTask, base_frame: str, limits: Limits) -> QueryResult:
    """Return the one result of a finished query."""
    result = _build_rejected_result(task) if task.locate_result is None else _build_located_result(
        task.query_id, task.locate_result, base_frame, limits)
    durations_s = task.stage_durations_s()
    result.query_id = task.query_id
    result.stages, result.stage_s = list(durations_s), list(durations_s.values())
    return result


def _build_rejected_result(task: QueryTask) -> QueryResult:
    request = task.request
    header = make_header(request.stamp_ns, '')
    return QueryResult(header=header, status=_build_status(task.rejected),
                       clicked=_build_image_point(request.camera, header, request.pixel))


def _build_located_result(query_id: str, located: LocateResult, base_frame: str, limits: Limits
                          ) -> QueryResult:
    header = make_header(located.clicked.stamp_ns, located.clicked.frame_id)
    clicked = _build_image_point(located.clicked.camera, header, located.pixel)
    code, message = located.status
    result = QueryResult(header=header, clicked=clicked,
                         status=Status(code=int(code), message=message))
    result.correspondences = [_build_correspondence(query_id, clicked, found, limits)
                              for found in located.correspondences]
    if located.target is not None:
        result.has_target = True
        result.target = _build_grasp_target(query_id, located, base_frame)
    return result


def _build_correspondence(query_id: str, clicked: ImagePoint, found: ViewCorrespondence,
                          limits: Limits) -> Correspondence:
    view, match, consistency = found.view, found.match, found.consistency
    header = Header() if view is None else make_header(view.stamp_ns, view.frame_id)
    # A refused pixel is not published, so that no consumer can use it.
    published = match if found.rejected is None and match is not None else Match(NAN_PIXEL)
    verdict = Correspondence.REFUSED
    if found.rejected is None:
        is_sure = published.confidence >= limits.sure_confidence
        verdict = Correspondence.SURE if is_sure else Correspondence.TO_BE_CHECKED
    status = _build_status(found.rejected) if found.rejected is not None else Status(
        code=Status.OK, message=consistency.doubt)
    if found.rejected is not None and match is not None and 'found at (' not in status.message:
        x, y = match.pixel
        status.message += f'; found at ({x:.1f}, {y:.1f})'  # for people to look at
    return Correspondence(
        header=header, query_id=query_id, status=status, clicked=clicked,
        found=_build_image_point(found.camera, header, published.pixel),
        refused_at=_build_image_point(found.camera, header, None if found.rejected is None or
                                      match is None else match.pixel),
        covariance_px2=np.asarray(published.covariance_px2, dtype=np.float64).ravel(),
        confidence=0.0 if match is None else float(match.confidence), verdict=verdict,
        check=int(consistency.check), epipolar_error_px=float(consistency.epipolar_error_px),
        depth_gap_m=float(consistency.depth_gap_m))


def _build_grasp_target(query_id: str, located: LocateResult, base_frame: str) -> GraspTarget:
    target = located.target
    assert target is not None
    message = GraspTarget(
        header=make_header(located.clicked.stamp_ns, base_frame), query_id=query_id,
        confidence=float(target.confidence), method=int(target.method),
        normal_measured=target.normal_measured, sigma_normal_rad=target.sigma_normal_rad,
        sigma_yaw_rad=target.sigma_yaw_rad, width_m=target.width_m,
        pregrasp=pose_from_transform(target.base_from_pregrasp))
    message.pose.pose = pose_from_transform(target.base_from_target)
    message.pose.covariance = target.covariance.ravel()
    return message


def place_target(target: GraspTarget, base_from_target: Transform, covariance: Array
                 ) -> GraspTarget:
    """Return the target at another pose of that covariance (6, 6), NaN where it is not known."""
    placed = copy.copy(target)
    placed.pose = PoseWithCovariance(pose=pose_from_transform(base_from_target),
                                     covariance=np.asarray(covariance).ravel())
    target_from_pregrasp = (transform_from_pose(target.pose.pose).inverse
                            @ transform_from_pose(target.pregrasp))
    placed.pregrasp = pose_from_transform(base_from_target @ target_from_pregrasp)
    turns = base_from_target.R.T @ np.reshape(covariance, (6, 6))[3:, 3:] @ base_from_target.R
    about_x, about_y, about_z = np.sqrt(np.maximum(np.diag(turns), 0.0))
    placed.sigma_normal_rad, placed.sigma_yaw_rad = float(max(about_x, about_y)), float(about_z)
    return placed


def build_target_state(target: ActiveTarget, base_frame: str) -> TargetState:
    """Return the state of a target as a message."""
    state = TargetState(
        header=Header(frame_id=base_frame), name=target.name, state=target.state,
        valid=target.is_valid, pose=NAN_POSE, message=target.message,
        since=time_from_ns(target.since_ns), valid_until=time_from_ns(target.valid_until_ns),
        held_until=time_from_ns(target.held_until_ns))
    if target.last_step is None or target.last_step.result is None:
        return state
    result = target.last_step.result
    state.query_id, state.header.stamp = result.query_id, result.target.header.stamp
    state.frame = result.target.frame
    state.sightings = _build_sightings(result)
    state.last_seen = max((seen.header.stamp for seen in state.sightings
                           if seen.status.code == Status.OK), key=stamp_to_ns)
    followed = target.followed
    if followed is not None:
        state.sightings = list(followed.sightings)
        state.last_seen = time_from_ns(followed.last_seen_ns)
        state.header.stamp = state.last_seen
        if followed.target is not None:
            state.pose = followed.target.pose
    if target.active_target is not None:
        state.pose = (target.preview or target.active_target).pose
    return state


def _build_sightings(result: QueryResult) -> list[TargetSighting]:
    clicked = result.clicked
    return [TargetSighting(header=clicked.header, camera=clicked.camera, confidence=1.0,
                           status=Status(code=Status.OK)),
            *(TargetSighting(header=view.header, camera=view.found.camera, status=view.status,
                             confidence=view.confidence) for view in result.correspondences)]


def _build_status(rejected: Rejected | None) -> Status:
    if rejected is None:
        return Status(code=Status.OK)
    return Status(code=int(rejected.code), message=rejected.message)


def _build_image_point(camera: str, header: Header, pixel: Array | None) -> ImagePoint:
    x, y = NAN_PIXEL if pixel is None else pixel
    return ImagePoint(header=header, camera=camera, x=float(x), y=float(y))
