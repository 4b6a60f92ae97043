"""Compares the demo's answers with ground truth: a table, an image per click, a summary."""
from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, View
from crosspoint_ros.core.encodings import Rgb
from crosspoint_ros.core.image_io import write_image
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.core.visualization import (
    concatenate_images,
    draw_clicked,
    draw_match,
    draw_refusal,
)
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene, LabelledPoint
from crosspoint_ros.ros.client.results import find_refused_pixel

WRONG_PX = 20.0  # an accepted answer further off is wrong, not imprecise
COLUMNS = '{:<14} {:>10}  {:<6} {:>15} {:>8} {:>8} {:>5}  {:<38} {:>5}'


@dataclass(frozen=True)
class ClickOutcome:
    """The answer to one click in one other camera; NaN where there is none."""

    name: str
    camera: str
    stamp_ns: int
    visible: bool
    accepted: bool
    sure: bool
    confidence: float
    found_px: tuple[float, float]
    error_px: float
    error_3d_mm: float
    ms: float
    code: int
    reason: str


def score_result(scene: KnownScene, result: Any, point: LabelledPoint, ms: float
                 ) -> list[ClickOutcome]:
    """Compare a QueryResult with ground truth: one ClickOutcome per other camera.

    A point occluded by at most 2 px counts as visible where it was found.
    """
    error_3d_mm = math.nan
    if result.has_target:
        at = result.target.pose.pose.position
        error_3d_mm = 1000 * math.dist((at.x, at.y, at.z), point.point_base_m)
    outcomes = []
    for answer in result.correspondences:
        frame = scene.find_frame(answer.found.camera, stamp_to_ns(answer.header.stamp))
        projection, accepted = point.projections[frame], answer.verdict != answer.REFUSED
        visible = projection.visible or (
            accepted and scene.is_near_occlusion_edge(frame, point.point_base_m))
        found_px = (answer.found.x, answer.found.y)
        outcomes.append(ClickOutcome(
            name=point.name, camera=frame.camera, stamp_ns=frame.stamp_ns,
            visible=visible, accepted=accepted, sure=answer.verdict == answer.SURE,
            confidence=answer.confidence, found_px=found_px,
            error_px=math.dist(found_px, projection.pixel), error_3d_mm=error_3d_mm,
            ms=ms, code=answer.status.code, reason=answer.status.message))
    return outcomes or [_score_rejected(result, point, ms)]


def _score_rejected(result: Any, point: LabelledPoint, ms: float) -> ClickOutcome:
    return ClickOutcome(
        name=point.name, camera='all', stamp_ns=stamp_to_ns(result.header.stamp),
        visible=True, accepted=False, sure=False, confidence=math.nan,
        found_px=(math.nan, math.nan), error_px=math.nan, error_3d_mm=math.nan,
        ms=ms, code=result.status.code, reason=result.status.message)


def is_wrong(outcome: ClickOutcome) -> bool:
    """Whether an answer was given that should have been refused: the worst that can happen."""
    return outcome.accepted and not (outcome.visible and outcome.error_px <= WRONG_PX)


def format_verdict(outcome: ClickOutcome) -> str:
    """Return the outcome in a few words, and whether it is right."""
    if outcome.accepted and not outcome.visible:
        return 'WRONG: answered, but not visible there'
    if is_wrong(outcome):
        return f'WRONG: answered {outcome.error_px:.0f} px off'
    if outcome.accepted:
        return 'sure' if outcome.sure else 'to be checked'
    why = Code(outcome.code).name.lower().replace('_', ' ')
    return f'{"wrongly" if outcome.visible else "rightly"} refused: {why}'


def format_header() -> str:
    """Return the head of the table."""
    return COLUMNS.format('point', 'clicked', 'in', 'found', 'off by', '3D off', 'conf.',
                          'verdict', 'ms')


def format_row(outcome: ClickOutcome, point: LabelledPoint, index: int) -> str:
    """Return one line of the table; values of the whole click are in its first line only."""
    x, y = point.pixel
    first = index == 0
    return COLUMNS.format(
        outcome.name if first else '', f'({x:.0f}, {y:.0f})' if first else '', outcome.camera,
        f'({outcome.found_px[0]:.1f}, {outcome.found_px[1]:.1f})' if outcome.accepted else '-',
        _format_number(outcome.error_px, '{:.1f} px') if outcome.accepted else '-',
        _format_number(outcome.error_3d_mm, '{:.1f} mm') if first else '',
        _format_number(outcome.confidence, '{:.2f}'), format_verdict(outcome),
        f'{outcome.ms:.0f}' if first else '').rstrip()


