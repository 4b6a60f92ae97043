"""Through the lifecycle and back: every query ends once, and nothing is left behind."""
from __future__ import annotations

from collections import Counter

import fake_matchers
import numpy as np
import pytest
from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.msg import Status
from crosspoint_ros.srv import Correspond as CorrespondService
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from two_camera_rig import Rig, run_rig

from crosspoint_ros.ros.node.query_queue import QueryRequest

MIDDLE = np.array([159.5, 119.5])


def entities(rig: Rig) -> Counter[str]:
    """What the node has on the graph and in its executor, by kind."""
    node = rig.node
    kinds = {'publisher': node.publishers, 'subscription': node.subscriptions,
             'service': node.services, 'client': node.clients, 'timer': node.timers,
             'guard': node.guards, 'waitable': node.waitables}
    return Counter({kind: len(list(found)) for kind, found in kinds.items()})


def step(rig: Rig, *transitions: str) -> None:
    """Go through transitions, without a pause between them."""
    def go() -> None:
        for transition in transitions:
            done = getattr(rig.node, f'trigger_{transition}')()
            assert done == TransitionCallbackReturn.SUCCESS, transition

    rig.run_in_executor(go)


def test_twice_through_the_lifecycle_leaves_nothing_behind():
    with run_rig(start=False) as rig:
        unconfigured = entities(rig)
        for _ in range(2):
            step(rig, 'configure')
            assert entities(rig)['subscription'] > unconfigured['subscription']
            step(rig, 'activate')
            rig.discover()
            stamp = rig.send_frames()
            rig.results.clear()
            request = QueryRequest(camera='front', pixel=MIDDLE, stamp_ns=stamp)
            rig.run_in_executor(lambda request=request: rig.node._server.submit(request))
            assert rig.wait_for_result().status.code == Status.OK
            step(rig, 'deactivate')
            assert not any(c.is_subscribed for c in rig.node._server.cameras.values())
            step(rig, 'cleanup')
            assert entities(rig) == unconfigured
            assert rig.node._server is None


@pytest.mark.parametrize('matcher', ['SlowMatcher', 'HangingMatcher'])
def test_clients_are_answered_before_a_cleanup_takes_their_interfaces(matcher):
    fake_matchers.HangingMatcher.released.clear()
    with run_rig(matcher=f'fake_matchers:{matcher}', busy='queue') as rig:
        rig.discover()
        rig.send_frames()
        action = ActionClient(rig.cameras, CorrespondAction, '/crosspoint/correspond')
        service = rig.cameras.create_client(CorrespondService, '/crosspoint/correspond_once')
        rig.until(lambda: action.server_is_ready() and service.service_is_ready())
        sent = action.send_goal_async(CorrespondAction.Goal(camera='front', x=10.0, y=10.0))
        handle = rig.until(lambda: sent.done() and sent.result())
        called = service.call_async(CorrespondService.Request(camera='front', x=10.0, y=10.0))
        rig.until(lambda: len(rig.open_tasks()) == 2)
        rig.run_in_executor(rig.node.trigger_deactivate)
        given = handle.get_result_async()
        rig.until(lambda: given.done() and called.done())
        step(rig, 'cleanup', 'configure', 'activate')
        fake_matchers.HangingMatcher.released.set()
        codes = [given.result().result.result.status.code, called.result().result.status.code]
        assert codes == [Status.CANCELLED] * 2
        assert [r.status.code for r in rig.results] == codes
        action.destroy()


def test_a_cleanup_that_would_cut_off_a_reply_is_refused_and_the_node_lives():
    with run_rig(matcher='fake_matchers:SlowMatcher') as rig:
        rig.discover()
        rig.send_frames()
        service = rig.cameras.create_client(CorrespondService, '/crosspoint/correspond_once')
        rig.until(service.service_is_ready)
        called = service.call_async(CorrespondService.Request(camera='front', x=10.0, y=10.0))
        rig.until(rig.open_tasks)

        def both() -> TransitionCallbackReturn:
            rig.node.trigger_deactivate()
            return rig.node.trigger_cleanup()

        assert rig.run_in_executor(both) == TransitionCallbackReturn.FAILURE
        rig.until(called.done)
        assert called.result().result.status.code == Status.CANCELLED
        step(rig, 'cleanup')


def test_a_click_on_an_inactive_node_is_answered_though_a_cleanup_follows_at_once():
    with run_rig() as rig:
        rig.discover()
        step(rig, 'deactivate')

        def both() -> None:
            rig.node._server.submit(QueryRequest(camera='front', pixel=MIDDLE))
            assert rig.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS

        rig.run_in_executor(both)
        assert rig.wait_for_result().status.code == Status.BUSY


def test_a_mask_that_is_no_picture_leaves_the_node_unconfigured_with_nothing_on_the_graph():
    with run_rig(start=False, front__mask_path='/nowhere.png') as rig:
        before = entities(rig)
        assert rig.run_in_executor(rig.node.trigger_configure) == TransitionCallbackReturn.FAILURE
        assert entities(rig) == before
