"""The node over real DDS: every way a click comes in, and every way an answer goes out."""
from __future__ import annotations

import time

import numpy as np
import pytest
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import Correspondence, GraspTarget, QueryResult, Status
from crosspoint_ros.srv import Correspond as CorrespondService
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped, PoseStamped
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from two_camera_rig import LATCHED_QOS, Rig, project_point, run_rig
from visualization_msgs.msg import Marker, MarkerArray

from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.ros.node.query_queue import QueryRequest

POINT_BASE_M = (0.05, 0.02, 0.0)


def click(rig: Rig, topic: str, message: object) -> QueryResult:
    """Publish once, and wait for the one result."""
    publisher = rig.cameras.create_publisher(type(message), topic, 10)
    rig.until(publisher.get_subscription_count, what=f'a listener on {topic}')
    rig.results.clear()
    publisher.publish(message)
    result = rig.wait_for_result()
    rig.cameras.destroy_publisher(publisher)
    return result


def pixel_click(point_base_m=POINT_BASE_M, at_ns: int = 0) -> PointStamped:
    x, y = project_point('front', point_base_m)
    message = PointStamped(point=Point(x=x, y=y))
    message.header.stamp = time_from_ns(at_ns)
    return message


def heard(rig: Rig, kind: type, topic: str, qos=LATCHED_QOS) -> list:
    """Subscribe, and collect what comes."""
    messages: list = []
    rig.cameras.create_subscription(kind, topic, messages.append, qos)
    return messages


def test_a_click_becomes_the_same_point_in_the_other_view_and_a_target(rig):
    stamp = rig.send_frames()
    result = click(rig, '/crosspoint/front/click', pixel_click())
    assert result.status.code == Status.OK
    assert result.status.message == ''
    (found,) = result.correspondences
    assert found.found.camera == 'side'
    assert (found.found.x, found.found.y) == pytest.approx(
        project_point('side', POINT_BASE_M), abs=0.5)
    assert found.verdict == Correspondence.SURE
    assert found.check == Correspondence.PASS
    assert stamp_to_ns(result.header.stamp) == stamp_to_ns(found.header.stamp) == stamp
    assert found.header.frame_id == 'side_optical'
    assert result.has_target
    position = result.target.pose.pose.position
    assert (position.x, position.y, position.z) == pytest.approx(POINT_BASE_M, abs=0.005)
    assert result.target.header.frame_id == 'base_link'
    assert result.target.method == GraspTarget.FUSED
    assert list(result.stages) == ['wait_images', 'transforms', 'match', 'verify', 'lift',
                                   'publish']
    assert min(result.stage_s) >= 0


def test_the_approach_points_into_the_surface(rig):
    rig.send_frames()
    pose = click(rig, '/crosspoint/front/click', pixel_click()).target.pose.pose
    x, y, z, w = (getattr(pose.orientation, axis) for axis in 'xyzw')
    approach = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    assert approach == pytest.approx((0.0, 0.0, -1.0), abs=0.02)  # down, into the plane z = 0


def test_a_click_is_answered_on_the_image_that_was_clicked(rig):
    earlier, later = rig.send_frames(), rig.send_frames()
    result = click(rig, '/crosspoint/front/click', pixel_click(at_ns=earlier))
    assert earlier < later
    assert stamp_to_ns(result.clicked.header.stamp) == earlier
    assert stamp_to_ns(result.correspondences[0].header.stamp) == earlier


def test_every_answer_topic_carries_the_same_query_and_keeps_the_last(rig):
    rig.send_frames()
    result = click(rig, '/crosspoint/front/click', pixel_click())
    topics = {'correspondence': Correspondence, 'grasp_target': PoseStamped, 'result': QueryResult,
              'markers': MarkerArray}
    late = {name: heard(rig, kind, f'/crosspoint/{name}') for name, kind in topics.items()}
    rig.until(lambda: all(late.values()), what='the last messages, for a late subscriber')
    assert str(late['correspondence'][0]) == str(result.correspondences[0])  # NaN is not NaN
    assert late['grasp_target'][0].pose == result.target.pose.pose
    assert late['grasp_target'][0].header == result.target.header
    kinds = [marker.type for marker in late['markers'][0].markers if marker.action == Marker.ADD]
    assert kinds.count(Marker.ARROW) == 1
    assert kinds.count(Marker.LINE_STRIP) == 2


