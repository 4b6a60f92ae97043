"""A chat server's reply, read strictly: its text, and what else each token could have been."""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# We ask for 96 tokens at most. What is longer is no reply to that.
MAX_TEXT_CHARACTERS = 10_000
MIN_LOGPROB = -1e6  # a probability of 0; numbers of a thousand digits are no floats
LOGPROB_TOLERANCE = 1e-3  # what servers may add to the logarithm of 1



@dataclass(frozen=True)
class Token:
    """One token of a reply and the log-probabilities of what could stand there, itself too."""

    text: str
    choices: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """A reply. tokens: empty where the server tells no log-probabilities.

    prompt_tokens: how many tokens it counted in what we sent; 0 where it does not tell. model: who
    replied; '' where it does not tell.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    prompt_tokens: int = 0
    model: str = ''


@dataclass(frozen=True)
class ModelInfo:
    """A model that a server lists. root: where it has it from; '' where it does not tell."""

    name: str
    root: str = ''


def parse_models(body: bytes) -> tuple[ModelInfo, ...]:
    """Return what a list of models names. Raises ValueError for anything else."""
    entries = _require_object(_parse_json(body), 'the list of models').get('data')
    if not isinstance(entries, list):
        raise ValueError("the list of models holds no 'data'")
    models = [_require_object(model, 'a model') for model in entries]
    return tuple(ModelInfo(str(m.get('id', '')), str(m.get('root') or '')) for m in models)


def parse_completion(body: bytes) -> Completion:
    """Return the first choice of a reply. Raises ValueError, in words, for anything else."""
    reply = _require_object(_parse_json(body), 'the reply')
    choices = reply.get('choices')
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"the reply holds no 'choices' but {sorted(reply)}")
    choice = _require_object(choices[0], 'the choice')
    text = _require_object(choice.get('message'), 'the message').get('content')
    if not isinstance(text, str):
        raise ValueError(f'the message holds no text but {text!r}')
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f'the reply is {len(text)} characters long, at most '
                         f'{MAX_TEXT_CHARACTERS} were expected: it does not keep to max_tokens')
    usage = reply.get('usage')
    prompt_tokens = usage.get('prompt_tokens') if isinstance(usage, dict) else 0
    model = reply.get('model')
    return Completion(text, _parse_tokens(choice.get('logprobs')),
                      prompt_tokens if isinstance(prompt_tokens, int) else 0,
                      model if isinstance(model, str) else '')


def _parse_tokens(logprobs: Any) -> tuple[Token, ...]:
    """Tokens with alternatives; none where the server gives none."""
    content = logprobs.get('content') if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    return tuple(_parse_token(_require_object(entry, 'a token')) for entry in content)


def _parse_token(entry: dict[str, Any]) -> Token:
    others = entry.get('top_logprobs')
    alternatives = [_require_object(other, 'an alternative') for other in others] \
        if isinstance(others, list) else []
    choices: dict[str, float] = {}
    for one in (*alternatives, entry):
        text, logprob = one.get('token'), one.get('logprob')
        if not isinstance(text, str):
            raise ValueError(f'a token came as {text!r}')
        choices[text] = _parse_logprob(logprob)
    return Token(str(entry['token']), choices)


def _parse_logprob(value: Any) -> float:
    """A logarithm of a probability: 0 or less. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'a log-probability came as {value!r}')
    if value != value:
        raise ValueError('a log-probability is NaN: the model computes no numbers (broken '
                         'weights, or a number format it cannot take)')
    if value > LOGPROB_TOLERANCE:
        raise ValueError(f'a log-probability is above 0: {value!r}')
    return min(float(max(value, MIN_LOGPROB)), 0.0)


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        # Whoever shows it shortens it, after the key was taken out.
        text = body.decode('utf-8', 'replace')
        raise ValueError(f'the reply is no JSON ({error}): {text!r}') from error


def _require_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{what} is no JSON object but {str(value)!r}')
    return value
