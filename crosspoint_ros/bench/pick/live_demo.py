"""`crosspoint demo --pick`: the simulation as two live cameras; what is clicked gets picked."""
from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from itertools import count

import numpy as np

from crosspoint_ros.bench.pick.arm import Arm
from crosspoint_ros.bench.pick.grasp import Answer, approach, pick
from crosspoint_ros.bench.pick.rig import IDENTITY, PickRig
from crosspoint_ros.bench.pick.scene import HOME_M, THINGS, UnreachableError
from crosspoint_ros.bench.pick.trial import draw_click, draw_world
from crosspoint_ros.bench.pick.world import CAMERAS, PickWorld
from crosspoint_ros.core.datatypes import Transform
from crosspoint_ros.ros.client.client import format_result

SEED = 0
# A CPU that renders, moves and matches at once may take seconds from image to image.
PARAMETERS = ('approach:=from_above', 'limits.max_image_age_s:=5.0', 'history_s:=5.0')
FRAME_S = 0.3  # from image to image while nothing moves
MOVING_FRAMES = 3  # every third of the simulation, while the arm moves: rendering is slow on a CPU
HOME = Transform(np.diag([1.0, -1.0, -1.0]), np.array(HOME_M))
EXACT = dict.fromkeys(CAMERAS, IDENTITY)
CLEARANCE_M = 0.01  # above the table, at which a thing is put down


def run(check: Callable[[], None], once: bool) -> int:
    """Pick what is clicked until Ctrl-C; once: click by itself, return 1 if that is not picked.

    check: called all the time; raises if the page's server has died.
    """
    rng = np.random.default_rng(SEED)
    with closing(draw_world(SEED, Arm())) as world, PickRig(world, *PARAMETERS) as rig:
        def publish() -> int:
            check()
            return rig.publish(world, {name: world.shoot_rgbd(name) for name in CAMERAS}, EXACT,
                               rng)

        frames = count()

        def publish_some() -> None:
            if next(frames) % MOVING_FRAMES == 0:
                publish()

        results = rig.collect_results()
        print('An arm, cameras front and wrist: click on a thing to have it picked up and put '
              'back. Ctrl-C ends.', flush=True)
        shots = {name: world.shoot(name) for name in CAMERAS}
        while True:
            stamp_ns = publish()
            rig.spin_for(FRAME_S)
            if once:
                rig.click('front', draw_click(world, shots, rng).pixel, stamp_ns)
            result = None
            while results:  # the arm goes to the newest; the others were clicked while it moved
                result = results.popleft()
                print(format_result(result), flush=True)
            if result is not None and result.has_target:
                answer = rig.wait_for_shape(result)
                reason = rig.explain_invalid(result) or answer.unclear
                text, is_picked = f'not picked: {reason}', False
                if not reason:
                    world.on_frame = None if once else publish_some
                    text, is_picked = pick_and_put_back(world, answer)
                    world.on_frame = None
                print(text, flush=True)
                if once:
                    return 0 if is_picked else 1


def pick_and_put_back(world: PickWorld, answer: Answer) -> tuple[str, bool]:
    """Lift the thing of an answer, put it down again, and go home; return what came of it."""
    begun_s, grasp = time.monotonic(), answer.plan_grasp()
    nearest = min((thing.name for thing in THINGS), key=lambda name: float(
        np.linalg.norm((world.get_place(name) - grasp.t_m)[:2])))
    try:
        end = pick(world, grasp, nearest)
        if end.lifted:
            world.move(Transform(grasp.R, grasp.t_m + np.array([0.0, 0.0, CLEARANCE_M])), 500)
        world.open_fingers()
        approach(world, grasp, 0.2)
        world.move(HOME, 700)
    except UnreachableError as why:
        return f'not picked: {why}', False
    text = 'picked the ' + ' and the '.join(end.lifted) if end.lifted else (
        f'not picked: {end.cause}')
    return f'{text} ({time.monotonic() - begun_s:.0f} s)', bool(end.lifted)
