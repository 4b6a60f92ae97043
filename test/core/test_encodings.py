"""Compressed pictures and depth decode to the values that were encoded, or are refused by name."""
from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.encodings import depth_m_from_compressed, rgb_from_compressed

RED = np.full((4, 5, 3), (200, 30, 10), np.uint8)  # RGB


def png(pixels):
    """Encode channels exactly as they stand in the array's BGR order."""
    return cv2.imencode('.png', pixels)[1].tobytes()


def bgr_png():
    return png(np.ascontiguousarray(RED[..., ::-1]))


@pytest.mark.parametrize('form', ['rgb8; jpeg compressed bgr8', 'bgr8; png compressed bgr8',
                                  'jpeg', 'png', ''])
def test_a_red_picture_is_red_whatever_was_published(form):
    assert (rgb_from_compressed(bgr_png(), form) == RED).all()


def test_channels_stored_as_rgb_are_not_swapped():
    assert (rgb_from_compressed(png(RED), 'rgb8; png compressed rgb8') == RED).all()


def test_grey_and_alpha_become_rgb():
    grey = np.full((4, 5), 77, np.uint8)
    assert (rgb_from_compressed(png(grey), 'mono8; png compressed ') == 77).all()
    bgra = np.dstack([RED[..., ::-1], np.full((4, 5), 9, np.uint8)])
    assert (rgb_from_compressed(png(bgra), 'bgra8; png compressed bgra8') == RED).all()


def test_a_compressed_mosaic_gets_its_colours_back():
    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[0::2, 0::2] = 200  # red where an rggb sensor has its red pixels, nothing elsewhere
    rgb = rgb_from_compressed(png(mosaic), 'bayer_rggb8; png compressed ')
    assert rgb[4, 4, 0] == 200
    assert rgb[..., 1:].max() == 0


def test_an_array_decodes_like_its_bytes():
    assert (rgb_from_compressed(np.frombuffer(bgr_png(), np.uint8), 'png') == RED).all()


@pytest.mark.parametrize('data', [b'', b'not a picture'])
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(Rejected, match=f'{len(data)} bytes') as caught:
        rgb_from_compressed(data, 'rgb8; jpeg compressed bgr8')
    assert caught.value.code == Code.NO_IMAGE


def test_16uc1_depth_is_millimetres_and_zero_is_unknown():
    millimetres = np.array([[0, 1, 1500], [65535, 250, 0]], np.uint16)
    depth_m = depth_m_from_compressed(struct.pack('<iff', 0, 0, 0) + png(millimetres),
                                      '16UC1; compressedDepth png')
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, [[np.nan, 0.001, 1.5], [65.535, 0.25, np.nan]], rtol=1e-6)


def test_32fc1_depth_is_unquantised_with_the_headers_parameters():
    quant_a, quant_b = 10100.0, -9.0
    values = np.round(quant_a / np.array([[0.5, 2.0, 4.0]]) + quant_b).astype(np.uint16)
    values[0, 2] = 0
    data = struct.pack('<iff', 0, quant_a, quant_b) + png(values)
    np.testing.assert_allclose(depth_m_from_compressed(data, '32FC1; compressedDepth png'),
                               [[0.5, 2.0, np.nan]], rtol=1e-3)


@pytest.mark.parametrize('form', ['16UC1; compressedDepth rvl', 'jpeg', '8UC1; compressedDepth',
                                  ''])
def test_an_unknown_depth_codec_is_refused_by_name(form):
    with pytest.raises(Rejected, match=form or "''") as caught:
        depth_m_from_compressed(bytes(12) + png(np.ones((2, 2), np.uint16)), form)
    assert caught.value.code == Code.NO_DEPTH


def test_depth_of_8_bits_is_refused_rather_than_read_as_millimetres():
    with pytest.raises(Rejected, match='uint8'):
        depth_m_from_compressed(bytes(12) + png(np.ones((2, 2), np.uint8)),
                                '16UC1; compressedDepth png')


def test_truncated_depth_is_refused():
    with pytest.raises(Rejected, match='7 bytes'):
        depth_m_from_compressed(bytes(7), '16UC1; compressedDepth png')
