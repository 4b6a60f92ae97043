"""Bayesian fusion of a coarse and a fine matcher."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import exp, hypot, log, pi

import numpy as np

from crosspoint_ros.core.datatypes import Array, Code, Match, Query, Refiner, Rejected
from crosspoint_ros.core.verify import require_in_image, run_matcher

EPS = 1e-6  # a probability of 1 has infinite odds


@dataclass(frozen=True)
class FusionParams:
    """How two matches are weighed; docs/matchers/fusion.md shows what each number is worth.

    gate_sigma: matches further apart than this, in sigmas of both, are two places. p_correct_low,
    p_correct_high: how often a coarse match is right near its place, at full confidence; as that is
    not known exactly, the first counts where it confirms, the second where it contradicts.
    p_same_mistake: how often both mistake the same place (look-alikes). min_sigma, unknown_sigma:
    of a coarse match, as shares of the image's diagonal: at least the first, since a model's digits
    understate its error; the second where it states none. refine: search near the coarse match when
    the fine matcher found another place. reweight: update the confidence.
    """

    gate_sigma: float = 3.0
    p_correct_low: float = 0.75
    p_correct_high: float = 0.9
    p_same_mistake: float = 0.3
    min_sigma: float = 0.02
    unknown_sigma: float = 0.04
    refine: bool = True
    reweight: bool = True


def fuse_matches(query: Query, coarse: Match, fine: Refiner, params: FusionParams) -> Match:
    """Fuse the coarse match of a query with what the fine matcher finds.

    If the fine matcher finds the same place, its match is returned with more confidence. If it
    finds another, it searches again near the coarse match, and the likelier of its two places is
    returned, at its share of the odds. If geometry excludes the coarse match, the fine matcher's
    own is returned with less confidence.

    Raises `Rejected`: whatever the fine matcher's own match raises (it knows the geometry);
    NOT_VISIBLE for a coarse match outside the image; LOW_CONFIDENCE when two places that are each
    more likely right than wrong contradict each other and neither outweighs the other.
    """
    require_in_image(query, coarse)
    coarse = _bound_covariance(query, coarse, params)
    own = _find_in_image(query, fine, lambda: fine.match(query))
    if _mahalanobis(own, coarse) <= params.gate_sigma:
        ratio = _log_likelihood_ratio(query, own, coarse, params)
        return _update_confidence(own, ratio, 'confirmed by', coarse, params)
    # The coarse match is about another place.
    right, wrong = (p * coarse.confidence for p in (params.p_correct_high, params.p_same_mistake))
    ratio = log((1 - right) / (1 - wrong))
    weakened = _update_confidence(own, ratio, 'in spite of', coarse, params)
    if not params.refine:
        return weakened
    try:
        near = _find_in_image(query, fine, lambda: fine.refine(query, coarse))
    except Rejected as why:
        if why.code == Code.MATCHER_FAILED:
            raise
        return weakened
    ratio = _log_likelihood_ratio(query, near, coarse, params)
    return _select_likelier(weakened, _update_confidence(near, ratio, 'near', coarse, params))


def _find_in_image(query: Query, fine: Refiner, find: Callable[[], Match]) -> Match:
    match = run_matcher(fine, find)
    require_in_image(query, match)
    return match


def _log_likelihood_ratio(query: Query, match: Match, coarse: Match, params: FusionParams) -> float:
    """Log likelihood ratio of the coarse match, for `match` being right against wrong.

    A coarse match is Gaussian about the right place as often as it is correct, else uniform on the
    image; if `match` is wrong, it is about that very place only by the same mistake. By Bayes' rule
    this is added to the log odds of `match`, since the two matchers are independent.
    """
    size = query.other.intrinsics
    covariance_px2 = _difference_covariance_px2(match, coarse)
    density = size.width_px * size.height_px * exp(-_mahalanobis(match, coarse) ** 2 / 2) / (
        2 * pi * float(np.sqrt(np.linalg.det(covariance_px2))))
    right, wrong = (p * coarse.confidence for p in (params.p_correct_low, params.p_same_mistake))
    return log((1 - right + right * density) / (1 - wrong + wrong * density))


def _update_confidence(match: Match, log_ratio: float, word: str, coarse: Match,
                       params: FusionParams) -> Match:
    """Add the log likelihood ratio of the coarse match to the log odds of a match."""
    x, y = coarse.pixel
    odds = _odds(match) * exp(log_ratio)
    return replace(match, confidence=odds / (1 + odds) if params.reweight else match.confidence,
                   basis=f'{match.basis}; {word} {coarse.basis or "a match"} ({x:.0f}, {y:.0f})')


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


def _odds(match: Match) -> float:
    return match.confidence / max(1 - match.confidence, EPS)


def _bound_covariance(query: Query, coarse: Match, params: FusionParams) -> Match:
    """Raise the covariance of a coarse match to the least that it can be."""
    size = query.other.intrinsics
    diagonal_px = hypot(size.width_px, size.height_px)
    if not np.isfinite(coarse.covariance_px2).all():
        sigma_px = params.unknown_sigma * diagonal_px
        return replace(coarse, covariance_px2=np.eye(2) * sigma_px ** 2)
    variance, axes = np.linalg.eigh(coarse.covariance_px2)
    variance = np.maximum(variance, (params.min_sigma * diagonal_px) ** 2)
    return replace(coarse, covariance_px2=axes * variance @ axes.T)


def _difference_covariance_px2(match: Match, coarse: Match) -> Array:
    return np.asarray(np.nan_to_num(match.covariance_px2) + coarse.covariance_px2)


def _mahalanobis(match: Match, coarse: Match) -> float:
    """Distance of two matches in sigmas of both."""
    away = match.pixel - coarse.pixel
    inverse = np.linalg.inv(_difference_covariance_px2(match, coarse))
    return float(np.sqrt(away @ inverse @ away))
