"""Wrong answers of a matcher drawn for people: the click, the truth, and what was found instead."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt

from crosspoint_ros.core.datatypes import Array, View
from crosspoint_ros.core.draw import (
    draw_clicked,
    draw_found,
    draw_refused,
    side_by_side,
    write_png,
)


@dataclass(frozen=True, eq=False)
class Wrong:
    """An answer that is wrong or missing. found: None if refused, why: then in words.

    truth: None where the other view does not show the point. how: what is told of an answer.
    """

    clicked: View
    pixel: Array
    other: View
    truth: npt.ArrayLike | None
    found: npt.ArrayLike | None
    how: str
    why: str
    error_px: float
    sure: bool = False
    covariance_px2: Array | None = None


def draw_wrong(path: Path, wrong: Wrong, name: str, seen_from: str) -> None:
    """Write it as a picture. name: of the point. seen_from: how far apart the views are."""
    if wrong.found is None:
        right = draw_refused(wrong.other.image, f'refused: {wrong.why}', wrong.truth)
    else:
        right = draw_found(wrong.other.image, wrong.found, wrong.how, wrong.sure,
                           wrong.covariance_px2, truth=wrong.truth)
    where = 'not visible there' if wrong.truth is None else f'{wrong.error_px:.0f} px off'
    cross = '' if wrong.truth is None else ' (white cross: the truth)'
    stamp = f' {wrong.other.stamp_ns} ns' if wrong.other.stamp_ns else ''
    picture = side_by_side([draw_clicked(wrong.clicked.image, wrong.pixel, name), right],
                           [wrong.clicked.camera, f'{wrong.other.camera}{stamp}'],
                           f'{where}{cross}; seen from {seen_from} deg apart')
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, picture)
