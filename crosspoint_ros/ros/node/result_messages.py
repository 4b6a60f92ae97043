"""What a query came to, as messages."""
from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Array, Match, Rejected
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.msg import Correspondence, GraspTarget, ImagePoint, QueryResult, Status
from crosspoint_ros.ros.conversions import pose_from_transform, time_from_ns
from crosspoint_ros.ros.node.query_queue import QueryTask

NAN_PIXEL = np.full(2, np.nan)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Build a header."""
    return Header(stamp=time_from_ns(stamp_ns), frame_id=frame_id)


def build_query_result(task: QueryTask, base_frame: str, limits: Limits) -> QueryResult:
    """Build the one result of a query that has ended."""
    result = _build_rejected(task) if task.locate_result is None else _build_answered(
        task.query_id, task.locate_result, base_frame, limits)
    seconds = task.stage_durations_s()
    result.query_id = task.query_id
    result.stages, result.stage_s = list(seconds), list(seconds.values())
    return result


def _build_rejected(task: QueryTask) -> QueryResult:
    request = task.request
    asked = header(request.stamp_ns, '')
    return QueryResult(
        header=asked, status=_build_status(task.rejected),
        clicked=_build_image_point(request.camera, asked, request.pixel))


def _build_answered(query_id: str, locate_result: LocateResult, base_frame: str, limits: Limits) -> QueryResult:
    clicked_in = header(locate_result.clicked.stamp_ns, locate_result.clicked.frame_id)
    clicked = _build_image_point(locate_result.clicked.camera, clicked_in, locate_result.pixel)
    code, message = locate_result.status
    result = QueryResult(header=clicked_in, clicked=clicked,
                         status=Status(code=int(code), message=message))
    result.correspondences = [
        _build_correspondence(query_id, clicked, answer, limits) for answer in locate_result.correspondences]
    if locate_result.target is not None:
        result.has_target = True
        result.target = _build_grasp_target(query_id, locate_result, base_frame)
    return result


def _build_correspondence(query_id: str, clicked: ImagePoint, answer: ViewCorrespondence,
                    limits: Limits) -> Correspondence:
    view, match, evidence = answer.view, answer.match, answer.consistency
    seen = Header() if view is None else header(view.stamp_ns, view.frame_id)
    # A refused pixel is not handed out: somebody would use it.
    given = match if answer.rejected is None and match is not None else Match(NAN_PIXEL)
    verdict = Correspondence.REFUSED
    if answer.rejected is None:
        sure = given.confidence >= limits.sure_confidence
        verdict = Correspondence.SURE if sure else Correspondence.TO_BE_CHECKED
    return Correspondence(
        header=seen, query_id=query_id, status=_build_status(answer.rejected), clicked=clicked,
        found=_build_image_point(answer.camera, seen, given.pixel),
        covariance_px2=np.asarray(given.covariance_px2, dtype=np.float64).ravel(),
        confidence=0.0 if match is None else float(match.confidence), verdict=verdict,
        check=int(evidence.check), epipolar_error_px=float(evidence.epipolar_error_px),
        depth_gap_m=float(evidence.depth_gap_m))


def _build_grasp_target(query_id: str, locate_result: LocateResult, base_frame: str) -> GraspTarget:
    target = locate_result.target
    assert target is not None
    message = GraspTarget(
        header=header(locate_result.clicked.stamp_ns, base_frame), query_id=query_id,
        confidence=float(target.confidence), method=int(target.method))
    message.pose.pose = pose_from_transform(target.base_from_target)
    message.pose.covariance = target.covariance.ravel()
    return message


def is_answered(result: QueryResult) -> bool:
    """Tell whether the point was found in some view."""
    return any(c.verdict != Correspondence.REFUSED for c in result.correspondences)


def to_pose_stamped(target: GraspTarget) -> PoseStamped:
    """The target as the type that motion planners take."""
    return PoseStamped(header=target.header, pose=target.pose.pose)


def _build_status(rejected: Rejected | None) -> Status:
    if rejected is None:
        return Status(code=Status.OK)
    return Status(code=int(rejected.code), message=rejected.message)


def _build_image_point(camera: str, seen: Header, pixel: Array | None) -> ImagePoint:
    x, y = NAN_PIXEL if pixel is None else pixel
    return ImagePoint(header=seen, camera=camera, x=float(x), y=float(y))
