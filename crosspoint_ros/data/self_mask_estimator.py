"""Estimates the mask of the robot's own body in a moving camera: pixels that do not change.

Three cues are combined: the spread of a pixel's colour over all views; the edges around it, whose
gradients add up on the body and cancel in the scene; and depth, if any, which changes in the scene
and on the body stays or is unknown, too near for the sensor.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array

Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]


class SelfMaskUndetermined(ValueError):  # noqa: N818  (a result, not an error)
    """These images do not separate the robot's body from the scene, and why."""


@dataclass(frozen=True)
class SelfMaskParams:
    """The thresholds. Spreads are relative to the image's median spread."""

    new_view: float = 4.0  # mean change of a thumbnail, grey levels, that makes an image a new view
    min_views: int = 5
    min_spread: float = 8.0  # grey levels: below it the view did not change
    max_edges_kept: float = 0.85  # share of the edges' strength that does not move
    plain_spread: float = 0.2  # below it and connected: body without edges, too
    seed_spread: float = 0.45  # below it among edges that do not move: body
    region_spread: float = 0.6  # below it and not contradicted by depth: body
    moving_depth: float = 0.02  # relative standard deviation of depth
    steady_depth: float = 0.01
    max_edge_distance: float = 1 / 30  # of the width: of a smooth part from edges that do not move
    min_area: float = 0.001  # of the image: smaller parts are dropped
    margin: float = 1 / 320  # of the width, added all around


@dataclass(frozen=True, eq=False)
class SelfMask:
    """mask (h, w), True on the body, and what it is based on."""

    mask: Mask
    views: int
    median_spread: float
    edges_kept: float
    with_depth: bool


