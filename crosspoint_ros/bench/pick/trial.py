"""One trial: a click on an object, the node's target, and an attempt to lift it there."""
from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pick.rig import SHAPE_S, PickRig
from crosspoint_ros.bench.pick.scene import THINGS, draw_scene
from crosspoint_ros.bench.pick.world import CAMERAS, PickWorld, Shot
from crosspoint_ros.core.datatypes import Array, Code, Transform
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.visualization import (
    concatenate_images,
    draw_clicked,
    draw_match,
    draw_refusal,
)
from crosspoint_ros.msg import QueryResult, TargetShape
from crosspoint_ros.ros.conversions import transform_from_pose

EDGE_PX = 3  # a click is at least this far inside of the object
SAME_PLACE_M = 0.008
STAND_OFF_M, BEYOND_M, LEAST_HEIGHT_M = 0.1, 0.025, 0.008
TITLES = ('front: the click', 'wrist: the answer')
ANSWER_FRAMES = 25  # of a film, for which the answer is shown
MIDDLE = 0.3  # of the half length: ends are round, and tip the thing
DEPTH_M = 0.05  # how far the fingers go below the top
LIFT_M, LIFTED_M, SAFE_HEIGHT_M = 0.15, 0.08, 0.4


@dataclass(frozen=True)
class Click:
    """Where a person clicks in `front`: the number of the object, pixel, and the point, m."""

    thing: int
    pixel: tuple[float, float]
    point_m: Array


@dataclass(frozen=True, eq=False)
class PickOutcome:
    """What came of a click.

    refusal: empty, or code and reason. off_m: of the target from the clicked point. lifted: the
    objects that were lifted. unclear: why the shape was not known, and the fingers closed at the
    click.
    """

    click: Click
    result: QueryResult
    shots: dict[str, Shot]
    answer_s: float
    refusal: str = ''
    off_m: float = np.nan
    lifted: tuple[str, ...] = ()
    unclear: str = ''

    @property
    def name(self) -> str:
        return THINGS[self.click.thing].name

    @property
    def is_picked(self) -> bool:
        return self.lifted == (self.name,)

    @property
    def is_wrong(self) -> bool:
        """Whether another object was lifted."""
        return any(name != self.name for name in self.lifted)

    def __str__(self) -> str:
        if self.refusal:
            return f'{self.name}: refused as {self.refusal}'
        end = 'picked' if self.is_picked else 'lifted ' + (' and '.join(self.lifted) or 'nothing')
        unclear = f'; its shape: {self.unclear}' if self.unclear else ''
        return f'{self.name}: {1000 * self.off_m:.1f} mm off, {end}{unclear}'

    def describe(self) -> dict[str, object]:
        """Return it as JSON."""
        return {'object': self.name, 'pixel': self.click.pixel, 'refusal': self.refusal,
                'off_m': None if self.refusal else self.off_m, 'lifted': self.lifted,
                'answer_s': self.answer_s}

    def draw(self, path: Path) -> None:
        """Draw the click and what came of it."""
        picture = _draw_answer(self.shots, self.click, self.result)
        write_image(path, concatenate_images([picture], [''], str(self)))


def draw_world(seed: int) -> PickWorld:
    """Draw a scene."""
    return PickWorld(draw_scene(np.random.default_rng([seed, 0])))


def run_trial(rig: PickRig, seed: int, noise_m: float, noise_rad: float,
              film: list[Rgb] | None = None) -> PickOutcome:
    """Click on an object that both cameras show, and pick it at the target that is published.

    noise_m, noise_rad: how far off the published pose of each camera is. film: takes the pictures
    of the click, the answer and the pick.
    """
    rng = np.random.default_rng([seed, 1])
    with closing(draw_world(seed)) as world:
        shots = {camera: world.shoot(camera) for camera in CAMERAS}
        click = draw_click(world, shots, rng)
        error = {camera: _draw_error(noise_m, noise_rad, rng) for camera in CAMERAS}
        begun_s = time.monotonic()
        result, shape = rig.click(world, shots, click.pixel, error, rng)
        answer_s = time.monotonic() - begun_s
        if not result.has_target:
            return PickOutcome(click, result, shots, answer_s,
                           f'{Code(result.status.code).name}: {result.status.message}')
        target = transform_from_pose(result.target.pose.pose)
        if film is not None:
            film += [_draw_answer(shots, click, result)] * ANSWER_FRAMES
            world.on_frame = lambda: film.append(_draw_hand(world))
        off_m = float(np.linalg.norm(target.t_m - click.point_m))
        return PickOutcome(click, result, shots, answer_s, '', off_m,
                           pick(world, plan_grasp(target, shape)),
                           f'no shape within {SHAPE_S:g} s' if shape is None else shape.message)


