"""Bad input: a typed status, words with value and limit, one result, no target, and it goes on."""
from __future__ import annotations

import time

import fake_matchers
import numpy as np
import pytest
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult, Status
from geometry_msgs.msg import Point, PointStamped
from rclpy.action import ActionClient
from two_camera_rig import (
    POSES,
    Rig,
    make_image_message,
    project_point,
    render_plane_depth_m,
    run_rig,
)

from crosspoint_ros.core.datatypes import Code, Intrinsics, Rejected
from crosspoint_ros.ros.client.results import format_result, is_target_sure
from crosspoint_ros.ros.node.query_queue import Correction, QueryRequest, QueryTask

MIDDLE = np.array([159.5, 119.5])
# What makes a query stay in a stage for a while.
STAGES: dict[str, dict[str, object]] = {
    'wait_images': {}, 'transforms': {'limits__wait_tf_s': 5.0, 'base_frame': 'map'},
    **{stage: {'matcher': 'fake_matchers:SlowStageMatcher', 'SlowStageMatcher__stage': stage,
               'SlowStageMatcher__delay_s': 5.0}
       for stage in ('match', 'verify', 'lift')}}


def ask(rig: Rig, timeout_s: float = 10.0, **changes: object) -> QueryResult:
    """Ask the node as its own clicks do, and take the one result from the topic."""
    rig.results.clear()
    rig.targets.clear()
    request = QueryRequest(**{'camera': 'front', 'pixel': MIDDLE, **changes})
    rig.run_in_executor(lambda: rig.node._server.submit(request))
    return rig.wait_for_result(timeout_s=timeout_s)


@pytest.mark.parametrize('by', ['action', 'topic'])
def test_a_hundred_at_once_get_a_result_each(by):
    with run_rig(busy='reject', limits__max_image_age_s=60.0) as rig:
        rig.discover()
        rig.send_frames()
        results: list[QueryResult] = []
        rig.cameras.create_subscription(QueryResult, '/crosspoint/result', results.append, 200)
        if by == 'action':
            client = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
            rig.until(client.server_is_ready)

            def send() -> None:
                client.send_goal_async(CorrespondAction.Goal(camera='front', x=159.5, y=119.5))
        else:
            clicks = rig.cameras.create_publisher(PointStamped, '/crosspoint/front/click', 200)
            rig.until(clicks.get_subscription_count)

            def send() -> None:
                clicks.publish(PointStamped(point=Point(x=159.5, y=119.5)))
        rig.until(lambda: rig.cameras.count_subscribers('/crosspoint/result') > 1)
        rig.run_in_executor(lambda: [send() for _ in range(100)])  # while the node can take none
        rig.until(lambda: len({r.query_id for r in results}) == 100, 20.0, 'a hundred results')


def assert_refused(rig: Rig, result: QueryResult, code: int, *words: str) -> None:
    """One result, of that code, in those words, and no target anywhere."""
    rig.wait_for_result()
    said = '; '.join([result.status.message, *(c.status.message for c in result.correspondences)])
    assert result.status.code == code, said
    for word in words:
        assert word in said
    assert not result.has_target
    before = rig.ticks
    rig.until(lambda: rig.ticks > before + 1)
    assert len(rig.results) == 1
    assert rig.targets == []
    on_tf = rig.node._server.targets[''].active_target
    assert on_tf is None or on_tf.query_id != result.query_id


def assert_carries_on(rig: Rig) -> None:
    """The next good query is answered."""
    rig.send_frames()
    assert ask(rig).status.code == Status.OK


