"""Searches whole images for an object that is not where it was; its twin is refused."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    ImageMatcher,
    Matcher,
    Query,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.depth import predict_depth_sigma_m
from crosspoint_ros.core.geometry import ray_angle_deg, require_pose
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.observation import (
    Observation,
    Verification,
    is_shown,
    observe,
    project,
    sample_depth_m,
    verify,
)
from crosspoint_ros.core.track.patches import GreyPyramid
from crosspoint_ros.core.track.reference import (
    IDENTITY,
    ReferenceView,
    build_by_depth,
    build_by_plane,
    project_target,
)
from crosspoint_ros.core.verify import call_matcher, run_matcher

SEARCH_LEVEL = 1  # of the pyramid: half the size
TURNS_RAD = (0.0, -0.5, 0.5)  # about the base's z: what is pushed on a table turns about it
MIN_SCORE = 0.5
PEAKS = 2
MIN_TEMPLATE_PX, MAX_TEMPLATE_PX = 8, 60  # of the level that is searched
MATCHED_POINTS = 6  # by a matcher of single points
LEAST_MATCHES = 3  # that agree
MATCH_CONFIDENCE = 0.3
POSITION_SIGMA_M, ROTATION_SIGMA_RAD = 0.02, 0.4  # of a candidate
AGREE_M = 0.03
JUMP_SHARE, BLIND_JUMP_SHARE = 0.5, 0.7  # of the points that should be seen
BLIND_JUMP_POINTS = 12
SAME_SIDE_DEG = 23.0  # views further apart look different, whatever they show
CHANGE_SIGMAS = 3.0


def sweep(reference: ReferenceView, view: View, pyramid: GreyPyramid, motion: Motion
          ) -> list[Motion]:
    """Return the places where a view looks most like a reference, anywhere in the image.

    The object is rendered as it would be seen where it was last, turned by some angles, and
    correlated with the image at half its size.
    """
    found: list[tuple[float, Motion]] = []
    scale = 2.0 ** SEARCH_LEVEL
    image = pyramid.level(SEARCH_LEVEL)
    for turn_rad in TURNS_RAD:
        turned = turn_about(motion, turn_rad)
        pixels = project(view, turned.base_from_clicked.transform_points(reference.points_m))
        shown = np.isfinite(pixels).all(axis=1)
        if shown.sum() < 4:
            continue
        affine, _ = cv2.estimateAffine2D(reference.pixels[shown], pixels[shown] / scale,
                                         ransacReprojThreshold=3.0)
        if affine is None:
            continue
        low = np.floor((pixels[shown] / scale).min(axis=0)) - 2
        size = np.ceil((pixels[shown] / scale).max(axis=0)).astype(int) + 3 - low.astype(int)
        if size.min() < MIN_TEMPLATE_PX or size.max() > MAX_TEMPLATE_PX or (
                size[0] >= image.shape[1] or size[1] >= image.shape[0]):
            continue
        affine[:, 2] -= low
        template = cv2.warpAffine(reference.pyramid.level(0), affine, tuple(size.tolist()),
                                  flags=cv2.INTER_AREA)
        scores = cv2.matchTemplate(image, template.astype(np.float32), cv2.TM_CCOEFF_NORMED)
        centre_px = project(view, turned.centre_m[None])[0]
        for _ in range(PEAKS):
            _, score, _, (x, y) = cv2.minMaxLoc(scores)
            if not score > MIN_SCORE:
                break
            moved_px = (np.array([x, y]) - low) * scale
            found.append((score, place_at(view, turned, centre_px + moved_px)))
            cv2.circle(scores, (x, y), int(size.min() // 2), -1.0, -1)
    found.sort(key=lambda one: -one[0])
    return [candidate for _, candidate in found[:PEAKS + 1]]


def turn_about(motion: Motion, turn_rad: float) -> Motion:
    """Return the motion, turned about its centre and the base's z."""
    R = np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, turn_rad]))[0], dtype=np.float64)
    about = Transform(R, motion.centre_m - R @ motion.centre_m)
    return replace(motion, base_from_clicked=about @ motion.base_from_clicked)


