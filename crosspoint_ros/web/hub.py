"""What all browsers share: the state of the node, the answer that is shown, and their requests."""
from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from std_srvs.srv import Trigger

from crosspoint_ros.action import Correspond
from crosspoint_ros.msg import History, HistoryEntry, QueryResult
from crosspoint_ros.ros.client.node_info import (
    NodeCamera,
    NodeHealth,
    NodeInfo,
)
from crosspoint_ros.ros.client.results import Json, result_to_json
from crosspoint_ros.ros.conversions import stamp_to_ns, time_from_ns
from crosspoint_ros.ros.node.result_messages import is_answered
from crosspoint_ros.srv import Accept as AcceptService
from crosspoint_ros.srv import Correct as CorrectService
from crosspoint_ros.web.camera_poses import CameraPoses
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.node_monitor import NodeMonitor
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.protocol import (
    AcceptRequest,
    CancelRequest,
    ClickRequest,
    CorrectRequest,
    InstructRequest,
    NextImageRequest,
    NodeRequest,
    RequestError,
    SentImageRequest,
    StepRequest,
    encode_event,
    history_to_json,
    parse_request,
)
from crosspoint_ros.web.ros_bridge import NodeUnavailableError, RosBridge
from crosspoint_ros.web.session import MAX_OPEN_REQUESTS, BrowserSession


def select_displayed_result(last: QueryResult | None, history: History | None,
          is_last_newer: bool) -> QueryResult | None:
    """Return the answer to show, None for none.

    `last_is_newer`: the last result came after the history. Both are latched, so after a start
    they come in any order; a result that stands in the history is the history's matter.
    """
    if history is None:
        return last
    current = find_current_entry(history)
    if last is not None and is_last_newer and not _is_covered_by(last, history, current):
        return last
    return None if current is None else current.result


def _is_covered_by(last: QueryResult, history: History, current: HistoryEntry | None) -> bool:
    """Tell whether the history says what became of a result: it is in it, or did not get there.

    A correction that was refused is of the same click; what it was to correct stands.
    """
    if last.query_id in {entry.result.query_id for entry in history.entries}:
        return True
    return (current is not None and not is_answered(last)
            and _click_key(last) == _click_key(current.result))


def _click_key(result: QueryResult) -> tuple[str, int, float, float]:
    clicked = result.clicked
    return clicked.camera, stamp_to_ns(clicked.header.stamp), clicked.x, clicked.y


def find_current_entry(history: History) -> HistoryEntry | None:
    """Return the newest entry that is not undone; None if its target was cleared."""
    kept = list(history.entries)[:len(history.entries) - history.undone]
    if not kept or (kept[-1].result.has_target and not history.current):
        return None
    return kept[-1]


PERIOD_S = 0.25