@pytest.mark.parametrize(('changes', 'code', 'words'), [
    ({'pixel': np.array([320.0, 10.0])}, Status.BAD_REQUEST, ['320', '320x240']),
    ({'pixel': np.array([-1.0, 10.0])}, Status.BAD_REQUEST, ['-1']),
    ({'pixel': np.array([np.nan, 10.0])}, Status.BAD_REQUEST, ['nan', 'finite']),
    ({'camera': 'rear'}, Status.BAD_REQUEST, ['rear', 'front, side']),
    ({'camera': ''}, Status.BAD_REQUEST, ['front, side']),
    ({'other_cameras': ('rear',)}, Status.BAD_REQUEST, ['rear', 'front, side']),
    ({'other_cameras': ('front',)}, Status.BAD_REQUEST, ['front']),
    ({'stamp_ns': 1_000_000_000}, Status.STALE, ['1.000000000', 'history_s']),
])
def test_a_bad_request_is_refused_in_words(rig, changes, code, words):
    rig.send_frames()
    assert_refused(rig, ask(rig, **changes), code, *words)
    assert_carries_on(rig)


def test_a_query_before_any_image_names_the_topic():
    with run_rig(limits__wait_images_s=0.1) as rig:
        rig.discover()
        assert_refused(rig, ask(rig), Status.NO_IMAGE, '/front/color/image_raw')
        assert_carries_on(rig)


def test_with_only_one_camera_alive_the_other_is_refused_by_name():
    with run_rig(limits__wait_images_s=0.1) as rig:
        rig.discover()
        stamp = rig.cameras.now_ns()
        front = rig.node._server.cameras['front'].buffer
        rig.cameras.send_info('front', stamp)

        def sent() -> bool:
            rig.cameras.send_tf(stamp)
            rig.cameras.send_info('front', stamp)
            rig.cameras.send_depth('front', stamp)
            rig.cameras.send_image('front', stamp)
            return front.is_ready(stamp)

        rig.until(sent)
        assert_refused(rig, ask(rig), Status.NO_IMAGE, '/side/color/image_raw')


def test_without_a_lens_the_topic_of_the_lens_is_named():
    with run_rig(limits__wait_images_s=0.1) as rig:
        rig.discover()
        stamp = rig.cameras.now_ns()
        front = rig.node._server.cameras['front'].buffer

        def without_info() -> bool:
            rig.cameras.send_tf(stamp)
            for camera in ('front', 'side'):
                rig.cameras.send_depth(camera, stamp)
                rig.cameras.send_image(camera, stamp)
            return front.get_newest_stamp_ns() == stamp and front.has_depth

        rig.until(without_info)
        assert_refused(rig, ask(rig), Status.NO_IMAGE, '/front/color/camera_info')
        assert_carries_on(rig)


def test_a_3d_click_before_any_image_names_the_topics_not_tf():
    with run_rig(limits__wait_images_s=0.1) as rig:
        rig.discover()
        click = {'camera': '', 'pixel': None, 'point_frame': 'base_link'}
        assert_refused(rig, ask(rig, point_m=np.zeros(3), **click), Status.NO_IMAGE,
                       '/front/color/image_raw', '/side/color/image_raw')
        assert_refused(rig, ask(rig, point_m=np.array([np.nan, 0.0, 0.0]), **click),
                       Status.BAD_REQUEST, 'nan', 'finite')


def test_an_image_past_its_age_is_stale():
    with run_rig(limits__max_image_age_s=0.2, limits__wait_images_s=0.1) as rig:
        rig.discover()
        old = rig.cameras.now_ns() - 3_000_000_000
        rig.wait_until_buffered(old)
        assert_refused(rig, ask(rig), Status.STALE, '3.', 'max_image_age_s 0.2')
        assert_carries_on(rig)


def test_a_view_too_far_in_time_from_the_click_is_stale():
    with run_rig(limits__max_view_gap_s=0.05) as rig:
        rig.discover()
        stamp = rig.send_frames()
        front = rig.node._server.cameras['front'].buffer

        def later() -> bool:
            rig.cameras.send_tf(stamp + 10**9)
            rig.cameras.send_depth('front', stamp + 10**9)
            rig.cameras.send_image('front', stamp + 10**9)
            return front.is_ready(stamp + 10**9)

        rig.until(later)
        assert_refused(rig, ask(rig, stamp_ns=stamp + 10**9), Status.STALE, '1.000 s',
                       'max_view_gap_s 0.05')