def place_at(view: View, motion: Motion, pixel: Array) -> Motion:
    """Return the motion, shifted so that a view shows its centre at a pixel.

    At the depth that the view measures there; without any, as far away as before.
    """
    pose = require_pose(view)
    depth_m = float(pose.inverse.transform_points(motion.centre_m)[2])
    measured_m = sample_depth_m(view, pixel[None])[0]
    at_m = pose.transform_points(view.backproject(
        pixel, measured_m if np.isfinite(measured_m) else depth_m))
    return shift_to(motion, at_m)


def shift_to(motion: Motion, at_m: Array) -> Motion:
    """Return the motion, shifted so that its centre is at a point (3,)."""
    shifted = Transform(np.eye(3), at_m - motion.centre_m) @ motion.base_from_clicked
    covariance = np.diag(np.repeat([ROTATION_SIGMA_RAD, POSITION_SIGMA_M], 3) ** 2)
    return Motion(shifted, covariance, at_m)


def search_by_matches(references: Sequence[ReferenceView], views: Sequence[View],
                      motion: Motion, matcher: Matcher, near: bool = False) -> list[Motion]:
    """Return the places that the matcher gives for the object in each view.

    The object alone is matched: around it the reference is masked. near: it should be where the
    motion puts it; then one point is matched, with poses and depth, which is far cheaper. Else the
    images alone are matched: poses and depth would put the object where it was. Matches that agree
    on a place, within 3 cm, are one candidate. Raises `Rejected` (MATCHER_FAILED) if the matcher
    fails on bare images.
    """
    candidates = []
    for view in views:
        reference = next((each for each in references if each.view.camera == view.camera),
                         references[0])
        try:
            places = _match_near(reference, view, motion, matcher) if near else \
                _match_anywhere(reference, view, matcher)
        except Rejected as why:
            if why.code == Code.MATCHER_FAILED:
                raise
            continue
        candidates += _place_by_matches(reference, view, motion, *places,
                                        1 if near else LEAST_MATCHES)
    return candidates


def _match_near(reference: ReferenceView, view: View, motion: Motion, matcher: Matcher
                ) -> tuple[Array, Array]:
    """Match the most telling point: pixels (n, 2) in the reference and in the view, n at most 1.

    A camera that moved with the object sees it as before.
    """
    moved = motion.base_from_clicked @ reference.base_from_clicked.inverse
    clicked = replace(reference.posed_object_view,
                      base_from_cam=moved @ require_pose(reference.view))
    return _match_points(clicked, view, reference.pixels[[reference.weights.argmax()]], matcher)


def _match_anywhere(reference: ReferenceView, view: View, matcher: Matcher
                    ) -> tuple[Array, Array]:
    bare = View(view.camera, view.image, view.intrinsics, view.stamp_ns, mask=view.mask)
    if isinstance(matcher, ImageMatcher):
        return call_matcher(matcher, partial(matcher.match_images, reference.object_view, bare))
    chosen = np.argsort(-reference.weights)[:MATCHED_POINTS]
    return _match_points(reference.object_view, bare, reference.pixels[chosen], matcher)


def _match_points(clicked: View, other: View, pixels: Array, matcher: Matcher
                  ) -> tuple[Array, Array]:
    kept: list[tuple[Array, Array]] = []
    for pixel in pixels:
        query = Query(clicked, other, pixel)
        try:
            match = run_matcher(matcher, partial(matcher.match, query))
        except Rejected as why:
            if why.code == Code.MATCHER_FAILED:
                raise
            continue
        if match.confidence >= MATCH_CONFIDENCE:
            kept.append((pixel, match.pixel))
    return (np.array([a for a, _ in kept]).reshape(-1, 2),
            np.array([b for _, b in kept]).reshape(-1, 2))


