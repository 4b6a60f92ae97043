"""THE data path: from a click to the same point in every other view and a 3D target."""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from crosspoint_ros.core.datatypes import (
    Array,
    Code,
    GraspTarget,
    Grounder,
    Match,
    Matcher,
    Query,
    Refiner,
    Rejected,
    Unseen,
    View,
)
from crosspoint_ros.core.fusion import fuse
from crosspoint_ros.core.lift import lift
from crosspoint_ros.core.verify import Evidence, Limits, check_match, examine, verify

Stage = Callable[[str], None]
HAND_PX = 2.0  # how exactly a person puts a point on a picture, one sigma


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
class LocateResult:
    """The answer to a click: one `Answer` per other view, and a target or why there is none."""

    clicked: View
    pixel: Array
    answers: tuple[Answer, ...]
    target: GraspTarget | None
    no_target: Rejected | None

    @property
    def status(self) -> tuple[Code, str]:
        """The code and sentence for the whole query.

        With every view refused it is the first one's code; with the views answered it is that of
        the missing target, if any, and PARTIAL when some views were refused.
        """
        refused = {a.camera: a.rejected for a in self.answers if a.rejected is not None}
        each = '; '.join(f'{camera}: {why.message}' for camera, why in refused.items())
        if len(refused) == len(self.answers):
            return next(iter(refused.values())).code, each
        if self.no_target is not None:
            return self.no_target.code, '; '.join(filter(None, (self.no_target.message, each)))
        return (Code.PARTIAL, each) if refused else (Code.OK, '')


def locate(clicked: View, others: Sequence[View | Unseen], pixel: Array, matcher: Matcher,
           limits: Limits, at_stage: Stage = lambda stage: None,
           refiner: Refiner | None = None, meant: float = 1.0) -> LocateResult:
    """Find the clicked point in every other view, check it, and lift it to 3D.

    With a refiner, what the matcher finds counts as rough: see core/fusion.py. meant: the
    probability that this pixel is the one that was meant, less than 1 for that of an instruction;
    what is found is no surer.
    An `Unseen` among the others becomes a refused Answer, and counts in the status of the whole.
    `at_stage` is called with 'match' for each view, then with 'verify' and 'lift', as each begins;
    an exception it raises (a cancelled query) ends the work there. Raises `Rejected` when the click
    itself is unusable (BAD_REQUEST: outside the image, NaN, nowhere to look; NOT_VISIBLE: on the
    robot's own body).
    """
    check_click(clicked, others, pixel)
    found = []
    for other in others:
        at_stage('match')  # a query that was ended meanwhile leaves the other views to the next one
        found.append(weighed(find(clicked, other, pixel, matcher, refiner), meant))
    at_stage('verify')
    answers = tuple(checked(clicked, pixel, answer, limits) for answer in found)
    at_stage('lift')
    target, no_target = lifted(clicked, pixel, answers, limits)
    return LocateResult(clicked, pixel, answers, target, no_target)


def corrected(located: LocateResult, camera: str, pixel: Array, limits: Limits) -> LocateResult:
    """Take a person's word for where the point is in one other view, and lift anew.

    pixel: (2,) in the image that was searched. The geometry is asked as for any match. Raises
    `Rejected`: BAD_REQUEST if there is no such view or pixel, else what speaks against it; the
    answer that was to be corrected stands then as it was.
    """
    searched = {a.camera: a.view for a in located.answers if a.view is not None}
    if camera not in searched:
        raise Rejected(Code.BAD_REQUEST, f'no image of {camera!r} was searched; correct the point '
                       f'in one of: {", ".join(searched) or "none"}')
    view = searched[camera]
    check_click(view, [located.clicked], pixel)
    told = Answer(camera, view, Match(pixel, np.eye(2) * HAND_PX**2, 1.0, 'corrected by hand'),
                  Evidence(), None)
    told = checked(located.clicked, located.pixel, told, limits)
    if told.rejected is not None:
        raise told.rejected
    answers = tuple(told if a.camera == camera else a for a in located.answers)
    target, no_target = lifted(located.clicked, located.pixel, answers, limits)
    return replace(located, answers=answers, target=target, no_target=no_target)


