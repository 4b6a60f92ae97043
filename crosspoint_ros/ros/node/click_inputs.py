"""Every way a click comes in, as one `Request`."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PointStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.ros.config import CameraConfig
from crosspoint_ros.ros.conversions import stamp_to_ns
from crosspoint_ros.ros.node.query_queue import QueryRequest
from crosspoint_ros.srv import Correspond as CorrespondService

# DDS drops in silence what does not fit; rclpy's services and most clients have room for 10.
DEEP_QOS = QoSProfile(depth=200)

Submit = Callable[[QueryRequest], object]


def request_from_goal(goal: CorrespondAction.Goal | CorrespondService.Request) -> QueryRequest:
    """Take a goal of the action, or a request of the service: the same fields."""
    pixel = None if goal.instruction else np.array([goal.x, goal.y])
    return QueryRequest(camera=goal.camera, stamp_ns=stamp_to_ns(goal.stamp), pixel=pixel,
                   instruction=goal.instruction,
                   other_cameras=tuple(dict.fromkeys(goal.other_cameras)))


def request_from_click(camera: str, click: PointStamped) -> QueryRequest:
    """Take `~/<camera>/click`: pixels, stamped with the clicked image or 0 for the newest."""
    return QueryRequest(camera=camera, stamp_ns=stamp_to_ns(click.header.stamp),
                   pixel=np.array([click.point.x, click.point.y]))


def request_from_mouse(camera: str, click: Point) -> QueryRequest:
    """Take rqt_image_view's click: no header, and it may lie one pixel past the border."""
    return QueryRequest(camera=camera, pixel=np.array([click.x, click.y]), clamp=True)


def request_from_rviz(warn: Callable[[str], object], click: PointStamped) -> QueryRequest:
    """Take RViz2's Publish Point: a 3D point on what is rendered, stamped when it was clicked."""
    if click.point.z == 0.0:
        warn(
            f'/clicked_point has z = 0 exactly in {click.header.frame_id!r}: some tools publish '
            'the ground plane under the cursor, not the surface that was clicked')
    return QueryRequest(point_m=np.array([click.point.x, click.point.y, click.point.z]),
                   point_frame=click.header.frame_id)


@dataclass(frozen=True)
class ClickTopic:
    """A topic that clicks come in by, and what becomes of its messages."""

    name: str
    msg_type: type
    to_request: Callable[[Any], QueryRequest]


def click_topics(cameras: tuple[CameraConfig, ...], resolve: Callable[[str], str],
                 warn: Callable[[str], object]) -> list[ClickTopic]:
    """All click topics of `ros_api.md`; `resolve` gives the full name of one."""
    topics = [ClickTopic('/clicked_point', PointStamped, partial(request_from_rviz, warn))]
    for camera in cameras:
        topics += [
            ClickTopic(resolve(f'~/{camera.name}/click'), PointStamped,
                       partial(request_from_click, camera.name)),
            ClickTopic(f'{resolve(camera.image_topic)}_mouse_left', Point,
                       partial(request_from_mouse, camera.name))]
    return topics


def subscribe_clicks(node: Node, cameras: tuple[CameraConfig, ...], submit: Submit
                     ) -> list[Subscription]:
    """Listen to all click topics."""

    def take(topic: ClickTopic, click: Any) -> None:
        submit(topic.to_request(click))

    return [node.create_subscription(topic.msg_type, topic.name, partial(take, topic), DEEP_QOS)
            for topic in click_topics(cameras, node.resolve_topic_name,
                                      node.get_logger().warning)]
