"""By how much to turn the other image to show things the way up the clicked one does.

Descriptors tolerate some 25 deg of roll. A turn is clockwise, in whole degrees: the
nearest multiple of 90, which costs no interpolation, unless more than those would be left and the
cameras look in about the same direction: else the roll differs between the surfaces.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.xfeat import two_view
from crosspoint_ros.matchers.xfeat.features import FeatureFrame
from crosspoint_ros.matchers.xfeat.matching import find_candidates
from crosspoint_ros.matchers.xfeat.two_view import PinholePair

MAX_ROLL_DEG, MAX_AXES_DEG = 25.0, 30.0
KEYPOINTS = 1000
SUPPORT_PX = 3.0
# Of a wrong turn: up to 28 matches agree with one motion, 0.20 of all, on the bin of toys; on the
# shelf 30 and 0.18.
CHANCE_SUPPORT, CHANCE_SHARE = 40.0, 0.2
MAX_RIVAL = 0.5  # support of another turn, of the best's
SAME_MOTION_DEG = 30.0  # between two turns, a camera rolled by 45 deg matches at both
RIVAL_SCALE = 0.5  # enough to see that another turn is as good as one that is well supported

Ensure = Callable[[Sequence[FeatureFrame], Sequence[float]], None]


@dataclass(frozen=True, eq=False)
class TurnSupport:
    """How well the other image matches when it is turned.

    support: about the number of matches that agree with one motion. share: of all.
    other_from_clicked: rotation (3, 3) of that motion; the turn alone where it is a similarity.
    """

    turn_deg: int
    support: float
    share: float
    other_from_clicked: Array

    @property
    def is_beyond_chance(self) -> bool:
        """Whether twice what a wrong turn reaches agrees."""
        return self.support >= 2 * CHANCE_SUPPORT and self.share >= 2 * CHANCE_SHARE

    def contradicts(self, other_from_clicked: Array) -> bool:
        """Return whether a rotation is another one."""
        cosine = (np.trace(self.other_from_clicked.T @ other_from_clicked) - 1) / 2
        return bool(cosine < np.cos(np.radians(SAME_MOTION_DEG)))


def turn_from_rotation(other_from_clicked: Array) -> int:
    """Return the turn, 0..359, by the rotation (3, 3) of the relative pose.

    What is left of the rotation after the shortest one between the optical axes is a roll about
    them: that of a surface that faces both cameras halfway.
    """
    R = other_from_clicked
    turn_deg = -float(np.degrees(np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1])))
    quarters_deg = 90 * round(turn_deg / 90)
    is_slanted = (abs(turn_deg - quarters_deg) > MAX_ROLL_DEG
                  and R[2, 2] > np.cos(np.radians(MAX_AXES_DEG)))
    return round(turn_deg if is_slanted else quarters_deg) % 360


def turn_from_images(clicked: FeatureFrame, other: FeatureFrame, scale: float, min_cosine: float,
                     ensure: Ensure) -> int:
    """Return the turn whose matches agree best.

    Raises `Rejected` (LOW_CONFIDENCE) where two turns are supported about as well.
    """
    best, *others = rank_turns(clicked, other, 0, scale, min_cosine, ensure)
    others = [one for one in others if one.contradicts(best.other_from_clicked)]
    if others and others[0].support > max(CHANCE_SUPPORT, MAX_RIVAL * best.support):
        raise Rejected(Code.LOW_CONFIDENCE, (
            f'{clicked.view.camera} and {other.view.camera} match turned against each other by '
            f'{best.turn_deg} deg ({best.support:.0f} matches agree) and by {others[0].turn_deg} '
            f'deg ({others[0].support:.0f}, must be below {MAX_RIVAL:g} of that): something '
            'symmetric; give their poses, or let them show more around it'))
    return best.turn_deg if best.support < CHANCE_SUPPORT \
        else turn_from_rotation(best.other_from_clicked)


def require_turn(clicked: FeatureFrame, other: FeatureFrame, other_from_clicked: Array,
                 scale: float, min_cosine: float, ensure: Ensure) -> None:
    """Raise `Rejected` (INCONSISTENT) where the images match at another turn than the poses'."""
    ensure([clicked], [scale])
    if len(clicked.levels[scale].pixels) < CHANCE_SUPPORT:
        return  # so few cannot support any turn: three further images need not be looked at
    given_deg = turn_from_rotation(other_from_clicked)
    best, *others = rank_turns(clicked, other, given_deg, scale, min_cosine, ensure)
    given = next(one for one in (best, *others) if one.turn_deg == given_deg)
    if best.support >= CHANCE_SUPPORT and given.support < MAX_RIVAL * best.support \
            and best.contradicts(other_from_clicked):
        raise Rejected(Code.INCONSISTENT, (
            f'{clicked.view.camera} and {other.view.camera}: by their poses one image is turned '
            f'by {given_deg} deg against the other ({given.support:.0f} matches agree), but they '
            f'match at {best.turn_deg} deg ({best.support:.0f}): the frame of one camera, or the '
            'way its driver turns the image, is wrong'))


def rank_turns(clicked: FeatureFrame, other: FeatureFrame, first_deg: int, scale: float,
               min_cosine: float, ensure: Ensure) -> list[TurnSupport]:
    """Measure a turn and those by 90, 180 and 270 deg more, the best supported first.

    These are measured at half the size where the first is well supported.
    """
    frames = [other.turn(first_deg + more_deg) for more_deg in (0, 90, 180, 270)]
    ensure([clicked, frames[0]], [scale])
    first = measure_turn(clicked, frames[0], scale, min_cosine)
    if first.is_beyond_chance:
        scale = min(scale, RIVAL_SCALE)
    ensure([clicked, *frames[1:]], [scale])
    rivals = [measure_turn(clicked, frame, scale, min_cosine, MAX_RIVAL * first.support)
              for frame in frames[1:]]
    return sorted([first, *rivals], key=lambda one: -one.support)


def measure_turn(clicked: FeatureFrame, other: FeatureFrame, scale: float, min_cosine: float,
                 at_least: float = 0.0) -> TurnSupport:
    """Match the strongest keypoints of one scale and count those that agree with one motion.

    With fewer than `at_least` matches the support is 0.
    """
    strongest, strongest_other = (frame.levels[scale].strongest(KEYPOINTS)
                                  for frame in (clicked, other))
    candidates = find_candidates(strongest, strongest_other, min_cosine)
    matches = candidates.select(candidates.mutual(candidates.cosine > min_cosine))
    support, rotation = 0.0, np.eye(3)
    rotation[:2, :2] = other.scaled.scaled_from_image.T / other.scaled.scale
    if len(matches) >= max(at_least, two_view.MIN_MATCHES):
        # Cameras at one place have no relative pose, but matches that are similar figures.
        _, similar = cv2.estimateAffinePartial2D(
            matches.clicked, matches.other, ransacReprojThreshold=SUPPORT_PX)
        support = 0.0 if similar is None else float(similar.sum())
        found = two_view.estimate_relative_pose(matches, PinholePair(
            clicked.scaled.ideal_matrix, other.scaled.ideal_matrix), estimators=1)
        if found is not None and found.support > support:
            support, rotation = found.support, found.motion.R
    return TurnSupport(other.scaled.turn_deg, support, support / max(len(matches), 1), rotation)
