"""`crosspoint mask`: masks the robot's own body in a moving camera, from a bag or live images."""
from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.core.image_io import read_mask, write_image
from crosspoint_ros.data.rosbag import (
    choose_topics,
    iter_messages,
    iter_rgbd,
    open_bag,
    read_frame_ids,
)
from crosspoint_ros.data.self_mask_estimator import Mask, SelfMask, SelfMaskEstimator

RgbdStream = Iterable[tuple[Rgb, 'DepthM | None']]
PREVIEW_IMAGES = 4
TINT = (230, 0, 180)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', nargs='?', type=Path, help='a rosbag2 in which the camera moves')
    parser.add_argument('--live', type=float, metavar='SECONDS',
                        help='instead of a bag: record the camera for this long while it moves')
    parser.add_argument('--camera', required=True, help='its name, the first part of its topics')
    parser.add_argument('--topic', default='', help='image topic (default: found in /CAMERA/...)')
    parser.add_argument('--depth-topic', default='', help='depth topic, registered to the images')
    parser.add_argument('--no-depth', action='store_true', help='use the colours alone')
    parser.add_argument('--out', type=Path, default=Path('mask.png'),
                        help='the mask, for <camera>.mask_path (default: mask.png)')
    parser.add_argument('--picture', type=Path, metavar='PNG',
                        help='draw the mask into some of the images, for inspection')
    parser.add_argument('--truth', type=Path, metavar='PNG', help='a mask to compare it with')


def main(args: argparse.Namespace, live: RgbdStream | None = None) -> int:
    """Estimate the mask and write it; live: the images of --live."""
    if (args.bag is None) == (args.live is None):
        raise ValueError('give a bag or --live SECONDS, one of the two')
    if args.out.suffix.lower() != '.png':
        raise ValueError(f'--out {args.out}: a mask is stored without loss; give a name that ends '
                         'in .png')
    estimator, preview = SelfMaskEstimator(), PreviewSampler()
    try:
        images = _read_bag(args) if live is None else live
        for image, depth_m in tqdm(images, unit='image', disable=None, delay=2, leave=False):
            if estimator.add(image, None if args.no_depth else depth_m):
                preview.add(image)
    except Rejected as rejected:
        raise ValueError(rejected.message) from rejected
    body = estimator.estimate()
    write_image(args.out, np.repeat(body.mask[..., None], 3, axis=2).astype(np.uint8) * 255)
    print(format_summary(body, estimator.images, args.out))
    if args.picture:
        write_image(args.picture, preview.draw(body.mask))
        print(f'inspect {args.picture}: the tinted pixels will never be matched')
    if args.truth:
        print(format_comparison(body.mask, args.truth))
    return 0


def _read_bag(args: argparse.Namespace) -> Iterator[tuple[Rgb, DepthM | None]]:
    with closing(open_bag(args.bag)) as bag:
        types = {c.topic: c.msgtype for c in bag.connections if c.msgcount}
        topics = choose_topics(types, args.camera, args.topic, args.depth_topic,
                               read_frame_ids(bag, f'/{args.camera}/', args.topic))
        yield from iter_rgbd(iter_messages(bag, filter(None, (topics.image, topics.depth))), topics)


def format_summary(body: SelfMask, images: int, out: Path) -> str:
    """Describe the mask and the evidence for it."""
    share = body.mask.mean()
    height, width = body.mask.shape
    evidence = (f'{body.views} different views among {images} images, '
                f'{"colour and depth" if body.with_depth else "colour alone"}; half of the pixels '
                f'change by more than {body.median_spread:.0f} grey levels, {body.edges_kept:.0%} '
                'of the edges stay')
    if not share:
        return (f'{out}: {width}x{height}, all black. No part of the image stays the same: nothing '
                f'of the robot is in view ({evidence})')
    return f"{out}: {width}x{height}, {share:.1%} of it is the robot's own body ({evidence})"


def format_comparison(mask: Mask, path: Path) -> str:
    """Compare with a ground truth mask. Raises ValueError if it has another size."""
    ground_truth = read_mask(path)
    if ground_truth.shape != mask.shape:
        raise ValueError(f'{path} is {ground_truth.shape[1]}x{ground_truth.shape[0]}, the images '
                         f'are {mask.shape[1]}x{mask.shape[0]}')
    inside, outside = (f'{part.mean():.1%}' if part.size else 'nothing'
                       for part in (mask[ground_truth], mask[~ground_truth]))
    return f'covers {inside} of {path.name}, and {outside} of the rest'


class PreviewSampler:
    """Keeps a few images, evenly spaced over a stream of unknown length."""

    def __init__(self) -> None:
        self._images: list[Rgb] = []
        self._every, self._added = 1, 0

    def add(self, image: Rgb) -> None:
        """Keep every n-th image; n doubles whenever there are too many."""
        if self._added % self._every == 0:
            self._images.append(image)
            if len(self._images) > 2 * PREVIEW_IMAGES:
                self._images, self._every = self._images[::2], 2 * self._every
        self._added += 1

    def draw(self, mask: Mask) -> Rgb:
        """Return four of the images in two rows, the mask tinted and outlined."""
        step = max(len(self._images) // PREVIEW_IMAGES, 1)
        tiles = [_tint(image, mask) for image in self._images[::step][:PREVIEW_IMAGES]]
        return np.vstack([np.hstack(tiles[i:i + 2]) for i in (0, 2)])


def _tint(image: Rgb, mask: Mask) -> Rgb:
    drawn = image.copy()
    drawn[mask] = (0.5 * image[mask] + 0.5 * np.array(TINT)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL,
                                   cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1)
    return drawn
