"""`crosspoint bench pick`: clicks on objects in MuJoCo, and counts those that get lifted."""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from crosspoint_ros.bench.environment import describe_machine, parse_positive
from crosspoint_ros.bench.pairs.metrics import wilson_interval
from crosspoint_ros.core.encodings import Rgb

if TYPE_CHECKING:
    from crosspoint_ros.bench.pick.trial import PickOutcome

FRAME_MS, FILM_SCALE = 120, 0.65


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--trials', type=parse_positive, default=20, help='(default: 20)')
    parser.add_argument('--noise-cm', type=float, default=0.0,
                        help="error of each camera's pose, cm (default: 0)")
    parser.add_argument('--noise-deg', type=float, default=0.0, help='and deg (default: 0)')
    parser.add_argument('--seed', type=int, default=0, help='of the first scene (default: 0)')
    parser.add_argument('--pictures', type=Path, metavar='FOLDER',
                        help='draw each click that does not end in its object being lifted')
    parser.add_argument('--film', type=Path, metavar='WEBP', help='an animation of the first trial')
    parser.add_argument('--json', type=Path, help='write the outcomes')


def main(args: argparse.Namespace) -> int:
    """Run all trials, each in another scene, and print what came of them."""
    if importlib.util.find_spec('mujoco') is None:
        print('crosspoint bench pick: MuJoCo is not installed: pip install "crosspoint_ros[sim]"')
        return 1
    if args.film and not hasattr(cv2, 'Animation'):
        print(f'crosspoint bench pick: --film needs OpenCV 4.11 or newer (this: {cv2.__version__})')
        return 1
    os.environ.setdefault('MUJOCO_GL', 'egl')  # renders without a display, on a CPU as well
    from crosspoint_ros.bench.pick.rig import PickRig
    from crosspoint_ros.bench.pick.trial import draw_world, run_trial
    print(describe_machine())
    outcomes: list[PickOutcome] = []
    with closing(draw_world(args.seed)) as world, PickRig(world) as rig:
        for number in range(args.seed, args.seed + args.trials):
            film: list[Rgb] | None = [] if args.film and not outcomes else None
            outcomes.append(run_trial(rig, number, args.noise_cm / 100,
                                      float(np.radians(args.noise_deg)), film))
            if film:
                write_film(args.film, film)
            print(f'  {number:4} {outcomes[-1]}', flush=True)
            if args.pictures and not outcomes[-1].is_picked:
                args.pictures.mkdir(parents=True, exist_ok=True)
                outcomes[-1].draw(args.pictures / f'{number:04}_{outcomes[-1].name}.png')
    print('\n'.join(summarize(outcomes)))
    if args.json:
        args.json.write_text(json.dumps([each.describe() for each in outcomes], indent=1) + '\n')
    return 0


def write_film(path: Path, pictures: Sequence[Rgb]) -> None:
    """Write pictures (h, w, 3) RGB as an animation."""
    animation = cv2.Animation()
    animation.frames = [cv2.resize(
        picture[..., ::-1], None, fx=FILM_SCALE, fy=FILM_SCALE, interpolation=cv2.INTER_AREA)
        for picture in pictures]
    animation.durations = [FRAME_MS] * len(pictures)
    if not cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 50]):
        raise OSError(f'cannot write {path}')


def summarize(outcomes: Sequence[PickOutcome]) -> list[str]:
    """Return the figures as lines."""
    answered = [each for each in outcomes if not each.refusal]
    picked = [each for each in answered if each.is_picked]
    wrong = sum(each.is_wrong for each in answered)
    lines = [f'answered {_format_share(len(answered), len(outcomes))} of the clicks that both '
             'cameras show',
             f'picked {_format_share(len(picked), len(answered))} of the answered',
             f'another object picked: {wrong} of {len(outcomes)}']
    if unclear := sum(bool(each.unclear) for each in answered):
        lines.append(f'closed at the click, of an unclear shape: {unclear}')
    if answered:
        off_mm = 1000 * np.array([each.off_m for each in answered])
        lines.append(f'target to clicked point: median {np.median(off_mm):.1f} mm, p90 '
                     f'{np.percentile(off_mm, 90):.1f}, at most {off_mm.max():.1f}')
    lines.append('click to result: median '
                 f'{np.median([each.answer_s for each in outcomes]):.1f} s')
    refusals = Counter(each.refusal.partition(':')[0] for each in outcomes if each.refusal)
    return lines + [f'refused as {code}: {count}' for code, count in refusals.most_common()]


def _format_share(count: int, of: int) -> str:
    low, high = wilson_interval(count, of)
    return (f'{count} of {of} ({100 * count / max(of, 1):.0f} %, {100 * low:.0f} to '
            f'{100 * high:.0f})')
