"""Two matchers as two witnesses: one finds the rough place, the other the exact one, or refuses."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, hypot, log, pi

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Query, Refiner, Rejected
from crosspoint_ros.core.verify import require_in_image, run_matcher

# Nobody is surer than this that he is right, or his odds would be infinite.
EPS = 1e-6


@dataclass(frozen=True)
class FusionParams:
    """How two finds are weighed. docs/fusion.md shows what each number is worth.

    reach: finds further apart than so many sigmas of both are two places. trust, doubt: how often
    a coarse find is right near its place, at full confidence. The truth is not known, so the lower
    one counts where the coarse find confirms, the upper one where it contradicts. coincidence: how
    often it names the very place that the fine matcher mistook for the right one (both fall for
    look-alikes). least_sigma, unknown_sigma: of a coarse find, as shares of the image's diagonal:
    never less than the first, since what a model says of its digits is not its error; the second
    where it states none. refine: look near the coarse find when the fine matcher's own is another
    place; False: only lose confidence. weigh: False leaves the fine matcher's confidence as it is.
    """

    gate_sigma: float = 3.0
    p_correct_low: float = 0.75
    p_correct_high: float = 0.9
    p_same_mistake: float = 0.3
    min_sigma: float = 0.02
    unknown_sigma: float = 0.04
    refine: bool = True
    reweight: bool = True


DEFAULT = FusionParams()


def fuse_matches(query: Query, coarse: Match, fine: Refiner, params: FusionParams = DEFAULT) -> Match:
    """Return what two matchers together say of a query that the coarse one answered.

    Where the fine matcher finds the same place by itself, its find stands and is trusted more.
    Where it finds another, it looks again near the coarse find; the better of its two places is
    returned, each held against the other, so that two good ones leave neither trusted. Where
    geometry forbids the coarse find, the fine matcher's own stands, and is trusted less.

    Raises `Rejected`: whatever the fine matcher refuses by itself (it knows the geometry);
    NOT_VISIBLE when the coarse find is outside the image; LOW_CONFIDENCE when two places that are
    each more likely right than wrong contradict each other and none outweighs the other.
    """
    require_in_image(query, coarse)
    coarse = _bound_covariance(query, coarse, params)
    own = _find_inside(query, fine, lambda: fine.match(query))
    if _mahalanobis(own, coarse) <= params.gate_sigma:
        return _update_confidence(own, _log_likelihood_ratio(query, own, coarse, params), 'confirmed by', coarse, params)
    against = _log_likelihood_ratio_elsewhere(coarse, params)
    if not params.refine:
        return _update_confidence(own, against, 'in spite of', coarse, params)
    try:
        near = _find_inside(query, fine, lambda: fine.refine(query, coarse))
    except Rejected as why:
        if why.code == Code.MATCHER_FAILED:
            raise
        return _update_confidence(own, against, 'in spite of', coarse, params)
    return _select_likelier(_update_confidence(own, against, 'in spite of', coarse, params),
                            _update_confidence(near, _log_likelihood_ratio(query, near, coarse, params), 'near', coarse, params))


def _find_inside(query: Query, fine: Refiner, find: Callable[[], Match]) -> Match:
    match = run_matcher(fine, find)
    require_in_image(query, match)
    return match


def _log_likelihood_ratio(query: Query, found: Match, coarse: Match, rule: FusionParams) -> float:
    """How much likelier the coarse find is if `found` is right than if it is wrong, as a logarithm.

    A coarse find is a Gaussian about the right place as often as it is trusted, else anywhere on
    the image; if `found` is wrong, it is about that very place only by coincidence. Bayes' rule
    adds this to the log odds of `found`, since the two looked independently.
    """
    size = query.other.intrinsics
    density = size.width_px * size.height_px * _density(found, coarse)
    right, wrong = (share * coarse.confidence for share in (rule.p_correct_low, rule.p_same_mistake))
    return log((1 - right + right * density) / (1 - wrong + wrong * density))


def _log_likelihood_ratio_elsewhere(coarse: Match, rule: FusionParams) -> float:
    """The same for a coarse find that is about another place."""
    right, wrong = (share * coarse.confidence for share in (rule.p_correct_high, rule.p_same_mistake))
    return log((1 - right) / (1 - wrong))


def _update_confidence(found: Match, log_ratio: float, word: str, coarse: Match, rule: FusionParams) -> Match:
    """Give a find the confidence that it has after the coarse matcher was heard."""
    x, y = coarse.pixel
    odds = _odds(found) * exp(log_ratio)
    return replace(found, confidence=odds / (1 + odds) if rule.reweight else found.confidence,
                   basis=f'{found.basis}; {word} {coarse.basis or "a find"} ({x:.0f}, {y:.0f})')


def _select_likelier(own: Match, near: Match) -> Match:
    """Return the likelier of two places of which at most one is right, at its share of the odds.

    Raises `Rejected` (LOW_CONFIDENCE) if both are likely and neither outweighs the other.
    """
    odds, odds_near = _odds(own), _odds(near)
    best = near if odds_near >= odds else own
    share = max(odds, odds_near) / (1 + odds + odds_near)
    if share < 0.5 and min(odds, odds_near) > 1:
        (x, y), (x_near, y_near) = own.pixel, near.pixel
        raise Rejected(Code.LOW_CONFIDENCE, 'two matchers contradict each other: the point is at '
                       f'({x:.0f}, {y:.0f}) with confidence {own.confidence:.2f}, or '
                       f'{hypot(x - x_near, y - y_near):.0f} px away with {near.confidence:.2f}')
    return replace(best, confidence=share)


def _odds(found: Match) -> float:
    return found.confidence / max(1 - found.confidence, EPS)


def _bound_covariance(query: Query, coarse: Match, rule: FusionParams) -> Match:
    """Give a coarse find the spread that it may be trusted to have, px^2."""
    size = query.other.intrinsics
    diagonal_px = hypot(size.width_px, size.height_px)
    covariance = coarse.covariance_px2
    if not np.isfinite(covariance).all():
        return replace(coarse, covariance_px2=np.eye(2) * (rule.unknown_sigma * diagonal_px) ** 2)
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance, (rule.min_sigma * diagonal_px) ** 2)
    return replace(coarse, covariance_px2=axes * variance @ axes.T)


def _difference_covariance_px2(found: Match, coarse: Match) -> Array:
    """Covariance (2, 2) of the difference of two finds of the same place."""
    return np.asarray(np.nan_to_num(found.covariance_px2) + coarse.covariance_px2)


def _mahalanobis(found: Match, coarse: Match) -> float:
    """Distance of two finds in sigmas of both."""
    away = found.pixel - coarse.pixel
    return float(np.sqrt(away @ np.linalg.inv(_difference_covariance_px2(found, coarse)) @ away))


def _density(found: Match, coarse: Match) -> float:
    """How densely coarse finds of the same place lie at this distance, per px^2."""
    area_px2 = 2 * pi * float(np.sqrt(np.linalg.det(_difference_covariance_px2(found, coarse))))
    return exp(-_mahalanobis(found, coarse) ** 2 / 2) / area_px2
