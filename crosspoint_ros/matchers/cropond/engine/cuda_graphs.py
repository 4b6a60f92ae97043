"""Forward passes of a few fixed shapes, recorded as CUDA graphs: one launch instead of thousands.

On a GPU a small pass of a 3B model waits for its two thousand launches rather than for memory.
A recording needs shapes and addresses that never change: each step is padded to the next of a few
lengths, and attends to the first 1024, 2048, .. places of the arena, masked. The same passes run
unrecorded on a CPU, for tests.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosspoint_ros.matchers.cropond.engine.kv_cache import (
    Arena,
    Window,
    additive,
    attending_in_groups,
)
from crosspoint_ros.matchers.cropond.engine.token_tree import Step

log = logging.getLogger(__name__)
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
FIRST_ROOM = 1024


class FixedSteps:
    """The passes of fixed shape over one arena, made, and recorded, when first needed."""

    def __init__(self, model: Any, arena: Arena, record: bool) -> None:
        self._model, self._arena = model, arena
        self._pool = torch.cuda.graph_pool_handle() if record else None
        self._made: dict[tuple[int, int], FixedStep] = {}

    def fits(self, step: Step) -> bool:
        """Tell whether a step is short enough."""
        return len(step.tokens) <= LENGTHS[-1]

    def run(self, step: Step, prefix: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's tokens."""
        length = next(length for length in LENGTHS if length >= len(step.tokens))
        room = FIRST_ROOM
        while room < prefix + step.first + len(step.tokens):
            room *= 2
        shape = (length, min(room, self._arena.room))
        if shape not in self._made:
            self._made[shape] = FixedStep(self._model, self._arena, *shape, self._pool)
        return self._made[shape].run(step, prefix, first_position)


class FixedStep:
    """A pass of always the same shape. pool: of the memory that recordings share; None: do not.

    Tokens that only fill up are written to a place of the arena where nobody looks.
    """

    def __init__(self, model: Any, arena: Arena, length: int, room: int,
                 pool: Any | None) -> None:
        self._text, self._embedding = model.model.language_model, model.get_input_embeddings()
        weight = self._embedding.weight
        self._arena, self._length, self._room, self._pool = arena, length, room, pool
        self._tokens = torch.zeros((1, length), dtype=torch.long, device=weight.device)
        self._positions = torch.zeros((3, 1, length), dtype=torch.long, device=weight.device)
        self._mask = torch.zeros((1, 1, length, room), dtype=weight.dtype, device=weight.device)
        self._window = Window(torch.zeros(length, dtype=torch.long, device=weight.device), room)
        self._graph: Any = None
        self._hidden = torch.empty(0)

    def run(self, step: Step, prefix: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's own tokens."""
        count, begin = len(step.tokens), prefix + step.first
        filling = self._length - count
        sees = np.zeros((self._length, self._room), dtype=bool)
        sees[:count, :begin + count] = step.sees_with(prefix)
        sees[count:, 0] = True  # something to look at, or their softmax is not a number
        self._mask.copy_(additive(sees, self._mask.dtype, self._mask.device))
        self._tokens.copy_(_row([*step.tokens, *[0] * filling]))
        self._positions.copy_(_row([d + first_position for d in step.depths] + [0] * filling))
        self._window.slots.copy_(_row([*range(begin, begin + count),
                                       *[self._arena.spare_slot] * filling])[0])
        self._replay()
        return self._hidden[:count].clone()

    def _replay(self) -> None:
        if self._pool is None:
            self.forward()
            return
        if self._graph is None:
            self._graph = self._recorded()
        self._graph.replay()

    def _recorded(self) -> Any:
        """Record the pass; a first run outside of it lets CUDA's libraries set themselves up."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.forward()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self.forward()
        log.info('recorded passes of %d tokens over %d as a CUDA graph', self._length, self._room)
        return graph

    def forward(self) -> None:
        """Compute the hidden states of what lies in the buffers."""
        with self._arena.through(self._window), attending_in_groups(self._text):
            self._hidden = self._text(
                inputs_embeds=self._embedding(self._tokens), position_ids=self._positions,
                attention_mask=self._mask, past_key_values=self._arena,
                use_cache=True).last_hidden_state[0]


def _row(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(numbers)], dtype=torch.long)
