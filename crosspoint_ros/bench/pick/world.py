"""Physics and cameras of a scene in MuJoCo: the gripper moves, the cameras render RGB-D."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.pick.scene import HEIGHT_PX, THINGS, WIDTH_PX, Scene
from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform

OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z, and y is up
CLOSED_M = 0.045  # travel of each finger
CAMERAS = ('front', 'wrist')
FRAME_STEPS = 60  # of a film: 0.12 s


@dataclass(frozen=True, eq=False)
class Shot:
    """What a camera shows: image (h, w, 3) RGB, depth (h, w) in m, and the name of the object at
    each pixel as its number in THINGS, else -1; -2: the gripper."""

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    things: npt.NDArray[np.int64]


class PickWorld:
    """A scene that moves; all of it in the thread that created it, which owns the GL context."""

    def __init__(self, scene: Scene) -> None:
        self.model = mujoco.MjModel.from_xml_string(scene.xml, scene.assets)
        self.data = mujoco.MjData(self.model)
        self._renderer = mujoco.Renderer(self.model, HEIGHT_PX, WIDTH_PX)
        bodies = [self.model.body(thing.name).id for thing in THINGS]
        self._numbers = np.full(self.model.ngeom + 1, -1)  # of the object, by geom
        for geom in range(self.model.ngeom):
            body = int(self.model.geom_bodyid[geom])
            root = int(self.model.body_rootid[body])
            self._numbers[geom] = bodies.index(root) if root in bodies else -2 if (
                root == self.model.body('hand').id) else -1
        self.on_frame: Callable[[], None] | None = None  # called every FRAME_STEPS steps
        self._steps = 0
        self.step(400)  # until the objects rest

    def close(self) -> None:
        """Release the GL context."""
        self._renderer.close()

    def step(self, count: int) -> None:
        """Advance by 2 ms each."""
        for _ in range(count):
            mujoco.mj_step(self.model, self.data)
            self._steps += 1
            if self.on_frame is not None and self._steps % FRAME_STEPS == 0:
                self.on_frame()

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

    def shoot(self, camera: str) -> Shot:
        """Render a camera."""
        mujoco.mj_forward(self.model, self.data)
        renderer = self._renderer
        renderer.update_scene(self.data, camera=camera)
        image = renderer.render().copy()
        renderer.enable_depth_rendering()
        depth_m = renderer.render().copy()
        renderer.disable_depth_rendering()
        renderer.enable_segmentation_rendering()
        geoms = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        return Shot(image, depth_m, self._numbers[np.where(geoms < 0, self.model.ngeom, geoms)])

    def open_fingers(self) -> None:
        """Open the gripper and wait."""
        self.data.ctrl[:] = 0.0
        self.step(200)

    def close_fingers(self) -> None:
        """Close the gripper with 15 N and wait."""
        self.data.ctrl[:] = CLOSED_M
        self.step(500)

    def move(self, base_from_hand: Transform, steps: int) -> None:
        """Move the hand to a pose along a straight line, smoothly, and wait."""
        start_m, start_q = self.data.mocap_pos[0].copy(), self.data.mocap_quat[0].copy()
        end_q = np.zeros(4)
        mujoco.mju_mat2Quat(end_q, np.ascontiguousarray(base_from_hand.R).ravel())
        end_q = -end_q if start_q @ end_q < 0 else end_q
        for share in np.linspace(0.0, 1.0, steps + 1)[1:]:
            smooth = share * share * (3 - 2 * share)
            quaternion = start_q + smooth * (end_q - start_q)
            self.data.mocap_pos[0] = start_m + smooth * (base_from_hand.t_m - start_m)
            self.data.mocap_quat[0] = quaternion / np.linalg.norm(quaternion)
            self.step(1)
        self.step(200)
