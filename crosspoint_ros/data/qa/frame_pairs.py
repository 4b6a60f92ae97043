"""Which frames of a scene are asked about together: different enough, overlapping, balanced."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.data.qa.point_visibility import Fate, Here, Indices, here_of, place
from crosspoint_ros.data.scenes.rgbd_scene import Frame

MAX_FRAMES = 96  # of one scene, spread over it
MOVED_M, TURNED_DEG = 0.08, 6.0
MAX_ANGLE_DEG = 100.0
MIN_OVERLAP, MAX_SEEN_THROUGH = 0.08, 0.3
GRID_PX = 48
OTHERS = 24  # frames, spread over a scene, that each is compared with where these are enough
WITNESSES = 4
ANGLES_DEG, DISTANCES_M, OVERLAPS = (15.0, 35.0, 60.0), (0.3, 0.8), (0.3, 0.6)


@dataclass(frozen=True)
class Pair:
    """Two frames by name: how far apart, what they share; cell: the kind of pair it is."""

    clicked: str
    other: str
    angle_deg: float
    distance_m: float
    overlap: float
    cell: tuple[int, int, int]


def different(frames: list[Frame]) -> list[Frame]:
    """Leave out frames of a camera that hardly moved since the last one that was kept."""
    kept: dict[str, list[Frame]] = {}
    for frame in sorted(frames, key=lambda f: (f.camera, f.stamp_ns)):
        own = kept.setdefault(frame.camera, [])
        if all(_apart(frame, other) for other in own[-20:]):
            own.append(frame)
    chosen = [frame for own in kept.values() for frame in own]
    step = max(1, -(-len(chosen) // MAX_FRAMES))
    return chosen[::step]


def _apart(a: Frame, b: Frame) -> bool:
    return between(a, b)[1] >= MOVED_M or between(a, b)[0] >= TURNED_DEG


def between(a: Frame, b: Frame) -> tuple[float, float]:
    """The angle between the optical axes, degrees, and the distance, m."""
    one, two = a.base_from_cam, b.base_from_cam
    cosine = np.clip(one.R[:, 2] @ two.R[:, 2], -1, 1)
    return float(np.degrees(np.arccos(cosine))), float(np.linalg.norm(one.t_m - two.t_m))


def pairs_of(clicked: list[Frame], frames: list[Frame], read: Callable[[Frame], View],
             left_out: Counter[str]) -> dict[str, list[Pair]]:
    """Return, for each clicked frame by name, the frames worth asking about with it.

    What is left out is counted by reason. Every other frame is read once for all that are clicked.
    """
    found: dict[str, list[Pair]] = {frame.name: [] for frame in clicked}
    grids: list[tuple[Frame, View, Array, Here]] = []
    for frame in clicked:
        view = read(frame)
        grid = grid_of(view)
        grids.append((frame, view, grid, here_of(view, grid)))
    for other in frames:
        for frame, view, grid, here in grids:
            angle, distance = between(frame, other)
            if other is frame or not _apart(frame, other):
                continue
            if angle > MAX_ANGLE_DEG:
                left_out['pair: more than 100 degrees apart'] += 1
                continue
            fates = place(view, read(other), grid, here).fate
            _judge(frame, other, fates, angle, distance, found[frame.name], left_out)
    return found


def _judge(clicked: Frame, other: Frame, fates: Indices, angle: float, distance: float,
           found: list[Pair], left_out: Counter[str]) -> None:
    counts = Counter(int(f) for f in fates)
    known = len(fates) - counts[Fate.NO_DEPTH] - counts[Fate.DEPTH_EDGE] - counts[Fate.OWN_BODY]
    visible, through = counts[Fate.VISIBLE] + counts[Fate.COLOUR], counts[Fate.SEEN_THROUGH]
    overlap = visible / max(known, 1)
    if through > MAX_SEEN_THROUGH * max(visible + through, 1):
        left_out['pair: one sees through what the other sees; a pose is wrong, or it moved'] += 1
    elif overlap < MIN_OVERLAP:
        left_out[f'pair: less than {MIN_OVERLAP:.0%} of the depths are met again'] += 1
    else:
        cell = (_bin(angle, ANGLES_DEG), _bin(distance, DISTANCES_M), _bin(overlap, OVERLAPS))
        found.append(Pair(clicked.name, other.name, round(angle, 2), round(distance, 4),
                          round(overlap, 4), cell))


def grid_of(view: View) -> Array:
    """Pixels (n, 2) all over a view."""
    lens = view.intrinsics
    step = max(4, GRID_PX * lens.width_px // 640)
    return np.stack(np.meshgrid(np.arange(step // 2, lens.width_px, step),
                                np.arange(step // 2, lens.height_px, step)),
                    axis=-1).reshape(-1, 2).astype(float)


def quotas(pairs: list[Pair], wanted: int, most: int, least: int) -> list[int]:
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
        members = spread(cells[cell], max(1, share // least))
        for place_in_cell, index in enumerate(members):
            given[index] = min(most, share // len(members) + (
                place_in_cell < share % len(members)))
        left -= sum(given[index] for index in members)
    return given


def spread(members: list[Any], number: int) -> list[Any]:
    """So many of them, or all, spread evenly."""
    number = min(number, len(members))
    return [members[index * len(members) // number] for index in range(number)]


def witnesses_of(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """The frames that share most with a clicked one: they may confirm that a point is there."""
    best = sorted(pairs, key=lambda pair: (-pair.overlap, pair.other))
    return tuple(pair.other for pair in best[:WITNESSES])


def _bin(value: float, edges: tuple[float, ...]) -> int:
    return int(np.searchsorted(edges, value))
