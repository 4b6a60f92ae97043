"""The thing that was clicked, by depth and colour alone: a mask per view, one cloud in the base.

In each view the surface around the point grows as far as depth is continuous, without the planes
that support it, and walls (RANSAC); GrabCut decides on the border, where depth is uncertain.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, Rejected, View
from crosspoint_ros.core.depth import WINDOW_PX, explain_missing_depth, surface_depths_m
from crosspoint_ros.core.geometry import require_pose
from crosspoint_ros.core.grasp.planes import (
    CREASE_M,
    LEVEL,
    MIN_CLEARANCE_M,
    Mask,
    Plane,
    Points,
    Region,
    Surface,
    crease_px,
    estimate_normals,
    find_planes,
)

REACH_M = 0.32  # from the point: a thing of 25 cm clicked at its end, and its support
MAX_EXTENT_M = 0.42  # of what is one thing, from corner to corner
MAX_SIDE_PX = 320  # of the region that is looked at; a larger one is thinned out
JUMP_M, JUMP_RATIO = 0.004, 0.010  # between neighbouring pixels: two surfaces; of the depth
MIN_CREASE = 0.55  # bend of a concave crease, over some 8 mm to either side
MIN_OTHER_SHARE = 0.25  # of the clicked part: a second thing
MIN_CREASE_PIXELS, MIN_TOP_SHARE = 8, 0.08  # of all its pixels: the top of a lower thing
MIN_PIXELS = 40
MIN_NESTED_PIXELS, MIN_NESTED, NESTED_M = 12, 0.9, 0.004  # a part within another's outline
BAND_PX, SURE_PX = 2, 6  # that GrabCut decides, and around it what its colours are learnt from
VOXEL_M = 0.003
MATCH_PX = 4  # that a found pixel may be off, of 640
MIN_AGREEMENT, AGREEMENT_M = 0.8, 0.012  # of two views on what belongs to the thing
COMPARED = 2000  # points of a view, at least


class Unclear(IntEnum):
    """Why a thing is not separated from what is around it: the constants of `TargetShape.msg`."""

    OK = 0
    NO_DEPTH = 1
    HOLE = 2
    SUPPORT = 3
    TOO_LARGE = 4
    TOUCHING = 5


@dataclass(frozen=True, eq=False)
class Thing:
    """What was clicked. unclear, message: why it is unclear; the rest is then empty.

    masks: (h, w) bool by camera. points_base_m, normals_base: (n, 3), colours: (n, 3) RGB uint8,
    a point per 3 mm. support: the plane that supports it, or a wall; None: none was seen.
    """

    masks: dict[str, Mask]
    points_base_m: Points
    colours: npt.NDArray[np.uint8]
    normals_base: Points
    support: Plane | None
    unclear: Unclear = Unclear.OK
    message: str = ''

    @classmethod
    def build_unclear(cls, unclear: Unclear, message: str) -> Thing:
        """Return a thing of which nothing is known but why."""
        none = np.zeros((0, 3), np.float32)
        return cls({}, none, none.astype(np.uint8), none, None, unclear, message)


class _Unsure(Exception):  # noqa: N818  (a result, not an error)
    """is_open: another view may show it all; else no view's answer counts against this one."""

    def __init__(self, unclear: Unclear, message: str, is_open: bool = False) -> None:
        super().__init__(message)
        self.unclear, self.is_open = unclear, is_open


@dataclass(frozen=True, eq=False)
class _Cut:
    """The thing in one view: the mask of the region, its normals (h, w, 3), the plane below."""

    region: Region
    mask: Mask
    normals_base: Points
    support: Plane | None

    @property
    def full_mask(self) -> Mask:
        """The mask (h, w) of the whole image."""
        return _expand(self.region, self.mask)


def _expand(region: Region, mask: Mask) -> Mask:
    """Return a mask of a region as one of the whole image."""
    full = np.zeros(region.view.image.shape[:2], dtype=np.bool_)
    part = full[region.top:, region.left:]
    fine = np.repeat(np.repeat(mask, region.step, axis=0), region.step, axis=1)
    height, width = min(part.shape[0], fine.shape[0]), min(part.shape[1], fine.shape[1])
    part[:height, :width] = fine[:height, :width]
    return full


