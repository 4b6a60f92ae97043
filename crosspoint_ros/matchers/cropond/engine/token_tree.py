"""Token trees: chains of tokens that share prefixes, for packed decoding."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROOT = -1  # the parent of a token that follows the prefix


@dataclass(frozen=True, eq=False)
class Step:
    """What one forward pass needs: tokens, their distance from the prefix, and what each sees.

    sees: (new tokens, all tokens of the tree so far), every token sees the whole prefix besides.
    first: the number of the first new token.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    sees: npt.NDArray[np.bool_]
    first: int

    @property
    def is_chain(self) -> bool:
        """Tell whether each token sees all before it, as in plain decoding."""
        new, total = self.sees.shape
        return bool(np.array_equal(self.sees, np.tri(new, total, self.first, dtype=bool)))

    def sees_with(self, prefix: int) -> npt.NDArray[np.bool_]:
        """Who sees whom (new tokens, prefix and all tokens of the tree so far)."""
        return np.hstack([np.ones((len(self.tokens), prefix), dtype=bool), self.sees])


def packed(chains: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[list[int]]]:
    """Merge chains of tokens into one tree: what they begin with in common is there once.

    Returns tokens, their parents, and the numbers of each chain's tokens.
    """
    known: dict[tuple[int, int], int] = {}
    paths = []
    for chain in chains:
        node, path = ROOT, []
        for token in chain:
            node = known.setdefault((node, token), len(known))
            path.append(node)
        paths.append(path)
    return [token for _, token in known], [parent for parent, _ in known], paths


class TokenTree:
    """Grows by steps; a token sees its ancestors and itself."""

    def __init__(self) -> None:
        self._depths: list[int] = []
        self._sees = np.zeros((0, 0), dtype=bool)

    def __len__(self) -> int:
        return len(self._depths)

    def grow(self, tokens: Sequence[int], parents: Sequence[int]) -> Step:
        """Add tokens below their parents, which may be among them, and return the step."""
        first, total = len(self), len(self) + len(tokens)
        sees = np.zeros((total, total), dtype=bool)
        sees[:first, :first] = self._sees
        for number, parent in enumerate(parents, first):
            if parent != ROOT:
                sees[number] = sees[parent]
            sees[number, number] = True
            self._depths.append(0 if parent == ROOT else self._depths[parent] + 1)
        self._sees = sees
        return Step(tuple(tokens), tuple(self._depths[first:]), sees[first:], first)
