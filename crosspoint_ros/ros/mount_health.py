"""Feeds the matches of every click to the drift monitor, and words its alarm."""
from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code
from crosspoint_ros.core.extrinsics.drift import (
    MIN_CLICKS,
    DriftMonitor,
    MountDrift,
    PairEvidence,
)
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.ros.config import Config

# The prior of a matcher's corrected poses, per axis: its declared noise is a length (xfeat).
PER_AXIS = 1.7


class MountHealth:
    """Whether the cameras are where TF says; used by the query thread, read by any."""

    def __init__(self, config: Config) -> None:
        options = {**config.refiner_options, **config.matcher_options}
        self._monitor = DriftMonitor(
            max(float(options.get('pose_noise_cm', 1.0)), 0.1) / 100 / PER_AXIS,
            float(np.radians(max(float(options.get('pose_noise_deg', 1.0)), 0.1))) / PER_AXIS)
        self.cost_s = 0.0  # of the last click
        self._contradicted: dict[str, tuple[int, str]] = {}  # clicks in a row, and the last reason

    def add(self, result: LocateResult) -> None:
        """Take the poses that a matcher corrected; TF stays as it is."""
        started_s = time.perf_counter()
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
            self._monitor.add(evidence, time.time())
        self.cost_s = time.perf_counter() - started_s

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

    def explain(self, camera: str) -> str:
        """Return the alarm of a camera; '' without one."""
        count, reason = self._contradicted.get(camera, (0, ''))
        if count >= MIN_CLICKS and count == max(n for n, _ in self._contradicted.values()):
            return f'not where TF says, by the last {count} clicks, which are refused: {reason}'
        drift = self.drifts.get(camera)
        return explain_drift(drift) if drift is not None and drift.is_alarm else ''


def is_positive(covariance: Array) -> bool:
    """Return whether a covariance can be inverted: another matcher may not know it."""
    return bool(np.isfinite(covariance).all() and np.linalg.eigvalsh(covariance)[0] > 0)


def explain_drift(drift: MountDrift) -> str:
    """Return the alarm in one sentence."""
    since = time.strftime('%H:%M', time.localtime(drift.since_s))
    rivals = '; it is ' + ' or '.join(sorted((drift.camera, *drift.rivals))) + (
        ', by the clicks either') if drift.rivals else ''
    return f'not where TF says since {since}: {drift}{rivals}'
