"""An exception in any callback is a logged error and a refusal, never the end of the node."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import QueryResult, Status
from crosspoint_ros.srv import Correspond as CorrespondService
from geometry_msgs.msg import Point, PointStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from two_camera_rig import Rig, run_rig
from visualization_msgs.msg import InteractiveMarkerFeedback

from crosspoint_ros.ros.node.query_queue import QueryRequest

MIDDLE = np.array([159.5, 119.5])


def fail(*arguments: Any, **options: Any) -> Any:
    raise ZeroDivisionError('a bug')


def ask(rig: Rig) -> QueryResult:
    """Send a good query, and return its result."""
    rig.send_frames()
    before = len(rig.results)
    rig.run_in_executor(lambda: rig.node._server.submit(
        QueryRequest(camera='front', pixel=MIDDLE)))
    return rig.wait_for_result(before)


@pytest.fixture
def rig():
    with run_rig(limits__max_image_age_s=60.0) as rig:
        rig.discover()
        rig.send_frames()
        rig.log_messages, rig.allows_errors = [], True
        rig.cameras.create_subscription(Log, '/rosout', lambda m: rig.log_messages.append(m.msg),
                                        100)
        rig.until(lambda: rig.cameras.count_publishers('/rosout'))
        yield rig


def assert_goes_on(rig: Rig) -> None:
    """The next good query is answered."""
    assert ask(rig).status.code == Status.OK


def test_a_callback_of_rclpy_s_own_executor_that_raises_ends_the_program(rig):
    executor = SingleThreadedExecutor(context=rig.context)  # what the node's executor is there for
    executor.create_task(fail)
    with pytest.raises(ZeroDivisionError):
        executor.spin_once(timeout_sec=1.0)
    executor.shutdown()


@pytest.mark.parametrize('where', ['subscription', 'timer', 'guard', 'task', 'coroutine'])
def test_a_callback_that_raises_is_logged_once_with_its_traceback(rig, where):
    node, executor = rig.node, rig._spinning
    if where == 'subscription':
        publisher = rig.cameras.create_publisher(Point, '/raises', 10)
        rig.run_in_executor(lambda: node.create_subscription(Point, '/raises', fail, 10))
        rig.until(publisher.get_subscription_count)
        publisher.publish(Point())
        publisher.publish(Point())
    elif where == 'timer':
        rig.run_in_executor(lambda: node.create_timer(0.05, fail))
    elif where == 'guard':
        rig.run_in_executor(lambda: node.create_guard_condition(fail)).trigger()
    elif where == 'task':
        executor.create_task(fail)
    else:
        async def fail_later() -> None:
            fail()
        executor.create_task(fail_later)
    rig.until(lambda: executor.error_count >= (2 if where in ('subscription', 'timer') else 1))
    assert_goes_on(rig)
    rig.until(lambda: any('a bug' in message for message in rig.log_messages))
    logged = [message for message in rig.log_messages if 'a bug' in message]
    assert len(logged) == 1
    assert 'in fail' in logged[0]  # the traceback


@pytest.mark.parametrize('stage', ['find_rejection', 'add_result', 'publish_step'])
def test_a_bug_while_a_query_is_taken_or_published_refuses_it_and_leaves_no_target(
        rig, monkeypatch, stage):
    review = rig.node._server.review
    with monkeypatch.context() as patched:
        patched.setattr(review, stage, fail)
        result = ask(rig)
        rig.until(lambda: not rig.node._server._unpublished)
    if stage != 'publish_step':  # the answer is out by then
        assert result.status.code == Status.MATCHER_FAILED
        assert 'ZeroDivisionError' in result.status.message
        assert not result.has_target
        assert rig.node._server.targets[''].active_target is None
    assert len(rig.results) == 1
    assert_goes_on(rig)


def test_a_click_whose_bytes_are_no_message_is_refused(rig):
    publisher = rig.cameras.create_publisher(PointStamped, '/crosspoint/front/click', 10)
    rig.until(publisher.get_subscription_count)
    for number, payload in enumerate((b'', b'\0\1\0\0', b'\0\1\0\0' + 30 * b'\xff')):
        publisher.publish(payload)
        result = rig.wait_for_result(number)
        assert (result.status.code, result.clicked.camera) == (Status.BAD_REQUEST, 'front')
    assert_goes_on(rig)


def test_a_bug_in_a_click_on_a_picture_is_a_refusal(rig, monkeypatch):
    markers = rig.node._server._image_markers
    monkeypatch.setattr(markers, '_build_request', fail)
    rig.run_in_executor(lambda: markers._on_feedback('front', InteractiveMarkerFeedback(
        event_type=InteractiveMarkerFeedback.BUTTON_CLICK)))
    result = rig.wait_for_result()
    assert (result.status.code, result.clicked.camera) == (Status.BAD_REQUEST, 'front')
    assert 'ZeroDivisionError' in result.status.message
    assert_goes_on(rig)


def test_clients_are_answered_by_services_and_actions_that_raise(rig, monkeypatch):
    server = rig.node._server
    monkeypatch.setattr(server.review, 'find_rejection', fail)
    monkeypatch.setattr(server.review.history, 'undo', fail)
    service = rig.cameras.create_client(CorrespondService, '/crosspoint/correspond_once')
    undo = rig.cameras.create_client(Trigger, '/crosspoint/undo')
    action = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
    rig.until(lambda: service.service_is_ready() and undo.service_is_ready()
              and action.server_is_ready())
    called = [service.call_async(CorrespondService.Request(camera='front', x=9.0, y=9.0)),
              undo.call_async(Trigger.Request())]
    goal = action.send_goal_async(CorrespondAction.Goal(camera='front', x=9.0, y=9.0))
    rig.until(lambda: all(future.done() for future in (*called, goal)))
    reply = goal.result().get_result_async()
    rig.until(reply.done)
    assert called[0].result().result.status.code == Status.MATCHER_FAILED
    assert reply.result().result.result.status.code == Status.MATCHER_FAILED
    assert not called[1].result().success
    assert 'ZeroDivisionError: a bug' in called[1].result().message


def test_parameters_that_cannot_be_checked_are_refused_and_the_node_lives(rig, monkeypatch):
    monkeypatch.setattr(rig.node._config_parameters, 'explain_refusal', fail)
    client = rig.cameras.create_client(SetParameters, '/crosspoint/set_parameters')
    rig.until(client.service_is_ready)
    future = client.call_async(SetParameters.Request(parameters=[
        Parameter('limits.min_confidence', value=0.4).to_parameter_msg()]))
    rig.until(future.done)
    assert not any(result.successful for result in future.result().results)
    assert_goes_on(rig)


def test_a_transition_that_raises_is_logged_and_the_node_can_be_configured_again(
        rig, monkeypatch, capfd):
    client = rig.cameras.create_client(ChangeState, '/crosspoint/change_state')
    rig.until(client.service_is_ready)
    monkeypatch.setattr(rig.node._server, 'deactivate', fail)
    request = ChangeState.Request()
    request.transition.label = 'deactivate'
    future = client.call_async(request)
    rig.until(future.done)
    assert not future.result().success
    assert 'on_deactivate failed' in capfd.readouterr().err
    assert rig.run_in_executor(rig.node.trigger_configure) == TransitionCallbackReturn.SUCCESS
    rig.until(lambda: not rig.node._server.loader.is_loading)
    assert rig.run_in_executor(rig.node.trigger_activate) == TransitionCallbackReturn.SUCCESS
    assert_goes_on(rig)


