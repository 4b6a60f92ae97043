"""Scoring a matcher on pairs: matchers with known answers get the scores they deserve."""
from __future__ import annotations

import argparse
import dataclasses
import json
import shutil

import numpy as np
import pytest
from pair_folders import outcome, write_pair_folder

from crosspoint_ros.bench.pairs import cli, report
from crosspoint_ros.bench.pairs.dataset import (
    InputConfig,
    PairFolderSource,
    measure_viewing_angle_deg,
    sample_pose_noise,
    select_angle_bin,
)
from crosspoint_ros.bench.pairs.evaluate import evaluate
from crosspoint_ros.bench.pairs.metrics import (
    compute_auroc,
    compute_precision_at_recall,
    compute_score,
)
from crosspoint_ros.bench.pairs.sources import MASK
from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import Code, Match, Rejected
from crosspoint_ros.core.image_io import read_mask
from crosspoint_ros.core.verify import Limits
from crosspoint_ros.data.qa.point_visibility import Visibility


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_pair_folder(tmp_path_factory.mktemp('set'))


class Knows:
    """A double that answers with the ground truth, off by some px, or refuses."""

    def __init__(self, items, off_px, confidence):
        self.ground_truth = {tuple(i.query.pixel): i.ground_truth for i in items}
        self.off_px, self.confidence = off_px, confidence

    def match(self, query):
        if self.off_px is None:
            raise Rejected(Code.NOT_VISIBLE, 'never')
        return Match(self.ground_truth[tuple(query.pixel)] + [self.off_px, 0], np.eye(2),
                     self.confidence)


def score(items, matcher):
    return compute_score([outcome for _, outcome in evaluate(items, matcher, Limits())], 0.8)


def test_a_set_gives_images_depth_poses_and_truth(folder):
    items = list(PairFolderSource(folder, InputConfig(), None))
    assert [i.visibility for i in items] == [Visibility.VISIBLE] * 3 + [Visibility.OCCLUDED]
    query = items[0].query
    assert query.clicked.image.shape == (240, 320, 3)
    point_m = query.clicked.base_from_cam.transform_points(
        query.clicked.intrinsics.unproject(query.pixel))
    assert np.isfinite(point_m).all()
    assert np.nanmedian(query.other.depth_m) == pytest.approx(0.9, abs=0.3)
    assert items[0].bin == '45+'


def test_what_is_kept_from_the_matcher_is_not_in_the_views(folder):
    query = next(iter(PairFolderSource(folder, InputConfig(poses=False, depth=False), None))).query
    for view in (query.clicked, query.other):
        assert view.depth_m is None
        assert view.base_from_cam is None


@pytest.mark.parametrize(('depth_of', 'kept'), [
    ('both', (True, True)), ('clicked', (True, False)), ('other', (False, True))])
def test_depth_can_be_of_one_view_alone(folder, depth_of, kept):
    query = next(iter(PairFolderSource(folder, InputConfig(depth_of=depth_of), None))).query
    assert tuple(view.depth_m is not None for view in (query.clicked, query.other)) == kept


def test_noise_has_the_lengths_that_were_asked_for():
    moved = sample_pose_noise(np.random.default_rng(1), 2.0, 3.0)
    assert np.linalg.norm(moved.t_m) == pytest.approx(0.02)
    assert np.degrees(np.arccos((np.trace(moved.R) - 1) / 2)) == pytest.approx(3.0)


def test_noise_moves_the_given_pose_and_the_seed_decides_how(folder):
    def given(seed):
        pair = PairFolderSource(folder, InputConfig(noise_cm=1, noise_deg=1, seed=seed), None)
        return next(iter(pair)).query.other.base_from_cam.matrix

    assert np.array_equal(given(1), given(1))
    assert not np.allclose(given(1), given(2))


def test_a_folder_that_is_no_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'it has no index\.json'):
        PairFolderSource(tmp_path, InputConfig(), None)


def test_a_pair_that_cannot_be_read_is_told_and_the_rest_is_asked(folder, tmp_path, capsys):
    broken = tmp_path / 'broken'
    shutil.copytree(folder, broken)
    index = json.loads((broken / 'index.json').read_text())
    index['pairs'] += [{**index['pairs'][0], 'B': 'gone'}]
    (broken / 'index.json').write_text(json.dumps(index))
    queries = dict(np.load(broken / 'queries.npz'))
    for name, values in queries.items():
        queries[name] = np.concatenate([values, values[:1]])
    queries['pair'][-1] = len(index['pairs']) - 1
    np.savez(broken / 'queries.npz', **queries)
    assert main(['bench', 'pairs', str(broken), '--no-poses', '--no-depth']) == 1
    told = capsys.readouterr()
    assert "gone.png'; its queries are skipped" in told.err
    assert 'skipped: 1 of 5 queries' in told.out


def test_a_mask_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        read_mask(tmp_path / 'gone.png')