def ground(clicked: View, instruction: str, matcher: Matcher) -> Match:
    """Return the point of the clicked view that an instruction names, and how sure that is.

    Raises `Rejected`: NOT_SUPPORTED if the matcher cannot, MATCHER_FAILED if it breaks.
    """
    if not isinstance(matcher, Grounder):
        raise Rejected(Code.NOT_SUPPORTED, f'{type(matcher).__name__} cannot find the point of an '
                       f'instruction ({instruction!r}): give a pixel, or choose another matcher')
    with failures_named(matcher):
        named = matcher.ground(clicked, instruction)
    check_match(named, matcher)
    if not np.isfinite(named.pixel).all() or not 0 <= named.confidence <= 1:
        raise Rejected(Code.MATCHER_FAILED, f'{type(matcher).__name__} answered {instruction!r} '
                       f'with {named.pixel} at confidence {named.confidence} (must be finite, and '
                       '0 to 1)')
    return named


@contextmanager
def failures_named(matcher: Matcher) -> Iterator[None]:
    """Turn whatever a matcher raises into `Rejected`: its bug must not end the node, nor hide."""
    try:
        yield
    except Rejected:
        raise
    except Exception as error:
        name = type(matcher).__name__
        logging.getLogger(__name__).exception('matcher %s failed', name)
        raise Rejected(Code.MATCHER_FAILED,
                       f'{name} failed: {type(error).__name__}: {error}') from error


def check_click(clicked: View, others: Sequence[View | Unseen], pixel: Array) -> None:
    """Raise `Rejected` if nothing can be answered for this pixel."""
    lens, (x, y) = clicked.intrinsics, pixel
    if not np.isfinite(pixel).all():
        raise Rejected(Code.BAD_REQUEST, f'the pixel ({x}, {y}) is not finite')
    if not lens.contains(pixel):
        raise Rejected(Code.BAD_REQUEST, f'the pixel ({x:.1f}, {y:.1f}) is outside the '
                       f'{lens.width_px}x{lens.height_px} image of {clicked.camera}')
    if not np.isfinite(lens.unproject(pixel)).all():
        raise Rejected(Code.BAD_REQUEST, f'no ray reaches the pixel ({x:.1f}, {y:.1f}) through the '
                       f'{lens.model} lens of {clicked.camera}: click nearer to the middle')
    if clicked.hidden(pixel):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.1f}, {y:.1f}) in "
                       f'{clicked.camera} (its mask)')
    if not others:
        raise Rejected(Code.BAD_REQUEST, 'there is no other view to look in')


def find(clicked: View, other: View | Unseen, pixel: Array, matcher: Matcher,
         refiner: Refiner | None = None) -> Answer:
    """Ask the matcher, and the refiner, about one other view; what they raise is a refusal."""
    if isinstance(other, Unseen):
        return Answer(other.camera, None, None, Evidence(), other.rejected)
    query = Query(clicked, other, pixel)
    try:
        with failures_named(matcher):
            match = matcher.match(query)
        check_match(match, matcher)
        if refiner is not None:
            with failures_named(refiner):
                match = fuse(query, match, refiner)
    except Rejected as why:
        return Answer(other.camera, other, None, Evidence(), why)
    return Answer(other.camera, other, match, Evidence(), None)


def weighed(answer: Answer, meant: float) -> Answer:
    """Count the doubt whether the pixel was the one that was meant against what was found."""
    if answer.match is None or meant == 1.0:
        return answer
    sure = answer.match.confidence
    return replace(answer, match=replace(
        answer.match, confidence=sure * meant,
        basis=f'{answer.match.basis} ({sure:.2f} of an instruction understood at {meant:.2f})'))


def checked(clicked: View, pixel: Array, answer: Answer, limits: Limits) -> Answer:
    """Hold a found point against the geometry and the limits."""
    if answer.view is None or answer.match is None:
        return answer
    query, evidence = Query(clicked, answer.view, pixel), answer.evidence
    try:
        evidence = examine(query, answer.match, limits)
        verify(query, answer.match, evidence, limits)
    except Rejected as why:
        return replace(answer, evidence=evidence, rejected=why)
    return replace(answer, evidence=evidence)


def lifted(clicked: View, pixel: Array, answers: Sequence[Answer], limits: Limits
           ) -> tuple[GraspTarget | None, Rejected | None]:
    """Lift the click and what was accepted; without an accepted view there is no target."""
    found = [(a.view, a.match) for a in answers
             if a.rejected is None and a.view is not None and a.match is not None]
    if not found:
        return None, Rejected(Code.NO_DEPTH, 'no view was accepted')
    try:
        return lift(clicked, pixel, found, limits), None
    except Rejected as why:
        return None, why
