"""`crosspoint bench calibrate`: its figures, on synthetic matches."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_matchers import ExactMatcher
from posed_matches import DECLARED, HAND_FROM_CAM, hand_pairs, rich_views

from crosspoint_ros.bench.calibrate import bump
from crosspoint_ros.bench.calibrate.bump import BumpDraw, draw_bump, format_bumps
from crosspoint_ros.bench.calibrate.cli import format_draws, run_draws
from crosspoint_ros.cli import main
from crosspoint_ros.core.datatypes import CorrectedPose, Match, Query
from crosspoint_ros.core.extrinsics.residuals import exp_pose, log_pose
from crosspoint_ros.data.scenes.known_scene import FrameKey, KnownScene

KITCHEN = Path(bump.__file__).parents[2] / 'scenes/kitchen'


def test_draws_are_corrected_and_counted():
    mounts = {'wrist': replace(DECLARED, body_from_cam=HAND_FROM_CAM)}
    draws = run_draws(hand_pairs(rich_views(6)), mounts, 'wrist', 0.02, np.radians(3), 2, seed=0)
    assert all(np.linalg.norm(draw.error[3:]) < 0.003 for draw in draws)
    assert all(draw.residual_ratio < 1.3 for draw in draws)
    text = format_draws(draws)
    assert 'corrected: 2 of 2' in text
    assert 'all six errors within 2 sigma in' in text


def test_a_refused_draw_is_counted_with_its_reason():
    mounts = {'wrist': replace(DECLARED, body_from_cam=HAND_FROM_CAM)}
    draws = run_draws(hand_pairs(rich_views(3)), mounts, 'wrist', 0.02, 0.05, 1, seed=0)
    assert 'corrected: 0 of 1' in format_draws(draws)
    assert 'refused: too few pairs' in format_draws(draws)


class SurveyMatcher(ExactMatcher):
    """A double: it knows the true poses of the kitchen, and measures them as `xfeat` does."""

    def __init__(self) -> None:
        super().__init__()
        self.true, self.rng = KnownScene(KITCHEN).base_from_cam, np.random.default_rng(0)

    def match(self, query: Query) -> Match:
        """Return the projection, and the pose that the images and the prior give."""
        clicked, other = query.clicked, query.other
        true = (self.true[FrameKey(other.camera, other.stamp_ns)].inverse
                @ self.true[FrameKey(clicked.camera, clicked.stamp_ns)])
        given = other.base_from_cam.inverse @ clicked.base_from_cam
        sigmas, prior = (np.repeat([np.radians(deg), m], 3) for deg, m in (
            (0.3, 0.004), (1 / 1.7, 0.01 / 1.7)))
        measured = log_pose(true @ given.inverse) + self.rng.normal(0.0, sigmas)
        variance = 1 / (sigmas ** -2 + prior ** -2)
        return replace(super().match(query), corrected_pose=CorrectedPose(
            exp_pose(variance / sigmas ** 2 * measured) @ given, np.diag(variance)))


@pytest.mark.parametrize(('cm', 'raised'), [(2.0, 2), (0.01, 0)])
def test_a_bump_is_counted_with_the_clicks_until_its_alarm_and_the_camera(
        cm, raised, monkeypatch, capsys):
    monkeypatch.setattr(bump, 'load_matcher', lambda name: SurveyMatcher())
    code = main(['bench', 'calibrate', str(KITCHEN), '--bump', '--cm', str(cm), '--deg', str(cm),
                 '--draws', '2', '--clicks', '30'])
    text = capsys.readouterr().out
    assert code == (0 if raised else 1)
    assert f'alarm within 10 clicks: {raised} of 2' in text
    assert f'never in 20: {2 - raised}' in text
    assert f'wrist alone {raised}, wrist or another 0, another 0' in text
    assert 'false alarms: 0 in 30 clicks' in text


def test_a_late_alarm_and_a_wrong_camera_are_counted_as_such():
    text = format_bumps([BumpDraw(3, frozenset({'wrist'})), BumpDraw(12, frozenset({'front'})),
                         BumpDraw(5, frozenset({'wrist', 'side'})), BumpDraw(None, frozenset())],
                        'wrist')
    assert text == ('alarm within 10 clicks: 2 of 4; after a median of 5, at most 12; never in 20: '
                    '1\nit names: wrist alone 1, wrist or another 1, another 1')


def test_a_bump_is_a_shift_or_a_turn_of_the_given_size():
    steps = [log_pose(draw_bump(np.random.default_rng(seed), 0.01, 0.02)) for seed in range(9)]
    sizes = {tuple(np.round([np.linalg.norm(s[:3]), np.linalg.norm(s[3:])], 9)) for s in steps}
    assert sizes == {(0.0, 0.01), (0.02, 0.0)}


@pytest.mark.parametrize(('option', 'reason'), [
    (('--camera', 'hand'), 'it has: front, side, wrist'), (('--clicks', '5'), 'at least 20')])
def test_an_alarm_that_cannot_be_scored_is_refused(option, reason, capsys):
    assert main(['bench', 'calibrate', str(KITCHEN), '--bump', *option]) != 0
    assert reason in capsys.readouterr().err


def test_bumps_take_no_option_that_they_would_ignore(capsys):
    for words, option in (('--mask body.png', '--mask'), ('--hand-frame tool0', '--hand-frame')):
        assert main(['bench', 'calibrate', 'kitchen', '--bump', *words.split()]) == 1
        assert f'--bump takes no {option}' in capsys.readouterr().err