def segment(seen: Sequence[tuple[View, Array]]) -> Thing:
    """Cut out the thing at a pixel (2,) of each view; the first is the clicked one.

    A view that shows no depth, or not all of it, is left out if another does, and so is one that
    has too little in common with the first. Views need depth and a pose. The pixel of another view
    is off by some, on an edge by enough for the table behind: then the nearest that is on the
    surface of the first view with depth counts.
    """
    cuts: list[_Cut] = []
    faults: list[_Unsure] = []
    clicked_base_m: Points | None = None
    for view, pixel in seen:
        try:
            region = _read_region(view, np.asarray(pixel, dtype=np.float64), clicked_base_m)
            if clicked_base_m is None:
                clicked_base_m = region.seed_base_m
            cuts.append(_cut(region))
        except _Unsure as why:
            faults.append(why)
    if not cuts:
        return Thing.build_unclear(faults[0].unclear, str(faults[0]))
    for fault in faults:
        if not fault.is_open:
            return Thing.build_unclear(fault.unclear, str(fault))
    agreeing = cuts[:1]
    for other in cuts[1:]:
        share = _measure_agreement(cuts[0], other)
        if share is None:
            continue
        agreeing.append(other)
        if share < MIN_AGREEMENT:
            return Thing.build_unclear(Unclear.TOUCHING, (
                f'{cuts[0].region.view.camera} and {other.region.view.camera} agree on '
                f'{int(100 * share)}% of what belongs to it (at least {MIN_AGREEMENT:.0%}): it may '
                'touch another thing'))
    return _merge(agreeing)


def _read_region(view: View, pixel: Array, clicked_base_m: Points | None = None) -> Region:
    """Read the surroundings of a pixel (2,); clicked_base_m: (3,) the point in another view."""
    if view.depth_m is None:
        raise _Unsure(Unclear.NO_DEPTH, f'{view.camera} has no depth', is_open=True)
    try:
        base_from_cam = require_pose(view)
    except Rejected as why:
        raise _Unsure(Unclear.NO_DEPTH, why.message, is_open=True) from None
    depths_m = surface_depths_m(view, pixel)
    if not len(depths_m):
        raise _Unsure(Unclear.HOLE, f'{explain_missing_depth(view, pixel)}: a hole, or glass',
                      is_open=True)
    reach_px = REACH_M * view.intrinsics.fx_px / depths_m[0]
    height, width = view.depth_m.shape
    left, top = np.maximum(np.rint(pixel - reach_px).astype(int), 0)
    right, bottom = np.minimum(np.rint(pixel + reach_px).astype(int) + 1, (width, height))
    step = max(1, int(np.ceil(max(right - left, bottom - top) / MAX_SIDE_PX)))
    depth_m = np.nan_to_num(view.depth_m[top:bottom:step, left:right:step])
    depth_m = _fill_holes(depth_m)
    rows, columns = np.mgrid[top:bottom:step, left:right:step]
    places = np.stack([columns, rows], axis=-1).astype(np.float64)
    points = view.backproject(places.reshape(-1, 2), depth_m.ravel())
    points_base_m = base_from_cam.transform_points(points).reshape(*depth_m.shape, 3)
    at = (pixel - (left, top)) / step
    seed = _find_seed(view, depth_m, at, float(depths_m[0]), step)
    if clicked_base_m is not None and (
            np.linalg.norm(points_base_m[seed] - clicked_base_m) > AGREEMENT_M):
        seed = _find_nearest(points_base_m, depth_m > 0, at, MATCH_PX * width / 640 / step,
                             clicked_base_m) or seed
    return Region(view, int(left), int(top), step, depth_m, points_base_m.astype(np.float32), seed,
                   points_base_m[seed].astype(np.float32))


def _fill_holes(depth_m: Points) -> Points:
    """Fill holes of up to two pixels within a surface, as in depth that was warped.

    Then small ones on edges, by the median of what is around.
    """
    filled, kernel = np.ascontiguousarray(depth_m), np.ones((3, 3), np.uint8)
    for _ in range(2):
        high = cv2.dilate(filled, kernel)
        low = cv2.erode(np.where(filled > 0, filled, np.float32(np.inf)), kernel)
        inner = (filled <= 0) & (high > 0) & (high - low < JUMP_M + JUMP_RATIO * high)
        filled = np.where(inner, (low + high) / 2, filled)
    filled = np.asarray(filled, dtype=np.float32)
    return np.where(filled > 0, filled, cv2.medianBlur(filled, 5))


def _find_seed(view: View, depth_m: Points, at: Array, surface_m: float, step: int
               ) -> tuple[int, int]:
    """The pixel (row, column) nearest to a place that is of the surface."""
    rows, columns = np.nonzero(np.abs(depth_m - surface_m) < JUMP_M + JUMP_RATIO * surface_m)
    away_px = step * np.hypot(columns - at[0], rows - at[1])
    limit_px = step + WINDOW_PX * view.intrinsics.width_px / 640  # in which the depth was read
    if not (away_px <= limit_px).any():
        raise _Unsure(Unclear.HOLE, f'no depth within {limit_px:.0f} px of the point in '
                      f'{view.camera} is of the surface at {surface_m:.3f} m', is_open=True)
    nearest = int(away_px.argmin())
    return int(rows[nearest]), int(columns[nearest])


