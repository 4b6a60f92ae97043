"""Whether depth and poses of a scene agree, and which mistake would make them agree."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from crosspoint_ros.core.datatypes import Array, Transform, View
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.data.qa.photometric import (
    CAUSES,
    MAX_SHIFT_PX,
    flow_magnitude_px,
    make_flow_reference,
    median_flow_px,
)
from crosspoint_ros.data.qa.point_visibility import backproject_base_m, is_inside
from crosspoint_ros.data.scenes.rgbd_scene import RgbdScene, Say, UnusableData

SAMPLED_FRAMES = 10
GRID_PX = 32
SAME_RATIO = 0.04  # of the depth: tells a wrong unit or an inverted pose, not a small error
MIN_AGREEMENT, MIN_GAIN = 0.15, 2.0
MIN_PROJECTED = 40
MIN_PAIRS, MIN_ALIGNED = 5, 0.2
NEAR_BEST = 0.7
MAX_MEDIAN_M, MIN_MEDIAN_M = 100.0, 0.05  # half of a scene's depth is never beyond
DEPTH_DIVISORS = (1.0, 1000.0, 0.001, 5.0, 0.2, 10.0, 0.1)


@dataclass(frozen=True)
class Misreading:
    """How a scene may have been meant: depth divided by a number, poses turned round."""

    depth_divisor: float
    inverted_poses: bool


def check_scene(scene: RgbdScene, say: Say) -> None:
    """Raise `Unusable` with what was measured if depth and poses contradict each other."""
    views = list(_sample_views(scene, say))
    if len(views) < 2:
        raise UnusableData(f'{scene.name}: {len(views)} of {SAMPLED_FRAMES} looked-at frames can be '
                       'read (at least 2)')
    given = _measure_agreement(views, Misreading(1.0, False))[0]
    if MIN_GAIN * given < 1:  # else nothing can agree clearly better
        _reject_misreading(scene.name, views, given)
    _reject_unit(scene.name, views)
    if given < MIN_AGREEMENT:
        raise UnusableData(f'{scene.name}: {given:.0%} of its depths are met again from other poses '
                       f'(at least {MIN_AGREEMENT:.0%}): its poses, its lens or its depth are wrong')
    _reject_misaligned(scene.name, views)


def _reject_misreading(name: str, views: list[View], given: float) -> None:
    """Refuse what would agree clearly better if it were read in another way."""
    met = {mistake: _measure_agreement(views, mistake) for mistake in (
        Misreading(unit, inverted) for unit in DEPTH_DIVISORS for inverted in (False, True))}
    top = max(share for share, _ in met.values())
    # Some mistakes bring few points into any other view, and those agree by chance.
    best = max((m for m in met if met[m][0] >= NEAR_BEST * top), key=lambda m: met[m][1])
    if met[best][0] > max(MIN_AGREEMENT, MIN_GAIN * given):
        raise UnusableData(_describe_misreading(name, best, met[best][0], given))


def _reject_unit(name: str, views: list[View]) -> None:
    """A still camera agrees with itself in any unit: then the size itself must tell."""
    depths = np.concatenate([v.depth_m[::8, ::8].ravel() for v in views if v.depth_m is not None])
    known = depths[np.isfinite(depths)]
    half_m = float(np.median(known)) if known.size else 0.0
    if half_m > MAX_MEDIAN_M:
        raise UnusableData(f'{name}: half of its depth is beyond {half_m:.0f} m (limit '
                       f'{MAX_MEDIAN_M:g}): millimetres were taken for metres; --depth-per-m '
                       'says what a stored metre is')
    if half_m < MIN_MEDIAN_M:
        raise UnusableData(f'{name}: half of its depth is within {half_m:.4f} m (limit '
                       f'{MIN_MEDIAN_M:g}): its unit is another one; --depth-per-m says which')


def _reject_misaligned(name: str, views: list[View]) -> None:
    """Depth may agree where images do not; some pairs may be off, not nearly all."""
    shifts = [median_flow_px(flow_magnitude_px(make_flow_reference(a), b)) for apart in (1, 2)
              for a, b in zip(views, views[apart:], strict=False)]
    known = np.array([shift for shift in shifts if np.isfinite(shift)])
    good = (known <= MAX_SHIFT_PX).mean() if known.size >= MIN_PAIRS else 1.0
    if good < MIN_ALIGNED:
        raise UnusableData(f'{name}: {known.size} pairs of its images lie {np.median(known):.1f} px '
                       'beside where depth and poses have them (median, at 640 px of width; limit '
                       f'{MAX_SHIFT_PX:g} for {MIN_ALIGNED:.0%} of them): {CAUSES}; register the '
                       'depth, or calibrate')


def _describe_misreading(name: str, best: Misreading, share: float, given: float) -> str:
    what, cure = [], []
    if best.inverted_poses:
        what.append('its poses are inverted (camera_from_world)')
        cure.append('--inverted-poses')
    if best.depth_divisor != 1:
        unit = ' (millimetres were taken for metres)' if best.depth_divisor == 1000 else ''
        what.append(f'its depth is {best.depth_divisor:g} times too large{unit}')
        cure.append('--depth-per-m')
    return (f'{name}: {" and ".join(what)}: so {share:.0%} of the depths are met again from other '
            f'poses, as given {given:.0%}; read it with {" and ".join(cure)}')


def _sample_views(scene: RgbdScene, say: Say) -> Iterator[View]:
    """Frames spread over the scene; one that cannot be read is said."""
    at = np.unique(np.linspace(0, len(scene.frames) - 1, SAMPLED_FRAMES).round().astype(int))
    for index in at:
        try:
            yield scene.view(scene.frames[index])
        except UnusableData as problem:
            say(str(problem))


def _measure_agreement(views: list[View], mistake: Misreading) -> tuple[float, int]:
    """The median share, over pairs, of depths that the other view has too; how many in all."""
    shares, total = [], 0
    for a, b in combinations(views, 2):
        landed, agreed = _count_agreeing(a, b, mistake)
        if landed >= MIN_PROJECTED:
            shares.append(agreed / landed)
            total += agreed
    # Where nothing lands in any other view, nothing agrees.
    known = min(1.0, 2 * len(shares) / len(views))
    return (float(np.median(shares)) * known if shares else 0.0), total


def _count_agreeing(a: View, b: View, mistake: Misreading) -> tuple[int, int]:
    """How many points of a land on depths of b, and how many of them where b has them."""
    poses = [require_pose(view) for view in (a, b)]
    if mistake.inverted_poses:
        poses = [pose.inverse for pose in poses]
    pixels = _make_grid(a)
    depth_m = _sample_depth_m(a, pixels) / mistake.depth_divisor
    known = np.isfinite(depth_m)
    pixels, depth_m = pixels[known], depth_m[known]
    if not len(pixels):
        return 0, 0
    points = _backproject(a, poses[0], pixels, depth_m)
    in_b = poses[1].inverse.transform_points(points)
    ahead = in_b[:, 2] > MIN_MEDIAN_M
    there = b.intrinsics.project(in_b[ahead])
    inside = is_inside(b.intrinsics, there, 0.0)
    if not inside.any():
        return 0, 0
    met_m = _sample_depth_m(b, there[inside]) / mistake.depth_divisor
    expected_m = in_b[ahead][inside, 2]
    met = np.isfinite(met_m)
    agreed = np.abs(met_m[met] - expected_m[met]) < SAME_RATIO * expected_m[met]
    return int(met.sum()), int(agreed.sum())


def _backproject(view: View, pose: Transform, pixels: Array, depth_m: Array) -> Array:
    return pose.transform_points(require_pose(view).inverse.transform_points(backproject_base_m(view, pixels, depth_m)))


def _sample_depth_m(view: View, pixels: Array) -> Array:
    assert view.depth_m is not None
    column, row = np.rint(pixels).astype(int).T
    return view.depth_m[row, column].astype(float)


def _make_grid(view: View) -> Array:
    lens = view.intrinsics
    columns = np.arange(GRID_PX // 2, lens.width_px, max(4, GRID_PX * lens.width_px // 640))
    rows = np.arange(GRID_PX // 2, lens.height_px, max(4, GRID_PX * lens.width_px // 640))
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(float)
