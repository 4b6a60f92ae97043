"""A camera's image as a textured mesh in its frame, and the pixel of a click on it.

The mesh is a plane at depth PLANE_M in the optical frame; each vertex is on the ray of its pixel.
The texture is the image as published: the mesh undoes the distortion, and a click gives exactly the
pixel that is shown there.
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Rejected
from crosspoint_ros.core.encodings import Rgb

PLANE_M = 0.5  # nearer, RViz's depth error of 4 mm is more pixels; farther, images intersect
MAX_OFF_M = 0.03  # farther from the surface, the click was on something else
MAX_ANGLE_DEG = 65.0  # beyond it a fisheye's image would be stretched too far
MAX_WARP_ERROR_PX = 0.5  # between the pixel shown on a ray and its own, if GRID_CELLS suffice
GRID_CELLS = (4, 8, 12, 16, 24)  # along the width, tried in turn; more would be slow to send
BACK_SCALE = 1.005  # the back side, far enough behind the front that neither shines through
MAX_OUTSIDE = -0.02  # of a triangle's height: rounding of a click on the border

TEXTURE_PX = 480  # RViz never frees a texture: one of 480x360 costs it 0.9 MB
# Block width, px, and how much its mean may differ, of 255; noise averages out. Wide blocks detect
# a shift of the image by a pixel, narrow ones the motion of a small object.
SAME_LEVELS = ((12, 3.5), (4, 14.0))


@dataclass(frozen=True, eq=False)
class ImageMesh:
    """The triangles of the front side, whose normals point to the camera.

    points_cam_m: (n, 3, 3), optical frame. pixels: (n, 3, 2), what is shown there; (0, 0) is the
    centre of the top-left pixel, whose corner is (-0.5, -0.5).
    """

    intrinsics: Intrinsics
    points_cam_m: Array
    pixels: Array

    @property
    def vertices_cam_m(self) -> Array:
        """The vertices (m, 3) of front and back, 3 per triangle: RViz lights one side only."""
        # The back is moved along the rays: a click on it gives the same pixel.
        back = self.points_cam_m[:, ::-1] * BACK_SCALE
        return np.concatenate([self.points_cam_m, back]).reshape(-1, 3)

    @property
    def uv(self) -> Array:
        """Texture coordinates (m, 2) of the vertices, v down; (0, 0) is the texture's corner."""
        uv = (self.pixels + 0.5) / (self.intrinsics.width_px, self.intrinsics.height_px)
        return np.concatenate([uv, uv[:, ::-1]]).reshape(-1, 2)

    def pixel_at(self, point_cam_m: Array) -> Array:
        """Return the pixel (2,) shown there, moved onto the image by less than half a pixel.

        Raises `Rejected` (BAD_REQUEST) if the point is not on the mesh.
        """
        if not np.isfinite(point_cam_m).all():
            raise Rejected(Code.BAD_REQUEST, f'the point clicked, {point_cam_m}, is not finite')
        off_m = abs(float(point_cam_m[2]) - PLANE_M)
        if off_m > MAX_OFF_M:
            raise Rejected(Code.BAD_REQUEST, f'the point clicked is {off_m:.3f} m off the image '
                           f'(limit {MAX_OFF_M:g} m): something else was under the mouse')
        weights = self._barycentric_weights(point_cam_m / point_cam_m[2] * PLANE_M)
        hit = int(weights.min(axis=1).argmax())
        pixel = np.asarray(weights[hit] @ self.pixels[hit])
        if weights[hit].min() < MAX_OUTSIDE or not self.intrinsics.contains(pixel):
            raise Rejected(Code.BAD_REQUEST, 'the point clicked is not on the image, but at '
                           f'pixel ({pixel[0]:.1f}, {pixel[1]:.1f}) outside its '
                           f'{self.intrinsics.width_px}x{self.intrinsics.height_px} image')
        last = np.array([self.intrinsics.width_px, self.intrinsics.height_px]) - 1
        return np.asarray(np.clip(pixel, 0, last))

    def _barycentric_weights(self, point_cam_m: Array) -> Array:
        """Return the barycentric weights (n, 3) of a point on the plane in each triangle."""
        x, y = point_cam_m[:2]
        on_plane = np.concatenate([self.points_cam_m[..., :2],
                                   np.ones((*self.points_cam_m.shape[:2], 1))], axis=-1)
        return np.asarray(np.linalg.solve(on_plane.transpose(0, 2, 1),
                                          np.array([[[x], [y], [1.0]]]))[..., 0])


