"""Checks that the views of one moment agree, and names what is misread if they do not.

Keypoints are matched by the images alone, so that nothing under test takes part in it. If lens,
axes and pose of two cameras are right, the two rays of a match meet in front of both, and the depth
of each camera is the distance at which they meet. Where they do not, the usual misreadings are
tried: one that explains almost all matches is the cause.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Intrinsics, Rejected, Transform, View
from crosspoint_ros.matchers.xfeat import XFeatMatcher

# Matches of a pair that fit one fundamental matrix, and their share. Images of two scenes reach 59
# and 0.3 (noise matches at the borders); with 60 deg between two views there are 114 and 0.37.
MIN_MATCHES, MIN_INLIERS, BORDER = 100, 0.35, 0.05  # the last: of the width
FUNDAMENTAL_PX = 3.0  # at 640 px of width
SAME_IMAGE_PX = 1.0  # two cameras that show the same pixels: a test pattern, or one image twice
MIN_BASELINE_M = 0.1  # a pose may be off by some centimetres
# Extrinsics that are off by 3 cm and 3 deg leave 66 % of the matches within the loose limits.
CLOSE, NEAR = 0.015, 0.06  # distance of two rays, in focal lengths of an image one wide
CLOSE_DEPTH, NEAR_DEPTH = 0.25, 0.7  # natural logarithm of measured to triangulated depth
MIN_PARALLAX_DEG = 5.0
MAX_AGREEMENT, MAX_NEAR, MAX_CLOSE = 0.5, 0.8, 0.2
MIN_EXPLAINED, MIN_LEAD = 0.75, 0.2
MAX_UNEXPLAINED = 0.25
# Of the median error of points in another view, px at 640 px of width: 2 to 8 with the right
# lenses, by the depth's noise, and with others mostly 1.4 times as much or more.
MIN_MISFIT_PX, MAX_FIT_PX, MAX_FIT_RATIO, PNP_PX, MAX_FITTED = 4.5, 5.0, 0.7, 8.0, 300
MIN_DEPTHS, MIN_CLOSE = 30, 0.5  # matches of known depth; share of close ones in their pair
DEPTH_FACTORS = (1.0, 1000.0, 100.0, 10.0, 5.0, 4.0, 0.25, 0.2, 0.1, 0.01, 0.001)
LENS_FACTORS = (2.0, 0.5, 1.5, 1 / 1.5, 3.0, 1 / 3)
MAX_CAMERAS_OF_ALL_PAIRS, MAX_CAMERAS_OF_ALL_SUBSETS = 5, 4


class Misreading(Enum):
    """What makes views disagree."""

    DEPTH_UNIT = 'depth unit'
    DISPARITY = 'disparity'
    LENS = 'lens'
    AXES = 'axes'
    DIRECTION = 'direction'
    UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Disagreement:
    """Views that disagree as they are read, and agree when they are read in another way.

    cameras: those that are misread. reading: how they agree, as the end of "agree when …".
    agreement, explained: shares of the `matches` that agree as given, and when read so.
    """

    misreading: Misreading
    cameras: tuple[str, ...]
    reading: str
    agreement: float
    explained: float
    matches: int
    factor: float = 1.0  # of the depth, or of K, to the true one


@dataclass(frozen=True, eq=False)
class CameraReading:
    """The lens and pose of a camera under one hypothesis."""

    intrinsics: Intrinsics
    base_from_cam: Transform


@dataclass(frozen=True)
class ReadingChange:
    """A hypothesis: what changes in the reading of a camera."""

    misreading: Misreading
    reading: str
    factor: float = 1.0
    turn: Transform | None = None  # camera as given from optical

    def apply(self, given: CameraReading) -> CameraReading:
        """Return what the camera would be."""
        pose = given.base_from_cam
        if self.misreading is Misreading.LENS:
            return replace(given, intrinsics=scale_intrinsics(given.intrinsics, 1 / self.factor))
        if self.turn is not None:
            return replace(given, base_from_cam=pose @ self.turn)
        return replace(given, base_from_cam=pose.inverse)


def _turn(*rows: tuple[int, int, int]) -> Transform:
    return Transform(np.array(rows, float), np.zeros(3))


BODY_FROM_OPTICAL = _turn((0, 0, 1), (-1, 0, 0), (0, -1, 0))  # REP-103: x forward, y left, z up
CHANGES = (
    ReadingChange(Misreading.AXES, 'their frame is read as the body frame (x forward, z up), not '
                  'the optical one (z forward, y down)', turn=BODY_FROM_OPTICAL),
    ReadingChange(Misreading.AXES, 'the turn from body to optical frame is applied once, not twice',
                  turn=BODY_FROM_OPTICAL.inverse),
    ReadingChange(Misreading.AXES, 'their frame is read as that of OpenGL (z backward, y up)',
                  turn=_turn((1, 0, 0), (0, -1, 0), (0, 0, -1))),
    ReadingChange(Misreading.AXES, 'their images are turned by 180 deg',
                  turn=_turn((-1, 0, 0), (0, -1, 0), (0, 0, 1))),
    ReadingChange(Misreading.DIRECTION, 'their transform is inverted (camera to base was sent as '
                  'base to camera)'),
    *(ReadingChange(Misreading.LENS, f'K is divided by {factor:.3g}', factor)
      for factor in LENS_FACTORS))


def scale_intrinsics(intrinsics: Intrinsics, factor: float) -> Intrinsics:
    """Return K of an image that is resized by a factor, for an image of the given size."""
    return replace(intrinsics, fx_px=intrinsics.fx_px * factor, fy_px=intrinsics.fy_px * factor,
                   cx_px=(intrinsics.cx_px + 0.5) * factor - 0.5,
                   cy_px=(intrinsics.cy_px + 0.5) * factor - 0.5)


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Matches of two views: their indices, pixels (n, 2) and depths (n,), m, NaN where unknown."""

    views: tuple[int, int]
    pixels: tuple[Array, Array]
    depths_m: tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Shares (n pairs,) of the matches that agree with one reading of all cameras.

    close, near: within the two limits. near_rays: near, whatever the depth. depths_m: by view,
    (n, 2) of measured and triangulated depths.
    """

    close: Array
    near: Array
    near_rays: Array
    depths_m: dict[int, Array]

    @property
    def contradicts(self) -> npt.NDArray[np.bool_]:
        """Which pairs (n,) contradict the reading: by more than poses that are a little off."""
        return (self.near <= MAX_AGREEMENT) | ((self.near <= MAX_NEAR) & (self.close <= MAX_CLOSE))


def find_disagreements(views: Sequence[View]) -> list[Disagreement]:
    """Return what is misread in views of one scene; [] also without enough evidence.

    views: with their pose; others are left out, and those whose lens is implausible. At most one
    misreading of lenses and poses is returned, and one of the depth for each camera.
    """
    posed = [view for view in views
             if view.ray_pose is not None and not view.intrinsics.explain_implausible()]
    pairs = list(_match_views(posed))
    if not pairs:
        return []
    readings = [CameraReading(v.intrinsics, v.ray_pose) for v in posed if v.ray_pose is not None]
    given = _measure(pairs, readings)
    found: list[Disagreement] = []
    wrong = np.flatnonzero(given.contradicts)
    agreement = float(given.near_rays[wrong].mean()) if len(wrong) else 1.0
    change, chosen, explained = _explain(pairs, readings, wrong) if len(wrong) else (None, (), 0.0)
    if change is not None:
        found.append(Disagreement(
            change.misreading, tuple(posed[i].camera for i in chosen), change.reading, agreement,
            explained, sum(len(pairs[i].pixels[0]) for i in wrong), change.factor))
        readings = _apply(change, chosen, readings)
    elif (focal := _judge_focal_lengths(pairs, posed)) is not None:
        found.append(focal)
        readings = [replace(reading, intrinsics=_scale_focal_length(
            reading.intrinsics, 1 / focal.factor if view.camera in focal.cameras else 1.0))
            for view, reading in zip(posed, readings, strict=True)]
    elif agreement <= MAX_UNEXPLAINED:
        shared = set.intersection(*(set(pairs[i].views) for i in wrong))
        cameras = shared if len(wrong) > 1 and len(shared) == 1 else {
            camera for i in wrong for camera in pairs[i].views}
        found.append(Disagreement(
            Misreading.UNKNOWN, tuple(posed[i].camera for i in sorted(cameras)), '', agreement, 0.0,
            sum(len(pairs[i].pixels[0]) for i in wrong)))
        pairs = [pair for pair in pairs if not cameras & set(pair.views)]
    elif agreement <= MAX_AGREEMENT:
        return []
    return found + [misread for index, depths in _measure(pairs, readings).depths_m.items()
                    if (misread := _judge_depth(posed[index].camera, depths))]


# --- matches --------------------------------------------------------------------------------------

def _match_views(views: Sequence[View]) -> Iterator[ViewPair]:
    """Yield the pairs of views whose images have enough matches that fit one geometry."""
    matcher = XFeatMatcher(use_poses=False, use_depth=False, second_descriptor='never',
                           remembered_frames=max(len(views), 1))
    for a, b in _list_pairs(len(views)):
        pair = views[a], views[b]
        if _measure_baseline_m(*(view.base_from_cam for view in pair)) < MIN_BASELINE_M:
            continue
        try:
            pixels = matcher.match_images(*pair)
        except Rejected:  # too thin to be matched
            continue
        ideal = [_undistort(view.intrinsics, p) for view, p in zip(pair, pixels, strict=True)]
        known = np.isfinite(np.hstack(ideal)).all(axis=1) & _is_inside(
            views[a], pixels[0]) & _is_inside(views[b], pixels[1])
        if known.sum() < MIN_MATCHES:
            continue
        widths = [view.intrinsics.width_px / 640 for view in pair]
        scaled = [p[known] / width for p, width in zip(ideal, widths, strict=True)]
        _, inliers = cv2.findFundamentalMat(scaled[0], scaled[1], cv2.USAC_MAGSAC, FUNDAMENTAL_PX,
                                            0.999, 3000)
        if inliers is None or inliers.sum() < max(MIN_MATCHES, MIN_INLIERS * known.sum()):
            continue
        fit = np.flatnonzero(known)[inliers.ravel() > 0]
        at = pixels[0][fit], pixels[1][fit]
        if np.median(np.linalg.norm(at[0] / widths[0] - at[1] / widths[1], axis=1)) > SAME_IMAGE_PX:
            yield ViewPair((a, b), at, (_sample_depth_m(pair[0], at[0]),
                                        _sample_depth_m(pair[1], at[1])))


def _measure_baseline_m(a: Transform | None, b: Transform | None) -> float:
    return 0.0 if a is None or b is None else float(np.linalg.norm(a.t_m - b.t_m))


def _list_pairs(count: int) -> list[tuple[int, int]]:
    """Return all pairs of a few cameras, of many each with the next two."""
    if count <= MAX_CAMERAS_OF_ALL_PAIRS:
        return list(combinations(range(count), 2))
    return [(i, (i + step) % count) for step in (1, 2) for i in range(count)]


def _is_inside(view: View, pixels: Array) -> npt.NDArray[np.bool_]:
    """Return which pixels (n, 2) are not at the border."""
    size = view.image.shape[1::-1]
    margin = BORDER * size[0]
    return np.asarray(((pixels > margin) & (pixels < np.array(size) - margin)).all(axis=1))


def _undistort(lens: Intrinsics, pixels: Array) -> Array:
    """Map pixels (n, 2) to those of a pinhole with the same matrix; NaN where no ray is known."""
    rays = lens.unproject(pixels)
    rays /= np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)
    return np.asarray((rays @ lens.matrix.T)[:, :2])


def _scale_focal_length(lens: Intrinsics, factor: float) -> Intrinsics:
    return replace(lens, fx_px=lens.fx_px * factor, fy_px=lens.fy_px * factor)


def _sample_depth_m(view: View, pixels: Array) -> Array:
    if view.depth_m is None:
        return np.full(len(pixels), np.nan)
    height, width = view.depth_m.shape
    x, y = np.rint(pixels).astype(int).T
    depth_m = view.depth_m[y.clip(0, height - 1), x.clip(0, width - 1)].astype(float)
    return np.where(depth_m > 0, depth_m, np.nan)


# --- geometry -------------------------------------------------------------------------------------

def _triangulate(pair: ViewPair, a: CameraReading, b: CameraReading
                 ) -> tuple[Array, tuple[Array, Array], Array]:
    """Return the distance (n,) of the two rays, in image widths; depths (n,) in both; the parallax.

    Infinite where they do not meet in front of both cameras.
    """
    b_from_a = b.base_from_cam.inverse @ a.base_from_cam
    rays_a, ray_b = a.intrinsics.unproject(pair.pixels[0]), b.intrinsics.unproject(pair.pixels[1])
    ray_a, t_m = b_from_a.rotate(rays_a), b_from_a.t_m
    cos = (ray_a * ray_b).sum(axis=1)
    along_a, along_b = ray_a @ t_m, ray_b @ t_m
    with np.errstate(divide='ignore', invalid='ignore'):
        range_a_m = (cos * along_b - along_a) / (1 - cos ** 2)
        range_b_m = (along_b - cos * along_a) / (1 - cos ** 2)
        at_a, at_b = t_m + range_a_m[:, None] * ray_a, range_b_m[:, None] * ray_b
        gap_m = np.linalg.norm(at_a - at_b, axis=1) / 2
        miss = np.fmax(gap_m / range_a_m * a.intrinsics.fx_px / a.intrinsics.width_px,
                       gap_m / range_b_m * b.intrinsics.fx_px / b.intrinsics.width_px)
    ahead = (range_a_m > 0) & (range_b_m > 0) & np.isfinite(miss)
    ahead &= _measure_baseline_m(a.base_from_cam, b.base_from_cam) >= MIN_BASELINE_M
    return (np.where(ahead, miss, np.inf), (range_a_m * rays_a[:, 2], range_b_m * ray_b[:, 2]),
            np.degrees(np.arccos(np.clip(cos, -1, 1))))


def _measure(pairs: Sequence[ViewPair], readings: Sequence[CameraReading],
             triangulate: Callable[..., Any] = _triangulate) -> Agreement:
    """Measure how many matches agree with this reading, in any unit of depth."""
    depths: dict[int, list[Array]] = {}
    met = [triangulate(pair, *(readings[i] for i in pair.views)) for pair in pairs]
    for pair, (miss, triangulated_m, parallax_deg) in zip(pairs, met, strict=True):
        usable = (miss < CLOSE) & (parallax_deg > MIN_PARALLAX_DEG)
        if np.mean(miss < CLOSE) < MIN_CLOSE:  # wrong poses triangulate wrong depths
            usable[:] = False
        for index, measured_m, expected_m in zip(pair.views, pair.depths_m, triangulated_m,
                                                 strict=True):
            known = usable & np.isfinite(measured_m)
            depths.setdefault(index, []).append(
                np.stack([measured_m[known], expected_m[known]], axis=-1))
    joined = {index: np.concatenate(each) for index, each in depths.items()}
    units = {index: _guess_unit(each) for index, each in joined.items()}
    shares = []
    for pair, (miss, triangulated_m, _) in zip(pairs, met, strict=True):
        off = np.zeros(len(miss))  # fmax: an unknown depth contradicts nothing
        for index, measured_m, expected_m in zip(pair.views, pair.depths_m, triangulated_m,
                                                 strict=True):
            with np.errstate(divide='ignore', invalid='ignore'):
                off = np.fmax(off, np.abs(np.log(measured_m / expected_m / units[index])))
        shares.append([np.mean((miss < CLOSE) & (off < CLOSE_DEPTH)),
                       np.mean((miss < NEAR) & (off < NEAR_DEPTH)), np.mean(miss < NEAR)])
    close, near, near_rays = np.reshape(shares, (-1, 3)).T
    return Agreement(close, near, near_rays, joined)


def _guess_unit(depths_m: Array) -> float:
    """Return the factor nearest to the median ratio of measured and triangulated depths (n, 2)."""
    if len(depths_m) < MIN_DEPTHS:
        return float('nan')
    ratio = np.median(np.log(depths_m[:, 0] / depths_m[:, 1]))
    return min(DEPTH_FACTORS, key=lambda factor: abs(ratio - np.log(factor)))


# --- causes ---------------------------------------------------------------------------------------

def _explain(pairs: Sequence[ViewPair], given: Sequence[CameraReading],
             wrong: npt.NDArray[np.intp]) -> tuple[ReadingChange | None, tuple[int, ...], float]:
    """Return the change, in which cameras, that explains almost all matches of the wrong pairs.

    None if there is none, or two that explain as much, with the largest share.
    """
    best: dict[int, tuple[float, tuple[int, ...]]] = {}
    cameras = sorted({i for pair in pairs for i in pair.views})
    triangulate = cache(_triangulate)  # most subsets leave a pair as in another
    for number, change in enumerate(CHANGES):
        changed = _apply(change, range(len(given)), given)
        for chosen in _list_subsets(cameras):
            measured = _measure(pairs, [changed[i] if i in chosen else each
                                        for i, each in enumerate(given)], triangulate)
            close = float(measured.close[wrong].mean())
            # Of two subsets that explain as much, the smaller comes first.
            if not measured.contradicts.any() and close > best.get(number, (0.0,))[0]:
                best[number] = close, chosen
    ranking = sorted(((*item, number) for number, item in best.items()), reverse=True)
    if not ranking or ranking[0][0] < MIN_EXPLAINED or (
            len(ranking) > 1 and ranking[1][0] > ranking[0][0] - MIN_LEAD):
        return None, (), ranking[0][0] if ranking else 0.0
    close, chosen, number = ranking[0]
    return CHANGES[number], chosen, close


def _judge_focal_lengths(pairs: Sequence[ViewPair], views: Sequence[View]) -> Disagreement | None:
    """Return a focal length that is wrong by a factor; None if none is, or it is not certain.

    The rays of a pair may meet in spite of it. So the points of known depth of one view are fitted
    to the other's pixels by a free pose (PnP), which leaves a few pixels with the right lenses.
    """
    cameras = sorted({i for pair in pairs for i in pair.views})
    fit = cache(partial(_fit_pose_errors_px, views))  # most subsets leave a pair as in another

    def measure(factor: float, chosen: Sequence[int]) -> tuple[float, Array]:
        factors = [factor if i in chosen else 1.0 for i in range(len(views))]
        errors = [px for pair in pairs for a, b in (pair.views, pair.views[::-1])
                  if len(px := fit(pair, a == pair.views[1], factors[a], factors[b]))]
        return (float(np.mean([np.median(px) for px in errors])) if errors else 0.0,
                np.concatenate([*errors, []]))

    given_px, given_errors_px = measure(1.0, ())
    if given_px < MIN_MISFIT_PX:
        return None
    (fit_px, _, factor, chosen), (rival_px, *_) = sorted(
        (measure(factor, chosen)[0], len(chosen), factor, chosen)
        for factor in (0.5, 2.0) for chosen in _list_subsets(cameras))[:2]
    if fit_px > MAX_FIT_PX or fit_px > MAX_FIT_RATIO * min(given_px, rival_px):
        return None
    errors_px = measure(factor, chosen)[1]
    return Disagreement(
        Misreading.LENS, tuple(views[i].camera for i in chosen),
        f'their focal length is divided by {1 / factor:g}',
        float(np.mean(given_errors_px < MAX_FIT_PX)), float(np.mean(errors_px < MAX_FIT_PX)),
        len(errors_px), 1 / factor)


def _fit_pose_errors_px(views: Sequence[View], pair: ViewPair, source: int, factor: float,
                        other_factor: float) -> Array:
    """Return the errors (n,), px at 640 px of width, of one view's points in the other, by PnP.

    factor, other_factor: of their focal lengths. () with too few known depths.
    """
    known = np.flatnonzero(np.isfinite(pair.depths_m[source]))
    if len(known) < 2 * MIN_DEPTHS:
        return np.empty(0)
    known = known[::max(1, len(known) // MAX_FITTED)]
    lens, other_lens = (_scale_focal_length(views[pair.views[i]].intrinsics, each)
                        for i, each in ((source, factor), (1 - source, other_factor)))
    rays = lens.unproject(pair.pixels[source][known])
    points = rays / rays[:, 2:] * pair.depths_m[source][known][:, None]
    pixels = _undistort(other_lens, pair.pixels[1 - source][known])
    usable = np.isfinite(points).all(axis=1) & np.isfinite(pixels).all(axis=1)
    points, pixels = points[usable], pixels[usable]
    if len(points) < MIN_DEPTHS:
        return np.empty(0)
    to_px = 640 / other_lens.width_px
    is_fit, turn, shift, inliers = cv2.solvePnPRansac(
        points, pixels, other_lens.matrix, None, iterationsCount=200,
        reprojectionError=PNP_PX / to_px, flags=cv2.SOLVEPNP_EPNP)
    if not is_fit or inliers is None or len(inliers) < MIN_DEPTHS:
        return np.full(len(points), np.inf)
    close = inliers.ravel()
    turn, shift = cv2.solvePnPRefineLM(points[close], pixels[close], other_lens.matrix, None, turn,
                                       shift)
    projected = cv2.projectPoints(points, turn, shift, other_lens.matrix, None)[0][:, 0]
    return np.asarray(np.linalg.norm(projected - pixels, axis=1) * to_px)


def _apply(change: ReadingChange, chosen: Sequence[int], given: Sequence[CameraReading]
           ) -> list[CameraReading]:
    return [change.apply(each) if i in chosen else each for i, each in enumerate(given)]


def _list_subsets(cameras: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the cameras that may share a fault: any of a few; of many one, all, all but one."""
    count = len(cameras)
    sizes = (range(1, count + 1) if count <= MAX_CAMERAS_OF_ALL_SUBSETS
             else sorted({1, count - 1, count}))
    for size in sizes:
        yield from combinations(cameras, size)


