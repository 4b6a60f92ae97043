"""A click is answered on the image that was clicked, with the depth and lens of that moment."""
from __future__ import annotations

import array
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crosspoint_ros.core.datatypes import Code, Rejected, Transform
from crosspoint_ros.ros import conversions
from crosspoint_ros.ros.conversions import CameraTopics, time_from_ns
from crosspoint_ros.ros.node.image_buffer import BufferLimits, ImageBuffer

MS = 1_000_000
BEGIN_NS = 1_760_000_000 * 10**9
SOURCE = CameraTopics('front', '/front/image', '/front/info', '/front/depth')
NO_DEPTH = replace(SOURCE, depth_topic='')
MEMORY = BufferLimits(history_s=2.0, max_image_age_s=1.0, max_depth_lag_s=0.02)
WAIT_S = 30.0


def ns(at_ms):
    return BEGIN_NS + round(at_ms * MS)


def stamped(message, at_ms, frame_id='eye'):
    message.header.stamp, message.header.frame_id = time_from_ns(ns(at_ms)), frame_id
    return message


def image(at_ms, grey=0, width=8, height=6, encoding='mono8'):
    return stamped(Image(height=height, width=width, encoding=encoding, step=width,
                         data=array.array('B', [grey] * (width * height))), at_ms)


def depth(at_ms, millimetres=1000, width=8, height=6, encoding='16UC1'):
    pixels = np.full((height, width), millimetres, '<u2')
    return stamped(Image(height=height, width=width, encoding=encoding, step=2 * width,
                         data=array.array('B', pixels.tobytes())), at_ms)


def info(at_ms=0, focal_px=10.0, width=8, height=6):
    return stamped(CameraInfo(height=height, width=width, distortion_model='plumb_bob',
                              k=[focal_px, 0, 4, 0, focal_px, 3, 0, 0, 1.0],
                              p=[7.0, 0, 4, 0, 0, 7.0, 3, 0, 0, 0, 1.0, 0]), at_ms, 'info_frame')


class Clock:
    """The node's clock, which stands where it is put."""

    def __init__(self):
        self.now_ms = 0.0

    def __call__(self):
        return ns(self.now_ms)


def memory(source=NO_DEPTH, limits=MEMORY, clock=None, mask=None, lens=True):
    frames = ImageBuffer(source, limits, clock or Clock(), mask)
    if lens:
        frames.add_info(info())
    return frames


def grey_of(view):
    return int(view.image[0, 0, 0])


def refused(code, words, ask):
    with pytest.raises(Rejected, match=words) as caught:
        ask()
    assert caught.value.code == code


# --- which image ----------------------------------------------------------------------------------

def test_a_click_is_answered_on_the_image_of_its_stamp():
    frames = memory()
    for n in range(10):
        frames.add_image(image(33 * n, grey=n))
    view = frames.get_view_at(ns(33 * 4))
    assert (grey_of(view), view.stamp_ns, view.camera) == (4, ns(33 * 4), 'front')
    assert (view.frame_id, view.depth_m, view.base_from_cam) == ('eye', None, None)


def test_a_stamp_may_be_off_by_a_millisecond_but_not_by_two():
    frames = memory()
    frames.add_image(image(0, grey=1))
    frames.add_image(image(33, grey=2))
    assert grey_of(frames.get_view_at(ns(0.9))) == 1
    refused(Code.STALE, 'no image of stamp', lambda: frames.get_view_at(ns(2)))


def test_a_stamp_that_is_forgotten_is_refused_with_what_is_remembered():
    frames = memory()
    for n in range(100):
        frames.add_image(image(100 * n))
    refused(Code.STALE, r'of stamp 1760000000\.100000000 s; it keeps 21 from '
            r'1760000007\.900000000 to 1760000009\.900000000 s \(history_s 2\)',
            lambda: frames.get_view_at(ns(100)))


