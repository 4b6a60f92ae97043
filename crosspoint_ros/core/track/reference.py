"""What a target looked like when it was clicked: points of its surface, with their patches."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Matcher, Query, Rejected, Transform, View
from crosspoint_ros.core.depth import SPLIT_M, SPLIT_RATIO, predict_depth_sigma_m, surface_depths_m
from crosspoint_ros.core.geometry import require_pose, triangulate
from crosspoint_ros.core.track.patches import GreyPyramid
from crosspoint_ros.core.verify import run_matcher

OBJECT_RADIUS_M = 0.08  # of the surface around the click: what a hand or a gripper holds
MAX_CORNERS = 50
MIN_CORNERS, ENOUGH_CORNERS = 6, 12
JUMP_SIGMAS, FAR_M = 4.0, 1e6
MIN_GRADIENT = 12.0  # grey levels over the Sobel kernel
SUPPORT_RING_M = 0.15  # where the surface that carries the object is looked for
SUPPORT_SIGMAS = 3.0
SUPPORT_TRIALS = 100
MIN_SUPPORT_SHARE = 0.4  # of the ring
MIN_SUPPORT = 100
SUPPORT_SIDES, MIN_SIDES, MIN_SIDE_SHARE = 6, 4, 0.03
NORMAL_REACH_PX = 5
FLATNESS = 0.5  # of the least to the middle spread of the points around a flat place
MIN_SLANT = 0.2
MATCHED_CORNERS = 24  # without depth: how many are triangulated
MATCH_CONFIDENCE = 0.5
MAX_TRIANGULATION_PX = 3.0
SQUARE, RIM = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)
IDENTITY = Transform(np.eye(3), np.zeros(3))
ORIGIN = np.zeros(2, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ReferenceView:
    """One view of a target when it was clicked.

    points_m: (n, 3) of its surface in the base. normals: (n, 3) out of the surface, in the base.
    pixels: (n, 2). weights: (n,) 0..1, less for points further from the target. surface: (h, w) 1
    where the object is, 0 elsewhere. target_pixel: (2,).
    base_from_clicked: how the object had moved when this view was taken; identity for the click.
    """

    view: View
    pyramid: GreyPyramid
    points_m: Array
    normals: Array
    pixels: Array
    weights: Array
    surface: npt.NDArray[np.float32]
    target_pixel: Array
    base_from_clicked: Transform

    @cached_property
    def object_view(self) -> View:
        """The view with all but the object masked; one image, so that a matcher reads it once."""
        then = self.view
        return View(f'{then.camera}_clicked', then.image, then.intrinsics, then.stamp_ns,
                    mask=self.surface < 0.5)

    @cached_property
    def posed_object_view(self) -> View:
        """The same with depth and pose."""
        return replace(self.object_view, camera=f'{self.view.camera}_clicked_posed',
                       depth_m=self.view.depth_m, base_from_cam=self.view.base_from_cam)


def build_by_depth(view: View, target_m: Array, moved: Transform = IDENTITY) -> ReferenceView:
    """Return the reference of a view with depth; target_m: (3,) in the base, now.

    moved: base_from_clicked of the object. The object is what is within 8 cm of the target (16
    where that has little texture) and connected to it in the image. If it is carried by a plane, a
    table, which the target itself is not on, that is left out. Raises `Rejected`: NOT_VISIBLE
    where the view does not show the target, NO_DEPTH with fewer than six corners.
    """
    assert view.depth_m is not None
    pixel, range_m = project_target(view, target_m)
    depths_m = surface_depths_m(view, pixel)
    limit_m = SPLIT_M + SPLIT_RATIO * range_m
    if not len(depths_m) or np.abs(depths_m - range_m).min() > limit_m:
        at = ', '.join(f'{d:.3f}' for d in depths_m) or 'none'
        raise Rejected(Code.NOT_VISIBLE, f'{view.camera}: the depths at ({pixel[0]:.0f}, '
                       f'{pixel[1]:.0f}) are {at} m, the target is at {range_m:.3f} m (limit '
                       f'{limit_m:.3f} m)')
    corner, points_m = get_points_around(view, pixel, SUPPORT_RING_M / range_m)
    away_m = np.linalg.norm(points_m - target_m, axis=2)
    with np.errstate(invalid='ignore'):
        ring = (away_m > OBJECT_RADIUS_M) & (away_m < SUPPORT_RING_M)
        carried = _find_support(points_m[ring], points_m, target_m, range_m)
        free = np.isfinite(away_m) & ~carried
    pyramid = GreyPyramid(view.image)
    inner = free & ~_find_jumps(points_m @ require_pose(view).R[:, 2], range_m)
    for radius_m in (OBJECT_RADIUS_M, 2 * OBJECT_RADIUS_M):
        near = _select_connected(free & (away_m < radius_m), pixel - corner)
        within = cv2.erode(cv2.morphologyEx(near.astype(np.uint8), cv2.MORPH_CLOSE, SQUARE), RIM)
        pixels = _find_corners(pyramid, view, corner, near & inner & (within > 0))
        if len(pixels) < ENOUGH_CORNERS:  # a contour is seen elsewhere from elsewhere
            pixels = _find_corners(pyramid, view, corner, near)
        if len(pixels) >= MIN_CORNERS:
            break
    else:
        raise Rejected(Code.NO_DEPTH, f'{view.camera}: {len(pixels)} corners on the surface around '
                       f'the target (at least {MIN_CORNERS})')
    shown = _select_connected(free & (away_m < 2 * radius_m), pixel - corner)
    surface = np.zeros(view.depth_m.shape, np.float32)
    left, top = corner
    surface[top:top + shown.shape[0], left:left + shown.shape[1]] = cv2.morphologyEx(
        shown.astype(np.uint8), cv2.MORPH_CLOSE, SQUARE)
    columns, rows = np.rint(pixels - corner).astype(int).T
    at_m, normals = _fit_surface(points_m, shown, np.stack([columns, rows], axis=1),
                                 require_pose(view).t_m)
    return ReferenceView(view, pyramid, moved.inverse.transform_points(at_m),
                         moved.inverse.rotate(normals), pixels, _weigh(at_m, target_m), surface,
                         pixel, moved)


def project_target(view: View, target_m: Array) -> tuple[Array, float]:
    """Return the pixel (2,) and depth, m, of a point in a view.

    Raises `Rejected` (NOT_VISIBLE) off the image or behind the camera.
    """
    at_cam = require_pose(view).inverse.transform_points(target_m)
    pixel = view.intrinsics.project(at_cam)
    if not (at_cam[2] > 0 and view.intrinsics.contains(pixel)):
        raise Rejected(Code.NOT_VISIBLE, f'{view.camera}: the target is at ({pixel[0]:.0f}, '
                       f'{pixel[1]:.0f}), outside the {view.intrinsics.width_px}x'
                       f'{view.intrinsics.height_px} image')
    if view.is_masked(pixel):
        raise Rejected(Code.NOT_VISIBLE, f"{view.camera}: the robot's own body covers "
                       f'({pixel[0]:.0f}, {pixel[1]:.0f}) (its mask)')
    return pixel, float(at_cam[2])


def get_points_around(view: View, pixel: Array, half_angle: float
                      ) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the corner (2,) of a square around a pixel, and its points (h, w, 3) in the base, m.

    half_angle: of the square, as a tangent. NaN where the depth is unknown.
    """
    assert view.depth_m is not None
    half_px = int(np.ceil(half_angle * max(view.intrinsics.fx_px, view.intrinsics.fy_px)))
    first = np.maximum(np.rint(pixel).astype(np.int64) - half_px, 0)
    last = np.rint(pixel).astype(np.int64) + half_px + 1
    depth_m = view.depth_m[first[1]:last[1], first[0]:last[0]].astype(np.float64)
    rows, columns = np.mgrid[:depth_m.shape[0], :depth_m.shape[1]].astype(np.float64)
    at = np.stack([columns + first[0], rows + first[1]], axis=-1)
    return first, require_pose(view).transform_points(
        view.backproject(at, np.where(depth_m > 0, depth_m, np.nan)))


