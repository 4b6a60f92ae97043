#!/usr/bin/env python3
"""Send a click as an action goal and look its target up on TF, as a grasp planner would.

    python examples/consume_target.py [CAMERA X Y]
"""
import sys
import time
from threading import Thread

import rclpy
from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import TargetState
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_ros import Buffer, TransformListener


def main(camera: str = 'front', x: float = 500.0, y: float = 280.0) -> int:
    rclpy.init()
    node = rclpy.create_node('consume_target')
    buffer = Buffer()
    TransformListener(buffer, node)
    states: list[TargetState] = []
    node.create_subscription(TargetState, '/crosspoint/target_state', states.append, QoSProfile(
        depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    action = ActionClient(node, Correspond, '/crosspoint/correspond')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = Thread(target=executor.spin)  # so that the calls below may block
    spinning.start()
    try:
        return consume(action, buffer, states, Correspond.Goal(camera=camera, x=x, y=y))
    finally:
        executor.shutdown()
        spinning.join()
        rclpy.try_shutdown()


def consume(action: ActionClient, buffer: Buffer, states: list[TargetState],
            goal: Correspond.Goal) -> int:
    if not action.wait_for_server(timeout_sec=20):
        print('no /crosspoint/correspond: is the node running in this ROS_DOMAIN_ID?')
        return 4
    result = action.send_goal(goal).result.result
    if not result.has_target:
        print(f'no target: {result.status.message}')
        return 3
    end_s = time.monotonic() + 5
    while not (states and states[-1].query_id == result.query_id) and time.monotonic() < end_s:
        time.sleep(0.01)
    # The alias crosspoint_target may be another target by now; `frame` is this answer for good.
    state = states[-1] if states else TargetState()
    if state.query_id != result.query_id or not state.valid:
        print(f'the target is not valid any more: {state.message}')
        return 3
    target = buffer.lookup_transform(state.header.frame_id, state.frame,
                                     Time.from_msg(state.header.stamp), Duration(seconds=5))
    at = target.transform.translation
    print(f'approach {state.frame} along its +z: ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m in '
          f'{state.header.frame_id}')
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2], *map(float, sys.argv[2:])))
