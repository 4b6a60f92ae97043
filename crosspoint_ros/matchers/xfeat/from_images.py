"""The motion between two views out of nothing but their matches, up to scale."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform
from crosspoint_ros.matchers.xfeat.matching import Mask, Matches
from crosspoint_ros.matchers.xfeat.two_view import (
    Lenses,
    Prior,
    fundamental,
    homogeneous,
    in_front,
    refine,
    sampson,
)

MIN_MATCHES = 8
FUNDAMENTAL_PX = (1.0, 2.0, 4.0)
ESSENTIAL_PX = 2.0
ROUNDS = 3000
# Depths in units of the baseline, which is all that images tell.
NEAREST, FARTHEST = 0.05, 1e4
LOOSE = Prior(rotation_rad=0.15, translation=0.6)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A motion with a unit baseline; support: about the number of matches in front that fit it."""

    motion: Transform
    support: float


def estimate(matches: Matches, lenses: Lenses,
             parallel: Callable[..., Iterable[Any]] = map) -> Estimate | None:
    """Return the motion that the most matches support; None if 8 do not support any."""
    best: Estimate | None = None
    for essential, fits in _essentials(matches, lenses, parallel):
        candidate = _decompose(essential, matches.where(fits), lenses)
        _, ok = support(candidate, lenses, matches, 6.0)
        if ok.sum() < MIN_MATCHES:
            continue
        candidate = refine_unit(candidate, lenses, matches.where(ok))
        found, _ = support(candidate, lenses, matches, 3.0)
        if best is None or found > best.support:
            best = Estimate(candidate, found)
    return best if best is not None and best.support >= MIN_MATCHES else None


def support(motion: Transform, lenses: Lenses, matches: Matches,
            limit_px: float) -> tuple[float, Mask]:
    """Sum 1 - (r / limit)^2 over the matches that fit and lie before both cameras; which do."""
    residual = sampson(fundamental(motion, lenses), homogeneous(matches.clicked_ideal),
                       homogeneous(matches.other_ideal))
    fits = (np.abs(residual) < limit_px) & in_front(motion, lenses, matches, NEAREST, FARTHEST)
    return float((1 - (residual[fits] / limit_px) ** 2).sum()), fits


def refine_unit(motion: Transform, lenses: Lenses, matches: Matches) -> Transform:
    """Refine a motion whose baseline is one, and keep it one."""
    motion = refine(motion, lenses, matches, LOOSE, rounds=12)
    return Transform(motion.R, motion.t_m / np.linalg.norm(motion.t_m))


def _essentials(matches: Matches, lenses: Lenses, parallel: Callable[..., Iterable[Any]],
                ) -> list[tuple[Array, Mask]]:
    """Essential matrices of several robust estimators, each with the matches that fit it."""
    if len(matches) < MIN_MATCHES:
        return []
    clicked, other = matches.clicked_ideal, matches.other_ideal
    rays = _rays(clicked, lenses.clicked), _rays(other, lenses.other)

    def by_pixels(limit_px: float) -> tuple[Any, Any]:
        F, mask = cv2.findFundamentalMat(clicked, other, cv2.USAC_MAGSAC, limit_px, 0.999, ROUNDS)
        whole = F is not None and F.shape == (3, 3)
        return lenses.other.T @ F @ lenses.clicked if whole else None, mask

    def by_rays(method: int) -> tuple[Any, Any]:
        E, mask = cv2.findEssentialMat(*rays, np.eye(3), method, 0.999,
                                       ESSENTIAL_PX / lenses.clicked[0, 0])
        return E if E is not None and E.shape == (3, 3) else None, mask

    jobs = [(by_rays, cv2.USAC_MAGSAC), (by_rays, cv2.USAC_ACCURATE),
            *((by_pixels, limit_px) for limit_px in FUNDAMENTAL_PX)]
    found = parallel(lambda job: job[0](job[1]), jobs)
    return [(E, mask.ravel() > 0) for E, mask in found if E is not None and mask.sum() >= 6]


def _rays(ideal: Array, lens: Array) -> Array:
    return np.ascontiguousarray((homogeneous(ideal) @ np.linalg.inv(lens).T)[:, :2])


def _decompose(essential: Array, matches: Matches, lenses: Lenses) -> Transform:
    U, _, Vt = np.linalg.svd(essential)
    E = U @ np.diag([1.0, 1.0, 0.0]) @ Vt
    _, R, t, _ = cv2.recoverPose(E, _rays(matches.clicked_ideal, lenses.clicked),
                                 _rays(matches.other_ideal, lenses.other), np.eye(3))
    return Transform(np.asarray(R, np.float64), np.asarray(t, np.float64).ravel())