def _find_jumps(depth_m: Array, range_m: float) -> npt.NDArray[np.bool_]:
    """Return where depths (h, w) jump within 5x5 px: the contour of something."""
    known, kernel = np.isfinite(depth_m), np.ones((5, 5), np.uint8)
    farthest = cv2.dilate(np.where(known, depth_m, -FAR_M).astype(np.float32), kernel)
    nearest = cv2.erode(np.where(known, depth_m, FAR_M).astype(np.float32), kernel)
    return np.asarray(farthest - nearest > JUMP_SIGMAS * predict_depth_sigma_m(range_m))


def _select_connected(region: npt.NDArray[np.bool_], pixel: Array) -> npt.NDArray[np.bool_]:
    """Return the part (h, w) of a region that is connected to a pixel (2,), or nearest to it.

    Single pixels without depth do not separate parts.
    """
    closed = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_CLOSE, SQUARE)
    _, labels = cv2.connectedComponents(closed, connectivity=8)
    rows, columns = np.nonzero(closed)
    if not len(rows):
        return np.zeros(region.shape, dtype=bool)
    nearest = np.hypot(columns - pixel[0], rows - pixel[1]).argmin()
    return np.asarray(region & (labels == labels[rows[nearest], columns[nearest]]))


def _find_support(around_m: Array, points_m: Array, target_m: Array, range_m: float
                  ) -> npt.NDArray[np.bool_]:
    """Return which points (h, w) are of a plane that carries the object.

    The plane is that of most points (n, 3) of a ring around the target, and on most of its sides;
    none if the target itself is on it.
    """
    nothing = np.zeros(points_m.shape[:2], dtype=bool)
    if len(around_m) < MIN_SUPPORT:
        return nothing
    rng = np.random.default_rng(0)
    picked = around_m[rng.integers(len(around_m), size=(3, SUPPORT_TRIALS))]
    normals = np.cross(picked[1] - picked[0], picked[2] - picked[0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    thick_m = SUPPORT_SIGMAS * predict_depth_sigma_m(range_m)
    some = around_m[rng.integers(len(around_m), size=min(len(around_m), 1000))]
    offsets_m = (picked[0] * normals).sum(axis=1)
    off_m = np.abs(some @ normals.T - offsets_m)
    # A plane through the target is its own surface.
    votes = np.where(np.abs(normals @ target_m - offsets_m) < thick_m, 0.0,
                     (off_m < thick_m).mean(axis=0))
    best = votes.argmax()
    normal, offset_m = normals[best], offsets_m[best]
    foot_m = target_m - (target_m @ normal - offset_m) * normal
    first = np.cross(normal, (1.0, 0.0, 0.0) if abs(normal[0]) < 0.9 else (0.0, 1.0, 0.0))
    aside_m = some[off_m[:, best] < thick_m] - foot_m
    angles = np.arctan2(aside_m @ np.cross(normal, first), aside_m @ first)
    sides = np.histogram(angles, SUPPORT_SIDES, (-np.pi, np.pi))[0] > MIN_SIDE_SHARE * len(angles)
    if votes[best] < MIN_SUPPORT_SHARE or sides.sum() < MIN_SIDES:
        return nothing
    return np.asarray(np.abs(points_m @ normal - offset_m) < thick_m)


def _weigh(points_m: Array, target_m: Array) -> Array:
    return np.asarray(np.exp(
        -((points_m - target_m) ** 2).sum(axis=1) / (2 * OBJECT_RADIUS_M ** 2)))


def _find_corners(pyramid: GreyPyramid, view: View, corner: npt.NDArray[np.int64],
                  near: npt.NDArray[np.bool_]) -> Array:
    """Return the places (n, 2) of a region, at `corner`, with the strongest gradients.

    They are a few pixels apart. Edges count too: an alignment knows what it cannot see.
    """
    left, top = corner
    part = (slice(top, top + near.shape[0]), slice(left, left + near.shape[1]))
    grey = cv2.GaussianBlur(pyramid.level(0)[part], (5, 5), 0)
    strength = cv2.boxFilter(cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2
                             + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2, -1, (5, 5))
    usable = near if view.mask is None else near & ~view.mask[part]
    strength = np.where(usable, strength, 0.0).astype(np.float32)
    peaks = (strength >= cv2.dilate(strength, np.ones((3, 3), np.uint8))) & (
        strength > MIN_GRADIENT ** 2)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-strength[rows, columns], kind='stable')[:MAX_CORNERS]
    return np.stack([columns, rows], axis=1)[order].astype(np.float64) + corner


def _fit_surface(points_m: Array, surface: npt.NDArray[np.bool_], places: npt.NDArray[np.int64],
                 camera_m: Array) -> tuple[Array, Array]:
    """Points (n, 3) of the surface at places (n, 2), and its normals (n, 3), towards the camera.

    Both are of planes through the depths around: single ones are too noisy for the shape.
    """
    at_m, normals = [], []
    for x, y in places:
        rows, columns = (slice(max(0, at - NORMAL_REACH_PX), at + NORMAL_REACH_PX + 1)
                         for at in (y, x))
        around = points_m[rows, columns][surface[rows, columns]]
        ray = points_m[y, x] - camera_m
        at = np.linalg.norm(ray)
        along_m = (around - camera_m) @ (ray / at)
        if len(along_m):  # of the surface that most of the nearest depths are of
            nearest = np.argsort(np.linalg.norm(around - points_m[y, x], axis=1))[:9]
            around = around[np.abs(along_m - np.median(along_m[nearest]))
                            < 2 * predict_depth_sigma_m(float(at))]
        point, normal = points_m[y, x], -ray / np.linalg.norm(ray)
        if len(around) > 2 * NORMAL_REACH_PX:
            middle = around.mean(axis=0)
            _, spread, axes = np.linalg.svd(around - middle, full_matrices=False)
            slant = float(axes[2] @ normal)
            if spread[2] < FLATNESS * spread[1] and abs(slant) > MIN_SLANT:
                normal = axes[2] * np.sign(slant)
                point = camera_m + ray * ((middle - camera_m) @ normal / (ray @ normal))
            else:
                point = camera_m + ray * ((middle - camera_m) @ ray / (ray @ ray))
        at_m.append(point)
        normals.append(normal)
    return np.array(at_m).reshape(-1, 3), np.array(normals).reshape(-1, 3)


def build_by_matches(views: Sequence[View], pixels: Sequence[Array], target_m: Array,
                     matcher: Matcher) -> list[ReferenceView]:
    """Return the references of two or more views without depth, by triangulated corners.

    pixels: (2,) of the target in each view. Corners around the first pixel are matched in the other
    views; those whose rays meet within 3 px and 16 cm of the target are kept. Where fewer than
    six are left, the object is taken for a plane that faces the camera. Raises `Rejected`
    (NO_DEPTH) with too few corners.
    """
    clicked, pyramid = views[0], GreyPyramid(views[0].image)
    corners = _find_corners(pyramid, clicked, ORIGIN, _disc(clicked, pixels[0], target_m))
    order = np.linalg.norm(corners - pixels[0], axis=1).argsort()[:MATCHED_CORNERS]
    kept: list[tuple[Array, Array, list[Array | None]]] = []
    for corner in corners[order]:
        found = [_match_corner(clicked, other, corner, matcher) for other in views[1:]]
        matched = [(view, pixel) for view, pixel in zip(views[1:], found, strict=True)
                   if pixel is not None]
        if not matched:
            continue
        try:
            met = triangulate([clicked, *(view for view, _ in matched)],
                              [corner, *(pixel for _, pixel in matched)],
                              [np.eye(2)] * (1 + len(matched)))
        except Rejected:
            continue
        if met.errors_px.max() < MAX_TRIANGULATION_PX and np.linalg.norm(
                met.point_base_m - target_m) < 2 * OBJECT_RADIUS_M:
            kept.append((met.point_base_m, corner, found))
    references = []
    for index, (view, pixel) in enumerate(zip(views, pixels, strict=True)):
        shown = [(point, corner if index == 0 else found[index - 1])
                 for point, corner, found in kept if index == 0 or found[index - 1] is not None]
        if len(shown) < MIN_CORNERS:
            references.append(build_by_plane(view, pixel, target_m))
            continue
        references.append(assemble(view, np.array([p for p, _ in shown]),
                                   np.array([c for _, c in shown]), pixel, target_m))
    return references


def build_by_plane(view: View, pixel: Array, target_m: Array) -> ReferenceView:
    """Return the reference of a view as if the object were a plane that faces the camera."""
    pyramid, pose = GreyPyramid(view.image), require_pose(view)
    corners = _find_corners(pyramid, view, ORIGIN, _disc(view, pixel, target_m))
    if len(corners) < MIN_CORNERS:
        raise Rejected(Code.NO_DEPTH, f'{view.camera}: {len(corners)} corners around the target '
                       f'(at least {MIN_CORNERS})')
    depth_m = float(pose.inverse.transform_points(target_m)[2])
    return assemble(view, pose.transform_points(view.backproject(
        corners, np.full(len(corners), depth_m))), corners, pixel, target_m)


def assemble(view: View, points_m: Array, pixels: Array, target_pixel: Array, target_m: Array
             ) -> ReferenceView:
    """Return the reference of a view without depth, by points (n, 3) at pixels (n, 2) of it."""
    rays = require_pose(view).t_m - points_m
    normals = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return ReferenceView(view, GreyPyramid(view.image), points_m, normals, pixels,
                         _weigh(points_m, target_m),
                         _disc(view, target_pixel, target_m).astype(np.float32),
                         np.asarray(target_pixel, dtype=np.float64), IDENTITY)


def _disc(view: View, pixel: Array, target_m: Array) -> npt.NDArray[np.bool_]:
    lens, range_m = view.intrinsics, float(np.linalg.norm(target_m - require_pose(view).t_m))
    rows, columns = np.mgrid[:lens.height_px, :lens.width_px]
    radius_px = 0.6 * OBJECT_RADIUS_M * lens.fx_px / range_m
    return np.asarray(np.hypot(columns - pixel[0], rows - pixel[1]) < radius_px)


def _match_corner(clicked: View, other: View, corner: Array, matcher: Matcher) -> Array | None:
    query = Query(clicked, other, corner)
    try:
        match = run_matcher(matcher, lambda: matcher.match(query))
    except Rejected:
        return None
    is_good = match.confidence >= MATCH_CONFIDENCE and other.intrinsics.contains(match.pixel)
    return match.pixel if is_good else None
