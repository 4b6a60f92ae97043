"""The data path: from a click to the same point in every other view and a 3D target."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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
from crosspoint_ros.core.fusion import FusionParams, fuse_matches
from crosspoint_ros.core.grasp.approach import Approach
from crosspoint_ros.core.lift import ANY_APPROACH, combine_confidences, find_outliers, lift
from crosspoint_ros.core.verify import (
    Check,
    Consistency,
    Limits,
    enforce_limits,
    iter_matches,
    lower_confidence,
    measure_consistency,
    run_matcher,
)

MANUAL_SIGMA_PX = 2.0  # accuracy of a point placed by hand
LIMITS, FUSION = Limits(), FusionParams()
NO_TARGET_CODES = (Code.INCONSISTENT,)  # of a view; the others leave a target merely unconfirmed


@dataclass(frozen=True, eq=False)
class ViewCorrespondence:
    """The result in one other view, accepted when `rejected` is None.

    match: kept when it was refused, so that it can be shown. view: None for a `MissingView`.
    """

    camera: str
    view: View | None
    match: Match | None
    consistency: Consistency
    rejected: Rejected | None

    @property
    def pixel(self) -> Array | None:
        """The accepted pixel (2,), None if the view was refused."""
        return self.match.pixel if self.match is not None and self.rejected is None else None

    @property
    def confidence(self) -> float | None:
        """The confidence 0..1 of the accepted pixel, None if the view was refused."""
        return self.match.confidence if self.match is not None and self.rejected is None else None


@dataclass(frozen=True, eq=False)
class LocateResult:
    """The result of a click: a correspondence per other view, and a target or why there is none.

    `result['wrist'].pixel` is where the camera called wrist shows the point. matched: as they were
    verified, before other views changed them.
    """

    clicked: View
    pixel: Array
    correspondences: tuple[ViewCorrespondence, ...]
    target: GraspTarget | None
    no_target: Rejected | None
    approach: Approach = ANY_APPROACH
    matched: tuple[ViewCorrespondence, ...] = ()

    def __getitem__(self, camera: str) -> ViewCorrespondence:
        """Return the correspondence of a camera. Raises KeyError, naming those there are."""
        for found in self.correspondences:
            if found.camera == camera:
                return found
        raise KeyError(f'no camera {camera!r} was searched; searched: '
                       f'{", ".join(c.camera for c in self.correspondences)}')

    @property
    def status(self) -> tuple[Code, str]:
        """The code and message of the whole query.

        With every view refused it is the first one's code, otherwise that of the missing target,
        if any, and PARTIAL when some views were refused, or all and there is a target all the same.
        """
        refused = {c.camera: c.rejected for c in self.correspondences if c.rejected is not None}
        each = '; '.join(f'{camera}: {why.message}' for camera, why in refused.items())
        if len(refused) == len(self.correspondences):
            if self.target is not None:
                doubt = self.target.doubt and f', and {self.target.doubt}'
                return Code.PARTIAL, f'no other view confirms the target{doubt}: {each}'
            return next(iter(refused.values())).code, each
        if self.no_target is not None:
            return self.no_target.code, '; '.join(filter(None, (self.no_target.message, each)))
        return (Code.PARTIAL, each) if refused else (Code.OK, '')


def locate(clicked: View, others: Sequence[View | MissingView], pixel: npt.ArrayLike,
           matcher: Matcher, limits: Limits = LIMITS, *, refiner: Refiner | None = None,
           fusion: FusionParams = FUSION, pixel_confidence: float = 1.0,
           allow_unconfirmed: bool = False, approach: Approach = ANY_APPROACH,
           on_stage: Callable[[str], None] = lambda stage: None) -> LocateResult:
    """Find the clicked pixel (2,) in every other view, verify it, and lift it to 3D.

    refiner: a second matcher that makes the first one's coarse matches exact, by the rule `fusion`
    (core/fusion.py). pixel_confidence: of the clicked pixel, below 1 where an instruction named it;
    scales the confidence of every match. allow_unconfirmed: where no view is accepted and none
    contradicts (INCONSISTENT), lift the click by its own depth and pose; such a target is never
    sure. approach: what the +z of the target is bound to, and its standoff. on_stage: called with
    'match' for each view, then 'verify' and 'lift', as each begins; an exception that it raises (a
    cancelled query) propagates.
    A `MissingView` becomes a refused correspondence. Raises `Rejected` if the click itself cannot
    be used (BAD_REQUEST: outside the image, NaN, no other view; NOT_VISIBLE: on the robot's own
    body).
    """
    pixel = check_click(clicked, others, pixel)
    matched = [scale_confidence(found, pixel_confidence) for found in match_views(
        clicked, others, pixel, matcher, refiner, fusion, on_stage)]
    on_stage('verify')
    verified = tuple(verify_match(clicked, pixel, found, limits) for found in matched)
    on_stage('lift')
    correspondences, target, no_target = lift_target(clicked, pixel, verified, limits,
                                                     allow_unconfirmed, pixel_confidence, approach)
    return LocateResult(clicked, pixel, correspondences, target, no_target, approach, verified)


def apply_correction(result: LocateResult, camera: str, pixel: npt.ArrayLike, limits: Limits
                     ) -> LocateResult:
    """Replace the match in one view by a pixel (2,) placed by hand, and lift again.

    The correction is verified like any match. Raises `Rejected`: BAD_REQUEST if there is no such
    view or pixel, else the reason of the verification; `result` stays as it was.
    """
    searched = {c.camera: c.view for c in result.correspondences if c.view is not None}
    if camera not in searched:
        raise Rejected(Code.BAD_REQUEST, f'no image of {camera!r} was searched; correct the point '
                       f'in one of: {", ".join(searched) or "none"}')
    view = searched[camera]
    pixel = check_click(view, [result.clicked], pixel)
    manual = ViewCorrespondence(camera, view, Match(
        pixel, np.eye(2) * MANUAL_SIGMA_PX**2, 1.0, 'corrected by hand'), Consistency(), None)
    manual = verify_match(result.clicked, result.pixel, manual, limits)
    if manual.rejected is not None:
        raise manual.rejected
    correspondences, target, no_target = lift_target(result.clicked, result.pixel, tuple(
        manual if c.camera == camera else c for c in result.correspondences), limits,
        approach=result.approach)
    return replace(result, correspondences=correspondences, target=target, no_target=no_target,
                   matched=tuple(manual if c.camera == camera else c for c in result.matched))


def ground(clicked: View, instruction: str, matcher: Matcher) -> Match:
    """Return the point of the clicked view that an instruction names.

    Raises `Rejected`: NOT_SUPPORTED if the matcher cannot ground, MATCHER_FAILED if it fails.
    """
    if not isinstance(matcher, Grounder):
        raise Rejected(Code.NOT_SUPPORTED, f'{type(matcher).__name__} cannot find the point of an '
                       f'instruction ({instruction!r}): give a pixel, or choose another matcher')
    return run_matcher(matcher, lambda: matcher.ground(clicked, instruction))


def check_click(clicked: View, others: Sequence[View | MissingView], pixel: npt.ArrayLike) -> Array:
    """Return the pixel as an array (2,); raise `Rejected` if nothing can be found for it."""
    try:
        x, y = at = np.asarray(pixel, dtype=np.float64).reshape(2)
    except (TypeError, ValueError) as error:
        raise Rejected(Code.BAD_REQUEST, f'the pixel {pixel!r} must be two numbers') from error
    intrinsics = clicked.intrinsics
    if not np.isfinite(at).all():
        raise Rejected(Code.BAD_REQUEST, f'the pixel ({x}, {y}) is not finite')
    if not intrinsics.contains(at):
        raise Rejected(Code.BAD_REQUEST, f'the pixel ({x:.1f}, {y:.1f}) is outside the '
                       f'{intrinsics.width_px}x{intrinsics.height_px} image of {clicked.camera}')
    if not np.isfinite(intrinsics.unproject(at)).all():
        raise Rejected(Code.BAD_REQUEST, f'no ray reaches the pixel ({x:.1f}, {y:.1f}) through the '
                       f'{intrinsics.model} lens of {clicked.camera}: click nearer to the middle')
    if clicked.is_masked(at):
        raise Rejected(Code.NOT_VISIBLE, f"the robot's own body covers ({x:.1f}, {y:.1f}) in "
                       f'{clicked.camera} (its mask)')
    if not others:
        raise Rejected(Code.BAD_REQUEST, 'there is no other view to look in')
    return at


def match_views(clicked: View, others: Sequence[View | MissingView], pixel: Array,
                matcher: Matcher, refiner: Refiner | None = None, fusion: FusionParams = FUSION,
                on_stage: Callable[[str], None] = lambda stage: None
                ) -> Iterator[ViewCorrespondence]:
    """Run the matcher, and the refiner, on the other views; what they raise refuses a view."""
    queries = [Query(clicked, other, pixel) for other in others if isinstance(other, View)]
    found = zip(queries, iter_matches(matcher, queries), strict=True)
    for other in others:
        on_stage('match')
        if isinstance(other, MissingView):
            yield ViewCorrespondence(other.camera, None, None, Consistency(), other.rejected)
        else:
            yield refine_match(*next(found), refiner, fusion)


def refine_match(query: Query, match: Match | Rejected, refiner: Refiner | None,
                 fusion: FusionParams) -> ViewCorrespondence:
    """Return the correspondence of a match, refined; refused where the match or the refiner is."""
    other = query.other
    try:
        if isinstance(match, Rejected):
            raise match
        if refiner is not None:
            match = fuse_matches(query, match, refiner, fusion)
    except Rejected as why:
        return ViewCorrespondence(other.camera, other, None, Consistency(), why)
    guessed = ' and '.join(v.camera for v in (query.clicked, other) if v.intrinsics.is_assumed)
    if guessed:
        match = replace(match, basis=f'{match.basis}, intrinsics of {guessed} unknown')
    return ViewCorrespondence(other.camera, other, match, Consistency(), None)


def scale_confidence(found: ViewCorrespondence, pixel_confidence: float) -> ViewCorrespondence:
    if found.match is None or pixel_confidence == 1.0:
        return found
    confidence = found.match.confidence
    return replace(found, match=replace(
        found.match, confidence=confidence * pixel_confidence,
        basis=f'{found.match.basis} ({confidence:.2f} for an instruction understood at '
              f'{pixel_confidence:.2f})'))


def verify_match(clicked: View, pixel: Array, found: ViewCorrespondence, limits: Limits
                 ) -> ViewCorrespondence:
    """Measure the consistency of a match, and refuse it beyond the limits."""
    if found.view is None or found.match is None:
        return found
    query, consistency = Query(clicked, found.view, pixel), found.consistency
    try:
        consistency = measure_consistency(query, found.match, limits)
        enforce_limits(query, found.match, consistency, limits)
    except Rejected as why:
        return replace(found, consistency=consistency, rejected=why)
    return lower_all([replace(found, consistency=consistency)], consistency.doubt, limits)[0]


def lower_all(correspondences: Sequence[ViewCorrespondence], doubt: str, limits: Limits
              ) -> tuple[ViewCorrespondence, ...]:
    """Return the correspondences, those that were accepted to be checked if there is a doubt."""
    return tuple(found if not doubt or found.match is None or found.rejected is not None else
                 replace(found, match=lower_confidence(found.match, doubt, limits),
                         consistency=replace(found.consistency, doubt=doubt))
                 for found in correspondences)


def lift_target(clicked: View, pixel: Array, correspondences: Sequence[ViewCorrespondence],
                limits: Limits, allow_unconfirmed: bool = False, pixel_confidence: float = 1.0,
                approach: Approach = ANY_APPROACH
                ) -> tuple[tuple[ViewCorrespondence, ...], GraspTarget | None, Rejected | None]:
    """Lift the click and the accepted matches; without any there is no target, unless allowed.

    Returns the correspondences too: those that the other views outvote are refused, and a doubt of
    the target, or views of which one must be wrong, makes the accepted ones to be checked; those
    that agree are of their common confidence. Neither is above `pixel_confidence`.
    """
    correspondences = tuple(correspondences)
    try:
        outliers = find_outliers(clicked, pixel, _select_accepted(correspondences), limits)
    except Rejected as why:
        return lower_all(correspondences, why.message, limits), None, why
    correspondences = tuple(
        replace(c, rejected=outliers[c.camera], consistency=replace(
            c.consistency, check=Check.FAIL)) if c.camera in outliers else c
        for c in correspondences)
    matched = _select_accepted(correspondences)
    is_contradicted = any(c.rejected is not None and c.rejected.code in NO_TARGET_CODES
                          for c in correspondences)
    if not matched and (is_contradicted or not allow_unconfirmed):
        return correspondences, None, Rejected(Code.NO_DEPTH, 'no view was accepted')
    try:
        target = lift(clicked, pixel, matched, limits, approach)
    except Rejected as why:
        return correspondences, None, why
    confidence, agreeing = combine_confidences(clicked, pixel, matched, limits)
    confidence = min(confidence, pixel_confidence)
    target = replace(target, confidence=min(target.confidence, pixel_confidence))
    correspondences = tuple(
        replace(c, match=replace(c.match, confidence=confidence, basis=(
            f'{c.match.basis} ({c.match.confidence:.2f} before {len(agreeing)} views agreed)')))
        if c.match is not None and len(agreeing) > 1 and c.camera in agreeing
        and c.match.confidence < confidence else c
        for c in correspondences)
    return lower_all(correspondences, target.doubt, limits), target, None


def _select_accepted(correspondences: Sequence[ViewCorrespondence]) -> list[tuple[View, Match]]:
    return [(c.view, c.match) for c in correspondences
            if c.rejected is None and c.view is not None and c.match is not None]
