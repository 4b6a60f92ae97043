"""Claims about scoring a matcher on pairs, with matchers whose answers are known."""
from __future__ import annotations

import argparse
import json
import shutil

import cv2
import numpy as np
import pytest
from raycast_scenes import LEFT, RIGHT, Box, looking_at, pixel_of
from textured_scenes import looked

from crosspoint_ros.bench.pairs import cli
from crosspoint_ros.bench.pairs.dataset import InputConfig, PairFolderSource, Status, sample_pose_noise, read_mask
from crosspoint_ros.bench.pairs.evaluate import Outcome, evaluate
from crosspoint_ros.bench.pairs.metrics import compute_accuracy, compute_auroc, compute_precision_at_recall, compute_score
from crosspoint_ros.bench.pairs.sources import MASK
from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import Code, Match, Rejected
from crosspoint_ros.core.verify import Limits

POINTS_BASE_M = ((-0.06, -0.05, 0.10), (0.02, -0.05, 0.05), (0.0, -0.2, 0.0))
DEPTH_SCALE = 1000


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A set of one pair: three visible points, and one that is said to be hidden."""
    folder = tmp_path_factory.mktemp('set')
    (folder / 'frames').mkdir()
    box = (Box((-0.10, -0.05, 0.0), (0.05, 0.10, 0.15)),)
    views = {name: looked(name, looking_at(eye), box) for name, eye in (('l', LEFT), ('r', RIGHT))}
    for name, view in views.items():
        cv2.imwrite(str(folder / 'frames' / f'{name}.png'), view.image)
        depth = np.nan_to_num(view.depth_m * DEPTH_SCALE).astype(np.uint16)
        cv2.imwrite(str(folder / 'frames' / f'{name}.depth.png'), depth)
    left, right = views['l'], views['r']
    points = [np.array(p) for p in (*POINTS_BASE_M, POINTS_BASE_M[0])]
    np.savez(folder / 'queries.npz', pair=np.zeros(4, int),
             p=np.array([pixel_of(left, p) for p in points]),
             gt=np.array([pixel_of(right, p) for p in points]), status=np.array([1, 1, 1, 0]))
    frames = {name: {'K': view.intrinsics.matrix.tolist()} for name, view in views.items()}
    other_from_clicked = right.base_from_cam.inverse @ left.base_from_cam
    (folder / 'index.json').write_text(json.dumps({
        'depth_scale': DEPTH_SCALE, 'bins': ['0-15', '15-30', '30-45', '45+'], 'frames': frames,
        'pairs': [{'A': 'l', 'B': 'r', 'bin': 3,
                   'T_BA': np.round(other_from_clicked.matrix, 7).tolist()}]}))
    return folder


class Knows:
    """A double that answers with the truth, off by so many px, or refuses."""

    def __init__(self, items, off_px, confidence):
        self.truth = {tuple(i.query.pixel): i.truth for i in items}
        self.off_px, self.confidence = off_px, confidence

    def match(self, query):
        if self.off_px is None:
            raise Rejected(Code.NOT_VISIBLE, 'never')
        return Match(self.truth[tuple(query.pixel)] + [self.off_px, 0], np.eye(2), self.confidence)


def outcome(visible=True, error_px=0.0, confidence=0.9, code=Code.OK, first=False):
    return Outcome(0, '0-15', visible, True, error_px, confidence, 1.0, code, '', first, 5.0)


def test_a_set_gives_images_depth_poses_and_truth(folder):
    items = list(PairFolderSource(folder, InputConfig(), None))
    assert [i.status for i in items] == [Status.VISIBLE] * 3 + [Status.OCCLUDED]
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
    assert 'gone.png is no picture that can be read; its questions are left out' in told.err
    assert 'left out: 1 of 5 questions' in told.out


def test_a_mask_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.png'):
        read_mask(tmp_path / 'gone.png')


def test_a_perfect_matcher_scores_all_and_a_wrong_one_nothing(folder):
    items = list(PairFolderSource(folder, InputConfig(poses=False, depth=False), None))
    perfect = compute_score(list(evaluate(items, Knows(items, 3.0, 0.9), Limits())), 0.8)
    assert perfect.overall.pck == (1.0, 1.0, 1.0, 1.0)
    assert perfect.overall.median_px == pytest.approx(3.0)
    assert perfect.accepted_visible == 1.0
    wrong = compute_score(list(evaluate(items, Knows(items, 30.0, 0.9), Limits())), 0.8)
    assert wrong.overall.pck == (0.0, 0.0, 0.0, 1.0)
    assert wrong.sure_precision == 0.0


def test_a_doubtful_answer_is_refused_but_its_pixel_counts(folder):
    items = list(PairFolderSource(folder, InputConfig(poses=False, depth=False), None))
    scored = compute_score(list(evaluate(items, Knows(items, 1.0, 0.2), Limits())), 0.8)
    assert scored.overall.pck[0] == 1.0
    assert scored.accepted_visible == 0.0
    assert scored.refusals == {'LOW_CONFIDENCE': 4}


def test_a_refusal_without_a_pixel_is_a_miss(folder):
    items = list(PairFolderSource(folder, InputConfig(), None))
    scored = compute_score(list(evaluate(items, Knows(items, None, 0.0), Limits())), 0.8)
    assert scored.overall.pck == (0.0, 0.0, 0.0, 0.0)
    assert scored.refusals == {'NOT_VISIBLE': 4}


def test_hidden_points_do_not_count_for_accuracy():
    assert compute_accuracy([outcome(error_px=1), outcome(visible=False, error_px=99)]).points == 1


def test_a_sure_answer_on_a_hidden_point_is_wrong():
    scored = compute_score([outcome(), outcome(visible=False)], 0.8)
    assert scored.sure_precision == 0.5
    assert scored.accepted_hidden == 1.0


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
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args([str(folder), '--matcher', 'fake_matchers:BrokenMatcher'])) == 1
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
    items = [i for i in PairFolderSource(folder, given, read_mask(folder / MASK)) if i.pair in (0, 30)]
    scored = compute_score(list(evaluate(items, cli.load_matcher('xfeat'), Limits())), 0.8)
    assert scored.overall.pck[2] > 0.9
    assert scored.accepted_hidden <= 0.1