def test_the_target_is_on_tf_until_it_is_cleared(rig):
    rig.send_frames()
    result = click(rig, '/crosspoint/front/click', pixel_click())
    frames = heard(rig, TFMessage, '/tf', QoSProfile(depth=100))

    def target() -> list:
        return [t for m in frames for t in m.transforms if t.child_frame_id == 'crosspoint_target']

    on_tf = rig.until(target, what='the target on TF')[-1]
    assert on_tf.header.frame_id == 'base_link'
    assert on_tf.transform.translation.x == result.target.pose.pose.position.x
    clear = rig.cameras.create_client(Trigger, '/crosspoint/clear')
    rig.until(clear.service_is_ready)
    done = clear.call_async(Trigger.Request())
    rig.until(done.done)
    assert result.query_id in done.result().message
    frames.clear()
    first = rig.ticks
    rig.until(lambda: rig.ticks > first + 3, what='three periods of the broadcast')
    assert target() == []


def test_a_target_is_kept_on_tf_though_the_clock_ticks_between_its_answer_and_its_result(rig):
    rig.send_frames()
    server, results = rig.node._server, len(rig.results)

    def ask_and_tick() -> None:  # on the executor, which thus cannot deliver the result meanwhile
        job = server.submit(QueryRequest('front', pixel=project_point('front', POINT_BASE_M)))
        end_s = time.monotonic() + 30.0
        while not job.is_done and time.monotonic() < end_s:
            time.sleep(0.001)
        server._on_tick()

    rig.run_in_executor(ask_and_tick)
    result = rig.wait_for_result(earlier=results)
    assert result.has_target
    frames = heard(rig, TFMessage, '/tf', QoSProfile(depth=100))
    rig.until(lambda: sum(t.child_frame_id == 'crosspoint_target'
                          for m in frames for t in m.transforms) > 2, what='the target on TF')


def test_a_target_that_was_cleared_reaches_no_late_subscriber(rig):
    rig.send_frames()
    click(rig, '/crosspoint/front/click', pixel_click())
    before = heard(rig, PoseStamped, '/crosspoint/grasp_target')
    rig.until(lambda: before, what='the latched target')
    clear = rig.cameras.create_client(Trigger, '/crosspoint/clear')
    rig.until(clear.service_is_ready)
    rig.until(clear.call_async(Trigger.Request()).done)
    after = heard(rig, PoseStamped, '/crosspoint/grasp_target')
    results = heard(rig, QueryResult, '/crosspoint/result')
    rig.until(lambda: results, what='what is still latched')
    assert after == []


def test_rqts_click_past_the_border_is_moved_onto_the_image(rig):
    rig.send_frames()
    result = click(rig, '/front/color/image_raw_mouse_left', Point(x=320.0, y=240.0))
    assert (result.clicked.x, result.clicked.y) == (319.0, 239.0)
    assert result.status.code != Status.BAD_REQUEST


def test_rqts_click_on_a_picture_of_another_size_is_not_moved(rig):
    rig.send_frames()
    result = click(rig, '/front/color/image_raw_mouse_left', Point(x=640.0, y=100.0))
    assert result.status.code == Status.BAD_REQUEST
    assert '(640.0, 100.0) is outside the 320x240 image' in result.status.message


def test_a_3d_click_in_rviz_goes_to_the_camera_that_sees_it_best(rig):
    rig.send_frames()
    x, y, z = POINT_BASE_M
    message = PointStamped(point=Point(x=x, y=y, z=z + 1e-4))
    message.header.frame_id = 'base_link'
    result = click(rig, '/clicked_point', message)
    assert result.status.code == Status.OK
    assert (result.clicked.x, result.clicked.y) == pytest.approx(
        project_point(result.clicked.camera, POINT_BASE_M), abs=0.5)


def test_a_3d_click_that_no_camera_sees_is_refused_camera_by_camera(rig):
    rig.send_frames()
    message = PointStamped(point=Point(x=5.0, y=5.0, z=0.1))
    message.header.frame_id = 'base_link'
    result = click(rig, '/clicked_point', message)
    assert result.status.code == Status.NOT_VISIBLE
    assert 'front' in result.status.message
    assert 'side' in result.status.message


