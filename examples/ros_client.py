#!/usr/bin/env python3
"""Click on a camera of a running node.

    crosspoint demo                                      # or a node of yours
    python examples/ros_client.py [CAMERA X Y]           # exits 3 if no camera found the point
"""
import sys

from crosspoint_ros.msg import Correspondence

import crosspoint_ros as cp
from crosspoint_ros.ros.client.results import is_accepted


def main(camera: str = 'front', x: float = 500, y: float = 280) -> int:
    with cp.Client() as client:
        client.wait_until_active()
        result = client.click(camera, (x, y))
    for answer in result.correspondences:
        if answer.verdict == Correspondence.REFUSED:
            print(f'{answer.found.camera}: refused, {answer.status.message}')
        else:
            print(f'{answer.found.camera}: ({answer.found.x:.1f}, {answer.found.y:.1f}), '
                  f'confidence {answer.confidence:.2f}')
    if result.has_target:
        at = result.target.pose.pose.position
        print(f'target: ({at.x:.3f}, {at.y:.3f}, {at.z:.3f}) m in {result.target.header.frame_id}')
    else:
        print(f'no target: {result.status.message}')
    return 0 if is_accepted(result) else 3


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:2], *map(float, sys.argv[2:])))
