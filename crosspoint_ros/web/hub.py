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
    Health,
    KnownCamera,
    KnownNode,
    health_from_diagnostics,
)
from crosspoint_ros.ros.conversions import stamp_ns, time_msg
from crosspoint_ros.ros.node.result_messages import is_answered
from crosspoint_ros.srv import Accept as AcceptService
from crosspoint_ros.srv import Correct as CorrectService
from crosspoint_ros.web.camera_poses import Vantages
from crosspoint_ros.web.image_streams import Looking, Picture
from crosspoint_ros.web.node_monitor import Presence
from crosspoint_ros.web.overlay import Anchors
from crosspoint_ros.web.protocol import (
    Accept,
    BadRequest,
    Cancel,
    Click,
    Correct,
    Instruct,
    Json,
    Next,
    Past,
    Question,
    Step,
    event,
    history_json,
    parse,
    result_json,
)
from crosspoint_ros.web.ros_bridge import Link, Unanswered
from crosspoint_ros.web.session import MAX_OPEN, Browser


def shown(last: QueryResult | None, history: History | None,
          last_is_newer: bool) -> QueryResult | None:
    """Return the answer to show, None for none.

    `last_is_newer`: the last result came after the history. Both are latched, so after a start
    they come in any order; a result that stands in the history is the history's matter.
    """
    if history is None:
        return last
    current = current_entry(history)
    if last is not None and last_is_newer and not _is_of(last, history, current):
        return last
    return None if current is None else current.result


def _is_of(last: QueryResult, history: History, current: HistoryEntry | None) -> bool:
    """Tell whether the history says what became of a result: it is in it, or did not get there.

    A correction that was refused is of the same click; what it was to correct stands.
    """
    if last.query_id in {entry.result.query_id for entry in history.entries}:
        return True
    return (current is not None and not is_answered(last)
            and _click(last) == _click(current.result))


def _click(result: QueryResult) -> tuple[str, int, float, float]:
    clicked = result.clicked
    return clicked.camera, stamp_ns(clicked.header.stamp), clicked.x, clicked.y


def current_entry(history: History) -> HistoryEntry | None:
    """Return the newest entry that is not undone; None if its target was cleared."""
    kept = list(history.entries)[:len(history.entries) - history.undone]
    if not kept or (kept[-1].result.has_target and not history.current):
        return None
    return kept[-1]


TICK_S = 0.25


