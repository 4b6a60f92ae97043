"""`crosspoint bench segment`: masks, widths, normals and time of clicks on the kitchen's things."""
from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from crosspoint_ros.bench.environment import describe_machine
from crosspoint_ros.bench.segment.kitchen_things import THINGS, KnownThing, read_points
from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.grasp.approach import DOWN_BASE, Approach, choose_frame
from crosspoint_ros.core.grasp.planes import Mask
from crosspoint_ros.core.grasp.segment import Thing, Unclear, segment
from crosspoint_ros.core.grasp.shape import choose_closing
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.data.scenes.known_scene import KnownScene
from crosspoint_ros.scenes import KITCHEN

CAMERAS = ('front', 'side', 'wrist')
MIN_PIXELS = 150  # of a thing in a view, and of all of it that is within the image
SAME_POINT_M = 0.006  # a pixel that shows the clicked point
NORMAL_LIMIT_DEG = 10.0


@dataclass(frozen=True, eq=False)
class KitchenView:
    """A view of the kitchen, the points (h, w, 3) of its depth, and the truth of each thing."""

    view: View
    points_base_m: Array
    truths: dict[str, Mask]


@dataclass(frozen=True, eq=False)
class Clicked:
    """What came of one click, in two views.

    ious: of each mask. support_share: the part of the masks that is none of the thing, but of what
    supports it. width_error_m: NaN where the width is not known. cpu_ms: of segmentation and
    closing.
    """

    known: KnownThing
    unclear: Unclear
    message: str
    ious: tuple[float, ...] = ()
    support_share: float = np.nan
    width_error_m: float = np.nan
    cpu_ms: float = np.nan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument('--clicks', type=int, default=6, help='of each thing (default: 6)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--pictures', type=Path, metavar='FOLDER',
                        help='write each click: green: right, red: too much, blue: missing')
    parser.epilog = ('Prints the figures of the things on which the limits were chosen, and of the '
                     'others. Times are CPU time of one thread, and in cv2.grabCut of 640x480.')


def main(args: argparse.Namespace) -> int:
    """Run the benchmark and print its figures."""
    print(describe_machine())
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    views = read_kitchen()
    clicked = list(run_clicks(views, args.clicks, args.seed, args.pictures))
    unit_ms = time_grab_cut(views[0].view)
    print(format_clicks(clicked, score_normals(views, 4 * args.clicks, args.seed), unit_ms))
    return 0


