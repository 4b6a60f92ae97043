"""A small CrossPoint-Bench of the built-in kitchen, whose truth is known to the pixel."""
from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.bench.recording import Recording
from crosspoint_ros.scenes import KITCHEN

MASK_RADIUS_PX = 12
YES_NO = 'A.Yes B.No'


def mask_of(pixel: np.ndarray, width: int = 640, height: int = 480) -> str:
    """A white disc about a pixel, as base64."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, tuple(np.rint(pixel).astype(int).tolist()), MASK_RADIUS_PX, 255, -1)
    return base64.b64encode(cv2.imencode('.png', mask)[1].tobytes()).decode()


def thousandths(pixel: np.ndarray) -> list[int]:
    return [int((pixel[0] + 0.5) / 640 * 1000), int((pixel[1] + 0.5) / 480 * 1000)]


def build(folder: Path, points: int = 8) -> tuple[Path, list[dict], list[str]]:
    """Write the folder; return it, its items and a right reply to each."""
    scene = Recording(KITCHEN)
    images = folder / 'image' / 'origin_image'
    images.mkdir(parents=True)
    items: list[dict] = []
    right: list[str] = []
    for affordance in scene.affordances:
        moment = next((m for m, seen in affordance.seen.items() if seen.visible
                       and m.camera != affordance.clicked.camera), None)
        if moment is None or len(items) >= 4 * points:
            continue
        names = [_image(scene, images, each) for each in (affordance.clicked, moment)]
        asked, pixel = thousandths(affordance.pixel), affordance.seen[moment].pixel
        told = f'{{"point_2d": {thousandths(pixel)}}}'
        for kind, question, answer, shown, reply in (
                ('Fine-grained Grounding', f'Point to {affordance.name}.', mask_of(pixel),
                 names[1:], told),
                ('Visibility Reasoning', f'Is the point {asked} of the first image visible in the '
                 f'second? {YES_NO}', 'A', names, 'A'),
                ('Correspondence-Judgement', f'Do {asked} of the first image and '
                 f'{thousandths(pixel)} of the second show the same place? {YES_NO}', 'A', names,
                 'A. Yes'),
                ('Correspondence-Pointing', f'The point at {asked} in the first image corresponds '
                 'to which point in the second image?', mask_of(pixel), names, told)):
            items.append({'idx': len(items), 'type': kind, 'level': 'Level 1', 'images': shown,
                          'question': question, 'answer': answer})
            right.append(reply)
    write(folder / 'CrossPoint-Bench.jsonl', items)
    return folder, items, right


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


def _image(scene: Recording, folder: Path, moment) -> str:
    name = f'{moment.camera}_{moment.stamp_ns}.png'
    if not (folder / name).is_file():
        cv2.imwrite(str(folder / name), scene.view(moment).image[..., ::-1])
    return f'origin_image/{name}'
