"""Cache of prompt prefixes: system prompt and images, prefilled once per frame pair."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crosspoint_ros.matchers.cropond.engine.decoder import Decoder
from crosspoint_ros.matchers.cropond.engine.kv_cache import KVSnapshot
from crosspoint_ros.matchers.cropond.engine.reply_grammar import ReplyTokenizer
from crosspoint_ros.matchers.cropond.image_processor import ImageInput, PreprocessorConfig, patchify

VISION_START, IMAGE_PAD, VISION_END = '<|vision_start|>', '<|image_pad|>', '<|vision_end|>'


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """An image's tokens (n, hidden) in a grid (rows, columns); deepstack: more, for Qwen3-VL."""

    tokens: torch.Tensor
    grid: tuple[int, int]
    deepstack: tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefilled prefix. lengths: in tokens, of the header and up to each image.

    next_positions: position after the header and after each image. An image of h x w tokens takes
    max(h, w) positions, so that they lag behind the tokens.
    """

    images: tuple[ImageInput, ...]
    snapshot: KVSnapshot
    lengths: tuple[int, ...]
    next_positions: tuple[int, ...]

    def count_shared(self, images: tuple[ImageInput, ...]) -> int:
        """Return the number of leading images that both have in common."""
        count = 0
        for own, other in zip(self.images, images, strict=False):
            if not own.is_same(other):
                break
            count += 1
        return count


class PrefixCache:
    """Prefixes and image features of the latest frame pairs (LRU)."""

    def __init__(self, model: Any, decoder: Decoder, tokenizer: ReplyTokenizer, max_pixels: int,
                 preprocessor: PreprocessorConfig, max_pairs: int) -> None:
        self._model, self._decoder, self._tokenizer = model, decoder, tokenizer
        self._max_pixels, self._preprocessor, self._max_pairs = max_pixels, preprocessor, max_pairs
        self._prefixes: OrderedDict[tuple[Hashable, ...], Prefix] = OrderedDict()
        self._features: OrderedDict[Hashable, tuple[ImageInput, ImageFeatures]] = OrderedDict()
        self._active: Prefix | None = None
        self.vision_encodes = 0

    def load(self, images: tuple[ImageInput, ...]) -> Prefix:
        """Bring the prefix of these images into the KV cache, computing what is missing."""
        key = tuple(image.key for image in images)
        prefix = self._prefixes.get(key)
        if prefix is None or prefix.count_shared(images) < len(images):
            prefix = self._active = self._prefixes[key] = self._prefill_images(images)
        self._prefixes.move_to_end(key)
        while len(self._prefixes) > self._max_pairs:
            self._prefixes.popitem(last=False)
        if self._active is prefix:
            self._decoder.kv_cache.set_length(prefix.lengths[-1])
        else:
            self._decoder.kv_cache.restore(prefix.snapshot, prefix.lengths[-1])
            self._active = prefix
        return prefix

    def _prefill_images(self, images: tuple[ImageInput, ...]) -> Prefix:
        """Continue from the cached prefix that shares most images."""
        # Encoding may fail: the KV cache is not touched before.
        features = [self._get_features(image) for image in images]
        best = max(self._prefixes.values(), key=lambda p: p.count_shared(images), default=None)
        decoder, self._active = self._decoder, None
        if best is None:
            decoder.kv_cache.set_length(0)
            header = self._tokenizer.encode(self._tokenizer.prompt_header)
            decoder.prefill(decoder.embed(header),
                            torch.arange(len(header), device=decoder.device).expand(3, -1))
            lengths, positions = [len(header)], [len(header)]
        else:
            count = best.count_shared(images) + 1
            lengths, positions = list(best.lengths[:count]), list(best.next_positions[:count])
            decoder.kv_cache.restore(best.snapshot, lengths[-1])
        for image in features[len(lengths) - 1:]:
            positions.append(self._append_image(image, positions[-1]))
            lengths.append(decoder.kv_cache.length)
        return Prefix(images, decoder.kv_cache.snapshot(), tuple(lengths), tuple(positions))

    def _append_image(self, image: ImageFeatures, position: int) -> int:
        """Prefill one image between its start and end tokens; return the next position."""
        rows, columns = image.grid
        markers = self._tokenizer.encode(VISION_START + VISION_END)
        start, end = self._decoder.embed(markers)[0].split(1)
        row, column = np.mgrid[:rows, :columns].reshape(2, -1) + position + 1
        image_positions = np.stack([np.full(rows * columns, position + 1), row, column])
        end_position = position + 1 + max(rows, columns)
        positions = np.hstack([np.full((3, 1), position), image_positions,
                               np.full((3, 1), end_position)])
        self._decoder.prefill(torch.cat([start, image.tokens, end])[None],
                              torch.from_numpy(positions).to(self._decoder.device),
                              image.deepstack)
        return end_position + 1

    def _get_features(self, image: ImageInput) -> ImageFeatures:
        """Return the image's tokens and their grid, computed once per image."""
        entry = self._features.get(image.key)
        if entry is None or not entry[0].is_same(image):
            entry = self._features[image.key] = (image, self._encode_image(image))
        self._features.move_to_end(image.key)
        while len(self._features) > 2 * self._max_pairs:
            self._features.popitem(last=False)
        return entry[1]

    def _encode_image(self, image: ImageInput) -> ImageFeatures:
        self.vision_encodes += 1
        patches, grid = patchify(image.rgb, self._max_pixels, self._preprocessor)
        device, dtype = self._decoder.device, self._model.get_input_embeddings().weight.dtype
        output = self._model.get_image_features(
            torch.from_numpy(patches).to(device, dtype), torch.tensor([grid], device=device))
        deepstack = getattr(output, 'deepstack_features', None) or ()
        tokens = getattr(output, 'pooler_output', output)  # transformers 5
        if isinstance(tokens, tuple) and isinstance(tokens[-1], list):  # transformers 4, Qwen3-VL
            tokens, deepstack = tokens
        return ImageFeatures(_join(tokens).to(dtype), (grid[1] // 2, grid[2] // 2),
                             tuple(_join(each).to(dtype) for each in deepstack))


def _join(parts: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the features of a single image, which some versions put in a list."""
    return parts if isinstance(parts, torch.Tensor) else torch.cat(list(parts))
