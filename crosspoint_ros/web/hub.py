"""State shared by all browsers: node status, displayed result, and the requests to the node."""
from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from crosspoint_ros.action import Correspond
from crosspoint_ros.core.tf_tree import stamp_to_ns
from crosspoint_ros.msg import History, HistoryEntry, QueryResult, TargetList
from crosspoint_ros.ros.client.node_info import NodeCamera, NodeHealth, NodeInfo
from crosspoint_ros.ros.client.results import Json, is_accepted, result_to_json
from crosspoint_ros.ros.conversions import time_from_ns
from crosspoint_ros.srv import Accept as AcceptService
from crosspoint_ros.srv import ClearTarget as ClearTargetService
from crosspoint_ros.srv import Correct as CorrectService
from crosspoint_ros.web import protocol
from crosspoint_ros.web.camera_poses import CameraPoses
from crosspoint_ros.web.evidence.server import EvidenceServer
from crosspoint_ros.web.evidence.session_export import export_session
from crosspoint_ros.web.evidence.settings import set_limit
from crosspoint_ros.web.image_streams import CameraImage, ImageStreams
from crosspoint_ros.web.node_monitor import NodeMonitor
from crosspoint_ros.web.overlay import Overlay
from crosspoint_ros.web.plain_text import make_plain
from crosspoint_ros.web.robot_clock import RobotClock
from crosspoint_ros.web.ros_bridge import NodeUnavailableError, RosBridge
from crosspoint_ros.web.session import MAX_OPEN_REQUESTS, BrowserSession
from crosspoint_ros.web.targets import TargetDisplay

PERIOD_S = 0.25
BEAT_PERIODS = 8  # the page takes the server for dead after two beats without one
MAX_AWAITED = 64  # cameras, per browser
MAX_RESULTS = 50  # whose verdicts are remembered: a target may outlive its place in the history


def select_displayed_result(last: QueryResult | None, history: History | None,
                            is_last_newer: bool) -> QueryResult | None:
    """Return the last result, or the history's current one after undo, redo or clear.

    `is_last_newer`: the last result arrived after the history. Both topics are latched, so at the
    start they arrive in any order; the history decides on results that it contains.
    """
    if history is None:
        return last
    current = find_current_entry(history)
    if last is not None and is_last_newer and not _is_covered_by(last, history, current):
        return last
    return None if current is None else current.result


def _is_covered_by(last: QueryResult, history: History, current: HistoryEntry | None) -> bool:
    """Whether a result is in the history, or is a refused correction of the current entry."""
    if last.query_id in {entry.result.query_id for entry in history.entries}:
        return True
    return (current is not None and not is_accepted(last)
            and _click_key(last) == _click_key(current.result))


def _click_key(result: QueryResult) -> tuple[str, int, float, float]:
    clicked = result.clicked
    return clicked.camera, stamp_to_ns(clicked.header.stamp), clicked.x, clicked.y


def find_current_entry(history: History) -> HistoryEntry | None:
    """Return the newest entry that is not undone; if its target has ended, of an active one."""
    kept = list_kept_entries(history)
    if kept and not kept[-1].result.has_target:
        return kept[-1]
    return next((entry for entry in reversed(kept) if entry.number in history.active), None)


def list_kept_entries(history: History) -> list[HistoryEntry]:
    """Return the entries that are not undone, the newest last."""
    return list(history.entries)[:len(history.entries) - history.undone]