def _format_number(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else '-'


def format_summary(outcomes: list[ClickOutcome]) -> str:
    """Return the counts, the median errors and the wrong answers."""
    visible = [o for o in outcomes if o.visible]
    hidden = [o for o in outcomes if not o.visible]
    right = [o for o in visible if o.accepted and not is_wrong(o)]
    wrong = sum(map(is_wrong, outcomes))
    clicks = {o.name: o for o in outcomes}.values()
    mm = [o.error_3d_mm for o in clicks if math.isfinite(o.error_3d_mm)]
    lines = [
        f'{len(visible)} views show the point: found in {len(right)} ({sum(o.sure for o in right)} '
        f'of them sure), median {_format_median([o.error_px for o in right], "px")} off; '
        f'refused in {sum(not o.accepted for o in visible)}',
        f'{len(hidden)} views do not show it: rightly refused in '
        f'{sum(not o.accepted for o in hidden)}',
        f'{len(mm)} of {len(clicks)} clicks have a 3D target, median '
        f'{_format_median(mm, "mm")} off; a click takes '
        f'{_format_median([o.ms for o in clicks], "ms")}',
        f'wrongly answered: {wrong}' + (' (look at their pictures)' if wrong else ''),
    ]
    return '\n'.join(lines)


def _format_median(values: list[float], unit: str) -> str:
    return f'{np.median(values):.1f} {unit}' if values else f'- {unit}'


STYLE = '''body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1400px;
  padding: 16px; background: #10161d; color: #e6edf3; }
pre { white-space: pre-wrap; } img { width: 100%; height: auto; border-radius: 6px; }
.wrong { color: #f08a4b; } h2 { margin: 32px 0 4px; font-size: 18px; } p { margin: 0 0 8px; }'''
LEGEND = ('blue cross: the click · green ring: found, sure · amber triangle: found, to be checked'
          ' · grey with a hollow orange cross: refused · white cross: ground truth')


def write_index(folder: Path, pictures: list[tuple[Path, list[ClickOutcome]]]) -> Path:
    """Write index.html, which shows every click's picture with its verdicts; return its path."""
    clicks = []
    for file, outcomes in pictures:
        verdicts = '; '.join(f'{o.camera}: {format_verdict(o)}' for o in outcomes)
        wrong = ' class="wrong"' * any(map(is_wrong, outcomes))
        clicks.append(f'<h2>{escape(outcomes[0].name)}</h2>\n<p{wrong}>{escape(verdicts)}</p>\n'
                      f'<img src="{quote(file.name)}" loading="lazy" alt="{escape(verdicts)}">')
    summary = format_summary([o for _, outcomes in pictures for o in outcomes])
    index = folder / 'index.html'
    index.write_text('\n'.join((
        '<!doctype html>', '<html lang="en">', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">', '<title>crosspoint demo</title>',
        f'<style>{STYLE}</style>', '<h1>Clicks in the built-in kitchen</h1>',
        f'<pre>{escape(summary)}</pre>', f'<p>{LEGEND}</p>', *clicks, '</html>', '')))
    return index


def draw_result(scene: KnownScene, result: Any, point: LabelledPoint, file: Path) -> None:
    """Write the views of a click side by side, as recorded at the stamps of the answer."""
    clicked = scene.find_frame(result.clicked.camera, stamp_to_ns(result.clicked.header.stamp))
    images = [draw_clicked(scene.read_view(clicked).image, (result.clicked.x, result.clicked.y),
                           f'clicked: {point.name}')]
    frames = [clicked]
    outcomes = score_result(scene, result, point, 0.0)
    for answer, outcome in zip(result.correspondences, outcomes, strict=False):
        frames.append(FrameKey(outcome.camera, outcome.stamp_ns))
        images.append(_draw_answer(scene.read_view(frames[-1]), answer, outcome,
                                   point.projections[frames[-1]].pixel))
    titles = [f'{frame.camera}, {(frame.stamp_ns - scene.frames[0].stamp_ns) / 1e9:.2f} s'
              for frame in frames]
    target = _format_number(outcomes[0].error_3d_mm, '3D target {:.1f} mm off')
    footer = (f'{point.name}: {target if result.has_target else "no 3D target"}.  '
              'White cross: ground truth.')
    write_image(file, concatenate_images(images, titles, footer))


def _draw_answer(view: View, answer: Any, outcome: ClickOutcome, pixel: Array) -> Rgb:
    assert view.intrinsics is not None
    ground_truth = pixel if view.intrinsics.contains(pixel) else None
    if not outcome.accepted:
        how = 'wrongly' if outcome.visible else 'rightly'
        return draw_refusal(view.image, f'{how} refused: {outcome.reason}', ground_truth,
                            find_refused_pixel(answer))
    text = (f'found, {format_verdict(outcome)}, confidence {outcome.confidence:.2f}, '
            f'{outcome.error_px:.1f} px off')
    return draw_match(view.image, outcome.found_px, text, outcome.sure,
                      np.reshape(answer.covariance_px2, (2, 2)), ground_truth=ground_truth,
                      inset=True)
