"""The form of a reply in tokens: what stands around its two numbers, and how a number may go on."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.matchers.cropond.prompt import RELATIVE_UNITS, CoordinateFormat, ReplyTemplate

DIGITS = '0123456789'
SIGN = re.compile(r'[-+]\s*(?:0\.)?$')
EOS_TOKENS = ('<|im_end|>', '<|endoftext|>')


@dataclass(frozen=True)
class ReplyFormat:
    """A reply in token ids: before, a number, between, a number, one of the closers.

    digits: of the longest number. fraction: the numbers are what follows '0.', where a leading
    zero counts. between[0] ends the first number, any of closers the second.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    terminators: tuple[int, ...]
    digits: int
    is_fraction: bool = False

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that may end the first and the second number."""
        return (self.between[0],), self.terminators


class ReplyTokenizer:
    """The tokens of a tokenizer that replies are made of."""

    def __init__(self, tokenizer: Any) -> None:
        """Raise ValueError for a tokenizer that does not write numbers digit by digit."""
        self._tokenizer = tokenizer
        encoded = [self.encode(digit) for digit in DIGITS]
        if any(len(tokens) != 1 for tokens in encoded) or len(self.encode('512')) != 3:
            raise ValueError('this tokenizer does not write numbers digit by digit; CroPond and '
                             'Qwen2.5-VL do: is this the right checkpoint?')
        self.digits = tuple(tokens[0] for tokens in encoded)
        self.eos_tokens = frozenset(tokens[0] for tokens in map(self.encode, EOS_TOKENS) if len(tokens) == 1)
        self._tokens_by_prefix: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, special ones written out included."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without the special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """Return the text of one token, a special one's too; never empty."""
        return str(self._tokenizer.decode([token])) or f'token {token}'

    def find_tokens_starting_with(self, character: str) -> tuple[int, ...]:
        """Return every token that begins with a character: `],` and `]}` are tokens of their own.

        A grammar that knows `]` alone gives other answers than the model would.
        """
        if character not in self._tokens_by_prefix:
            # As the vocabulary spells it: a space is not a space there.
            prefix = self._tokenizer.convert_ids_to_tokens(self.encode(character)[0])
            special = set(self._tokenizer.all_special_tokens)
            self._tokens_by_prefix[character] = tuple(sorted(
                token for text, token in self._tokenizer.get_vocab().items()
                if text.startswith(prefix) and text not in special))
        return self._tokens_by_prefix[character]

    def form(self, template: ReplyTemplate, coord_format: CoordinateFormat, digits: int) -> ReplyFormat:
        """Return the form of a template. Raises ValueError for one that numbers do not end."""
        prefix = '0.' if coord_format is CoordinateFormat.RELATIVE_1 else ''
        between = self.encode(template.between + prefix)
        terminators = self.find_tokens_starting_with(template.after[:1])
        if not between or not terminators or between[0] in self.digits:
            raise ValueError(f'template: nothing ends the numbers of {template}')
        return ReplyFormat(self.encode(template.before + prefix), between, terminators, digits, bool(prefix))

    def infer_format(self, reply: Sequence[int], coord_format: CoordinateFormat, digits: int) -> ReplyFormat | None:
        """Return the form of a reply's own tokens, None unless it holds two numbers and no more.

        With more, the first two may be the click repeated: forcing that form would make a point
        of the question pass for an answer. Nor is one learnt from numbers with a sign: of -1, the
        digits alone would be.
        """
        runs = self._find_numbers(reply)
        is_fraction = coord_format is CoordinateFormat.RELATIVE_1
        if is_fraction:  # the zeros before the points are numbers, too
            runs = [run for run in runs if self.decode(reply[:run[0]]).endswith('0.')]
        if len(runs) != 2 or runs[1][1] >= len(reply):
            return None
        if any(SIGN.decode(self.decode(reply[:begin])) for begin, _ in runs):
            return None
        (first, first_end), (second, second_end) = runs
        closing = self.decode(reply[second_end:second_end + 1])
        terminators = self.find_tokens_starting_with(closing[:1]) if closing else (reply[second_end],)
        return ReplyFormat(tuple(reply[:first]), tuple(reply[first_end:second]), terminators, digits, is_fraction)

    def _find_numbers(self, reply: Sequence[int]) -> list[tuple[int, int]]:
        """The runs of digits that are numbers of their own: not the `2` of `point_2d`."""
        runs, start = [], None
        for index, token in enumerate([*reply, -1]):
            if token in self.digits:
                start = index if start is None else start
            elif start is not None:
                before, after = self.decode(reply[:start])[-1:], self.decode(reply[index:])[:1]
                if not (before.isalpha() or before == '_' or after.isalpha() or after == '_'):
                    runs.append((start, index))
                start = None
        return runs


@dataclass(frozen=True)
class PartialNumber:
    """A number as far as it is written."""

    text: str = ''

    def can_extend(self, reply_format: ReplyFormat) -> bool:
        """Tell whether another digit may follow: no number but a fraction begins with zero."""
        return len(self.text) < reply_format.digits and (reply_format.is_fraction or self.text != '0')

    def can_end(self) -> bool:
        """Tell whether it is a number already."""
        return bool(self.text)

    def is_complete(self, reply_format: ReplyFormat) -> bool:
        """Tell whether it has all digits that it may have."""
        return len(self.text) == reply_format.digits

    def append(self, digit: int) -> PartialNumber:
        """Return it with another digit."""
        return PartialNumber(self.text + DIGITS[digit])

    def value(self, reply_format: ReplyFormat) -> int:
        """Return it as a whole number, of thousandths if it is a fraction."""
        return int(self.text.ljust(reply_format.digits, '0') if reply_format.is_fraction else self.text)


class AllowedTokens:
    """Which tokens may follow, as columns of a small head: ten digits, then those that end."""

    def __init__(self, tokenizer: ReplyTokenizer, reply_format: ReplyFormat) -> None:
        self.form = reply_format
        first, second = reply_format.eos_tokens
        self.tokens = (*tokenizer.digits, *first, *second)
        self._end_columns = (slice(10, 10 + len(first)), slice(10 + len(first), len(self.tokens)))

    def end_columns(self, axis: int) -> slice:
        """Return the columns that end the number of an axis: 0 for x, 1 for y."""
        return self._end_columns[axis]

    def build_mask(self, prefixes: Sequence[tuple[PartialNumber, int]]) -> npt.NDArray[np.bool_]:
        """Return which columns may follow each (number so far, axis): (n, columns)."""
        mask = np.zeros((len(prefixes), len(self.tokens)), dtype=bool)
        for row, (number, axis) in enumerate(prefixes):
            mask[row, :10] = number.can_extend(self.form)
            if number.can_end():
                mask[row, self.end_columns(axis)] = True
        return mask


def count_values(reply_format: ReplyFormat) -> int:
    """How many values a number of this form can take."""
    return RELATIVE_UNITS if reply_format.is_fraction else 10 ** reply_format.digits
