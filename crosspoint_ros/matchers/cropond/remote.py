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
from crosspoint_ros.matchers.cropond.server.errors import ABOUT_A_REQUEST, BUSY, ServerTrouble
from crosspoint_ros.matchers.cropond.server.handshake import EXAMINATION_S, Examination, Known
from crosspoint_ros.matchers.cropond.server.http_client import Chat, Deadline
from crosspoint_ros.matchers.cropond.server.payload import Pictures
from crosspoint_ros.matchers.cropond.server.point_client import Place

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
        self._chat = Chat(given.url, given.model, given.key_env, given.ca_file, given.proxy)
        self._pictures = Pictures(given.max_pixels)
        self._words_blamed = False
        self._examination = Examination(self._chat, given, self._pictures)
        try:
            self._examination.await_known(Deadline.after(EXAMINATION_S))
        except ServerTrouble as trouble:
            if not trouble.passing:
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
        with self._asked() as (known, deadline):
            shown = self._pictures.of(images[0]).shown
            clicks = [prompt.written(known.convention, q.pixel, shown) for q in queries]
            found = known.asking.places(images, clicks, known.convention, deadline)
        return [place if isinstance(place, Rejected) else self._match(place) for place in found]

    def ground(self, view: View, instruction: str) -> Match:
        """Return the point that an instruction names.

        Raises `Rejected`: NOT_VISIBLE when the model names none, LOW_CONFIDENCE when it guesses.
        """
        with self._asked(in_own_words=True) as (known, deadline):
            found = known.asking.named(view.image, instruction, known.convention, deadline)
        if isinstance(found, Rejected):
            raise found
        if found.confidence < self.options.min_ground_confidence:
            raise Rejected(Code.LOW_CONFIDENCE, f'{instruction!r} may be in several places of '
                           f'{view.camera}: {found.confidence:.2f} at the likeliest'
                           f'{self._unmeasured(found)} (cropond_remote.min_ground_confidence '
                           f'{self.options.min_ground_confidence:g})')
        return self._match(found)

    def warm(self, views: tuple[View, ...]) -> None:
        """Encode frames and have the server compute what it keeps of them.

        Nothing while the server is away: clicks look for it, so that none has to wait for this.
        """
        if self._examination.known is None:
            return
        try:
            with self._asked() as (known, deadline):
                known.asking.send([view.image for view in views], deadline)
        except ServerTrouble as trouble:
            log.warning('frames were not prepared: %s', trouble.message)

    def describe(self) -> Mapping[str, str]:
        """Say which server it is, what it can, and what is wrong with it if anything is."""
        known = self._examination.known
        about = {'server': self._chat.url, 'model': self._chat.model or 'not known yet'}
        if known is None:
            return {**about, 'state': self._examination.trouble or 'being examined'}
        return {**about, 'state': 'ready', 'asked by': str(known.asking.can),
                'coordinates': known.convention.value,
                'template': self._chat.clean(repr(known.asking.template)),
                'self_test': 'off' if known.score is None else str(known.score)}

    def close(self) -> None:
        """Close the connections."""
        self._chat.close()

    @contextmanager
    def _asked(self, in_own_words: bool = False) -> Iterator[tuple[Known, Deadline]]:
        """What is known of the server, and until when; trouble makes it be examined anew.

        in_own_words: a refusal may be about the words of a person. The second one running is not.
        """
        deadline = Deadline.after(self.options.deadline_s)
        known = self._examination.await_known(deadline)
        try:
            yield known, deadline
        except ServerTrouble as trouble:
            blamed = self._words_blamed
            self._words_blamed = in_own_words and trouble.status in ABOUT_A_REQUEST
            if self._words_blamed and not blamed:
                raise
            # A server that has too much to do is not helped by a dozen questions more.
            if trouble.code is not Code.TIMEOUT and trouble.status != BUSY:
                self._examination.doubt(trouble)
            raise
        self._words_blamed = False

    def _match(self, found: Place) -> Match:
        return Match(found.pixel, found.covariance_px2, found.confidence,
                     f'{self._chat.model} on {self._chat.url}{self._unmeasured(found)}')

    @staticmethod
    def _unmeasured(found: Place) -> str:
        if not np.isnan(found.covariance_px2).any():
            return ''
        return (', which tells no probabilities: refine can confirm a match, and the option '
                'confidence_unknown says what its word is worth')
