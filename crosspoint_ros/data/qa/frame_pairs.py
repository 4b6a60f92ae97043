"""Which frames of a scene are asked about together: different enough, overlapping, balanced."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa.point_visibility import (
    Indices,
    PointDepths,
    Visibility,
    project_points,
    sample_depths,
)
from crosspoint_ros.data.scenes.rgbd_scene import RgbdFrame

MAX_FRAMES = 96  # of one scene, spread over it
MIN_MOTION_M, MIN_ROTATION_DEG = 0.08, 6.0
MAX_ANGLE_DEG = 100.0
MIN_OVERLAP, MAX_SEEN_THROUGH = 0.08, 0.3
GRID_PX = 48
MAX_CANDIDATES = 24  # frames, spread over a scene, that each is compared with where these are enough
SUPPORT_FRAMES = 4
ANGLE_BINS_DEG, DISTANCE_BINS_M, OVERLAP_BINS = (15.0, 35.0, 60.0), (0.3, 0.8), (0.3, 0.6)


@dataclass(frozen=True)
class FramePair:
    """Two frames by name: how far apart, what they share; cell: the kind of pair it is."""

    clicked: str
    other: str
    angle_deg: float
    distance_m: float
    overlap: float
    cell: tuple[int, int, int]


def subsample_keyframes(frames: list[RgbdFrame]) -> list[RgbdFrame]:
    """Leave out frames of a camera that hardly moved since the last one that was kept."""
    kept: dict[str, list[RgbdFrame]] = {}
    for frame in sorted(frames, key=lambda f: (f.camera, f.stamp_ns)):
        own = kept.setdefault(frame.camera, [])
        if all(_is_apart(frame, other) for other in own[-20:]):
            own.append(frame)
    chosen = [frame for own in kept.values() for frame in own]
    step = max(1, -(-len(chosen) // MAX_FRAMES))
    return chosen[::step]


def _is_apart(a: RgbdFrame, b: RgbdFrame) -> bool:
    return measure_motion(a, b)[1] >= MIN_MOTION_M or measure_motion(a, b)[0] >= MIN_ROTATION_DEG


def measure_motion(a: RgbdFrame, b: RgbdFrame) -> tuple[float, float]:
    """The angle between the optical axes, degrees, and the distance, m."""
    one, two = a.base_from_cam, b.base_from_cam
    cosine = np.clip(one.R[:, 2] @ two.R[:, 2], -1, 1)
    return float(np.degrees(np.arccos(cosine))), float(np.linalg.norm(one.t_m - two.t_m))


def find_pairs(clicked: list[RgbdFrame], frames: list[RgbdFrame], read: Callable[[RgbdFrame], View],
             skipped: Counter[str]) -> dict[str, list[FramePair]]:
    """Return, for each clicked frame by name, the frames worth asking about with it.

    What is left out is counted by reason. Every other frame is read once for all that are clicked.
    """
    found: dict[str, list[FramePair]] = {frame.name: [] for frame in clicked}
    grids: list[tuple[RgbdFrame, View, Array, PointDepths]] = []
    for frame in clicked:
        view = read(frame)
        grid = make_grid(view)
        grids.append((frame, view, grid, sample_depths(view, grid)))
    for other in frames:
        for frame, view, grid, depths in grids:
            angle, distance = measure_motion(frame, other)
            if other is frame or not _is_apart(frame, other):
                continue
            if angle > MAX_ANGLE_DEG:
                skipped['pair: more than 100 degrees apart'] += 1
                continue
            visibilities = project_points(view, read(other), grid, depths).visibility
            _add_pair(frame, other, visibilities, angle, distance, found[frame.name], skipped)
    return found


def _add_pair(clicked: RgbdFrame, other: RgbdFrame, visibilities: Indices, angle: float, distance: float,
           found: list[FramePair], skipped: Counter[str]) -> None:
    counts = Counter(int(f) for f in visibilities)
    known = len(visibilities) - counts[Visibility.NO_DEPTH] - counts[Visibility.DEPTH_EDGE] - counts[Visibility.SELF_MASK]
    visible, through = counts[Visibility.VISIBLE] + counts[Visibility.COLOUR_MISMATCH], counts[Visibility.SEEN_THROUGH]
    overlap = visible / max(known, 1)
    if through > MAX_SEEN_THROUGH * max(visible + through, 1):
        skipped['pair: one sees through what the other sees; a pose is wrong, or it moved'] += 1
    elif overlap < MIN_OVERLAP:
        skipped[f'pair: less than {MIN_OVERLAP:.0%} of the depths are met again'] += 1
    else:
        cell = (_bin(angle, ANGLE_BINS_DEG), _bin(distance, DISTANCE_BINS_M), _bin(overlap, OVERLAP_BINS))
        found.append(FramePair(clicked.name, other.name, round(angle, 2), round(distance, 4),
                          round(overlap, 4), cell))


def make_grid(view: View) -> Array:
    """Pixels (n, 2) all over a view."""
    lens = view.intrinsics
    step = max(4, GRID_PX * lens.width_px // 640)
    return np.stack(np.meshgrid(np.arange(step // 2, lens.width_px, step),
                                np.arange(step // 2, lens.height_px, step)),
                    axis=-1).reshape(-1, 2).astype(float)


def allocate_quotas(pairs: list[FramePair], wanted: int, most: int, least: int) -> list[int]:
    """Share `wanted` questions among pairs, so that every kind of pair gets the same, if it can.

    most, least: of a pair; to look at one costs as much as some questions. Others get none.
    """
    cells: dict[tuple[int, int, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        cells.setdefault(pair.cell, []).append(index)
    given = [0] * len(pairs)
    left, open_cells = wanted, sorted(cells, key=lambda cell: (len(cells[cell]), cell))
    for number, cell in enumerate(open_cells):
        share = min(-(-left // (len(open_cells) - number)), most * len(cells[cell]))
        members = pick_evenly(cells[cell], max(1, share // least))
        for place_in_cell, index in enumerate(members):
            given[index] = min(most, share // len(members) + (
                place_in_cell < share % len(members)))
        left -= sum(given[index] for index in members)
    return given


def pick_evenly(members: list[Any], number: int) -> list[Any]:
    """So many of them, or all, spread evenly."""
    number = min(number, len(members))
    return [members[index * len(members) // number] for index in range(number)]


def select_support_frames(pairs: Iterable[FramePair]) -> tuple[str, ...]:
    """The frames that share most with a clicked one: they may confirm that a point is there."""
    best = sorted(pairs, key=lambda pair: (-pair.overlap, pair.other))
    return tuple(pair.other for pair in best[:SUPPORT_FRAMES])


def _bin(value: float, edges: tuple[float, ...]) -> int:
    return int(np.searchsorted(edges, value))
