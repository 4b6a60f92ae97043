"""Writes a calibration: text, YAML, URDF, static_transform_publisher, and a picture."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.extrinsics.calibration import Calibration, format_error
from crosspoint_ros.core.extrinsics.residuals import PosedMatches
from crosspoint_ros.core.geometry import epipolar_segment
from crosspoint_ros.core.tf_tree import TfTree, list_ancestors
from crosspoint_ros.data.calibration.frames import CameraFrames

BAR = 20  # characters
BEST_M, BEST_RAD = 0.001, np.radians(0.05)  # a full bar
DIRECTIONS = ('x right', 'y down', 'z ahead', 'about x', 'about y', 'about z')
LINES = 10
COLOURS = cv2.cvtColor(np.array([[(18 * i, 230, 255) for i in range(LINES)]], np.uint8),
                       cv2.COLOR_HSV2RGB)[0].tolist()
NEAR_M, FAR_M = 0.2, 5.0
MAX_WRONG = 4.0  # times the median error of a pair


@dataclass(frozen=True, eq=False)
class MountLink:
    """The transform of TF that is to be replaced: the one below the body."""

    parent: str
    child: str
    parent_from_child: Transform

    @classmethod
    def from_calibration(cls, calibration: Calibration, frames: CameraFrames, tree: TfTree,
                         stamp_ns: int) -> MountLink:
        """Keep what is between that link and the camera, as the driver's own frames."""
        chain = list_ancestors(tree.frames(), frames.camera)
        index = chain.index(frames.body) if frames.body in chain else 0
        if index == 0:  # the camera's own frame moves in TF, or the body is not above it
            child = frames.camera + ('_corrected' if frames.camera == frames.body else '')
            return cls(frames.body, child, calibration.body_from_cam)
        child = chain[index - 1]
        child_from_cam = tree.lookup(child, frames.camera, stamp_ns)
        assert child_from_cam is not None
        return cls(frames.body, child, calibration.body_from_cam @ child_from_cam.inverse)

    @property
    def rpy(self) -> tuple[float, float, float]:
        """Roll, pitch, yaw, rad, of URDF: about the fixed axes x, y, z."""
        R = self.parent_from_child.R
        pitch = float(np.arctan2(-R[2, 0], np.hypot(R[0, 0], R[1, 0])))
        if abs(np.cos(pitch)) < 1e-6:
            return float(np.arctan2(-R[1, 2], R[1, 1])), pitch, 0.0
        return float(np.arctan2(R[2, 1], R[2, 2])), pitch, float(np.arctan2(R[1, 0], R[0, 0]))

    @property
    def urdf(self) -> str:
        xyz, rpy = (' '.join(f'{v:.6f}' for v in each)
                    for each in (self.parent_from_child.t_m, self.rpy))
        return f'<origin xyz="{xyz}" rpy="{rpy}"/>'

    @property
    def publisher(self) -> str:
        options = zip(('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw'), (
            *self.parent_from_child.t_m, *self.parent_from_child.quaternion_xyzw), strict=True)
        values = ' '.join(f'--{name} {value:.6f}' for name, value in options)
        return (f'ros2 run tf2_ros static_transform_publisher {values} --frame-id {self.parent} '
                f'--child-frame-id {self.child}')


def measure_sigmas(covariance: Array) -> Array:
    """Return the sigmas (6,) of x, y, z (m) and about x, y, z (rad), in the camera's frame."""
    sigmas = np.sqrt(np.diag(covariance))
    return np.concatenate([sigmas[3:], sigmas[:3]])


def format_bars(sigmas: Array, declared_m: float, declared_rad: float) -> list[str]:
    """Format a bar for each direction: empty as declared, full at 1 mm or 0.05 deg."""
    lines = []
    for index, (name, sigma) in enumerate(zip(DIRECTIONS, sigmas, strict=True)):
        declared, best = (declared_m, BEST_M) if index < 3 else (declared_rad, BEST_RAD)
        share = np.clip(np.log(declared / sigma) / np.log(declared / best), 0, 1)
        full = round(BAR * float(share))
        value = f'{1000 * sigma:.1f} mm' if index < 3 else f'{np.degrees(sigma):.2f} deg'
        lines.append(f'  {name:8} {"#" * full}{"." * (BAR - full)} {value}')
    return lines


def format_report(calibration: Calibration, link: MountLink, views: int, matches: int) -> str:
    """Describe the result for a terminal."""
    turn_deg = np.degrees(cv2.Rodrigues(calibration.correction.R)[0].ravel())
    shift_mm = 1000 * calibration.correction.t_m
    sigmas = measure_sigmas(calibration.covariance)
    return '\n'.join([
        f'{calibration.camera}, from {calibration.pairs} pairs of {views} images, {matches} '
        'matches',
        f'  correction  {np.linalg.norm(shift_mm):.1f} mm, {np.linalg.norm(turn_deg):.2f} deg',
        *(f'    {name:8} {value:+8.2f} {unit} +- {sigma:.2f}' for name, value, sigma, unit in zip(
            DIRECTIONS, (*shift_mm, *turn_deg), (*1000 * sigmas[:3], *np.degrees(sigmas[3:])),
            ('mm',) * 3 + ('deg',) * 3, strict=True)),
        f'  held-out pairs  {format_error(calibration.before)} -> '
        f'{format_error(calibration.after)}',
        *([f'  {calibration.missing}'] if calibration.missing else []),
        f'URDF, joint {link.parent} -> {link.child}:', f'  {link.urdf}', 'or:',
        f'  {link.publisher}'])


