"""Forward passes of the text model over the arena: of any length, or of a few fixed ones."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosspoint_ros.matchers.cropond.arena import Arena
from crosspoint_ros.matchers.cropond.tree import Step

# Lengths of passes that are recorded; a step is padded to the next. Longer ones run as they are.
FIXED = (1, 2, 4, 8, 16, 32, 64, 96, 128)


class Decoder:
    """Runs tokens, or embedded images, behind what the arena holds. Counts its passes.

    fixed: pad each step to one of a few lengths over the whole arena. capture: record those as
    CUDA graphs, so that a step is one launch instead of some two thousand.
    """

    def __init__(self, model: Any, arena: Arena, fixed: bool, capture: bool) -> None:
        self._text = model.model.language_model
        self._embedding = model.get_input_embeddings()
        self.arena = arena
        self._fixed = {length: FixedStep(self._text, self._embedding, arena, length, capture)
                       for length in FIXED} if fixed else {}
        self.passes = 0

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._embedding.weight.device

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the embeddings (1, n, hidden) of tokens."""
        return self._embedding(torch.tensor([list(tokens)], device=self.device))

    def prefill(self, embedded: torch.Tensor, positions: torch.Tensor) -> None:
        """Append embeddings (1, n, hidden) at positions (3, n): each sees all before it."""
        begin, new = self.arena.length, embedded.shape[1]
        mask = None
        if begin:
            sees = np.tri(new, begin + new, begin, dtype=bool)
            mask = additive(sees, embedded.dtype, self.device)
        self._run(embedded, positions.unsqueeze(1), mask)

    def step(self, step: Step, prefix: int, first_position: int) -> torch.Tensor:
        """Append a step of a tree that begins after `prefix` tokens; hidden states (n, hidden)."""
        count = len(step.tokens)
        length = next((length for length in self._fixed if length >= count), None)
        if length is not None:
            self.passes += 1
            self.arena.set_length(prefix + step.first + count)
            return self._fixed[length].run(step, prefix, first_position)
        positions = torch.tensor(step.depths, device=self.device) + first_position
        mask = None
        if not (step.is_chain and count == 1):
            sees = np.hstack([np.ones((count, prefix), dtype=bool), step.sees])
            mask = additive(sees, self._embedding.weight.dtype, self.device)
        return self._run(self.embed(step.tokens), positions.expand(3, 1, -1), mask)

    def _run(self, embedded: torch.Tensor, positions: torch.Tensor,
             mask: torch.Tensor | None) -> torch.Tensor:
        if self.arena.length + embedded.shape[1] > self.arena.size:
            raise ValueError(f'{self.arena.length} + {embedded.shape[1]} tokens do not fit in '
                             f'{self.arena.size}')
        self.passes += 1
        self.arena.slots = None
        return self._text(inputs_embeds=embedded, position_ids=positions, attention_mask=mask,
                          past_key_values=self.arena, use_cache=True).last_hidden_state[0]


class FixedStep:
    """A forward pass of always the same shape: recorded once as a CUDA graph, then replayed.

    Tokens that only fill up are written to the arena's last place, and nothing looks there.
    """

    def __init__(self, text: Any, embedding: Any, arena: Arena, length: int,
                 capture: bool) -> None:
        device = embedding.weight.device
        self._text, self._embedding, self._arena = text, embedding, arena
        self._length, self._capture = length, capture
        self._tokens = torch.zeros((1, length), dtype=torch.long, device=device)
        self._positions = torch.zeros((3, 1, length), dtype=torch.long, device=device)
        self._slots = torch.full((length,), arena.size - 1, dtype=torch.long, device=device)
        self._mask = torch.zeros((1, 1, length, arena.size), dtype=embedding.weight.dtype,
                                 device=device)
        self._graph: Any = None
        self._hidden: torch.Tensor | None = None

    def run(self, step: Step, prefix: int, first_position: int) -> torch.Tensor:
        """Return the hidden states (n, hidden) of a step's own tokens."""
        count, begin = len(step.tokens), prefix + step.first
        if begin + count >= self._arena.size:
            raise ValueError(f'{begin + count} tokens do not fit in {self._arena.size - 1}')
        sees = np.zeros((self._length, self._arena.size), dtype=bool)
        sees[:count, :prefix] = True
        sees[:count, prefix:begin + count] = step.sees
        sees[count:, 0] = True  # something to look at, or their softmax is not a number
        self._mask.copy_(additive(sees, self._mask.dtype, self._mask.device))
        filling = self._length - count
        self._tokens.copy_(_row([*step.tokens, *[0] * filling]))
        self._positions.copy_(_row([d + first_position for d in step.depths] + [0] * filling))
        self._slots.copy_(_row([*range(begin, begin + count),
                                *[self._arena.size - 1] * filling])[0])
        self._replay()
        assert self._hidden is not None
        return self._hidden[:count].clone()

    def _replay(self) -> None:
        if not self._capture:
            self._forward()
            return
        if self._graph is None:
            self._record()
        self._graph.replay()

    def _record(self) -> None:
        """Record the pass; a first run outside of it lets CUDA libraries set themselves up."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._forward()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._forward()
        self._graph = graph
        logging.getLogger(__name__).info('recorded passes of %d tokens as a CUDA graph',
                                         self._length)

    def _forward(self) -> None:
        self._arena.slots = self._slots
        self._hidden = self._text(
            inputs_embeds=self._embedding(self._tokens), position_ids=self._positions,
            attention_mask=self._mask, past_key_values=self._arena,
            use_cache=True).last_hidden_state[0]
        self._arena.slots = None


def additive(sees: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Turn who sees whom (n, m) into the mask (1, 1, n, m) that is added to attention scores."""
    hidden = torch.from_numpy(~sees).to(device)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


def _row(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(numbers)], dtype=torch.long)
