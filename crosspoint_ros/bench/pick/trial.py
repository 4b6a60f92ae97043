"""One trial: a click on an object, the node's target, and an attempt to lift it there."""
from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pick.grasp import Answer, PickEnd, look_again, pick
from crosspoint_ros.bench.pick.rig import FRAME_S, FRAMES, PickRig
from crosspoint_ros.bench.pick.scene import THINGS, UnreachableError, draw_scene
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
from crosspoint_ros.msg import QueryResult

if TYPE_CHECKING:
    from crosspoint_ros.bench.pick.arm import Arm

EDGE_PX = 3  # a click is at least this far inside of the object
SAME_PLACE_M = 0.008
HAND_TITLES = ('front: the fingers have closed', 'wrist')
ATTEMPTS = 3  # where the machine is too slow for the image of a click
ANSWER_FRAMES = 25  # of a film, for which the answer is shown
IDENTITY = Transform(np.eye(3), np.zeros(3))
NOT_STARTED = PickEnd((), 'refused', np.nan)


@dataclass(frozen=True)
class Click:
    """Where a person clicks: camera, the number of the object, pixel, and the point, m."""

    camera: str
    thing: int
    pixel: tuple[float, float]
    point_m: Array


@dataclass(frozen=True)
class Setting:
    """What all trials have in common.

    noise_m, noise_rad: how far off the published pose of each camera is, in a direction drawn for
    each trial. hand_eye: what the published pose of `wrist` on the hand is wrong by, in its own
    frame. arm: which moves the gripper. looks: 1 to pick at the answer, 2 to look again from above.
    clicked: the camera in which a person clicks.
    """

    noise_m: float = 0.0
    noise_rad: float = 0.0
    hand_eye: Transform = field(default=IDENTITY)
    arm: Arm | None = None
    looks: int = 2
    clicked: str = 'front'


@dataclass(frozen=True, eq=False)
class PickOutcome:
    """What came of a click.

    refusal: empty, or code and reason. end: of the pick. off_m: of the target from the clicked
    point. turned_rad: of the jaws from the nearest direction that is right; NaN where all are, or
    the shape is unclear. width_off_m: of the width along the closing direction. answer_s: from the
    click to the answer. grasp_s: from the click until the fingers have closed: all answers, by the
    wall clock, and motion as simulated. unclear: why the shape was not known, and the fingers
    closed at the click. unused: why a further look was not used. closed: the cameras' images then.
    """

    click: Click
    result: QueryResult
    shots: dict[str, Shot]
    answer_s: float
    refusal: str = ''
    end: PickEnd = NOT_STARTED
    off_m: float = np.nan
    turned_rad: float = np.nan
    width_off_m: float = np.nan
    grasp_s: float = np.nan
    unclear: str = ''
    unused: str = ''
    closed: tuple[Rgb, ...] = ()

    @property
    def name(self) -> str:
        return THINGS[self.click.thing].name

    @property
    def is_picked(self) -> bool:
        return self.end.lifted == (self.name,)

    @property
    def is_wrong(self) -> bool:
        """Whether another object was lifted."""
        return any(name != self.name for name in self.end.lifted)

    @property
    def cause(self) -> str:
        """Why it was not picked, in a few words; '' if it was."""
        return f'refused as {self.refusal.partition(":")[0]}' if self.refusal else self.end.cause

    def __str__(self) -> str:
        if self.refusal:
            return f'{self.name}: refused as {self.refusal}'
        lifted = ' and '.join(self.end.lifted) or 'nothing'
        end = 'picked' if self.is_picked else f'lifted {lifted}: {self.end.cause}'
        notes = ''.join(f'; {what}: {why}' for what, why in (
            ('its shape', self.unclear), ('a look not used', self.unused)) if why)
        return f'{self.name}: {1000 * self.off_m:.1f} mm off, {end}{notes}'

    def describe(self) -> dict[str, object]:
        """Return it as JSON."""
        return {'object': self.name, 'pixel': self.click.pixel, 'refusal': self.refusal,
                'off_m': None if self.refusal else self.off_m, 'lifted': self.end.lifted,
                'cause': self.cause, 'answer_s': self.answer_s,
                **{name: value if np.isfinite(value) else None for name, value in (
                    ('grasp_s', self.grasp_s), ('width_off_m', self.width_off_m))}}

    def draw(self, path: Path) -> None:
        """Draw the click and what came of it."""
        picture = _draw_answer(self.shots, self.click, self.result)
        if self.closed:
            picture = np.vstack([picture, concatenate_images(self.closed, HAND_TITLES)])
        write_image(path, concatenate_images([picture], [''], str(self)))


