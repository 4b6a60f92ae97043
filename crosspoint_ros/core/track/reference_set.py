"""Keeps the references of a target: those of the click, and of sides that were seen since."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Matcher, Rejected, Transform, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.observation import Observation, Verification, find_agreeing, project
from crosspoint_ros.core.track.parallax import build_by_motion
from crosspoint_ros.core.track.reference import (
    MIN_CORNERS,
    ReferenceView,
    assemble,
    build_by_depth,
    build_by_matches,
)

NEW_SIDE_RAD = 0.2
NEW_BARE_SIDE_RAD = 0.1  # without depth no slant is known: patches look different sooner
SURE_SHARE = 0.7  # of the points that should be seen
MAX_REFERENCES = 12
APART_M = 0.01  # a movement that leaves what does not belong to the object behind
NEVER = -2 ** 40  # misses of a point that has moved with the object: none add up to that
MAX_MISSES = 3  # of a point that never moved with the object


class ReferenceSet:
    """The references of one target. `references` may be read by another thread.

    clicked: those of the click.
    """

    def __init__(self, clicked: Sequence[ReferenceView], target_m: Array) -> None:
        """target_m: (3,) where it was clicked."""
        self.clicked = self.references = tuple(clicked)
        self._target_m = target_m
        self._misses: dict[ReferenceView, npt.NDArray[np.int64]] = {}  # of each point

    def select(self, view: View, motion: Motion) -> ReferenceView:
        """Return the reference that saw the object from the most similar side."""
        ray = self._direct(view, motion.base_from_clicked)
        return max(self.references, key=lambda each: float(ray @ self._direct(
            each.view, each.base_from_clicked)) + 0.1 * (each.view.camera == view.camera))

    def update(self, found: Iterable[tuple[Observation, Verification]], measured: Motion,
               at_rest: Motion) -> None:
        """Take a verified look: keep views from other sides, while most of the object is verified.

        measured, at_rest: as it was measured, and where it is; an object at rest is seen in its
        place of rest: what was measured would add up over the views.
        """
        for seen, verdict in found:
            self._drop_background(seen, verdict, measured)
            view = seen.points.view
            new_rad = NEW_BARE_SIDE_RAD if view.depth_m is None else NEW_SIDE_RAD
            if not is_sure(verdict) or len(self.references) >= MAX_REFERENCES or (
                    self._measure_angle_rad(view, at_rest) < new_rad):
                continue
            try:
                self.references = (*self.references, self._build(seen, measured, at_rest))
            except Rejected:
                continue

    def _measure_angle_rad(self, view: View, motion: Motion) -> float:
        """Return how far a view is from the sides from which its camera saw the object."""
        ray = self._direct(view, motion.base_from_clicked)
        nearest = max((float(ray @ self._direct(each.view, each.base_from_clicked))
                       for each in self.references if each.view.camera == view.camera),
                      default=-1.0)
        return float(np.arccos(np.clip(nearest, -1.0, 1.0)))

    def _build(self, seen: Observation, measured: Motion, at_rest: Motion) -> ReferenceView:
        """Return the reference of a view: by its depth, else with the points that it shows."""
        view, before = seen.points.view, seen.reference
        if view.depth_m is not None:
            return build_by_depth(view, at_rest.centre_m, at_rest.base_from_clicked)
        agrees = find_agreeing(seen, measured.base_from_clicked)
        if agrees.sum() < 2 * MIN_CORNERS:
            raise Rejected(Code.NO_DEPTH, f'{view.camera}: {agrees.sum()} points (at least '
                           f'{2 * MIN_CORNERS})')
        new = assemble(view, before.points_m[agrees], seen.points.pixels[agrees],
                       project(view, at_rest.centre_m[None])[0], at_rest.centre_m)
        new = replace(new, pyramid=seen.pyramid, normals=before.normals[agrees],
                      weights=before.weights[agrees], base_from_clicked=at_rest.base_from_clicked)
        if before in self._misses:
            self._misses[new] = self._misses[before][agrees]
        return new

    def _drop_background(self, seen: Observation, verdict: Verification, measured: Motion) -> None:
        """Drop points that stayed behind when the object moved: depth did not part them from it."""
        reference, moved_m = seen.reference, np.linalg.norm(measured.centre_m - self._target_m)
        if reference.view.depth_m is not None or moved_m < APART_M or not verdict.shows_object or (
                reference not in self.references):  # replaced by what another view showed
            return
        misses = self._find_misses(reference)
        agrees = find_agreeing(seen, measured.base_from_clicked)
        self._keep(reference.points_m[agrees])  # of the object; they may turn out of sight
        misses[seen.expected & ~agrees] += 1
        behind_m = reference.points_m[misses >= MAX_MISSES]
        if len(behind_m):
            left = {each: self._leave(each, behind_m) for each in (*self.clicked, *self.references)}
            self.clicked = tuple(left[each] for each in self.clicked)
            self.references = tuple(left[each] for each in self.references)

    def _find_misses(self, reference: ReferenceView) -> npt.NDArray[np.int64]:
        return self._misses.setdefault(reference, np.zeros(len(reference.pixels), np.int64))

    def _keep(self, points_m: Array) -> None:
        """Never drop points (m, 3), whichever reference they are in."""
        for reference in self.references:
            kept = (reference.points_m[:, None] == points_m).all(axis=2).any(axis=1)
            self._find_misses(reference)[kept] = NEVER

    def _leave(self, reference: ReferenceView, behind_m: Array) -> ReferenceView:
        """Return a reference without points (m, 3) of those that it shares with others, if enough
        are left."""
        kept = ~(reference.points_m[:, None] == behind_m).all(axis=2).any(axis=1)
        if kept.all() or kept.sum() < 2 * MIN_CORNERS:
            return reference
        left = replace(reference, points_m=reference.points_m[kept],
                       normals=reference.normals[kept], pixels=reference.pixels[kept],
                       weights=reference.weights[kept])
        if reference in self._misses:
            self._misses[left] = self._misses.pop(reference)[kept]
        return left

    def _direct(self, view: View, moved: Transform) -> Array:
        """The direction (3,) from the target to a camera, in the object as it was when clicked."""
        ray = require_pose(view).t_m - moved.transform_points(self._target_m)
        return np.asarray(moved.inverse.rotate(ray / np.linalg.norm(ray)))


def is_sure(verdict: Verification) -> bool:
    """Return whether a view shows most of the object."""
    return verdict.is_verified and verdict.agreeing >= SURE_SHARE * verdict.expected


def build_references(views: Sequence[View], pixels: Sequence[Array], target_m: Array,
                     matcher: Matcher | None, frames: Sequence[View] = ()) -> list[ReferenceView]:
    """Return the references of the views that show a target; raise `Rejected` without any."""
    references, refused = [], []
    for view in views:
        if view.depth_m is not None and view.ray_pose is not None:
            try:
                references.append(build_by_depth(view, target_m))
            except Rejected as why:
                refused.append(why)
    bare = [(view, pixel) for view, pixel in zip(views, pixels, strict=True)
            if view.depth_m is None and view.ray_pose is not None]
    if bare and not references and (placed := build_by_motion(
            [view for view, _ in bare], [pixel for _, pixel in bare], target_m, frames)):
        return placed
    if bare and not references and matcher is not None:
        return build_by_matches([view for view, _ in bare], [pixel for _, pixel in bare], target_m,
                                matcher)
    if not references:
        raise Rejected(refused[0].code if refused else Code.NO_TF, '; '.join(
            why.message for why in refused) or 'no view has a pose')
    return references