def resent(rig: Rig, send) -> None:
    """Send a frame whose parts `send` changes, until the node has seen it."""
    stamp = rig.cameras.now_ns()
    side = rig.node._server.cameras['side'].buffer

    def seen() -> bool:
        rig.cameras.send_tf(stamp)
        send(stamp)
        return side.get_newest_stamp_ns() == stamp and side.has_info and side.has_depth

    rig.until(seen)


def whole_frame(rig: Rig, stamp: int, camera: str) -> None:
    rig.cameras.send_info(camera, stamp)
    rig.cameras.send_depth(camera, stamp)
    rig.cameras.send_image(camera, stamp)


@pytest.mark.parametrize(('lens', 'words'), [
    (Intrinsics(300.0, 300.0, 319.5, 239.5, 640, 480), ['640x480', '320x240']),
    (None, ['/side/color/camera_info', 'not calibrated']),
])
def test_a_lens_of_another_size_or_without_focal_length_refuses_its_view(lens, words):
    with run_rig(limits__wait_images_s=0.2) as rig:
        rig.discover()

        def send(stamp: int) -> None:
            whole_frame(rig, stamp, 'front')
            rig.cameras.send_depth('side', stamp)
            rig.cameras.send_image('side', stamp)
            if lens is None:
                rig.cameras.send_uncalibrated('side', stamp)
            else:
                rig.cameras.send_info('side', stamp, lens)

        resent(rig, send)
        assert_refused(rig, ask(rig), Status.NO_IMAGE, '/side/color/camera_info', *words)


@pytest.mark.parametrize(('depth', 'encoding', 'words'), [
    (np.ones((120, 160), np.float32), '32FC1', ['160x120', '320x240']),
    (np.ones((240, 320), np.float32), '32SC1', ['32SC1', '16UC1', '32FC1']),
    (np.zeros((240, 320), np.uint16), '16UC1', ['76800']),
])
def test_depth_that_cannot_be_used_refuses_its_view(depth, encoding, words):
    with run_rig() as rig:
        rig.discover()

        def send(stamp: int) -> None:
            whole_frame(rig, stamp, 'front')
            rig.cameras.send_info('side', stamp)
            rig.cameras.send_image('side', stamp)
            rig.cameras.depths['side'].publish(
                make_image_message(stamp, 'side_optical', encoding, depth))

        resent(rig, send)
        assert_refused(rig, ask(rig), Status.NO_DEPTH, '/side/depth', *words)


def test_missing_tf_refuses_and_names_the_frames():
    with run_rig(base_frame='map', limits__wait_tf_s=0.1) as rig:
        rig.discover()
        rig.send_frames()
        assert_refused(rig, ask(rig), Status.NO_TF, 'map', 'front_optical')


def test_tf_that_ends_before_the_image_is_not_stretched():
    with run_rig(limits__wait_tf_s=0.1) as rig:
        rig.discover()
        stamp = rig.send_frames()
        front = rig.node._server.cameras['front'].buffer

        def without_tf() -> bool:
            whole_frame(rig, stamp + 10**9, 'front')
            whole_frame(rig, stamp + 10**9, 'side')
            return front.is_ready(stamp + 10**9)

        rig.until(without_tf)
        assert_refused(rig, ask(rig, stamp_ns=stamp + 10**9), Status.NO_TF, 'front_optical')


