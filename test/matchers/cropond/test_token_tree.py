"""Many chains of tokens in one tree: each token sees its own chain and nothing else."""
from __future__ import annotations

import numpy as np

from crosspoint_ros.matchers.cropond.engine.token_tree import ROOT, TokenTree, pack_sequences

CHAINS = [(5, 6, 7), (5, 6, 8, 9), (4,), (5, 6, 7)]


def test_what_chains_begin_with_in_common_is_there_once():
    tokens, parents, paths = pack_sequences(CHAINS)
    assert len(tokens) == len({(5,), (5, 6), (5, 6, 7), (5, 6, 8), (5, 6, 8, 9), (4,)})
    assert [[tokens[node] for node in path] for path in paths] == [list(c) for c in CHAINS]
    assert all(parent < node for node, parent in enumerate(parents))
    assert paths[0] == paths[3]


def test_a_token_sees_its_own_chain_alone():
    tokens, parents, paths = pack_sequences(CHAINS)
    step = TokenTree().extend(tokens, parents)
    for chain, path in zip(CHAINS, paths, strict=True):
        seen = np.flatnonzero(step.visible[path[-1]])
        assert [tokens[node] for node in seen] == list(chain)
        assert step.depths[path[-1]] == len(chain) - 1


def test_a_tree_grows_below_what_it_has():
    tree = TokenTree()
    tree.extend((1, 2), (ROOT, 0))
    step = tree.extend((3, 4, 5), (1, 2, 0))
    assert step.first_node == 2
    assert step.depths == (2, 3, 1)
    assert [list(np.flatnonzero(row)) for row in step.visible] == [[0, 1, 2], [0, 1, 2, 3], [0, 4]]
    assert step.build_visibility(3).shape == (3, 3 + 5)
    assert step.build_visibility(3)[:, :3].all()


def test_plain_decoding_is_a_chain_and_a_fork_is_none():
    tree = TokenTree()
    assert tree.extend((1, 2), (ROOT, 0)).is_chain
    assert tree.extend((3,), (1,)).is_chain
    assert not tree.extend((4,), (1,)).is_chain