def _find_nearest(points_base_m: Array, known: Mask, at: Array, reach: float, near_m: Points
                  ) -> tuple[int, int] | None:
    """The pixel (row, column) around a place whose point is nearest to one, None if none is."""
    low = np.maximum(np.floor(at - reach).astype(int), 0)
    right, bottom = np.ceil(at + reach).astype(int) + 1
    window = slice(low[1], bottom), slice(low[0], right)
    rows, columns = np.nonzero(known[window])
    if not len(rows):
        return None
    away_m = np.linalg.norm(points_base_m[window][rows, columns] - near_m, axis=1)
    best = int(away_m.argmin())
    if away_m[best] > AGREEMENT_M:
        return None
    return int(low[1] + rows[best]), int(low[0] + columns[best])


def _cut(region: Region) -> _Cut:
    """Cut the thing out of one view."""
    known = region.depth_m > 0
    normals = estimate_normals(region, known)
    surfaces = find_planes(region, known, normals)
    before = [one for one in surfaces
              if one.plane.height_m(region.seed_base_m) > one.plane.clearance_m]
    above = known.copy()
    for surface in before:
        above &= ~surface.shown
    scene = [one.plane for one in before]
    grown = _grow(region, above)
    grown = _add_nested(region, grown, above, _find_support(region, grown, scene))
    _require_bounded(region, grown, [one.plane for one in surfaces if one not in before])
    normals = estimate_normals(region, grown)  # not smoothed into what is next to it or behind
    _require_alone(region, grown, normals)
    mask = _refine(region, grown, known, before)
    support = _find_support(region, grown, scene)
    if support is not None:  # in the hole of a handle few pixels are level
        mask &= ~known | (support.height_m(region.points_base_m) > MIN_CLEARANCE_M)
    return _Cut(region, mask, normals, support)


def _grow(region: Region, above: Mask) -> Mask:
    """The pixels that depth connects with the seed: a jump ends the surface behind it."""
    free = above & ~_find_jumps(region)
    free[region.seed] = True
    _, labels = cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
    grown = labels == labels[region.seed]
    if grown.sum() < MIN_PIXELS:
        raise _Unsure(Unclear.HOLE, f'{int(grown.sum())} pixels of {region.view.camera} are of one '
                      f'surface with the point (at least {MIN_PIXELS})', is_open=True)
    return np.asarray(cv2.morphologyEx(grown.astype(np.uint8), cv2.MORPH_CLOSE,
                                       np.ones((3, 3), np.uint8)) > 0) & above


