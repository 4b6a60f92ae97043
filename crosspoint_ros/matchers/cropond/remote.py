"""The matcher `cropond_remote`: the model on a server, which others may share."""
from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from crosspoint_ros.core.datatypes import Code, Match, Query, Rejected, View
from crosspoint_ros.matchers.cropond import prompt
from crosspoint_ros.matchers.cropond.options import RemoteOptions
from crosspoint_ros.matchers.cropond.server.errors import REQUEST_STATUSES, TOO_MANY_REQUESTS, ServerError
from crosspoint_ros.matchers.cropond.server.handshake import HANDSHAKE_TIMEOUT_S, ServerHandshake, ServerProfile
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.payload import ImageEncoder
from crosspoint_ros.matchers.cropond.server.point_client import PixelEstimate

log = logging.getLogger(__name__)


class CropondRemoteMatcher:
    """Asks CroPond, or any Qwen2.5-VL, on an OpenAI-compatible server where the click is.

    Every query is answered or refused within the option `deadline_s`. A server that is away when
    this is built, or goes away later, is found again by the first click after it came back.
    """

    Options = RemoteOptions
    refined_by = 'xfeat'

    def __init__(self, **options: Any) -> None:
        """Examine the server, if it is there.

        Raises ValueError for what waiting cannot cure: a wrong option, key or model name, an
        untrusted certificate, something at the url that is no chat server, a failed self-test.
        """
        self.options = given = RemoteOptions(**options)
        if importlib.util.find_spec('PIL') is None:
            raise ValueError('cropond_remote needs Pillow: pip install pillow')
        self._chat = ChatClient(given.url, given.model, given.key_env, given.ca_file, given.proxy)
        self._encoder = ImageEncoder(given.max_pixels)
        self._instruction_blamed = False
        self._handshake = ServerHandshake(self._chat, given, self._encoder)
        try:
            self._handshake.wait_ready(Deadline.after(HANDSHAKE_TIMEOUT_S))
        except ServerError as trouble:
            if not trouble.retryable:
                raise ValueError(trouble.message) from trouble
            log.warning('%s (the next query tries again)', trouble.message)

    def match(self, query: Query) -> Match:
        """Ask where the other view shows the click.

        Raises `Rejected`: NOT_VISIBLE when the model names no point; MATCHER_FAILED or TIMEOUT
        when the server does not answer.
        """
        (match,) = self.match_all([query])
        if isinstance(match, Rejected):
            raise match
        return match

    def match_all(self, queries: Sequence[Query]) -> list[Match | Rejected]:
        """Answer many clicks on the same two frames at once, for the server to batch."""
        views = {(id(q.clicked.image), id(q.other.image)) for q in queries}
        if len(views) != 1:
            raise ValueError(f'queries on {len(views)} pairs of frames, one is needed')
        images = (queries[0].clicked.image, queries[0].other.image)
        with self._use_server() as (profile, deadline):
            sizes = self._encoder.of(images[0]).sizes
            clicks = [prompt.format_point(profile.coord_format, q.pixel, sizes) for q in queries]
            estimates = profile.client.match_points(images, clicks, profile.coord_format, deadline)
        return [place if isinstance(place, Rejected) else self._make_match(place) for place in estimates]

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE when the model names none, LOW_CONFIDENCE when it guesses.
        """
        with self._use_server(has_instruction=True) as (profile, deadline):
            estimate = profile.client.ground(view.image, instruction, profile.coord_format, deadline)
        if isinstance(estimate, Rejected):
            raise estimate
        if estimate.confidence < self.options.min_ground_confidence:
            raise Rejected(Code.LOW_CONFIDENCE, f'{instruction!r} may be in several places of '
                           f'{view.camera}: {estimate.confidence:.2f} at the likeliest'
                           f'{self._explain_unknown_confidence(estimate)} (cropond_remote.min_ground_confidence '
                           f'{self.options.min_ground_confidence:g})')
        return self._make_match(estimate)

    def warm(self, views: tuple[View, ...]) -> None:
        """Encode frames and have the server compute what it keeps of them.

        Nothing while the server is away: clicks look for it, so that none has to wait for this.
        """
        if self._handshake.profile is None:
            return
        try:
            with self._use_server() as (profile, deadline):
                profile.client.prefetch([view.image for view in views], deadline)
        except ServerError as trouble:
            log.warning('frames were not prepared: %s', trouble.message)

    def describe(self) -> Mapping[str, str]:
        """Say which server it is, what it can, and what is wrong with it if anything is."""
        profile = self._handshake.profile
        about = {'server': self._chat.url, 'model': self._chat.model or 'not known yet'}
        if profile is None:
            return {**about, 'state': self._handshake.error or 'being examined'}
        return {**about, 'state': 'ready', 'asked by': str(profile.client.capabilities),
                'coordinates': profile.coord_format.value,
                'template': self._chat.sanitize(repr(profile.client.template)),
                'self_test': 'off' if profile.score is None else str(profile.score)}

    def close(self) -> None:
        """Close the connections."""
        self._chat.close()

    @contextmanager
    def _use_server(self, has_instruction: bool = False) -> Iterator[tuple[ServerProfile, Deadline]]:
        """What is known of the server, and until when; trouble makes it be examined anew.

        in_own_words: a refusal may be about the words of a person. The second one running is not.
        """
        deadline = Deadline.after(self.options.deadline_s)
        profile = self._handshake.wait_ready(deadline)
        try:
            yield profile, deadline
        except ServerError as trouble:
            was_blamed = self._instruction_blamed
            self._instruction_blamed = has_instruction and trouble.status in REQUEST_STATUSES
            if self._instruction_blamed and not was_blamed:
                raise
            # A server that has too much to do is not helped by a dozen questions more.
            if trouble.code is not Code.TIMEOUT and trouble.status != TOO_MANY_REQUESTS:
                self._handshake.invalidate(trouble)
            raise
        self._instruction_blamed = False

    def _make_match(self, estimate: PixelEstimate) -> Match:
        return Match(estimate.pixel, estimate.covariance_px2, estimate.confidence,
                     f'{self._chat.model} on {self._chat.url}{self._explain_unknown_confidence(estimate)}')

    @staticmethod
    def _explain_unknown_confidence(estimate: PixelEstimate) -> str:
        if not np.isnan(estimate.covariance_px2).any():
            return ''
        return (', which tells no probabilities: refine can confirm a match, and the option '
                'confidence_unknown says what its word is worth')
