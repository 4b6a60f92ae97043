"""Calibrates where a camera is mounted, or refuses and names the motion that is missing."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.core.extrinsics.residuals import (
    Noise,
    PosedMatches,
    exp_pose,
    log_pose,
    measure_residuals,
    measure_slopes,
)
from crosspoint_ros.core.extrinsics.solve import (
    ROOM,
    SHRINK,
    CameraMount,
    MountEstimate,
    Observability,
    bootstrap,
    fit_mounts,
    measure_error,
)

MIN_PAIRS, MIN_MATCHES = 8, 20
HELD_OUT = 4  # every fourth pair
MIN_TURN_DEG, MIN_SECOND_TURN_DEG = 3.0, 1.0  # rms about the best axes; below they are noise
# A pair moves otherwise if a pose fitted to it alone is that much better than the common one.
# The poses of an arm may be wrong by some millimetres, which is not a moving scene.
OTHERWISE_RATIO, OTHERWISE_RAD, MAX_OTHERWISE = 3.0, 0.016, 0.4
PLANE_RAD, PLANE_SHARE, MAX_PLANAR = 0.004, 0.95, 0.8
MAX_WORSE = 1.05
CHI2_6_99 = 16.8
AXES = ('right', 'down', 'along the optical axis')


class Refusal(Enum):
    """Why there is no calibration."""

    TOO_FEW_PAIRS = 'too few pairs'
    TOO_LITTLE_ROTATION = 'too little rotation'
    ONE_AXIS = 'one axis only'
    UNSEEN = 'nothing seen'
    PLANAR_SCENE = 'planar scene without depth'
    MOVING_SCENE = 'moving scene'
    NO_POSES = 'poses not interpolable'
    NOT_BETTER = 'not better'


class CalibrationRefused(ValueError):  # noqa: N818
    """A refusal: its kind, and a message with the measured value, the limit and what to do."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(f'{refusal.value}: {message}')
        self.refusal = refusal


@dataclass(frozen=True)
class PairError:
    """Median errors of matches: px, and point to plane in mm (NaN without depth)."""

    px: float
    plane_mm: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """A camera's corrected mount.

    correction: given_from_corrected, in the camera's frame. covariance: (6, 6) of a small rotation,
    rad, then translation, m, in the camera's frame. before, after: of the pairs that were held out.
    missing: the directions that were not moved, and the motion that would show them; '' for none.
    """

    camera: str
    body_from_cam: Transform
    correction: Transform
    covariance: Array
    observability: Observability
    before: PairError
    after: PairError
    pairs: int
    missing: str

    @property
    def is_significant(self) -> bool:
        """Whether the correction is more than chance (1 % of right poses), by its covariance."""
        step = log_pose(self.correction)
        return bool(step @ np.linalg.solve(self.covariance, step) > CHI2_6_99)

    @property
    def sigma_m(self) -> float:
        """Of the position, along its worst axis."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance[3:, 3:])[-1]))

    @property
    def sigma_rad(self) -> float:
        """Of the rotation, about its worst axis."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance[:3, :3])[-1]))


def calibrate_mount(pairs: Sequence[PosedMatches], mounts: Mapping[str, CameraMount], target: str,
                    partial: bool = False) -> Calibration:
    """Correct the mount of one camera by matches of posed frames.

    mounts: of all cameras in the pairs; the others' declared sigmas say how far they are trusted.
    partial: accept a correction with directions that are left alone, for want of rotation. Raises
    `CalibrationRefused`.
    """
    pairs = [pair for pair in pairs if len(pair) >= MIN_MATCHES]
    with_target = sum(target in pair.cameras for pair in pairs)
    if with_target < MIN_PAIRS:
        raise CalibrationRefused(Refusal.TOO_FEW_PAIRS, f'{with_target} pairs of images of '
                                 f'{target} have {MIN_MATCHES} matches (at least {MIN_PAIRS} '
                                 'pairs): record more views of a scene with texture')
    used = {camera for pair in pairs for camera in pair.cameras}
    mounts = {name: mount for name, mount in mounts.items() if name in used}
    if not any(pair.has_depth for pair in pairs):
        _require_relief(pairs)
    given = {name: mount.body_from_cam for name, mount in mounts.items()}
    estimate, seen = fit_mounts(pairs, mounts, target)
    _require_still_scene(pairs, estimate)
    missing = explain_unseen(pairs, target, seen)
    _require_motion(pairs, target, seen, missing, partial)
    held_out = pairs[::HELD_OUT]
    fitted, _ = fit_mounts([p for i, p in enumerate(pairs) if i % HELD_OUT], mounts, target)
    before, after = (PairError(px, 1000 * plane_m) for px, plane_m in (
        measure_error(held_out, poses) for poses in (given, fitted.body_from_cam)))
    correction = given[target].inverse @ estimate.body_from_cam[target]
    result = Calibration(target, estimate.body_from_cam[target], correction,
                         bootstrap(estimate, pairs, target, seen), seen, before, after, len(pairs),
                         missing)
    _require_better(result)
    return result


