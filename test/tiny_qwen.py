"""Tiny checkpoints of Qwen2.5-VL with random weights, which load like the real ones."""
# ruff: noqa: C408  (JSON that others read: keyword arguments read better than its quotes)
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Qwen2.5's own split of text: digits one by one.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r'|\s*[\r\n]+|\s+(?!\S)|\s+')
SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>',
           '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>')
CORPUS = 4 * ['You are a helpful assistant. system user assistant',
              '```json\n[\n\t{"point_2d": [512, 307], "label": "handle"}\n]\n```',
              '{"point_2d": [1, 2]}\n[[1, 2]]\n', '<point x="1" y="2">the drawer handle</point>',
              'The point at [123, 456] in the first image corresponds to which point in the second '
              'image? Output the point coordinates in JSON format.', 'Point to in the image.']
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}'
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}"
    '{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


@dataclass(frozen=True)
class Shape:
    """How large the text model and the vision tower are."""

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


TINY = Shape(64, 2, 4, 2, 128, 2, 32, 2, 64, (1,))


def make_tokenizer() -> Any:
    """A byte-level BPE trained here, with the splits and special tokens of Qwen2.5."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=600, min_frequency=2, special_tokens=[], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return tokenizer


def config_of(shape: Shape, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """config.json with the names and keys of the hub's, text keys at the top level."""
    half = shape.hidden // shape.heads // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    return dict(
        architectures=['Qwen2_5_VLForConditionalGeneration'], model_type='qwen2_5_vl',
        bos_token_id=ids['<|endoftext|>'], eos_token_id=ids['<|im_end|>'], hidden_act='silu',
        hidden_size=shape.hidden, intermediate_size=shape.inner, max_position_embeddings=32768,
        num_attention_heads=shape.heads, num_hidden_layers=shape.layers,
        num_key_value_heads=shape.kv_heads, rms_norm_eps=1e-6, rope_theta=shape.rope_theta,
        tie_word_embeddings=True, torch_dtype='float32', use_cache=True, vocab_size=vocabulary,
        rope_scaling=dict(type='mrope', mrope_section=sections),
        vision_start_token_id=ids['<|vision_start|>'], vision_end_token_id=ids['<|vision_end|>'],
        image_token_id=ids['<|image_pad|>'], video_token_id=ids['<|video_pad|>'],
        vision_config=dict(
            depth=shape.vision_layers, hidden_act='silu', hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_inner, num_heads=shape.vision_heads, in_channels=3,
            in_chans=3, out_hidden_size=shape.hidden, patch_size=14, spatial_merge_size=2,
            spatial_patch_size=14, window_size=112, tokens_per_second=2, temporal_patch_size=2,
            fullatt_block_indexes=list(shape.vision_full)))


def build(folder: Path, shape: Shape = TINY, seed: int = 0) -> Path:
    """Write a checkpoint whose files are named as the hub's."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / 'tokenizer.json'))
    ids = {s: tokenizer.token_to_id(s) for s in SPECIAL}
    config = config_of(shape, -(-tokenizer.get_vocab_size() // 64) * 64, ids)
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
            additional_special_tokens=list(SPECIAL[1:]), clean_up_tokenization_spaces=False,
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
    spread(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    for name, content in written.items():  # as the hub writes them, not as this transformers does
        (folder / name).write_text(json.dumps(content))
    return folder


def spread(model: Any, generator: Any) -> None:
    """Draw weights under which answers depend on the context: the usual ones repeat one token."""
    import torch
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'embed_tokens' in name or 'lm_head' in name:
                weight.normal_(0, 2.5 / weight.shape[1] ** 0.5, generator=generator)
            elif weight.dim() >= 2:
                gain = 4.0 if 'q_proj' in name or 'k_proj' in name else 2.0
                weight.normal_(0, gain / weight[0].numel() ** 0.5, generator=generator)
    model.tie_weights()


def load(folder: Path) -> tuple[Any, Any]:
    """Load model and tokenizer as a user's script would."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)
