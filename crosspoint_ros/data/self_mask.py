"""`crosspoint mask`: find the robot's own body in a moving camera, from a bag or live images."""
from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Rejected
from crosspoint_ros.core.encodings import DepthM, Rgb
from crosspoint_ros.core.self_mask import Mask, SelfMask, SelfMaskEstimator
from crosspoint_ros.core.visualization import write_image
from crosspoint_ros.data.rosbag import choose_topics, iter_messages, iter_rgbd, open_bag

RgbdStream = Iterable[tuple[Rgb, 'DepthM | None']]
PREVIEW_IMAGES = 4  # in the picture to check it by
TINT = (230, 0, 180)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', nargs='?', type=Path, help='a rosbag2 in which the camera moves')
    parser.add_argument('--live', type=float, metavar='SECONDS',
                        help='instead of a bag: watch the camera for so long while it moves')
    parser.add_argument('--camera', required=True, help='its name, the first part of its topics')
    parser.add_argument('--topic', default='', help='its images, if they are not /CAMERA/...')
    parser.add_argument('--depth-topic', default='', help='its depth, registered to the images')
    parser.add_argument('--no-depth', action='store_true', help='go by the colours alone')
    parser.add_argument('--out', type=Path, default=Path('mask.png'),
                        help='the mask, for <camera>.mask_path (default: mask.png)')
    parser.add_argument('--picture', type=Path, metavar='PNG',
                        help='some of the images with the mask in them: look at it')
    parser.add_argument('--truth', type=Path, metavar='PNG', help='a mask to compare it with')


def main(args: argparse.Namespace) -> int:
    """Find the mask, write it, and say what it rests on."""
    if (args.bag is None) == (args.live is None):
        raise ValueError('name a bag, or --live SECONDS; one of the two')
    if args.out.suffix.lower() != '.png':  # a JPEG would blur the border of the mask
        raise ValueError(f'--out {args.out}: a mask is kept without loss; give a name that ends in '
                         '.png')
    finder, shown = SelfMaskEstimator(), PreviewSampler()
    try:
        for image, depth_m in (_read_live(args) if args.bag is None else _read_bag(args)):
            if finder.add(image, None if args.no_depth else depth_m):
                shown.add(image)
    except Rejected as rejected:
        raise ValueError(rejected.message) from rejected
    body = finder.estimate()
    _write_mask(args.out, body.mask)
    print(format_summary(body, finder.images, args.out))
    if args.picture:
        write_image(args.picture, shown.draw(body.mask))
        print(f'look at {args.picture}: what is tinted will never be matched')
    if args.truth:
        print(format_comparison(body.mask, args.truth))
    return 0


def _read_bag(args: argparse.Namespace) -> Iterator[tuple[Rgb, DepthM | None]]:
    with closing(open_bag(args.bag)) as bag:
        topics = choose_topics({c.topic: c.msgtype for c in bag.connections}, args.camera,
                               args.topic, args.depth_topic)
        yield from iter_rgbd(iter_messages(bag, filter(None, (topics.image, topics.depth))), topics)


def _read_live(args: argparse.Namespace) -> RgbdStream:
    from crosspoint_ros.ros.tools.live_camera import stream_images
    return stream_images(args.camera, args.live, args.topic, args.depth_topic)


def format_summary(body: SelfMask, images: int, out: Path) -> str:
    """Say what was found, and on what that rests."""
    share = body.mask.mean()
    height, width = body.mask.shape
    rests = (f'{body.views} different views among {images} images, '
             f'{"colour and depth" if body.with_depth else "colour alone"}; half of the pixels '
             f'change by more than {body.median_spread:.0f} grey levels, {body.edges_kept:.0%} of '
             'the edges stay')
    if not share:
        return (f'{out}: {width}x{height}, all black. No part of the image stays the same: nothing '
                f'of the robot is in view ({rests})')
    return f"{out}: {width}x{height}, {share:.1%} of it is the robot's own body ({rests})"


def format_comparison(mask: Mask, ground_truth_path: Path) -> str:
    """Hold the mask against another one. Raises ValueError if that has another size."""
    picture = cv2.imread(str(ground_truth_path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise FileNotFoundError(f'{ground_truth_path} is no picture that can be read')
    ground_truth = np.asarray(picture > 127)
    if ground_truth.shape != mask.shape:
        raise ValueError(f'{ground_truth_path} is {ground_truth.shape[1]}x{ground_truth.shape[0]}, the images are '
                         f'{mask.shape[1]}x{mask.shape[0]}')
    return (f'covers {_format_share(mask[ground_truth])} of {ground_truth_path.name}, and {_format_share(mask[~ground_truth])} of the '
            'rest')


def _format_share(covered: Mask) -> str:
    return f'{covered.mean():.1%}' if covered.size else 'nothing'


def _write_mask(path: Path, mask: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), np.where(mask, 255, 0).astype(np.uint8))
    except cv2.error as error:  # no such kind of picture
        raise ValueError(f'{path}: name a file that ends in .png') from error
    if not written:
        raise OSError(f'{path} cannot be written')


class PreviewSampler:
    """A few of the images, spread over all of them however many come."""

    def __init__(self) -> None:
        self._images: list[Rgb] = []
        self._every, self._added = 1, 0

    def add(self, image: Rgb) -> None:
        """Keep it if its turn has come."""
        if self._added % self._every == 0:
            self._images.append(image)
            if len(self._images) > 2 * PREVIEW_IMAGES:
                self._images, self._every = self._images[::2], 2 * self._every
        self._added += 1

    def draw(self, mask: Mask) -> Rgb:
        """Return four of them in two rows, the mask tinted and outlined."""
        step = max(len(self._images) // PREVIEW_IMAGES, 1)
        tiles = [_draw_tint(image, mask) for image in self._images[::step][:PREVIEW_IMAGES]]
        return np.vstack([np.hstack(tiles[i:i + 2]) for i in (0, 2)])


def _draw_tint(image: Rgb, mask: Mask) -> Rgb:
    drawn = image.copy()
    drawn[mask] = (0.5 * image[mask] + 0.5 * np.array(TINT)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL,
                                   cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1)
    return drawn
