"""Probes what a chat server supports beyond the common protocol."""
from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.matchers.cropond.image_processor import TOKEN_PX
from crosspoint_ros.matchers.cropond.server.errors import UNSUPPORTED_STATUSES, ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.payload import (
    EncodedImage,
    encode_image,
    build_messages,
)
from crosspoint_ros.matchers.cropond.server.responses import Completion

# Qwen2.5-VL's own generation_config punishes repeated tokens, and digits repeat.
PENALTY_FIELDS: tuple[Mapping[str, Any], ...] = ({'repetition_penalty': 1.0}, {'frequency_penalty': 0.0})
COMMON_FIELDS: Mapping[str, Any] = {'temperature': 0.0, 'stream': False}
CONTINUE_FIELDS: Mapping[str, Any] = {'add_generation_prompt': False, 'continue_final_message': True}
TOP_LOGPROBS = 20
LOGPROB_FIELDS: Mapping[str, Any] = {'logprobs': True, 'top_logprobs': TOP_LOGPROBS}
MIN_ALTERNATIVES = 10  # as many as there are digits
PROBE_PROMPT = 'Name a number.'
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
        return {**COMMON_FIELDS, **dict(self.penalty), **(LOGPROB_FIELDS if self.logprobs else {})}

    def __str__(self) -> str:
        features = {'regex': self.regex, 'prefill': self.prefill, 'logprobs': self.logprobs,
                'image names': self.names}
        return ', '.join(name for name, value in features.items() if value) or 'free text'


def build_regex_field(field: str, regex: str) -> dict[str, Any]:
    """Return the field that makes a reply keep to a regular expression."""
    return {field: {'regex': regex} if field == 'structured_outputs' else regex}


# vLLM since 0.11; SGLang; vLLM before 0.12. Servers ignore in silence what they do not know.
REGEX_FIELDS = ('structured_outputs', 'regex', 'guided_regex')


def probe_capabilities(chat: ChatClient, deadline: Deadline) -> Capabilities:
    """Find out what a server can do. Raises `ServerTrouble` where it does not answer at all."""
    probe_capabilities = CapabilityProbe(chat, deadline)
    penalty = probe_capabilities.penalty()
    capabilities = Capabilities(tuple(penalty.items()), probe_capabilities.regex(penalty), probe_capabilities.prefill(penalty),
                         probe_capabilities.logprobs(penalty), probe_capabilities.names(penalty), probe_capabilities.model)
    log.info('the server at %s can: %s', chat.url, capabilities)
    return capabilities


class CapabilityProbe:
    """Short questions, each about one ability."""

    def __init__(self, chat: ChatClient, deadline: Deadline) -> None:
        self._chat, self._deadline = chat, deadline
        self.model = ''  # who replied last

    def penalty(self) -> Mapping[str, Any]:
        """Return the field that turns the repetition penalty off."""
        for fields in PENALTY_FIELDS:
            if self._try_request(fields):
                return fields
        self._chat.complete([self._build_body({})], self._deadline)  # raises, if nothing will do
        log.warning('%s takes neither repetition_penalty nor frequency_penalty: a penalty in the '
                    "model's generation_config.json would spoil its coordinates", self._chat.url)
        return {}

    def regex(self, penalty: Mapping[str, Any]) -> str:
        """Return the name of the field that a reply really obeys."""
        for field in REGEX_FIELDS:
            reply = self._try_request({**penalty, **build_regex_field(field, PROBE_REGEX)})
            if reply and re.fullmatch(PROBE_REGEX, reply.text):
                return field
        return ''

    def prefill(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether a begun reply is gone on with: then it is not closed, and counts less."""
        body = {'messages': build_messages([], PROBE_PROMPT, 'The number')}
        closed = self._try_request({**penalty, **body})
        open_ended = self._try_request({**penalty, **body, **CONTINUE_FIELDS})
        return bool(closed and open_ended
                    and 0 < open_ended.prompt_tokens < closed.prompt_tokens)

    def logprobs(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether a reply comes with the other tokens that could stand in it."""
        reply = self._try_request({**penalty, **LOGPROB_FIELDS})
        return bool(reply and reply.tokens
                    and all(len(token.choices) >= MIN_ALTERNATIVES for token in reply.tokens))

    def names(self, penalty: Mapping[str, Any]) -> bool:
        """Tell whether an image can be named instead of sent: it must count as many tokens."""
        image = make_probe_image()
        counts = [reply.prompt_tokens if (reply := self._try_request({**penalty, **body})) else 0
                  for body in self._iter_image_bodies(image)]
        return counts[0] == counts[1] >= image.tokens

    @staticmethod
    def _iter_image_bodies(image: EncodedImage) -> Iterable[Mapping[str, Any]]:
        for by_uuid in (False, True):
            yield {'messages': build_messages([image.to_message_part(by_uuid, True)], PROBE_PROMPT)}

    def _try_request(self, fields: Mapping[str, Any]) -> Completion | None:
        """Return the reply; None where the server does not understand the request."""
        try:
            (reply,) = self._chat.complete([self._build_body(fields)], self._deadline)
        except ServerError as error:
            if error.status not in UNSUPPORTED_STATUSES:
                raise
            return None
        self.model = reply.model
        return reply

    @staticmethod
    def _build_body(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {'messages': build_messages([], PROBE_PROMPT), 'max_tokens': 8, **COMMON_FIELDS, **fields}


def make_probe_image() -> EncodedImage:
    """A small image."""
    side = 4 * TOKEN_PX
    shades = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)
    return encode_image(np.repeat(shades[..., np.newaxis], 3, axis=2), side * side)