def goal(**changes: object) -> dict:
    x, y = project_point('front', POINT_BASE_M)
    return {'camera': 'front', 'x': x, 'y': y, **changes}


def test_the_action_reports_the_stage_it_is_in_and_gives_the_typed_result(rig):
    rig.send_frames()
    client = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
    rig.until(client.server_is_ready)
    stages: list[str] = []
    stamp_ns = rig.cameras.now_ns()
    sent = client.send_goal_async(
        CorrespondAction.Goal(**goal(stamp=time_from_ns(stamp_ns))),
        feedback_callback=lambda m: stages.append(m.feedback.stage))
    rig.until(lambda: stages)  # before there is such an image
    rig.cameras.send_all(stamp_ns)
    given = sent.result().get_result_async()
    rig.until(given.done)
    assert given.result().status == 4  # SUCCEEDED
    result = given.result().result.result
    assert str(result) == str(rig.wait_for_result())
    assert stages[0] == 'wait_images'
    assert stages == [stage for stage in result.stages if stage in stages]
    client.destroy()


def call(rig: Rig, **changes: object) -> QueryResult:
    """Ask through the service."""
    client = rig.cameras.create_client(CorrespondService, '/crosspoint/correspond_once')
    rig.until(client.service_is_ready)
    rig.results.clear()
    future = client.call_async(CorrespondService.Request(**goal(**changes)))
    rig.until(future.done)
    rig.cameras.destroy_client(client)
    return future.result().result


def test_the_service_gives_the_same_answer_and_publishes_it_once(rig):
    rig.send_frames()
    result = call(rig)
    assert result.status.code == Status.OK
    assert str(rig.wait_for_result()) == str(result)
    assert len(rig.results) == 1


def test_only_the_cameras_that_were_asked_for_answer(rig):
    rig.send_frames()
    assert [c.found.camera for c in call(rig, other_cameras=['side']).correspondences] == ['side']


def test_a_camera_that_is_asked_for_twice_answers_once(rig):
    rig.send_frames()
    result = call(rig, other_cameras=['side', 'side'])
    assert [c.found.camera for c in result.correspondences] == ['side']
    assert result.status.code == Status.OK


def test_an_instruction_is_grounded_by_a_matcher_that_can(rig):
    rig.send_frames()
    result = call(rig, x=float('nan'), y=float('nan'), instruction='the drawer handle')
    assert result.status.code == Status.OK
    assert (result.clicked.x, result.clicked.y) == (159.5, 119.5)
    assert [c.confidence for c in result.correspondences] == pytest.approx([0.9], abs=1e-6)


def test_the_doubt_of_an_instruction_is_in_the_answer(rig):
    rig.send_frames()
    result = call(rig, x=float('nan'), y=float('nan'), instruction='a handle')
    assert result.status.code == Status.OK
    assert [c.confidence for c in result.correspondences] == pytest.approx([0.54], abs=1e-6)
    assert result.target.confidence < 0.6


def test_an_instruction_to_a_matcher_that_cannot_ground_is_not_supported():
    with run_rig(matcher='fake_matchers:NanMatcher') as rig:
        rig.discover()
        rig.send_frames()
        result = call(rig, x=float('nan'), y=float('nan'), instruction='the drawer handle')
        assert result.status.code == Status.NOT_SUPPORTED
        assert 'NanMatcher' in result.status.message


def test_overlays_are_drawn_while_somebody_looks(rig):
    rig.send_frames()
    seen = heard(rig, Image, '/crosspoint/side/overlay', 1)
    rig.until(lambda: rig.cameras.count_subscribers('/crosspoint/side/overlay')
              and rig.node.count_subscribers('/crosspoint/side/overlay'))

    def drawn() -> bool:
        click(rig, '/crosspoint/front/click', pixel_click())
        return bool(seen)

    rig.until(drawn, what='an overlay')
    picture = np.frombuffer(seen[0].data, np.uint8)
    plain = np.frombuffer(rig.cameras.pictures['side'].data, np.uint8)
    assert seen[0].encoding == 'rgb8'
    assert picture.size == plain.size
    assert 0.001 < np.mean(picture != plain) < 0.9


