"""Random and mutated ROS messages of any type."""
from __future__ import annotations

import array
import random
import re
from importlib import import_module
from typing import Any

NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 320.0, 1e-300, 1e300, float('nan'), float('inf'),
           float('-inf'))
INTEGER_BITS = {'octet': 8, 'byte': 8, 'char': 8, **{f'{sign}int{bits}': bits for sign in ('', 'u')
                                                   for bits in (8, 16, 32, 64)}}
SIGNED = re.compile(r'int\d+')
SEQUENCE = re.compile(r'sequence<(.+?)(?:, (\d+))?>|(.+)\[(\d+)\]')  # unbounded, bounded, array
MAX_LENGTH = 40


def load_interface(name: str) -> Any:
    """Return the class of 'package/kind/Name', as the graph writes a type."""
    package, kind, attribute = name.split('/')
    if kind != 'action':
        return getattr(import_module(f'{package}.{kind}'), attribute)
    action, _, part = attribute.partition('_')
    impl = getattr(import_module(f'{package}.action'), action).Impl
    return {'SendGoal': impl.SendGoalService, 'GetResult': impl.GetResultService,
            'FeedbackMessage': impl.FeedbackMessage}[part]


def _load_nested(kind: str) -> Any:
    package, name = kind.split('/')
    action, _, part = name.partition('_')
    return (getattr(getattr(import_module(f'{package}.action'), action), part) if part
            else getattr(import_module(f'{package}.msg'), name))


class MessageGenerator:
    """Fills messages with values at the limits of their types, and with names that a node knows."""

    def __init__(self, rng: random.Random, names: tuple[str, ...]) -> None:
        """names: strings that mean something to the node: cameras, frames, parameters."""
        self._rng = rng
        self._strings = ('', *names, '/', '..', '\N{SNOWMAN}', '%s%n', 'x' * 5000, '[]', 'null')

    def fill(self, message: Any) -> Any:
        """Give each field of the message a random value; return it."""
        for field, kind in message.get_fields_and_field_types().items():
            setattr(message, field, self._choose_value(kind))
        return message

    def mutate(self, data: bytes) -> bytes:
        """Change, cut or extend the bytes of a serialized message; its CDR header stays."""
        header, body = data[:4], bytearray(data[4:])
        for _ in range(self._rng.choice((1, 1, 2, 8))):
            if body:
                body[self._rng.randrange(min(len(body), 400))] = self._rng.randrange(256)
        cut = self._rng.random()
        if cut < 0.2:
            del body[self._rng.randrange(len(body) + 1):]
        elif cut < 0.3:
            body += self._rng.randbytes(self._rng.randrange(64))
        return header + bytes(body)

    def _choose_value(self, kind: str) -> Any:
        sequence = SEQUENCE.fullmatch(kind)
        if sequence:
            element, bound, fixed_element, length = sequence.groups()
            if fixed_element:
                return self._choose_values(fixed_element, int(length))
            return self._choose_values(element, self._rng.choice(
                (0, 1, 2, self._rng.randrange(min(int(bound or MAX_LENGTH), MAX_LENGTH)))))
        if kind == 'boolean':
            return self._rng.random() < 0.5
        if kind in ('float', 'double', 'long double'):
            return self._choose_number(is_single=kind == 'float')
        if kind in INTEGER_BITS:
            return self._choose_integer(kind)
        if kind.startswith(('string', 'wstring')):
            return self._rng.choice(self._strings)
        return self.fill(_load_nested(kind)())

    def _choose_values(self, kind: str, length: int) -> Any:
        values = [self._choose_value(kind) for _ in range(length)]
        return array.array('B', values) if kind == 'uint8' else values

    def _choose_number(self, is_single: bool) -> float:
        number = self._rng.choice((*NUMBERS, self._rng.uniform(-1000, 1000)))
        return number if not is_single or abs(number) in (0.0, float('inf')) or \
            not abs(number) > 3e38 else 3e38

    def _choose_integer(self, kind: str) -> Any:
        bits = INTEGER_BITS[kind]
        low = -2**(bits - 1) if SIGNED.fullmatch(kind) else 0
        high = low + 2**bits - 1
        number = self._rng.choice((low, high, min(max(0, low), high), 1,
                                   self._rng.randint(low, high)))
        return bytes([number]) if kind in ('octet', 'byte') else number
