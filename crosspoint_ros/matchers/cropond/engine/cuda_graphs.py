"""Forward passes of fixed shapes, captured as CUDA graphs: one launch instead of thousands.

A small pass of a 3B model on a GPU is bound by its two thousand kernel launches, not by memory. A
captured graph needs fixed shapes and addresses: each step is padded to the next of a few lengths
and attends, masked, to the first 1024, 2048, .. slots of the KV cache. The same passes run
uncaptured on a CPU, for tests.
"""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosspoint_ros.matchers.cropond.engine.kv_cache import (
    SlotMapping,
    StaticKVCache,
    build_additive_mask,
    use_gqa_attention,
)
from crosspoint_ros.matchers.cropond.engine.token_tree import TreeStep

log = logging.getLogger(__name__)
LENGTH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 96, 128)
MIN_CONTEXT = 1024


class CudaGraphRunner:
    """Passes of fixed shape over one KV cache, built, and captured, at first use."""

    def __init__(self, model: Any, kv_cache: StaticKVCache, capture: bool) -> None:
        self._model, self._kv_cache = model, kv_cache
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self._captured: dict[tuple[int, int], CapturedStep] = {}

    def can_run(self, step: TreeStep) -> bool:
        return len(step.tokens) <= LENGTH_BUCKETS[-1]

    def run(self, step: TreeStep, prefix_length: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's tokens."""
        length = next(length for length in LENGTH_BUCKETS if length >= len(step.tokens))
        context = MIN_CONTEXT
        while context < prefix_length + step.first_node + len(step.tokens):
            context *= 2
        shape = (length, min(context, self._kv_cache.capacity))
        if shape not in self._captured:
            self._captured[shape] = CapturedStep(self._model, self._kv_cache, *shape, self._pool)
        return self._captured[shape].run(step, prefix_length, first_position)


class CapturedStep:
    """A pass of one shape. pool: memory shared by the captured graphs; None: do not capture.

    Padding tokens are written to a slot of the KV cache that is never attended to.
    """

    def __init__(self, model: Any, kv_cache: StaticKVCache, length: int, context: int,
                 pool: Any | None) -> None:
        self._text_model = model.model.language_model
        self._embedding = model.get_input_embeddings()
        weight = self._embedding.weight
        self._kv_cache, self._length, self._context, self._pool = kv_cache, length, context, pool
        self._tokens = torch.zeros((1, length), dtype=torch.long, device=weight.device)
        self._positions = torch.zeros((3, 1, length), dtype=torch.long, device=weight.device)
        self._mask = torch.zeros((1, 1, length, context), dtype=weight.dtype, device=weight.device)
        self._mapping = SlotMapping(torch.zeros(length, dtype=torch.long, device=weight.device),
                                    context)
        self._graph: Any = None
        self._hidden = torch.empty(0)

    def run(self, step: TreeStep, prefix_length: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's tokens, without padding."""
        count, start = len(step.tokens), prefix_length + step.first_node
        padding = self._length - count
        visible = np.zeros((self._length, self._context), dtype=bool)
        visible[:count, :start + count] = step.build_visibility(prefix_length)
        visible[count:, 0] = True  # softmax over no visible token would be NaN
        self._mask.copy_(build_additive_mask(visible, self._mask.dtype, self._mask.device))
        self._tokens.copy_(_as_row([*step.tokens, *[0] * padding]))
        self._positions.copy_(_as_row([d + first_position for d in step.depths] + [0] * padding))
        self._mapping.slots.copy_(_as_row([*range(start, start + count),
                                           *[self._kv_cache.pad_slot] * padding])[0])
        if self._pool is None:
            self.forward()
        else:
            self._graph = self._graph or self._capture()
            self._graph.replay()
        return self._hidden[:count].clone()

    def _capture(self) -> Any:
        """Capture the pass, after one outside of the graph that initialises CUDA's libraries."""
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            self.forward()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self.forward()
        log.info('captured passes of %d tokens over %d slots as a CUDA graph', self._length,
                 self._context)
        return graph

    def forward(self) -> None:
        with self._kv_cache.use_slots(self._mapping), use_gqa_attention(self._text_model):
            self._hidden = self._text_model(
                inputs_embeds=self._embedding(self._tokens), position_ids=self._positions,
                attention_mask=self._mask, past_key_values=self._kv_cache,
                use_cache=True).last_hidden_state[0]


def _as_row(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(values)], dtype=torch.long)
