"""First contact with a server: select the model, probe capabilities, run the self-test."""
from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from crosspoint_ros.core.datatypes import Array, Code, Rejected
from crosspoint_ros.matchers.cropond import self_test
from crosspoint_ros.matchers.cropond.options import AUTO, RemoteOptions
from crosspoint_ros.matchers.cropond.prompt import CoordinateFormat
from crosspoint_ros.matchers.cropond.server.capabilities import find_capabilities
from crosspoint_ros.matchers.cropond.server.errors import (
    NOT_FOUND,
    UNSUPPORTED_STATUSES,
    ServerError,
)
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.point_client import PointClient
from crosspoint_ros.matchers.cropond.server.protocol import Image, ImageEncoder, ModelInfo

# A server may compile its first grammar for half a minute, and its first images take longer too.
HANDSHAKE_TIMEOUT_S = 120.0
# Who owns the models that a server lists, where probing cannot show what it supports.
OWNERS = {'library': 'ollama', 'llamacpp': 'llama_cpp'}
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ServerProfile:
    """A tested server, and the coordinate format of its model."""

    client: PointClient
    coord_format: CoordinateFormat
    score: self_test.SelfTestScore | None
    models: tuple[ModelInfo, ...]


class ServerHandshake:
    """Runs in its own thread, so that a query waits for it no longer than its deadline.

    A failed one is repeated by the next query, as is one with a server that was away. The
    self-test is then skipped if the model's name has not changed.
    """

    def __init__(self, chat: ChatClient, options: RemoteOptions, encoder: ImageEncoder) -> None:
        self._chat, self._options, self._encoder = chat, options, encoder
        self._lock = threading.Lock()
        self._running: Future[ServerProfile] | None = None
        self._last_profile: ServerProfile | None = None
        self.profile: ServerProfile | None = None
        self.error = ''

    def wait_ready(self, deadline: Deadline) -> ServerProfile:
        """Return the server's profile. Raises what the handshake raised, or TIMEOUT."""
        with self._lock:
            if self.profile is not None:
                return self.profile
            if self._running is None:
                self._running = Future()
                threading.Thread(target=self._run, args=(self._running,), name='handshake',
                                 daemon=True).start()
            running = self._running
        try:
            return running.result(deadline.left_s)
        except FutureTimeout:
            if running.done():
                raise
            raise ServerError(Code.TIMEOUT, f'{self._chat.url}: the server is still being tested '
                              f'after {deadline.allowed_s:.1f} s: click again in a moment', True
                              ) from None

    def invalidate(self, error: Rejected) -> None:
        """Repeat the handshake before the next query."""
        with self._lock:
            self.profile, self.error = None, error.message

    def _run(self, future: Future[ServerProfile]) -> None:
        try:
            profile = self._connect(Deadline.after(HANDSHAKE_TIMEOUT_S))
        except BaseException as error:  # re-raised by the future
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
        # An absent server must not delay the start for long.
        models = self._list_models(Deadline.after(min(self._options.deadline_s, deadline.left_s)))
        self._chat.model = self._select_model([model.name for model in models])
        server = self._options.server
        if server == AUTO:
            server = next((OWNERS[m.owner] for m in models if m.owner in OWNERS), AUTO)
        self._chat.is_ollama = server == 'ollama'
        client = PointClient(self._chat, self._options, self._encoder,
                             find_capabilities(self._chat, server, deadline))
        last = self._last_profile
        if last is not None and last.models == models \
                and last.client.capabilities.model == client.capabilities.model:
            client.template = last.client.template
            client.template_tokens = last.client.template_tokens
            return ServerProfile(client, last.coord_format, last.score, models)
        coord_formats = self._options.coord_formats
        client.learn_template(self_test.draw_test_image(), self_test.sample_test_points()[0],
                              coord_formats[0], deadline)
        log.info('template of the model: %s', self._chat.sanitize(repr(client.template)))
        if not self._options.self_test:
            log.warning(self_test.SKIPPED)
            return ServerProfile(client, coord_formats[0], None, models)

        def predict(first: Image, second: Image, pixels: Sequence[Array],
                    coord_format: CoordinateFormat) -> list[Array | None]:
            matches = client.match_points((first, second), pixels, coord_format, deadline)
            return [None if isinstance(m, Rejected) else m.pixel for m in matches]

        try:
            score = self_test.run_self_test(predict, coord_formats, self._options.allow_repeating)
        except self_test.SelfTestFailed as failed:
            raise self._chat.errors.error(str(failed)) from failed
        return ServerProfile(client, score.coord_format, score, models)

    def _list_models(self, deadline: Deadline) -> tuple[ModelInfo, ...]:
        """Return the server's models; none if it has no list, as some do not without the hub."""
        try:
            return self._chat.list_models(deadline)
        except ServerError as error:
            if error.status not in (*UNSUPPORTED_STATUSES, NOT_FOUND):
                raise
            log.warning('no list of models: %s', error.message)
            return ()

    def _select_model(self, names: Sequence[str]) -> str:
        """Return the model to request. Raises `ServerError` if the server does not list it."""
        model, errors = self._options.model, self._chat.errors
        listing = self._chat.sanitize(', '.join(names)) or 'it lists none'
        if not model and len(names) != 1:
            raise errors.error(f'option model must name one of its models ({listing})')
        if model and names and model not in names:
            raise errors.unknown_model_error(model, listing)
        return model or names[0]
