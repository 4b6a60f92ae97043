"""Views of the built-in kitchen, for the examples that are given no images."""
from __future__ import annotations

import crosspoint_ros as cp
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.scenes import KITCHEN


def read_views(*cameras: str) -> list[cp.View]:
    """Return the first view of each camera, with intrinsics, depth and pose."""
    scene = KnownScene(KITCHEN)
    return [scene.read_view(next(f for f in scene.frames if f.camera == camera))
            for camera in cameras]