def test_the_last_image_of_a_frozen_camera_is_not_answered_for_ever():
    clock = Clock()
    frames = memory(clock=clock)
    frames.add_image(image(0))
    clock.now_ms = 2999.0
    frames.get_view_at(ns(0))
    clock.now_ms = 3001.0
    refused(Code.STALE, r'is 3\.001 s old \(history_s 2 and limits\.max_image_age_s 1\)',
            lambda: frames.get_view_at(ns(0)))


def test_images_that_arrive_out_of_order_are_found():
    frames = memory()
    for at_ms in (0, 66, 33):
        frames.add_image(image(at_ms, grey=at_ms))
    assert [grey_of(frames.get_view_at(ns(t))) for t in (0, 33, 66)] == [0, 33, 66]
    assert frames.get_newest_stamp_ns() == ns(66)


def test_a_camera_that_never_sent_is_refused_by_its_topic():
    for ask in (lambda: memory().get_view_at(ns(0)), memory().get_newest_view,
                lambda: memory().get_nearest_view(ns(0), 1.0)):
        refused(Code.NO_IMAGE, 'no image has come on /front/image', ask)


@pytest.mark.parametrize(('now_ms', 'words'), [
    (1001, r'on /front/image is 1\.001 s old \(limits\.max_image_age_s 1\)$'),
    (-1001, r'is -1\.001 s old'), (1e6, r'use_sim_time'), (-1e12, r'use_sim_time')])
def test_a_newest_image_of_another_time_is_refused(now_ms, words):
    clock = Clock()
    frames = memory(clock=clock)
    frames.add_image(image(0))
    frames.get_newest_view()
    clock.now_ms = now_ms
    refused(Code.STALE, words, frames.get_newest_view)


def test_the_nearest_image_within_the_gap_is_taken():
    frames = memory()
    for n in range(4):
        frames.add_image(image(100 * n, grey=n))
    assert grey_of(frames.get_nearest_view(ns(149), 0.05)) == 1
    assert grey_of(frames.get_nearest_view(ns(151), 0.05)) == 2
    assert grey_of(frames.get_nearest_view(ns(350), 0.05)) == 3
    refused(Code.STALE, r'is 0\.051 s away \(limits\.max_view_gap_s 0\.05\)',
            lambda: frames.get_nearest_view(ns(351), 0.05))


# --- what is kept ---------------------------------------------------------------------------------

def test_the_newest_image_is_kept_however_slow_the_camera():
    frames = memory(limits=replace(MEMORY, history_s=0.0))
    for n in range(3):
        frames.add_image(image(5000 * n, grey=n))
    assert grey_of(frames.get_nearest_view(ns(10000), 0.0)) == 2
    refused(Code.STALE, 'keeps 1 from', lambda: frames.get_view_at(ns(5000)))


def test_the_number_of_images_is_bounded():
    frames = memory(limits=replace(MEMORY, max_frames=3))
    for n in range(10):
        frames.add_image(image(n))
    refused(Code.STALE, 'keeps 3 from', lambda: frames.get_view_at(ns(5000)))


def test_after_a_jump_back_in_time_the_new_images_count():
    frames = memory(SOURCE)
    for at_ms in (5000, 5033, 0, 33):
        frames.add_image(image(at_ms, grey=at_ms % 100))
        frames.add_depth(depth(at_ms))
    assert frames.get_newest_view().stamp_ns == ns(33)
    refused(Code.STALE, 'keeps 1 from', lambda: frames.get_view_at(ns(5000)))


@pytest.mark.parametrize('wrong_ms', [5000, 1500, -5000, -BEGIN_NS / MS])
def test_one_wrong_stamp_of_image_or_depth_is_dropped_and_nothing_is_forgotten(wrong_ms):
    clock = Clock()
    frames = memory(SOURCE, clock=clock)
    jumps = []
    for at_ms in (0, 100, 200, 300):
        clock.now_ms = at_ms + 20
        stamp_ms = wrong_ms if at_ms == 200 else at_ms
        jumps.append(frames.add_image(image(stamp_ms, grey=at_ms % 256)))
        frames.add_depth(depth(stamp_ms))
    assert jumps == [0, 0, 0, 0]
    assert [frames.get_view_at(ns(t)).stamp_ns for t in (0, 100, 300)] == [ns(0), ns(100), ns(300)]
    assert frames.get_newest_view().stamp_ns == ns(300)
    refused(Code.STALE, 'keeps 3 from', lambda: frames.get_view_at(ns(wrong_ms)))


