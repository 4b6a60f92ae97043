"""Lifts matched pixels to one 3D target, or refuses when depths and rays contradict each other.

The click leads: every estimate is of the point relative to the clicked camera, placed in the base
by that camera's pose, and so is its covariance. What the clicked camera's own pose is off moves
all targets of that camera alike. The error of another camera's pose relative to it is the match's
own (`CorrectedPose`), else `limits.pose_sigma_m` and `limits.pose_sigma_rad`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    GraspTarget,
    Match,
    Method,
    Query,
    Rejected,
    TrackedPixel,
    Transform,
    View,
)
from crosspoint_ros.core.depth import explain_missing_depth, predict_depth_sigma_m, surface_points_m
from crosspoint_ros.core.geometry import RayBundle, require_baselines, require_pose
from crosspoint_ros.core.grasp.approach import STANDOFF_M, Approach, choose_frame
from crosspoint_ros.core.track.bundle import CameraPixels, triangulate_bundle
from crosspoint_ros.core.verify import (
    DOUBTED_SHARE,
    Limits,
    find_click_doubt,
    find_doubt,
    gap_limit_m,
    lower_confidence,
    sigmas_along_m,
)

CLICK_SIGMA_PX = 1.0
MATCH_SIGMA_PX = 3.0  # where a matcher gives no covariance
MAX_FUSED_GAP_M = 0.02  # half of it is the error of a mean, if they are of two surfaces
MAX_AGREED_CONFIDENCE = 0.98  # however many views agree: they may share a mistake

IDENTITY = Transform(np.eye(3), np.zeros(3))
ANY_APPROACH = Approach(standoff_m=STANDOFF_M)

MatchedViews = Sequence[tuple[View, Match]]
# By match: of which click, view and limits, and the estimate.
ESTIMATES: WeakKeyDictionary[Match, tuple[Any, Estimate3D | None]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Sighting:
    """A view, placed relative to the clicked one, and the pixel (2,) where it shows the point.

    covariance_px2: (2, 2) of the pixel. pose_covariance: (6, 6) as in `CorrectedPose`.
    given_from_base: from where the view is placed to where its given pose places it. tracked,
    unseen_m: as in `Match`, with the images placed relative to the view.
    """

    view: View
    pixel: Array
    covariance_px2: Array
    pose_covariance: Array
    given_from_base: Transform = IDENTITY
    tracked: tuple[TrackedPixel, ...] = ()
    unseen_m: float = 0.0

    @classmethod
    def from_click(cls, clicked: View, pixel: Array) -> Sighting:
        return cls(clicked, pixel, np.eye(2) * CLICK_SIGMA_PX ** 2, np.zeros((6, 6)))

    @classmethod
    def from_match(cls, clicked: View, view: View, match: Match, limits: Limits) -> Sighting:
        """Place the view by the match's corrected pose, if better known than TF's at a metre."""
        pixel_px2 = match.covariance_px2
        if not np.isfinite(pixel_px2).all():
            pixel_px2 = np.eye(2) * MATCH_SIGMA_PX ** 2
        given = cls(view, match.pixel, pixel_px2, np.diag(
            np.repeat([limits.pose_sigma_rad, limits.pose_sigma_m], 3) ** 2), tracked=match.tracked,
            unseen_m=match.unseen_m)
        if match.corrected_pose is None:
            return given
        placed = require_pose(clicked) @ match.corrected_pose.other_from_clicked.inverse
        given_from_base = require_pose(view) @ placed.inverse
        corrected = replace(given, view=replace(view, base_from_cam=placed),
                            pose_covariance=match.corrected_pose.covariance,
                            given_from_base=given_from_base,
                            tracked=tuple(replace(one, view=replace(
                                one.view, base_from_cam=given_from_base.inverse
                                @ require_pose(one.view))) for one in match.tracked))
        return min(given, corrected, key=lambda one: float(np.trace(one._pose_noise_cam_m2(
            one.view.intrinsics.unproject(one.pixel)))))

    def _pose_noise_cam_m2(self, point_cam_m: Array) -> Array:
        x, y, z = point_cam_m.tolist()
        slope = np.array([(0, z, -y, 1, 0, 0), (-z, 0, x, 0, 1, 0), (y, -x, 0, 0, 0, 1)], float)
        return np.asarray(slope @ self.pose_covariance @ slope.T)

    def pose_noise_m2(self, point_base_m: Array) -> Array:
        """Propagate the error of the pose to a point (3,): (3, 3) m^2, base."""
        pose = require_pose(self.view)
        in_cam_m2 = self._pose_noise_cam_m2(pose.inverse.transform_points(point_base_m))
        return np.asarray(pose.R @ in_cam_m2 @ pose.R.T)

    def depth_noise_m2(self, point_base_m: Array) -> Array:
        """Propagate the errors of pixel and depth to a point (3,): (3, 3) m^2, base."""
        pose, lens = require_pose(self.view), self.view.intrinsics
        point_cam_m = pose.inverse.transform_points(point_base_m)
        depth_m = point_cam_m[2]
        px = np.array([[depth_m / lens.fx_px, 0], [0, depth_m / lens.fy_px], [0, 0]])
        along = (point_cam_m / depth_m)[:, None] * predict_depth_sigma_m(depth_m)
        return np.asarray(pose.R @ (px @ self.covariance_px2 @ px.T + along @ along.T) @ pose.R.T)

    def pixel_noise_px2(self, point_base_m: Array) -> Array:
        """Return the covariance (2, 2) of the pixel, the error of the pose included."""
        point_cam_m = require_pose(self.view).inverse.transform_points(point_base_m)
        (slope,) = self.view.intrinsics.project_with_jacobian(point_cam_m[None])[1]
        return np.asarray(
            self.covariance_px2 + slope @ self._pose_noise_cam_m2(point_cam_m) @ slope.T)


@dataclass(frozen=True, eq=False)
class Estimate3D:
    """An estimate of the point (3,), m in the base, and its covariance (3, 3) m^2.

    noise_m2: the part of the covariance (3, 3) that is of pixels and depth, not of poses.
    moved_m: (3,) by how much a corrected pose moved it. doubt: why it may be of another surface;
    '': nothing found.
    """

    method: Method
    point_base_m: Array
    covariance_m2: Array
    noise_m2: Array
    source: str
    moved_m: Array
    doubt: str = ''

    @property
    def sigma_m(self) -> float:
        """The standard deviation along the worst axis, m."""
        return float(np.sqrt(np.linalg.eigvalsh(self.covariance_m2)[-1]))


def lift(clicked: View, pixel: Array, found: MatchedViews, limits: Limits,
         approach: Approach = ANY_APPROACH) -> GraspTarget:
    """Lift a click and its matches to a target in the base frame.

    Depth at the click, depth at each match and the triangulation of all rays are estimates of the
    same point. The depth at the click leads, else the most exact. Those that agree with it within
    three sigmas of pixels and depth, and 2 cm, are fused by their covariances; the others are
    checks: wrong poses may explain more, and so may another surface, which a mean would be between.
    One that the poses' error does not explain either, or that contradicts a target without depth at
    the click, makes it one to be checked.

    The confidence is that of the matches together (`combine_confidences`), below
    `limits.sure_confidence` with a doubt; without any match (a target that no view confirms) too.
    Raises `Rejected`: NO_DEPTH when there is no estimate, two cameras are at the same place, the
    point is less exact than `limits.max_target_sigma_m`, nothing but matches that are not sure says
    where it is, or the approach needs a normal that was not measured; BAD_REQUEST when it comes out
    of the measured surface; INCONSISTENT when the estimates disagree.
    """
    click, sightings = sight(clicked, pixel, found, limits)
    measured = collect_estimates(click, sightings, limits)
    gap_m = max_gap_m(measured, limits)
    agreeing, doubt = select_agreeing(measured)
    if not found:
        doubt = find_click_doubt(clicked, pixel)
    fused = _mean_estimate(agreeing)
    if fused.sigma_m > limits.max_target_sigma_m:
        raise Rejected(Code.NO_DEPTH, f'no 3D: by {fused.source} the point is known to '
                       f'±{1000 * fused.sigma_m:.0f} mm only (limit '
                       f'{1000 * limits.max_target_sigma_m:.0f} mm, limits.max_target_sigma_m): a '
                       'wider baseline or depth, or better extrinsics (limits.pose_sigma_m, '
                       'limits.pose_sigma_rad)')
    confidence, _ = combine_confidences(clicked, pixel, found, limits)
    is_unsure = confidence < DOUBTED_SHARE * limits.sure_confidence or (
        found and all(match.doubt for _, match in found))
    if is_unsure and agreeing[0].method != Method.DEPTH_CLICKED:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {fused.source} says where the point is only if the '
                       f'match is right, and its confidence is {confidence:.2f}'
                       f'{"".join(f", {match.doubt}" for _, match in found if match.doubt)} '
                       f'(limits.sure_confidence {limits.sure_confidence:g}): use depth at the '
                       'click or another view')
    frame = choose_frame(approach, clicked, pixel, [(one.view, one.pixel) for one in sightings])
    covariance = np.zeros((6, 6))
    covariance[:3, :3], covariance[3:, 3:] = fused.covariance_m2, frame.covariance_rad2
    method = agreeing[0].method if len(agreeing) == 1 else Method.FUSED
    if doubt or not found:
        confidence = min(confidence, DOUBTED_SHARE * limits.sure_confidence)
    return GraspTarget(Transform(frame.rotation, fused.point_base_m), covariance, method, gap_m,
                       confidence, doubt, frame.normal_measured, frame.sigma_normal_rad,
                       frame.sigma_yaw_rad, approach.standoff_m)


def sight(clicked: View, pixel: Array, found: MatchedViews, limits: Limits
          ) -> tuple[Sighting, list[Sighting]]:
    """Return the click and the matches whose rays are known; raise `Rejected` (NO_DEPTH)."""
    located = [(view, match) for view, match in found if view.ray_pose is not None]
    try:
        require_pose(clicked)
        require_baselines([clicked, *(view for view, _ in located)])
    except Rejected as why:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {why.message}') from None
    return Sighting.from_click(clicked, pixel), [
        Sighting.from_match(clicked, view, match, limits) for view, match in located]


def collect_estimates(click: Sighting, sightings: Sequence[Sighting], limits: Limits
                      ) -> list[Estimate3D]:
    """Return all estimates of the point; raise `Rejected` (NO_DEPTH), with reasons, if none."""
    measured, why_not = [], []
    for sighting in (click, *sightings):
        estimate = estimate_by_depth(click, sighting)
        if estimate is not None:
            measured.append(estimate)
        else:
            why_not.append(explain_missing_depth(sighting.view, sighting.pixel))
    try:
        measured.append(triangulate_sightings(click, sightings, limits))
    except Rejected as rejected:
        if rejected.code != Code.NO_DEPTH:
            raise
        why_not.append(rejected.message)
    if not measured:
        raise Rejected(Code.NO_DEPTH, f'no 3D: {"; ".join(why_not)}')
    return measured


def estimate_by_depth(click: Sighting, sighting: Sighting) -> Estimate3D | None:
    """Estimate the point by the depth of a view: of several surfaces the nearest to the click's."""
    view, pixel = sighting.view, sighting.pixel
    points_m, clicked_m = surface_points_m(view, pixel), surface_points_m(click.view, click.pixel)
    if not len(points_m):
        return None
    away_m = np.linalg.norm(points_m - (clicked_m if len(clicked_m) else points_m)[0], axis=1)
    point_base_m = points_m[away_m.argmin()]
    noise_m2, is_click = sighting.depth_noise_m2(point_base_m), sighting is click
    return Estimate3D(
        Method.DEPTH_CLICKED if is_click else Method.DEPTH_FOUND, point_base_m,
        noise_m2 + sighting.pose_noise_m2(point_base_m), noise_m2, f'the depth of {view.camera}',
        point_base_m - sighting.given_from_base.transform_points(point_base_m),
        '' if is_click else find_doubt(Query(click.view, view, click.pixel), Match(pixel)))


