"""The simulated coarse matcher errs as configured, and a fine one repairs what it can."""
from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from raycast_scenes import LEFT, RIGHT, Box, look_at, project_point
from textured_scenes import render_view

from crosspoint_ros.bench.pairs import fusion
from crosspoint_ros.bench.pairs.dataset import (
    InputConfig,
    LabelledQuery,
    PairFolderSource,
)
from crosspoint_ros.bench.pairs.simulated_vlm import (
    ErrorModel,
    LookalikeFinder,
    SimulatedVLM,
    compute_diagonal_px,
)
from crosspoint_ros.bench.pairs.sources import MASK
from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected
from crosspoint_ros.core.fusion import FusionParams
from crosspoint_ros.core.image_io import read_mask
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.qa.point_visibility import Visibility

pytestmark = pytest.mark.usefixtures('networks_once')
BOX = (Box((-0.10, -0.05, 0.0), (0.05, 0.10, 0.15)),)
SEEN = 300


@pytest.fixture(scope='module')
def views():
    return tuple(render_view(name, look_at(eye), BOX) for name, eye in (('l', LEFT), ('r', RIGHT)))


@pytest.fixture(scope='module')
def items(views):
    """Points on the table: one half visible, the other labelled as occluded."""
    left, right = views
    rng = np.random.default_rng(0)
    made = []
    for number in range(2 * SEEN):
        point_base_m = np.array([*rng.uniform(-0.2, 0.2, 2), 0.0])
        made.append(LabelledQuery(Query(left, right, project_point(left, point_base_m)),
                         project_point(right, point_base_m),
                         Visibility.VISIBLE if number < SEEN else Visibility.OCCLUDED, 0, '45+'))
    return made


def answers(items, **errors):
    """Pixels (n, 2) of every item; NaN where it is refused."""
    coarse = SimulatedVLM(items, ErrorModel(**errors))

    def ask(item):
        try:
            return coarse.match(item.query).pixel
        except Rejected:
            return np.full(2, np.nan)

    return np.array([ask(item) for item in items])


def truths(items):
    return np.array([item.ground_truth for item in items])


def test_its_error_is_gaussian_with_the_stated_covariance(items):
    off = (answers(items, outliers=0.0) - truths(items))[:SEEN]
    assert off.std() == pytest.approx(0.02 * 400, rel=0.1)
    stated = SimulatedVLM(items, ErrorModel()).match(items[0].query).covariance_px2
    np.testing.assert_allclose(stated, np.eye(2) * 64.0)


def test_it_may_misjudge_its_own_spread(items):
    stated = SimulatedVLM(items, ErrorModel(stated=0.5)).match(items[0].query).covariance_px2
    np.testing.assert_allclose(stated, np.eye(2) * 16.0)


@pytest.mark.parametrize('lookalike', [False, True])
def test_so_many_visible_points_are_outliers(items, lookalike):
    off = np.linalg.norm(answers(items, outliers=0.25, lookalike=lookalike) - truths(items), axis=1)
    assert (off[:SEEN] > 5 * 8).mean() == pytest.approx(0.25, abs=0.08)


def test_so_many_of_the_others_are_found_and_the_rest_refused(items):
    found = np.isfinite(answers(items, hallucinated=0.35)).all(axis=1)
    assert found[:SEEN].all()
    assert found[SEEN:].mean() == pytest.approx(0.35, abs=0.08)


def test_a_refusal_says_that_it_is_simulated(items):
    with pytest.raises(Rejected, match='simulated') as refused:
        SimulatedVLM(items, ErrorModel(hallucinated=0.0)).match(items[-1].query)
    assert refused.value.code == Code.NOT_VISIBLE


def test_visible_points_may_be_refused_too(items):
    found = np.isfinite(answers(items, missed=0.2)).all(axis=1)
    assert found[:SEEN].mean() == pytest.approx(0.8, abs=0.08)


def test_every_pixel_lies_on_the_image(items):
    pixels = answers(items, sigma=0.5, hallucinated=1.0)
    assert (pixels >= 0).all()
    assert (pixels <= (319, 239)).all()


def test_the_seed_decides_and_the_order_of_questions_does_not(items):
    assert np.array_equal(answers(items, seed=1), answers(items, seed=1), equal_nan=True)
    assert not np.array_equal(answers(items, seed=1), answers(items, seed=2), equal_nan=True)
    coarse = SimulatedVLM(items, ErrorModel())
    first, second = (coarse.match(items[i].query).pixel for i in (5, 6))
    again = SimulatedVLM(items, ErrorModel())
    assert again.match(items[6].query).pixel.tolist() == second.tolist()
    assert again.match(items[5].query).pixel.tolist() == first.tolist()


