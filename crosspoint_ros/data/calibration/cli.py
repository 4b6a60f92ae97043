"""`crosspoint calibrate`: corrects where a camera is mounted, without a board."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.core.extrinsics.calibration import CalibrationRefused, Refusal, calibrate_mount
from crosspoint_ros.core.extrinsics.residuals import PosedMatches
from crosspoint_ros.core.extrinsics.solve import CameraMount, measure_prospect
from crosspoint_ros.core.image_io import read_mask, write_image
from crosspoint_ros.data.calibration.frames import (
    FrameCollector,
    PosedView,
    find_camera_topics,
    select_streams,
)
from crosspoint_ros.data.calibration.pairs import PairMatcher, choose_pairs
from crosspoint_ros.data.calibration.report import (
    MountLink,
    choose_picture_pair,
    draw_epipolar_lines,
    format_bars,
    format_report,
    format_yaml,
    measure_sigmas,
)
from crosspoint_ros.data.rosbag import iter_messages, open_bag

REFUSED = 3  # as in crosspoint_ros.cli
LOG_PERIOD_S = 5.0  # where the bars cannot be drawn in place
Messages = Iterator[tuple[str, Any]]
OpenStream = Callable[[], tuple[Mapping[str, str], Callable[[set[str]], Messages]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', nargs='?', type=Path, help='a rosbag2 with TF in which the hand, or '
                        'another camera, moves over a scene that stays still')
    parser.add_argument('--live', type=float, metavar='SECONDS',
                        help='instead of a bag: gather from topics for this long')
    parser.add_argument('--camera', required=True, help='its name, the first part of its topics')
    parser.add_argument('--hand-frame', default='', help='the frame of TF that carries it, such as '
                        'tool0 (default: the nearest one that moves; a still camera has none)')
    parser.add_argument('--base-frame', default='', help='(default: the root of TF)')
    parser.add_argument('--others', nargs='*', default=[], metavar='CAMERA',
                        help='other cameras that take part (default: all)')
    parser.add_argument('--topic', default='', help='image topic (default: found in /CAMERA/...)')
    parser.add_argument('--depth-topic', default='', help='depth topic, registered to the images')
    parser.add_argument('--no-depth', action='store_true', help='use the images alone')
    parser.add_argument('--mask', type=Path, metavar='PNG',
                        help="white where the robot's own body is, as `crosspoint mask` writes it")
    add_noise_arguments(parser)
    parser.add_argument('--partial', action='store_true', help='accept a correction that leaves '
                        'directions alone, where the hand turned too little')
    parser.add_argument('--out', type=Path, default=Path('calibration.yaml'),
                        help='the result (default: calibration.yaml)')
    parser.add_argument('--picture', type=Path, metavar='PNG',
                        help='draw epipolar lines before and after')


def add_noise_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how far the poses may be off, per axis."""
    for option, value, what in (('--noise-cm', 3.0, 'position of the camera'),
                                ('--noise-deg', 3.0, 'rotation of the camera'),
                                ('--others-noise-cm', 0.3, 'position of the other cameras'),
                                ('--others-noise-deg', 0.3, 'rotation of the other cameras')):
        parser.add_argument(option, type=float, default=value,
                            help=f'sigma of the {what} as given (default: {value:g})')


def main(args: argparse.Namespace, open_live: OpenStream | None = None) -> int:
    """Gather, solve and write; 3 if the calibration is refused."""
    if (args.bag is None) == (args.live is None):
        raise ValueError('give a bag or --live SECONDS, one of the two')
    for option in ('noise_cm', 'noise_deg', 'others_noise_cm', 'others_noise_deg'):
        if not 0 < getattr(args, option) < 100:
            raise ValueError(f'--{option.replace("_", "-")} {getattr(args, option):g} must be more '
                             'than 0 and less than 100')
    try:
        if open_live is not None:
            gathered = gather(args, *open_live(), live=True)
        else:
            gathered = read_bag(args)
        return _calibrate(args, gathered)
    except CalibrationRefused as refused:
        print(f'crosspoint calibrate: refused: {refused}', file=sys.stderr)
        return REFUSED


@dataclass(frozen=True, eq=False)
class CalibrationData:
    """Matched pairs, their views by number, and the declared mounts of the cameras."""

    pairs: list[PosedMatches]
    views: dict[int, PosedView]
    mounts: dict[str, CameraMount]
    collector: FrameCollector


def read_bag(args: argparse.Namespace) -> CalibrationData:
    """Gather and match the frames of a bag."""
    with closing(open_bag(args.bag)) as bag:
        types = {c.topic: c.msgtype for c in bag.connections if c.msgcount}
        return gather(args, types, partial(iter_messages, bag))


