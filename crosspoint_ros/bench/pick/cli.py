"""`crosspoint bench pick`: clicks on objects in MuJoCo, and counts those that get lifted."""
from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pick.mujoco_setup import require_mujoco
from crosspoint_ros.core.encodings import Rgb

if TYPE_CHECKING:
    from crosspoint_ros.bench.pick.rig import PickRig
    from crosspoint_ros.bench.pick.trial import PickOutcome, Setting

FRAME_MS, FILM_SCALE = 120, 0.65


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--trials', type=parse_positive, default=20, help='(default: 20)')
    parser.add_argument('--noise-cm', type=float, default=0.0,
                        help="error of each camera's pose, cm (default: 0)")
    parser.add_argument('--noise-deg', type=float, default=0.0, help='and deg (default: 0)')
    parser.add_argument('--looks', type=int, choices=(1, 2), default=2, help='1: pick where the '
                        'answer is; 2: look again with the camera on the gripper (default)')
    parser.add_argument('--clicked', choices=('front', 'wrist'), default='front',
                        help='the camera in which to click (default: front)')
    parser.add_argument('--arm', action='store_true', help='a six-joint arm carries the gripper: '
                        "its camera's pose comes from joint angles and a hand-eye transform")
    parser.add_argument('--hand-eye-off', type=float, nargs=2, metavar=('CM', 'DEG'),
                        help='with --arm: pick with the true hand-eye transform, with one that is '
                        'wrong by this, and with that corrected by `crosspoint calibrate`')
    parser.add_argument('--seed', type=int, default=0, help='of the first scene (default: 0)')
    parser.add_argument('--pictures', type=Path, metavar='FOLDER',
                        help='draw each click that does not end in its object being lifted')
    parser.add_argument('--film', type=Path, metavar='WEBP', help='an animation of the first trial')
    parser.add_argument('--json', type=Path, help='write the outcomes')


def main(args: argparse.Namespace) -> int:
    """Run all trials, each in another scene, and print what came of them."""
    if args.film and not hasattr(cv2, 'Animation'):
        raise ValueError(f'--film needs OpenCV 4.11 or newer (this: {cv2.__version__})')
    if args.hand_eye_off and not args.arm:
        raise ValueError('--hand-eye-off needs --arm')
    require_mujoco()
    from crosspoint_ros.bench.pick.rig import PickRig
    from crosspoint_ros.bench.pick.trial import Setting, draw_world
    setting = Setting(args.noise_cm / 100, float(np.radians(args.noise_deg)), looks=args.looks,
                      clicked=args.clicked)
    if args.arm:
        from crosspoint_ros.bench.pick.arm import Arm
        setting = replace(setting, arm=Arm())
    print(describe_machine())
    with closing(draw_world(args.seed, setting.arm)) as world, PickRig(world) as rig:
        outcomes = run_hand_eyes(args, rig, setting) if args.hand_eye_off else run_trials(
            args, rig, setting)
    if args.json:
        args.json.write_text(json.dumps(outcomes, indent=1) + '\n')
    return 0


def run_trials(args: argparse.Namespace, rig: PickRig, setting: Setting, prefix: str = ''
               ) -> list[dict[str, object]]:
    """Run the trials, print what came of them, and return the outcomes as JSON."""
    from crosspoint_ros.bench.pick.report import summarize
    from crosspoint_ros.bench.pick.trial import run_trial
    outcomes: list[PickOutcome] = []
    for number in range(args.seed, args.seed + args.trials):
        film: list[Rgb] | None = [] if args.film and not outcomes and not prefix else None
        outcomes.append(run_trial(rig, number, setting, film))
        if film:
            write_film(args.film, film)
        print(f'  {number:4} {outcomes[-1]}', flush=True)
        if args.pictures and not outcomes[-1].is_picked:
            args.pictures.mkdir(parents=True, exist_ok=True)
            outcomes[-1].draw(args.pictures / f'{prefix}{number:04}_{outcomes[-1].name}.png')
    print('\n'.join(summarize(outcomes)))
    return [{**each.describe(), 'hand_eye': prefix.rstrip('_')} for each in outcomes]


def run_hand_eyes(args: argparse.Namespace, rig: PickRig, setting: Setting
                  ) -> list[dict[str, object]]:
    """Pick with the true, a wrong and the corrected hand-eye transform; print the three shares."""
    from crosspoint_ros.bench.pick.hand_eye import calibrate, format_error
    from crosspoint_ros.bench.pick.report import format_share
    from crosspoint_ros.bench.pick.trial import draw_error
    cm, deg = args.hand_eye_off
    wrong = draw_error(cm / 100, float(np.radians(deg)), np.random.default_rng([args.seed, 2]))
    assert setting.arm is not None
    outcomes, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in ('true', 'wrong', 'calibrated'):
            hand_eye = setting.hand_eye if name == 'true' else wrong if name == 'wrong' else (
                calibrate(rig, args.seed, setting.arm, wrong, Path(folder)))
            print(f'\nhand-eye transform {name}, {format_error(hand_eye)}', flush=True)
            done = run_trials(args, rig, replace(setting, hand_eye=hand_eye), f'{name}_')
            picked = sum(not each['cause'] for each in done)
            lines.append(f'hand-eye {name}, {format_error(hand_eye)}: picked '
                         f'{format_share(picked, len(done))} of the clicks')
            outcomes += done
    print('\n' + '\n'.join(lines))
    return outcomes


def write_film(path: Path, pictures: Sequence[Rgb]) -> None:
    """Write pictures (h, w, 3) RGB as an animation."""
    animation = cv2.Animation()
    animation.frames = [cv2.resize(
        picture[..., ::-1], None, fx=FILM_SCALE, fy=FILM_SCALE, interpolation=cv2.INTER_AREA)
        for picture in pictures]
    animation.durations = [FRAME_MS] * len(pictures)
    if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 50]):
        raise OSError(f'cannot write {path}')
