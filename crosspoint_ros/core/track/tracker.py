"""Follows a target after the click: where it is now, or that it is hidden, moved or lost."""
from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    Matcher,
    Method,
    MissingView,
    Rejected,
    Transform,
    View,
)
from crosspoint_ros.core.geometry import ray_angle_deg, require_pose
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.track.motion import (
    FINAL_SCALES,
    REST_SCALES,
    ROBUST_SCALES,
    Motion,
    TrackedPoints,
    estimate_motion,
    keep_direction,
    predict_pose_noise,
)
from crosspoint_ros.core.track.observation import (
    MIN_AGREEING,
    Observation,
    Verification,
    find_agreeing,
    is_shown,
    measure_misfit,
    observe,
    project,
    verify,
)
from crosspoint_ros.core.track.parallax import PlaceRefiner, build_by_motion, list_frames
from crosspoint_ros.core.track.patches import GreyPyramid, flow_patches
from crosspoint_ros.core.track.reference import (
    IDENTITY,
    ReferenceView,
)
from crosspoint_ros.core.track.reference_set import ReferenceSet, build_references, is_sure
from crosspoint_ros.core.track.rest import RestDetector
from crosspoint_ros.core.track.search import explain_jump, search_by_matches, sweep
from crosspoint_ros.core.track.state import FollowLimits, StateReporter, Track, movement_limit_m
from crosspoint_ros.core.verify import Limits

SPEED_M_S, TURN_RAD_S = 0.5, 2.0  # of an object that a person or a robot pushes
MAX_STEP_M, MAX_STEP_RAD = 0.1, 0.5  # further than this no alignment reaches
UNSEEN_S = 0.3  # after which a place nearby is a jump, too
SWEEP_PERIOD_S = 0.3
SETTLED_M, SETTLED_RAD = 2e-3, 0.02
HELD_SIGMAS = 3.0
AS_BEFORE_SHARE = 0.9
MAX_FLOW_AGE_S, FLOW_SCALES = 1.5, (8.0, 2.0, 1.0)
PATH_S = 0.6  # of the way that gives its direction
SIZE_SIGMAS = 3.0  # times the fit's own, where sizes alone say how far away something is
MIN_RAYS_DEG = 6.0  # between the rays of two cameras that say so without depth
VAGUE_SHARE = 5.0  # of the largest sigma of a target: of a movement that it coasts with
JUMP_M = 0.03  # a reappearance further away must not be a thing that was there at the click
TWIN_S = 1.0  # for so long a look-alike that was refused is remembered
CLEARLY = 0.2  # squared sigmas
MOVES_BY = 3.0  # a movement has that many times the points that are nearer to it than to rest
MOVED_SHARE = 0.6  # of the points that should be seen; at rest half of them say so
BETTER_BY = 1.5  # a searched place must have that many times the agreeing points
SEARCH_PERIOD_S = 1.0
DOUBT_PERIOD_S = 0.25
SURE_PAUSES, DOUBT_PAUSES = 20.0, 1.0  # of the time of a search, from its end


@dataclass(frozen=True, eq=False)
class _LastFrame:
    """The last image of a camera in which the object was verified."""

    view: View
    pyramid: GreyPyramid
    points_m: Array  # (n, 3) in the base at the click
    pixels: Array


_Fit = tuple[Motion, dict[str, tuple[Observation, Verification]]]


