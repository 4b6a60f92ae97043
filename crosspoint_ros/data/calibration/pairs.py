"""Matches the frames of a calibration pair by pair, to a fraction of a pixel."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from crosspoint_ros.core.datatypes import Array, Rejected, View
from crosspoint_ros.core.extrinsics.residuals import PosedMatches
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.data.calibration.frames import PosedView
from crosspoint_ros.data.qa.frame_pairs import pick_evenly
from crosspoint_ros.matchers.xfeat import XFeatMatcher

MAX_PAIRS, MAX_MATCHES = 90, 200
MIN_TURN_DEG, MIN_SHIFT_M, MAX_ANGLE_DEG = 4.0, 0.05, 60.0  # between two frames of a pair
WINDOW_PX = (15, 15)
MAX_RETURN_PX, MAX_MOVED_PX, MIN_REFINED = 0.3, 5.0, 60  # the second at 640 px of width
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01)


def choose_pairs(views: Sequence[PosedView], target: str, most: int = MAX_PAIRS
                 ) -> list[tuple[PosedView, PosedView]]:
    """Return pairs whose views differ, and not too much, over all turns.

    Most are with the target; the others are of one moving camera, whose mount matters too.
    """
    candidates: list[list[tuple[float, int, tuple[PosedView, PosedView]]]] = [[], []]
    for i, a in enumerate(views):
        for b in views[i + 1:]:
            cameras = {a.view.camera, b.view.camera}
            if target not in cameras and len(cameras) > 1:
                continue
            turn_deg, shift_m = _measure_motion(a, b)
            if turn_deg < MAX_ANGLE_DEG and (turn_deg > MIN_TURN_DEG or shift_m > MIN_SHIFT_M):
                group = candidates[target not in cameras]
                group.append((turn_deg, len(group), (a, b)))
    with_target, rest = (sorted(each, key=lambda c: c[:2]) for each in candidates)
    return [pair for _, _, pair in [*pick_evenly(with_target, most), *pick_evenly(rest, most // 3)]]


def _measure_motion(a: PosedView, b: PosedView) -> tuple[float, float]:
    a_pose, b_pose = require_pose(a.view), require_pose(b.view)
    b_from_a = b_pose.inverse @ a_pose
    return (float(np.degrees(np.linalg.norm(cv2.Rodrigues(b_from_a.R)[0]))),
            float(np.linalg.norm(b_from_a.t_m)))


class PairMatcher:
    """Matches pairs of frames by their images alone; features of the frames are cached."""

    def __init__(self, frames: int = 100) -> None:
        self._matcher = XFeatMatcher(use_poses=False, use_depth=False, second_descriptor='never',
                                     remembered_frames=frames)

    def match(self, a: PosedView, b: PosedView) -> PosedMatches | None:
        """Return the matches of two frames, a sample of many; None if they cannot be matched."""
        try:
            pixels = self._matcher.match_images(a.view, b.view)
        except Rejected:
            return None
        pixels = refine_subpixel(a.view, b.view, *pixels)
        keep = np.random.default_rng(len(pixels[0])).permutation(len(pixels[0]))[:MAX_MATCHES]
        return PosedMatches.from_views((a.view, b.view), (a.base_from_body, b.base_from_body),
                                       (pixels[0][keep], pixels[1][keep]), (a.number, b.number))

    def match_all(self, pairs: Iterable[tuple[PosedView, PosedView]]) -> list[PosedMatches]:
        """Match many pairs; those that cannot be matched are left out."""
        return [found for pair in pairs if (found := self.match(*pair)) is not None]


def refine_subpixel(a: View, b: View, at_a: Array, at_b: Array) -> tuple[Array, Array]:
    """Align the patch around each match (n, 2), there and back (Lucas-Kanade).

    XFeat's keypoints are good to about 2 px, aligned patches to 0.3. Returns those that come back
    to within 0.3 px; all of them, unaligned, where few do, as with views far apart.
    """
    if not len(at_a):
        return at_a, at_b
    grey = [cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY) for view in (a, b)]
    start_a, start_b = (at.astype(np.float32).reshape(-1, 1, 2) for at in (at_a, at_b))
    scale = max(b.image.shape[1] / 640, 1.0)  # XFeat sees larger images at 640 px
    levels = round(np.log2(scale))
    there, ok = _track(grey[0], grey[1], start_a, start_b, levels)
    back, ok_back = _track(grey[1], grey[0], there, start_a, levels)
    good = ok & ok_back & (np.linalg.norm(back - start_a, axis=2).ravel() < MAX_RETURN_PX) & (
        np.linalg.norm(there - start_b, axis=2).ravel() < scale * MAX_MOVED_PX)
    if good.sum() < MIN_REFINED:
        return at_a, at_b
    return at_a[good], there.reshape(-1, 2)[good].astype(np.float64)


def _track(grey_a: Any, grey_b: Any, start: Any, guess: Any, levels: int) -> tuple[Any, Any]:
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        grey_a, grey_b, start, guess.copy(), winSize=WINDOW_PX, maxLevel=levels, criteria=CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW)
    return found, status.ravel() > 0
