"""Decodes image messages, of ROS or of a bag, to RGB and to metres.

An encoding that is not known is `Rejected` by its name, never guessed.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.image_codecs import (
    PNG_SIGNATURE,
    Data,
    check_image,
    decode_image,
    decode_rvl,
)

Rgb = npt.NDArray[np.uint8]
DepthM = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    """Memory layout of a pixel, and the OpenCV code that converts it to RGB (None: it is RGB)."""

    dtype: type
    channels: int
    to_rgb: int | None = None


U8, U16, F32 = np.uint8, np.uint16, np.float32
COLOUR_ENCODINGS = {
    'mono8': Encoding(U8, 1, cv2.COLOR_GRAY2RGB), 'mono16': Encoding(U16, 1, cv2.COLOR_GRAY2RGB),
    'rgb8': Encoding(U8, 3), 'rgb16': Encoding(U16, 3),
    'bgr8': Encoding(U8, 3, cv2.COLOR_BGR2RGB), 'bgr16': Encoding(U16, 3, cv2.COLOR_BGR2RGB),
    'rgba8': Encoding(U8, 4, cv2.COLOR_RGBA2RGB), 'rgba16': Encoding(U16, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': Encoding(U8, 4, cv2.COLOR_BGRA2RGB), 'bgra16': Encoding(U16, 4, cv2.COLOR_BGRA2RGB),
    'yuv422': Encoding(U8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': Encoding(U8, 2, cv2.COLOR_YUV2RGB_YUY2),
    # OpenCV names a Bayer pattern after its second row's second and third pixel, ROS after the
    # first row's first two: rggb is BG.
    'bayer_rggb8': Encoding(U8, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': Encoding(U8, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': Encoding(U8, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': Encoding(U8, 1, cv2.COLOR_BayerGB2RGB),
    'bayer_rggb16': Encoding(U16, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr16': Encoding(U16, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg16': Encoding(U16, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg16': Encoding(U16, 1, cv2.COLOR_BayerGB2RGB),
}
ALIASES = {'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2'}  # since Iron; older releases know the old names
NO_DEPTH_U16 = 65535  # of RealSense, Orbbec, Zivid and OpenNI drivers
MAX_FLOAT16 = 65504.0
FAR_M, FAR_SHARE = 10.0, 0.01
FAR_APART_M, FAR_RATIO, FAR_PIXELS = 3.0, 3.0, 10
DEPTH_ENCODINGS = {'16UC1': Encoding(U16, 1), 'mono16': Encoding(U16, 1), '32FC1': Encoding(F32, 1)}


def rgb_from_pixels(pixels: npt.NDArray[Any], encoding: Encoding) -> Rgb:
    """Return pixels (h, w) or (h, w, c) as (h, w, 3) RGB uint8; 16 bits are scaled down to 8."""
    rgb = pixels if encoding.to_rgb is None else cv2.cvtColor(pixels, encoding.to_rgb)
    return np.asarray(rgb if rgb.dtype == U8 else cv2.convertScaleAbs(rgb, alpha=255 / 65535), U8)


def depth_m_from_pixels(pixels: npt.NDArray[Any], per_m: float | None = None) -> DepthM:
    """Return depth (h, w) in metres, NaN where unknown.

    per_m: the stored value of one metre; None: as in REP-118, 16-bit is mm, float is m. Unknown are
    0, negatives, NaN and infinity, 65535 of 16 bits, and a far plane (see `_find_far_plane`).
    """
    depth_m = pixels.astype(F32)
    if per_m is not None:
        depth_m /= F32(per_m)
    elif pixels.dtype == U16:
        depth_m *= F32(1e-3)
    known = (depth_m > 0) & (depth_m < np.inf)
    if pixels.dtype == U16:
        known &= pixels != NO_DEPTH_U16
    known &= depth_m < F32(_find_far_plane(depth_m, known))
    # By a mask NumPy takes ten times as long.
    return np.asarray(cv2.copyTo(depth_m, known.view(U8), np.full_like(depth_m, np.nan)), F32)


def _find_far_plane(depth_m: DepthM, known: npt.NDArray[np.bool_]) -> float:
    """Return the depth from which on a driver or simulator means "nothing there"; inf if none.

    That is a largest depth repeated to the last bit: by a hundredth of the known pixels at 10 m or
    more, or by ten pixels at 3 m or more that are three times as far away as every other; or any
    above 65.5 km, as the largest number of a float of 16 or 32 bits. Noise repeats no depth, and
    the ground of a simulator repeats one over a row at most. A wall that faces a simulated camera
    at 10 m is lost by it, a table is not.
    """
    total = np.count_nonzero(known)
    if not total:
        return np.inf
    farthest_m = cv2.minMaxLoc(depth_m, known.view(U8))[1]
    if farthest_m >= MAX_FLOAT16:
        return min(MAX_FLOAT16, _find_far_plane(depth_m, known & (depth_m < MAX_FLOAT16)))
    count = np.count_nonzero(known & (depth_m == farthest_m))
    if count < FAR_PIXELS or count == total:
        return np.inf
    is_far = farthest_m >= FAR_M and count >= FAR_SHARE * total
    nearer = known & (depth_m < farthest_m)
    is_apart = is_far or farthest_m >= max(
        FAR_APART_M, FAR_RATIO * cv2.minMaxLoc(depth_m, nearer.view(U8))[1])
    return float(farthest_m) if is_apart else np.inf


def rgb_from_raw(msg: Any) -> Rgb:
    """Return a `sensor_msgs/Image`, from ROS or from a bag, as (h, w, 3) RGB uint8.

    Raises `Rejected` (NO_IMAGE).
    """
    encoding = COLOUR_ENCODINGS[get_colour_encoding(msg)]
    return rgb_from_pixels(as_array(msg, encoding, Code.NO_IMAGE), encoding)


def get_colour_encoding(msg: Any) -> str:
    """Return the name of a colour image's encoding. Raises `Rejected` (NO_IMAGE) for others."""
    name: str = ALIASES.get(msg.encoding, msg.encoding)
    if name not in COLOUR_ENCODINGS:
        raise Rejected(Code.NO_IMAGE, f'the image has encoding {msg.encoding!r}; accepted: '
                       f'{", ".join([*COLOUR_ENCODINGS, *ALIASES])}')
    if name.startswith('yuv') and msg.width % 2:
        raise Rejected(Code.NO_IMAGE, f'{msg.encoding} shares colours between two pixels, but the '
                       f'image is {msg.width} px wide (must be even)')
    return name


