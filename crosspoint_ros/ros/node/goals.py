"""The action and the services that take a query and wait for its result."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from crosspoint_ros.action import Correspond as CorrespondAction
from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.core.pipeline import LocateResult
from crosspoint_ros.msg import QueryResult
from crosspoint_ros.ros.client.results import is_accepted
from crosspoint_ros.ros.node.query_messages import DEEP_QOS, OnResult, request_from_goal
from crosspoint_ros.ros.node.query_queue import Correction, QueryRequest, QueryTask
from crosspoint_ros.srv import Correct
from crosspoint_ros.srv import Correspond as CorrespondService

RESULT_TIMEOUT_S = 300  # how long a goal's result can be fetched; rclpy's default is 10 s


# Takes a query; `OnResult` gets its one result.
Submit = Callable[[QueryRequest, OnResult], QueryTask]


@dataclass(eq=False)
class OpenGoal:
    """A goal whose query has no result yet. stage: the last that its client knows of."""

    goal_handle: ServerGoalHandle
    task: QueryTask
    stage: str = ''

    def publish_stage(self) -> None:
        """Publish the stage as feedback, if it is another."""
        if self.task.stages and self.task.stage != self.stage and self.goal_handle.is_active:
            self.stage = self.task.stage
            self.goal_handle.publish_feedback(CorrespondAction.Feedback(
                stage=self.stage, elapsed_s=self.task.age_s))


class GoalServer:
    """Offers `~/correspond`, `~/correspond_once` and `~/correct`.

    Their callbacks await the result, so that the executor's thread goes on meanwhile.
    """

    def __init__(self, node: Node, submit: Submit,
                 find_locate_result: Callable[[str], LocateResult | None]) -> None:
        """find_locate_result: of an earlier query, by its id, for a correction."""
        self._node, self._submit, self._find_locate_result = node, submit, find_locate_result
        self.pending_replies = 0  # goals and requests that wait for their reply
        self._goals: dict[bytes, OpenGoal] = {}  # by id
        group = ReentrantCallbackGroup()
        self._action = ActionServer(
            node, CorrespondAction, '~/correspond', self._on_goal, callback_group=group,
            cancel_callback=self._on_cancel, goal_service_qos_profile=DEEP_QOS,
            result_service_qos_profile=DEEP_QOS, cancel_service_qos_profile=DEEP_QOS,
            result_timeout=RESULT_TIMEOUT_S)
        self._services = [
            node.create_service(CorrespondService, '~/correspond_once', self._on_request,
                                callback_group=group, qos_profile=DEEP_QOS),
            node.create_service(Correct, '~/correct', self._on_correct, callback_group=group)]

    def close(self) -> None:
        """Take the action and the services off the graph."""
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)

    def tick(self) -> None:
        """Publish the stage of open goals; each as it begins would wake clients all the time."""
        for goal in self._goals.values():
            goal.publish_stage()

    async def _on_goal(self, goal_handle: ServerGoalHandle) -> CorrespondAction.Result:
        goal_id = bytes(goal_handle.goal_id.uuid)
        reply: Future = Future()
        self._goals[goal_id] = OpenGoal(goal_handle, self._submit(
            request_from_goal(goal_handle.request), reply.set_result))
        if goal_handle.is_cancel_requested:  # it came before the goal began
            self._on_cancel(goal_handle)
        result = await self._await_reply(reply)
        del self._goals[goal_id]
        if is_accepted(result):
            goal_handle.succeed()
        elif goal_handle.is_cancel_requested:
            goal_handle.canceled()
        else:
            goal_handle.abort()
        return CorrespondAction.Result(result=result)

    def _on_cancel(self, goal_handle: ServerGoalHandle) -> CancelResponse:
        if goal := self._goals.get(bytes(goal_handle.goal_id.uuid)):
            task = goal.task
            task.finish(Rejected(Code.CANCELLED, f'cancelled in stage {task.stage} after '
                                 f'{task.age_s:.2f} s'))
        return CancelResponse.ACCEPT

    async def _on_request(self, request: CorrespondService.Request,
                          response: CorrespondService.Response) -> CorrespondService.Response:
        response.result = await self._query(request_from_goal(request))
        return response

    async def _on_correct(self, request: Correct.Request,
                          response: Correct.Response) -> Correct.Response:
        corrected = self._find_locate_result(request.query_id)
        correction = Correction(request.query_id, request.camera,
                                np.array([request.x, request.y]), corrected)
        response.result = await self._query(
            QueryRequest(correction=correction) if corrected is None else QueryRequest(
                corrected.clicked.camera, corrected.clicked.stamp_ns, corrected.pixel,
                correction=correction))
        return response

    async def _query(self, request: QueryRequest) -> QueryResult:
        reply: Future = Future()
        self._submit(request, reply.set_result)
        return await self._await_reply(reply)

    async def _await_reply(self, reply: Future) -> QueryResult:
        """Await a reply and count it as pending."""
        self.pending_replies += 1
        try:
            return await reply
        finally:
            self.pending_replies -= 1
