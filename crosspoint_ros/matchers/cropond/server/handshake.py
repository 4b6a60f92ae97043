"""What a chat server can do beyond the common protocol: seen in what it does, not what it says."""
from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond import prompt, self_test
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.prompt import Convention
from crosspoint_ros.matchers.cropond.server.capabilities import log, probe
from crosspoint_ros.matchers.cropond.server.errors import NOT_FOUND, NOT_UNDERSTOOD, ServerTrouble
from crosspoint_ros.matchers.cropond.server.http_client import Chat, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    Image,
    Pictures,
)
from crosspoint_ros.matchers.cropond.server.point_client import Asking
from crosspoint_ros.matchers.cropond.server.responses import Offer

# A server compiles its first grammar for half a minute, and the first images take longer too.
EXAMINATION_S = 120.0


@dataclass(frozen=True, eq=False)
class Known:
    """A server that was examined, and how its model writes coordinates."""

    asking: Asking
    convention: Convention
    score: self_test.Score | None
    offered: tuple[Offer, ...]

    def is_like(self, asking: Asking, offered: tuple[Offer, ...]) -> bool:
        """Tell whether a server says that it has the same model."""
        return self.offered == offered and self.asking.can.model == asking.can.model


@dataclass(frozen=True, eq=False)
class Candidate:
    """Who takes the self-test."""

    asking: Asking
    deadline: Deadline

    def ask(self, first: Image, second: Image, pixels: Sequence[Array],
            convention: Convention) -> list[Array | None]:
        """Return where the second image shows pixels of the first; None where nothing is said."""
        shown = self.asking.pictures.of(first).shown
        clicks = [prompt.written(convention, pixel, shown) for pixel in pixels]
        found = self.asking.places((first, second), clicks, convention, self.deadline)
        return [None if isinstance(each, Rejected) else each.pixel for each in found]


class Examination:
    """Runs in a thread of its own, so that a query waits for it no longer than its deadline.

    A server that fails it is examined anew by the next query; one that went away and came back
    too, but its model need not take the test again if it goes by the same name.
    """

    def __init__(self, chat: Chat, options: RemoteOptions, pictures: Pictures) -> None:
        self._chat, self._options, self._pictures = chat, options, pictures
        self._model = options.model
        self._lock = threading.Lock()
        self._running: Future[Known] | None = None
        self.known: Known | None = None
        self._passed: Known | None = None
        self.trouble = ''

    def await_known(self, deadline: Deadline) -> Known:
        """Return what is known of the server. Raises what the examination raised, or TIMEOUT."""
        with self._lock:
            if self.known is not None:
                return self.known
            if self._running is None:
                self._running = self._start()
            running = self._running
        try:
            return running.result(deadline.left_s)
        except NotYet:
            if running.done():
                raise
            raise ServerTrouble(Code.TIMEOUT, f'{self._chat.url}: the server is still being '
                                f'examined after {deadline.allowed_s:.1f} s: click again in a '
                                'moment', True) from None

    def doubt(self, trouble: Rejected) -> None:
        """Examine the server before the next query: something was not as it should be."""
        with self._lock:
            self.known, self.trouble = None, trouble.message

    def _start(self) -> Future[Known]:
        future: Future[Known] = Future()
        threading.Thread(target=self._run, args=(future,), name='examination', daemon=True).start()
        return future

    def _run(self, future: Future[Known]) -> None:
        try:
            known = self._examined(Deadline.after(EXAMINATION_S))
        except BaseException as error:  # whoever waits for the future gets it
            self._end(None, str(error))
            future.set_exception(error)
            return
        self._end(known, '')
        future.set_result(known)

    def _end(self, known: Known | None, trouble: str) -> None:
        with self._lock:
            self.known, self._running, self.trouble = known, None, trouble
            self._passed = known or self._passed

    def _examined(self, deadline: Deadline) -> Known:
        # A server that is not there must not hold up the start for long.
        offered = self._offered(Deadline.after(min(self._options.deadline_s, deadline.left_s)))
        self._chat.model = self._chosen(offered)
        log.info('asking %s what it can', self._chat.url)
        asking = Asking(self._chat, self._options, self._pictures, probe(self._chat, deadline))
        before = self._passed
        if before is not None and before.is_like(asking, offered):
            asking.template = before.asking.template
            return Known(asking, before.convention, before.score, offered)
        return self._tested(asking, offered, deadline)

    def _tested(self, asking: Asking, offered: tuple[Offer, ...], deadline: Deadline) -> Known:
        conventions = self._options.conventions
        asking.learn(self_test.picture(), self_test.places()[0], conventions[0], deadline)
        log.info('the model replies like %s', self._chat.clean(repr(asking.template)))
        if not self._options.self_test:
            log.warning('self_test is off: nobody has seen whether this model finds anything')
            return Known(asking, conventions[0], None, offered)
        try:
            score = self_test.decide(Candidate(asking, deadline), conventions,
                                     self._options.allow_repeating)
        except self_test.SelfTestFailed as failed:
            raise self._unfit(str(failed)) from failed
        return Known(asking, score.convention, score, offered)

    def _offered(self, deadline: Deadline) -> tuple[Offer, ...]:
        """The models of the server; none where it cannot tell, as some cannot without the hub."""
        try:
            return self._chat.models(deadline)
        except ServerTrouble as trouble:
            if trouble.status not in (*NOT_UNDERSTOOD, NOT_FOUND):
                raise
            log.warning('no list of models: %s', trouble.message)
            return ()

    def _chosen(self, offered: tuple[Offer, ...]) -> str:
        """The model to ask for. Raises `ServerTrouble` if the server has it not."""
        names = [offer.name for offer in offered]
        told = self._chat.clean(', '.join(names)) or 'it does not say which'
        if self._model:
            if names and self._model not in names:
                raise self._unfit(f'it has no model {self._model!r}; option model can be: {told}')
            return self._model
        if len(names) != 1:
            raise self._unfit(f'option model must name one of its models ({told})')
        return names[0]

    def _unfit(self, what: str) -> ServerTrouble:
        return ServerTrouble(Code.MATCHER_FAILED, f'{self._chat.url}: {what}', False)