def test_a_jump_in_time_that_the_next_image_confirms_is_reported_once():
    clock = Clock()
    frames = memory(clock=clock)
    jumps = []
    for at_ms in (10_000, 10_033, 4_000, 4_033, 4_066):
        clock.now_ms += 33
        jumps.append(frames.add_image(image(at_ms)))
    assert jumps == [0, 0, 0, pytest.approx(-6.0), 0]
    assert frames.get_newest_stamp_ns() == ns(4_066)


def test_a_bag_that_is_played_fast_or_forwarded_is_no_fault():
    clock = Clock()
    frames = memory(clock=clock)
    for at_ms in [*range(0, 3000, 300), *range(60_000, 63_000, 300)]:
        clock.now_ms += 30
        assert frames.add_image(image(at_ms)) == 0
    assert frames.get_newest_stamp_ns() == ns(62_700)


def test_clearing_forgets_images_and_keeps_the_lens():
    clock = Clock()
    frames = memory(SOURCE, clock=clock)
    frames.add_image(image(0))
    frames.add_depth(depth(0))
    frames.clear()
    refused(Code.NO_IMAGE, 'no image has come', frames.get_newest_view)
    clock.now_ms = -5000.0
    frames.add_image(image(-5000))
    frames.add_depth(depth(-5000))
    assert frames.get_view_at(ns(-5000)).intrinsics.fx_px == 10


def test_an_image_is_decoded_once_and_stays_the_same_object():
    frames = memory(SOURCE)
    frames.add_image(image(0))
    frames.add_depth(depth(10, 2000))
    first = frames.get_view_at(ns(0))
    assert frames.get_nearest_view(ns(0), 0.0) is first
    posed = replace(first, base_from_cam=Transform(np.eye(3), np.zeros(3)))
    frames.add_depth(depth(0, 1000))  # a nearer one
    again = frames.get_view_at(ns(0))
    assert again.image is first.image is posed.image
    assert again.depth_m[0, 0] == pytest.approx(1.0)


def test_callbacks_do_not_wait_for_an_image_that_is_being_decoded(monkeypatch):
    frames = memory()
    frames.add_image(image(0))
    decoding, carry_on = threading.Event(), threading.Event()
    real = conversions.decode_rgb

    def slow(*args):
        decoding.set()
        assert carry_on.wait(WAIT_S)
        return real(*args)

    monkeypatch.setattr(conversions, 'decode_rgb', slow)
    query = threading.Thread(target=frames.get_view_at, args=(ns(0),))
    query.start()
    assert decoding.wait(WAIT_S)
    added = threading.Thread(target=frames.add_image, args=(image(33),))
    added.start()
    added.join(WAIT_S)
    held_up = added.is_alive()
    carry_on.set()
    query.join()
    added.join()
    assert not held_up
    assert frames.get_newest_stamp_ns() == ns(33)


# --- lens -----------------------------------------------------------------------------------------

def test_without_a_lens_an_image_is_refused_by_the_topic_of_the_lens():
    frames = memory(lens=False)
    frames.add_image(image(0))
    refused(Code.NO_IMAGE, 'no camera info has come on /front/info', frames.get_newest_view)


@pytest.mark.parametrize(('lens', 'words'), [
    (info(width=16), '/front/info is for 16x6 images, /front/image is 8x6'),
    (info(focal_px=0.0), '/front/info: .*fx=0.0 fy=0.0 px: the camera is not calibrated')])
