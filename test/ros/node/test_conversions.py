"""Messages become the pixels, metres, lenses and motions that they mean, or are refused by name."""
from __future__ import annotations

import array
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import Pose, Quaternion
from geometry_msgs.msg import Transform as TransformMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.core.encodings import depth_m_from_msg
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros import conversions

RGB = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
GREY = RGB[..., :1]
ALPHA = np.full((4, 6, 1), 7, np.uint8)
FLAT = (200, 100, 50)  # a wall of one colour: its mosaic is exact
RED_UYVY = (90, 81, 240, 81)  # BT.601, studio range

ALL = {
    'mono8': (GREY, np.repeat(GREY, 3, axis=2)),
    'mono16': (GREY.astype('<u2') * 257, np.repeat(GREY, 3, axis=2)),
    'rgb8': (RGB, RGB), 'bgr8': (RGB[..., ::-1], RGB),
    'rgb16': (RGB.astype('<u2') * 257, RGB), 'bgr16': (RGB[..., ::-1].astype('<u2') * 257, RGB),
    'rgba8': (np.dstack([RGB, ALPHA]), RGB), 'bgra8': (np.dstack([RGB[..., ::-1], ALPHA]), RGB),
}


def message(pixels, encoding, padding=0, big_endian=False):
    """Lay pixels (h, w, c) out as a driver would, each row followed by padding."""
    pixels = pixels.astype(pixels.dtype.newbyteorder('>' if big_endian else '<'))
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    rows = np.hstack([rows, np.full((len(rows), padding), 99, np.uint8)])
    return Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                 is_bigendian=big_endian, step=rows.shape[1],
                 data=array.array('B', rows.tobytes()))


def mosaic(pattern, dtype=np.uint8):
    """What a sensor of that pattern, named by its first two rows, sees of the flat wall."""
    tile = np.array([FLAT['rgb'.index(c)] for c in pattern]).reshape(2, 2)
    return (np.tile(tile, (4, 4)) * (257 if dtype == np.uint16 else 1)).astype(dtype)[..., None]


@pytest.fixture(params=['own', 'cv_bridge'])
def converter(request, monkeypatch):
    """Run the test over our own converter, and over the distro's cv_bridge where there is one."""
    if request.param == 'own':
        monkeypatch.setattr(conversions, 'get_cv_bridge', lambda: None)
    elif conversions.get_cv_bridge() is None:
        pytest.skip('no cv_bridge of a ROS distro here')


over_both = pytest.mark.usefixtures('converter')


@over_both
@pytest.mark.parametrize('encoding', ALL)
def test_every_encoding_gives_the_colours_that_were_sent(encoding):
    sent, rgb = ALL[encoding]
    got = conversions.rgb_from_msg(message(sent, encoding))
    assert got.dtype == np.uint8
    assert (got == rgb).all()


@over_both
@pytest.mark.parametrize('padding', [1, 5, 12])
@pytest.mark.parametrize('encoding', ALL)
def test_padding_behind_the_rows_is_not_image(encoding, padding):
    sent, rgb = ALL[encoding]
    assert (conversions.rgb_from_msg(message(sent, encoding, padding)) == rgb).all()


@over_both
@pytest.mark.parametrize('encoding', ALL)
def test_big_endian_pixels_are_turned_round(encoding):
    sent, rgb = ALL[encoding]
    assert (conversions.rgb_from_msg(message(sent, encoding, big_endian=True)) == rgb).all()


@over_both
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
def test_a_mosaic_gets_its_colours_back(pattern, bits):
    sent = mosaic(pattern, np.uint8 if bits == 8 else np.uint16)
    assert (conversions.rgb_from_msg(message(sent, f'bayer_{pattern}{bits}')) == FLAT).all()


@over_both
@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', (0, 1, 2, 3)), ('uyvy', (0, 1, 2, 3)),
    ('yuv422_yuy2', (1, 0, 3, 2)), ('yuyv', (1, 0, 3, 2))])
def test_red_is_red_in_both_orders_of_yuv(encoding, order):
    sent = np.tile(np.array(RED_UYVY, np.uint8)[list(order)], (2, 2)).reshape(2, 4, 2)
    got = conversions.rgb_from_msg(message(sent, encoding))
    assert np.abs(got.astype(int) - (255, 0, 0)).max() <= 2


@over_both
@pytest.mark.parametrize('encoding', ['8UC3', '8UC1', '16UC1', '32FC1', 'nv12', 'bayer', ''])
def test_an_image_of_unknown_colours_is_refused_by_name(encoding):
    with pytest.raises(Rejected, match=f'{encoding!r}; accepted: mono8.*bgra8') as caught:
        conversions.rgb_from_msg(message(RGB, encoding))
    assert caught.value.code == Code.NO_IMAGE