def plan_grasp(base_from_target: Transform, shape: TargetShape | None) -> Transform:
    """Return where the fingertips meet: x is the closing direction, z the approach from above.

    Across the thing in its middle, along it as near to the click as `MIDDLE` allows.
    """
    R, at_m = base_from_target.R, base_from_target.t_m.copy()
    if shape is None or shape.code != TargetShape.OK:
        return Transform(R, at_m + BEYOND_M * R[:, 2])
    box = transform_from_pose(shape.box)
    size_m = np.array([shape.size_m.x, shape.size_m.y, shape.size_m.z])
    half_m = np.abs(R.T @ box.R) @ size_m / 2
    off_m = R.T @ (box.t_m - at_m)  # from the click to the middle
    along_m = MIDDLE * half_m[1]
    at_m += off_m[0] * R[:, 0] + (off_m[1] - np.clip(off_m[1], -along_m, along_m)) * R[:, 1]
    top_m, bottom_m = box.t_m[2] + half_m[2], box.t_m[2] - half_m[2]
    at_m[2] = max(top_m - DEPTH_M, bottom_m + LEAST_HEIGHT_M)
    return Transform(R, at_m)


def draw_click(world: PickWorld, shots: dict[str, Shot], rng: np.random.Generator) -> Click:
    """Draw an object, and a pixel of it in `front` whose point `wrist` shows as well."""
    front, wrist = shots['front'], shots['wrist']
    points_m = back_project(world, 'front', front.depth_m)
    seen = world.get_pose('wrist').inverse.transform_points(points_m.reshape(-1, 3))
    at = np.rint(world.get_lens('wrist').project(seen)).reshape(*front.depth_m.shape, 2)
    height, width = wrist.depth_m.shape
    with np.errstate(invalid='ignore'):
        inside = np.asarray(((at >= 0) & (at < (width, height))).all(axis=2))
    columns, rows = np.where(inside[..., None], at, 0).astype(int).transpose(2, 0, 1)
    depth_m = seen[:, 2].reshape(front.depth_m.shape)
    visible = inside & (wrist.things[rows, columns] == front.things) & (
        np.abs(wrist.depth_m[rows, columns] - depth_m) < SAME_PLACE_M)
    kernel = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    for thing in rng.permutation(len(THINGS)):
        surface = np.equal(front.things, thing).astype(np.uint8)
        inner = np.asarray(cv2.erode(surface, kernel), dtype=bool)
        choices = np.argwhere(np.asarray(inner & visible))
        if len(choices):
            row, column = choices[rng.integers(len(choices))]
            return Click(int(thing), (float(column), float(row)), points_m[row, column])
    raise ValueError('both cameras show no point of any object: draw another scene')


def back_project(world: PickWorld, camera: str, depth_m: npt.NDArray[np.float32]) -> Array:
    """Return the points (h, w, 3) of a depth image in the base, m."""
    height, width = depth_m.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    rays = world.get_lens(camera).unproject(np.stack([columns, rows], axis=-1))
    return np.asarray(world.get_pose(camera).transform_points(
        (rays / rays[..., 2:] * depth_m[..., None]).reshape(-1, 3)).reshape(height, width, 3))


def _draw_answer(shots: dict[str, Shot], click: Click, result: QueryResult) -> Rgb:
    (found,) = result.correspondences
    is_sure = found.verdict == found.SURE
    return concatenate_images([
        draw_clicked(shots['front'].image, click.pixel, 'clicked'),
        draw_match(shots['wrist'].image, (found.found.x, found.found.y),
                   f'found, confidence {found.confidence:.2f}', is_sure)
        if np.isfinite(found.found.x) else draw_refusal(
            shots['wrist'].image, found.status.message)], TITLES)


def _draw_hand(world: PickWorld) -> Rgb:
    return concatenate_images([world.shoot(camera).image for camera in CAMERAS], CAMERAS)


def _draw_error(noise_m: float, noise_rad: float, rng: np.random.Generator) -> Transform:
    axes = rng.normal(size=(2, 3))
    turn, shift = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return Transform(np.asarray(cv2.Rodrigues(noise_rad * turn)[0], dtype=np.float64),
                     noise_m * shift)


def pick(world: PickWorld, base_from_grasp: Transform) -> tuple[str, ...]:
    """Close the fingers at a pose, +z of which is the approach; return which objects rise.

    The hand comes from high above the table and goes to `STAND_OFF_M` before the pose first.
    """
    before_m = {thing.name: world.get_place(thing.name)[2] for thing in THINGS}
    R, at_m = base_from_grasp.R, base_from_grasp.t_m.copy()
    at_m[2] = max(at_m[2], LEAST_HEIGHT_M)
    before_at_m = at_m - STAND_OFF_M * R[:, 2]
    world.open_fingers()
    world.move(Transform(R, np.array([*before_at_m[:2], SAFE_HEIGHT_M])), 700)
    world.move(Transform(R, before_at_m), 400)
    world.move(Transform(R, at_m), 400)
    world.close_fingers()
    world.move(Transform(R, at_m + np.array([0.0, 0.0, LIFT_M])), 500)
    return tuple(name for name, z_m in before_m.items()
                 if world.get_place(name)[2] - z_m > LIFTED_M)