def test_an_unusable_lens_is_refused(lens, words):
    frames = memory(lens=False)
    frames.add_info(lens)
    frames.add_image(image(0))
    refused(Code.NO_IMAGE, words, frames.get_newest_view)


def test_an_image_keeps_the_lens_of_its_moment_when_the_lens_zooms():
    frames = memory()
    for at_ms, focal_px in ((0, 10.0), (33, 10.0), (66, 20.0), (99, 20.0)):
        frames.add_info(info(at_ms, focal_px))
        frames.add_image(image(at_ms))
    assert [frames.get_view_at(ns(t)).intrinsics.fx_px for t in (0, 33, 66, 99)] == [10, 10, 20, 20]


CLOCKS = {'an hour ahead': lambda at_ms: at_ms + 3.6e6,
          'an hour behind': lambda at_ms: at_ms - 3.6e6,
          'a second ahead': lambda at_ms: at_ms + 1003, '0.2 s late': lambda at_ms: at_ms + 203,
          'constant': lambda at_ms: -500.0, 'none': lambda at_ms: -BEGIN_NS / MS}


@pytest.mark.parametrize('info_clock', CLOCKS.values(), ids=CLOCKS)
def test_camera_infos_of_another_clock_apply_from_their_reception_on(info_clock):
    clock = Clock()
    frames = memory(clock=clock, lens=False)
    for at_ms in range(0, 2000, 100):
        clock.now_ms = at_ms + 20
        frames.add_info(info(info_clock(at_ms), 10.0 if at_ms < 1000 else 20.0))
        frames.add_image(image(at_ms))
    focal_px = {at_ms: frames.get_view_at(ns(at_ms)).intrinsics.fx_px
                for at_ms in (300, 700, 1300, 1900)}
    assert focal_px == {300: 10, 700: 10, 1300: 20, 1900: 20}
    refused(Code.STALE, '/front/info: the camera info changed when the image .* was taken',
            lambda: frames.get_view_at(ns(1000)))


def test_a_camera_info_that_came_once_stays():
    clock = Clock()
    frames = memory(clock=clock, lens=False)
    frames.add_info(info(-1e6, 10.0))
    for at_ms in range(0, 60_000, 500):
        clock.now_ms = at_ms
        frames.add_image(image(at_ms))
    assert frames.get_newest_view().intrinsics.fx_px == 10


@pytest.mark.parametrize('info_clock', [lambda at_ms: at_ms, *CLOCKS.values()],
                         ids=['the same', *CLOCKS])
def test_after_a_change_of_resolution_an_image_takes_the_lens_of_its_size(info_clock):
    clock = Clock()
    frames = memory(clock=clock, lens=False)
    for at_ms in range(0, 1000, 100):
        clock.now_ms = at_ms
        width = 8 if at_ms < 500 else 16
        frames.add_image(image(at_ms, width=width))
        frames.add_info(info(info_clock(at_ms), width=width, focal_px=10.0 * width / 8))
    for at_ms in (400, 500, 900):
        assert frames.get_view_at(ns(at_ms)).intrinsics.fx_px == (10 if at_ms < 500 else 20)


def test_a_lens_that_is_lost_while_it_changed_is_not_guessed():
    frames = memory()
    for at_ms, focal_px in ((33, 10.0), (66, None), (99, 20.0)):
        frames.add_image(image(at_ms))
        if focal_px is not None:
            frames.add_info(info(at_ms, focal_px))
    refused(Code.STALE, 'which one belongs to it is unknown', lambda: frames.get_view_at(ns(66)))
    assert frames.get_view_at(ns(99)).intrinsics.fx_px == 20


def test_two_cameras_on_one_info_topic_are_not_told_apart_by_luck():
    frames = memory(lens=False)
    for at_ms in (0, 33, 66):
        frames.add_image(image(at_ms))
        for focal_px in (10.0, 20.0):
            frames.add_info(info(at_ms, focal_px))
    refused(Code.STALE, 'which one belongs to it is unknown', frames.get_newest_view)


