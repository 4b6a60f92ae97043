"""Selects pairs of frames for questions: different enough, overlapping, balanced by kind."""
from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa import point_visibility
from crosspoint_ros.data.qa.point_visibility import Indices, PointDepths, Visibility
from crosspoint_ros.data.scenes.rgbd_scene import RgbdFrame

MAX_FRAMES = 96  # of one scene
MIN_MOTION_M, MIN_ROTATION_DEG = 0.08, 6.0
COMPARED_KEYFRAMES = 20  # the latest of a camera, against which a frame must differ
MAX_ANGLE_DEG = 100.0
MIN_OVERLAP, MAX_SEEN_THROUGH = 0.08, 0.3
GRID_PX = 48
MAX_CANDIDATES = 24  # frames of a scene that each one is compared with, if these are enough
SUPPORT_FRAMES = 4
ANGLE_BINS_DEG, DISTANCE_BINS_M, OVERLAP_BINS = (15.0, 35.0, 60.0), (0.3, 0.8), (0.3, 0.6)


@dataclass(frozen=True)
class FramePair:
    """Two frames by name, their relative pose and overlap; cell: the bins of the three."""

    clicked: str
    other: str
    angle_deg: float
    distance_m: float
    overlap: float
    cell: tuple[int, int, int]


def subsample_keyframes(frames: list[RgbdFrame]) -> list[RgbdFrame]:
    """Drop frames whose camera has hardly moved since a keyframe; keep 96 at most."""
    keyframes: dict[str, list[RgbdFrame]] = {}
    for frame in sorted(frames, key=lambda f: (f.camera, f.stamp_ns)):
        own = keyframes.setdefault(frame.camera, [])
        if all(_is_apart(frame, other) for other in own[-COMPARED_KEYFRAMES:]):
            own.append(frame)
    chosen = [frame for own in keyframes.values() for frame in own]
    step = max(1, -(-len(chosen) // MAX_FRAMES))
    return chosen[::step]


def _is_apart(a: RgbdFrame, b: RgbdFrame) -> bool:
    angle_deg, distance_m = measure_motion(a, b)
    return distance_m >= MIN_MOTION_M or angle_deg >= MIN_ROTATION_DEG


def measure_motion(a: RgbdFrame, b: RgbdFrame) -> tuple[float, float]:
    """Return the angle between the optical axes, degrees, and the distance, m."""
    pose_a, pose_b = a.base_from_cam, b.base_from_cam
    cosine = np.clip(pose_a.R[:, 2] @ pose_b.R[:, 2], -1, 1)
    return float(np.degrees(np.arccos(cosine))), float(np.linalg.norm(pose_a.t_m - pose_b.t_m))


def find_pairs(clicked: list[RgbdFrame], frames: list[RgbdFrame],
               read: Callable[[RgbdFrame], View], skipped: Counter[str]
               ) -> dict[str, list[FramePair]]:
    """Return, for each clicked frame by name, its pairs with the others that are usable.

    Counts the skipped pairs by reason. Reads every other frame once for all that are clicked.
    """
    found: dict[str, list[FramePair]] = {frame.name: [] for frame in clicked}
    grids: list[tuple[RgbdFrame, View, Array, PointDepths]] = []
    for frame in clicked:
        view = read(frame)
        grid = point_visibility.make_grid(view, GRID_PX)
        grids.append((frame, view, grid, point_visibility.measure_point_depths(view, grid)))
    for other in frames:
        for frame, view, grid, depths in grids:
            angle_deg, distance_m = measure_motion(frame, other)
            if other is frame or not _is_apart(frame, other):
                continue
            if angle_deg > MAX_ANGLE_DEG:
                skipped['pair: more than 100 degrees apart'] += 1
                continue
            visibility = point_visibility.project_points(view, read(other), grid, depths).visibility
            overlap = _measure_overlap(visibility, skipped)
            if overlap is not None:
                cell = (bisect_left(ANGLE_BINS_DEG, angle_deg),
                        bisect_left(DISTANCE_BINS_M, distance_m),
                        bisect_left(OVERLAP_BINS, overlap))
                found[frame.name].append(FramePair(
                    frame.name, other.name, round(angle_deg, 2), round(distance_m, 4),
                    round(overlap, 4), cell))
    return found


def _measure_overlap(visibility: Indices, skipped: Counter[str]) -> float | None:
    """Return the share of known depths that the other view confirms; None if it is unusable."""
    counts = Counter(visibility.tolist())
    known = len(visibility) - sum(counts[v] for v in (
        Visibility.NO_DEPTH, Visibility.DEPTH_EDGE, Visibility.SELF_MASK))
    visible = counts[Visibility.VISIBLE] + counts[Visibility.COLOUR_MISMATCH]
    through = counts[Visibility.SEEN_THROUGH]
    overlap = visible / max(known, 1)
    if through > MAX_SEEN_THROUGH * max(visible + through, 1):
        skipped['pair: one sees through what the other sees; a pose is wrong, or it moved'] += 1
        return None
    if overlap < MIN_OVERLAP:
        skipped[f'pair: less than {MIN_OVERLAP:.0%} of the depths agree'] += 1
        return None
    return overlap


def allocate_quotas(pairs: list[FramePair], wanted: int, most: int, least: int) -> list[int]:
    """Share `wanted` questions among pairs so that every cell gets the same number, if it can.

    most, least: of a pair. Pairs beyond what `least` allows get none: a pair costs as much to
    examine as some questions.
    """
    cells: dict[tuple[int, int, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        cells.setdefault(pair.cell, []).append(index)
    quotas = [0] * len(pairs)
    left, open_cells = wanted, sorted(cells, key=lambda cell: (len(cells[cell]), cell))
    for number, cell in enumerate(open_cells):
        share = min(-(-left // (len(open_cells) - number)), most * len(cells[cell]))
        members = pick_evenly(cells[cell], max(1, share // least))
        for place, index in enumerate(members):
            quotas[index] = min(most, share // len(members) + (place < share % len(members)))
        left -= sum(quotas[index] for index in members)
    return quotas


def pick_evenly(members: list[Any], number: int) -> list[Any]:
    """Return this many members, or all, evenly spaced."""
    number = min(number, len(members))
    return [members[index * len(members) // number] for index in range(number)]


def select_support_frames(pairs: Iterable[FramePair]) -> tuple[str, ...]:
    """Return the frames that overlap most with a clicked one: they confirm occluded points."""
    best = sorted(pairs, key=lambda pair: (-pair.overlap, pair.other))
    return tuple(pair.other for pair in best[:SUPPORT_FRAMES])
