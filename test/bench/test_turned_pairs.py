"""A turned second view is the same measurement: geometry holds to 1e-9, the truth turns too."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from crosspoint_ros.bench.pairs.dataset import LabelledQuery, TurnedSource, measure_roll_deg
from crosspoint_ros.core.datatypes import Intrinsics, Query, Transform, View
from crosspoint_ros.data.qa.point_visibility import Visibility

LENSES = {
    'pinhole': Intrinsics(310.0, 295.0, 171.0, 104.0, 320, 240),
    'plumb_bob': Intrinsics(310.0, 295.0, 171.0, 104.0, 320, 240,
                            (-0.2, 0.05, 0.003, -0.004, 0.01)),
    'rational_polynomial': Intrinsics(310.0, 295.0, 171.0, 104.0, 320, 240, (
        0.4, 0.1, 0.003, -0.004, 0.01, 0.5, 0.1, 0.02), 'rational_polynomial'),
    'fisheye': Intrinsics(150.0, 145.0, 171.0, 104.0, 320, 240, (0.02, -0.01, 0.003, -0.001),
                          'equidistant')}
POINTS_BASE_M = np.random.default_rng(3).uniform((-0.4, -0.3, 0.7), (0.4, 0.3, 1.5), (40, 3))
POSE = Transform.from_quaternion(np.array([0.1, -0.2, 0.05, 1]) / np.sqrt(1.0525),
                                 (0.03, -0.1, -0.2))


def make_view(lens, seed=0):
    rng, intrinsics = np.random.default_rng(seed), LENSES[lens]
    size = intrinsics.height_px, intrinsics.width_px
    return View('wrist', rng.integers(0, 255, (*size, 3), dtype=np.uint8), intrinsics,
                depth_m=rng.uniform(0.5, 2, size).astype(np.float32), base_from_cam=POSE,
                mask=rng.random(size) < 0.1)


def label(clicked, other):
    pixels = [view.intrinsics.project(view.base_from_cam.inverse.transform_points(POINTS_BASE_M))
              for view in (clicked, other)]
    return [LabelledQuery(Query(clicked, other, a), b, Visibility.VISIBLE, number, '0-15',
                          point_base_m=point, roll_deg=measure_roll_deg(clicked, other))
            for number, (a, b, point) in enumerate(zip(*pixels, POINTS_BASE_M, strict=True))]


@pytest.mark.parametrize('turn_deg', [0, 90, 180, 270, None])
@pytest.mark.parametrize('lens', LENSES)
def test_a_point_lands_on_the_turned_ground_truth_by_the_turned_camera(lens, turn_deg):
    clicked = dataclasses.replace(make_view(lens), base_from_cam=Transform(np.eye(3), np.zeros(3)))
    given = label(clicked, make_view(lens, 1))
    turned = list(TurnedSource(given, turn_deg, 7))
    assert {each.turn_deg for each in turned} == ({turn_deg} if turn_deg is not None else
                                                  {0, 90, 180, 270})
    for before, after in zip(given, turned, strict=True):
        view = after.query.other
        pixel = view.intrinsics.project(
            view.base_from_cam.inverse.transform_points(after.point_base_m))
        np.testing.assert_allclose(pixel, after.ground_truth, rtol=0, atol=1e-9)
        assert after.query.clicked is before.query.clicked
        assert after.roll_deg == pytest.approx(measure_roll_deg(after.query.clicked, view))
        column, row = after.ground_truth.round().astype(int)
        if view.intrinsics.contains(after.ground_truth):  # the same content, too
            x, y = before.ground_truth.round().astype(int)
            for name in ('image', 'depth_m', 'mask'):
                assert np.array_equal(getattr(view, name)[row, column],
                                      getattr(before.query.other, name)[y, x])


@pytest.mark.parametrize('lens', LENSES)
def test_four_turns_are_the_identity(lens):
    view = make_view(lens)
    turned = view
    for _ in range(4):
        turned = turned.turn(1)
    assert turned.intrinsics == view.intrinsics
    np.testing.assert_allclose(turned.base_from_cam.matrix, view.base_from_cam.matrix, atol=1e-15)
    for name in ('image', 'depth_m', 'mask'):
        assert np.array_equal(getattr(turned, name), getattr(view, name))
    assert view.turn(-1).intrinsics == view.turn(3).intrinsics


def test_an_image_that_comes_again_is_the_same_array_and_each_pair_keeps_its_pose():
    first, clicked = make_view('pinhole'), make_view('pinhole', 1)
    moved = dataclasses.replace(first, base_from_cam=Transform(np.eye(3), np.ones(3)))
    views = [each.query.other for each in TurnedSource(
        [label(clicked, view)[0] for view in (first, first, moved)], 90, 0)]
    assert views[0] is views[1]
    assert views[2].image is views[0].image
    assert views[2].depth_m is views[0].depth_m
    np.testing.assert_allclose(views[2].base_from_cam.t_m, 1)


def test_roll_is_the_turn_about_the_optical_axis():
    view = make_view('pinhole')
    assert measure_roll_deg(view, view) == pytest.approx(0)
    assert measure_roll_deg(view, view.turn(1)) == pytest.approx(-90)
    assert abs(measure_roll_deg(view, view.turn(2))) == pytest.approx(180)
    assert np.isnan(measure_roll_deg(view, dataclasses.replace(view, base_from_cam=None)))
