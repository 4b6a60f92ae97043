#!/usr/bin/env python3
"""Find a point of one photograph in another: no ROS, no calibration.

    python examples/two_images.py [FIRST SECOND X Y]
"""
import sys
from pathlib import Path

import crosspoint_ros as cp

HERE = Path(__file__).parent


def main(first: str, second: str, x: float, y: float) -> None:
    clicked, other = (cp.View(path, cp.read_image(path)) for path in (first, second))
    result = cp.locate(clicked, [other], (x, y), cp.load_matcher('xfeat'))
    found = result[second]
    if found.rejected:
        print(f'refused: {found.rejected}')
    else:
        print(f'({x:g}, {y:g}) is at {found.pixel.round(1)}, confidence {found.confidence:.2f}')


if __name__ == '__main__':
    first, second, x, y = sys.argv[1:] or (f'{HERE}/front.jpg', f'{HERE}/side.jpg', 500, 280)
    main(first, second, float(x), float(y))