def _judge_depth(camera: str, depths_m: Array) -> Disagreement | None:
    """Return how measured and triangulated depths (n, 2) of a camera disagree; None: they agree."""
    if len(depths_m) < MIN_DEPTHS:
        return None
    measured, expected = np.log(depths_m).T
    ratio, product = measured - expected, measured + expected
    median, spread = _measure_spread(ratio)
    agreement = float(np.mean(np.abs(ratio) < NEAR_DEPTH))
    _, spread_of_product = _measure_spread(product)
    count = len(depths_m)
    if agreement > MAX_AGREEMENT:
        return None
    if spread_of_product < CLOSE_DEPTH and spread > 2 * spread_of_product:
        share = float(np.mean(np.abs(product - np.median(product)) < NEAR_DEPTH))
        return Disagreement(Misreading.DISPARITY, (camera,), 'it is read as disparity', agreement,
                            share, count)
    factor = _guess_unit(depths_m)
    share = float(np.mean(np.abs(ratio - np.log(factor)) < NEAR_DEPTH))
    if factor == 1 or abs(median - np.log(factor)) > CLOSE_DEPTH or spread > CLOSE_DEPTH \
            or share < MIN_EXPLAINED:
        return None
    reading = f'divided by {factor:g}' if factor > 1 else f'multiplied by {1 / factor:g}'
    return Disagreement(Misreading.DEPTH_UNIT, (camera,), reading, agreement, share, count, factor)


def _measure_spread(values: Array) -> tuple[float, float]:
    """Return median and 1.48 median absolute deviations."""
    median = float(np.median(values))
    return median, 1.48 * float(np.median(np.abs(values - median)))
