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
from crosspoint_ros.bench.environment import positive
from crosspoint_ros.bench.pairs.dataset import Given, Item, ItemSet, Status
from crosspoint_ros.bench.pairs.sources import add_set_arguments, chosen_set
from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.io import Saying, write_whole
from crosspoint_ros.data.qa.frame_pairs import spread
from crosspoint_ros.data.qa.templates import Coordinates, bracketed, written

RADIUS_PX = 20.0  # of an image 640 px wide
WHERE = ('The point at {a} in the first image is visible in the second image, too. Where is it '
         'there?')
WHETHER = 'Is the point at {a} in the first image visible in the second image?\nA. Yes\nB. No'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add_set_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='the folder of the benchmark')
    parser.add_argument('--limit', type=positive, metavar='N', help='so many points at the most, '
                        'spread over the set')
    parser.add_argument('--radius-px', type=float, default=RADIUS_PX, help='how near is right, in '
                        f'an image 640 px wide (default: {RADIUS_PX:g})')


def main(args: argparse.Namespace) -> int:
    """Write it; 1 if something of the set could not be used."""
    if not args.radius_px > 0:
        raise ValueError(f'--radius-px {args.radius_px:g} must be more than 0')
    if (args.out / ITEMS).exists():
        raise ValueError(f'{args.out} holds a benchmark: remove it, or choose another --out')
    say = Saying('bench export')
    number = export(chosen_set(args, Given(), say), args.out, args.radius_px, args.limit)
    print(f'{number} items in {args.out}; ask them: crosspoint bench crosspoint {args.out} '
          '--matcher xfeat, or --checkpoint, or --model')
    return say.exit_code


def export(items: ItemSet, out: Path, radius_px: float, limit: int | None = None) -> int:
    """Write images and items; return how many items."""
    chosen = set(spread(list(range(len(items))), limit or len(items)))
    visible = [index for index, item in enumerate(items)
               if index in chosen and item.status == Status.VISIBLE]
    # Who always says yes must not be right: of the visible ones as many are asked as of the others.
    asked = chosen - set(visible) | set(spread(visible, max(1, len(chosen) - len(visible))))
    images: dict[str, str] = {}
    lines: list[str] = []
    for index, item in enumerate(items):
        if index not in chosen:
            continue
        names = [_image(out, view, images) for view in (item.query.clicked, item.query.other)]
        at = bracketed(written(item.query.pixel, item.query.clicked.intrinsics,
                               Coordinates.THOUSAND))
        for fields in [*([_whether(item, at)] if index in asked else []),
                       *([_where(item, at, radius_px)] if index in visible else [])]:
            lines.append(json.dumps({'idx': len(lines), 'level': f'{item.bin} deg',
                                     'images': names, **fields}))
    write_whole(out / ITEMS, ''.join(f'{line}\n' for line in lines).encode())
    return len(lines)


def _whether(item: Item, at: str) -> dict[str, Any]:
    return {'type': VISIBILITY, 'question': WHETHER.format(a=at),
            'answer': 'A' if item.status == Status.VISIBLE else 'B'}


def _where(item: Item, at: str, radius_px: float) -> dict[str, Any]:
    lens = item.query.other.intrinsics
    return {'type': POINTING, 'question': WHERE.format(a=at), 'image_width': lens.width_px,
            'image_height': lens.height_px,
            'answer': disc(item.truth, item.query.other, radius_px)}


def disc(pixel: Array, view: View, radius_px: float) -> str:
    """Return the mask of what is near enough, as base64 of a PNG."""
    lens = view.intrinsics
    column, row = np.meshgrid(np.arange(lens.width_px), np.arange(lens.height_px))
    near = np.hypot(column - pixel[0], row - pixel[1]) <= radius_px * lens.width_px / 640
    done, png = cv2.imencode('.png', near.astype(np.uint8) * 255)
    if not done:
        raise OSError(f'a mask of {lens.width_px}x{lens.height_px} px cannot be encoded as PNG')
    return base64.b64encode(png.tobytes()).decode()


def _image(out: Path, view: View, known: dict[str, str]) -> str:
    """Write the view's image, once; return its name."""
    key = hashlib.sha256(view.image.tobytes()).hexdigest()
    if key not in known:
        known[key] = f'{len(known):05}_{view.camera.replace("/", "-")}.png'
        done, png = cv2.imencode('.png', cv2.cvtColor(view.image, cv2.COLOR_RGB2BGR))
        if not done:
            raise OSError(f'{known[key]} cannot be encoded as PNG')
        write_whole(out / IMAGES / known[key], png.tobytes())
    return known[key]
