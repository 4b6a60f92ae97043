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
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat
from crosspoint_ros.matchers.cropond.server.capabilities import log, probe_capabilities
from crosspoint_ros.matchers.cropond.server.errors import NOT_FOUND, UNSUPPORTED_STATUSES, ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    Image,
    ImageEncoder,
)
from crosspoint_ros.matchers.cropond.server.point_client import PointClient
from crosspoint_ros.matchers.cropond.server.responses import ModelInfo

# A server compiles its first grammar for half a minute, and the first images take longer too.
HANDSHAKE_TIMEOUT_S = 120.0


@dataclass(frozen=True, eq=False)
class ServerProfile:
    """A server that was examined, and how its model writes coordinates."""

    client: PointClient
    coord_format: CoordinateFormat
    score: self_test.SelfTestScore | None
    models: tuple[ModelInfo, ...]

    def is_same_model(self, client: PointClient, models: tuple[ModelInfo, ...]) -> bool:
        """Tell whether a server says that it has the same model."""
        return self.models == models and self.client.capabilities.model == client.capabilities.model


@dataclass(frozen=True, eq=False)
class SelfTestAdapter:
    """Who takes the self-test."""

    client: PointClient
    deadline: Deadline

    def predict_points(self, first: Image, second: Image, pixels: Sequence[Array],
            coord_format: CoordinateFormat) -> list[Array | None]:
        """Return where the second image shows pixels of the first; None where nothing is said."""
        sizes = self.client.encoder.of(first).sizes
        clicks = [prompt.format_point(coord_format, pixel, sizes) for pixel in pixels]
        estimates = self.client.match_points((first, second), clicks, coord_format, self.deadline)
        return [None if isinstance(each, Rejected) else each.pixel for each in estimates]


class ServerHandshake:
    """Runs in a thread of its own, so that a query waits for it no longer than its deadline.

    A server that fails it is examined anew by the next query; one that went away and came back
    too, but its model need not take the test again if it goes by the same name.
    """

    def __init__(self, chat: ChatClient, options: RemoteOptions, encoder: ImageEncoder) -> None:
        self._chat, self._options, self._encoder = chat, options, encoder
        self._model = options.model
        self._lock = threading.Lock()
        self._running: Future[ServerProfile] | None = None
        self.profile: ServerProfile | None = None
        self._last_profile: ServerProfile | None = None
        self.error = ''

    def wait_ready(self, deadline: Deadline) -> ServerProfile:
        """Return what is known of the server. Raises what the examination raised, or TIMEOUT."""
        with self._lock:
            if self.profile is not None:
                return self.profile
            if self._running is None:
                self._running = self._start()
            running = self._running
        try:
            return running.result(deadline.left_s)
        except NotYet:
            if running.done():
                raise
            raise ServerError(Code.TIMEOUT, f'{self._chat.url}: the server is still being '
                                f'examined after {deadline.allowed_s:.1f} s: click again in a '
                                'moment', True) from None

    def invalidate(self, error: Rejected) -> None:
        """Examine the server before the next query: something was not as it should be."""
        with self._lock:
            self.profile, self.error = None, error.message

    def _start(self) -> Future[ServerProfile]:
        future: Future[ServerProfile] = Future()
        threading.Thread(target=self._run, args=(future,), name='examination', daemon=True).start()
        return future

    def _run(self, future: Future[ServerProfile]) -> None:
        try:
            profile = self._connect(Deadline.after(HANDSHAKE_TIMEOUT_S))
        except BaseException as error:  # whoever waits for the future gets it
            self._finish(None, str(error))
            future.set_exception(error)
            return
        self._finish(profile, '')
        future.set_result(profile)

    def _finish(self, profile: ServerProfile | None, error: str) -> None:
        with self._lock:
            self.profile, self._running, self.error = profile, None, error
            self._last_profile = profile or self._last_profile

    def _connect(self, deadline: Deadline) -> ServerProfile:
        # A server that is not there must not hold up the start for long.
        models = self._list_models(Deadline.after(min(self._options.deadline_s, deadline.left_s)))
        self._chat.model = self._select_model(models)
        log.info('asking %s what it can', self._chat.url)
        client = PointClient(self._chat, self._options, self._encoder, probe_capabilities(self._chat, deadline))
        last = self._last_profile
        if last is not None and last.is_same_model(client, models):
            client.template = last.client.template
            return ServerProfile(client, last.coord_format, last.score, models)
        return self._run_self_test(client, models, deadline)

    def _run_self_test(self, client: PointClient, models: tuple[ModelInfo, ...], deadline: Deadline) -> ServerProfile:
        coord_formats = self._options.coord_formats
        client.learn_template(self_test.draw_test_image(), self_test.sample_test_points()[0], coord_formats[0], deadline)
        log.info('the model replies like %s', self._chat.sanitize(repr(client.template)))
        if not self._options.self_test:
            log.warning('self_test is off: nobody has seen whether this model finds anything')
            return ServerProfile(client, coord_formats[0], None, models)
        try:
            score = self_test.run_self_test(SelfTestAdapter(client, deadline), coord_formats,
                                     self._options.allow_repeating)
        except self_test.SelfTestFailed as failed:
            raise self._make_error(str(failed)) from failed
        return ServerProfile(client, score.coord_format, score, models)

    def _list_models(self, deadline: Deadline) -> tuple[ModelInfo, ...]:
        """The models of the server; none where it cannot tell, as some cannot without the hub."""
        try:
            return self._chat.list_models(deadline)
        except ServerError as error:
            if error.status not in (*UNSUPPORTED_STATUSES, NOT_FOUND):
                raise
            log.warning('no list of models: %s', error.message)
            return ()

    def _select_model(self, models: tuple[ModelInfo, ...]) -> str:
        """The model to ask for. Raises `ServerTrouble` if the server has it not."""
        names = [offer.name for offer in models]
        listing = self._chat.sanitize(', '.join(names)) or 'it does not say which'
        if self._model:
            if names and self._model not in names:
                raise self._make_error(f'it has no model {self._model!r}; option model can be: {listing}')
            return self._model
        if len(names) != 1:
            raise self._make_error(f'option model must name one of its models ({listing})')
        return names[0]

    def _make_error(self, what: str) -> ServerError:
        return ServerError(Code.MATCHER_FAILED, f'{self._chat.url}: {what}', False)