def _require_better(result: Calibration) -> None:
    before, after, correction = result.before, result.after, result.correction
    ratios = np.array([after.px / before.px, after.plane_mm / before.plane_mm])
    ratios = ratios[np.isfinite(ratios)]
    if np.prod(ratios) < 1 and ratios.max() < MAX_WORSE and result.is_significant:
        return
    turn_deg = np.degrees(np.linalg.norm(cv2.Rodrigues(correction.R)[0]))
    verdict = 'keep the pose as given' if result.is_significant else (
        'the pose as given is right, as far as can be measured (sigma '
        f'{1000 * result.sigma_m:.1f} mm, {np.degrees(result.sigma_rad):.2f} deg)')
    raise CalibrationRefused(Refusal.NOT_BETTER, (
        f'a correction of {1000 * np.linalg.norm(correction.t_m):.1f} mm and {turn_deg:.2f} deg '
        f'changes the error of the pairs that were held out from {format_error(before)} to '
        f'{format_error(after)}: {verdict}'))


def format_error(error: PairError) -> str:
    """Format as `0.84 px, 1.2 mm`."""
    plane = f', {error.plane_mm:.2f} mm' if np.isfinite(error.plane_mm) else ''
    return f'{error.px:.2f} px{plane}'


# --- motion ---------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class BodyMotion:
    """How the body of a camera turns: rms angles (3,) about the axes (3, 3) of its frame.

    is_still: it does not move at all, as the base.
    """

    turns_deg: Array
    axes: Array
    is_still: bool

    @classmethod
    def from_pairs(cls, pairs: Sequence[PosedMatches], camera: str) -> BodyMotion:
        poses = {frame: pose for pair in pairs for name, frame, pose in zip(
            pair.cameras, pair.frames, pair.base_from_body, strict=True) if name == camera}
        first = next(iter(poses.values()))
        turns = np.array([cv2.Rodrigues(first.R.T @ pose.R)[0].ravel() for pose in poses.values()])
        turns = np.degrees(turns - turns.mean(axis=0))
        _, sizes, axes = np.linalg.svd(turns, full_matrices=False)
        sizes, axes = np.pad(sizes, (0, 3 - len(sizes))), np.vstack([axes, np.eye(3)])[:3]
        return cls(sizes / np.sqrt(len(turns)), axes,
                   all(np.allclose(pose.matrix, first.matrix, atol=1e-9)
                       for pose in poses.values()))


def explain_unseen(pairs: Sequence[PosedMatches], target: str, seen: Observability) -> str:
    """Return what the data do not see, and which motion is missing; '' if they see all."""
    if seen.is_seen.all():
        return ''
    names = '; '.join(_name_direction(direction) for direction in
                      seen.directions[~seen.is_seen])
    motion = BodyMotion.from_pairs(pairs, target)
    axis = ', '.join(f'{x:.2f}' for x in motion.axes[0])
    if motion.is_still:
        cure = ('move the other camera, or use depth' if not any(p.has_depth for p in pairs)
                else 'add another camera, or images of it that overlap more')
    elif motion.turns_deg[0] < MIN_TURN_DEG:
        cure = (f'the hand turns by {motion.turns_deg[0]:.1f} deg rms (at least '
                f'{MIN_TURN_DEG:g}): turn it by 15 deg or more, about two axes')
    elif motion.turns_deg[1] < MIN_SECOND_TURN_DEG:
        cure = (f'all turns are about one axis, ({axis}) of the hand ('
                f'{motion.turns_deg[0]:.1f} deg rms, {motion.turns_deg[1]:.1f} about others): turn '
                'the wrist about a second axis')
    else:
        cure = ('turn the hand further about axes other than '
                f'({axis}), and look at nearer things')
    return f'not seen, and not moved: {names}. To see it: {cure}'


def _name_direction(direction: Array) -> str:
    turn, shift = direction[:3], direction[3:]
    kind = 'rotation about' if np.linalg.norm(turn) > np.linalg.norm(shift) else 'position along'
    part = turn if kind.startswith('rotation') else shift
    part = part / np.linalg.norm(part)
    main = int(np.abs(part).argmax())
    named = AXES[main] if abs(part[main]) > 0.9 else f'({", ".join(f"{x:.2f}" for x in part)})'
    return f'{kind} {named} of the camera'


