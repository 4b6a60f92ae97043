"""A chat server's reply, read strictly: its text, and what else each token could have been."""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

# We ask for 96 tokens at most. What is longer is no reply to that.
MAX_TEXT_CHARACTERS = 10_000
LEAST = -1e6  # a probability of 0; numbers of a thousand digits are no floats
ROUNDED_UP = 1e-3  # what servers may add to the logarithm of 1



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
class Offer:
    """A model that a server lists. root: where it has it from; '' where it does not tell."""

    name: str
    root: str = ''


def models_in(body: bytes) -> tuple[Offer, ...]:
    """Return what a list of models names. Raises ValueError for anything else."""
    listed = _object(_parsed(body), 'the list of models').get('data')
    if not isinstance(listed, list):
        raise ValueError("the list of models holds no 'data'")
    models = [_object(model, 'a model') for model in listed]
    return tuple(Offer(str(m.get('id', '')), str(m.get('root') or '')) for m in models)


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
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f'the reply is {len(text)} characters long, at most '
                         f'{MAX_TEXT_CHARACTERS} were expected: it does not keep to max_tokens')
    usage = reply.get('usage')
    counted = usage.get('prompt_tokens') if isinstance(usage, dict) else 0
    model = reply.get('model')
    return Completion(text, _tokens(choice.get('logprobs')),
                      counted if isinstance(counted, int) else 0,
                      model if isinstance(model, str) else '')


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
        if not isinstance(text, str):
            raise ValueError(f'a token came as {text!r}')
        choices[text] = _logprob(logprob)
    return Token(str(entry['token']), choices)


def _logprob(told: Any) -> float:
    """A logarithm of a probability: 0 or less. Raises ValueError for anything else."""
    if isinstance(told, bool) or not isinstance(told, (int, float)):
        raise ValueError(f'a log-probability came as {told!r}')
    if told != told:
        raise ValueError('a log-probability is NaN: the model computes no numbers (broken '
                         'weights, or a number format it cannot take)')
    if told > ROUNDED_UP:
        raise ValueError(f'a log-probability is above 0: {told!r}')
    return min(float(max(told, LEAST)), 0.0)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        # Whoever shows it shortens it, after the key was taken out.
        text = body.decode('utf-8', 'replace')
        raise ValueError(f'the reply is no JSON ({error}): {text!r}') from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{what} is no JSON object but {str(value)!r}')
    return value
