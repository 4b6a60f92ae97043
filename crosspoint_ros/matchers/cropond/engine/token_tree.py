"""Token trees: sequences that share prefixes, decoded together in one pass."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROOT = -1  # parent of a token that follows the prompt's prefix


@dataclass(frozen=True, eq=False)
class TreeStep:
    """Input of one forward pass: tokens, their depths, and which tokens each attends to.

    visible: (new tokens, all tokens of the tree so far); the prefix is always visible. first_node:
    index of the first new token.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    visible: npt.NDArray[np.bool_]
    first_node: int

    @property
    def is_chain(self) -> bool:
        """Whether each token sees all before it, as in plain decoding."""
        new, total = self.visible.shape
        return bool(np.array_equal(self.visible, np.tri(new, total, self.first_node, dtype=bool)))

    def build_visibility(self, prefix_length: int) -> npt.NDArray[np.bool_]:
        """Return which tokens each attends to: (new tokens, prefix and tokens of the tree)."""
        return np.hstack([np.ones((len(self.tokens), prefix_length), dtype=bool), self.visible])


def pack_sequences(sequences: Sequence[Sequence[int]]
                   ) -> tuple[list[int], list[int], list[list[int]]]:
    """Merge sequences into one tree, in which shared prefixes occur once.

    Returns tokens, their parents, and the nodes of each sequence.
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
    """A growing tree in which a token sees its ancestors and itself."""

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
        return TreeStep(tuple(tokens), tuple(self._depths[first_node:]), visible[first_node:],
                        first_node)
