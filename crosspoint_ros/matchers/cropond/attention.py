"""Attention of a few new tokens to many old ones, without a copy of the keys for every head."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface

NAME = 'crosspoint_grouped'
# More rows than this and the fused kernel is faster than three plain products.
FEW = 128


def grouped_attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
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
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, scale=scaling, is_causal=True, enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None
    rows = query.reshape(1, key.shape[1], groups * new, size)
    mask = None if attention_mask is None else attention_mask.repeat(1, 1, groups, 1)
    if new > FEW:
        found = torch.nn.functional.scaled_dot_product_attention(
            rows, key, value, attn_mask=mask, scale=scaling)
    else:
        found = _by_products(rows, key, value, mask, size ** -0.5 if scaling is None else scaling)
    return found.reshape(1, heads, new, size).transpose(1, 2).contiguous(), None


def _by_products(rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                 mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """For few rows: a fused kernel has too few of them to keep a GPU busy."""
    scores = (rows * scaling) @ key.transpose(2, 3)
    if mask is not None:
        scores += mask
    return torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value


@contextmanager
def attending_in_groups(text: Any) -> Iterator[None]:
    """Let a text model attend so for as long as this lasts: to others it stays what it was."""
    before = text.config._attn_implementation
    text.config._attn_implementation = NAME
    try:
        yield
    finally:
        text.config._attn_implementation = before


def additive(sees: npt.NDArray[np.bool_], dtype: torch.dtype, device: torch.device
             ) -> torch.Tensor:
    """Turn who sees whom (n, m) into the mask (1, 1, n, m) that is added to attention scores."""
    hidden = torch.from_numpy(~sees).to(device)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[None, None]


AttentionInterface.register(NAME, grouped_attention)
