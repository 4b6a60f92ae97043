"""What a pipeline does after a click: looks again from near, plans the grasp, and picks."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.bench.pick.scene import THINGS
from crosspoint_ros.bench.pick.world import PickWorld
from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform
from crosspoint_ros.core.grasp.shape import Box
from crosspoint_ros.msg import QueryResult, TargetShape
from crosspoint_ros.ros.conversions import transform_from_pose

STAND_OFF_M, BEYOND_M, LEAST_HEIGHT_M = 0.1, 0.025, 0.008
LOOK_M = 0.2  # above the grasp: `wrist` shows all of the thing, from 0.3 m
SAME_THING_M, SAME_SIZE_M = 0.05, 0.03  # of two looks at a thing: its middle, and its box
MIDDLE = 0.3  # of the half length: ends are round, and tip the thing
DEPTH_M = 0.05  # how far the fingers go below the top
LIFT_M, LIFTED_M, SAFE_HEIGHT_M = 0.15, 0.08, 0.4
BLOCKED_M, PUSHED_M = 0.01, 0.02


@dataclass(frozen=True, eq=False)
class Answer:
    """What the node answered to a click: the result, and the box of the thing, or why none.

    is_bare: no thing is there: a table or wall, a hole in the depth, glass. closing: the direction
    (3,) across the thing in the base, and its width along it, m; None where that is not known.
    """

    result: QueryResult
    box: Box | None
    unclear: str = ''
    is_bare: bool = False
    closing: tuple[Array, float] | None = None

    @classmethod
    def from_messages(cls, result: QueryResult, shape: TargetShape) -> Answer:
        """Create from the result and the shape of its target."""
        if shape.code != TargetShape.OK:
            is_bare = shape.code in (TargetShape.SUPPORT, TargetShape.HOLE)
            return cls(result, None, shape.message, is_bare)
        size = shape.size_m
        box = Box(transform_from_pose(shape.box), np.array([size.x, size.y, size.z]))
        if not np.isfinite(shape.width_m):
            return cls(result, box)
        return cls(result, box,
                   closing=(transform_from_pose(shape.grasp).R[:, 0], shape.width_m))

    @property
    def base_from_target(self) -> Transform:
        return transform_from_pose(self.result.target.pose.pose)

    def plan_grasp(self) -> Transform:
        """Return where the fingertips meet: x is the closing direction, z the approach from above.

        Across the thing in its middle, along it as near to the click as `MIDDLE` allows.
        """
        R, at_m = self.base_from_target.R, self.base_from_target.t_m.copy()
        if self.box is None:
            return Transform(R, at_m + BEYOND_M * R[:, 2])
        half_m, middle_m = _measure_half_m(self.box, R), self.box.base_from_box.t_m
        off_m = R.T @ (middle_m - at_m)  # from the click to the middle
        along_m = MIDDLE * half_m[1]
        at_m += off_m[0] * R[:, 0] + (off_m[1] - np.clip(off_m[1], -along_m, along_m)) * R[:, 1]
        at_m[2] = max(middle_m[2] + half_m[2] - DEPTH_M,
                      middle_m[2] - half_m[2] + LEAST_HEIGHT_M)
        return Transform(R, at_m)

    def choose_look_point(self) -> Array:
        """Return what to look at, (3,) m: the middle of the thing's top, else the target."""
        if self.box is None:
            return self.base_from_target.t_m
        height_m = _measure_half_m(self.box, np.eye(3))[2]
        return self.box.base_from_box.t_m + np.array([0.0, 0.0, height_m])

    def explain_difference(self, other: Answer) -> str:
        """Return why another answer is of another thing; '' if it may be the same."""
        apart_m = float(np.linalg.norm((self.choose_look_point() - other.choose_look_point())[:2]))
        if apart_m > SAME_THING_M:
            return f'{1000 * apart_m:.0f} mm apart (limit {1000 * SAME_THING_M:.0f} mm)'
        if self.box is not None and other.box is not None:
            sizes_mm = [1000 * np.sort(box.size_m) for box in (self.box, other.box)]
            if np.abs(sizes_mm[0] - sizes_mm[1]).max() > 1000 * SAME_SIZE_M:
                return f'boxes of {sizes_mm[0].round()} and {sizes_mm[1].round()} mm'
        return ''


def _measure_half_m(box: Box, R: Array) -> Array:
    """Return half of the extent (3,) of a box along the columns of R (3, 3), m."""
    return np.abs(R.T @ box.base_from_box.R) @ box.size_m / 2


