"""`crosspoint bench export`: writes labelled queries in the format of CrossPoint-Bench."""
from __future__ import annotations

import argparse
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.bench.crosspoint.dataset import IMAGES, ITEMS, POINTING, VISIBILITY
from crosspoint_ros.bench.environment import parse_positive
from crosspoint_ros.bench.pairs.dataset import InputConfig, PairSource
from crosspoint_ros.bench.pairs.sources import add_source_arguments, open_source
from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.image_io import atomic_write, write_image
from crosspoint_ros.data.io import WarningCounter
from crosspoint_ros.data.qa.frame_pairs import pick_evenly
from crosspoint_ros.data.qa.point_visibility import Visibility
from crosspoint_ros.data.qa.questions import Coordinates, encode_point, format_inline

RADIUS_PX = 20.0  # of an image 640 px wide
POINTING_QUESTION = ('The point at {a} in the first image is visible in the second image, too. '
                     'Where is it there?')
VISIBILITY_QUESTION = ('Is the point at {a} in the first image visible in the second image?\n'
                       'A. Yes\nB. No')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='the folder of the benchmark')
    parser.add_argument('--limit', type=parse_positive, metavar='N',
                        help='at most N points, spread evenly over the data')
    parser.add_argument('--radius-px', type=float, default=RADIUS_PX, help='radius of a correct '
                        f'answer in an image 640 px wide (default: {RADIUS_PX:g})')


def main(args: argparse.Namespace) -> int:
    """Write the benchmark; 1 if some data could not be used."""
    if not args.radius_px > 0:
        raise ValueError(f'--radius-px {args.radius_px:g} must be more than 0')
    if (args.out / ITEMS).exists():
        raise ValueError(f'{args.out} holds a benchmark: remove it, or choose another --out')
    with WarningCounter() as warnings:
        number = export(open_source(args, InputConfig()), args.out, args.radius_px, args.limit)
    print(f'{number} items in {args.out}; evaluate with: crosspoint bench crosspoint {args.out} '
          '--matcher xfeat, or --checkpoint, or --model')
    return warnings.exit_code


def export(queries: PairSource, out: Path, radius_px: float, limit: int | None = None) -> int:
    """Write images and items; return the number of items."""
    chosen = set(pick_evenly(list(range(len(queries))), limit or len(queries)))
    visible = [index for index, query in enumerate(queries)
               if index in chosen and query.visibility == Visibility.VISIBLE]
    # As many yes as no: always answering "yes" scores at most 50 %.
    yes_no = chosen - set(visible) | set(pick_evenly(visible, max(1, len(chosen) - len(visible))))
    images: dict[str, str] = {}
    lines: list[str] = []
    for index, labelled in enumerate(queries):
        if index not in chosen:
            continue
        query = labelled.query
        names = [_write_image(out, view, images) for view in (query.clicked, query.other)]
        at = format_inline(encode_point(query.pixel, query.clicked.intrinsics,
                                        Coordinates.THOUSAND))
        items: list[dict[str, Any]] = []
        if index in yes_no:
            items.append({'type': VISIBILITY, 'question': VISIBILITY_QUESTION.format(a=at),
                          'answer': 'A' if labelled.visibility == Visibility.VISIBLE else 'B'})
        if index in visible:
            size = query.other.intrinsics
            items.append({'type': POINTING, 'question': POINTING_QUESTION.format(a=at),
                          'image_width': size.width_px, 'image_height': size.height_px,
                          'answer': draw_disc_mask(labelled.ground_truth, query.other, radius_px)})
        for fields in items:
            lines.append(json.dumps({'idx': len(lines), 'level': f'{labelled.bin} deg',
                                     'images': names, **fields}))
    atomic_write(out / ITEMS, ''.join(f'{line}\n' for line in lines).encode())
    return len(lines)


def draw_disc_mask(pixel: Array, view: View, radius_px: float) -> str:
    """Return the mask of the correct pixels as a PNG in base64."""
    width, height = view.intrinsics.width_px, view.intrinsics.height_px
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    near = np.hypot(column - pixel[0], row - pixel[1]) <= radius_px * width / 640
    is_encoded, png = cv2.imencode('.png', near.astype(np.uint8) * 255)
    if not is_encoded:
        raise OSError(f'a mask of {width}x{height} px cannot be encoded as PNG')
    return base64.b64encode(png.tobytes()).decode()


def _write_image(out: Path, view: View, known: dict[str, str]) -> str:
    """Write the image of a view unless it is known; return its name."""
    key = hashlib.sha256(repr(view.image.shape).encode() + view.image.tobytes()).hexdigest()
    if key not in known:
        known[key] = f'{len(known):05}_{view.camera.replace("/", "-")}.png'
        write_image(out / IMAGES / known[key], view.image)
    return known[key]
