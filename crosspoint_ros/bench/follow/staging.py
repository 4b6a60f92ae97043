"""Stages what recordings do not show: a board before the target, and the target taken away."""
from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.geometry import require_pose

RADIUS_M = 0.12  # around the target, of what is hidden or taken away
BOARD_SHARE = 0.8  # of the target's depth: where the board is
BOARD_GREY = 110


@dataclass(frozen=True)
class Staging:
    """When the target is hidden, and from when on it is away, s after the click."""

    hidden_s: tuple[float, float] = (1.0, 2.0)
    away_s: float = 3.0

    def change(self, view: View, point_base_m: Array, since_click_s: float) -> View:
        """Return the view as it is at that time; point_base_m: (3,) of the target."""
        if self.is_hidden(since_click_s):
            return _hide(view, point_base_m)
        return _take_away(view, point_base_m) if self.is_away(since_click_s) else view

    def is_hidden(self, since_click_s: float) -> bool:
        """Return whether the board is there."""
        return self.hidden_s[0] <= since_click_s < self.hidden_s[1]

    def is_away(self, since_click_s: float) -> bool:
        """Return whether the target is away."""
        return since_click_s >= self.away_s


def _hide(view: View, point_base_m: Array) -> View:
    disc, range_m = _select_disc(view, point_base_m)
    if not disc.any():
        return view
    image = view.image.copy()
    image[disc] = BOARD_GREY
    return replace(view, image=image, depth_m=None if view.depth_m is None else np.where(
        disc, np.float32(BOARD_SHARE * range_m), view.depth_m))


def _take_away(view: View, point_base_m: Array) -> View:
    """Paint over what is around the target, and give it the depths of what is around that.

    Each pixel gets the plane through the depths of the ring around the disc.
    """
    disc, _ = _select_disc(view, point_base_m)
    if not disc.any():
        return view
    image = np.asarray(cv2.inpaint(view.image, disc.astype(np.uint8), 5, cv2.INPAINT_TELEA),
                       np.uint8)
    if view.depth_m is None:
        return replace(view, image=image)
    ring = (cv2.dilate(disc.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0) & ~disc & (
        view.depth_m > 0)
    rows, columns = np.nonzero(ring)
    behind = 1 / view.depth_m[ring]  # of a plane linear in the pixels
    far = behind <= np.median(behind)  # what is in front of the object is not behind it
    at = np.stack([columns, rows, np.ones(len(rows))], axis=1)[far]
    plane, *_ = np.linalg.lstsq(at, behind[far], rcond=None)
    rows, columns = np.nonzero(disc)
    depth_m = view.depth_m.copy()
    depth_m[disc] = 1 / np.clip(plane[0] * columns + plane[1] * rows + plane[2], 0.05, 20.0)
    return replace(view, image=image, depth_m=depth_m)


def _select_disc(view: View, point_base_m: Array) -> tuple[npt.NDArray[np.bool_], float]:
    at_cam = require_pose(view).inverse.transform_points(point_base_m)
    height, width = view.image.shape[:2]
    if not at_cam[2] > 0:
        return np.zeros((height, width), bool), np.nan
    pixel = view.intrinsics.project(at_cam)
    rows, columns = np.mgrid[:height, :width]
    radius_px = RADIUS_M * view.intrinsics.fx_px / at_cam[2]
    return np.hypot(columns - pixel[0], rows - pixel[1]) < radius_px, float(at_cam[2])
