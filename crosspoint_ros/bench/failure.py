"""Wrong answers of a matcher drawn for people: the click, the truth, and what was found instead."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from crosspoint_ros.bench.items import Item
from crosspoint_ros.bench.run import Outcome
from crosspoint_ros.bench.score import RIGHT_PX
from crosspoint_ros.core.draw import (
    draw_clicked,
    draw_found,
    draw_refused,
    side_by_side,
    write_png,
)


def is_failure(outcome: Outcome) -> bool:
    """Tell whether a visible point was refused or missed, or another one answered."""
    if outcome.visible:
        return not (outcome.accepted and outcome.error_px <= RIGHT_PX)
    return outcome.accepted


def draw_failure(folder: Path, item: Item, outcome: Outcome, number: int) -> None:
    """Write it as a picture; the truth is drawn where the other view shows the point."""
    query, truth = item.query, item.truth if outcome.visible else None
    if outcome.accepted:
        right = draw_found(query.other.image, np.array(outcome.found_px),
                           f'confidence {outcome.confidence:.2f}', False, truth=truth)
    else:
        right = draw_refused(query.other.image, f'refused: {outcome.message}', truth)
    where = f'{outcome.error_px:.0f} px off' if outcome.visible else 'not visible there'
    picture = side_by_side([draw_clicked(query.clicked.image, query.pixel, 'clicked'), right],
                           [query.clicked.camera, query.other.camera],
                           f'{where}; seen from {item.bin} deg apart')
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / f'{number:04}_pair_{item.pair}.png', picture)