def test_a_query_waits_for_tf_that_is_late():
    with run_rig(limits__wait_tf_s=5.0) as rig:
        rig.discover()
        stamp = rig.send_frames()

        def without_tf() -> bool:
            whole_frame(rig, stamp + 10**8, 'front')
            whole_frame(rig, stamp + 10**8, 'side')
            return all(c.buffer.is_ready(stamp + 10**8) for c in rig.node._server.cameras.values())

        rig.until(without_tf)
        request = QueryRequest(camera='front', pixel=MIDDLE, stamp_ns=stamp + 10**8)
        rig.run_in_executor(lambda: rig.node._server.submit(request))
        rig.until(lambda: any(j.stage == 'transforms' for j in rig.open_tasks()))
        rig.cameras.send_tf(stamp + 10**8)
        assert rig.wait_for_result().status.code == Status.OK


def test_a_loop_in_tf_is_refused_and_named():
    with run_rig(limits__wait_tf_s=0.1) as rig:
        rig.discover()
        stamp = rig.send_frames()
        front = rig.node._server.cameras['front'].buffer

        def looped() -> bool:
            rig.cameras.send_tf_loop(stamp + 10**8)
            whole_frame(rig, stamp + 10**8, 'front')
            whole_frame(rig, stamp + 10**8, 'side')
            return front.is_ready(stamp + 10**8)

        rig.until(looped)
        assert_refused(rig, ask(rig, stamp_ns=stamp + 10**8), Status.NO_TF, 'loop')


def test_two_cameras_at_the_same_place_and_no_depth_give_no_target():
    with run_rig(front__depth_topic='', side__depth_topic='',
                 matcher='fake_matchers:SamePixelMatcher') as rig:
        rig.until(lambda: all(p.get_subscription_count() for p in rig.cameras.images.values()))
        rig.until(lambda: rig.cameras.count_publishers('/crosspoint/result'))
        side = rig.node._server.cameras['side'].buffer
        stamp = rig.cameras.now_ns()

        def same_place() -> bool:
            rig.cameras.send_tf(stamp, poses={'front': POSES['front'], 'side': POSES['front']})
            for camera in ('front', 'side'):
                rig.cameras.send_info(camera, stamp)
                rig.cameras.send_image(camera, stamp)
            return side.get_newest_stamp_ns() == stamp and side.is_ready(stamp)

        rig.until(same_place)
        result = ask(rig, stamp_ns=stamp)
        assert result.status.code == Status.NO_DEPTH
        assert not result.has_target
        assert result.correspondences[0].check == 0  # UNKNOWN: no epipolar geometry


@pytest.mark.parametrize(('matcher', 'words'), [
    ('fake_matchers:RaisingMatcher', ['ZeroDivisionError']),
    ('fake_matchers:NanMatcher', ['nan']),
])
def test_a_matcher_that_fails_is_refused_as_such(matcher, words):
    with run_rig(matcher=matcher) as rig:
        rig.discover()
        rig.send_frames()
        assert_refused(rig, ask(rig), Status.MATCHER_FAILED, *words)
        rig.send_frames()
        assert ask(rig).status.code == Status.MATCHER_FAILED  # it carries on refusing


def test_a_matcher_that_hangs_times_out_while_images_and_diagnostics_go_on():
    fake_matchers.HangingMatcher.released.clear()
    with run_rig(matcher='fake_matchers:HangingMatcher', limits__max_query_s=0.4) as rig:
        rig.discover()
        rig.send_frames()
        assert_refused(rig, ask(rig), Status.TIMEOUT, 'match', 'max_query_s 0.4')
        rig.send_frames()  # images still come in
        assert_refused(rig, ask(rig), Status.TIMEOUT, 'still works on')
        fake_matchers.HangingMatcher.released.set()