def test_a_perfect_matcher_scores_all_and_a_wrong_one_nothing(folder):
    items = list(PairFolderSource(folder, InputConfig(poses=False, depth=False), None))
    perfect = score(items, Knows(items, 3.0, 0.9))
    assert perfect.overall.pck == (1.0, 1.0, 1.0, 1.0)
    assert perfect.overall.median_px == pytest.approx(3.0)
    assert perfect.accepted_visible == 1.0
    wrong = score(items, Knows(items, 30.0, 0.9))
    assert wrong.overall.pck == (0.0, 0.0, 0.0, 1.0)
    assert wrong.sure_precision == 0.0


def test_a_doubtful_answer_is_refused_but_its_pixel_counts(folder):
    items = list(PairFolderSource(folder, InputConfig(poses=False, depth=False), None))
    scored = score(items, Knows(items, 1.0, 0.2))
    assert scored.overall.pck[0] == 1.0
    assert scored.accepted_visible == 0.0
    assert scored.refusals == {'LOW_CONFIDENCE': 4}


def test_a_refusal_without_a_pixel_is_a_miss(folder):
    items = list(PairFolderSource(folder, InputConfig(), None))
    scored = score(items, Knows(items, None, 0.0))
    assert scored.overall.pck == (0.0, 0.0, 0.0, 0.0)
    assert scored.refusals == {'NOT_VISIBLE': 4}


def test_hidden_points_do_not_count_for_accuracy():
    clicks = [outcome(error_px=1), outcome(visible=False, error_px=99)]
    assert compute_score(clicks, 0.8).overall.points == 1


def test_a_sure_answer_on_a_hidden_point_is_wrong():
    scored = compute_score([outcome(), outcome(visible=False)], 0.8)
    assert scored.sure_precision == 0.5
    assert scored.accepted_hidden == 1.0


def pair_views(folder):
    query = next(iter(PairFolderSource(folder, InputConfig(), None))).query
    return query.clicked, query.other


def test_the_viewing_angle_is_that_of_the_rays_and_unknown_without_poses_or_a_point(folder):
    left, right = pair_views(folder)
    pixel = np.array(left.intrinsics.project(left.base_from_cam.inverse.transform_points(
        left.base_from_cam.transform_points([0.0, 0.0, 1.0]))))
    point = left.base_from_cam.transform_points(left.intrinsics.unproject(pixel))
    angle_deg = measure_viewing_angle_deg(left, right, point)
    rays = [view.base_from_cam.t_m - point for view in (left, right)]
    assert np.cos(np.radians(angle_deg)) == pytest.approx(
        rays[0] @ rays[1] / np.linalg.norm(rays[0]) / np.linalg.norm(rays[1]))
    assert np.isnan(measure_viewing_angle_deg(left, right, None))
    assert np.isnan(measure_viewing_angle_deg(
        dataclasses.replace(left, base_from_cam=None), right, point))
    assert [select_angle_bin(a) for a in (0.0, 14.9, 15.0, 44.0, 90.0, np.nan)] == [
        '0-15', '0-15', '15-30', '30-45', '45+', 'unknown']


def test_an_answer_is_measured_in_pixels_and_in_millimetres(folder):
    first, *_ = PairFolderSource(folder, InputConfig(), None)
    found = Knows([first], 3.0, 0.9)
    (_, plain), = evaluate([dataclasses.replace(first, point_base_m=None)], found, Limits())
    assert plain.accepted
    assert plain.error_px == pytest.approx(3.0)
    assert np.isnan(plain.error_3d_mm)  # no ground truth in 3D
    clicked = first.query.clicked
    column, row = first.query.pixel.round().astype(int)
    ray = clicked.intrinsics.unproject(first.query.pixel)
    point = clicked.base_from_cam.transform_points(ray / ray[2] * clicked.depth_m[row, column])
    (_, known), = evaluate([dataclasses.replace(first, point_base_m=point)],
                           Knows([first], 0.0, 0.9), Limits())
    above = dataclasses.replace(first, point_base_m=point + np.array([0, 0, 0.03]))
    (_, moved), = evaluate([above],
                           Knows([first], 0.0, 0.9), Limits())
    assert known.error_3d_mm < 5
    assert moved.error_3d_mm == pytest.approx(30, abs=5)


class Breaks(Knows):
    def match(self, query):
        raise RuntimeError('a bug of the matcher')


class Nonsense(Knows):
    def match(self, query):
        return 'left of the cup'


@pytest.mark.parametrize('double', [Breaks, Nonsense])
def test_a_matcher_that_raises_or_answers_nonsense_has_failed_as_on_the_robot(folder, double):
    items = list(PairFolderSource(folder, InputConfig(), None))
    outcomes = [outcome for _, outcome in evaluate(items, double(items, 0, 1), Limits())]
    assert [outcome.code for outcome in outcomes] == [Code.MATCHER_FAILED] * 4
    assert not any(outcome.accepted for outcome in outcomes)


def test_a_click_that_the_robot_refuses_is_reported_and_in_no_score(folder):
    items = list(PairFolderSource(folder, InputConfig(), np.ones((240, 320), bool)))
    (_, masked), *_ = evaluate(items, Knows(items, 0.0, 0.9), Limits())
    assert (masked.clickable, masked.code) == (False, Code.NOT_VISIBLE)
    result = compute_score([masked, outcome()], 0.8)
    assert (result.unclickable, result.overall.points, result.accepted_visible) == (1, 1, 1.0)
    assert 'not scored: 1 clicks' in report.format_table(result)


