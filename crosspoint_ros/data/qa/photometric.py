"""Checks that two images agree where depth and poses put them, by optical flow between them.

Along a wall or a table, depth agrees with itself even if a pose is off by a degree; the texture
does not. One image is warped into the other by depth and poses, and the residual motion is measured
as DIS optical flow (Kroeger et al., 2016).
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.data.qa.point_visibility import (
    MIN_DEPTH_M,
    ProjectedPoints,
    Visibility,
    sample_depth_m,
)

WIDTH, CELL, SCALE = 320, 4, 2.0  # px: of the compared image; of its depth; to 640 px of width
MARGIN = 4
MIN_TEXTURE, TEXTURE_WINDOW = 2.0, 9  # squared grey levels a px; px
MAX_SLANT, MAX_BEND = 0.15, 0.03  # of the depth, within three cells
SAME_M, SAME_RATIO = 0.015, 0.02  # between two depths of one surface
MIN_COMPARED = 200  # textured pixels that both images show
MAX_SHIFT_PX, MAX_POINT_SHIFT_PX = 4.0, 6.0  # of a pair, of a point; at 640 px of width
CAUSES = 'a pose or the intrinsics are off, or the depth is not registered to the colours'

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FlowReference:
    """A view prepared for comparison: grey (h, w), its textured pixels, the points of its cells."""

    view: View
    grey: npt.NDArray[np.uint8]
    textured: Mask
    points_base_m: Array  # (n, 3), one a cell
    smooth: Mask  # the cells (h, w) that are within one surface

    @classmethod
    def from_view(cls, view: View) -> FlowReference:
        """Prepare a view."""
        grey = _to_grey(view)
        cells = max(1, grey.shape[0] // CELL), max(1, grey.shape[1] // CELL)
        x, y = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in zip(
            cells[::-1], view.image.shape[1::-1], strict=True))
        pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        depth_m = sample_depth_m(view, pixels)
        points = require_pose(view).transform_points(view.backproject(pixels, depth_m))
        return cls(view, grey, _find_texture(grey), points,
                   _find_smooth_cells(depth_m.reshape(cells)))


def measure_flow_px(reference: FlowReference, other: View) -> npt.NDArray[np.float32]:
    """Return the shift (h, w) between the reference and the warped other image.

    In px at 640 px of width; NaN without texture or depth, at edges and on other surfaces.
    """
    grey = _to_grey(other)
    size = reference.grey.shape[::-1]
    in_other = require_pose(other).inverse.transform_points(reference.points_base_m)
    ahead = in_other[:, 2] > MIN_DEPTH_M  # False where the depth is unknown
    projected = other.intrinsics.project(np.where(ahead[:, None], in_other, (0.0, 0.0, 1.0)))
    gap = np.abs(sample_depth_m(other, projected) - in_other[:, 2])
    is_same = gap < SAME_M + SAME_RATIO * in_other[:, 2]
    shown = ahead & is_same & np.isfinite(projected).all(axis=1)
    usable = reference.smooth & shown.reshape(reference.smooth.shape)
    at = (projected + 0.5) * grey.shape[1] / other.image.shape[1] - 0.5
    at_x, at_y = (cv2.resize(at[:, axis].reshape(reference.smooth.shape).astype(np.float32), size)
                  for axis in (0, 1))
    known = cv2.resize(usable.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    known[(at_x < 2) | (at_x > grey.shape[1] - 3) | (at_y < 2) | (at_y > grey.shape[0] - 3)] = 0
    warped = np.where(known, cv2.remap(grey, at_x, at_y, cv2.INTER_LINEAR), reference.grey)
    flow = _create_flow().calc(reference.grey, warped.astype(np.uint8),
                               None)  # type: ignore[call-overload]
    inner = cv2.erode(known, np.ones((7, 7), np.uint8)).astype(bool) & reference.textured
    return np.where(inner, SCALE * np.linalg.norm(flow, axis=2), np.nan).astype(np.float32)


def compute_median_flow_px(flow_px: npt.NDArray[np.float32]) -> float:
    """Return the median shift of a pair; NaN with too little texture."""
    known = flow_px[np.isfinite(flow_px)]
    return float(np.median(known)) if known.size >= MIN_COMPARED else np.nan


def explain_rejection(flow_px: npt.NDArray[np.float32]) -> str:
    """Return why a pair is rejected; '' if its images agree."""
    median = compute_median_flow_px(flow_px)
    if np.isnan(median):
        return 'too little common texture to check the poses'
    if median > MAX_SHIFT_PX:
        return f'the images are misaligned by more than {MAX_SHIFT_PX:g} px: {CAUSES}'
    return ''


def reject_shifted_points(reference: FlowReference, other: View, pixels: Array,
                          projected: ProjectedPoints) -> str:
    """Mark visible points (n, 2) as MISALIGNED where the images disagree about them.

    Returns the reason if the whole pair is rejected, otherwise ''.
    """
    flow_px = measure_flow_px(reference, other)
    if reason := explain_rejection(flow_px):
        return reason
    height, width = flow_px.shape
    at = (pixels + 0.5) * width / reference.view.image.shape[1] - 0.5
    column, row = np.rint(at).astype(int).T
    shift_px = flow_px[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    is_visible = projected.visibility == Visibility.VISIBLE
    projected.visibility[is_visible & (shift_px > MAX_POINT_SHIFT_PX)] = Visibility.MISALIGNED
    return ''


def _create_flow() -> cv2.DISOpticalFlow:
    """Create DIS flow, preset FAST, without refinement, which would shrink 10 px to 6."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(1)
    flow.setVariationalRefinementIterations(0)
    return flow


def _to_grey(view: View) -> npt.NDArray[np.uint8]:
    height, width = view.image.shape[:2]
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (WIDTH, max(1, round(height * WIDTH / width))),
                                 interpolation=cv2.INTER_AREA), np.uint8)


def _find_texture(grey: npt.NDArray[np.uint8]) -> Mask:
    """Return where the smaller eigenvalue of the structure tensor is large (Shi and Tomasi)."""
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.boxFilter(product, -1, (TEXTURE_WINDOW, TEXTURE_WINDOW))
                  for product in (dx * dx, dx * dy, dy * dy))
    textured = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy) > MIN_TEXTURE
    return np.pad(textured[MARGIN:-MARGIN, MARGIN:-MARGIN], MARGIN)


def _find_smooth_cells(depth_m: Array) -> Mask:
    """Return the cells (h, w) whose surface continues into their neighbours."""
    known = np.isfinite(depth_m)
    filled = np.where(known, depth_m, 0.0).astype(np.float32)
    around = np.ones((3, 3), np.uint8)
    slant = cv2.dilate(filled, around) - cv2.erode(filled, around)
    bend = np.abs(cv2.Laplacian(filled, cv2.CV_32F))
    return np.asarray(known & (slant < MAX_SLANT * filled) & (bend < MAX_BEND * filled))