class Tracker:
    """Follows one target. Not thread-safe; `references` may be read by another thread.

    A place is only ever reported as seen where the patches of the click are found again, in one
    rigid movement, with the depth that belongs to it.
    """

    def __init__(self, views: Sequence[View], pixels: Sequence[Array],
                 base_from_target: Transform, covariance: Array,
                 matcher: Matcher | None,
                 follow: FollowLimits | None = None, limits: Limits | None = None,
                 now_ns: int | None = None, frames: Sequence[View] = ()) -> None:
        """Take the views of an accepted answer, the clicked one first, and the pixel (2,) of each.

        matcher: for views without depth. now_ns: by the clock of `update`; by default that of the
        images. frames: further images of their cameras, in which the target is where it was
        clicked: for views without depth. Raises `Rejected` (NO_DEPTH, NOT_VISIBLE) if no view has
        enough texture around the target.
        """
        self.limits = limits or Limits()
        self._target_m, self._place_m2 = base_from_target.t_m, covariance[:3, :3]
        self._known = ReferenceSet(build_references(
            views, pixels, self._target_m, matcher, frames), self._target_m)
        image_ns = max(view.stamp_ns for view in views)
        begun_ns = image_ns if now_ns is None else now_ns
        self._state = StateReporter(base_from_target, covariance, image_ns, begun_ns,
                                    follow or FollowLimits())
        self._motion = Motion(
            Transform(np.eye(3), np.zeros(3)), np.diag(np.repeat([1e-3, 1e-4], 3) ** 2),
            self._target_m)
        self._rest = RestDetector(self._motion)
        self._path = [(begun_ns, self._target_m)]  # where it was exactly known, lately
        self._split_m = 0.0  # how far away some points are, others are not
        self._vague: Motion | None = None  # seen since, not exactly enough
        self._frames: dict[str, _LastFrame] = {}
        self._candidates: list[Motion] = []
        self._twin: tuple[int, Motion] | None = None  # when and where a look-alike was refused
        self._swept_ns, self._searched_ns, self._search_s = 0, begun_ns, 0.0  # the last ones
        self._looked: dict[str, Verification] = {}  # what the newest image of each camera shows
        self._refiner: PlaceRefiner | None = None

    @classmethod
    def from_answer(cls, located: LocateResult, matcher: Matcher | None, follow: FollowLimits,
                    limits: Limits, now_ns: int | None = None) -> Tracker:
        """Follow the target of an answer; arguments and errors as for the constructor."""
        accepted = [(found.view, found.match) for found in located.correspondences
                    if found.rejected is None and found.view is not None
                    and found.match is not None]
        target = located.target
        assert target is not None
        tracker = cls([located.clicked, *(view for view, _ in accepted)],
                      [located.pixel, *(match.pixel for _, match in accepted)],
                      target.base_from_target, target.covariance, matcher, follow, limits, now_ns,
                      list_frames(located))
        if target.method is Method.TRIANGULATED:
            tracker._refiner = PlaceRefiner(located)
        return tracker

    @property
    def references(self) -> tuple[ReferenceView, ...]:
        """What the target looks like, from all sides that were seen."""
        return self._known.references

    @property
    def track(self) -> Track:
        """What is known after the last update."""
        return self._state.track

    @property
    def motion(self) -> Motion:
        """Where the object was when it was last seen; one at rest does not drift."""
        return self._rest.motion

    # --- frames

    def update(self, views: Sequence[View | MissingView], now_ns: int,
               due: Set[str] = frozenset()) -> Track:
        """Take the new image of each camera, with its pose, and return the state at that time.

        now_ns: by the clock of the first update; stamps of images may be of another. due: cameras
        without a new image that could not have sent one yet: what they saw last still holds, unless
        a new image contradicts it.
        """
        usable = [view for view in views if isinstance(view, View) and view.ray_pose is not None]
        evidence: dict[str, Verification | Rejected] = {
            view.camera: view.rejected for view in views if isinstance(view, MissingView)}
        evidence |= {view.camera: Rejected(Code.NO_TF, f'the pose of {view.camera} is unknown')
                     for view in views if isinstance(view, View) and view.ray_pose is None}
        pyramids = {view.camera: GreyPyramid(view.image) for view in usable}
        before = {camera: self._looked[camera] for camera in due if camera in self._looked}
        stayed, best, is_jump, holds = self._locate(usable, pyramids, before, now_ns)
        motion, found = self._doubt_scale(best)
        reason = self._explain_doubt(motion, found, is_jump, now_ns)
        is_seen = count_agreeing(found) > 0 and not reason
        shown = found if is_seen or holds or (reason and not is_jump) \
            else self._look_at(self._motion, stayed[1])[1]
        looked = {camera: seen for camera, (_, seen) in shown.items()}
        if is_seen and self._has_left(motion):
            before = {}  # what was seen of the old place proves nothing of the new one
        self._looked = {**before, **looked}
        evidence |= self._looked
        if is_seen:
            self._accept(motion, found, now_ns)
            self._refine(found)
            image_ns = max(seen.points.view.stamp_ns for seen, verdict in found.values()
                           if verdict.is_verified)
            return self._state.report_seen(self._rest, motion, evidence, image_ns, now_ns,
                                           self._split_m)
        if holds:
            return self._state.report_held(self.motion, evidence, now_ns)
        if reason:
            self._continue(motion, now_ns)
        return self._state.report_unseen(self._vague or self.motion, evidence, reason, now_ns)

    def _hold(self, stayed: _Fit, before: Mapping[str, Verification]) -> _Fit | None:
        """Return what the new images show of the last place, if cameras whose next image is due
        saw the target there `before`, and no new image shows that it has left since."""
        if not self._state.is_seen or not any(v.is_verified for v in before.values()):
            return None
        motion, found = stayed
        if not count_agreeing(found):
            motion, found = self._look_at(self._motion, found)
        elif self._has_left(motion):
            return None
        for camera, (one, verdict) in found.items():
            earlier = self._looked.get(camera)
            was_so = earlier is not None and not earlier.is_verified and (
                earlier.target == verdict.target)
            may_be_gone = verdict.target in ('gone', 'seen') or (
                verdict.target == 'hidden' and one.points.view.depth_m is None)
            if not verdict.is_verified and may_be_gone and not was_so:
                return None
        return motion, found

    def _look_at(self, motion: Motion, found: dict[str, tuple[Observation, Verification]]) -> _Fit:
        """Return what the views show of a place where the target was seen before.

        A motion that was fitted to anything, or to a look-alike, is of another place.
        """
        seen = [one for one, _ in found.values()]
        observed = self._observe(motion, [one.points.view for one in seen],
                                 {one.points.view.camera: one.pyramid for one in seen}, (1,))
        return motion, {camera: (one, verify(one, motion.base_from_clicked, self._target_m))
                        for camera, one in observed.items()}

    def _prefer_rest(self, fit: _Fit) -> _Fit:
        """Return the fit, or the place of rest where that is seen, and few more points are nearer
        to the fit than to it.

        What moves does so with nearly all of its points; what is only seen from another side is a
        little elsewhere with some, and not with others.
        """
        self._split_m = 0.0
        if not (self._rest.is_at_rest and self._rest.may_leave(fit[0])):
            return fit
        rest, found, gains = replace(self.motion, covariance=fit[0].covariance), {}, [np.zeros(0)]
        for camera, (seen, _) in fit[1].items():
            stays = observe(seen.reference, seen.points.view, seen.pyramid, rest.base_from_clicked,
                            seen.points.pose_covariance, (1,))
            found[camera] = stays, verify(stays, rest.base_from_clicked, self._target_m)
            gains.append((measure_misfit(stays, rest.base_from_clicked) - measure_misfit(
                seen, fit[0].base_from_clicked))[stays.expected & seen.expected])
        nearer = np.concatenate(gains)
        moves, rests = int((nearer > CLEARLY).sum()), int((nearer < -CLEARLY).sum())
        split_m = float(np.linalg.norm(fit[0].centre_m - rest.centre_m))
        is_far = split_m > self.limits.max_target_sigma_m and count_agreeing(fit[1]) > 0
        if not count_agreeing(found) or moves >= max(MIN_AGREEING, MOVES_BY * rests) or (
                is_far and not shows_distance(*fit)):
            return fit
        self._split_m = split_m
        return rest, found

    def _has_left(self, motion: Motion) -> bool:
        """Return whether a motion is away from where the target was seen last."""
        moved_m = motion.centre_m - self._motion.centre_m
        spread = motion.covariance[3:, 3:] + SETTLED_M ** 2 * np.eye(3)
        return bool(moved_m @ np.linalg.solve(spread, moved_m) > HELD_SIGMAS ** 2)

    def _locate(self, usable: Sequence[View], pyramids: dict[str, GreyPyramid],
                before: Mapping[str, Verification], now_ns: int) -> tuple[_Fit, _Fit, bool, bool]:
        """Return the fit near the last place, the best one, whether that is a jump, and whether
        what the cameras that are due saw `before` holds: then nothing is looked for elsewhere."""
        elapsed_s = max(now_ns - self._state.seen_ns, 0) * 1e-9
        # From its place at rest: what is measured of few points would add up from look to look.
        last = self.motion if self._rest.is_at_rest and not self._vague else self._motion
        prior = last.spread(min(SPEED_M_S * elapsed_s, MAX_STEP_M) + 1e-3,
                            min(TURN_RAD_S * elapsed_s, MAX_STEP_RAD) + 1e-2)
        best = stayed = self._prefer_rest(self._fit(
            prior, usable, pyramids, (4, 2, 1) if elapsed_s > UNSEEN_S else (2, 1), with_flow=True))
        score, is_jump = count_agreeing(best[1]), elapsed_s > UNSEEN_S
        if held := self._hold(stayed, before):
            return held, held, is_jump, True
        candidates, self._candidates = self._candidates, []
        if not score and abs(now_ns - self._swept_ns) >= SWEEP_PERIOD_S * 1e9:
            self._swept_ns = now_ns
            for view in usable:
                candidates += sweep(self._known.select(view, self._motion), view,
                                    pyramids[view.camera], self._motion)
        for candidate in candidates:
            tried = self._fit(candidate, usable, pyramids, (4, 2, 1), with_flow=False)
            if count_agreeing(tried[1]) > BETTER_BY * score:
                best, score, is_jump = tried, count_agreeing(tried[1]), True
        return stayed, best, is_jump, False

    def _fit(self, prior: Motion, usable: Sequence[View], pyramids: dict[str, GreyPyramid],
             scales: tuple[int, ...], with_flow: bool) -> _Fit:
        """Fit a motion to the views near a prior, and verify it in each of them."""
        if with_flow and self._rest.is_at_rest:  # then it mostly still is
            fit = self._align(prior, prior, usable, pyramids, (1,), turns=1)
            if self._shows_enough(fit):
                return fit
        flowed = [flow for view in usable if with_flow
                  and (flow := self._flow(view, pyramids[view.camera], prior)) is not None]
        if not flowed:
            return self._align(prior, prior, usable, pyramids, scales)
        start = estimate_motion(prior, flowed, FLOW_SCALES)
        fit = self._align(prior, start, usable, pyramids, (1,))
        return fit if self._shows_enough(fit) else self._align(
            prior, start, usable, pyramids, scales)

    def _shows_enough(self, fit: _Fit) -> bool:
        """Return whether no further search could find more of the object."""
        judged = [one for one in fit[1].values() if not _is_out_of_sight(*one)]
        return any(verdict.is_verified for _, verdict in judged) and all(
            is_sure(verdict) or self._is_as_before(seen, verdict) for seen, verdict in judged)

    def _is_as_before(self, seen: Observation, verdict: Verification) -> bool:
        """Return whether a view with depth shows as much of the object as its last image did: of
        one that is partly hidden no search finds more."""
        earlier = self._looked.get(verdict.camera)
        return (seen.points.view.depth_m is not None and earlier is not None
                and (verdict.is_verified, verdict.target) == (earlier.is_verified, earlier.target)
                and verdict.agreeing >= AS_BEFORE_SHARE * earlier.agreeing)

    def _align(self, prior: Motion, start: Motion, usable: Sequence[View],
               pyramids: dict[str, GreyPyramid], scales: tuple[int, ...], turns: int = 3) -> _Fit:
        """Look for the points near a start, estimate the motion, and verify it, in turns."""
        motion = start
        found: dict[str, tuple[Observation, Verification]] = {}
        for turn in range(turns):
            before = motion
            observed = self._observe(motion, usable, pyramids, scales if turn == 0 else (1,))
            points = [seen.points for camera, seen in observed.items()
                      if turn == 0 or found[camera][1].shows_object
                      or verify(seen, motion.base_from_clicked, self._target_m).shows_object]
            if points:
                motion = estimate_motion(
                    replace(prior, base_from_clicked=motion.base_from_clicked,
                            centre_m=motion.centre_m), points,
                    FINAL_SCALES if turn else REST_SCALES if turns == 1 else ROBUST_SCALES)
            found = {camera: (seen, verify(seen, motion.base_from_clicked, self._target_m))
                     for camera, seen in observed.items()}
            changed = before.base_from_clicked.inverse @ motion.base_from_clicked
            is_near = np.linalg.norm(motion.centre_m - before.centre_m) < SETTLED_M and (
                np.trace(changed.R) > 1 + 2 * np.cos(SETTLED_RAD))
            if not points or (is_near and (turn or all(
                    verdict.shows_object for _, verdict in found.values()))):
                break
        return motion, found

    def _observe(self, motion: Motion, usable: Sequence[View], pyramids: dict[str, GreyPyramid],
                 scales: tuple[int, ...]) -> dict[str, Observation]:
        found = {}
        for view in usable:
            reference = self._known.select(view, motion)
            noise = predict_pose_noise(reference.view, view, motion.centre_m, self.limits)
            found[view.camera] = observe(reference, view, pyramids[view.camera],
                                         motion.base_from_clicked, noise, scales)
        return found

    def _flow(self, view: View, pyramid: GreyPyramid, prior: Motion) -> TrackedPoints | None:
        """Follow the points from the camera's last verified image, TF's part predicted."""
        last = self._frames.get(view.camera)
        if last is None or not 0 < view.stamp_ns - last.view.stamp_ns < MAX_FLOW_AGE_S * 1e9 or (
                last.view.image.shape != view.image.shape):
            return None
        predicted = project(view, prior.base_from_clicked.transform_points(last.points_m))
        usable = is_shown(view, predicted)
        pixels = np.full_like(predicted, np.nan)
        pixels[usable] = flow_patches(last.pyramid, last.pixels[usable], pyramid,
                                      predicted[usable])
        if np.isfinite(pixels[:, 0]).sum() < 4:
            return None
        count = len(pixels)
        return TrackedPoints(view, last.points_m, pixels, np.tile(np.eye(2), (count, 1, 1)),
                             np.full(count, np.nan), np.ones(count), np.zeros((6, 6)))

    # --- what is taken for true

    @property
    def _exact_m(self) -> float:
        """The largest sigma of a movement that is taken: two of them are within the limit."""
        return self.limits.max_target_sigma_m / 2

    def _explain_doubt(self, motion: Motion,
                       found: dict[str, tuple[Observation, Verification]], is_jump: bool,
                       now_ns: int) -> str:
        """Return why a verified place is not taken; '' if it is, or none is verified. Remembers
        where a look-alike is."""
        if not count_agreeing(found):
            return ''
        if motion.sigma_m > self._exact_m:
            return (f'seen, but its movement is known to ±{1000 * motion.sigma_m:.0f} mm only '
                    f'(limit {1000 * self._exact_m:.0f} mm, half of limits.max_target_sigma_m): '
                    'depth there, or a camera from another side, would say it')
        share = max(verdict.agreeing / max(verdict.expected - verdict.hidden, 1)
                    for _, verdict in found.values() if verdict.is_verified)
        if share < MOVED_SHARE and not (self._rest.is_at_rest and not self._rest.ends_with(motion)):
            return (f'{share:.0%} of its points agree with how it moves (at least {MOVED_SHARE:.0%}'
                    '), and a rim shows no turn: show it to another camera, or click on it again')
        moved_m = float(np.linalg.norm(motion.centre_m - self._target_m))
        place_m2 = self._place_m2 + motion.covariance[3:, 3:]
        sigma_m = float(np.sqrt(np.linalg.eigvalsh(place_m2)[-1]))
        if sigma_m > self.limits.max_target_sigma_m and moved_m > movement_limit_m(motion):
            return (f'seen {1000 * moved_m:.0f} mm from where it was clicked, but its place there '
                    f'is known to ±{1000 * sigma_m:.1f} mm only (limit '
                    f'{1000 * self.limits.max_target_sigma_m:.0f} mm, limits.max_target_sigma_m)')
        jumped_m = float(np.linalg.norm(motion.centre_m - self.motion.centre_m))
        if is_jump and jumped_m > JUMP_M and moved_m > JUMP_M:
            if not shows_distance(motion, found):
                cameras = ' and '.join(name for name, (_, verdict) in found.items()
                                       if verdict.shows_object)
                return (f'seen {jumped_m:.2f} m away by {cameras}, without depth there: how far '
                        f'away it is takes a camera from another side ({MIN_RAYS_DEG:g} deg)')
            reason, is_twin = explain_jump(self._known.clicked, motion, list(found.values()),
                                           jumped_m)
            if not reason and self._may_be_twin(motion, found, now_ns):
                reason, is_twin = (f'{jumped_m:.2f} m away, where a look-alike may be that was '
                                   'elsewhere: click on it again if it is the same'), True
            if is_twin:
                self._twin = now_ns, motion
            return reason
        return ''

    def _may_be_twin(self, motion: Motion, found: dict[str, tuple[Observation, Verification]],
                     now_ns: int) -> bool:
        """Return whether a place is where a look-alike can have come that was refused a moment ago,
        and has gone from its place."""
        if self._twin is None or not 0 <= now_ns - self._twin[0] < TWIN_S * 1e9:
            return False
        twin = self._twin[1]
        away_m = float(np.linalg.norm(motion.centre_m - twin.centre_m))
        return away_m < JUMP_M or (
            away_m < JUMP_M + SPEED_M_S * (now_ns - self._twin[0]) * 1e-9
            and not count_agreeing(self._look_at(twin, found)[1]))

    def _doubt_scale(self, fit: _Fit) -> _Fit:
        """Return the fit, with less known along the rays where nothing but the size of what has
        left its place says how far away it is: sizes err alike in all of its points."""
        motion, found = fit
        if not count_agreeing(found) or (
                self._rest.is_at_rest and not self._rest.ends_with(motion)) or (
                shows_distance(motion, found)):
            return fit
        axis = np.linalg.eigh(motion.covariance[3:, 3:])[1][:, -1]
        covariance = motion.covariance.copy()
        covariance[3:, 3:] += (SIZE_SIGMAS ** 2 - 1) * motion.sigma_m ** 2 * np.outer(axis, axis)
        return replace(motion, covariance=covariance), found

    def _continue(self, motion: Motion, now_ns: int) -> None:
        """Let it coast where it went on to, by a verified place that is not exact enough: with that
        covariance, and the next look begins there."""
        went = keep_direction(self._path, motion, now_ns) if motion.sigma_m > self._exact_m \
            else motion
        if np.linalg.norm(went.centre_m - self._motion.centre_m) > JUMP_M:
            return
        self._state.report_vague(motion)
        if went.sigma_m < VAGUE_SHARE * self.limits.max_target_sigma_m:
            self._motion = self._vague = went

    def _accept(self, motion: Motion, found: dict[str, tuple[Observation, Verification]],
                now_ns: int) -> None:
        self._motion, self._vague = motion, None
        self._rest.update(motion, now_ns)
        self._path = [*(each for each in self._path if 0 < now_ns - each[0] < PATH_S * 1e9),
                      (now_ns, self.motion.centre_m)]
        self._known.update(found.values(), motion, self.motion)
        for camera, (seen, verdict) in found.items():
            if verdict.shows_object:
                good = np.isfinite(seen.points.pixels).all(axis=1)
                self._frames[camera] = _LastFrame(seen.points.view, seen.pyramid,
                                                  seen.points.points_m[good],
                                                  seen.points.pixels[good])

    def _refine(self, found: dict[str, tuple[Observation, Verification]]) -> None:
        """Place a target without depth better, by all images in which it rests as clicked."""
        if self._refiner is None:
            return
        if not self._rest.is_at_rest or self._state.track.is_moved:
            self._refiner = None
            return
        better = self._refiner.add([seen.points.view for seen, verdict in found.values()
                                    if verdict.is_verified], self.limits)
        if better is None or better.target is None:
            return
        base_from_target, covariance = better.target.base_from_target, better.target.covariance
        bare = [(c.view, c.match.pixel) for c in better.correspondences
                if c.rejected is None and c.view is not None and c.match is not None]
        placed = build_by_motion([better.clicked, *(view for view, _ in bare)],
                                 [better.pixel, *(pixel for _, pixel in bare)],
                                 base_from_target.t_m, list_frames(better))
        if not placed:
            return
        self._target_m, self._place_m2 = base_from_target.t_m, covariance[:3, :3]
        self._known = ReferenceSet(placed, self._target_m)
        self._motion = replace(self._motion, base_from_clicked=IDENTITY, centre_m=self._target_m)
        self._rest = RestDetector(self._motion)
        self._path = [(self._path[-1][0], self._target_m)]
        self._frames.clear()
        self._state.replace_target(base_from_target, covariance)

    # --- search

    def set_limits(self, follow: FollowLimits, limits: Limits) -> None:
        """Take other limits from now on."""
        self._state.follow, self.limits = follow, limits

    def resume(self, now_ns: int) -> None:
        """Go on after a pause, which does not count as time without the object."""
        self._state.resume(now_ns)

    def wants_search(self, now_ns: int) -> bool:
        """Return whether a search by the matcher is due: often in doubt, else once a second; the
        longer it takes, the less often."""
        period_s, pauses = (SEARCH_PERIOD_S, SURE_PAUSES) if self._state.is_seen else (
            DOUBT_PERIOD_S, DOUBT_PAUSES)
        return now_ns - self._searched_ns >= max(period_s, pauses * self._search_s) * 1e9

    def search(self, views: Sequence[View], matcher: Matcher) -> list[Motion]:
        """Return where the matcher finds the object; may run in another thread than `update`.

        While it is seen, one view is searched near its place: an independent check.
        """
        if self._state.is_seen:
            shown = [view for view in views if view.camera in self._frames][:1]
            return search_by_matches(self._known.clicked, shown, self._motion, matcher, near=True)
        return search_by_matches(self._known.references, views, self._motion, matcher)

    def offer(self, candidates: Sequence[Motion], now_ns: int, took_s: float = 0.0) -> None:
        """Take the places that a search found, and its time: the next update verifies them."""
        self._candidates, self._searched_ns, self._search_s = list(candidates), now_ns, took_s


def count_agreeing(found: dict[str, tuple[Observation, Verification]]) -> int:
    """Return how many points agree in the views that show the object."""
    return sum(verdict.agreeing for _, verdict in found.values() if verdict.is_verified)


def shows_distance(motion: Motion, found: dict[str, tuple[Observation, Verification]]) -> bool:
    """Return whether depths, or rays of two directions, say how far away an object is."""
    showing = [seen for seen, verdict in found.values() if verdict.shows_object]
    if any(np.isfinite(seen.points.depths_m[find_agreeing(seen, motion.base_from_clicked)]).sum()
           >= MIN_AGREEING for seen in showing):
        return True
    rays = [motion.centre_m - require_pose(seen.points.view).t_m for seen in showing]
    return any(ray_angle_deg(one, other) > MIN_RAYS_DEG for one, other in combinations(rays, 2))


def _is_out_of_sight(seen: Observation, verdict: Verification) -> bool:
    """Return whether a view could not show the target there, by its frame or by its depths."""
    return verdict.target == 'outside' or (
        verdict.target == 'hidden' and seen.points.view.depth_m is not None)