def build_image_mesh(intrinsics: Intrinsics) -> ImageMesh:
    """Return a mesh that shows the image undistorted.

    Raises `Rejected` (NOT_SUPPORTED) if no part of the image can be shown.
    """
    if not intrinsics.distortion and intrinsics.model != 'equidistant':
        return _build_mesh(intrinsics, 1)
    mesh = _build_mesh(intrinsics, GRID_CELLS[0])
    for _, finer in pairwise(GRID_CELLS):
        if _max_warp_error_px(mesh) < MAX_WARP_ERROR_PX:
            break
        mesh = _build_mesh(intrinsics, finer)
    if not len(mesh.pixels):
        raise Rejected(Code.NOT_SUPPORTED, 'no part of the image has rays within '
                       f'{MAX_ANGLE_DEG:g} degrees of the axis of its lens')
    return mesh


def make_texture(image: Rgb) -> Rgb:
    """Return the image, downscaled to TEXTURE_PX if it is wider; the uv apply to either."""
    height, width = image.shape[:2]
    if width <= TEXTURE_PX:
        return image
    size = (TEXTURE_PX, max(round(height * TEXTURE_PX / width), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def is_visually_same(a: Rgb, b: Rgb) -> bool:
    """Return whether two textures look alike: no block differs by more than SAME_LEVELS."""
    return a.shape == b.shape and all(
        _max_block_difference(a, b, block_px) < levels for block_px, levels in SAME_LEVELS)


def _max_block_difference(a: Rgb, b: Rgb, block_px: int) -> float:
    size = (max(a.shape[1] // block_px, 1), max(a.shape[0] // block_px, 1))
    one, two = (cv2.resize(each.astype(np.float32), size, interpolation=cv2.INTER_AREA)
                for each in (a, b))
    return float(np.abs(one - two).max())


def _build_mesh(intrinsics: Intrinsics, cells: int) -> ImageMesh:
    pixels = _triangle_pixels(intrinsics, cells)
    rays = intrinsics.unproject(pixels)
    points = PLANE_M * rays / rays[..., 2:]
    if cells == 1:
        return ImageMesh(intrinsics, points, pixels)
    off_axis_m = np.hypot(points[..., 0], points[..., 1])  # NaN where no ray reaches the pixel
    shown = (off_axis_m <= PLANE_M * np.tan(np.radians(MAX_ANGLE_DEG))).all(axis=1)
    return ImageMesh(intrinsics, points[shown], pixels[shown])


def _triangle_pixels(intrinsics: Intrinsics, cells: int) -> Array:
    """Return the pixels (n, 3, 2) of the corners."""
    rows = max(round(cells * intrinsics.height_px / intrinsics.width_px), 1)
    x, y = np.meshgrid(np.linspace(-0.5, intrinsics.width_px - 0.5, cells + 1),
                       np.linspace(-0.5, intrinsics.height_px - 0.5, rows + 1))
    grid = np.stack([x, y], axis=-1)
    top_left, top_right = grid[:-1, :-1], grid[:-1, 1:]
    bottom_left, bottom_right = grid[1:, :-1], grid[1:, 1:]
    halves = [np.stack(corners, axis=-2) for corners in (
        (top_left, bottom_right, top_right), (top_left, bottom_left, bottom_right))]
    return np.stack(halves, axis=2).reshape(-1, 3, 2)


def _max_warp_error_px(mesh: ImageMesh) -> float:
    """Return the largest error of the pixel shown on a ray; infinite for an empty mesh."""
    worst = 0.0 if len(mesh.pixels) else np.inf
    for weights in ((0.5, 0.5, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (1 / 3, 1 / 3, 1 / 3)):
        at = np.array(weights)
        expected = mesh.intrinsics.project(np.einsum('k,nkc->nc', at, mesh.points_cam_m))
        missed = np.linalg.norm(np.einsum('k,nkc->nc', at, mesh.pixels) - expected, axis=1)
        worst = max(worst, float(missed.max(initial=0.0)))
    return worst
