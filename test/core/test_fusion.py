"""Two witnesses: agreement makes surer, contradiction doubtful, geometry has the last word."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import raycast_scenes

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected
from crosspoint_ros.core.fusion import FusionParams, fuse_matches

VIEW = raycast_scenes.render_depth('right', raycast_scenes.look_at(raycast_scenes.RIGHT))
QUERY = Query(VIEW, VIEW, np.array([160.0, 120.0]))
HERE, THERE = (100.0, 100.0), (250.0, 60.0)
HIDDEN = Rejected(Code.NOT_VISIBLE, 'something 0.2 m in front of the point hides it')
ELSEWHERE = Rejected(Code.INCONSISTENT, 'depth puts the point elsewhere')


def match(pixel=HERE, confidence=0.7, sigma_px=3.0, basis=''):
    return Match(np.array(pixel, dtype=float), np.eye(2) * sigma_px ** 2, confidence, basis)


class Fine:
    """DOUBLE of a fine matcher: returns what is given, and records the coarse matches."""

    def __init__(self, own, near=None):
        self.own, self.near, self.asked = own, near, []

    def match(self, query):
        return self._said(self.own)

    def refine(self, query, near):
        self.asked.append(near)
        return self._said(self.near)

    def _said(self, answer):
        if isinstance(answer, Exception):
            raise answer
        return answer


def fused(coarse, own, near=None, **rule):
    return fuse_matches(QUERY, coarse, Fine(own, near), FusionParams(**rule))


def test_where_both_find_the_same_place_the_fine_find_stands_and_is_surer():
    coarse, own = match((108.0, 95.0), 0.9, 10.0), match(HERE, 0.7)
    found = fused(coarse, own, AssertionError('asked'))
    assert found.pixel.tolist() == own.pixel.tolist()
    assert found.covariance_px2 is own.covariance_px2
    assert 0.8 < found.confidence < 1


def test_a_find_at_the_edge_of_the_spread_confirms_less_than_one_in_its_middle():
    near, far = (fused(match((100.0 + off, 100.0), 0.9, 10.0), match(HERE, 0.6)).confidence
                 for off in (0.0, 24.0))
    assert 0.6 < far < near


@pytest.mark.parametrize('confidence', [0.05, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize('coarse_confidence', [0.0, 0.4, 1.0])
def test_agreement_never_lowers_and_contradiction_never_raises(confidence, coarse_confidence):
    own = match(HERE, confidence)
    agreed = fused(match(HERE, coarse_confidence, 10.0), own)
    spited = fused(match(THERE, coarse_confidence, 10.0), own, ELSEWHERE)
    assert spited.confidence <= confidence + 1e-12
    assert agreed.confidence >= confidence - 1e-12
    assert (agreed.confidence > spited.confidence) == (coarse_confidence > 0)


def test_a_surer_coarse_find_weighs_more_both_ways():
    own = match(HERE, 0.7)
    agreed = [fused(match(HERE, c, 10.0), own).confidence for c in (0.2, 0.6, 1.0)]
    spited = [fused(match(THERE, c, 10.0), own, ELSEWHERE).confidence for c in (0.2, 0.6, 1.0)]
    assert agreed == sorted(agreed)
    assert spited == sorted(spited, reverse=True)


def test_a_better_place_near_the_coarse_find_is_taken():
    near = match((248.0, 64.0), 0.7)
    found = fused(match(THERE, 0.9, 10.0), match(HERE, 0.2), near)
    assert found.pixel.tolist() == near.pixel.tolist()
    assert found.confidence > 0.7


def test_the_fine_matcher_is_asked_near_the_coarse_find_with_its_spread():
    fine = Fine(match(HERE, 0.2), match(THERE, 0.7))
    fuse_matches(QUERY, match(THERE, 0.9, 10.0), fine, FusionParams())
    (asked,) = fine.asked
    assert asked.pixel.tolist() == list(THERE)
    np.testing.assert_allclose(asked.covariance_px2, np.eye(2) * 100.0)


def test_a_sure_find_of_its_own_outweighs_a_poor_place_near_the_coarse_find():
    found = fused(match(THERE, 0.9, 10.0), match(HERE, 0.97), match(THERE, 0.05))
    assert found.pixel.tolist() == list(HERE)
    assert 0.5 < found.confidence < 0.97


def test_two_likely_places_are_refused_with_both_of_them():
    words = r'contradict each other: .*\(100, 100\) with confidence 0\.\d+, or 155 px away with 0\.'
    with pytest.raises(Rejected, match=words) as refused:
        fused(match(THERE, 0.9, 10.0), match(HERE, 0.9), match(THERE, 0.55))
    assert refused.value.code == Code.LOW_CONFIDENCE


def test_neither_of_two_rivals_is_as_likely_as_it_would_be_alone():
    coarse, own, near = match(THERE, 0.9, 10.0), match(HERE, 0.8), match(THERE, 0.8)
    with_rival = fused(coarse, own, near)
    without = fused(coarse, match(HERE, 0.0), near)
    assert with_rival.pixel.tolist() == list(THERE)
    assert with_rival.confidence < without.confidence


def test_what_the_fine_matcher_refuses_by_itself_stays_refused():
    with pytest.raises(Rejected) as refused:
        fused(match(HERE, 1.0), HIDDEN)
    assert refused.value is HIDDEN


def test_where_geometry_forbids_the_coarse_place_the_fine_find_stands_and_is_trusted_less():
    found = fused(match(THERE, 0.9, 10.0), match(HERE, 0.95), ELSEWHERE)
    assert found.pixel.tolist() == list(HERE)
    assert 0.5 < found.confidence < 0.95


def test_a_spread_smaller_than_two_percent_of_the_diagonal_is_not_believed():
    own = match((110.0, 100.0), 0.6)
    assert fused(match(HERE, 0.9, 0.5), own).confidence > 0.6
    fine = Fine(own, match(HERE, 0.6))
    fuse_matches(QUERY, match(HERE, 0.9, 0.5), fine, FusionParams(min_sigma=0.001))
    np.testing.assert_allclose(fine.asked[0].covariance_px2, np.eye(2) * 0.25)


def test_a_long_thin_spread_keeps_its_direction():
    fine = Fine(match((10.0, 200.0), 0.6), match(HERE, 0.6))
    spread = np.array([[400.0, 350.0], [350.0, 400.0]])
    fuse_matches(QUERY, replace(match(HERE, 0.9), covariance_px2=spread), fine,
                 FusionParams())
    (asked,) = fine.asked
    values, axes = np.linalg.eigh(asked.covariance_px2)
    np.testing.assert_allclose(values, [64.0, 750.0])
    np.testing.assert_allclose(np.abs(axes[:, 1]), [0.5 ** 0.5] * 2)


def test_an_unknown_spread_is_taken_as_four_percent_of_the_diagonal():
    fine = Fine(match(HERE, 0.6), match(THERE, 0.6))
    fuse_matches(QUERY, Match(np.array(THERE), confidence=0.9), fine, FusionParams())
    np.testing.assert_allclose(fine.asked[0].covariance_px2, np.eye(2) * 16.0 ** 2)


def test_a_fine_find_whose_spread_is_unknown_is_still_held_against_the_coarse_one():
    own = Match(np.array(HERE), confidence=0.6)
    assert fused(match(HERE, 0.9, 10.0), own).confidence > 0.6
    assert fused(match(THERE, 0.9, 10.0), own, ELSEWHERE).confidence < 0.6


@pytest.mark.parametrize(('pixel', 'code'), [
    ((-20.0, 50.0), Code.NOT_VISIBLE), ((320.5, 50.0), Code.NOT_VISIBLE)])
def test_a_coarse_find_that_is_no_place_on_the_image_is_refused_unasked(pixel, code):
    with pytest.raises(Rejected) as refused:
        fused(match(pixel, 0.9), AssertionError('asked'))
    assert refused.value.code == code


@pytest.mark.parametrize('where', ['own', 'near'])
def test_nonsense_from_the_fine_matcher_is_no_answer(where):
    nonsense, own = match((np.nan, 3.0)), match(HERE, 0.6)
    with pytest.raises(Rejected) as refused:
        fused(match(THERE, 0.9), *((nonsense,) if where == 'own' else (own, nonsense)))
    assert refused.value.code == Code.MATCHER_FAILED


def test_a_certain_find_stays_a_number():
    assert fused(match(HERE, 1.0), match(HERE, 1.0)).confidence <= 1.0
    assert fused(match(THERE, 1.0), match(HERE, 1.0), match(THERE, 1.0)).confidence <= 1.0


def test_the_answer_says_what_both_found():
    coarse = match((108.0, 95.0), 0.9, 10.0, 'a model')
    assert fused(coarse, match(HERE, 0.7, basis='poses, 12 matches')).basis == \
        'poses, 12 matches; confirmed by a model (108, 95)'
    assert 'in spite of a model (108, 95)' in fused(
        coarse, match(THERE, 0.9), ELSEWHERE).basis
    assert 'near a model (108, 95)' in fused(coarse, match(THERE, 0.1), match(HERE, 0.9)).basis


def test_each_part_of_the_rule_can_be_switched_off_and_shows():
    coarse, own, near = match(THERE, 0.9, 10.0), match(HERE, 0.2), match(THERE, 0.7)
    assert fused(coarse, own, near, refine=False).pixel.tolist() == list(HERE)
    assert fused(match(HERE), own, reweight=False).confidence == 0.2
    assert fused(coarse, match((250.0, 90.0), 0.9), near, gate_sigma=1.0).pixel.tolist() != \
        fused(coarse, match((250.0, 90.0), 0.4), near, gate_sigma=4.0).pixel.tolist()


@pytest.mark.parametrize(('number', 'higher'), [
    ('p_correct_low', True), ('p_same_mistake', False)])
def test_how_far_agreement_is_trusted_can_be_set(number, higher):
    low, high = (fused(match(HERE, 0.9), match(HERE, 0.6), **{number: value}).confidence
                 for value in (0.2, 0.5))
    assert (high > low) == higher


def test_how_much_a_contradiction_costs_can_be_set():
    low, high = (fused(match(THERE, 0.9), match(HERE, 0.6), ELSEWHERE,
                       p_correct_high=value).confidence
                 for value in (0.5, 0.95))
    assert high < low