def test_a_slow_matcher_holds_up_neither_images_nor_tf_and_can_be_cancelled():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=2.0) as rig:
        rig.discover()
        rig.send_frames()
        client = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
        rig.until(client.server_is_ready)
        x, y = project_point('front', (0.0, 0.0, 0.0))
        sent = client.send_goal_async(CorrespondAction.Goal(camera='front', x=x, y=y))
        rig.until(lambda: any(j.stage == 'match' for j in rig.open_tasks()))
        for _ in range(3):
            rig.send_frames()  # three new frames come in while the matcher works
        assert [j.stage for j in rig.open_tasks()] == ['match']
        handle = rig.until(lambda: sent.done() and sent.result())
        cancelled = handle.cancel_goal_async()
        rig.until(cancelled.done)
        given = handle.get_result_async()
        rig.until(given.done)
        assert given.result().status == 5  # CANCELED
        result = given.result().result.result
        assert_refused(rig, result, Status.CANCELLED, 'match')
        client.destroy()


@pytest.mark.parametrize('stage', STAGES)
def test_a_cancel_in_any_stage_ends_the_goal_once(stage):
    with run_rig(limits__wait_images_s=5.0, **STAGES[stage]) as rig:
        rig.discover()
        if stage != 'wait_images':
            rig.send_frames()
        client = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
        rig.until(client.server_is_ready)
        sent = client.send_goal_async(CorrespondAction.Goal(camera='front', x=159.5, y=119.5))
        rig.until(lambda: any(j.stage == stage for j in rig.open_tasks()))
        handle = rig.until(lambda: sent.done() and sent.result())
        rig.until(handle.cancel_goal_async().done)
        given = handle.get_result_async()
        rig.until(given.done)
        assert given.result().status == 5
        assert_refused(rig, given.result().result.result, Status.CANCELLED, stage)
        client.destroy()


@pytest.mark.parametrize('stage', STAGES)
def test_deactivation_in_any_stage_ends_the_query_with_a_refusal(stage):
    with run_rig(limits__wait_images_s=5.0, **STAGES[stage]) as rig:
        rig.discover()
        if stage != 'wait_images':
            rig.send_frames()
        rig.run_in_executor(lambda: rig.node._server.submit(QueryRequest('front', pixel=MIDDLE)))
        rig.until(lambda: any(j.stage == stage for j in rig.open_tasks()))
        rig.run_in_executor(rig.node.trigger_deactivate)
        assert_refused(rig, rig.wait_for_result(), Status.CANCELLED, 'deactivated', stage)
        result = ask(rig)
        assert_refused(rig, result, Status.BUSY, 'not active', 'ros2 lifecycle set /crosspoint')


def answered_but_not_published(rig: Rig) -> QueryTask:
    """Ask, from the executor's thread, and keep it from publishing what the query thread found."""
    job = rig.node._server.submit(QueryRequest(camera='front', pixel=MIDDLE))
    while not job.is_done:
        time.sleep(0.001)
    return job


def test_a_cancel_while_the_answer_is_published_comes_too_late(rig):
    rig.send_frames()
    rig.targets.clear()

    def cancelled() -> bool:
        job = answered_but_not_published(rig)
        return job.finish(Rejected(Code.CANCELLED, 'too late'))

    assert not rig.run_in_executor(cancelled)
    assert rig.wait_for_result().status.code == Status.OK
    before = rig.ticks
    rig.until(lambda: rig.ticks > before + 1)
    assert len(rig.results) == len(rig.targets) == 1


def test_deactivation_before_an_answer_is_published_cancels_it_and_no_target_was_ever_there():
    with run_rig() as rig:
        rig.discover()
        rig.send_frames()

        def deactivated() -> None:
            answered_but_not_published(rig)
            rig.node.trigger_deactivate()

        rig.run_in_executor(deactivated)
        result = rig.wait_for_result()
        assert result.status.code == Status.CANCELLED
        assert 'was deactivated before it was published' in result.status.message
        assert not result.has_target
        assert rig.targets == []
        assert rig.node._server.targets[''].active_target is None