def test_a_rectified_image_takes_the_lens_of_the_rectified_camera():
    frames = memory(replace(NO_DEPTH, rectified=True))
    frames.add_image(image(0))
    assert frames.get_newest_view().intrinsics.fx_px == 7


def test_an_image_without_a_frame_takes_that_of_its_lens():
    frames = memory()
    frames.add_image(stamped(image(0), 0, frame_id=''))
    assert frames.get_newest_view().frame_id == 'info_frame'


def test_the_mask_is_part_of_the_view_and_must_be_of_the_images_size():
    mask = np.zeros((6, 8), bool)
    frames = memory(mask=mask)
    frames.add_image(image(0))
    assert frames.get_newest_view().mask is mask
    frames = memory(mask=mask.T)
    frames.add_image(image(0))
    refused(Code.BAD_REQUEST, 'the mask of front is 6x8, the images are 8x6',
            frames.get_newest_view)


# --- depth ----------------------------------------------------------------------------------------

def test_an_image_has_the_depth_nearest_to_it():
    frames = memory(SOURCE)
    for at_ms, millimetres in ((80, 800), (105, 1050), (130, 1300)):
        frames.add_depth(depth(at_ms, millimetres))
    frames.add_image(image(100))
    assert frames.get_view_at(ns(100)).depth_m[0, 0] == pytest.approx(1.05)


@pytest.mark.parametrize(('sent', 'words'), [
    ([], 'no depth has come on /front/depth'),
    ([depth(21)], r'/front/depth nearest to the image of .* is 0\.021 s away '
     r'\(limits\.max_depth_lag_s 0\.02\)'),
    ([depth(0, width=4)], '/front/depth is 4x6, /front/image is 8x6'),
    ([depth(0, encoding='16SC1')], "/front/depth: .*'16SC1'; accepted: 16UC1, mono16, 32FC1"),
    ([depth(0, millimetres=0)], 'none of the 48 pixels on /front/depth has a depth')])
def test_a_depth_that_cannot_be_used_is_refused_not_left_out(sent, words):
    frames = memory(SOURCE)
    frames.add_image(image(0))
    for message in sent:
        frames.add_depth(message)
    refused(Code.NO_DEPTH, words, frames.get_newest_view)


def test_the_newest_image_is_the_newest_whose_depth_is_here():
    frames = memory(SOURCE)
    for at_ms in (0, 33):
        frames.add_image(image(at_ms, grey=at_ms))
        frames.add_depth(depth(at_ms))
    frames.add_image(image(66, grey=66))
    assert grey_of(frames.get_newest_view()) == 33
    assert grey_of(frames.get_nearest_view(ns(66), 1.0)) == 33
    frames.add_depth(depth(66))
    assert grey_of(frames.get_newest_view()) == 66


def test_depth_that_died_is_not_made_up_for_by_an_old_image():
    clock = Clock()
    frames = memory(SOURCE, clock=clock)
    frames.add_image(image(0))
    frames.add_depth(depth(0))
    frames.add_image(image(600))
    clock.now_ms = 600
    refused(Code.NO_DEPTH, r'is 0\.600 s away', frames.get_newest_view)


@pytest.mark.parametrize('frame_id', ['depth_eye', '/depth_eye'])
def test_depth_of_another_lens_is_refused_with_both_frames(frame_id):
    frames = memory(SOURCE)
    frames.add_image(image(0))
    frames.add_depth(stamped(depth(0), 0, frame_id))
    refused(Code.NO_DEPTH, "on /front/depth has frame 'depth_eye', its image has 'eye': depth is "
            'not registered to colour', frames.get_newest_view)


@pytest.mark.parametrize('frame_id', ['eye', '/eye', ''])
def test_depth_of_the_image_s_frame_or_of_none_is_used(frame_id):
    frames = memory(SOURCE)
    frames.add_image(image(0))
    frames.add_depth(stamped(depth(0, 1500), 0, frame_id))
    assert frames.get_newest_view().depth_m[0, 0] == pytest.approx(1.5)