def draw_world(seed: int, arm: Arm | None = None) -> PickWorld:
    """Draw a scene."""
    return PickWorld(draw_scene(np.random.default_rng([seed, 0]), arm is not None), arm)


def run_trial(rig: PickRig, seed: int, setting: Setting, film: list[Rgb] | None = None
              ) -> PickOutcome:
    """Click on an object that both cameras show, and pick it at the target that is published.

    film: takes the pictures of the click, the answer and the pick.
    """
    rng = np.random.default_rng([seed, 1])
    with closing(draw_world(seed, setting.arm)) as world:
        shots = {camera: world.shoot(camera) for camera in CAMERAS}
        click = draw_click(world, shots, rng, setting.clicked)
        error = {camera: draw_error(setting.noise_m, setting.noise_rad, rng) for camera in CAMERAS}
        error['wrist'] = setting.hand_eye @ error['wrist']
        answers_s = []

        def ask(camera: str, pixel: tuple[float, float]) -> Answer:
            now, begun_s = {name: world.shoot_rgbd(name) for name in CAMERAS}, time.monotonic()
            for _ in range(ATTEMPTS):
                answer = rig.click(camera, pixel, rig.show(world, now, error, rng))
                if answer.result.status.code != Code.STALE:
                    break
            answers_s.append(time.monotonic() - begun_s - FRAMES * FRAME_S)
            return answer

        begun_s = world.time_s
        answer = ask(click.camera, click.pixel)
        outcome = PickOutcome(click, answer.result, shots, answers_s[0])
        if not answer.result.has_target:
            status = answer.result.status
            return replace(outcome, refusal=f'{Code(status.code).name}: {status.message}')
        if film is not None:
            film += [_draw_answer(shots, click, answer.result)] * ANSWER_FRAMES
            world.on_frame = lambda: film.append(_draw_hand(world))
        outcome = replace(outcome, off_m=float(np.linalg.norm(
            answer.base_from_target.t_m - click.point_m)))
        outcome = _grasp(world, outcome, answer, None if setting.looks == 1 else partial(
            look_again, world, ask, lambda: world.get_pose('wrist') @ error['wrist']))
        return replace(outcome, grasp_s=sum(answers_s) + outcome.end.closed_s - begun_s)


def _grasp(world: PickWorld, outcome: PickOutcome, answer: Answer,
           look: Callable[[Answer], tuple[Answer, str]] | None) -> PickOutcome:
    """Pick what was answered, after a further look; return what came of it."""
    closed: list[Rgb] = []
    try:
        answer, unused = look(answer) if look else (answer, '')
        if answer.is_bare:
            return replace(outcome, refusal=f'NO_THING: {answer.unclear}')
        grasp = answer.plan_grasp()
        turned_rad = measure_turn(world, outcome.name, grasp) if answer.box else np.nan
        width_off_m = np.nan if answer.closing is None else answer.closing[1] - (
            world.measure_width(outcome.name, answer.closing[0]))
        end = pick(world, grasp, outcome.name, lambda: closed.extend(
            world.render(camera) for camera in CAMERAS))
    except UnreachableError as why:
        return replace(outcome, end=PickEnd((), 'not reached', np.nan), unused=str(why))
    return replace(outcome, end=end, turned_rad=turned_rad, width_off_m=width_off_m,
                   unclear=answer.unclear, unused=unused, closed=tuple(closed))


