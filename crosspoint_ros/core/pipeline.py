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
    MissingView,
    Query,
    Refiner,
    Rejected,
    View,
)
from crosspoint_ros.core.fusion import fuse_matches
from crosspoint_ros.core.lift import lift
from crosspoint_ros.core.verify import (
    Consistency,
    Limits,
    enforce_limits,
    measure_consistency,
    validate_match,
)

Stage = Callable[[str], None]
MANUAL_SIGMA_PX = 2.0  # how exactly a person puts a point on a picture, one sigma


@dataclass(frozen=True, eq=False)
class ViewCorrespondence:
    """What one other camera says: accepted when `rejected` is None.

    A match that was found but refused is kept, so that people can see what was refused. view is
    None when the camera had none to offer (`MissingView`).
    """

    camera: str
    view: View | None
    match: Match | None
    consistency: Consistency
    rejected: Rejected | None


@dataclass(frozen=True, eq=False)
class LocateResult:
    """The answer to a click: one `Answer` per other view, and a target or why there is none."""

    clicked: View
    pixel: Array
    correspondences: tuple[ViewCorrespondence, ...]
    target: GraspTarget | None
    no_target: Rejected | None

    @property
    def status(self) -> tuple[Code, str]:
        """The code and sentence for the whole query.

        With every view refused it is the first one's code; with the views answered it is that of
        the missing target, if any, and PARTIAL when some views were refused.
        """
        refused = {a.camera: a.rejected for a in self.correspondences if a.rejected is not None}
        each = '; '.join(f'{camera}: {why.message}' for camera, why in refused.items())
        if len(refused) == len(self.correspondences):
            return next(iter(refused.values())).code, each
        if self.no_target is not None:
            return self.no_target.code, '; '.join(filter(None, (self.no_target.message, each)))
        return (Code.PARTIAL, each) if refused else (Code.OK, '')


def locate(clicked: View, others: Sequence[View | MissingView], pixel: Array, matcher: Matcher,
           limits: Limits, on_stage: Stage = lambda stage: None,
           refiner: Refiner | None = None, pixel_confidence: float = 1.0) -> LocateResult:
    """Find the clicked point in every other view, check it, and lift it to 3D.

    With a refiner, what the matcher finds counts as rough: see core/fusion.py. meant: the
    probability that this pixel is the one that was meant, less than 1 for that of an instruction;
    what is found is no surer.
    An `MissingView` among the others becomes a refused Answer, and counts in the status of the whole.
    `at_stage` is called with 'match' for each view, then with 'verify' and 'lift', as each begins;
    an exception it raises (a cancelled query) ends the work there. Raises `Rejected` when the click
    itself is unusable (BAD_REQUEST: outside the image, NaN, nowhere to look; NOT_VISIBLE: on the
    robot's own body).
    """
    check_click(clicked, others, pixel)
    found = []
    for other in others:
        on_stage('match')  # a query that was ended meanwhile leaves the other views to the next one
        found.append(scale_confidence(match_view(clicked, other, pixel, matcher, refiner), pixel_confidence))
    on_stage('verify')
    answers = tuple(verify_match(clicked, pixel, answer, limits) for answer in found)
    on_stage('lift')
    target, no_target = lift_target(clicked, pixel, answers, limits)
    return LocateResult(clicked, pixel, answers, target, no_target)


