"""Image files of every kind, whole, damaged and cut off."""
from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from crosspoint_ros.core import image_codecs
from crosspoint_ros.core.image_io import (
    atomic_write,
    read_depth_m,
    read_image,
    read_mask,
    write_image,
)

RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
MASK = np.zeros((24, 32), bool)
MASK[10:, :7] = True


def save(folder, name, image, **options):
    path = folder / name
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(
        path, **options)
    return path


@pytest.mark.parametrize('suffix', ['.png', '.bmp', '.tiff', '.webp'])
def test_an_image_survives_its_file(tmp_path, suffix):
    options = {'lossless': True} if suffix == '.webp' else {}
    np.testing.assert_array_equal(read_image(save(tmp_path, f'a{suffix}', RGB, **options)), RGB)


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    grey, alpha = RGB[..., 0], np.dstack([RGB, RGB[..., :1]])
    few = (RGB // 128 * 255).astype(np.uint8)
    palette = PIL.Image.fromarray(few).quantize(8, dither=PIL.Image.Dither.NONE)
    np.testing.assert_array_equal(read_image(save(tmp_path, 'g.png', grey)),
                                  np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(save(tmp_path, 'a.png', alpha)), RGB)
    np.testing.assert_array_equal(read_image(save(tmp_path, 'p.png', palette)), few)


def test_the_orientation_of_exif_is_not_applied(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    for name in ('a.jpg', 'a.png'):
        assert read_image(save(tmp_path, name, RGB, exif=exif.tobytes())).shape == RGB.shape


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'restart_marker_blocks': 1}])
@pytest.mark.parametrize('exif', [False, True])
def test_a_jpeg_is_read_whole_and_refused_when_cut_off(tmp_path, options, exif):
    if exif:  # whose thumbnail is a whole JPEG of its own
        thumbnail = io.BytesIO()
        PIL.Image.fromarray(RGB).save(thumbnail, 'JPEG')
        options = {**options, 'exif': b'Exif\0\0' + thumbnail.getvalue()}
    path = save(tmp_path, 'a.jpg', RGB, quality=95, **options)
    assert read_image(path).shape == RGB.shape
    data = path.read_bytes()
    path.write_bytes(data + b'appended by a camera')
    assert read_image(path).shape == RGB.shape
    for kept in (len(data) - 1, len(data) - 20, 40):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r'a\.jpg: the image is cut off'):
            read_image(path)


def test_a_png_is_refused_when_cut_off_or_damaged(tmp_path):
    path = save(tmp_path, 'a.png', RGB)
    data = path.read_bytes()
    for kept in (len(data) - 1, len(data) // 2, 20):
        path.write_bytes(data[:kept])
        with pytest.raises(ValueError, match=r'a\.png: the image is cut off'):
            read_image(path)
    path.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
    with pytest.raises(ValueError, match='checksum of its IDAT chunk is wrong'):
        read_image(path)


def test_a_cut_off_bitmap_is_refused(tmp_path):
    path = save(tmp_path, 'a.bmp', RGB)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match='cut off'):
        read_image(path)


def test_what_has_no_8_bit_rgb_is_refused_with_the_cure(tmp_path):
    cmyk = save(tmp_path, 'c.jpg', PIL.Image.fromarray(RGB).convert('CMYK'))
    with pytest.raises(ValueError, match='CMYK: convert it to RGB'):
        read_image(cmyk)
    cv2.imwrite(str(tmp_path / 'd.png'), np.full((4, 5), 900, np.uint16))
    with pytest.raises(ValueError, match=r'uint16 channels .*a depth image is not a colour'):
        read_image(tmp_path / 'd.png')


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack('>IIBBBBB', 40_000, 30_000, 8, 2, 0, 0, 0)
    path = tmp_path / 'huge.png'
    path.write_bytes(image_codecs.PNG_SIGNATURE + struct.pack('>I', 13) + b'IHDR' + header
                     + struct.pack('>I', zlib.crc32(b'IHDR' + header)))
    with pytest.raises(ValueError, match=r'40000x30000 px \(limit 100 megapixels\)'):
        read_image(path)


@pytest.mark.parametrize('content', [b'', b'these are words', b'\xff\xd8', b'\x89PNG\r\n\x1a\n'])
@pytest.mark.parametrize('read', [read_image, read_depth_m, read_mask])
def test_what_is_not_an_image_is_refused_by_its_name(tmp_path, content, read):
    path = tmp_path / 'note.png'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'note\.png: '):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'absent.png')


def test_depth_is_metres_and_unknown_where_zero(tmp_path):
    stored = np.array([[0, 500], [1000, 65534]], np.uint16)
    cv2.imwrite(str(tmp_path / 'd.png'), stored)
    np.testing.assert_allclose(read_depth_m(tmp_path / 'd.png'),
                               [[np.nan, 0.5], [1.0, 65.534]], rtol=1e-6)
    np.testing.assert_allclose(read_depth_m(tmp_path / 'd.png', 5000.0)[1, 0], 0.2, rtol=1e-6)
    cv2.imwrite(str(tmp_path / 'd.tiff'), np.array([[np.inf, 0.5]], np.float32))
    np.testing.assert_array_equal(read_depth_m(tmp_path / 'd.tiff', 1.0),
                                  np.array([[np.nan, 0.5]], np.float32))
    with pytest.raises(ValueError, match=r'3 channel\(s\) of uint8; depth takes one'):
        read_depth_m(save(tmp_path, 'rgb.png', RGB))
    with pytest.raises(ValueError, match='depth_scale must be positive, got 0'):
        read_depth_m(tmp_path / 'd.png', 0.0)


def test_a_mask_is_white_on_the_robot(tmp_path):
    grey = np.where(MASK, 128, 127).astype(np.uint8)
    for name, image in (('g.png', grey), ('rgb.png', np.repeat(grey[..., None], 3, axis=2))):
        np.testing.assert_array_equal(read_mask(save(tmp_path, name, image)), MASK)
    for name, image in (('c.png', RGB), ('a.png', np.dstack([RGB, RGB[..., :1]]))):
        with pytest.raises(ValueError, match='a mask takes one 8-bit channel'):
            read_mask(save(tmp_path, name, image))


def test_what_is_written_is_read_back(tmp_path):
    write_image(tmp_path / 'new' / 'a.png', RGB)
    np.testing.assert_array_equal(read_image(tmp_path / 'new' / 'a.png'), RGB)
    write_image(tmp_path / 'mask.png', MASK)
    np.testing.assert_array_equal(read_mask(tmp_path / 'mask.png'), MASK)
    write_image(tmp_path / 'no_suffix', RGB)
    assert (tmp_path / 'no_suffix').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(ValueError, match=r"written as '\.xyz'; use \.png"):
        write_image(tmp_path / 'a.xyz', RGB)


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / 'a.bin'
    atomic_write(path, b'before')

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match=r'a\.bin is not written; free some space'):
        atomic_write(path, b'after')
    assert path.read_bytes() == b'before'
    assert [p.name for p in tmp_path.iterdir()] == ['a.bin']