def triangulate_sightings(click: Sighting, sightings: Sequence[Sighting], limits: Limits
                          ) -> Estimate3D:
    """Triangulate, the covariance widened by the error of the poses relative to the click's.

    Raises `Rejected`: NO_DEPTH when the rays are too parallel (below 20 deg depth is some 5 % of
    the range off: the covariance says so), INCONSISTENT when they miss each other, or further
    images of a moving camera show that the point does not rest.
    """
    if not sightings:
        raise Rejected(Code.NO_DEPTH, 'no other view has a known pose and intrinsics')
    several = [click, *sightings]
    views = [one.view for one in several]
    rays = RayBundle(views, [one.pixel for one in several])
    about = rays.triangulate([one.covariance_px2 for one in several])
    noise_m2 = about.covariance_m2
    if any(one.tracked for one in several):
        mount = np.diag(np.repeat([limits.pose_sigma_rad, limits.pose_sigma_m], 3) ** 2)
        met = triangulate_bundle([CameraPixels(
            one.view, one.pixel, one.covariance_px2, one.pose_covariance, one.tracked, mount)
            for one in several], about.point_base_m)
        met = replace(met, covariance_m2=met.covariance_m2 + _unseen_noise_m2(
            sightings, met.point_base_m))
        noise_m2 = met.covariance_m2
    else:
        met = rays.triangulate([one.pixel_noise_px2(about.point_base_m) for one in several])
    if met.angle_deg < limits.min_ray_angle_deg:
        raise Rejected(Code.NO_DEPTH, f'the rays meet at {met.angle_deg:.1f} deg, too parallel to '
                       f'triangulate (limits.min_ray_angle_deg {limits.min_ray_angle_deg:g})')
    worst = int(met.errors_px.argmax())
    if met.errors_px[worst] > limits.max_epipolar_px:
        raise Rejected(Code.INCONSISTENT, f'the ray of {views[worst].camera} misses the others by '
                       f'{met.errors_px[worst]:.1f} px (limits.max_epipolar_px '
                       f'{limits.max_epipolar_px:g})')
    return Estimate3D(Method.TRIANGULATED, met.point_base_m, met.covariance_m2, noise_m2,
                      'the triangulation', np.zeros(3))


