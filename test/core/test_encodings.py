"""Compressed pictures and depth decode to the values that were encoded, or are refused by name."""
from __future__ import annotations

import contextlib
import struct
import time

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.encodings import (
    check_compressed,
    depth_m_from_compressed,
    depth_m_from_pixels,
    rgb_from_compressed,
)
from crosspoint_ros.core.image_codecs import decode_image

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


def test_a_jpeg_that_lost_bytes_is_refused_with_what_is_left_and_the_cure():
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (60, 80, 3), np.uint8), (640, 480))
    data = cv2.imencode('.jpg', texture)[1].tobytes()
    assert rgb_from_compressed(data, 'jpeg').shape == (480, 640, 3)
    lost = data[:len(data) // 2] + data[len(data) // 2 + 300:]
    for damaged in (lost, data[:len(data) // 2], data[:len(data) // 2] + b'\xff\xd9'):
        with pytest.raises(Rejected, match=r'lower the frame rate or the resolution') as caught:
            rgb_from_compressed(damaged, 'jpeg')
        assert caught.value.code == Code.NO_IMAGE
    with pytest.raises(Rejected, match=r'lost data: it holds 1\d\d\d of 1200 blocks'):
        rgb_from_compressed(lost, 'jpeg')


def test_a_progressive_jpeg_is_refused_from_a_camera_as_its_losses_cannot_be_found():
    data = cv2.imencode('.jpg', np.eye(64, dtype=np.uint8) * 255, (
        cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    assert decode_image(data).shape == (64, 64)  # of a file
    for check in (rgb_from_compressed, check_compressed):
        with pytest.raises(Rejected, match=r'progressive .* jpeg_progressive false') as caught:
            check(data, 'rgb8; jpeg compressed bgr8')
        assert caught.value.code == Code.NO_IMAGE


def test_a_png_that_lost_bytes_is_refused_as_colour_and_as_depth():
    noise = np.random.default_rng(0).integers(0, 3000, (48, 64)).astype(np.uint16)
    colour, depth = png(noise.astype(np.uint8)), png(noise)
    with pytest.raises(Rejected, match=r'IDAT|cut off'):
        rgb_from_compressed(colour[:900] + colour[964:], 'png')
    with pytest.raises(Rejected, match=r'IDAT|cut off') as caught:
        depth_m_from_compressed(bytes(12) + depth[:900] + depth[964:], '16UC1; compressedDepth png')
    assert caught.value.code == Code.NO_DEPTH


@pytest.mark.parametrize('data', [b'', b'not a picture'])
def test_bytes_that_are_no_picture_are_refused(data):
    with pytest.raises(Rejected, match=f'{len(data)} bytes') as caught:
        rgb_from_compressed(data, 'rgb8; jpeg compressed bgr8')
    assert caught.value.code == Code.NO_IMAGE


def test_16uc1_depth_is_millimetres_and_zero_is_unknown():
    millimetres = np.array([[0, 1, 1500], [65534, 250, 0]], np.uint16)
    depth_m = depth_m_from_compressed(struct.pack('<iff', 0, 0, 0) + png(millimetres),
                                      '16UC1; compressedDepth png')
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, [[np.nan, 0.001, 1.5], [65.534, 0.25, np.nan]], rtol=1e-6)


def test_32fc1_depth_is_unquantised_with_the_headers_parameters():
    quant_a, quant_b = 10100.0, -9.0
    values = np.round(quant_a / np.array([[0.5, 2.0, 4.0]]) + quant_b).astype(np.uint16)
    values[0, 2] = 0
    data = struct.pack('<iff', 0, quant_a, quant_b) + png(values)
    np.testing.assert_allclose(depth_m_from_compressed(data, '32FC1; compressedDepth png'),
                               [[0.5, 2.0, np.nan]], rtol=1e-3)


@pytest.mark.parametrize('form', ['16UC1; compressedDepth zstd', '16UC1; jpeg compressed', 'jpeg',
                                  '8UC1; compressedDepth', ''])
def test_an_unknown_depth_codec_is_refused_by_name(form):
    with pytest.raises(Rejected, match=form or "''") as caught:
        depth_m_from_compressed(bytes(12) + png(np.ones((2, 2), np.uint16)), form)
    assert caught.value.code == Code.NO_DEPTH


def encode_rvl(depth):
    """Wilson 2017 as compressed_depth_image_transport writes it, pixel by pixel."""
    nibbles, values, at, previous = [], depth.ravel().tolist(), 0, 0

    def put(value):
        more = True
        while more:
            value, low = value >> 3, value & 7
            more = value > 0
            nibbles.append(low | more << 3)

    while at < len(values):
        start = at
        while at < len(values) and values[at] == 0:
            at += 1
        put(at - start)
        start = at
        while at < len(values) and values[at]:
            at += 1
        put(at - start)
        for value in values[start:at]:
            delta, previous = value - previous, value
            put(delta << 1 ^ delta >> 31)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int(''.join(f'{n:x}' for n in nibbles[i:i + 8]), 16)
             for i in range(0, len(nibbles), 8)]
    return struct.pack(f'<ii{len(words)}I', depth.shape[1], depth.shape[0], *words)


def test_rvl_depth_is_what_was_encoded():
    noise = np.random.default_rng(0).integers(0, 3000, (31, 47)).astype(np.uint16)
    holes = noise * (noise > 2000)
    for depth in (noise, holes, np.zeros((3, 5), np.uint16), np.array([[65534, 1]], np.uint16)):
        depth_m = depth_m_from_compressed(bytes(12) + encode_rvl(depth),
                                          '16UC1; compressedDepth rvl')
        np.testing.assert_array_equal(np.nan_to_num(depth_m * 1000).round(), depth)
    inverse = np.array([[20200 - 9, 5050 - 9, 0]], np.uint16)
    depth_m = depth_m_from_compressed(struct.pack('<iff', 1, 10100, -9) + encode_rvl(inverse),
                                      '32FC1; compressedDepth rvl')
    np.testing.assert_allclose(depth_m, [[0.5, 2, np.nan]], rtol=1e-6)


def cpu_s_of_rvl(size, body):
    """Return the least of three: what else runs here counts as little as it can."""
    data = bytes(12) + struct.pack('<ii', *size) + body
    taken_s = []
    for _ in range(3):
        start_s = time.process_time()
        with contextlib.suppress(Rejected):
            depth_m_from_compressed(data, '16UC1; compressedDepth rvl')
        taken_s.append(time.process_time() - start_s)
    return min(taken_s)


@pytest.mark.parametrize(('size', 'octet'), [
    ((10000, 10000), 0x10), ((10000, 10000), 0x01), ((10000, 10000), 0x11), ((64, 48), 0x11)],
    ids=['runs without depth', 'runs without zeros', 'runs of one', 'more than the image holds'])
def test_a_hostile_rvl_stream_costs_no_more_than_a_true_one(size, octet):
    noise = np.random.default_rng(0).integers(500, 600, (480, 640)).astype(np.uint16)
    true = encode_rvl(noise * (noise > 510))
    hostile = bytes([octet]) * (len(true) - 8)
    with pytest.raises(Rejected, match='the RVL image is '):
        depth_m_from_compressed(bytes(12) + struct.pack('<ii', *size) + hostile,
                                '16UC1; compressedDepth rvl')
    assert cpu_s_of_rvl(size, hostile) < 4 * cpu_s_of_rvl((640, 480), true[8:])


def test_an_rvl_stream_that_is_cut_off_or_lost_bytes_is_refused():
    depth = np.random.default_rng(0).integers(0, 900, (31, 47)).astype(np.uint16)
    data = bytes(12) + encode_rvl(depth * (depth > 300))
    damaged = [data[:length] for length in range(12, len(data), 7)]
    damaged += [data[:at] + data[at + 64:] for at in range(12, len(data) - 64, 31)]
    damaged += [data[:12] + struct.pack('<ii', 47, -31) + data[20:], data + bytes(8)]
    for each in damaged:
        with pytest.raises(Rejected, match='the RVL image is ') as caught:
            depth_m_from_compressed(each, '16UC1; compressedDepth rvl')
        assert caught.value.code == Code.NO_DEPTH


@pytest.mark.parametrize(('far', 'dtype', 'per_m'), [
    (65535, np.uint16, None), (65535, np.uint16, 5000), (65504, np.float32, None),
    (3.4e38, np.float32, None), (1000, np.float32, None), (65.535, np.float32, None),
    (10, np.float32, None), (5, np.float32, None), (20000, np.uint16, None),
    (np.inf, np.float32, None)])
@pytest.mark.parametrize('share', [0.02, 0.5])
def test_what_means_nothing_there_is_not_a_depth(far, dtype, per_m, share):
    rng = np.random.default_rng(0)
    unit = 1 if dtype == np.float32 else per_m or 1000
    depth = (rng.uniform(0.5, 1.5, (60, 80)) * unit).astype(dtype)
    is_far = rng.random(depth.shape) < share
    depth[is_far] = far
    depth_m = depth_m_from_pixels(depth, per_m)
    assert (np.isnan(depth_m) == is_far).all()


def test_a_single_pixel_of_65535_or_of_the_largest_float_is_unknown():
    for far, dtype in ((65535, np.uint16), (65504, np.float32), (1e10, np.float32)):
        depth = np.full((6, 8), 900, dtype)
        depth[2, 3] = far
        assert np.isnan(depth_m_from_pixels(depth)).sum() == 1


def test_walls_tables_and_floors_that_repeat_a_depth_are_kept():
    rows = np.arange(1, 481, dtype=np.float32)[:, None]
    floor_m = np.broadcast_to(1.2 * 500 / rows, (480, 640)).copy()  # a simulated ground, to 600 m
    wall_m = np.where(floor_m > 8, np.float32(8), floor_m)  # it ends at a wall
    table_m = np.full((480, 640), 0.6, np.float32)  # below a wrist camera with its fingers
    table_m[-60:] = 0.1
    flat = np.full((480, 640), 1500, np.uint16)
    saturated = np.linspace(500, 9000, 640 * 480).astype(np.uint16).reshape(480, 640)
    for depth in (floor_m, wall_m, table_m, flat, saturated, np.full((48, 64), 12, np.float32)):
        assert np.isfinite(depth_m_from_pixels(depth)).all()


def test_depth_of_8_bits_is_refused_rather_than_read_as_millimetres():
    with pytest.raises(Rejected, match='uint8'):
        depth_m_from_compressed(bytes(12) + png(np.ones((2, 2), np.uint8)),
                                '16UC1; compressedDepth png')


def test_truncated_depth_is_refused():
    with pytest.raises(Rejected, match='7 bytes'):
        depth_m_from_compressed(bytes(7), '16UC1; compressedDepth png')
