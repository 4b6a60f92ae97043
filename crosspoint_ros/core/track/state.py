"""The state of a followed target from look to look: seen, moved, hidden or lost, and why."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Rejected, Transform
from crosspoint_ros.core.track.motion import Motion
from crosspoint_ros.core.track.observation import Verification
from crosspoint_ros.core.track.rest import RestDetector, leave_limit_m

COAST_SPEED_M_S = 0.05  # by how much a hidden target becomes less certain
MOVED_M = 0.01  # at least, and three sigmas
MOVED_RAD = 0.1
MOVED_SIGMAS = 3.0

Evidence = dict[str, Verification | Rejected]  # by camera


class TrackingState(Enum):
    """What is known about a followed target."""

    TRACKING = 'tracking'
    COASTING = 'coasting'
    MOVED = 'moved'
    LOST = 'lost'


@dataclass(frozen=True)
class FollowLimits:
    """When a target is lost. The only place of these defaults.

    coast_s: how long it may be hidden, outside of all images, or without images. lost_s: how long
    its place may be seen without it.
    """

    coast_s: float = 10.0  # an arm that reaches for it hides it
    lost_s: float = 1.0


@dataclass(frozen=True, eq=False)
class Track:
    """The state of a followed target.

    base_from_target, covariance: as in `GraspTarget`; where it was seen last, if it is not seen.
    is_moved: whether it was seen elsewhere than at the click, if only along a ray. stamp_ns: of the
    newest image that shows it. since_ns: when the state began. evidence: what each camera saw, a
    `Rejected` where it has no usable image. message: value and limit.
    """

    state: TrackingState
    base_from_target: Transform
    covariance: Array
    stamp_ns: int
    since_ns: int
    evidence: dict[str, Verification | Rejected]
    message: str
    is_moved: bool = False


class StateReporter:
    """Reports what is known of a target; times are of one clock, images may be of another.

    seen_ns: when it was seen last.
    """

    def __init__(self, base_from_target: Transform, covariance: Array, image_ns: int,
                 now_ns: int, follow: FollowLimits) -> None:
        """Begin with a target that is where it was clicked."""
        self.follow, self._clicked, self._covariance = follow, base_from_target, covariance
        self.seen_ns, self._image_ns = now_ns, image_ns
        self.resume(now_ns)
        self._is_gone = self._is_moved = False
        self.track = Track(TrackingState.TRACKING, base_from_target, covariance, image_ns, now_ns,
                           {}, 'as clicked')

    @property
    def is_seen(self) -> bool:
        """Whether it was seen by the last look."""
        return self.track.state in (TrackingState.TRACKING, TrackingState.MOVED)

    def replace_target(self, base_from_target: Transform, covariance: Array) -> None:
        """Take a better place of a target that is where it was clicked."""
        self._clicked, self._covariance = base_from_target, covariance

    def resume(self, now_ns: int) -> None:
        """Go on after a pause, which does not count as time without the object."""
        self._unseen_since_ns = self._gone_since_ns = now_ns  # the first look that did not show it

    def report_seen(self, rest: RestDetector, measured: Motion, evidence: Evidence, image_ns: int,
                    now_ns: int, split_m: float = 0.0) -> Track:
        """Report a look that shows it; image_ns: of the newest image that does.

        split_m: how far from its place some points were seen, where others were not.
        """
        self.seen_ns, self._image_ns, self._is_gone = now_ns, image_ns, False
        moved_m, measured_m = (float(np.linalg.norm(motion.centre_m - self._clicked.t_m))
                               for motion in (rest.motion, measured))
        limit_m = movement_limit_m(measured)
        turned_rad = float(np.linalg.norm(cv2.Rodrigues(rest.motion.base_from_clicked.R)[0]))
        limit_rad = MOVED_RAD + MOVED_SIGMAS * float(np.sqrt(np.linalg.eigvalsh(
            measured.covariance[:3, :3])[-1]))
        self._is_moved = moved_m > limit_m or turned_rad > limit_rad
        seen = '; '.join(str(one) for one in evidence.values()
                         if isinstance(one, Verification) and one.shows_object)
        at_rest, shown = '', rest.motion
        if rest.is_at_rest:
            away_m = float(np.linalg.norm(measured.centre_m - rest.motion.centre_m))
            turn = rest.motion.base_from_clicked.inverse @ measured.base_from_clicked
            away_rad = float(np.linalg.norm(cv2.Rodrigues(turn.R)[0]))
            shown = shown.spread(0.0, away_rad)  # of few points: noise, or a turn
            at_rest = (f', at rest: measured {1000 * away_m:.1f} mm and {np.degrees(away_rad):.0f} '
                       f'deg from its place (limit {1000 * leave_limit_m(measured):.1f} mm)')
            if split_m:
                at_rest = f', at rest: some points alone are seen {1000 * split_m:.1f} mm away'
        message = (f'seen {1000 * measured_m:.0f} mm from where it was clicked (limit '
                   f'{1000 * limit_m:.0f} mm){at_rest}, turned by {np.degrees(turned_rad):.0f} deg '
                   f'(limit {np.degrees(limit_rad):.0f} deg): {seen}')
        return self._report(TrackingState.MOVED if self._is_moved else TrackingState.TRACKING,
                            shown, evidence, message, now_ns)

    def report_held(self, motion: Motion, evidence: Evidence, now_ns: int) -> Track:
        """Report that what was known before still holds."""
        return self._report(self.track.state, motion, evidence, self.track.message, now_ns)

    def report_vague(self, motion: Motion) -> None:
        """Take where it was seen, not exactly enough: it may be elsewhere for sure all the same."""
        moved_m = motion.centre_m - self._clicked.t_m
        spread_m2 = motion.covariance[3:, 3:] + (MOVED_M / MOVED_SIGMAS) ** 2 * np.eye(3)
        self._is_moved |= bool(moved_m @ np.linalg.solve(spread_m2, moved_m) > MOVED_SIGMAS ** 2)

    def report_unseen(self, motion: Motion, evidence: Evidence, reason: str, now_ns: int) -> Track:
        """Report a look that does not show it, or not exactly enough; reason: why that is so."""
        looked = [one for one in evidence.values() if isinstance(one, Verification)]
        is_gone = any(one.target == 'gone' for one in looked) and not any(
            one.target in ('hidden', 'seen') for one in looked)
        if is_gone and not self._is_gone:
            self._gone_since_ns = now_ns
        self._is_gone = is_gone
        if self.is_seen:
            self._unseen_since_ns = now_ns
        unseen_s, gone_s = ((now_ns - begun_ns) * 1e-9 for begun_ns in (
            self._unseen_since_ns, self._gone_since_ns))
        each = reason or '; '.join(
            str(one) if isinstance(one, Verification) else one.message
            for one in evidence.values()) or 'no camera has an image'
        state, message = TrackingState.LOST, self.track.message
        if self.track.state is TrackingState.LOST:
            pass
        elif is_gone and gone_s >= self.follow.lost_s:
            message = (f'its place has been seen without it for {gone_s:.1f} s (follow.lost_s '
                       f'{self.follow.lost_s:g}): {each}')
        elif unseen_s >= self.follow.coast_s:
            message = (f'not seen for {unseen_s:.1f} s (follow.coast_s {self.follow.coast_s:g}): '
                       f'{each}')
        else:
            state = TrackingState.COASTING
            message = f'not seen for {unseen_s:.1f} s (at most {self.follow.coast_s:g}): {each}'
        return self._report(state, motion, evidence, message, now_ns)

    def _report(self, state: TrackingState, motion: Motion, evidence: Evidence, message: str,
                now_ns: int) -> Track:
        since_ns = self.track.since_ns if state is self.track.state else now_ns
        unseen_s = max(now_ns - self.seen_ns, 0) * 1e-9
        motion = motion.spread(COAST_SPEED_M_S * unseen_s, 0.0)
        covariance = np.array(self._covariance)
        covariance[:3, :3] = covariance[:3, :3] + motion.covariance[3:, 3:]
        covariance[3:, 3:] = covariance[3:, 3:] + motion.covariance[:3, :3]
        self.track = Track(state, motion.base_from_clicked @ self._clicked, covariance,
                           self._image_ns, since_ns, evidence, message, self._is_moved)
        return self.track


def movement_limit_m(measured: Motion) -> float:
    """Return how far from the click an object that has not moved may be measured, m."""
    return MOVED_M + MOVED_SIGMAS * measured.sigma_m
