"""Forward passes of the text model over the arena."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.engine.cuda_graphs import FixedSteps
from crosspoint_ros.matchers.cropond.engine.kv_cache import Arena, additive, attending_in_groups
from crosspoint_ros.matchers.cropond.engine.token_tree import Step


class Decoder:
    """Runs tokens, or embedded images, behind what the arena holds. Counts its passes.

    fixed: how steps of a fixed shape run, where they should; None: each in the shape it has.
    """

    def __init__(self, model: Any, arena: Arena, fixed: FixedSteps | None = None) -> None:
        self._text = model.model.language_model
        self._embedding = model.get_input_embeddings()
        self._fixed = fixed
        self.arena = arena
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
        self._check_room(new)
        mask = None
        if begin:
            sees = np.tri(new, begin + new, begin, dtype=bool)
            mask = additive(sees, embedded.dtype, self.device)
        self._run(embedded, positions.unsqueeze(1), mask)

    def step(self, step: Step, prefix: int, first_position: int) -> torch.Tensor:
        """Append a step of a tree that begins after `prefix` tokens; hidden states (n, hidden).

        Raises `Rejected` if the arena has no room for it.
        """
        self.arena.set_length(prefix + step.first)
        self._check_room(len(step.tokens))
        if self._fixed is not None and self._fixed.fits(step):
            self.passes += 1
            self.arena.set_length(prefix + step.first + len(step.tokens))
            return self._fixed.run(step, prefix, first_position)
        positions = torch.tensor(step.depths, device=self.device) + first_position
        mask = None
        if not (step.is_chain and len(step.tokens) == 1):
            mask = additive(step.sees_with(prefix), self._embedding.weight.dtype, self.device)
        return self._run(self.embed(step.tokens), positions.expand(3, 1, -1), mask)

    def _check_room(self, new: int) -> None:
        if self.arena.length + new > self.arena.room:
            raise Rejected(Code.BAD_REQUEST, f'{self.arena.length} + {new} tokens do not fit in '
                           f'{self.arena.room}: ask for less at a time')

    def _run(self, embedded: torch.Tensor, positions: torch.Tensor,
             mask: torch.Tensor | None) -> torch.Tensor:
        self.passes += 1
        with attending_in_groups(self._text):
            return self._text(inputs_embeds=embedded, position_ids=positions, attention_mask=mask,
                              past_key_values=self.arena, use_cache=True).last_hidden_state[0]