def _unseen_noise_m2(sightings: Sequence[Sighting], point_base_m: Array) -> Array:
    """Return the covariance (3, 3) by movements that the clicked camera cannot see: along rays."""
    rays = np.array([point_base_m - require_pose(one.view).t_m for one in sightings])
    along = rays / np.linalg.norm(rays, axis=1, keepdims=True) * np.array(
        [[one.unseen_m] for one in sightings])
    return np.asarray(along.T @ along)


def find_outliers(clicked: View, pixel: Array, found: MatchedViews, limits: Limits
                  ) -> dict[str, Rejected]:
    """Return the cameras whose matches the others outvote, and why.

    The depth at the click, and of each match the more exact of its depth and its ray's meeting with
    the clicked one, are independent estimates of the point. Those of the largest set that agree
    with each other (`gap_limit_m`) decide, if they are more, and of more confidence (the click's
    depth counts 1), than any set that a contradicting estimate belongs to. Raises `Rejected`
    (INCONSISTENT) if two matches contradict each other and neither that nor the click's depth
    decides, or if the matches outvote the click's depth.
    """
    if len(found) < 2:
        return {}  # no one to outvote it: `lift` refuses a single match that is wrong
    try:
        click, _ = sight(clicked, pixel, found, limits)
    except Rejected:
        return {}  # no 3D
    weights = {view.camera: match.confidence for view, match in found}
    votes = [(one, weights.get(camera, 1.0), camera) for camera, one in [
        ('', estimate_by_depth(click, click)),
        *((view.camera, _estimate_alone(clicked, pixel, view, match, limits))
          for view, match in found if view.ray_pose is not None)] if one is not None]
    agree = np.ones((len(votes), len(votes)), dtype=bool)
    for i, j in combinations(range(len(votes)), 2):
        gap_m, limit_m = measure_gap_m(votes[i][0], votes[j][0], limits)
        agree[i, j] = agree[j, i] = gap_m <= limit_m
    if agree.all() or (len(votes) == 2 and not votes[0][2]):
        return {}  # with one other view alone `lift` refuses
    sets = [(size, sum(votes[i][1] for i in members), members) for size in range(1, len(votes))
            for members in combinations(range(len(votes)), size)
            if agree[np.ix_(members, members)].all()]
    count, weight, chosen = max(sets)
    rivals = [one for one in sets if not set(one[2]) <= set(chosen)]
    is_decided = all(count > size and weight > other for size, other, _ in rivals)
    inside = _mean_estimate([votes[i][0] for i in chosen])
    outside = [votes[i] for i in range(len(votes)) if i not in chosen]
    refused = {}
    for one, _, camera in outside:
        gap_m, limit_m = measure_gap_m(one, inside, limits)
        refused[camera] = Rejected(Code.INCONSISTENT, f'{one.source} puts the point {gap_m:.3f} m '
                                   f'from where {inside.source} put it (limit {limit_m:.3f} m): a '
                                   'look-alike, or wrong poses')
    if not is_decided or '' in refused:
        raise Rejected(Code.INCONSISTENT, f'no 3D: {next(iter(refused.values())).message}'
                       f'{"" if is_decided else "; no further view decides which is right"}')
    return refused


