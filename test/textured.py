"""The scenes of `scenes.py` with something to see on every surface, for matchers that look."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from scenes import PINHOLE, Box, seen

from crosspoint_ros.core.datatypes import Array, Intrinsics, Transform, View

TEXTURE_PX, TEXEL_M = 1024, 0.002


def texture(seed: int) -> Array:
    """Blobs of all sizes (1024, 1024), -1..1, that meet at opposite borders."""
    rng = np.random.default_rng(seed)
    total = np.zeros((TEXTURE_PX, TEXTURE_PX))
    for cells in (16, 32, 64, 128, 256):
        coarse = np.pad(rng.uniform(-1, 1, (cells, cells)), 2, mode='wrap')
        step = TEXTURE_PX // cells
        fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_NEAREST)
        total += fine[2 * step:-2 * step, 2 * step:-2 * step]
    return total / np.abs(total).max()


TEXTURES = [texture(seed) for seed in range(3)]


def painted(points_base_m: Array) -> Array:
    """Colour (h, w) of points (h, w, 3), 0..1: three textures, one on each pair of axes."""
    value = np.zeros(points_base_m.shape[:2])
    for paint, (u, v) in zip(TEXTURES, ((0, 1), (0, 2), (1, 2)), strict=True):
        at = (points_base_m[..., (u, v)] / TEXEL_M % TEXTURE_PX).astype(np.float32)
        at = np.nan_to_num(at)
        value += cv2.remap(paint, at[..., 0], at[..., 1], cv2.INTER_LINEAR,
                           borderMode=cv2.BORDER_WRAP)
    return np.clip(0.5 + value / 3, 0, 1)


def looked(camera: str, base_from_cam: Transform, boxes: tuple[Box, ...] = (),
           intrinsics: Intrinsics = PINHOLE) -> View:
    """Render image and depth of a view, four rays a pixel."""
    fine = replace(intrinsics, fx_px=2 * intrinsics.fx_px, fy_px=2 * intrinsics.fy_px,
                   cx_px=2 * intrinsics.cx_px + 0.5, cy_px=2 * intrinsics.cy_px + 0.5,
                   width_px=2 * intrinsics.width_px, height_px=2 * intrinsics.height_px)
    view = seen(camera, base_from_cam, boxes, fine)
    columns, rows = np.meshgrid(np.arange(fine.width_px), np.arange(fine.height_px))
    rays_cam = fine.ray_cam(np.stack([columns, rows], axis=-1))
    points_cam_m = rays_cam / rays_cam[..., 2:] * view.depth_m[..., None]
    shades = painted(base_from_cam.point(points_cam_m))
    grey = cv2.resize(shades, (intrinsics.width_px, intrinsics.height_px),
                      interpolation=cv2.INTER_AREA)
    plain = seen(camera, base_from_cam, boxes, intrinsics)
    return replace(plain, image=np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2))
