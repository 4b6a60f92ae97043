"""Features of a view: scaled camera, keypoints and dense descriptors per scale, depth."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Code, Intrinsics, Rejected, View
from crosspoint_ros.matchers.xfeat.depth_alignment import Surfels
from crosspoint_ros.matchers.xfeat.network import (
    CELL_PX,
    SIDE_PX,
    Backbone,
    FloatMap,
    NetworkOutput,
)
from crosspoint_ros.matchers.xfeat.options import XFeatOptions

# Rays further off the axis have no useful pixel in an ideal image.
MIN_RAY_Z = 0.2


class ScaledCamera:
    """A camera whose image is resized to a long side of `long_side_px` and turned clockwise.

    Three kinds of pixels: *image* (as published), *scaled* (resized and turned: of descriptors)
    and *ideal* (resized and undistorted, not turned: of two-view geometry).
    """

    def __init__(self, intrinsics: Intrinsics, long_side_px: float, turn_deg: int = 0) -> None:
        if intrinsics.model != 'equidistant' and not any(intrinsics.distortion):
            intrinsics = replace(intrinsics, distortion=())
        self.intrinsics = intrinsics
        self.scale = long_side_px / max(intrinsics.width_px, intrinsics.height_px)
        self.turn_deg = turn_deg
        cos, sin = np.round([np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))], 12)
        turn = np.array([[cos, -sin], [sin, cos]])
        size = np.array([intrinsics.width_px, intrinsics.height_px])
        self.width_px, self.height_px = (float(side) for side in np.abs(turn) @ size * self.scale)
        self.scaled_from_image: Array = turn * self.scale  # (2, 2), of offsets
        self._centre = np.array([self.width_px, self.height_px]) / 2 \
            - self.scaled_from_image @ size / 2
        self.ideal_matrix: Array = np.array([
            [intrinsics.fx_px * self.scale, 0, (intrinsics.cx_px + 0.5) * self.scale - 0.5],
            [0, intrinsics.fy_px * self.scale, (intrinsics.cy_px + 0.5) * self.scale - 0.5],
            [0, 0, 1]])

    def to_scaled(self, pixel: npt.ArrayLike) -> Array:
        """Map image pixels (..., 2) to scaled ones; (0, 0) is the centre of the first pixel."""
        at = np.asarray(pixel, dtype=np.float64) + 0.5
        return np.asarray(at @ self.scaled_from_image.T + self._centre - 0.5)

    def to_image(self, scaled: npt.ArrayLike) -> Array:
        """Map scaled pixels (..., 2) to image pixels."""
        at = np.asarray(scaled, dtype=np.float64) + 0.5 - self._centre
        return np.asarray(at @ self.scaled_from_image / self.scale ** 2 - 0.5)

    def scale_covariance(self, covariance_px2: Array) -> Array:
        """Map the covariance (2, 2) of an image pixel to that of its scaled one."""
        return self.scaled_from_image @ covariance_px2 @ self.scaled_from_image.T

    def covariance_to_image(self, covariance_px2: Array) -> Array:
        """Map the covariance (2, 2) of a scaled pixel to that of its image pixel."""
        return self.scaled_from_image.T @ covariance_px2 @ self.scaled_from_image / self.scale ** 4

    def unproject(self, scaled: npt.ArrayLike) -> Array:
        """Map scaled pixels (..., 2) to rays (..., 3) with z = 1; NaN far off the optical axis."""
        rays = self.intrinsics.unproject(self.to_image(scaled))
        return rays / np.where(rays[..., 2:] > MIN_RAY_Z, rays[..., 2:], np.nan)

    def to_ideal(self, scaled: npt.ArrayLike) -> Array:
        """Map scaled pixels (..., 2) to ideal ones; NaN far off the optical axis."""
        return np.asarray((self.unproject(scaled) @ self.ideal_matrix.T)[..., :2])

    def project(self, point_cam_m: npt.ArrayLike) -> Array:
        """Project points (..., 3) to scaled pixels; NaN where the camera cannot."""
        return self.to_scaled(self.intrinsics.project(point_cam_m))

    def contains(self, scaled: npt.ArrayLike, margin_px: float = -1e-6
                 ) -> npt.NDArray[np.bool_]:
        """Return which scaled pixels (..., 2) are on the image, `margin_px` within its border."""
        at, margin = self.to_image(scaled) + 0.5, margin_px / self.scale
        size = np.array([self.intrinsics.width_px, self.intrinsics.height_px])
        return np.asarray(((at >= margin) & (at <= size - margin)).all(axis=-1))

    def grid(self, step_px: float) -> Array:
        """Return scaled pixels (rows, columns, 2), about `step_px` apart, that tile the image.

        Turned by other than a multiple of 90 deg they tile the rectangle around it.
        """
        columns, rows = self.grid_size(step_px)
        x = (np.arange(columns) + 0.5) * self.width_px / columns - 0.5
        y = (np.arange(rows) + 0.5) * self.height_px / rows - 0.5
        return np.stack(np.meshgrid(x, y), axis=-1)

    def grid_size(self, step_px: float) -> tuple[int, int]:
        """Return columns and rows of `grid(step_px)`; an 8 px grid has half those of a 4 px one."""
        fine = 8.0 / step_px
        return (round(round(self.width_px / 8) * fine), round(round(self.height_px / 8) * fine))


COARSE_PX = 8.0
SECOND_SCALE = 0.75  # of the image that the second descriptor sees: half the cost of 1
FINE_PX = 4.0
SLANT_BORDER_PX = 8.0  # a slanted border makes keypoints
REMAP_ROW = 256
GREY_SIGMA_PX = 1.0
EDGE_M, EDGE_SHARE = 0.02, 0.03
MIN_KNOWN_NEIGHBOURS = 4  # of 3x3 px


class DescriptorMap:
    """Dense descriptors of an image, sampled at any scaled pixel."""

    def __init__(self, descriptors: FloatMap, camera: ScaledCamera) -> None:
        self.rows, self.columns, self.channels = descriptors.shape
        self._layers = split_channels(descriptors)
        self._camera = camera

    def sample(self, pixel: Array) -> FloatMap:
        """Return unit descriptors (n, c) at scaled pixels (n, 2), bicubic as in XFeat itself."""
        pixel = np.asarray(pixel, dtype=np.float64)
        x = (pixel[:, 0] + 0.5) * self.columns / self._camera.width_px - 0.5
        y = (pixel[:, 1] + 0.5) * self.rows / self._camera.height_px - 0.5
        return normalize(sample(self._layers, x, y, cv2.INTER_CUBIC))

    def resize(self, columns: int, rows: int) -> FloatMap:
        """Return unit descriptors (rows, columns, c) on a grid over the same image."""
        how = cv2.INTER_AREA if self.columns > columns else cv2.INTER_CUBIC
        layers = [cv2.resize(layer, (columns, rows), interpolation=how) for layer in self._layers]
        return normalize(np.concatenate(layers, axis=-1))


@dataclass(frozen=True, eq=False)
class FeatureLevel:
    """One scale of a frame: keypoints (n, 2), scaled and ideal px, strongest first, their
    descriptors (n, 64), and the dense descriptors."""

    pixels: Array
    ideal: Array
    descriptors: FloatMap
    dense: DescriptorMap

    def strongest(self, count: int) -> FeatureLevel:
        return replace(self, pixels=self.pixels[:count], ideal=self.ideal[:count],
                       descriptors=self.descriptors[:count])


class FeatureFrame:
    """A view prepared for matching; its levels are computed once, by `ensure`."""

    def __init__(self, view: View, options: XFeatOptions, turn_deg: int = 0) -> None:
        """Raise `Rejected` (BAD_REQUEST) for an image too thin for a row of descriptors."""
        self.view = view
        self.options = options
        self.scaled = ScaledCamera(view.intrinsics, options.working_px, turn_deg)
        self._turned: dict[int, FeatureFrame] = {}
        if min(self.scaled.grid_size(COARSE_PX)) < 1:
            size = view.intrinsics
            raise Rejected(Code.BAD_REQUEST, f'{view.camera}: {size.width_px}x{size.height_px} px '
                           'is too thin to be matched: with that longer side the shorter one must '
                           f'have more than {COARSE_PX / 2 / self.scaled.scale:.1f} px')
        self.mask = view.mask if options.use_mask else None
        self.levels: dict[float, FeatureLevel] = {}
        self.second: DescriptorMap | None = None

    def is_same_image(self, view: View) -> bool:
        """Return whether the frame is of the same image, mask and depth, by identity."""
        return (self.view.image is view.image and self.view.mask is view.mask
                and self.view.intrinsics == view.intrinsics
                and (not self.options.use_depth or self.view.depth_m is view.depth_m))

    def turn(self, turn_deg: int) -> FeatureFrame:
        """Return the frame turned clockwise from the image as published, made once."""
        turn_deg %= 360
        if not turn_deg:
            return self
        if turn_deg not in self._turned:
            self._turned[turn_deg] = FeatureFrame(self.view, self.options, turn_deg)
        return self._turned[turn_deg]

    def ensure(self, scale: float, backbone: Backbone) -> FeatureLevel:
        if scale not in self.levels:
            self.levels[scale] = self._level(backbone(self._network_image(scale)))
        return self.levels[scale]

    def ensure_second(self, describe: Callable[[npt.NDArray[np.uint8]], FloatMap]) -> None:
        """Compute the second descriptor, at one scale."""
        if self.second is None:
            self.second = DescriptorMap(describe(self._network_image(SECOND_SCALE)), self.scaled)

    def _network_image(self, scale: float) -> npt.NDArray[np.uint8]:
        size = (self.scaled.width_px * scale, self.scaled.height_px * scale)
        width, height = (max(round(side / SIDE_PX), 1) * SIDE_PX for side in size)
        quarters, slant = divmod(self.scaled.turn_deg, 90)
        if slant:
            return self._slanted_image(width, height)
        image = np.ascontiguousarray(np.rot90(self.view.image, -quarters))
        if image.shape[:2] == (height, width):
            return image
        how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=how))

    def _slanted_image(self, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Warp the image, mirrored beyond its border, to the rectangle around it."""
        image, corners = self.view.image, np.array([[0.0, 0], [1, 0], [0, 1]])
        stretch = np.array([self.scaled.width_px / width, self.scaled.height_px / height])
        at = self.scaled.to_image((corners + 0.5) * stretch - 0.5)
        shrink = self.scaled.scale / stretch.min()
        if shrink < 1:
            before = np.array(image.shape[1::-1])
            image = np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink,
                                          interpolation=cv2.INTER_AREA), dtype=np.uint8)
            at = (at + 0.5) * image.shape[1::-1] / before - 0.5
        image_from_slanted = np.column_stack([at[1] - at[0], at[2] - at[0], at[0]])
        return np.asarray(cv2.warpAffine(
            image, image_from_slanted, (width, height), borderMode=cv2.BORDER_REFLECT,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))

    def _level(self, output: NetworkOutput) -> FeatureLevel:
        rows, columns = output.heat.shape
        y, x = detect_keypoints(output.heat, self.options.min_heat)
        pixels = np.stack([(x + 0.5) * self.scaled.width_px / columns - 0.5,
                           (y + 0.5) * self.scaled.height_px / rows - 0.5], axis=-1)
        reliability = sample([output.reliability[..., None]], (x + 0.5) / CELL_PX - 0.5,
                             (y + 0.5) / CELL_PX - 0.5, cv2.INTER_LINEAR)[:, 0]
        strength = output.heat[y, x] * reliability
        ideal = self.scaled.to_ideal(pixels)
        strength[self.is_masked(pixels) | ~np.isfinite(ideal).all(axis=1)] = -1
        if self.scaled.turn_deg % 90:
            strength[~self.scaled.contains(pixels, SLANT_BORDER_PX)] = -1
        order = np.argsort(-strength, kind='stable')[:self.options.max_keypoints]
        order = order[strength[order] >= 0]
        dense = DescriptorMap(output.descriptors, self.scaled)
        return FeatureLevel(pixels[order], ideal[order], dense.sample(pixels[order]), dense)

    def is_masked(self, pixel: Array) -> npt.NDArray[np.bool_]:
        """Return which scaled pixels (..., 2) the robot's own body covers, or are not of the
        image."""
        outside = ~self.scaled.contains(pixel)
        if self.mask is None:
            return outside
        x, y = np.moveaxis(np.round(self.scaled.to_image(pixel)).astype(int), -1, 0)
        return outside | self.mask[y.clip(0, self.mask.shape[0] - 1),
                                   x.clip(0, self.mask.shape[1] - 1)]

    @cached_property
    def has_depth(self) -> bool:
        return self.view.depth_m is not None and bool(np.isfinite(self.smooth_depth_m).any())

    @cached_property
    def smooth_depth_m(self) -> FloatMap:
        """Depth (h, w), NaN where its 3x3 neighbours jump or fewer than four are known.

        A depth registered to colour lacks rows and columns: there it is the mean of those known.
        """
        assert self.view.depth_m is not None
        depth_m = np.nan_to_num(self.view.depth_m, nan=0.0, posinf=0.0, neginf=0.0)
        known, kernel = depth_m > 0, np.ones((3, 3), np.uint8)
        low = cv2.erode(np.where(known, depth_m, np.float32(np.inf)), kernel)
        count = cv2.boxFilter(known.astype(np.float32), -1, (3, 3), normalize=False)
        with np.errstate(invalid='ignore'):
            smooth = (count > MIN_KNOWN_NEIGHBOURS - 0.5) & (
                cv2.dilate(depth_m, kernel) - low < EDGE_M + EDGE_SHARE * low)
        mean = cv2.boxFilter(depth_m * known, -1, (3, 3), normalize=False) / np.maximum(count, 1)
        return np.where(smooth, np.where(known, depth_m, mean), np.float32(np.nan))

    @cached_property
    def _grey(self) -> FloatMap:
        """Smoothed grey levels of the image that the network sees at scale 1."""
        grey = cv2.cvtColor(self._network_image(1.0), cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), GREY_SIGMA_PX))

    def sample_grey(self, pixel: Array) -> FloatMap:
        """Return smoothed grey levels (n, m) at scaled pixels (n, m, 2), borders repeated."""
        size = np.array(self._grey.shape[1::-1])
        at = (pixel + 0.5) * size / (self.scaled.width_px, self.scaled.height_px) - 0.5
        x, y = np.moveaxis(at.astype(np.float32), -1, 0)
        return np.asarray(cv2.remap(self._grey, np.ascontiguousarray(x), np.ascontiguousarray(y),
                                    cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    @cached_property
    def surfels(self) -> Surfels:
        """Planes around the places of a grid of 8 px."""
        return Surfels.fit(self)

    @cached_property
    def fine_grid(self) -> Array:
        """Scaled pixels (rows, columns, 2) of the score map."""
        return self.scaled.grid(FINE_PX)

    @cached_property
    def fine_ideal(self) -> Array:
        """Ideal pixels (rows, columns, 2) of the score map."""
        return self.scaled.to_ideal(self.fine_grid)

    @cached_property
    def fine_masked(self) -> npt.NDArray[np.bool_]:
        """Which places (rows, columns) of the score map are excluded: see `is_masked`."""
        return self.is_masked(self.fine_grid)


class ConcatenatedDescriptors:
    """Several descriptor maps of a frame, concatenated with equal weights."""

    def __init__(self, frame: FeatureFrame, maps: Sequence[DescriptorMap]) -> None:
        self._frame, self._maps = frame, maps

    def sample(self, pixel: Array) -> FloatMap:
        """Return descriptors (n, channels of all maps) at scaled pixels (n, 2)."""
        sampled = [m.sample(pixel) for m in self._maps]
        return np.concatenate(sampled, axis=1) / len(sampled) ** 0.5

    @cached_property
    def coarse(self) -> FloatMap:
        """Descriptors (rows, columns, channels of all maps) on a grid of 8 px."""
        columns, rows = self._frame.scaled.grid_size(COARSE_PX)
        layers = [m.resize(columns, rows) for m in self._maps]
        return np.concatenate(layers, axis=-1) / np.float32(len(layers) ** 0.5)


def detect_keypoints(heat: FloatMap, min_heat: float) -> tuple[npt.NDArray[np.intp], ...]:
    """Return rows and columns of the maxima within 5x5 px that exceed `min_heat`."""
    peak = (heat == cv2.dilate(heat, np.ones((5, 5), np.uint8))) & (heat > min_heat)
    return np.nonzero(peak)


def split_channels(x: FloatMap) -> list[FloatMap]:
    """Split (h, w, c) into layers of four, the most that cv2.remap interpolates at once."""
    return [np.ascontiguousarray(x[..., c:c + 4]) for c in range(0, x.shape[-1], 4)]


def sample(layers: list[FloatMap], x: Array, y: Array, how: int) -> FloatMap:
    """Interpolate layers (h, w, <=4) at x, y (n,), borders repeated: (n, channels)."""
    count = len(x)
    rows = -(-count // REMAP_ROW)
    # cv2.remap takes no side above 32767, so the points are folded into rows.
    at = np.zeros((2, rows * REMAP_ROW), np.float32)
    at[:, :count] = x, y
    map_x, map_y = at.reshape(2, rows, REMAP_ROW)
    if not count:
        return np.zeros((0, sum(layer.shape[2] for layer in layers)), np.float32)
    found = [cv2.remap(layer, map_x, map_y, how, borderMode=cv2.BORDER_REPLICATE)
             .reshape(rows * REMAP_ROW, -1)[:count] for layer in layers]
    return np.concatenate(found, axis=1)


def normalize(vectors: FloatMap) -> FloatMap:
    """Scale vectors (..., c) to length one."""
    return vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + np.float32(1e-9))