@over_both
@pytest.mark.parametrize(('change', 'words'), [
    ({'step': 17}, r'rgb8 6x4 takes 18 bytes, its step is 17'),
    ({'step': 19}, r'step of 19 takes 76 bytes, it has 72'),
    ({'height': 5}, r'step of 18 takes 90 bytes, it has 72'),
    ({'width': 0}, r'empty: rgb8 0x4'),
    ({'data': array.array('B')}, r'takes 72 bytes, it has 0'),
    ({'encoding': 'yuv422', 'width': 5}, r'yuv422 shares colours .* 5 px wide')])
def test_sizes_that_disagree_are_refused_with_the_numbers(change, words):
    msg = message(RGB, 'rgb8')
    for field, value in change.items():
        setattr(msg, field, value)
    with pytest.raises(Rejected, match=words):
        conversions.rgb_from_msg(msg)


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('padding', [0, 3])
@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
def test_16_bit_depth_is_millimetres_and_zero_is_unknown(encoding, padding, big_endian):
    sent = np.array([[65535, 1, 1500], [65534, 250, 0]], np.uint16)[..., None]
    depth_m = depth_m_from_msg(message(sent, encoding, padding, big_endian))
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m, [[np.nan, 0.001, 1.5], [65.534, 0.25, np.nan]], rtol=1e-6)


@pytest.mark.parametrize('big_endian', [False, True])
def test_float_depth_is_metres_and_what_is_no_distance_is_unknown(big_endian):
    sent = np.array([[0.5, np.nan, np.inf], [-np.inf, 0, -1]], np.float32)[..., None]
    depth_m = depth_m_from_msg(message(sent, '32FC1', 4, big_endian))
    np.testing.assert_array_equal(depth_m, [[0.5, np.nan, np.nan], [np.nan] * 3])


@pytest.mark.parametrize('encoding', ['64FC1', '8UC1', 'rgb8', '16SC1', ''])
def test_depth_of_unknown_encoding_is_refused_with_what_is_accepted(encoding):
    with pytest.raises(Rejected, match=f'{encoding!r}; accepted: 16UC1, mono16, 32FC1') as caught:
        depth_m_from_msg(message(GREY, encoding))
    assert caught.value.code == Code.NO_DEPTH


def test_a_depth_image_that_is_too_short_is_refused():
    msg = message(np.ones((4, 6, 1), np.uint16), '16UC1')
    msg.data = msg.data[:-1]
    with pytest.raises(Rejected, match='takes 48 bytes, it has 47') as caught:
        depth_m_from_msg(msg)
    assert caught.value.code == Code.NO_DEPTH


def test_compressed_messages_are_decoded():
    png = cv2.imencode('.png', np.ascontiguousarray(RGB[..., ::-1]))[1].tobytes()
    colour = CompressedImage(format='rgb8; png compressed bgr8', data=array.array('B', png))
    assert (conversions.rgb_from_msg(colour) == RGB).all()
    png = cv2.imencode('.png', np.full((2, 3), 1500, np.uint16))[1].tobytes()
    depth = CompressedImage(format='16UC1; compressedDepth png',
                            data=array.array('B', bytes(12) + png))
    np.testing.assert_allclose(depth_m_from_msg(depth), 1.5, rtol=1e-6)