class Hub:
    """Turns the node's messages into events for all browsers, and serves their requests.

    Runs in asyncio's thread.
    """

    def __init__(self, bridge: RosBridge) -> None:
        self._bridge = bridge
        self.sessions: set[BrowserSession] = set()
        self.streams = ImageStreams(bridge, self._on_image)
        self._monitor = NodeMonitor(bridge, self._on_node, self._on_status)
        self._node_info, self._health = NodeInfo(), NodeHealth()
        self._status, self._is_silent = f'looking for {bridge.name}', True
        self._poses = CameraPoses(bridge)
        self.overlay = self._make_overlay()
        self._scene: Json = {}
        self._result: QueryResult | None = None
        self._history: History | None = None
        self._is_result_newer = True
        self._displayed: Json = {'result': None}
        self._targets = TargetDisplay(self._make_overlay)
        self._target_event = ''  # as sent
        self._known: dict[str, QueryResult] = {}  # by query_id
        self._clock = RobotClock()
        self._session_count = 0
        self._exporting = asyncio.Lock()
        self._evidence = EvidenceServer(bridge, self.streams, self.overlay, self._find_result,
                                        lambda: self._node_info.cameras, self._make_plain)
        latched = partial(QoSProfile, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, callback, qos in (
                (QueryResult, f'{bridge.name}/result', self._on_result, latched(depth=10)),
                (History, f'{bridge.name}/history', self._on_history, latched(depth=1)),
                (TargetList, f'{bridge.name}/targets', self._on_targets, latched(depth=1)),
                (DiagnosticArray, '/diagnostics', self._on_diagnostics, QoSProfile(depth=10))):
            bridge.subscribe(topic, kind, topic, callback, qos)

    # Messages of the node

    def _on_node(self, node_info: NodeInfo) -> None:
        self._node_info = node_info
        for overlay in (self.overlay, *self._targets.overlays.values()):
            overlay.base_frame = node_info.base_frame
        for name in {name for session in self.sessions for name in session.awaited}:
            self._stream(name)
        self._broadcast(self._state_event())

    def _on_status(self, status: str, is_silent: bool) -> None:
        self._status, self._is_silent = status, is_silent
        if status:
            self._bridge.fail_pending(status)
        self._broadcast(self._state_event())

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        health = NodeHealth.from_diagnostics(array, self._bridge.name)
        if health is not None:
            self._clock.add(stamp_to_ns(array.header.stamp))
        if health is not None and health != self._health:
            self._health = health
            self._broadcast(self._state_event())

    def _on_result(self, result: QueryResult) -> None:
        self._result, self._is_result_newer = result, True
        self._remember([result])
        self._update_displayed()

    def _on_targets(self, targets: TargetList) -> None:
        self._targets.states = list(targets.targets)
        self._update_targets()

    def _remember(self, results: list[QueryResult]) -> None:
        self._known.update({result.query_id: result for result in results})
        while len(self._known) > MAX_RESULTS:
            del self._known[next(iter(self._known))]
        self._update_targets()  # they may have come first

    def _on_history(self, history: History) -> None:
        self._history, self._is_result_newer = history, False
        self._remember([entry.result for entry in list_kept_entries(history)])
        self._broadcast(protocol.encode_event('history', protocol.history_to_json(history)))
        self._update_displayed()

    def _on_image(self, image: CameraImage) -> None:
        for session in self.sessions:
            session.notify_image(image.camera)

    def _state_event(self) -> str:
        problems = dict(self._health.cameras)
        return protocol.encode_event('state', {
            'node': self._bridge.name, 'words': self._status, 'is_silent': self._is_silent,
            'matcher': self._health.matcher,
            'can_ground': self._health.can_ground, 'target_frame': self._node_info.target_frame,
            'publish_target': self._node_info.publish_target,
            'cameras': [{'name': camera.name, 'has_depth': bool(camera.depth_topic),
                         'problem': self._make_plain(problems.get(camera.name, ''))}
                        for camera in self._node_info.cameras]})

    def _find_result(self, query_id: str) -> QueryResult | None:
        entries = () if self._history is None else self._history.entries
        results = {entry.result.query_id: entry.result for entry in entries}
        return results.get(query_id) or self._known.get(query_id)

    def _make_plain(self, text: str) -> str:
        entries = () if self._history is None else self._history.entries
        return make_plain(text, {entry.result.query_id: entry.number for entry in entries})

    def _displayed_event(self) -> str:
        return protocol.encode_event('shown', {**self._displayed, 'now': {
            name: self.track_marks(image) for name, image in self.streams.newest.items()}})

    def _make_overlay(self) -> Overlay:
        overlay = Overlay(self._poses, self._find_camera)
        overlay.base_frame = self._node_info.base_frame
        return overlay

    def _describe_targets(self) -> list[Json]:
        entries = () if self._history is None else list_kept_entries(self._history)
        return self._targets.describe({entry.result.query_id: entry.number for entry in entries},
                                      self._make_plain)

    def _beat_event(self) -> str:
        now_ns = self._clock.now_ns
        return protocol.encode_event('beat', {'now_ms': now_ns and now_ns / 1e6})

    def track_marks(self, image: CameraImage) -> Json:
        """Return the marks of the displayed answer, and of the active targets, on an image."""
        return {**self.overlay.track_mark(image), 'standing': self._targets.track_marks(image)}

    def _update_targets(self) -> None:
        """Send what has changed of the targets; the marks of their answers stay in sight."""
        for result in self._targets.update(self._known):
            self._pin(result)
        event = protocol.encode_event('targets', {'targets': self._describe_targets()})
        if event != self._target_event:
            self._target_event = event
            self._broadcast(event)

    def _pin(self, result: QueryResult) -> None:
        self.streams.pin([result.clicked, *(c.found for c in result.correspondences)])

    def _update_displayed(self) -> None:
        result = select_displayed_result(self._result, self._history, self._is_result_newer)
        content = None if result is None else result_to_json(result)
        if content is not None:
            for each in (content, *content['found']):
                each['message'] = self._make_plain(each['message'])
        displayed = {'result': content}
        if displayed == self._displayed:  # a repeated event would overwrite later messages
            return
        self._displayed = displayed
        self.overlay.set_result(result)
        if result is not None:
            self._pin(result)
        self._broadcast(self._displayed_event())
        asyncio.get_running_loop().call_soon(self._broadcast_scene)  # once that is sent

    def _build_scene(self) -> Json:
        displayed = self._displayed['result']
        is_active = displayed and displayed['query_id'] in {
            state.query_id for state in self._targets.active}
        answered = None if is_active else self.overlay.build_target()
        return {**self.overlay.build_scene(self.streams.newest), 'targets': [
            *self._targets.build_places(), *([answered] if answered else [])]}

    def _broadcast_scene(self) -> None:
        scene = self._build_scene()
        if scene != self._scene:
            self._scene = scene
            self._broadcast(protocol.encode_event('scene', scene))

    def _broadcast(self, event: str) -> None:
        for session in list(self.sessions):
            session.send_event(event)

    # Sessions

    def add_session(self, session: BrowserSession) -> None:
        self.sessions.add(session)
        self._session_count += 1
        session.name = (f'{"operator" if session.can_act else "viewer"} {self._session_count} '
                        f'({session.address})')
        session.send_event(protocol.encode_event('role', {'can_act': session.can_act,
                                                          'name': session.name}))
        session.send_event(self._state_event())
        if self._history is not None:
            session.send_event(protocol.encode_event(
                'history', protocol.history_to_json(self._history)))
        session.send_event(protocol.encode_event('targets', {
            'targets': self._describe_targets()}))
        session.send_event(self._displayed_event())
        session.send_event(self._beat_event())
        session.send_event(protocol.encode_event('scene', self._scene or self._build_scene()))
        self._poses.set_active(True)

    def remove_session(self, session: BrowserSession) -> None:
        """Remove a browser; its open requests run on."""
        self.sessions.discard(session)
        self._evidence.forget(session)

    async def run(self) -> None:
        """Update the scene and drop unused subscriptions, periodically, until cancelled."""
        periods = 0
        while True:
            await asyncio.sleep(PERIOD_S)
            periods += 1
            if periods % BEAT_PERIODS == 0:
                self._broadcast(self._beat_event())
            self._poses.set_active(bool(self.sessions))
            for overlay in (self.overlay, *self._targets.overlays.values()):
                overlay.resolve_poses()
            self._broadcast_scene()
            self.streams.drop_unused({name for session in self.sessions
                                      for name in session.awaited})

    # Requests of browsers

    def handle_message(self, session: BrowserSession, text: str) -> None:
        """Serve one request; an invalid one gets a reply, or the event `bad_request`."""
        try:
            request = protocol.parse_request(text)
            if isinstance(request, protocol.NextImageRequest):
                self._request_image(session, request)
            elif isinstance(request, protocol.SentImageRequest):
                session.resend_image(request)
            elif isinstance(request, protocol.EvidenceRequest):
                self._evidence.serve(session, request)
            elif not session.can_act:
                session.send_event(_encode_refusal(
                    request.id, 'You may look and not act: the token you came with is a viewer\'s'))
            elif isinstance(request, protocol.CancelRequest):
                for task in session.tasks:
                    self._bridge.cancel(task)
            elif len(session.tasks) >= MAX_OPEN_REQUESTS:
                session.send_event(_encode_refusal(
                    request.id, f'{MAX_OPEN_REQUESTS} of your requests are still open; wait'))
            else:
                session.add_task(asyncio.ensure_future(self._reply(session, request)))
        except protocol.RequestError as error:
            session.send_event(
                protocol.encode_event('bad_request', {'message': str(error)})
                if error.request_id is None else _encode_refusal(error.request_id, str(error)))

    def _request_image(self, session: BrowserSession, request: protocol.NextImageRequest) -> None:
        # A page that was open before this server began knows the cameras sooner.
        if self._node_info.cameras and self._find_camera(request.camera) is None:
            raise protocol.RequestError(f'unknown camera {request.camera!r}')
        if request.camera not in session.awaited and len(session.awaited) >= MAX_AWAITED:
            raise protocol.RequestError(f'images of {MAX_AWAITED} cameras are requested, the limit')
        session.await_image(request)
        self._stream(request.camera)

    def _stream(self, name: str) -> None:
        camera = self._find_camera(name)
        if camera is not None:
            self.streams.request(camera)
            self._poses.request_intrinsics(camera)

    def prepare_images(self) -> None:
        """Subscribe for a browser that is about to request images of all cameras."""
        for camera in self._node_info.cameras:
            self.streams.request(self._find_camera(camera.name) or camera)

    def _find_camera(self, name: str) -> NodeCamera | None:
        """Return the camera of that name, with the remapped topic that the node reports."""
        camera = self._node_info.camera(name)
        topic = dict(self._health.image_topics).get(name)
        return replace(camera, image_topic=topic) if camera and topic else camera

    async def export(self, pool: ThreadPoolExecutor) -> bytes:
        """Return the history with its images as a zip, one at a time; `pool` encodes JPEGs."""
        async with self._exporting:
            return await export_session(self._history or History(), self._describe_targets(),
                                        self.streams, pool)

    def describe_health(self) -> Json:
        """Return the states of server and node, for probes."""
        return {'server': 'ok', 'node': self._bridge.name, 'problem': self._status,
                'browsers': len(self.sessions)}

    def _announce(self, actor: BrowserSession, request: protocol.NodeRequest, reply: Json) -> None:
        """Inform the other browsers of who has acted, and what came of it."""
        act = f'{actor.name} {protocol.describe_act(request)}'
        if reply.get('code') == 'CANCELLED':
            act += ': cancelled'
        elif not reply['ok']:
            act += f': refused, {reply["message"]}'
        event = protocol.encode_event('acted', {'by': actor.name, 'message': act})
        for session in list(self.sessions - {actor}):
            session.send_event(event)

    async def _reply(self, session: BrowserSession, request: protocol.NodeRequest) -> None:
        try:
            reply = await self._call_node(session, request)
        except NodeUnavailableError as error:
            reply = {'ok': False, 'message': self._make_plain(str(error))}
        session.send_event(protocol.encode_event('reply', {'id': request.id, **reply}))
        self._announce(session, request, reply)

    async def _call_node(self, session: BrowserSession, request: protocol.NodeRequest) -> Json:
        if isinstance(request, (protocol.ClickRequest, protocol.InstructRequest)):
            return await self._send_query(session, request)
        if isinstance(request, protocol.CorrectRequest):
            reply = await self._bridge.call('correct', CorrectService.Request(
                query_id=request.query_id, camera=request.camera, x=request.x, y=request.y))
            return self._summarize_result(reply.result)
        if isinstance(request, protocol.SetLimitRequest):
            reply = await set_limit(self._bridge, request.limit, request.value)
            self._evidence.limits.restart()
            return reply
        if isinstance(request, protocol.AcceptRequest):
            reply = await self._bridge.call('accept', AcceptService.Request(
                query_id=request.query_id))
        elif isinstance(request, protocol.ClearTargetRequest):
            reply = await self._bridge.call('clear_target', ClearTargetService.Request(
                target_name=request.target_name))
        else:
            reply = await self._bridge.call(request.step, Trigger.Request())
        return {'ok': reply.success, 'message': self._make_plain(reply.message)}

    async def _send_query(self, session: BrowserSession,
                          request: protocol.ClickRequest | protocol.InstructRequest) -> Json:
        goal = Correspond.Goal(camera=request.camera, x=math.nan, y=math.nan,
                               target_name=request.target_name)
        if isinstance(request, protocol.ClickRequest):
            goal.stamp, goal.x, goal.y = time_from_ns(int(request.stamp)), request.x, request.y
        else:
            goal.instruction = request.instruction

        def on_stage(stage: str, elapsed_s: float) -> None:
            session.send_event(protocol.encode_event('progress', {
                'id': request.id, 'stage': stage, 'elapsed_s': round(elapsed_s, 3)}))

        return self._summarize_result(
            await self._bridge.correspond(goal, asyncio.current_task(), on_stage))

    def _summarize_result(self, result: QueryResult) -> Json:
        return {'ok': is_accepted(result), 'code': result_to_json(result)['code'],
                'name': result.target.name if result.has_target else None,
                'message': self._make_plain(result.status.message)}


def _encode_refusal(request_id: int, message: str) -> str:
    return protocol.encode_event('reply', {'id': request_id, 'ok': False, 'message': message})