def _require_motion(pairs: Sequence[PosedMatches], target: str, seen: Observability, missing: str,
                    partial: bool) -> None:
    if not missing:
        return
    motion = BodyMotion.from_pairs(pairs, target)
    if not seen.is_seen.any():
        raise CalibrationRefused(Refusal.UNSEEN, missing)
    if motion.is_still or partial:
        return
    if motion.turns_deg[0] < MIN_TURN_DEG:
        raise CalibrationRefused(Refusal.TOO_LITTLE_ROTATION, missing)
    if motion.turns_deg[1] < MIN_SECOND_TURN_DEG:
        raise CalibrationRefused(Refusal.ONE_AXIS, missing)


# --- scene ----------------------------------------------------------------------------------------

def _require_relief(pairs: Sequence[PosedMatches]) -> None:
    """Refuse without depth a scene that one plane explains, as a poster on a wall."""
    planar = [_is_planar(pair) for pair in pairs]
    if np.mean(planar) > MAX_PLANAR:
        raise CalibrationRefused(Refusal.PLANAR_SCENE, f'one plane explains {sum(planar)} of '
                                 f'{len(planar)} pairs (limit {MAX_PLANAR:.0%}): put things of '
                                 'different heights into view, or use depth')


def _is_planar(pair: PosedMatches) -> bool:
    a, b = (np.ascontiguousarray(ray[:, :2]) for ray in pair.rays)
    _, agree = cv2.findFundamentalMat(500 * a, 500 * b, cv2.FM_RANSAC, 500 * PLANE_RAD, 0.999)
    homography, fits = cv2.findHomography(500 * a, 500 * b, cv2.RANSAC, 500 * PLANE_RAD)
    for _ in range(2):  # RANSAC's own is of four noisy matches
        if homography is None or agree is None or not agree.any():
            return True
        mapped = cv2.perspectiveTransform(500 * a[:, None], homography)[:, 0]
        fits = np.linalg.norm(mapped - 500 * b, axis=1) < 500 * PLANE_RAD
        if fits.sum() >= PLANE_SHARE * agree.sum() or fits.sum() < 4:
            break
        homography, _ = cv2.findHomography(500 * a[fits], 500 * b[fits], 0)
    return bool(fits.sum() >= PLANE_SHARE * agree.sum())


def _require_still_scene(pairs: Sequence[PosedMatches], estimate: MountEstimate) -> None:
    """Refuse if most pairs fit some rigid motion, but not the common one."""
    otherwise = []
    for pair, noise in zip(pairs, estimate.noises, strict=True):
        common = pair.relative_pose(*(estimate.body_from_cam[name] for name in pair.cameras))
        pooled_px, own_px = (_median_px(pair, pose) for pose in (
            common, _fit_own(pair, common, noise)))
        otherwise.append(pooled_px > max(
            OTHERWISE_RAD * pair.focals_px[1], OTHERWISE_RATIO * own_px))
    if np.mean(otherwise) > MAX_OTHERWISE:
        raise CalibrationRefused(Refusal.MOVING_SCENE, (
            f'{sum(otherwise)} of {len(pairs)} pairs each fit another motion, and not any one '
            f'place of the camera (limit {MAX_OTHERWISE:.0%}): the scene moves, or the stamps of '
            'the images are not those of TF'))


def _fit_own(pair: PosedMatches, pose: Transform, noise: Noise) -> Transform:
    """Return b_from_a that fits this pair alone."""
    scale, prior = ROOM, np.diag(np.repeat([1.0, 0.3], 3) ** -2.0)
    for _ in range(10):
        white, slopes = measure_slopes(pair, pose, noise, with_lenses=False)
        known = np.isfinite(white) & np.isfinite(slopes).all(axis=2)
        white, slopes = np.where(known, white, 0), np.where(known[..., None], slopes, 0)
        weight = known.any(axis=1) / (1 + (white ** 2).sum(axis=1) / scale ** 2) ** 2
        rows = slopes.reshape(-1, 6)
        weighted = (slopes * weight[:, None, None]).reshape(-1, 6)
        pose = exp_pose(-np.linalg.solve(weighted.T @ rows + prior,
                                         weighted.T @ white.ravel())) @ pose
        scale = max(3.0, scale * SHRINK)
    return pose


def _median_px(pair: PosedMatches, pose: Transform) -> float:
    raw = measure_residuals(pair, pose)
    px = np.sqrt(np.nansum(raw[:, :2] ** 2, axis=1))[np.isfinite(raw[:, 0])]
    return float(np.median(px)) if len(px) else 0.0

