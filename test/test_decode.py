"""Compressed pictures and depth decode to the values that were encoded, or are refused by name."""
from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.decode import decode_colour, decode_depth

RED = np.full((4, 5, 3), (200, 30, 10), np.uint8)  # RGB


def png(pixels):
    """Encode channels exactly as they stand in the array's BGR order."""
    return cv2.imencode('.png', pixels)[1].tobytes()


@pytest.mark.parametrize('encoding', ['rgb8; jpeg compressed bgr8', 'bgr8; png compressed bgr8',
                                      'rgb8;jpeg compressed ', 'jpeg', 'png', ''])
def test_a_red_picture_is_red_whatever_was_published(encoding):
    bgr = np.ascontiguousarray(RED[..., ::-1])
    assert (decode_colour(png(bgr), encoding) == RED).all()


def test_channels_stored_as_rgb_are_not_swapped():
    assert (decode_colour(png(RED), 'rgb8; png compressed rgb8') == RED).all()


def test_grey_and_alpha_become_rgb():
    grey = np.full((4, 5), 77, np.uint8)
    assert (decode_colour(png(grey), 'mono8; png compressed mono8') == 77).all()
    bgra = np.dstack([RED[..., ::-1], np.full((4, 5), 9, np.uint8)])
    assert (decode_colour(png(bgra), 'bgra8; png compressed bgra8') == RED).all()
    rgba = np.dstack([RED, np.full((4, 5), 9, np.uint8)])
    assert (decode_colour(png(rgba), 'rgba8; png compressed rgba8') == RED).all()


def test_an_array_decodes_like_its_bytes():
    data = png(np.ascontiguousarray(RED[..., ::-1]))
    assert (decode_colour(np.frombuffer(data, np.uint8), 'png') == RED).all()


@pytest.mark.parametrize('data', [b'', b'not a picture'])
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(Rejected, match=f'{len(data)} bytes') as caught:
        decode_colour(data, 'rgb8; jpeg compressed bgr8')
    assert caught.value.code == Code.NOT_SUPPORTED


def test_a_16_bit_picture_is_refused_by_name():
    with pytest.raises(Rejected, match='uint16'):
        decode_colour(png(np.ones((4, 5), np.uint16)), 'mono16; png compressed mono16')


def test_16uc1_depth_is_millimetres_and_zero_is_unknown():
    millimetres = np.array([[0, 1, 1500], [65535, 250, 0]], np.uint16)
    depth_m = decode_depth(struct.pack('<iff', 0, 0, 0) + png(millimetres),
                           '16UC1; compressedDepth png')
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, [[np.nan, 0.001, 1.5], [65.535, 0.25, np.nan]], rtol=1e-6)


def test_32fc1_depth_is_unquantised_with_the_headers_parameters():
    depth_m = np.array([[0.5, 2.0, 4.0]], np.float32)
    quant_a, quant_b = 10100.0, -9.0  # a positive value - quant_b for every depth
    values = np.round(quant_a / depth_m + quant_b).astype(np.uint16)
    values[0, 2] = 0
    data = struct.pack('<iff', 0, quant_a, quant_b) + png(values)
    decoded = decode_depth(data, '32FC1; compressedDepth png')
    np.testing.assert_allclose(decoded, [[0.5, 2.0, np.nan]], rtol=1e-3)


@pytest.mark.parametrize('encoding', ['16UC1; compressedDepth rvl', 'jpeg', '8UC1; compressedDepth',
                                      ''])
def test_an_unknown_depth_codec_is_refused_by_name(encoding):
    with pytest.raises(Rejected, match='is not supported') as caught:
        decode_depth(bytes(12) + png(np.ones((2, 2), np.uint16)), encoding)
    assert caught.value.code == Code.NOT_SUPPORTED


def test_depth_of_8_bits_is_refused_rather_than_read_as_millimetres():
    with pytest.raises(Rejected, match='uint8'):
        decode_depth(bytes(12) + png(np.ones((2, 2), np.uint8)), '16UC1; compressedDepth png')


def test_truncated_depth_is_refused():
    with pytest.raises(Rejected, match='too short'):
        decode_depth(bytes(7), '16UC1; compressedDepth png')