def test_diagnostics_name_every_camera_the_matcher_and_the_last_result(rig):
    rig.send_frames()
    click(rig, '/crosspoint/front/click', pixel_click())
    arrays = heard(rig, DiagnosticArray, '/diagnostics', 10)
    shown = [rig.ticks]

    def healthy() -> dict:
        if rig.ticks > shown[-1] + 2:  # not as fast as it can: TF would queue up behind
            rig.send_frames()
            shown.append(rig.ticks)
        found = {s.name: s for s in arrays[-1].status} if arrays else {}
        return found if all(s.level == DiagnosticStatus.OK for s in found.values()) else {}

    found = rig.until(healthy, what='diagnostics without a warning')
    matcher = 'fake_matchers:ExactMatcher'
    assert {name: s.hardware_id for name, s in found.items()} == {
        'crosspoint: camera front': 'front', 'crosspoint: camera side': 'side',
        'crosspoint: mount front': 'front', 'crosspoint: mount side': 'side',
        'crosspoint: matcher': matcher, 'crosspoint: last result': matcher,
        'crosspoint: follow': matcher}
    values = {v.key: v.value for v in found['crosspoint: camera front'].values}
    assert float(values['rate_hz']) > 0
    assert values['tf'] == 'yes'


def test_a_limit_changes_while_the_node_runs_and_other_parameters_do_not(rig):
    rig.send_frames()
    node = rig.node
    assert node.set_parameters([Parameter('limits.min_confidence', value=0.95)])[0].successful
    assert node.set_parameters([Parameter('limits.sure_confidence', value=0.99)])[0].successful
    refused = click(rig, '/crosspoint/front/click', pixel_click())
    assert refused.status.code == Status.LOW_CONFIDENCE
    assert '0.95' in refused.status.message
    assert not refused.has_target
    assert node.set_parameters([Parameter('limits.min_confidence', value=0.5)])[0].successful
    checked = click(rig, '/crosspoint/front/click', pixel_click())
    assert checked.correspondences[0].verdict == Correspondence.TO_BE_CHECKED
    assert node.set_parameters([Parameter('limits.sure_confidence', value=0.8)])[0].successful
    change = node.set_parameters([Parameter('base_frame', value='map')])[0]
    assert not change.successful
    assert 'cleanup' in change.reason


def test_with_no_history_the_cameras_are_left_alone_between_queries():
    with run_rig(history_s=0.0) as rig:
        rig.until(lambda: rig.cameras.count_publishers('/crosspoint/result'))
        images = rig.cameras.images['front']
        rig.until(rig.cameras.tf.get_subscription_count)
        assert images.get_subscription_count() == 0
        ask = rig.cameras.create_publisher(PointStamped, '/crosspoint/front/click', 10)
        rig.until(ask.get_subscription_count)
        ask.publish(pixel_click())
        rig.until(lambda: rig.cameras.send_all() and rig.results, what='an answer on new images')
        assert rig.results[0].status.code == Status.OK
        rig.until(lambda: images.get_subscription_count() == 0, what='the topics left')


def test_a_target_past_its_time_leaves_tf_and_its_markers():
    with run_rig(target_ttl_s=0.3) as rig:
        rig.discover()
        rig.send_frames()
        click(rig, '/crosspoint/front/click', pixel_click())
        marks = heard(rig, MarkerArray, '/crosspoint/markers')
        rig.until(lambda: marks and len(marks[-1].markers) == 1
                  and marks[-1].markers[0].action == Marker.DELETEALL, what='markers deleted')
        assert rig.node._server.targets[''].active_target is None


def test_a_remapped_camera_is_listened_to_and_clicked_under_its_new_name():
    remap = ['--ros-args', '-r', '/front/color/image_raw:=/cam/image']
    with run_rig(cli_args=remap) as rig:
        names: set[str] = set()
        rig.until(lambda: names.update(s.topic_name for s in rig.node.subscriptions)
                  or '/cam/image' in names, what='subscriptions')
        assert {'/cam/image', '/cam/image_mouse_left'} <= names
        assert not any(name.startswith('/front/color/image_raw') for name in names)


def test_under_a_namespace_all_names_move_along():
    with run_rig(namespace='/arm') as rig:
        names = dict(rig.node.get_topic_names_and_types())
        assert '/arm/crosspoint/result' in names
        assert '/arm/crosspoint/front/click' in names
        assert '/front/color/image_raw' in names  # absolute, as the parameters say
