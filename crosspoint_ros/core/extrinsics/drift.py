"""Notices from everyday clicks that a camera is no longer where TF has it.

A matcher that has depth or poses corrects the relative pose of two cameras, with a covariance that
includes its prior. Without that prior, what remains is the evidence of the images alone; it is
summed over clicks. A generalised CUSUM (Lorden, 1971; Willsky and Jones, 1976) looks for the moment
since which the sum contradicts the declared mount most.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, CorrectedPose, Transform
from crosspoint_ros.core.extrinsics.residuals import adjoint, log_pose

REMEMBERED = 200  # clicks of a camera
MIN_CLICKS = 4
# What a right calibration may differ by all the time, per axis, and what matches of few clicks do.
ALLOWED_M, ALLOWED_RAD = 0.0015, np.radians(0.15)
ALARM = 22.5  # chi-squared of 6, 0.1 %
RECENT_SHARE = 0.25  # of the alarm, by the newest clicks alone: a camera set right is quiet
# Another camera explains nearly as much: that share of it, or less than an alarm is worth apart.
RIVAL_SHARE, RIVAL_CHI2 = 0.9, ALARM
CHANCE_CHI2 = 16.8  # of 6, 1 %: what explains no more than noise does does not count as one
AXES = ('x (right)', 'y (down)', 'the optical axis')


@dataclass(frozen=True, eq=False)
class PairEvidence:
    """What one click says of two cameras.

    given, corrected: b_from_a. Cameras a and b are the clicked and the other one.
    """

    cameras: tuple[str, str]
    given: Transform
    corrected: CorrectedPose


@dataclass(frozen=True, eq=False)
class MountDrift:
    """How far a camera is from its declared mount, by the clicks since `since_s`.

    shift_m, turn_rad: (3,) in the camera's frame: given_from_true. covariance: (6, 6), rotation
    first. score: chi-squared of 6. is_recent: the newest clicks contradict the mount, too. rivals:
    cameras that would explain it nearly as well.
    """

    camera: str
    turn_rad: Array
    shift_m: Array
    covariance: Array
    since_s: float
    clicks: int
    score: float
    is_recent: bool
    is_alarm: bool = False
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        shift_mm, turn_deg = 1000 * self.shift_m, np.degrees(self.turn_rad)
        sigma_mm, sigma_deg = (scale * _length_sigma(part, self.covariance[at, at])
                               for part, at, scale in (
                                   (self.shift_m, slice(3, 6), 1000.0),
                                   (self.turn_rad, slice(0, 3), float(np.degrees(1)))))
        axis = AXES[int(np.abs(shift_mm).argmax())]
        return (f'{np.linalg.norm(shift_mm):.1f} +- {sigma_mm:.1f} mm, '
                f'{np.linalg.norm(turn_deg):.1f} +- {sigma_deg:.1f} deg, largest along {axis}, by '
                f'{self.clicks} clicks')


def _length_sigma(vector: Array, covariance: Array) -> float:
    """The sigma of a vector's length."""
    length = float(np.linalg.norm(vector))
    unit = vector / length if length > 1e-12 else np.eye(3)[0]
    return float(np.sqrt(unit @ covariance @ unit))