def seen(visible=True, **fields):
    base = dataclasses.replace(outcome(visible), camera='wrist', angle_deg=10.0)
    return dataclasses.replace(base, **fields)


def test_by_camera_a_refusal_is_a_miss_however_near_its_pixel():
    refused = seen(code=Code.LOW_CONFIDENCE)
    result = compute_score([seen(), refused, refused, seen(error_px=10.1)], 0.8)
    assert result.by_camera['wrist'].near_share == 0.25
    assert result.overall.pck == (0.75, 0.75, 1.0, 1.0)


def test_by_camera_hidden_points_are_no_hits_and_count_against_the_sure_ones():
    hidden = seen(visible=False)
    result = compute_score([seen(), hidden, seen(visible=False, code=Code.NOT_VISIBLE)], 0.8)
    camera = result.by_camera['wrist']
    assert (camera.visible, camera.near_share) == (1, 1.0)
    assert (camera.hidden, camera.hidden_accepted_share) == (2, 0.5)
    assert camera.sure_near_share == 0.5
    unsure = seen(confidence=0.79)
    assert np.isnan(compute_score([unsure], 0.8).by_camera['wrist'].sure_near_share)


def test_by_camera_counts_the_viewing_angles_up_to_the_limit():
    outcomes = [seen(), seen(angle_deg=41.0), seen(camera='side'), outcome()]
    cameras = compute_score(outcomes, 0.8).by_camera
    assert {name: one.visible for name, one in cameras.items()} == {'wrist': 1, 'side': 1}
    assert compute_score(outcomes, 0.8, max_angle_deg=50).by_camera['wrist'].visible == 2
    assert compute_score([outcome()], 0.8).by_camera == {}


def test_the_table_by_camera_has_a_column_for_each_and_equal_rows():
    lines = report.format_camera_table(compute_score(
        [seen(error_3d_mm=1.0), seen(visible=False, camera='side')], 0.8), 40.0).splitlines()
    assert lines[0].split()[-2:] == ['wrist', 'side']
    assert len({len(line) for line in lines}) == 1


def test_a_hidden_point_must_be_refused_and_a_visible_one_found():
    assert cli.is_failure(seen(visible=False))
    assert not cli.is_failure(seen(visible=False, code=Code.NOT_VISIBLE))
    assert cli.is_failure(seen(code=Code.LOW_CONFIDENCE))
    assert not cli.is_failure(seen())


def test_first_clicks_on_a_pair_and_further_ones_are_timed_apart():
    result = compute_score([seen(ms=200.0, first_on_pair=True), seen(ms=4.0), seen(ms=6.0)], 0.8)
    assert (result.first_ms, result.again_ms) == (200.0, 5.0)


def test_auroc_counts_ties_half():
    assert compute_auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == pytest.approx(3.5 / 4)


def test_precision_at_recall_keeps_nine_in_ten_right_ones():
    confidence = np.linspace(0, 1, 20)
    right = confidence > 0.5
    assert compute_precision_at_recall(confidence, right) == 1.0
    assert compute_precision_at_recall(1 - confidence, right) < 0.6


def test_the_command_prints_and_writes_the_scores(folder, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    out = tmp_path / 'out.json'
    asked = parser.parse_args([str(folder), '--noise-cm', '1', '--noise-deg', '1', '--option',
                               'pose_noise_cm=1.5', '--limit', '3', '--json', str(out)])
    assert cli.main(asked) == 0
    printed = capsys.readouterr().out
    assert 'poses off by 1 cm, 1 deg, seed 0' in printed
    assert '100.0%' in printed
    written = json.loads(out.read_text())
    assert written['options'] == {'pose_noise_cm': 1.5}
    assert len(written['outcomes']) == 3


def test_figures_of_a_matcher_that_never_ran_are_no_success(folder, capsys):
    assert main(['bench', 'pairs', str(folder), '--matcher', 'fake_matchers:BrokenMatcher']) == 1
    said = capsys.readouterr().err
    assert 'failed on all' in said
    assert 'no server' in said


def test_an_option_without_a_value_is_refused():
    with pytest.raises(SystemExit, match="KEY=VALUE, got 'guided'"):
        cli.parse_options(['guided'])


def test_true_and_false_are_read_in_the_spelling_of_ros_and_of_python():
    given = ['a=false', 'b=False', 'c=true', 'd=True', 'e=4bit', 'f=0.5']
    assert cli.parse_options(given) == {'a': False, 'b': False, 'c': True, 'd': True, 'e': '4bit',
                                    'f': 0.5}


def test_real_pairs_are_found_with_depth_and_noisy_poses(shared_data):
    folder = shared_data / 'apc_shelf'
    given = InputConfig(noise_cm=1, noise_deg=1)
    items = [i for i in PairFolderSource(folder, given, read_mask(folder / MASK))
             if i.pair in (0, 30)]
    scored = score(items, cli.load_matcher('xfeat'))
    assert scored.overall.pck[2] > 0.9
    assert scored.accepted_hidden <= 0.1
