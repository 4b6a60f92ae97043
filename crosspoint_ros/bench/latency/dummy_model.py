"""A model of a given shape whose weights are drawn: as fast as the real one, and knows nothing."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from crosspoint_ros.bench.latency.cases import SHAPES, build_config
from crosspoint_ros.matchers.cropond.engine.checkpoint import (
    Checkpoint,
    WeightFiles,
    select_device,
    describe_device,
    estimate_required_bytes,
)
from crosspoint_ros.matchers.cropond.engine.memory import check_memory, explain_memory_errors

# Qwen2.5's own split of text: digits one by one.
PRETOKEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r'|\s*[\r\n]+|\s+(?!\S)|\s+')
SPECIAL_TOKENS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>',
           '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>')
CORPUS = 4 * ['You are a helpful assistant. system user assistant',
              '```json\n[\n\t{"point_2d": [512, 307], "label": "handle"}\n]\n```',
              '{"point_2d": [1, 2]}\n[[1, 2]]\n', '<point x="1" y="2">the drawer handle</point>',
              'The point at [123, 456] in the first image corresponds to which point in the second '
              'image? Output the point coordinates in JSON format.', 'Point to in the image.']


def build_dummy_checkpoint(name: str, device: str, weights: str) -> Checkpoint:
    """Build the shape of that name in memory, with no file.

    device, weights: as the options of the same names. Raises ValueError for a shape or a number
    format that cannot be drawn, MemoryError if there is no room for it.
    """
    if name not in SHAPES:
        raise ValueError(f'no shape {name!r}; known: {", ".join(SHAPES)}')
    chosen_device = select_device(device)
    weight_format = {'auto': 'bfloat16' if chosen_device == 'cuda' else 'float32'}.get(weights, weights)
    if weight_format == '4bit':
        raise ValueError('random weights cannot be in 4 bits: these are made from a checkpoint')
    tokenizer, title = train_tokenizer(), Path(f'{name} with random weights')
    config = Qwen2_5_VLConfig.from_dict(
        build_config(SHAPES[name], tokenizer.get_vocab_size(), get_special_ids(tokenizer))
        | {'torch_dtype': weight_format})
    required_bytes = estimate_required_bytes(WeightFiles((), 0, count_params(config), 0), weight_format)
    check_memory(title.name, required_bytes, chosen_device)
    with explain_memory_errors(title.name, required_bytes, chosen_device):
        model = build_random_model(config, chosen_device, getattr(torch, weight_format))
    fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|im_end|>',
                                      pad_token='<|endoftext|>')
    return Checkpoint(model, fast_tokenizer, title, chosen_device, describe_device(chosen_device), weight_format, required_bytes)


def count_params(config: Any) -> int:
    """How many weights a model of this configuration has."""
    with torch.device('meta'):
        return sum(w.numel() for w in Qwen2_5_VLForConditionalGeneration(config).parameters())


def build_random_model(config: Any, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """Build a model on its device, in its number format from the start, and draw its weights."""
    with use_default_dtype(dtype), torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration(config).eval()
    init_random_weights(model, torch.Generator(device).manual_seed(seed))
    return model


@contextmanager
def use_default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors be of this number format unless they say otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def init_random_weights(model: Any, generator: torch.Generator) -> None:
    """Draw weights under which answers depend on the context: the usual ones repeat one token."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'embed_tokens' in name or 'lm_head' in name:
                weight.normal_(0, 2.5 / weight.shape[1] ** 0.5, generator=generator)
            elif weight.dim() >= 2:
                gain = 4.0 if 'q_proj' in name or 'k_proj' in name else 2.0
                weight.normal_(0, gain / weight[0].numel() ** 0.5, generator=generator)
    model.tie_weights()


def train_tokenizer() -> Tokenizer:
    """Train a byte-level BPE here, with the splits and special tokens of Qwen2.5."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKEN_PATTERN), behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, min_frequency=2, special_tokens=[], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.tokenizer())))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL_TOKENS])
    return tokenizer


def get_special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the special tokens with their ids."""
    return {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
