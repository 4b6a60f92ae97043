"""The matcher `cropond_remote`: the model on a server, which may be shared."""
from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

from crosspoint_ros.core.datatypes import BatchMatcher, Code, Match, Query, Rejected, View
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.server import errors, handshake
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.protocol import ImageEncoder

MAX_PAIRS_AT_ONCE, WAIT_PERIOD_S = 16, 1.0
log = logging.getLogger(__name__)


class CropondRemoteMatcher(BatchMatcher):
    """Asks CroPond, or any other pointing model, on a chat server where the click is.

    Every query is answered or refused within the option `deadline_s`. A server that is absent at
    the start, or fails later, is used again from the first click after its return.
    """

    Options = RemoteOptions
    refined_by = 'xfeat'
    max_concurrent = 8  # queries at a time, each from a thread; a server answers them together

    def __init__(self, **options: Any) -> None:
        """Connect to the server, if it is running.

        Raises ValueError for permanent errors: a wrong option, key or model name, an untrusted
        certificate, a url of something else than a chat server, a failed self-test.
        """
        self.options = given = RemoteOptions(**options)
        if importlib.util.find_spec('PIL') is None:
            raise ValueError('cropond_remote needs Pillow: pip install pillow')
        self._chat = ChatClient(given.url, given.model, given.key_env, given.ca_file, given.proxy)
        self._encoder = ImageEncoder(given.max_pixels, given.jpeg_quality)
        self._forgiven_s = float('inf')
        self._handshake = handshake.ServerHandshake(self._chat, given, self._encoder)
        wait = Deadline.after(given.wait_s)
        while (error := self._connect()) is not None and wait.left_s:
            log.info('waiting for the server, %.0f s left: %s', wait.left_s, error.message)
            time.sleep(min(WAIT_PERIOD_S, wait.left_s))
        if error is not None:
            log.warning('%s (the next query tries again)', error.message)

    def _connect(self) -> errors.ServerError | None:
        """Return an error that may pass, None if the server is ready; raise any other."""
        try:
            self._handshake.wait_ready(Deadline.after(handshake.HANDSHAKE_TIMEOUT_S))
        except errors.ServerError as error:
            if not error.retryable:
                raise ValueError(error.message) from error
            return error
        return None

    def match_all(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        """Answer clicks, on any frames, at once, batched by the server, within one deadline.

        The refusal is NOT_VISIBLE if the model names no point, MATCHER_FAILED or TIMEOUT if the
        server does not answer.
        """
        pairs = [list(pair) for _, pair in groupby(queries, attrgetter('frames'))]
        answers: list[list[Match | Rejected]] = []
        try:
            with self._use_server() as (profile, deadline), \
                    ThreadPoolExecutor(min(len(pairs), MAX_PAIRS_AT_ONCE) or 1) as pool:
                answers = list(pool.map(partial(_match_pair, profile, deadline), pairs))
                for failed in (a[0] for a in answers if isinstance(a[0], errors.ServerError)):
                    raise failed  # counted once, however many pairs failed
        except errors.ServerError as error:
            answers = answers or [[error] * len(queries)]
        return list(chain.from_iterable(answers))

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE if the model names none, LOW_CONFIDENCE for an uncertain
        one.
        """
        with self._use_server(has_instruction=True) as (profile, deadline):
            match = profile.client.ground(view.image, instruction, profile.coord_format, deadline)
        if isinstance(match, Rejected):
            raise match
        self.options.check_grounded(match, instruction, view.camera)
        return match

    def warm(self, views: tuple[View, ...]) -> None:
        """Encode frames, and let the server compute and cache them.

        Does nothing while the server is absent: reconnecting is left to clicks.
        """
        if self._handshake.profile is None:
            return
        try:
            with self._use_server() as (profile, deadline):
                profile.client.prefetch([view.image for view in views], deadline)
        except errors.ServerError as error:
            log.warning('frames were not prefetched: %s', error.message)

    def describe(self) -> Mapping[str, str]:
        profile = self._handshake.profile
        about = {'server': self._chat.url, 'model': self._chat.model or 'not known yet'}
        if profile is None:
            return {**about, 'state': self._handshake.error or 'being tested'}
        return {**about, 'state': 'ready', 'asked by': str(profile.client.capabilities),
                'coordinates': profile.coord_format.value,
                'template': self._chat.sanitize(repr(profile.client.template)),
                'self_test': 'off' if profile.score is None else str(profile.score)}

    @contextmanager
    def _use_server(self, has_instruction: bool = False
                    ) -> Iterator[tuple[handshake.ServerProfile, Deadline]]:
        """Yield the server's profile and the query's deadline; repeat the handshake after errors.

        has_instruction: a bad request may be caused by its text; the second in a row is not. A
        server's error may pass, the second in a row not: a fleet's examinations hold it down.
        """
        deadline, started_s = Deadline.after(self.options.deadline_s), time.monotonic()
        profile = self._handshake.wait_ready(deadline)
        try:
            yield profile, deadline
        except errors.ServerError as error:
            was_forgiven = self._forgiven_s < started_s  # queries at the same time meet one error
            may_pass = error.status >= errors.SERVER_STATUS or (
                has_instruction and error.status in errors.REQUEST_STATUSES)
            self._forgiven_s = time.monotonic() if may_pass else float('inf')
            if may_pass and not was_forgiven:
                raise
            # The dozen requests of a handshake would not help an overloaded server.
            if error.code is not Code.TIMEOUT and error.status != errors.TOO_MANY_REQUESTS:
                self._handshake.invalidate(error)
            raise
        self._forgiven_s = float('inf')


def _match_pair(profile: handshake.ServerProfile, deadline: Deadline, queries: Sequence[Query]
                ) -> list[Match | Rejected]:
    """Answer queries on one pair of frames; an error refuses all of them."""
    try:
        return profile.client.match_points(
            (queries[0].clicked.image, queries[0].other.image), [q.pixel for q in queries],
            profile.coord_format, deadline)
    except Rejected as error:
        return [error] * len(queries)
