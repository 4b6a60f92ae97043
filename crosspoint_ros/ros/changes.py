"""How an answer differs from the one that was recorded."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crosspoint_ros.core.datatypes import Code
from crosspoint_ros.msg import Correspondence, QueryResult
from crosspoint_ros.ros.rerun import Click, found_by_camera, was_interrupted

VERDICTS = {Correspondence.REFUSED: 'refused', Correspondence.TO_BE_CHECKED: 'to be checked',
            Correspondence.SURE: 'sure'}
ABSENT = 'not searched'


@dataclass(frozen=True)
class ViewChange:
    """One other view: verdict and code then and now; moved_px is NaN unless both answered."""

    camera: str
    was: str
    now: str
    was_code: str
    now_code: str
    moved_px: float
    confidence: float
    epipolar_error_px: float
    message: str

    def beyond(self, max_px: float) -> bool:
        """Tell whether it is another answer."""
        return (self.was, self.was_code) != (self.now, self.now_code) or self.moved_px > max_px


@dataclass(frozen=True)
class Change:
    """One click, then and now. compared is False where there is nothing to compare with."""

    at_s: float
    camera: str
    pixel: tuple[float, float]
    compared: bool
    was_code: str
    now_code: str
    views: tuple[ViewChange, ...]
    target: str  # '', 'new', 'gone', or 'kept' on both sides
    moved_mm: float
    turned_deg: float
    message: str

    def beyond(self, max_px: float, max_mm: float, max_deg: float = 2.0) -> bool:
        """Tell whether it changed: a code, a verdict, a target, a place or pose by more."""
        return self.compared and (
            self.was_code != self.now_code or any(view.beyond(max_px) for view in self.views)
            or self.target in ('new', 'gone') or self.moved_mm > max_mm
            or self.turned_deg > max_deg)


def change_of(click: Click, now: QueryResult, start_ns: int) -> Change:
    """Compare what was recorded with what is answered now."""
    was = click.recorded
    compared = was is not None and not was_interrupted(was)
    before = was if compared else None
    target, moved_mm, turned_deg = _target(before, now)
    clicked = now.clicked if now.clicked.camera or was is None else was.clicked
    return Change(
        at_s=round((click.at_ns - start_ns) * 1e-9, 3), camera=clicked.camera,
        pixel=(clicked.x, clicked.y), compared=compared,
        was_code='' if was is None else Code(was.status.code).name,
        now_code=Code(now.status.code).name, views=_views(before, now), target=target,
        moved_mm=moved_mm, turned_deg=turned_deg, message=now.status.message)


def _views(was: QueryResult | None, now: QueryResult) -> tuple[ViewChange, ...]:
    before = {} if was is None else found_by_camera(was)
    after = found_by_camera(now)
    return tuple(_view(camera, before.get(camera), after.get(camera), was is not None)
                 for camera in sorted({*before, *after}))


def _view(camera: str, was: Correspondence | None, now: Correspondence | None, compared: bool
          ) -> ViewChange:
    moved_px = math.nan
    if was is not None and now is not None:
        moved_px = math.hypot(now.found.x - was.found.x, now.found.y - was.found.y)
    return ViewChange(
        camera, _verdict(was) if compared else '', _verdict(now),
        '' if was is None else Code(was.status.code).name,
        '' if now is None else Code(now.status.code).name, moved_px,
        math.nan if now is None else float(now.confidence),
        math.nan if now is None else float(now.epipolar_error_px),
        '' if now is None else now.status.message)


def _verdict(answer: Correspondence | None) -> str:
    return ABSENT if answer is None else VERDICTS[answer.verdict]


def _target(was: QueryResult | None, now: QueryResult) -> tuple[str, float, float]:
    if was is None or was.has_target != now.has_target:
        kind = '' if was is None else 'new' if now.has_target else 'gone'
        return kind, math.nan, math.nan
    if not now.has_target:
        return '', math.nan, math.nan
    a, b = (r.target.pose.pose.position for r in (was, now))
    moved_m = float(np.linalg.norm((b.x - a.x, b.y - a.y, b.z - a.z)))
    p, q = (r.target.pose.pose.orientation for r in (was, now))
    half = abs(p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w)
    return 'kept', 1000 * moved_m, math.degrees(2 * math.acos(min(half, 1.0)))