def read_kitchen() -> list[KitchenView]:
    """Read the first and a later image of each camera, with the truth of the things in it."""
    scene, views = KnownScene(KITCHEN), []
    for camera in CAMERAS:
        frames = [frame for frame in scene.frames if frame.camera == camera]
        for frame in (frames[0], frames[len(frames) // 2]):
            view = scene.read_view(frame)
            points = read_points(view)
            views.append(KitchenView(view, points, {
                known.name: known.contains(points) for known in THINGS}))
    return views


def run_clicks(views: Sequence[KitchenView], clicks: int, seed: int,
               pictures: Path | None = None) -> Iterator[Clicked]:
    """Click at random on every thing in the views that show all of it, each with another view."""
    rng = np.random.default_rng(seed)
    for known in THINGS:
        seeing = [view for view in views if _is_whole(view.truths[known.name])]
        for number in range(clicks if seeing else 0):
            first = seeing[number % len(seeing)]
            rows, columns = np.nonzero(cv2.erode(
                first.truths[known.name].astype(np.uint8), np.ones((5, 5))))
            at = int(rng.integers(len(rows)))
            pixel = np.array([columns[at], rows[at]], dtype=np.float64)
            others = [view for view in seeing if view.view.camera != first.view.camera]
            seen = [(first, pixel), *_find_other(first, pixel, others, rng)]
            yield score_click(known, seen, pictures and pictures / (
                f'{known.name.replace(" ", "_")}_{number}.png'))


def score_normals(views: Sequence[KitchenView], clicks: int, seed: int
                  ) -> dict[KnownThing, Array]:
    """Return, for each thing, how far measured normals are off, deg (n,); NaN: not measured."""
    rng = np.random.default_rng(seed)
    return {known: np.array([_measure_normal_error(one, known, rng)
                             for one in views if _is_whole(one.truths[known.name])
                             for _ in range(clicks)]) for known in THINGS}


def _measure_normal_error(one: KitchenView, known: KnownThing, rng: np.random.Generator) -> float:
    """Click at random; inf where the true normal is not known."""
    rows, columns = np.nonzero(cv2.erode(one.truths[known.name].astype(np.uint8), np.ones((3, 3))))
    at = int(rng.integers(len(rows)))
    frame = choose_frame(Approach(), one.view, np.array([columns[at], rows[at]], dtype=np.float64))
    outward = -frame.rotation[:, 2]
    true = known.find_normal(one.points_base_m[rows[at], columns[at]], outward)
    if true is None or not frame.normal_measured:
        return np.inf if true is None else np.nan
    return float(np.degrees(np.arccos(np.clip(outward @ true, -1, 1))))


def _is_whole(truth: Mask) -> bool:
    """Whether the image shows enough of a thing, and its border cuts nothing off."""
    return bool(truth.sum() >= MIN_PIXELS and not truth[[0, -1]].any()
                and not truth[:, [0, -1]].any())


def _find_other(first: KitchenView, pixel: Array, others: Sequence[KitchenView],
                rng: np.random.Generator) -> list[tuple[KitchenView, Array]]:
    """Return another view that shows the clicked point, and where; none if none does."""
    column, row = pixel.astype(int)
    point_base_m = first.points_base_m[row, column]
    for other in (others[i] for i in rng.permutation(len(others))):
        assert other.view.base_from_cam is not None
        at = other.view.intrinsics.project(
            other.view.base_from_cam.inverse.transform_points(point_base_m))
        if not other.view.intrinsics.contains(at):
            continue
        there = other.points_base_m[tuple(np.rint(at[::-1]).astype(int))]
        if np.linalg.norm(there - point_base_m) < SAME_POINT_M:
            return [(other, at)]
    return []


def score_click(known: KnownThing, seen: Sequence[tuple[KitchenView, Array]],
                picture: Path | None = None) -> Clicked:
    """Segment the thing at a pixel of each view, and compare it with the truth."""
    views = [(one.view, pixel) for one, pixel in seen]
    image_x = views[0][0].base_from_cam.R[:, 0] if views[0][0].base_from_cam else np.zeros(3)
    started_s = time.process_time()
    thing = segment(views)
    closing = None if thing.unclear else choose_closing(
        thing, [view for view, _ in views], DOWN_BASE, image_x)
    cpu_ms = 1000 * (time.process_time() - started_s)
    if picture is not None:
        write_image(picture, np.hstack([_draw(one, thing, known) for one, _ in seen]))
    if thing.unclear:
        return Clicked(known, thing.unclear, thing.message, cpu_ms=cpu_ms)
    ious, strange, total = [], 0, 0
    for one, _ in seen:
        mask = thing.masks.get(one.view.camera)
        if mask is None:
            continue
        unknown = ~np.isfinite(one.points_base_m).all(axis=-1)
        truth = one.truths[known.name]
        mask = mask & ~unknown  # what has no depth has no truth
        ious.append(float((mask & truth).sum() / (mask | truth).sum()))
        strange += int((mask & _is_support(one, known)).sum())
        total += int(mask.sum())
    width_m = np.nan if closing is None else (
        closing.width_m - known.find_width_m(closing.rotation[:, 0]))
    return Clicked(known, Unclear.OK, '', tuple(ious), strange / max(total, 1), width_m, cpu_ms)


def _is_support(one: KitchenView, known: KnownThing) -> Mask:
    """The pixels at the height of the support, next to its space."""
    height_m = np.abs(one.points_base_m[..., 2] - known.heights_m[0])
    with np.errstate(invalid='ignore'):
        return np.asarray(height_m < 0.005) & ~cv2.dilate(
            one.truths[known.name].astype(np.uint8), np.ones((5, 5))).astype(bool)


def _draw(one: KitchenView, thing: Thing, known: KnownThing) -> Rgb:
    """Return the surroundings of a thing, twice as large: right, too much, missing."""
    image, truth = one.view.image.copy(), one.truths[known.name]
    mask = thing.masks.get(one.view.camera, np.zeros_like(truth))
    for part, colour in ((mask & truth, (60, 200, 60)), (mask & ~truth, (255, 0, 0)),
                         (truth & ~mask, (0, 0, 255))):
        image[part] = (image[part] // 2 + np.array(colour) // 2).astype(np.uint8)
    rows, columns = np.nonzero(truth)
    left, top = max(0, int(columns.mean()) - 120), max(0, int(rows.mean()) - 120)
    part = np.zeros((240, 240, 3), np.uint8)
    cut = image[top:top + 240, left:left + 240]
    part[:cut.shape[0], :cut.shape[1]] = cut
    return np.ascontiguousarray(part.repeat(2, axis=0).repeat(2, axis=1))


def time_grab_cut(view: View) -> float:
    """Return the CPU time of one iteration of cv2.grabCut on a whole image, ms."""
    height, width = view.image.shape[:2]
    mask = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    mask[height // 3:2 * height // 3, width // 3:2 * width // 3] = cv2.GC_PR_FGD
    started_s = time.process_time()
    cv2.grabCut(view.image, mask, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 1,
                cv2.GC_INIT_WITH_MASK)
    return 1000 * (time.process_time() - started_s)


def format_clicks(clicked: Sequence[Clicked], normals: Mapping[KnownThing, Array], unit_ms: float
                  ) -> str:
    """Return a line per thing, and the figures of those that were fitted and of the others."""
    lines = [f'{"thing":12} clear  IoU    least  support  width mm']
    for known in THINGS:
        ours = [one for one in clicked if one.known is known]
        if ours:
            lines.append(f'{known.name:12} {_format_row(ours)}')
            lines += [f'  {one.unclear.name}: {one.message}' for one in ours if one.unclear]
    for title, group in (('limits chosen on these', True), ('the others', False)):
        ours = [one for one in clicked if one.known.fitted is group]
        errors_deg = np.concatenate([normals[known] for known in THINGS if known.fitted is group])
        errors_deg = errors_deg[~np.isinf(errors_deg)]
        measured = np.isfinite(errors_deg)
        widths = np.abs([one.width_error_m for one in ours if np.isfinite(one.width_error_m)])
        ious = [iou for one in ours for iou in one.ious]
        lines += [f'{title}: {len(ours)} clicks, {sum(not one.unclear for one in ours)} clear',
                  f'  IoU of the masks: median {np.median(ious):.3f}, at least 0.8 in '
                  f'{np.mean(np.array(ious) >= 0.8):.0%}',
                  f'  of the support in the masks: at most '
                  f'{max(one.support_share for one in ours if not one.unclear):.1%}',
                  f'  width from above: {len(widths)} clear, median error '
                  f'{1000 * np.median(widths):.1f} mm, 90 % within '
                  f'{1000 * np.percentile(widths, 90):.1f} mm',
                  f'  normals: {measured.mean():.0%} of {len(errors_deg)} measured, '
                  f'{np.mean(errors_deg[measured] <= NORMAL_LIMIT_DEG):.1%} of those within '
                  f'{NORMAL_LIMIT_DEG:g} deg']
    times = np.array([one.cpu_ms for one in clicked])
    lines.append(f'CPU time of a click in up to two views: median {np.median(times):.0f} ms, 95 % '
                 f'within {np.percentile(times, 95):.0f} ms; {np.median(times) / unit_ms:.2f} of '
                 f'one cv2.grabCut of 640x480 ({unit_ms:.0f} ms)')
    return '\n'.join(lines)


def _format_row(ours: Sequence[Clicked]) -> str:
    clear = [one for one in ours if not one.unclear]
    ious = [iou for one in clear for iou in one.ious] or [np.nan]
    widths = [one.width_error_m for one in clear if np.isfinite(one.width_error_m)]
    support = max((one.support_share for one in clear), default=np.nan)
    return (f'{len(clear)}/{len(ours)}   {np.median(ious):.3f}  {min(ious):.3f}  {support:6.1%}  '
            f'{1000 * np.median(widths) if widths else np.nan:+6.1f}')