class Hub:
    """The one place where news of the node become events for every browser; asyncio's thread."""

    def __init__(self, bridge: RosBridge) -> None:
        self._bridge = bridge
        self.streams = ImageStreams(bridge, self._on_image)
        self._monitor = NodeMonitor(bridge, self._on_node, self._on_status)
        self.sessions: set[BrowserSession] = set()
        self._node_info, self._health, self._status = NodeInfo(), NodeHealth(), f'looking for {bridge.name}'
        self._poses = CameraPoses(bridge)
        self._overlay = Overlay(self._poses, self._find_camera)
        self._scene: Json = {}
        self._result: QueryResult | None = None
        self._history: History | None = None
        self._is_result_newer = True
        self._displayed: Json = {'result': None}  # of the answer that is shown
        bridge.subscribe(self._on_result, self._on_history, self._on_diagnostics)

    # News of the node

    def _on_node(self, node_info: NodeInfo) -> None:
        self._node_info, self._overlay.base_frame = node_info, node_info.base_frame
        self._broadcast(self._state_event())

    def _on_status(self, status: str) -> None:
        self._status = status
        if status:
            self._bridge.fail_pending(status)
        self._broadcast(self._state_event())

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        health = NodeHealth.from_diagnostics(array, self._bridge.name)
        if health is not None and health != self._health:
            self._health = health
            self._broadcast(self._state_event())

    def _on_result(self, result: QueryResult) -> None:
        self._result, self._is_result_newer = result, True
        self._update_displayed()

    def _on_history(self, history: History) -> None:
        self._history, self._is_result_newer = history, False
        self._broadcast(encode_event('history', history_to_json(history)))
        self._update_displayed()

    def _on_image(self, image: CameraImage) -> None:
        for browser in self.sessions:
            browser.notify_image(image.camera)

    def _state_event(self) -> str:
        problems, topics = dict(self._health.cameras), dict(self._health.image_topics)
        return encode_event('state', {
            'node': self._bridge.name, 'words': self._status, 'matcher': self._health.matcher,
            'can_ground': self._health.can_ground, 'base_frame': self._node_info.base_frame,
            'target_frame': self._node_info.target_frame,
            'cameras': [{'name': c.name, 'topic': topics.get(c.name) or c.image_topic,
                         'problem': problems.get(c.name, '')} for c in self._node_info.cameras]})

    def _displayed_event(self) -> str:
        """The answer that is on the screen: the last one, or where undo and redo stand."""
        return encode_event('shown', {**self._displayed, 'now': {
            name: self._overlay.track_mark(picture) for name, picture in self.streams.newest.items()}})

    def _update_displayed(self) -> None:
        result = select_displayed_result(self._result, self._history, self._is_result_newer)
        content = {'result': None if result is None else result_to_json(result)}
        if content == self._displayed:  # what is told twice would wipe later words away
            return
        self._displayed = content
        self._overlay.set_result(result)
        if result is not None:
            self.streams.pin([result.clicked, *(c.found for c in result.correspondences)])
        self._broadcast(self._displayed_event())
        self._broadcast_scene()

    def _broadcast_scene(self) -> None:
        scene = self._overlay.build_scene(self.streams.newest)
        if scene != self._scene:
            self._scene = scene
            self._broadcast(encode_event('scene', scene))

    def _broadcast(self, event: str) -> None:
        for browser in list(self.sessions):
            browser.send_event(event)

    # Browsers come and go

    def add_session(self, session: BrowserSession) -> None:
        """Tell a new browser all that is known."""
        self.sessions.add(session)
        session.send_event(self._state_event())
        if self._history is not None:
            session.send_event(encode_event('history', history_to_json(self._history)))
        session.send_event(self._displayed_event())
        session.send_event(encode_event('scene', self._scene or self._overlay.build_scene({})))
        self._poses.set_active(True)

    def remove_session(self, session: BrowserSession) -> None:
        """Forget a browser; what it asked is answered all the same."""
        self.sessions.discard(session)

    async def run(self) -> None:
        """Leave the topics that nobody looks at, and tell where cameras are, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self._poses.set_active(bool(self.sessions))
            self._overlay.resolve_poses()
            self._broadcast_scene()
            waiting = {camera for browser in self.sessions for camera in browser.awaited}
            self.streams.drop_unused(waiting)

    def track_mark(self, image: CameraImage) -> Json:
        """Where on a picture the mark of the answer belongs, see `Anchors`."""
        return self._overlay.track_mark(image)

    # Requests of the browsers

    def handle_message(self, session: BrowserSession, text: str) -> None:
        """Do what a message asks; what is wrong with it is told to whoever sent it."""
        try:
            request = parse_request(text)
            if isinstance(request, NextImageRequest):
                self._request_image(session, request)
            elif isinstance(request, SentImageRequest):
                session.resend_image(request)
            elif isinstance(request, CancelRequest):
                for task in session.tasks:
                    self._bridge.cancel(task)
            elif len(session.tasks) >= MAX_OPEN_REQUESTS:
                session.send_event(_encode_refusal(request.id, f'{MAX_OPEN_REQUESTS} of your requests are still open'))
            else:
                session.add_task(asyncio.ensure_future(self._reply(session, request)))
        except RequestError as bad:
            session.send_event(encode_event('bad_request', {'message': str(bad)}))

    def _request_image(self, session: BrowserSession, request: NextImageRequest) -> None:
        camera = self._find_camera(request.camera)
        if camera is None:
            raise RequestError(f'there is no camera {request.camera!r}')
        session.await_image(request)
        self.streams.request(camera)
        self._poses.request_intrinsics(camera)

    def _find_camera(self, name: str) -> NodeCamera | None:
        """The camera of that name, its topic as the node says that it is after remapping."""
        camera = self._node_info.camera(name)
        topic = dict(self._health.image_topics).get(name)
        return replace(camera, image_topic=topic) if camera and topic else camera

    async def _reply(self, session: BrowserSession, request: NodeRequest) -> None:
        try:
            message = await self._call_node(session, request)
        except NodeUnavailableError as unanswered:
            message = {'ok': False, 'message': str(unanswered)}
        session.send_event(encode_event('reply', {'id': request.id, **message}))

    async def _call_node(self, session: BrowserSession, request: NodeRequest) -> Json:
        if isinstance(request, (ClickRequest, InstructRequest)):
            return await self._send_query(session, request)
        if isinstance(request, CorrectRequest):
            reply = await self._bridge.call('correct', CorrectService.Request(
                query_id=request.query_id, camera=request.camera, x=request.x, y=request.y))
            return _summarize_result(reply.result)
        if isinstance(request, AcceptRequest):
            reply = await self._bridge.call('accept', AcceptService.Request(
                query_id=request.query_id))
        else:
            assert isinstance(request, StepRequest)
            reply = await self._bridge.call(request.step, Trigger.Request())
        return {'ok': reply.success, 'message': reply.message}

    async def _send_query(self, session: BrowserSession, request: ClickRequest | InstructRequest) -> Json:
        goal = Correspond.Goal(camera=request.camera, x=math.nan, y=math.nan)
        if isinstance(request, ClickRequest):
            goal.stamp, goal.x, goal.y = time_from_ns(int(request.stamp)), request.x, request.y
        else:
            goal.instruction = request.instruction

        def at_stage(stage: str, elapsed_s: float) -> None:
            session.send_event(encode_event('progress', {'id': request.id, 'stage': stage,
                                            'elapsed_s': round(elapsed_s, 3)}))

        return _summarize_result(await self._bridge.correspond(goal, asyncio.current_task(), at_stage))


def _summarize_result(result: Any) -> Json:
    told = result_to_json(result)
    found = any(answer['verdict'] != 'refused' for answer in told['found'])
    return {'ok': found, 'message': told['message'], 'query_id': told['query_id']}


def _encode_refusal(number: int, message: str) -> str:
    return encode_event('reply', {'id': number, 'ok': False, 'message': message})
