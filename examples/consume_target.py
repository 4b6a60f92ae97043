#!/usr/bin/env python3
"""Send a click as an action goal and look the target up on TF, as a grasp planner would.

    python examples/consume_target.py [CAMERA X Y]
"""
import sys
from threading import Thread

import rclpy
from crosspoint_ros.action import Correspond
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from tf2_ros import Buffer, TransformListener


def main(camera: str = 'front', x: float = 500.0, y: float = 280.0) -> int:
    rclpy.init()
    node = rclpy.create_node('consume_target')
    buffer = Buffer()
    TransformListener(buffer, node)
    action = ActionClient(node, Correspond, '/crosspoint/correspond')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Thread(target=executor.spin)  # so that the calls below may block
    spinning.start()
    try:
        return consume(action, buffer, Correspond.Goal(camera=camera, x=x, y=y))
    finally:
        executor.shutdown()
        spinning.join()
        rclpy.try_shutdown()


def consume(action: ActionClient, buffer: Buffer, goal: Correspond.Goal) -> int:
    if not action.wait_for_server(timeout_sec=20):
        print('no /crosspoint/correspond: is the node running in this ROS_DOMAIN_ID?')
        return 4
    result = action.send_goal(goal).result.result
    if not result.has_target:
        print(f'no target: {result.status.message}')
        return 3
    base_frame = result.target.header.frame_id
    target = buffer.lookup_transform(base_frame, 'crosspoint_target', Time(), Duration(seconds=5))
    at = target.transform.translation
    print(f'approach {target.child_frame_id} along its +z: ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m '
          f'in {base_frame}')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2], *map(float, sys.argv[2:])))
