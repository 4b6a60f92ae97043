"""A six-joint arm of capsules: its MJCF, inverse kinematics by mink, and its frames as on TF."""
from __future__ import annotations

import mink
import mujoco
import numpy as np

from crosspoint_ros.bench.pick.scene import (
    BASE_FRAME,
    HOME_M,
    TOOL_FRAME,
    UnreachableError,
    draw_arm,
)
from crosspoint_ros.core.datatypes import Array, Transform

START_RAD = np.radians([-90.0, 20.0, 100.0, 0.0, 60.0, 0.0])  # over the table, tool down
DOWN = np.diag([1.0, -1.0, -1.0])
MAX_ITERATIONS, STEP_S = 200, 0.1
MAX_OFF_M, MAX_OFF_RAD = 1e-4, 1e-3


class Arm:
    """Solves for joint angles (6,), rad, and gives the frames that they put on TF.

    It has a model of the arm alone, as a robot's driver has: neither scene nor camera is in it.
    """

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_string(draw_arm())
        self._configuration = mink.Configuration(self._model)
        self._task = mink.FrameTask('hand', 'body', position_cost=1.0, orientation_cost=0.3)
        self._limits = [mink.ConfigurationLimit(self._model)]
        self.home_rad = self.solve(Transform(DOWN, np.array(HOME_M)), START_RAD)

    def solve(self, base_from_tool: Transform, near_rad: Array) -> Array:
        """Return the joint angles (6,) nearest to `near_rad` (6,); raise UnreachableError."""
        configuration = self._configuration
        configuration.update(near_rad.copy())
        self._task.set_target(mink.SE3.from_matrix(base_from_tool.matrix))
        for _ in range(MAX_ITERATIONS):
            error = self._task.compute_error(configuration)
            off_m, off_rad = np.linalg.norm(error[:3]), np.linalg.norm(error[3:])
            if off_m < MAX_OFF_M and off_rad < MAX_OFF_RAD:
                return np.array(configuration.q)
            speed = mink.solve_ik(configuration, [self._task], STEP_S, 'daqp', damping=1e-6,
                                  limits=self._limits)
            configuration.integrate_inplace(speed, STEP_S)
        raise UnreachableError(
            f'the arm stays {1000 * off_m:.0f} mm and {np.degrees(off_rad):.0f} deg from '
            f'({", ".join(f"{value:.2f}" for value in base_from_tool.t_m)}) m')

    def list_frames(self, joints_rad: Array) -> list[tuple[str, str, Transform]]:
        """Return parent, child and parent_from_child of all frames, as robot_state_publisher."""
        data = mujoco.MjData(self._model)
        data.qpos[:] = joints_rad
        mujoco.mj_kinematics(self._model, data)
        frames, parent, base_from_parent = [], BASE_FRAME, Transform(np.eye(3), np.zeros(3))
        for number in range(1, self._model.nbody):
            name = self._model.body(number).name
            if name in ('left', 'right'):
                continue
            pose = Transform(data.xmat[number].reshape(3, 3).copy(), data.xpos[number].copy())
            child = TOOL_FRAME if name == 'hand' else name
            frames.append((parent, child, base_from_parent.inverse @ pose))
            parent, base_from_parent = child, pose
        return frames
