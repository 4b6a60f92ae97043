"""Aligns patches of a reference image with a newer one: sub-pixel, whatever the exposure."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array

PYRAMID_LEVELS = 4
PATCH_HALF = 6  # 13x13 samples
STEPS = 6
SETTLED_SAMPLES = 0.02  # a smaller step of a patch is its last
MIN_CONTRAST = 2.0  # grey levels, standard deviation: a flatter patch is noise
PIXEL_SIGMA_PX = 0.3  # what interpolation and lens leave of an exact alignment
NOISE_CORRELATION = 4.0  # neighbouring residuals are alike: as many samples count as one
FLOW_SIDE_PX, FLOW_LEVELS = 15, 3  # of the window, and above the image itself
FLAT_PX2 = 1e4  # variance along a direction without texture

Samples = npt.NDArray[np.float32]  # of images: twice as fast as float64
_OFFSETS = np.stack(np.meshgrid(np.arange(-PATCH_HALF, PATCH_HALF + 1),
                                np.arange(-PATCH_HALF, PATCH_HALF + 1)), axis=-1
                    ).reshape(-1, 2).astype(np.float64)
_SIDE = 2 * PATCH_HALF + 1


class GreyPyramid:
    """An image as grey levels, float32, at full, half, quarter and an eighth of its size."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        self.grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        self._levels = [self.grey.astype(np.float32)]

    def level(self, index: int) -> npt.NDArray[np.float32]:
        """Return a level, made when it is first needed."""
        index = min(max(index, 0), PYRAMID_LEVELS - 1)
        while len(self._levels) <= index:
            self._levels.append(np.asarray(cv2.pyrDown(self._levels[-1]), np.float32))
        return self._levels[index]

    def sample(self, pixels: Array, spacing_px: float) -> Samples:
        """Interpolate at pixels (n, k, 2) that are about `spacing_px` apart; NaN outside."""
        index = min(max(int(np.log2(max(spacing_px, 1.0)) + 1e-9), 0), PYRAMID_LEVELS - 1)
        at = (pixels / 2 ** index).astype(np.float32)
        return np.asarray(cv2.remap(
            self.level(index), np.ascontiguousarray(at[..., 0]),
            np.ascontiguousarray(at[..., 1]), cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class PatchAlignment:
    """Where patches were found: pixels (n, 2), correlation (n,) -1..1 with the reference, and the
    information (n, 2, 2) of the pixels, px^-2: little along an edge. NaN and 0: not found."""

    pixels: Array
    correlation: Array
    information: Array


def align_patches(reference: GreyPyramid, surface: npt.NDArray[np.float32], pixels: Array,
                  current: GreyPyramid, near: Array, current_from_reference: Array,
                  scales: Sequence[int] = (2, 1)) -> PatchAlignment:
    """Find patches around pixels (n, 2) of a reference near pixels (n, 2) of another image.

    surface: (h, w) 1 where the reference shows the object: what is behind it moves otherwise.
    current_from_reference: (n, 2, 2) how each patch is seen there, to first order. scales: of the
    patches, the coarsest first. Inverse compositional Gauss-Newton (Baker & Matthews, IJCV 2004) on
    patches of zero mean and unit variance, so that exposure does not matter.
    """
    found = np.array(near, dtype=np.float64)
    count = len(found)
    if not count:
        return PatchAlignment(found, np.zeros(0), np.zeros((0, 2, 2)))
    stretch = float(np.median(np.sqrt(np.abs(np.linalg.det(current_from_reference)))))
    reference_from_current = invert_2x2(current_from_reference)
    for scale in scales:
        spacing_px = scale * max(1.0, stretch)
        offsets = _OFFSETS * spacing_px
        at = pixels[:, None] + offsets @ reference_from_current.transpose(0, 2, 1)
        share = np.asarray(cv2.remap(
            surface, at[..., 0].astype(np.float32), at[..., 1].astype(np.float32),
            cv2.INTER_LINEAR), dtype=np.float32)
        share = share / np.maximum(share.sum(axis=1, keepdims=True), np.float32(1e-6))
        template, contrast = _normalize(
            reference.sample(at, spacing_px / max(stretch, 1e-3)), share)
        slope = np.stack(_differentiate(template), axis=-1)  # (n, k, 2) per sample
        slope *= np.sqrt(share * share.shape[1])[..., None]
        hessian = (slope.transpose(0, 2, 1) @ slope).astype(np.float64) + 1e-3 * np.eye(2)
        seen = _align(current, found, template, share, slope, hessian, spacing_px)
    correlation = (seen * template * share).sum(axis=1, dtype=np.float64)
    correlation[~(contrast > MIN_CONTRAST)] = np.nan
    noise = 2 * np.maximum(1 - correlation, 0.02) * NOISE_CORRELATION * spacing_px ** 2
    values, axes = np.linalg.eigh(np.where(np.isfinite(hessian), hessian, np.eye(2)))
    spread = np.minimum(noise[:, None] / np.maximum(values, 1e-9), FLAT_PX2) + PIXEL_SIGMA_PX ** 2
    information = (axes / spread[:, None]) @ axes.transpose(0, 2, 1)
    lost = ~np.isfinite(correlation) | ~np.isfinite(found).all(axis=1)
    information[lost] = 0.0
    return PatchAlignment(np.where(lost[:, None], np.nan, found),
                     np.where(lost, np.nan, correlation), information)


def _align(current: GreyPyramid, found: Array, template: Samples, share: Samples, slope: Samples,
           hessian: Array, spacing_px: float) -> Samples:
    """Move the pixels `found` (n, 2), in place; return the normalized patches (n, k) there.

    A patch that has come to rest is not sampled again.
    """
    offsets, weight = _OFFSETS * spacing_px, np.sqrt(share * share.shape[1])
    seen, active = np.full_like(template, np.nan), np.arange(len(found))
    step_from_error = invert_2x2(hessian).astype(np.float32) @ (
        slope * weight[..., None]).transpose(0, 2, 1)
    for step in range(STEPS + 1):
        patches, _ = _normalize(current.sample(found[active, None] + offsets, spacing_px),
                                share[active])
        seen[active] = patches
        if step == STEPS:
            break
        change = (step_from_error[active] @ (patches - template[active])[..., None])[..., 0]
        found[active] -= np.clip(change, -2.0, 2.0) * spacing_px
        active = active[(np.abs(change) > SETTLED_SAMPLES).any(axis=1)]
        if not len(active):
            break
    return seen


def invert_2x2(matrices: Array) -> Array:
    """Invert matrices (n, 2, 2); one that is singular gives the identity."""
    a, b, c, d = matrices.reshape(-1, 4).T
    determinant = a * d - b * c
    is_singular = ~(np.abs(determinant) > 1e-30)
    inverse = np.stack([d, -b, -c, a], axis=1) / np.where(is_singular, 1.0, determinant)[:, None]
    inverse[is_singular] = (1, 0, 0, 1)
    return np.asarray(inverse.reshape(-1, 2, 2))


def _normalize(patches: Samples, share: Samples) -> tuple[Samples, Samples]:
    """Patches (n, k) of zero mean and unit variance, and their standard deviations (n,).

    share: (n, k) of each sample, with the sum 1.
    """
    centred = patches - np.einsum('nk,nk->n', patches, share)[:, None]
    contrast = np.sqrt(np.einsum('nk,nk,nk->n', centred, centred, share))
    return centred / np.maximum(contrast, 1e-6)[:, None], contrast


def _differentiate(patches: Samples) -> tuple[Samples, Samples]:
    """Derivatives (n, k) along x and y, per sample."""
    square = patches.reshape(-1, _SIDE, _SIDE)
    along_y, along_x = (np.asarray(np.gradient(square, axis=axis)) for axis in (1, 2))
    return along_x.reshape(patches.shape), along_y.reshape(patches.shape)


def flow_patches(previous: GreyPyramid, pixels: Array, current: GreyPyramid, near: Array,
                 max_return_px: float = 1.0) -> Array:
    """Follow pixels (n, 2) from one image to the next by pyramidal Lucas-Kanade, there and back.

    near: (n, 2) where to begin. Returns the pixels (n, 2), NaN where the return misses by more.
    """
    if not len(pixels):
        return np.zeros((0, 2))
    margin_px = FLOW_SIDE_PX * 2 ** FLOW_LEVELS
    both = np.concatenate([pixels, near])  # on the image: else their flow is none
    low = np.maximum(both.min(axis=0).astype(int) - margin_px, 0) // 2 ** FLOW_LEVELS * (
        2 ** FLOW_LEVELS)  # the same pixels of each level
    right, bottom = both.max(axis=0).astype(int) + margin_px
    first, second = (np.ascontiguousarray(pyramid.grey[low[1]:bottom, low[0]:right])
                     for pyramid in (previous, current))  # no pyramid of the rest
    start, guess = (np.ascontiguousarray(each - low, dtype=np.float32).reshape(-1, 1, 2)
                    for each in (pixels, near))
    options: dict[str, Any] = {'winSize': (FLOW_SIDE_PX, FLOW_SIDE_PX), 'maxLevel': FLOW_LEVELS,
                               'flags': cv2.OPTFLOW_USE_INITIAL_FLOW}
    there, ok, _ = cv2.calcOpticalFlowPyrLK(first, second, start, guess.copy(), **options)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(second, first, there, start.copy(), **options)
    off_px = np.linalg.norm((back - start).reshape(-1, 2), axis=1)
    good = (ok.ravel() > 0) & (ok_back.ravel() > 0) & (off_px < max_return_px)
    return np.where(good[:, None], there.reshape(-1, 2).astype(np.float64) + low, np.nan)
