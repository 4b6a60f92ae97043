"""Forward passes of the text model over the KV cache."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosspoint_ros.core.datatypes import Code, Rejected
from crosspoint_ros.matchers.cropond.engine.kv_cache import (
    StaticKVCache,
    build_additive_mask,
    use_gqa_attention,
)
from crosspoint_ros.matchers.cropond.engine.token_tree import TreeStep


class Decoder:
    """Appends tokens or embedded images to the KV cache, and counts its passes."""

    def __init__(self, model: Any, kv_cache: StaticKVCache) -> None:
        self._text_model = model.model.language_model
        self._embedding = model.get_input_embeddings()
        self.kv_cache = kv_cache
        self.passes = 0

    @property
    def device(self) -> torch.device:
        return self._embedding.weight.device

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the embeddings (1, n, hidden) of tokens."""
        return self._embedding(torch.tensor([list(tokens)], device=self.device))

    def prefill(self, embedded: torch.Tensor, positions: torch.Tensor,
                deepstack: Sequence[torch.Tensor] = ()) -> None:
        """Append embeddings (1, n, hidden) at positions (3, n), with causal attention.

        deepstack: features (n - 2, hidden) that are added after the first layers to all but the
        first and the last embedding, as Qwen3-VL does with an image.
        """
        start, new = self.kv_cache.length, embedded.shape[1]
        self._check_capacity(new)
        mask = None
        if start:
            visible = np.tri(new, start + new, start, dtype=bool)
            mask = build_additive_mask(visible, embedded.dtype, self.device)
        extra: dict[str, Any] = {}
        if deepstack:
            is_image = torch.ones((1, new), dtype=torch.bool, device=self.device)
            is_image[0, [0, -1]] = False
            extra = {'visual_pos_masks': is_image, 'deepstack_visual_embeds': list(deepstack)}
        self._forward(embedded, positions.unsqueeze(1), mask, **extra)

    def run_step(self, step: TreeStep, prefix_length: int, first_position: int) -> torch.Tensor:
        """Append a step of a tree that begins after the prefix; return its states (n, hidden).

        Raises `Rejected` if it exceeds the capacity of the KV cache.
        """
        self.kv_cache.set_length(prefix_length + step.first_node)
        self._check_capacity(len(step.tokens))
        positions = torch.tensor(step.depths, device=self.device) + first_position
        mask = None
        if not (step.is_chain and len(step.tokens) == 1):
            mask = build_additive_mask(step.build_visibility(prefix_length),
                                       self._embedding.weight.dtype, self.device)
        return self._forward(self.embed(step.tokens), positions.expand(3, 1, -1), mask)

    def _check_capacity(self, new: int) -> None:
        if self.kv_cache.length + new > self.kv_cache.capacity:
            raise Rejected(Code.BAD_REQUEST, f'{self.kv_cache.length} + {new} tokens do not fit in '
                           f'{self.kv_cache.capacity}: ask fewer questions at a time')

    def _forward(self, embedded: torch.Tensor, positions: torch.Tensor,
                 mask: torch.Tensor | None, **extra: Any) -> torch.Tensor:
        self.passes += 1
        with use_gqa_attention(self._text_model):
            return self._text_model(
                inputs_embeds=embedded, position_ids=positions, attention_mask=mask,
                past_key_values=self.kv_cache, use_cache=True, **extra).last_hidden_state[0]