def test_a_compressed_message_that_lost_bytes_is_refused():
    noise = cv2.resize(np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8), (320, 240))
    jpeg = cv2.imencode('.jpg', noise)[1].tobytes()
    torn = jpeg[:len(jpeg) // 3] + jpeg[len(jpeg) // 3 + 64:]
    topics = conversions.CameraTopics('front', '/front/compressed', '/front/camera_info')
    with pytest.raises(Rejected, match=r'^/front/compressed: .*; bytes are lost') as caught:
        conversions.decode_rgb(topics, CompressedImage(format='jpeg', data=array.array('B', torn)))
    assert caught.value.code == Code.NO_IMAGE


def test_an_image_survives_the_way_out_and_back():
    header = Header(frame_id='eye')
    msg = conversions.image_from_rgb(RGB[:, ::2], header)
    assert (msg.encoding, msg.step, msg.header.frame_id) == ('rgb8', 9, 'eye')
    assert (conversions.rgb_from_msg(msg) == RGB[:, ::2]).all()


# --- which converter ------------------------------------------------------------------------------

class CvBridgeDouble:
    """A DOUBLE of the distro's CvBridge for one conversion; `order` wrong imitates a broken one."""

    order = (2, 1, 0)

    def imgmsg_to_cv2(self, msg, encoding):
        """From bgr8 to rgb8."""
        assert (msg.encoding, encoding) == ('bgr8', 'rgb8')
        return np.reshape(msg.data, (msg.height, msg.width, 3)).astype(np.uint8)[..., self.order]


@pytest.fixture
def decide(monkeypatch):
    """Decide anew which converter to use, with a double of cv_bridge; return it and the log."""
    def decided(extension='cv_bridge_boost.so', bridge=CvBridgeDouble):
        lines = []
        modules = {'cv_bridge': ModuleType('cv_bridge'),
                   'cv_bridge.boost': ModuleType('cv_bridge.boost'),
                   'cv_bridge.boost.cv_bridge_boost': ModuleType('boost')}
        modules['cv_bridge'].CvBridge = bridge
        modules['cv_bridge.boost.cv_bridge_boost'].__file__ = extension
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(conversions.log, 'warning', lambda text, *a: lines.append(text % a))
        return conversions.load_cv_bridge(), lines
    return decided


def test_a_working_cv_bridge_is_used(decide):
    bridge, lines = decide()
    assert isinstance(bridge, CvBridgeDouble)
    assert not lines


def test_the_cv_bridge_of_pypi_is_never_used(decide):
    bridge, lines = decide('cv_bridge_boost.py')
    assert bridge is None
    assert len(lines) == 1
    assert 'PyPI' in lines[0]


def test_a_cv_bridge_that_cannot_convert_is_not_used_and_said_once(decide):
    class Swapped(CvBridgeDouble):
        order = (0, 1, 2)

    bridge, lines = decide(bridge=Swapped)
    assert bridge is None
    assert len(lines) == 1


def test_a_cv_bridge_that_cannot_be_imported_is_not_used_and_said_once(decide, monkeypatch,
                                                                       tmp_path):
    boost = tmp_path / 'cv_bridge' / 'boost'
    boost.mkdir(parents=True)
    (boost.parent / '__init__.py').write_text('')
    (boost / '__init__.py').write_text('')
    (boost / 'cv_bridge_boost.py').write_text('raise ImportError("numpy 1 wanted")')
    _, lines = decide()
    lines.clear()
    for name in [name for name in sys.modules if name.startswith('cv_bridge')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert conversions.load_cv_bridge() is None
    assert lines == ['cv_bridge is installed but not used: numpy 1 wanted']


# --- lenses ---------------------------------------------------------------------------------------

def info(**changed):
    """A camera of 640x480 with a different number in every place of K and P."""
    fields = {'width': 640, 'height': 480, 'distortion_model': 'plumb_bob',
              'd': [0.1, -0.2, 0.001, 0.002, 0.05],
              'k': [500.0, 0, 320.0, 0, 510.0, 240.0, 0, 0, 1.0],
              'p': [480.0, 0, 310.0, 0, 0, 490.0, 230.0, 0, 0, 0, 1.0, 0], **changed}
    return CameraInfo(**fields)


def test_an_unrectified_image_has_k_and_d():
    lens = conversions.intrinsics_from_info(info())
    assert (lens.fx_px, lens.fy_px, lens.cx_px, lens.cy_px) == (500, 510, 320, 240)
    assert lens.distortion == (0.1, -0.2, 0.001, 0.002, 0.05)
    assert (lens.width_px, lens.height_px) == (640, 480)


def test_a_rectified_image_has_p_and_no_distortion():
    lens = conversions.intrinsics_from_info(info(), rectified=True)
    assert (lens.fx_px, lens.fy_px, lens.cx_px, lens.cy_px) == (480, 490, 310, 230)
    assert lens.distortion == ()


def test_the_rectified_image_of_a_fisheye_is_that_of_a_pinhole():
    fisheye = info(distortion_model='equidistant', d=[0.1, 0.01, 0.0, 0.0])
    lens = conversions.intrinsics_from_info(fisheye, rectified=True)
    np.testing.assert_allclose(lens.project((1.0, 0.0, 1.0)), (310.0 + 480.0, 230.0))


def test_coefficients_without_a_model_are_not_guessed_at():
    with pytest.raises(Rejected, match=r'0\.1.*no distortion_model') as caught:
        conversions.intrinsics_from_info(info(distortion_model=''))
    assert caught.value.code == Code.NO_IMAGE


def test_the_second_rectified_camera_of_a_stereo_pair_is_refused():
    stereo = info(p=[480.0, 0, 310.0, -48.0, 0, 490.0, 230.0, 0, 0, 0, 1.0, 0])
    with pytest.raises(Rejected, match='-48') as caught:
        conversions.intrinsics_from_info(stereo, rectified=True)
    assert caught.value.code == Code.NOT_SUPPORTED


def test_a_region_of_interest_moves_every_pixel_by_its_corner():
    cropped = info()
    cropped.roi.x_offset, cropped.roi.y_offset = 100, 60
    cropped.roi.width, cropped.roi.height = 300, 200
    lens, full = conversions.intrinsics_from_info(cropped), conversions.intrinsics_from_info(info())
    point_cam = (0.02, -0.03, 1.0)
    np.testing.assert_allclose(lens.project(point_cam), full.project(point_cam) - (100, 60))
    assert (lens.width_px, lens.height_px) == (300, 200)


def test_binning_divides_every_pixel():
    lens = conversions.intrinsics_from_info(info(binning_x=2, binning_y=4))
    full = conversions.intrinsics_from_info(info())
    point_cam = (0.02, -0.03, 1.0)
    np.testing.assert_allclose(lens.project(point_cam), full.project(point_cam) / (2, 4))
    assert (lens.width_px, lens.height_px) == (320, 120)


@pytest.mark.parametrize(('changed', 'words'), [
    ({'k': [0.0] * 9}, 'fx=0.0 fy=0.0 px: the camera is not calibrated'),
    ({'k': [np.nan] * 9}, 'finite'),
    ({'width': 0}, '0x480'),
    ({'distortion_model': 'fisheye_62'}, "'fisheye_62' is unknown; known: plumb_bob"),
    ({'d': [0.1, 0.2, 0.3]}, 'got 3'),
    ({'d': [0.1] * 8}, 'got 8')])
def test_an_unusable_lens_is_refused_with_the_reason(changed, words):
    with pytest.raises(Rejected, match=words) as caught:
        conversions.intrinsics_from_info(info(**changed))
    assert caught.value.code == Code.NO_IMAGE


@pytest.mark.parametrize(('model', 'sent', 'kept'), [
    ('plumb_bob', [0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0], 5), ('plumb_bob', [0.0] * 8, 0),
    ('rational_polynomial', [0.1] * 8 + [0.0] * 6, 8), ('equidistant', [0.1] * 4, 4),
    ('', [], 0)])
def test_zeros_that_drivers_append_to_the_distortion_are_dropped(model, sent, kept):
    lens = conversions.intrinsics_from_info(info(distortion_model=model, d=sent))
    assert lens.distortion == tuple(sent[:kept])


# --- time and motions -----------------------------------------------------------------------------

@pytest.mark.parametrize('ns', [0, 1, 10**9 - 1, 1_760_000_000_166_666_666])
def test_a_time_survives_the_way_out_and_back(ns):
    assert stamp_to_ns(conversions.time_from_ns(ns)) == ns


def test_a_quarter_turn_about_z_takes_x_to_y():
    msg = TransformMsg()
    msg.rotation.z = msg.rotation.w = np.sqrt(0.5)
    msg.translation.x = 3.0
    a_from_b = conversions.transform_from_msg(msg)
    np.testing.assert_allclose(a_from_b.transform_points((1, 0, 0)), (3, 1, 0), atol=1e-12)


@pytest.mark.parametrize('turn_rad', [0.0, 1e-9, 0.3, np.pi / 2, np.pi - 1e-9, np.pi])
@pytest.mark.parametrize('axis', [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.48, -0.64)])
def test_a_motion_survives_the_way_out_and_back(axis, turn_rad):
    R, _ = cv2.Rodrigues(np.array(axis) * turn_rad)
    a_from_b = Transform(R, np.array([1.0, 2.0, 3.0]))
    back = conversions.transform_from_msg(conversions.transform_to_msg(a_from_b))
    np.testing.assert_allclose(back.matrix, a_from_b.matrix, atol=1e-9)
    pose: Pose = conversions.pose_from_transform(a_from_b)
    assert (pose.position.x, pose.position.y, pose.position.z) == (1, 2, 3)
    np.testing.assert_allclose(conversions.transform_from_pose(pose).matrix, a_from_b.matrix,
                               atol=1e-9)


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (0, 0, 0, 1.1), (np.nan, 0, 0, 1)])
def test_what_is_no_rotation_is_refused(quaternion):
    x, y, z, w = (float(value) for value in quaternion)
    with pytest.raises(ValueError, match='squared length'):
        conversions.transform_from_pose(Pose(orientation=Quaternion(x=x, y=y, z=z, w=w)))