class Hub:
    """The one place where news of the node become events for every browser; asyncio's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.looking = Looking(link, self._on_picture)
        self._presence = Presence(link, self._on_node, self._on_words)
        self.browsers: set[Browser] = set()
        self._node, self._health, self._words = KnownNode(), Health(), f'looking for {link.name}'
        self._vantages = Vantages(link)
        self._anchors = Anchors(self._vantages, self._source)
        self._scene: Json = {}
        self._result: QueryResult | None = None
        self._history: History | None = None
        self._result_is_newer = True
        self._content: Json = {'result': None}  # of the answer that is shown
        link.hear(self._on_result, self._on_history, self._on_diagnostics)

    # News of the node

    def _on_node(self, node: KnownNode) -> None:
        self._node, self._anchors.base_frame = node, node.base_frame
        self._tell_all(self._state())

    def _on_words(self, words: str) -> None:
        self._words = words
        if words:
            self._link.give_up(words)
        self._tell_all(self._state())

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        health = health_from_diagnostics(array, self._link.name)
        if health is not None and health != self._health:
            self._health = health
            self._tell_all(self._state())

    def _on_result(self, result: QueryResult) -> None:
        self._result, self._result_is_newer = result, True
        self._show()

    def _on_history(self, history: History) -> None:
        self._history, self._result_is_newer = history, False
        self._tell_all(event('history', history_json(history)))
        self._show()

    def _on_picture(self, picture: Picture) -> None:
        for browser in self.browsers:
            browser.picture_came(picture.camera)

    def _state(self) -> str:
        problems, topics = dict(self._health.cameras), dict(self._health.image_topics)
        return event('state', {
            'node': self._link.name, 'words': self._words, 'matcher': self._health.matcher,
            'can_ground': self._health.can_ground, 'base_frame': self._node.base_frame,
            'target_frame': self._node.target_frame,
            'cameras': [{'name': c.name, 'topic': topics.get(c.name) or c.image_topic,
                         'problem': problems.get(c.name, '')} for c in self._node.cameras]})

    def _shown(self) -> str:
        """The answer that is on the screen: the last one, or where undo and redo stand."""
        return event('shown', {**self._content, 'now': {
            name: self._anchors.now(picture) for name, picture in self.looking.newest.items()}})

    def _show(self) -> None:
        result = shown(self._result, self._history, self._result_is_newer)
        content = {'result': None if result is None else result_json(result)}
        if content == self._content:  # what is told twice would wipe later words away
            return
        self._content = content
        self._anchors.hold(result)
        if result is not None:
            self.looking.keep([result.clicked, *(c.found for c in result.correspondences)])
        self._tell_all(self._shown())
        self._tell_scene()

    def _tell_scene(self) -> None:
        scene = self._anchors.scene(self.looking.newest)
        if scene != self._scene:
            self._scene = scene
            self._tell_all(event('scene', scene))

    def _tell_all(self, told: str) -> None:
        for browser in list(self.browsers):
            browser.tell(told)

    # Browsers come and go

    def welcome(self, browser: Browser) -> None:
        """Tell a new browser all that is known."""
        self.browsers.add(browser)
        browser.tell(self._state())
        if self._history is not None:
            browser.tell(event('history', history_json(self._history)))
        browser.tell(self._shown())
        browser.tell(event('scene', self._scene or self._anchors.scene({})))
        self._vantages.listen(True)

    def farewell(self, browser: Browser) -> None:
        """Forget a browser; what it asked is answered all the same."""
        self.browsers.discard(browser)

    async def tick(self) -> None:
        """Leave the topics that nobody looks at, and tell where cameras are, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._vantages.listen(bool(self.browsers))
            self._anchors.complete()
            self._tell_scene()
            waiting = {camera for browser in self.browsers for camera in browser.waits_for}
            self.looking.leave_unwatched(waiting)

    def now(self, picture: Picture) -> Json:
        """Where on a picture the mark of the answer belongs, see `Anchors`."""
        return self._anchors.now(picture)

    # Requests of the browsers

    def take(self, browser: Browser, text: str) -> None:
        """Do what a message asks; what is wrong with it is told to whoever sent it."""
        try:
            request = parse(text)
            if isinstance(request, Next):
                self._want(browser, request)
            elif isinstance(request, Past):
                browser.show_again(request)
            elif isinstance(request, Cancel):
                for task in browser.open:
                    self._link.cancel(task)
            elif len(browser.open) >= MAX_OPEN:
                browser.tell(_reply(request.id, f'{MAX_OPEN} of your requests are still open'))
            else:
                browser.begin(asyncio.ensure_future(self._answer(browser, request)))
        except BadRequest as bad:
            browser.tell(event('bad_request', {'message': str(bad)}))

    def _want(self, browser: Browser, request: Next) -> None:
        camera = self._source(request.camera)
        if camera is None:
            raise BadRequest(f'there is no camera {request.camera!r}')
        browser.wait_for(request)
        self.looking.want(camera)
        self._vantages.want_lens(camera)

    def _source(self, name: str) -> KnownCamera | None:
        """The camera of that name, its topic as the node says that it is after remapping."""
        camera = self._node.camera(name)
        topic = dict(self._health.image_topics).get(name)
        return replace(camera, image_topic=topic) if camera and topic else camera

    async def _answer(self, browser: Browser, request: Question) -> None:
        try:
            message = await self._ask(browser, request)
        except Unanswered as unanswered:
            message = {'ok': False, 'message': str(unanswered)}
        browser.tell(event('reply', {'id': request.id, **message}))

    async def _ask(self, browser: Browser, request: Question) -> Json:
        if isinstance(request, (Click, Instruct)):
            return await self._correspond(browser, request)
        if isinstance(request, Correct):
            reply = await self._link.call('correct', CorrectService.Request(
                query_id=request.query_id, camera=request.camera, x=request.x, y=request.y))
            return _outcome(reply.result)
        if isinstance(request, Accept):
            reply = await self._link.call('accept', AcceptService.Request(
                query_id=request.query_id))
        else:
            assert isinstance(request, Step)
            reply = await self._link.call(request.step, Trigger.Request())
        return {'ok': reply.success, 'message': reply.message}

    async def _correspond(self, browser: Browser, request: Click | Instruct) -> Json:
        goal = Correspond.Goal(camera=request.camera, x=math.nan, y=math.nan)
        if isinstance(request, Click):
            goal.stamp, goal.x, goal.y = time_msg(int(request.stamp)), request.x, request.y
        else:
            goal.instruction = request.instruction

        def at_stage(stage: str, elapsed_s: float) -> None:
            browser.tell(event('progress', {'id': request.id, 'stage': stage,
                                            'elapsed_s': round(elapsed_s, 3)}))

        return _outcome(await self._link.correspond(goal, asyncio.current_task(), at_stage))


def _outcome(result: Any) -> Json:
    told = result_json(result)
    found = any(answer['verdict'] != 'refused' for answer in told['found'])
    return {'ok': found, 'message': told['message'], 'query_id': told['query_id']}


def _reply(number: int, message: str) -> str:
    return event('reply', {'id': number, 'ok': False, 'message': message})