def _find_jumps(region: Region) -> Mask:
    """The pixels (h, w) that are behind a neighbour by more than surfaces slope."""
    depth_m, jumps = region.depth_m, np.zeros(region.depth_m.shape, dtype=np.bool_)
    limit_m = region.step * (JUMP_M + JUMP_RATIO * depth_m)
    for first, second in (((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
                          ((slice(None), slice(None, -1)), (slice(None), slice(1, None)))):
        step_m = depth_m[second] - depth_m[first]
        jumps[first] |= step_m < -limit_m[first]
        jumps[second] |= step_m > limit_m[first]
    return jumps


def _add_nested(region: Region, grown: Mask, above: Mask, support: Plane | None) -> Mask:
    """Add what is within the outline of the surface, seen from above, or has it within its own.

    Such are the inside of a mug behind its rim, and the mug around a point inside.
    """
    points = region.points_base_m
    rest = above & ~cv2.dilate(grown.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    if support is not None:
        rest &= support.height_m(points) > support.clearance_m
    jumps = _find_jumps(region)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((rest & ~jumps).astype(np.uint8),
                                                           connectivity=4)
    rows, columns = np.nonzero(grown)
    left, top, right, bottom = columns.min() - 3, rows.min() - 3, columns.max() + 3, rows.max() + 3
    height, width = grown.shape
    merged, own = grown.copy(), points[grown][:, :2]
    for label, (x, y, w, h, pixels) in enumerate(stats[1:], start=1):
        is_apart = x > right or y > bottom or x + w < left or y + h < top
        is_cut = x == 0 or y == 0 or x + w == width or y + h == height
        if pixels < MIN_NESTED_PIXELS or is_apart or is_cut:
            continue
        part = labels == label
        other = points[part][:, :2]
        if max(_share_within(other, own), _share_within(own, other)) >= MIN_NESTED:
            merged |= part
    closed = cv2.morphologyEx(merged.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray((closed > 0) & (merged | above))


def _share_within(places: Points, around: Points) -> float:
    """The share of places (n, 2) within the convex hull of others, a crease's scale wider."""
    hull = cv2.convexHull(np.ascontiguousarray(around))
    some = places[::max(1, len(places) // 40)]
    return float(np.mean([cv2.pointPolygonTest(hull, (float(x), float(y)), True) > -NESTED_M
                          for x, y in some]))


def _require_bounded(region: Region, grown: Mask, own_planes: list[Plane]) -> None:
    """Raise if the surface is the support itself, or goes on beyond what is looked at."""
    is_cut = bool(grown[[0, -1]].any() or grown[:, [0, -1]].any())
    points = region.points_base_m[grown]
    extent_m = float(np.linalg.norm(np.ptp(np.percentile(points, (1, 99), axis=0), axis=0)))
    if not is_cut and extent_m <= MAX_EXTENT_M:
        return
    flat = max((float((np.abs(plane.height_m(points)) < 2 * plane.clearance_m).mean())
                for plane in own_planes
                if abs(float(plane.height_m(region.seed_base_m))) < 2 * plane.clearance_m),
               default=0.0)
    camera = region.view.camera
    if flat > 0.5 and extent_m > REACH_M:
        raise _Unsure(Unclear.SUPPORT, f'the point is on a surface of {extent_m:.2f} m in {camera} '
                      'that supports things: it is not an object')
    if not is_cut:
        raise _Unsure(Unclear.TOO_LARGE, f'it is {extent_m:.2f} m from corner to corner in '
                      f'{camera} (limit {MAX_EXTENT_M:g} m)')
    raise _Unsure(Unclear.TOO_LARGE, f'it goes on beyond the image of {camera}, or beyond '
                  f'{REACH_M:g} m from the point ({extent_m:.2f} m of it are seen)',
                  is_open=extent_m <= MAX_EXTENT_M)


def _require_alone(region: Region, grown: Mask, normals: Points) -> None:
    """Raise if a concave crease is between the surface and another thing next to it.

    Either creases part the two, or at one the top of a lower thing ends at the side of a higher.
    """
    creases = _find_creases(region, grown, normals)
    points, parted = region.points_base_m, (grown & ~creases).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(parted, connectivity=4)
    sizes = stats[:, cv2.CC_STAT_AREA]
    own = labels[region.seed] or 1 + int(sizes[1:].argmax())
    for label in range(1, count):
        if label != own and sizes[label] > MIN_OTHER_SHARE * sizes[own]:
            _require_within(region, points[labels == label], points[labels == own])
    height_m, total = points[..., 2], int(grown.sum())
    count, labels, stats, _ = cv2.connectedComponentsWithStats(creases.astype(np.uint8))
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] < MIN_CREASE_PIXELS:
            continue
        crease_m = float(np.median(height_m[labels == label]))
        top = grown & (normals[..., 2] > LEVEL) & (np.abs(height_m - crease_m) < CREASE_M)
        higher = grown & (height_m > crease_m + CREASE_M)
        if min(top.sum(), higher.sum()) > MIN_TOP_SHARE * total:
            _require_within(region, points[top], points[higher])


def _require_within(region: Region, other: Points, own: Points) -> None:
    """Raise if a part is outside the outline of another, seen from above."""
    hull, (x, y) = cv2.convexHull(np.ascontiguousarray(own[:, :2])), other[:, :2].mean(axis=0)
    if len(other) > MIN_PIXELS and cv2.pointPolygonTest(
            hull, (float(x), float(y)), True) < -CREASE_M:
        raise _Unsure(Unclear.TOUCHING, f'in {region.view.camera} it touches something next to it, '
                      f'{len(other)} pixels against {len(own)}: its end is unclear')


def _find_creases(region: Region, grown: Mask, normals: Points) -> Mask:
    """Find the pixels (h, w) between two faces that turn towards each other."""
    points, reach = region.points_base_m, 2 * crease_px(region)
    creases = np.zeros_like(grown)
    for axis in (0, 1):
        back, ahead, middle = (
            (span, slice(None)) if axis == 0 else (slice(None), span)
            for span in (slice(None, -2 * reach), slice(2 * reach, None), slice(reach, -reach)))
        away = points[ahead] - points[back]
        length_m = np.maximum(np.linalg.norm(away, axis=-1), 1e-6)
        bend = ((normals[ahead] - normals[back]) * away).sum(axis=-1) / length_m
        creases[middle] |= (bend < -MIN_CREASE) & (length_m < 4 * CREASE_M) & (
            grown[ahead] & grown[back])
    return creases


def _refine(region: Region, grown: Mask, known: Mask, before: list[Surface]) -> Mask:
    """Let colour decide within two pixels of the border, but for what depth says is a plane."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BAND_PX + 1,) * 2)
    inside = cv2.erode(grown.astype(np.uint8), kernel)
    around = cv2.dilate(grown.astype(np.uint8), kernel)
    rows, columns = np.nonzero(around)
    spare = SURE_PX + BAND_PX
    box = (slice(max(0, rows.min() - spare), rows.max() + spare + 1),
           slice(max(0, columns.min() - spare), columns.max() + spare + 1))
    labels = np.where(around, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[grown], labels[inside > 0] = cv2.GC_PR_FGD, cv2.GC_FGD
    image = np.ascontiguousarray(region.view.image[region.top:, region.left:][
        ::region.step, ::region.step][:grown.shape[0], :grown.shape[1]][box])
    part = np.ascontiguousarray(labels[box])
    if not (part == cv2.GC_FGD).any() or not (part == cv2.GC_BGD).any():
        return grown
    cv2.setRNGSeed(0)
    cv2.grabCut(image, part, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 1,
                cv2.GC_INIT_WITH_MASK)
    refined = np.zeros_like(grown)
    refined[box] = (part == cv2.GC_FGD) | (part == cv2.GC_PR_FGD)
    depth_m = region.depth_m
    far = cv2.dilate(np.where(grown, depth_m, 0), kernel)
    outer = known & ~grown & (depth_m - far > JUMP_M + JUMP_RATIO * depth_m)
    for surface in before:
        outer |= surface.shown & ~grown
    return np.asarray(refined & ~outer)


def _find_support(region: Region, grown: Mask, scene: list[Plane]) -> Plane | None:
    """The plane that supports the thing, else the one that it is nearest to."""
    points = region.points_base_m[grown]
    gaps = [(plane.normal_base[2] < LEVEL, abs(float(np.percentile(plane.height_m(points), 2))),
             plane) for plane in scene]
    return min(gaps, key=lambda gap: gap[:2], default=(True, 0.0, None))[2]


def _measure_agreement(one: _Cut, other: _Cut) -> float | None:
    """The share of what both views show that both count to the thing; None: they share too little.

    Of either view's thing in the other, the less: a part is all within the whole.
    """
    shares = [_measure_share(one, other), _measure_share(other, one)]
    known = [share for share in shares if share is not None]
    return min(known) if len(known) == len(shares) else None


def _measure_share(one: _Cut, other: _Cut) -> float | None:
    """The share of one view's thing that another shows, and also counts to it, by its pixels.

    But for sides that it sees at a grazing angle: depth jumps there from pixel to pixel.
    """
    view, mask = other.region.view, other.full_mask
    is_grazing = _expand(other.region, _find_jumps(other.region))
    points = one.region.points_base_m[one.mask]
    points = points[::max(1, len(points) // COMPARED)].astype(np.float64)
    cam_m = require_pose(view).inverse.transform_points(points)
    pixels = np.rint(view.intrinsics.project(cam_m))
    height, width = mask.shape
    inside = (cam_m[:, 2] > 0) & (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
    columns, rows = pixels[inside].astype(int).T
    assert view.depth_m is not None
    shown = ~is_grazing[rows, columns] & (
        np.abs(view.depth_m[rows, columns] - cam_m[inside, 2]) < AGREEMENT_M)
    places = np.unique(rows[shown] * width + columns[shown])
    return float(mask.flat[places].mean()) if len(places) >= MIN_PIXELS else None


def _merge(cuts: list[_Cut]) -> Thing:
    """Merge the views' parts: a point per 3 mm."""
    points: list[Points] = []
    colours: list[npt.NDArray[np.uint8]] = []
    normals: list[Points] = []
    for cut in cuts:
        region = cut.region
        sure = cut.mask & (region.depth_m > 0) & ~_find_jumps(region)
        image = region.view.image[region.top:, region.left:][::region.step, ::region.step]
        points.append(region.points_base_m[sure])
        colours.append(image[:sure.shape[0], :sure.shape[1]][sure])
        normals.append(cut.normals_base[sure])
    merged = np.concatenate(points)
    cells: npt.NDArray[np.int32] = np.floor(merged / VOXEL_M).astype(np.int32)
    _, kept = np.unique(cells, axis=0, return_index=True)
    return Thing({cut.region.view.camera: cut.full_mask for cut in cuts}, merged[kept],
                 np.concatenate(colours)[kept], np.concatenate(normals)[kept], cuts[0].support)
