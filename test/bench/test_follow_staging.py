"""What `bench follow` shows: `--staged` a board, then a place without it; a scene at rest."""
from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
from moving_scenes import LENS, TARGET_M, Thing, render

from crosspoint_ros.bench.follow.cli import main
from crosspoint_ros.bench.follow.moving_scene import MovingRecording
from crosspoint_ros.bench.follow.staging import RADIUS_M, Staging
from crosspoint_ros.core.track.observation import project
from crosspoint_ros.scenes import KITCHEN


def depth_at_target_m(view) -> float:
    column, row = np.rint(project(view, TARGET_M[None])[0]).astype(int)
    return float(view.depth_m[row, column])


def test_the_target_is_hidden_for_a_time_and_then_away():
    staging, view = Staging(hidden_s=(1.0, 2.0), away_s=3.0), render('front', (Thing(),))
    before_m = depth_at_target_m(view)
    assert staging.change(view, TARGET_M, 0.5) is view
    assert staging.change(view, TARGET_M, 2.5) is view
    hidden = staging.change(view, TARGET_M, 1.5)
    assert depth_at_target_m(hidden) < before_m - 0.05
    away = staging.change(view, TARGET_M, 3.5)
    assert depth_at_target_m(away) > before_m + 0.03
    for changed in (hidden, away):
        off_px = np.mgrid[:240, :320][::-1].transpose(1, 2, 0) - project(view, TARGET_M[None])[0]
        far = np.linalg.norm(off_px, axis=2) > 1.5 * RADIUS_M * LENS.fx_px / before_m
        assert (changed.image == view.image)[far].all()
        assert (changed.image != view.image).any()


def test_a_view_that_does_not_show_the_target_stays():
    view = render('front', (Thing(),))
    behind_m = view.base_from_cam.transform_points(np.array([0.0, 0.0, -1.0]))
    for since_click_s in (1.5, 3.5):
        assert Staging().change(view, behind_m, since_click_s) is view


def test_a_point_of_a_scene_at_rest_stays_and_is_seen_until_its_camera_sends_another_image():
    recording = MovingRecording(KITCHEN, (), with_depth=True)
    point = next(point for point in recording.points if point.name == 'mug rim')
    assert [place.stamp_ns for place in point.places] == recording.stamps_ns
    assert not point.moves
    assert all((place.point_base_m == point.places[0].point_base_m).all()
               for place in point.places)
    assert all('front' in place.visible for place in point.places)  # one image a second
    of_front = [at for at in recording.stamps_ns
                if any(view.camera == 'front' for view in recording.views_at(at))]
    assert len(recording.stamps_ns) > 5 * len(of_front)


def test_cameras_that_go_on_alone_are_named():
    with pytest.raises(ValueError, match='name the cameras that go on by --camera'):
        main(Namespace(alone_after=1.0, camera=[]))
