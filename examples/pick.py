#!/usr/bin/env python3
"""From a click to a grasp: what a pipeline adds. Put your robot's driver into `Arm`.

    python examples/pick.py [CAMERA X Y]
"""
import sys

import crosspoint_ros as cp


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

    def holds() -> bool:
        client.spin_until(lambda: bool(states) and states[-1].query_id == result.query_id, 2.0)
        client.spin_for(0.05)  # what has come meanwhile
        return bool(states) and states[-1].query_id == result.query_id and states[-1].valid

    target = result.target
    arm.grip(target.width_m + 0.02 if target.width_m > 0 else 0.08)  # NaN: unknown
    for pose in (target.pregrasp, target.pose.pose):
        if not holds():
            return f'stopped: {states[-1].message if states else "the node is silent"}'
        arm.move(pose, target.header.frame_id)
    arm.grip(0.0)
    return 'picked'


if __name__ == '__main__':
    with cp.Client() as client:
        client.wait_until_active()
        camera, *at = sys.argv[1:] or ('front', '500', '280')
        print(pick(client, Arm(), camera, (float(at[0]), float(at[1]))))
