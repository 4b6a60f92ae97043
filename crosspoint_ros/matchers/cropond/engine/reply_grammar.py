"""The reply format in tokens: the text around two numbers, and how a number may continue."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.matchers.cropond.prompt import (
    PROMPT_HEADER,
    RELATIVE_UNITS,
    REPLY_HEADER,
    CoordinateFormat,
    ReplyTemplate,
)

DIGITS = '0123456789'
SIGN = re.compile(r'[-+]\s*(?:0\.)?$')
EOS_TOKENS = ('<|im_end|>', '<|endoftext|>')
THOUGHT_START, EMPTY_THOUGHT_END = '<think>\n', '\n</think>\n\n'


@dataclass(frozen=True)
class ReplyFormat:
    """A reply in token ids: before, a number, between, a number, one of the terminators.

    max_digits: of a number. is_fraction: the numbers are the decimals after '0.', where leading
    zeros count. between[0] ends the first number, any of the terminators the second.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    terminators: tuple[int, ...]
    max_digits: int
    is_fraction: bool = False

    @property
    def end_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that may end the first and the second number."""
        return (self.between[0],), self.terminators

    @property
    def value_count(self) -> int:
        """Number of values that a number can have."""
        return RELATIVE_UNITS if self.is_fraction else 10 ** self.max_digits


class ReplyTokenizer:
    """Encodes and decodes text, and finds the tokens of which replies consist."""

    def __init__(self, tokenizer: Any) -> None:
        """Raise ValueError for a tokenizer that does not encode numbers digit by digit."""
        self._tokenizer = tokenizer
        encoded = [self.encode(digit) for digit in DIGITS]
        if any(len(tokens) != 1 for tokens in encoded) or len(self.encode('512')) != 3:
            raise ValueError('this tokenizer does not write numbers digit by digit; CroPond, '
                             'Qwen2.5-VL and Qwen3-VL do: is this the right checkpoint?')
        self.prompt_header, self.reply_header = render_headers(tokenizer)
        self.digits = tuple(tokens[0] for tokens in encoded)
        self.eos_tokens = frozenset(tokens[0] for tokens in map(self.encode, EOS_TOKENS)
                                    if len(tokens) == 1)
        self._tokens_by_start: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, in which special tokens are recognised."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """Return the text of one token, also of a special one; never empty."""
        return str(self._tokenizer.decode([token])) or f'token {token}'

    def find_tokens_starting_with(self, character: str) -> tuple[int, ...]:
        """Return all tokens that begin with a character: `],` and `]}` are single tokens.

        A grammar that allows only `]` changes the model's answers.
        """
        if character not in self._tokens_by_start:
            # In the vocabulary's spelling, which encodes spaces.
            start = self._tokenizer.convert_ids_to_tokens(self.encode(character)[0])
            special = set(self._tokenizer.all_special_tokens)
            self._tokens_by_start[character] = tuple(sorted(
                token for text, token in self._tokenizer.get_vocab().items()
                if text.startswith(start) and text not in special))
        return self._tokens_by_start[character]

    def build_format(self, template: ReplyTemplate, coord_format: CoordinateFormat,
                     max_digits: int) -> ReplyFormat:
        """Return the format of a template. Raises ValueError if nothing ends its numbers."""
        lead = '0.' if coord_format is CoordinateFormat.RELATIVE_1 else ''
        between = self.encode(template.between + lead)
        terminators = self.find_tokens_starting_with(template.after[:1])
        if not between or not terminators or between[0] in self.digits:
            raise ValueError(f'template: nothing ends the numbers of {template}')
        return ReplyFormat(self.encode(template.before + lead), between, terminators, max_digits,
                           bool(lead))

    def infer_format(self, reply: Sequence[int], coord_format: CoordinateFormat,
                     max_digits: int) -> ReplyFormat | None:
        """Return the format of a reply's own tokens; None unless it has exactly two numbers.

        Of more, the first two may repeat the click: forcing that format would return a point of
        the question. Signed numbers are excluded: of -1 the format would force the digits.
        """
        numbers = self._find_numbers(reply)
        is_fraction = coord_format is CoordinateFormat.RELATIVE_1
        if is_fraction:  # the zeros before the decimal points were found too
            numbers = [n for n in numbers if self.decode(reply[:n[0]]).endswith('0.')]
        if len(numbers) != 2 or numbers[1][1] >= len(reply):
            return None
        if any(SIGN.search(self.decode(reply[:start])) for start, _ in numbers):
            return None
        (x, x_end), (y, y_end) = numbers
        closing = self.decode(reply[y_end:y_end + 1])
        terminators = (self.find_tokens_starting_with(closing[:1]) if closing
                       else (reply[y_end],))
        return ReplyFormat(tuple(reply[:x]), tuple(reply[x_end:y]), terminators, max_digits,
                           is_fraction)

    def _find_numbers(self, reply: Sequence[int]) -> list[tuple[int, int]]:
        """Start and end of the runs of digits outside of words: not the `2` of `point_2d`."""
        numbers, start = [], None
        for index, token in enumerate([*reply, -1]):
            if token in self.digits:
                start = index if start is None else start
            elif start is not None:
                before, after = self.decode(reply[:start])[-1:], self.decode(reply[index:])[:1]
                if not (before.isalpha() or before == '_' or after.isalpha() or after == '_'):
                    numbers.append((start, index))
                start = None
        return numbers


def render_headers(tokenizer: Any) -> tuple[str, str]:
    """Return the text before the images and after the question, by the chat template.

    With it comes the system message, if the model has one. A model that would think first gets an
    empty thought. Raises ValueError for a template that drops the question.
    """
    if not getattr(tokenizer, 'chat_template', None):
        return PROMPT_HEADER, REPLY_HEADER
    question = 'QUESTION'
    header, found, reply_header = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': [{'type': 'text', 'text': question}]}], tokenize=False,
        add_generation_prompt=True).partition(question)
    if not found:
        raise ValueError('the chat template of this checkpoint drops the text of a question in '
                         'parts: is it that of a vision model?')
    return header, reply_header + (
        EMPTY_THOUGHT_END if reply_header.endswith(THOUGHT_START) else '')


@dataclass(frozen=True)
class PartialNumber:
    """The digits of a number that are decoded so far."""

    text: str = ''

    def can_extend(self, reply_format: ReplyFormat) -> bool:
        """Return whether another digit may follow: only fractions have leading zeros."""
        return not self.is_complete(reply_format) and (reply_format.is_fraction
                                                       or self.text != '0')

    def can_end(self) -> bool:
        return bool(self.text)

    def is_complete(self, reply_format: ReplyFormat) -> bool:
        """Return whether it has as many digits as the format allows."""
        return len(self.text) == reply_format.max_digits

    def append(self, digit: int) -> PartialNumber:
        return PartialNumber(self.text + DIGITS[digit])

    def to_int(self, reply_format: ReplyFormat) -> int:
        """Return the value as an integer, in thousandths for a fraction."""
        return int(self.text.ljust(reply_format.max_digits, '0') if reply_format.is_fraction
                   else self.text)


class AllowedTokens:
    """Tokens that may follow, as columns of a reduced head: ten digits, then the end tokens."""

    def __init__(self, tokenizer: ReplyTokenizer, reply_format: ReplyFormat) -> None:
        self.reply_format = reply_format
        first, second = reply_format.end_tokens
        self.tokens = (*tokenizer.digits, *first, *second)
        # That end the number of an axis: 0 for x, 1 for y.
        self.end_columns = (slice(10, 10 + len(first)), slice(10 + len(first), len(self.tokens)))

    def build_mask(self, numbers: Sequence[tuple[PartialNumber, int]]) -> npt.NDArray[np.bool_]:
        """Return the columns (n, columns) that may follow each (number so far, axis)."""
        mask = np.zeros((len(numbers), len(self.tokens)), dtype=bool)
        for row, (number, axis) in enumerate(numbers):
            mask[row, :10] = number.can_extend(self.reply_format)
            if number.can_end():
                mask[row, self.end_columns[axis]] = True
        return mask
