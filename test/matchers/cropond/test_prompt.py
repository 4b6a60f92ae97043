"""Coordinates go into the question and come out of the reply in the checkpoint's own convention."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.matchers.cropond.prompt import (
    POINTING_PROMPT,
    CoordinateFormat,
    ImageSizes,
    check_question,
    count_digits,
    build_grounding_prompt,
    judgement,
    to_pixel,
    build_pointing_prompt,
    compute_unit_size_px,
    visibility,
    format_point,
)

HD = ImageSizes(1280, 720, 1036, 560)


@pytest.mark.parametrize(('convention', 'expected'), [
    (CoordinateFormat.RELATIVE_1000, ('500', '250')), (CoordinateFormat.ABSOLUTE, ('518', '140')),
    (CoordinateFormat.RELATIVE_1, ('0.500', '0.250'))])
def test_a_pixel_is_written_as_the_checkpoint_reads_it(convention, expected):
    assert format_point(convention, np.array([640.0, 180.0]), HD) == expected


@pytest.mark.parametrize('convention', CoordinateFormat)
@pytest.mark.parametrize('pixel', [(0.0, 0.0), (1279.0, 719.0), (641.3, 17.9), (-0.4, 719.4)])
def test_a_pixel_comes_back_within_half_a_unit(convention, pixel):
    x, y = (float(number) for number in format_point(convention, np.array(pixel), HD))
    error = np.abs(to_pixel(convention, x, y, HD) - pixel)
    assert (error <= compute_unit_size_px(convention, HD) + 1e-9).all()


@pytest.mark.parametrize('convention', CoordinateFormat)
def test_numbers_of_the_last_pixel_stay_below_the_size(convention):
    numbers = format_point(convention, np.array([1279.4, 719.4]), HD)
    longest = max(len(number.removeprefix('0.')) for number in numbers)
    assert longest <= count_digits(convention, HD)
    assert (to_pixel(convention, *map(float, numbers), HD) < HD.size_px).all()


def test_an_image_shown_larger_than_999_px_needs_four_digits():
    assert count_digits(CoordinateFormat.ABSOLUTE, HD) == 4
    assert count_digits(CoordinateFormat.ABSOLUTE, ImageSizes(640, 480, 644, 476)) == 3
    assert count_digits(CoordinateFormat.RELATIVE_1000, HD) == 3


def test_the_questions_name_the_point():
    assert '[512, 307] in the first image' in build_pointing_prompt('512', '307')
    assert build_pointing_prompt('1', '2', 'where is {x}|{y}, in {braces}?') == 'where is 1|2, in {braces}?'
    assert 'the drawer handle' in build_grounding_prompt(' the drawer handle ')
    assert '[1, 2]' in visibility('1', '2')
    assert '[3, 4]' in judgement('1', '2', '3', '4')


def test_an_instruction_with_braces_is_no_format():
    assert 'the {red} cup' in build_grounding_prompt('the {red} cup')


def test_a_question_without_a_place_for_the_point_is_refused():
    check_question(POINTING_PROMPT)
    with pytest.raises(ValueError, match=r'needs \{x\} and \{y\}'):
        check_question('where is it?')
