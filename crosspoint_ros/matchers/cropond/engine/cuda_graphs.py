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
    StaticKVCache,
    SlotMapping,
    build_additive_mask,
    use_gqa_attention,
)
from crosspoint_ros.matchers.cropond.engine.token_tree import TreeStep

log = logging.getLogger(__name__)
LENGTH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
MIN_CONTEXT = 1024


class CudaGraphRunner:
    """The passes of fixed shape over one arena, made, and recorded, when first needed."""

    def __init__(self, model: Any, kv_cache: StaticKVCache, capture: bool) -> None:
        self._model, self._kv_cache = model, kv_cache
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self._captured: dict[tuple[int, int], CapturedStep] = {}

    def can_run(self, step: TreeStep) -> bool:
        """Tell whether a step is short enough."""
        return len(step.tokens) <= LENGTH_BUCKETS[-1]

    def run(self, step: TreeStep, prefix_length: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's tokens."""
        length = next(length for length in LENGTH_BUCKETS if length >= len(step.tokens))
        context = MIN_CONTEXT
        while context < prefix_length + step.first_node + len(step.tokens):
            context *= 2
        shape = (length, min(context, self._kv_cache.room))
        if shape not in self._captured:
            self._captured[shape] = CapturedStep(self._model, self._kv_cache, *shape, self._pool)
        return self._captured[shape].run(step, prefix_length, first_position)


class CapturedStep:
    """A pass of always the same shape. pool: of the memory that recordings share; None: do not.

    Tokens that only fill up are written to a place of the arena where nobody looks.
    """

    def __init__(self, model: Any, kv_cache: StaticKVCache, length: int, context: int,
                 pool: Any | None) -> None:
        self._text, self._embedding = model.model.language_model, model.get_input_embeddings()
        weight = self._embedding.weight
        self._kv_cache, self._length, self._context, self._pool = kv_cache, length, context, pool
        self._tokens = torch.zeros((1, length), dtype=torch.long, device=weight.device)
        self._positions = torch.zeros((3, 1, length), dtype=torch.long, device=weight.device)
        self._mask = torch.zeros((1, 1, length, context), dtype=weight.dtype, device=weight.device)
        self._slots = SlotMapping(torch.zeros(length, dtype=torch.long, device=weight.device), context)
        self._graph: Any = None
        self._hidden = torch.empty(0)

    def run(self, step: TreeStep, prefix_length: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's own tokens."""
        count, begin = len(step.tokens), prefix_length + step.first_node
        padding = self._length - count
        visible = np.zeros((self._length, self._context), dtype=bool)
        visible[:count, :begin + count] = step.build_visibility(prefix_length)
        visible[count:, 0] = True  # something to look at, or their softmax is not a number
        self._mask.copy_(build_additive_mask(visible, self._mask.dtype, self._mask.device))
        self._tokens.copy_(_row([*step.tokens, *[0] * padding]))
        self._positions.copy_(_row([d + first_position for d in step.depths] + [0] * padding))
        self._slots.slots.copy_(_row([*range(begin, begin + count),
                                       *[self._kv_cache.pad_slot] * padding])[0])
        self._replay()
        return self._hidden[:count].clone()

    def _replay(self) -> None:
        if self._pool is None:
            self.forward()
            return
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def _capture(self) -> Any:
        """Record the pass; a first run outside of it lets CUDA's libraries set themselves up."""
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self.forward()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self.forward()
        log.info('recorded passes of %d tokens over %d as a CUDA graph', self._length, self._context)
        return graph

    def forward(self) -> None:
        """Compute the hidden states of what lies in the buffers."""
        with self._kv_cache.use_slots(self._slots), use_gqa_attention(self._text):
            self._hidden = self._text(
                inputs_embeds=self._embedding(self._tokens), position_ids=self._positions,
                attention_mask=self._mask, past_key_values=self._kv_cache,
                use_cache=True).last_hidden_state[0]


def _row(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(numbers)], dtype=torch.long)
