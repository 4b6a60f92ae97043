"""`crosspoint match`: points of one image file found in another, without ROS."""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from crosspoint_ros.cli import ANSWERED, GREEN, RED, REFUSED, USAGE, YELLOW, colour
from crosspoint_ros.core import visualization
from crosspoint_ros.core.camera import Intrinsics
from crosspoint_ros.core.datatypes import Array, Match, Rejected, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.image_io import read_depth_m, read_image, write_image
from crosspoint_ros.core.pipeline import LocateResult, locate
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers import MATCHERS, load_matcher, load_refiner, select_refiner

CENTRE = (0.3, 0.7)  # the principal point of an uncropped image is within this part of its size
ROW_HEIGHT_PX = 720  # of a row of --out, at most
WINDOW, WINDOW_PX = 'crosspoint match: click on the left image, q to quit', 1600
ESCAPE = 27
LIMITS = Limits()


class Pair(NamedTuple):
    """The two images, the clicked one first."""

    clicked: View
    other: View


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint match`."""
    parser.add_argument('clicked', type=Path, help='the image that holds the points')
    parser.add_argument('other', type=Path, help='the image to find them in')
    parser.add_argument('--at', nargs=2, type=float, action='append', default=[],
                        metavar=('X', 'Y'), help='a point of the first image, px from its top-left '
                        'corner; may be repeated')
    parser.add_argument('--pick', action='store_true', help='click the points in a window')
    parser.add_argument('--k', nargs=4, type=float, metavar=('FX', 'FY', 'CX', 'CY'),
                        help='pinhole intrinsics of both images, px (default: unknown)')
    parser.add_argument('--k-b', nargs=4, type=float, metavar=('FX', 'FY', 'CX', 'CY'),
                        help='intrinsics of the second image, where they differ')
    parser.add_argument('--depth-a', type=Path, metavar='FILE', help='depth image of the first '
                        'image, registered to it; needs --k')
    parser.add_argument('--depth-b', type=Path, metavar='FILE', help='the same of the second image')
    parser.add_argument('--depth-scale', type=float, default=1000.0, metavar='N',
                        help='depth units per metre (default: 1000, millimetres)')
    parser.add_argument('--matcher', default='xfeat',
                        help=f'{", ".join(MATCHERS)}, or module:Class (default: xfeat)')
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE',
                        help='an option of the matcher; may be repeated')
    parser.add_argument('--out', type=Path, metavar='FILE', help='draw the pair into a PNG or '
                        'JPEG, a row for each point')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = ('Exit code: 0 at least one point was found, 3 all were refused, 2 an argument '
                     'or a file cannot be used.')


def main(args: argparse.Namespace) -> int:
    """Locate every point, print the answers and draw them."""
    try:
        check_arguments(args)
        pair = read_pair(args)
        locate_at = build_locator(args, pair)
        if args.pick:
            return pick_points(pair, locate_at)
    except (OSError, ValueError) as error:
        print(f'crosspoint match: {error}', file=sys.stderr)
        return USAGE
    answers = [locate_at((x, y)) for x, y in args.at]
    if args.json:
        print(json.dumps({'clicked': str(args.clicked), 'other': str(args.other),
                          'points': [answer.as_json() for answer in answers]}, indent=2))
    else:
        print('\n'.join(answer.format() for answer in answers))
    if args.out:
        write_image(args.out, np.vstack([draw_row(pair, answer) for answer in answers]))
    return get_exit_code(answers)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not fit together."""
    if bool(args.at) == args.pick:
        raise ValueError('give points with --at X Y, or --pick to click them; one of the two')
    if (args.depth_a or args.depth_b) and not args.k:
        raise ValueError('depth needs the intrinsics of its camera: give --k FX FY CX CY')
    if args.k_b and not args.k:
        raise ValueError('--k-b is for the second image; give --k for the first as well')
    if args.pick and (args.json or args.out):
        raise ValueError('--pick shows its answers in the window: give no --json or --out with it')
    if args.out and not args.out.absolute().parent.is_dir():
        raise ValueError(f'--out: there is no folder {args.out.absolute().parent}')
    if args.out and args.out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise ValueError(f'--out: {args.out} must end with .png or .jpg')


def read_pair(args: argparse.Namespace) -> Pair:
    """Read both images with their depth and intrinsics."""
    clicked = read_view(args.clicked, args.k, '--k', args.depth_a, args.depth_scale)
    option = '--k-b' if args.k_b else '--k'
    other = read_view(args.other, args.k_b or args.k, option, args.depth_b, args.depth_scale)
    if clicked.camera == other.camera:  # in two folders
        return Pair(replace(clicked, camera=str(args.clicked)),
                    replace(other, camera=str(args.other)))
    return Pair(clicked, other)


def read_view(path: Path, k: list[float] | None, option: str, depth: Path | None,
              depth_scale: float) -> View:
    """Read one image; raise OSError or ValueError, naming the file, if it cannot be used."""
    image = read_image(path)
    with path.open('rb') as file:
        head = file.read(26)
    if head.startswith(b'GIF8') or (head.startswith(b'\x89PNG') and head[25:] == b'\x03'):
        raise ValueError(f'{path}: the image has a palette of at most 256 colours, whose dithering '
                         'misleads a matcher: take the original, or convert it to RGB')
    height_px, width_px = image.shape[:2]
    intrinsics = build_intrinsics(k, width_px, height_px, f'{option}, {path}') if k else None
    return View(path.name, image, intrinsics,
                depth_m=read_depth_m(depth, depth_scale) if depth else None)


def build_intrinsics(k: list[float], width_px: int, height_px: int, name: str) -> Intrinsics:
    """Return pinhole intrinsics; raise ValueError if they are for an image of another size."""
    low, high = CENTRE
    fx, fy, cx, cy = k
    if not (low <= cx / width_px <= high and low <= cy / height_px <= high):
        raise ValueError(f'{name}: the principal point ({cx:g}, {cy:g}) is not near the centre of '
                         f'the {width_px}x{height_px} image (30 to 70 % of its size): are these '
                         'intrinsics for another size?')
    return Intrinsics(fx, fy, cx, cy, width_px, height_px)


class PointAnswer(NamedTuple):
    """The answer to one point: what was found, or why nothing was accepted."""

    at: tuple[float, float]
    result: LocateResult | None
    rejected: Rejected | None

    @property
    def match(self) -> Match | None:
        """What was found in the other image; a refused match is kept."""
        return self.result.correspondences[0].match if self.result is not None else None

    @property
    def verdict(self) -> str:
        """`refused`, `sure` or `to be checked`."""
        if self.rejected is not None or self.match is None:
            return 'refused'
        return 'sure' if self.match.confidence >= LIMITS.sure_confidence else 'to be checked'

    def format(self) -> str:
        """Return the answer as one line."""
        line, verdict = f'({self.at[0]:.1f}, {self.at[1]:.1f})  ', self.verdict
        if self.match is None or verdict == 'refused':
            return line + colour('refused', RED) + f': {self.rejected}'
        x, y = self.match.pixel
        shown = colour(verdict, GREEN if verdict == 'sure' else YELLOW)
        return (f'{line}({x:.1f}, {y:.1f})  {shown}, confidence {self.match.confidence:.2f}  '
                f'({self.match.basis})')

    def as_json(self) -> dict[str, Any]:
        """Return the answer as JSON has it: unknown numbers are null."""
        match, rejected = self.match, self.rejected
        return {'at': list(self.at), 'verdict': self.verdict,
                'code': rejected.code.name if rejected else 'OK', 'message': str(rejected or ''),
                'pixel': match and to_list(match.pixel),
                'confidence': match and match.confidence,
                'covariance_px2': match and to_list(match.covariance_px2),
                'basis': match and match.basis}


Locate = Callable[[tuple[float, float]], PointAnswer]


def to_list(values: Array) -> list[Any] | None:
    """Return an array as lists, None if it holds NaN."""
    return values.tolist() if np.isfinite(values).all() else None


def build_locator(args: argparse.Namespace, pair: Pair) -> Locate:
    """Load the matcher, and the one that refines it, and return what answers a point."""
    options: dict[str, Any] = {}
    if args.option:
        from crosspoint_ros.bench.pairs.cli import parse_options
        options = parse_options(args.option)
    matcher = load_matcher(args.matcher, **options)
    refined_by = select_refiner(args.matcher, 'auto')
    refiner = load_refiner(refined_by) if refined_by else None

    def locate_at(at: tuple[float, float]) -> PointAnswer:
        try:
            result = locate(pair.clicked, [pair.other], np.array(at), matcher, LIMITS,
                            refiner=refiner)
        except Rejected as rejected:
            return PointAnswer(at, None, rejected)
        return PointAnswer(at, result, result.correspondences[0].rejected)
    return locate_at


# --- images ---------------------------------------------------------------------------------------

def draw_answer(pair: Pair, answer: PointAnswer) -> list[Rgb]:
    """Draw an answer into copies of the two images."""
    x, y = answer.at
    clicked = visualization.draw_clicked(pair.clicked.image, answer.at,
                                         f'clicked ({x:.1f}, {y:.1f})')
    if answer.result is None:
        other = visualization.draw_refusal(pair.other.image, f'refused: {answer.rejected}')
    else:
        (_, other), = visualization.draw_result(answer.result, [pair.other.camera], LIMITS)
    return [clicked, other]


def draw_row(pair: Pair, answer: PointAnswer) -> Rgb:
    """Draw an answer into the pair, in a row that is at most ROW_HEIGHT_PX tall."""
    images = draw_answer(pair, answer)
    scale = min(1.0, ROW_HEIGHT_PX / max(image.shape[0] for image in images))
    return visualization.concatenate_images([resize(image, scale) for image in images],
                                            [view.camera for view in pair])


def resize(image: Rgb, scale: float) -> Rgb:
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def pick_points(pair: Pair, locate_at: Locate) -> int:
    """Show the pair in a window and answer clicks on the left image until q is pressed."""
    if sys.platform == 'linux' and not {'DISPLAY', 'WAYLAND_DISPLAY'} & os.environ.keys():
        raise ValueError('--pick needs a display, and DISPLAY is not set: give --at X Y')
    height_px = max(view.image.shape[0] for view in pair)
    scale = min(1.0, WINDOW_PX / max(height_px, sum(view.image.shape[1] for view in pair)))
    clicks: list[tuple[float, float]] = []

    def on_mouse(event: int, x: int, y: int, flags: int, _: object) -> None:
        at = (x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5
        if event == cv2.EVENT_LBUTTONDOWN and at[0] < pair.clicked.image.shape[1]:
            clicks.append(at)

    def show(images: list[Rgb]) -> None:
        row = np.hstack([np.pad(image, ((0, height_px - len(image)), (0, 0), (0, 0)))
                         for image in images])
        cv2.imshow(WINDOW, cv2.cvtColor(resize(row, scale), cv2.COLOR_RGB2BGR))

    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_AUTOSIZE)
    except cv2.error as error:
        raise ValueError('--pick needs an OpenCV with windows and this one is headless: give --at '
                         'X Y, or install opencv-python in place of opencv-python-headless'
                         ) from error
    cv2.setMouseCallback(WINDOW, on_mouse)
    show([view.image for view in pair])
    answers: list[PointAnswer] = []
    while cv2.waitKey(50) not in (ord('q'), ESCAPE):
        for at in clicks:
            answers.append(locate_at(at))
            print(answers[-1].format(), flush=True)
            show(draw_answer(pair, answers[-1]))
        clicks.clear()
    cv2.destroyAllWindows()
    return get_exit_code(answers)


def get_exit_code(answers: list[PointAnswer]) -> int:
    return ANSWERED if any(answer.rejected is None for answer in answers) else REFUSED
