"""`crosspoint bench export`: any set of pairs as CrossPoint-Bench has it, for models that read."""
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
from crosspoint_ros.bench.pairs.dataset import InputConfig, LabelledQuery, PairSource, Status
from crosspoint_ros.bench.pairs.sources import add_source_arguments, open_source
from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.io import WarningCounter, atomic_write
from crosspoint_ros.data.qa.frame_pairs import pick_evenly
from crosspoint_ros.data.qa.templates import Coordinates, format_inline, encode_point

RADIUS_PX = 20.0  # of an image 640 px wide
POINTING_QUESTION = ('The point at {a} in the first image is visible in the second image, too. Where is it '
         'there?')
VISIBILITY_QUESTION = 'Is the point at {a} in the first image visible in the second image?\nA. Yes\nB. No'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='the folder of the benchmark')
    parser.add_argument('--limit', type=parse_positive, metavar='N', help='so many points at the most, '
                        'spread over the set')
    parser.add_argument('--radius-px', type=float, default=RADIUS_PX, help='how near is right, in '
                        f'an image 640 px wide (default: {RADIUS_PX:g})')


def main(args: argparse.Namespace) -> int:
    """Write it; 1 if something of the set could not be used."""
    if not args.radius_px > 0:
        raise ValueError(f'--radius-px {args.radius_px:g} must be more than 0')
    if (args.out / ITEMS).exists():
        raise ValueError(f'{args.out} holds a benchmark: remove it, or choose another --out')
    say = WarningCounter('bench export')
    number = export(open_source(args, InputConfig(), say), args.out, args.radius_px, args.limit)
    print(f'{number} items in {args.out}; ask them: crosspoint bench crosspoint {args.out} '
          '--matcher xfeat, or --checkpoint, or --model')
    return say.exit_code


def export(queries: PairSource, out: Path, radius_px: float, limit: int | None = None) -> int:
    """Write images and items; return how many items."""
    chosen = set(pick_evenly(list(range(len(queries))), limit or len(queries)))
    visible = [index for index, item in enumerate(queries)
               if index in chosen and item.status == Status.VISIBLE]
    # Who always says yes must not be right: of the visible ones as many are asked as of the others.
    asked = chosen - set(visible) | set(pick_evenly(visible, max(1, len(chosen) - len(visible))))
    images: dict[str, str] = {}
    lines: list[str] = []
    for index, item in enumerate(queries):
        if index not in chosen:
            continue
        names = [_write_image(out, view, images) for view in (item.query.clicked, item.query.other)]
        at = format_inline(encode_point(item.query.pixel, item.query.clicked.intrinsics,
                               Coordinates.THOUSAND))
        for fields in [*([_make_visibility_item(item, at)] if index in asked else []),
                       *([_make_pointing_item(item, at, radius_px)] if index in visible else [])]:
            lines.append(json.dumps({'idx': len(lines), 'level': f'{item.bin} deg',
                                     'images': names, **fields}))
    atomic_write(out / ITEMS, ''.join(f'{line}\n' for line in lines).encode())
    return len(lines)


def _make_visibility_item(query: LabelledQuery, at: str) -> dict[str, Any]:
    return {'type': VISIBILITY, 'question': VISIBILITY_QUESTION.format(a=at),
            'answer': 'A' if query.status == Status.VISIBLE else 'B'}


def _make_pointing_item(query: LabelledQuery, at: str, radius_px: float) -> dict[str, Any]:
    lens = query.query.other.intrinsics
    return {'type': POINTING, 'question': POINTING_QUESTION.format(a=at), 'image_width': lens.width_px,
            'image_height': lens.height_px,
            'answer': draw_disc_mask(query.ground_truth, query.query.other, radius_px)}


def draw_disc_mask(pixel: Array, view: View, radius_px: float) -> str:
    """Return the mask of what is near enough, as base64 of a PNG."""
    lens = view.intrinsics
    column, row = np.meshgrid(np.arange(lens.width_px), np.arange(lens.height_px))
    near = np.hypot(column - pixel[0], row - pixel[1]) <= radius_px * lens.width_px / 640
    done, png = cv2.imencode('.png', near.astype(np.uint8) * 255)
    if not done:
        raise OSError(f'a mask of {lens.width_px}x{lens.height_px} px cannot be encoded as PNG')
    return base64.b64encode(png.tobytes()).decode()


def _write_image(out: Path, view: View, encode_point: dict[str, str]) -> str:
    """Write the view's image, once; return its name."""
    key = hashlib.sha256(view.image.tobytes()).hexdigest()
    if key not in encode_point:
        encode_point[key] = f'{len(encode_point):05}_{view.camera.replace("/", "-")}.png'
        done, png = cv2.imencode('.png', cv2.cvtColor(view.image, cv2.COLOR_RGB2BGR))
        if not done:
            raise OSError(f'{encode_point[key]} cannot be encoded as PNG')
        atomic_write(out / IMAGES / encode_point[key], png.tobytes())
    return encode_point[key]