class DriftMonitor:
    """Sums the evidence of clicks for each camera; a few milliseconds a click.

    prior_m, prior_rad: the prior, per axis, under which the matcher corrected the poses.
    """

    def __init__(self, prior_m: float, prior_rad: float) -> None:
        self._stiffness = np.diag(np.repeat([prior_rad, prior_m], 3) ** -2.0)
        self._clicks: dict[str, deque[tuple[float, Array, Array]]] = {}
        self.drifts: dict[str, MountDrift] = {}

    def add(self, evidence: Sequence[PairEvidence], now_s: float) -> None:
        """Add one click; `drifts` is replaced by what is known then."""
        sums: dict[str, tuple[Array, Array]] = {}
        for pair in evidence:
            for camera, information, vector in self._list_terms(pair):
                before = sums.get(camera, (np.zeros((6, 6)), np.zeros(6)))
                sums[camera] = before[0] + information, before[1] + vector
        for camera, (information, vector) in sums.items():
            self._clicks.setdefault(camera, deque(maxlen=REMEMBERED)).append(
                (now_s, information, vector))
        self.drifts = self._assign({**self.drifts, **{c: self._test(c) for c in sums}})

    def _list_terms(self, pair: PairEvidence) -> list[tuple[str, Array, Array]]:
        """Return the information (6, 6) and its vector (6,) for each camera, the other right."""
        step = log_pose(pair.corrected.other_from_clicked @ pair.given.inverse)
        whole = np.linalg.inv(pair.corrected.covariance)
        values, vectors = np.linalg.eigh(whole - self._stiffness)
        information = (vectors * values.clip(0)) @ vectors.T
        vector = whole @ step  # of the images alone: at the optimum the prior pulls as much
        terms = []
        for camera, slope in zip(pair.cameras, (adjoint(pair.given), -np.eye(6)), strict=True):
            terms.append((camera, slope.T @ information @ slope, slope.T @ vector))
        return terms

    def _test(self, camera: str) -> MountDrift:
        """Return the drift since the moment that makes it most significant."""
        clicks = list(self._clicks[camera])
        informations = np.cumsum([each[1] for each in clicks[::-1]], axis=0)
        vectors = np.cumsum([each[2] for each in clicks[::-1]], axis=0)
        wide = np.diag(np.repeat([0.1, 0.1], 3) ** -2.0)  # an unseen direction is not known
        covariances = np.linalg.inv(informations + wide)
        steps = np.einsum('nij,nj->ni', covariances, vectors)
        allowed = np.diag(np.repeat([ALLOWED_RAD, ALLOWED_M], 3) ** 2.0)
        scores = np.einsum('ni,nij,nj->n', steps, np.linalg.inv(covariances + allowed), steps)
        first = min(MIN_CLICKS, len(clicks)) - 1
        best = first + int(scores[first:].argmax())
        return MountDrift(camera, steps[best, :3], steps[best, 3:], covariances[best] + allowed,
                          clicks[-1 - best][0], best + 1, float(scores[best]),
                          bool(scores[first] > RECENT_SHARE * ALARM))

    def _assign(self, drifts: dict[str, MountDrift]) -> dict[str, MountDrift]:
        """Give the alarm to the camera whose move explains most; name those nearly as good.

        A bump shows in each pair of the camera, so that the others seem to have moved, too.
        """
        worst = max(drifts.values(), key=lambda drift: drift.score)
        if not (worst.score > ALARM and worst.clicks >= MIN_CLICKS and worst.is_recent):
            return {camera: replace(drift, is_alarm=False, rivals=())
                    for camera, drift in drifts.items()}
        explained = {camera: self._explain(camera, worst.since_s) for camera in drifts}
        culprit = max(explained, key=lambda camera: explained[camera])
        least = max(CHANCE_CHI2, min(RIVAL_SHARE * explained[culprit],
                                     explained[culprit] - RIVAL_CHI2))
        rivals = tuple(sorted(camera for camera, energy in explained.items()
                              if camera != culprit and energy > least))
        return {camera: replace(drift, is_alarm=camera == culprit,
                                rivals=rivals if camera == culprit else ())
                for camera, drift in drifts.items()}

    def _explain(self, camera: str, since_s: float) -> float:
        """Return the chi-squared that a move of this camera alone takes off the clicks since."""
        clicks = [each for each in self._clicks[camera] if each[0] >= since_s]
        information = sum((each[1] for each in clicks), np.diag(np.full(6, 0.1 ** -2)))
        vector = sum((each[2] for each in clicks), np.zeros(6))
        return float(vector @ np.linalg.solve(information, vector))
