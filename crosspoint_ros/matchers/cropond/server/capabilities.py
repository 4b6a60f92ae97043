"""Probes which extensions of the chat protocol a server supports, by their effect."""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosspoint_ros.matchers.cropond.image_processor import TOKEN_PX
from crosspoint_ros.matchers.cropond.server.errors import UNSUPPORTED_STATUSES, ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.protocol import Completion, build_messages, encode_image

COMMON_FIELDS: Mapping[str, Any] = {'temperature': 0.0, 'stream': False}
# Qwen2.5-VL's generation_config penalises repeated tokens, and digits repeat.
PENALTY_FIELDS: tuple[Mapping[str, Any], ...] = ({'repetition_penalty': 1.0},
                                                 {'frequency_penalty': 0.0})
# vLLM since 0.11; SGLang; vLLM before 0.12. Servers silently ignore unknown fields.
REGEX_FIELDS = ('structured_outputs', 'regex', 'guided_regex')
CONTINUE_FIELDS: Mapping[str, Any] = {'add_generation_prompt': False,
                                      'continue_final_message': True}
LOGPROB_FIELDS: Mapping[str, Any] = {'logprobs': True, 'top_logprobs': 20}
MIN_ALTERNATIVES = 10  # one for each digit
PROBE_PROMPT = 'Name a number.'
PROBE_REGEX = '[0-9]{2}-Q'
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capabilities:
    """What a server supports.

    penalty: fields that disable the repetition penalty. regex_field: name of the field that
    constrains a reply, '' for none. prefill: it continues a given reply. logprobs: it returns
    alternatives of each token. image_by_uuid: it accepts the uuid of an image that it has cached.
    model: name in its replies, '' if not reported.
    """

    penalty: tuple[tuple[str, float], ...] = ()
    regex_field: str = ''
    prefill: bool = False
    logprobs: bool = False
    image_by_uuid: bool = False
    model: str = ''

    @property
    def request_fields(self) -> dict[str, Any]:
        return {**COMMON_FIELDS, **dict(self.penalty), **(LOGPROB_FIELDS if self.logprobs else {})}

    def __str__(self) -> str:
        features = {'regex': self.regex_field, 'prefill': self.prefill, 'logprobs': self.logprobs,
                    'image names': self.image_by_uuid}
        return ', '.join(name for name, value in features.items() if value) or 'free text'


def build_regex_field(field: str, regex: str) -> dict[str, Any]:
    return {field: {'regex': regex} if field == 'structured_outputs' else regex}


def probe_capabilities(chat: ChatClient, deadline: Deadline) -> Capabilities:
    """Return what a server supports. Raises `ServerError` if it does not answer at all."""
    capabilities = CapabilityProbe(chat, deadline).run()
    log.info('the server at %s supports: %s', chat.url, capabilities)
    return capabilities


class CapabilityProbe:
    """Short requests, each for one feature."""

    def __init__(self, chat: ChatClient, deadline: Deadline) -> None:
        self._chat, self._deadline = chat, deadline
        self._penalty: Mapping[str, Any] = {}
        self._model = ''  # of the last reply

    def run(self) -> Capabilities:
        self._penalty = self._find_penalty_fields()
        return Capabilities(
            tuple(self._penalty.items()), self._find_regex_field(), self._supports_prefill(),
            self._supports_logprobs(), self._supports_image_by_uuid(), self._model)

    def _find_penalty_fields(self) -> Mapping[str, Any]:
        for fields in PENALTY_FIELDS:
            if self._request(fields):
                return fields
        self._chat.complete([self._build_body({})], self._deadline)  # raises if nothing works
        log.warning('%s supports neither repetition_penalty nor frequency_penalty: a penalty in '
                    "the model's generation_config.json would corrupt its coordinates",
                    self._chat.url)
        return {}

    def _find_regex_field(self) -> str:
        for field in REGEX_FIELDS:
            reply = self._request(build_regex_field(field, PROBE_REGEX))
            if reply and re.fullmatch(PROBE_REGEX, reply.text):
                return field
        return ''

    def _supports_prefill(self) -> bool:
        """A continued message is not closed in the prompt, which has fewer tokens then."""
        body = {'messages': build_messages([], PROBE_PROMPT, 'The number')}
        closed, continued = self._request(body), self._request({**body, **CONTINUE_FIELDS})
        return bool(closed and continued
                    and 0 < continued.prompt_tokens < closed.prompt_tokens)

    def _supports_logprobs(self) -> bool:
        reply = self._request(LOGPROB_FIELDS)
        return bool(reply and reply.tokens
                    and all(len(token.choices) >= MIN_ALTERNATIVES for token in reply.tokens))

    def _supports_image_by_uuid(self) -> bool:
        """An image sent by its uuid must count as many prompt tokens as with its data."""
        side = 4 * TOKEN_PX
        shades = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8)
        image = encode_image(np.repeat(shades[..., np.newaxis], 3, axis=2), side * side)
        sent, by_uuid = (self._request({'messages': build_messages(
            [image.to_message_part(by_uuid, True)], PROBE_PROMPT)}) for by_uuid in (False, True))
        return bool(sent and by_uuid
                    and sent.prompt_tokens == by_uuid.prompt_tokens >= image.token_count)

    def _request(self, fields: Mapping[str, Any]) -> Completion | None:
        """Return the reply; None if the server does not support the request."""
        try:
            (reply,) = self._chat.complete([self._build_body(fields)], self._deadline)
        except ServerError as error:
            if error.status not in UNSUPPORTED_STATUSES:
                raise
            return None
        self._model = reply.model
        return reply

    def _build_body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {'messages': build_messages([], PROBE_PROMPT), 'max_tokens': 8, **COMMON_FIELDS,
                **self._penalty, **fields}
