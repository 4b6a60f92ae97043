"""THE data path: from a click to the same point in every other view and a 3D target."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    GraspTarget,
    Match,
    Matcher,
    Rejected,
    Unseen,
    View,
)
from crosspoint_ros.core.verify import Evidence, Limits

Stage = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Answer:
    """What one other camera says: accepted when `rejected` is None.

    A match that was found but refused is kept, so that people can see what was refused. view is
    None when the camera had none to offer (`Unseen`).
    """

    camera: str
    view: View | None
    match: Match | None
    evidence: Evidence
    rejected: Rejected | None


@dataclass(frozen=True, eq=False)
class Located:
    """The answer to a click: one `Answer` per other view, and a target or why there is none."""

    clicked: View
    pixel: Array
    answers: tuple[Answer, ...]
    target: GraspTarget | None
    no_target: Rejected | None

    @property
    def status(self) -> tuple[Code, str]:
        """The code and sentence for the whole query."""
        raise NotImplementedError


def locate(clicked: View, others: Sequence[View | Unseen], pixel: Array, matcher: Matcher,
           limits: Limits, at_stage: Stage = lambda stage: None) -> Located:
    """Find the clicked point in every other view, check it, and lift it to 3D.

    An `Unseen` among the others becomes a refused Answer, and counts in the status of the whole.

    `at_stage` is called with 'match', 'verify' and 'lift' as each begins; an exception it raises
    (a cancelled query) ends the work there. Raises `Rejected` when the click itself is unusable
    (BAD_REQUEST: outside the image, NaN; NOT_VISIBLE: on the robot's own body).
    """
    raise NotImplementedError
