"""The evidence around a place: keypoints that move with it, and those on one side that do not."""
import numpy as np
import pytest

from crosspoint_ros.matchers.xfeat import evidence
from crosspoint_ros.matchers.xfeat.confidence import (
    APPEARANCE_WEIGHTS,
    find_appearance_doubt,
    predict_confidence,
)
from crosspoint_ros.matchers.xfeat.matching import find_partners
from crosspoint_ros.matchers.xfeat.search import Candidate

AROUND = np.stack(np.meshgrid(np.arange(-30, 31, 6.0), np.arange(-30, 31, 6.0)), -1).reshape(-1, 2)
TURN = np.array([[0.8, -0.6], [0.6, 0.8]])


def test_keypoints_that_all_move_with_the_place_support_it_on_every_side():
    share, worst = evidence.measure_support(AROUND, AROUND @ TURN.T, TURN)
    assert share > 0.95
    assert worst > 0.95


@pytest.mark.parametrize('moved', [np.array([25.0, 0]), np.full(2, np.nan)])
def test_an_edge_is_a_side_whose_keypoints_move_otherwise_or_are_hidden(moved):
    far_side = AROUND[:, 0] > 3
    partners = AROUND @ TURN.T + np.where(far_side[:, None], moved, 0)
    share, worst = evidence.measure_support(AROUND, partners, TURN)
    assert 0.4 < share < 0.7
    assert worst < 0.1


def test_without_keypoints_nothing_supports_a_place():
    none = np.zeros((0, 2))
    assert evidence.measure_support(none, none, np.eye(2)).tolist() == [0, 0]


def test_patches_correlate_where_the_place_is_a_few_px_off_and_brighter():
    wide = np.random.default_rng(0).uniform(0, 200, (39, 39)).astype(np.float32)
    assert evidence.correlate_patches(wide[2:33, 6:37], 0.5 * wide + 40) > 0.99
    assert evidence.correlate_patches(wide[2:33, 6:37], wide[::-1]) < 0.3


def test_patches_without_contrast_show_nothing():
    noise = np.random.default_rng(0).normal(90, 0.2, (39, 39)).astype(np.float32)
    assert evidence.correlate_patches(noise[4:35, 4:35], noise) < 0.1
    flat = np.full((39, 39), 90, np.float32)
    assert evidence.correlate_patches(flat[:31, :31], flat) == 0


def test_the_partner_of_a_keypoint_is_that_of_the_match_within_3_px():
    found = find_partners(np.array([[10.0, 10], [50, 50]]), np.array([[11.0, 10], [54, 50]]),
                          np.array([[1.0, 2], [3, 4]]))
    np.testing.assert_equal(found, [[1, 2], [np.nan, np.nan]])
    assert np.isnan(find_partners(np.zeros((2, 2)), np.zeros((0, 2)), np.zeros((0, 2)))).all()


def test_a_place_at_an_edge_is_to_be_checked_however_confident():
    at_edge, inside = (Candidate(
        np.zeros(2), 3.0, 0.5, 20.0, 0.0, local=evidence.LocalEvidence(0.9, side, 0.3, 0.9))
        for side in (0.2, 0.9))
    assert predict_confidence(at_edge) > 0.5
    assert '20% of the keypoints' in find_appearance_doubt(at_edge)
    assert find_appearance_doubt(inside) == ''


def test_few_matched_keypoints_on_all_sides_are_no_edge_but_none_at_all_may_hide_one():
    thin, none = (Candidate(
        np.zeros(2), 3.0, 0.5, 20.0, 0.0, local=evidence.LocalEvidence(share, share, 0.3, 0.9))
        for share in (0.3, 0.0))
    assert find_appearance_doubt(thin) == ''
    assert find_appearance_doubt(none)


def test_no_piece_of_evidence_lowers_the_confidence():
    for weights in APPEARANCE_WEIGHTS.values():
        weak = np.array([0.2, 0.0, 0.0])
        assert (weights.predict(weak + 0.2 * np.eye(3)) > weights.predict(weak)).all()
