"""Models with random weights and the shape of a real one: as fast, for latency measurements."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as Qwen

from crosspoint_ros.bench.latency.cases import SHAPES, build_config
from crosspoint_ros.matchers.cropond.engine import checkpoint
from crosspoint_ros.matchers.cropond.engine.memory import check_memory, explain_memory_errors

# Qwen2.5's pre-tokenizer, which splits numbers into digits.
PRETOKEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+')
SPECIAL_TOKENS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>',
                  '<|vision_end|>', '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>')
CORPUS = 4 * ['You are a helpful assistant. system user assistant',
              '```json\n[\n\t{"point_2d": [512, 307], "label": "handle"}\n]\n```',
              '{"point_2d": [1, 2]}\n[[1, 2]]\n', '<point x="1" y="2">the drawer handle</point>',
              'The point at [123, 456] in the first image corresponds to which point in the second '
              'image? Output the point coordinates in JSON format.', 'Point to in the image.']


def build_dummy_checkpoint(name: str, device: str, weights: str) -> checkpoint.Checkpoint:
    """Build a model of a named shape in memory, without files.

    device, weights: as the matcher's options. Raises ValueError for an unknown shape or 4-bit
    weights, MemoryError if it does not fit.
    """
    if name not in SHAPES:
        raise ValueError(f'no shape {name!r}; known: {", ".join(SHAPES)}')
    device = checkpoint.select_device(device)
    weights = checkpoint.select_weight_format(weights, device)
    if weights == '4bit':
        raise ValueError('random weights cannot be in 4 bits: these are made from a checkpoint')
    tokenizer, title = train_tokenizer(), Path(f'{name} with random weights')
    config = Qwen2_5_VLConfig.from_dict(
        build_config(SHAPES[name], tokenizer.get_vocab_size(), get_special_ids(tokenizer))
        | {'torch_dtype': weights})
    required_bytes = checkpoint.estimate_required_bytes(
        checkpoint.WeightFiles((), 0, count_params(config), 0), weights)
    check_memory(title.name, required_bytes, device)
    with explain_memory_errors(title.name, required_bytes, device):
        model = build_random_model(config, device, getattr(torch, weights))
    fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|im_end|>',
                                             pad_token='<|endoftext|>')
    return checkpoint.Checkpoint(model, fast_tokenizer, title, device,
                                 checkpoint.describe_device(device), weights, required_bytes)


def count_params(config: Any) -> int:
    """Return the number of parameters of a configuration."""
    with torch.device('meta'):
        return sum(weight.numel() for weight in Qwen(config).parameters())


def build_random_model(config: Any, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """Build a model on its device, directly in its number format, with random weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen(config).eval()
    finally:
        torch.set_default_dtype(before)
    init_random_weights(model, torch.Generator(device).manual_seed(seed))
    return model


def init_random_weights(model: Any, generator: torch.Generator) -> None:
    """Initialise so that replies depend on the context: the usual scale repeats one token."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'embed_tokens' in name or 'lm_head' in name:
                weight.normal_(0, 2.5 / weight.shape[1] ** 0.5, generator=generator)
            elif weight.dim() >= 2:
                gain = 4.0 if 'q_proj' in name or 'k_proj' in name else 2.0
                weight.normal_(0, gain / weight[0].numel() ** 0.5, generator=generator)
    model.tie_weights()


def train_tokenizer() -> Tokenizer:
    """Train a small byte-level BPE with the pre-tokenizer and special tokens of Qwen2.5."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKEN_PATTERN), behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, min_frequency=2, special_tokens=[], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False)
                                  for s in SPECIAL_TOKENS])
    return tokenizer


def get_special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the special tokens."""
    return {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