def test_a_larger_error_changes_nothing_but_its_length(items):
    near, far = (answers(items, sigma=s) - truths(items) for s in (0.01, 0.02))
    gaussian = np.flatnonzero(np.linalg.norm(near[:SEEN], axis=1) < 16)
    inside = [i for i in gaussian if np.linalg.norm(2 * near[i] - far[i]) < 1e-9]
    assert len(inside) > 0.8 * SEEN


def test_a_look_alike_is_away_from_the_truth_and_more_alike_than_most(items):
    looks, query, truth = LookalikeFinder(), items[0].query, items[0].ground_truth
    places = looks.find_lookalikes(query, truth)
    assert len(places) == 10
    assert np.linalg.norm(places - truth, axis=1).min() > 0.1 * compute_diagonal_px(
        query.other.intrinsics)
    level = looks._extract_level(query.other)
    (sought,) = looks._extract_level(query.clicked).dense.sample(query.pixel[None])
    assert ((level.descriptors @ sought) > (level.dense.sample(places) @ sought).min()).mean() < 0.2


class Right:
    """DOUBLE of a fine matcher: knows the truth, and refuses what is hidden."""

    def __init__(self, items):
        self.known = {item.query.pixel.tobytes(): item for item in items}

    def match(self, query):
        item = self.known[query.pixel.tobytes()]
        if item.visibility != Visibility.VISIBLE:
            raise Rejected(Code.NOT_VISIBLE, 'hidden')
        return Match(item.ground_truth, np.eye(2), 0.9)

    def refine(self, query, near):
        raise Rejected(Code.INCONSISTENT, 'elsewhere')


def test_each_draw_answers_every_question_and_a_perfect_fine_matcher_repairs_all(items):
    few = items[:20] + items[-20:]
    contests = fusion.build_cases(few, Right(few), FusionParams(), Limits(max_depth_gap_m=1.0),
                                  ErrorModel(), [(0.02, 0.25)], 2)
    scores = fusion.score_interleaved(contests, Limits())
    assert [(c.name, len(c.runs)) for c in contests] == [
        ('fine alone', 1), ('coarse alone', 2), ('both', 2), ('coarse alone', 2), ('both', 2)]
    coarse, both = scores[1], scores[2]
    assert all(s.overall.pck[2] == 1.0 and s.accepted_hidden == 0.0 for s in both)
    assert all(0.2 < s.overall.pck[2] < 1.0 and s.accepted_hidden > 0 for s in coarse)
    assert coarse[0] != coarse[1]


def test_the_command_says_that_it_simulates_and_writes_the_scores(
        shared_data, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    fusion.add_arguments(parser)
    out = tmp_path / 'out.json'
    asked = parser.parse_args([
        str(shared_data / 'apc_shelf'), '--no-poses', '--no-depth', '--limit', '6', '--draws', '2',
        '--level', '0.02,0.1', '--simulate', 'hallucinated=1', '--rule', 'refine=False',
        '--json', str(out)])
    assert fusion.main(asked) == 0
    printed = capsys.readouterr().out
    assert 'The coarse matcher is SIMULATED' in printed
    assert 'error 2%, 10% outliers on look-alikes' in printed
    written = json.loads(out.read_text())
    assert written['simulated']['hallucinated'] == 1
    assert written['rule']['refine'] is False
    assert [len(s['draws']) for s in written['scores']] == [1, 2, 2, 2, 2]


@pytest.mark.parametrize('text', ['0.02', '0,0.1', '0.02,1.5', 'a,b'])
def test_a_level_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  (argparse words it)
        fusion.parse_level(text)


def test_on_a_real_shelf_two_witnesses_are_wrong_less_often_than_either(shared_data):
    folder = shared_data / 'apc_shelf'
    given = InputConfig(poses=False, depth=False)
    items = [i for i in PairFolderSource(folder, given, read_mask(folder / MASK))
             if i.pair in (2, 30)]
    contests = fusion.build_cases(items, fusion.load_refiner('xfeat'), FusionParams(), Limits(),
                                  ErrorModel(), [(0.04, 0.25)], 1)
    (fine,), *_, (coarse,), (both,) = fusion.score_interleaved(contests, Limits())
    assert both.accepted_precision > max(fine.accepted_precision, coarse.accepted_precision)
    assert both.accepted_hidden < fine.accepted_hidden
    assert both.sure_precision > 0.9
