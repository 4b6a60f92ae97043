"""Fitting the confidence: weights, the stretch to the limits, and the figures."""
import numpy as np
import pytest

from crosspoint_ros.bench.pairs import fit_confidence
from crosspoint_ros.bench.pairs.fit_confidence import EvidenceTable
from crosspoint_ros.core.verify import Limits


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    evidence = np.clip(rng.normal(size=(4000, 3)), -3, 3)
    right = rng.random(4000) < 1 / (1 + np.exp(-2 * evidence[:, 0] - 3 * evidence[:, 1]))
    return EvidenceTable('drawn', evidence, right, right | (rng.random(4000) < 0.5),
                         np.arange(4000) // 20, np.full(4000, 0.5), np.zeros(4000, bool))


def test_logistic_weights_are_recovered_and_never_negative(table):
    against = np.hstack([table.evidence[:, :2], -table.evidence[:, 1:2]])
    weights, bias = fit_confidence.fit_logistic(against, table.right, np.ones(4000))
    np.testing.assert_allclose(weights, [2, 3, 0], atol=0.3)
    assert abs(bias) < 0.2


def test_sure_answers_are_right_on_the_scene_that_is_fitted_and_half_stays_half(table):
    limits = Limits()
    confidence = fit_confidence.fit([table], limits).predict(table.evidence)
    sure = confidence >= limits.sure_confidence
    assert sure.mean() > 0.2
    assert 0.96 < table.right[sure].mean() < 0.98
    assert table.right[np.abs(confidence - 0.5) < 0.1].mean() == pytest.approx(0.5, abs=0.1)


def test_one_wrong_answer_among_the_surest_does_not_end_sure():
    right = np.arange(200) != 3
    right[150:] = False
    logit = fit_confidence.find_sure_logit(-np.arange(200.0), right)
    assert 145 <= -logit <= 153


def test_figures_and_diagram_hold_what_was_measured(table):
    text = fit_confidence.format_figures(table, np.where(table.right, 0.95, 0.05), Limits())
    assert f'sure: 100.0% of {table.right.sum()} right' in text
    assert 'AUROC right 1.000' in text
    image = fit_confidence.draw_reliability({'drawn': (table.shipped, table.right)})
    assert image.shape == (390, 780, 3)
