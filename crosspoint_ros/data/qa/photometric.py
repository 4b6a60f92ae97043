"""Whether two images show the same where depth and poses say: one is laid over the other.

Depth agrees with itself where a pose is off by a degree, along a wall or a table; what is drawn on
them does not. What is left between them is optical flow: DIS (Kroeger et al., 2016), by OpenCV.
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
    backproject_base_m,
)

WIDTH, CELL, SCALE = 320, 4, 2.0  # of what is compared, px; of its depth; to 640 px of width
MARGIN = 4
MIN_TEXTURE, TEXTURE_WINDOW = 2.0, 9  # squared grey levels a px, across and along; px
MAX_SLANT, MAX_BEND = 0.15, 0.03  # of the depth, within three cells
SAME_M, SAME_RATIO = 0.015, 0.02  # two depths of one surface
MIN_COMPARED = 200  # pixels of texture that both images show
MAX_SHIFT_PX, MAX_POINT_SHIFT_PX = 4.0, 6.0  # of a pair, of a point; at 640 px of width
CAUSES = 'a pose or a lens is off, or the depth is not registered to the colours'

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FlowReference:
    """A view as it is compared: grey (h, w), its textured pixels; points (n, 3) of cells, base, m.

    smooth: the cells (h, w) in which one surface goes on.
    """

    view: View
    grey: npt.NDArray[np.uint8]
    textured: Mask
    points_base_m: Array
    smooth: Mask


def make_flow_reference(view: View) -> FlowReference:
    """Prepare a view to be compared with others."""
    grey = _to_grey(view)
    cells = _cell_shape(grey)
    x, y = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in zip(
        cells[::-1], view.image.shape[1::-1], strict=True))
    pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    depth_m = _sample_depth_m(view, pixels)
    return FlowReference(view, grey, _texture_mask(grey), backproject_base_m(view, pixels, depth_m),
                _smooth_mask(depth_m.reshape(cells)))


def flow_magnitude_px(reference: FlowReference, other: View) -> npt.NDArray[np.float32]:
    """Return by how much the other image lies beside this one, (h, w), px at 640 px of width.

    NaN where nothing can be told: no texture, no depth, an edge, or another surface there.
    """
    grey = _to_grey(other)
    size = reference.grey.shape[::-1]
    in_other = require_pose(other).inverse.transform_points(reference.points_base_m)
    ahead = in_other[:, 2] > MIN_DEPTH_M  # False where the depth is not known
    there = other.intrinsics.project(np.where(ahead[:, None], in_other, (0.0, 0.0, 1.0)))
    same = np.abs(_sample_depth_m(other, there) - in_other[:, 2]) < SAME_M + SAME_RATIO * in_other[:, 2]
    shown = ahead & same & np.isfinite(there).all(axis=1)
    usable = reference.smooth & shown.reshape(reference.smooth.shape)
    at = (there + 0.5) * grey.shape[1] / other.image.shape[1] - 0.5
    at_x, at_y = (cv2.resize(at[:, axis].reshape(reference.smooth.shape).astype(np.float32), size)
                  for axis in (0, 1))
    known = cv2.resize(usable.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    known[(at_x < 2) | (at_x > grey.shape[1] - 3) | (at_y < 2) | (at_y > grey.shape[0] - 3)] = 0
    laid_over = np.where(known, cv2.remap(grey, at_x, at_y, cv2.INTER_LINEAR), reference.grey)
    flow = _create_flow().calc(reference.grey, laid_over.astype(np.uint8),
                        None)  # type: ignore[call-overload]
    inner = cv2.erode(known, np.ones((7, 7), np.uint8)).astype(bool) & reference.textured
    return np.where(inner, SCALE * np.linalg.norm(flow, axis=2), np.nan).astype(np.float32)


def median_flow_px(flow_px: npt.NDArray[np.float32]) -> float:
    """How far two images lie beside each other; NaN where too little tells."""
    known = flow_px[np.isfinite(flow_px)]
    return float(np.median(known)) if known.size >= MIN_COMPARED else np.nan


def rejection_reason(flow_px: npt.NDArray[np.float32]) -> str:
    """Say why nothing of a pair is certain; '' if its images lie where they should."""
    median = median_flow_px(flow_px)
    if np.isnan(median):
        return 'too little texture that both show tells whether a pose is right'
    if median > MAX_SHIFT_PX:
        return f'the images lie more than {MAX_SHIFT_PX:g} px beside each other: {CAUSES}'
    return ''


def reject_shifted_points(reference: FlowReference, other: View, pixels: Array, projected: ProjectedPoints) -> str:
    """Take the certainty from visible points (n, 2) whose image is not where they were placed.

    Returns why nothing of this pair is certain, or ''.
    """
    flow_px = flow_magnitude_px(reference, other)
    if problem := rejection_reason(flow_px):
        return problem
    height, width = flow_px.shape
    column, row = np.rint((pixels + 0.5) * width / reference.view.image.shape[1] - 0.5).astype(int).T
    own = flow_px[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    projected.visibility[(projected.visibility == Visibility.VISIBLE) & (own > MAX_POINT_SHIFT_PX)] = Visibility.MISALIGNED
    return ''


def _create_flow() -> cv2.DISOpticalFlow:
    """Of the presets, FAST; as it is, it finds 6 of 10 px: its refinement pulls towards none."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(1)
    flow.setVariationalRefinementIterations(0)
    return flow


def _to_grey(view: View) -> npt.NDArray[np.uint8]:
    height, width = view.image.shape[:2]
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (WIDTH, max(1, round(height * WIDTH / width))),
                                 interpolation=cv2.INTER_AREA), np.uint8)


def _cell_shape(grey: npt.NDArray[np.uint8]) -> tuple[int, int]:
    return max(1, grey.shape[0] // CELL), max(1, grey.shape[1] // CELL)


def _sample_depth_m(view: View, pixels: Array) -> Array:
    """The depth (n,) at pixels (n, 2); at the nearest on the image where they are outside."""
    assert view.depth_m is not None
    height, width = view.depth_m.shape
    column, row = np.rint(np.clip(np.nan_to_num(pixels), -1e6, 1e6)).astype(int).T
    return view.depth_m[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)].astype(float)


def _texture_mask(grey: npt.NDArray[np.uint8]) -> Mask:
    """Where the smaller eigenvalue of the structure tensor tells of corners (Shi and Tomasi)."""
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *axis) / 32 for axis in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.boxFilter(product, -1, (TEXTURE_WINDOW, TEXTURE_WINDOW))
                  for product in (dx * dx, dx * dy, dy * dy))
    textured = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy) > MIN_TEXTURE
    inner = np.zeros_like(textured)
    inner[MARGIN:-MARGIN, MARGIN:-MARGIN] = textured[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.asarray(inner)


def _smooth_mask(depth_m: Array) -> Mask:
    """Tell of cells (h, w) whether their surface goes on into those around them."""
    known = np.isfinite(depth_m)
    deep = np.where(known, depth_m, 0.0).astype(np.float32)
    around = np.ones((3, 3), np.uint8)
    slant = cv2.dilate(deep, around) - cv2.erode(deep, around)
    bend = np.abs(cv2.Laplacian(deep, cv2.CV_32F))
    return np.asarray(known & (slant < MAX_SLANT * deep) & (bend < MAX_BEND * deep))
