"""The keys and values of one sequence, in place: appended without copying, rolled back for free."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, DynamicCache


@dataclass(frozen=True, eq=False)
class KVSnapshot:
    """Keys and values of a prefix, (layers, 1, heads, tokens, size) each, out of the arena."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def token_count(self) -> int:
        """How many tokens they are of."""
        return int(self.keys.shape[3])


@dataclass(frozen=True, eq=False)
class SlotMapping:
    """A pass of fixed shape: the slots (n,) its tokens go to, and how many it may attend to."""

    slots: torch.Tensor
    room: int


class StaticKVCache(DynamicCache):
    """Room for so many tokens, allocated once. Rolling back is setting a length.

    A cache that transformers' models take, without what its own ones cost: no concatenation a
    token, no deep copy a question, no `crop`, whose meaning changed between 4.x and 5.x.
    """

    def __init__(self, config: Any, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        head_dim = getattr(config, 'head_dim', None) \
            or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, capacity + 1, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._lengths = [0] * config.num_hidden_layers
        self._slot_mapping: SlotMapping | None = None
        self.room = capacity
        self.pad_slot = capacity  # beyond the room: nobody attends to it

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        return self._lengths[0]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int,
               *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a layer's new keys and values (1, heads, n, size); return those to attend to."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self._slot_mapping is not None:
            keys.index_copy_(2, self._slot_mapping.slots, key_states)
            values.index_copy_(2, self._slot_mapping.slots, value_states)
            return keys[:, :, :self._slot_mapping.room], values[:, :, :self._slot_mapping.room]
        begin = self._lengths[layer_idx]
        end = begin + key_states.shape[2]
        keys[:, :, begin:end], values[:, :, begin:end] = key_states, value_states
        self._lengths[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    @contextmanager
    def use_slots(self, mapping: SlotMapping) -> Iterator[None]:
        """Let a pass write to the window's slots and attend to its room; lengths stay."""
        self._slot_mapping = mapping
        try:
            yield
        finally:
            self._slot_mapping = None

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """How many tokens a layer holds."""
        return self._lengths[layer_idx or 0]

    def get_mask_sizes(self, cache_position: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of what a layer attends to."""
        new = cache_position if isinstance(cache_position, int) else cache_position.shape[0]
        return self._lengths[layer_idx] + new, 0

    def set_length(self, tokens: int) -> None:
        """Forget what comes after so many tokens."""
        self._lengths = [tokens] * len(self._lengths)

    def snapshot(self) -> KVSnapshot:
        """Copy out what it holds."""
        return KVSnapshot(self._keys[:, :, :, :self.length].clone(),
                    self._values[:, :, :, :self.length].clone())

    def restore(self, snapshot: KVSnapshot, tokens: int | None = None) -> None:
        """Hold the first tokens of what was kept, and nothing else."""
        count = snapshot.token_count if tokens is None else tokens
        self._keys[:, :, :, :count] = snapshot.keys[:, :, :, :count]
        self._values[:, :, :, :count] = snapshot.values[:, :, :, :count]
        self.set_length(count)


ATTENTION_NAME = 'crosspoint_grouped'
# More rows than this and the fused kernel is faster than three plain products.
MAX_MATMUL_ROWS = 128


def gqa_attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                      attention_mask: torch.Tensor | None, scaling: float | None = None,
                      **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attend from query (1, heads, n, size) to key and value (1, kv heads, m, size).

    Heads that share keys are stacked as rows of one product, where transformers' own `sdpa`
    repeats the keys for each: on a 3B model that would write and read eight times the cache.
    attention_mask: (1, 1, n, m), added to the scores; None for tokens that see all before them.
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
    else:
        output = _matmul_attention(rows, key, value, mask, size ** -0.5 if scaling is None else scaling)
    return output.reshape(1, heads, new, size).transpose(1, 2).contiguous(), None


def _matmul_attention(rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                 mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """For few rows: a fused kernel has too few of them to keep a GPU busy."""
    scores = (rows * scaling) @ key.transpose(2, 3)
    if mask is not None:
        scores += mask
    return torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value


@contextmanager
def use_gqa_attention(text: Any) -> Iterator[None]:
    """Let a text model attend so for as long as this lasts: to others it stays what it was."""
    before = text.config._attn_implementation
    text.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        text.config._attn_implementation = before


def build_additive_mask(visible: npt.NDArray[np.bool_], dtype: torch.dtype, device: torch.device
             ) -> torch.Tensor:
    """Turn who sees whom (n, m) into the mask (1, 1, n, m) that is added to attention scores."""
    masked = torch.from_numpy(~visible).to(device)
    mask = torch.zeros(masked.shape, dtype=dtype, device=device)
    return mask.masked_fill_(masked, torch.finfo(dtype).min)[None, None]


AttentionInterface.register(ATTENTION_NAME, gqa_attention)
