"""Places a click without depth by further images of a camera that moves: its path is a baseline.

Two cameras that look alike see depth badly, and a match is a few pixels off. What a match found is
followed by its patch, to a fraction of a pixel, through images of the same camera: they say how far
away it is, and the clicked ray says where on what is there.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import (
    Array,
    GraspTarget,
    Match,
    Method,
    Rejected,
    TrackedPixel,
    View,
)
from crosspoint_ros.core.geometry import cross, ray_angle_deg, require_pose, triangulate
from crosspoint_ros.core.lift import sight
from crosspoint_ros.core.pipeline import LocateResult, ViewCorrespondence, lift_target
from crosspoint_ros.core.track.observation import observe, project
from crosspoint_ros.core.track.patches import GreyPyramid, invert_2x2
from crosspoint_ros.core.track.reference import (
    IDENTITY,
    MIN_CORNERS,
    OBJECT_RADIUS_M,
    ReferenceView,
    assemble,
    build_by_plane,
)
from crosspoint_ros.core.track.still import (
    MAX_FRAMES,
    MIN_CORRELATION,
    REST_PX,
    REST_STRETCH,
    find_rest,
)
from crosspoint_ros.core.verify import Limits

MIN_BASELINE_M = 0.005  # a camera that moved less did not move
TRACK_SIGMA_PX = 0.4  # of a patch, with what neighbouring images have in common
NEAREST_M, FARTHEST_M = 0.1, 5.0
REFINE_STEPS, MAX_SIGMAS = 6, 3.0
KNOWN_SHARE = 0.05  # of the depth: a corner less exact than that has no place
EDGE_PX, MAX_SLOPE = 14.0, 2.0  # a surface steeper than 63 deg counts as two
AGREE_PX = 3.0  # from where a corner should be in the clicked view
NEIGHBOUR_PX, SLOPE_SIGMA = 12.0, 1.0  # of the corners that say how a surface slants
REFINE_COUNTS = (2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Structure:
    """Corners of a view, placed by further images of its camera; the first one is the target.

    sigmas_m: (n,) of their depths. pixels: (k, n, 2) in each image, NaN where not found.
    covariances_px2: (k, n, 2, 2).
    """

    reference: ReferenceView
    frames: tuple[View, ...]
    sigmas_m: Array
    pixels: Array
    covariances_px2: Array

    @property
    def depths_m(self) -> Array:
        """Their depths (n,) in the view, m."""
        pose = require_pose(self.reference.view)
        return np.asarray(pose.inverse.transform_points(self.reference.points_m)[:, 2])

    @property
    def is_known(self) -> npt.NDArray[np.bool_]:
        """Which corners (n,) have a place."""
        return np.asarray(self.sigmas_m < KNOWN_SHARE * self.depths_m)

    def select_target_pixels(self) -> tuple[TrackedPixel, ...]:
        """Return where the images show the target."""
        return tuple(TrackedPixel(frame, pixels[0], covariances[0])
                     for frame, pixels, covariances in zip(
                         self.frames, self.pixels, self.covariances_px2, strict=True)
                     if np.isfinite(pixels[0]).all())

    def has_edge(self) -> bool:
        """Return whether another surface is so near to the target that its patch is of both."""
        depths_m, view = self.depths_m, self.reference.view
        away_px = np.linalg.norm(self.reference.pixels - self.reference.pixels[0], axis=1)
        aside_m = away_px * depths_m[0] / view.intrinsics.fx_px
        limit_m = MAX_SLOPE * aside_m + MAX_SIGMAS * np.hypot(self.sigmas_m, self.sigmas_m[0])
        near = self.is_known & (away_px < EDGE_PX)
        return bool((np.abs(depths_m - depths_m[0]) > limit_m)[near].any())


def build_structure(view: View, pixel: Array, frames: Sequence[View], target_m: Array
                    ) -> Structure:
    """Follow the corners around a pixel (2,) through images of its camera, and place them.

    frames: the nearest in time first. target_m: (3,) about where the pixel's point is, in the base.
    Raises `Rejected` (NO_DEPTH) with too few corners.
    """
    plane = build_by_plane(view, pixel, target_m)
    corners = np.concatenate([pixel[None], plane.pixels])
    rays = view.backproject(corners, np.ones(len(corners)))
    nearness = np.full(len(corners), 1 / require_pose(view).inverse.transform_points(target_m)[2])
    pixels = np.full((len(frames), len(corners), 2), np.nan)
    covariances_px2 = np.tile(np.eye(2), (len(frames), len(corners), 1, 1))
    reference, information = plane, np.zeros(len(corners))
    for index, frame in enumerate(frames):
        reference = _place(plane, corners, nearness, information)
        seen = observe(reference, frame, GreyPyramid(frame.image), IDENTITY, np.zeros((6, 6)),
                       (4, 2, 1))
        good = seen.correlation > MIN_CORRELATION
        pixels[index, good] = seen.points.pixels[good]
        covariances_px2[index] = invert_2x2(seen.points.information + 1e-9 * np.eye(2)) + (
            TRACK_SIGMA_PX ** 2 * np.eye(2))
        nearness, information = _refine(view, rays, nearness, frames[:index + 1], pixels,
                                        covariances_px2)
    reference = _place(plane, corners, nearness, information)
    return Structure(reference, tuple(frames), 1 / (nearness ** 2 * np.sqrt(information)), pixels,
                     covariances_px2)


def _place(plane: ReferenceView, corners: Array, nearness: Array, information: Array
           ) -> ReferenceView:
    """Return the reference with corners (n, 2) at inverse depths (n,), known by `information`."""
    view, pose = plane.view, require_pose(plane.view)
    slopes = _fit_slopes(corners, nearness, information, view.intrinsics.fx_px)
    at_m, right_m, down_m = (
        view.backproject(corners + step, 1 / (nearness + slopes @ step))
        for step in (np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    normals = cross(down_m - at_m, right_m - at_m)  # towards the camera
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return replace(plane, points_m=pose.transform_points(at_m), pixels=corners,
                   weights=np.ones(len(corners)), normals=pose.rotate(normals))


def _fit_slopes(corners: Array, nearness: Array, information: Array, focal_px: float) -> Array:
    """Return how the inverse depth (n, 2) changes per pixel around each corner.

    Of a plane, which is linear in the pixels, through the corners near it; with few of them, or
    little known, one that faces the camera.
    """
    offsets = corners[None] - corners[:, None]
    weights = information * np.exp(-(offsets ** 2).sum(axis=2) / (2 * NEIGHBOUR_PX ** 2))
    steps = nearness[None] - nearness[:, None]
    # A point of another surface takes no part.
    weights = weights / (1 + (steps * focal_px / nearness[:, None]
                              / np.maximum(np.linalg.norm(offsets, axis=2), 3.0)) ** 2) ** 2
    normal = np.einsum('nm,nmi,nmj->nij', weights, offsets, offsets)
    prior = (focal_px / (nearness * SLOPE_SIGMA)) ** 2
    normal += prior[:, None, None] * np.eye(2)
    return np.asarray(np.linalg.solve(
        normal, np.einsum('nm,nmi,nm->ni', weights, offsets, steps)[..., None])[..., 0])


def _refine(view: View, rays: Array, nearness: Array, frames: Sequence[View], pixels: Array,
            covariances_px2: Array) -> tuple[Array, Array]:
    """Return the inverse depths (n,), 1/m, by all images, and their information."""
    pose, step = require_pose(view), 1e-4
    for _ in range(REFINE_STEPS):
        information, gradient = np.full(len(rays), 1e-6), np.zeros(len(rays))
        for frame, measured, covariance_px2 in zip(frames, pixels, covariances_px2, strict=False):
            here, ahead = (project(frame, pose.transform_points(rays / at[:, None]))
                           for at in (nearness, nearness + step))
            slope, residual = (ahead - here) / step, here - measured
            found = np.isfinite(residual).all(axis=1)
            residual[~found], slope[~found] = 0.0, 0.0
            weight = invert_2x2(covariance_px2)
            squared = np.einsum('ni,nij,nj->n', residual, weight, residual)
            weight = weight / ((1 + squared / MAX_SIGMAS ** 2) ** 2)[:, None, None]
            information += np.einsum('ni,nij,nj->n', slope, weight, slope)
            gradient += np.einsum('ni,nij,nj->n', slope, weight, residual)
        nearness = np.clip(nearness - gradient / information, 1 / FARTHEST_M, 1 / NEAREST_M)
    return nearness, information


def lift_by_motion(result: LocateResult, frames: Sequence[View], limits: Limits,
                   pixel_confidence: float = 1.0) -> LocateResult:
    """Return the answer of a click without depth, lifted again with further images.

    frames: of the clicked camera, which must rest and show that the clicked point does, and of the
    cameras in which the point was found, with their poses: those are used between the oldest and
    the newest image of the clicked camera that show it at rest. An answer by depth, or whose
    cameras have not moved meanwhile, is returned as it is. Every pass begins with the matches as
    they were located.
    pixel_confidence: as for `locate`.
    """
    if result.target is not None and result.target.method is not Method.TRIANGULATED:
        return result
    begun_ns, ended_ns = find_rest(result, frames)
    within = [frame for frame in frames if begun_ns <= frame.stamp_ns <= ended_ns]
    known = {found.camera: found.match for found in result.correspondences
             if found.match is not None}
    tracked = [_track(result, found, known[found.camera], within, limits)
               if found.camera in known else found for found in result.matched]
    if not any(found.match is not None and found.match.tracked for found in tracked):
        return result
    correspondences, target, no_target = lift_target(
        result.clicked, result.pixel, tracked, limits, pixel_confidence=pixel_confidence,
        approach=result.approach)
    return replace(result, correspondences=correspondences, target=target, no_target=no_target)


def may_gain(result: LocateResult) -> bool:
    """Return whether a click waits for further images: until a path has placed it.

    A match alone may be a few pixels off. While the target rests, `PlaceRefiner` places it better.
    """
    if result.clicked.depth_m is not None or not list_bare_views(result):
        return False
    return result.target is None or (
        result.target.method is Method.TRIANGULATED and not list_frames(result))


def list_bare_views(result: LocateResult) -> list[View]:
    """Return the views without depth in which the click was found, and whose poses are known."""
    return [found.view for found in result.correspondences if found.pixel is not None
            and found.view is not None and found.view.depth_m is None
            and found.view.ray_pose is not None]


def select_frames(view: View, frames: Sequence[View]) -> list[View]:
    """Return images of a camera from other places than a view, the nearest in time first."""
    if view.ray_pose is None:
        return []
    chosen = [view]
    for frame in sorted(frames, key=lambda one: abs(one.stamp_ns - view.stamp_ns)):
        if frame.ray_pose is not None and frame.image.shape == view.image.shape and min(
                float(np.linalg.norm(require_pose(frame).t_m - require_pose(one).t_m))
                for one in chosen) > MIN_BASELINE_M:
            chosen.append(frame)
    spread = np.linspace(1, len(chosen) - 1, min(len(chosen) - 1, MAX_FRAMES))
    return [chosen[round(index)] for index in spread]


def _track(result: LocateResult, found: ViewCorrespondence, known: Match, frames: Sequence[View],
           limits: Limits) -> ViewCorrespondence:
    """Return a correspondence with what further images show of it, where they say more.

    known: the match with what earlier ones showed.
    """
    view, match = found.view, found.match
    if view is None or match is None or found.rejected is not None or view.depth_m is not None:
        return found
    before = replace(found, match=replace(match, tracked=known.tracked,
                                          unseen_m=known.unseen_m))
    frames = select_frames(view, [*(one.view for one in known.tracked), *(
        frame for frame in frames if frame.camera == found.camera)])
    try:
        click, (sighting,) = sight(result.clicked, result.pixel, [(view, match)], limits)
        met = triangulate([click.view, sighting.view], [click.pixel, sighting.pixel],
                          [click.covariance_px2, sighting.covariance_px2])
        at_m = sighting.given_from_base.transform_points(met.point_base_m)
        structure = build_structure(view, match.pixel, frames, at_m) if frames else None
    except (Rejected, ValueError):
        return before
    if structure is None or not structure.is_known[0] or structure.has_edge():
        return before
    unseen_m = _measure_unseen_m(result.clicked, structure)
    return before if unseen_m > limits.max_target_sigma_m else replace(found, match=replace(
        match, tracked=structure.select_target_pixels(), unseen_m=unseen_m))


def _measure_unseen_m(clicked: View, structure: Structure) -> float:
    """Return by how much a movement that the clicked camera does not see may misplace a target, m.

    Of `REST_PX` there along the path of the moving camera, or of `REST_STRETCH` along the ray.
    """
    view, target_m = structure.reference.view, structure.reference.points_m[0]
    path_m = max((float(np.linalg.norm(require_pose(one.view).t_m - require_pose(view).t_m))
                  for one in structure.select_target_pixels()), default=0.0)
    rays = [target_m - require_pose(one).t_m for one in (clicked, view)]
    depth_m = float(require_pose(clicked).inverse.transform_points(target_m)[2])
    along_m = REST_STRETCH * depth_m * np.sin(np.radians(ray_angle_deg(*rays)))
    aside_m = REST_PX * depth_m / clicked.intrinsics.fx_px
    return float(structure.depths_m[0] * np.hypot(along_m, aside_m) / max(path_m, 1e-6))


def build_by_motion(views: Sequence[View], pixels: Sequence[Array], target_m: Array,
                    frames: Sequence[View]) -> list[ReferenceView]:
    """Return the references of views without depth, the clicked one first, by further images.

    The corners of another view that its camera's images place within 8 cm of the target (3,); and
    those of them that the clicked view shows. None where no camera moved.
    """
    clicked, pyramid = views[0], GreyPyramid(views[0].image)
    references: list[ReferenceView] = []
    for view, pixel in zip(views[1:], pixels[1:], strict=True):
        own = select_frames(view, [frame for frame in frames if frame.camera == view.camera])
        if not own:
            continue
        try:
            structure = build_structure(view, pixel, own, target_m)
        except Rejected:
            continue
        away_m = np.linalg.norm(structure.reference.points_m - target_m, axis=1)
        kept = structure.is_known & (away_m < OBJECT_RADIUS_M)
        placed = structure.reference
        shown = observe(placed, clicked, pyramid, IDENTITY, np.zeros((6, 6)), (4, 2, 1))
        depths_m = require_pose(clicked).inverse.transform_points(placed.points_m)[:, 2]
        off_px = np.linalg.norm(shown.points.pixels - project(clicked, placed.points_m), axis=1)
        for other, at_px, found_px, is_kept in (
                (view, pixel, placed.pixels, kept),
                (clicked, pixels[0], shown.points.pixels, kept & (off_px < AGREE_PX))):
            if is_kept.sum() >= MIN_CORNERS:
                points_m = placed.points_m if other is view else require_pose(
                    clicked).transform_points(clicked.backproject(found_px, depths_m))
                references.append(assemble(other, points_m[is_kept], found_px[is_kept], at_px,
                                           target_m))
    return references


class PlaceRefiner:
    """Places a target without depth better while it rests and a camera moves on."""

    def __init__(self, located: LocateResult) -> None:
        self._located, self._frames = located, list[View]()
        self._clicked: View | None = None  # the newest image of the clicked camera
        self._taken = self._tried = 0

    def add(self, views: Sequence[View], limits: Limits) -> LocateResult | None:
        """Take views of the target at rest; return the answer if they place it better.

        It is placed again after 2, 4, 8 and 16 further images: each takes long.
        """
        if self._taken >= REFINE_COUNTS[-1]:
            return None
        cameras = {view.camera for view in list_bare_views(self._located)}
        new = [view for view in views if view.camera in cameras and all(
            np.linalg.norm(require_pose(view).t_m - require_pose(frame).t_m) > MIN_BASELINE_M
            for frame in self._frames if frame.camera == view.camera)]
        self._frames += new
        self._taken += len(new)
        self._clicked = next((view for view in views
                              if view.camera == self._located.clicked.camera), self._clicked)
        due = [count for count in REFINE_COUNTS if self._tried < count <= self._taken]
        if not due:
            return None
        self._tried = self._taken
        better = lift_by_motion(self._located, [
            *self._frames, *([self._clicked] if self._clicked else ())], limits)
        self._frames = []
        if better.target is None or self._located.target is None or (
                measure_sigma_m(better.target) >= measure_sigma_m(self._located.target)):
            return None
        self._located = better
        return better


def measure_sigma_m(target: GraspTarget) -> float:
    """Return the standard deviation of a target's place along its worst axis, m."""
    return float(np.sqrt(np.linalg.eigvalsh(target.covariance[:3, :3])[-1]))


def list_frames(located: LocateResult) -> list[View]:
    """Return the further images by which an answer was lifted."""
    return [one.view for found in located.correspondences if found.match is not None
            for one in found.match.tracked]
