"""Notices from everyday clicks that a camera is no longer where TF has it.

A matcher that has depth or poses corrects the relative pose of two cameras, with a covariance that
includes its prior. Without that prior, what remains is the evidence of the images alone; it is
summed over clicks. A generalised CUSUM (Lorden, 1971; Willsky and Jones, 1976) looks for the moment
since which the sum contradicts the declared mount most.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, CorrectedPose, Transform
from crosspoint_ros.core.extrinsics.residuals import adjoint, log_pose
from crosspoint_ros.core.pipeline import LocateResult

REMEMBERED = 200  # clicks of a camera
MIN_CLICKS = 4
# What a right calibration may differ by all the time, per axis, and what matches of few clicks do.
ALLOWED_M, ALLOWED_RAD = 0.0015, np.radians(0.15)
ALARM = 22.5  # chi-squared of 6, 0.1 %
RECENT_SHARE = 0.25  # of the alarm, by the newest clicks alone: a camera set right is quiet
# Another camera explains nearly as much: that share of it, or less than an alarm is worth apart.
RIVAL_SHARE, RIVAL_CHI2 = 0.9, ALARM
CHANCE_CHI2 = 16.8  # of 6, 1 %: what explains no more than noise does does not count as one
# The prior of a matcher's corrected poses, per axis: its declared noise is a length (xfeat).
PER_AXIS = 1.7
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

    def explain(self) -> str:
        """Return the alarm in one sentence."""
        since = time.strftime('%H:%M', time.localtime(self.since_s))
        rivals = f'; it is {" or ".join(sorted((self.camera, *self.rivals)))}, by the clicks either'
        return f'not where TF says since {since}: {self}{rivals if self.rivals else ""}'


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
        return [(camera, slope.T @ information @ slope, slope.T @ vector)
                for camera, slope in zip(pair.cameras, (adjoint(pair.given), -np.eye(6)),
                                         strict=True)]

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


class MountHealth:
    """Whether the cameras are where TF says; used by the query thread, read by any."""

    def __init__(self, pose_noise_cm: float = 1.0, pose_noise_deg: float = 1.0) -> None:
        """Take the declared noise of the matcher."""
        self._monitor = DriftMonitor(
            max(pose_noise_cm, 0.1) / 100 / PER_AXIS,
            float(np.radians(max(pose_noise_deg, 0.1))) / PER_AXIS)
        self.cost_s = 0.0  # CPU time of the last click
        self._contradicted: dict[str, tuple[int, str]] = {}  # clicks in a row, and the last reason

    def add(self, result: LocateResult, now_s: float | None = None) -> None:
        """Take the poses that a matcher corrected; TF stays as it is. now_s: by default now."""
        started_s = time.thread_time()
        clicked = result.clicked
        evidence = []
        self._count_contradictions(result)
        for found in result.correspondences:
            corrected = found.match.corrected_pose if found.match is not None else None
            if corrected is not None and found.view is not None and clicked.ray_pose is not None \
                    and found.view.ray_pose is not None and is_positive(corrected.covariance):
                evidence.append(PairEvidence(
                    (clicked.camera, found.camera),
                    found.view.ray_pose.inverse @ clicked.ray_pose, corrected))
        if evidence:
            self._monitor.add(evidence, time.time() if now_s is None else now_s)
        self.cost_s = time.thread_time() - started_s

    def _count_contradictions(self, result: LocateResult) -> None:
        """Count the clicks in a row in which all pairs of a camera are refused as contradictory:
        beyond the declared noise no pose is measured any more."""
        reasons: dict[str, list[str]] = {}
        for found in result.correspondences:
            if found.view is None:
                continue
            rejected = found.rejected
            is_contradiction = (found.match is None and rejected is not None
                                and rejected.code == Code.INCONSISTENT)
            for camera in (result.clicked.camera, found.camera):
                reasons.setdefault(camera, []).append(
                    rejected.message if rejected is not None and is_contradiction else '')
        self._contradicted = {**self._contradicted, **{
            camera: (self._contradicted.get(camera, (0, ''))[0] + 1, each[0])
            if all(each) else (0, '') for camera, each in reasons.items()}}

    @property
    def drifts(self) -> Mapping[str, MountDrift]:
        """What is known of each camera."""
        return self._monitor.drifts

    @property
    def suspects(self) -> frozenset[str]:
        """The cameras that the alarms name; none without one."""
        alarmed = {camera for camera in {*self._contradicted, *self.drifts} if self.explain(camera)}
        return frozenset(alarmed.union(*(self.drifts[camera].rivals for camera in alarmed
                                         if camera in self.drifts)))

    def explain(self, camera: str) -> str:
        """Return the alarm of a camera; '' without one."""
        count, reason = self._contradicted.get(camera, (0, ''))
        if count >= MIN_CLICKS and count == max(n for n, _ in self._contradicted.values()):
            return f'not where TF says, by the last {count} clicks, which are refused: {reason}'
        drift = self.drifts.get(camera)
        return drift.explain() if drift is not None and drift.is_alarm else ''


def is_positive(covariance: Array) -> bool:
    """Return whether a covariance can be inverted: another matcher may not know it."""
    return bool(np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0)