def _estimate_alone(clicked: View, pixel: Array, view: View, match: Match, limits: Limits
                    ) -> Estimate3D | None:
    """The more exact estimate of one match, by its depth unless in doubt or by its ray.

    Computed once for each match, which never changes: a click asks three times.
    """
    asked = clicked, tuple(pixel.tolist()), view, limits
    known = ESTIMATES.get(match)
    if known is not None and known[0] == asked:
        return known[1]
    click = Sighting.from_click(clicked, pixel)
    sighting = Sighting.from_match(clicked, view, match, limits)
    estimates = [estimate_by_depth(click, sighting)]
    try:
        met = triangulate_sightings(click, [sighting], limits)
        estimates.append(replace(met, source=f'the ray of {sighting.view.camera}'))
    except Rejected:
        pass  # too parallel, or they miss each other
    found = min((one for one in estimates if one is not None),
                key=lambda one: (bool(one.doubt), one.sigma_m), default=None)
    ESTIMATES[match] = asked, found
    return found


def combine_confidences(clicked: View, pixel: Array, found: MatchedViews, limits: Limits
                        ) -> tuple[float, set[str]]:
    """Return the confidence of matches that agree, 1 without any, and the cameras it rests on.

    That of the best; where several would each place the point within `limits.max_depth_gap_m` and
    none has a doubt, their odds multiply, since wrong matches seldom agree in 3D.
    """
    confidences, odds = {'': 1.0} if not found else {}, {}
    for view, match in found:
        doubt = find_doubt(Query(clicked, view, pixel), match)
        confidence = lower_confidence(match, doubt, limits).confidence
        confidences[view.camera] = confidence
        alone = None if len(found) < 2 or view.ray_pose is None else _estimate_alone(
            clicked, pixel, view, match, limits)
        if not doubt and alone is not None and alone.sigma_m <= limits.max_depth_gap_m:
            odds[view.camera] = max(1.0, confidence / max(1 - confidence, 1e-6))
    together = float(np.prod(list(odds.values())))
    agreed = min(together / (1 + together), MAX_AGREED_CONFIDENCE)
    best = max(confidences, key=lambda camera: confidences[camera])
    if len(odds) > 1 and agreed > confidences[best]:
        return agreed, set(odds)
    return confidences[best], {best}


