"""Coordinates go into the question and come out of the reply in the checkpoint's own format."""
from __future__ import annotations

import numpy as np
import pytest

from crosspoint_ros.matchers.cropond.image_processor import ImageSizes
from crosspoint_ros.matchers.cropond.prompt import (
    POINTING_PROMPT,
    CoordinateFormat,
    PointCodec,
    build_grounding_prompt,
    build_pointing_prompt,
    check_question,
)
from crosspoint_ros.matchers.cropond.reply_parser import parse_point

HD = ImageSizes(1280, 720, 1036, 560)


@pytest.mark.parametrize(('coord_format', 'expected'), [
    (CoordinateFormat.RELATIVE_1000, ('500', '250')), (CoordinateFormat.ABSOLUTE, ('518', '140')),
    (CoordinateFormat.RELATIVE_1, ('0.500', '0.250')),
    (CoordinateFormat.RELATIVE_100, ('50.0', '25.0')),
    (CoordinateFormat.RELATIVE_1000_YX, ('250', '500'))])
def test_a_pixel_is_written_as_the_checkpoint_reads_it(coord_format, expected):
    assert PointCodec(coord_format, HD).encode(np.array([640.0, 180.0])) == expected


@pytest.mark.parametrize('coord_format', CoordinateFormat)
@pytest.mark.parametrize('pixel', [(0.0, 0.0), (1279.0, 719.0), (641.3, 17.9), (-0.4, 719.4)])
def test_a_pixel_comes_back_within_half_a_unit(coord_format, pixel):
    codec = PointCodec(coord_format, HD)
    first, second = codec.encode(np.array(pixel))
    x, y = parse_point(f'[{first}, {second}]', is_y_first=coord_format.is_y_first)
    assert (np.abs(codec.decode(x, y) - pixel) <= codec.unit_px + 1e-9).all()


@pytest.mark.parametrize('coord_format', CoordinateFormat)
def test_numbers_of_the_last_pixel_stay_below_the_size(coord_format):
    codec = PointCodec(coord_format, HD)
    numbers = codec.encode(np.array([1279.4, 719.4]))
    longest = max(len(number.removeprefix('0.').replace('.', '')) for number in numbers)
    assert longest <= codec.digits
    xy = numbers[::-1] if coord_format.is_y_first else numbers
    assert (codec.decode(*map(float, xy)) < HD.size_px).all()


def test_an_image_shown_larger_than_999_px_needs_four_digits():
    assert PointCodec(CoordinateFormat.ABSOLUTE, HD).digits == 4
    assert PointCodec(CoordinateFormat.ABSOLUTE, ImageSizes(640, 480, 644, 476)).digits == 3
    assert PointCodec(CoordinateFormat.RELATIVE_1000, HD).digits == 3


@pytest.mark.parametrize('coord_format', CoordinateFormat)
def test_a_window_has_the_same_size_in_pixels_along_both_axes(coord_format):
    codec = PointCodec(coord_format, HD)
    np.testing.assert_allclose(codec.window_units(0.025) * codec.unit_px, 0.025 * 1280)


def test_the_questions_name_the_point():
    assert '[512, 307] in the first image' in build_pointing_prompt('512', '307')
    assert build_pointing_prompt('1', '2', 'where is {x}|{y}, in {braces}?'
                                 ) == 'where is 1|2, in {braces}?'
    assert 'the drawer handle' in build_grounding_prompt(' the drawer handle ')


def test_an_instruction_with_braces_is_no_format():
    assert 'the {red} cup' in build_grounding_prompt('the {red} cup')


def test_a_question_without_a_place_for_the_point_is_refused():
    check_question(POINTING_PROMPT)
    with pytest.raises(ValueError, match=r'needs \{x\} and \{y\}'):
        check_question('where is it?')