def format_yaml(calibration: Calibration, link: MountLink, frames: CameraFrames) -> str:
    """Return the result as YAML."""
    pose, before, after = calibration.body_from_cam, calibration.before, calibration.after
    rows = [*_format_pose('body_from_camera', pose),
            *_format_pose('parent_from_child', link.parent_from_child)]
    covariance = ',\n    '.join(', '.join(f'{v:.4e}' for v in row)
                                for row in calibration.covariance)
    return '\n'.join([
        f'camera: {calibration.camera}', f'body_frame: {frames.body}',
        f'camera_frame: {frames.camera}', f'parent_frame: {link.parent}',
        f'child_frame: {link.child}', *rows,
        '# rows and columns: rotation about x, y, z (rad), then x, y, z (m), in the camera frame',
        f'covariance: [\n    {covariance}]',
        f'pairs: {calibration.pairs}',
        'residuals:  # median of the pairs that were held out',
        f'  before: {{px: {before.px:.4f}, plane_mm: {_format_number(before.plane_mm)}}}',
        f'  after: {{px: {after.px:.4f}, plane_mm: {_format_number(after.plane_mm)}}}',
        f'not_seen: "{calibration.missing}"', ''])


def _format_number(value: float) -> str:
    return f'{value:.4f}' if np.isfinite(value) else 'null'


def _format_pose(name: str, pose: Transform) -> list[str]:
    return [f'{name}:',
            f'  translation_m: [{", ".join(f"{v:.6f}" for v in pose.t_m)}]',
            f'  quaternion_xyzw: [{", ".join(f"{v:.8f}" for v in pose.quaternion_xyzw)}]']


def draw_epipolar_lines(views: tuple[View, View], pair: PosedMatches,
                        poses: Sequence[Mapping[str, Transform]]) -> Rgb:
    """Draw matches of a pair in the first image, and their epipolar lines in the second.

    poses: body_from_cam by camera, before and after: a row of images each.
    """
    rows = []
    chosen = _spread_out(pair.rays[0], LINES)
    for label, given in zip(('before', 'after'), poses, strict=True):
        b_from_a = pair.relative_pose(*(given[name] for name in pair.cameras))
        left, right = (view.image.copy() for view in views)
        for colour, index in zip(COLOURS, chosen, strict=False):
            at_a, at_b = (view.intrinsics.project(rays[index])
                          for view, rays in zip(views, pair.rays, strict=True))
            line = epipolar_segment(views[0].intrinsics, views[1].intrinsics, b_from_a, at_a,
                                    NEAR_M, FAR_M)
            cv2.polylines(right, [np.rint(line).astype(np.int32)], False, colour, 1, cv2.LINE_AA)
            for image, at in ((left, at_a), (right, at_b)):
                cv2.circle(image, tuple(int(v) for v in np.rint(at)), 5, colour, 2, cv2.LINE_AA)
        error = np.nanmedian(_line_errors_px(pair, b_from_a))
        for image, text in ((left, f'{label}: {views[0].camera}'),
                            (right, f'{views[1].camera}: {error:.1f} px from the lines')):
            for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
                cv2.putText(image, text, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, width,
                            cv2.LINE_AA)
        height = min(left.shape[0], right.shape[0])
        rows.append(np.hstack([_resize(left, height), _resize(right, height)]))
    return np.vstack(rows)


def _resize(image: Rgb, height: int) -> Rgb:
    width = round(image.shape[1] * height / image.shape[0])
    return np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)


def _line_errors_px(pair: PosedMatches, b_from_a: Transform) -> Array:
    x, y, z = b_from_a.t_m
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ b_from_a.R
    lines = pair.rays[0] @ essential.T
    off = np.abs((lines * pair.rays[1]).sum(axis=1))
    return np.asarray(off / np.linalg.norm(lines[:, :2], axis=1) * pair.focals_px[1])


def _spread_out(rays: Array, count: int) -> list[int]:
    """Return the indices of rays (n, 3) far from each other, greedily."""
    chosen = [int(np.linalg.norm(rays[:, :2], axis=1).argmin())]
    while len(chosen) < min(count, len(rays)):
        away = np.linalg.norm(rays[:, None, :2] - rays[chosen, :2], axis=2).min(axis=1)
        chosen.append(int(away.argmax()))
    return chosen


def choose_picture_pair(pairs: Sequence[PosedMatches], poses: Sequence[Mapping[str, Transform]],
                        target: str) -> PosedMatches:
    """Return the pair of the target that changes most from before to after, of the better half
    after; without the matches that are wrong after."""
    own = [pair for pair in pairs if target in pair.cameras]
    before, after = (np.array([np.nanmedian(_line_errors_px(pair, pair.relative_pose(
        *(given[name] for name in pair.cameras)))) for pair in own]) for given in poses)
    good = np.flatnonzero(after <= np.median(after))
    best = own[good[(before - after)[good].argmax()]]
    errors = _line_errors_px(best, best.relative_pose(*(poses[1][name] for name in best.cameras)))
    return best.select(errors < MAX_WRONG * np.nanmedian(errors))
