"""`crosspoint bench calibrate`: perturbs a camera's mount, scores its correction or the alarm."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crosspoint_ros.bench.calibrate.bump import score_alarm
from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.core.datatypes import Array
from crosspoint_ros.core.extrinsics.calibration import CalibrationRefused, calibrate_mount
from crosspoint_ros.core.extrinsics.residuals import PosedMatches, exp_pose, log_pose
from crosspoint_ros.core.extrinsics.solve import CameraMount, measure_error
from crosspoint_ros.data.calibration import cli as calibrate_cli

COVERED_SIGMAS = 2.0
SEEN_SHARE = 2 / 3  # of the pairs, in each draw


@dataclass(frozen=True, eq=False)
class PerturbedDraw:
    """One perturbed mount and its correction; error, sigma: (6,), rad and m; or a refusal."""

    error: Array
    sigma: Array
    residual_ratio: float  # px, of all pairs: after, to the recording's own poses
    refused: str = ''

    @property
    def is_covered(self) -> bool:
        return bool((np.abs(self.error) <= COVERED_SIGMAS * self.sigma).all())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('bag', type=Path, help='a rosbag2 whose poses are right')
    parser.add_argument('--camera', default='wrist', help='the perturbed camera (default: wrist)')
    parser.add_argument('--hand-frame', default='', help='see `crosspoint calibrate`')
    parser.add_argument('--cm', type=float, default=2.0, help='length of the shift (default: 2)')
    parser.add_argument('--deg', type=float, default=3.0, help='angle of the turn (default: 3)')
    parser.add_argument('--draws', type=int, default=20, help='(default: 20)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--no-depth', action='store_true', help='use the images alone')
    parser.add_argument('--others', nargs='*', default=[], metavar='CAMERA',
                        help='other cameras that take part (default: all)')
    parser.add_argument('--mask', type=Path, metavar='PNG', help="the robot's own body")
    parser.add_argument('--bump', action='store_true', help='score the alarm instead: the camera '
                        'is shifted by --cm, or turned by --deg, between two sessions of clicks; '
                        'needs truth.json next to the bag')
    parser.add_argument('--clicks', type=int, default=200,
                        help='of the session without a bump, with --bump (default: 200)')
    calibrate_cli.add_noise_arguments(parser)
    parser.set_defaults(base_frame='', topic='', depth_topic='', partial=False)


def main(args: argparse.Namespace) -> int:
    """Match once, then perturb and correct; 1 if every draw was refused."""
    if not 1 <= args.draws <= 1000:
        raise ValueError(f'--draws {args.draws} must be 1 to 1000')
    if args.bump:
        return score_alarm(args)
    data = calibrate_cli.read_bag(args)
    draws = run_draws(data.pairs, data.mounts, args.camera, args.cm / 100, np.radians(args.deg),
                      args.draws, args.seed)
    depth = 'with depth' if any(p.has_depth for p in data.pairs) else 'without depth'
    print(f'{args.bag.name}, {args.camera} off by {args.cm:g} cm and {args.deg:g} deg in '
          f'{args.draws} random directions, {depth}; {len(data.pairs)} pairs, of which each draw '
          f'sees {SEEN_SHARE:.0%}\n{format_draws(draws)}\n{describe_machine()}')
    return int(all(draw.refused for draw in draws))


def run_draws(pairs: Sequence[PosedMatches], mounts: Mapping[str, CameraMount], camera: str,
              shift_m: float, turn_rad: float, count: int, seed: int) -> list[PerturbedDraw]:
    """Perturb in random directions, and correct by a random part of the pairs."""
    true = mounts[camera].body_from_cam
    at_truth = {name: mount.body_from_cam for name, mount in mounts.items()}
    own_px, _ = measure_error(pairs, at_truth)
    draws = []
    for number in tqdm(range(count), unit='draw', disable=None):
        rng = np.random.default_rng((seed, number))
        given = dict(mounts)
        given[camera] = replace(mounts[camera], body_from_cam=true @ exp_pose(np.concatenate([
            turn_rad * _random_direction(rng), shift_m * _random_direction(rng)])))
        keep = np.sort(rng.permutation(len(pairs))[:round(SEEN_SHARE * len(pairs))])
        try:
            found = calibrate_mount([pairs[i] for i in keep], given, camera)
        except CalibrationRefused as refused:
            draws.append(PerturbedDraw(np.full(6, np.nan), np.full(6, np.nan), np.nan,
                                       str(refused)))
            continue
        px, _ = measure_error(pairs, {**at_truth, camera: found.body_from_cam})
        draws.append(PerturbedDraw(log_pose(true.inverse @ found.body_from_cam),
                                   np.sqrt(np.diag(found.covariance)), px / own_px))
    return draws


def _random_direction(rng: np.random.Generator) -> Array:
    direction = rng.normal(size=3)
    return np.asarray(direction / np.linalg.norm(direction))


def format_draws(draws: Sequence[PerturbedDraw]) -> str:
    """Format the figures as text."""
    answered = [draw for draw in draws if not draw.refused]
    lines = [f'corrected: {len(answered)} of {len(draws)}']
    lines += sorted({f'  refused: {draw.refused}' for draw in draws if draw.refused})[:3]
    if answered:
        errors = np.array([draw.error for draw in answered])
        sigmas = np.array([draw.sigma for draw in answered])
        off_mm = 1000 * np.linalg.norm(errors[:, 3:], axis=1)
        off_deg = np.degrees(np.linalg.norm(errors[:, :3], axis=1))
        ratios = np.array([draw.residual_ratio for draw in answered])
        lines += [
            f'error after: median {np.median(off_mm):.2f} mm, {np.median(off_deg):.3f} deg; '
            f'largest {off_mm.max():.2f} mm, {off_deg.max():.3f} deg',
            f'sigma: {1000 * np.median(sigmas[:, 3:]):.2f} mm, '
            f'{np.degrees(np.median(sigmas[:, :3])):.3f} deg per axis; all six errors within '
            f'{COVERED_SIGMAS:g} sigma in {sum(d.is_covered for d in answered)} of '
            f'{len(answered)}; {np.mean(np.abs(errors) <= sigmas):.0%} of single errors within one',
            "residual after, to that of the recording's own poses: "
            f'median {np.median(ratios):.3f}, largest {ratios.max():.3f}']
    return '\n'.join(lines)
