"""Probes what a chat server supports beyond the common protocol."""
from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.matchers.cropond.image_processor import MERGED_PX
from crosspoint_ros.matchers.cropond.server.errors import NOT_UNDERSTOOD, ServerTrouble
from crosspoint_ros.matchers.cropond.server.http_client import Chat, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    Picture,
    encoded,
    messages,
)
from crosspoint_ros.matchers.cropond.server.responses import Completion

# Qwen2.5-VL's own generation_config punishes repeated tokens, and digits repeat.
PENALTIES: tuple[Mapping[str, Any], ...] = ({'repetition_penalty': 1.0}, {'frequency_penalty': 0.0})
FIXED: Mapping[str, Any] = {'temperature': 0.0, 'stream': False}
CONTINUE: Mapping[str, Any] = {'add_generation_prompt': False, 'continue_final_message': True}
TOP = 20
WITH_LOGPROBS: Mapping[str, Any] = {'logprobs': True, 'top_logprobs': TOP}
NEEDED_CHOICES = 10  # as many as there are digits
PROBE = 'Name a number.'
PROBE_REGEX = '[0-9]{2}-Q'
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capabilities:
    """What can be sent to a server.

    penalty: fields that every request gets. regex: name of the field that constrains a reply, ''
    for none. prefill: it goes on with a reply that was begun. logprobs: it tells what else could
    have stood in a reply. names: it takes an image that it has by its name. model: who it says
    replied, '' where it does not say.
    """

    penalty: tuple[tuple[str, float], ...] = ()
    regex: str = ''
    prefill: bool = False
    logprobs: bool = False
    names: bool = False
    model: str = ''

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of every request."""
        return {**FIXED, **dict(self.penalty), **(WITH_LOGPROBS if self.logprobs else {})}

    def __str__(self) -> str:
        able = {'regex': self.regex, 'prefill': self.prefill, 'logprobs': self.logprobs,
                'image names': self.names}
        return ', '.join(name for name, can in able.items() if can) or 'free text'


def constrained(field: str, regex: str) -> dict[str, Any]:
    """Return the field that makes a reply keep to a regular expression."""
    return {field: {'regex': regex} if field == 'structured_outputs' else regex}


# vLLM since 0.11; SGLang; vLLM before 0.12. Servers ignore in silence what they do not know.
REGEX_FIELDS = ('structured_outputs', 'regex', 'guided_regex')


def probe(chat: Chat, deadline: Deadline) -> Capabilities:
    """Find out what a server can do. Raises `ServerTrouble` where it does not answer at all."""
    asking = Probing(chat, deadline)
    penalty = asking.penalty()
    found = Capabilities(tuple(penalty.items()), asking.regex(penalty), asking.prefill(penalty),
                         asking.logprobs(penalty), asking.names(penalty), asking.model)
    log.info('the server at %s can: %s', chat.url, found)
    return found


class Probing:
    """Short questions, each about one ability."""

    def __init__(self, chat: Chat, deadline: Deadline) -> None:
        self._chat, self._deadline = chat, deadline
        self.model = ''  # who replied last

    def penalty(self) -> Mapping[str, Any]:
        """Return the field that turns the repetition penalty off."""
        for fields in PENALTIES:
            if self._said(fields):
                return fields
        self._chat.complete([self._body({})], self._deadline)  # raises, if nothing will do
        log.warning('%s takes neither repetition_penalty nor frequency_penalty: a penalty in the '
                    "model's generation_config.json would spoil its coordinates", self._chat.url)
        return {}

    def regex(self, penalty: Mapping[str, Any]) -> str:
        """Return the name of the field that a reply really obeys."""
        for field in REGEX_FIELDS:
            said = self._said({**penalty, **constrained(field, PROBE_REGEX)})
            if said and re.fullmatch(PROBE_REGEX, said.text):
                return field
        return ''

    def prefill(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether a begun reply is gone on with: then it is not closed, and counts less."""
        begun = {'messages': messages([], PROBE, 'The number')}
        closed = self._said({**penalty, **begun})
        open_ended = self._said({**penalty, **begun, **CONTINUE})
        return bool(closed and open_ended
                    and 0 < open_ended.prompt_tokens < closed.prompt_tokens)

    def logprobs(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether a reply comes with the other tokens that could stand in it."""
        said = self._said({**penalty, **WITH_LOGPROBS})
        return bool(said and said.tokens
                    and all(len(token.choices) >= NEEDED_CHOICES for token in said.tokens))

    def names(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether an image can be named instead of sent: it must count as many tokens."""
        picture = probe_picture()
        counts = [said.prompt_tokens if (said := self._said({**penalty, **body})) else 0
                  for body in self._sent_and_named(picture)]
        return counts[0] == counts[1] >= picture.tokens

    @staticmethod
    def _sent_and_named(picture: Picture) -> Iterable[Mapping[str, Any]]:
        for by_name in (False, True):
            yield {'messages': messages([picture.part(by_name, True)], PROBE)}

    def _said(self, fields: Mapping[str, Any]) -> Completion | None:
        """Return the reply; None where the server does not understand the request."""
        try:
            (said,) = self._chat.complete([self._body(fields)], self._deadline)
        except ServerTrouble as trouble:
            if trouble.status not in NOT_UNDERSTOOD:
                raise
            return None
        self.model = said.model
        return said

    @staticmethod
    def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {'messages': messages([], PROBE), 'max_tokens': 8, **FIXED, **fields}


def probe_picture() -> Picture:
    """A small image."""
    side = 4 * MERGED_PX
    shades = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)
    return encoded(np.repeat(shades[..., np.newaxis], 3, axis=2), side * side)
