#!/usr/bin/env python3
"""Draw the pictures of README.md and docs/ with the package itself.

    python scripts/make_pictures.py apc_shelf      # writes docs/images/clicks.webp

The screenshots of RViz and of the page come from their tests (build/screenshots).
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

import crosspoint_ros as cp
from crosspoint_ros.core.image_io import read_depth_m, read_image, read_mask
from crosspoint_ros.core.visualization import concatenate_images, draw_clicked, draw_result

IMAGES = Path(__file__).resolve().parents[1] / 'docs' / 'images'
PAIR = 24
CLICKS = {'corner of the box': (105, 262), 'foot of the book': (440, 400),
          'side wall': (324, 320)}
WIDTH_PX = 960
SEARCH_MS, RESULT_MS = 900, 2600


def read_pair(folder: Path) -> list[cp.View]:
    """Return the two views of the pair, with depth, poses and the gripper's mask."""
    index = json.loads((folder / 'index.json').read_text())
    pair = index['pairs'][PAIR]
    mask = read_mask(folder / 'gripper_mask.png')
    poses = (cp.Transform(np.eye(3), np.zeros(3)),
             cp.Transform.from_noisy_matrix(pair['T_BA'], 1e-3).inverse)
    views = []
    for side, pose in zip('AB', poses, strict=True):
        name, k = pair[side], pair[f'K_{side}']
        image = read_image(folder / 'frames' / f'{name}.png')
        height, width = image.shape[:2]
        intrinsics = cp.Intrinsics(k[0][0], k[1][1], k[0][2], k[1][2], width, height)
        depth_m = read_depth_m(folder / 'frames' / f'{name}.depth.png', index['depth_scale'])
        views.append(cp.View(name, image, intrinsics, depth_m=depth_m,
                             base_from_cam=pose, mask=mask))
    return views


def draw_clicks(folder: Path, out: Path) -> None:
    """Write the animation: each click, then what the wrist camera answers."""
    clicked, other = read_pair(folder)
    matcher, limits = cp.load_matcher('xfeat'), cp.Limits()
    frames, durations = [], []
    for name, pixel in CLICKS.items():
        result = cp.locate(clicked, [other], pixel, matcher, limits)
        drawn = {view.camera: image for view, image in
                 draw_result(result, {clicked.camera, other.camera}, limits)}
        asked = draw_clicked(clicked.image, pixel, f'click: {name}')
        for right, duration_ms in ((other.image, SEARCH_MS), (drawn[other.camera], RESULT_MS)):
            row = concatenate_images([asked, right], ['clicked view', 'wrist camera'])
            size = (WIDTH_PX, round(row.shape[0] * WIDTH_PX / row.shape[1]))
            frames.append(cv2.resize(row, size, interpolation=cv2.INTER_AREA)[..., ::-1].copy())
            durations.append(duration_ms)
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, durations
    if not cv2.imwriteanimation(str(out), animation, [cv2.IMWRITE_WEBP_QUALITY, 80]):
        raise OSError(f'cannot write {out}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('shelf', type=Path, help='the folder apc_shelf')
    draw_clicks(parser.parse_args().shelf, IMAGES / 'clicks.webp')
