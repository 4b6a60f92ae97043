"""Token trees: chains of tokens that share prefixes, for packed decoding."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROOT = -1  # the parent of a token that follows the prefix


@dataclass(frozen=True, eq=False)
class TreeStep:
    """What one forward pass needs: tokens, their distance from the prefix, and what each sees.

    sees: (new tokens, all tokens of the tree so far), every token sees the whole prefix besides.
    first: the number of the first new token.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    visible: npt.NDArray[np.bool_]
    first_node: int

    @property
    def is_chain(self) -> bool:
        """Tell whether each token sees all before it, as in plain decoding."""
        new, total = self.visible.shape
        return bool(np.array_equal(self.visible, np.tri(new, total, self.first_node, dtype=bool)))

    def build_visibility(self, prefix_length: int) -> npt.NDArray[np.bool_]:
        """Who sees whom (new tokens, prefix and all tokens of the tree so far)."""
        return np.hstack([np.ones((len(self.tokens), prefix_length), dtype=bool), self.visible])


def pack_sequences(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[list[int]]]:
    """Merge chains of tokens into one tree: what they begin with in common is there once.

    Returns tokens, their parents, and the numbers of each chain's tokens.
    """
    nodes: dict[tuple[int, int], int] = {}
    paths = []
    for sequence in sequences:
        node, path = ROOT, []
        for token in sequence:
            node = nodes.setdefault((node, token), len(nodes))
            path.append(node)
        paths.append(path)
    return [token for _, token in nodes], [parent for parent, _ in nodes], paths


class TokenTree:
    """Grows by steps; a token sees its ancestors and itself."""

    def __init__(self) -> None:
        self._depths: list[int] = []
        self._visible = np.zeros((0, 0), dtype=bool)

    def __len__(self) -> int:
        return len(self._depths)

    def extend(self, tokens: Sequence[int], parents: Sequence[int]) -> TreeStep:
        """Add tokens below their parents, which may be among them, and return the step."""
        first_node, total = len(self), len(self) + len(tokens)
        visible = np.zeros((total, total), dtype=bool)
        visible[:first_node, :first_node] = self._visible
        for node, parent in enumerate(parents, first_node):
            if parent != ROOT:
                visible[node] = visible[parent]
            visible[node, node] = True
            self._depths.append(0 if parent == ROOT else self._depths[parent] + 1)
        self._visible = visible
        return TreeStep(tuple(tokens), tuple(self._depths[first_node:]), visible[first_node:], first_node)
