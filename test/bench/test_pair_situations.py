"""Scores of several sets in several situations: targets, intervals and the table."""
from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from pair_folders import outcome, write_pair_folder

from crosspoint_ros.bench.pairs import report
from crosspoint_ros.bench.pairs.cli import EvaluationRun, pool_runs
from crosspoint_ros.bench.pairs.dataset import SITUATIONS, InputConfig
from crosspoint_ros.bench.pairs.evaluate import measure_target
from crosspoint_ros.bench.pairs.metrics import PairBootstrap, compute_score
from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import Code, GraspTarget, Method, Transform

pytestmark = pytest.mark.usefixtures('networks_once')


@pytest.fixture(scope='module')
def shelves(tmp_path_factory):
    both = tmp_path_factory.mktemp('both')
    made = write_pair_folder(tmp_path_factory.mktemp('set'))
    for name in ('one', 'two'):
        shutil.copytree(made, both / name)
    (both / 'notes').mkdir()
    return both


def lifted(error_3d_mm, squared=1.0, confidence=0.9, **fields):
    return dataclasses.replace(outcome(), error_3d_mm=error_3d_mm, normalised_squared=squared,
                               target_confidence=confidence, **fields)


def test_the_normalised_error_of_points_drawn_from_the_covariance_is_one():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3, 3)) * 0.01
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = A @ A.T
    errors = rng.multivariate_normal(np.zeros(3), covariance[:3, :3], 4000)
    squared = [measure_target(GraspTarget(Transform(np.eye(3), error), covariance,
                                          Method.TRIANGULATED, np.nan, 0.9), np.zeros(3))[1]
               for error in errors]
    assert np.mean(squared) == pytest.approx(1.0, abs=0.05)
    assert np.median(squared) == pytest.approx(0.79, abs=0.05)


def test_a_target_is_measured_against_its_truth_in_mm_and_one_without_either_is_unknown():
    covariance = np.diag([0.01, 0.02, 0.03, 1, 1, 1]) ** 2
    target = GraspTarget(Transform(np.eye(3), [0.01, 0, 1.06]), covariance, Method.FUSED, np.nan,
                         0.7)
    error_mm, squared, confidence, sigma_mm = measure_target(target, np.array([0, 0, 1.0]))
    assert error_mm == pytest.approx(1000 * np.hypot(0.01, 0.06))
    assert squared == pytest.approx((1 + 4) / 3)
    assert (confidence, sigma_mm) == (0.7, pytest.approx(30))
    assert np.isnan(measure_target(target, None)).all()
    assert np.isnan(measure_target(None, np.zeros(3))).all()


def test_a_sure_target_must_have_its_pixel_and_its_place_right():
    clicks = [lifted(10.0), lifted(51.0), lifted(10.0, error_px=21.0), lifted(10.0, visible=False),
              lifted(99.0, confidence=0.5), outcome()]
    targets = compute_score(clicks, 0.8).targets
    assert (targets.number, targets.sure, targets.sure_right) == (5, 4, 0.25)
    assert targets.far_share == 0.4
    assert targets.error_mm_median == 10.0


def test_an_interval_covers_the_true_share_as_often_as_it_claims():
    rng, covered = np.random.default_rng(5), 0
    for _ in range(200):
        shares = np.clip(rng.normal(0.7, 0.15, 40), 0, 1)  # pairs differ
        hits = rng.random((40, 15)) < shares[:, None]
        low, high = PairBootstrap(np.repeat(np.arange(40), 15)).mean(
            hits.ravel(), np.ones(600, bool))
        covered += low <= 0.697 <= high
    assert 180 <= covered <= 200


def test_an_interval_is_of_pairs_and_not_of_clicks():
    alike = np.repeat([True, False] * 10, 30)  # 20 pairs of 30 clicks that are right or wrong
    low, high = PairBootstrap(np.repeat(np.arange(20), 30)).mean(alike, np.ones(600, bool))
    assert high - low == pytest.approx(0.4, abs=0.08)
    low, high = PairBootstrap(np.arange(600)).mean(alike, np.ones(600, bool))
    assert high - low == pytest.approx(0.08, abs=0.02)


def test_quantiles_weigh_each_drawn_click_and_nothing_gives_an_unknown_interval():
    values = np.arange(1000.0)
    bootstrap = PairBootstrap(np.arange(1000))
    low, high = bootstrap.quantile(values, values >= 0, 0.5)
    assert low < 499 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1000) * 1000, rel=0.2)
    assert np.isnan(bootstrap.quantile(values, values < 0, 0.5)).all()
    assert np.isnan(bootstrap.mean(values, values < 0)).all()


def test_pairs_of_different_sets_stay_apart_when_pooled():
    runs = [EvaluationRun(name, 'images', InputConfig(), [outcome()], 0) for name in ('a', 'b')]
    pooled, = pool_runs(runs)
    assert [each.pair for each in pooled.outcomes] == [0, 1]
    assert pool_runs(runs[:1]) == []


def test_every_situation_of_every_set_is_one_column_of_one_table(shelves, tmp_path, capsys):
    assert main(['bench', 'pairs', str(shelves), '--situation', 'all', '--roll', '180', '--limit',
                 '3', '--json', str(tmp_path / 'o.json'), '--markdown', str(tmp_path / 'o.md'),
                 '--failures', str(tmp_path / 'wrong')]) == 0
    printed = capsys.readouterr().out
    heads = [line.split() for line in printed.splitlines() if line.endswith('exact-poses-depth')]
    assert [head[-5] for head in heads] == ['one', 'two', 'sets']
    assert heads[0][1:] == list(SITUATIONS)
    rows = printed.split('all sets')[1].splitlines()
    targets = next(row.split() for row in rows if row.startswith('3D targets'))
    assert targets[3] == '0'  # images alone
    assert int(targets[6]) == 6
    assert next(row for row in rows if 'visible / hidden' in row).split()[4:7] == ['6', '/', '0']
    written = json.loads((tmp_path / 'o.json').read_text())
    assert [(run['set'], run['situation']) for run in written['runs']] == [
        (name, situation) for name in ('one', 'two') for situation in SITUATIONS]
    assert written['runs'][7]['outcomes'][0]['turn_deg'] == 180
    assert written['pooled']['exact-poses-depth']['targets']['number'] == 6
    assert '| all sets | images |' in (tmp_path / 'o.md').read_text()


def test_a_letter_is_a_situation_and_a_single_run_has_its_own_table(shelves, tmp_path, capsys):
    words = ['bench', 'pairs', str(shelves / 'one'), '--limit', '2']
    assert main([*words, '--situation', 'a', '--json', str(tmp_path / 'o.json')]) == 0
    assert 'images only' in capsys.readouterr().out
    assert json.loads((tmp_path / 'o.json').read_text())['given']['poses'] is False
    for option in (['--no-depth'], ['--depth-of', 'other']):
        assert main([*words, '--situation', 'c', *option]) == 1
    assert 'leave out --no-poses' in capsys.readouterr().err


def test_two_sets_of_one_name_are_refused(shelves, capsys):
    assert main(['bench', 'pairs', str(shelves / 'one'), str(shelves / 'one')]) == 1
    assert 'have the same name' in capsys.readouterr().err


def test_a_measure_without_any_case_is_a_dash():
    rows = dict(report.list_measures(compute_score([outcome(code=Code.STALE)], 0.8)))
    assert rows['SURE: right'] == rows['  more than 5 cm off'] == '-'
    assert rows['answered: of visible'] == '0.0 (0-0)'
