"""`crosspoint bench follow`: scores following on recordings of moving objects with truth."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.follow.moving_scene import MovingRecording, find_recordings
from crosspoint_ros.bench.follow.score import FollowScore, follow_point
from crosspoint_ros.bench.follow.staging import Staging
from crosspoint_ros.core.track.state import FollowLimits
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.matchers import load_matcher

RATE_HZ = 10.0  # of `track`

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crosspoint bench follow`."""
    parser.add_argument('recordings', type=Path, help='a recording with truth.json, or a folder of '
                        'them; points without a track in it stay where they were clicked')
    parser.add_argument('--no-depth', action='store_true', help='do without the depth')
    parser.add_argument('--camera', action='append', default=[],
                        help='follow in this camera alone; may be repeated')
    parser.add_argument('--alone-after', type=float, default=0.0, metavar='S',
                        help='with --camera: the others stop that much after the click')
    parser.add_argument('--staged', action='store_true', help='hide the target in all cameras from '
                        '1 to 2 s after the click, and take it away from 3 s on (points at rest)')
    parser.add_argument('--moving', action='store_true', help='only the points that move')
    parser.add_argument('--point', default='', help='only the points with this in their names')
    parser.add_argument('--click-after', type=float, default=0.0, metavar='S',
                        help='click that much later: the node knows the images before a click')
    parser.add_argument('--coast-s', type=float, default=FollowLimits.coast_s,
                        help='follow.coast_s')
    parser.add_argument('--lost-s', type=float, default=FollowLimits.lost_s, help='follow.lost_s')
    parser.add_argument('--max-target-sigma-m', type=float, default=Limits.max_target_sigma_m,
                        help='limits.max_target_sigma_m')
    parser.add_argument('--matcher', default='xfeat', help='the matcher (default: xfeat)')
    parser.epilog = ('The point is clicked at its first stamp with all cameras, then followed. A '
                     'frame counts as visible where a camera that is used shows the point. '
                     'Without depth the click waits up to a second for the path of a moving '
                     'camera (W): frames without any place.')


def main(args: argparse.Namespace) -> int:
    """Print a line for each point, and the totals."""
    if args.alone_after and not args.camera:
        raise ValueError(f'--alone-after {args.alone_after:g}: name the cameras that go on by '
                         '--camera')
    matcher = load_matcher(args.matcher)
    limits = replace(Limits(), max_target_sigma_m=args.max_target_sigma_m)
    follow = FollowLimits(args.coast_s, args.lost_s)
    scores: list[FollowScore] = []
    print(describe_machine())
    for folder in find_recordings(args.recordings):
        recording = MovingRecording(folder, tuple(args.camera), not args.no_depth)
        print(f'{recording.name}: {", ".join(recording.cameras)}, '
              f'{"with" if not args.no_depth else "without"} depth')
        for point in recording.points:
            if args.point in point.name and (point.moves or not args.moving) and not (
                    point.moves and args.staged):
                try:
                    clicked = recording.click_later(point, args.click_after)
                except ValueError as why:
                    print(f'  {point.name}: not clicked: {why}')
                    continue
                scores.append(follow_point(recording, clicked, matcher, follow, limits,
                                           Staging() if args.staged else None, args.alone_after))
                print(format_score(scores[-1]), flush=True)
    for title, chosen in (('moving points', [s for s in scores if s.moves]),
                          ('points at rest', [s for s in scores if not s.moves])):
        if any(score.errors_m for score in chosen):
            print(format_total(title, chosen))
    if followed := [score for score in scores if score.cpu_s]:
        print(format_shares(followed))
    return 0


def format_shares(scores: Sequence[FollowScore]) -> str:
    """Return which share of a core following takes, with all cameras of the recordings.

    Images are received and decoded too. `watch` looks once a second, and searches in doubt
    alone.
    """
    look_s = float(np.mean([c for score in scores for c in score.cpu_s]))
    search = sum(c for score in scores for c in score.search_cpu_s) / sum(
        score.seconds for score in scores)
    return (f'CPU of one core: track at {RATE_HZ:g} Hz {100 * (RATE_HZ * look_s + search):.1f} % '
            f'(looks {100 * RATE_HZ * look_s:.1f} %, searches {100 * search:.1f} %), watch '
            f'{100 * look_s:.1f} %')


def format_score(score: FollowScore) -> str:
    """Return one point's line."""
    if score.refused or not score.errors_m:
        return f'  {score.name}: not followed: {score.refused or "never visible"}'
    return f'  {score.name} (click {1000 * score.clicked_error_m:.1f} mm off): ' + _format(
        [score]) + f'\n    {score.states}'


def format_total(title: str, scores: Sequence[FollowScore]) -> str:
    """Return the line of several points."""
    followed = [score for score in scores if score.errors_m]
    return f'{title}, {len(followed)} of {len(scores)} followed: {_format(followed)}'


def _format(scores: Sequence[FollowScore]) -> str:
    errors_mm = 1000 * np.array([e for score in scores for e in score.errors_m])
    tracked = np.array([t for score in scores for t in score.tracked])
    frames = sum(len(score.states) for score in scores)
    parts = [f'of {len(errors_mm)} visible frames '
             + ', '.join(f'{100 * (errors_mm <= limit).mean():.1f} % within {limit} mm'
                         for limit in (5, 10, 20)),
             f'median {np.median(errors_mm):.1f} mm, p95 '
             f'{np.sort(errors_mm)[int(np.ceil(0.95 * len(errors_mm))) - 1]:.1f} mm',
             f'{100 * tracked.mean():.1f} % tracked',
             f'false tracking {sum(score.false_frames for score in scores)} of {frames} frames']
    if any(not score.moves for score in scores):
        left = sum(score.states.upper().count(state) for score in scores if not score.moves
                   for state in 'ML')
        parts.append(f'drift {1000 * max(score.drift_m for score in scores):.1f} mm, moved or lost '
                     f'{left} frames')
    for what, values in (('alarm', [a for score in scores for a in score.alarms_s]),
                         ('refound', [r for score in scores for r in score.refound_s]),
                         ('lost', [lost for score in scores for lost in score.lost_s])):
        if values:
            missed = int(np.isnan(values).sum())
            worst = f'{np.nanmax(values):.2f} s' if missed < len(values) else 'never'
            parts.append(f'{what} {len(values) - missed} of {len(values)}, at most {worst}')
    parts.append(f'CPU {1000 * np.mean([c for score in scores for c in score.cpu_s]):.1f} ms a '
                 'frame')
    if searches := [s for score in scores for s in score.search_cpu_s]:
        parts.append(f'{len(searches)} searches, {1000 * np.median(searches):.0f} ms each')
    return '; '.join(parts)
