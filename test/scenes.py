"""Scenes with exact truth: boxes and a table, ray-cast, in front of posed cameras."""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View

PINHOLE = Intrinsics(300.0, 300.0, 159.5, 119.5, 320, 240)
BARREL = Intrinsics(300.0, 298.0, 162.0, 118.0, 320, 240, (-0.28, 0.09, 0.001, -0.0005, 0.0))
RATIONAL = Intrinsics(300.0, 300.0, 160.0, 120.0, 320, 240,
                      (0.3, -0.1, 0.001, -0.001, 0.01, 0.45, -0.08, 0.02), 'rational_polynomial')
FISHEYE = Intrinsics(150.0, 150.0, 160.0, 120.0, 320, 240, (0.02, -0.01, 0.004, -0.001),
                     'equidistant')
LENSES = {'pinhole': PINHOLE, 'barrel': BARREL, 'rational': RATIONAL, 'fisheye': FISHEYE}

TABLE_Z_M = 0.0
LEFT, RIGHT, NEAR_LEFT = (-0.35, -0.7, 0.6), (0.35, -0.7, 0.6), (-0.30, -0.72, 0.6)


@dataclass(frozen=True)
class Box:
    """An upright box on the base frame's axes: two opposite corners, m."""

    low_base_m: tuple[float, float, float]
    high_base_m: tuple[float, float, float]


def looking_at(eye_base_m: tuple[float, float, float],
               at_base_m: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Transform:
    """Pose a camera at a place, looking at a point, image y down."""
    z = np.subtract(at_base_m, eye_base_m)
    z /= np.linalg.norm(z)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    return Transform(np.stack([x, np.cross(z, x), z], axis=1), np.array(eye_base_m))


def ranges_m(origin_m: Array, rays: Array, boxes: tuple[Box, ...]) -> Array:
    """How far along rays (..., 3) the first surface is; NaN where there is none."""
    with np.errstate(divide='ignore', invalid='ignore'):
        table = (TABLE_Z_M - origin_m[2]) / rays[..., 2]
        hits = [np.where(table > 0, table, np.inf)]
        for box in boxes:
            one, two = (np.array(c) - origin_m for c in (box.low_base_m, box.high_base_m))
            enter = np.minimum(one / rays, two / rays).max(axis=-1)
            leave = np.maximum(one / rays, two / rays).min(axis=-1)
            hits.append(np.where((enter <= leave) & (enter > 0), enter, np.inf))
    nearest = np.min(hits, axis=0)
    return np.where(np.isfinite(nearest), nearest, np.nan)


def seen(camera: str, base_from_cam: Transform, boxes: tuple[Box, ...] = (),
         intrinsics: Intrinsics = PINHOLE) -> View:
    """Render the depth of a view on the table and the boxes; its image is black."""
    columns, rows = np.meshgrid(np.arange(intrinsics.width_px), np.arange(intrinsics.height_px))
    rays_cam = intrinsics.ray_cam(np.stack([columns, rows], axis=-1))
    range_m = ranges_m(base_from_cam.t_m, base_from_cam.direction(rays_cam), boxes)
    return View(camera, np.zeros((*columns.shape, 3), np.uint8), intrinsics, frame_id=camera,
                depth_m=(range_m * rays_cam[..., 2]).astype(np.float32),
                base_from_cam=base_from_cam)


def pixel_of(view: View, point_base_m: Array) -> Array:
    """Project a point of the base into a view."""
    return view.intrinsics.pixel(view.base_from_cam.inverse.point(point_base_m))


def nudged(transform: Transform, cm: float, deg: float, seed: int) -> Transform:
    """Move a_from_b, in a, by so much in a random direction."""
    rng = np.random.default_rng(seed)
    axis, way = rng.normal(size=(2, 3))
    turn = cv2.Rodrigues(axis / np.linalg.norm(axis) * np.radians(deg))[0]
    return Transform(turn, way / np.linalg.norm(way) * cm / 100) @ transform
