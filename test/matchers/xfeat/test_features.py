"""Claims about pixels: published, working, ideal."""
from __future__ import annotations

import numpy as np
import pytest
from raycast_scenes import LENSES, PINHOLE

from crosspoint_ros.core.datatypes import Intrinsics
from crosspoint_ros.matchers.xfeat.features import ScaledCamera


def test_corners_of_the_image_stay_its_corners_when_it_is_resized():
    working = ScaledCamera(PINHOLE, 640)
    assert working.to_scaled([-0.5, -0.5]) == pytest.approx([-0.5, -0.5])
    assert working.to_scaled([319.5, 239.5]) == pytest.approx([639.5, 479.5])
    assert working.to_image(working.to_scaled([12.0, 34.0])) == pytest.approx([12.0, 34.0])


@pytest.mark.parametrize('intrinsics', LENSES.values(), ids=LENSES)
def test_a_straight_line_is_straight_in_ideal_pixels(intrinsics):
    working = ScaledCamera(intrinsics, 640)
    line = np.array([[-0.3, -0.2, 1.0]]) + np.linspace(0, 1, 9)[:, None] * [[0.6, 0.3, 0.0]]
    ideal = working.to_ideal(working.project(line))
    assert np.diff(ideal, n=2, axis=0) == pytest.approx(np.zeros((7, 2)), abs=1e-2)


@pytest.mark.parametrize('intrinsics', LENSES.values(), ids=LENSES)
def test_projecting_a_ray_gives_its_pixel_back(intrinsics):
    working = ScaledCamera(intrinsics, 640)
    pixels = np.array([[320.0, 240.0], [100.0, 150.0], [500.0, 400.0]])
    assert working.project(2.5 * working.unproject(pixels)) == pytest.approx(pixels, abs=0.05)


def test_a_fisheye_without_coefficients_is_still_a_fisheye():
    intrinsics = Intrinsics(150.0, 150.0, 160.0, 120.0, 320, 240, (0.0, 0.0, 0.0, 0.0),
                      'equidistant')
    ray = ScaledCamera(intrinsics, 640).unproject(np.array([[520.5, 240.5]]))[0]
    assert ray[0] == pytest.approx(np.tan(100 / 150), abs=1e-2)


@pytest.mark.parametrize(('width', 'height'), [(640, 480), (1280, 720), (848, 480), (480, 640)])
def test_the_grid_tiles_the_image_and_halves_exactly(width, height):
    working = ScaledCamera(Intrinsics(500.0, 500.0, 320.0, 240.0, width, height), 640)
    fine, coarse = working.grid(4), working.grid(8)
    assert fine[::2, ::2].shape == coarse.shape
    assert fine.reshape(-1, 2).mean(axis=0) == pytest.approx(
        [working.width_px / 2 - 0.5, working.height_px / 2 - 0.5])
