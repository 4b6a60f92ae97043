"""`crosspoint bench segment`: the truth of its things; what it prints of right and wrong masks."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.bench.segment import cli
from crosspoint_ros.bench.segment.cli import Clicked, format_clicks, read_kitchen, run_clicks
from crosspoint_ros.bench.segment.kitchen_things import THINGS
from crosspoint_ros.cli import main
from crosspoint_ros.core.grasp.segment import Thing, Unclear


@pytest.fixture(scope='module')
def views():
    return read_kitchen()


def test_the_truths_of_the_things_hardly_overlap_and_every_thing_is_whole_in_a_view(views):
    for one in views:
        counts = np.sum(list(one.truths.values()), axis=0)
        assert (counts > 1).sum() < 0.01 * (counts > 0).sum()
    for known in THINGS:
        assert any(cli._is_whole(one.truths[known.name]) for one in views), known.name
    assert {known.fitted for known in THINGS} == {True, False}


def test_masks_and_widths_of_the_kitchen_reach_their_limits(views):
    clicked = list(run_clicks(views, 1, seed=7))
    assert len(clicked) == len(THINGS)
    for group in (True, False):
        ours = [one for one in clicked if one.known.fitted is group]
        assert sum(not one.unclear for one in ours) >= len(ours) - 1
        assert np.median([iou for one in ours for iou in one.ious]) >= 0.9
        assert max(one.support_share for one in ours if not one.unclear) <= 0.005
        assert np.nanmedian(np.abs([one.width_error_m for one in ours])) <= 0.005


def test_a_mask_of_everything_is_scored_as_wrong(views, monkeypatch, tmp_path):
    def segment_all(seen):
        points = np.array([(x, y, z) for x in (0, 1.0) for y in (0, 1.0) for z in (0, 1.0)])
        return Thing({view.camera: np.ones(view.image.shape[:2], bool) for view, _ in seen},
                     points.astype(np.float32), np.zeros((8, 3), np.uint8),
                     np.tile(np.float32([1, 0, 0]), (8, 1)), None)

    monkeypatch.setattr(cli, 'segment', segment_all)
    monkeypatch.setattr(cli, 'THINGS', THINGS[:1])
    (wrong,) = run_clicks(views, 1, 0, tmp_path)
    assert max(wrong.ious) < 0.1
    assert wrong.support_share > 0.1
    assert [file.name for file in tmp_path.iterdir()] == ['can_0.png']


def test_what_is_unclear_is_printed_with_its_reason():
    clear = [Clicked(known, Unclear.OK, '', (0.9,), 0.0, 0.002, 20.0) for known in THINGS]
    text = format_clicks([*clear, Clicked(THINGS[0], Unclear.TOUCHING, 'it touches', cpu_ms=20.0)],
                         {known: np.array([1.0, np.nan, np.inf, 20.0]) for known in THINGS}, 100.0)
    assert 'TOUCHING: it touches' in text
    assert '8 clicks, 7 clear' in text
    assert 'median 0.900' in text
    assert 'normals: 67% of 21 measured, 50.0% of those within 10 deg' in text
    assert 'median 20 ms' in text
    assert '0.20 of one cv2.grabCut' in text


def test_the_command_runs(capsys):
    assert main(['bench', 'segment', '--clicks', '1']) == 0
    assert 'the others: 7 clicks' in capsys.readouterr().out