def _place_by_matches(reference: ReferenceView, view: View, motion: Motion, before_px: Array,
                      now_px: Array, at_least: int) -> list[Motion]:
    """Return the motion, shifted as most matches agree, and as most others do, each at the depth
    that the view measures.

    Without depth there, as far away as before.
    """
    shown = is_shown(view, now_px)
    before_px, now_px = before_px[shown], now_px[shown]
    if not len(now_px):
        return []
    away_px = np.linalg.norm(before_px[:, None] - reference.pixels, axis=2)
    near_m = require_pose(reference.view).inverse.transform_points(
        reference.base_from_clicked.transform_points(reference.points_m[away_px.argmin(axis=1)]))
    clicked_m = reference.base_from_clicked.inverse.transform_points(
        require_pose(reference.view).transform_points(
            reference.view.backproject(before_px, near_m[:, 2])))
    before_m = motion.base_from_clicked.transform_points(clicked_m)
    pose, measured_m = require_pose(view), sample_depth_m(view, now_px)
    depths_m = np.where(np.isfinite(measured_m), measured_m,
                        pose.inverse.transform_points(before_m)[:, 2])
    shifts_m = pose.transform_points(view.backproject(now_px, depths_m)) - before_m
    candidates, agreeing = [], np.linalg.norm(shifts_m[:, None] - shifts_m, axis=2) < AGREE_M
    for _ in range(PEAKS):  # a neighbour in its picture has stayed
        best = agreeing[agreeing.sum(axis=1).argmax()].copy()
        if best.sum() < at_least:
            break
        candidates.append(shift_to(motion, motion.centre_m + np.median(shifts_m[best], axis=0)))
        agreeing[best], agreeing[:, best] = False, False
    return candidates


def explain_jump(clicked: Sequence[ReferenceView], motion: Motion,
                 found: Sequence[tuple[Observation, Verification]], jumped_m: float
                 ) -> tuple[str, bool]:
    """Return why the object is not taken to be at a new place, '' if it is, and whether it is a
    look-alike.

    What was there when it was clicked has not come there since. Where no view of the click can
    say that, more points must agree.
    """
    verified = [(seen, verdict) for seen, verdict in found if verdict.is_verified]
    changed = False
    for seen, _ in verified:
        for reference in clicked:
            answer = compare_with_click(reference, seen, motion)
            if answer is False:
                return (f'{jumped_m:.2f} m away {reference.view.camera} saw the same when it was '
                        'clicked: a look-alike; click on it again if it is the same'), True
            changed |= answer is True
    least, points = (JUMP_SHARE, 0) if changed else (BLIND_JUMP_SHARE, BLIND_JUMP_POINTS)
    best = max((verdict for _, verdict in verified), key=lambda verdict: verdict.agreeing)
    share = best.agreeing / max(best.expected - best.hidden, 1)
    return '' if share >= least and best.agreeing >= points else (
        f'{best.agreeing} of its points, {share:.0%}, agree at a new place (at least {points}, '
        f'{least:.0%}): click on it again if it is the same'), False


def compare_with_click(reference: ReferenceView, seen: Observation, motion: Motion
                       ) -> bool | None:
    """Return whether a place has changed since the click; None if this view cannot say.

    It has not where the old view shows there what the new one does, if they are from the same side,
    or what the target looks like. That it does not proves nothing: the depth then says whether
    there was nothing at its place.
    """
    view, old, moved = seen.points.view, reference.view, motion.base_from_clicked
    rays = [motion.centre_m - require_pose(each).t_m for each in (view, old)]

    def was_there(look: ReferenceView, base_from_look: Transform) -> bool:
        then = observe(look, old, reference.pyramid, base_from_look, np.zeros((6, 6)))
        return verify(then, base_from_look, base_from_look.inverse.transform_points(
            motion.centre_m)).shows_object

    if any(was_there(look, moved) for look in (reference, seen.reference)):
        return False
    if ray_angle_deg(*rays) < SAME_SIDE_DEG:
        try:
            here = build_place(view, motion.centre_m)
        except Rejected:
            return None
        if was_there(here, IDENTITY):
            return False
    now_m = moved.transform_points(seen.points.found.points_m)
    off_m = sample_depth_m(old, project(old, now_m)) - require_pose(
        old).inverse.transform_points(now_m)[:, 2]
    limit_m = CHANGE_SIGMAS * predict_depth_sigma_m(float(np.linalg.norm(rays[1])))
    behind = off_m > limit_m  # then one could see through where it is now
    return True if len(off_m) and behind.mean() > 0.5 else None


def build_place(view: View, place_m: Array) -> ReferenceView:
    """Return a reference of what a view shows at a place (3,); raise `Rejected` without texture."""
    if view.depth_m is not None:
        return build_by_depth(view, place_m)
    return build_by_plane(view, project_target(view, place_m)[0], place_m)
