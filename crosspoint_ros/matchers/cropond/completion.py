"""A chat server's reply, read strictly: its text, and what else each token could have been."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Token:
    """One token of a reply and the log-probabilities of what could stand there, itself too."""

    text: str
    choices: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """A reply. tokens: empty where the server tells no log-probabilities.

    prompt_tokens: how many tokens it counted in what we sent; 0 where it does not tell.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    prompt_tokens: int = 0


def models_in(body: bytes) -> tuple[str, ...]:
    """Return the names of a list of models. Raises ValueError for anything else."""
    listed = _object(_parsed(body), 'the list of models').get('data')
    if not isinstance(listed, list):
        raise ValueError("the list of models holds no 'data'")
    return tuple(str(_object(model, 'a model').get('id', '')) for model in listed)


def completion_in(body: bytes) -> Completion:
    """Return the first choice of a reply. Raises ValueError, in words, for anything else."""
    reply = _object(_parsed(body), 'the reply')
    choices = reply.get('choices')
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"the reply holds no 'choices' but {sorted(reply)}")
    choice = _object(choices[0], 'the choice')
    text = _object(choice.get('message'), 'the message').get('content')
    if not isinstance(text, str):
        raise ValueError(f'the message holds no text but {text!r}')
    usage = reply.get('usage')
    counted = usage.get('prompt_tokens') if isinstance(usage, dict) else 0
    return Completion(text, _tokens(choice.get('logprobs')),
                      counted if isinstance(counted, int) else 0)


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """Tokens with alternatives; none where the server gives none."""
    content = logprobs.get('content') if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    return tuple(_token(_object(entry, 'a token')) for entry in content)


def _token(entry: dict[str, Any]) -> Token:
    others = entry.get('top_logprobs')
    told = [_object(other, 'an alternative') for other in others] \
        if isinstance(others, list) else []
    choices: dict[str, float] = {}
    for one in (*told, entry):
        text, logprob = one.get('token'), one.get('logprob')
        if not isinstance(text, str) or not isinstance(logprob, (int, float)):
            raise ValueError(f'a token came as {text!r} with the log-probability {logprob!r}')
        if math.isnan(logprob):
            raise ValueError('a log-probability is NaN: the model computes no numbers (broken '
                             'weights, or a number format it cannot take)')
        choices[text] = float(logprob)
    return Token(str(entry['token']), choices)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        start = body[:80].decode('utf-8', 'replace')
        raise ValueError(f'the reply is no JSON ({error}): {start!r}') from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{what} is no JSON object but {str(value)[:80]!r}')
    return value
