"""The self-test passes what finds a place, and refuses what only says the click again."""
from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from crosspoint_ros.matchers.cropond import self_test
from crosspoint_ros.matchers.cropond.options import LocalOptions
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat
from crosspoint_ros.matchers.cropond.self_test import (
    POINT_COUNT,
    SelfTestFailed,
    draw_test_image,
    run_self_test,
)

THOUSANDTHS = [CoordinateFormat.RELATIVE_1000]


class Copier:
    """Says the click again, as a share of the image; a double of a model that does no more."""

    def predict_points(self, first, second, pixels, convention):
        scale = second.shape[1] / first.shape[1]
        return [pixel * scale for pixel in pixels]


class Finder(Copier):
    """Finds each place by its surroundings, but for the first few points, which it says again."""

    def __init__(self, repeats: int = 0) -> None:
        self.repeats = repeats

    def predict_points(self, first, second, pixels, convention):
        said = super().predict_points(first, second, pixels, convention)
        return [again if number < self.repeats else self.found(first, second, pixel)
                for number, (pixel, again) in enumerate(zip(pixels, said, strict=True))]

    @staticmethod
    def found(first, second, pixel):
        scale, reach = second.shape[1] / first.shape[1], 25
        x, y = np.rint(pixel).astype(int)
        patch = first[y - reach:y + reach + 1, x - reach:x + reach + 1]
        patch = cv2.resize(patch, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        likeness = cv2.matchTemplate(second, patch, cv2.TM_CCOEFF_NORMED)
        row, column = np.unravel_index(likeness.argmax(), likeness.shape)
        return np.array([column + patch.shape[1] / 2, row + patch.shape[0] / 2])


class YFirst(Finder):
    """Writes [y, x]: what it is asked in [x, y] it takes for another place, and answers likewise.

    About the same image every answer is right then.
    """

    def predict_points(self, first, second, pixels, convention):
        if convention.is_y_first:
            return super().predict_points(first, second, pixels, convention)
        answers = super().predict_points(first, second, [self.transpose(first, pixel)
                                                         for pixel in pixels], convention)
        return [self.transpose(second, answer) for answer in answers]

    @staticmethod
    def transpose(image, pixel):
        size = np.array(image.shape[1::-1])
        return (pixel / size)[::-1] * size


def test_one_that_writes_y_first_is_told_from_one_that_repeats_the_click():
    with pytest.raises(SelfTestFailed, match=r'finds [0-3] of 8'):
        run_self_test(YFirst().predict_points, THOUSANDTHS)  # its convention is given
    score = run_self_test(YFirst().predict_points, [*THOUSANDTHS, CoordinateFormat.RELATIVE_1])
    assert score.coord_format is CoordinateFormat.RELATIVE_1000_YX
    assert score.correct_swapped == 8


def test_one_that_finds_places_passes_wherever_they_went():
    score = run_self_test(Finder().predict_points, THOUSANDTHS)
    assert (score.correct_same, score.correct_downscaled) == (8, 8)
    assert (score.correct_swapped, score.repeated_clicks) == (8, 0)


def test_one_that_repeats_the_click_fails_with_the_figures_and_what_to_do():
    with pytest.raises(SelfTestFailed, match=r'swapped the model finds 0 of 8 points \(4 are '
                       r'needed\), and repeats the click 8 times.*option allow_repeating'):
        run_self_test(Copier().predict_points, THOUSANDTHS)


def test_one_that_repeats_the_click_may_run_if_that_is_allowed_and_that_is_logged(caplog):
    with caplog.at_level(logging.WARNING, 'crosspoint_ros'):
        score = run_self_test(Copier().predict_points, THOUSANDTHS, allow_repeating=True)
    assert '0 with its halves swapped, where 8 answers repeat the click' in str(score)
    assert 'it may be wrong where the views differ' in caplog.text


@pytest.mark.parametrize(('repeats', 'passes', 'warns'), [
    (2, True, False), (3, True, True), (4, True, True), (5, False, False)])
def test_less_than_half_of_what_moved_is_too_little(repeats, passes, warns, caplog):
    with caplog.at_level(logging.WARNING, 'crosspoint_ros'):
        if passes:
            score = run_self_test(Finder(repeats).predict_points, THOUSANDTHS)
            assert score.correct_swapped == POINT_COUNT - repeats
        else:
            with pytest.raises(SelfTestFailed):
                run_self_test(Finder(repeats).predict_points, THOUSANDTHS)
    assert ('wrong where the views differ' in caplog.text) == warns


def test_to_allow_it_does_not_let_through_what_finds_nothing():
    class Blind(Copier):
        def predict_points(self, first, second, pixels, convention):
            return [None] * len(pixels)

    with pytest.raises(SelfTestFailed, match='0 of 8 found in the same image'):
        run_self_test(Blind().predict_points, THOUSANDTHS, allow_repeating=True)


@pytest.mark.parametrize('name', ['self_test', 'allow_repeating'])
def test_a_word_is_not_taken_for_true(name):
    with pytest.raises(ValueError, match=f"{name} must be true or false, got 'false'"):
        LocalOptions(model='a', **{name: 'false'})


def test_the_points_asked_for_lie_away_from_each_other_and_from_where_they_move_to():
    places = self_test.sample_test_points()
    shift = np.array([self_test.WIDTH_PX // 2, 0])
    moved = (places + shift) % (self_test.WIDTH_PX, self_test.HEIGHT_PX)
    apart_px = np.linalg.norm(places[:, None] - moved[None], axis=-1).min()
    assert apart_px > self_test.MAX_ERROR_PX
    assert draw_test_image().shape == (self_test.HEIGHT_PX, self_test.WIDTH_PX, 3)