class SelfMaskEstimator:
    """Accumulates images one by one, keeping only sums."""

    def __init__(self, params: SelfMaskParams | None = None) -> None:
        self._params = params or SelfMaskParams()
        self._size: tuple[int, ...] = ()
        self._thumbnail: Field | None = None
        self.images = self.views = 0

    def add(self, image: npt.NDArray[np.uint8], depth_m: Field | None = None) -> bool:
        """Add an image (h, w, 3) RGB and its depth (h, w); return False if it shows nothing new.

        Raises `SelfMaskUndetermined` when its size, or its depth's, is not that of the first.
        """
        if not self._size:
            self._size = image.shape
            self._allocate(*image.shape[:2])
        size = _format_size(self._size)
        if image.shape != self._size:
            raise SelfMaskUndetermined(f'image {self.images + 1} is {_format_size(image.shape)}, '
                                       f'the first is {size}: a mask is for one size')
        if depth_m is not None and depth_m.shape != self._size[:2]:
            raise SelfMaskUndetermined(f'the depth is {_format_size(depth_m.shape)}, the image '
                                       f'{size}: register it to the image')
        self.images += 1
        thumbnail = _thumbnail(image)
        if self._thumbnail is not None and \
                np.abs(thumbnail - self._thumbnail).mean() < self._params.new_view:
            return False
        self._thumbnail = thumbnail
        self.views += 1
        self._accumulate(cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32), depth_m)
        return True

    def _allocate(self, height: int, width: int) -> None:
        self._colour, self._colour2 = np.zeros((2, height, width, 3))
        self._along = np.zeros((2, height, width), np.float32)
        self._strength = np.zeros((height, width), np.float32)
        self._known, self._depth, self._depth2 = np.zeros((3, height, width))
        self._depths = 0

    def _accumulate(self, smooth: Field, depth_m: Field | None) -> None:
        self._colour += smooth
        self._colour2 += smooth**2
        grey = cv2.cvtColor(smooth, cv2.COLOR_RGB2GRAY)
        gradient = np.stack([cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)])
        self._along += gradient
        self._strength += np.hypot(*gradient)
        if depth_m is not None:
            known = np.isfinite(depth_m) & (depth_m > 0)
            logarithm = np.log(depth_m, where=known, out=np.zeros(known.shape))
            self._known += known
            self._depth += logarithm
            self._depth2 += logarithm**2
            self._depths += 1

    def estimate(self) -> SelfMask:
        """Return the mask. Raises `SelfMaskUndetermined` with the measured value and the limit."""
        params = self._params
        if self.views < params.min_views:
            raise SelfMaskUndetermined(
                f'{self.views} different views among {self.images} images (at least '
                f'{params.min_views}): move the camera, slowly and far, over a varied scene')
        spread = _deviation(self._colour, self._colour2, self.views).max(axis=-1)
        spread = cv2.medianBlur(np.clip(spread, 0, 255).astype(np.uint8), 9).astype(np.float32)
        kept = self._edges_kept()
        typical, typical_kept = float(np.median(spread)), float(np.median(kept))
        if typical < params.min_spread:
            raise SelfMaskUndetermined(
                f'half of the pixels change by {typical:.1f} grey levels at most (at least '
                f'{params.min_spread:g}): move the camera further, over a varied scene')
        if typical_kept > params.max_edges_kept:
            raise SelfMaskUndetermined(
                f'{typical_kept:.0%} of the edges do not move (at most '
                f'{params.max_edges_kept:.0%}): the light changed, the camera hardly moved')
        body = self._segment(spread / typical, kept > (1 + typical_kept) / 2)
        return SelfMask(body, self.views, typical, typical_kept, self._depths > 0)

    def _edges_kept(self) -> Array:
        across = _odd(self._size[1] / 30)
        stay, all_of_them = (cv2.blur(f, (across, across)) for f in (
            np.hypot(*self._along), self._strength))
        return np.asarray(stay / np.maximum(all_of_them, 1e-3))

    def _segment(self, spread: Array, edges_stay: Mask) -> Mask:
        params, (height, width) = self._params, self._size[:2]
        seed = (spread < params.seed_spread) & edges_stay
        near_edges = _morph(cv2.MORPH_CLOSE, seed, _odd(2 * params.max_edge_distance * width))
        smooth = (spread < params.seed_spread) & near_edges
        plain = _reconstruct(seed | (spread < params.plain_spread), _morph(cv2.MORPH_OPEN, seed, 5))
        body = seed | smooth | plain
        if self._depths:
            moves, agrees = self._classify_depth()
            body = _reconstruct((spread < params.region_spread) & agrees | body & ~moves,
                                _morph(cv2.MORPH_OPEN, seed & ~moves, 5))
        across = _odd(width / 70)
        body = _fill_holes(_morph(cv2.MORPH_CLOSE, body, across))
        body = _morph(cv2.MORPH_OPEN, body, across)
        body = _drop_small(body, params.min_area * height * width)
        return _morph(cv2.MORPH_DILATE, body, 2 * round(params.margin * width) + 1)

    def _classify_depth(self) -> tuple[Mask, Mask]:
        """Where depth changes, and where it does not or is too near to be known."""
        share = self._known / self._depths
        number = np.maximum(self._known, 1)
        deviation = _deviation(self._depth, self._depth2, number)
        moves = (self._known >= 3) & (share >= 0.3) & (deviation > self._params.moving_depth)
        stays = (self._known >= 3) & (share >= 0.5) & (deviation < self._params.steady_depth)
        return moves, stays | (share <= 0.15)


def _deviation(total: Array, squares: Array, number: Array | int) -> Array:
    mean = total / number
    return np.asarray(np.sqrt(np.maximum(squares / number - mean**2, 0)))


def _thumbnail(image: npt.NDArray[np.uint8]) -> Field:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (80, 60), interpolation=cv2.INTER_AREA), np.float32)


def _format_size(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'


def _odd(length: float) -> int:
    return 2 * max(int(length / 2), 1) + 1


def _morph(operation: int, mask: Mask, across: int) -> Mask:
    """Apply a morphological operation, the border replicated."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), across, across, across, across,
                                cv2.BORDER_REPLICATE)
    done = cv2.morphologyEx(padded, operation, kernel)
    return np.asarray(done[across:-across, across:-across] > 0)


def _reconstruct(mask: Mask, seed: Mask) -> Mask:
    """Keep the connected components of a mask that contain a seed."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    named = np.unique(labels[seed & mask])
    return np.asarray(np.isin(labels, named[named > 0]))


def _drop_small(mask: Mask, area_px: float) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= area_px)
    return np.asarray(np.isin(labels, large[large > 0]))


def _fill_holes(mask: Mask) -> Mask:
    """Fill the small parts of the background that do not touch the border of the image."""
    rest = ~mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest.astype(np.uint8))
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < 0.01 * mask.size)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(mask | np.isin(labels, np.setdiff1d(small, [0, *edge])))