def depth_m_from_msg(msg: Any) -> DepthM:
    """Return an Image or a CompressedImage of depth, from ROS or a bag, in metres (h, w).

    NaN where unknown (REP-118: 16-bit is mm, float is m). Raises `Rejected` (NO_DEPTH) for an
    unknown encoding and for sizes that disagree.
    """
    if not hasattr(msg, 'encoding'):
        return depth_m_from_compressed(msg.data, msg.format)
    if msg.encoding not in DEPTH_ENCODINGS:
        raise Rejected(Code.NO_DEPTH, f'the depth image has encoding {msg.encoding!r}; accepted: '
                       f'{", ".join(DEPTH_ENCODINGS)} (16 bit: mm, float: m)')
    return depth_m_from_pixels(as_array(msg, DEPTH_ENCODINGS[msg.encoding], Code.NO_DEPTH))


def as_array(msg: Any, encoding: Encoding, code: Code) -> npt.NDArray[Any]:
    """Return the message's pixels (h, w) or (h, w, c) in native byte order."""
    item = np.dtype(encoding.dtype).itemsize
    pixel = item * encoding.channels
    size = f'{msg.encoding} {msg.width}x{msg.height}'
    if not msg.width or not msg.height:
        raise Rejected(code, f'the image is empty: {size}')
    if msg.step < msg.width * pixel:
        raise Rejected(code, f'the image contradicts itself: a row of {size} takes '
                       f'{msg.width * pixel} bytes, its step is {msg.step}')
    if len(msg.data) != msg.step * msg.height:
        raise Rejected(code, f'the image contradicts itself: {size} with a step of {msg.step} '
                       f'takes {msg.step * msg.height} bytes, it has {len(msg.data)}')
    order = np.dtype(encoding.dtype).newbyteorder('>' if msg.is_bigendian else '<')
    shape = (msg.height, msg.width, encoding.channels)
    pixels: npt.NDArray[Any] = np.ndarray(shape, order, msg.data, strides=(msg.step, pixel, item))
    pixels = pixels[..., 0] if encoding.channels == 1 else pixels
    return np.ascontiguousarray(pixels, dtype=encoding.dtype)


