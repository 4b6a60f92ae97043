"""Tiny checkpoints of Qwen2.5-VL with random weights, which load like the real ones."""
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
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}'
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    '{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


def build(folder: Path, shape: ModelShape = TINY, seed: int = 0) -> Path:
    """Write a checkpoint whose files are named as the hub's."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / 'tokenizer.json'))
    ids = get_special_ids(tokenizer)
    config = build_config(shape, tokenizer.get_vocab_size(), ids)
    written = {
        'config.json': config,
        'generation_config.json': dict(
            bos_token_id=ids['<|endoftext|>'], pad_token_id=ids['<|endoftext|>'], do_sample=True,
            eos_token_id=[ids['<|im_end|>'], ids['<|endoftext|>']], repetition_penalty=1.05,
            temperature=1e-6)}
    own = json.loads(tokenizer.to_str())['model']
    others = {
        'vocab.json': own['vocab'], 'chat_template.json': dict(chat_template=TEMPLATE),
        'tokenizer_config.json': dict(
            tokenizer_class='Qwen2Tokenizer', add_bos_token=False, bos_token=None, unk_token=None,
            eos_token='<|im_end|>', pad_token='<|endoftext|>', errors='replace',
            additional_special_tokens=list(SPECIAL_TOKENS[1:]), clean_up_tokenization_spaces=False,
            model_max_length=32768, chat_template=TEMPLATE, added_tokens_decoder={
                str(i): dict(content=s, lstrip=False, rstrip=False, normalized=False,
                             single_word=False, special=True) for s, i in ids.items()}),
        'preprocessor_config.json': dict(
            min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2,
            merge_size=2, image_mean=[0.48145466, 0.4578275, 0.40821073],
            image_std=[0.26862954, 0.26130258, 0.27577711],
            image_processor_type='Qwen2VLImageProcessor', processor_class='Qwen2_5_VLProcessor')}
    merges = [m if isinstance(m, str) else ' '.join(m) for m in own['merges']]
    (folder / 'merges.txt').write_text('#version: 0.2\n' + ''.join(f'{m}\n' for m in merges))
    for name, content in (written | others).items():
        (folder / name).write_text(json.dumps(content))
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder)).eval()
    init_random_weights(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    for name, content in written.items():  # as the hub writes them, not as this transformers does
        (folder / name).write_text(json.dumps(content))
    return folder


def load(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer as a user's script would."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)
