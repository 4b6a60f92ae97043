"""The server process of test_smoke.py: echoes requests on all our interfaces."""
from __future__ import annotations

import time

import rclpy
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import Correspondence, QueryResult, Status
from crosspoint_ros.srv import Correspond as CorrespondService
from rclpy.action import ActionServer
from rclpy.qos import DurabilityPolicy, QoSProfile


def echo(request) -> QueryResult:
    """Answer with the request's own camera and pixel, one correspondence per other camera."""
    result = QueryResult(query_id=request.instruction, status=Status(code=Status.PARTIAL))
    result.clicked.camera = request.camera
    result.clicked.x, result.clicked.y = request.x, request.y
    for camera in request.other_cameras:
        found = Correspondence(query_id=request.instruction, covariance_px2=[4.0, 0.5, 0.5, 9.0])
        found.found.camera, found.found.x = camera, float('nan')
        result.correspondences.append(found)
    return result


def serve(request, response):
    response.result = echo(request)
    return response


def execute(goal_handle):
    for _ in range(10):  # until the client has discovered the topic
        goal_handle.publish_feedback(CorrespondAction.Feedback(stage='match', elapsed_s=0.25))
        time.sleep(0.05)
    goal_handle.succeed()
    return CorrespondAction.Result(result=echo(goal_handle.request))


def main() -> None:
    rclpy.init()
    node = rclpy.create_node('echo')
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(QueryResult, 'echo/result', latched)
    publisher.publish(QueryResult(query_id='latched', stages=['match', 'lift'], stage_s=[0.5, 2.0]))
    node.create_service(CorrespondService, 'echo/once', serve)
    ActionServer(node, CorrespondAction, 'echo/correspond', execute)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass  # how the test ends this process
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