def test_two_clicks_within_a_millisecond_get_one_result_each():
    with run_rig(matcher='fake_matchers:SlowMatcher', SlowMatcher__delay_s=0.2) as rig:
        rig.discover()
        rig.send_frames()
        request = QueryRequest(camera='front', pixel=MIDDLE)

        def both() -> None:
            rig.node._server.submit(request)
            rig.node._server.submit(request)

        rig.run_in_executor(both)
        rig.until(lambda: len(rig.results) >= 2)
        assert [r.status.code for r in rig.results] == [Status.CANCELLED, Status.OK]
        assert len({r.query_id for r in rig.results}) == 2
        assert rig.results[1].query_id in rig.results[0].status.message


def test_a_second_node_of_the_same_name_makes_both_refuse():
    with run_rig() as rig, run_rig(domain=rig.domain) as twin:
        rig.discover()
        rig.send_frames()
        name = ('crosspoint', '/')
        rig.until(lambda: rig.node.get_node_names_and_namespaces().count(name) == 2)
        assert_refused(rig, ask(rig), Status.BUSY, '2 nodes', '/crosspoint')
        assert twin.node is not rig.node


def test_time_that_jumps_back_forgets_images_and_answers_new_ones():
    with run_rig() as rig:
        rig.discover()
        late = rig.send_frames()
        rig.run_in_executor(lambda: rig.node._server.reset(-5.0))
        result = ask(rig, stamp_ns=late)
        assert_refused(rig, result, Status.NO_IMAGE)
        assert_carries_on(rig)


def test_a_bag_that_loops_without_a_clock_is_forgotten_with_its_tf():
    with run_rig(limits__max_image_age_s=60.0) as rig:
        rig.discover()
        begin = rig.send_frames() - 5 * 10**9
        server = rig.node._server
        target = answer(rig)

        def began_again() -> bool:
            for camera in server.cameras:
                whole_frame(rig, begin, camera)
            return all(c.buffer.get_newest_stamp_ns() == begin for c in server.cameras.values())

        rig.until(began_again)
        rig.until(lambda: server.targets[''].active_target is not target)
        assert_refused(rig, ask(rig, stamp_ns=begin), Status.NO_TF)
        assert not server.transforms.is_moving('front_optical')


def answer(rig: Rig):
    """The target of a query that is answered."""
    assert ask(rig).status.code == Status.OK
    return rig.until(lambda: rig.node._server.targets[''].active_target)


@pytest.mark.parametrize('wrong_s', [5.0, 1.5, -5.0, None], ids=str)
def test_one_wrong_stamp_of_one_camera_takes_neither_target_nor_images_nor_tf(wrong_s):
    with run_rig(limits__max_image_age_s=60.0) as rig:
        rig.discover()
        stamp = rig.send_frames()
        server = rig.node._server
        target, side = answer(rig), server.cameras['side'].buffer
        received = received_images(side)
        wrong = 0 if wrong_s is None else rig.cameras.now_ns() + int(wrong_s * 1e9)
        rig.cameras.send_image('side', wrong)
        rig.until(lambda: len(received) == 1)
        later = rig.send_frames()
        assert side.get_newest_stamp_ns() == later
        assert server.targets[''].active_target is target
        for camera in server.cameras.values():
            assert camera.buffer.is_ready(stamp)
        assert ask(rig, stamp_ns=stamp).status.code == Status.OK


def received_images(buffer) -> list:
    """The images that are given to a buffer from now on."""
    received, add = [], buffer.add_image

    def add_and_note(message):
        received.append(message)
        return add(message)

    buffer.add_image = add_and_note
    return received


def test_a_camera_whose_own_clock_steps_is_alone_forgotten():
    with run_rig(limits__max_image_age_s=60.0) as rig:
        rig.discover()
        stamp = rig.send_frames()
        server = rig.node._server
        target = answer(rig)
        front, side = (server.cameras[c].buffer for c in ('front', 'side'))

        def stepped() -> bool:
            whole_frame(rig, rig.cameras.now_ns(), 'front')
            whole_frame(rig, stamp - 10 * 10**9, 'side')
            return side.get_newest_stamp_ns() == stamp - 10 * 10**9

        rig.until(stepped)
        assert front.is_ready(stamp)
        assert server.targets[''].active_target is target
        assert server.transforms.is_moving('front_optical')


