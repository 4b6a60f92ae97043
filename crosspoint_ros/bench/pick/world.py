"""Physics and cameras of a scene in MuJoCo: the gripper moves, the cameras render RGB-D."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import mujoco
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pick.scene import (
    BASE_FRAME,
    HEIGHT_PX,
    THINGS,
    TOOL_FRAME,
    WIDTH_PX,
    Scene,
)
from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform

if TYPE_CHECKING:
    from crosspoint_ros.bench.pick.arm import Arm

OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z, and y is up
CLOSED_M = 0.045  # travel of each finger
CAMERAS = ('front', 'wrist')
FRAME_STEPS = 60  # of a film: 0.12 s
STEP_S, SOLVE_STEPS = 0.002, 20  # of a motion between two solutions of inverse kinematics
FINGERS = ('left', 'right')
UNKNOWN = np.full((HEIGHT_PX, WIDTH_PX), -1)


@dataclass(frozen=True, eq=False)
class Shot:
    """What a camera shows: image (h, w, 3) RGB, depth (h, w) in m, and the name of the object at
    each pixel as its number in THINGS, else -1; -2: the gripper."""

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    things: npt.NDArray[np.int64]


class PickWorld:
    """A scene that moves; all of it in the thread that created it, which owns the GL context."""

    def __init__(self, scene: Scene, arm: Arm | None = None) -> None:
        """arm: of a scene that has one; else the gripper moves by itself."""
        self.model = mujoco.MjModel.from_xml_string(scene.xml, scene.assets)
        self.data = mujoco.MjData(self.model)
        self._renderer = mujoco.Renderer(self.model, HEIGHT_PX, WIDTH_PX)
        bodies = [self.model.body(thing.name).id for thing in THINGS]
        hand = [self.model.body(name).id for name in ('hand', *FINGERS)]
        self._numbers = np.array([*(bodies.index(body) if body in bodies else
                                    -2 if body in hand else -1
                                    for body in self.model.geom_bodyid), -1])  # by geom
        self.arm = arm
        self._motors = [self.model.joint(f'joint_{n}').id for n in range(1, 7)] if arm else []
        if arm:
            self.data.qpos[self.model.jnt_qposadr[self._motors]] = arm.home_rad
            self._set_joints(arm.home_rad)
        mujoco.mj_forward(self.model, self.data)
        self._commanded = self.get_hand()
        self.on_frame: Callable[[], object] | None = None  # called every FRAME_STEPS steps
        self._steps = 0
        self.step(400)  # until the objects rest

    def close(self) -> None:
        """Release the GL context."""
        self._renderer.close()

    @property
    def time_s(self) -> float:
        """The simulated time."""
        return self._steps * STEP_S

    def step(self, count: int) -> None:
        """Advance by `STEP_S` each."""
        for _ in range(count):
            mujoco.mj_step(self.model, self.data)
            self._steps += 1
            if self.on_frame is not None and self._steps % FRAME_STEPS == 0:
                self.on_frame()

    def list_frames(self) -> list[tuple[str, str, Transform]]:
        """Return parent, child and parent_from_child of what TF has above the cameras.

        With an arm: by its measured joint angles, with the wrist camera on its tool.
        """
        frames = [(BASE_FRAME, f'{camera}_optical', self.get_pose(camera)) for camera in CAMERAS]
        if self.arm is None:
            return frames
        return [frames[0], *self.arm.list_frames(self.get_joints()),
                (TOOL_FRAME, 'wrist_optical', self.get_hand().inverse @ self.get_pose('wrist'))]

    def get_joints(self) -> Array:
        """Return the measured angles (6,) of the arm's joints, rad."""
        return np.array(self.data.qpos[self.model.jnt_qposadr[self._motors]])

    def get_hand(self) -> Transform:
        """Return base_from_hand."""
        hand = self.data.body('hand')
        return Transform(hand.xmat.reshape(3, 3).copy(), hand.xpos.copy())

    def get_lens(self, camera: str) -> Intrinsics:
        """Return the intrinsics of a camera."""
        focal_px = HEIGHT_PX / 2 / np.tan(np.radians(self.model.camera(camera).fovy[0]) / 2)
        return Intrinsics(focal_px, focal_px, WIDTH_PX / 2 - 0.5, HEIGHT_PX / 2 - 0.5, WIDTH_PX,
                          HEIGHT_PX)

    def get_pose(self, camera: str) -> Transform:
        """Return base_from_cam of a camera, its axes as those of an optical frame."""
        mujoco.mj_forward(self.model, self.data)
        index = self.model.camera(camera).id
        return Transform(self.data.cam_xmat[index].reshape(3, 3) @ OPTICAL_FROM_MUJOCO,
                         self.data.cam_xpos[index].copy())

    def get_place(self, thing: str) -> Array:
        """Return where an object is, (3,) in the base, m."""
        return np.array(self.data.body(thing).xpos)

    def get_turn(self, thing: str) -> Array:
        """Return base_from_thing as a rotation (3, 3)."""
        return np.array(self.data.body(thing).xmat).reshape(3, 3)

    def measure_width(self, thing: str, way_base: Array) -> float:
        """Return the extent of an object along a direction (3,), m."""
        model, body = self.model, self.model.body(thing)
        ends_m = []
        for geom in range(body.geomadr[0], body.geomadr[0] + body.geomnum[0]):
            at_m = self.data.geom_xpos[geom] @ way_base
            half_m = measure_half_extent(int(model.geom_type[geom]), model.geom_size[geom],
                                         way_base @ self.data.geom_xmat[geom].reshape(3, 3))
            ends_m += [at_m - half_m, at_m + half_m]
        return float(max(ends_m) - min(ends_m))

    def shoot(self, camera: str) -> Shot:
        """Render a camera, and the objects in it."""
        shot, renderer = self.shoot_rgbd(camera), self._renderer
        renderer.enable_segmentation_rendering()
        geoms = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        return replace(shot, things=self._numbers[np.where(geoms < 0, self.model.ngeom, geoms)])

    def shoot_rgbd(self, camera: str) -> Shot:
        """Render a camera, without the objects in it: that takes a third less."""
        image, renderer = self.render(camera), self._renderer
        renderer.enable_depth_rendering()
        depth_m = renderer.render().copy()
        renderer.disable_depth_rendering()
        return Shot(image, depth_m, UNKNOWN)

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Return the image (h, w, 3) RGB of a camera."""
        mujoco.mj_forward(self.model, self.data)
        self._renderer.update_scene(self.data, camera=camera)
        return np.array(self._renderer.render())

    def touches(self, thing: str) -> bool:
        """Whether both fingers touch an object."""
        body = self.model.body(thing).id
        touched = set()
        for contact in self.data.contact[:self.data.ncon]:
            pair = {int(self.model.geom_bodyid[geom]) for geom in contact.geom}
            if body in pair:
                touched |= pair
        return {self.model.body(name).id for name in FINGERS} <= touched

    def open_fingers(self) -> None:
        """Open the gripper and wait."""
        self._set_fingers(0.0)
        self.step(200)

    def close_fingers(self) -> None:
        """Close the gripper with 15 N and wait."""
        self._set_fingers(CLOSED_M)
        self.step(500)

    def _set_fingers(self, travel_m: float) -> None:
        for name in FINGERS:
            self.data.actuator(name).ctrl[0] = travel_m

    def _set_joints(self, angles_rad: Array) -> None:
        for number, angle_rad in enumerate(angles_rad, 1):
            self.data.actuator(f'joint_{number}').ctrl[0] = angle_rad

    def move(self, base_from_hand: Transform, steps: int) -> None:
        """Move the hand to a pose along a straight line, smoothly, and wait.

        Raises `UnreachableError` on the way, where the arm does not reach.
        """
        start, rotvec = self._commanded, cv2.Rodrigues(
            self._commanded.R.T @ base_from_hand.R)[0]
        for number in range(1, steps + 1):
            share = number / steps
            smooth = share * share * (3 - 2 * share)
            if self.arm is None or number % SOLVE_STEPS == 0 or number == steps:
                R = np.asarray(start.R @ cv2.Rodrigues(smooth * rotvec)[0])
                at_m = start.t_m + smooth * (base_from_hand.t_m - start.t_m)
                self._command(Transform(R, at_m))
            self.step(1)
        self.step(200)

    def _command(self, base_from_hand: Transform) -> None:
        if self.arm is not None:
            self._set_joints(self.arm.solve(base_from_hand, self.get_joints()))
        else:
            mujoco.mju_mat2Quat(self.data.mocap_quat[0],
                                np.ascontiguousarray(base_from_hand.R).ravel())
            self.data.mocap_pos[0] = base_from_hand.t_m
        self._commanded = base_from_hand


def measure_half_extent(kind: int, size_m: Array, way: Array) -> float:
    """Return half of the extent of a geom along a direction (3,) in its own axes, m.

    Their support functions. kind: an `mjtGeom`; raises ValueError for one that no object has.
    """
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return float(np.abs(way) @ size_m)
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        return float(np.linalg.norm(way * size_m))
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return float(size_m[0] * np.hypot(way[0], way[1]) + size_m[1] * abs(way[2]))
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return float(size_m[0] + size_m[1] * abs(way[2]))
    raise ValueError(f'no width of a geom of type {kind}: box, ellipsoid, cylinder or capsule')
