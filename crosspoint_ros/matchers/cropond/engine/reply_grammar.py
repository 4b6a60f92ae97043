"""The form of a reply in tokens: what stands around its two numbers, and how a number may go on."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crosspoint_ros.matchers.cropond.prompt import RELATIVE_UNITS, Convention, Template

DIGITS = '0123456789'
SIGN = re.compile(r'[-+]\s*(?:0\.)?$')
ENDS = ('<|im_end|>', '<|endoftext|>')


@dataclass(frozen=True)
class Form:
    """A reply in token ids: before, a number, between, a number, one of the closers.

    digits: of the longest number. fraction: the numbers are what follows '0.', where a leading
    zero counts. between[0] ends the first number, any of closers the second.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    closers: tuple[int, ...]
    digits: int
    fraction: bool = False

    @property
    def ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that may end the first and the second number."""
        return (self.between[0],), self.closers


class Alphabet:
    """The tokens of a tokenizer that replies are made of."""

    def __init__(self, tokenizer: Any) -> None:
        """Raise ValueError for a tokenizer that does not write numbers digit by digit."""
        self.tokenizer = tokenizer
        encoded = [self.encode(digit) for digit in DIGITS]
        if any(len(tokens) != 1 for tokens in encoded) or len(self.encode('512')) != 3:
            raise ValueError('this tokenizer does not write numbers digit by digit; CroPond and '
                             'Qwen2.5-VL do: is this the right checkpoint?')
        self.digits = tuple(tokens[0] for tokens in encoded)
        self.ends = frozenset(tokens[0] for tokens in map(self.encode, ENDS) if len(tokens) == 1)
        self._texts: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, special ones written out included."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without the special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def spelt(self, token: int) -> str:
        """Return the text of one token, a special one's too; never empty."""
        return str(self.tokenizer.decode([token])) or f'token {token}'

    def opening_with(self, character: str) -> tuple[int, ...]:
        """Return every token that begins with a character: `],` and `]}` are tokens of their own.

        A grammar that knows `]` alone gives other answers than the model would.
        """
        if character not in self._texts:
            # As the vocabulary spells it: a space is not a space there.
            spelt = self.tokenizer.convert_ids_to_tokens(self.encode(character)[0])
            special = set(self.tokenizer.all_special_tokens)
            self._texts[character] = tuple(sorted(
                token for text, token in self.tokenizer.get_vocab().items()
                if text.startswith(spelt) and text not in special))
        return self._texts[character]

    def form(self, template: Template, convention: Convention, digits: int) -> Form:
        """Return the form of a template. Raises ValueError for one that numbers do not end."""
        lead = '0.' if convention is Convention.RELATIVE_1 else ''
        between = self.encode(template.between + lead)
        closers = self.opening_with(template.after[:1])
        if not between or not closers or between[0] in self.digits:
            raise ValueError(f'template: nothing ends the numbers of {template}')
        return Form(self.encode(template.before + lead), between, closers, digits, bool(lead))

    def learnt(self, reply: Sequence[int], convention: Convention, digits: int) -> Form | None:
        """Return the form of a reply's own tokens, None unless it holds two numbers and no more.

        With more, the first two may be the click repeated: forcing that form would make a point
        of the question pass for an answer. Nor is one learnt from numbers with a sign: of -1, the
        digits alone would be.
        """
        runs = self._numbers(reply)
        fraction = convention is Convention.RELATIVE_1
        if fraction:  # the zeros before the points are numbers, too
            runs = [run for run in runs if self.decode(reply[:run[0]]).endswith('0.')]
        if len(runs) != 2 or runs[1][1] >= len(reply):
            return None
        if any(SIGN.search(self.decode(reply[:begin])) for begin, _ in runs):
            return None
        (first, first_end), (second, second_end) = runs
        closing = self.decode(reply[second_end:second_end + 1])
        closers = self.opening_with(closing[:1]) if closing else (reply[second_end],)
        return Form(tuple(reply[:first]), tuple(reply[first_end:second]), closers, digits, fraction)

    def _numbers(self, reply: Sequence[int]) -> list[tuple[int, int]]:
        """The runs of digits that are numbers of their own: not the `2` of `point_2d`."""
        runs, begin = [], None
        for place, token in enumerate([*reply, -1]):
            if token in self.digits:
                begin = place if begin is None else begin
            elif begin is not None:
                before, after = self.decode(reply[:begin])[-1:], self.decode(reply[place:])[:1]
                if not (before.isalpha() or before == '_' or after.isalpha() or after == '_'):
                    runs.append((begin, place))
                begin = None
        return runs


@dataclass(frozen=True)
class Numeral:
    """A number as far as it is written."""

    text: str = ''

    def may_go_on(self, form: Form) -> bool:
        """Tell whether another digit may follow: no number but a fraction begins with zero."""
        return len(self.text) < form.digits and (form.fraction or self.text != '0')

    def may_end(self) -> bool:
        """Tell whether it is a number already."""
        return bool(self.text)

    def must_end(self, form: Form) -> bool:
        """Tell whether it has all digits that it may have."""
        return len(self.text) == form.digits

    def plus(self, digit: int) -> Numeral:
        """Return it with another digit."""
        return Numeral(self.text + DIGITS[digit])

    def value(self, form: Form) -> int:
        """Return it as a whole number, of thousandths if it is a fraction."""
        return int(self.text.ljust(form.digits, '0') if form.fraction else self.text)


class Choices:
    """Which tokens may follow, as columns of a small head: ten digits, then those that end."""

    def __init__(self, alphabet: Alphabet, form: Form) -> None:
        self.form = form
        first, second = form.ends
        self.tokens = (*alphabet.digits, *first, *second)
        self._ends = (slice(10, 10 + len(first)), slice(10 + len(first), len(self.tokens)))

    def ending(self, axis: int) -> slice:
        """Return the columns that end the number of an axis: 0 for x, 1 for y."""
        return self._ends[axis]

    def allowed(self, numerals: Sequence[tuple[Numeral, int]]) -> npt.NDArray[np.bool_]:
        """Return which columns may follow each (number so far, axis): (n, columns)."""
        allowed = np.zeros((len(numerals), len(self.tokens)), dtype=bool)
        for row, (numeral, axis) in enumerate(numerals):
            allowed[row, :10] = numeral.may_go_on(self.form)
            if numeral.may_end():
                allowed[row, self.ending(axis)] = True
        return allowed


def values(form: Form) -> int:
    """How many values a number of this form can take."""
    return RELATIVE_UNITS if form.fraction else 10 ** form.digits