def depth_info(focal_px=10.0, **size):
    return stamped(info(0, focal_px, **size), 0, 'depth_eye')


OWN_LENS = replace(SOURCE, depth_info_topic='/front/depth_info')


def registering(lookup, lens=None, width=16):
    """A memory with a plane 2 m from a depth lens that is 0.5 m behind the image's."""
    frames = ImageBuffer(OWN_LENS, MEMORY, Clock(), None, lookup)
    frames.add_info(info())
    frames.add_image(image(0))
    frames.add_depth(stamped(depth(0, 2000, width=width), 0, 'depth_eye'))
    if lens is not None:
        frames.add_depth_info(lens)
    return frames


def test_depth_of_another_lens_is_registered_by_its_camera_info_and_tf():
    asked = []

    def lookup(target_frame, source_frame, at_ns):
        asked.append((target_frame, source_frame, at_ns))
        return Transform(np.eye(3), np.array([0.0, 0.0, -0.5]))

    frames = registering(lookup, depth_info(20.0, width=16))
    assert frames.is_ready()
    view = frames.get_newest_view()
    assert asked == [('eye', 'depth_eye', ns(0))]
    assert view.depth_m.shape == (6, 8)
    assert np.nanmax(np.abs(view.depth_m - 1.5)) < 1e-6
    assert frames.get_newest_view() is view
    assert len(asked) == 1


def test_a_depth_that_waits_for_its_transform_does_not_hold_up_another_image():
    waits, sent = threading.Event(), threading.Event()

    def lookup(target_frame, source_frame, at_ns):
        if at_ns == ns(0):
            waits.set()
            assert sent.wait(WAIT_S)
        return Transform(np.eye(3), np.array([0.0, 0.0, -0.5]))

    frames = registering(lookup, depth_info(20.0, width=16))
    frames.add_image(image(100))
    frames.add_depth(stamped(depth(100, 2000, width=16), 100, 'depth_eye'))
    with ThreadPoolExecutor(3) as pool:
        first, again = (pool.submit(frames.get_view_at, ns(0)) for _ in range(2))
        try:
            assert waits.wait(WAIT_S)
            assert pool.submit(frames.get_view_at, ns(100)).result(timeout=5).stamp_ns == ns(100)
        finally:
            sent.set()
        assert first.result() is again.result() is frames.get_view_at(ns(0))


def no_lookup(*frames):
    raise Rejected(Code.NO_TF, 'the two are in two trees')


def far_aside(*frames):
    return Transform(np.eye(3), np.array([50.0, 0.0, 0.0]))


@pytest.mark.parametrize(('lookup', 'lens', 'words'), [
    (far_aside, None, 'no camera info has come on /front/depth_info'),
    (no_lookup, depth_info(width=16),
     "frame 'depth_eye', its image has 'eye', .* cannot be registered: the two are in two trees"),
    (far_aside, depth_info(width=16), 'none of the pixels on /front/depth is on the image when'),
    (far_aside, depth_info(width=8), '/front/depth_info is for 8x6 images, /front/depth is 16x6'),
    (far_aside, depth_info(0.0, width=16), '/front/depth_info: .* the camera is not calibrated')])
def test_depth_that_cannot_be_registered_is_refused(lookup, lens, words):
    frames = registering(lookup, lens)
    assert frames.is_ready() == (lens is not None)
    refused(Code.NO_DEPTH, words, frames.get_newest_view)


# --- other images ---------------------------------------------------------------------------------

def test_compressed_images_and_depth_are_read():
    frames = memory(SOURCE)
    picture = cv2.imencode('.png', np.full((6, 8, 3), (10, 20, 30), np.uint8))[1].tobytes()
    frames.add_image(stamped(CompressedImage(format='bgr8; png compressed bgr8',
                                             data=array.array('B', picture)), 0))
    millimetres = cv2.imencode('.png', np.full((6, 8), 1500, np.uint16))[1].tobytes()
    frames.add_depth(stamped(CompressedImage(format='16UC1; compressedDepth png',
                                             data=array.array('B', bytes(12) + millimetres)), 0))
    view = frames.get_newest_view()
    assert view.image[0, 0].tolist() == [30, 20, 10]
    assert view.depth_m[0, 0] == pytest.approx(1.5)