@pytest.mark.parametrize('encoding', ['mono8', 'rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono16',
                                      'bayer_rggb8', 'yuv422_yuy2'])
def test_every_common_encoding_is_answered(rig, encoding):
    channels = {'mono8': 1, 'mono16': 1, 'bayer_rggb8': 1, 'yuv422_yuy2': 2, 'rgba8': 4,
                'bgra8': 4}.get(encoding, 3)
    kind = np.uint16 if encoding == 'mono16' else np.uint8
    pixels = np.full((240, 320, channels), 100, kind)

    def send(stamp: int) -> None:
        whole_frame(rig, stamp, 'front')
        rig.cameras.send_info('side', stamp)
        rig.cameras.send_depth('side', stamp)
        rig.cameras.images['side'].publish(
            make_image_message(stamp, 'side_optical', encoding, pixels))

    resent(rig, send)
    assert ask(rig).status.code == Status.OK


def test_an_unknown_encoding_is_refused_by_name(rig):
    def send(stamp: int) -> None:
        whole_frame(rig, stamp, 'front')
        rig.cameras.send_info('side', stamp)
        rig.cameras.send_depth('side', stamp)
        rig.cameras.images['side'].publish(make_image_message(
            stamp, 'side_optical', 'nv99', np.zeros((240, 320, 2), np.uint8)))

    resent(rig, send)
    result = ask(rig)
    assert result.status.code == Status.NO_IMAGE
    assert 'nv99' in result.status.message


# --- a target from one camera ---------------------------------------------------------------------

def ask_alone(depth_step_m: float = 0.0, **parameters: object) -> tuple[QueryResult, np.ndarray]:
    """Click where the other camera does not confirm; return the result and the point, m.

    depth_step_m: by which the left half of the clicked depth is nearer.
    """
    with run_rig(**{'allow_unconfirmed': True, 'limits__max_image_age_s': 60.0, **parameters}
                 ) as rig:
        depth_m = render_plane_depth_m(POSES['front'])
        depth_m[:, :160] -= depth_step_m
        rig.cameras.depth_images['front'] = make_image_message(0, 'front_optical', '32FC1', depth_m)
        rig.discover()
        rig.send_frames()
        pixel = project_point('front', (0.0, 0.0, 0.0))
        result = ask(rig, pixel=pixel)
        if result.has_target:
            rig.until(lambda: rig.targets, what='~/grasp_target')
            assert rig.node._server.targets[''].active_target.query_id == result.query_id
        else:
            assert_refused(rig, result, result.status.code)
    at = result.target.pose.pose.position
    return result, np.array([at.x, at.y, at.z])


UNSEEN = {'ExactMatcher__offset_px': 500.0}
UNSURE = {'ExactMatcher__confidence': 0.3}
ELSEWHERE = {'ExactMatcher__offset_px': 30.0}


@pytest.mark.parametrize(('parameters', 'code'), [
    (UNSEEN, Status.NOT_VISIBLE), (UNSURE, Status.LOW_CONFIDENCE)])
def test_a_target_that_no_camera_confirms_is_by_the_clicked_depth_and_never_sure(parameters, code):
    result, point_base_m = ask_alone(**parameters)
    assert (result.status.code, result.has_target) == (Status.PARTIAL, True)
    (view,) = result.correspondences
    assert (view.status.code, view.verdict) == (code, Correspondence.REFUSED)
    assert result.status.message == ('no other view confirms the target: side: '
                                     + view.status.message.partition('; found at (')[0])
    assert result.target.method == GraspTarget.DEPTH_CLICKED
    assert 0.5 < result.target.confidence < 0.8
    assert not is_target_sure(result)
    assert 'to be checked' in format_result(result)
    assert np.linalg.norm(point_base_m) < 0.004


