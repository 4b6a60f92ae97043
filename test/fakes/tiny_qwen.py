"""Tiny checkpoints of Qwen2.5-VL and Qwen3-VL, random, which load like the real ones."""
# ruff: noqa: C408  (JSON that others read: keyword arguments read better than its quotes)
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import needs_torch  # noqa: F401

from crosspoint_ros.bench.latency.cases import SHAPES, ModelShape, build_config
from crosspoint_ros.bench.latency.dummy_model import (
    SPECIAL_TOKENS,
    get_special_ids,
    init_random_weights,
    train_tokenizer,
)

TINY = SHAPES['tiny']
QWEN2_5, QWEN3, QWEN3_MOE = ('Qwen2_5_VL', 'Qwen3VL', 'Qwen3VLMoe')
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}'
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    '{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


# Of Qwen3-VL's Instruct: no system message of its own.
TEMPLATE_3 = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    '{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


def build_config_3(family: str, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """Return config.json of a tiny Qwen3-VL, with the keys of the hub's."""
    kind = 'qwen3_vl' if family == QWEN3 else 'qwen3_vl_moe'
    experts = {} if family == QWEN3 else dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1,
        mlp_only_layers=[], norm_topk_prob=True)
    return dict(
        architectures=[f'{family}ForConditionalGeneration'], model_type=kind,
        image_token_id=ids['<|image_pad|>'], video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids['<|vision_start|>'], vision_end_token_id=ids['<|vision_end|>'],
        tie_word_embeddings=family == QWEN3,
        text_config=dict(
            model_type=f'{kind}_text', hidden_size=64, intermediate_size=128, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, hidden_act='silu',
            max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=5e6,
            attention_bias=False, vocab_size=-(-vocabulary // 64) * 64, dtype='float32',
            bos_token_id=ids['<|endoftext|>'], eos_token_id=ids['<|im_end|>'],
            rope_scaling=dict(mrope_interleaved=True, mrope_section=[4, 2, 2],
                              rope_type='default'), **experts),
        vision_config=dict(
            model_type=kind, depth=4, hidden_size=32, intermediate_size=64, num_heads=2,
            in_channels=3, out_hidden_size=64, patch_size=16, spatial_merge_size=2,
            temporal_patch_size=2, num_position_embeddings=64, hidden_act='gelu_pytorch_tanh',
            deepstack_visual_indexes=[0, 1, 2]))


def build(folder: Path, shape: ModelShape = TINY, seed: int = 0, family: str = QWEN2_5,
          template: str = '') -> Path:
    """Write a checkpoint whose files are named as the hub's; shape: of Qwen2.5-VL only."""
    import torch
    import transformers
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / 'tokenizer.json'))
    ids = get_special_ids(tokenizer)
    config = build_config(shape, tokenizer.get_vocab_size(), ids) if family == QWEN2_5 \
        else build_config_3(family, tokenizer.get_vocab_size(), ids)
    template = template or (TEMPLATE if family == QWEN2_5 else TEMPLATE_3)
    written = {
        'config.json': config,
        'generation_config.json': dict(
            bos_token_id=ids['<|endoftext|>'], pad_token_id=ids['<|endoftext|>'], do_sample=True,
            eos_token_id=[ids['<|im_end|>'], ids['<|endoftext|>']], repetition_penalty=1.05,
            temperature=1e-6)}
    own = json.loads(tokenizer.to_str())['model']
    others = {
        'vocab.json': own['vocab'], 'chat_template.json': dict(chat_template=template),
        'tokenizer_config.json': dict(
            tokenizer_class='Qwen2Tokenizer', add_bos_token=False, bos_token=None, unk_token=None,
            eos_token='<|im_end|>', pad_token='<|endoftext|>', errors='replace',
            additional_special_tokens=list(SPECIAL_TOKENS[1:]), clean_up_tokenization_spaces=False,
            model_max_length=32768, chat_template=template, added_tokens_decoder={
                str(i): dict(content=s, lstrip=False, rstrip=False, normalized=False,
                             single_word=False, special=True) for s, i in ids.items()}),
        'preprocessor_config.json': dict(
            min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2,
            merge_size=2, image_mean=[0.48145466, 0.4578275, 0.40821073],
            image_std=[0.26862954, 0.26130258, 0.27577711],
            image_processor_type='Qwen2VLImageProcessor', processor_class='Qwen2_5_VLProcessor')
        if family == QWEN2_5 else dict(
            size=dict(shortest_edge=65536, longest_edge=16777216), patch_size=16,
            temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
            image_processor_type='Qwen2VLImageProcessorFast', processor_class='Qwen3VLProcessor')}
    merges = [m if isinstance(m, str) else ' '.join(m) for m in own['merges']]
    (folder / 'merges.txt').write_text('#version: 0.2\n' + ''.join(f'{m}\n' for m in merges))
    for name, content in (written | others).items():
        (folder / name).write_text(json.dumps(content))
    model = getattr(transformers, f'{family}ForConditionalGeneration')(
        getattr(transformers, f'{family}Config').from_pretrained(folder)).eval()
    init_random_weights(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # or attention is nearly uniform, and experts have no effect
        for name, weight in model.named_parameters():
            if 'q_norm' in name:
                weight.fill_(4.0)
            elif '.experts.' in name:
                weight.normal_(0, 2.0 / weight.shape[1] ** 0.5,
                               generator=torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    for name, content in written.items():  # as the hub writes them, not as this transformers does
        (folder / name).write_text(json.dumps(content))
    return folder


def load(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer as a user's script would."""
    import torch
    import transformers
    (name,) = json.loads((folder / 'config.json').read_text())['architectures']
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)
