"""Says whether what was clicked rests, by further images of the clicked camera."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.core.track.observation import project
from crosspoint_ros.core.track.patches import GreyPyramid, align_patches, invert_2x2

REST_PX, REST_STRETCH = 0.25, 0.005  # a clicked patch that moved and grew less rests
MIN_MOVED = 2  # images in a row that show it elsewhere: one alone may be noise
MAX_SIGMA_PX = 0.5  # of the patch: more along an edge
STRETCH_STEP, STRETCH_SPACING_PX = 0.03, 2  # a parabola through three sizes, of 26 px
MIN_CORRELATION = 0.85  # what turns out of sight looks a little different at first
MAX_FRAMES = 8
NEAREST_FARTHEST_M = (0.1, 5.0)


def find_rest(result: LocateResult, frames: Sequence[View]) -> tuple[int, int]:
    """Return the stamps between which the clicked camera shows the click at rest.

    A thing that moves along a moving camera's path looks to that camera like another depth; to one
    at rest it does not. They end before the first two images in a row, to either side of the click,
    that show it elsewhere. Images of a clicked camera that moves, or in which the click is hidden
    or has no texture in some direction, say nothing.
    """
    clicked, pyramid = result.clicked, GreyPyramid(result.clicked.image)
    own = _list_own(result, frames)
    spread = np.linspace(0, len(own) - 1, min(len(own), MAX_FRAMES))
    chosen = [own[round(index)] for index in spread]
    before = [frame for frame in reversed(chosen) if frame.stamp_ns < clicked.stamp_ns]
    still_ns = [clicked.stamp_ns]
    for side in (before, [frame for frame in chosen if frame.stamp_ns > clicked.stamp_ns]):
        moved = 0
        for frame in side:
            rests = _is_at_rest(pyramid, result.pixel, frame)
            if rests:
                still_ns.append(frame.stamp_ns)
            if rests is not None:
                moved = 0 if rests else moved + 1
            if moved == MIN_MOVED:
                break
    return min(still_ns), max(still_ns)


def has_moved(result: LocateResult, frames: Sequence[View]) -> bool:
    """Return whether the newest images of the clicked camera show the click elsewhere."""
    newest = [frame for frame in _list_own(result, frames)
              if frame.stamp_ns > result.clicked.stamp_ns][-MIN_MOVED:]
    pyramid = GreyPyramid(result.clicked.image)
    rests = [_is_at_rest(pyramid, result.pixel, frame) for frame in newest]
    return len(rests) == MIN_MOVED and all(each is False for each in rests)


def _list_own(result: LocateResult, frames: Sequence[View]) -> list[View]:
    """Return the images of the clicked camera from its place, the oldest first."""
    return sorted((frame for frame in frames if _is_same_place(
        frame, result.clicked, result.pixel)), key=lambda one: one.stamp_ns)


def _is_at_rest(clicked: GreyPyramid, pixel: Array, frame: View) -> bool | None:
    """Return whether an image shows the clicked patch where it was; None: it does not show it."""
    moved = _measure_movement(clicked, pixel, GreyPyramid(frame.image))
    return None if moved is None else moved[0] <= REST_PX and abs(moved[1]) <= REST_STRETCH


def _measure_movement(clicked: GreyPyramid, pixel: Array, newer: GreyPyramid
                      ) -> tuple[float, float] | None:
    """Return how far a patch moved, px, and by which share it grew; None if it is not seen well."""
    pixels, everywhere = pixel[None], np.ones(clicked.grey.shape, np.float32)
    seen = align_patches(clicked, everywhere, pixels, newer, pixels, np.eye(2)[None])
    sigma_px = np.sqrt(np.linalg.eigvalsh(
        invert_2x2(seen.information + 1e-9 * np.eye(2)))[0, -1])
    if not (seen.correlation[0] > MIN_CORRELATION and sigma_px < MAX_SIGMA_PX):
        return None
    sizes = np.array([1 - STRETCH_STEP, 1.0, 1 + STRETCH_STEP])
    less, same, more = align_patches(
        clicked, everywhere, np.tile(pixels, (3, 1)), newer, np.tile(pixels, (3, 1)),
        sizes[:, None, None] * np.eye(2), (STRETCH_SPACING_PX,)).correlation
    if not (bend := 2 * same - less - more) > 0:  # no maximum: cut off, or flat
        return None
    return float(np.linalg.norm(seen.pixels[0] - pixel)), float(
        STRETCH_STEP * (more - less) / (2 * bend))


def _is_same_place(frame: View, clicked: View, pixel: Array) -> bool:
    """Return whether an image is of the clicked camera, which has not moved since."""
    if frame.camera != clicked.camera or frame.stamp_ns == clicked.stamp_ns or (
            frame.ray_pose is None or frame.image.shape != clicked.image.shape):
        return False
    ray_m = clicked.backproject(np.tile(pixel, (2, 1)), np.array(NEAREST_FARTHEST_M))
    shown = project(frame, require_pose(clicked).transform_points(ray_m))
    return bool(np.linalg.norm(shown - pixel, axis=1).max() < REST_PX)
