"""Checks that a scene's depth, poses and images agree, and names the misreading if not."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from crosspoint_ros.core.datatypes import View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.data.qa import photometric
from crosspoint_ros.data.qa.photometric import MAX_SHIFT_PX, FlowReference, compute_median_flow_px
from crosspoint_ros.data.qa.point_visibility import is_inside, make_grid, sample_depth_m
from crosspoint_ros.data.scenes.rgbd_scene import RgbdScene, UnusableData
from crosspoint_ros.data.view_consistency import find_disagreements

log = logging.getLogger(__name__)
SAMPLED_FRAMES = 10
GRID_PX = 32
SAME_RATIO = 0.04  # of the depth: detects a wrong unit or an inverted pose, not a small error
MIN_AGREEMENT, MIN_GAIN = 0.15, 2.0
MIN_PROJECTED = 40
MIN_PAIRS, MIN_ALIGNED = 5, 0.2
NEAR_BEST = 0.7
MIN_MEDIAN_M, MAX_MEDIAN_M = 0.05, 100.0
DEPTH_DIVISORS = (1.0, 1000.0, 0.001, 5.0, 0.2, 10.0, 0.1)


def check_scene(scene: RgbdScene) -> None:
    """Raise `UnusableData` with the measured values if depth, poses and images disagree."""
    views = list(_sample_views(scene))
    if len(views) < 2:
        raise UnusableData(f'{scene.name}: {len(views)} of {SAMPLED_FRAMES} sampled frames can be '
                           'read (at least 2)')
    agreement = _measure_agreement(views, 1.0, False)[0]
    if MIN_GAIN * agreement < 1:  # otherwise nothing can agree clearly better
        _reject_misreading(scene.name, views, agreement)
    _reject_unit(scene.name, views)
    if agreement < MIN_AGREEMENT:
        readings = {found.reading for found in find_disagreements(views) if found.reading}
        raise UnusableData(
            f'{scene.name}: {agreement:.0%} of its depths agree with other views (at least '
            f'{MIN_AGREEMENT:.0%}): ' + ('they agree when ' + ' and '.join(sorted(readings))
                                         if readings else
                                         'its poses, its intrinsics or its depth are wrong'))
    _reject_misaligned(scene.name, views)


def _reject_misreading(name: str, views: list[View], agreement: float) -> None:
    """Reject a scene that agrees clearly better when it is read in another way."""
    measured = {misreading: _measure_agreement(views, *misreading)
                for misreading in product(DEPTH_DIVISORS, (False, True))}
    top = max(share for share, _ in measured.values())
    # Some misreadings project few points into any other view, and those agree by chance.
    best = max((m for m in measured if measured[m][0] >= NEAR_BEST * top),
               key=lambda m: measured[m][1])
    share, (depth_divisor, inverted) = measured[best][0], best
    if share <= max(MIN_AGREEMENT, MIN_GAIN * agreement):
        return
    faults, options = [], []
    if inverted:
        faults.append('its poses are inverted (camera_from_world)')
        options.append('--inverted-poses')
    median_m = _compute_median_depth_m(views)
    if depth_divisor == 0.001 and MIN_MEDIAN_M < median_m < MAX_MEDIAN_M:
        # The depths are plausible as they are, so it is the other lengths that are wrong.
        faults.append('the translations of its poses are 1000 times too large (millimetres were '
                      f'taken for metres; its median depth, {median_m:.2g} m, is plausible)')
        options.append('poses in metres')
    elif depth_divisor != 1:
        unit = ' (millimetres were taken for metres)' if depth_divisor == 1000 else ''
        faults.append(f'its depth is {depth_divisor:g} times too large{unit}')
        options.append('--depth-per-m')
    raise UnusableData(f'{name}: {" and ".join(faults)}: read so, {share:.0%} of the depths agree '
                       f'with other views, as given {agreement:.0%}; use {" and ".join(options)}')


def _reject_unit(name: str, views: list[View]) -> None:
    """Reject implausible depths: those of a camera that never moves agree in any unit."""
    median_m, fault = _compute_median_depth_m(views), ''
    if not np.isfinite(median_m):
        raise UnusableData(f'{name}: all of its depth is unknown (0)')
    if median_m > MAX_MEDIAN_M:
        fault = f'{median_m:.0f} m (limit {MAX_MEDIAN_M:g}): millimetres were taken for metres'
    elif median_m < MIN_MEDIAN_M:
        fault = f'{median_m:.4f} m (limit {MIN_MEDIAN_M:g}): the unit is wrong'
    if fault:
        raise UnusableData(f'{name}: its median depth is {fault}; set --depth-per-m')


def _compute_median_depth_m(views: list[View]) -> float:
    """Return the median of the known depths; NaN if all are unknown."""
    depths = np.concatenate([v.depth_m[::8, ::8].ravel() for v in views if v.depth_m is not None])
    known = depths[np.isfinite(depths)]
    return float(np.median(known)) if known.size else float('nan')


def _reject_misaligned(name: str, views: list[View]) -> None:
    """Reject images that disagree with depth and poses in most pairs; some may be off."""
    shifts = [compute_median_flow_px(photometric.measure_flow_px(FlowReference.from_view(a), b))
              for step in (1, 2) for a, b in zip(views, views[step:], strict=False)]
    known = np.array([shift for shift in shifts if np.isfinite(shift)])
    aligned = (known <= MAX_SHIFT_PX).mean() if known.size >= MIN_PAIRS else 1.0
    if aligned < MIN_ALIGNED:
        raise UnusableData(
            f'{name}: {known.size} pairs of its images are {np.median(known):.1f} px off where '
            f'depth and poses put them (median, at 640 px of width; limit {MAX_SHIFT_PX:g} for '
            f'{MIN_ALIGNED:.0%} of them): {photometric.CAUSES}; register the depth, or calibrate')


def _sample_views(scene: RgbdScene) -> Iterator[View]:
    """Yield frames spread over the scene; an unreadable one is logged."""
    indices = np.linspace(0, len(scene.frames) - 1, SAMPLED_FRAMES).round().astype(int)
    for index in np.unique(indices):
        try:
            yield scene.view(scene.frames[index])
        except UnusableData as problem:
            log.warning('%s: %s', scene.name, problem)


def _measure_agreement(views: list[View], depth_divisor: float, inverted: bool
                       ) -> tuple[float, int]:
    """Return the median share, over pairs, of depths that the other view confirms; their sum."""
    shares, total = [], 0
    for a, b in combinations(views, 2):
        projected, agreed = _count_agreeing(a, b, depth_divisor, inverted)
        if projected >= MIN_PROJECTED:
            shares.append(agreed / projected)
            total += agreed
    # Where nothing projects into any other view, nothing agrees.
    known = min(1.0, 2 * len(shares) / len(views))
    return (float(np.median(shares)) * known if shares else 0.0), total


def _count_agreeing(a: View, b: View, depth_divisor: float, inverted: bool) -> tuple[int, int]:
    """Count the points of a that project onto known depths of b, and those that agree."""
    poses = [require_pose(view) for view in (a, b)]
    if inverted:
        poses = [pose.inverse for pose in poses]
    pixels = make_grid(a, GRID_PX)
    depth_m = sample_depth_m(a, pixels) / depth_divisor
    known = np.isfinite(depth_m)
    if not known.any():
        return 0, 0
    in_b = (poses[1].inverse @ poses[0]).transform_points(
        a.backproject(pixels[known], depth_m[known]))
    ahead = in_b[:, 2] > MIN_MEDIAN_M
    pixels_b = b.intrinsics.project(in_b[ahead])
    inside = is_inside(b.intrinsics, pixels_b, 0.0)
    if not inside.any():
        return 0, 0
    measured_m = sample_depth_m(b, pixels_b[inside]) / depth_divisor
    expected_m = in_b[ahead][inside, 2]
    met = np.isfinite(measured_m)
    agreed = np.abs(measured_m[met] - expected_m[met]) < SAME_RATIO * expected_m[met]
    return int(met.sum()), int(agreed.sum())
