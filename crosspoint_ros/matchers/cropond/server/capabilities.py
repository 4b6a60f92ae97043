"""Which extensions of the chat protocol a server supports: as declared, or probed by effect."""
from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crosspoint_ros.matchers.cropond.server.errors import UNSUPPORTED_STATUSES, ServerError
from crosspoint_ros.matchers.cropond.server.http_client import ChatClient, Deadline
from crosspoint_ros.matchers.cropond.server.protocol import SCHEMA_FIELD, Completion, build_messages

COMMON_FIELDS: Mapping[str, Any] = {'temperature': 0.0, 'stream': False}
# Qwen2.5-VL's generation_config penalises repeated tokens, and digits repeat.
PENALTY_FIELDS: tuple[Mapping[str, Any], ...] = ({'repetition_penalty': 1.0},
                                                 {'frequency_penalty': 0.0})
# vLLM; SGLang; vLLM before 0.12; llama.cpp; portable. Servers silently ignore unknown fields.
CONSTRAINTS = ('structured_outputs', 'regex', 'guided_regex', 'grammar', SCHEMA_FIELD)
CONTINUE_FIELDS: Mapping[str, Any] = {'add_generation_prompt': False,
                                      'continue_final_message': True}
LOGPROB_FIELDS: Mapping[str, Any] = {'logprobs': True, 'top_logprobs': 20}
MIN_ALTERNATIVES = 10  # one for each digit
PROBE_PROMPT = 'Name a number.'
PROBE_REGEX, PROBE_GRAMMAR = '[0-9]{2}-Q', 'root ::= [0-9] [0-9] "-Q"'
PROBE_SCHEMA = {'type': 'object', 'properties': {'q': {'enum': ['Q']}}, 'required': ['q'],
                'additionalProperties': False}
POINT_SCHEMA = {'type': 'object', 'required': ['point_2d'], 'additionalProperties': False,
                'properties': {'point_2d': {'type': 'array', 'items': {'type': 'number'},
                                            'minItems': 2, 'maxItems': 2}}}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capabilities:
    """What a server supports.

    penalty: fields that disable the repetition penalty. constraint: name of the field that
    constrains a reply, '' for none. prefill: it continues a given reply; prefill_fields: that say
    so. logprobs: it returns alternatives of each token. model: name in its replies, '' if not
    reported.
    """

    penalty: tuple[tuple[str, float], ...] = ()
    constraint: str = ''
    prefill: bool = False
    logprobs: bool = False
    model: str = ''
    prefill_fields: Mapping[str, Any] = field(default_factory=lambda: CONTINUE_FIELDS)

    @property
    def request_fields(self) -> dict[str, Any]:
        return {**COMMON_FIELDS, **dict(self.penalty), **(LOGPROB_FIELDS if self.logprobs else {})}

    def __str__(self) -> str:
        features = (self.constraint, 'prefill' * self.prefill, 'logprobs' * self.logprobs)
        return ', '.join(filter(None, features)) or 'free text'


# By the option `server`. Only llama.cpp continues a last message of the assistant by itself.
DECLARED = {
    'vllm': Capabilities((('repetition_penalty', 1.0),), 'structured_outputs', True, True),
    'sglang': Capabilities((('repetition_penalty', 1.0),), 'regex', True, True),
    'llama_cpp': Capabilities((('repeat_penalty', 1.0),), 'grammar', True, True,
                              prefill_fields={}),
    'ollama': Capabilities((), SCHEMA_FIELD, False, True),
    'openai': Capabilities((('frequency_penalty', 0.0),), SCHEMA_FIELD, False, True)}


def build_constraint(name: str, regex: str, grammar: str, schema: Mapping[str, Any]
                     ) -> dict[str, Any]:
    """Return the field that constrains a reply, in the terms of its server."""
    if name == SCHEMA_FIELD:
        return {name: {'type': 'json_schema', 'json_schema': {
            'name': 'point', 'strict': True, 'schema': schema}}}
    return {name: {'structured_outputs': {'regex': regex}, 'grammar': grammar}.get(name, regex)}


def find_capabilities(chat: ChatClient, server: str, deadline: Deadline) -> Capabilities:
    """Return what a server supports, probed unless it is one of `DECLARED`.

    Raises `ServerError` if it does not answer at all.
    """
    probe = CapabilityProbe(chat, deadline)
    capabilities = probe.identify(DECLARED[server]) if server in DECLARED else probe.run()
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
        return Capabilities(tuple(self._penalty.items()), self._find_constraint(),
                            self._supports_prefill(), self._supports_logprobs(), self._model)

    def identify(self, declared: Capabilities) -> Capabilities:
        """Return what was declared, with the name of the model that replies."""
        (reply,) = self._chat.complete([self._build_body({})], self._deadline)
        return replace(declared, model=reply.model)

    def _find_penalty_fields(self) -> Mapping[str, Any]:
        for fields in PENALTY_FIELDS:
            if self._request(fields):
                return fields
        self._chat.complete([self._build_body({})], self._deadline)  # raises if nothing works
        log.warning('%s supports neither repetition_penalty nor frequency_penalty: a penalty in '
                    "the model's generation_config.json would corrupt its coordinates",
                    self._chat.url)
        return {}

    def _find_constraint(self) -> str:
        for name in CONSTRAINTS:
            reply = self._request(build_constraint(name, PROBE_REGEX, PROBE_GRAMMAR, PROBE_SCHEMA))
            expected = r'\s*\{\s*"q"\s*:\s*"Q"\s*\}\s*' if name == SCHEMA_FIELD else PROBE_REGEX
            if reply and re.fullmatch(expected, reply.text):
                return name
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