def measure_turn(world: PickWorld, name: str, base_from_grasp: Transform) -> float:
    """Return how far the jaws are turned from the nearest direction across an object, rad."""
    thing = next(thing for thing in THINGS if thing.name == name)
    axes = world.get_turn(name)[:, ['xyz'.index(axis) for axis in thing.across]]
    if not axes.size:
        return np.nan
    cosine = np.abs(axes.T @ base_from_grasp.R[:, 0]).max()
    return float(np.arccos(min(cosine, 1.0)))


def draw_click(world: PickWorld, shots: dict[str, Shot], rng: np.random.Generator,
               camera: str = 'front') -> Click:
    """Draw an object, and a pixel of it in a camera whose point the other one shows as well."""
    (other,) = set(CAMERAS) - {camera}
    clicked, found = shots[camera], shots[other]
    points_m = back_project(world, camera, clicked.depth_m)
    seen = world.get_pose(other).inverse.transform_points(points_m.reshape(-1, 3))
    at = np.rint(world.get_lens(other).project(seen)).reshape(*clicked.depth_m.shape, 2)
    height, width = found.depth_m.shape
    with np.errstate(invalid='ignore'):
        inside = np.asarray(((at >= 0) & (at < (width, height))).all(axis=2))
    columns, rows = np.where(inside[..., None], at, 0).astype(int).transpose(2, 0, 1)
    depth_m = seen[:, 2].reshape(clicked.depth_m.shape)
    visible = inside & (found.things[rows, columns] == clicked.things) & (
        np.abs(found.depth_m[rows, columns] - depth_m) < SAME_PLACE_M)
    kernel = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    for thing in rng.permutation(len(THINGS)):
        surface = np.equal(clicked.things, thing).astype(np.uint8)
        inner = np.asarray(cv2.erode(surface, kernel), dtype=bool)
        choices = np.argwhere(np.asarray(inner & visible))
        if len(choices):
            row, column = choices[rng.integers(len(choices))]
            return Click(camera, int(thing), (float(column), float(row)), points_m[row, column])
    raise ValueError('both cameras show no point of any object: draw another scene')


def back_project(world: PickWorld, camera: str, depth_m: npt.NDArray[np.float32]) -> Array:
    """Return the points (h, w, 3) of a depth image in the base, m."""
    height, width = depth_m.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    rays = world.get_lens(camera).unproject(np.stack([columns, rows], axis=-1))
    return np.asarray(world.get_pose(camera).transform_points(
        (rays / rays[..., 2:] * depth_m[..., None]).reshape(-1, 3)).reshape(height, width, 3))


def _draw_answer(shots: dict[str, Shot], click: Click, result: QueryResult) -> Rgb:
    (other,) = set(CAMERAS) - {click.camera}
    found = next(iter(result.correspondences), None)  # a refused query may have none
    if found is not None and np.isfinite(found.found.x):
        answer = draw_match(shots[other].image, (found.found.x, found.found.y),
                            f'found, confidence {found.confidence:.2f}',
                            found.verdict == found.SURE)
    else:
        answer = draw_refusal(shots[other].image, result.status.message)
    return concatenate_images([draw_clicked(shots[click.camera].image, click.pixel, 'clicked'),
                               answer], (f'{click.camera}: the click', f'{other}: the answer'))


def _draw_hand(world: PickWorld) -> Rgb:
    return concatenate_images([world.render(camera) for camera in CAMERAS], CAMERAS)


def draw_error(noise_m: float, noise_rad: float, rng: np.random.Generator) -> Transform:
    """Draw an error of a camera's pose of that size, in a random direction."""
    axes = rng.normal(size=(2, 3))
    turn, shift = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return Transform(np.asarray(cv2.Rodrigues(noise_rad * turn)[0], dtype=np.float64),
                     noise_m * shift)
