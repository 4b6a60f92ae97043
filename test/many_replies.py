"""Writes replies to time their scoring: half of them points on a mask of 640x480, half letters."""
from __future__ import annotations

import base64
import json
import random
import sys
from pathlib import Path

import cv2
import numpy as np

COUNT, SIZE = 10_000, (480, 640)


def mask(rng: random.Random) -> str:
    """A blob as base64 of a PNG."""
    drawn = np.zeros(SIZE, np.uint8)
    centre = rng.randint(60, 580), rng.randint(60, 420)
    cv2.ellipse(drawn, centre, (rng.randint(10, 60), rng.randint(10, 60)), rng.randint(0, 180), 0,
                360, 255, -1)
    return base64.b64encode(cv2.imencode('.png', drawn)[1].tobytes()).decode()


def main(out: Path) -> None:
    """Write them."""
    rng = random.Random(0)
    masks = [mask(rng) for _ in range(500)]
    with out.open('w') as file:
        for idx in range(COUNT):
            points = idx % 2 == 0
            x, y = rng.randint(0, 999), rng.randint(0, 999)
            reply = f'```json\n[{{"point_2d": [{x}, {y}]}}]\n```' if points else \
                f'The answer is {rng.choice("ABCD")}.'
            file.write(json.dumps({
                'idx': idx, 'type': 'Correspondence-Pointing' if points else 'Visibility Reasoning',
                'level': 'object', 'question': 'Which? A. one B. two C. three D. four',
                'images': ['a.png', 'b.png'], 'image_width': 640, 'image_height': 480,
                'answer': rng.choice(masks) if points else rng.choice('ABCD'),
                'assistant': reply}) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