def measure_gap_m(one: Estimate3D, other: Estimate3D, limits: Limits) -> tuple[float, float]:
    """Return the distance of two estimates and the distance up to which they agree, m."""
    apart_m = one.point_base_m - other.point_base_m
    return float(np.linalg.norm(apart_m)), gap_limit_m(
        apart_m, one.covariance_m2 + other.covariance_m2, limits)


def max_gap_m(measured: Sequence[Estimate3D], limits: Limits) -> float:
    """Return the largest distance between two estimates, m (NaN for one).

    Raises `Rejected` (INCONSISTENT) beyond `gap_limit_m`.
    """
    gaps_m = [np.nan]
    for one, other in combinations(measured, 2):
        gap_m, limit_m = measure_gap_m(one, other, limits)
        if gap_m > limit_m:
            raise Rejected(Code.INCONSISTENT, f'{one.source} and {other.source} are {gap_m:.3f} m '
                           f'apart (limit {limit_m:.3f} m, limits.max_depth_gap_m '
                           f'{limits.max_depth_gap_m:g})')
        gaps_m.append(gap_m)
    return float(np.fmax.reduce(gaps_m))


def select_agreeing(measured: Sequence[Estimate3D]) -> tuple[list[Estimate3D], str]:
    """Return the estimate that leads and those to fuse with it, and a doubt about the result.

    The doubt is that of the leading one, or a gap to another that three sigmas do not explain, or
    of two depths by more than 2 cm, by the given poses too: one is then wrong by at least 1 cm, and
    which is unknown.
    """
    lead = min(measured, key=lambda one: (
        one.method != Method.DEPTH_CLICKED, bool(one.doubt), one.sigma_m))
    agreeing, doubt = [lead], lead.doubt
    for one in measured:
        if one is lead or one.doubt:
            continue
        apart_m = one.point_base_m - lead.point_base_m
        gap_m = float(np.linalg.norm(apart_m))
        limit_m = sigmas_along_m(apart_m, lead.covariance_m2 + one.covariance_m2)
        if Method.TRIANGULATED not in (lead.method, one.method):
            limit_m = min(limit_m, MAX_FUSED_GAP_M)
        if gap_m <= min(MAX_FUSED_GAP_M, sigmas_along_m(apart_m, lead.noise_m2 + one.noise_m2)):
            agreeing.append(one)
        elif gap_m > limit_m or lead.method != Method.DEPTH_CLICKED:
            doubt = doubt or (f'{lead.source} and {one.source} are {gap_m:.3f} m apart (limit '
                              f'{limit_m:.3f} m: three sigmas, of depths at most '
                              f'{MAX_FUSED_GAP_M:g})')
        given_m = float(np.linalg.norm(apart_m - one.moved_m + lead.moved_m))
        if Method.TRIANGULATED not in (lead.method, one.method) and given_m > MAX_FUSED_GAP_M:
            doubt = doubt or (f'by TF {lead.source} and {one.source} are {given_m:.3f} m apart '
                              f'(limit {MAX_FUSED_GAP_M:g} m), by the images {gap_m:.3f} m: the '
                              'pose of one camera is off')
    return agreeing, doubt


def fuse_estimates(measured: Sequence[Estimate3D]) -> tuple[Array, Array]:
    """Return the mean of the points (3,), weighted by their covariances, and its covariance."""
    weights = [np.linalg.inv(m.covariance_m2) for m in measured]
    covariance_m2 = np.linalg.inv(np.sum(weights, axis=0))
    weighted = [w @ m.point_base_m for w, m in zip(weights, measured, strict=True)]
    return covariance_m2 @ np.sum(weighted, axis=0), covariance_m2


def _mean_estimate(measured: Sequence[Estimate3D]) -> Estimate3D:
    point_base_m, covariance_m2 = fuse_estimates(measured)
    return replace(measured[0], point_base_m=point_base_m, covariance_m2=covariance_m2,
                   source=' and '.join(one.source for one in measured))