@pytest.mark.parametrize(('parameters', 'code', 'words'), [
    (ELSEWHERE, Status.INCONSISTENT, 'px off the clicked ray'),
    ({**UNSEEN, 'allow_unconfirmed': False}, Status.NOT_VISIBLE, 'outside the 320x240 image')])
def test_a_click_that_is_contradicted_or_must_be_confirmed_has_no_target(parameters, code, words):
    result, _ = ask_alone(**parameters)
    assert (result.status.code, result.has_target) == (code, False)
    assert words in result.status.message


def test_an_unconfirmed_target_on_a_rim_tells_the_doubt():
    result, _ = ask_alone(depth_step_m=0.08, **UNSEEN)
    assert result.target.method == GraspTarget.DEPTH_CLICKED
    assert result.target.confidence < 0.8
    assert 'the click is on a rim: the depth of front jumps there' in result.status.message
    assert 'on a rim' in format_result(result)


def send_without_tf(rig: Rig) -> None:
    """Send images and lenses, neither TF nor depth, until the node has them."""
    stamp_ns = 0

    def here() -> bool:
        nonlocal stamp_ns
        if stamp_ns and rig.is_buffered(stamp_ns):
            return True
        stamp_ns = rig.cameras.now_ns()
        for camera in POSES:
            rig.cameras.send_info(camera, stamp_ns)
            rig.cameras.send_image(camera, stamp_ns)
        return rig.is_buffered(stamp_ns)

    rig.until(here, what='frames')


def test_without_any_tf_the_node_answers_by_the_images_alone_if_it_is_allowed_to():
    with run_rig(use_tf=False, matcher='fake_matchers:SamePixelMatcher', base_frame='nowhere',
                 limits__wait_tf_s=30.0, limits__max_image_age_s=60.0) as rig:
        rig.until(lambda: all(p.get_subscription_count() for p in rig.cameras.images.values()))
        send_without_tf(rig)
        started_s = time.monotonic()
        result = ask(rig)
        assert time.monotonic() - started_s < 10  # nothing waits for TF
        found, = result.correspondences
        assert found.status.code == Status.OK, found.status.message
        assert found.verdict != Correspondence.REFUSED
        assert (found.found.x, found.found.y) == (159.5, 119.5)
        assert_refused(rig, result, Status.NO_DEPTH, 'use_tf is false', 'set use_tf: true',
                       'transform from base_frame')
        # TF and depth that are there are not used either.
        rig.send_frames()
        result = ask(rig)
        assert_refused(rig, result, Status.NO_DEPTH, 'use_tf is false')
        assert rig.node.count_subscribers('/front/depth') == 0
        # A correction by hand is 2D too, and a 3D point is in no image.
        located = rig.node._server.review.history.find_locate_result(result.query_id)
        result = ask(rig, correction=Correction(result.query_id, 'side', MIDDLE + 9, located))
        assert result.correspondences[0].found.x == 168.5
        assert_refused(rig, result, Status.NO_DEPTH, 'use_tf is false')
        result = ask(rig, pixel=None, point_m=np.zeros(3), point_frame='base_link')
        assert_refused(rig, result, Status.NO_TF, 'a 3D point', 'use_tf is false')


def test_with_use_tf_the_same_cameras_are_refused_for_their_tf():
    with run_rig(matcher='fake_matchers:SamePixelMatcher', base_frame='nowhere',
                 limits__wait_tf_s=0.1, front__depth_topic='', side__depth_topic='',
                 limits__max_image_age_s=60.0) as rig:
        rig.until(lambda: all(p.get_subscription_count() for p in rig.cameras.images.values()))
        send_without_tf(rig)
        assert_refused(rig, ask(rig), Status.NO_TF, 'nowhere')
