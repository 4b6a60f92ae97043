"""Preallocated KV cache with O(1) rollback, and grouped-query attention over it."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, DynamicCache

# A copy of keys and values, (layers, 1, heads, tokens, size) each.
KVSnapshot = tuple[torch.Tensor, torch.Tensor]


class StaticKVCache(DynamicCache):
    """Keys and values of up to `capacity` tokens, allocated once; rollback is `set_length`.

    Unlike transformers' caches it neither concatenates per token nor is copied per question, and
    it does not need `crop`, whose meaning changed between 4.x and 5.x.
    """

    def __init__(self, config: Any, capacity: int, dtype: torch.dtype,
                 device: torch.device) -> None:
        super().__init__()
        head_dim = getattr(config, 'head_dim', None) \
            or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, capacity, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._lengths = [0] * config.num_hidden_layers
        self.capacity = capacity

    @property
    def length(self) -> int:
        return self._lengths[0]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int,
               *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values (1, heads, n, size); return those to attend to."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        start = self._lengths[layer_idx]
        end = start + key_states.shape[2]
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self._lengths[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self._lengths[layer_idx or 0]

    def get_mask_sizes(self, cache_position: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Return length and offset of what a layer attends to."""
        new = cache_position if isinstance(cache_position, int) else cache_position.shape[0]
        return self._lengths[layer_idx] + new, 0

    def set_length(self, tokens: int) -> None:
        """Set the number of tokens; later ones are forgotten."""
        self._lengths = [tokens] * len(self._lengths)

    def snapshot(self) -> KVSnapshot:
        return (self._keys[:, :, :, :self.length].clone(),
                self._values[:, :, :, :self.length].clone())

    def restore(self, snapshot: KVSnapshot, tokens: int) -> None:
        """Replace the contents by the first tokens of a snapshot."""
        for target, source in zip((self._keys, self._values), snapshot, strict=True):
            target[:, :, :, :tokens] = source[:, :, :, :tokens]
        self.set_length(tokens)


ATTENTION_NAME = 'crosspoint_grouped'
MAX_MATMUL_ROWS = 128  # with more rows the fused kernel is faster than three plain products


def gqa_attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                  attention_mask: torch.Tensor | None, scaling: float | None = None,
                  **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attend from query (1, heads, n, size) to key and value (1, kv heads, m, size).

    Heads that share keys are stacked as rows of one product. Transformers' `sdpa` repeats the keys
    for each head, which on a 3B model reads and writes eight times the cache. attention_mask:
    (1, 1, n, m), added to the scores; None for causal attention.
    """
    heads, new, size = query.shape[1:]
    groups = heads // key.shape[1]
    if attention_mask is None and new > 1:
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, scale=scaling, is_causal=True, enable_gqa=True)
        return output.transpose(1, 2).contiguous(), None
    rows = query.reshape(1, key.shape[1], groups * new, size)
    mask = None if attention_mask is None else attention_mask.repeat(1, 1, groups, 1)
    if new > MAX_MATMUL_ROWS:
        output = torch.nn.functional.scaled_dot_product_attention(
            rows, key, value, attn_mask=mask, scale=scaling)
    else:  # few rows would not occupy a GPU in a fused kernel
        scores = rows * (size ** -0.5 if scaling is None else scaling) @ key.transpose(2, 3)
        scores = scores if mask is None else scores + mask
        output = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value
    return output.reshape(1, heads, new, size).transpose(1, 2).contiguous(), None


@contextmanager
def use_gqa_attention(text_model: Any) -> Iterator[None]:
    """Switch a text model to `gqa_attention` within the context."""
    before = text_model.config._attn_implementation
    text_model.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        text_model.config._attn_implementation = before


def build_additive_mask(visible: npt.NDArray[np.bool_], dtype: torch.dtype, device: torch.device
                        ) -> torch.Tensor:
    """Return the mask (1, 1, n, m) to add to attention scores, from which tokens are visible."""
    masked = torch.from_numpy(~visible).to(device)
    mask = torch.zeros(masked.shape, dtype=dtype, device=device)
    return mask.masked_fill_(masked, torch.finfo(dtype).min)[None, None]


AttentionInterface.register(ATTENTION_NAME, gqa_attention)