def gather(args: argparse.Namespace, types: Mapping[str, str],
           iterate: Callable[[set[str]], Messages], live: bool = False) -> CalibrationData:
    """Collect frames and match them; live: while they come, with a bar for each direction."""
    cameras = find_camera_topics(types, args.camera, args.topic, args.depth_topic)
    cameras = {name: topics for name, topics in cameras.items()
               if name == args.camera or not args.others or name in args.others}
    mask = read_mask(args.mask) if args.mask else None
    collector = FrameCollector(cameras, args.camera, args.hand_frame, args.base_frame,
                               not args.no_depth, mask)
    matcher, progress = PairMatcher(), _Progress(args, collector)
    for topic, message in iterate(collector.topics):
        kept = collector.add(topic, message)
        if live and kept:
            progress.add(kept, matcher)
    collector.finish()
    streams = select_streams(collector.streams, args.camera, args.others)
    if args.camera not in streams:
        stream = collector.streams[args.camera]
        raise CalibrationRefused(Refusal.NO_POSES if stream.seen else Refusal.TOO_FEW_PAIRS, (
            f'{stream.seen} images of {args.camera} came, none with a pose'
            + (f': {stream.fault}' if stream.fault else '')))
    views = [view for stream in streams.values() for view in stream.views]
    chosen = choose_pairs(views, args.camera)
    pairs = matcher.match_all(tqdm(chosen, unit='pair', disable=None, leave=False))
    return CalibrationData(pairs, {view.number: view for view in views},
                           declare_mounts(args, collector), collector)


def declare_mounts(args: argparse.Namespace, collector: FrameCollector) -> dict[str, CameraMount]:
    """Return the declared mounts of all cameras with frames."""
    def declare(name: str, pose: Transform) -> CameraMount:
        cm, deg = (args.noise_cm, args.noise_deg) if name == args.camera else (
            args.others_noise_cm, args.others_noise_deg)
        return CameraMount(pose, cm / 100, float(np.radians(deg)))

    return {name: declare(name, stream.body_from_cam)
            for name, stream in collector.streams.items() if stream.body_from_cam is not None}


def _calibrate(args: argparse.Namespace, data: CalibrationData) -> int:
    calibration = calibrate_mount(data.pairs, data.mounts, args.camera, args.partial)
    stream = data.collector.streams[args.camera]
    assert stream.frames is not None
    link = MountLink.from_calibration(calibration, stream.frames, data.collector.tree,
                                      stream.views[0].view.stamp_ns)
    print(format_report(calibration, link, len(data.views), sum(map(len, data.pairs))))
    args.out.write_text(format_yaml(calibration, link, stream.frames))
    print(f'written to {args.out}')
    if args.picture:
        given = {name: mount.body_from_cam for name, mount in data.mounts.items()}
        poses = given, {**given, args.camera: calibration.body_from_cam}
        pair = choose_picture_pair(data.pairs, poses, args.camera)
        first, second = (data.views[number].view for number in pair.frames)
        write_image(args.picture, draw_epipolar_lines((first, second), pair, poses))
        print(f'inspect {args.picture}: points should lie on the lines of their colour')
    return 0


class _Progress:
    """Shows, while frames come, how well each direction could be known by now."""

    def __init__(self, args: argparse.Namespace, collector: FrameCollector) -> None:
        self._args, self._collector = args, collector
        self._pairs: list[PosedMatches] = []
        self._lines, self._shown_s = 0, 0.0

    def add(self, kept: Sequence[PosedView], matcher: PairMatcher) -> None:
        """Match new frames with two of the earlier ones."""
        earlier = [view for stream in self._collector.streams.values() for view in stream.views
                   if view.number < kept[0].number]
        for view in kept:
            partners = [a for a, b in choose_pairs([*earlier, view], self._args.camera)
                        if b is view]
            self._pairs += matcher.match_all((a, view) for a in partners[::-1][:2])
        pause_s = 0.0 if sys.stderr.isatty() else LOG_PERIOD_S
        if self._pairs and time.monotonic() - self._shown_s >= pause_s:
            self._show()
            self._shown_s = time.monotonic()

    def _show(self) -> None:
        mounts = declare_mounts(self._args, self._collector)
        covariance = measure_prospect(self._pairs, mounts, self._args.camera)
        mount = mounts[self._args.camera]
        lines = [f'{len(self._pairs)} pairs; each bar fills as its direction gets known:',
                 *format_bars(measure_sigmas(covariance), mount.sigma_m, mount.sigma_rad)]
        if sys.stderr.isatty():
            print('\x1b[A\x1b[2K' * self._lines, end='', file=sys.stderr)
            self._lines = len(lines)
        print('\n'.join(lines), file=sys.stderr, flush=True)