def test_an_image_that_cannot_be_read_is_refused_when_asked_for_by_its_topic():
    frames = memory()
    frames.add_image(image(0, encoding='nv21'))
    refused(Code.NO_IMAGE, "/front/image: .*'nv21'", frames.get_newest_view)
    frames.add_image(image(33, grey=5))
    assert grey_of(frames.get_newest_view()) == 5


# --- waiting --------------------------------------------------------------------------------------

def test_a_frame_is_ready_when_image_lens_and_depth_are_here():
    frames = memory(SOURCE, lens=False)
    states = [frames.is_ready(ns(0))]
    for add, message in ((frames.add_image, image(0)), (frames.add_info, info()),
                         (frames.add_depth, depth(5))):
        add(message)
        states.append(frames.is_ready(ns(0)))
    assert states == [False, False, False, True]
    assert frames.is_ready()


def test_it_is_no_use_to_wait_for_what_has_passed():
    frames = memory(SOURCE)
    frames.add_image(image(0))
    frames.add_depth(depth(33))
    assert frames.is_ready(ns(0)), 'the depth of a later image is here already'
    frames.add_image(image(66))
    assert frames.is_ready(ns(33)), 'a later image is here already'
    assert not frames.is_ready(ns(99))


def test_a_frame_that_comes_later_is_waited_for():
    frames = memory()
    later = threading.Timer(0.1, frames.add_image, (image(0),))
    later.start()
    assert frames.wait_for(lambda: frames.is_ready(ns(0)), WAIT_S)
    later.join()
    frames.get_view_at(ns(0))


def test_an_image_that_is_too_old_is_not_ready_until_a_fresh_one_comes():
    clock = Clock()
    frames = memory(clock=clock)
    frames.add_image(image(0))
    states = []
    for clock.now_ms in (1000, 1001):
        states.append(frames.is_ready())
    frames.add_image(image(900))
    assert [*states, frames.is_ready()] == [True, False, True]


def test_an_image_near_enough_is_ready_and_a_later_one_ends_the_wait():
    frames = memory()
    frames.add_image(image(0))
    assert frames.is_ready(ns(400), 0.5)
    assert not frames.is_ready(ns(600), 0.5), 'the next one may be nearer'
    frames.add_image(image(5000))
    frames.add_image(image(5033))
    assert frames.is_ready(ns(2000), 0.5), 'it has passed'


def test_waiting_ends_at_its_limit():
    frames = memory()
    assert not frames.wait_for(frames.is_ready, 0.01)


def test_waiting_ends_when_the_query_is_cancelled():
    asked = []
    assert not memory().wait_for(lambda: False, 600, lambda: asked.append(1) or len(asked) > 2)
    assert len(asked) == 3


def test_queries_and_callbacks_may_come_from_many_threads_at_once():
    frames = memory(SOURCE)
    frames.add_image(image(0))
    frames.add_depth(depth(0))

    def send():
        for n in range(300):
            frames.add_image(image(33 * n, grey=n % 256))
            frames.add_depth(depth(33 * n))

    def ask():
        answered = 0
        for _ in range(300):
            # Ten seconds of images pass in a moment here: one may be forgotten as it is looked at.
            with contextlib.suppress(Rejected):
                view = frames.get_nearest_view(frames.get_newest_stamp_ns(), 1.0)
                assert grey_of(view) == round((view.stamp_ns - BEGIN_NS) / MS / 33) % 256
                answered += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        sending, *asking = pool.submit(send), *(pool.submit(ask) for _ in range(3))
        sending.result()
        assert all(asked.result() > 100 for asked in asking)
