"""CameraInfo, of ROS or of a bag, as the intrinsics of the image that was published."""
from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from crosspoint_ros.core.camera import Intrinsics, RectifiedFrameError

K = [500.0, 0, 320.0, 0, 510.0, 240.0, 0, 0, 1.0]
P = [480.0, 0, 310.0, 0, 0, 490.0, 230.0, 0, 0, 0, 1.0, 0]
D = [-0.3, 0.1, 0.001, -0.002, 0.05]


def camera_info(roi=(0, 0, 0, 0), **changed):
    x, y, width, height = roi
    return SimpleNamespace(**{
        'width': 640, 'height': 480, 'k': np.array(K), 'p': np.array(P), 'r': np.eye(3).ravel(),
        'd': np.array(D), 'distortion_model': 'plumb_bob', 'binning_x': 0, 'binning_y': 0,
        'roi': SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height), **changed})


def read(rectified=False, **changed):
    return Intrinsics.from_camera_info(camera_info(**changed), rectified=rectified)


def test_an_unrectified_image_has_k_and_d_and_a_rectified_one_p_alone():
    assert read() == Intrinsics(500.0, 510.0, 320.0, 240.0, 640, 480, tuple(D))
    assert read(rectified=True) == Intrinsics(480.0, 490.0, 310.0, 230.0, 640, 480)
    assert read(rectified=True, distortion_model='equidistant', d=[0.1, 0.0, 0.0, 0.0]) == \
        Intrinsics(480.0, 490.0, 310.0, 230.0, 640, 480)


@pytest.mark.parametrize('rectified', [False, True])
def test_binning_and_region_of_interest_show_the_same_rays(rectified):
    full = read(rectified)
    part = read(rectified, binning_x=2, binning_y=4, roi=(100, 40, 400, 320))
    assert (part.width_px, part.height_px) == (200, 80)
    pixel = np.array([33.0, 21.0])
    np.testing.assert_allclose(part.unproject(pixel), full.unproject(pixel * (2, 4) + (100, 40)))


@pytest.mark.parametrize(('model', 'sent', 'kept'), [
    ('plumb_bob', [0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0], (0.1, 0.2, 0.3, 0.4, 0.5)),
    ('plumb_bob', [0.0] * 14, ()), ('', [], ()), ('', [0.0] * 5, ()),
    ('rational_polynomial', [0.1] * 8 + [0.0] * 6, (0.1,) * 8),
    ('equidistant', [0.1, 0.2, 0.3, 0.4, 0.0], (0.1, 0.2, 0.3, 0.4))])
def test_zeros_that_drivers_append_are_dropped(model, sent, kept):
    assert read(distortion_model=model, d=sent).distortion == kept


@pytest.mark.parametrize(('foreign', 'model'), [
    ('radtan', 'plumb_bob'), ('radial_tangential', 'plumb_bob'), ('kannala_brandt', 'equidistant'),
    ('kannala_brandt4', 'equidistant')])
def test_a_foreign_name_of_the_same_formula_is_understood(foreign, model):
    coefficients = (0.01, 0.02, 0.001, 0.002)
    assert read(distortion_model=foreign, d=coefficients) == \
        read(distortion_model=model, d=coefficients)


@pytest.mark.parametrize(('changed', 'words'), [
    ({'distortion_model': ''}, 'no distortion_model; known: plumb_bob'),
    ({'distortion_model': 'ftheta'}, "'ftheta' is unknown; known: plumb_bob"),
    ({'d': [0.1, 0.2]}, 'got 2'), ({'k': [0.0] * 9}, 'not calibrated'),
    ({'k': [np.nan] * 9}, 'finite'), ({'width': 0}, '0x480')])
def test_an_unusable_camera_info_is_refused_with_the_value(changed, words):
    with pytest.raises(ValueError, match=words):
        read(**changed)


def test_a_rectified_image_in_another_frame_than_its_cameras_is_refused():
    with pytest.raises(RectifiedFrameError, match='Tx, Ty = -48, 0 px m'):
        read(rectified=True, p=[480.0, 0, 310.0, -48.0, 0, 490.0, 230.0, 0, 0, 0, 1.0, 0])
    turned = cv2.Rodrigues(np.array([0.0, np.radians(1.5), 0.0]))[0]
    with pytest.raises(RectifiedFrameError,
                       match=r'turns the rectified image by 1.50 deg \(limit 0.2\)'):
        read(rectified=True, r=turned.ravel())
    assert read(r=turned.ravel()) == read()
    assert read(rectified=True,
                r=np.zeros(9)) == read(rectified=True)  # a driver that leaves it out
