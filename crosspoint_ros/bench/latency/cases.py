"""The variants that `crosspoint bench latency` compares, and their synthetic inputs."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from crosspoint_ros.bench.latency.timing import FrameSet, Variant
from crosspoint_ros.core.datatypes import (
    Array,
    BatchMatcher,
    Intrinsics,
    Match,
    Matcher,
    Query,
    Rejected,
    View,
)

if TYPE_CHECKING:
    from crosspoint_ros.bench.latency.baseline import ModelVariants

CELL_PX = 24
NOISE = 6.0


def draw_frames(number: int, width_px: int, height_px: int) -> FrameSet:
    """Draw the frames of a round, different for each number."""
    intrinsics = Intrinsics(width_px, width_px, (width_px - 1) / 2, (height_px - 1) / 2,
                            width_px, height_px)
    clicked, other, next_other, next_clicked = (
        View(camera, draw_image(stamp_ns, width_px, height_px), intrinsics, stamp_ns=stamp_ns)
        for stamp_ns, camera in enumerate(('clicked', 'other', 'other', 'clicked'), 4 * number))
    return FrameSet((clicked, other), (clicked, next_other), (next_clicked, next_other))


def draw_image(number: int, width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Draw coloured patches of all sizes (h, w, 3), slightly rotated and shifted by the number."""
    scene, rng = np.random.default_rng(0), np.random.default_rng(number + 1)
    fine, coarse = (
        cv2.resize(scene.uniform(0, 127, (height_px // cell + 2, width_px // cell + 2, 3)),
                   (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        for cell in (CELL_PX, 4 * CELL_PX))
    affine = cv2.getRotationMatrix2D((width_px / 2, height_px / 2), float(rng.uniform(-8, 8)), 1.1)
    affine[:, 2] = affine[:, 2] + rng.uniform(-0.03, 0.03, 2) * width_px
    warped = cv2.warpAffine(fine + coarse, affine, (width_px, height_px),
                            borderMode=cv2.BORDER_REFLECT)
    noisy = warped + rng.normal(0, NOISE, warped.shape)
    return np.asarray(np.clip(noisy, 0, 255).astype(np.uint8))


def sample_queries(pair: tuple[View, View], count: int, seed: int) -> list[Query]:
    """Return queries at random pixels in the middle of the first view."""
    size_px = np.array([pair[0].intrinsics.width_px, pair[0].intrinsics.height_px])
    pixels: Array = np.random.default_rng(seed).uniform(0.2, 0.8, (count, 2)) * size_px
    return [Query(*pair, pixel) for pixel in pixels]


BATCH_SIZE = 16
LONG_REPLY, SHORT_REPLY = 30, 20  # tokens of a reply: with a label, and without
BASELINES = BASELINE, BASELINE_SHORT = (
    f"authors' generate, {LONG_REPLY} tokens", f"authors' generate, {SHORT_REPLY} tokens")
FIRST_CLICK = 'first click on a frame pair'
NEXT_CLICK = 'another click'
NEXT_CLICK_GREEDY = 'another click, likeliest digits only'
BATCH = f'{BATCH_SIZE} clicks at once, each'
BATCH_GREEDY = f'{BATCH_SIZE} at once, likeliest digits, each'
FREE_REPLY = f'another click, free reply up to {LONG_REPLY}'
OTHER_MOVED = 'click after the other camera moved'
CLICKED_MOVED = 'click after the clicked one moved'


def build_variants(matcher: Matcher, baseline: ModelVariants | None = None) -> list[Variant]:
    """Return the variants of a matcher and its model, in the order of a round.

    A round begins on a new frame pair; the last two variants move one of its cameras.
    """
    def match(queries: Sequence[Query]) -> list[Match | Rejected]:
        try:
            return [matcher.match(queries[0])]
        except Rejected as rejected:
            return [rejected]

    variants = [_build_variant(FIRST_CLICK, match), _build_variant(NEXT_CLICK, match)]
    if isinstance(matcher, BatchMatcher):
        variants.append(_build_variant(BATCH, lambda queries: list(matcher.match_all(queries)),
                                       BATCH_SIZE))
    if baseline:
        variants = [
            _build_variant(BASELINE, lambda queries: baseline.generate_baseline(
                queries[0], LONG_REPLY)),
            _build_variant(BASELINE_SHORT, lambda queries: baseline.generate_baseline(
                queries[0], SHORT_REPLY)),
            *variants, _build_variant(NEXT_CLICK_GREEDY, baseline.decode_greedy),
            _build_variant(BATCH_GREEDY, baseline.decode_greedy, BATCH_SIZE),
            _build_variant(FREE_REPLY, lambda queries: baseline.generate(queries[0], LONG_REPLY))]
    return [*variants, _build_variant(OTHER_MOVED, match, pair='other_moved'),
            _build_variant(CLICKED_MOVED, match, pair='clicked_moved')]


def _build_variant(name: str, answer: Callable[[list[Query]], Sequence[object]], clicks: int = 1,
                   pair: str = 'pair') -> Variant:
    return Variant(name, lambda frames, seed: answer(
        sample_queries(getattr(frames, pair), clicks, seed)), clicks)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Qwen2.5-VL: text model, vision tower, vocabulary.

    vocabulary: 0 for the tokenizer's. tied: the output head shares the embedding.
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


# `3b` and `7b` as in their config.json on the hub (and CroPond's); `mid` runs on a CPU in seconds.
SHAPES = {
    '3b': ModelShape(2048, 36, 16, 2, 11008, 32, 1280, 16, 3420, (7, 15, 23, 31),
                     vocabulary=151936),
    '7b': ModelShape(3584, 28, 28, 4, 18944, 32, 1280, 16, 3420, (7, 15, 23, 31),
                     vocabulary=152064, tied=False),
    'mid': ModelShape(768, 10, 12, 2, 3072, 6, 640, 10, 1536, (2, 5)),
    'tiny': ModelShape(64, 2, 4, 2, 128, 2, 32, 2, 64, (1,)),
}


def build_config(shape: ModelShape, vocabulary: int, token_ids: dict[str, int]) -> dict[str, Any]:
    """Return config.json as on the hub, with the text model's keys at the top level."""
    half = shape.hidden // shape.heads // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    return {
        'architectures': ['Qwen2_5_VLForConditionalGeneration'], 'model_type': 'qwen2_5_vl',
        'bos_token_id': token_ids['<|endoftext|>'], 'eos_token_id': token_ids['<|im_end|>'],
        'hidden_act': 'silu', 'hidden_size': shape.hidden, 'intermediate_size': shape.inner,
        'max_position_embeddings': 32768, 'num_attention_heads': shape.heads,
        'num_hidden_layers': shape.layers, 'num_key_value_heads': shape.kv_heads,
        'rms_norm_eps': 1e-6, 'rope_theta': shape.rope_theta, 'tie_word_embeddings': shape.tied,
        'torch_dtype': 'float32', 'use_cache': True,
        'vocab_size': shape.vocabulary or -(-vocabulary // 64) * 64,
        'rope_scaling': {'type': 'mrope', 'mrope_section': sections},
        'vision_start_token_id': token_ids['<|vision_start|>'],
        'vision_end_token_id': token_ids['<|vision_end|>'],
        'image_token_id': token_ids['<|image_pad|>'], 'video_token_id': token_ids['<|video_pad|>'],
        'vision_config': {
            'depth': shape.vision_layers, 'hidden_act': 'silu',
            'hidden_size': shape.vision_hidden, 'intermediate_size': shape.vision_inner,
            'num_heads': shape.vision_heads, 'in_channels': 3, 'in_chans': 3,
            'out_hidden_size': shape.hidden, 'patch_size': 14, 'spatial_merge_size': 2,
            'spatial_patch_size': 14, 'window_size': 112, 'tokens_per_second': 2,
            'temporal_patch_size': 2, 'fullatt_block_indexes': list(shape.vision_full)}}