def rgb_from_compressed(data: Data, form: str) -> Rgb:
    """Return a JPEG or PNG image as (h, w, 3) RGB uint8.

    form: the message's `format`, e.g. 'rgb8; jpeg compressed bgr8'. Raises `Rejected` (NO_IMAGE).
    """
    raw = _decode(data, form, Code.NO_IMAGE)
    was, _, how = form.partition(';')
    if raw.ndim == 2 and was.startswith('bayer'):  # the mosaic itself was compressed
        name = was[:-2] + '16' if raw.dtype == U16 and was.endswith('8') else was
        if name not in COLOUR_ENCODINGS:
            raise Rejected(Code.NO_IMAGE, f'the compressed image is a mosaic {was!r}; accepted: '
                           f'{", ".join(n for n in COLOUR_ENCODINGS if n.startswith("bayer"))}')
        return rgb_from_pixels(raw, COLOUR_ENCODINGS[name])
    # compressed_image_transport: unless it says "compressed bgr", the channels were not swapped.
    swapped = how and was in COLOUR_ENCODINGS and 'compressed bgr' not in how
    name = {1: 'mono8', 3: 'rgb8' if swapped else 'bgr8', 4: 'rgba8' if swapped else 'bgra8'}[
        1 if raw.ndim == 2 else raw.shape[2]]
    return rgb_from_pixels(raw, COLOUR_ENCODINGS[name])


DEPTH_CODECS = '', 'compressedDepth', 'compressedDepth png', 'compressedDepth rvl'
CONFIG_HEADER = 12  # bytes: int32 compression format, float32 depthQuantA, float32 depthQuantB


def depth_m_from_compressed(data: Data, form: str) -> DepthM:
    """Return depth (h, w) in metres, NaN where unknown, from compressed_depth_image_transport.

    form: the message's `format`, e.g. '16UC1; compressedDepth png' or '...rvl'; '16UC1' of older
    releases is PNG. A 32FC1 image was quantised as A / depth + B, with A and B in the 12-byte
    header. Raises `Rejected` (NO_DEPTH) for another format, and for data that are not whole.
    """
    encoding, _, codec = (part.strip() for part in form.partition(';'))
    if encoding not in DEPTH_ENCODINGS or codec not in DEPTH_CODECS:
        raise Rejected(Code.NO_DEPTH, f'the compressed depth has format {form!r}; accepted: '
                       f'{", ".join(DEPTH_ENCODINGS)} as "...; compressedDepth png" or "... rvl"')
    encoded = np.frombuffer(data, U8)[CONFIG_HEADER:]
    if codec.endswith('rvl'):
        try:
            raw = decode_rvl(encoded)
        except ValueError as error:
            raise _reject(Code.NO_DEPTH, form, error) from error
    else:
        if encoded[:len(PNG_SIGNATURE)].tobytes() != PNG_SIGNATURE:
            raise Rejected(Code.NO_DEPTH, f'the compressed depth ({form!r}, {len(data)} '
                           'bytes) has no PNG after its 12-byte header')
        raw = _decode(encoded, form, Code.NO_DEPTH)
    if raw.dtype != U16 or raw.ndim != 2:
        raise Rejected(Code.NO_DEPTH, f'the compressed depth holds a PNG of {raw.dtype} '
                       f'{raw.shape}; one channel of uint16 is expected')
    if encoding != '32FC1':
        return depth_m_from_pixels(raw)
    a, b = np.frombuffer(data, '<f4', 2, offset=4)
    if not (a > 0 and np.isfinite([a, b]).all()):
        raise Rejected(Code.NO_DEPTH, f'the compressed depth ({form!r}) was quantised with A {a:g} '
                       f'and B {b:g} (A must be positive)')
    with np.errstate(divide='ignore'):
        return depth_m_from_pixels(np.where(raw > 0, a / (raw.astype(F32) - b), 0).astype(F32))


def check_compressed(data: Data, form: str) -> None:
    """Raise `Rejected` (NO_IMAGE) for a JPEG or PNG that lost data."""
    try:
        check_image(data, is_streamed=True)
    except ValueError as error:
        raise _reject(Code.NO_IMAGE, form, error) from error


def _decode(data: Data, form: str, code: Code) -> npt.NDArray[Any]:
    try:
        return decode_image(data, is_streamed=True)
    except ValueError as error:
        raise _reject(code, form, error) from error


def _reject(code: Code, form: str, fault: ValueError) -> Rejected:
    return Rejected(code, f'{fault} (format {form!r}); bytes are lost by a full USB bus, a bad '
                    'cable or a busy network: lower the frame rate or the resolution')
