#!/usr/bin/env python3
"""From a click to a grasp: what a pipeline adds. Put your robot's driver into `Arm`.

    python examples/pick.py [CAMERA X Y]
"""
import sys
from copy import deepcopy

from crosspoint_ros.msg import TargetState

import crosspoint_ros as cp

STANDOFF_M, OPEN_M = 0.1, 0.08


class Arm:
    def move(self, pose, frame: str) -> None:
        at = pose.position
        print(f'move to ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m in {frame}')

    def grip(self, opening_m: float) -> None:
        print(f'grip {opening_m:.3f} m')


def pick(client: cp.Client, arm: Arm, camera: str, pixel: tuple[float, float]) -> str:
    states = []
    client.subscribe_target_state(states.append)
    result = client.click(camera, pixel, approach=cp.Approach(cp.ApproachMode.FROM_ABOVE))
    if not result.has_target:
        return f'refused: {result.status.message}'
    arm.grip(OPEN_M)  # fully: the click need not be in the middle of the thing
    for above_m in (STANDOFF_M, 0.0):
        client.spin_until(lambda: bool(states) and states[-1].query_id == result.query_id, 2.0)
        client.spin_for(0.05)  # what has come meanwhile
        if not (states and client.has_node()):
            return 'stopped: the node is gone'
        state = states[-1]
        if state.query_id != result.query_id or not state.valid:
            return f'stopped: {state.message}'
        if state.state == TargetState.COASTING:
            return f'not seen at the moment: {state.message}'
        pose = deepcopy(state.pose.pose)  # where it is now: it may have been moved since
        pose.position.z += above_m
        arm.move(pose, state.header.frame_id)
    arm.grip(0.0)
    return 'picked'


if __name__ == '__main__':
    with cp.Client() as client:
        client.wait_until_active()
        camera, *at = sys.argv[1:] or ('front', '500', '280')
        print(pick(client, Arm(), camera, (float(at[0]), float(at[1]))))