def apply_correction(result: LocateResult, camera: str, pixel: Array, limits: Limits) -> LocateResult:
    """Take a person's word for where the point is in one other view, and lift anew.

    pixel: (2,) in the image that was searched. The geometry is asked as for any match. Raises
    `Rejected`: BAD_REQUEST if there is no such view or pixel, else what speaks against it; the
    answer that was to be corrected stands then as it was.
    """
    searched = {a.camera: a.view for a in result.correspondences if a.view is not None}
    if camera not in searched:
        raise Rejected(Code.BAD_REQUEST, f'no image of {camera!r} was searched; correct the point '
                       f'in one of: {", ".join(searched) or "none"}')
    view = searched[camera]
    check_click(view, [result.clicked], pixel)
    told = ViewCorrespondence(camera, view, Match(pixel, np.eye(2) * MANUAL_SIGMA_PX**2, 1.0, 'corrected by hand'),
                              Consistency(), None)
    told = verify_match(result.clicked, result.pixel, told, limits)
    if told.rejected is not None:
        raise told.rejected
    answers = tuple(told if a.camera == camera else a for a in result.correspondences)
    target, no_target = lift_target(result.clicked, result.pixel, answers, limits)
    return replace(result, correspondences=answers, target=target, no_target=no_target)


def ground(clicked: View, instruction: str, matcher: Matcher) -> Match:
    """Return the point of the clicked view that an instruction names, and how sure that is.

    Raises `Rejected`: NOT_SUPPORTED if the matcher cannot, MATCHER_FAILED if it breaks.
    """
    if not isinstance(matcher, Grounder):
        raise Rejected(Code.NOT_SUPPORTED, f'{type(matcher).__name__} cannot find the point of an '
                       f'instruction ({instruction!r}): give a pixel, or choose another matcher')
    with matcher_errors(matcher):
        named = matcher.ground(clicked, instruction)
    validate_match(named, matcher)
    if not np.isfinite(named.pixel).all() or not 0 <= named.confidence <= 1:
        raise Rejected(Code.MATCHER_FAILED, f'{type(matcher).__name__} answered {instruction!r} '
                       f'with {named.pixel} at confidence {named.confidence} (must be finite, and '
                       '0 to 1)')
    return named


@contextmanager
def matcher_errors(matcher: Matcher) -> Iterator[None]:
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


def check_click(clicked: View, others: Sequence[View | MissingView], pixel: Array) -> None:
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
    if clicked.is_masked(pixel):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.1f}, {y:.1f}) in "
                       f'{clicked.camera} (its mask)')
    if not others:
        raise Rejected(Code.BAD_REQUEST, 'there is no other view to look in')


def match_view(clicked: View, other: View | MissingView, pixel: Array, matcher: Matcher,
               refiner: Refiner | None = None) -> ViewCorrespondence:
    """Ask the matcher, and the refiner, about one other view; what they raise is a refusal."""
    if isinstance(other, MissingView):
        return ViewCorrespondence(other.camera, None, None, Consistency(), other.rejected)
    query = Query(clicked, other, pixel)
    try:
        with matcher_errors(matcher):
            match = matcher.match(query)
        validate_match(match, matcher)
        if refiner is not None:
            with matcher_errors(refiner):
                match = fuse_matches(query, match, refiner)
    except Rejected as why:
        return ViewCorrespondence(other.camera, other, None, Consistency(), why)
    return ViewCorrespondence(other.camera, other, match, Consistency(), None)


def scale_confidence(answer: ViewCorrespondence, meant: float) -> ViewCorrespondence:
    """Count the doubt whether the pixel was the one that was meant against what was found."""
    if answer.match is None or meant == 1.0:
        return answer
    sure = answer.match.confidence
    return replace(answer, match=replace(
        answer.match, confidence=sure * meant,
        basis=f'{answer.match.basis} ({sure:.2f} of an instruction understood at {meant:.2f})'))


def verify_match(clicked: View, pixel: Array, answer: ViewCorrespondence, limits: Limits) -> ViewCorrespondence:
    """Hold a found point against the geometry and the limits."""
    if answer.view is None or answer.match is None:
        return answer
    query, evidence = Query(clicked, answer.view, pixel), answer.consistency
    try:
        evidence = measure_consistency(query, answer.match, limits)
        enforce_limits(query, answer.match, evidence, limits)
    except Rejected as why:
        return replace(answer, consistency=evidence, rejected=why)
    return replace(answer, consistency=evidence)


def lift_target(clicked: View, pixel: Array, answers: Sequence[ViewCorrespondence], limits: Limits
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
