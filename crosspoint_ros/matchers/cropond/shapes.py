"""How large models of this family are: enough to build one whose weights mean nothing."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2.5-VL: text model, vision tower, vocabulary.

    vocabulary: 0 for that of the tokenizer. tied: the output head is the embedding.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    vision_inner: int
    vision_full: tuple[int, ...]
    rope_theta: float = 1e6
    vocabulary: int = 0
    tied: bool = True


# `3b` and `7b` as their config.json on the hub has them (CroPond's are the same); `mid` is what a
# CPU runs in seconds.
SHAPES = {
    '3b': Shape(2048, 36, 16, 2, 11008, 32, 1280, 16, 3420, (7, 15, 23, 31), vocabulary=151936),
    '7b': Shape(3584, 28, 28, 4, 18944, 32, 1280, 16, 3420, (7, 15, 23, 31), vocabulary=152064,
                tied=False),
    'mid': Shape(768, 10, 12, 2, 3072, 6, 640, 10, 1536, (2, 5)),
    'tiny': Shape(64, 2, 4, 2, 128, 2, 32, 2, 64, (1,)),
}


def config_of(shape: Shape, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """Return config.json with the names and keys of the hub's, text keys at the top level.

    vocabulary: how many tokens; ids: those of the special ones.
    """
    half = shape.hidden // shape.heads // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    return {
        'architectures': ['Qwen2_5_VLForConditionalGeneration'], 'model_type': 'qwen2_5_vl',
        'bos_token_id': ids['<|endoftext|>'], 'eos_token_id': ids['<|im_end|>'],
        'hidden_act': 'silu', 'hidden_size': shape.hidden, 'intermediate_size': shape.inner,
        'max_position_embeddings': 32768, 'num_attention_heads': shape.heads,
        'num_hidden_layers': shape.layers, 'num_key_value_heads': shape.kv_heads,
        'rms_norm_eps': 1e-6, 'rope_theta': shape.rope_theta, 'tie_word_embeddings': shape.tied,
        'torch_dtype': 'float32', 'use_cache': True,
        'vocab_size': shape.vocabulary or -(-vocabulary // 64) * 64,
        'rope_scaling': {'type': 'mrope', 'mrope_section': sections},
        'vision_start_token_id': ids['<|vision_start|>'],
        'vision_end_token_id': ids['<|vision_end|>'],
        'image_token_id': ids['<|image_pad|>'], 'video_token_id': ids['<|video_pad|>'],
        'vision_config': {
            'depth': shape.vision_layers, 'hidden_act': 'silu',
            'hidden_size': shape.vision_hidden, 'intermediate_size': shape.vision_inner,
            'num_heads': shape.vision_heads, 'in_channels': 3, 'in_chans': 3,
            'out_hidden_size': shape.hidden, 'patch_size': 14, 'spatial_merge_size': 2,
            'spatial_patch_size': 14, 'window_size': 112, 'tokens_per_second': 2,
            'temporal_patch_size': 2, 'fullatt_block_indexes': list(shape.vision_full)}}
