#!/usr/bin/env python3
"""Find a point with intrinsics, poses and depth, and lift it to a 3D grasp target.

    pip install rosbags        # reads the recording of the built-in kitchen
    python examples/two_images_with_depth.py
"""
from kitchen import read_views

import crosspoint_ros as cp


def main() -> None:
    # A view of your own: cp.View('front', rgb, cp.Intrinsics(fx, fy, cx, cy, width, height),
    #                             depth_m=depth, base_from_cam=cp.Transform(R, t_m))
    front, wrist = read_views('front', 'wrist')
    result = cp.locate(front, [wrist], (500, 280), cp.load_matcher('xfeat'),
                       cp.Limits(max_epipolar_px=5))
    found, target = result['wrist'], result.target
    print(f'status {result.status[0].name}')
    print(f'found at {found.pixel.round(1)}, confidence {found.confidence:.2f}')
    if target is None:
        print(f'no target: {result.no_target}')
    else:
        print(f'target at {target.base_from_target.t_m.round(3)} m, from {target.method.name}')


if __name__ == '__main__':
    main()