Ask = Callable[[str, tuple[float, float]], Answer]


def look_again(world: PickWorld, ask: Ask, place_wrist: Callable[[], Transform], first: Answer
               ) -> tuple[Answer, str]:
    """Let the camera on the gripper, which moves to the thing, say where it is; return what to use.

    The answer has the thing's pixel in `wrist`, unless it was clicked there: a click on it places
    the thing by the wrist's own pose. From above the thing a click on its middle does so from near,
    where an error of the camera's rotation hardly counts. What is refused, or is of another thing,
    leaves the answer before it.

    ask: clicks on a camera's newest image. place_wrist: base_from_wrist as TF has it. Also returns
    why a look was not used; '' if all were.
    """
    notes, best = [], first
    for seen in first.result.correspondences:
        if seen.found.camera == 'wrist' and np.isfinite(seen.found.x):
            best, note = _choose(best, ask('wrist', (seen.found.x, seen.found.y)))
            notes.append(note)
    grasp = best.plan_grasp()
    approach(world, grasp, LOOK_M)
    pixel = _project(world.get_lens('wrist'), place_wrist(), best.choose_look_point())
    if pixel is None:
        return best, '; '.join(filter(None, (*notes, 'outside of the image of `wrist`')))
    best, note = _choose(best, ask('wrist', pixel))
    return best, '; '.join(filter(None, (*notes, note)))


def _choose(best: Answer, new: Answer) -> tuple[Answer, str]:
    if not new.result.has_target:
        return best, str(new.result.status.message)
    why_not = new.unclear or best.explain_difference(new)
    return (best, why_not) if why_not else (new, '')


def _project(lens: Intrinsics, base_from_cam: Transform, point_base_m: Array
             ) -> tuple[float, float] | None:
    point_cam_m = base_from_cam.inverse.transform_points(point_base_m)
    x, y = lens.project(point_cam_m)
    is_shown = point_cam_m[2] > 0 and 0 <= x < lens.width_px and 0 <= y < lens.height_px
    return (float(x), float(y)) if is_shown else None


def approach(world: PickWorld, base_from_grasp: Transform, above_m: float) -> None:
    """Move the open hand, at a safe height, above a grasp, and down to `above_m` before it."""
    R, at_m = base_from_grasp.R, base_from_grasp.t_m
    world.open_fingers()
    if world.get_hand().t_m[2] > SAFE_HEIGHT_M - 0.01 or np.linalg.norm(
            world.get_hand().t_m[:2] - at_m[:2]) > STAND_OFF_M:
        world.move(Transform(R, np.array([*at_m[:2], SAFE_HEIGHT_M])), 700)
    world.move(Transform(R, at_m - above_m * R[:, 2]), 400)


@dataclass(frozen=True)
class PickEnd:
    """What the fingers did: the objects that were lifted, and when they had closed, s of the
    simulation. cause: why the wanted one was not lifted; '' if it was."""

    lifted: tuple[str, ...]
    cause: str
    closed_s: float


def pick(world: PickWorld, base_from_grasp: Transform, wanted: str,
         on_closed: Callable[[], None] = lambda: None) -> PickEnd:
    """Close the fingers at a pose, +z of which is the approach, and lift.

    The hand goes to `STAND_OFF_M` before the pose first. wanted: the object, to find the cause.
    """
    before_m = {thing.name: world.get_place(thing.name) for thing in THINGS}
    R, at_m = base_from_grasp.R, base_from_grasp.t_m.copy()
    at_m[2] = max(at_m[2], LEAST_HEIGHT_M)
    approach(world, Transform(R, at_m), STAND_OFF_M)
    world.move(Transform(R, at_m), 400)
    blocked_m = float(np.linalg.norm(world.get_hand().t_m - at_m))
    world.close_fingers()
    on_closed()
    closed_s, is_held = world.time_s, world.touches(wanted)
    pushed_m = float(np.linalg.norm((world.get_place(wanted) - before_m[wanted])[:2]))
    world.move(Transform(R, at_m + np.array([0.0, 0.0, LIFT_M])), 500)
    lifted = tuple(name for name, place_m in before_m.items()
                   if world.get_place(name)[2] - place_m[2] > LIFTED_M)
    cause = ''
    if any(name != wanted for name in lifted):
        cause = 'another thing'
    elif wanted not in lifted:
        cause = ('blocked' if blocked_m > BLOCKED_M else 'slipped' if is_held else
                 'pushed away' if pushed_m > PUSHED_M else 'closed on nothing')
    return PickEnd(lifted, cause, closed_s)
